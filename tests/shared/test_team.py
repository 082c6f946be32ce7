"One MLflow for a whole team: runs in PostgreSQL, files in S3, and what happens when one of the three servers does not."

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest
import yaml
from commands import call
from nbformat.v4 import new_code_cell, new_notebook
from processes import PATIENCE

from stockml import tracking
from stockml.pipeline import run_pipeline
from stockml.sync import sync

PEOPLE = ["Ada", "Bob", "Chen", "Dara"]


def person(name: str, folder: Path) -> None:
    "Somebody at work: a run of three stages and three trials, with a model."
    for i, value in enumerate((name, f"{name.lower()}@example.com")):
        os.environ |= {"GIT_CONFIG_COUNT": "2", f"GIT_CONFIG_KEY_{i}": ("user.name", "user.email")[i], f"GIT_CONFIG_VALUE_{i}": value}
    run = tracking.record(None, "train", lambda client, _: tracking.join_run(client, "train"))
    for i in range(3):
        log(run, f"part{i}", {f"a{i}": {"b": i}}, {f"m{n}": n for n in range(300)}, [folder / "manifest.json"])
        tracking.log_trial(run, i, {"depth": i}, i / 10)
    tracking.register(run, folder, ("challenger",), {"promoted": "False"})
    tracking.end_run(run, ok=True)


def log(run: str, stage: str, params: dict, metrics: dict, files: list[Path]) -> None:
    "As a stage is recorded."
    tracking.record(run, stage, lambda client, run: tracking.log_stage(client, run, stage, params, metrics, files, {"t": "x"}))


def children(client, run: str) -> list:
    return tracking.find_runs(client, f"tags.`mlflow.parentRunId` = '{run}'")


def test_four_people_at_once(team, s3, bundle_folder, tmp_path):
    "All is there, under their names; the files lie in S3 and come back through the server, to people who have no key of it."
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    people = [subprocess.Popen([sys.executable, __file__, name, bundle_folder], env=env, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for name in PEOPLE]
    said = [one.communicate(timeout=4 * PATIENCE)[0] for one in people]
    assert ([one.returncode for one in people], said) == ([0] * len(PEOPLE), [b""] * len(PEOPLE))

    client = tracking.connect()
    made = {r.data.tags["mlflow.user"]: r for r in tracking.find_runs(client, "tags.`mlflow.source.name` LIKE 'stockml %'")}
    assert made.keys() == {f"{name} <{name.lower()}@example.com>" for name in PEOPLE}
    for run in made.values():
        assert (run.info.status, len(run.data.metrics), len(children(client, run.info.run_id))) == ("FINISHED", 900, 3)
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    versions = {int(v.version): v.run_id for v in client.search_model_versions()}
    assert versions.keys() == {1, 2, 3, 4} and set(versions.values()) == {r.info.run_id for r in made.values()}
    assert client.get_model_version_by_alias(tracking.MODEL, "challenger").run_id in versions.values()
    fetched = tracking.fetch_bundle(versions[4], tmp_path / "fetched")
    assert {p.name: p.read_bytes() for p in fetched.iterdir()} == {p.name: p.read_bytes() for p in bundle_folder.iterdir()}
    assert {r["who"] for r in call("history", "--json").json()["runs"]} == made.keys()
    assert not (tmp_path / "project/mlflow.db").exists()
    with pytest.raises(OSError, match="403"):  # whoever has no key is kept out of the store itself
        urlopen(s3.url.replace("/healthz", "/mlflow/"))  # noqa: S310


def test_database_restarted_in_the_middle_of_a_run(team, postgres, capsys, tmp_path):
    "MLflow's client asks again; nothing is lost, nothing is said, nothing goes elsewhere."
    run = tracking.record(None, "train", lambda client, _: tracking.join_run(client, "train"))
    down, count = threading.Event(), 0

    def restart() -> None:
        postgres.stop()
        down.set()
        time.sleep(1)
        postgres.start()

    thread = threading.Thread(target=restart)
    thread.start()
    while thread.is_alive() or count < 3:
        log(run, f"s{count}", {f"p{count}": count}, {"m": count}, [])
        tracking.log_trial(run, count, {"depth": count}, None)
        count += 1
    thread.join()
    tracking.end_run(run, ok=True)
    kept = tracking.connect().get_run(run)
    assert down.is_set() and kept.info.status == "FINISHED"
    assert kept.data.metrics == {f"s{n}.m": n for n in range(count)} and len(kept.data.params) == count
    assert sorted(int(r.data.tags["stockml.trial"]) for r in children(tracking.connect(), run)) == list(range(count))
    assert capsys.readouterr().err == "" and not (tmp_path / "project/mlflow.db").exists()


def test_database_that_stays_away(team, postgres, capsys, monkeypatch, tmp_path):
    "MLflow answers, its database does not: the rest of the run is kept here, and is the same run again after `stockml sync`."
    run = tracking.record(None, "train", lambda client, _: tracking.join_run(client, "train"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    postgres.stop()
    try:
        tracking.log_trial(run, 7, {"depth": 3}, .5)
        tracking.end_run(run, ok=True)
    finally:
        postgres.start()
    said = [line for line in capsys.readouterr().err.splitlines() if " INFO mlflow." not in line]  # loaded by another test, it talks
    assert len(said) == 1 and said[0].startswith(f"MLflow at {team} is down (")
    done = sync(team, lambda *_, **__: None)
    assert [(r["to"] == run, r["trial"], r["new"]) for r in done["runs"]] == [(True, False, False), (False, True, True)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team)
    client = tracking.connect()
    assert client.get_run(run).info.status == "FINISHED"
    assert [(r.data.tags["stockml.trial"], r.data.metrics) for r in children(client, run)] == [("7", {"ratio_to_har": .5})]


STAGES = {name: {"cmd": f"stockml stage {name}", "deps": [f"pipelines/{name}.ipynb", *deps], "metrics": [f"{name}.json"]}
          for name, deps in {"first": [], "second": ["first.json"], "third": ["second.json"]}.items()}


@pytest.fixture
def project(team, tmp_path, root, monkeypatch) -> Path:
    "A project of three stages; the second one lives to see the MLflow server die."
    folder = tmp_path / "project"
    shutil.copy(root / "params.yaml", folder)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (folder / "pipelines").mkdir()
    for name in STAGES:
        kill = 'os.killpg(int(os.environ["SERVER"]), 9)' if name == "second" else "pass"
        code = f"import json, os\n{kill}\nopen('{name}.json', 'w').write(json.dumps({{'n': n}}))"
        cells = [new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}), new_code_cell(code)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / f"pipelines/{name}.ipynb")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    return folder


def test_server_that_dies_in_the_middle_of_a_stage(project, server, team, monkeypatch):
    "The pipeline goes on with one line; when the server is back, `stockml sync` makes one whole run of the two parts."
    monkeypatch.setenv("SERVER", str(server.process.pid))
    said = []
    done = run_pipeline(say=said.append)
    assert done.ran == ["first", "second", "third"]
    [line] = [line for line in said if "MLflow" in line]
    assert line.startswith(f"MLflow at {team} is down (") and str(project / "mlflow.db") in line
    assert said.index(line) > said.index("── second")
    here = tracking.connect(tracking.local_uri())
    kept = here.get_run(done.run_id)
    assert (kept.info.status, set(kept.data.metrics)) == ("FINISHED", {"second.n", "second.seconds", "third.n", "third.seconds"})

    monkeypatch.setenv("MLFLOW_TRACKING_URI", team)  # the pipeline of this process had given it up
    gone = call("sync")
    assert gone.code == 1 and gone.err.count("\n") == 1 and f"MLflow at {team} does not work" in gone.err

    server.kill()
    server.begin().ready()
    told = call("sync", "--json").json()
    [copied] = told["runs"]
    assert (copied["run"], copied["new"], copied["to"]) == (done.run_id, False, kept.data.tags["stockml.continues"])
    client = tracking.connect()
    whole = client.get_run(copied["to"])
    assert set(whole.data.metrics) == {f"{stage}.{m}" for stage in STAGES for m in ("n", "seconds")}
    assert (whole.info.status, whole.info.end_time) == ("FINISHED", kept.info.end_time)
    assert {a.path for a in client.list_artifacts(copied["to"])} == set(STAGES)
    assert len(tracking.find_runs(client, f"tags.`stockml.run` = '{whole.data.tags['stockml.run']}'")) == 1
    again = call("sync", "--json").json()
    assert (again["runs"], again["there_already"], again["problems"]) == ([], 1, [])
    assert not list((project / "runs").glob(".*.run"))


if __name__ == "__main__":
    person(sys.argv[1], Path(sys.argv[2]))
