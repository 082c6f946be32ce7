from datetime import date, timedelta
from functools import reduce

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
from stockml.schema import BAR_COLUMNS, BAR_KEY, check_bars

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


class TestPanel:
    def test_parquet_and_csv_give_the_same_bars(self, tmp_path, panel):
        panel.to_parquet(tmp_path / "panel.parquet")
        panel.to_csv(tmp_path / "panel.csv", index=False)
        pd.testing.assert_frame_equal(read_panel(tmp_path / "panel.parquet"), panel)
        pd.testing.assert_frame_equal(read_panel(tmp_path / "panel.csv"), panel)

    @pytest.mark.parametrize(("damage", "expected"), [
        (lambda bars: bars.drop(columns="close"), ": no column close; it has ticker, date"),
        (lambda bars: bars.drop(columns="ticker"), ": no column ticker; add one"),
        (lambda bars: bars.assign(adj_close=-bars["adj_close"]), ", row 0: adj_close: -"),
        (lambda bars: bars[:1], ": 1 rows of prices; a return needs at least two"),
    ])
    def test_bad_panel_is_named(self, tmp_path, panel, damage, expected):
        damage(panel).to_parquet(tmp_path / "panel.parquet")
        with pytest.raises(BadInput) as e:
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
