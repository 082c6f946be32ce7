"Real parts, where they are installed (.ci/tools does it with apt-get), and lines of the real service."

import json
from pathlib import Path

import pytest
from processes import ask, serving

from stockml.client import request_body


@pytest.fixture(scope="session")
def monitoring(root) -> Path:
    "The folder that is shipped."
    return root / "serve/monitoring"


@pytest.fixture(scope="session")
def body(_panel) -> dict:
    "A request for two stocks."
    return {"series": [request_body(_panel[_panel["ticker"] == ticker].tail(300)) for ticker in ("AAPL", "KO")], "horizons": [1, 21]}


@pytest.fixture(scope="session")
def written(root, bundle_folder, body, tmp_path_factory) -> list[dict]:
    "What the service writes of such a request: a line a forecast, and one of the request."
    with serving(root, bundle_folder, tmp_path_factory.mktemp("service")) as (url, out, _):
        assert ask(f"{url}/v1/forecast", body)[0] == 200
        return [json.loads(line) for line in out.read_text().splitlines()]
