"""Experiments of DVC: in the workspace, and queued on two workers in copies of the project. All are on record in the project's MLflow.

Only the backtest has to run again, in a copy of the project that the other tests share."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import projects
import pytest
from mlflow import MlflowClient
from processes import wait_for
from test_end_to_end import mlflow_of

QUEUED = {"brave-1": .03, "brave-2": .04, "brave-3": 9}  # the last one is refused by the rules of params.yaml
SIGN = "the code of the copy at work"


def dvc(folder: Path, *args: str, code: int = 0) -> str:
    "A DVC command of someone who has activated the environment, and has set STOCKML_ROOT, for whatever reason."
    env = projects.environment(folder) | {"STOCKML_ROOT": str(folder), "PATH": f"{projects.BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["dvc", *args], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True).stdout


def wait_for_queue(folder: Path, seconds: float = 300) -> None:
    "Until all have been taken from it, and their copies of the project are gone."
    work = folder / ".dvc/tmp/exps"
    wait_for(lambda: len(list(work.glob("run/*/*.run"))) == len(QUEUED) and not list(work.glob("tmp*")), seconds, "for the queue")


@pytest.fixture(scope="module")
def lab(project, tmp_path_factory) -> Iterator[Path]:
    "The project after its experiments: what was there before is committed, and the workspace holds the one that was run in it."
    folder = Path(shutil.copytree(project, tmp_path_factory.mktemp("lab") / "lab", symlinks=True))
    (folder / "stockml/pipeline.py").write_text((folder / "stockml/pipeline.py").read_text() + f"\nprint({SIGN!r}, __file__)\n")
    git(folder, "commit", "--quiet", "--all", "--no-verify", "-m", "as it was run")
    dvc(folder, "exp", "run", "--queue", "--name", "brave", "-S", f"bot.risk_budget={','.join(map(str, QUEUED.values()))}")
    dvc(folder, "queue", "start", "--jobs", "2")
    wait_for_queue(folder)
    dvc(folder, "exp", "run", "--name", "timid", "-S", "bot.risk_budget=0.01")
    yield folder
    for path in (folder / ".dvc/tmp/exps/celery").glob("dvc-exp-worker-*.pid"):
        assert projects.gone(int(path.read_text())), "a worker leaves when it has waited for ten seconds in vain"


@pytest.fixture(scope="module")
def recorded(lab) -> dict:
    "Runs of MLflow by the experiment that they name."
    _, runs = mlflow_of(lab)
    return {r.data.tags["stockml.experiment"]: r for r in runs if "stockml.experiment" in r.data.tags}


def test_each_experiment_is_one_run_in_the_projects_mlflow(lab, project, recorded):
    assert set(recorded) == {"timid", *QUEUED}
    _, runs = mlflow_of(lab)
    assert len(runs) == len(mlflow_of(project)[1]) + len(recorded)
    baseline = git(lab, "rev-parse", "HEAD").strip()
    for name, budget in {"timid": .01, **QUEUED}.items():
        run = recorded[name]
        assert (run.info.run_name, run.data.tags["stockml.baseline"]) == (f"experiment {name}", baseline)
        if name != "brave-3":
            assert (run.info.status, run.data.params["bot.risk_budget"]) == ("FINISHED", str(budget))
            kept = {a.path for a in MlflowClient(f"sqlite:///{lab}/mlflow.db").list_artifacts(run.info.run_id, "backtest")}
            assert {"backtest/backtest.ipynb", "backtest/equity.png"} <= kept
    assert recorded["brave-3"].info.status == "FAILED"
    assert all(r.info.end_time for r in recorded.values())


def test_dvc_and_mlflow_tell_the_same_figures(lab, recorded):
    shown = {e["name"]: e["revs"][0] for base in json.loads(dvc(lab, "exp", "show", "--json")) for e in base["experiments"] or []}
    for name in ("timid", "brave-1", "brave-2"):
        metrics = shown[name]["data"]["metrics"]["metrics/backtest.json"]["data"]["budget"]
        assert recorded[name].data.metrics["backtest.budget.final_equity"] == metrics["final_equity"]
    assert len({recorded[n].data.metrics["backtest.budget.final_equity"] for n in ("timid", "brave-1", "brave-2")}) == 3
    assert "Failed" in dvc(lab, "queue", "status")
    assert "bot.risk_budget" in dvc(lab, "queue", "logs", "brave-3")


def test_a_queued_experiment_runs_the_code_that_it_was_queued_with(lab):
    said = dvc(lab, "queue", "logs", "brave-1")
    [line] = {line for line in said.splitlines() if line.startswith(SIGN)}
    assert f"{lab}/.dvc/tmp/exps/" in line


def test_the_project_is_as_the_workspace_experiment_left_it(lab):
    assert git(lab, "status", "--porcelain").split() == ["M", "dvc.lock", "M", "params.yaml"]
    assert not [p for p in (lab / ".dvc/tmp/exps").iterdir() if p.name.startswith("tmp")]
    assert "mlflow.db" not in git(lab, "status", "--porcelain", "--ignored", "--", ".dvc")


def test_an_experiment_becomes_a_branch_or_the_workspace(lab):
    dvc(lab, "exp", "branch", "brave-1", "bravery")
    assert "risk_budget: 0.03" in git(lab, "show", "bravery:params.yaml")
    dvc(lab, "exp", "apply", "brave-2")
    assert "risk_budget: 0.04" in (lab / "params.yaml").read_text()
    assert dvc(lab, "status").strip() == "Data and pipelines are up to date."


def test_two_branches_side_by_side(lab, tmp_path, recorded):
    "With the branch of an experiment as one of them; metrics come from DVC's cache, plots are drawn by DVC."
    if not git(lab, "branch", "--list", "bravery"):
        dvc(lab, "exp", "branch", "brave-1", "bravery")
    done = projects.run(lab, "compare", "HEAD", "bravery", "--out", str(tmp_path / "out"))
    assert done.code == 0, done.err
    text = (tmp_path / "out/comment.md").read_text()
    assert text.startswith("<!-- stockml compare -->\n")
    assert "| `bot.risk_budget` | 0.02 | 0.03 | +50.0% |" in text
    ends = recorded["brave-1"].data.metrics["backtest.budget.final_equity"]
    assert f"The bot ends with {ends:,.0f} EUR in place of " in text
    assert "The forecasts are as good as before." in text
    assert "ratio_1" not in text  # what has not moved takes no room
    assert done.out.strip() == text.partition("\n")[2].strip()
    pictures = {p.name for p in (tmp_path / "out/plots/static").iterdir()}
    assert {n.rpartition("_")[2] for n in pictures} >= {"equity.png"}
    assert "equity" in (tmp_path / "out/plots/index.html").read_text()
    facts = json.loads(projects.run(lab, "compare", "brave-1", "brave-2", "--json").out)  # experiments by name
    assert facts["params"] == [{"key": "bot.risk_budget", "old": .03, "new": .04}]
    assert projects.run(lab, "compare", "nobody").code == 2
