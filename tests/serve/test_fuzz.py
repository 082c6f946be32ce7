"Whatever is sent: an answer that the description promises, and soon. Never a fault of ours."

import json
import math
import time

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

from serve.openapi import Problem

SOON = 5  # seconds; a busy machine takes ten times as long as a quiet one
FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

# What a description can say is less than what a history must be: valid by it does not mean valid. All else must hold.
CONFIG = {
    "continue-on-failure": True, "checks": {"positive_data_acceptance": {"enabled": False}, "max_response_time": SOON},
    "phases": {"stateful": {"enabled": False}}, "generation": {"max-examples": 20, "deterministic": True},
}


def test_the_description_holds_for_anything(app):
    "Its examples, the edges of its schemas, values within and without: every answer is one of those described."
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app, config=SchemathesisConfig.from_dict(CONFIG))
    sent, wrong = 0, {}
    for event in from_schema(schema).execute():
        assert not isinstance(event, NonFatalError | FatalError), event
        if isinstance(event, ScenarioFinished):
            sent += len(event.recorder.interactions)
            wrong |= {f"{c.name}: {c.failure_info.failure.message}": event.recorder.label for checks in event.recorder.checks.values()
                      for c in checks if c.failure_info}
    assert not wrong
    assert sent > 300


# Values that have broken parsers before, beside ordinary ones
NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(-10**20, 10**20), st.floats(1e-320, 1e308),
    st.sampled_from([0, -0., -1, 1e-300, 1e7, 1e7 + 1, 2**53, 10**400, math.nan, math.inf]))
JUNK = st.recursive(st.none() | st.booleans() | NUMBERS | st.text(max_size=20), lambda inner: st.lists(inner, max_size=4)
                    | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8)
DAYS = st.dates().map(str) | st.sampled_from(["2003-02-30", "2003-13-01", "0000-01-01", "9999-12-31", "20031231", "2003-1-1", "",
                                              "2003-12-31T00:00:00Z", "٢٠٠٣-١٢-٣١"])
FIELDS = ["date", "close", "open", "high", "low", "adj_close", "volume"]


def send(client, body, path="/v1/forecast"):
    "Post anything; the answer, which is a forecast of finite numbers or a problem of the client's."
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(path, data=data, content_type="application/json")
    assert answer.status_code in (200, 400, 413, 422), answer.text
    if answer.status_code == 200:
        one = answer.json.get("answers", [answer.json])[0]
        assert all(map(math.isfinite, (x for f in one["forecasts"] for x in (*f["quantiles"].values(), *f["prices"].values()))))
        assert all(list(f["quantiles"].values()) == sorted(f["quantiles"].values()) for f in one["forecasts"])
    else:
        Problem.model_validate_json(answer.data)
    return answer


@given(data=st.data())
@settings(FEW, max_examples=150)
def test_any_change_of_any_bar_is_answered_or_named(client, good, data):
    for _ in range(data.draw(st.integers(1, 3))):
        row, name = data.draw(st.integers(0, 519)), data.draw(st.sampled_from(FIELDS))
        good["bars"][row][name] = data.draw(DAYS if name == "date" else NUMBERS | JUNK)
    send(client, good)


@given(closes=st.lists(st.floats(1e-12, 1e7, allow_subnormal=False), min_size=67, max_size=67), times=st.integers(1, 4),
       path=st.sampled_from(["/v1/forecast", "/v1/explain"]))
@settings(FEW, max_examples=60)
def test_any_prices_are_forecast_or_refused(client, good, closes, times, path):
    bars = good["bars"][:67 * times]
    send(client, {"ticker": "ANY", "bars": [{"date": b["date"], "close": c} for b, c in zip(bars, closes * times, strict=True)]}, path)


@given(moves=st.permutations(range(70)), twice=st.integers(0, 69))
@FEW
def test_bars_in_any_order_are_refused(client, good, moves, twice):
    bars = [good["bars"][i] for i in moves]
    bars.insert(twice, bars[0])
    assert send(client, {"ticker": "ANY", "bars": bars}).status_code == 422


@given(body=st.one_of(JUNK, st.fixed_dictionaries({}, optional={"ticker": JUNK, "bars": JUNK, "horizons": JUNK, "series": JUNK})))
@settings(FEW, max_examples=150)
def test_any_json_is_refused_in_words(client, body):
    assert send(client, body).status_code in (400, 422)


@given(start=st.integers(0, 3000), stop=st.integers(0, 3000), piece=st.binary(max_size=30))
@settings(FEW, max_examples=150)
def test_any_damage_to_the_text_is_noticed_or_harmless(client, good, start, stop, piece):
    data = json.dumps({**good, "bars": good["bars"][-67:]}).encode()
    send(client, data[:start] + piece + data[stop:])


HUGE = {
    "lists in lists": b"[" * 1_000_000, "objects in objects": b'{"bars":' * 100_000,
    "lists in bars": b'{"ticker":"A","bars":' + b"[" * 500_000,
    "a text": b'"' + b"x" * 4_000_000 + b'"', "a number": b"1" * 4_000_000, "nothing": b"\x00" * 1_000_000,
    "a long price": b'{"ticker":"A","bars":[{"date":"2003-01-02","close":1' + b"0" * 1_000_000 + b"}]}",
    "empty bars": b'{"ticker":"A","bars":[' + b"{}," * 2_700_000 + b"{}]}", "empty stocks": b'{"series":[' + b"{}," * 2_700_000 + b"{}]}",
    "wrong bars": b'{"ticker":"A","bars":[' + b'{"a":1},' * 1_000_000 + b"{}]}", "empty lists": b"[" + b"[]," * 2_700_000 + b"1]",
    "nulls": b"[" + b"null," * 1_600_000 + b"null]", "numbers": b'{"ticker":"A","horizons":[' + b"1," * 4_000_000 + b"1]}",
    "bars of one day": b'{"ticker":"A","bars":[' + b'{"date":"2003-01-02","close":1},' * 250_000 + b"{}]}",
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_huge_or_deep_is_refused_soon(client, name):
    start = time.monotonic()
    assert send(client, HUGE[name]).status_code in (400, 422)
    assert time.monotonic() - start < SOON


@pytest.mark.parametrize(("key", "value"), [("horizons", [1] * 101), ("horizons", [1] * 100_000), ("series", 101)])
def test_there_is_an_end_to_what_one_may_ask(client, good, key, value):
    stock = {"ticker": "A", "bars": good["bars"][-70:]}
    asked = {"series": [{**stock, "ticker": f"T{i}"} for i in range(value)]} if key == "series" else {**stock, "horizons": value}
    answer = send(client, asked)
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, key)
