"Targets are the returns that follow, each with the day on which it became known."

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockml.features import make_features
from stockml.targets import known, make_targets

HORIZONS = (1, 5, 21)
KNOWN = ["y_1", "path_1", "y_5", "path_5", "y_21", "path_21"]


def test_by_hand(panel):
    bars = panel[panel["ticker"].isin(["AAPL", "BAC"])].groupby("ticker").head(3).reset_index(drop=True)
    bars["adj_close"] = [1., 2., 8., 10., 5., 20.]
    days, targets = bars["date"][:3].tolist(), make_targets(bars, (1, 2))
    nan, nat, log2 = np.nan, pd.NaT, np.log(2)
    np.testing.assert_allclose(targets["y_1"], [log2, 2 * log2, nan, -log2, 2 * log2, nan])
    np.testing.assert_allclose(targets["y_2"], [3 * log2, nan, nan, log2, nan, nan])
    np.testing.assert_allclose(targets["path_1"], np.abs(targets["y_1"]))
    np.testing.assert_allclose(targets["path_2"], np.array([np.sqrt(2.5), nan, nan, np.sqrt(2.5), nan, nan]) * log2)
    assert targets["end_1"].equals(pd.Series([days[1], days[2], nat] * 2, dtype=bars["date"].dtype, name="end_1"))
    assert targets["end_2"].equals(pd.Series([days[2], nat, nat] * 2, dtype=bars["date"].dtype, name="end_2"))


def test_rows_stand_beside_the_features(panel):
    assert make_targets(panel, HORIZONS)[["ticker", "date"]].equals(make_features(panel)[["ticker", "date"]])


def test_only_the_last_sessions_of_each_stock_are_unknown(panel):
    targets = make_targets(panel, HORIZONS)
    from_end = panel.groupby("ticker").cumcount(ascending=False)
    for h in HORIZONS:
        assert (targets[f"y_{h}"].isna() == (from_end < h)).all()
        assert (targets[f"end_{h}"].isna() == (from_end < h)).all()


def test_a_long_return_is_the_sum_of_its_days(panel):
    targets = make_targets(panel, HORIZONS)
    steps = targets["y_1"].groupby(targets["ticker"])
    week = sum(steps.shift(-k) for k in range(5))
    np.testing.assert_allclose(week, targets["y_5"], atol=1e-12)


def test_a_path_is_the_root_mean_square_of_its_days(panel):
    targets = make_targets(panel, HORIZONS)
    days = targets["y_1"].groupby(targets["ticker"])
    for h in HORIZONS:
        mean = sum(days.shift(-k)**2 for k in range(h)) / h
        np.testing.assert_allclose(targets[f"path_{h}"], np.sqrt(mean), rtol=1e-6, atol=1e-9)


@settings(max_examples=60, derandomize=True)
@given(st.lists(st.lists(st.sampled_from([0., 0., 0., 1e-9, -1e-4, .03, -.7]), min_size=1, max_size=40), min_size=1, max_size=3),
       st.integers(1, 30))
def test_a_path_is_known_exactly_where_the_outcome_is(moves, h):
    bars = pd.concat([pd.DataFrame({"ticker": f"S{k}", "date": pd.bdate_range("2000-01-03", periods=len(m)),
                                    "adj_close": 10 * np.exp(np.cumsum(m))}) for k, m in enumerate(moves)], ignore_index=True)
    targets = make_targets(bars, (h,))
    y, path = targets[f"y_{h}"], targets[f"path_{h}"]
    assert (y.isna() == path.isna()).all()
    ok = y.notna()
    assert (path[ok] >= 0).all() and (path[ok] * h >= y[ok].abs() * (1 - 1e-6) - 1e-7).all()  # the way is no shorter than its end


def test_the_adjusted_close_counts(panel):
    halved = panel.assign(close=panel["close"] / 2)
    assert make_targets(halved, HORIZONS).equals(make_targets(panel, HORIZONS))


def test_known_hides_what_ends_on_the_day_or_later(panel):
    targets = make_targets(panel, HORIZONS)
    day = pd.Timestamp("2000-09-29")
    seen = known(targets, day)
    assert list(seen) == KNOWN
    for h in HORIZONS:
        shown = seen[f"y_{h}"].notna()
        assert targets[f"end_{h}"][shown].max() == pd.Timestamp("2000-09-28")
        assert (shown == (targets[f"end_{h}"] < day)).all()
        for column in (f"y_{h}", f"path_{h}"):
            assert (seen[column].notna() == shown).all() and seen[column][shown].equals(targets[column][shown])


@pytest.mark.parametrize("day", ["1998-08-31", "2000-09-29"])
def test_known_is_what_a_store_cut_at_that_day_would_give(panel, day):
    before = panel["date"] < day
    cut = make_targets(panel[before].reset_index(drop=True), HORIZONS)[KNOWN]
    assert known(make_targets(panel, HORIZONS), day)[before].reset_index(drop=True).equals(cut)


def test_a_history_shorter_than_the_horizon_has_no_target(panel):
    two = panel.groupby("ticker").head(2).reset_index(drop=True)
    targets = make_targets(two, (1, 2))
    assert targets["y_1"].notna().sum() == 6 and targets[["y_2", "path_2"]].isna().all(axis=None) and targets["end_2"].isna().all()
