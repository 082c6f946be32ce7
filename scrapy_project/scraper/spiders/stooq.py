"Stooq's daily CSV: split- and dividend-adjusted, one file a ticker."

import csv
from urllib.parse import urlencode

from scraper.spiders import HistorySpider, Rubbish

HEADER = ["Date", "Open", "High", "Low", "Close"]


class StooqSpider(HistorySpider):
    "scrapy crawl stooq -a tickers=AAPL [-a base_url=...] [-a as_of=2000-09-28]"

    name = "stooq"
    base_url = "https://stooq.com"

    def address(self, ticker, start):
        symbol = ticker.lower() if "." in ticker else f"{ticker.lower()}.us"
        return f"{self.base_url}/q/d/l/?" + urlencode({"s": symbol, "d1": f"{start:%Y%m%d}", "d2": f"{self.as_of:%Y%m%d}", "i": "d"})

    def rows(self, response, ticker):
        if response.text.strip() == "No data":
            if ticker not in self.last:
                self.fail(f"{ticker}: {response.url} has no data: unknown ticker")
            return [], None
        header, *lines = list(csv.reader(response.text.splitlines())) or [[]]
        if header[:5] != HEADER or any(len(line) != len(header) for line in lines) or not response.text.endswith("\n"):
            raise Rubbish("not the CSV that it should be, or cut off")
        names = [h.lower() for h in header]
        rows = [dict(zip(names, (v or None for v in line), strict=True)) for line in lines]
        return [{"ticker": ticker, **row, "adj_close": row["close"]} for row in rows], None
