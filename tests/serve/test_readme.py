"What the README says about asking the service works as it stands there."

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stockml.client import Service
from stockml.prices import write_bars

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECTION = README.partition("## Asking the service")[2].partition("\n## ")[0]
CURLS = [line for line in re.search(r"```sh\n(.*?)```", SECTION, re.DOTALL)[1].splitlines() if "curl" in line]
PYTHON = re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory, _panel, bundle_folder) -> Path:
    "A project with prices, as a run leaves it."
    folder = tmp_path_factory.mktemp("project")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["as_of"] = str(_panel["date"].max().date())
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    write_bars(folder / "data/bars.parquet", _panel)
    shutil.copytree(bundle_folder, folder / "models/champion")
    return folder


@pytest.fixture(scope="module")
def url(bundle_folder) -> str:
    with Service(bundle_folder) as running:
        address = running.url
        yield address


def ran(command: list[str], project: Path, url: str) -> str:
    "Its output, where it is run in the project; the service stands on another port here."
    command = [part.replace("http://127.0.0.1:8000", url) for part in command]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(command, cwd=project, env={"PATH": path, "STOCKML_ROOT": str(project), "HOME": str(project)},
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_something_to_run():
    assert {re.search(r":8000(/\S+)", line)[1] for line in CURLS} == {
        "/readyz", "/v1/forecast", "/v1/explain", "/version", "/metrics", "/openapi.json"}


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
@pytest.mark.parametrize("line", [c.replace("--horizons 1,5", "--horizons 1,21") for c in CURLS])
def test_curl(project, url, line):
    out = ran(["bash", "-o", "pipefail", "-c", line], project, url)
    if "/metrics" in line:
        assert "stockml_request_seconds" in out
    else:
        answer = json.loads(out)
        expected = {"readyz": "status", "forecast": "forecast_id", "explain": "forecast_id", "version": "model", "openapi": "paths"}
        assert next(key for word, key in expected.items() if f"/{word}" in line.replace("/v1", "")) in answer


def test_python(project, url):
    out = ran([sys.executable, "-c", PYTHON], project, url)
    assert len(out.splitlines()) == 6 and out.startswith("AAPL 2003-12-31 [(datetime.date(2004, 1, 2), ")
