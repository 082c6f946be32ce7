"What the monitors of production said last is told to Prometheus, as long as it can be read."

from datetime import date

import numpy as np
import pytest
from test_observe import counts

from serve.app import create_app
from stockml.journal import STATE, Journal
from stockml.monitor import check, keep


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STOCKML_JOURNAL", str(tmp_path / "journal"))
    return tmp_path / "journal"


def gauges(client) -> dict[str, dict[str, float]]:
    "state, value -> monitor -> number; {} where nothing is said of monitors."
    found: dict[str, dict[str, float]] = {}
    for (name, *labels), value in counts(client).items():
        if name.startswith("stockml_monitor_"):
            found.setdefault(name.removeprefix("stockml_monitor_"), {})[labels[0]] = value
    return found


def test_each_monitor_has_a_state_and_a_value_as_of_this_scrape(folder, bundle_folder):
    client = create_app(bundle_folder).test_client()
    assert gauges(client) == {}  # they never ran
    checks = [check("coverage", 3.4, (2, 3), "x"), check("pinball", -.5, (2, 3), "x"), check("data", 2, (2, 5), "x"),
              check("drift", np.nan, (.15, .3), "x")]
    keep(checks, date(2003, 12, 31), Journal(folder))
    assert gauges(client) == {"state": {"coverage": 2, "pinball": 0, "data": 1, "drift": -1},
                              "value": {"coverage": 3.4, "pinball": -.5, "data": 2}}
    keep([check("coverage", .1, (2, 3), "x")], date(2004, 1, 2), Journal(folder))
    assert gauges(client)["state"] == {"coverage": 0, "pinball": 0, "data": 1, "drift": -1}
    assert gauges(client)["value"]["coverage"] == .1


@pytest.mark.parametrize("damage", ["", "{", "[]", "1", "null", '{"coverage": 1}', '{"coverage": {}}', '{"coverage": {"state": []}}',
                                    '{"coverage": {"state": "fine", "value": 1}}', '{"coverage": {"state": "ok", "value": "much"}}',
                                    '{"coverage": {"state": "ok", "value": ""}}', '{"coverage": {"state": "ok", "value": NaN}}',
                                    '{"coverage": {"state": "ok", "value": 1' + "0" * 400 + "}}", "[" * 100_000])
def test_a_damaged_file_is_no_reason_to_fail(folder, bundle_folder, damage, logged):
    client = create_app(bundle_folder).test_client()
    (folder / STATE).write_text(damage)
    logged()
    assert client.get("/metrics").status_code == 200
    assert gauges(client) == {}
    assert logged() == []


def test_what_is_no_file_or_no_text_neither(folder, bundle_folder):
    client = create_app(bundle_folder).test_client()
    (folder / STATE).write_bytes(b"\xff\xfe")
    assert gauges(client) == {}
    (folder / STATE).unlink()
    (folder / STATE).mkdir()
    assert gauges(client) == {}


def test_without_a_journal_there_is_nothing_to_look_at(client, monkeypatch):
    monkeypatch.delenv("STOCKML_JOURNAL", raising=False)
    assert gauges(client) == {}
    assert ("stockml_model_age_seconds",) in counts(client)
