"Walking forward: nobody learns from, or is calibrated with, an outcome that was not known; the forecasts are sound."

import numpy as np
import pandas as pd
import pytest

from stockml.baselines import Ewma, RandomWalk
from stockml.calibrate import residuals, rolling_quantiles
from stockml.config import BadInput
from stockml.evaluate import evaluate_bars, forecast_table, newest_residuals, origins, walk_forward, xgboost_maker
from stockml.features import MIN_BARS, make_features
from stockml.forecaster import XgbScale
from stockml.prices import read_bars
from stockml.schema import QUANTILE_COLUMNS, check_bars, check_forecasts
from stockml.score import score_table
from stockml.split import folds
from stockml.targets import make_targets

TREES = {"rounds": 15}
PRICES = ["open", "high", "low", "close", "adj_close"]
MODELS = ["random_walk", "ewma", "har", "xgboost"]


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
    s = params.split
    return folds(_panel["date"], s.forecast_from, s.refit_months, s.embargo)


@pytest.fixture(scope="module")
def forecasts(_panel, features, params):
    return evaluate_bars(_panel, params, TREES, features=features)


class Spy:
    "A model that notes what it is shown."
    name, learns, own, window = "spy", True, .35, 2500

    def __init__(self):
        self.scaled = []

    def fit(self, features, targets, horizons):
        self.shown = features, targets, horizons
        return self

    def scale(self, features):
        self.scaled.append(features)
        return np.full((len(features), len(self.shown[2])), float(len(self.shown[0])))


def test_a_model_is_shown_the_past_and_asked_for_the_fold(features, targets, plan):
    spies = []
    scales = walk_forward(lambda: spies.append(Spy()) or spies[-1], features, targets, (1, 21), plan)
    fitted = [s for s in spies if s.scaled]
    assert len(fitted) == len(plan) == 2
    for spy, fold in zip(fitted, plan, strict=True):
        past, seen, horizons = spy.shown
        assert past.equals(features[features["date"] < fold.cut]) and horizons == (1, 21)
        for h in horizons:
            late = targets[f"end_{h}"][past.index].isna() | (targets[f"end_{h}"][past.index] >= fold.cut)
            assert (seen[f"y_{h}"].isna() == late).all()
        now = (features["date"] >= fold.start) & (features["date"] < fold.stop)
        assert len(spy.scaled) == 1 and spy.scaled[0].equals(features[now])
        assert (scales[now] == len(past)).all()
    assert np.isnan(scales[features["date"] < plan[0].start]).all()


def test_what_learns_nothing_forecasts_every_row(features, targets, plan):
    scales = walk_forward(RandomWalk, features, targets, (1, 21), plan)
    assert (scales == np.sqrt([1, 21])).all()


@pytest.mark.parametrize("day", ["2001-06-29", "2002-01-11", "2003-12-30"])
def test_a_store_cut_at_a_day_gives_the_same_forecasts_up_to_it(_panel, params, forecasts, day):
    cut = evaluate_bars(_panel[_panel["date"] <= day].reset_index(drop=True), params, TREES)
    keys = ["model", "ticker", "origin", "horizon", *QUANTILE_COLUMNS, "fold"]
    early = forecasts.loc[forecasts["origin"] <= day, keys].reset_index(drop=True)
    pd.testing.assert_frame_equal(cut[keys], early, check_exact=True)
    known = cut["realized"].notna()
    later = forecasts.loc[forecasts["origin"] <= day, "realized"].reset_index(drop=True)
    assert cut["realized"][known].equals(later[known])
    assert cut[~known & (cut["horizon"] == 1)]["origin"].nunique() == 1


def test_forecasts_keep_their_contract(forecasts, plan):
    check_forecasts(forecasts)
    assert forecasts["model"].unique().tolist() == MODELS and forecasts["horizon"].unique().tolist() == [1, 21]
    assert forecasts["origin"].agg(["min", "max"]).astype(str).tolist() == ["2000-01-03", "2003-12-31"]
    sizes = forecasts.groupby(["model", "horizon"]).size()
    assert (sizes.loc[["random_walk", "ewma"]] == 6 * 1004).all()  # every origin
    assert (sizes["har"] == sizes["xgboost"]).all() and sizes["har"].min() > 6 * 880  # after their first residuals
    assert (forecasts["fold"] == (forecasts["origin"] >= plan[1].start)).all()


def test_realized_is_the_target_and_null_where_unknown(forecasts, targets):
    for h in (1, 21):
        rows = forecasts[(forecasts["model"] == "har") & (forecasts["horizon"] == h)]
        both = rows.merge(targets, left_on=["ticker", "origin"], right_on=["ticker", "date"])
        np.testing.assert_allclose(both["realized"], both[f"y_{h}"], rtol=1e-6)
        assert rows["realized"].isna().sum() == 6 * h


def test_the_forecasts_are_worth_something(forecasts):
    table = score_table(forecasts).set_index(["horizon", "model"])
    assert table.loc[(1, "xgboost"), "pinball"] < .97 * table.loc[(1, "random_walk"), "pinball"]
    assert table.loc[(1, "xgboost"), "ratio"] < 1.01
    assert table.loc[1]["cover_95"].between(.92, .98).all() and table.loc[1]["cover_80"].between(.74, .9).all()


def test_scales_that_are_there_are_not_made_again(_panel, params, forecasts, features, targets, plan, monkeypatch):
    scales = walk_forward(xgboost_maker(params.model, TREES), features, targets, (1, 21), plan)
    monkeypatch.setattr(XgbScale, "fit", lambda *_: pytest.fail("trained again"))
    said = []
    again = evaluate_bars(_panel, params, TREES, said.append, {"xgboost": scales}, features)
    pd.testing.assert_frame_equal(again, forecasts, check_exact=True)
    assert said == MODELS


def test_two_walks_are_equal(_panel, params, forecasts):
    pd.testing.assert_frame_equal(evaluate_bars(_panel, params, TREES), forecasts, check_exact=True)


def test_xgboost_is_made_as_params_say(params):
    m = xgboost_maker(params.model, {"rounds": 3})()
    assert (m.trees, m.rows, m.hide_market, m.device, m.threads, m.seed) == ({"rounds": 3}, 6000, .25, "cpu", 1, 17)
    assert xgboost_maker(params.model)().trees == {}


def test_origins_know_their_fold(features, plan):
    rows = origins(features, plan)
    assert rows[["ticker", "date"]].equals(features[["ticker", "date"]])
    assert rows.groupby("fold")["date"].agg(["min", "max"]).to_numpy().astype("datetime64[D]").astype(str).tolist() == [
        ["1996-01-02", "1999-12-31"], ["2000-01-03", "2001-12-31"], ["2002-01-02", "2003-12-31"]]


def test_own_residuals_and_windows_are_the_models_choice(features, targets, plan, params):
    "A random walk looks at all of a stock's own past, whatever params.yaml says."
    rows, how = origins(features, plan), params.calibrate.model_copy(update={"own": 0., "window": 100})
    scales = walk_forward(RandomWalk, features, targets, (1, 21), plan)
    table = forecast_table(RandomWalk(), rows, targets, scales, params.targets, how)
    last = table[(table["horizon"] == 1)].groupby("ticker").tail(1)
    at = features["date"].drop_duplicates().sort_values().iloc[len(features) // 6 // 21 * 21]  # last update
    for row in last.itertuples():
        known = targets["y_1"][(targets["ticker"] == row.ticker) & (targets["end_1"] <= at)]
        np.testing.assert_allclose(row.q10, np.quantile(known, .1), rtol=1e-4)


def test_the_newest_residuals_are_what_rolling_would_use_on_the_last_day(features, targets, plan, params):
    rows, how = origins(features, plan), params.calibrate.model_copy(update={"every": 1, "window": 700})
    scales = walk_forward(Ewma, features, targets, (1, 21), plan)
    pooled, own = newest_residuals(rows, targets, scales, params.targets, how)
    last = (features["date"] == features["date"].max()).to_numpy()
    for k, h in enumerate((1, 21)):
        past = residuals(rows, targets[f"y_{h}"].to_numpy(), targets[f"end_{h}"], scales[:, k])
        q = rolling_quantiles(past, rows, scales[:, k], h, how.window, 1, how.own)[last]
        served = scales[last, k, None] * np.stack([own[t][k] for t in rows["ticker"][last]])
        np.testing.assert_allclose(q, served, rtol=1e-5)
    assert pooled.shape == (2, 9) and (np.diff(pooled, axis=1) > 0).all()


def test_a_horizon_without_outcomes_is_no_residual(features, targets, plan, params):
    "A bundle of such a horizon would forecast NaN."
    scales = np.where((features["date"] < "2003-12-15").to_numpy()[:, None], np.nan, [.01, .05])
    with pytest.raises(BadInput, match=r"horizons: \[1, 21\] have fewer than 100 known outcomes"):
        newest_residuals(origins(features, plan), targets, scales, params.targets, params.calibrate)


def test_a_single_series_without_a_market(snapshot, params):
    bars = read_bars(snapshot, tickers=["AAPL"])
    bars = bars[bars["date"].between("1990-01-01", "2002-12-31")].reset_index(drop=True)
    forecasts = evaluate_bars(bars, params, TREES)
    sizes, days = forecasts.groupby(["model", "horizon"]).size(), (bars["date"] >= "2000-01-01").sum()
    assert (sizes.loc[["random_walk", "ewma"]] == days).all() and sizes.min() > 200 and len(sizes) == 8
    table = score_table(forecasts).set_index(["horizon", "model"])
    assert table.loc[(1, "xgboost"), "pinball"] < table.loc[(1, "random_walk"), "pinball"]


def test_a_history_too_short_to_learn_from_is_refused(_panel, params):
    for first, message in (("1999-09-01", "training rows: too few"), ("2000-01-03", "no walk-forward from 2000-01-01")):
        with pytest.raises(BadInput, match=message):
            evaluate_bars(_panel[_panel["date"] >= first].reset_index(drop=True), params, TREES)


def test_odd_stocks_do_not_spoil_the_others(panel, params):
    still = panel[panel["ticker"] == "GE"].assign(ticker="STILL", **dict.fromkeys(PRICES, 10.))
    two = panel[panel["ticker"] == "GE"].tail(2).assign(ticker="TWO")
    young = panel[panel["ticker"] == "KO"].tail(MIN_BARS).assign(ticker="YOUNG")
    bars, rejected = check_bars(pd.concat([panel, still, two, young]))
    assert rejected.empty
    forecasts = check_forecasts(evaluate_bars(bars, params, TREES))
    per_stock = forecasts[forecasts["model"] == "xgboost"].groupby("ticker").size()
    assert "TWO" not in per_stock and per_stock["YOUNG"] == 2 and per_stock["STILL"] == per_stock["GE"] > 1800
    still = forecasts[(forecasts["ticker"] == "STILL") & (forecasts["model"] != "random_walk")]
    assert still[QUANTILE_COLUMNS].abs().max(axis=None) < .01


def test_prices_that_never_move_are_forecast_not_to(panel, params):
    panel[PRICES] = 10.
    forecasts = evaluate_bars(panel, params, TREES)
    assert forecasts["model"].unique().tolist() == MODELS and (forecasts[QUANTILE_COLUMNS] == 0).all().all()
    table = score_table(forecasts)
    assert (table["pinball"] == 0).all() and (table["dm_p"] == 1).all() and table["ratio"].isna().all()
