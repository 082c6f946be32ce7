"""The bundled price site: real history behind an HTML site and two endpoints shaped like real providers.

It has a clock. Asked as of a date it shows nothing later, so production can be replayed day by day against it.
"""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
from flask import Flask, Response, abort, jsonify, render_template_string, request

from .faults import Faults

SNAPSHOT = Path(__file__).with_name("snapshot.parquet")
PAGE_ROWS = 1000
CELLS = ["open", "high", "low", "close", "adj_close", "volume"]

STYLE = """<style>body{font:15px system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.2em .6em;text-align:right;border-bottom:1px solid #e4e4e4}
td:first-child,th:first-child{text-align:left}a{color:#0550ae}</style>"""
INDEX = """<!doctype html><html lang="en"><meta charset="utf-8"><title>The exchange</title>{{ style|safe }}
<h1>Daily prices</h1><p>Clock: <b id="clock">{{ clock }}</b>. {{ rows|length }} stocks.</p>
<table id="tickers"><thead><tr><th>ticker<th>first session<th>last session<th>sessions</thead><tbody>
{% for r in rows %}<tr><td><a href="/history/{{ r.ticker }}">{{ r.ticker }}</a><td>{{ r.first }}<td>{{ r.last }}<td>{{ r.n }}
{% endfor %}</tbody></table></html>
<!-- end of page -->"""
HISTORY = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{ticker}</title>{style}
<h1>{ticker}</h1><p><a href="/">All stocks</a>. Page {page} of {pages}. {links}</p>
<table id="history" data-rows="{count}"><thead><tr><th>date<th>open<th>high<th>low<th>close<th>adj_close<th>volume</thead>
<tbody>{body}</tbody></table></html>
<!-- end of page -->"""


def create_app(snapshot: Path = SNAPSHOT, as_of: date | None = None, faults: Faults | None = None) -> Flask:
    "The site over a snapshot of bars. `as_of` sets the clock; None is the snapshot's last session."
    app = Flask(__name__)
    bars = pd.read_parquet(snapshot)
    app.config.update(CLOCK=as_of or bars["date"].max().date(), FAULTS=faults or Faults())
    histories = {t: _restated(b.reset_index(drop=True), app.config["FAULTS"]) for t, b in bars.groupby("ticker")}
    app.before_request(lambda: app.config["FAULTS"].before())
    app.after_request(lambda response: app.config["FAULTS"].after(response))

    def visible(ticker: str, start: date | None = None, end: date | None = None) -> pd.DataFrame:
        "A history between two dates, as far as the clock allows."
        if (bars := histories.get(ticker.upper())) is None:
            abort(404, f"no such ticker: {ticker}")
        clock = min(filter(None, (app.config["CLOCK"], end, _date("as_of"))))
        low = 0 if start is None else bars["date"].searchsorted(pd.Timestamp(start))
        return bars[low : bars["date"].searchsorted(pd.Timestamp(clock), side="right")]

    _html(app, histories, visible)
    _providers(app, histories, visible)

    @app.route("/clock", methods=["GET", "POST"])
    def clock():
        "Read the clock, or set it with {\"as_of\": \"2000-09-29\"}; from this machine only."
        if request.method == "POST":
            if request.remote_addr != "127.0.0.1":
                abort(403, "the clock is set from this machine only")
            app.config["CLOCK"] = date.fromisoformat(request.get_json()["as_of"])
        return jsonify(as_of=app.config["CLOCK"].isoformat())

    return app


def _date(name: str) -> date | None:
    "A date from the query, 400 if it is none."
    try:
        return date.fromisoformat(request.args[name]) if request.args.get(name) else None
    except ValueError:
        abort(400, f"{name}: not a date (YYYY-MM-DD): {request.args[name]!r}")


def _restated(bars: pd.DataFrame, faults: Faults) -> pd.DataFrame:
    "The history after a split ten sessions ago: everything before it in new units."
    ticker, _, factor = faults.restate.partition(":")
    if ticker == bars["ticker"].iloc[0]:
        prices = ["open", "high", "low", "close", "adj_close"]
        bars.loc[: len(bars) - 11, prices] = (bars.loc[: len(bars) - 11, prices] / float(factor)).round(6)
    return bars


def _html(app: Flask, histories: dict, visible) -> None:
    "Index, robots.txt and paginated history pages."

    @app.get("/robots.txt")
    def robots():
        return Response("User-agent: *\nDisallow: /clock\n", mimetype="text/plain")

    @app.get("/")
    def index():
        rows = [{"ticker": t, "first": f"{v['date'].iloc[0]:%Y-%m-%d}", "last": f"{v['date'].iloc[-1]:%Y-%m-%d}", "n": len(v)}
                for t in histories if len(v := visible(t))]
        return render_template_string(INDEX, rows=rows, clock=app.config["CLOCK"], style=STYLE)

    @app.get("/history/<ticker>")
    def history(ticker):
        rows = visible(ticker, _date("start"), _date("end"))
        page, pages = request.args.get("page", 1, type=int), max(1, -(-len(rows) // PAGE_ROWS))
        if not 1 <= page <= pages:
            abort(404, f"no page {page}: {ticker} has {pages}")
        query = "".join(f"&{k}={request.args[k]}" for k in ("start", "end", "as_of") if request.args.get(k))
        links = [f'<a rel="{rel}" href="/history/{ticker}?page={n}{query}">{rel}</a>'
                 for rel, n in (("prev", page - 1), ("next", page + 1)) if 1 <= n <= pages]
        part = rows[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
        lines = _cells(part)
        if app.config["FAULTS"].malformed == ticker and len(lines):
            lines[len(lines) // 2][4] = "n/a"
        body = "\n".join("<tr><td>" + "<td>".join(line) for line in lines)
        return HISTORY.format(ticker=ticker, style=STYLE, page=page, pages=pages, links=" ".join(links), count=len(part), body=body)


def _cells(bars: pd.DataFrame) -> list[list[str]]:
    "Rows of text: date, prices with all their decimals, volume; unknown values are empty."
    columns = [bars["date"].dt.strftime("%Y-%m-%d")]
    for name in CELLS:
        form = (lambda v: f"{v:.6f}".rstrip("0").rstrip(".")) if name != "volume" else (lambda v: f"{int(v)}")
        columns.append(["" if pd.isna(v) else form(v) for v in bars[name]])
    return [list(row) for row in zip(*columns, strict=True)]


@cache
def _new_york() -> ZoneInfo:
    return ZoneInfo("America/New_York")


def _opening(day: date) -> int:
    "Unix time of 09:30 in New York, as Yahoo stamps daily bars."
    return int(datetime(day.year, day.month, day.day, 9, 30, tzinfo=_new_york()).timestamp())


def _providers(app: Flask, histories: dict, visible) -> None:
    "The same data in the shapes of Yahoo's chart API (v8) and Stooq's daily CSV."

    @app.get("/v8/finance/chart/<ticker>")
    def yahoo(ticker):
        if ticker not in histories:
            error = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
            return jsonify(chart={"result": None, "error": error}), 404
        start, end = (datetime.fromtimestamp(request.args.get(k, d, type=int), UTC).date()
                      for k, d in (("period1", 0), ("period2", 4_102_444_800)))
        rows = visible(ticker, start, end - timedelta(days=1))
        quote = {c: [None if pd.isna(v) else v for v in rows[c].tolist()] for c in CELLS}
        adjusted = quote.pop("adj_close")
        meta = {"currency": "USD", "symbol": ticker, "exchangeName": "NMS", "instrumentType": "EQUITY",
                "exchangeTimezoneName": "America/New_York", "gmtoffset": -14400, "dataGranularity": "1d", "range": ""}
        result = {"meta": meta, "timestamp": [_opening(d.date()) for d in rows["date"]],
                  "indicators": {"quote": [quote], "adjclose": [{"adjclose": adjusted}]}}
        return jsonify(chart={"result": [result], "error": None})

    @app.get("/q/d/l/")
    def stooq():
        ticker = request.args.get("s", "").upper().removesuffix(".US")
        start, end = (datetime.strptime(request.args[k], "%Y%m%d").date() if request.args.get(k) else None for k in ("d1", "d2"))
        rows = visible(ticker, start, end) if ticker in histories else pd.DataFrame()
        if rows.empty:
            return Response("No data", mimetype="text/plain")
        lines = [",".join([r[0], *r[1:4], r[5], r[6]]) for r in _cells(rows)]
        return Response("\r\n".join(["Date,Open,High,Low,Close,Volume", *lines, ""]), mimetype="text/csv")
