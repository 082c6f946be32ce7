"Residual quantiles: right by definition, and blind to every outcome that was not known at the origin."

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stockml.calibrate import MIN_OWN, MIN_POOL, residuals, rolling_quantiles, window_quantiles
from stockml.schema import QUANTILES
from stockml.targets import make_targets

LEVELS = np.array(QUANTILES)
ROLL = {"window": 500, "every": 21, "own": .35}


@pytest.fixture
def two(panel):
    "Two stocks and a flat scale."
    rows = panel[panel["ticker"].isin(["GE", "KO"])].reset_index(drop=True)
    return rows, np.full(len(rows), .02)


def rolled(rows, y, ends, scale, h, **how):
    return rolling_quantiles(residuals(rows, y, ends, scale), rows, scale, h, **ROLL | how)


values = st.floats(-9, 9) | st.sampled_from([0., np.nan])


@settings(max_examples=80, derandomize=True)
@given(arrays(float, st.tuples(st.integers(1, 400), st.integers(1, 3)), elements=values, fill=values), st.floats(0, 1))
def test_window_quantiles_are_numpys_and_ascend(z, own):
    pooled, blend = window_quantiles(z, own)
    count = np.isfinite(z).sum(axis=0)
    if count.sum() < MIN_POOL:
        assert np.isnan(pooled).all() and np.isnan(blend).all()
        return
    np.testing.assert_allclose(pooled, np.nanquantile(z, LEVELS), atol=1e-12)
    assert (np.diff(blend, axis=1) >= 0).all()
    for k in range(z.shape[1]):
        weight = own if count[k] >= MIN_OWN else 0
        mine = np.nanquantile(z[:, k], LEVELS) if weight else 0
        np.testing.assert_allclose(blend[k], weight * mine + (1 - weight) * pooled, atol=1e-12)


@pytest.mark.parametrize(("rows", "forecast"), [(MIN_POOL - 1, False), (MIN_POOL, True)])
def test_a_pool_needs_enough_residuals(rows, forecast):
    pooled, blend = window_quantiles(np.linspace(-1, 1, rows)[:, None], .5)
    assert np.isfinite(pooled).all() == np.isfinite(blend).all() == forecast


@pytest.mark.parametrize(("rows", "own_counts"), [(MIN_OWN - 1, False), (MIN_OWN, True)])
def test_a_stock_needs_enough_residuals_of_its_own(rows, own_counts):
    z = np.full((1000, 2), np.nan)
    z[:, 0], z[:rows, 1] = np.linspace(-1, 1, 1000), 5
    _, blend = window_quantiles(z, 1.)
    assert (blend[1] == 5).all() == own_counts


def test_residuals_stand_where_they_became_known(two):
    rows, scale = two
    targets = make_targets(rows, (5,))
    scale[10] = np.nan
    past = residuals(rows, targets["y_5"].to_numpy(), targets["end_5"], scale)
    half = len(rows) // 2
    assert list(past.tickers) == ["GE", "KO"] and past.z.shape == (half, 2)
    expected = np.full((half, 2), np.nan)
    expected[5:] = np.reshape(targets["y_5"], (2, half)).T[:-5] / .02
    expected[15, 0] = np.nan  # there was no forecast
    np.testing.assert_allclose(past.z, expected, rtol=1e-6)


@pytest.mark.parametrize("h", [1, 5, 21])
@pytest.mark.parametrize("window", [500, None])
def test_an_outcome_that_was_not_known_at_the_origin_is_never_used(two, h, window):
    rows, scale = two
    targets = make_targets(rows, (h,))
    y, ends = targets[f"y_{h}"].to_numpy(), targets[f"end_{h}"]
    q = rolled(rows, y, ends, scale, h, window=window)
    days = np.sort(rows["date"].unique())
    for at in (400, 819, 820, 1111, 1500):  # 819 = 39 * 21 is the first origin of a block
        unknown = ends.isna() | (ends > days[at])
        late = rolled(rows, np.where(unknown, 99., y), ends, scale, h, window=window)
        up_to = (rows["date"] <= days[at]).to_numpy()
        np.testing.assert_array_equal(late[up_to], q[up_to])
        assert not np.array_equal(late[~up_to], q[~up_to])


def test_what_is_known_by_the_origin_is_used(two):
    rows, scale = two
    targets = make_targets(rows, (1,))
    q = rolled(rows, targets["y_1"].to_numpy(), targets["end_1"], scale, 1)
    days = np.sort(rows["date"].unique())
    at, origin = 819, (rows["date"] == days[819]).to_numpy()
    outlier = np.where(targets["end_1"] == days[at], -99., targets["y_1"])
    assert (rolled(rows, outlier, targets["end_1"], scale, 1)[origin] != q[origin]).any()


def test_one_origin_by_hand(two):
    rows, scale = two
    scale = scale * np.linspace(1, 2, len(rows))
    targets = make_targets(rows, (5,))
    y, ends = targets["y_5"].to_numpy(), targets["end_5"]
    q, days = rolled(rows, y, ends, scale, 5, window=600), np.sort(rows["date"].unique())
    at, now = 830, 819  # the block's first session
    sessions = [days[now - 2 * k] for k in range(300)]  # every second day of 600: neighbours overlap
    inside = ends.isin(sessions)
    z = (y / scale)[inside]
    for ticker in ("GE", "KO"):
        row = np.flatnonzero((rows["date"] == days[at]) & (rows["ticker"] == ticker))[0]
        mine = np.quantile((y / scale)[inside & (rows["ticker"] == ticker)], LEVELS)
        expected = scale[row] * (.35 * mine + .65 * np.quantile(z, LEVELS))
        np.testing.assert_allclose(q[row], expected, rtol=1e-4, atol=1e-6)


def test_a_window_forgets(two):
    rows, scale = two
    targets = make_targets(rows, (1,))
    days = np.sort(rows["date"].unique())
    old = np.where(targets["end_1"] <= days[100], 99., targets["y_1"])
    q, forgetful, never = (rolled(rows, y, targets["end_1"], scale, 1, window=w)
                           for y, w in ((targets["y_1"].to_numpy(), 500), (old, 500), (old, None)))
    late = (rows["date"] >= days[100 + 500 + 21]).to_numpy()
    np.testing.assert_array_equal(forgetful[late], q[late])
    assert not np.array_equal(never[late], q[late])


def test_quantiles_grow_with_the_scale_and_are_missing_without_one(two):
    rows, scale = two
    targets = make_targets(rows, (1,))
    past = residuals(rows, targets["y_1"].to_numpy(), targets["end_1"], scale)
    holes = np.where(np.arange(len(rows)) % 7, 2 * scale, np.nan)
    q, doubled = (rolling_quantiles(past, rows, s, 1, **ROLL) for s in (scale, holes))
    given = np.isfinite(holes)
    np.testing.assert_allclose(doubled[given], 2 * q[given], rtol=1e-6)
    assert np.isnan(doubled[~given]).all()
    assert np.isnan(q[rows["date"] <= "1996-02-01"]).all()  # too few residuals yet
    assert np.isfinite(q[rows["date"] >= "1997-01-01"]).all()


@pytest.mark.parametrize("h", [1, 5])
def test_quantiles_ascend_and_cover_real_returns(panel, h):
    targets, scale = make_targets(panel, (h,)), np.full(len(panel), 1.)
    y = targets[f"y_{h}"].to_numpy()
    q = rolled(panel, y, targets[f"end_{h}"], scale, h, window=None)
    ok = np.isfinite(q).all(axis=1) & np.isfinite(y)
    assert (np.diff(q[ok], axis=1) >= 0).all()
    assert ((y > q[:, 2]) & (y < q[:, 6]))[ok].mean() == pytest.approx(.8, abs=.05)


def test_a_stock_that_stands_still_gets_quantiles_of_zero_width(two):
    rows, scale = two
    ends = make_targets(rows, (1,))["end_1"]
    q = rolled(rows, np.zeros(len(rows)), ends, scale, 1)
    assert (q[rows["date"] >= "1997-01-01"] == 0).all()
