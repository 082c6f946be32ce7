"Two files of MLflow stand for a laptop and a server; tests/shared has the real one."

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from commands import call
from projects import ROOT

from stockml import tracking
from stockml.config import BadInput, StockmlError
from stockml.sync import Pair, folder_of, move_aliases, sync


@pytest.fixture(scope="module")
def _store(tmp_path_factory) -> Path:
    "The folder of an empty MLflow; to make its tables takes seconds."
    folder = tmp_path_factory.mktemp("store")
    tracking.connect(f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.fixture
def project(_store, tmp_path, monkeypatch) -> Path:
    "A project of this test with an MLflow of its own, and one that stands for the server's."
    folder = tmp_path / "project"
    for place in (folder, folder / "server"):
        shutil.copytree(_store, place)
        with closing(sqlite3.connect(place / "mlflow.db")) as db, db:
            db.execute("update experiments set artifact_location = replace(artifact_location, ?, ?)", (str(_store), str(place)))
    monkeypatch.setenv("STOCKML_ROOT", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv(tracking.TOKEN, raising=False)
    return folder


@pytest.fixture
def server(project) -> str:
    return f"sqlite:///{project}/server/mlflow.db"


def quiet(*_, **__) -> None:
    pass


def work(folder: Path, bundle: Path | None = None, ok: bool = True) -> str:
    "A run with two trials, a file, and perhaps a model."
    client = tracking.connect()
    run = tracking.join_run(client, "train")
    (folder / "note.txt").write_text("what came of it")
    for loss in (.5, .25):
        tracking.log_stage(client, run, "train", {"model": {"seed": 17}}, {"loss": loss}, [folder / "note.txt"], {"stockml.data": "ab"})
        time.sleep(.002)
    tracking.log_trial(run, 0, {"depth": 3}, .9)
    tracking.log_trial(run, 1, {"depth": 4}, None)
    if bundle:
        tracking.register(run, bundle, ("challenger", "champion"), {"promoted": "True"})
    tracking.end_run(run, ok)
    return run


def facts(client, run: str) -> dict:
    "All that a run is, without the names that each place gives."
    r = client.get_run(run)
    tags = {k: v for k, v in r.data.tags.items() if k not in ("stockml.synced_from", "stockml.synced", "mlflow.parentRunId")}
    return {"info": (r.info.run_name, r.info.start_time, r.info.end_time, r.info.status, r.info.user_id), "tags": tags,
            "params": r.data.params, "metrics": {k: [(m.value, m.timestamp, m.step) for m in client.get_metric_history(run, k)]
                                                 for k in r.data.metrics}}


def state(client) -> dict:
    "Everything on a server."
    runs = {r.info.run_id: (facts(client, r.info.run_id), r.data.tags) for r in tracking.find_runs(client)}
    return {"runs": runs, "models": {v.version: (v.run_id, v.tags) for v in client.search_model_versions()}}


def test_a_copy_is_what_was_recorded(project, server, bundle_folder):
    good, bad = work(project, bundle_folder), work(project, ok=False)
    told = sync(server, quiet)
    here, there = tracking.connect(), tracking.connect(server)
    to = {r["run"]: r["to"] for r in told["runs"]}
    assert (len(to), told["problems"], told["under_way"], told["there_already"]) == (6, [], [], 0)
    assert all(facts(there, to[run]) == facts(here, run) for run in to)
    assert len(facts(there, to[good])["metrics"]["train.loss"]) == 2
    for run in (good, bad):
        ours = tracking.find_runs(here, f"tags.`mlflow.parentRunId` = '{run}'")
        theirs = tracking.find_runs(there, f"tags.`mlflow.parentRunId` = '{to[run]}'")
        assert {to[r.info.run_id] for r in ours} == {r.info.run_id for r in theirs} and len(ours) == 2
    assert (folder_of(there.get_run(to[good])) / "train/note.txt").read_text() == "what came of it"
    [version] = there.search_model_versions()
    assert (version.run_id, version.source, version.tags["promoted"]) == (to[good], f"runs:/{to[good]}/bundle", "True")
    assert told["aliases"] == {"challenger": "1", "champion": "1"}
    assert {a: there.get_model_version_by_alias("stockml", a).run_id for a in told["aliases"]} == dict.fromkeys(told["aliases"], to[good])


def test_the_old_id_leads_to_the_copy(project, server, bundle_folder, monkeypatch):
    run = work(project, bundle_folder)
    [to] = [r["to"] for r in sync(server, quiet)["runs"] if not r["trial"]]
    (project / "mlflow.db").rename(project / "old.db")
    shutil.rmtree(project / "mlartifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert tracking.find_run(tracking.connect(), run) == to
    assert (tracking.fetch_bundle(run, project / "kept") / "model.ubj").read_bytes() == (bundle_folder / "model.ubj").read_bytes()
    table = tracking.history()
    assert (table["run_id"].tolist(), table["synced_from"].tolist()) == ([to], [run])
    assert tracking.find_run(tracking.connect(), "' or '1'='1") is None


def test_again_copies_nothing_and_what_grew_is_completed(project, server, bundle_folder):
    run = work(project, bundle_folder)
    sync(server, quiet)
    there = tracking.connect(server)
    before = state(there)
    again = sync(server, quiet)
    assert (again["runs"], again["versions"], again["aliases"], again["there_already"]) == ([], [], {}, 3)
    assert state(there) == before
    tracking.register(run, bundle_folder, ("challenger",), {"promoted": "False"})  # `stockml promote`, the day after
    tracking.log_stage(tracking.connect(), run, "promote", {}, {"late": 1}, [], {})
    grown = sync(server, quiet)
    assert [(r["run"], r["new"]) for r in grown["runs"]] == [(run, False)] and len(grown["versions"]) == 1
    assert facts(there, grown["runs"][0]["to"]) == facts(tracking.connect(), run)
    assert len(tracking.find_runs(there)) == 3


def test_dry_run_only_tells(project, server, bundle_folder):
    work(project, bundle_folder)
    there = tracking.connect(server)
    told = sync(server, quiet, dry_run=True)
    assert (len(told["runs"]), len(told["versions"]), [r["to"] for r in told["runs"]]) == (3, 1, [None] * 3)
    assert state(there) == {"runs": {}, "models": {}}


KILLED = """
import sys
from mishaps import arm
from stockml.sync import sync
arm(sys.argv[1], int(sys.argv[2]))
sync(sys.argv[3], lambda *_, **__: None)
"""


def test_killed_in_the_middle_is_completed_and_not_doubled(project, server, bundle_folder):
    "SIGKILL before it reads the files of a run for the second time: the run is there, its bundle and its trials are not."
    work(project, bundle_folder)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])}
    cut = subprocess.run([sys.executable, "-c", KILLED, str(project / "mlartifacts"), "2", server], env=env, capture_output=True, text=True,
                         check=False)
    assert cut.returncode == -9, cut.stderr
    there = tracking.connect(server)
    assert len(tracking.find_runs(there)) == 1
    told = sync(server, quiet)
    assert (len(told["runs"]), told["problems"]) == (3, [])
    here = tracking.connect()
    assert len(tracking.find_runs(there)) == 3
    assert all(facts(there, r["to"]) == facts(here, r["run"]) for r in told["runs"])
    [version] = there.search_model_versions()
    copies = {p.relative_to(bundle_folder): p.read_bytes() for p in bundle_folder.rglob("*") if p.is_file()}
    folder = folder_of(there.get_run(version.run_id)) / "bundle"
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == copies


def test_a_run_under_way_waits(project, server):
    run = tracking.join_run(tracking.connect(), "train")
    tracking.log_trial(run, 0, {}, 1.)
    told = sync(server, quiet)
    assert (told["runs"], told["under_way"]) == ([], [run])
    tracking.end_run(run, ok=True)
    assert len(sync(server, quiet)["runs"]) == 2


def test_a_run_that_was_begun_there_is_one_run(project, server, monkeypatch):
    "Its start, its person and what it has stand; a parameter that differs is kept beside."
    there = tracking.connect(server)
    monkeypatch.setenv(tracking.TOKEN, "token")
    first = tracking.join_run(there, "ingest")
    there.log_param(first, "model.seed", "16")
    begun = there.get_run(first)
    work(project)
    told = sync(server, quiet)
    whole = there.get_run(first)
    assert [(r["to"], r["new"]) for r in told["runs"] if not r["trial"]] == [(first, False)]
    assert (whole.info.start_time, whole.info.run_name, whole.info.status) == (begun.info.start_time, begun.info.run_name, "FINISHED")
    assert whole.data.params == {"model.seed": "16", "model.seed.later": "17"} and whole.data.metrics == {"train.loss": .25}
    assert len(tracking.find_runs(there, f"tags.`mlflow.parentRunId` = '{first}'")) == 2
    assert sync(server, quiet)["runs"] == []


def test_how_it_ended_there_afterwards_stands(project, server, monkeypatch):
    "An experiment's stages close and open their run: the last one failed on the server, or is still at it."
    there, tomorrow = tracking.connect(server), int(time.time() + 86_400) * 1000
    for token, status in (("failed", "FAILED"), ("under way", "RUNNING")):
        monkeypatch.setenv(tracking.TOKEN, token)
        work(project)
        last = there.create_run(tracking.experiment_of(there), tomorrow, {"stockml.run": token}).info.run_id
        if status == "FAILED":
            there.set_terminated(last, status, tomorrow + 1)
        assert [r["to"] for r in sync(server, quiet)["runs"] if not r["trial"]] == [last]
        info = there.get_run(last).info
        assert (info.status, info.end_time) == (status, tomorrow + 1 if status == "FAILED" else None)


def test_what_somebody_deleted_there_stays_deleted(project, server, bundle_folder):
    "With its trials, also new ones, and its models."
    run = work(project, bundle_folder)
    [to] = [r["to"] for r in sync(server, quiet)["runs"] if not r["trial"]]
    there = tracking.connect(server)
    there.delete_model_version("stockml", "1")
    there.delete_run(to)
    tracking.log_trial(run, 2, {"depth": 5}, .8)
    told = sync(server, quiet)
    assert (told["runs"], told["versions"], told["aliases"]) == ([], [], {})
    assert len(tracking.find_runs(there)) == 2 and not there.search_model_versions()


def test_history_has_each_run_once_wherever_it_is(project, server, monkeypatch):
    "Copied; begun there and continued here; only here."
    copied = work(project)
    [to] = [r["to"] for r in sync(server, quiet)["runs"] if not r["trial"]]
    begun = tracking.join_run(tracking.connect(server), "train")
    tracking.join_run(tracking.connect(), "train", continues=begun)
    waits = work(project)
    monkeypatch.setattr(tracking, "places", lambda: [server, tracking.local_uri()])
    assert tracking.history()["run_id"].tolist() == [waits, begun, to]
    assert tracking.history(2)["run_id"].tolist() == [waits, begun]
    monkeypatch.setattr(tracking, "places", lambda: [tracking.local_uri()])
    assert len(tracking.history()) == 3 and copied in set(tracking.history()["run_id"])


def test_an_alias_does_not_leave_a_newer_model(project, server, bundle_folder):
    "Offline for a week: last night's champion of a colleague stays."
    run = work(project, bundle_folder)
    there = tracking.connect(server)
    theirs = tracking.join_run(there, "promote")
    there.log_artifacts(theirs, str(bundle_folder), "bundle")
    newer = tracking.new_version(there, theirs, {})
    there.set_registered_model_alias("stockml", "champion", newer)
    told = sync(server, quiet)
    assert [v["run"] for v in told["versions"]] == [run] and told["aliases"] == {"challenger": "2"}
    assert there.get_model_version_by_alias("stockml", "champion").run_id == theirs
    tracking.register(run, bundle_folder, ("champion",))
    assert sync(server, quiet)["aliases"] == {"champion": "3"}
    assert move_aliases(Pair(tracking.connect(), there)) == {}


def test_files_that_are_gone_cost_only_their_run(project, server):
    "A folder in the place of a file; the run after it is copied."
    broken, whole = work(project), work(project)
    note = folder_of(tracking.connect().get_run(broken)) / "train/note.txt"
    note.unlink()
    note.symlink_to(project / "nowhere")
    answer = call("sync", "--to", server, "--json")
    assert answer.code == 3 and f"left out run {broken} (" in answer.err and "\n" not in answer.err.split("left out")[1].strip()
    assert '"run": "' + whole in answer.out
    note.unlink()
    assert call("sync", "--to", server, "--json").json()["problems"] == []


def test_where_to(project, server, monkeypatch):
    for to in ("", tracking.local_uri()):
        with pytest.raises(BadInput, match="no server is named: set MLFLOW_TRACKING_URI"):
            sync(to, quiet)
    assert call("sync").code == 2
    (project / "mlflow.db").rename(project / "kept.db")
    assert (sync(server, quiet)["runs"], (project / "mlflow.db").exists()) == ([], False)
    (project / "kept.db").rename(project / "mlflow.db")
    work(project)
    with pytest.raises(StockmlError, match="does not work"):
        sync("nonsense://x", quiet)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    text = call("sync")
    assert text.out.splitlines()[-1] == f"copied 1 runs, 2 trials and 0 versions to {server}; 0 were there already"
