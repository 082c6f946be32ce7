"Stooq's daily CSV: adjusted prices, one file a ticker."

import csv
import os
from urllib.parse import urlencode

from scraper.spiders import HistorySpider, Refused, Rubbish

HEADER = ["Date", "Open", "High", "Low", "Close"]


class StooqSpider(HistorySpider):
    """scrapy crawl stooq -a tickers=AAPL [-a base_url=...] [-a as_of=2000-09-28]

    Since 2026 the real host wants an API key of your own: set it in the environment as STOOQ_APIKEY.
    """

    name = "stooq"
    base_url = "https://stooq.com"

    def address(self, ticker, start):
        symbol = ticker.lower() if "." in ticker or ticker.startswith("^") else f"{ticker.lower()}.us"
        query = {"s": symbol, "d1": f"{start:%Y%m%d}", "d2": f"{self.as_of:%Y%m%d}", "i": "d"}
        if key := os.environ.get("STOOQ_APIKEY"):
            query["apikey"] = key
        return f"{self.base_url}/q/d/l/?{urlencode(query)}"

    def rows(self, response, ticker):
        text = response.text
        if text.strip() == "No data":
            if ticker not in self.starts:
                raise Refused("No data: unknown ticker, or none in these years")
            return [], None
        header, *lines = list(csv.reader(text.splitlines())) or [[]]
        if header[:5] != HEADER:
            raise Rubbish(f"not its CSV but {' '.join(text[:60].split())!r}")
        if any(len(line) != len(header) for line in lines) or not text.endswith("\n"):
            raise Rubbish("the CSV is cut off")
        names = [h.lower() for h in header]
        rows = [dict(zip(names, (v or None for v in line), strict=True)) for line in lines]
        return [{"ticker": ticker, **row, "adj_close": row["close"]} for row in rows], None
