import re
from collections.abc import Callable
from datetime import date, timedelta
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bokeh_sampledata.stocks import AAPL
from hypothesis import given, settings
from hypothesis import strategies as st
from mishaps import deaths, full_disk

from stockml.config import BadInput
from stockml.files import lock
from stockml.prices import (
    Upsert,
    gaps,
    jumps,
    read_bars,
    read_csv,
    read_panel,
    session_after,
    sessions,
    stale,
    upsert,
    write_bars,
)
from stockml.schema import BAR_COLUMNS, BAR_KEY, PRICES, check_bars

AS_OF = date(2026, 8, 5)
BAR = st.fixed_dictionaries({
    "ticker": st.sampled_from(["A", "B", "C"]), "date": st.dates(date(2000, 9, 20), date(2000, 10, 2)),
    "close": st.sampled_from([1.0, 2.0, 0.1]), "volume": st.none() | st.integers(0, 3)})
BATCH = st.lists(BAR, max_size=15, unique_by=lambda b: (b["ticker"], b["date"]))


def made(rows: list[dict]) -> pd.DataFrame:
    "Valid bars of these rows, in their order."
    good, _ = check_bars(pd.DataFrame(rows, columns=BAR_COLUMNS).assign(adj_close=[r["close"] for r in rows]))
    assert len(good) == len(rows)
    return good.sample(frac=1, random_state=len(rows), ignore_index=True)


def history(closes: list[float], start: str = "2000-09-25", ticker: str = "A") -> pd.DataFrame:
    days = sessions(start, pd.Timestamp(start) + pd.Timedelta(days=400))[: len(closes)]
    return made([{"ticker": ticker, "date": d.date(), "close": c} for d, c in zip(days, closes, strict=True)])


@pytest.fixture
def store(tmp_path):
    return tmp_path / "bars.parquet"


class TestStore:
    @settings(max_examples=25)
    @given(st.lists(BATCH, max_size=4))
    def test_upserts_are_a_dictionary_update(self, tmp_path_factory, batches):
        "The store after any upserts is what a dict by (ticker, date) would hold: no row lost, none doubled."
        store = tmp_path_factory.mktemp("store") / "bars.parquet"
        known: dict = {}
        for batch in batches:
            new = {(b["ticker"], b["date"]): (b["close"], b["volume"]) for b in batch}
            counts = upsert(store, made(batch))
            both = known.keys() & new.keys()
            unchanged = sum(known[k] == new[k] for k in both)
            assert counts == Upsert(len(new) - len(both), len(both) - unchanged, unchanged)
            known |= new
        if store.exists():
            bars = read_bars(store)
            assert [(b.ticker, b.date.date()) for b in bars.itertuples()] == sorted(known)
            volumes = bars["volume"].astype(object).where(bars["volume"].notna(), None)
            assert dict(zip(sorted(known), zip(bars["close"], volumes, strict=True), strict=True)) == known
        else:
            assert not known

    @settings(max_examples=15)
    @given(BATCH.filter(bool))
    def test_upsert_is_idempotent_to_the_byte(self, tmp_path_factory, batch):
        store, bars = tmp_path_factory.mktemp("store") / "bars.parquet", made(batch)
        upsert(store, bars)
        before = store.stat().st_mtime_ns, store.read_bytes()
        assert upsert(store, bars) == Upsert(0, 0, len(bars))
        assert (store.stat().st_mtime_ns, store.read_bytes()) == before

    @settings(max_examples=15)
    @given(BATCH.filter(bool), st.randoms(use_true_random=False))
    def test_order_of_disjoint_batches_does_not_matter(self, tmp_path_factory, batch, random):
        folder = tmp_path_factory.mktemp("store")
        upsert(folder / "at_once", made(batch))
        random.shuffle(batch)
        for one in batch[:4], batch[4:9], batch[9:]:
            upsert(folder / "in_parts", made(one))
        assert (folder / "in_parts").read_bytes() == (folder / "at_once").read_bytes()

    def test_newest_statement_wins(self, store):
        upsert(store, history([1, 2, 3]))
        assert upsert(store, history([1, 2, 4, 5])) == Upsert(added=1, restated=1, unchanged=2)
        assert read_bars(store)["close"].tolist() == [1, 2, 4, 5]

    def test_null_that_becomes_known_is_a_restatement(self, store):
        upsert(store, history([1, 2]))
        assert upsert(store, history([1, 2]).assign(volume=pd.array([7, 7], "Int64"))) == Upsert(0, 2, 0)

    def test_snapshot_round_trips(self, store, snapshot):
        bars = read_bars(snapshot)
        write_bars(store, bars.sample(frac=1, random_state=1))
        pd.testing.assert_frame_equal(read_bars(store), bars)

    def test_killed_at_any_moment_holds_all_or_nothing_of_a_batch(self, store):
        old, new = history([1, 2, 3]), history([1, 2, 9, 4, 5])
        upsert(store, old)
        seen = set()
        for _ in deaths(store.parent, upsert, store, new):
            closes = read_bars(store)["close"].tolist()
            assert closes in ([1, 2, 3], [1, 2, 9, 4, 5])
            seen.add(len(closes))
            write_bars(store, old)
        assert seen == {3, 5}
        assert read_bars(store)["close"].tolist() == [1, 2, 9, 4, 5]

    def test_full_disk_leaves_the_store_untouched(self, store, snapshot):
        upsert(store, history([1, 2, 3]))
        before = store.read_bytes()
        with full_disk(50_000), pytest.raises(BadInput, match=r"bars\.parquet: could not be written"):
            upsert(store, read_bars(snapshot))
        assert store.read_bytes() == before
        assert not list(store.parent.glob("*.tmp")) + list(store.parent.glob(".*.tmp"))

    def test_second_writer_is_told(self, store):
        with lock(store.parent / ".bars.parquet.lock"), pytest.raises(BadInput, match="another write to the price"):
            upsert(store, history([1, 2]))
        assert not store.exists()


class TestReading:
    @pytest.mark.parametrize("day", [date(2000, 9, 28), date(2000, 9, 29), date(2000, 9, 30), date(1970, 1, 1)])
    def test_as_of_shows_all_up_to_a_day_and_nothing_later(self, snapshot, day):
        everything = read_bars(snapshot)
        expected = everything[everything["date"] <= pd.Timestamp(day)].reset_index(drop=True)
        pd.testing.assert_frame_equal(read_bars(snapshot, as_of=day), expected)

    def test_tickers(self, snapshot):
        bars = read_bars(snapshot, tickers=["KO", "AAPL"])
        assert list(bars["ticker"].unique()) == ["AAPL", "KO"]
        assert bars.index.equals(pd.RangeIndex(len(bars)))
        with pytest.raises(BadInput, match=r"^unknown ticker ENRN, XYZ: .*snapshot\.parquet has AAPL, AMD"):
            read_bars(snapshot, tickers=["XYZ", "KO", "ENRN"])

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"Date,Close\n2000-09-29,1\n"])
    def test_damaged_store_is_named(self, store, content):
        store.write_bytes(content)
        with pytest.raises(BadInput, match=r"bars\.parquet: not a readable price store"):
            read_bars(store)

    def test_cut_store_and_other_tables_are_named(self, store, snapshot):
        store.write_bytes(snapshot.read_bytes()[:-1000])
        with pytest.raises(BadInput, match="not a readable price store"):
            read_bars(store)
        pd.DataFrame({"ticker": ["A"]}).to_parquet(store)
        with pytest.raises(BadInput, match="not a readable price store"):
            read_bars(store)

    def test_no_store(self, store):
        with pytest.raises(BadInput, match="no price store there; `stockml ingest` makes one"):
            read_bars(store)


class TestCalendar:
    def test_exchange_was_closed_after_11_september(self):
        assert list(sessions("2001-09-10", "2001-09-17").strftime("%d")) == ["10", "17"]

    @pytest.mark.parametrize(("start", "end"), [("2001-09-12", "2001-09-11"), ("2026-01-05", "1998-12-31"), ("2051-01-03", "2001-01-02")])
    def test_an_end_before_the_start_leaves_none(self, start, end):
        none, some = sessions(start, end), sessions("2001-09-10", "2001-09-10")
        assert len(none) == 0 and (none.dtype, none.name) == (some.dtype, some.name)

    def test_years_have_about_252_sessions(self):
        assert {len(sessions(f"{y}-01-01", f"{y}-12-31")) for y in range(1996, 2026)} <= {248, 250, 251, 252, 253, 254}

    @pytest.mark.parametrize(("origin", "horizon", "target"), [
        (date(2026, 8, 5), 1, date(2026, 8, 6)),
        (date(2026, 8, 7), 1, date(2026, 8, 10)),  # over a weekend
        (date(2026, 8, 8), 1, date(2026, 8, 10)),  # from within one
        (date(2001, 9, 10), 1, date(2001, 9, 17)),
        (date(2026, 12, 24), 1, date(2026, 12, 28)),
        (date(2026, 8, 5), 252, date(2027, 8, 6)),
        (date(2026, 8, 5), 504, date(2028, 8, 7)),
    ])
    def test_session_after(self, origin, horizon, target):
        assert session_after(origin, horizon) == target
        assert len(sessions(origin + timedelta(days=1), target)) == horizon

    def test_snapshot_has_no_gaps(self, snapshot):
        assert gaps(read_bars(snapshot)).empty

    @settings(max_examples=30)
    @given(st.sets(st.integers(1, 28), max_size=10))
    def test_every_lost_session_is_a_gap(self, lost):
        bars = history([1.0] * 30).sort_values("date", ignore_index=True)
        expected = bars.loc[sorted(lost), BAR_KEY].reset_index(drop=True)
        pd.testing.assert_frame_equal(gaps(bars.drop(index=lost)), expected, check_dtype=False)

    def test_gaps_of_no_bars(self):
        assert gaps(history([1])[:0]).empty

    def test_old_histories_have_a_calendar_too(self):
        bars = history([1, 2, 3], start="1929-10-28").sort_values("date", ignore_index=True)
        assert gaps(bars).empty
        assert gaps(bars.drop(index=1))["date"].tolist() == [pd.Timestamp("1929-10-29")]

    @pytest.mark.parametrize(("as_of", "behind"), [
        (date(2000, 9, 26), 0), (date(2000, 9, 27), 1), (date(2000, 9, 29), 3), (date(2000, 10, 1), 3),
    ])
    def test_stale_counts_sessions(self, as_of, behind):
        "History to Tuesday the 26th."
        assert stale(history([1, 2]), as_of)["sessions_behind"].sum() == behind

    def test_last_bar_may_be_no_session(self):
        saturday = history([1, 2]).assign(date=pd.to_datetime(["2000-09-29", "2000-09-30"]).as_unit("ms"))
        assert stale(saturday, date(2000, 10, 1)).empty
        assert stale(saturday, date(2000, 10, 2))["sessions_behind"].tolist() == [1]

    def test_snapshots_stale_histories(self, snapshot):
        ended = stale(read_bars(snapshot), AS_OF)
        assert len(ended) == 19 and "AAPL" not in set(ended["ticker"])


class TestJumps:
    @pytest.fixture(scope="class")
    def apple(self):
        "AAPL 2000-2013, raw and adjusted closes."
        bars, rejected = check_bars(pd.DataFrame(AAPL).assign(ticker="AAPL"))
        assert rejected.empty
        return jumps(bars).set_index("date")

    def test_2005_02_28_is_a_split(self, apple):
        day = apple.loc["2005-02-28"]
        assert day["kind"] == "split"
        assert day["factor"] == pytest.approx(2, rel=1e-3)
        assert day["raw"] == pytest.approx(-0.496, abs=1e-3)
        assert abs(day["adjusted"]) < 0.02

    def test_2000_09_29_is_a_real_fall_of_51_9_percent(self, apple):
        day = apple.loc["2000-09-29"]
        assert day["kind"] == "fall"
        assert day["adjusted"] == pytest.approx(-0.519, abs=5e-4)
        assert np.isnan(day["factor"])

    def test_splits_are_all_found_and_nothing_else_is_one(self, apple):
        splits = apple[apple["kind"] == "split"]
        assert list(splits.index.strftime("%F")) == ["2000-06-21", "2005-02-28"]

    def test_reverse_split_and_rise(self):
        bars = history([1, 10, 13]).sort_values("date").assign(adj_close=[10.0, 10.0, 13.0])
        assert jumps(bars)["kind"].tolist() == ["split", "rise"]
        assert jumps(bars)["factor"].iloc[0] == pytest.approx(0.1)

    def test_tickers_do_not_touch(self):
        assert jumps(pd.concat([history([1, 1]), history([9, 9], ticker="B")])).empty


class TestCsv:
    @pytest.fixture
    def read(self, tmp_path):
        def read(text: str | bytes, **kwargs) -> pd.DataFrame:
            path = tmp_path / "mine.csv"
            path.write_bytes(text.encode() if isinstance(text, str) else text)
            return read_csv(path, as_of=AS_OF, **{"ticker": "MINE", **kwargs})

        return read

    def test_two_columns_are_enough(self, read):
        bars = read("Date,Close\n2020-01-02,1\n2020-01-03,2\n")
        assert bars["adj_close"].tolist() == bars["close"].tolist() == [1, 2]
        assert set(bars["ticker"]) == {"MINE"}

    @pytest.mark.parametrize("text", [
        "date,open,high,low,close,adj_close,volume\n2020-01-02,1,1,1,1,.5,10\n2020-01-03,2,2,2,2,1,20\n",
        "Date,Open,High,Low,Close,Adj Close\n2020-01-03,2,2,2,2,1\n2020-01-02,1,1,1,1,.5\n",  # newest first
        "\ufeffTicker , Date,CLOSE,AdjClose,note\nmine,2020-01-02,1,0.5,x\nmine,2020-01-03,2,1,\n",
        "Date,Close,Adj Close\r\n2020-01-02,1,.5\r\n2020-01-03,2,1\r\n\r\n\r\n",  # blank lines at the end
        ",Date,Close,Adj Close,\n0,2020-01-02,1,.5,\n1,2020-01-03,2,1,\n",  # row numbers, and columns without a name
        "Date,Close,Adj Close\n2020-01-02 00:00:00-05:00,1,.5\n2020-01-03 00:00:00-04:00,2,1",
    ])
    def test_dialects(self, read, text):
        bars = read(text)
        assert bars["date"].dt.strftime("%F").tolist() == ["2020-01-02", "2020-01-03"]
        assert bars["adj_close"].tolist() == [0.5, 1]
        assert set(bars["ticker"]) == {"MINE"}

    def test_many_tickers_in_blocks(self, read):
        bars = read("ticker,date,close\nB,2020-01-02,1\nB,2020-01-03,2\nA,2020-01-03,3\nA,2020-01-02,4\n")
        assert bars["close"].tolist() == [4, 3, 1, 2]

    @pytest.mark.parametrize(("text", "expected"), [
        ("", ": not a readable CSV (No columns to parse from file)"),
        (b"\xff\xfe\x00\x01", ": not a readable CSV ("),
        (b"PK\x03\x04\x00\x00", ": no column close, date; it has "),
        ("Date,Open\n2020-01-02,1\n", ": no column close; it has date, open"),
        ("Date;Close\n2020-01-02;1\n", ": no column close, date; it has date;close"),
        ("Date,Close,close\n2020-01-02,1,1\n", ": two columns are called close: keep one"),
        ("date,close,close\n2020-01-02,1,9\n2020-01-03,2,9\n", ": two columns are called close: keep one"),
        ('\ufeffdate,close,"date"\n2020-01-02,1,9\n2020-01-03,2,9\n', ": two columns are called date: keep one"),
        ("\nDate,Close\n2020-01-02,1\n2020-01-03,1\n", ": not a readable CSV (No columns to parse from file)"),
        ("Date,Close\n", ": 0 rows of prices; a return needs at least two"),
        ("Date,Close\n2020-01-02,1\n", ": 1 rows of prices; a return needs at least two"),
        ("Date,Close\n2020-01-02,1\n\n", ": 1 rows of prices; a return needs at least two"),
        ("Date,Close\n2020-01-02,1\n2020-01-03,abc\n", ", line 3: close: not a finite number: 'abc'"),
        ("Date,Close\n2020-01-02,1\n2020-01-03,-1\n", ", line 3: close: -1.0 must be above zero"),
        ("Date,Close\n2020-01-02,0\n2020-01-03,-1\n", ", line 2: close: 0.0 must be above zero (and 1 more bad lines)"),
        ("Date,Close\n2020-01-02,1\n2020-01-02,2\n", ", line 2: date: the same ticker and date twice, with different"),
        ("Date,Close\n2020-01-02,1\n2020-01-03,1\n2020-01-02,1\n", ", line 4: MINE has 2020-01-02 twice: keep one"),
        ("Date,Close\n2020-01-02,1\n2020-01-07,2\n2020-01-06,2\n",
         ", line 4: dates of MINE are not in order at 2020-01-06: sort them"),
        ("Date,Close\n2020-01-09,1\n2020-01-07,2\n2020-01-08,2\n2020-01-06,1\n",
         ", line 4: dates of MINE are not in order at 2020-01-08: sort them"),
        ("Date,Close\n2020-01-02,1\n2099-01-02,2\n", ", line 3: date: 2099-01-02 is after 2026-08-05"),
        ("Date,Close\n2020-01-02,1\n\n2020-01-03,2\n", ", line 3: date: missing"),
        ("Date,Close\n2020-01-02,1\n02/01/2020,2\n", ", line 3: date: not a date (YYYY-MM-DD): '02/01/2020'"),
        ("Date,Close\n2020-01-02,1\n2020-01-03\n", ", line 3: close: missing"),
        ("Date,Close\n2020-01-02,1\n2020-01-03,2,3\n", ": not a readable CSV (Error tokenizing data"),
        ("Date,Close\n2020-01-02,1,\n2020-01-03,2,\n", ", line 2: more values than the header has names"),
    ])
    def test_bad_line_is_named(self, read, text, expected):
        with pytest.raises(BadInput) as e:
            read(text)
        assert f"mine.csv{expected}" in str(e.value)
        assert "\n" not in str(e.value)

    def test_whose_prices(self, read):
        with pytest.raises(BadInput, match=r"mine\.csv: no column ticker; add one, or name the ticker"):
            read("Date,Close\n2020-01-02,1\n2020-01-03,2\n", ticker=None)

    def test_missing_file_and_folder(self, tmp_path):
        with pytest.raises(BadInput, match=r"none\.csv: not found"):
            read_csv(tmp_path / "none.csv")
        with pytest.raises(BadInput, match="not a readable CSV"):
            read_csv(tmp_path)

    @settings(max_examples=25)
    @given(st.lists(st.decimals("0.01", "9999", places=2).map(float), min_size=2, max_size=30))
    def test_written_bars_are_read_back(self, tmp_path_factory, closes):
        path = tmp_path_factory.mktemp("csv") / "bars.csv"
        bars = history(closes).sort_values(BAR_KEY, ignore_index=True)
        bars.to_csv(path, index=False)
        pd.testing.assert_frame_equal(read_csv(path, AS_OF), bars)


def write(bars: pd.DataFrame, path: Path) -> Path:
    "As CSV or Parquet, by its name."
    bars.to_parquet(path, index=False) if path.suffix == ".parquet" else bars.to_csv(path, index=False)
    return path


def on_row(number: int, **values) -> Callable[[pd.DataFrame], pd.DataFrame]:
    "Wrong values in one row of a stock."
    def change(stock: pd.DataFrame) -> pd.DataFrame:
        for name, value in values.items():
            stock[name] = stock[name].astype(object if isinstance(value, str) else stock[name].dtype)
            stock.iloc[number, stock.columns.get_loc(name)] = value
        return stock

    return change


def twice(stock: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([stock, stock[100:101].assign(close=stock["close"].iloc[100] + .01)])


# What may be wrong with one stock of a panel, and what is said of it.
FAULTS = {
    "no close": (on_row(7, close=np.nan), r"(line|row) \d+: close: missing: correct or remove it"),
    "infinite close": (on_row(7, close=np.inf), r"(line|row) \d+: close: not a finite number: 'inf': correct"),
    "close of zero": (on_row(7, close=0.), r"(line|row) \d+: close: 0\.0 must be above zero: correct"),
    "negative close": (on_row(7, close=-3.), r"(line|row) \d+: close: -3\.0 must be above zero: correct"),
    "negative adjusted close": (lambda s: s.assign(adj_close=-s["adj_close"]),
                                r"(line|row) \d+: adj_close: -.* above zero \(and 2014 more bad rows\): correct"),
    "a timestamp as price": (on_row(7, close=1.6e9), r"close: 1600000000\.0 is no price: correct"),
    "high below low": (on_row(7, high=.01), r"(line|row) \d+: open and close must lie between low and high: correct"),
    "negative volume": (on_row(7, volume=-1), r"volume: -1 must not be negative: correct"),
    "date twice": (twice, r"(line|row) \d+: date: the same ticker and date twice, with different values.*: keep one"),
    "dates in disorder": (lambda s: pd.concat([s[50:], s[:50]]), r"(line|row) \d+: dates are not in order at 1996-01-02: sort them"),
    "shuffled": (lambda s: s.sample(frac=1, random_state=1), r"dates are not in order at \d{4}-\d\d-\d\d: sort them"),
    "two spellings": (lambda s: s.assign(ticker=["KO"] * 1000 + ["ko"] * 1015), r"written as 'KO' and 'ko': .* write it one way"),
    "no ticker's name": (lambda s: s.assign(ticker="COCA COLA"), r"ticker: COCA COLA is no ticker \(and 2014 more bad rows\)"),
    "standing still": (lambda s: s.assign(**dict.fromkeys(PRICES, 9.)), r"the close moves on 0 of 2014 days: no price"),
    "hardly a move": (lambda s: s.assign(open=np.nan, high=np.nan, low=np.nan, adj_close=s["close"].iloc[::100].reindex(s.index).ffill()),
                      r"the close moves on \d\d of 2014 days"),
    "a year is missing": (lambda s: s[s["date"].dt.year != 1999],
                          r"no bar on 252 sessions between 1998-12-31 and 2000-01-03: fill the gap"),
    "one bar": (lambda s: s[:1], r"1 bars, and a forecast takes 68: bring a longer history"),
    "two bars": (lambda s: s[:2], r"2 bars, and a forecast takes 68: bring a longer history"),
    "a bar too few": (lambda s: s[:67], r"67 bars, and a forecast takes 68: bring a longer history"),
    "a day to come": (on_row(-1, date=pd.Timestamp("2030-01-02")),
                      r"(line|row) \d+: date: 2030-01-02 is after 2026-08-05: remove what has not happened yet"),
}


class TestPanel:
    def test_parquet_and_csv_give_the_same_bars(self, tmp_path, panel):
        for name in ("panel.parquet", "panel.csv"):
            bars, left_out = read_panel(write(panel, tmp_path / name), AS_OF, 68)
            pd.testing.assert_frame_equal(bars, panel)
            assert left_out == {}

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_fault_costs_its_ticker_and_no_other(self, tmp_path, panel, fault, kind):
        change, expected = FAULTS[fault]
        stock = change(panel[panel["ticker"] == "KO"].copy())
        others = panel[panel["ticker"] != "KO"]
        mine = pd.concat([others[others["ticker"] < "KO"], stock, others[others["ticker"] > "KO"]])
        bars, left_out = read_panel(write(mine, tmp_path / f"panel.{kind}"), AS_OF, 68)
        assert list(left_out) == [stock["ticker"].iloc[0]]
        [reason] = left_out.values()
        assert re.search(expected, reason) and "\n" not in reason
        pd.testing.assert_frame_equal(bars, others.reset_index(drop=True))

    def test_the_place_is_the_line_of_the_file(self, tmp_path, panel):
        panel.loc[4321, "close"] = -1
        ticker = panel["ticker"][4321]
        for name, place in (("panel.csv", "line 4323"), ("panel.parquet", "row 4321")):
            assert read_panel(write(panel, tmp_path / name)).left_out[ticker].startswith(f"{place}: close: -1.0 must be")
        (tmp_path / "panel.csv").write_text((tmp_path / "panel.csv").read_text().replace("\n", "\n\n", 1))  # a blank line is no row
        assert read_panel(tmp_path / "panel.csv").left_out[ticker].startswith("line 4324: ")

    def test_several_faults_at_once(self, tmp_path, panel):
        wrong = (panel["ticker"] == "GE") & (panel["date"] == "2000-01-03")
        mine = panel.assign(close=panel["close"].where(~wrong), ticker=panel["ticker"].where(panel["ticker"] != "PFE"))
        mine = mine[(mine["ticker"] != "XOM") | (mine["date"] < "1996-01-05")]
        bars, left_out = read_panel(write(mine, tmp_path / "panel.csv"), AS_OF, 68)
        assert sorted(bars["ticker"].unique()) == ["AAPL", "BAC", "KO"]
        assert list(left_out) == ["(none)", "GE", "XOM"]
        assert re.fullmatch(r"2015 rows without a ticker, the first is line \d+: name it", left_out["(none)"])

    @pytest.mark.parametrize("change", [
        lambda bars: bars.sort_values(["date", "ticker"]),  # day by day
        lambda bars: bars.sort_values(["ticker", "date"], ascending=[True, False]),  # newest first
        lambda bars: pd.concat([bars, bars[:1]]).sort_values(["ticker", "date"], ignore_index=True),  # a row that stands there twice
        lambda bars: bars.assign(ticker=bars["ticker"].str.lower()),
        lambda bars: bars.assign(ticker=" " + bars["ticker"]),
        lambda bars: bars.rename(columns=str.title).assign(Note="x"),
    ])
    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_what_is_no_fault(self, tmp_path, panel, change, kind):
        bars, left_out = read_panel(write(change(panel), tmp_path / f"panel.{kind}"), AS_OF, 68)
        assert left_out == {}
        pd.testing.assert_frame_equal(bars, panel)

    def test_kinds_of_parquet(self, tmp_path, panel):
        closes = panel[["ticker", "date", "close"]]
        expected = read_panel(write(closes, tmp_path / "closes.csv")).bars
        for number, kind in enumerate([closes.astype({"ticker": "category"}), closes.assign(date=closes["date"].dt.date),
                                       closes.assign(date=closes["date"].dt.strftime("%F")), closes.set_index(["ticker", "date"]),
                                       closes.assign(date=closes["date"].dt.tz_localize("America/New_York"))]):
            kind.to_parquet(tmp_path / f"{number}.parquet")
            pd.testing.assert_frame_equal(read_panel(tmp_path / f"{number}.parquet").bars, expected)

    def test_one_close_only_ticker_is_a_panel(self, tmp_path, panel):
        one = panel.loc[panel["ticker"] == "KO", ["ticker", "date", "close"]]
        bars, left_out = read_panel(write(one, tmp_path / "one.csv"), AS_OF, 68)
        assert (len(bars), left_out, list(bars.columns)) == (len(one), {}, BAR_COLUMNS)
        assert bars["high"].isna().all() and bars["adj_close"].tolist() == one["close"].tolist()

    def test_gaps_are_counted_in_sessions(self, tmp_path, panel):
        one = panel[panel["ticker"] == "KO"].reset_index(drop=True)
        for lost, fine in ((60, True), (61, False)):
            mine = write(pd.concat([one.drop(index=range(500, 500 + lost)), panel[panel["ticker"] == "GE"]]), tmp_path / "panel.parquet")
            assert ("KO" not in read_panel(mine).left_out) == fine

    def test_no_usable_ticker_is_one_line(self, tmp_path, panel):
        with pytest.raises(BadInput) as e:
            read_panel(write(panel[["ticker", "date"]].assign(close=-1.), tmp_path / "panel.csv"))
        one = r"[A-Z]+: line \d+: close: -1\.0 must be above zero \(and 2014 more bad rows\): correct or remove it"
        assert re.fullmatch(rf"{tmp_path}/panel\.csv: no ticker can be used: {one}; {one}; {one} \(and 3 more tickers\)", str(e.value))

    @pytest.mark.parametrize(("damage", "expected"), [
        (lambda bars: bars.drop(columns="close"), ": no column close; it has ticker, date"),
        (lambda bars: bars.drop(columns="ticker"), ": no column ticker; add one"),
        (lambda bars: bars[:1], ": 1 rows of prices; a return needs at least two"),
        (lambda bars: bars[:0], ": 0 rows of prices; a return needs at least two"),
        (lambda bars: bars.T.set_axis(range(len(bars)), axis=1).astype(str), ": no column ticker"),
    ])
    def test_a_file_that_is_no_panel_is_named(self, tmp_path, panel, damage, expected):
        with pytest.raises(BadInput) as e:
            damage(panel[:300]).to_parquet(tmp_path / "panel.parquet")
            read_panel(tmp_path / "panel.parquet")
        assert str(e.value).startswith(f"{tmp_path}/panel.parquet{expected}")

    def test_missing_and_damaged_files(self, tmp_path):
        with pytest.raises(BadInput, match=r"none\.parquet: not found"):
            read_panel(tmp_path / "none.parquet")
        (tmp_path / "panel.parquet").write_bytes(b"PAR1")
        with pytest.raises(BadInput, match=r"panel\.parquet: not a readable Parquet file"):
            read_panel(tmp_path / "panel.parquet")


def test_store_of_one_upsert_equals_that_of_many(tmp_path, panel):
    parts = [group for _, group in panel.groupby(panel["date"].dt.year)]
    counts = [upsert(tmp_path / "parts", part) for part in parts]
    assert reduce(np.add, counts).tolist() == [len(panel), 0, 0]
    upsert(tmp_path / "whole", panel)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
