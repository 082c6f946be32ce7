"What a request leaves behind: a line of the journal, counts, and headers that tie it to its caller's story."

import hashlib
import math
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import serve.app
from serve.body import read_request
from serve.forecasts import input_sha256
from serve.metrics import field_kind
from serve.observe import stale_from
from serve.trace import read_trace
from stockml.features import History, make_features
from stockml.prices import sessions

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def counts(client) -> dict[tuple, float]:
    "All samples of /metrics: (name, *label values) -> value."
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}


# Lines


def test_a_forecast_is_one_line_that_holds_all_there_is_to_know(client, good, logged, bundle, apple):
    headers = {"X-Request-ID": "abc-1", "traceparent": PARENT}
    answer = client.post("/v1/forecast", json=good, headers=headers).json
    [line] = logged()
    assert datetime.fromisoformat(line["@timestamp"]) - datetime.now(UTC) < timedelta(minutes=1)
    assert (line["log.level"], line["message"]) == ("info", "POST /v1/forecast 200")
    assert line["ecs.version"] and line["service"]["name"] == "stockml"
    assert line["event"] | {"duration": 0} == {"kind": "event", "dataset": "stockml.request", "action": "forecast", "duration": 0,
                                               "outcome": "success"}
    assert 1e5 < line["event"]["duration"] < 1e11  # nanoseconds
    assert (line["http"]["request"]["id"], line["http"]["request"]["method"]) == ("abc-1", "POST")
    assert line["http"]["request"]["body"]["bytes"] > 10_000
    assert line["http"]["response"]["status_code"] == 200
    assert (line["url"]["path"], line["client"]["address"], line["trace"]["id"]) == ("/v1/forecast", "127.0.0.1", TRACE)
    kept = line["stockml"]
    assert {k: kept[k] for k in ("forecast_id", "ticker", "origin", "model")} == {
        k: answer[k] for k in ("forecast_id", "ticker", "origin", "model")}
    assert kept["bundle_sha256"] == bundle.manifest["sha256"]
    assert [f["quantiles"] for f in kept["forecasts"]] == [f["quantiles"] for f in answer["forecasts"]]
    assert 0 < kept["ms"] < line["event"]["duration"] / 1e6
    expected = make_features(apple)[bundle.manifest["features"]].iloc[-1]
    found = {k: math.nan if v is None else v for k, v in kept["features"].items()}
    np.testing.assert_allclose([found[k] for k in expected.index], expected.to_numpy(float), rtol=1e-5)


def test_the_hash_is_of_the_bars_however_they_were_written(client, good, logged, app):
    good["bars"] = [{k: b[k] for k in reversed(b)} for b in good["bars"]]
    client.post("/v1/forecast", json=good)
    client.post("/v1/forecast", json={**good, "ticker": "KO"})
    first, other = (line["stockml"]["input_sha256"] for line in logged())
    with app.test_request_context(json=good):
        [stock] = read_request(serve.app.request, date(2003, 12, 31)).stocks
    data = b"".join([b"AAPL", stock.dates.astype("<i8").tobytes(), *(np.asarray(c, "<f8").tobytes() for c in stock[2:])])
    assert first == input_sha256(History(*stock)) == hashlib.sha256(data).hexdigest() != other


def test_each_forecast_of_a_batch_has_a_line_and_so_has_the_request(client, good, logged):
    stock = {k: good[k] for k in ("ticker", "bars")}
    answer = client.post("/v1/forecast", json={"series": [stock, {**stock, "ticker": "KO"}]}).json
    *each, whole = logged()
    assert [line["stockml"]["forecast_id"] for line in each] == [a["forecast_id"] for a in answer["answers"]]
    assert {line["http"]["request"]["id"] for line in (*each, whole)} == {whole["http"]["request"]["id"]}
    assert "stockml" not in whole and whole["http"]["response"]["status_code"] == 200
    assert all("response" not in line["http"] for line in each)


def test_a_refusal_is_a_line_with_the_field_and_without_what_was_sent(client, good, logged):
    good["bars"][3]["close"] = -17.125
    client.post("/v1/forecast", json=good)
    [line] = logged()
    assert (line["log.level"], line["event"]["outcome"], line["error"]["message"]) == ("warn", "failure", "bars[3].close is wrong")
    assert "stockml" not in line and "17.125" not in str(line)


def test_our_own_fault_is_a_line_with_its_trace(client, good, logged, monkeypatch):
    monkeypatch.setattr(serve.app, "make", lambda *_, **__: 1 / 0)
    client.post("/v1/forecast", json=good, headers={"traceparent": PARENT})
    fault, line = logged()
    assert (fault["log.level"], fault["error"]["type"], fault["trace"]["id"]) == ("error", "ZeroDivisionError", TRACE)
    assert "test_observe.py" in fault["error"]["stack_trace"]
    assert (line["log.level"], line["http"]["response"]["status_code"]) == ("error", 500)


def test_an_explanation_is_kept_too(client, good, logged):
    client.post("/v1/explain", json=good)
    [line] = logged()
    assert line["event"]["action"] == "explain" and line["stockml"]["ticker"] == "AAPL"


def test_what_is_asked_every_few_seconds_leaves_no_lines(client, logged):
    for path in ("/healthz", "/readyz", "/metrics"):
        client.get(path)
    assert logged() == []
    client.get("/nothing\n\x00here\xff")
    [line] = logged()
    assert (line["event"]["action"], line["http"]["response"]["status_code"]) == ("none", 404)


def test_a_reader_that_is_gone_stops_nothing(client, good, monkeypatch):
    monkeypatch.setattr("serve.lines.STDOUT", 999)
    assert client.post("/v1/forecast", json=good).status_code == 200


# Names


@pytest.mark.parametrize("sent", ["abc-1", "A" * 128, "a.b:c@d/e+f=="])
def test_a_request_keeps_its_name(client, sent):
    assert client.get("/version", headers={"X-Request-ID": sent}).headers["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", [None, "", "A" * 129, "a b", "<script>", "ü"])
def test_a_request_without_a_proper_name_gets_one(client, sent):
    headers = {} if sent is None else {"X-Request-ID": sent}
    names = {client.get("/version", headers=headers).headers["X-Request-ID"] for _ in range(2)}
    assert len(names) == 2 and all(UUID(n) for n in names)


def test_errors_carry_names_too(client):
    answer = client.get("/nothing", headers={"X-Request-ID": "abc-1", "traceparent": PARENT})
    assert (answer.headers["X-Request-ID"], answer.headers["traceparent"][:36]) == ("abc-1", PARENT[:36])


@pytest.mark.parametrize("sent", [PARENT, PARENT.replace("00-", "cc-", 1), PARENT.replace("00-", "cc-", 1) + "-more"])
def test_a_trace_goes_on_with_a_span_of_our_own(sent):
    trace = read_trace({"HTTP_TRACEPARENT": sent})
    assert (trace.trace_id, trace.flags) == (TRACE, "01")
    assert trace.span_id != SPAN
    assert trace.traceparent == f"00-{TRACE}-{trace.span_id}-01"


@pytest.mark.parametrize("sent", ["", "00", PARENT + "-more", PARENT.upper(), PARENT.replace(TRACE, "0" * 32),
                                  PARENT.replace(SPAN, "0" * 16), PARENT.replace("00-", "ff-", 1), PARENT[:-1], PARENT + "\n"])
def test_a_bad_trace_is_replaced(sent):
    trace = read_trace({"HTTP_TRACEPARENT": sent})
    assert trace.trace_id != TRACE and len(trace.trace_id) == 32 and trace.flags == "00"


# Stale bars


def test_old_bars_are_answered_with_a_warning(client, good):
    answer = client.post("/v1/forecast", json=good)
    assert answer.headers["Warning"] == '299 - "stale bars, more than 5 sessions behind: AAPL ends on 2003-12-31"'
    stock = {k: good[k] for k in ("ticker", "bars")}
    batch = {"series": [{**stock, "ticker": f"T{i}"} for i in range(5)]}
    assert client.post("/v1/explain", json=batch).headers["Warning"].endswith('T2 ends on 2003-12-31 and 2 more"')


@pytest.mark.parametrize(("today", "last_stale"), [
    (date(2026, 8, 12), "2026-08-04"), (date(2026, 8, 15), "2026-08-06"), (date(2026, 1, 2), "2025-12-23")])
def test_holidays_and_weekends_make_no_bars_stale(today, last_stale):
    assert stale_from(today) == last_stale
    assert len(sessions(date.fromisoformat(last_stale) + timedelta(days=1), today)) == 6


def test_fresh_bars_are_answered_without(client, good):
    days = sessions(date.today() - timedelta(days=500), date.today() - timedelta(days=1))[-300:]
    bars = [{**b, "date": f"{d:%Y-%m-%d}"} for b, d in zip(good["bars"][-300:], days, strict=True)]
    assert "Warning" not in client.post("/v1/forecast", json={**good, "bars": bars}).headers


# Counts


def test_requests_and_forecasts_are_counted(client, good):
    before = counts(client)
    client.post("/v1/forecast", json=good)
    client.post("/v1/forecast", json={**good, "ticker": "A/B"})
    client.get("/no/such/path")
    after = counts(client)

    def grown(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    assert grown("stockml_request_seconds_count", "forecast", "200") == 1
    assert grown("stockml_request_seconds_count", "forecast", "422") == 1
    assert grown("stockml_request_seconds_count", "none", "404") == 1
    assert sum(grown(*k) for k in after if k[0] == "stockml_forecasts_total") == 2
    assert grown("stockml_rejected_total", "ticker") == 1
    assert grown("stockml_request_bars_sum") == 520
    assert grown("stockml_stale_inputs_total") == 1
    assert after["stockml_requests_in_progress",] == 1  # the one that asked


def test_our_own_faults_are_counted(client, good, monkeypatch):
    before = counts(client).get(("stockml_errors_total", "forecast"), 0)
    monkeypatch.setattr(serve.app, "make", lambda *_, **__: 1 / 0)
    client.post("/v1/forecast", json=good)
    assert counts(client)["stockml_errors_total", "forecast"] == before + 1


def test_the_model_is_told(client, bundle):
    found = counts(client)
    assert found["stockml_model_info", "2003-12-31", "xgboost", bundle.version] == 1
    assert 0 < found["stockml_model_age_seconds",] < 3600
    assert found["stockml_model_data_age_seconds",] > 20 * 365 * 86400


@pytest.mark.parametrize(("field", "kind"), [("bars[3].close", "close"), ("series[2].bars[7].date", "date"), ("body", "body"),
                                             ("series[0].ticker", "ticker"), ("horizons[1]", "horizons"), ("x" * 200, "other")])
def test_labels_are_ours_alone(field, kind):
    assert field_kind(field) == kind
