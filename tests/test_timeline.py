"Who did what, when: four books read as one."

import json
import re
import subprocess

import pandas as pd
import pytest
from commands import call

from stockml import tracking
from stockml.journal import Journal, event
from stockml.timeline import timeline, timeline_text

ADA, BOB = "Ada <ada@example.com>", "Bob <bob@example.com>"
RETRAINED = {"as_of": "2000-09-29", "reason": "loss is in alarm", "who": BOB, "begun": "2000-09-30T01:00:00+00:00", "seconds": 61.4,
             "promoted": False, "model": {"version": "b" * 12}}

LOCK = """stages:
  ingest:
    params: {params.yaml: {data: {as_of: "2000-09-28"}}}
    outs: [{path: data/bars.parquet, md5: 0123456789abcdef0123456789abcdef}]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project in which two people have left something in each book, in four zones of time."
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("STOCKML_JOURNAL", raising=False)
    monkeypatch.delenv(tracking.TOKEN, raising=False)
    git = ["git", "-c", "user.name=Bob", "-c", "user.email=bob@example.com"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    for name, day in (("params.yaml", "29"), ("dvc.lock", "30")):
        (tmp_path / name).write_text(LOCK)
        subprocess.run([*git, "add", name], cwd=tmp_path, check=True)
        subprocess.run([*git, "commit", "-qm", f"{name}\twith a tab", f"--date=2000-09-{day}T04:00:00+05:00"], cwd=tmp_path, check=True)
    (tmp_path / "models").mkdir()
    decision = {"time": "2000-09-30T02:00:00+00:00", "who": ADA, "promoted": False, "reasons": ["worse", "luck"], "model": "b" * 12}
    (tmp_path / "models/promotions.jsonl").write_text(json.dumps(decision) + "\n")
    Journal(tmp_path / "journal").append([event("stockml.retrain", "trained", **RETRAINED), event("stockml.bot", "2000-09-29: nothing")])
    return tmp_path


@pytest.fixture
def runs() -> pd.DataFrame:
    return pd.DataFrame([{
        "started": pd.Timestamp("2000-09-30 03:00"), "who": ADA, "name": "pipeline", "status": "FAILED", "commit": "0" * 9, "dirty": True,
        "data": "", "run_id": "r", "synced_from": None, "evaluate.ratio_1": float("nan")}])


def test_one_line_of_time(project, runs):
    gate = [{"time": "2000-09-30T02:00:00+00:00", "who": ADA, "promoted": False, "reasons": ["worse", "luck"], "model": "b" * 12}]
    events = timeline(project, project / "journal", runs, gate)
    assert [(e.time, e.who, e.what) for e in events] == [
        ("2000-09-30T03:00:00+00:00", ADA, "run"), ("2000-09-30T02:00:00+00:00", ADA, "refused"),
        ("2000-09-30T01:00:00+00:00", BOB, "retrained"), ("2000-09-29T23:00:00+00:00", BOB, "data")]
    said = [e.details for e in events]
    assert said[:3] == ["pipeline; failed; commit 000000000, changed since", f"model {'b' * 12}: worse; luck",
                        "as of 2000-09-29: loss is in alarm; refused after 61 s"]
    assert re.fullmatch(r"version 012345678 as of 2000-09-28; commit [0-9a-f]{9}: dvc\.lock\twith a tab", said[3])
    assert events[3].id == "0123456789abcdef" * 2
    assert timeline(project, project / "journal", runs, gate, 2) == events[:2]
    assert timeline(project, project / "journal", runs, gate, 1, "BOB@") == events[2:3]
    untold = timeline(project, project / "journal", runs, [gate[0] | {"time": None, "who": None}])
    assert (untold[-1].what, untold[-1].time, untold[-1].who) == ("refused", "", "")  # found in place: nobody wrote down when
    assert timeline(project / "journal", project / "none", runs[:0], []) == []  # no dvc.lock, no journal
    assert timeline_text(events).splitlines()[2] == f"2000-09-30 01:00  Bob  retrained  {said[2]}"


def test_the_command(project):
    told = call("history", "--json").json()
    assert told.keys() == {"runs", "decisions", "events"} and told["runs"] == []
    assert [e["what"] for e in told["events"]] == ["refused", "retrained", "data"]
    client = tracking.connect()
    run = tracking.join_run(client, "train")
    for metric, value in (("ratio_1", .99), ("ratio_5", .98)):
        tracking.log_stage(client, run, "evaluate", {}, {metric: value}, [], {"stockml.data": "f" * 64})
    first = call("history", "--limit", "1", "--json").json()["events"]
    assert [(e["what"], e["id"]) for e in first] == [("run", run)]
    assert first[0]["details"].endswith("data fffffffff; h=1 0.9900; h=5 0.9800")
    theirs = call("history", "--who", "ada", "--json").json()
    assert [e["what"] for e in theirs["events"]] == ["refused"] and len(theirs["decisions"]) == 1
    assert call("history", "--who", "nobody", "--json").json() == {"runs": [], "decisions": [], "events": []}
    assert [line.split()[0] for line in call("history", "--limit", "3").out.splitlines()[1:]] == ["2000-09-30"] * 2


def test_the_command_without_the_server(project, monkeypatch):
    "The other books need none, nor do the runs that are kept here; with nothing to show, silence would look like an answer."
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    told = call("history", "--json")
    assert [e["what"] for e in told.json()["events"]] == ["refused", "retrained", "data"]
    assert told.err.startswith("MLflow at http://127.0.0.1:9 is down (") and told.err.count("\n") == 1
    assert "no runs yet" not in call("history").out
    nobody = call("history", "--who", "nobody")
    assert (nobody.code, nobody.out) == (1, "") and nobody.err.startswith("stockml: MLflow at http://127.0.0.1:9 is down (")
    run = tracking.join_run(tracking.connect(tracking.local_uri()), "train")
    told = call("history", "--json")
    assert [r["run_id"] for r in told.json()["runs"]] == [run] and told.err.startswith("MLflow at http://127.0.0.1:9 is down (")
