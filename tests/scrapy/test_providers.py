"""Contracts of both provider formats, held from both sides: what the site sends, and what the spiders read.

recorded/ holds documents of the shape that the real hosts send.
"""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from exchange.faults import Faults
from exchange.site import create_app
from scraper.spiders import Refused, Rubbish, last_finished_day
from scraper.spiders.exchange import ExchangeSpider
from scraper.spiders.stooq import StooqSpider
from scraper.spiders.yahoo import YahooSpider
from scrapy.http import Response, TextResponse

RECORDED = Path(__file__).with_name("recorded")
YAHOO = (RECORDED / "yahoo_AAPL.json").read_bytes()
STOOQ = (RECORDED / "stooq_aapl.us.csv").read_bytes()
NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture(scope="module")
def client(small):
    return create_app(small, date(2020, 12, 30)).test_client()


def rows(spider_class, body: bytes, ticker: str = "AAPL", known: bool = False) -> list[dict]:
    "What a spider reads in a document."
    spider = spider_class(tickers=ticker)
    spider.starts = {ticker: date(2020, 8, 31)} if known else {}
    found, following = spider.rows(TextResponse("http://127.0.0.1/x", body=body, encoding="utf-8"), ticker)
    assert following is None
    return found


def period(first: str, last: str) -> str:
    "period1 and period2 of a Yahoo address: midnights, UTC, the second exclusive."
    stamps = (int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) for day in (first, last))
    return "?period1={}&period2={}".format(*stamps)


def shape(value):
    "The types of a JSON document, with the keys of its objects. Whole and other numbers are one type."
    if isinstance(value, dict):
        return {key: shape(v) for key, v in value.items()}
    if isinstance(value, list):
        return [shape(next((v for v in value if v is not None), None))]
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def missing(inner, outer, where="") -> list[str]:
    "Where `inner` has something that `outer` has not, or in another type."
    if isinstance(inner, dict) and isinstance(outer, dict):
        return [m for k, v in inner.items() for m in missing(v, outer.get(k), f"{where}.{k}")]
    if isinstance(inner, list) and isinstance(outer, list):
        return missing(inner[0], outer[0], f"{where}[]")
    return [] if inner == outer else [where]


class TestYahoo:
    @pytest.fixture
    def chart(self, client):
        "chart.result[0] of AAPL, six days around the end of daylight saving time."
        answer = client.get(f"/v8/finance/chart/AAPL{period('2020-10-29', '2020-11-06')}&interval=1d&events=div,split")
        assert (answer.status_code, answer.mimetype) == (200, "application/json")
        assert set(answer.json["chart"]) == {"result", "error"}
        assert answer.json["chart"]["error"] is None
        return answer.json["chart"]["result"][0]

    def test_everything_has_the_place_and_type_that_yahoo_gives_it(self, chart):
        real = json.loads(YAHOO)["chart"]["result"][0]
        assert missing(shape(chart), shape(real)) == []

    def test_nothing_is_missing_that_clients_rely_on(self, chart):
        real = shape(json.loads(YAHOO)["chart"]["result"][0])
        del real["events"]  # Yahoo leaves it out where there were none
        nice_to_have = {"fiftyTwoWeekHigh", "fiftyTwoWeekLow", "regularMarketDayHigh", "regularMarketDayLow",
                        "regularMarketVolume", "longName", "shortName", "chartPreviousClose"}
        assert set(missing(real, shape(chart))) == {f".meta.{name}" for name in nice_to_have}

    def test_stamps_are_openings_in_new_york_in_winter_and_summer(self, chart):
        opened = [datetime.fromtimestamp(stamp, NEW_YORK) for stamp in chart["timestamp"]]
        assert [f"{o:%m-%d %H:%M}" for o in opened] == [
            "10-29 09:30", "10-30 09:30", "11-02 09:30", "11-03 09:30", "11-04 09:30", "11-05 09:30"]
        assert {o.tzname() for o in opened} == {"EDT", "EST"}

    def test_lists_are_parallel_and_true(self, chart, client):
        bars = client.application.config["MARKET"].history("AAPL", date(2020, 10, 29), date(2020, 11, 5))
        quote, adjusted = chart["indicators"]["quote"][0], chart["indicators"]["adjclose"][0]["adjclose"]
        for name in ("open", "high", "low", "close", "volume"):
            assert quote[name] == bars[name].tolist()
        assert adjusted == bars["adj_close"].tolist()
        assert all(type(v) is int for v in (*chart["timestamp"], *quote["volume"]))

    def test_meta_speaks_of_the_clock(self, chart, client):
        meta = chart["meta"]
        assert (meta["symbol"], meta["currency"], meta["dataGranularity"]) == ("AAPL", "USD", "1d")
        assert (meta["timezone"], meta["gmtoffset"]) == ("EST", -18000)
        closed = datetime(2020, 12, 30, 16, tzinfo=NEW_YORK)
        assert datetime.fromtimestamp(meta["regularMarketTime"], NEW_YORK) == closed
        assert meta["regularMarketPrice"] == client.application.config["MARKET"].history("AAPL")["close"].iloc[-1]
        pre, regular, post = (meta["currentTradingPeriod"][k] for k in ("pre", "regular", "post"))
        assert pre["end"] == regular["start"] < regular["end"] == post["start"] == closed.timestamp()

    def test_unknown_values_are_null(self, client):
        quote = client.get("/v8/finance/chart/XOM").json["chart"]["result"][0]["indicators"]["quote"][0]
        assert set(quote["open"]) == set(quote["volume"]) == {None}

    @pytest.mark.parametrize(("address", "status", "code", "description"), [
        ("ENRN", 404, "Not Found", "No data found, symbol may be delisted"),
        ("AAPL" + period("1970-01-01", "1971-01-01"), 400, "Bad Request",
         "Data doesn't exist for startDate = 0, endDate = 31536000"),
        ("AAPL?period1=99999999999999999", 400, "Bad Request", "Invalid input - period1 or period2"),
    ])
    def test_complaints(self, client, address, status, code, description):
        answer = client.get(f"/v8/finance/chart/{address}")
        assert answer.status_code == status
        assert answer.json == {"chart": {"result": None, "error": {"code": code, "description": description}}}

    def test_spider_reads_what_yahoo_sends(self):
        found = rows(YahooSpider, YAHOO)
        assert [r["date"] for r in found] == ["2020-08-31", "2020-09-01", "2020-09-02", "2020-09-03", "2020-09-04"]
        assert found[0] == {"ticker": "AAPL", "date": "2020-08-31", "open": 127.58000183105469, "high": 131, "low": 126,
                            "close": 129.0399932861328, "adj_close": 125.82673645019531, "volume": 225702700}
        assert found[2] == {"ticker": "AAPL", "date": "2020-09-02", **dict.fromkeys(
            ("open", "high", "low", "close", "adj_close", "volume"))}

    def test_spider_takes_the_day_of_the_exchange_not_of_greenwich(self):
        tokyo = json.loads(YAHOO)
        result = tokyo["chart"]["result"][0]
        result["meta"]["exchangeTimezoneName"] = "Asia/Tokyo"
        result["timestamp"] = [1598832000 + 86400 * n for n in range(5)]  # 09:00 in Tokyo is midnight UTC
        assert rows(YahooSpider, json.dumps(tokyo).encode())[0]["date"] == "2020-08-31"
        result["timestamp"] = [stamp - 3600 for stamp in result["timestamp"]]
        assert rows(YahooSpider, json.dumps(tokyo).encode())[0]["date"] == "2020-08-31"

    @pytest.mark.parametrize("indicators", [{}, {"adjclose": [{}]}, {"adjclose": [{"adjclose": None}]}])
    def test_close_stands_in_where_yahoo_adjusts_nothing(self, indicators):
        "As for currencies and futures."
        document = json.loads(YAHOO)
        result = document["chart"]["result"][0]
        result["indicators"] = {"quote": result["indicators"]["quote"], **indicators}
        assert rows(YahooSpider, json.dumps(document).encode())[0]["adj_close"] == 129.0399932861328

    def test_no_stamps_are_no_rows(self):
        document = json.loads(YAHOO)
        document["chart"]["result"][0] |= {"indicators": {"quote": [{}], "adjclose": [{}]}}
        del document["chart"]["result"][0]["timestamp"]
        assert rows(YahooSpider, json.dumps(document).encode()) == []

    def test_complaint_is_refused_in_yahoos_words_unless_there_is_just_nothing_new(self, client):
        unknown = client.get("/v8/finance/chart/ENRN").data
        nothing = client.get("/v8/finance/chart/AAPL" + period("2020-12-31", "2021-01-05")).data
        for known in (False, True):
            with pytest.raises(Refused, match="No data found, symbol may be delisted"):
                rows(YahooSpider, unknown, known=known)
        with pytest.raises(Refused, match="Data doesn't exist"):
            rows(YahooSpider, nothing)
        assert rows(YahooSpider, nothing, known=True) == []

    @pytest.mark.parametrize("body", [
        b"", b"{", b"null", b"[]", b"{}", b'"AAPL"', b"<html>Too Many Requests</html>", b"\xff\xfe\x00", YAHOO[:900],
        b'{"chart": null}', b'{"chart": {"result": [], "error": null}}', b'{"chart": {"result": null, "error": null}}',
        b'{"chart": {"result": [{}], "error": null}}', b'{"chart": {"result": null, "error": {"code": "?"}}}',
        b'{"finance": {"result": null, "error": {"code": "Unauthorized", "description": "Invalid Crumb"}}}',
        YAHOO.replace(b"1598880600, ", b"", 1), YAHOO.replace(b"[1598880600", b'["1598880600"'),
        YAHOO.replace(b"America/New_York", b"Atlantis"), YAHOO.replace(b'"close"', b'"clos"'),
    ])
    def test_rubbish(self, body):
        with pytest.raises(Rubbish):
            rows(YahooSpider, body)

    def test_address(self):
        spider = YahooSpider(tickers="BRK-B", as_of="2020-09-29")
        assert spider.address("^GSPC", date(2020, 9, 1)) == (
            "https://query1.finance.yahoo.com/v8/finance/chart/%5EGSPC?period1=1598918400&period2=1601424000"
            "&interval=1d&events=div%2Csplit")


class TestStooq:
    def test_csv_as_stooq_sends_it(self, client):
        answer = client.get("/q/d/l/?s=aapl.us&d1=20201029&d2=20201030&i=d")
        assert (answer.status_code, answer.mimetype) == (200, "text/csv")
        assert answer.text == ("Date,Open,High,Low,Close,Volume\r\n"
                               "2020-10-29,108.995942,113.419019,108.83104,111.857361,146129200\r\n"
                               "2020-10-30,107.725255,108.627331,104.485547,105.591316,190272600\r\n")
        assert answer.text.split("\r\n")[0] == STOOQ.decode().split("\r\n")[0]

    @pytest.mark.parametrize("symbol", ["aapl.us", "AAPL.US", "aapl"])
    def test_symbol_in_any_case(self, client, symbol):
        assert len(client.get(f"/q/d/l/?s={symbol}").text.splitlines()) == 2265

    @pytest.mark.parametrize("query", ["", "s=enrn.us", "s=aapl.us&d1=20210101", "s=ko.us&d2=20150101"])
    def test_nothing_is_no_data(self, client, query):
        answer = client.get(f"/q/d/l/?{query}")
        assert (answer.status_code, answer.mimetype, answer.text) == (200, "text/plain", "No data")

    @pytest.mark.parametrize("day", ["2020-01-01", "20201301", "x"])
    def test_wrong_date(self, client, day):
        assert client.get(f"/q/d/l/?s=aapl.us&d1={day}").status_code == 400

    def test_spider_reads_what_stooq_sends(self):
        found = rows(StooqSpider, STOOQ)
        assert [r["date"] for r in found] == ["2020-08-31", "2020-09-01", "2020-09-02"]
        assert found[0] == {"ticker": "AAPL", "date": "2020-08-31", "open": "124.404", "high": "127.741",
                            "low": "122.865", "close": "125.829", "volume": "231463310", "adj_close": "125.829"}

    def test_volume_column_may_be_missing_and_cells_empty(self):
        "As for indices and currencies."
        assert rows(StooqSpider, b"Date,Open,High,Low,Close\r\n2020-08-31,,,,1.5\r\n") == [{
            "ticker": "AAPL", "date": "2020-08-31", **dict.fromkeys(("open", "high", "low")),
            "close": "1.5", "adj_close": "1.5"}]

    def test_no_data_is_refused_unless_there_is_just_nothing_new(self):
        with pytest.raises(Refused, match="unknown ticker"):
            rows(StooqSpider, b"No data")
        assert rows(StooqSpider, b"No data\r\n", known=True) == []

    @pytest.mark.parametrize("body", [
        b"", b"\n", b"Exceeded the daily hits limit", b"<html></html>", b"Get your apikey:\n\n1. Open https://stooq.com",
        b"Symbol,Date\r\nAAPL,2020\r\n", STOOQ[:-2], STOOQ[:-20], STOOQ.replace(b",124.404", b"", 1), b"\x00\x01\x02",
    ])
    def test_rubbish(self, body):
        with pytest.raises(Rubbish):
            rows(StooqSpider, body)

    @pytest.mark.parametrize(("ticker", "symbol"), [("AAPL", "aapl.us"), ("BRK-B", "brk-b.us"), ("SAP.DE", "sap.de"),
                                                    ("^SPX", "%5Espx")])
    def test_address(self, monkeypatch, ticker, symbol):
        monkeypatch.delenv("STOOQ_APIKEY", raising=False)
        spider = StooqSpider(tickers=ticker, as_of="2020-09-29")
        address = f"https://stooq.com/q/d/l/?s={symbol}&d1=20200901&d2=20200929&i=d"
        assert spider.address(ticker, date(2020, 9, 1)) == address
        monkeypatch.setenv("STOOQ_APIKEY", "abc")
        assert spider.address(ticker, date(2020, 9, 1)) == address + "&apikey=abc"


class TestExchange:
    def test_spider_reads_what_the_site_sends(self, client):
        found = rows(ExchangeSpider, client.get("/history/XOM?start=2020-12-30").data, "XOM")
        assert found == [{"ticker": "XOM", "date": "2020-12-30", "open": None, "high": None, "low": None,
                          "close": "37.085", "adj_close": "37.085", "volume": None}]

    def test_rubbish(self, client, small):
        page, end = client.get("/history/XOM").data, b"<!-- end of page -->"
        for body in (b"", page[: len(page) // 2], page[:-1], end, b"<table id='history' data-rows='x'></table>" + end,
                     page.replace(b'data-rows="252"', b'data-rows="253"'), page.replace(b"<td>", b"<td></td><td>", 1),
                     create_app(small, None, Faults.parse(["truncate=1"])).test_client().get("/history/KO").data):
            with pytest.raises(Rubbish):
                rows(ExchangeSpider, body, "XOM")

    def test_answer_that_is_no_text_is_rubbish(self):
        with pytest.raises(Rubbish):
            ExchangeSpider._whole(Response("http://127.0.0.1/x", body=b"\x89PNG"))


class TestEverySpider:
    @pytest.mark.parametrize("spider", [YahooSpider, StooqSpider])
    def test_real_hosts_are_asked_for_finished_sessions_only(self, spider):
        "A bar of a session still in progress would be wrong by the evening."
        assert spider(tickers="KO").as_of == spider(tickers="KO", as_of="2999-12-31").as_of == last_finished_day()
        assert spider(tickers="KO", as_of="2000-09-28").as_of == date(2000, 9, 28)
        assert last_finished_day() <= datetime.now(NEW_YORK).date()

    def test_bundled_site_has_a_clock_of_its_own(self):
        assert YahooSpider(tickers="KO", base_url="http://localhost:1/", as_of="2999-12-31").as_of == date(2999, 12, 31)
        assert YahooSpider(tickers="KO", base_url="http://localhost:1/").base_url == "http://localhost:1"

    def test_tickers_are_cleaned_and_kept_in_order(self):
        assert YahooSpider(tickers=" ko,AAPL,,ko , xom").tickers == ["KO", "AAPL", "XOM"]
