"Training ships a model that knows all there is, with residuals from models that did not."

import shutil

import numpy as np
import pandas as pd
import pytest

from stockml.bundle import FILES, forecast, load_bundle
from stockml.config import BadInput
from stockml.evaluate import evaluate_bars, newest_residuals, origins, walk_forward, xgboost_maker
from stockml.features import feature_columns, make_features
from stockml.files import read_json, sha256
from stockml.split import folds
from stockml.targets import known, make_targets
from stockml.train import REFERENCE_ROWS, scale_array, ship, walk

TREES = {"rounds": 15}


@pytest.fixture(scope="module")
def params(small_params):
    return small_params.model_copy(update={"model": small_params.model.model_copy(update={"threads": 1})})


@pytest.fixture(scope="module")
def features(_panel):
    return make_features(_panel)


@pytest.fixture(scope="module")
def targets(_panel):
    return make_targets(_panel, (1, 21))


@pytest.fixture(scope="module")
def plan(_panel, params):
    return folds(_panel["date"], params.split.forecast_from, params.split.refit_months, params.split.embargo)


@pytest.fixture(scope="module")
def scales(features, targets, params):
    return walk(features, targets, params, TREES)


def test_bundle_answers_for_its_last_day(bundle, panel):
    answers = forecast(bundle, panel)
    assert [a["ticker"] for a in answers] == sorted(panel["ticker"].unique())
    assert {a["origin"] for a in answers} == {"2003-12-31"}
    assert bundle.manifest["commit"] is None or len(bundle.manifest["commit"]) == 40


def test_a_walk_is_out_of_sample(scales, features, targets, params, plan):
    assert list(scales) == ["ticker", "date", "s_1", "s_21"]
    assert scales[["ticker", "date"]].equals(features[["ticker", "date"]])
    expected = walk_forward(xgboost_maker(params.model, TREES), features, targets, (1, 21), plan)
    np.testing.assert_array_equal(scales[["s_1", "s_21"]], expected)
    assert scales.loc[scales["date"] < "2000-01-01", ["s_1", "s_21"]].isna().all().all()
    assert (scales.loc[scales["date"] >= "2000-01-01", ["s_1", "s_21"]] > 0).all().all()


def test_a_walk_tells_each_fold_before_it_starts(features, targets, params):
    said = []
    walk(features, targets, params, {"rounds": 1}, said.append)
    assert said == ["fold 1/2: origins from 2000-01-01", "fold 2/2: origins from 2002-01-01"]


def test_evaluation_reads_the_scales_of_the_walk(_panel, params, scales, features):
    ready = {"xgboost": scale_array(scales, features, (1, 21))}
    a, b = (evaluate_bars(_panel, params, TREES, ready=r, features=features) for r in (ready, {}))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


@pytest.mark.parametrize("spoil", [
    lambda s: s[1:], lambda s: s[::-1], lambda s: s.drop(columns="s_21"), lambda s: s.assign(s_5=1.),
    lambda s: s.rename(columns={"s_21": "s_5"}), lambda s: s.assign(ticker="A"),
    lambda s: s.assign(date=s["date"] + pd.Timedelta(days=1)),
])
def test_scales_of_other_bars_or_horizons_are_refused(scales, features, spoil):
    with pytest.raises(BadInput, match="made from other bars or horizons than these; run the train stage again"):
        scale_array(spoil(scales), features, (1, 21))


def test_the_shipped_model_has_learned_from_all_that_is_known(bundle, features, targets, params):
    model = xgboost_maker(params.model, TREES)().fit(features, known(targets, "2004-01-01"), (1, 21))
    assert bytes(bundle.booster.save_raw("ubj")) == bytes(model.booster.save_raw("ubj"))
    np.testing.assert_array_equal(bundle.har.coef[True], model.har.coef[True])
    np.testing.assert_array_equal(bundle.har.coef[False], model.har.coef[False])


def test_the_shipped_residuals_are_those_of_the_walk(bundle, scales, features, targets, plan, params):
    array = scale_array(scales, features, (1, 21))
    pooled, own = newest_residuals(origins(features, plan), targets, array, params.targets, params.calibrate)
    np.testing.assert_array_equal(bundle.pooled, pooled)
    assert set(bundle.own) == set(own) and all(np.array_equal(bundle.own[t], own[t]) for t in own)


def test_the_manifest_says_where_the_model_comes_from(bundle_folder, features, snapshot):
    manifest = read_json(bundle_folder / "manifest.json")
    assert manifest["as_of"] == "2003-12-31" and manifest["horizons"] == [1, 21] and manifest["trees"] == TREES
    assert manifest["features"] == feature_columns(features)
    assert manifest["tickers"] == sorted(features["ticker"].unique())
    assert manifest["data_sha256"] == sha256(snapshot)
    assert {"who", "trained_at", "commit", "params_sha256"} <= set(manifest)
    assert manifest["files"] == {n: sha256(bundle_folder / n) for n in FILES}


def test_the_reference_is_an_even_sample_of_the_features(bundle_folder, features):
    reference = pd.read_parquet(bundle_folder / "reference.parquet")
    assert len(reference) == REFERENCE_ROWS and list(reference) == list(features)
    merged = reference.merge(features, how="left", indicator=True)
    assert (merged["_merge"] == "both").all() and not reference.duplicated(["ticker", "date"]).any()
    assert reference["ticker"].value_counts().max() - reference["ticker"].value_counts().min() <= 1


def test_the_same_run_ships_the_same_bytes(_panel, features, scales, params, bundle_folder, tmp_path):
    for name in ("a", "b"):
        ship(tmp_path / name, _panel, features, scales, params, TREES, {"who": "a test"})
    for file in (*FILES, "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert load_bundle(tmp_path / "a").version == load_bundle(bundle_folder).version  # who made it changes no forecast


@pytest.mark.parametrize("spoil", [lambda s: s[1:], lambda s: s.assign(s_21=np.nan)])
def test_what_cannot_be_shipped_leaves_the_old_bundle(_panel, features, scales, params, bundle_folder, tmp_path, spoil):
    folder = shutil.copytree(bundle_folder, tmp_path / "challenger")
    with pytest.raises(BadInput):
        ship(folder, _panel, features, spoil(scales), params, TREES)
    assert load_bundle(folder) and [p.name for p in tmp_path.iterdir()] == ["challenger"]


def test_one_stock_ships_too(_panel, params, tmp_path):
    bars = _panel[_panel["ticker"] == "AAPL"].reset_index(drop=True)
    features = make_features(bars)
    ship(tmp_path / "m", bars, features, walk(features, make_targets(bars, (1, 21)), _later(params)), _later(params))
    answer = forecast(load_bundle(tmp_path / "m"), bars)[0]
    assert answer["ticker"] == "AAPL" and all(min(f["prices"].values()) > 0 for f in answer["forecasts"])


def _later(params):
    "A first origin that leaves one stock enough to learn from."
    split = params.split.model_copy(update={"forecast_from": pd.Timestamp("2001-01-01").date()})
    return params.model_copy(update={"split": split})
