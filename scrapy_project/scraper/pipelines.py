"From raw rows to the price store: check, quarantine, upsert. Nothing is dropped without a record."

import json
from pathlib import Path

import pandas as pd

from stockml.config import StockmlError
from stockml.files import atomic, lock, write_json
from stockml.prices import Upsert, read_bars, upsert, write_bars
from stockml.schema import check_bars


def forget_others(store: Path, ticker: str, bars: pd.DataFrame) -> None:
    """Take out the days of a restated history that its new version lacks, before that is written.

    Else they would stay in the old units. Killed between the two writes, the store is still all in the old units.
    """
    with lock(store.parent / f".{store.name}.lock", what="write to the price store"):
        everything = read_bars(store)
        gone = (everything["ticker"] == ticker) & ~everything["date"].isin(bars["date"])
        if gone.any():
            write_bars(store, everything[~gone])


class StorePipeline:
    "Collect a ticker's pages; when the last has come, check them and write them in one atomic step."

    def __init__(self, crawler):
        self.crawler, s = crawler, crawler.settings
        self.store, self.quarantine, self.report = Path(s["STORE"]), Path(s["QUARANTINE"]), s["REPORT"]
        self.pages: dict[str, list[dict]] = {}
        self.partial: dict[str, bool] = {}  # ticker -> may a part of it be stored?
        self.counts, self.quarantined, self.tickers = Upsert(0, 0, 0), 0, []

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    def process_item(self, page):
        if page.first:
            self.pages[page.ticker] = []
        self.pages[page.ticker] += page.rows
        self.partial[page.ticker] = not page.replace
        if page.last:
            self._store(page.ticker, page.replace)
            self.tickers.append(page.ticker)
        return page

    def close_spider(self):
        "Of a history that was cut off, the pages that did arrive are kept: the next run goes on from there."
        for ticker in [t for t in self.pages if self.partial[t]]:
            self._store(ticker, restated=False)
        if self.report:
            spider = self.crawler.spider
            write_json(self.report, {**self.counts._asdict(), "quarantined": self.quarantined,
                                     "tickers": sorted(self.tickers), "refetched": sorted(spider.restated),
                                     "errors": spider.errors})

    def _store(self, ticker: str, restated: bool) -> None:
        spider, rows = self.crawler.spider, self.pages.pop(ticker)
        good, rejected = check_bars(pd.DataFrame(rows), spider.as_of) if rows else (pd.DataFrame(), pd.DataFrame())
        if restated and good.empty:
            spider.fail(f"{ticker}: its restated history came back empty; the old one was kept")
            return
        try:
            self.quarantined += self._set_aside(rejected)
            if restated:
                forget_others(self.store, ticker, good)
            counts = upsert(self.store, good) if len(good) else Upsert(0, 0, 0)
        except StockmlError as e:
            spider.fail(f"{ticker}: {e}")
            return
        self.counts = Upsert(*map(sum, zip(self.counts, counts, strict=True)))
        bad = f", {len(rejected)} quarantined ({rejected['reason'].iloc[0]})" if len(rejected) else ""
        spider.logger.info("%d/%d %s: %d new, %d restated%s", len(self.tickers) + 1, len(spider.tickers), ticker,
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
