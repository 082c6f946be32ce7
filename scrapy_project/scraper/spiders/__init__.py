"""What all price spiders share: which dates to ask for, how a restated history is noticed, how failures are told.

A spider asks for what is missing plus an overlap of some days. If the overlap says something else than the store,
the provider has restated the history (a split, a dividend), and all of it is fetched again.
"""

from datetime import date, timedelta
from urllib.parse import urlsplit

import scrapy
from scrapy.downloadermiddlewares.retry import get_retry_request
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.spidermiddlewares.httperror import HttpError

from scraper.items import HistoryPage
from stockml.prices import last_dates, read_bars

OVERLAP = timedelta(days=10)
EPOCH = date(1960, 1, 1)


class Rubbish(Exception):
    "The answer is not what it should be: cut off, another format, an error page with status 200."


class HistorySpider(scrapy.Spider):
    "Base of the price spiders. Arguments: tickers (comma-separated), as_of (ISO date), base_url."

    base_url = ""
    needs_tickers = True

    def __init__(self, tickers="", as_of=None, base_url=None, **kwargs):
        super().__init__(**kwargs)
        self.base_url = (base_url or self.base_url).rstrip("/")
        self.tickers = [t.strip().upper() for t in tickers.split(",") if t.strip()]
        self.as_of = date.fromisoformat(as_of) if as_of else date.today()
        self.errors: list[str] = []
        self.restated: list[str] = []

    async def start(self):
        store = self.settings["STORE"]
        self.last = last_dates(store)
        self.overlap = self._overlap(store) if self.last else {}
        if self.needs_tickers and not self.tickers:
            self.fail(f"{self.name}: name the tickers; this provider has no list of them")
        for ticker in self.tickers:
            yield self.ask(ticker)

    def _overlap(self, store) -> dict:
        "(ticker, date) -> adjusted close, for the days that will be asked for again."
        bars = read_bars(store)
        recent = bars[bars["date"] > bars.groupby("ticker")["date"].transform("max") - OVERLAP]
        return dict(zip(zip(recent["ticker"], recent["date"].dt.strftime("%Y-%m-%d"), strict=True), recent["adj_close"], strict=True))

    def ask(self, ticker: str, whole: bool = False) -> scrapy.Request:
        "The request for what is missing of a ticker, or for all of it."
        known = None if whole else self.last.get(ticker)
        start = known - OVERLAP + timedelta(days=1) if known else EPOCH
        # The same address may be asked twice in one crawl: after a restatement, or when a retry is due.
        return scrapy.Request(self.address(ticker, start), self.parse, errback=self.failed, dont_filter=True,
                              cb_kwargs={"ticker": ticker, "whole": whole or not known})

    def address(self, ticker: str, start: date) -> str:
        "URL of a ticker's history from a date to as_of."
        raise NotImplementedError

    def rows(self, response, ticker: str) -> tuple[list[dict], str | None]:
        "Raw rows of a page and the address of the next one; `Rubbish` if the page is not whole."
        raise NotImplementedError

    def parse(self, response, ticker, whole):
        try:
            rows, following = self.rows(response, ticker)
        except Rubbish as e:
            yield self._again(response, ticker, e)
            return
        if not whole and self._differs(ticker, rows):
            self.logger.warning("%s was restated: fetching all of it again", ticker)
            self.restated.append(ticker)
            yield self.ask(ticker, whole=True)
            return
        yield HistoryPage(ticker, rows, last=following is None)
        if following:
            yield response.follow(following, self.parse, errback=self.failed, cb_kwargs={"ticker": ticker, "whole": whole})

    def _differs(self, ticker: str, rows: list[dict]) -> bool:
        "Does the page contradict what the store has?"
        for row in rows:
            known, now = self.overlap.get((ticker, row["date"])), row.get("adj_close", row["close"])
            try:
                if known is not None and abs(float(now) / known - 1) > 1e-4:
                    return True
            except (TypeError, ValueError):
                continue  # not a price: the pipeline's business
        return False

    def _again(self, response, ticker, error):
        "Ask once more for a page that was not whole; give up after the usual number of times."
        if request := get_retry_request(response.request, spider=self, reason=str(error)):
            return request.replace(dont_filter=True)
        self.fail(f"{ticker}: {response.url} sent rubbish ({error}); nothing of that page was stored")
        return None

    def failed(self, failure):
        "Errback: one line for what went wrong."
        url = failure.request.url
        if failure.check(IgnoreRequest) and "robots" in str(failure.value):
            host = urlsplit(url).netloc
            self.fail(f"robots.txt of {host} forbids {urlsplit(url).path}: {self.name} stops here; ask the host for permission")
            raise CloseSpider("robots.txt forbids")
        ticker = failure.request.cb_kwargs.get("ticker", "index")
        if failure.check(HttpError):
            self.fail(f"{ticker}: {url} answered {failure.value.response.status}{self.explain(failure.value.response)}")
        else:
            self.fail(f"{ticker}: {url} does not answer ({failure.type.__name__}); is the site up?")

    def explain(self, response) -> str:
        "What an error answer says of itself, for the log line."
        return ": unknown ticker" if response.status == 404 else ""

    def fail(self, message: str) -> None:
        self.errors.append(message)
        self.logger.error(message)
