"Yahoo's chart API, v8: one JSON document a ticker."

from datetime import UTC, datetime, time, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from scraper.spiders import HistorySpider, Rubbish


class YahooSpider(HistorySpider):
    "scrapy crawl yahoo -a tickers=AAPL [-a base_url=...] [-a as_of=2000-09-28]"

    name = "yahoo"
    base_url = "https://query1.finance.yahoo.com"

    def address(self, ticker, start):
        first, last = (int(datetime.combine(d, time(), UTC).timestamp()) for d in (start, self.as_of + timedelta(days=1)))
        query = {"period1": first, "period2": last, "interval": "1d", "events": "div,split"}
        return f"{self.base_url}/v8/finance/chart/{ticker}?{urlencode(query)}"

    def rows(self, response, ticker):
        try:
            result = response.json()["chart"]["result"][0]
            stamps, quote = result.get("timestamp", []), result["indicators"]["quote"][0]
            adjusted = result["indicators"].get("adjclose", [{}])[0].get("adjclose") or quote.get("close", [])
            zone = ZoneInfo(result["meta"]["exchangeTimezoneName"])
            columns = {**{c: quote[c] for c in ("open", "high", "low", "close", "volume")}, "adj_close": adjusted} if stamps else {}
            if any(len(values) != len(stamps) for values in columns.values()):
                raise Rubbish("columns of different length")
        except (ValueError, KeyError, TypeError, IndexError) as e:
            raise Rubbish(f"not the chart format: {type(e).__name__} {e}") from None
        dates = [datetime.fromtimestamp(s, zone).date().isoformat() for s in stamps]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [{"ticker": ticker, "date": d, **row} for d, row in zip(dates, rows, strict=True)], None
