"""A price site in this process, over a small market, with every request on record.

The spiders are the real ones, in processes of their own, as `stockml.ingest` starts them.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
from flask import Flask
from werkzeug.serving import make_server

sys.path.insert(0, str(Path(__file__).parents[2] / "scrapy_project"))

from exchange.faults import Faults
from exchange.market import Market
from exchange.site import create_app

from stockml.config import StockmlError
from stockml.ingest import IngestReport, ingest
from stockml.prices import read_bars, write_bars

TICKERS = ("AAPL", "KO", "XOM")  # three pages, two pages, one page


@dataclass
class Asked:
    "One request: what for, when (in seconds of this machine's monotonic clock), and how it was answered."

    path: str
    at: float
    status: int = 0


@dataclass
class Site:
    "A site that listens on loopback. `watch` is called with each address before it is answered."

    url: str
    market: Market | None
    asked: list[Asked] = field(default_factory=list)
    watch: Callable[[str], None] = lambda path: None

    def record(self, app: Callable) -> Callable:
        "WSGI middleware that keeps `asked`."
        def recorded(environ, start_response):
            path = f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}".rstrip("?")
            asked = Asked(path, time.monotonic())
            self.asked.append(asked)
            self.watch(path)

            def start(status, headers, exc_info=None):
                asked.status = int(status[:3])
                return start_response(status, headers, exc_info)

            return app(environ, start)

        return recorded

    @property
    def paths(self) -> list[str]:
        "What was asked for, without robots.txt."
        return [a.path for a in self.asked if a.path != "/robots.txt"]

    def bars(self, *tickers: str) -> pd.DataFrame:
        "What a complete store of this site holds, at its clock."
        return pd.concat([self.market.history(t) for t in tickers or self.market.tickers()], ignore_index=True)


@contextmanager
def serving(app: Flask) -> Iterator[Site]:
    "Serve an app on a free loopback port."
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    site = Site(f"http://127.0.0.1:{server.port}", app.config.get("MARKET"))
    app.wsgi_app = site.record(app.wsgi_app)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def small(snapshot, tmp_path_factory) -> Path:
    "A snapshot of three stocks to the end of 2020, of different lengths."
    bars = read_bars(snapshot, as_of=date(2020, 12, 31), tickers=TICKERS)
    first = bars["ticker"].map({"AAPL": "2012-01-01", "KO": "2016-01-01", "XOM": "2020-01-01"})
    path = tmp_path_factory.mktemp("small") / "snapshot.parquet"
    write_bars(path, bars[bars["date"] >= pd.to_datetime(first)])
    return path


@pytest.fixture
def serve() -> Iterator[Callable[[Flask], Site]]:
    "Serve any app until the test ends."
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serving(app))


@pytest.fixture
def open_site(small, serve) -> Callable[..., Site]:
    "Open a price site over the small market: `open_site('busy=2', as_of=date(2020, 8, 28))`."
    return lambda *faults, as_of=None: serve(create_app(small, as_of, Faults.parse(list(faults))))


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "bars.parquet"


@dataclass
class Scraper:
    "`ingest` into one store; `said` is what it said."

    store: Path
    said: list[str] = field(default_factory=list)

    def __call__(self, site: Site | str, source: str = "exchange", tickers=TICKERS, **options) -> IngestReport:
        url = site if isinstance(site, str) else site.url
        return ingest(self.store, source, tickers=tickers, base_url=url, say=self.said.append, **options)

    def error(self, *args, **options) -> str:
        "The one line that a failed run ends with."
        with pytest.raises(StockmlError) as e:
            self(*args, **options)
        assert "\n" not in str(e.value)
        return str(e.value)

    def knows(self, bars: pd.DataFrame) -> bytes:
        "Begin with a store of these bars, as an earlier run would have left it; gives its bytes."
        write_bars(self.store, bars)
        return self.store.read_bytes()

    def holds(self, expected: pd.DataFrame) -> bool:
        "Whether the store equals these bars; if not, the difference is shown."
        pd.testing.assert_frame_equal(read_bars(self.store), expected)
        return True


@pytest.fixture
def scrape(store) -> Scraper:
    return Scraper(store)
