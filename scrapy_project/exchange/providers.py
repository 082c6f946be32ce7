"The site's histories in the shapes of Yahoo's chart API (v8) and of Stooq's daily CSV."

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
from flask import Flask, Response, abort, jsonify, request

from .market import CELLS, Market, cells

ZONE = "America/New_York"
FAR = 4_102_444_800  # 2100-01-01


def add_providers(app: Flask, market: Market) -> None:
    "Add the two endpoints, at the providers' own paths."

    @app.get("/v8/finance/chart/<ticker>")
    def yahoo(ticker):
        first, last = (request.args.get(k, d, type=int) for k, d in (("period1", 0), ("period2", FAR)))
        try:
            start, end = (datetime.fromtimestamp(s, UTC).date() for s in (first, last - 1))
            known = market.history(ticker)
        except (OverflowError, OSError, ValueError):
            return _complaint(400, "Bad Request", "Invalid input - period1 or period2")
        except KeyError:
            known = pd.DataFrame()
        if known.empty:
            return _complaint(404, "Not Found", "No data found, symbol may be delisted")
        rows = market.history(ticker, start, end)
        if rows.empty:
            return _complaint(400, "Bad Request", f"Data doesn't exist for startDate = {first}, endDate = {last}")
        return jsonify(chart={"result": [_chart(ticker, known, rows, market)], "error": None})

    @app.get("/q/d/l/")
    def stooq():
        symbol = request.args.get("s", "").upper().removesuffix(".US")
        try:
            rows = market.history(symbol, *(_compact(request.args.get(k)) for k in ("d1", "d2")))
        except ValueError:
            abort(400)
        except KeyError:
            rows = pd.DataFrame()
        if rows.empty:
            return Response("No data", mimetype="text/plain")
        lines = [",".join([r[0], *r[1:4], r[5], r[6]]) for r in cells(rows, market.faults.malformed)]
        return Response("\r\n".join(["Date,Open,High,Low,Close,Volume", *lines, ""]), mimetype="text/csv")


def _compact(text: str | None) -> date | None:
    "A date as Stooq takes it, YYYYMMDD."
    return datetime.strptime(text, "%Y%m%d").date() if text else None


def _complaint(status: int, code: str, description: str) -> tuple[Response, int]:
    "Yahoo's error shape."
    return jsonify(chart={"result": None, "error": {"code": code, "description": description}}), status


def _stamp(day: date, hour: int, minute: int = 0) -> int:
    "Unix time of a New York clock time."
    return int(datetime.combine(day, time(hour, minute), ZoneInfo(ZONE)).timestamp())


def _chart(ticker: str, known: pd.DataFrame, rows: pd.DataFrame, market: Market) -> dict:
    "One element of chart.result: parallel lists under timestamp, indicators.quote[0] and indicators.adjclose[0]."
    quote = {c: [None if pd.isna(v) else v for v in rows[c].tolist()] for c in CELLS}
    if market.faults.malformed and market.faults.malformed[0] == ticker:
        quote["close"] = [None if d.date() == market.faults.malformed[1] else v
                          for d, v in zip(rows["date"], quote["close"], strict=True)]
    adjusted = quote.pop("adj_close")
    return {"meta": _meta(ticker, known, market.clock), "timestamp": [_stamp(d.date(), 9, 30) for d in rows["date"]],
            "indicators": {"quote": [quote], "adjclose": [{"adjclose": adjusted}]}}


def _meta(ticker: str, known: pd.DataFrame, clock: date) -> dict:
    "What Yahoo says of the instrument, as of the clock's evening."
    noon = datetime.combine(clock, time(12), ZoneInfo(ZONE))
    zone, offset = noon.tzname(), int(noon.utcoffset() / timedelta(seconds=1))
    hours = {"pre": (4, 0, 9, 30), "regular": (9, 30, 16, 0), "post": (16, 0, 20, 0)}
    periods = {k: {"timezone": zone, "start": _stamp(clock, *h[:2]), "end": _stamp(clock, *h[2:]), "gmtoffset": offset}
               for k, h in hours.items()}
    return {"currency": "USD", "symbol": ticker, "exchangeName": "NMS", "fullExchangeName": "NasdaqGS",
            "instrumentType": "EQUITY", "firstTradeDate": _stamp(known["date"].iloc[0].date(), 9, 30),
            "regularMarketTime": _stamp(known["date"].iloc[-1].date(), 16), "hasPrePostMarketData": True,
            "gmtoffset": offset, "timezone": zone, "exchangeTimezoneName": ZONE,
            "regularMarketPrice": known["close"].iloc[-1], "priceHint": 2, "currentTradingPeriod": periods,
            "dataGranularity": "1d", "range": "", "validRanges": ["1d", "5d", "1mo", "1y", "5y", "max"]}
