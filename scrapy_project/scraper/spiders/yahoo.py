"Yahoo's chart API, v8: one JSON document a ticker."

from datetime import UTC, date, datetime, time, timedelta
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from scraper.spiders import HistorySpider, Refused, Rubbish

COLUMNS = ("open", "high", "low", "close", "volume")
NOTHING_NEW = "Data doesn't exist for startDate"


class YahooSpider(HistorySpider):
    "scrapy crawl yahoo -a tickers=AAPL [-a base_url=...] [-a as_of=2000-09-28]"

    name = "yahoo"
    base_url = "https://query1.finance.yahoo.com"
    handle_httpstatus_list = (400, 404)  # these carry Yahoo's own words

    def address(self, ticker, start):
        end = min(self.as_of, date(2100, 1, 1)) + timedelta(days=1)  # period2 is exclusive
        first, last = (int(datetime.combine(d, time(), UTC).timestamp()) for d in (start, end))
        query = {"period1": first, "period2": last, "interval": "1d", "events": "div,split"}
        return f"{self.base_url}/v8/finance/chart/{quote(ticker, safe='')}?{urlencode(query)}"

    def rows(self, response, ticker):
        try:
            chart = response.json()["chart"]
            if error := chart["error"]:
                return self._nothing(error["description"], ticker)
            return _rows(chart["result"][0], ticker), None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
            raise Rubbish(f"not the chart format: {type(e).__name__} {e}") from None

    def _nothing(self, description: str, ticker: str) -> tuple[list, None]:
        "No rows, if that is what Yahoo means; else its complaint."
        if description.startswith(NOTHING_NEW) and ticker in self.starts:
            return [], None
        raise Refused(description)


def _rows(result: dict, ticker: str) -> list[dict]:
    "The parallel lists as rows. A stamp is the session's opening; its date is the one in the exchange's own time zone."
    stamps, quotes = result.get("timestamp", []), result["indicators"]["quote"][0]
    if not stamps:
        return []
    adjusted = result["indicators"].get("adjclose", [{}])[0].get("adjclose") or quotes["close"]
    columns = {**{c: quotes[c] for c in COLUMNS}, "adj_close": adjusted}
    if any(len(values) != len(stamps) for values in columns.values()):
        raise Rubbish("columns of different length")
    zone = ZoneInfo(result["meta"]["exchangeTimezoneName"])
    dates = [datetime.fromtimestamp(stamp, zone).date().isoformat() for stamp in stamps]
    return [{"ticker": ticker, "date": day, **dict(zip(columns, values, strict=True))}
            for day, values in zip(dates, zip(*columns.values(), strict=True), strict=True)]
