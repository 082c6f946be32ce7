"The XGBoost scale model: the right loss, the same bytes twice, honest about devices, better than its base."

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from stockml import forecaster
from stockml.baselines import Har
from stockml.config import BadInput
from stockml.features import MIN_BARS, feature_columns, make_features
from stockml.forecaster import (
    NU,
    XgbScale,
    corrected_scale,
    design,
    hidden_blocks,
    horizon_weights,
    pick_device,
    student_t,
    train_trees,
    training_rows,
    without_market,
)
from stockml.targets import known, make_targets

HORIZONS = (1, 21)
PRICES = ["open", "high", "low", "close", "adj_close"]


def small(**changes) -> XgbScale:
    return XgbScale(**{"trees": {"rounds": 12, "min_child_weight": 50.}, "rows": 3000, "threads": 1} | changes)


@pytest.fixture(scope="module")
def features(_panel):
    return make_features(_panel)


@pytest.fixture(scope="module")
def targets(_panel):
    return known(make_targets(_panel, HORIZONS), "2002-01-01")


@pytest.fixture(scope="module")
def model(features, targets):
    return small().fit(features, targets, HORIZONS)


finite = st.floats(-3, 3)


@settings(max_examples=100, derandomize=True)
@given(f=finite, y=st.floats(-20, 20), weight=st.floats(.1, 1))
def test_the_gradient_is_that_of_the_student_t_likelihood(f, y, weight):
    def loss(f):
        return -weight * stats.t.logpdf(y, NU, scale=np.exp(f))

    gradient, _ = student_t(np.array([[f]]), np.array([[y]]), np.array([weight]))
    step = 1e-5
    assert gradient[0, 0] == pytest.approx((loss(f + step) - loss(f - step)) / (2 * step), abs=1e-6)


def test_the_hessian_is_the_expected_one():
    def curvature(y, step=1e-5):
        up, down = (student_t(np.array([[f]]), np.array([[y]]), np.ones(1))[0][0, 0] for f in (step, -step))
        return (up - down) / (2 * step) * stats.t.pdf(y, NU)

    _, hessian = student_t(np.zeros((1, 1)), np.ones((1, 1)), np.ones(1))
    assert hessian[0, 0] == pytest.approx(integrate.quad(curvature, -200, 200, limit=200, points=[0])[0], rel=1e-4)


def test_an_unknown_outcome_pulls_nowhere_and_weights_are_per_horizon():
    f, y, weight = np.full((2, 2), .3), np.array([[np.nan, 2.], [2., np.nan]]), np.array([1., .25])
    gradient, hessian = student_t(f, y, weight)
    assert gradient[0, 0] == gradient[1, 1] == hessian[0, 0] == hessian[1, 1] == 0
    assert gradient[0, 1] == gradient[1, 0] / 4 != 0 and hessian[0, 1] == hessian[1, 0] / 4 > 0


def test_longer_horizons_weigh_less():
    weights = horizon_weights((1, 5, 21, 504))
    assert weights[0] == 1 and (np.diff(weights) < 0).all() and weights[-1] > 0


def test_trees_find_a_scale_that_is_off_by_a_factor():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (4000, 1)).astype(np.float32)
    y = rng.standard_t(NU, (4000, 2)) * np.where(x, 2., .5) * [1, 3]
    trees = {"rounds": 40, "eta": .3, "max_depth": 1, "min_child_weight": 1., "reg_lambda": 0.}
    booster = train_trees(x, y, np.ones(2), trees, threads=1)
    best = [[stats.t.fit(y[x[:, 0] == side, h], fix_df=NU, floc=0)[2] for h in (0, 1)] for side in (0, 1)]
    np.testing.assert_allclose(np.exp(booster.inplace_predict(np.float32([[0], [1]]))), best, rtol=1e-3)


def test_two_fits_give_the_same_bytes(model, features, targets):
    again, other = (small(seed=s).fit(features, targets, HORIZONS) for s in (17, 18))
    one, two, three = (bytes(m.booster.save_raw("ubj")) for m in (model, again, other))
    assert one == two != three


def test_the_scale_is_the_base_times_the_correction(model, features):
    row = features.iloc[[-1]]
    base = model.har.scale(row)
    correction = model.booster.inplace_predict(design(row, base[:, 0]))
    np.testing.assert_allclose(model.scale(row), base * np.exp(correction), rtol=1e-6)
    assert not np.allclose(correction, 0, atol=1e-3)


def test_rows_are_forecast_one_by_one(model, features):
    some = features.iloc[::400]
    alone = np.vstack([model.scale(some.iloc[[i]]) for i in range(len(some))])
    np.testing.assert_allclose(model.scale(some), alone, rtol=1e-6)


def test_a_scale_needs_min_bars(model, features):
    scale, age = model.scale(features), features.groupby("ticker").cumcount() + 1
    assert (np.isfinite(scale).all(axis=1) == (age >= MIN_BARS)).all() and np.nanmin(scale) > 0


def test_outcomes_after_the_cut_change_nothing(panel, features):
    day = pd.Timestamp("2002-01-01")
    targets, past = make_targets(panel, HORIZONS), (features["date"] < day).to_numpy()
    wild = targets.assign(**{f"y_{h}": targets[f"y_{h}"].where(targets[f"end_{h}"] < day, 9.) for h in HORIZONS})
    a, b = (small().fit(features[past], known(t[past], day), HORIZONS).scale(features) for t in (targets, wild))
    np.testing.assert_array_equal(a, b)


def test_trees_learn_what_har_cannot_see(panel):
    "Prices that move three times as far on Fridays: HAR has no calendar, the trees do."
    rng, friday = np.random.default_rng(1), panel["date"].dt.dayofweek == 4
    moves = pd.Series(rng.normal(0, .01, len(panel)) * np.where(friday, 3., 1.))
    prices = 10 * np.exp(moves.groupby(panel["ticker"]).cumsum())
    panel = panel.assign(**dict.fromkeys(PRICES, prices))
    features, targets = make_features(panel), known(make_targets(panel, (1,)), "2002-01-01")
    model = small(trees={"rounds": 60, "min_child_weight": 50.}, rows=9000).fit(features, targets, (1,))
    later = features[features["date"] >= "2002-01-01"]
    friday_next = (later["date"].dt.dayofweek == 3).to_numpy()
    for scale, ratio in ((model.har.scale(later)[:, 0], 1.), (model.scale(later)[:, 0], 3.)):
        assert scale[friday_next].mean() / scale[~friday_next].mean() == pytest.approx(ratio, rel=.3)


def test_a_stock_without_a_market_is_forecast_too(model, panel, features):
    alone = make_features(panel[panel["ticker"] == "GE"].reset_index(drop=True))
    with_market, without = model.scale(features[features["ticker"] == "GE"])[100:], model.scale(alone)[100:]
    assert np.isfinite(without).all() and (with_market != without).any()
    np.testing.assert_allclose(np.median(without / with_market), 1, atol=.15)


def test_the_design_is_in_units_of_the_base(features):
    rows = features.iloc[2000:2010]
    before, base = rows.copy(), rows["v_all"].to_numpy(float)
    x = pd.DataFrame(design(rows, base), columns=feature_columns(features))
    pd.testing.assert_frame_equal(rows, before)  # untouched
    assert x["v_all"].abs().max() < 1e-6
    np.testing.assert_allclose(x["m_v_abs5"], np.log(rows["m_v_abs5"] / base), rtol=1e-4)
    np.testing.assert_allclose(x["r_3"], rows["r_3"] / base, rtol=1e-5)
    np.testing.assert_array_equal(x["weekday"], rows["weekday"])


def test_whole_years_of_a_ticker_are_hidden(features):
    hidden = hidden_blocks(features, .25)
    blocks = pd.Series(hidden).groupby([features["ticker"], features["date"].dt.year])
    assert (blocks.nunique() == 1).all() and 0 < blocks.first().mean() < .6
    assert not hidden_blocks(features, 0.).any() and hidden_blocks(features, 1.).all()
    order = np.random.default_rng(0).permutation(len(features))
    assert (hidden_blocks(features.iloc[order], .25) == hidden[order]).all()
    names = pd.DataFrame({"ticker": [f"T{i}" for i in range(2000)], "date": pd.Timestamp("2000-01-03")})
    assert hidden_blocks(names, .25).mean() == pytest.approx(.25, abs=.03)


def test_hiding_the_market_leaves_the_rest(features):
    rows = np.arange(len(features)) % 2 == 0
    before, blank = features.copy(), without_market(features, rows)
    market = [c for c in features if c.startswith("m_")]
    pd.testing.assert_frame_equal(features, before)
    assert blank.loc[rows, market].isna().all().all()
    assert blank[~rows].equals(features[~rows]) and blank.drop(columns=market).equals(features.drop(columns=market))


@pytest.mark.parametrize("limit", [100, 10**6])
def test_training_rows_are_old_known_and_spread(features, targets, limit):
    rows = training_rows(features, targets["y_1"], limit)
    usable = (features.groupby("ticker").cumcount() + 1 >= MIN_BARS) & targets["y_1"].notna()
    assert len(rows) == min(limit, usable.sum()) and (np.diff(rows) > 0).all() and usable.iloc[rows].all()
    assert features["ticker"].iloc[rows].value_counts().max() <= len(rows) / 6 * 1.1


def test_too_few_rows_are_refused(features, targets):
    few = (features["date"] < "1996-11-01").to_numpy()
    with pytest.raises(BadInput, match=r"^\d+ training rows: too few for a model"):
        small().fit(features[few], targets[few], HORIZONS)


def test_prices_that_never_move_have_a_small_positive_scale(panel):
    panel = panel.assign(**dict.fromkeys(PRICES, 10.))
    features = make_features(panel)
    scale = small().fit(features, make_targets(panel, HORIZONS), HORIZONS).scale(features)
    old = features["history"] >= np.log(100)
    assert (scale[old] > 0).all() and (scale[old] < 1e-3).all()


def gpu(monkeypatch, listing: bytes | None) -> None:
    "A machine whose nvidia-smi lists these devices; None = it has no nvidia-smi."
    monkeypatch.setattr(forecaster.shutil, "which", lambda _: None if listing is None else "/usr/bin/nvidia-smi")
    monkeypatch.setattr(forecaster.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=listing))


@pytest.mark.parametrize("listing", [None, b"", b"No devices were found\n"])
def test_without_a_gpu(monkeypatch, features, targets, listing):
    gpu(monkeypatch, listing)
    assert pick_device("cpu") == pick_device("auto") == "cpu"
    with pytest.raises(BadInput, match=r"model\.device: cuda, but no GPU is there; use cpu or auto"):
        small(device="cuda").fit(features, targets, HORIZONS)


def test_with_a_gpu(monkeypatch):
    gpu(monkeypatch, b"GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)\n")
    assert (pick_device("cpu"), pick_device("auto"), pick_device("cuda")) == ("cpu", "cuda", "cuda")


def test_the_device_reaches_the_training_and_not_the_model(monkeypatch, features, targets):
    asked, train = [], forecaster.xgb.train

    def on_cpu(params, *args, **kwargs):
        asked.append(params["device"])
        return train(params | {"device": "cpu"}, *args, **kwargs)

    monkeypatch.setattr(forecaster, "pick_device", lambda _: "cuda")
    monkeypatch.setattr(forecaster.xgb, "train", on_cpu)
    model = small(device="auto").fit(features, targets, HORIZONS)
    assert asked == ["cuda"] and '"device":"cpu"' in model.booster.save_config()


def test_corrected_scale_takes_what_a_bundle_has(model, features):
    har = Har()
    har.horizons, har.coef = HORIZONS, model.har.coef
    np.testing.assert_array_equal(corrected_scale(model.booster, har, features), model.scale(features))
