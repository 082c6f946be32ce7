"From raw rows to the price store: check, quarantine, upsert. Nothing is dropped without a record."

import json
from pathlib import Path

import pandas as pd

from stockml.config import StockmlError
from stockml.files import atomic, write_json
from stockml.prices import Upsert, upsert
from stockml.schema import check_bars


class StorePipeline:
    "Collect a ticker's pages, then write them in one atomic upsert."

    def __init__(self, crawler):
        self.crawler, s = crawler, crawler.settings
        self.store, self.quarantine, self.report = Path(s["STORE"]), Path(s["QUARANTINE"]), s["REPORT"]
        self.pages: dict[str, list[pd.DataFrame]] = {}
        self.counts, self.rejected, self.tickers = Upsert(0, 0, 0), 0, []

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    def process_item(self, page):
        good, rejected = check_bars(pd.DataFrame(page.rows), self.crawler.spider.as_of) if page.rows else (None, None)
        if page.rows:
            self.rejected += self._record(page.ticker, rejected)
            self.pages.setdefault(page.ticker, []).append(good)
        if page.last:
            self._flush(page.ticker)
        return page

    def close_spider(self):
        "A history that was cut off keeps the pages that did arrive: they are a prefix, the next run goes on from there."
        for ticker in list(self.pages):
            self._flush(ticker, finished=False)
        if self.report:
            spider = self.crawler.spider
            write_json(self.report, {**self.counts._asdict(), "rejected": self.rejected, "tickers": sorted(self.tickers),
                                     "restated": spider.restated, "errors": spider.errors})

    def _flush(self, ticker: str, finished: bool = True) -> None:
        bars = pd.concat(self.pages.pop(ticker, [pd.DataFrame()]))
        try:
            result = upsert(self.store, bars.drop_duplicates(["ticker", "date"], keep="last")) if len(bars) else Upsert(0, 0, 0)
        except StockmlError as e:
            self.crawler.spider.fail(str(e))
            return
        self.counts = Upsert(*(a + b for a, b in zip(self.counts, result, strict=True)))
        if finished:
            self.tickers.append(ticker)
            self.crawler.spider.logger.info("stored %s: %d new, %d restated", ticker, result.added, result.restated)

    def _record(self, ticker: str, rejected: pd.DataFrame) -> int:
        "Append bad rows to the quarantine, each once, however often they are scraped."
        if rejected.empty:
            return 0
        lines = [json.dumps({"source": self.crawler.spider.name, **row}, default=str, sort_keys=True)
                 for row in rejected.astype(object).where(rejected.notna(), None).to_dict("records")]
        there = self.quarantine.read_text().splitlines() if self.quarantine.exists() else []
        if fresh := [line for line in dict.fromkeys(lines) if line not in set(there)]:
            with atomic(self.quarantine) as tmp:
                tmp.write_text("\n".join([*there, *fresh]) + "\n")
        self.crawler.spider.logger.warning("quarantined %d rows of %s: %s", len(rejected), ticker, rejected["reason"].iloc[0])
        return len(rejected)
