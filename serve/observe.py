"Every request is timed, counted and written down: one line a request, which holds the forecast too if there is one alone."

import logging
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

from flask import Flask, Response, g, request

from stockml.prices import session_after

from .body import Wanted
from .forecasts import Made
from .lines import Handler, Lines, head
from .metrics import BARS, BUSY, ERRORS, FORECASTS, REJECTED, REQUESTS, STALE, field_kind
from .trace import Trace, read_trace

QUIET = {"healthz", "readyz", "metrics"}  # asked every few seconds: only for those who want to see everything
FRESH = 5  # sessions that bars may be behind before the answer says so
MAX_TEXT = 200


@dataclass(slots=True)
class Seen:
    "What is known of a request while it is under way."
    start: int  # nanoseconds
    trace: Trace
    caller: str | None = None  # name of its API key
    wrong: str | None = None  # the field at fault
    records: list[dict[str, Any]] = field(default_factory=list)


def add_observation(app: Flask) -> None:
    "Observe every request of this app."
    lines, verbose = Lines(), os.environ.get("STOCKML_LOG_LEVEL", "info").lower() == "debug"
    logger = logging.getLogger("serve")
    logger.handlers = [Handler(lines)]
    logger.setLevel(logging.INFO)

    @app.before_request
    def begin() -> None:
        g.seen = Seen(time.perf_counter_ns(), read_trace(request.headers))
        BUSY.inc()

    @app.after_request
    def end(response: Response) -> Response:
        seen, took = g.seen, time.perf_counter_ns() - g.seen.start
        response.headers["X-Request-ID"] = seen.trace.request_id
        response.headers["traceparent"] = seen.trace.traceparent
        _count(seen, response, took)
        if verbose or request.endpoint not in QUIET:
            lines.write(*_lines(seen, response, took))
        return response

    @app.teardown_request
    def leave(_) -> None:
        if "seen" in g:
            BUSY.dec()


def observe_forecasts(wanted: Wanted, made: Made) -> str | None:
    "Keep what a request got for its line, count it; the text of a warning if its bars are old."
    g.seen.records = made.records
    BARS.observe(sum(r["bars"] for r in made.records))
    for record in made.records:
        for f in record["forecasts"]:
            FORECASTS.labels(f["model"]).inc()
    limit = stale_from(datetime.now(UTC).date()).isoformat()
    old = [f"{r['ticker']} ends on {r['origin']}" for r in made.records if r["origin"] <= limit]
    if not old:
        return None
    STALE.inc(len(old))
    more = f" and {len(old) - 3} more" if len(old) > 3 else ""
    return f"stale bars, more than {FRESH} sessions behind: {', '.join(old[:3])}{more}"


@lru_cache(2)
def stale_from(today: date) -> date:
    "The newest day whose bars are stale today: more than FRESH sessions have begun since."
    day = today
    while session_after(day, FRESH + 1) > today:
        day -= timedelta(days=1)
    return day


def _count(seen: Seen, response: Response, took: int) -> None:
    "Tell the metrics."
    endpoint, status = request.endpoint or "none", response.status_code
    REQUESTS.labels(endpoint, status).observe(took / 1e9)
    if status >= 500:
        ERRORS.labels(endpoint).inc()
    if seen.wrong:
        REJECTED.labels(field_kind(seen.wrong)).inc()


def _lines(seen: Seen, response: Response, took: int) -> list[dict[str, Any]]:
    "The line of the request; before it one for each forecast of a batch. One forecast alone stands in the request's own line."
    status, (record, *more) = response.status_code, seen.records or [None]
    common = {"trace": {"id": seen.trace.trace_id}, "span": {"id": seen.trace.span_id}}
    if seen.caller:
        common["user"] = {"id": seen.caller}
    whole = {
        **head("info" if status < 400 else "warn" if status < 500 else "error",
               f"{request.method} {request.path[:MAX_TEXT]} {status}"), **common,
        "event": {"kind": "event", "dataset": "stockml.request", "action": request.endpoint or "none", "duration": took,
                  "outcome": "success" if status < 400 else "failure"},
        "http": {"request": {"id": seen.trace.request_id, "method": request.method,
                             "body": {"bytes": request.content_length or 0}},
                 "response": {"status_code": status, "body": {"bytes": response.content_length or 0}}},
        "url": {"path": request.path[:MAX_TEXT]}, "client": {"address": request.remote_addr or ""},
    }
    if seen.wrong:
        whole["error"] = {"message": seen.wrong[:MAX_TEXT]}
    if not more:
        return [whole | ({"stockml": record} if record else {})]
    event = {"kind": "event", "dataset": "stockml.forecast", "action": request.endpoint}
    return [*({**head("info", f"forecast of {r['ticker']}"), **common, "event": event,
               "http": {"request": {"id": seen.trace.request_id}}, "stockml": r} for r in seen.records), whole]
