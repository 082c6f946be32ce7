"The XGBoost scale model: the right loss, the same bytes twice, honest about devices, better than its base. All models: there and back."

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from stockml import forecaster
from stockml.baselines import Har, long_run
from stockml.config import BadInput
from stockml.features import GJR, MIN_BARS, feature_columns, make_features
from stockml.forecaster import (
    CLASSICAL,
    LONGEST,
    MODELS,
    NU,
    NU_PATH,
    PATH,
    Goal,
    XgbScale,
    base_scales,
    corrected_scale,
    daily_base,
    design,
    grown,
    hidden_blocks,
    make_goal,
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
def targets(_panel):
    return known(make_targets(_panel, HORIZONS), "2002-01-01")


@pytest.fixture(scope="module")
def model(features, targets):
    return small().fit(features, targets, HORIZONS)


# what the trees learn from

def target(y: dict[int, float], path: dict[int, float]) -> pd.DataFrame:
    "Targets of one origin."
    return pd.DataFrame({f"y_{h}": [v] for h, v in y.items()} | {f"path_{h}": [v] for h, v in path.items()})


@settings(max_examples=100, derandomize=True)
@given(f=st.floats(-2, 2), y=st.floats(-.5, .5), path=st.floats(0, .2), base=st.floats(.005, .2), h=st.sampled_from([1, 5, 21, 63]))
def test_the_gradient_is_that_of_the_student_t_likelihoods(f, y, path, base, h):
    def loss(f):
        share, scale = PATH if h > 1 else 0., base * np.exp(f)
        outcome, way = stats.t.logpdf(y, NU, scale=scale), stats.t.logpdf(path * np.sqrt(h), NU_PATH, scale=scale)
        return -h**-.4 * ((1 - share) * outcome + share * way)

    goal, step = make_goal(target({h: y}, {h: path}), np.array([[base]]), (h,)), 1e-5
    assert goal.gradient(np.float32([[f]]))[0, 0] == pytest.approx((loss(f + step) - loss(f - step)) / (2 * step), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("nu", [NU, NU_PATH])
def test_the_hessian_is_the_expected_one(nu):
    def curvature(z, step=1e-5):
        up, down = (student_t((z * np.exp(-f))**2, nu) for f in (step, -step))
        return (up - down) / (2 * step) * stats.t.pdf(z, nu)

    one, none = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    goal = Goal(one, one, one, none) if nu == NU else Goal(one, one, none, one)
    assert goal.hessian()[0, 0] == pytest.approx(integrate.quad(curvature, -200, 200, limit=200, points=[0])[0], rel=1e-4)


def test_what_is_not_known_pulls_nowhere():
    nan = np.nan
    targets = pd.DataFrame({"y_1": [.1, nan, .1], "path_1": [.1, nan, .1], "y_5": [nan, .2, .2], "path_5": [nan, .1, .1]})
    base = np.array([[.01, .02], [.01, .02], [nan, .02]])
    goal = make_goal(targets, base, (1, 5))
    gradient, hessian = goal.gradient(np.full((3, 2), .3, np.float32)), goal.hessian()
    known = np.array([[True, False], [False, True], [False, True]])
    assert (gradient[~known] == 0).all() and (hessian[~known] == 0).all()
    assert (gradient[known] != 0).all() and (hessian[known] > 0).all()
    assert all(part.dtype == np.float32 for part in goal) and gradient.dtype == hessian.dtype == np.float32


def test_longer_horizons_weigh_less_and_a_day_has_no_path():
    horizons = (1, 5, 21, 504)
    goal = make_goal(target(dict.fromkeys(horizons, .1), dict.fromkeys(horizons, .01)), np.full((1, 4), .1), horizons)
    both = (goal.weight + goal.path_weight)[0]
    assert both[0] == 1 and (np.diff(both) < 0).all() and both[-1] > 0
    np.testing.assert_allclose(goal.path_weight[0] / both, [0, PATH, PATH, PATH], rtol=1e-6)


def test_goals_of_real_prices_are_in_units_of_the_base(features, targets):
    base = np.repeat(long_run(features)[:, None], 2, axis=1) * np.sqrt(HORIZONS)
    goal = make_goal(targets, base, HORIZONS)
    unknown = targets[["y_1", "y_21"]].isna().to_numpy() | np.isnan(base)
    np.testing.assert_array_equal(goal.hessian() == 0, unknown)
    assert all(np.isfinite(part).all() for part in (*goal, goal.gradient(np.zeros_like(goal.outcome))))
    assert all(.6 < part[~unknown[:, k], k].mean() < 1.6 for part in goal[:2] for k in (0, 1))
    assert goal.path[~unknown[:, 1], 1].var() < .5 * goal.outcome[~unknown[:, 1], 1].var()  # the way has seen more than the end


@pytest.mark.parametrize("from_path", [False, True])
def test_trees_find_a_scale_that_is_off_by_a_factor(from_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (4000, 1)).astype(np.float32)
    nu = NU_PATH if from_path else NU
    y = rng.standard_t(nu, (4000, 2)) * np.where(x, 2., .5) * [1, 3]
    right, wrong = np.float32(y**2), np.full(y.shape, 99, np.float32)
    on, off = np.ones(y.shape, np.float32), np.zeros(y.shape, np.float32)
    goal = Goal(wrong, right, off, on) if from_path else Goal(right, wrong, on, off)
    trees = {"rounds": 40, "eta": .3, "max_depth": 1, "min_child_weight": 1., "reg_lambda": 0.}
    booster = train_trees(x, goal, trees, threads=1)
    best = [[stats.t.fit(y[x[:, 0] == side, h], fix_df=nu, floc=0)[2] for h in (0, 1)] for side in (0, 1)]
    np.testing.assert_allclose(np.exp(booster.inplace_predict(np.float32([[0], [1]]))), best, rtol=1e-3)


# the model

def test_two_fits_give_the_same_bytes(model, features, targets):
    again, other = (small(seed=s).fit(features, targets, HORIZONS) for s in (17, 18))
    one, two, three = (bytes(m.booster.save_raw("ubj")) for m in (model, again, other))
    assert one == two != three


def test_the_base_is_the_geometric_mean_of_har_and_gjr(model, features):
    rows, (alpha, gamma, beta) = features[features["ticker"] == "AAPL"].iloc[[500, 1196, 1197, 1500]], GJR
    level, persistence = long_run(rows), alpha + gamma / 2 + beta
    expected = []
    for v, long, har in zip(rows["v_gjr"].to_numpy(float), level, model.har.scale(rows), strict=True):
        path = [v**2]
        while len(path) < HORIZONS[-1]:
            path.append(long**2 + persistence * (path[-1] - long**2))
        expected.append([np.sqrt(har[k] * np.sqrt(sum(path[:h]))) for k, h in enumerate(HORIZONS)])
    np.testing.assert_allclose(base_scales(model.har, rows), expected, rtol=1e-6)


def test_the_scale_is_the_base_times_the_correction(model, features):
    row = features.iloc[[-1]]
    base = base_scales(model.har, row)
    correction = model.booster.inplace_predict(design(row, base[:, 0]))
    np.testing.assert_allclose(model.scale(row), base * np.exp(correction), rtol=1e-6)
    assert not np.allclose(correction, 0, atol=1e-3)


def test_beyond_the_longest_horizon_of_the_trees_the_base_stands(panel, features):
    horizons = (1, LONGEST, LONGEST + 1, 252)
    seen = known(make_targets(panel, horizons), "2002-01-01")
    model, old = small().fit(features, seen, horizons), (features.groupby("ticker").cumcount() >= 99).to_numpy()
    scale, base = model.scale(features)[old], base_scales(model.har, features)[old]
    np.testing.assert_array_equal(scale[:, 2:], base[:, 2:])
    assert (scale[:, :2] != base[:, :2]).mean() > .99
    far = seen.assign(y_252=9., path_252=9.)  # their outcomes have no say in the trees
    assert bytes(small().fit(features, far, horizons).booster.save_raw("ubj")) == bytes(model.booster.save_raw("ubj"))


@pytest.mark.parametrize(("horizons", "expected"), [
    ((1, 5, 21, 252, 504), (1, 5, 21)), ((63, 64), (63,)), ((252, 504), (252,)), ((1,), (1,))])
def test_the_horizons_that_have_trees(horizons, expected):
    assert grown(horizons) == expected


def test_a_model_of_long_horizons_only(panel, features):
    seen = known(make_targets(panel, (252,)), "2002-01-01")
    scale = small().fit(features, seen, (252,)).scale(features)[features.groupby("ticker").cumcount() >= 99]
    assert scale.shape[1] == 1 and np.isfinite(scale).all() and (scale > 0).all()


def test_where_there_is_no_base_logs_stay_finite():
    assert daily_base(np.array([[.2, 9], [np.nan, 9]]), 4).tolist() == [.1, 1]


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
    wild = targets.assign(**{f"{kind}_{h}": targets[f"{kind}_{h}"].where(targets[f"end_{h}"] < day, 9.)
                              for h in HORIZONS for kind in ("y", "path")})
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
    old = features.groupby("ticker").cumcount() >= 99
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


def test_corrected_scale_takes_its_parts(model, features):
    har = Har()
    har.horizons, har.coef = HORIZONS, model.har.coef
    np.testing.assert_array_equal(corrected_scale(model.booster.inplace_predict, har, features), model.scale(features))


# all models

def made(name: str):
    return small() if name == "xgboost" else MODELS[name]()


def test_the_bar_comes_first_and_names_are_their_own():
    assert list(MODELS) == [*CLASSICAL, "xgboost"] and [made(name).name for name in MODELS] == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_restored_from_plain_arrays(name, features, targets, tmp_path):
    model = made(name).fit(features, targets, HORIZONS)
    np.savez(tmp_path / "state.npz", **model.state())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        again = MODELS[name]().restore(dict(state), HORIZONS)
    new = features[features["ticker"] == "GE"].assign(ticker="NEW")
    alone = without_market(features, np.ones(len(features), bool))
    for rows in (features, alone, new):
        np.testing.assert_array_equal(again.scale(rows), model.scale(rows))
    assert np.isfinite(again.scale(features)[features.groupby("ticker").cumcount() >= 99]).all()
    assert {k: v.tolist() for k, v in again.state().items()} == {k: v.tolist() for k, v in model.state().items()}


@pytest.mark.parametrize("name", MODELS)
def test_what_a_model_says_about_itself_is_true(name, features, targets):
    early = (features["date"] < "1999-01-01").to_numpy()
    model, young = (made(name).fit(features[rows], targets[rows], HORIZONS) for rows in (slice(None), early))
    whole, last = model.scale(features), features.groupby("ticker").tail(1)
    assert model.learns != np.array_equal(young.scale(features), whole, equal_nan=True)
    blank = model.scale(without_market(features, np.ones(len(features), bool)))
    assert model.market != np.array_equal(blank, whole, equal_nan=True)
    assert model.recursive != np.allclose(model.scale(last), whole[last.index], rtol=1e-6)
