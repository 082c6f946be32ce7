"What a client may send: strict JSON of known fields, then the same contract of bars that the price store keeps."

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from itertools import pairwise
from threading import Lock
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from flask import Request
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, ServiceUnavailable, UnsupportedMediaType

from stockml.features import MARKET_NAMES, MIN_BARS, History, histories
from stockml.prices import no_history
from stockml.schema import MAX_PRICE, check_bars

from .problems import MAX_TEXT, Invalid
from .quick import MAX_BARS, MAX_HORIZONS, MAX_SERIES, MAX_VOLUME, quick

MAX_BODY = 8 * 2**20  # bytes; more than a century of daily bars with every field
MAX_OBJECTS, MAX_ARRAYS = 250_000, 1000  # in one body: above every forecast, and below what would take all memory
BIG = 2**20  # bytes from which requests take turns: each may take seconds, and hundreds of megabytes
WAIT_S = 5  # seconds that such a request waits for its turn
MAX_CELLS = 400_000  # stocks times days of a market
MAX_KEYS = 16  # of one JSON object; we know fewer, and a million wrong ones would make a million complaints

Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
Price = Annotated[float, Field(gt=0, le=MAX_PRICE)]
Volume = Annotated[float, Field(ge=0, le=MAX_VOLUME)]
Horizons = Annotated[list[int], Field(min_length=1, max_length=MAX_HORIZONS)] | None
MESSAGES = {"string_pattern_mismatch": "not a date (YYYY-MM-DD)", "extra_forbidden": "unknown field",
            "model_type": "must be a JSON object"}


class Strict(BaseModel):
    "No unknown fields, no conversions, no NaN or infinity."
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Bar(Strict):
    "One session: values that can be told wrong on their own. What they must be together, `stockml.schema` knows."
    date: Day
    close: Price
    open: Price | None = None
    high: Price | None = None
    low: Price | None = None
    adj_close: Price | None = None
    volume: Volume | None = None


class Series(Strict):
    "One stock's history up to the origin, oldest first."
    ticker: Annotated[str, Field(max_length=15)]
    bars: Annotated[list[Bar], Field(min_length=MIN_BARS, max_length=MAX_BARS), FailFast()]


class ForecastRequest(Series):
    "All horizons of the model unless some are named."
    horizons: Horizons = None


class BatchRequest(Strict):
    "Several stocks at once. Five or more that trade on the same days are a market, and are forecast as one."
    series: Annotated[list[Series], Field(min_length=1, max_length=MAX_SERIES), FailFast()]
    horizons: Horizons = None


class Wanted(NamedTuple):
    "A valid request."
    stocks: list[History]
    horizons: tuple[int, ...] | None  # None = all that the model knows
    several: bool  # a batch was sent, and a batch is the answer


def read_request(request: Request, latest: date) -> Wanted:
    """What a request wants; no bar is later than `latest`.

    415 and 400 where it is no JSON, 413 where it is too long, 422 where a field is wrong.
    """
    if not request.is_json:
        raise UnsupportedMediaType("send JSON, with the header Content-Type: application/json")
    if request.content_encoding:
        raise UnsupportedMediaType("send it as it is, without a Content-Encoding")
    data = request.get_data(cache=True)
    if len(data) >= MAX_BODY:  # a body that comes in chunks, its length untold, is cut there without a word
        raise RequestEntityTooLarge
    if found := quick(data, latest):
        stocks, horizons, several = found
        return _wanted(stocks, horizons, several)
    if data.count(b"{") > MAX_OBJECTS or data.count(b"[") > MAX_ARRAYS:
        raise BadRequest(f"not JSON: more than {MAX_OBJECTS:,} objects or {MAX_ARRAYS:,} arrays, and no forecast has so many")
    return _read_slowly(data, latest)


@contextmanager
def in_turn(size: int | None) -> Iterator[None]:
    "A request of so many bytes (None: it does not say) is read and answered; large ones one after the other. 503 for who waits too long."
    if size is not None and size < BIG:
        yield
        return
    if not _turn.acquire(timeout=WAIT_S):
        raise ServiceUnavailable("another large request is being answered", retry_after=WAIT_S)
    try:
        yield
    finally:
        _turn.release()
        give_back()


def give_back() -> None:
    "What a large request took goes back to the system, where the C library can be told to (glibc)."
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


_turn = Lock()


def _read_slowly(data: bytes, latest: date) -> Wanted:
    "The same for whatever is not plainly right: usually it says why not."
    try:
        values = json.loads(data.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as e:
        raise BadRequest(f"not JSON: {str(e)[:MAX_TEXT]}") from None
    several = isinstance(values, dict) and "series" in values
    try:
        wanted = (BatchRequest if several else ForecastRequest).model_validate(values)
    except ValidationError as e:
        raise Invalid([_complaint(**c) for c in e.errors(include_url=False, include_context=False)]) from None
    named = {f"series[{i}].": s for i, s in enumerate(wanted.series)} if several else {"": wanted}
    stocks = [_history(s, latest, field) for field, s in named.items()]
    _check_different(stocks)
    return _wanted(stocks, wanted.horizons, several)


def _wanted(stocks: list[History], horizons: list[int] | None, several: bool) -> Wanted:
    "`Invalid` for stocks that have so few days in common that their market would fill the memory."
    days = {id(s.dates): s.dates for s in stocks}
    if len(stocks) >= MARKET_NAMES and len(days) > 1:
        count = len(np.unique(np.concatenate([*days.values()])))
        if count * len(stocks) > MAX_CELLS:
            what = f"{len(stocks)} stocks on {count:,} different days: more than {MAX_CELLS:,} together"
            raise Invalid([("series", f"{what}; send fewer at once")])
    return Wanted(stocks, tuple(horizons) if horizons else None, several)


def latest_session(as_of: str) -> date:
    "No bar is later than today, or than the last one the model knows if this machine's clock is behind that."
    return max(datetime.now(UTC).date(), date.fromisoformat(as_of))


def _history(series: Series, latest: date, field: str) -> History:
    "The bars of one stock, valid by the store's contract and in order; `field` is where they stand in the request."
    _check_order(series.bars, field)
    raw = pd.DataFrame(map(vars, series.bars)).assign(ticker=series.ticker)
    # A column of nothing but nulls was not sent: without an adj_close, the close stands in for it.
    bars, rejected = check_bars(raw.dropna(axis="columns", how="all"), latest)
    if len(rejected):
        raise Invalid(list(dict.fromkeys(_blame(row, reason, field) for row, reason in rejected["reason"].items())))
    if why := no_history(bars, MIN_BARS):
        raise Invalid([(f"{field}bars", *why.values())])
    return histories(bars)[0]


def _check_different(stocks: list[History]) -> None:
    "Each ticker comes once."
    seen: dict[str, int] = {}
    for i, stock in enumerate(stocks):
        if (first := seen.setdefault(stock.ticker, i)) != i:
            raise Invalid([(f"series[{i}].ticker", f"{stock.ticker} is series[{first}] already")])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    "A JSON object whose keys are few and all different: of two values under one key, one would be lost unseen."
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"an object with {len(pairs)} keys; at most {MAX_KEYS} are expected")
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [k for k, _ in pairs]
        raise ValueError(f"duplicate key {next(k for k in keys if keys.count(k) > 1)!r}")
    return values


def _complaint(loc: tuple[str | int, ...], type: str, msg: str, **_) -> tuple[str, str]:
    'One of pydantic\'s errors as (field, message), e.g. ("bars[3].close", "Input should be a valid number").'
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
    return field or "body", MESSAGES.get(type, msg)


def _check_order(bars: list[Bar], field: str) -> None:
    "Dates ascend. ISO dates compare as text."
    for i, (before, bar) in enumerate(pairwise(bars), start=1):
        if bar.date <= before.date:
            what = "the same date as" if bar.date == before.date else "earlier than"
            raise Invalid([(f"{field}bars[{i}].date", f"{bar.date} is {what} bars[{i - 1}]: one bar a date, oldest first")])


def _blame(row: int, reason: str, field: str) -> tuple[str, str]:
    'The schema\'s reason for a row as (field, message): "close: 0.0 must be above zero" blames bars[row].close.'
    column, colon, message = reason.partition(": ")
    if not colon:
        return f"{field}bars[{row}]", reason
    return f"{field}ticker" if column == "ticker" else f"{field}bars[{row}].{column}", message
