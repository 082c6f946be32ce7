"Residual quantiles and their corrections: right by definition, and blind to every outcome that was not known at the origin."

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from stockml.calibrate import (
    LIMIT,
    MAX_POOL,
    MIN_OWN,
    MIN_POOL,
    Residuals,
    conformal_shifts,
    newest,
    residuals,
    rolling_quantiles,
    window_quantiles,
)
from stockml.schema import QUANTILES
from stockml.targets import make_targets

LEVELS = np.array(QUANTILES)
ROLL = {"window": 500, "every": 21, "own": .35}
ALL = 10**6  # a window of more sessions than there are


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


@pytest.mark.parametrize("own", [0., .35, 1.])
def test_a_huge_pool_is_thinned_and_says_the_same(own):
    z = np.random.default_rng(0).standard_t(4, (3 * MAX_POOL // 100, 100))
    pooled, blend = window_quantiles(z, own)
    np.testing.assert_allclose(pooled, np.quantile(z, LEVELS), atol=.05)
    assert blend.shape == (100, len(LEVELS)) and (np.diff(blend, axis=1) > 0).all()
    if own == 0:
        np.testing.assert_array_equal(blend, np.tile(pooled, (100, 1)))


@pytest.mark.parametrize(("horizon", "step", "needed"), [(1, 1, MIN_POOL), (5, 2, 63), (21, 5, 25), (252, 5, 25)])
def test_a_year_of_a_single_stock_is_enough_for_itself(horizon, step, needed):
    "Every fifth session of 252: there are never a hundred of them."
    end = step * needed
    z = np.full((1000, 1), np.nan, np.float32)
    z[:end] = np.random.default_rng(0).normal(size=(end, 1))
    past = Residuals(z, None, None)
    pooled, own = newest(past, end, horizon, 252, 1.)
    np.testing.assert_allclose(pooled, np.quantile(z[:end][::-step], LEVELS), atol=1e-6)
    np.testing.assert_allclose(own[0], pooled, atol=1e-6)
    assert np.isnan(newest(past, end - step, horizon, 252, 1.)[1]).all()


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
@pytest.mark.parametrize("window", [500, ALL])
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
                           for y, w in ((targets["y_1"].to_numpy(), 500), (old, 500), (old, ALL)))
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
    q = rolled(panel, y, targets[f"end_{h}"], scale, h, window=ALL)
    ok = np.isfinite(q).all(axis=1) & np.isfinite(y)
    assert (np.diff(q[ok], axis=1) >= 0).all()
    assert ((y > q[:, 2]) & (y < q[:, 6]))[ok].mean() == pytest.approx(.8, abs=.05)


def test_a_stock_that_stands_still_gets_quantiles_of_zero_width(two):
    rows, scale = two
    ends = make_targets(rows, (1,))["end_1"]
    q = rolled(rows, np.zeros(len(rows)), ends, scale, 1)
    assert (q[rows["date"] >= "1997-01-01"] == 0).all()


# corrections

class Feed:
    "Standardized outcomes of some stocks, and what was forecast for them: normal quantiles times a factor."
    def __init__(self, sessions=3000, stocks=3, h=1, factor=1., seed=0):
        self.h, self.sessions = h, sessions
        self.made = np.repeat(np.arange(sessions), stocks)
        self.known = self.made + h
        self.z = np.random.default_rng(seed).normal(size=sessions * stocks)
        self.z[self.known >= sessions] = np.nan  # not yet
        self.q = np.tile(factor * stats.norm.ppf(LEVELS), (len(self.z), 1))

    def shifts(self, step=.02, **changes):
        parts = {"z": self.z, "q": self.q} | changes
        return conformal_shifts(parts["z"], parts["q"], self.made, np.minimum(self.known, self.sessions), self.sessions, step)


def test_corrections_by_hand():
    feed = Feed(sessions=100, stocks=2, h=3)
    shift, out = np.zeros(len(LEVELS)), []
    for day in range(100):
        due = np.flatnonzero(feed.known == day)
        if len(due):
            then = out[day - 3]  # what was added to the quantiles when these forecasts were made
            below = np.mean([feed.z[i] <= feed.q[i] + then for i in due], axis=0)
            shift = np.clip(shift + .3 * (LEVELS - below), -LIMIT, LIMIT)
        out.append(shift)
    np.testing.assert_allclose(feed.shifts(step=.3), out, atol=1e-6)
    assert np.abs(out[-1]).max() > 0


@pytest.mark.parametrize("h", [1, 5, 21])
def test_an_outcome_changes_no_correction_before_it_is_known(h):
    feed = Feed(sessions=300, h=h)
    shifts = feed.shifts()
    for day in (30, 150, 298):
        late = feed.shifts(z=np.where(feed.known > day, 9., feed.z))
        np.testing.assert_array_equal(late[:day + 1], shifts[:day + 1])
        assert (late[day + 1:] != shifts[day + 1:]).any()


def test_corrections_rest_while_nothing_becomes_known():
    feed = Feed(sessions=600)
    silent = (feed.known >= 200) & (feed.known < 500)
    shifts = feed.shifts(z=np.where(silent, np.nan, feed.z))
    np.testing.assert_array_equal(shifts[199:500], np.tile(shifts[199], (301, 1)))
    assert (shifts[500] != shifts[499]).all() and (shifts[199] != 0).all()


@settings(max_examples=60, derandomize=True)
@given(arrays(float, st.tuples(st.just(60)), elements=st.floats(-9, 9) | st.sampled_from([np.nan, np.inf, -np.inf])),
       arrays(bool, 60), st.floats(0, 50))
def test_corrections_are_finite_and_bounded_whatever_comes_in(z, blank, step):
    q = np.where(blank[:, None], np.nan, np.tile(stats.norm.ppf(LEVELS), (60, 1)))
    shifts = conformal_shifts(z, q, np.arange(60), np.arange(60) + 2, 62, step)
    assert np.isfinite(shifts).all() and (np.abs(shifts) <= LIMIT).all()
    usable = np.isfinite(z) & ~blank
    again = conformal_shifts(z[usable], q[usable], np.arange(60)[usable], np.arange(60)[usable] + 2, 62, step)
    np.testing.assert_array_equal(shifts, again)  # what is not there has no say


def test_a_broken_feed_drives_a_correction_to_its_limit_and_no_further():
    feed = Feed(sessions=2000)
    shifts = feed.shifts(z=np.where(np.isfinite(feed.z), 1e9, np.nan))
    np.testing.assert_allclose(shifts[-1][LEVELS > .1], LIMIT)
    assert (np.diff(shifts, axis=0) >= 0).all()


@pytest.mark.parametrize("factor", [.6, .8, 1.3, 1.45])
def test_corrections_mend_the_coverage_of_a_wrong_scale(factor):
    feed = Feed(sessions=6000, factor=factor)
    late = (feed.made > 3000) & np.isfinite(feed.z)
    for low, high, share in ((0, 8, .95), (2, 6, .8)):
        misses = []
        for step in (0., .02):
            q = feed.q + feed.shifts(step)[feed.made]
            misses.append(abs(((feed.z > q[:, low]) & (feed.z <= q[:, high]))[late].mean() - share))
        assert misses[1] < .015 < misses[0]


def test_a_step_of_zero_changes_nothing():
    assert (Feed(factor=.5).shifts(step=0.) == 0).all()


def test_a_right_scale_is_left_in_peace():
    assert np.abs(Feed(sessions=6000).shifts(step=.005)[3000:]).max() < .15


def test_no_outcome_at_all_means_no_correction():
    feed = Feed(sessions=50)
    assert (feed.shifts(z=np.full(len(feed.z), np.nan)) == 0).all() and (feed.shifts(q=feed.q * np.nan) == 0).all()
