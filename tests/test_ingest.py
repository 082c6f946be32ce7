import subprocess
import sys
import threading
from datetime import date
from io import StringIO

import pandas as pd
import pytest
from mishaps import ended

from stockml.config import BadInput, StockmlError
from stockml.files import lock
from stockml.ingest import crawl, follow, ingest, price_site, program, remove, restated, scrapy_folder, trim
from stockml.prices import read_bars, write_bars

AS_OF = date(2020, 1, 31)
GOOD = "Date,Close\n2020-01-02,1\n2020-01-03,2\n2020-01-06,3\n"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "bars.parquet"


@pytest.fixture
def from_csv(store, tmp_path):
    "Ingest a CSV of this text."
    def run(text: str, tickers=("MINE",), as_of=AS_OF, **options):
        (tmp_path / "mine.csv").write_text(text)
        return ingest(store, "csv", as_of=as_of, tickers=tickers, csv=tmp_path / "mine.csv", **options)

    return run


class TestCsv:
    def test_file_becomes_the_store(self, from_csv, store):
        report = from_csv(GOOD)
        assert (report.source, report.tickers, report.as_of) == ("csv", ["MINE"], AS_OF)
        assert (report.added, report.restated, report.unchanged, report.quarantined, report.removed) == (3, 0, 0, 0, 0)
        assert report.stale == {"MINE": date(2020, 1, 6)} and report.gaps == {} and report.refetched == []
        assert read_bars(store)["close"].tolist() == [1, 2, 3]

    def test_again_changes_no_byte(self, from_csv, store):
        from_csv(GOOD)
        before = store.read_bytes()
        assert from_csv(GOOD).unchanged == 3
        assert store.read_bytes() == before

    def test_longer_file_adds_its_end(self, from_csv, store):
        from_csv(GOOD)
        report = from_csv(GOOD + "2020-01-08,4\n")
        assert (report.added, report.unchanged, report.gaps) == (1, 3, {"MINE": 1})

    def test_other_units_take_the_place_of_the_old_history_only(self, from_csv, store):
        from_csv("ticker" + GOOD[4:].replace("\n2", "\nX,2").replace(",Close", ",date,close", 1), tickers=())
        from_csv(GOOD)
        report = from_csv("Date,Close\n2020-01-03,20\n2020-01-06,30\n")
        assert report.refetched == ["MINE"]
        bars = read_bars(store)
        assert bars[bars["ticker"] == "MINE"]["close"].tolist() == [20, 30]
        assert bars[bars["ticker"] == "X"]["close"].tolist() == [1, 2, 3]

    def test_some_tickers_of_many_in_any_case(self, from_csv, store):
        text = "ticker,date,close\n" + "".join(f"{t},2020-01-0{d},{d}\n" for t in "abc" for d in (2, 3))
        assert from_csv(text, tickers=("a", " C ")).tickers == ["A", "C"]
        with pytest.raises(BadInput, match=r"mine\.csv: no rows of X, Y; it has A, B, C$"):
            from_csv(text, tickers=("Y", "A", "X"))
        assert set(read_bars(store)["ticker"]) == {"A", "C"}

    def test_lower_case_name_for_a_file_without_tickers(self, from_csv):
        assert from_csv(GOOD, tickers=("mine",)).tickers == ["MINE"]

    @pytest.mark.parametrize(("text", "expected"), [
        ("", ": not a readable CSV"),
        ("Date,Open\n2020-01-02,1\n2020-01-03,1\n", ": no column close; it has date, open"),
        ("Date,Close\n2020-01-02,1\n2020-01-03,one\n", ", line 3: close: not a finite number: 'one'"),
        ("Date,Close\n2020-01-02,-1\n2020-01-03,1\n", ", line 2: close: -1.0 must be above zero"),
        ("Date,Close\n2020-01-02,1\n2020-01-03,0\n", ", line 3: close: 0.0 must be above zero"),
        ("Date,Close\n2020-01-02,1\n2020-01-02,1\n", ", line 3: MINE has 2020-01-02 twice: keep one"),
        ("Date,Close\n2020-01-02,1\n2020-01-06,1\n2020-01-03,1\n", ", line 4: dates of MINE are not in order"),
        ("Date,Close\n2020-01-02,1\n2020-02-03,1\n", ", line 3: date: 2020-02-03 is after 2020-01-31"),
        ("Date,Close\n2020-01-02,1\n", ": 1 rows of prices; a return needs at least two"),
    ])
    def test_bad_input_is_one_line_and_leaves_the_store(self, from_csv, store, text, expected):
        from_csv(GOOD)
        before = store.read_bytes()
        with pytest.raises(BadInput) as e:
            from_csv(text)
        assert str(e.value).startswith(f"{store.parent}/mine.csv{expected}")
        assert "\n" not in str(e.value)
        assert store.read_bytes() == before

    def test_without_a_file(self, store):
        with pytest.raises(BadInput, match=r"name the file \(data\.csv in params\.yaml, or --csv\)"):
            ingest(store, "csv")
        with pytest.raises(BadInput, match=r"none\.csv: not found"):
            ingest(store, "csv", csv=store.parent / "none.csv", tickers=("MINE",))
        assert not store.exists()

    def test_as_of_defaults_to_the_last_session(self, from_csv):
        report = from_csv(GOOD, as_of=None)
        assert (report.as_of, report.stale) == (date(2020, 1, 6), {})

    def test_bars_after_as_of_leave_and_litter_is_swept_up(self, from_csv, store):
        from_csv(GOOD)
        for name in (".bars.parquet.xyz.tmp", ".quarantine.jsonl.xyz.tmp", ".other.xyz.tmp"):
            (store.parent / name).touch()
        report = from_csv(GOOD.replace("2020-01-06,3\n", ""), as_of=date(2020, 1, 3))
        assert (report.removed, report.unchanged) == (1, 2)
        assert [p.name for p in store.parent.glob(".*.tmp")] == [".other.xyz.tmp"]

    def test_two_runs_at_once(self, from_csv, store):
        with lock(store.parent / ".bars.parquet.ingest.lock"), \
                pytest.raises(BadInput, match=r"another ingest into bars\.parquet is under way .*: wait until it ends"):
            from_csv(GOOD)
        assert not store.exists()


class TestWhatLeavesTheStore:
    @pytest.mark.parametrize(("source", "options"), [
        ("bloomberg", {}), ("csv", {}), ("csv", {"csv": "none.csv"}), ("stooq", {}),
        ("exchange", {"tickers": ("KO",), "base_url": "http://127.0.0.1:9"}),
    ])
    def test_nothing_if_the_run_fails(self, from_csv, store, source, options):
        from_csv(GOOD)
        before = store.read_bytes()
        with pytest.raises(BadInput):
            ingest(store, source, as_of=date(2020, 1, 3), prune=True, say=lambda _: None, **options)
        assert store.read_bytes() == before

    def test_nothing_if_a_line_is_bad(self, from_csv, store):
        from_csv(GOOD)
        before = store.read_bytes()
        with pytest.raises(BadInput, match="line 4: date: 2020-01-06 is after 2020-01-03"):
            from_csv(GOOD, as_of=date(2020, 1, 3))
        assert store.read_bytes() == before

    def test_tickers_that_were_not_asked_for_go_if_told_so(self, from_csv, store):
        from_csv(GOOD, tickers=("OTHER",))
        assert from_csv(GOOD).removed == 0
        assert set(read_bars(store)["ticker"]) == {"MINE", "OTHER"}
        assert from_csv(GOOD, prune=True).removed == 3
        assert set(read_bars(store)["ticker"]) == {"MINE"}

    def test_together_in_one_write(self, panel, store, monkeypatch):
        write_bars(store, panel)
        writes = []
        monkeypatch.setattr("stockml.ingest.write_bars", lambda *args: writes.append(args) or write_bars(*args))
        kept = panel[(panel["ticker"] == "KO") & (panel["date"] <= "2000-09-28")].reset_index(drop=True)
        assert trim(store, date(2000, 9, 28), ["KO"]) == len(panel) - len(kept)
        pd.testing.assert_frame_equal(read_bars(store), kept)
        assert len(writes) == 1

    @pytest.mark.parametrize(("as_of", "tickers"), [(date(1900, 1, 1), None), (None, ["XYZ"]), (date(1900, 1, 1), ["KO"])])
    def test_never_all_of_it(self, panel, store, as_of, tickers):
        write_bars(store, panel)
        before = store.read_bytes()
        with pytest.raises(BadInput, match=r"bars\.parquet: not one bar of .*; it stays as it was$"):
            trim(store, as_of, tickers)
        assert store.read_bytes() == before


class TestRestated:
    @pytest.mark.parametrize(("factor", "expected"), [(1.0, []), (1 + 5e-5, []), (1 + 2e-4, ["KO"]), (0.5, ["KO"])])
    def test_beyond_noise(self, panel, store, factor, expected):
        write_bars(store, panel)
        panel.loc[panel.index[panel["ticker"] == "KO"][-1], "adj_close"] *= factor
        assert restated(store, panel) == expected

    def test_nothing_in_common(self, panel, store):
        assert restated(store, panel) == []
        write_bars(store, panel[panel["date"] < "2000-01-01"])
        assert restated(store, panel[panel["date"] > "2000-01-01"]) == []

    def test_remove_without_a_hit_writes_nothing(self, panel, store):
        write_bars(store, panel)
        before = store.stat().st_mtime_ns
        assert remove(store, lambda b: b["ticker"] == "XYZ") == 0
        assert store.stat().st_mtime_ns == before
        assert remove(store, lambda b: b["ticker"] == "KO") == (panel["ticker"] == "KO").sum()
        assert "KO" not in set(read_bars(store)["ticker"])


class TestPrograms:
    def test_what_a_spider_says_is_passed_on(self):
        heard = []
        log = ("INFO scrapy.core.engine Spider opened\nINFO exchange 1/2 KO: 5 new\n\n"
               "WARNING exchange KO was restated\nERROR exchange KO: gone\nDEBUG exchange x\nTraceback\n")
        assert follow(StringIO(log), "exchange", heard.append) == "Traceback"
        assert heard == ["1/2 KO: 5 new", "KO was restated"]
        assert follow(StringIO(""), "exchange", heard.append) == "without a word"

    def test_unknown_source(self, store):
        with pytest.raises(BadInput, match="'bloomberg' is none; choose from exchange, yahoo, stooq, csv"):
            ingest(store, "bloomberg")

    def test_spider_that_dies_is_quoted(self, store):
        with pytest.raises(StockmlError, match=r"the exchange spider died: .*Invalid isoformat string: 'soon'"):
            crawl("exchange", {"as_of": "soon"}, {"STORE": store, "QUARANTINE": store})

    def test_interrupted_run_leaves_no_alarm_and_no_spider(self, store):
        def interrupt(_):
            raise KeyboardInterrupt

        before = set(threading.enumerate())
        with price_site(date(1991, 1, 2)) as url, pytest.raises(KeyboardInterrupt):
            ingest(store, tickers=("KO",), base_url=url, say=interrupt)
        for thread in set(threading.enumerate()) - before:
            thread.join(5)  # a cancelled timer needs a moment, one that was forgotten minutes
        assert set(threading.enumerate()) <= before

    def test_program_ends_with_its_block(self):
        with program("exchange", "--leash", "--port", "0") as site:
            assert site.stdout.readline().startswith("http://127.0.0.1:")
        assert site.returncode is not None

    def test_program_on_a_leash_ends_with_whoever_started_it(self):
        code = ("import os; from stockml.ingest import program\n"
                "with program('exchange', '--leash', '--port', '0') as site:\n"
                "    site.stdout.readline(); print(site.pid, flush=True); os._exit(9)")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 9
        assert ended(int(done.stdout))

    def test_without_a_checkout_there_are_no_spiders(self, monkeypatch, tmp_path):
        monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
        with pytest.raises(BadInput, match=r"no scrapy\.cfg there; prices are scraped from a full checkout"):
            scrapy_folder()

    def test_only_bad_rows_are_an_error(self, store, tmp_path):
        day = pd.DataFrame({"ticker": "KO", "date": pd.to_datetime(["1991-01-02"]).as_unit("ms"), "close": 1e8,
                            "adj_close": 1e8, **dict.fromkeys(("open", "high", "low"), float("nan")), "volume": None})
        day.astype({"volume": "Int64"}).to_parquet(tmp_path / "snapshot.parquet")
        with program("exchange", "--leash", "--port", "0", "--snapshot", str(tmp_path / "snapshot.parquet")) as site, \
                pytest.raises(BadInput, match="exchange: not one of its rows was a bar; the quarantine says why"):
            ingest(store, base_url=site.stdout.readline().strip(), say=lambda _: None)
        assert "is no price" in (tmp_path / "quarantine.jsonl").read_text()
