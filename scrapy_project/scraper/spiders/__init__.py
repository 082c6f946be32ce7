"""What all price spiders share: which dates to ask for, how a restated history is noticed, how failures are told.

A spider asks for what is missing plus an overlap of some days. If the overlap says something else than the store,
the provider has restated the history (a split, a dividend): all of it is fetched again and takes the old one's place.
"""

import json
from datetime import date, datetime, time, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pandas as pd
import scrapy
from scrapy import signals
from scrapy.downloadermiddlewares.retry import get_retry_request
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.http import TextResponse
from scrapy.spidermiddlewares.httperror import HttpError

from scraper.items import HistoryPage
from stockml.config import StockmlError
from stockml.prices import read_bars

OVERLAP = timedelta(days=10)
EPOCH = date(1960, 1, 1)
TOLERANCE = 1e-4  # relative; a restatement moves prices by more, float noise by less


class Rubbish(Exception):
    "The answer is not what it should be: cut off, another format, an error page with status 200. Worth another try."


class Refused(Exception):
    "The provider says no in its own words: an unknown ticker. Another try would get the same."


def place(url: str) -> str:
    "An address without its query, for messages."
    return url.split("?")[0]


def is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def last_finished_day() -> date:
    "The newest day whose New York session is over: a bar of a session still in progress is no fact yet."
    now = datetime.now(ZoneInfo("America/New_York"))
    return now.date() if now.time() > time(16, 30) else now.date() - timedelta(days=1)


class HistorySpider(scrapy.Spider):
    "Base of the price spiders. Arguments: tickers (comma-separated), as_of (ISO date, the last to be seen), base_url."

    base_url = ""
    needs_tickers = True
    report: dict | None = None  # what came of it: from the pipeline, when the spider closes

    def __init__(self, tickers="", as_of=None, base_url=None, **kwargs):
        super().__init__(**kwargs)
        self.base_url = (base_url or self.base_url).rstrip("/")
        self.tickers = list(dict.fromkeys(t.strip().upper() for t in tickers.split(",") if t.strip()))
        self.as_of = date.fromisoformat(as_of) if as_of else date.max
        if not is_loopback(self.base_url):  # the bundled site has a clock of its own, the world has this one
            self.as_of = min(self.as_of, last_finished_day())
        self.errors: list[str] = []
        self.restated: list[str] = []

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        if is_loopback(spider.base_url):
            for name, value in (("DOWNLOAD_DELAY", crawler.settings["LOOPBACK_DELAY"]), ("AUTOTHROTTLE_ENABLED", False)):
                crawler.settings.set(name, value, priority="spider")
        for signal in (signals.spider_error, signals.item_error):
            crawler.signals.connect(spider.crashed, signal)
        return spider

    async def start(self):
        try:
            self.known, self.starts = self._what_is_there()
        except StockmlError as e:
            self.fail(str(e))
            return
        if self.needs_tickers and not self.tickers:
            self.fail(f"{self.name}: name the tickers; this provider has no list of them")
        for request in self.ask_all():
            yield request

    def _what_is_there(self) -> tuple[dict, dict]:
        "(ticker, day) -> adjusted close for all days that are asked for again, and ticker -> the first of them."
        store = Path(self.settings["STORE"])
        if not store.exists():
            return {}, {}
        bars = read_bars(store, self.as_of)  # a clock that was set back does not know what came later
        ends, bad = bars.groupby("ticker")["date"].max(), self._quarantined()
        starts = {ticker: end.date() - OVERLAP + timedelta(days=1) for ticker, end in ends.items()}
        stored = bars[bars["ticker"].isin({ticker for ticker, _ in bad})]
        there = set(zip(stored["ticker"], stored["date"].dt.date, strict=True))
        for ticker, day in set(bad) - there:  # still missing: perhaps the provider has mended it
            if ticker in starts:
                starts[ticker] = min(starts[ticker], day)
        again = bars[bars["date"] >= bars["ticker"].map(pd.to_datetime(pd.Series(starts)))]
        return dict(zip(zip(again["ticker"], again["date"].dt.date, strict=True), again["adj_close"], strict=True)), starts

    def _quarantined(self) -> list[tuple[str, date]]:
        "Which days of which tickers were sent in a bad row."
        path = Path(self.settings["QUARANTINE"])
        try:
            rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            tickers, dates = [r["ticker"] for r in rows], pd.Series([r.get("date") for r in rows], dtype=object)
        except (ValueError, KeyError, TypeError) as e:
            raise StockmlError(f"{path}: a damaged quarantine ({type(e).__name__} {e}): move it away") from None
        days = pd.to_datetime(dates, errors="coerce", format="ISO8601")
        return [(ticker, day.date()) for ticker, day in zip(tickers, days, strict=True) if pd.notna(day)]

    def ask_all(self):
        "One request a ticker. Their pages rank before what follows, so at most two histories are open at a time."
        for rank, ticker in enumerate(self.tickers):
            yield self.ask(ticker, priority=-rank)

    def ask(self, ticker: str, priority: int, whole: bool = False) -> scrapy.Request:
        "The request for what is missing of a ticker, or for all of it."
        start = EPOCH if whole else min(self.starts.get(ticker, EPOCH), self.as_of)
        return scrapy.Request(self.address(ticker, start), self.parse, errback=self.failed, dont_filter=True,
                              priority=priority, cb_kwargs={"ticker": ticker, "first": True, "whole": whole})

    def address(self, ticker: str, start: date) -> str:
        "URL of a ticker's history from a date to as_of."
        raise NotImplementedError

    def rows(self, response: TextResponse, ticker: str) -> tuple[list[dict], str | None]:
        "Raw rows of a page, and the address of the next. `Rubbish` if it is not whole, `Refused` if there is no such."
        raise NotImplementedError

    def parse(self, response, ticker, first, whole):
        try:
            if not isinstance(response, TextResponse):
                raise Rubbish("not text")
            rows, following = self.rows(response, ticker)
        except Rubbish as e:
            yield self._again(response, ticker, e)
            return
        except Refused as e:
            self.fail(f"{ticker}: {place(response.url)} says: {e}")
            return
        if not whole and self._differs(ticker, rows):
            self.logger.warning("%s was restated: fetching all of it again", ticker)
            self.restated.append(ticker)
            yield self.ask(ticker, response.request.priority, whole=True)
            return
        yield HistoryPage(ticker, rows, first, last=following is None, replace=whole)
        if following:
            yield response.follow(following, self.parse, errback=self.failed, dont_filter=True,
                                  priority=response.request.priority,
                                  cb_kwargs={"ticker": ticker, "first": False, "whole": whole})

    def _differs(self, ticker: str, rows: list[dict]) -> bool:
        "Does the page contradict what the store has? Rows that cannot be read are the pipeline's business."
        for row in rows if ticker in self.starts else ():
            try:
                old = self.known[ticker, date.fromisoformat(row["date"])]
                new = float(row["close"] if row["adj_close"] is None else row["adj_close"])
            except (KeyError, TypeError, ValueError):
                continue
            if abs(new / old - 1) > TOLERANCE:
                return True
        return False

    def _again(self, response, ticker, error):
        "Ask once more for a page that was not whole; give up after the usual number of times."
        request = get_retry_request(response.request, spider=self, reason="rubbish", give_up_log_level="DEBUG")
        if request is None:
            self.fail(f"{ticker}: {place(response.url)} sent rubbish ({error}); nothing of that page was stored")
        return request

    def failed(self, failure):
        "Errback: one line for what went wrong."
        place_, ticker = place(failure.request.url), failure.request.cb_kwargs.get("ticker", "index")
        if failure.check(IgnoreRequest) and "robots" in str(failure.value):
            self.fail(f"robots.txt of {urlsplit(place_).netloc} forbids {urlsplit(place_).path}: {self.name} stops; "
                      "ask the host for permission, or use another source")
            raise CloseSpider("robots.txt forbids")
        if failure.check(HttpError):
            status = failure.value.response.status
            hint = {404: ": unknown ticker", 429: ": it wants fewer requests; try again later"}.get(status, "")
            self.fail(f"{ticker}: {place_} answered {status}{hint}")
        else:
            self.fail(f"{ticker}: {place_} does not answer ({failure.type.__name__}); is the site up?")

    def crashed(self, failure, response=None, item=None):
        "Whatever no other rule foresees is an error too, never a silent gap."
        where = place(response.url) if response is not None else getattr(item, "ticker", "?")
        self.fail(f"{where}: {failure.type.__name__}: {failure.getErrorMessage()}")

    def fail(self, message: str) -> None:
        "Note an error, once; the exit code and the report tell of it."
        if message not in self.errors:
            self.errors.append(message)
            self.logger.error(message)
