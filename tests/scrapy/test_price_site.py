"The bundled price site: what a browser, a crawler and the one who runs it see."

import subprocess
import sys
from datetime import date, datetime
from urllib.error import HTTPError
from urllib.request import urlopen
from zoneinfo import ZoneInfo

import pytest
from exchange.faults import KINDS, Faults
from exchange.site import PAGE_ROWS, create_app
from lxml import html

from stockml.config import StockmlError
from stockml.ingest import price_site, set_clock

DAY, NEXT = date(2020, 8, 28), date(2020, 8, 31)


@pytest.fixture
def client(small):
    return create_app(small).test_client()


@pytest.fixture
def faulty(small):
    return lambda *faults: create_app(small, None, Faults.parse(list(faults))).test_client()


def table(response, name="history") -> list[list[str]]:
    assert response.status_code == 200
    rows = html.fromstring(response.text).xpath(f"//table[@id='{name}']/tbody/tr")
    return [[cell.text_content() for cell in row] for row in rows]


def read(url: str) -> str:
    with urlopen(url) as answer:  # noqa: S310 (a site of our own)
        return answer.read().decode()


def new_york_day(stamp: int) -> str:
    return str(datetime.fromtimestamp(stamp, ZoneInfo("America/New_York")).date())


def links(response) -> dict[str, str]:
    return {a.get("rel"): a.get("href") for a in html.fromstring(response.text).xpath("//a[@rel]")}


def history(client, address: str) -> list[list[str]]:
    "All rows of a history, page after page, as a person would click."
    rows = []
    while address:
        page = client.get(address)
        rows += table(page)
        address = links(page).get("next")
    return rows


class TestPages:
    def test_index_lists_every_history(self, client):
        page = client.get("/")
        assert table(page, "tickers") == [["AAPL", "2012-01-03", "2020-12-31", "2,265"],
                                          ["KO", "2016-01-04", "2020-12-31", "1,259"],
                                          ["XOM", "2020-01-02", "2020-12-31", "253"]]
        assert html.fromstring(page.text).xpath("//tbody//a/@href") == ["/history/AAPL", "/history/KO", "/history/XOM"]

    def test_pages_hold_the_whole_history_in_order(self, client):
        rows = history(client, "/history/AAPL")
        bars = client.application.config["MARKET"].history("AAPL")
        assert [r[0] for r in rows] == bars["date"].dt.strftime("%F").tolist()
        assert [float(r[4]) for r in rows] == bars["close"].tolist()
        assert [int(r[6]) for r in rows] == bars["volume"].tolist()

    def test_unknown_values_are_empty_cells(self, client):
        assert table(client.get("/history/XOM"))[0] == ["2020-01-02", "", "", "", "58.531", "58.531", ""]

    def test_pagination(self, client):
        first, last = client.get("/history/AAPL"), client.get("/history/AAPL?page=3")
        assert links(first) == {"next": "/history/AAPL?page=2"}
        assert links(client.get("/history/AAPL?page=2")) == {"prev": "/history/AAPL?page=1",
                                                             "next": "/history/AAPL?page=3"}
        assert links(last) == {"prev": "/history/AAPL?page=2"}
        assert (len(table(first)), len(table(last))) == (PAGE_ROWS, 265)
        assert f'data-rows="{PAGE_ROWS}"' in first.text

    def test_next_page_keeps_the_dates_that_were_asked_for(self, client):
        rows = history(client, "/history/AAPL?start=2013-01-01&end=2018-12-31&as_of=2017-12-29")
        assert (rows[0][0], rows[-1][0], len(rows)) == ("2013-01-02", "2017-12-29", 1259)

    def test_history_without_rows_is_an_empty_page(self, client):
        assert table(client.get("/history/AAPL?start=2021-01-01")) == []

    @pytest.mark.parametrize(("address", "status"), [
        ("/history/ENRN", 404), ("/history/aapl", 404), ("/history/AAPL?page=4", 404), ("/history/AAPL?page=0", 404),
        ("/history/AAPL?start=yesterday", 400), ("/?as_of=2020-02-30", 400), ("/nothing", 404),
    ])
    def test_wrong_address(self, client, address, status):
        assert client.get(address).status_code == status

    def test_robots_keep_crawlers_off_the_clock_only(self, client):
        answer = client.get("/robots.txt")
        assert answer.mimetype == "text/plain"
        assert answer.text == "User-agent: *\nDisallow: /clock\n"


class TestClock:
    @pytest.fixture
    def answers(self):
        "The last date that each view of AAPL shows."
        def last(client, extra=""):
            stooq = client.get(f"/q/d/l/?s=aapl.us{extra}").text.split()[-1].split(",")[0]
            yahoo = client.get(f"/v8/finance/chart/AAPL{extra.replace('&', '?', 1)}").json["chart"]["result"][0]
            return {table(client.get("/"), "tickers")[0][2], history(client, "/history/AAPL")[-1][0], stooq,
                    new_york_day(yahoo["timestamp"][-1]), new_york_day(yahoo["meta"]["regularMarketTime"])}

        return last

    def test_default_is_the_snapshots_last_session(self, client, answers):
        assert client.get("/clock").json == {"as_of": "2020-12-31"}
        assert answers(client) == {"2020-12-31"}

    def test_nothing_later_is_shown_anywhere(self, small, answers):
        assert answers(create_app(small, DAY).test_client()) == {str(DAY)}

    def test_clock_moves_both_ways(self, client, answers):
        for day in (DAY, NEXT, date(2013, 1, 2)):
            assert client.post("/clock", json={"as_of": str(day)}).json == {"as_of": str(day)}
            assert answers(client) == {str(day)}

    def test_before_a_stock_traded_it_is_not_listed(self, client):
        client.post("/clock", json={"as_of": "2015-12-31"})
        assert [row[0] for row in table(client.get("/"), "tickers")] == ["AAPL"]
        assert table(client.get("/history/KO")) == []
        assert client.get("/q/d/l/?s=ko.us").text == "No data"
        assert client.get("/v8/finance/chart/KO").status_code == 404

    def test_one_request_may_look_further_back_but_not_ahead(self, client):
        client.post("/clock", json={"as_of": str(DAY)})
        assert history(client, "/history/AAPL?as_of=2020-08-03")[-1][0] == "2020-08-03"
        assert history(client, "/history/AAPL?as_of=2020-12-01&end=2020-12-01")[-1][0] == str(DAY)
        assert table(client.get("/?as_of=2015-01-02"), "tickers")[0][2] == "2015-01-02"

    @pytest.mark.parametrize("body", [{}, {"as_of": "soon"}, {"as_of": 3}, [], "2020-01-01"])
    def test_clock_takes_dates_only(self, client, body):
        assert client.post("/clock", json=body).status_code == 400
        assert client.get("/clock").json == {"as_of": "2020-12-31"}

    def test_clock_is_set_from_this_machine_only(self, client):
        answer = client.post("/clock", json={"as_of": str(DAY)}, environ_base={"REMOTE_ADDR": "10.0.0.1"})
        assert answer.status_code == 403


class TestFaults:
    def test_counted_faults_strike_so_often_and_then_no_more(self, faulty):
        client = faulty("error=2", "busy=1", "retry_after=7", "truncate=1")
        answers = [client.get("/history/XOM") for _ in range(5)]
        assert [a.status_code for a in answers] == [500, 500, 429, 200, 200]
        assert answers[2].headers["Retry-After"] == "7"
        assert len(answers[3].data) < len(answers[4].data) == int(answers[4].headers["Content-Length"])
        assert not answers[3].text.endswith("<!-- end of page -->")

    def test_index_robots_and_clock_stay_well(self, faulty):
        client = faulty("error=9")
        addresses = ("/", "/robots.txt", "/clock", "/history/KO")
        assert [client.get(a).status_code for a in addresses] == [200, 200, 200, 500]

    def test_malformed_row(self, faulty):
        client = faulty("malformed=XOM:2020-03-02")
        bad = [row for row in table(client.get("/history/XOM")) if row[4] == "n/a"]
        assert [row[0] for row in bad] == ["2020-03-02"]
        assert "n/a" not in client.get("/q/d/l/?s=ko.us").text
        assert [line for line in client.get("/q/d/l/?s=xom.us").text.split() if "n/a" in line] == ["2020-03-02,,,,n/a,"]
        closes = client.get("/v8/finance/chart/XOM").json["chart"]["result"][0]["indicators"]["quote"][0]["close"]
        assert closes.count(None) == 1

    def test_split_restates_all_earlier_prices_once_its_day_has_come(self, faulty, client):
        split = faulty("restate=AAPL:2:2020-08-31")
        before = table(client.get("/history/AAPL?start=2020-08-27"))[:3]
        split.post("/clock", json={"as_of": str(DAY)})
        assert table(split.get("/history/AAPL?start=2020-08-27")) == before[:2]
        split.post("/clock", json={"as_of": str(NEXT)})
        after = table(split.get("/history/AAPL?start=2020-08-27"))
        assert [float(a[4]) / float(b[4]) for a, b in zip(after, before, strict=True)] == pytest.approx([0.5, 0.5, 1])
        assert table(split.get("/history/KO")) == table(client.get("/history/KO?end=2020-08-31"))

    def test_robots_forbid(self, faulty):
        assert "Disallow: /v8\n" in faulty("robots=/v8").get("/robots.txt").text

    @pytest.mark.parametrize("text", ["lazy=1", "slow=very", "error=1.5", "malformed=KO", "restate=KO:2", "", "busy"])
    def test_unknown_fault_is_refused(self, text):
        with pytest.raises(ValueError, match="fault"):
            Faults.parse([text])

    def test_every_fault_is_described(self):
        import exchange.faults
        assert all(f"{kind}=" in exchange.faults.__doc__ for kind in KINDS)


class TestProgram:
    def test_it_listens_moves_its_clock_and_ends(self):
        with price_site(date(2000, 9, 28), ("malformed=KO:2000-09-28",)) as url:
            assert read(f"{url}/q/d/l/?s=ko.us&d1=20000928").split()[1:] == ["2000-09-28,,,,n/a,"]
            set_clock(url, date(2000, 9, 29))
            assert read(f"{url}/q/d/l/?s=ko.us&d1=20000929").split()[1:] == ["2000-09-29,,,,14.602,"]
            with pytest.raises(HTTPError, match="404"):
                read(f"{url}/history/ENRN")
        with pytest.raises(OSError, match="refused"):
            read(url)

    @pytest.mark.parametrize(("fault", "reason"), [("laziness=1", "unknown fault 'laziness': choose from slow, error"),
                                                   ("slow=very", "fault slow: cannot read 'very'")])
    def test_start_that_fails_says_why(self, fault, reason):
        with pytest.raises(StockmlError, match=f"price site did not start: .*{reason}"), price_site(faults=(fault,)):
            pass

    def test_help(self, root):
        done = subprocess.run([sys.executable, "-m", "exchange", "--help"], cwd=root / "scrapy_project", check=True,
                              capture_output=True, text=True)
        assert "--as-of" in done.stdout and "--fault" in done.stdout
