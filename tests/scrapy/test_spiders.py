"The real spiders against a site on its good and its bad days, and against sites that are none."

import json
import logging
import socket
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pandas as pd
import pytest
from flask import Flask, Response
from mishaps import full_disk
from scraper.middlewares import wait_seconds

from stockml.ingest import ingest, program
from stockml.prices import read_bars

SOURCES = ("exchange", "yahoo", "stooq")
HISTORY = {"exchange": "/history", "yahoo": "/v8", "stooq": "/q"}  # where each asks for histories
BEFORE, SPLIT = date(2020, 8, 28), date(2020, 8, 31)


def quarantine(store: Path) -> list[dict]:
    return [json.loads(line) for line in store.with_name("quarantine.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    "All 20 histories, scraped from the bundled site by `ingest` with nothing but defaults: store and report."
    store = tmp_path_factory.mktemp("everything") / "bars.parquet"
    return store, ingest(store, say=logging.getLogger(__name__).info)


class TestAllHistories:
    def test_store_equals_the_snapshot(self, everything, snapshot):
        pd.testing.assert_frame_equal(read_bars(everything[0]), read_bars(snapshot))

    def test_report(self, everything):
        report = everything[1]
        assert (report.source, report.as_of) == ("exchange", date(2026, 8, 5))
        assert (report.added, report.restated, report.unchanged) == (169_450, 0, 0)
        assert len(report.tickers) == 20 and report.gaps == {} and report.refetched == []
        assert set(report.stale) == set(report.tickers) - {"AAPL"}

    def test_within_a_minute(self, everything):
        assert everything[1].seconds < 60


class TestBadDays:
    @pytest.mark.parametrize("source", SOURCES)
    def test_slow_broken_busy_and_cut_off_the_store_is_right_all_the_same(self, open_site, scrape, source):
        site = open_site("slow=0.02", "error=2", "busy=1", "truncate=1")
        report = scrape(site, source)
        assert scrape.holds(site.bars())
        assert (report.added, report.quarantined) == (len(site.bars()), 0)
        assert [a.status for a in site.asked[:5]] == [200, 500, 500, 429, 200]
        assert any("answered 429: waiting 1 s" in line for line in scrape.said)
        assert site.asked[4].at - site.asked[3].at >= 1  # Retry-After

    def test_site_that_wants_too_long_a_pause_is_left_alone(self, open_site, scrape):
        site = open_site("busy=99", "retry_after=301")
        assert "answered 429: it wants fewer requests; try again later" in scrape.error(site, tickers=("KO",))
        assert len(site.paths) == 1

    def test_site_that_stays_broken_is_one_line(self, open_site, scrape):
        site = open_site("error=99")
        message = scrape.error(site, "stooq", tickers=("KO", "XOM"))
        assert message == f"KO: {site.url}/q/d/l/ answered 500 (and 1 more)"
        assert len(site.paths) == 2 * 5
        assert not scrape.store.exists()

    def test_page_that_stays_cut_off(self, open_site, scrape):
        "The pages before it are kept, and the next run goes on from there."
        site = open_site()
        site.watch = lambda path: setattr(site.market.faults, "truncate", int("page=2" in path))
        assert "/history/AAPL sent rubbish (the page is cut off" in scrape.error(site, tickers=("AAPL",))
        assert scrape.holds(site.bars("AAPL")[:1000])
        site.watch = lambda path: None
        scrape(site, tickers=("AAPL",))
        assert scrape.holds(site.bars("AAPL"))

    def test_one_bad_history_does_not_keep_the_others_out(self, open_site, scrape):
        site = open_site()
        site.watch = lambda path: setattr(site.market.faults, "error", int("AAPL" in path))
        assert "/history/AAPL answered 500" in scrape.error(site)
        assert scrape.holds(site.bars("KO", "XOM"))

    def test_endless_answers_end_with_the_time_limit(self, open_site, scrape):
        site = open_site("slow=4")
        message = scrape.error(site, timeout_s=2)
        assert message == "exchange: not done after 2 s; what has come is stored, so run it again to go on"


class TestQuarantine:
    @pytest.mark.parametrize(("source", "reason"), [("yahoo", "close: missing"),
                                                    ("stooq", "close: not a finite number: 'n/a'")])
    def test_malformed_row_is_set_aside_with_its_reason(self, open_site, scrape, source, reason):
        site, day = open_site("malformed=KO:2019-03-01"), pd.Timestamp("2019-03-01")
        report = scrape(site, source)
        expected = site.bars()
        assert scrape.holds(expected[(expected["ticker"] != "KO") | (expected["date"] != day)].reset_index(drop=True))
        assert (report.quarantined, report.gaps) == (1, {"KO": 1})
        assert [(r["source"], r["ticker"], r["date"], r["reason"]) for r in quarantine(scrape.store)] == [
            (source, "KO", "2019-03-01", reason)]
        assert any(f"1 quarantined ({reason})" in line for line in scrape.said)

    def test_bad_row_is_noted_once_and_fetched_as_soon_as_it_is_mended(self, open_site, scrape):
        site = open_site("malformed=KO:2019-03-01")
        assert [scrape(site, tickers=("KO",)).quarantined for _ in range(2)] == [1, 1]
        assert [r["reason"] for r in quarantine(scrape.store)] == ["close: not a finite number: 'n/a'"]
        site.market.faults.malformed = None
        assert scrape(site, tickers=("KO",)).added == 1
        assert scrape.holds(site.bars("KO"))

    def test_damaged_quarantine_is_an_error_not_a_silent_success(self, open_site, scrape):
        site = open_site()
        before = scrape.knows(site.bars())
        scrape.store.with_name("quarantine.jsonl").write_text('{"ticker": "XOM"')
        assert "quarantine.jsonl: a damaged quarantine (JSONDecodeError" in scrape.error(site, tickers=("XOM",))
        assert scrape.store.read_bytes() == before


class TestIncremental:
    @pytest.mark.parametrize(("source", "address"), [
        ("exchange", "/history/{}?start={start}&end=9999-12-31"),
        ("stooq", "/q/d/l/?s={low}.us&d1={start:%Y%m%d}&d2=99991231&i=d"),
        ("yahoo", "/v8/finance/chart/{}?period1={stamp}&period2=4102531200&interval=1d&events=div%2Csplit"),
    ])
    def test_only_the_missing_days_and_an_overlap_are_asked_for(self, open_site, scrape, source, address):
        site = open_site(as_of=BEFORE)
        scrape.knows(site.bars())
        site.market.clock = date(2020, 9, 2)
        report = scrape(site, source)
        start = BEFORE - timedelta(days=9)
        stamp = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp())
        assert sorted(site.paths) == sorted(
            address.format(t, low=t.lower(), start=start, stamp=stamp) for t in ("AAPL", "KO", "XOM"))
        assert (report.added, report.unchanged, report.restated) == (3 * 3, 3 * 8, 0)
        assert scrape.holds(site.bars())

    def test_nothing_new_changes_no_byte(self, open_site, scrape):
        site = open_site()
        before = scrape.knows(site.bars()), scrape.store.stat().st_mtime_ns
        assert scrape(site).added == 0
        assert (scrape.store.read_bytes(), scrape.store.stat().st_mtime_ns) == before

    @pytest.mark.parametrize("source", SOURCES)
    def test_split_restates_a_history_which_is_fetched_again(self, open_site, scrape, source):
        site = open_site("restate=AAPL:2:2020-08-31", as_of=BEFORE)
        scrape.knows(site.bars())
        raw = site.bars("AAPL")["close"].iloc[0]
        site.market.clock = SPLIT
        report = scrape(site, source)
        assert report.refetched == ["AAPL"]
        assert (report.added, report.restated) == (3, len(site.bars("AAPL")) - 1)
        assert scrape.holds(site.bars())
        assert read_bars(scrape.store)["close"].iloc[0] == pytest.approx(raw / 2)
        assert "AAPL was restated: fetching all of it again" in scrape.said

    def test_clock_set_back_gives_the_store_of_that_day(self, open_site, scrape):
        site = open_site()
        scrape.knows(site.bars())
        report = scrape(site, as_of=BEFORE)
        assert report.removed == (site.bars()["date"] > pd.Timestamp(BEFORE)).sum() > 0
        site.market.clock = BEFORE
        assert scrape.holds(site.bars())
        assert all("&end=2020-08-28" in path for path in site.paths)

    @pytest.mark.parametrize("source", SOURCES)
    def test_clock_set_back_to_before_a_split_gives_the_units_of_that_day(self, open_site, scrape, source):
        site = open_site("restate=AAPL:2:2020-08-31")
        scrape.knows(site.bars())
        site.market.clock = BEFORE
        assert scrape(site, source, as_of=BEFORE).refetched == ["AAPL"]
        assert scrape.holds(site.bars())

    def test_clock_set_back_before_all_history_keeps_the_store(self, open_site, scrape):
        site = open_site()
        before = scrape.knows(site.bars())
        scrape.error(site, as_of=date(1999, 1, 1))
        assert scrape.store.read_bytes() == before

    def test_pruned_store_has_the_tickers_of_this_run_only(self, open_site, scrape):
        site = open_site()
        scrape.knows(site.bars())
        assert scrape(site, tickers=("ko",), prune=True).removed == len(site.bars("AAPL", "XOM"))
        assert scrape.holds(site.bars("KO"))

    def test_new_ticker_beside_known_ones_comes_whole(self, open_site, scrape):
        site = open_site()
        scrape.knows(site.bars("KO"))
        scrape(site, tickers=())  # all that the site lists
        assert scrape.holds(site.bars())


class TestRefusals:
    @pytest.mark.parametrize("source", SOURCES)
    def test_robots_forbid_so_the_spider_says_so_and_stops(self, open_site, scrape, source):
        site = open_site(f"robots={HISTORY[source]}")
        message = scrape.error(site, source)
        assert message.startswith(f"robots.txt of {site.url.removeprefix('http://')} forbids {HISTORY[source]}")
        assert f"{source} stops; ask the host for permission, or use another source" in message
        assert site.paths == []
        assert not scrape.store.exists()

    @pytest.mark.parametrize(("source", "words"), [
        ("exchange", "/history/ENRN answered 404: unknown ticker"),
        ("yahoo", "/v8/finance/chart/ENRN says: No data found, symbol may be delisted"),
        ("stooq", "/q/d/l/ says: No data: unknown ticker, or none in these years"),
    ])
    def test_unknown_ticker_is_named_and_the_others_are_stored(self, open_site, scrape, source, words):
        site = open_site()
        message = scrape.error(site, source, tickers=("ENRN", "KO"))
        assert message == f"ENRN: {site.url}{words}"
        assert scrape.holds(site.bars("KO"))

    def test_provider_without_a_list_wants_tickers(self, open_site, scrape):
        assert scrape.error(open_site(), "yahoo", tickers=()) == \
            "yahoo: name the tickers; this provider has no list of them"

    def test_before_anything_traded(self, open_site, scrape):
        site = open_site()
        assert scrape.error(site, tickers=(), as_of=date(1999, 1, 1)) == f"{site.url} lists no stocks as of 1999-01-01"


class TestNoSite:
    def test_site_that_is_down_is_one_line(self, scrape):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{closed.getsockname()[1]}"
            message = scrape.error(url, tickers=())
        assert message.startswith(f"index: {url}/ does not answer (")
        assert message.endswith("); is the site up?")

    @pytest.mark.parametrize(("source", "body", "words"), [
        ("exchange", '{"chart": {}}', "(the page is cut off, or another site's)"),
        ("yahoo", "<html>Please accept our cookies</html>", "(not the chart format: "),
        ("stooq", b"\x89PNG\r\n\x1a\n\x00\x00", "(not text)"),
    ])
    def test_rubbish_is_one_line(self, serve, open_site, scrape, source, body, words):
        before = scrape.knows(open_site().bars())
        app = Flask(__name__)
        kind = "image/png" if isinstance(body, bytes) else "text/html"
        app.add_url_rule("/<path:path>", view_func=lambda path: Response(body, mimetype=kind))
        message = scrape.error(serve(app), source, tickers=("KO",))
        assert f" sent rubbish {words}" in message
        assert message.endswith("nothing of that page was stored")
        assert scrape.store.read_bytes() == before


class TestThisMachine:
    def test_full_disk_is_one_line_and_leaves_the_store(self, open_site, scrape):
        site = open_site(as_of=BEFORE)
        before = scrape.knows(site.bars("XOM"))
        with full_disk(len(before) + 500):
            message = scrape.error(site, tickers=("AAPL",))
        assert message.startswith(f"AAPL: {scrape.store}: could not be written (")
        assert message.endswith("File too large); what was there is untouched")
        assert scrape.store.read_bytes() == before
        assert sorted(p.name for p in scrape.store.parent.glob(".bars.parquet.*")) == [
            ".bars.parquet.ingest.lock", ".bars.parquet.lock"]

    def test_damaged_store_is_named_and_kept(self, open_site, scrape):
        scrape.store.write_bytes(b"PAR1")
        assert f"{scrape.store}: not a readable price store" in scrape.error(open_site(), tickers=("KO",))
        assert scrape.store.read_bytes() == b"PAR1"

    @pytest.mark.parametrize(("ticker", "code"), [("XOM", 0), ("ENRN", 1)])
    def test_spider_ends_with_an_honest_exit_code(self, open_site, store, ticker, code):
        with program("scrapy", "crawl", "stooq", "-a", f"base_url={open_site().url}", "-a", f"tickers={ticker}",
                     "-s", f"STORE={store}", "-s", f"QUARANTINE={store}.jsonl", "-s", "LEASH=1") as spider:
            spider.stdout.read()
            assert spider.wait() == code


@pytest.mark.parametrize(("header", "seconds"), [
    (b"120", 120), (b" 5 ", 5), (b"0", 0), (b"-1", None), (b"soon", None), (b"", None), (None, None), (b"\xff", None),
    (b"Fri, 29 Sep 2000 09:30:00 GMT", 0),
])
def test_retry_after_header(header, seconds):
    assert wait_seconds(header) == seconds


def test_retry_after_as_a_date():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 85 < wait_seconds(later.encode()) <= 90


def test_spiders_are_polite():
    "No test may loosen this by accident: real hosts are asked once a second at most, and robots.txt is obeyed."
    from scraper import settings

    assert settings.ROBOTSTXT_OBEY and settings.AUTOTHROTTLE_ENABLED
    assert settings.CONCURRENT_REQUESTS == 1 and settings.DOWNLOAD_DELAY >= 1
    assert settings.USER_AGENT.startswith("stockml/") and "Mozilla" not in settings.USER_AGENT
