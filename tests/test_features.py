"Features know the past and nothing else, mean what they say, and are one code for training and serving."

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from stockml.features import (
    FLOOR,
    GJR,
    MARKET_NAMES,
    MIN_BARS,
    WEEKS,
    as_bars,
    column,
    columns,
    feature_columns,
    histories,
    make_features,
    market_features,
    newest_features,
    recursive_features,
)
from stockml.schema import check_bars

CUTS = ["1996-01-02", "1996-01-03", "1996-04-08", "1998-08-31", "2000-09-29", "2003-12-30"]


def bars_of(prices, ticker: str = "A", **columns) -> pd.DataFrame:
    "Valid bars of one stock on weekdays from 1996 on."
    dates = pd.bdate_range("1996-01-02", periods=len(prices))
    bars, rejected = check_bars(pd.DataFrame({"ticker": ticker, "date": dates, "close": prices, **columns}))
    assert rejected.empty
    return bars


def until(table: pd.DataFrame, day) -> pd.DataFrame:
    return table[table["date"] <= day].reset_index(drop=True)


def one(table: pd.DataFrame, ticker: str) -> pd.DataFrame:
    return table[table["ticker"] == ticker].reset_index(drop=True)


def blind(bars: pd.DataFrame) -> pd.DataFrame:
    "Bars of which only the close is known."
    return bars.assign(open=np.nan, high=np.nan, low=np.nan, volume=pd.array([pd.NA] * len(bars), "Int64"))


def staggered(bars: pd.DataFrame) -> pd.DataFrame:
    "One stock listed late, one gone early, one with holes: the market is not always there."
    ticker, date = bars["ticker"], bars["date"]
    late, gone = (ticker == "BAC") & (date < "1998-10-01"), (ticker == "XOM") & (date > "1999-01-01")
    holes = (ticker == "KO") & (date.dt.day == 3)
    return bars[~(late | gone | holes)].reset_index(drop=True)


def patchy(bars: pd.DataFrame) -> pd.DataFrame:
    "Bars of which open, high, low or volume are known on some days only."
    days = np.arange(len(bars))
    return bars.assign(**{c: bars[c].where(days % k > 0) for c, k in (("open", 2), ("high", 3), ("low", 5), ("volume", 3))})


def every_day(bars: pd.DataFrame) -> pd.DataFrame:
    "Traded on Saturdays and Sundays too."
    days = pd.date_range(bars["date"].min(), periods=bars["date"].nunique()).as_unit("ms")
    return bars.assign(date=days[bars["date"].rank(method="dense").astype(int) - 1])


VIEWS = {"panel": lambda b: b, "staggered": staggered, "patchy": patchy, "without ohlc": blind, "every day": every_day,
         "alone": lambda b: one(b, "AAPL"), "alone without ohlc": lambda b: blind(one(b, "AAPL"))}


@pytest.mark.parametrize("view", VIEWS)
def test_no_feature_sees_the_future(panel, view):
    bars = VIEWS[view](panel)
    whole = make_features(bars)
    for day in (d for d in CUTS if d <= str(bars["date"].max())):
        assert_frame_equal(make_features(until(bars, day)), until(whole, day), check_exact=True)


@st.composite
def small_panels(draw):
    "A few stocks with zero moves, jumps, holes and unequal lengths."
    moves = st.sampled_from([0., 0., 1e-4, -.01, .02, -.5, .7])
    stocks = []
    for k in range(draw(st.integers(1, MARKET_NAMES + 1))):
        close = 10 * np.exp(np.cumsum(draw(st.lists(moves, min_size=1, max_size=90)))).clip(1e-3, 1e5)
        bars = bars_of(close, f"S{k}", open=close, high=close * 1.1, low=close, volume=np.arange(len(close)))
        stocks.append(bars[draw(st.integers(0, len(bars) - 1)):])
    return patchy(pd.concat(stocks, ignore_index=True))


@settings(max_examples=10, derandomize=True)
@given(small_panels(), st.integers(0, 90))
def test_no_feature_of_any_panel_sees_the_future(bars, sessions):
    days = np.sort(bars["date"].unique())
    day = days[min(sessions, len(days) - 1)]
    assert_frame_equal(make_features(until(bars, day)), until(make_features(bars), day), check_exact=True)


def test_one_row_per_bar_in_order(panel, features):
    assert features[["ticker", "date"]].equals(panel[["ticker", "date"]])
    assert set(features.dtypes[2:]) == {np.dtype(np.float32)}
    assert feature_columns(features) == list(features.columns[2:]) and features.columns.is_unique
    old = features[features.groupby("ticker").cumcount() >= 400]
    range_and_volume = old.columns[old.columns.str.startswith(("v_range", "v_night", "volume"))]
    assert old.drop(columns=range_and_volume).notna().all().all() and old[old["ticker"] == "AAPL"].notna().all().all()


@pytest.mark.parametrize("view", VIEWS)
def test_the_newest_row_is_the_last_of_all_rows_bit_by_bit(panel, view):
    for day in ("1996-06-03", "1999-01-15", "2003-12-30"):
        bars = until(VIEWS[view](panel), day)
        rows, table = newest_features(histories(bars)), make_features(bars).groupby("ticker").tail(1)
        np.testing.assert_array_equal(rows.values, table[list(rows.names)].to_numpy())


def test_the_newest_rows_come_in_the_order_of_the_stocks(panel):
    stocks = histories(until(panel, "2001-05-31"))
    stocks[1] = type(stocks[1])(stocks[1].ticker, *(x[-300:] for x in stocks[1][1:]))  # of fewer days than the others
    one_way, other = newest_features(stocks), newest_features(stocks[::-1])
    np.testing.assert_array_equal(one_way.values, other.values[::-1])
    assert one_way.values[0, one_way.names.index("m_r")] != 0


@pytest.mark.parametrize("view", VIEWS)
def test_what_recursive_models_walk_through_is_that_of_all_features(panel, view):
    bars = VIEWS[view](panel)
    assert_frame_equal(recursive_features(histories(bars)), make_features(bars)[["ticker", "r_0", "v_all"]], check_exact=True)


def test_histories_are_the_bars(panel):
    odd = patchy(staggered(panel))
    assert_frame_equal(as_bars(histories(odd)), odd)
    assert histories(odd[:0]) == [] and next(s.ticker for s in histories(odd[::-1])) == odd["ticker"].iloc[-1]


def test_columns_of_rows_and_of_tables_are_the_same(panel):
    rows, table = newest_features(histories(panel)), make_features(panel).groupby("ticker").tail(1)
    names = ["m_r", "v_all", "weekday"]
    np.testing.assert_array_equal(columns(rows, names), columns(table, names))
    np.testing.assert_array_equal(column(rows, "v_all"), column(table, "v_all"))
    assert feature_columns(rows) == feature_columns(table)


def test_own_features_do_not_depend_on_the_other_stocks(panel, features):
    together, alone = one(features, "GE"), make_features(one(panel, "GE"))
    market = [c for c in together if c.startswith("m_")]
    assert_frame_equal(together.drop(columns=market), alone.drop(columns=market), check_exact=True)
    assert alone[market].isna().all().all() and together[market][300:].notna().all().all()


def test_features_do_not_depend_on_the_level_of_the_price(panel, features):
    factor = 2. ** 7  # exact in floats, so that the returns are the same to the bit
    prices = ["open", "high", "low", "close", "adj_close"]
    scaled = panel.assign(**{c: panel[c] * factor for c in prices})
    assert_frame_equal(make_features(scaled), features, rtol=1e-3, atol=1e-5)


def test_a_split_leaves_no_trace(panel):
    bars, prices = one(panel, "AAPL"), ["open", "high", "low", "close"]
    raw = bars.copy()
    raw.loc[raw["date"] < "2000-06-21", prices] *= 2  # as it was quoted; adj_close stays
    assert_frame_equal(make_features(raw), make_features(bars), rtol=1e-5)


def test_volatilities_by_hand():
    r = np.random.default_rng(3).normal(0, .02, 400)
    row = make_features(bars_of(50 * np.exp(np.r_[0, np.cumsum(r)]))).iloc[-1]
    for n in (5, 22, 66, 252):
        assert row[f"v_abs{n}"] == pytest.approx(np.sqrt(np.pi / 2) * np.abs(r[-n:]).mean(), rel=1e-5)
    assert row["v_all"] == pytest.approx(np.sqrt(np.pi / 2) * np.abs(r).mean(), rel=1e-5)
    assert row["v_neg5"] == pytest.approx(np.sqrt(np.pi / 2) * -np.minimum(r[-5:], 0).sum() / 5, rel=1e-5)
    assert row["v_sd22"] == pytest.approx(np.sqrt((r[-22:] ** 2).mean()), rel=1e-5)
    weights = .94 ** np.arange(400)[::-1]
    assert row["v_ewma94"] == pytest.approx(np.sqrt((weights * r**2).sum() / weights.sum()), rel=1e-5)
    assert [row[f"r_{k}"] for k in range(5)] == pytest.approx(r[:-6:-1], rel=1e-5)


def test_gjr_is_the_recursion(panel, features):
    own, (alpha, gamma, beta) = one(features, "AAPL"), GJR
    level, crash = own["v_all"].to_numpy(float), own["r_0"].idxmin()
    assert own["date"][crash] == pd.Timestamp("2000-09-29") and own["r_0"][crash] < -5 * level[crash]
    v = level[22]**2
    for t in range(22, len(own)):
        r = own["r_0"][t]
        square = min(r**2, 25 * level[t]**2)  # a crash counts as five long-run volatilities
        v = (1 - alpha - gamma / 2 - beta) * level[t]**2 + (alpha + gamma * (r < 0)) * square + beta * v
        assert own["v_gjr"][t] == pytest.approx(np.sqrt(v), rel=1e-4)
    assert own["v_gjr"][:22].isna().all()


def test_shapes_by_hand():
    r = np.random.default_rng(4).normal(0, .02, 400)
    row = make_features(bars_of(50 * np.exp(np.r_[0, np.cumsum(r)]))).iloc[-1]
    unit, level = row["v_all"] + 1e-5, np.cumsum(r)
    assert row["mom22"] == pytest.approx(r[-22:].sum() / (unit * np.sqrt(22)), rel=1e-4)
    assert row["down66"] == pytest.approx((np.minimum(r[-66:], 0) ** 2).sum() / (r[-66:] ** 2).sum(), rel=1e-4)
    assert row["fall252"] == pytest.approx((level[-1] - level[-252:].max()) / unit, rel=1e-4)
    assert row["top5"] == pytest.approx(np.abs(r[-5:]).max() / unit, rel=1e-4)
    pairs = np.abs(r[-22:]) * np.abs(r[-23:-1])
    assert row["jump22"] == pytest.approx(np.pi / 2 * pairs.mean() / ((r[-22:] ** 2).mean() + 1e-10), rel=1e-4)
    assert make_features(bars_of(np.repeat([10., 11, 12, 13, 14, 15], 11)))["still22"].iloc[-1] == pytest.approx(20 / 22)


def test_ranges_by_hand():
    close, volume = np.linspace(10, 20, 80), np.linspace(1e6, 2e6, 80).round()
    row = make_features(bars_of(close, open=close - .1, high=close * 1.2, low=close * .9, volume=volume)).iloc[-1]
    assert [row[f"v_range{n}"] for n in (1, 5, 22)] == pytest.approx([np.log(1.2 / .9) / np.sqrt(4 * np.log(2))] * 3)
    assert row["v_night22"] == pytest.approx(np.log((close[-22:] - .1) / close[-23:-1]).mean(), rel=1e-4)
    assert row["volume5"] == pytest.approx(np.log(volume[-5:].mean() / volume[-66:].mean()), rel=1e-3)


def reporter(seed: int = 8, first: int = 40, closed: float = 0.) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    "A stock that jumps every 13 weeks on the same weekday; its bars, weekday number of each, those of its jumps."
    rng, weeks = np.random.default_rng(seed), 5 * WEEKS
    r, jumps = rng.choice([-.01, .01], 1200), np.arange(first, 1200, weeks)
    r[jumps] *= 8
    days = pd.bdate_range("1996-01-02", periods=1200)
    shut = (rng.random(1200) < closed) & ~np.isin(np.arange(1200), jumps)
    bars, _ = check_bars(pd.DataFrame({"ticker": "A", "date": days, "close": 50 * np.exp(np.cumsum(r))})[~shut])
    return bars, np.flatnonzero(~shut), jumps


@pytest.mark.parametrize("closed", [0., .1])
def test_a_season_is_known_on_the_evenings_before(closed):
    bars, at, jumps = reporter(closed=closed)
    features, old = make_features(bars), at >= jumps[0] + 5 * WEEKS + 1
    for name, near in (("season1", [0, 1, 2]), ("season5", range(7)), ("season21", range(1, 22))):
        busy = np.isin(at, np.concatenate([jumps - k for k in near] + [[jumps[-1] + 5 * WEEKS - k] for k in near]))
        assert features[name][old & busy].min() > 1.2 * features[name][old & ~busy].max(), name


def test_seasons_by_hand():
    bars, *_ = reporter()
    features, r = make_features(bars), np.log(bars["adj_close"]).diff().to_numpy()
    square = np.minimum(np.abs(r) / (features["v_ewma97"].shift().to_numpy(float) + FLOOR), 8)**2
    for t in (70, 200, 1000):
        for n, first, last in ((1, 0, 2), (5, 0, 6), (21, 1, 21)):  # a day early or late, but for a month
            windows = [square[a:b + 1] for k in range(1, 9)  # two years of quarters
                       if (b := t + last - 65 * k) >= 0 and np.isfinite(square[(a := max(0, t + first - 65 * k)):b + 1]).any()]
            mean = (sum(map(np.nanmean, windows)) + 8 - len(windows)) / 8  # an unknown quarter is an ordinary one
            assert features[f"season{n}"][t] == pytest.approx(np.sqrt(mean), rel=1e-4)
    assert features["season1"][:65].isna().all()


def test_a_closed_exchange_hides_one_quarter_of_a_season_and_not_the_others():
    bars, _, jumps = reporter()
    days = bars["date"].to_numpy()
    shut = (days >= days[jumps[5] - 3]) & (days <= days[jumps[5] + 3])
    whole, holes = make_features(bars), make_features(bars[~shut].reset_index(drop=True))
    evening = days[jumps[6] - 1]
    before, after = (f.set_index("date")["season1"] for f in (whole, holes))
    assert 1.2 < after[evening] < before[evening] and after[days[100]:].notna().all()


def test_the_age_of_the_last_jump_by_hand(features):
    own = one(features, "AAPL")
    big = (own["r_0"].abs() > 3 * (own["v_ewma97"].shift() + FLOOR)).to_numpy()
    age = np.nan
    for t, found in enumerate(own["jump_age"]):
        age = 0 if big[t] else age + 1
        assert found == pytest.approx(min(age, 130), nan_ok=True)
    assert own.loc[own["date"] == "2000-09-29", "jump_age"].item() == 0 and own["jump_age"].max() == 130


def test_the_market_by_hand():
    rng = np.random.default_rng(5)
    dates = pd.bdate_range("2000-01-03", periods=60)
    wide = pd.DataFrame(rng.normal(0, .01, (60, MARKET_NAMES)), dates, list("ABCDE"))
    wide.loc[dates[7], "A"] = np.nan  # that day there is no market
    market = pd.DataFrame(market_features(wide.T.to_numpy(), np.full((MARKET_NAMES, 60), .01), np.arange(60)), dates)
    assert market.loc[dates[7]].isna().all() and market["m_v_abs1"].notna().sum() == 59
    mean = wide.mean(axis=1).drop(dates[7])
    assert market["m_v_abs5"].iloc[-1] == pytest.approx(np.sqrt(np.pi / 2) * mean.abs()[-5:].mean(), rel=1e-5)
    assert market["m_v_spread1"].iloc[-1] == pytest.approx(wide.iloc[-1].std(), rel=1e-5)
    assert market["m_stress1"].iloc[-1] == pytest.approx((wide.iloc[-1].abs() / .01001).mean(), rel=1e-5)
    unit, level = mean.abs().mean() + 1e-5, mean.cumsum()
    assert market["m_r"].iloc[-1] == pytest.approx(mean.iloc[-1] / unit, rel=1e-4)
    assert market["m_mom22"].iloc[-1] == pytest.approx(mean[-22:].sum() / (unit * np.sqrt(22)), rel=1e-4)
    assert market["m_fall252"].iloc[-1] == pytest.approx((level.iloc[-1] - level.max()) / unit, rel=1e-4)


def test_beta_and_ranks_by_hand(panel, features):
    r = np.log(panel.pivot(index="date", columns="ticker", values="adj_close")).diff()
    last, m = features.groupby("ticker").tail(1).set_index("ticker"), r.mean(axis=1)
    for ticker in r:
        cov = np.cov(r[ticker][-252:], m[-252:])
        assert last["m_beta"][ticker] == pytest.approx(cov[0, 1] / cov[1, 1], rel=1e-4)
    assert last["m_rank_mom"].sort_values().index.tolist() == last["mom66"].sort_values().index.tolist()
    assert sorted(last["m_rank_vol"]) == pytest.approx(np.arange(1, 7) / 6)


@pytest.mark.parametrize("names", [MARKET_NAMES - 1, MARKET_NAMES])
def test_a_market_needs_enough_stocks(panel, names):
    few = panel[panel["ticker"].isin(sorted(panel["ticker"].unique())[:names])].reset_index(drop=True)
    assert make_features(few)["m_r"].notna().any() == (names == MARKET_NAMES)


def odd_histories() -> dict[str, pd.DataFrame]:
    still, walk = np.full(300, 10.), 10 * np.exp(np.cumsum(np.random.default_rng(6).normal(0, .02, 300)))
    holes = np.where(np.arange(300) % 3, walk, np.nan)
    return {
        "one bar": bars_of([10.]), "two bars": bars_of([10., 11.]), "constant": bars_of(still),
        "flat day": bars_of(still, open=still, high=still, low=still, volume=np.zeros(300)),
        "no ohlc": bars_of(walk), "no volume": bars_of(walk, open=walk, high=walk, low=walk),
        "holes": bars_of(walk, open=holes, high=walk, low=holes, volume=np.where(np.arange(300) % 2, 1e6, np.nan)),
        "halted, then wild": bars_of(np.r_[still[:150], walk[:150] * 20]),
        "tiny": bars_of(walk * 1e-4), "huge": bars_of(walk * 1e4),
    }


@pytest.mark.parametrize("kind", odd_histories())
def test_odd_histories_give_finite_or_missing(kind):
    bars = odd_histories()[kind]
    features = make_features(bars)
    assert len(features) == len(bars) and not np.isinf(features.drop(columns=["ticker", "date"]).to_numpy()).any()
    if len(bars) >= MIN_BARS:
        needed = ["v_all", "v_ewma94", "v_abs1", "v_abs66", "v_gjr", "mom66", "fall252", "jump22", "season21"]
        assert features[needed].iloc[MIN_BARS:].notna().all().all()


def test_what_is_not_known_is_missing_and_not_zero(panel):
    blank = make_features(blind(one(panel, "AAPL")))
    given = make_features(one(panel, "AAPL"))
    columns = [c for c in given if c.startswith(("v_range", "v_night", "volume"))]
    assert blank[columns].isna().all().all() and given[columns][100:].notna().all().all()
    assert_frame_equal(blank.drop(columns=columns), given.drop(columns=columns), check_exact=True)
