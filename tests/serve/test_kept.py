"Every forecast is in the journal before it is told."

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest
from test_gunicorn import running

from serve.app import create_app
from stockml.config import BadInput
from stockml.journal import files, find, read


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("STOCKML_JOURNAL", str(tmp_path / "journal"))
    return tmp_path / "journal"


def test_a_forecast_is_found_by_its_id(folder, bundle_folder, good):
    client = create_app(bundle_folder).test_client()
    one = client.post("/v1/forecast", json=good).json
    series = [{"ticker": f"T{i}", "bars": good["bars"]} for i in range(3)]
    many = client.post("/v1/forecast", json={"series": series}).json["answers"]
    for answer in [one, *many]:
        line = find(folder, answer["forecast_id"]).line
        kept = line["stockml"]
        assert line["event"]["dataset"] == "stockml.forecast"
        assert (kept["ticker"], kept["origin"], kept["model"]) == (answer["ticker"], answer["origin"], answer["model"])
        assert [f["quantiles"] for f in kept["forecasts"]] == [f["quantiles"] for f in answer["forecasts"]]
        assert len(kept["input_sha256"]) == len(kept["bundle_sha256"]) == 64
    assert len(list(read(folder))) == 4


def test_what_is_refused_leaves_no_forecast(folder, bundle_folder, good):
    client = create_app(bundle_folder).test_client()
    assert client.post("/v1/forecast", json=good | {"horizons": [2]}).status_code == 422
    assert files(folder) == []


def test_what_cannot_be_written_down_is_not_told(folder, bundle_folder, good):
    client = create_app(bundle_folder).test_client()
    (folder / "journal-000001.ndjson").symlink_to("/dev/full")
    answer = client.post("/v1/forecast", json=good)
    assert answer.status_code == 503
    assert answer.json["detail"] == "forecasts cannot be written down, so none are told"
    (folder / "journal-000001.ndjson").unlink()
    assert client.post("/v1/forecast", json=good).status_code == 200


def test_no_way_to_a_journal_is_one_line(tmp_path, bundle_folder, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STOCKML_JOURNAL", str(tmp_path / "file/journal"))
    with pytest.raises(BadInput, match="the journal cannot be written"):
        create_app(bundle_folder)


def test_kill_9_of_the_workers_loses_no_forecast_that_was_told(root, bundle_folder, tmp_path, good):
    told, body = [], json.dumps(good).encode()
    with running(root, bundle_folder, tmp_path / "log", STOCKML_JOURNAL=str(tmp_path / "journal")) as server:
        def ask(_):
            try:
                status, answer = server.ask("POST", "/v1/forecast", body)
            except (OSError, ValueError, HTTPException):  # killed under our hands
                return
            if status == 200:
                told.append(answer["forecast_id"])

        with ThreadPoolExecutor(8) as clients:
            asked = clients.map(ask, range(400))
            for _ in range(3):
                time.sleep(.3)
                for pid in server.workers():
                    os.kill(pid, signal.SIGKILL)
            list(asked)
    kept = [line["stockml"]["forecast_id"] for line in read(tmp_path / "journal")]
    assert len(told) > 50
    assert set(told) <= set(kept)
    assert len(kept) == len(set(kept))
