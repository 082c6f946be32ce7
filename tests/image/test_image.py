"The image as a user runs it: locked down, over HTTP."

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from containers import PATIENCE, Container, docker

from stockml.prices import read_bars

FORBIDDEN = {"mlflow", "dvc", "evidently", "scrapy", "jupyter", "jupyterlab", "notebook", "matplotlib", "papermill", "optuna", "dask",
             "distributed", "xgboost", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "pyarrow", "nbdev", "pytest", "arch"}


@pytest.fixture(scope="module")
def bars(snapshot) -> pd.DataFrame:
    "Apple's up to 2003."
    bars = read_bars(snapshot, tickers=["AAPL"])
    return bars[bars["date"] <= "2003-12-31"].drop(columns="ticker")


@pytest.fixture(scope="module")
def body(bars) -> dict:
    "They as a request."
    rows = bars.assign(date=bars["date"].dt.strftime("%Y-%m-%d")).to_json(orient="records", double_precision=15)
    return {"ticker": "AAPL", "bars": json.loads(rows)}


def test_it_starts_soon(service):
    print(f"ready after {service.seconds:.1f} s")
    assert service.seconds < 15  # 2 s on a quiet machine, which this may not be


def test_it_forecasts_what_the_pipeline_does(service, shipped_folder, bars, body, tmp_path, root):
    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    shutil.copy(root / "params.yaml", project)
    shutil.copytree(shipped_folder, project / "models/champion")
    bars.to_csv(project / "mine.csv", index=False)
    command = [Path(sys.executable).parent / "stockml", "forecast", "AAPL", "--csv", "mine.csv", "--json"]
    done = subprocess.run(command, env=os.environ | {"STOCKML_ROOT": str(project)}, cwd=project, capture_output=True, text=True, check=True)
    [ours] = [json.loads(done.stdout)] if done.stdout.lstrip().startswith("{") else json.loads(done.stdout)
    status, theirs = service.ask("/v1/forecast", body)
    assert status == 200, theirs
    assert theirs["origin"] == ours["origin"] == "2003-12-31"
    assert len(theirs["forecasts"]) == len(ours["forecasts"]) > 0
    for mine, its in zip(ours["forecasts"], theirs["forecasts"], strict=True):
        assert (mine["horizon"], mine["target_date"], mine["skill"]) == (its["horizon"], its["target_date"], its["skill"])
        for kind in ("quantiles", "prices"):
            assert list(mine[kind]) == list(its[kind])
            assert all(math.isclose(mine[kind][q], its[kind][q], rel_tol=1e-5, abs_tol=1e-9) for q in mine[kind]), (mine, its)


def test_it_says_who_it_is(service, shipped):
    assert service.ask("/healthz")[0] == 200
    status, told = service.ask("/version")
    assert (status, told["model"]["version"]) == (200, shipped.version)


def test_labels_lead_back_to_commit_model_and_data(facts, shipped):
    labels = facts["Config"]["Labels"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])
    assert labels["stockml.model.version"] == shipped.version
    assert labels["stockml.model.data-sha256"] == shipped.manifest["data_sha256"]


def test_it_is_small(facts):
    print(f"{facts['Size'] / 1e6:.0f} MB")
    assert facts["Size"] < 450e6


def test_nobody_in_it_is_root_or_can_change_it(service):
    assert docker("exec", service.id, "id", "-u") == "10001"
    assert docker("exec", service.id, "find", "/app", "/opt", "-writable", "-not", "-type", "l") == ""


def test_only_what_serving_needs_is_inside(service):
    code = "from importlib.metadata import distributions; print(*{d.name.lower() for d in distributions()})"
    inside = set(docker("exec", service.id, "python", "-c", code).split())
    assert {"flask", "xgboost-cpu"} <= inside
    assert not inside & FORBIDDEN


def test_secrets_and_history_stay_outside(service):
    assert set(docker("exec", service.id, "ls", "-A", "/app").split()) == {"models", "serve", "stockml"}
    assert docker("exec", service.id, "ls", "-A", "/app/models").split() == ["champion"]


def test_the_engine_sees_that_it_is_healthy(service):
    end = time.monotonic() + PATIENCE
    while (health := docker("inspect", "--format={{.State.Health.Status}}", service.id)) == "starting" and time.monotonic() < end:
        time.sleep(.5)
    assert health == "healthy"


def test_wrong_requests_are_answered_not_suffered(service, body):
    assert service.ask("/v1/forecast", {})[0] == 422
    assert service.ask("/v1/forecast", body | {"horizons": [2]})[0] == 422
    assert service.ask("/nowhere")[0] == 404


def test_each_request_is_one_line_of_json(service, body):
    before = len(service.output()[0].splitlines())
    assert service.ask("/v1/forecast", body)[0] == 200
    end = time.monotonic() + PATIENCE
    while len(lines := service.output()[0].splitlines()) <= before and time.monotonic() < end:
        time.sleep(.1)
    assert lines[before:]
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_it_ends_in_order_when_told_to(start):
    container = start()
    begin = time.monotonic()
    docker("stop", "--time=25", container.id)
    print(f"ended after {time.monotonic() - begin:.1f} s")
    assert docker("inspect", "--format={{.State.ExitCode}} {{.State.OOMKilled}}", container.id) == "0 false"


def test_it_serves_a_bundle_from_outside(start, shipped_folder, shipped):
    container = start(f"--volume={shipped_folder.parent}:/models:ro", "--env=STOCKML_MODEL=/models/champion")
    assert container.ask("/version")[1]["model"]["version"] == shipped.version


@pytest.mark.parametrize("options", [[], ["--env=STOCKML_OPEN=1", "--env=STOCKML_MODEL=/nowhere"]], ids=["no keys", "no model"])
def test_it_refuses_in_one_line(create, options):
    container = Container(create(*options), "", 0)
    assert docker("wait", container.id, timeout=PATIENCE) == "2"
    said = [line for line in "\n".join(container.output()).splitlines() if line and "[INFO]" not in line]
    assert len(said) == 1, said
