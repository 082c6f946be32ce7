"The bundled price site: an index of tickers, and HTML histories of many pages."

from urllib.parse import quote, urlencode

import scrapy

from scraper.spiders import HistorySpider, Rubbish

COLUMNS = ["date", "open", "high", "low", "close", "adj_close", "volume"]
END = "<!-- end of page -->"


class ExchangeSpider(HistorySpider):
    "scrapy crawl exchange -a base_url=http://127.0.0.1:8500 [-a tickers=AAPL,KO] [-a as_of=2000-09-28]"

    name = "exchange"
    base_url = "http://127.0.0.1:8500"
    needs_tickers = False

    def ask_all(self):
        if self.tickers:
            yield from super().ask_all()
        else:
            index = f"{self.base_url}/?as_of={self.as_of}"
            yield scrapy.Request(index, self.parse_index, errback=self.failed, dont_filter=True)

    def parse_index(self, response):
        "All tickers that the site lists."
        try:
            self._whole(response)
        except Rubbish as e:
            yield self._again(response, "index", e)
            return
        self.tickers = response.css("#tickers tbody a::text").getall()
        if not self.tickers:
            self.fail(f"{self.base_url} lists no stocks as of {self.as_of}")
        yield from super().ask_all()

    def address(self, ticker, start):
        return f"{self.base_url}/history/{quote(ticker, safe='')}?" + urlencode({"start": start, "end": self.as_of})

    def rows(self, response, ticker):
        table = self._whole(response).css("table#history")
        if not table or not (announced := table.attrib.get("data-rows", "")).isdigit():
            raise Rubbish("no table of prices")
        lines = [[(cell.text or "").strip() or None for cell in row] for row in table[0].root.iterfind(".//tbody/tr")]
        if len(lines) != int(announced) or any(len(line) != len(COLUMNS) for line in lines):
            raise Rubbish(f"{len(lines)} rows where {announced} are announced, or rows of another length")
        rows = [{"ticker": ticker, **dict(zip(COLUMNS, line, strict=True))} for line in lines]
        return rows, response.css("a[rel=next]::attr(href)").get()

    @staticmethod
    def _whole(response):
        "The page, if it has its end."
        if not getattr(response, "text", "").endswith(END):
            raise Rubbish("the page is cut off, or another site's")
        return response
