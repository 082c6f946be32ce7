"The bundled price site: an index of tickers, and HTML histories of many pages."

from urllib.parse import urlencode

import scrapy

from scraper.spiders import HistorySpider, Rubbish

COLUMNS = ["date", "open", "high", "low", "close", "adj_close", "volume"]
END = "<!-- end of page -->"


class ExchangeSpider(HistorySpider):
    "scrapy crawl exchange -a base_url=http://127.0.0.1:8500 [-a tickers=AAPL,KO] [-a as_of=2000-09-28]"

    name = "exchange"
    base_url = "http://127.0.0.1:8500"
    needs_tickers = False

    async def start(self):
        async for request in super().start():
            yield request
        if not self.tickers:
            yield scrapy.Request(f"{self.base_url}/", self.parse_index, errback=self.failed)

    def parse_index(self, response):
        "All tickers that the site lists."
        if not response.text.endswith(END):
            self.fail(f"index: {response.url} sent rubbish (no end of page)")
            return
        for ticker in response.css("#tickers tbody a::text").getall():
            yield self.ask(ticker)

    def address(self, ticker, start):
        return f"{self.base_url}/history/{ticker}?" + urlencode({"start": start, "end": self.as_of})

    def rows(self, response, ticker):
        table = response.css("table#history")
        if not table or not response.text.endswith(END):
            raise Rubbish("the page is cut off")
        lines = [[(cell.text or "").strip() or None for cell in row] for row in table[0].root.iterfind(".//tbody/tr")]
        if len(lines) != int(table.attrib["data-rows"]) or any(len(line) != len(COLUMNS) for line in lines):
            raise Rubbish(f"{len(lines)} rows where {table.attrib['data-rows']} are announced")
        return [{"ticker": ticker, **dict(zip(COLUMNS, line, strict=True))} for line in lines], response.css("a[rel=next]::attr(href)").get()
