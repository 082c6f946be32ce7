"Every request is timed, counted and written down: one line a request, which holds the forecast too if there is one alone."

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import ServiceUnavailable

from stockml.config import StockmlError
from stockml.journal import Journal
from stockml.prices import session_after

from .lines import Handler, Lines, head
from .metrics import BARS, BUSY, ERRORS, FORECASTS, REFUSED, REJECTED, REQUESTS, STALE, field_kind
from .problems import MAX_TEXT
from .trace import Trace, read_trace

QUIET = {"healthz", "readyz", "metrics"}  # asked every few seconds: only for those who want to see everything
FRESH = 5  # sessions that bars may be behind before the answer says so


@dataclass(slots=True)
class Seen:
    "What is known of a request while it is under way."
    start: int  # nanoseconds
    trace: Trace
    caller: str | None = None  # name of its API key
    wrong: str | None = None  # the field at fault
    records: Sequence[dict[str, Any]] = ()  # one a forecast

    def common(self) -> dict[str, Any]:
        "What all lines of a request hold."
        trace = self.trace
        user = {"user": {"id": self.caller}} if self.caller else {}
        return {"trace": {"id": trace.trace_id}, "span": {"id": trace.span_id}, **user}


def add_observation(app: Flask) -> None:
    "Observe every request of this app."
    lines, verbose = Lines(), os.environ.get("STOCKML_LOG_LEVEL", "info").lower() == "debug"
    logger = logging.getLogger("serve")
    logger.handlers = [Handler(lines, lambda: g.seen.common() if g and "seen" in g else {})]
    logger.setLevel(logging.INFO)

    @app.before_request
    def begin() -> None:
        g.seen = Seen(time.perf_counter_ns(), read_trace(request.environ))
        BUSY.inc()

    @app.after_request
    def end(response: Response) -> Response:
        seen, endpoint = g.seen, request.endpoint or "none"
        took = time.perf_counter_ns() - seen.start
        response.headers["X-Request-ID"] = seen.trace.request_id
        response.headers["traceparent"] = seen.trace.traceparent
        _count(seen, endpoint, response.status_code, took)
        if verbose or endpoint not in QUIET:
            lines.write(*_lines(seen, endpoint, request.environ, response, took))
        return response

    @app.teardown_request
    def leave(_) -> None:
        if "seen" in g:
            BUSY.dec()


def open_journal() -> Journal | None:
    "Where every forecast is kept before it is told: the folder STOCKML_JOURNAL, if it is set."
    folder = os.environ.get("STOCKML_JOURNAL")
    return Journal(Path(folder)) if folder else None


def observe_forecasts(records: list[dict[str, Any]], journal: Journal | None) -> str | None:
    "Keep what a request got for its line and in the journal, count it; the text of a warning if its bars are old. 503: no room."
    g.seen.records = records
    if journal:
        try:
            journal.append(_forecast_lines(g.seen, request.endpoint))
        except StockmlError as e:
            logging.getLogger("serve").error("%s", e)
            g.seen.records = ()
            raise ServiceUnavailable("forecasts cannot be written down, so none are told", retry_after=10) from None
    BARS.observe(sum([r["bars"] for r in records]))
    models = [f["model"] for r in records for f in r["forecasts"]]
    for model in set(models):
        FORECASTS.labels(model).inc(models.count(model))
    limit = stale_from(datetime.now(UTC).date())
    old = [f"{r['ticker']} ends on {r['origin']}" for r in records if r["origin"] <= limit]
    if not old:
        return None
    STALE.inc(len(old))
    more = f" and {len(old) - 3} more" if len(old) > 3 else ""
    return f"stale bars, more than {FRESH} sessions behind: {', '.join(old[:3])}{more}"


def observe_refusal(status: int, message: str, address: str, environ: dict[str, Any]) -> Trace:
    "Count and write down what no application gets to see; the names it goes by."
    seen = Seen(0, read_trace(environ))
    REFUSED.labels(status).inc()
    _refusals().write({
        **head("warn" if status < 500 else "error", message), **seen.common(),
        "event": {"kind": "event", "dataset": "stockml.request", "action": "refused", "outcome": "failure"},
        "http": {"request": {"id": seen.trace.request_id}, "response": {"status_code": status}}, "client": {"address": address},
    })
    return seen.trace


@cache
def _refusals() -> Lines:
    "Opened by each worker after the fork."
    return Lines()


@lru_cache(2)
def stale_from(today: date) -> str:
    "The newest day whose bars are stale today: more than FRESH sessions have begun since."
    day = today
    while session_after(day, FRESH + 1) > today:
        day -= timedelta(days=1)
    return day.isoformat()


def _count(seen: Seen, endpoint: str, status: int, took: int) -> None:
    "Tell the metrics."
    REQUESTS.labels(endpoint, status).observe(took / 1e9)
    if status >= 500:
        ERRORS.labels(endpoint).inc()
    if seen.wrong:
        REJECTED.labels(field_kind(seen.wrong)).inc()


def _lines(seen: Seen, endpoint: str, environ: dict[str, Any], response: Response, took: int) -> list[dict[str, Any]]:
    "The line of the request; before it one for each forecast of a batch. One forecast alone stands in the request's own line."
    status, method, path, common = response.status_code, environ["REQUEST_METHOD"], _path(environ), seen.common()
    whole = {
        **head("info" if status < 400 else "warn" if status < 500 else "error", f"{method} {path} {status}"), **common,
        "event": {"kind": "event", "dataset": "stockml.request", "action": endpoint, "duration": took,
                  "outcome": "success" if status < 400 else "failure"},
        "http": {"request": {"id": seen.trace.request_id, "method": method, "body": {"bytes": _length(environ.get("CONTENT_LENGTH"))}},
                 "response": {"status_code": status, "body": {"bytes": _length(response.headers.get("Content-Length"))}}},
        "url": {"path": path}, "client": {"address": environ.get("REMOTE_ADDR", "")},
    }
    if seen.wrong:
        whole["error"] = {"message": f"{seen.wrong[:MAX_TEXT]} is wrong"}
    if len(seen.records) == 1:
        whole["stockml"] = seen.records[0]
        return [whole]
    return [*_forecast_lines(seen, endpoint), whole]


def _forecast_lines(seen: Seen, endpoint: str) -> list[dict[str, Any]]:
    "A line a forecast."
    event, http = {"kind": "event", "dataset": "stockml.forecast", "action": endpoint}, {"request": {"id": seen.trace.request_id}}
    return [{**head("info", f"forecast of {r['ticker']}"), **seen.common(), "event": event, "http": http, "stockml": r}
            for r in seen.records]


def _path(environ: dict[str, Any]) -> str:
    "Where a request went, as text: WSGI has the bytes of its address as Latin-1."
    return environ.get("PATH_INFO", "")[:MAX_TEXT].encode("latin-1", "replace").decode("utf-8", "replace")


def _length(text: str | None) -> int:
    "Bytes of a body; 0 where its length was not told."
    return int(text) if text and text.isdecimal() and len(text) < 16 else 0
