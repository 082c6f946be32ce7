"The service keeps its contract: the library's own forecast for good requests, a field by name for bad ones."

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from flask import Request
from flask.testing import FlaskClient

import serve.app
import serve.model
from serve import body
from serve.app import create_app
from serve.body import MAX_BARS, MAX_BODY, latest_session, read_request
from serve.model import model_folder
from stockml import __version__
from stockml.bundle import forecast, load_bundle, write_manifest
from stockml.config import BadInput
from stockml.evaluate import seen_as
from stockml.features import MIN_BARS, as_bars, make_features
from stockml.files import read_json
from stockml.forecaster import CLASSICAL, MODELS

LEVELS = ["0.025", "0.05", "0.1", "0.25", "0.5", "0.75", "0.9", "0.95", "0.975"]


def post(client, body, kind="application/json"):
    "Send a body: text and bytes as they are, anything else as JSON (with NaN, as Python's own clients do)."
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return client.post("/v1/forecast", data=data, content_type=kind)


def problem(response, status):
    "The problem details of an error, checked for their form."
    assert (response.status_code, response.content_type) == (status, "application/problem+json"), response.text
    assert {"type", "title", "status", "detail"} <= response.json.keys()
    assert response.json["status"] == status
    return response.json


def fields(response):
    "The fields that a 422 names."
    return [e["field"] for e in problem(response, 422)["errors"]]


# What a good request gets


def test_answer_has_the_contracts_shape(client, good):
    answer = post(client, good).json
    assert list(answer) == ["forecast_id", "ticker", "origin", "model", "forecasts"]
    assert UUID(answer["forecast_id"]).version == 7
    assert (answer["ticker"], answer["origin"]) == ("AAPL", "2003-12-31")
    assert [f["horizon"] for f in answer["forecasts"]] == [1, 21]
    assert [f["target_date"] for f in answer["forecasts"]] == ["2004-01-02", "2004-02-02"]
    for f in answer["forecasts"]:
        assert list(f) == ["horizon", "target_date", "quantiles", "prices", "model", "skill"]
        assert list(f["quantiles"]) == list(f["prices"]) == LEVELS
        assert f["skill"] in (True, False)
        assert f["model"] in MODELS


def test_quantiles_ascend_and_prices_follow_from_them(client, good):
    for f in post(client, good).json["forecasts"]:
        quantiles, prices = (np.array(list(f[k].values())) for k in ("quantiles", "prices"))
        assert (np.diff(quantiles) > 0).all()
        np.testing.assert_allclose(prices, good["bars"][-1]["close"] * np.exp(quantiles), rtol=1e-12)


def test_answer_is_the_librarys_own_forecast(client, good, bundle, apple):
    [expected] = forecast(bundle, apple)
    answer = post(client, good).json
    assert answer["forecasts"] == expected["forecasts"]
    assert answer["model"] == {"name": "xgboost", "version": bundle.version}


def test_bars_arrive_as_the_store_holds_them(good, apple):
    sent = Request.from_values(method="POST", json=good)
    bars = as_bars(read_request(sent, date(2003, 12, 31)).stocks)
    pd.testing.assert_frame_equal(bars, apple)
    pd.testing.assert_frame_equal(make_features(bars), make_features(apple))


@pytest.fixture
def appointed(bundle_folder, tmp_path) -> Callable[..., FlaskClient]:
    "A client of a service whose bundle appoints these models for a series alone, at 1 and 21 sessions."

    def make(day: str, month: str) -> FlaskClient:
        folder = shutil.copytree(bundle_folder, tmp_path / f"{day}-{month}")
        roles = {"serves": {"alone": {"1": day, "21": month}}, "skill": {"alone": {"1": True, "21": False}}}
        write_manifest(folder, read_json(folder / "manifest.json") | roles)
        return create_app(folder).test_client()

    return make


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_the_feature_stage(appointed, request_for, bundle, panel, name):
    "A request that ends at a date gets what features computed over the whole history hold for that date, whoever serves."
    whole, client = panel[panel["ticker"] == "KO"].reset_index(drop=True), appointed(name, name)
    scales = seen_as("alone", bundle.models[name], make_features(whole)[["ticker", "date", *bundle.manifest["features"]]])
    _, own = bundle.quantiles.get(("alone", name)) or bundle.quantiles["market", name]
    for cut in (MIN_BARS, 300, 1000, 2000):
        answer = post(client, request_for(whole[:cut])).json
        quantiles = [list(f["quantiles"].values()) for f in answer["forecasts"]]
        np.testing.assert_allclose(quantiles, scales[cut - 1][:, None] * own["KO"], rtol=1e-10)


@pytest.mark.parametrize(("day", "month"), [("xgboost", "gjr"), ("har", "xgboost"), ("historical", "ewma97")])
def test_each_forecast_names_the_model_that_made_it(appointed, good, day, month):
    "Skill is XGBoost's alone; the name of the whole stays what the bundle is called."
    client = appointed(day, month)
    answer = post(client, good).json
    assert [(f["model"], f["skill"]) for f in answer["forecasts"]] == [(day, day == "xgboost"), (month, False)]
    assert answer["model"]["name"] == client.get("/version").json["model"]["name"] == "xgboost"


@pytest.mark.parametrize("name", [*CLASSICAL])
def test_a_stock_that_no_model_saw_is_served_by_each(appointed, good, bundle, name):
    "With the residuals of all stocks."
    answer = post(appointed(name, name), {**good, "ticker": "NEW"}).json
    pooled, _ = bundle.quantiles.get(("alone", name)) or bundle.quantiles["market", name]
    for f, shape in zip(answer["forecasts"], pooled, strict=True):
        quantiles = np.array(list(f["quantiles"].values()))
        np.testing.assert_allclose(quantiles / quantiles[0], shape / shape[0], rtol=1e-5, atol=1e-9)


def test_order_of_keys_does_not_matter(client, good):
    turned = {k: good[k] for k in reversed(good)}
    turned["bars"] = [{k: b[k] for k in reversed(b)} for b in good["bars"]]
    first, second = post(client, good).json, post(client, turned).json
    assert first.pop("forecast_id") != second.pop("forecast_id")
    assert first == second


def test_close_stands_in_for_a_missing_adj_close(client, good):
    only = {**good, "bars": [{"date": b["date"], "close": b["adj_close"]} for b in good["bars"]]}
    both = {**good, "bars": [{**b, "adj_close": b["close"]} for b in only["bars"]]}
    null = {**good, "bars": [{**b, "adj_close": None, "volume": None} for b in only["bars"]]}
    answers = [post(client, r).json["forecasts"] for r in (only, both, null)]
    assert answers[0] == answers[1] == answers[2]


def test_prices_are_quoted_not_adjusted(client, good):
    "Returns come from the adjusted close, prices start at the close that a person sees on the screen."
    halved = {**good, "bars": [{**b, "adj_close": b["close"] / 2} for b in good["bars"]]}
    for one, two in zip(*(post(client, r).json["forecasts"] for r in (good, halved)), strict=True):
        for key in ("quantiles", "prices"):
            np.testing.assert_allclose(list(one[key].values()), list(two[key].values()), rtol=1e-4)


@pytest.mark.parametrize("more", [{}, {"horizons": None}])
def test_all_horizons_unless_some_are_named(client, request_for, apple, more):
    answer = post(client, request_for(apple, **more)).json
    assert [f["horizon"] for f in answer["forecasts"]] == [1, 21]


def test_a_stock_that_the_model_never_saw_is_forecast(client, good):
    assert post(client, {**good, "ticker": "new.x"}).json["ticker"] == "NEW.X"


def test_status_says_what_is_served(client, bundle):
    assert client.get("/healthz").json == {"status": "ok"}
    version = client.get("/version").json
    assert version["package_version"] == __version__
    assert version["model"] == {"name": "xgboost", "version": bundle.version, "as_of": "2003-12-31",
                                "trained_at": bundle.manifest["trained_at"], "commit": bundle.manifest["commit"],
                                "data_sha256": bundle.manifest["data_sha256"], "sha256": bundle.manifest["sha256"],
                                "horizons": [1, 21]}


# What a bad request gets


@pytest.mark.parametrize(("key", "value", "row"), [
    ("close", -1, 3), ("close", 0, 3), ("close", "12.5", 3), ("close", None, 3), ("close", True, 3),
    ("close", 1e300, 3), ("close", float("nan"), 3), ("close", float("inf"), 3), ("close", 10**400, 3),
    ("close", [1], 3), ("open", -2.5, 0), ("adj_close", None, 7), ("volume", -1, 9), ("volume", 1e300, 9),
    ("volume", "many", 9),
    ("date", "31.12.2003", 519), ("date", "2003-13-01", 519), ("date", "20031231", 5), ("date", 20031231, 5),
    ("date", "2003-12-31T00:00:00Z", 519), ("date", "9999-12-31", 519), ("date", "1492-10-12", 0), ("price", 1, 4),
])
def test_a_wrong_value_is_named_with_its_row(client, good, key, value, row):
    good["bars"][row][key] = value
    assert fields(post(client, good)) == [f"bars[{row}].{key}"]


def test_a_future_date_is_refused(client, good):
    good["bars"][-1]["date"] = str(date.today() + timedelta(days=3))
    assert fields(post(client, good)) == ["bars[519].date"]


def test_a_clock_that_is_behind_does_not_refuse_what_the_model_knows():
    assert latest_session("2999-01-01") == date(2999, 1, 1)


def test_a_range_that_does_not_hold_the_close_is_named(client, good):
    good["bars"][3]["high"] = good["bars"][3]["low"] = 1.0
    assert fields(post(client, good)) == ["bars[3]"]


def test_all_wrong_rows_are_named_up_to_a_limit(client, good):
    for bar in good["bars"][10:12]:
        bar["low"] = bar["high"] * 2
    assert fields(post(client, good)) == ["bars[10]", "bars[11]"]
    for bar in good["bars"]:
        bar["low"] = bar["high"] * 2
    answer = post(client, good)
    assert len(fields(answer)) == 20
    assert "(and 519 more)" in answer.json["detail"]


@pytest.mark.parametrize(("other", "what"), [(4, "the same date as bars[4]"), (0, "earlier than bars[4]")])
def test_dates_ascend_without_repeats(client, good, other, what):
    good["bars"][5]["date"] = good["bars"][other]["date"]
    answer = post(client, good)
    assert fields(answer) == ["bars[5].date"]
    assert what in answer.json["detail"]


def test_newest_first_is_refused(client, good):
    good["bars"].reverse()
    assert fields(post(client, good)) == ["bars[1].date"]


@pytest.mark.parametrize(("change", "field"), [
    ({"horizons": [1, 5]}, "horizons"), ({"horizons": []}, "horizons"), ({"horizons": 1}, "horizons"),
    ({"horizons": [1.0]}, "horizons[0]"), ({"horizons": [1, "21"]}, "horizons[1]"),
    ({"horizons": [True]}, "horizons[0]"), ({"ticker": "A/B"}, "ticker"), ({"ticker": ""}, "ticker"),
    ({"ticker": 7}, "ticker"), ({"ticker": "X" * 99}, "ticker"), ({"ticker": "\ud800"}, "ticker"),
    ({"bars": []}, "bars"), ({"bars": None}, "bars"), ({"bars": {}}, "bars"),
    ({"bars": [1] * 99}, "bars[0]"), ({"bars": [{}] * 99}, "bars[0].date"), ({"tickers": ["AAPL"]}, "tickers"),
])
def test_a_wrong_part_is_named(client, good, change, field):
    assert fields(post(client, {**good, **change}))[0] == field


@pytest.mark.parametrize("key", ["ticker", "bars"])
def test_a_missing_part_is_named(client, good, key):
    del good[key]
    assert fields(post(client, good)) == [key]


def test_a_short_history_is_refused_with_the_least_length(client, good):
    good["bars"] = good["bars"][-MIN_BARS + 1:]
    answer = post(client, good)
    assert fields(answer) == ["bars"]
    assert str(MIN_BARS) in answer.json["detail"]


def test_a_history_of_impossible_length_is_refused(client, good):
    good["bars"] = [{"date": "2000-01-01", "close": 1}] * (MAX_BARS + 1)
    assert fields(post(client, good)) == ["bars"]


def test_prices_that_no_forecast_follows_from(client, good):
    for i, bar in enumerate(good["bars"]):
        good["bars"][i] = {"date": bar["date"], "close": [1e-300, 1e7][i % 2]}
    assert fields(post(client, good)) == ["bars"]


@pytest.mark.parametrize("body", [
    b"", b"{", b"bars", b"\xff\xfe\x00", b'{"ticker": "AAPL", "ticker": "KO"}', b"[" * 100_000,
    b'{"ticker": %s}' % (b"9" * 5000), '{"ticker": "A"}'.encode("utf-16"), json.dumps(dict.fromkeys(map(str, range(100)))).encode(),
])
def test_what_is_no_strict_json_is_malformed(client, body):
    assert problem(post(client, body), 400)["detail"].startswith("not JSON: ")


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"AAPL"', b"NaN"])
def test_json_that_is_no_object_is_refused(client, body):
    assert fields(post(client, body)) == ["body"]


def test_what_the_client_sent_is_quoted_in_short(client, good):
    assert len(post(client, {**good, "x" * 100_000: 1}).data) < 1000
    assert len(post(client, b'{"%s": 1, "%s": 2}' % (b"x" * 100_000, b"x" * 100_000)).data) < 1000


def test_other_errors_are_problems_too(client, good):
    problem(client.get("/v1/forecasts"), 404)
    response = client.get("/v1/forecast")
    problem(response, 405)
    assert "POST" in response.headers["Allow"]
    problem(post(client, b" " * (MAX_BODY + 1)), 413)
    problem(post(client, good, kind="text/csv"), 415)
    problem(client.post("/v1/forecast"), 415)
    problem(client.post("/v1/forecast", json=good, headers={"Content-Encoding": "gzip"}), 415)


def test_our_own_faults_are_told_to_the_log_alone(client, good, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("the secret")

    monkeypatch.setattr(serve.app, "make", fail)
    assert "secret" not in str(problem(post(client, good), 500))
    assert "the secret" in caplog.text


# What is served


def flip(path):
    "Change the last byte of a file."
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("name", ["model.ubj", "residuals.npz", "reference.parquet", "manifest.json"])
@pytest.mark.parametrize("harm", ["altered", "gone"])
def test_a_damaged_bundle_is_refused(bundle_folder, tmp_path, name, harm):
    folder = shutil.copytree(bundle_folder, tmp_path / "bundle")
    if harm == "gone":
        (folder / name).unlink()
    elif name == "manifest.json":
        (folder / name).write_text((folder / name).read_text()[:-3])
    else:
        flip(folder / name)
    with pytest.raises(BadInput, match=name) as error:
        create_app(folder)
    assert "\n" not in str(error.value)


def test_a_champion_with_another_past_is_refused(bundle_folder, tmp_path):
    "What it forecast before its promotion travels with it, and is held to its hash like the rest."
    folder = shutil.copytree(bundle_folder, tmp_path / "bundle")
    manifest, record = read_json(folder / "manifest.json"), folder / "record.parquet"
    shutil.copy(folder / "reference.parquet", record)
    write_manifest(folder, manifest | {"files": manifest["files"] | {record.name: manifest["files"]["reference.parquet"]}})
    assert load_bundle(folder).version == load_bundle(bundle_folder).version  # it serves the same
    assert create_app(folder).test_client().get("/healthz").json == {"status": "ok"}
    flip(record)
    with pytest.raises(BadInput, match=r"record\.parquet is damaged"):
        create_app(folder)


def test_a_bundle_that_forecasts_nothing_is_refused(bundle, bundle_folder, monkeypatch):
    "As one is that was trained on histories too short for its longest horizon."
    nothing = {key: (pooled * np.nan, own) for key, (pooled, own) in bundle.quantiles.items()}
    blind = dataclasses.replace(bundle, quantiles=nothing)
    monkeypatch.setattr(serve.model, "load_bundle", lambda _: blind)
    with pytest.raises(BadInput, match="the bundle cannot forecast"):
        create_app(bundle_folder)


def test_the_champion_is_served_unless_told_otherwise(monkeypatch, root, tmp_path):
    monkeypatch.delenv("STOCKML_MODEL", raising=False)
    monkeypatch.setenv("STOCKML_ROOT", str(root))
    assert model_folder() == root / "models/champion"
    monkeypatch.setenv("STOCKML_MODEL", str(tmp_path))
    assert model_folder() == tmp_path
    with pytest.raises(BadInput, match=r"manifest\.json: not found"):
        create_app()


def test_the_service_knows_floors_0_to_3_only(root):
    "What importing it loads: none of the tools of training, no module of a higher floor."
    code = "import sys, serve.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    floors = {"config", "files", "schema", "prices", "features", "targets", "split", "journal",
              "calibrate", "baselines", "garch", "forecaster", "score", "bot", "bundle", "explain"}
    assert {m.split(".")[1] for m in loaded if m.startswith("stockml.")} <= floors
    # fitting GARCH needs arch, serving it does not
    assert not loaded & {"mlflow", "evidently", "papermill", "dvc", "scrapy", "optuna", "dask", "IPython", "arch"}


def test_stocks_with_hardly_a_day_in_common_are_no_market(client, good, monkeypatch):
    bars = good["bars"]
    monkeypatch.setattr("serve.body.MAX_CELLS", 5 * 500)
    for step, status in ((5, 422), (0, 200)):  # each begins some days later than the one before
        series = [{"ticker": f"T{i}", "bars": bars[step * i:step * i + 495]} for i in range(5)]
        answer = client.post("/v1/forecast", json={"series": series, "horizons": [1]})
        assert answer.status_code == status
        if status == 422:
            assert answer.json["errors"][0]["field"] == "series" and "515 different days" in answer.json["detail"]


def test_large_requests_take_turns(client, good, monkeypatch):
    monkeypatch.setattr("serve.body.BIG", 1000)
    monkeypatch.setattr("serve.body.WAIT_S", .1)
    assert client.post("/v1/forecast", json=good).status_code == 200
    with body._turn:
        answer = client.post("/v1/forecast", json=good)
        assert answer.status_code == 503 and answer.headers["Retry-After"] and "another large request" in answer.json["detail"]
        assert client.post("/v1/forecast", json={"ticker": "A"}).status_code == 422
    assert client.post("/v1/forecast", json=good).status_code == 200
