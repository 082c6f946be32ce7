"Training ships a model that knows all there is, with residuals from models that did not."

import shutil
from dataclasses import replace
from pkgutil import resolve_name

import numpy as np
import pandas as pd
import pytest

from stockml.bundle import FILES, forecast, load_bundle
from stockml.calibrate import residuals, rolling_quantiles
from stockml.config import BadInput
from stockml.evaluate import VIEWS, calibrated, evaluate_bars, makers, origins, seen_as, walk_views
from stockml.features import feature_columns, make_features
from stockml.files import read_json, sha256
from stockml.forecaster import MODELS, without_market
from stockml.schema import BAR_KEY, QUANTILE_COLUMNS
from stockml.targets import known, make_targets
from stockml.train import REFERENCE_ROWS, last_scales, newest_quantiles, scale_column, ship, side_by_side, stored_scales, walk

HORIZONS = (1, 21)
TWO_VIEWS = ["har", "xgboost"]  # the others do not look at the market


def test_bundle_answers_for_its_last_day(bundle, panel):
    answers = forecast(bundle, panel)
    assert [a["ticker"] for a in answers] == sorted(panel["ticker"].unique())
    assert {a["origin"] for a in answers} == {"2003-12-31"}
    assert bundle.manifest["commit"] is None or len(bundle.manifest["commit"]) == 40


def test_a_walk_is_out_of_sample(scales, features, targets, plan, small_params, trees):
    names = {f"{m}_{h}" for m in MODELS for h in HORIZONS} | {f"{m}_alone_{h}" for m in TWO_VIEWS for h in HORIZONS}
    assert list(scales)[:2] == BAR_KEY and set(scales.columns[2:]) == names
    assert scales[BAR_KEY].equals(features[BAR_KEY])
    early = (scales["date"] < "2000-01-01").to_numpy()
    for name, make in makers(small_params.model, trees).items():
        views = walk_views(make, features, targets, HORIZONS, plan)
        for view in VIEWS if name in TWO_VIEWS else VIEWS[:1]:
            columns = [scale_column(name, view, h) for h in HORIZONS]
            np.testing.assert_array_equal(scales[columns], views[view].astype(np.float32))
            assert scales.loc[early, columns].isna().all(axis=None) == make().learns and (scales.loc[~early, columns] > 0).all(axis=None)


def test_a_walk_tells_each_fold_before_it_starts(features, targets, small_params):
    said = []
    walk(features, targets, small_params, {"rounds": 1}, said.append)
    for m in ("garch", "gjr", "har", "xgboost"): # of two lanes, so only a model's own folds have an order
        assert [line for line in said if line.startswith(f"{m}:")] == [
            f"{m}: fold {k}/2, origins from {day}" for k, day in ((1, "2000-01-01"), (2, "2002-01-01"))]
    assert len(said) == 8


def test_the_first_failure_of_two_lanes_is_raised():
    def fail(name):
        raise BadInput(name)

    assert side_by_side({"a": lambda: 1, "b": lambda: 2, "long": lambda: 3}) == {"a": 1, "b": 2, "long": 3}
    with pytest.raises(BadInput, match=r"^a$"):
        side_by_side({"a": lambda: fail("a"), "b": lambda: 2, "long": lambda: fail("long")})


def test_stored_scales_are_those_of_the_walk(scales, features, tmp_path):
    scales.to_parquet(tmp_path / "scales.parquet")
    stored = stored_scales(pd.read_parquet(tmp_path / "scales.parquet"), features, HORIZONS)
    assert list(stored) == list(MODELS)
    for name, views in stored.items():
        assert (views["market"] is views["alone"]) == (name not in TWO_VIEWS)
        for view in VIEWS:
            column = scale_column(name, view if name in TWO_VIEWS else "market", 21)
            np.testing.assert_array_equal(views[view][:, 1], scales[column])
    np.testing.assert_array_equal(stored_scales(scales, features, (21,))["har"]["alone"][:, 0], scales["har_alone_21"])


def test_evaluation_reads_the_scales_of_the_walk(_panel, small_params, trees, scales, features):
    ready = stored_scales(scales, features, HORIZONS)
    a, b = (evaluate_bars(_panel, small_params, trees=trees, ready=r, features=features) for r in (ready, {}))
    pd.testing.assert_frame_equal(a.drop(columns=QUANTILE_COLUMNS), b.drop(columns=QUANTILE_COLUMNS), check_exact=True)
    np.testing.assert_allclose(a[QUANTILE_COLUMNS], b[QUANTILE_COLUMNS], rtol=1e-4, atol=1e-4)  # kept as float32


@pytest.mark.parametrize(("spoil", "message"), [
    *[(f, "made from other bars than these") for f in (
        lambda s: s[1:], lambda s: s[::-1], lambda s: s.assign(ticker="A"), lambda s: s.drop(columns="date"),
        lambda s: s.assign(date=s["date"] + pd.Timedelta(days=1)))],
    (lambda s: s.drop(columns="garch_21"), "no column garch_21: made for other horizons"),
    (lambda s: s.rename(columns={"xgboost_1": "xgboost_5"}), "no column xgboost_1: made for other horizons"),
])
def test_scales_of_other_bars_or_horizons_are_refused(scales, features, spoil, message):
    with pytest.raises(BadInput, match=f"^scales: {message}.*; run the train stage again$"):
        stored_scales(spoil(scales), features, HORIZONS)


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_model_has_learned_from_all_that_is_known(bundle, features, targets, small_params, trees, name):
    model = makers(small_params.model, trees)[name]().fit(features, known(targets, "2004-01-01"), HORIZONS)
    assert list(bundle.models) == bundle.manifest["models"] == list(MODELS)
    shipped = bundle.models[name]
    assert {k: v.tolist() for k, v in shipped.state().items()} == {k: v.tolist() for k, v in model.state().items()}
    alone = without_market(features, np.ones(len(features), bool))
    for rows in (features, alone, features[features["ticker"] == "GE"].assign(ticker="NEW")):
        np.testing.assert_array_equal(shipped.scale(rows), model.scale(rows))


def test_the_shipped_residuals_are_those_of_the_walk(bundle, scales, features, targets, small_params):
    quantiles = newest_quantiles(bundle.models, features[BAR_KEY], targets, stored_scales(scales, features, HORIZONS), small_params)
    assert set(bundle.quantiles) == set(quantiles) == {("market", m) for m in MODELS} | {("alone", m) for m in TWO_VIEWS}
    for key, (pooled, own) in quantiles.items():
        shipped, mine = bundle.quantiles[key]
        np.testing.assert_array_equal(shipped, pooled)
        assert set(mine) == set(own) == set(features["ticker"]) and all(np.array_equal(mine[t], own[t]) for t in own)
        assert pooled.shape == (2, 9) and (np.diff(pooled, axis=1) > 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_newest_quantiles_are_what_the_evaluation_would_use_on_the_last_day(scales, features, targets, plan, small_params, trees, name):
    "The correction of the coverage included."
    how = small_params.calibrate.model_copy(update={"every": 19, "gamma": .05})  # the last day begins a block
    params, rows = small_params.model_copy(update={"calibrate": how}), origins(features, plan)
    model, stored = makers(params.model, trees)[name](), stored_scales(scales, features, HORIZONS)
    found = newest_quantiles({name: model}, rows, targets, stored, params)
    last = (features["date"] == features["date"].max()).to_numpy()
    assert (features["date"].nunique() - 1) % how.every == 0 and last.sum() == 6
    for view in VIEWS if name in TWO_VIEWS else VIEWS[:1]:
        for k, h in enumerate(HORIZONS):
            scale = stored[name][view][:, k]
            q = calibrated(model, rows, targets, scale, h, how, params.targets.quantiles).quantiles[last]
            own = np.stack([found[view, name][1][t][k] for t in rows["ticker"][last]])
            np.testing.assert_allclose(scale[last, None] * own, q, rtol=1e-4, atol=1e-7)
            past = residuals(rows, targets[f"y_{h}"].to_numpy(), targets[f"end_{h}"], scale)
            window, weight = model.window or how.window, how.own if model.own is None else model.own
            plain = rolling_quantiles(past, rows, scale, h, window, how.every, weight)[last]
            assert model.conformal != np.allclose(q, plain, rtol=1e-4, atol=1e-7)


def test_a_horizon_without_outcomes_is_no_residual(features, targets, scales, small_params, bundle):
    "A bundle of such a horizon would forecast NaN."
    stored = stored_scales(scales, features, HORIZONS)
    late = np.where((features["date"] < "2003-12-15").to_numpy()[:, None], np.nan, [.01, .05])
    spoiled = stored | {"har": {"market": stored["har"]["market"], "alone": late}}
    with pytest.raises(BadInput, match=r"horizons: \[1, 21\] have fewer than 100 known outcomes"):
        newest_quantiles(bundle.models, features[BAR_KEY], targets, spoiled, small_params)


def test_a_bundle_forecasts_as_the_evaluation_would(bundle, panel, features, targets, scales, small_params):
    "Each model and view, there and back: the scale of today's model times the newest quantiles of its walk."
    one = panel[panel["ticker"] == "KO"].reset_index(drop=True)
    quantiles = newest_quantiles(bundle.models, features[BAR_KEY], targets, stored_scales(scales, features, HORIZONS), small_params)
    for name, model in bundle.models.items():
        serves = {v: {str(h): name for h in HORIZONS} for v in VIEWS}
        mine = replace(bundle, manifest=bundle.manifest | {"serves": serves})
        for view, bars in (("market", panel), ("alone", one)):
            answer = next(a for a in forecast(mine, bars) if a["ticker"] == "KO")
            scale = seen_as(view, model, features[features["ticker"] == "KO"])[-1]
            _, own = quantiles[(view, name) if (view, name) in quantiles else ("market", name)]
            for k, part in enumerate(answer["forecasts"]):
                assert part["model"] == name
                np.testing.assert_allclose(list(part["quantiles"].values()), scale[k] * own["KO"][k], rtol=1e-5)


def test_the_manifest_says_where_the_model_comes_from(bundle_folder, features, snapshot, trees):
    manifest = read_json(bundle_folder / "manifest.json")
    assert manifest["as_of"] == "2003-12-31" and manifest["horizons"] == [1, 21] and manifest["trees"] == trees
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


def test_the_same_run_ships_the_same_bytes(_panel, features, scales, small_params, trees, bundle_folder, tmp_path):
    for name in ("a", "b"):
        ship(tmp_path / name, _panel, features, scales, small_params, trees, {"who": "a test"})
    for file in (*FILES, "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert load_bundle(tmp_path / "a").version == load_bundle(bundle_folder).version  # who made it changes no forecast


@pytest.mark.parametrize("spoil", [lambda s: s[1:], lambda s: s.assign(gjr_21=np.nan)])
def test_what_cannot_be_shipped_leaves_the_old_bundle(_panel, features, scales, small_params, trees, bundle_folder, tmp_path, spoil):
    folder = shutil.copytree(bundle_folder, tmp_path / "challenger")
    with pytest.raises(BadInput):
        ship(folder, _panel, features, spoil(scales), small_params, trees)
    assert load_bundle(folder) and [p.name for p in tmp_path.iterdir()] == ["challenger"]


def test_one_stock_ships_too(_panel, small_params, trees, tmp_path):
    split = small_params.split.model_copy(update={"forecast_from": pd.Timestamp("2001-01-01").date()})  # enough to learn from
    params, bars = small_params.model_copy(update={"split": split}), _panel[_panel["ticker"] == "AAPL"].reset_index(drop=True)
    features = make_features(bars)
    scales = walk(features, make_targets(bars, HORIZONS), params, trees)
    assert not any("alone" in c for c in scales)  # there is but one view
    ship(tmp_path / "m", bars, features, scales, params, trees)
    bundle = load_bundle(tmp_path / "m")
    assert set(bundle.quantiles) == {("market", m) for m in MODELS}
    for name in MODELS:
        serves = {v: {str(h): name for h in HORIZONS} for v in VIEWS}
        answer = forecast(replace(bundle, manifest=bundle.manifest | {"serves": serves}), bars)[0]
        assert answer["ticker"] == "AAPL" and all(min(f["prices"].values()) > 0 for f in answer["forecasts"])
        for part in answer["forecasts"]:
            width = part["quantiles"]["0.975"] - part["quantiles"]["0.025"]
            assert .03 < width / np.sqrt(part["horizon"]) < .5, name


def newest(table, n):  # without the last n sessions
    return table[table["date"].isin(sorted(table["date"].unique())[:-n])].reset_index(drop=True)


def walked(bars, params, trees, before, said, fits=None):
    return walk(make_features(bars), make_targets(bars, HORIZONS), params, trees, said.append, before, fits)


@pytest.fixture(scope="module")
def last_month(_panel, small_params, trees):
    return walked(newest(_panel, 21), small_params, trees, None, [])


def test_a_retraining_walks_only_the_newest_fold_and_ends_the_same(panel, scales, last_month, small_params, trees, tmp_path):
    last_month.to_parquet(tmp_path / "scales.parquet")
    again = walked(panel, small_params, trees, last_scales(tmp_path / "scales.parquet"), said := [])
    pd.testing.assert_frame_equal(again, scales, check_exact=True)
    total = len(again.attrs["folds"])
    assert said[-1].startswith(f"{total - 1} of {total} folds") and {s.split(",")[0] for s in said[:-1]} == {
        f"{m}: fold {total}/{total}" for m in ("garch", "gjr", "har", "xgboost")}


@pytest.mark.parametrize("what", ["an old price", "the trees", "the seed"])
def test_folds_that_saw_something_else_are_walked_again(panel, last_month, small_params, trees, what):
    if what == "an old price":
        panel = panel.copy()
        panel.loc[100, "adj_close"] *= 1.01
    elif what == "the trees":
        trees = {**trees, "rounds": 3}
    else:
        small_params = small_params.model_copy(update={"model": small_params.model.model_copy(update={"seed": 99})})
    again = walked(panel, small_params, trees, last_month, said := [])
    assert len(said) == 4 * len(again.attrs["folds"])
    pd.testing.assert_frame_equal(again, walked(panel, small_params, trees, None, []), check_exact=True)


@pytest.mark.parametrize("what", ["code_hash", "pick_device"])
def test_folds_of_other_code_or_another_device_are_walked_again(panel, scales, small_params, trees, monkeypatch, what):
    "With `model.device: auto` the parameters say nothing of a GPU."
    monkeypatch.setattr(f"stockml.train.{what}", lambda *_: "another")
    again = walked(panel, small_params, trees, scales, said := [])
    assert len(said) == 4 * len(again.attrs["folds"])


LEARNERS = ("garch.Garch", "baselines.Har", "forecaster.XgbScale")


def taught(monkeypatch) -> list[str]:
    "Who has been fitted from now on."
    told = []

    def telling(fit):
        def tell(self, *what):
            told.append(self.name)
            return fit(self, *what)
        return tell

    for place in LEARNERS:
        monkeypatch.setattr(f"stockml.{place}.fit", telling(resolve_name(f"stockml.{place}.fit")))
    return told


def test_models_of_the_newest_fold_are_kept_for_the_next_training(_panel, panel, scales, small_params, trees, tmp_path, monkeypatch):
    before = walked(newest(_panel, 21), small_params, trees, None, [], tmp_path / "fits.npz")
    told = taught(monkeypatch)
    for _ in range(2):  # they are left there again
        again = walked(panel, small_params, trees, before, [], tmp_path / "fits.npz")
        pd.testing.assert_frame_equal(again, scales, check_exact=True)
    assert told == []
    walked(panel, small_params, trees, before, [])
    assert {"garch", "gjr", "har", "xgboost"} <= set(told)


def test_a_fold_that_has_ended_has_its_models_still(_panel, panel, small_params, trees, tmp_path, monkeypatch):
    "A new one has begun: of the two that are walked only the new one's models are fitted."
    ended = newest(_panel, 600)
    before = walked(ended, small_params, trees, None, [], tmp_path / "fits.npz")
    told = taught(monkeypatch)
    again = walked(panel, small_params, trees, before, [], tmp_path / "fits.npz")
    new = len(again.attrs["folds"]) - len(before.attrs["folds"])
    assert new >= 1 and told.count("xgboost") == new
    pd.testing.assert_frame_equal(again, walked(panel, small_params, trees, None, []), check_exact=True)


@pytest.mark.parametrize("what", ["the trees", "an old price", "half a file", "another way to compress", "a plain array", "no file"])
def test_models_that_learned_from_something_else_are_fitted_again(panel, scales, small_params, trees, tmp_path, monkeypatch, what):
    path, told = tmp_path / "fits.npz", taught(monkeypatch)
    walked(panel, small_params, trees, scales, [], path)
    assert told == []  # nothing was walked
    walked(panel, small_params, trees, None, [], path)
    if what == "half a file":
        path.write_bytes(path.read_bytes()[:5000])
    elif what == "another way to compress":
        directory = (data := bytearray(path.read_bytes())).index(b"PK\x01\x02")
        data[directory + 10] = 99
        path.write_bytes(data)
    elif what == "a plain array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif what == "no file":
        path.unlink()
    elif what == "the trees":
        trees = {**trees, "rounds": 3}
    else:
        panel = panel.copy()
        panel.loc[100, "adj_close"] *= 1.01
    told.clear()
    again = walked(panel, small_params, trees, None, [], path)
    assert told.count("xgboost") == len(scales.attrs["folds"])
    pd.testing.assert_frame_equal(again, walked(panel, small_params, trees, None, []), check_exact=True)


def test_scales_that_cannot_be_read_are_not_kept(tmp_path):
    assert last_scales(tmp_path / "none.parquet") is None
    (tmp_path / "half.parquet").write_bytes(b"PAR1half")
    assert last_scales(tmp_path / "half.parquet") is None
