"From raw rows to the price store: check, quarantine, upsert. Nothing is dropped without a record."

import json
import time
from itertools import chain
from pathlib import Path

import pandas as pd

from stockml.config import StockmlError
from stockml.files import atomic, lock, write_json
from stockml.prices import Upsert, read_bars, upsert, write_bars
from stockml.schema import check_bars

NOTHING = Upsert(0, 0, 0)


def some(tickers: list[str]) -> str:
    "A few of many tickers, for messages."
    return ", ".join(tickers[:8]) + (f" and {len(tickers) - 8} more" if len(tickers) > 8 else "")


def forget_others(store: Path, ticker: str, bars: pd.DataFrame) -> None:
    """Take out the days of a restated history that its new version lacks, before that is written.

    Else they would stay in the old units. Killed between the two writes, the store is still all in the old units.
    """
    with lock(store.parent / f".{store.name}.lock", what="write to the price store"):
        everything = read_bars(store)
        gone = (everything["ticker"] == ticker) & ~everything["date"].isin(bars["date"])
        if gone.any():
            write_bars(store, everything[~gone])


def report(counts: Upsert = NOTHING, quarantined: int = 0, tickers=(), refetched=(), errors=()) -> dict:
    "What a crawl did, as plain JSON."
    return {**counts._asdict(), "quarantined": quarantined, "tickers": sorted(tickers), "refetched": sorted(refetched),
            "errors": list(errors)}


class StorePipeline:
    """Collect histories page by page, check them and write them.

    A write of the store rewrites all of it, so whole histories that come within HOLD_S of one another share one.
    """

    def __init__(self, crawler):
        self.crawler, s = crawler, crawler.settings
        self.store, self.quarantine, self.report = Path(s["STORE"]), Path(s["QUARANTINE"]), s["REPORT"]
        self.hold_s, self.written = s.getfloat("HOLD_S"), time.monotonic()
        self.pages: dict[str, list[dict]] = {}
        self.partial: dict[str, bool] = {}  # ticker -> may a part of it be stored?
        self.waiting: dict[str, list[dict]] = {}  # whole histories, not written yet
        self.counts, self.quarantined, self.tickers = NOTHING, 0, []

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    def process_item(self, page):
        if page.first:
            self.pages[page.ticker] = []
        self.pages[page.ticker] += page.rows
        self.partial[page.ticker] = not page.replace
        if page.last:
            self.tickers.append(page.ticker)
            rows = self.pages.pop(page.ticker)
            if page.replace:
                self._store({page.ticker: rows}, restated=True)
            else:
                self.waiting[page.ticker] = rows
                self._write_waiting(self.hold_s)
        return page

    def close_spider(self):
        "Of a history that was cut off, the pages that did arrive are kept: the next run goes on from there."
        self.waiting |= {ticker: rows for ticker, rows in self.pages.items() if self.partial[ticker]}
        self._write_waiting(after_s=0)
        spider = self.crawler.spider
        spider.report = report(self.counts, self.quarantined, self.tickers, spider.restated, spider.errors)
        if self.report:
            write_json(self.report, spider.report)

    def _write_waiting(self, after_s: float) -> None:
        "Write what waits, if the last such write is long enough ago."
        if self.waiting and time.monotonic() - self.written >= after_s:
            histories, self.waiting = self.waiting, {}
            self._store(histories)
            self.written = time.monotonic()

    def _store(self, histories: dict[str, list[dict]], restated: bool = False) -> None:
        spider, rows, names = self.crawler.spider, list(chain(*histories.values())), some(list(histories))
        good, rejected = check_bars(pd.DataFrame(rows), spider.as_of) if rows else (pd.DataFrame(), pd.DataFrame())
        if restated and good.empty:
            spider.fail(f"{names}: its restated history came back empty; the old one was kept")
            return
        try:
            self.quarantined += self._set_aside(rejected)
            if restated:
                forget_others(self.store, *histories, good)
            counts = upsert(self.store, good) if len(good) else NOTHING
        except StockmlError as e:
            spider.fail(f"{names}: {e}")
            return
        self.counts = Upsert(*map(sum, zip(self.counts, counts, strict=True)))
        bad = f", {len(rejected)} quarantined ({rejected['reason'].iloc[0]})" if len(rejected) else ""
        spider.logger.info("%d/%d %s: %d new, %d restated%s", len(self.tickers), len(spider.tickers), names,
                           counts.added, counts.restated, bad)

    def _set_aside(self, rejected: pd.DataFrame) -> int:
        "Append bad rows to the quarantine, each once, however often they are scraped."
        if rejected.empty:
            return 0
        lines = [json.dumps({"source": self.crawler.spider.name, **row}, default=str, sort_keys=True)
                 for row in rejected.astype(object).where(rejected.notna(), None).to_dict("records")]
        there = self.quarantine.read_text().splitlines() if self.quarantine.exists() else []
        if fresh := [line for line in dict.fromkeys(lines) if line not in set(there)]:
            with atomic(self.quarantine) as tmp:
                tmp.write_text("\n".join([*there, *fresh]) + "\n")
        return len(rejected)
