"The classical models do what their papers say, on ordinary and on odd prices."

import numpy as np
import pandas as pd
import pytest

from stockml.baselines import HAR_MARKET, HAR_OWN, QUIET, Ewma, Har, Historical, RandomWalk, long_run
from stockml.features import MARKET_NAMES, make_features
from stockml.targets import known, make_targets

HORIZONS = (1, 5)


@pytest.fixture(scope="module")
def targets(_panel):
    return make_targets(_panel, HORIZONS)


@pytest.mark.parametrize("make", [RandomWalk, Historical, Ewma, lambda: Ewma(97), Har])
def test_a_scale_is_positive_once_there_are_22_returns(features, targets, make):
    model, age = make().fit(features, targets, HORIZONS), features.groupby("ticker").cumcount()
    scale = model.scale(features)
    assert scale.shape == (len(features), 2)
    assert (scale[age >= 22] > 0).all() and np.isfinite(scale[age >= 22]).all()
    assert np.isnan(scale[age < 22]).all() != isinstance(model, RandomWalk)  # which takes its size from its residuals
    day, week = np.median(scale[age >= 22], axis=0)
    assert week / day == pytest.approx(np.sqrt(5), rel=.1)


@pytest.mark.parametrize("model", [RandomWalk, Historical, Ewma])
def test_what_learns_nothing_may_be_fitted_on_anything(features, targets, model):
    assert not model.learns
    a, b = (model().fit(f, t, HORIZONS).scale(features) for f, t in ((features, targets), (features[:0], targets[:0])))
    np.testing.assert_array_equal(a, b)


def test_random_walk_knows_only_the_horizon(features, targets):
    assert (RandomWalk().fit(features, targets, (1, 4)).scale(features) == [1, 2]).all()


@pytest.mark.parametrize("decay", [94, 97])
def test_ewma_is_the_recursion(panel, features, targets, decay):
    r = np.log(panel.loc[panel["ticker"] == "GE", "adj_close"]).diff().to_numpy()[1:]
    variance, weight = 0., 0.
    for x in r:
        variance, weight = (decay * variance + (100 - decay) * x**2) / 100, (decay * weight + 100 - decay) / 100
    scale = Ewma(decay).fit(features, targets, (1, 4)).scale(features[features["ticker"] == "GE"])
    assert scale[-1] == pytest.approx([np.sqrt(variance / weight), 2 * np.sqrt(variance / weight)], rel=1e-5)


def test_ewma_never_falls_below_a_tenth_of_the_long_run(features, targets):
    still = features.assign(v_ewma94=np.float32(0))
    floor = .1 * long_run(features)[:, None] * np.sqrt(HORIZONS)
    np.testing.assert_array_equal(Ewma().fit(features, targets, HORIZONS).scale(still), floor)


def har_world(rng, n=40_000):
    "Features and targets that follow a HAR law exactly: |y| is linear in the regressors."
    features = pd.DataFrame(rng.uniform(.5, 1.5, (n, 10)), columns=[*HAR_OWN, *HAR_MARKET])
    features[HAR_OWN] *= .02
    features["v_all"] = .02
    law = np.r_[.2, rng.uniform(.02, .1, 10)]
    relative = law[0] + (features[HAR_OWN] / .02).to_numpy() @ law[1:8] + features[HAR_MARKET].to_numpy() @ law[8:]
    scale = relative * .02
    targets = pd.DataFrame({f"y_{h}": scale * np.sqrt(h) / np.sqrt(np.pi / 2) for h in HORIZONS})
    return features, targets, law, scale


def test_har_finds_the_law_that_made_the_prices():
    features, targets, law, scale = har_world(np.random.default_rng(1))
    targets.iloc[::3] *= -1  # only the size of a return counts
    model = Har().fit(features, targets, HORIZONS)
    np.testing.assert_allclose(model.coef[True], [law, law], atol=.02)  # the ridge takes a little
    np.testing.assert_allclose(model.scale(features), scale[:, None] * np.sqrt(HORIZONS), rtol=.02)


def test_har_without_a_market_uses_its_second_set_of_coefficients():
    features, targets, *_ = har_world(np.random.default_rng(2))
    model = Har().fit(features, targets, HORIZONS)
    blank = features.assign(**dict.fromkeys(HAR_MARKET, np.nan))
    alone = np.column_stack([np.ones(len(features)), features[HAR_OWN] / .02]) @ model.coef[False].T
    np.testing.assert_allclose(model.scale(blank), alone * .02 * np.sqrt(HORIZONS))
    assert np.isfinite(Har().fit(blank, targets, HORIZONS).scale(blank)).all()


def test_har_learns_nothing_from_unknown_outcomes():
    features, targets, law, _ = har_world(np.random.default_rng(3))
    targets.loc[20_000:, "y_5"] = np.nan
    features.loc[20_000:, HAR_OWN] *= 1.5
    targets.loc[20_000:, "y_1"] *= 7
    coef = Har().fit(features, targets, HORIZONS).coef[True]
    np.testing.assert_allclose(coef[1], law, atol=.03)
    assert not np.allclose(coef[0], law, atol=.02)


def test_one_absurd_day_does_not_rule_the_regression():
    features, targets, *_ = har_world(np.random.default_rng(4))
    before = Har().fit(features, targets, HORIZONS).scale(features)
    targets.iloc[7] = 50.
    np.testing.assert_allclose(Har().fit(features, targets, HORIZONS).scale(features), before, rtol=.1)


def test_har_without_outcomes_is_the_long_run():
    features, targets, *_ = har_world(np.random.default_rng(5), n=50)
    assert Har().fit(features, targets * np.nan, HORIZONS).scale(features) == pytest.approx(.02 * np.sqrt([HORIZONS] * 50))


def test_har_trusts_few_rows_less_than_many():
    features, targets, _, scale = har_world(np.random.default_rng(5))
    few = Har().fit(features[:20], targets[:20], HORIZONS).scale(features)
    many = Har().fit(features, targets, HORIZONS).scale(features)
    off = [np.abs(np.log(s[:, 1] / np.sqrt(HORIZONS[1]) / scale)).mean() for s in (few, many)]
    assert off[1] < .02 < off[0] < np.abs(np.log(.02 / scale)).mean()


def test_har_never_falls_below_a_third_of_the_long_run(panel, features, targets):
    model = Har().fit(features, targets, HORIZONS)
    calm = features.assign(**dict.fromkeys([*HAR_OWN, *HAR_MARKET], 0.))
    model.coef[True][:] = -1
    floor = .3 * long_run(features)[:, None] * np.sqrt(HORIZONS)
    np.testing.assert_allclose(model.scale(calm), floor)


def test_har_remembers_what_it_has_learned():
    features, targets, *_ = har_world(np.random.default_rng(6))
    model = Har().fit(features, targets, HORIZONS)
    again = Har().restore(model.state(), HORIZONS)
    for rows in (features, features.assign(**dict.fromkeys(HAR_MARKET, np.nan))):
        np.testing.assert_array_equal(again.scale(rows), model.scale(rows))


def test_har_learns_from_the_past_only(features, targets):
    day = pd.Timestamp("2000-01-03")
    past = (features["date"] < day).to_numpy()
    wild = targets.assign(y_1=targets["y_1"].where(targets["end_1"] < day, 9.))
    a, b = (Har().fit(features[past], known(t[past], day), HORIZONS).scale(features) for t in (targets, wild))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stocks", [1, MARKET_NAMES])
@pytest.mark.parametrize("model", [Ewma, lambda: Ewma(97), Har])
def test_prices_that_never_move_have_a_small_positive_scale(panel, stocks, model):
    still = panel[panel["ticker"].isin(sorted(panel["ticker"].unique())[:stocks])].reset_index(drop=True)
    still[["open", "high", "low", "close", "adj_close"]] = 10.
    features, targets = make_features(still), make_targets(still, HORIZONS)
    scale = model().fit(features, targets, HORIZONS).scale(features)[features.groupby("ticker").cumcount() >= 67]
    assert (scale > 0).all() and (scale <= QUIET * np.sqrt(5)).all()


def test_two_bars_have_no_scale(panel):
    two = panel.groupby("ticker").head(2).reset_index(drop=True)
    features, targets = make_features(two), make_targets(two, HORIZONS)
    for model in (Ewma, Har):
        assert np.isnan(model().fit(features, targets, HORIZONS).scale(features)).all()
