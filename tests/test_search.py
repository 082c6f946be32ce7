import numpy as np
import optuna
import pandas as pd
import pytest

from stockml.config import BadInput
from stockml.features import make_features
from stockml.forecaster import TREES
from stockml.search import LONGEST, LUCK, arena, relative_losses, scale_losses, search, suggest
from stockml.targets import make_targets


@pytest.fixture(scope="module")
def table(_panel):
    return make_features(_panel)


@pytest.fixture(scope="module")
def params(small_params):
    "One thread: others only get in each other's way on so few rows."
    return small_params.model_copy(update={"model": small_params.model.model_copy(update={"threads": 1, "rows": 3000})})


@pytest.fixture(scope="module")
def found(_panel, table, params):
    "What a search found, and what it told on the way."
    told = []
    out = search(table, make_targets(_panel, (1, 21)), params, lambda *trial: told.append(trial))
    return out, told


def test_loss_prefers_the_scale_that_is_right():
    rng = np.random.default_rng(3)
    sigma = np.exp(rng.normal(0, .7, (4000, 2)))
    y = sigma * rng.standard_normal((4000, 2))
    y[:50, 0] = np.nan
    true, constant = scale_losses(y, sigma), scale_losses(y, np.ones_like(sigma))
    assert np.isnan(true[:50, 0]).all() and np.isfinite(true[50:]).all()
    assert (np.nanmean(true, axis=0) < .95 * np.nanmean(constant, axis=0)).all()
    np.testing.assert_allclose(scale_losses(y, 3 * sigma), true)  # the level is calibrated away; only the shape counts


def test_search_tells_and_returns_every_trial(found):
    out, told = found
    assert [number for number, *_ in told] == [0, 1]
    assert [{**trees, "ratio": value} for _, trees, value in told] == out["trials"]


def test_first_trial_are_the_defaults_and_they_stay_unless_the_best_leads_by_more_than_luck(found):
    out, told = found
    assert told[0][1] == TREES
    assert out["default_ratio"] == told[0][2]
    lead = out["p"] < LUCK
    assert out["ratio"] == (min(t["ratio"] for t in out["trials"]) if lead else out["default_ratio"])
    assert {**out["trees"], "ratio": out["ratio"]} in out["trials"]
    assert len({tuple(t.values()) for t in out["trials"]}) == 2
    assert all(.8 < t["ratio"] < 1.2 for t in out["trials"])


def test_nothing_after_valid_to_is_seen(found, params, _panel):
    "The same search on prices that end at valid_to finds the same, to the last bit."
    out, _ = found
    bars = _panel[_panel["date"] <= pd.Timestamp(params.search.valid_to)].reset_index(drop=True)
    assert len(bars) < len(_panel)
    assert search(make_features(bars), make_targets(bars, (1, 21)), params) == out


def test_arena_trains_before_it_validates(table, _panel, params):
    where = arena(table, make_targets(_panel, (1, 21)), params)
    first, last = map(pd.Timestamp, (params.search.train_to, params.search.valid_to))
    seen = where.features.loc[where.valid, "date"]
    assert where.features.loc[~where.valid, "date"].max() <= first < seen.min()
    assert seen.max() == where.features["date"].max() <= last
    assert all(fold.cut < fold.start for fold in where.plan)
    assert where.plan[0].start == first + pd.Timedelta(days=1)
    assert where.targets.loc[where.features["date"] == last,
                             ["y_1", "y_21"]].isna().all(axis=None)  # not known at valid_to yet
    assert where.targets.loc[where.valid, "y_1"].notna().mean() > .95
    assert where.har.shape == (2,)


def test_long_horizons_have_no_say(table, _panel, params):
    def used(*horizons: int) -> tuple:
        changed = params.model_copy(update={"targets": params.targets.model_copy(update={"horizons": horizons})})
        return arena(table, make_targets(_panel, horizons), changed).horizons

    assert used(5, 21, 252) == (5, 21)
    assert LONGEST < 63
    assert used(63, 252) == (63,)


def test_ratio_of_a_model_that_corrects_nothing_is_one(table, _panel, params):
    where = arena(table, make_targets(_panel, (1, 21)), params)
    idle = {**TREES, "min_child_weight": 1e9, "rounds": 5}  # no split is ever worth it
    assert relative_losses(idle, where, params).mean() == pytest.approx(1, abs=.005)
    wild = {**TREES, "max_depth": 10, "min_child_weight": 1, "reg_lambda": 0, "eta": 1, "rounds": 20}
    assert relative_losses(wild, where, params).mean() > 1.02


def test_defaults_that_are_bad_are_replaced(table, _panel, params, monkeypatch):
    "With defaults that overfit, the second trial's lead is no luck."
    wild = {"max_depth": 6, "eta": .15, "rounds": 200, "subsample": .9, "colsample_bytree": .8, "min_child_weight": 100., "reg_lambda": 1.}
    monkeypatch.setattr("stockml.search.TREES", wild)
    out = search(table, make_targets(_panel, (1, 21)), params)
    assert out["p"] < LUCK and out["ratio"] < out["default_ratio"] and out["trees"] != wild



@pytest.mark.parametrize("end", ["low", "high"])
def test_space_is_bounded(end):
    limits = {"max_depth": (2, 6), "eta": (.03, .15), "rounds": (60, 200), "subsample": (.5, .9),
              "colsample_bytree": (.3, .8),
              "min_child_weight": (100, 1500), "reg_lambda": (1, 50)}
    edge = {k: v[end == "high"] for k, v in limits.items()}
    assert suggest(optuna.trial.FixedTrial(edge)) == edge
    assert set(edge) == set(TREES)
    assert all(low <= TREES[k] <= high for k, (low, high) in limits.items())


@pytest.mark.parametrize(("first", "last"), [("1996-02-01", "1999-12-31"), ("2019-01-01", "2019-12-31")])
def test_years_without_prices_are_refused(table, _panel, params, first, last):
    dates = {"train_to": pd.Timestamp(first).date(), "valid_to": pd.Timestamp(last).date()}
    params = params.model_copy(update={"search": params.search.model_copy(update=dates)})
    with pytest.raises(BadInput, match=f"search: .* rows to {first}, .* to {last}: too few; move search"):
        arena(table, make_targets(_panel, (1, 21)), params)
