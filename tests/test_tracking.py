import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest

from stockml import tracking
from stockml.config import StockmlError
from stockml.lineage import code_version, who
from stockml.sync import sync


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "A tracking store of this module's own."
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        patch.delenv(tracking.TOKEN, raising=False)
        assert tracking.history().empty
        yield path


@pytest.fixture
def client(store):
    return tracking.connect()


@pytest.fixture
def run(client) -> str:
    "A run of its own for each test."
    return tracking.join_run(client, "train")


def test_place_is_the_variables_or_the_projects(monkeypatch, tmp_path):
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking.tracking_uri() == "http://mlflow:5000"


def test_first_use_sets_the_store_up(client, store):
    with closing(sqlite3.connect(store)) as db:
        assert db.execute("pragma journal_mode").fetchone() == ("wal",)
    experiment = client.get_experiment_by_name("stockml")
    assert experiment.artifact_location == (store.parent / "mlartifacts").as_uri()


WRITER = """
import sys
from pathlib import Path
from stockml import tracking
client = tracking.connect()
run = tracking.join_run(client, f"writer {sys.argv[1]}")
for i in range(3):
    tracking.log_stage(client, run, f"part{i}", {f"a{i}": {"b": i}}, {"m": i}, [Path(sys.argv[2])], {"t": "x"})
    tracking.log_trial(run, i, {"depth": i}, i / 10)
tracking.register(run, Path(sys.argv[2]).parent)
tracking.end_run(run, ok=True)
"""


def test_processes_that_log_at_once_from_the_first_moment_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new/mlflow.db")
    (tmp_path / "new").mkdir()
    (tmp_path / "files").mkdir()
    (tmp_path / "files/file.txt").write_text("content")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(n), str(tmp_path / "files/file.txt")], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for n in range(4)]
    for writer in writers:
        said, _ = writer.communicate(timeout=240)
        assert writer.returncode == 0, said
    client = tracking.connect()
    runs = client.search_runs([client.get_experiment_by_name("stockml").experiment_id], max_results=100)
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert (len(parents), len(runs)) == (4, 16)
    assert sorted(int(v.version) for v in client.search_model_versions()) == [1, 2, 3, 4]
    assert {r.info.status for r in runs} == {"FINISHED"}
    for parent in parents:
        assert parent.data.metrics == {f"part{i}.m": i for i in range(3)}
        assert len(client.list_artifacts(parent.info.run_id)) == 4


def test_a_run_knows_who_when_and_which_code(client, run):
    made, code = client.get_run(run), code_version()
    assert made.data.tags["mlflow.user"] == who()
    assert made.data.tags["mlflow.source.git.commit"] == code["commit"]
    assert made.data.tags["stockml.dirty"] in ("true", "false")
    assert made.data.tags["mlflow.source.name"] == "stockml stage train"
    assert pd.Timestamp.now("UTC") - pd.Timestamp(made.info.start_time, unit="ms", tz="UTC") < pd.Timedelta(minutes=5)


def test_dirty_is_what_git_says(store, client, monkeypatch, tmp_path):
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    (tmp_path / "code.py").write_text("1")
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)

    def dirty() -> str:
        return client.get_run(tracking.join_run(client, "x")).data.tags["stockml.dirty"]

    assert dirty() == "false"
    (tmp_path / "code.py").write_text("2")
    assert dirty() == "true"


def test_stages_of_one_pipeline_run_share_a_run(client, monkeypatch):
    monkeypatch.setenv(tracking.TOKEN, "first")
    assert tracking.close_runs("first", "FINISHED") is None
    run = tracking.join_run(client, "ingest")
    assert tracking.join_run(client, "features") == run
    assert client.get_run(run).data.tags["mlflow.source.name"] == "stockml run"
    monkeypatch.setenv(tracking.TOKEN, "second")
    assert tracking.join_run(client, "ingest") != run
    assert tracking.close_runs("first", "FAILED") == run and client.get_run(run).info.status == "FAILED"
    monkeypatch.delenv(tracking.TOKEN)
    assert tracking.join_run(client, "ingest") != tracking.join_run(client, "ingest")


@pytest.mark.parametrize(("ok", "status"), [(True, "FINISHED"), (False, "FAILED")])
def test_a_run_ends_as_it_went(client, run, ok, status):
    assert client.get_run(run).info.status == "RUNNING"
    tracking.end_run(run, ok)
    ended = client.get_run(run).info
    assert (ended.status, ended.end_time >= ended.start_time) == (status, True)


def test_flat():
    assert tracking.flat({"a": {"b": {"c": 1}}, "d": [1], "e": {}}) == {"a.b.c": 1, "d": [1]}


def test_what_a_stage_leaves(client, run, tmp_path):
    (tmp_path / "plot.png").write_bytes(b"png")
    metrics = {"models": {"xgboost": {"1": {"ratio": .99}}}, "promoted": True, "who": "Ada", "gap": float("nan"),
               "odd name (h=1)": 2}
    params = {"targets": {"horizons": (1, 5)}, "data": {"csv": None, "long": "x" * 9000}}
    tracking.log_stage(client, run, "evaluate", params, metrics, [tmp_path / "plot.png"], {"stockml.data": "abc"})
    data = client.get_run(run).data
    assert data.metrics == {"evaluate.models.xgboost.1.ratio": .99, "evaluate.promoted": 1,
                            "evaluate.odd name _h_1_": 2}
    assert data.params == {"targets.horizons": "(1, 5)", "data.csv": "None", "data.long": "x" * 6000}
    assert data.tags["stockml.data"] == "abc"
    assert [a.path for a in client.list_artifacts(run, "evaluate")] == ["evaluate/plot.png"]


def test_a_stage_may_be_recorded_again(client, run):
    for value in (1, 2):
        tracking.log_stage(client, run, "train", {"model": {"seed": 17}}, {"loss": value}, [], {})
    assert client.get_run(run).data.metrics == {"train.loss": 2}


def test_trials_are_nested_runs(client, run):
    tracking.log_trial(run, 3, {"max_depth": 4, "eta": .1}, .98)
    experiment = client.get_run(run).info.experiment_id
    [trial] = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run}'")
    assert (trial.data.params, trial.data.metrics) == ({"max_depth": "4", "eta": "0.1"}, {"ratio_to_har": .98})
    assert (trial.info.status, trial.data.tags["stockml.trial"]) == ("FINISHED", "3")


def test_registered_model_and_its_aliases(client, run, bundle_folder):
    def at(alias: str) -> str:
        return str(client.get_model_version_by_alias("stockml", alias).version)

    first = tracking.register(run, bundle_folder, ("challenger", "champion"), {"promoted": "True"})
    assert at("challenger") == at("champion") == first
    version = client.get_model_version("stockml", first)
    assert (version.run_id, version.tags, version.source) == (run, {"promoted": "True"}, f"runs:/{run}/bundle")
    kept = {Path(a.path).name for a in client.list_artifacts(run, "bundle")}
    assert kept == {p.name for p in bundle_folder.iterdir()}
    second = tracking.register(run, bundle_folder)
    assert (at("challenger"), at("champion")) == (second, first)
    assert int(second) == int(first) + 1


def test_history_is_newest_first_and_without_trials(client, run):
    tracking.log_trial(run, 0, {}, 1.)
    tracking.log_stage(client, run, "evaluate", {}, {"ratio_1": .99}, [], {"stockml.data": "0123456789abcdef"})
    table = tracking.history(limit=3)
    assert table["run_id"].iloc[0] == run
    assert table["started"].is_monotonic_decreasing
    assert len(table) <= 3
    assert not table["name"].str.contains("trial").any()
    newest = table.iloc[0]
    assert (newest["who"], newest["status"], newest["data"]) == (who(), "RUNNING", "012345678")
    assert newest["evaluate.ratio_1"] == .99
    assert len(tracking.history(limit=1)) == 1


def refused() -> str:
    with pytest.raises(StockmlError, match=r"does not work|cannot be locked") as e:
        tracking.connect()
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize("uri", ["file://{}/runs", "nonsense://x", "sqlite:////proc/none/x.db"])
def test_place_that_cannot_be_used(monkeypatch, tmp_path, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp_path))
    refused()


def test_damaged_store_is_named_and_left_alone(monkeypatch, tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"garbage" * 1000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    said = f"MLflow at sqlite:///{tmp_path}/mlflow.db does not work: (sqlite3.DatabaseError) file is not a database"
    assert refused().startswith(said)
    assert (tmp_path / "mlflow.db").read_bytes() == b"garbage" * 1000


def test_server_that_is_down_is_told_soon(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # no waits between the tries
    assert "does not work" in refused()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"  # MLflow's own 7 are four silent minutes


class TestServerThatIsDown:
    @pytest.fixture
    def down(self, monkeypatch, tmp_path) -> str:
        "The address of a server that is not there."
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
        return uri

    def test_runs_are_kept_here_and_the_gap_is_said_once(self, down, tmp_path, capsys):
        begun = time.monotonic()
        tracking.fall_back()
        tracking.fall_back()  # a child's: it has the environment
        assert time.monotonic() - begun < 5
        said = capsys.readouterr().err
        assert said.startswith(f"MLflow at {down} is down (") and said.count("\n") == 1
        assert str(tmp_path / "mlflow.db") in said
        assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"

    @pytest.mark.parametrize("stage", [False, True])
    def test_what_a_person_registers_meanwhile_is_a_closed_run(self, down, monkeypatch, tmp_path, stage):
        "A stage closes its run itself."
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
        monkeypatch.delenv(tracking.TOKEN, raising=False)
        if stage:
            monkeypatch.setenv("MLFLOW_RUN_ID", "a" * 32)
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle/manifest.json").write_text("{}")
        assert tracking.register("a" * 32, tmp_path / "bundle") == "1"
        [kept] = tracking.find_runs(tracking.connect())
        assert (kept.info.status, kept.data.tags["stockml.continues"]) == ("RUNNING" if stage else "FINISHED", "a" * 32)

    def test_server_that_answers_is_left_in_peace(self, monkeypatch, capsys):
        "Also one that wants a password; one whose gateway is alone is down."
        for code, there in ((200, True), (401, True), (502, False)):
            with server(code) as uri:
                for address in (uri, uri.replace("//", "//ada:s3c@ret@")):
                    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
                    tracking.fall_back()
                    assert (tracking.tracking_uri() == address) is there
        said = capsys.readouterr().err
        assert said.count("\n") == 2 and said.splitlines()[1].startswith("MLflow at http://ada:***@127.0.0.1:")

    def test_server_that_does_not_let_us_in_is_not_called_down(self, monkeypatch, tmp_path):
        monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
        for code, what in ((401, "does not let us in"), (403, "does not let us in"), (404, "is down")):
            with server(code) as uri:
                monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
                said = []
                assert tracking.record(None, "train", lambda client, run: "kept here", said.append) == "kept here"
            assert said[0].startswith(f"MLflow at {uri} {what} (") and str(code) in said[0] and "kept in" in said[0]

    def test_no_password_is_told(self, down, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", down.replace("//", "//ada:s3cret@"))
        assert sync(tracking.tracking_uri())["to"] == down.replace("//", "//ada:***@")
        for work in (tracking.connect, tracking.history, lambda: tracking.close_runs("token", "FAILED")):
            with pytest.raises(StockmlError, match=r"^MLflow at http://ada:\*\*\*@127") as e:
                work()
            assert "s3cret" not in str(e.value)


@contextmanager
def server(code: int):
    "Answers everything with a status."
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = Thread(target=httpd.serve_forever, args=(.05,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()
