"One warm spider for many days: it finds what is new, survives what kills it."

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import date, timedelta

import pandas as pd
import psutil
import pytest
from mishaps import ended

from stockml.config import BadInput, StockmlError
from stockml.files import lock
from stockml.ingest import follower, price_site, set_clock
from stockml.prices import read_bars, sessions, write_bars

DAYS = [d.date() for d in sessions(date(2020, 8, 27), date(2020, 9, 3))]
SPLIT = date(2020, 8, 31)


def spiders() -> list[psutil.Process]:
    "The warm spiders of this process."
    return [p for p in psutil.Process().children() if "follow" in p.cmdline()]


@pytest.fixture
def days(open_site, scrape):
    "A site at the eve of DAYS, and a store of what it knew then."
    site = open_site(as_of=DAYS[0] - timedelta(days=1))
    scrape.knows(site.bars())
    return site


@pytest.fixture
def warm(store, days):
    "`warm(day)`: move the clock of the site there and scrape up to it."
    with follower(store, base_url=days.url) as scrape_to:
        def to(day: date) -> dict:
            days.market.clock = day
            return scrape_to(day)

        yield to


class TestDays:
    def test_each_day_is_added_by_one_process(self, warm, days, scrape):
        seen = set()
        for day in DAYS:
            report = warm(day)
            assert (report["added"], report["restated"], report["refetched"], report["removed"]) == (3, 0, [], 0)
            assert report["tickers"] == days.market.tickers() and "errors" not in report
            assert scrape.holds(days.bars())
            seen |= {p.pid for p in spiders()}
        assert len(seen) == 1
        assert len(days.paths) == len(DAYS) * (1 + len(days.market.tickers()))  # the index once a day, each history once

    def test_a_day_again_and_a_day_without_trade_change_no_byte(self, warm, store):
        warm(DAYS[1])
        before = store.read_bytes(), store.stat().st_mtime_ns
        for day in (DAYS[1], DAYS[1] + timedelta(days=1)):  # a Friday, a Saturday
            assert warm(day)["added"] == 0
        assert (store.read_bytes(), store.stat().st_mtime_ns) == before

    def test_days_that_were_left_out_are_caught_up_on(self, warm, days, scrape):
        warm(DAYS[0])
        assert warm(DAYS[-1])["added"] == 3 * (len(DAYS) - 1)
        assert scrape.holds(days.bars())

    def test_a_clock_that_is_set_back(self, warm, days, scrape):
        warm(DAYS[-1])
        assert warm(DAYS[1])["removed"] == 3 * (len(DAYS) - 2)
        assert scrape.holds(days.bars())

    def test_a_new_ticker_comes_whole_on_its_first_day(self, warm, days, scrape):
        xom = days.market._bars.pop("XOM")
        scrape.knows(days.bars())
        assert warm(DAYS[0])["added"] == 2
        days.market._bars["XOM"] = xom
        report = warm(DAYS[1])
        assert report["tickers"] == days.market.tickers() and scrape.holds(days.bars())
        assert report["added"] == 2 + len(days.bars("XOM"))

    def test_a_split_restates_a_history_on_its_day(self, warm, days, scrape):
        days.market.faults.restate = ("AAPL", 2.0, SPLIT)
        for day in DAYS:
            report = warm(day)
            assert report["refetched"] == (["AAPL"] if day == SPLIT else [])
            assert scrape.holds(days.bars())

    def test_of_the_named_tickers_only(self, store, days):
        days.market.clock = DAYS[0]
        with follower(store, base_url=days.url, tickers=("ko",)) as scrape_to:
            assert scrape_to(DAYS[0])["tickers"] == ["KO"]
        assert all(path.startswith("/history/KO") for path in days.paths)

    def test_the_bundled_site_follows_the_days(self, store):
        with follower(store, tickers=("KO",)) as scrape_to:
            whole, one = scrape_to(date(2000, 9, 28)), scrape_to(date(2000, 9, 29))
        assert (whole["added"], one["added"]) == (len(read_bars(store)) - 1, 1)

    def test_a_provider_by_its_own_spider(self, store, days):
        days.market.clock = DAYS[0]
        with follower(store, "stooq", days.url, ("KO",)) as scrape_to:
            assert scrape_to(DAYS[0])["added"] == 1


class TestBadDays:
    def test_a_site_that_is_down_is_one_line_a_day_and_then_all_is_caught_up_on(self, store, scrape, open_site, days):
        days.market.clock = DAYS[-1]
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            down = f"http://127.0.0.1:{closed.getsockname()[1]}"
        before = store.read_bytes()
        with follower(store, base_url=down) as scrape_to:
            for day in DAYS[:3]:
                with pytest.raises(BadInput, match=r"^index: http://127\.0\.0\.1:\d+/ does not answer \(.*\); is the site up\?$"):
                    scrape_to(day)
            assert len(spiders()) == 1 and store.read_bytes() == before

    def test_a_site_that_comes_back(self, warm, days, scrape):
        warm(DAYS[0])
        days.market.faults.error = 10**6
        for day in DAYS[1:4]:
            with pytest.raises(BadInput, match="answered 500") as e:
                warm(day)
            assert "\n" not in str(e.value)
        days.market.faults.error = 0
        assert warm(DAYS[4])["added"] == 3 * 4
        assert scrape.holds(days.bars())

    def test_a_spider_that_is_killed_while_it_rests_is_started_again(self, warm, days, scrape):
        warm(DAYS[0])
        (first,) = spiders()
        first.kill()
        first.wait(10)
        assert warm(DAYS[1])["added"] == 3 and spiders() != [first]
        assert scrape.holds(days.bars())

    def test_a_spider_that_is_killed_at_work_costs_one_day(self, warm, days, scrape):
        warm(DAYS[0])
        days.watch = lambda path: "/history/KO" in path and [p.kill() for p in spiders()]
        with pytest.raises(StockmlError, match=r"^the exchange spider died: without a word$"):
            warm(DAYS[1])
        days.watch = lambda path: None
        assert warm(DAYS[2])["added"] == 3 * 2
        assert scrape.holds(days.bars())

    def test_a_day_that_takes_too_long(self, store, days, scrape):
        days.market.clock = DAYS[0]
        with follower(store, base_url=days.url, timeout_s=8) as scrape_to:
            days.market.faults.slow = 60
            with pytest.raises(BadInput, match=r"^exchange: not done after 8 s; the next call goes on$"):
                scrape_to(DAYS[0])
            days.market.faults.slow = 0
            assert scrape_to(DAYS[0])["added"] == 3

    def test_an_interrupted_day_leaves_no_answer_for_the_next(self, warm, days, scrape):
        warm(DAYS[0])
        days.watch = lambda path: "/history/KO" in path and os.kill(os.getpid(), signal.SIGINT)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background is deaf to it
        with pytest.raises(KeyboardInterrupt):
            warm(DAYS[1])
        signal.signal(signal.SIGINT, before)
        days.watch = lambda path: None
        assert 3 <= warm(DAYS[2])["added"] <= 6  # what the interrupted crawl had fetched may be stored, or not
        assert scrape.holds(days.bars())

    def test_while_another_run_holds_the_store(self, warm, store):
        with lock(store.parent / ".bars.parquet.ingest.lock"), \
                pytest.raises(BadInput, match=r"another ingest into bars\.parquet is under way"):
            warm(DAYS[0])
        assert warm(DAYS[0])["added"] == 3

    def test_unknown_source(self, store):
        with pytest.raises(BadInput, match="'bloomberg' is none"), follower(store, "bloomberg"):
            pass

    def test_the_spider_ends_with_the_block(self, store, days):
        days.market.clock = DAYS[0]
        with follower(store, base_url=days.url) as scrape_to:
            scrape_to(DAYS[0])
            (spider,) = spiders()
        assert ended(spider.pid, within_s=0.1)


class TestCommand:
    @pytest.fixture
    def command(self, root, store, days):
        "`scrapy follow exchange` in a process of its own, as a person starts it: standard input in, standard output out."
        def run(text: str, *flags: str, **options) -> subprocess.CompletedProcess:
            args = ["follow", "exchange", "-a", f"base_url={days.url}", "-s", f"STORE={store}", "-s", f"QUARANTINE={store}.jsonl"]
            return subprocess.run([sys.executable, "-m", "scrapy", *args, *flags], cwd=root / "scrapy_project", input=text,
                                  capture_output=True, text=True, check=False, timeout=60, **options)

        return run

    def test_a_line_of_json_a_date_and_the_end_with_standard_input(self, command, days, scrape):
        days.market.clock = DAYS[1]
        done = command(f"{DAYS[0]}\n\nsoon\n{DAYS[1]}\n")
        first, bad, second = map(json.loads, done.stdout.splitlines())
        assert done.returncode == 0
        assert {k: first[k] for k in ("added", "restated", "unchanged", "quarantined")} == {
            "added": 3, "restated": 0, "unchanged": first["unchanged"], "quarantined": 0}
        assert (first["tickers"], first["refetched"], first["errors"]) == (days.market.tickers(), [], [])
        assert bad["errors"] == ["exchange: ValueError: Invalid isoformat string: 'soon'"] and set(bad) == set(first)
        assert second["added"] == 3 and scrape.holds(days.bars())
        assert done.stderr.count(f"3/3 {', '.join(days.market.tickers())}: 3 new, 0 restated") == 2  # one write of the store a day

    def test_on_a_leash_it_ends_at_once(self, command, days):
        days.market.faults.slow = 60
        begun = time.monotonic()
        assert command(f"{DAYS[0]}\n", "-s", "LEASH=1").returncode == 1
        assert time.monotonic() - begun < 25

    def test_a_spider_must_be_named_and_known(self, root):
        for args, said in (([], "name one spider"), (["nyse"], "nyse")):
            done = subprocess.run([sys.executable, "-m", "scrapy", "follow", *args], cwd=root / "scrapy_project", input="2020-01-02\n",
                                  capture_output=True, text=True, check=False, timeout=60)
            assert said in done.stdout + done.stderr


def test_days_of_twenty_stocks_follow_each_other(store, snapshot):
    "Onto a store of 90,000 rows."
    eve = date(2007, 6, 29)
    write_bars(store, read_bars(snapshot, as_of=eve))
    with price_site(eve) as url, follower(store, base_url=url) as scrape_to:
        for day in sessions(eve + timedelta(days=1), date(2007, 7, 20)):
            set_clock(url, day.date())
            assert scrape_to(day.date())["added"] == 20
    pd.testing.assert_frame_equal(read_bars(store), read_bars(snapshot, as_of=date(2007, 7, 20)))
