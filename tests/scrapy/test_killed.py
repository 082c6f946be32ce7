"Killed at any moment: the next run completes, and the store equals that of a run that was never killed."

import os
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import psutil
import pytest
from mishaps import ended

from stockml.prices import read_bars

BEFORE, SPLIT = date(2020, 8, 28), date(2020, 8, 31)
MORTAL = """
import os, sys
if "crawl" in sys.orig_argv:  # a spider, not the program that starts it
    import mishaps
    mishaps.arm(os.environ["DIE_IN"], int(os.environ["DIE_AT"]))
"""


@pytest.fixture
def mortal(tmp_path_factory, monkeypatch, store):
    "Spiders die before the n-th file operation beside the store: `mortal(n)`; `mortal(0)` lets them live."
    folder = tmp_path_factory.mktemp("mortal")
    (folder / "sitecustomize.py").write_text(MORTAL)
    (folder / "hasty.py").write_text("from scraper.settings import *\nHOLD_S = 0\n")  # each history is written by itself
    monkeypatch.setenv("SCRAPY_SETTINGS_MODULE", "hasty")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{Path(__file__).parents[1]}")
    monkeypatch.setenv("DIE_IN", str(store.parent))
    return lambda moment: monkeypatch.setenv("DIE_AT", str(moment))


def consistent(store: Path, truth) -> bool:
    "Whatever is in the store is true, and none of it is there twice."
    if not store.exists():
        return True
    bars = read_bars(store)
    return not bars.duplicated(["ticker", "date"]).any() and len(bars.merge(truth)) == len(bars)


def test_killed_while_writing(open_site, scrape, mortal):
    site = open_site("malformed=KO:2016-01-05")
    for moment in (4, 10, 7):  # the quarantine written, not renamed; the same of the store; the first history stored
        mortal(moment)
        assert "the exchange spider died" in scrape.error(site)
        assert consistent(scrape.store, site.bars())
    assert set(read_bars(scrape.store)["ticker"]) == {"KO"}
    mortal(0)
    site.market.faults.malformed = None
    scrape(site)
    assert scrape.holds(site.bars())
    assert not list(scrape.store.parent.glob(".*.tmp"))


def test_killed_while_a_restated_history_takes_the_old_ones_place(open_site, scrape, mortal):
    "The new version lacks a day of the old one, so that there are two writes to be killed between."
    site = open_site("restate=AAPL:2:2020-08-31", as_of=BEFORE)
    old = site.bars()
    scrape.knows(old)
    site.market.clock, site.market.faults.malformed = SPLIT, ("AAPL", date(2014, 3, 3))
    for moment, stored in ((12, len(old)), (13, len(old) - 1)):  # before the first write has ended, and after
        mortal(moment)
        assert "the yahoo spider died" in scrape.error(site, "yahoo", tickers=("AAPL",))
        assert consistent(scrape.store, old)
        assert len(read_bars(scrape.store)) == stored
    mortal(0)
    assert scrape(site, "yahoo").refetched == ["AAPL"]
    new = site.bars()
    lost = (new["ticker"] == "AAPL") & (new["date"] == "2014-03-03")
    assert scrape.holds(new[~lost].reset_index(drop=True))


@pytest.fixture
def by_hand(root, store):
    "Start `scrapy crawl exchange` against a site, quietly."
    return lambda site: subprocess.Popen(
        [sys.executable, "-m", "scrapy", "crawl", "exchange", "-a", f"base_url={site.url}", "-s", f"STORE={store}",
         "-s", f"QUARANTINE={store.with_name('quarantine.jsonl')}", "-s", "LOG_ENABLED=0"], cwd=root / "scrapy_project")


def test_killed_between_requests(open_site, scrape, by_hand):
    site = open_site()
    for requests in (2, 6):
        end = len(site.asked) + requests
        with by_hand(site) as spider:
            site.watch = lambda _, spider=spider, end=end: len(site.asked) > end and spider.kill()
        assert spider.returncode == -signal.SIGKILL
        assert consistent(scrape.store, site.bars())
    site.watch = lambda _: None
    scrape(site)
    assert scrape.holds(site.bars())


def test_polite_end_keeps_the_pages_that_have_come(open_site, scrape, by_hand):
    "SIGTERM: what a supervisor sends first."
    site = open_site()
    with by_hand(site) as spider:
        site.watch = lambda path: "AAPL?page=3" in path and spider.terminate()
    assert consistent(scrape.store, site.bars())
    assert (read_bars(scrape.store)["ticker"] == "AAPL").sum() >= 2000
    site.watch = lambda _: None
    scrape(site)
    assert scrape.holds(site.bars())


def test_spider_does_not_outlive_an_ingest_that_is_killed(open_site, scrape):
    site = open_site("slow=0.5")
    code = "import sys; from stockml.ingest import ingest; ingest(sys.argv[1], base_url=sys.argv[2])"
    with subprocess.Popen([sys.executable, "-c", code, scrape.store, site.url]) as run:
        site.watch = lambda path: "/history" in path and run.poll() is None and run.kill()
        while not site.paths:
            assert run.poll() is None
            spiders = [child.pid for child in psutil.Process(run.pid).children(recursive=True)]
    assert run.returncode == -signal.SIGKILL
    assert spiders and all(ended(pid) for pid in spiders)
