import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from mlflow import MlflowClient
from nbformat.v4 import new_code_cell, new_notebook
from projects import alive, gone, set_params

from stockml import tracking
from stockml.config import BadInput, StockmlError
from stockml.files import write_json
from stockml.pipeline import Log, _closing, bury, read_stage, run_pipeline, run_stage, stage_names

COMMAND = Path(sys.executable).parent / "stockml"
FIRST = """import json, os, time
from pathlib import Path
from stockml.config import BadInput, load_params
Path("data").mkdir(exist_ok=True)
Path("data/pid.txt").write_text(str(os.getpid()))
if sleep: time.sleep(sleep)
budget = load_params(changes=changes).bot.risk_budget
if budget > .5: raise BadInput(f"bot.risk_budget: {budget} is too much")
if budget == .5: raise RuntimeError("no luck")
Path("data/first.txt").write_text(os.environ["MLFLOW_RUN_ID"])
Path("first.json").write_text(json.dumps({"budget": budget}))
print("the first is done")"""
STAGES = {
    "first": {"cmd": "stockml stage first", "deps": ["pipelines/first.ipynb"], "params": ["bot"],
              "metrics": ["first.json"], "outs": [{"data/first.txt": {"cache": False}}]},
    "second": {"cmd": "stockml stage second", "deps": ["pipelines/second.ipynb", "data/first.txt"],
               "outs": ["data/second.html"]},
}


def write_notebook(path: Path, parameters: str, code: str) -> None:
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(code)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture(scope="module")
def _tiny(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copy(root / "params.yaml", folder)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (folder / "pipelines").mkdir()
    write_notebook(folder / "pipelines/first.ipynb", "changes: dict = {}\nsleep: int = 0", FIRST)
    write_notebook(folder / "pipelines/second.ipynb", "free: int = 1",
                   "open('data/second.html', 'w').write('<p>second</p>')")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        tracking.connect()
    return folder


@pytest.fixture
def tiny(_tiny, monkeypatch):
    "A project of two small stages, with a store of its own."
    monkeypatch.setenv("STOCKML_ROOT", str(_tiny))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{_tiny}/mlflow.db")
    monkeypatch.setenv("MLFLOW_RUN_ID", "none yet")  # run_stage sets it; it shall not outlive the test
    monkeypatch.delenv(tracking.TOKEN, raising=False)
    return _tiny


@pytest.fixture
def sleepy(tiny):
    "The project while its first stage takes five minutes."
    path = tiny / "pipelines/first.ipynb"
    before = path.read_bytes()
    write_notebook(path, "changes: dict = {}\nsleep: int = 300", FIRST)
    (tiny / "data/pid.txt").unlink(missing_ok=True)
    yield tiny
    path.write_bytes(before)


def copy_of(folder: Path, tmp_path: Path) -> Path:
    "The project without what its runs have left."
    left = shutil.ignore_patterns("*.json", "mlflow*", "data", "runs", "tmp", "dvc.lock")
    return Path(shutil.copytree(folder, tmp_path / "copy", ignore=left))


def runs() -> list:
    "All runs of the store, newest first."
    client = MlflowClient(tracking.tracking_uri())
    return list(client.search_runs([client.get_experiment_by_name("stockml").experiment_id]))


def set_budget(folder: Path, value: float) -> None:
    set_params(folder, {"bot": {"risk_budget": value}})


def wait_for(path: Path, seconds: float = 90) -> str:
    "What a file says, once it says something."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(.05)
    raise AssertionError(f"{path} never came")


def test_stages_are_read_from_dvc_yaml():
    assert stage_names() == ["ingest", "features", "search", "train", "evaluate", "backtest", "drift", "promote"]
    evaluate, drift = read_stage("evaluate"), read_stage("drift")
    assert evaluate.notebook == Path("pipelines/evaluate.ipynb")
    assert evaluate.sections == ["calibrate", "split", "targets"]
    assert evaluate.metrics == [Path("metrics/evaluate.json")]
    assert evaluate.plots == [Path("reports/importances.png"), Path("reports/reliability.png")]
    assert (drift.reports, evaluate.reports) == ([Path("reports/drift.html")], [])
    with pytest.raises(BadInput, match=r"^no stage 'evalute': dvc\.yaml has ingest, features"):
        read_stage("evalute")


@pytest.mark.parametrize("content", [None, "", "stages", "a: [", "stages: 3", "{}"])
def test_pipeline_without_stages_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    if content is not None:
        (tmp_path / "dvc.yaml").write_text(content)
    with pytest.raises(BadInput, match=r"dvc\.yaml: (not found|no stages)") as e:
        read_stage("ingest")
    assert "\n" not in str(e.value)


def test_a_stage_is_recorded(tiny):
    run = run_stage("first", {"changes": '{"bot.risk_budget": "0.25"}'})
    made = runs()[0]
    assert (made.info.run_id, made.info.status) == (run, "FINISHED")
    assert (tiny / "data/first.txt").read_text() == run  # the notebook knew its run
    assert made.data.metrics["first.budget"] == .25
    assert made.data.metrics["first.seconds"] > 0
    assert made.data.params["bot.risk_budget"] == "0.25"  # what counted, not what stands in params.yaml
    assert made.data.params["given.first.changes.bot.risk_budget"] == "0.25"
    assert "model.seed" not in made.data.params
    assert made.data.tags["stockml.as_of"] == "2026-08-05"
    files = {a.path for a in MlflowClient(tracking.tracking_uri()).list_artifacts(run, "first")}
    assert files == {"first/first.ipynb", "first/first.json"}
    assert "the first is done" in (tiny / "runs/first.html").read_text()


@pytest.mark.parametrize(("budget", "kind", "expected"), [
    (.75, BadInput, "bot.risk_budget: 0.75 is too much"), (.5, StockmlError, "first.ipynb, cell 2 "),
])
def test_a_failed_stage_is_recorded_as_failed(tiny, budget, kind, expected):
    before = len(runs())
    with pytest.raises(kind) as e:
        run_stage("first", {"changes": {"bot.risk_budget": str(budget)}})
    assert type(e.value) is kind
    assert str(e.value).startswith(expected)
    assert (len(runs()), runs()[0].info.status) == (before + 1, "FAILED")


def test_a_stage_that_leaves_no_metrics_has_failed(tiny, tmp_path, monkeypatch):
    folder = copy_of(tiny, tmp_path)
    write_notebook(folder / "pipelines/first.ipynb", "free: int = 1", "1")
    monkeypatch.setenv("STOCKML_ROOT", str(folder))
    with pytest.raises(BadInput, match=r"first\.json: not found"):
        run_stage("first")
    assert runs()[0].info.status == "FAILED"


@pytest.mark.parametrize("given", [{"chnges": {}}, {"sleep": "long"}])
def test_wrong_parameter_is_refused_before_a_run_is_made(tiny, given):
    before = len(runs())
    with pytest.raises(BadInput, match=r"^first\.ipynb: "):
        run_stage("first", given)
    assert len(runs()) == before


def test_terminated_stage_ends_its_kernel(tiny):
    (tiny / "data/pid.txt").unlink(missing_ok=True)
    with subprocess.Popen([COMMAND, "stage", "first", "-p", "sleep=300"], cwd=tiny, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as stage:
        kernel = int(wait_for(tiny / "data/pid.txt"))
        assert alive(kernel)
        stage.terminate()
        said, _ = stage.communicate(timeout=60)
    assert stage.returncode == 143, said
    assert gone(kernel)
    assert "Traceback" not in said
    assert runs()[0].info.status == "FAILED"


def test_pipeline_runs_what_must_be_run(tiny):
    set_budget(tiny, .02)
    said = []
    done = run_pipeline(say=said.append)
    assert done.ran == ["first", "second"]
    assert said[:2] == ["── first", "the first is done"]
    made = runs()[0]
    assert (made.info.run_id, made.info.status) == (done.run_id, "FINISHED")
    assert set(made.data.metrics) == {"first.budget", "first.seconds", "second.seconds"}
    assert (tiny / "data/first.txt").read_text() == done.run_id
    files = {a.path for a in MlflowClient(tracking.tracking_uri()).list_artifacts(done.run_id, "second")}
    assert files == {"second/second.ipynb", "second/second.html"}

    before = len(runs())
    again = run_pipeline(say=said.append)
    assert (again.ran, again.run_id, len(runs())) == ([], None, before)  # no empty run is recorded

    set_budget(tiny, .75)
    with pytest.raises(BadInput, match=r"^bot\.risk_budget: 0\.75 is too much$"):
        run_pipeline(say=said.append)
    assert (runs()[0].info.status, runs()[0].data.tags["mlflow.source.name"]) == ("FAILED", "stockml run")
    set_budget(tiny, .02)


def test_mlflow_server_that_is_down_stops_nothing(tiny, tmp_path, monkeypatch):
    "The run is kept in the project, and the gap is said once for both stages."
    folder = copy_of(tiny, tmp_path)
    monkeypatch.setenv("STOCKML_ROOT", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said = []
    done = run_pipeline(say=said.append)
    assert done.ran == ["first", "second"]
    assert [line for line in said if "MLflow" in line] == [said[0]]
    assert said[0].startswith("MLflow at http://127.0.0.1:9 is down (") and str(folder / "mlflow.db") in said[0]
    kept = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(done.run_id)
    assert (kept.info.status, set(kept.data.metrics)) == ("FINISHED", {"first.budget", "first.seconds", "second.seconds"})


def test_slip_in_params_is_told_before_anything_starts(tiny):
    before = len(runs())
    set_budget(tiny, 2.)
    try:
        with pytest.raises(BadInput, match=r"params\.yaml: bot\.risk_budget"):
            run_pipeline()
    finally:
        set_budget(tiny, .02)
    assert len(runs()) == before


def test_second_run_is_refused_and_a_terminated_one_takes_its_stages_along(sleepy):
    with subprocess.Popen([COMMAND, "run"], cwd=sleepy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as one:
        kernel = int(wait_for(sleepy / "data/pid.txt"))
        two = subprocess.run([COMMAND, "run"], cwd=sleepy, capture_output=True, text=True, timeout=60, check=False)
        assert (two.returncode, two.stdout) == (2, "")
        assert two.stderr == (f"stockml: another run of the pipeline is under way (it holds {sleepy}/runs/.lock): "
                              "wait until it ends\n")
        assert alive(kernel)
        one.send_signal(signal.SIGTERM)
        said, _ = one.communicate(timeout=60)
    assert one.returncode == 143, said
    assert gone(kernel)
    assert "Traceback" not in said
    assert runs()[0].info.status == "FAILED"


def test_killed_run_takes_its_stages_along(sleepy):
    "Nobody can clean up after SIGKILL; the stage notices that it is alone, and the next run ends the record of this one."
    with subprocess.Popen([COMMAND, "run"], cwd=sleepy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
        kernel = int(wait_for(sleepy / "data/pid.txt"))
        one.kill()
    assert gone(kernel)
    [note] = (sleepy / "runs").glob(".*.run")
    assert runs()[0].info.status == "RUNNING"
    bury(sleepy)
    assert (runs()[0].info.status, note.exists()) == ("KILLED", False)


def test_dvc_that_dies_is_no_success(tiny, tmp_path, monkeypatch):
    "As the kernel does where memory runs out: without a word of DVC's."
    folder = copy_of(tiny, tmp_path)
    kill = ("import os, psutil\nfor p in psutil.process_iter(['cmdline', 'cwd']):\n"
            "    if {'dvc', 'repro'} <= set(p.info['cmdline'] or ()) and p.info['cwd'] == os.getcwd():\n        p.kill()\n")
    write_notebook(folder / "pipelines/first.ipynb", "changes: dict = {}\nsleep: int = 0", kill + FIRST)
    monkeypatch.setenv("STOCKML_ROOT", str(folder))
    with pytest.raises(StockmlError, match=r"^dvc repro ended with -9$"):
        run_pipeline(say=lambda _: None)
    assert runs()[0].info.status == "FAILED" and not (folder / "data/second.html").exists()


def test_dvc_that_does_not_start_is_no_success(tiny, tmp_path, monkeypatch):
    "Nor is it tried again for the rest of the pipeline."
    folder = copy_of(tiny, tmp_path)
    (folder / "dvc.py").write_text("if __name__ == '__main__':\n    print('tried', file=open('tried', 'a'))\nimport nothing_like_it")
    set_params(folder, {"data": {"source": "csv", "csv": "mine.csv"}})
    monkeypatch.setenv("STOCKML_ROOT", str(folder))
    said = []
    with pytest.raises(StockmlError, match=r"^dvc repro ended with 1$"):
        run_pipeline(say=said.append)
    assert said[-1] == "ModuleNotFoundError: No module named 'nothing_like_it'" and (folder / "tried").read_text() == "tried\n"


def test_killed_stage_that_stood_alone(tiny):
    "As `dvc repro` by hand starts it, or an experiment: what is at work is left in peace, what was killed is closed."
    (tiny / "data/pid.txt").unlink(missing_ok=True)
    with subprocess.Popen([COMMAND, "stage", "first", "-p", "sleep=300"], cwd=tiny, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as stage:
        kernel = int(wait_for(tiny / "data/pid.txt"))
        [note] = (tiny / "runs").glob(".*.alone")
        bury(tiny)
        assert runs()[0].info.status == "RUNNING"
        stage.kill()
    assert gone(kernel)
    bury(tiny)
    assert (runs()[0].info.status, note.exists()) == ("KILLED", False)


FAILS = """import os
open(f"runs/.{os.environ['STOCKML_RUN']}.run", "w").write("half of it")
print("Running stage 'first':\\nstockml: no luck\\nERROR: failed to reproduce 'first', exited with 1")
raise SystemExit(255)"""


def test_a_record_that_cannot_be_closed_does_not_hide_what_went_wrong(tiny, tmp_path, monkeypatch):
    folder = copy_of(tiny, tmp_path)
    (folder / "dvc.py").write_text(FAILS)
    monkeypatch.setenv("STOCKML_ROOT", str(folder))
    with pytest.raises(StockmlError, match=r"^no luck$"):
        run_pipeline(say=lambda _: None)
    with pytest.raises(RuntimeError, match=r"^no luck$"), _closing("a" * 32):  # no MLflow has that run
        raise RuntimeError("no luck")


def test_users_file_that_changed_behind_its_name_is_read_again(tiny, tmp_path, monkeypatch):
    folder = copy_of(tiny, tmp_path)
    stages = {"ingest": {"cmd": "stockml stage ingest", "deps": ["pipelines/ingest.ipynb"], "outs": ["store.txt"]}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    write_notebook(folder / "pipelines/ingest.ipynb", "free: int = 1",
                   "import shutil; shutil.copy('mine.csv', 'store.txt')")
    set_params(folder, {"data": {"source": "csv", "csv": "mine.csv"}})
    monkeypatch.setenv("STOCKML_ROOT", str(folder))
    monkeypatch.setenv(tracking.TOKEN, "killed")
    killed = tracking.join_run(tracking.connect(), "ingest")
    monkeypatch.delenv(tracking.TOKEN)
    write_json(folder / "runs/.killed.run", {"uri": tracking.tracking_uri(), "run": killed})
    for content in ("old", "new"):
        (folder / "mine.csv").write_text(content)
        assert run_pipeline(say=lambda _: None).ran == ["ingest"]
        assert (folder / "store.txt").read_text() == content
    assert tracking.connect().get_run(killed).info.status == "KILLED" and not list((folder / "runs").glob(".*.run"))


@pytest.mark.parametrize(("changes", "message"), [
    ({"targets": {"horizons": [5, 21]}, "gate": {"horizons": [5]}}, "targets.horizons: must hold 1, "),
    ({"data": {"as_of": "2008-01-01"}}, "data.as_of: 2008-01-01 leaves nothing to score after split.test_from"),
])
def test_what_a_whole_run_needs_is_checked_first(tiny, tmp_path, monkeypatch, changes, message):
    folder = copy_of(tiny, tmp_path)
    set_params(folder, changes)
    monkeypatch.setenv("STOCKML_ROOT", str(folder))
    with pytest.raises(BadInput) as e:
        run_pipeline()
    assert str(e.value).startswith(message)
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(("lines", "kind", "message"), [
    (["stockml: prices.csv: not found", "ERROR: failed to reproduce 'a': failed to run: x, exited with 2"], BadInput,
     "prices.csv: not found"),
    (["stockml: cell 3: boom", "ERROR: failed to reproduce 'a': failed to run: x, exited with 1"], StockmlError,
     "cell 3: boom"),
    (["ERROR: Unable to acquire lock", "ERROR: more"], StockmlError, "Unable to acquire lock"),
    (["ERROR: 'data' is busy, it is being blocked by:"], BadInput, "another DVC process is at work in this project: "
                                                                   "wait until it ends"),
])
def test_errors_in_what_dvc_prints(lines, kind, message):
    log = Log()
    assert [log.take(line) for line in lines] == [None] * len(lines)
    assert (type(log.error), str(log.error)) == (kind, message)


def test_progress_in_what_dvc_prints():
    log = Log()
    lines = ["Verifying data sources in stage: 'x'", "Running stage 'ingest':", "> stockml stage ingest",
             "AAPL: 3 new  \n", "", "Updating lock file 'dvc.lock'", "To track the changes with git, run:",
             "\tgit add dvc.lock", "Use `dvc push` to send", "Stage 'features' didn't change, skipping"]
    assert [shown for line in lines if (shown := log.take(line))] == ["── ingest", "AAPL: 3 new"]
    assert (log.ran, log.error) == (["ingest"], None)
    down = "MLflow at http://x is down (refused): what comes now is kept here"
    assert [log.take(line) for line in (down, down)] == [down, None]  # each stage finds out by itself
