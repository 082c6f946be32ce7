"Real parts, where they are installed (.ci/tools does it with apt-get), and lines of the real service."

import json
import shutil
from pathlib import Path

import pytest
from processes import ask, serving

from stockml.client import request_body

PACKAGES = {"promtool": "prometheus", "prometheus": "prometheus", "prometheus-alertmanager": "prometheus-alertmanager",
            "amtool": "prometheus-alertmanager", "rsyslogd": "rsyslog", "java": "default-jre-headless", "npm": "npm"}


def tool(name: str) -> str:
    "Where a program is; without it, the test is skipped."
    folders = "/usr/sbin:/sbin"
    return shutil.which(name) or shutil.which(name, path=folders) or pytest.skip(f"no {name} here: install {PACKAGES[name]}")


@pytest.fixture(scope="session")
def monitoring(root) -> Path:
    "The folder that is shipped."
    return root / "serve/monitoring"


@pytest.fixture
def body(panel) -> dict:
    "A request for two stocks."
    return {"series": [request_body(panel[panel["ticker"] == ticker].tail(300)) for ticker in ("AAPL", "KO")], "horizons": [1, 21]}


@pytest.fixture
def written(root, bundle_folder, body, tmp_path) -> list[dict]:
    "What the service writes of such a request: a line a forecast, and one of the request."
    with serving(root, bundle_folder, tmp_path) as (url, out, _):
        assert ask(f"{url}/v1/forecast", body)[0] == 200
        return [json.loads(line) for line in out.read_text().splitlines()]
