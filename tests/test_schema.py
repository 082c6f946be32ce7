from datetime import date, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stockml.config import BadInput
from stockml.schema import (
    BAR_COLUMNS,
    BAR_KEY,
    BARS,
    QUANTILE_COLUMNS,
    QUANTILES,
    check_bars,
    check_forecasts,
    coerce_bars,
    quantile_name,
)

PRICE = st.decimals("0.000001", "9999999", places=6).map(float)
DAY = st.dates(date(1900, 1, 1), date(2100, 1, 1))
TICKER = st.sampled_from(["A", "BRK-B", "^GSPC", "EURUSD=X", "0700.HK", "ON", "TRUE"])
VOLUME = st.none() | st.integers(0, 10**12)
GOOD = st.builds(lambda ticker, day, close, adjusted, volume: dict(zip(
    BAR_COLUMNS, (ticker, day, None, None, None, close, adjusted, volume), strict=True)),
    TICKER, DAY, PRICE, PRICE, VOLUME)
RUBBISH = st.none() | st.text(max_size=8) | st.floats() | st.integers() | st.booleans() | st.sampled_from(
    ["n/a", "-", "1e400", "inf", "-1", "0", "nan", "2000-09-31", "20000929", "2000", "29.09.2000", date(2000, 9, 29),
     datetime(2000, 9, 29, 9, 30), pd.Timestamp("2000-09-29", tz="Asia/Tokyo"), pd.NaT, pd.NA, [1]])
BAD = st.builds(lambda bar, **dirt: {**bar, **dirt}, GOOD, **{name: RUBBISH for name in ("date", "open", "close")}) | \
    st.fixed_dictionaries({name: RUBBISH for name in BAR_COLUMNS})


def row(**values) -> pd.DataFrame:
    return pd.DataFrame([{"ticker": "A", "date": "2000-09-29", "close": 1.0, **values}])


def reason(**values) -> str:
    "Why a bar with these values is refused."
    good, rejected = check_bars(row(**values), as_of=date(2026, 8, 5))
    assert (len(good), len(rejected)) == (0, 1)
    return rejected["reason"].iloc[0]


@settings(max_examples=30)
@given(st.lists(GOOD, min_size=1, max_size=20))
def test_good_rows_pass_unchanged_in_order(rows):
    rows = list({(r["ticker"], r["date"]): r for r in rows}.values())
    good, rejected = check_bars(pd.DataFrame(rows))
    assert rejected.empty
    BARS.validate(good)
    expected = sorted(rows, key=lambda r: (r["ticker"], r["date"]))
    assert good["close"].tolist() == [r["close"] for r in expected]
    assert good["date"].dt.date.tolist() == [r["date"] for r in expected]
    assert good["volume"].astype(object).where(good["volume"].notna(), None).tolist() == [r["volume"] for r in expected]


@settings(max_examples=30)
@given(st.lists(GOOD, min_size=1, max_size=20))
def test_text_reads_like_numbers(rows):
    raw = pd.DataFrame(rows)
    text = raw.astype(object).where(raw.notna(), None).map(lambda v: v if v is None else str(v))
    pd.testing.assert_frame_equal(coerce_bars(text), coerce_bars(raw))


@settings(max_examples=30)
@given(st.lists(GOOD | BAD, min_size=1, max_size=12))
def test_no_row_vanishes(rows):
    "Whatever comes: each row is a bar, or rejected with a reason, or says exactly what an earlier row says."
    raw = pd.DataFrame(rows, columns=BAR_COLUMNS)
    good, rejected = check_bars(raw)
    BARS.validate(good)
    assert all(rejected["reason"])
    distinct = coerce_bars(raw).drop_duplicates().drop(index=rejected.index, errors="ignore")
    pd.testing.assert_frame_equal(good, distinct.sort_values(BAR_KEY, ignore_index=True))
    again, none = check_bars(good)
    assert none.empty
    pd.testing.assert_frame_equal(again, good)


@settings(max_examples=20)
@given(GOOD, st.floats(1.01, 10))
def test_day_says_two_things_so_neither_is_believed(bar, factor):
    other = {**bar, "close": min(bar["close"] * factor, 9_999_999.0)}
    assume(other != bar)
    good, rejected = check_bars(pd.DataFrame([bar, other]))
    assert good.empty
    assert list(rejected["reason"]) == ["date: the same ticker and date twice, with different values"] * 2


def test_exact_duplicates_are_one_bar():
    good, rejected = check_bars(pd.concat([row(), row(close="1.0"), row(ticker=" a ")]))
    assert (len(good), len(rejected)) == (1, 0)


@pytest.mark.parametrize(("values", "expected"), [
    ({"close": "n/a"}, "close: not a finite number: 'n/a'"),
    ({"close": "1e400"}, "close: not a finite number: '1e400'"),
    ({"close": float("inf")}, "close: not a finite number: 'inf'"),
    ({"close": 0}, "close: 0.0 must be above zero"),
    ({"close": "-3.5"}, "close: -3.5 must be above zero"),
    ({"close": 1.6e9}, "close: 1600000000.0 is no price"),
    ({"close": None}, "close: missing"),
    ({"close": ""}, "close: missing"),
    ({"open": 1.0, "high": 2.0, "low": 1.5}, "open and close must lie between low and high"),
    ({"open": 3.0, "high": 2.0, "low": 0.5}, "open and close must lie between low and high"),
    ({"open": -1.0}, "open: -1.0 must be above zero"),
    ({"adj_close": "?"}, "adj_close: not a finite number: '?'"),
    ({"volume": -1}, "volume: -1 must not be negative"),
    ({"volume": "inf"}, "volume: not a finite number: 'inf'"),
    ({"volume": "many"}, "volume: not a finite number: 'many'"),
    ({"date": "03/10/2000"}, "date: not a date (YYYY-MM-DD): '03/10/2000'"),
    ({"date": "2000-02-30"}, "date: not a date (YYYY-MM-DD): '2000-02-30'"),
    ({"date": "2000"}, "date: not a date (YYYY-MM-DD): '2000'"),
    ({"date": "2000-09"}, "date: not a date (YYYY-MM-DD): '2000-09'"),
    ({"date": None}, "date: missing"),
    ({"date": "1899-12-31"}, "date: 1899-12-31 00:00:00 is before 1900"),
    ({"date": "2026-08-06"}, "date: 2026-08-06 is after 2026-08-05"),
    ({"ticker": None}, "ticker: missing"),
    ({"ticker": ""}, "ticker:  is no ticker"),
    ({"ticker": "two words"}, "ticker: TWO WORDS is no ticker"),
])
def test_reason_in_words(values, expected):
    assert reason(**values) == expected


def test_unreadable_value_is_named_before_the_gap_that_it_leaves():
    assert reason(close="n/a", date="?") == "date: not a date (YYYY-MM-DD): '?'"


@pytest.mark.parametrize("day", ["2000-09-29", "20000929", 20000929, date(2000, 9, 29), datetime(2000, 9, 29, 16),
                                 "2000-09-29T00:00:00+09:00", "2000-09-29 00:00:00-04:00", pd.Timestamp("2000-09-29")])
def test_date_is_the_day_as_written(day):
    assert list(coerce_bars(row(date=day))["date"]) == [pd.Timestamp("2000-09-29")]


def test_offsets_may_change_within_a_file():
    "As they do twice a year in what yfinance exports."
    bars = coerce_bars(pd.concat(row(date=d) for d in ("2020-03-06 00:00:00-05:00", "2020-03-09 00:00:00-04:00")))
    assert list(bars["date"]) == [pd.Timestamp("2020-03-06"), pd.Timestamp("2020-03-09")]


def test_close_stands_in_for_a_missing_adjusted_column_only():
    assert coerce_bars(row(close=2.0))["adj_close"].tolist() == [2.0]
    assert reason(close=2.0, adj_close=None) == "adj_close: missing"


def test_hair_of_rounding_is_forgiven():
    good, _ = check_bars(row(open=1.0, high=0.99999, low=0.5))
    assert len(good) == 1


def test_no_rows():
    good, rejected = check_bars(pd.DataFrame(columns=BAR_COLUMNS))
    assert good.empty and rejected.empty
    BARS.validate(good)


def test_snapshot_keeps_the_contract(snapshot):
    bars = pd.read_parquet(snapshot)
    assert len(bars) == 169_450
    good, rejected = check_bars(bars)
    assert rejected.empty
    pd.testing.assert_frame_equal(good, bars)


@pytest.mark.parametrize(("level", "name"), [(0.025, "q025"), (0.05, "q05"), (0.1, "q10"), (0.5, "q50"),
                                             (0.975, "q975"), (0.005, "q005"), (0.333, "q333")])
def test_quantile_name(level, name):
    assert quantile_name(level) == name


@given(st.lists(st.integers(1, 9999), min_size=2, max_size=2, unique=True))
def test_levels_have_names_of_their_own(levels):
    a, b = (quantile_name(level / 10_000) for level in levels)
    assert a != b


@pytest.fixture
def forecasts() -> pd.DataFrame:
    quantiles = dict(zip(QUANTILE_COLUMNS, np.linspace(-0.04, 0.04, len(QUANTILES)), strict=True))
    origins = pd.to_datetime(["2000-09-28", "2000-09-29"]).as_unit("ms")
    return pd.DataFrame({"model": "xgboost", "ticker": "AAPL", "origin": origins, "horizon": 1, **quantiles,
                         "realized": [-0.7, np.nan], "fold": 0})


def test_forecasts_pass_unchanged(forecasts):
    pd.testing.assert_frame_equal(check_forecasts(forecasts), forecasts)


@pytest.mark.parametrize(("damage", "expected"), [
    (lambda f: f.assign(q05=f["q95"]), "quantiles must ascend"),
    (lambda f: f.assign(q50=np.nan), "q50"),
    (lambda f: f.drop(columns="realized"), "realized"),
    (lambda f: f.drop(columns=["q025", "q95"]), "without the quantiles q025, q95$"),
    (lambda f: f.assign(price=1.0), "price"),
    (lambda f: f.assign(horizon=0), "horizon"),
    (lambda f: pd.concat([f, f]), "not unique"),
])
def test_damaged_forecasts_are_one_line_with_their_file(forecasts, damage, expected):
    with pytest.raises(BadInput, match=f"^f.parquet: .*{expected}") as e:
        check_forecasts(damage(forecasts), "f.parquet")
    assert "\n" not in str(e.value)
