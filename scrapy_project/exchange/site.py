"""The bundled price site: real history as HTML pages, and behind two endpoints shaped like real providers.

It has a clock. Asked as of a date it shows nothing later, so production can be replayed day by day against it: start it
with a date, move it with `POST /clock`, or look further back in one request with `?as_of=`.
"""

from datetime import date
from pathlib import Path

from flask import Flask, Response, abort, jsonify, request

from .faults import Faults
from .market import SNAPSHOT, Market, cells
from .providers import add_providers

PAGE_ROWS = 1000
ORIGIN = ("start", "end", "as_of")  # what a page hands on to the next

STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:60em;margin:2.5em auto;padding:0 1em;color:#1f2328}
h1{font-size:1.6em;margin-bottom:.2em}p{color:#57606a}a{color:#0550ae}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #e4e6e8}td:first-child,th:first-child{text-align:left}
thead th{position:sticky;top:0;background:#fff;color:#57606a;font-weight:600}tbody tr:hover{background:#f6f8fa}"""
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title><style>{{ style|safe }}</style></head><body>
%s
</body></html>
<!-- end of page -->"""
INDEX = PAGE % """<h1>Daily prices</h1><p>As of <b>{{ clock }}</b>: {{ rows|length }} stocks.</p>
<table id="tickers"><thead><tr><th>ticker</th><th>first session</th><th>last session</th><th>sessions</th></tr></thead>
<tbody>
{% for ticker, first, last, count in rows %}<tr><td><a href="/history/{{ ticker }}{{ query }}">{{ ticker }}</a></td>
<td>{{ first }}</td><td>{{ last }}</td><td>{{ "{:,}".format(count) }}</td></tr>
{% endfor %}</tbody></table>"""
HISTORY = PAGE % """<h1>{{ title }}</h1><p><a href="/">All stocks</a> · page {{ page }} of {{ pages }}
{% for rel, link in links %} · <a rel="{{ rel }}" href="{{ link }}">{{ rel }}</a>{% endfor %}</p>
<table id="history" data-rows="{{ count }}"><thead><tr><th>date</th><th>open</th><th>high</th><th>low</th><th>close</th>
<th>adj_close</th><th>volume</th></tr></thead><tbody>
{{ body|safe }}</tbody></table>"""


def create_app(snapshot: Path = SNAPSHOT, as_of: date | None = None, faults: Faults | None = None) -> Flask:
    "The site over a snapshot of bars. `as_of` sets the clock; None is the snapshot's last session."
    app = Flask(__name__)
    market = app.config["MARKET"] = Market(snapshot, as_of, faults)
    app.before_request(lambda: market.faults.before())
    app.after_request(lambda response: market.faults.after(response))
    _add_clock(app, market)
    _add_pages(app, market)
    add_providers(app, market)
    return app


def query_date(name: str) -> date | None:
    "A date from the query, 400 if it is none."
    try:
        return date.fromisoformat(request.args[name]) if request.args.get(name) else None
    except ValueError:
        abort(400, f"{name}: not a date (YYYY-MM-DD)")


def _add_clock(app: Flask, market: Market) -> None:
    "The clock, for whoever runs the site; robots.txt keeps crawlers away from it."

    @app.route("/clock", methods=["GET", "POST"])
    def clock():
        'Read the clock, or set it with {"as_of": "2000-09-29"}; from this machine only.'
        if request.method == "POST":
            if request.remote_addr != "127.0.0.1":
                abort(403, "the clock is set from this machine only")
            try:
                market.clock = date.fromisoformat(request.get_json()["as_of"])
            except (KeyError, TypeError, ValueError):
                abort(400, 'send {"as_of": "YYYY-MM-DD"}')
        return jsonify(as_of=market.clock.isoformat())

    @app.get("/robots.txt")
    def robots():
        forbidden = ["/clock", *filter(None, [market.faults.robots])]
        return Response("\n".join(["User-agent: *", *(f"Disallow: {f}" for f in forbidden), ""]), mimetype="text/plain")


def _add_pages(app: Flask, market: Market) -> None:
    "The index and the paginated history pages."
    index_page, history_page = (app.jinja_env.from_string(text) for text in (INDEX, HISTORY))

    def query(**extra) -> str:
        "What this page was asked for, handed on."
        kept = {**extra, **{k: request.args[k] for k in ORIGIN if request.args.get(k)}}
        return "?" + "&".join(f"{k}={v}" for k, v in kept.items()) if kept else ""

    @app.get("/")
    def index():
        as_of = query_date("as_of")
        histories = [market.history(t, as_of=as_of) for t in market.tickers(as_of)]
        rows = [(h["ticker"].iloc[0], h["date"].iloc[0].date(), h["date"].iloc[-1].date(), len(h)) for h in histories]
        clock = min(market.clock, as_of or market.clock)
        return index_page.render(title="Daily prices", style=STYLE, rows=rows, clock=clock, query=query())

    @app.get("/history/<ticker>")
    def history(ticker):
        start, end, as_of = map(query_date, ORIGIN)
        try:
            rows = market.history(ticker, start, end, as_of)
        except KeyError:
            abort(404, "no such ticker")
        page, pages = request.args.get("page", 1, type=int), max(1, -(-len(rows) // PAGE_ROWS))
        if not 1 <= page <= pages:
            abort(404, f"no such page: there are {pages}")
        part = cells(rows[(page - 1) * PAGE_ROWS : page * PAGE_ROWS], market.faults.malformed)
        links = [(rel, f"/history/{ticker}{query(page=n)}")
                 for rel, n in (("prev", page - 1), ("next", page + 1)) if 1 <= n <= pages]
        body = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>\n" for row in part)
        return history_page.render(title=ticker, style=STYLE, page=page, pages=pages, links=links, count=len(part), body=body)
