"What a client may send: strict JSON of known fields, then the same contract of bars that the price store keeps."

import json
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Annotated, Any

import pandas as pd
from flask import Request
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from stockml.features import MIN_BARS
from stockml.schema import MAX_PRICE, check_bars

from .problems import MAX_TEXT, Invalid

MAX_BODY = 8 * 2**20  # bytes; more than a century of daily bars with every field
MAX_BARS = 50_000
MAX_KEYS = 16  # of one JSON object; we know fewer, and a million wrong ones would make a million complaints
MAX_VOLUME = 1e15  # shares a day: above every real one, and a whole number in a float

Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
Price = Annotated[float, Field(gt=0, le=MAX_PRICE)]
Volume = Annotated[float, Field(ge=0, le=MAX_VOLUME)]
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


class ForecastRequest(Strict):
    "One stock's history up to the origin, oldest first; all horizons of the model unless some are named."
    ticker: Annotated[str, Field(max_length=15)]
    bars: Annotated[list[Bar], Field(min_length=MIN_BARS, max_length=MAX_BARS), FailFast()]
    horizons: Annotated[list[int], Field(min_length=1, max_length=100)] | None = None


def read_request(request: Request) -> ForecastRequest:
    "The body of a request. 415 and 400 where it is no JSON, 413 where it is too long, 422 where a field is wrong."
    if not request.is_json:
        raise UnsupportedMediaType("send JSON, with the header Content-Type: application/json")
    data = request.get_data(cache=False)
    if len(data) >= MAX_BODY:  # a body that comes in chunks, its length untold, is cut there without a word
        raise RequestEntityTooLarge
    try:
        values = json.loads(data, object_pairs_hook=_object)
    except (ValueError, RecursionError) as e:
        raise BadRequest(f"not JSON: {str(e)[:MAX_TEXT]}") from None
    try:
        return ForecastRequest.model_validate(values)
    except ValidationError as e:
        raise Invalid([_complaint(**c) for c in e.errors(include_url=False, include_context=False)]) from None


def to_bars(wanted: ForecastRequest, latest: date) -> pd.DataFrame:
    "The bars of a request, valid by the store's contract and in order; none after `latest`."
    _check_order(wanted.bars)
    raw = pd.DataFrame(map(vars, wanted.bars)).assign(ticker=wanted.ticker)
    # A column of nothing but nulls was not sent: without an adj_close, the close stands in for it.
    bars, rejected = check_bars(raw.dropna(axis="columns", how="all"), latest)
    if len(rejected):
        raise Invalid(list(dict.fromkeys(_blame(row, reason) for row, reason in rejected["reason"].items())))
    return bars


def latest_session(as_of: str) -> date:
    "No bar is later than today, or than the last one the model knows if this machine's clock is behind that."
    return max(datetime.now(UTC).date(), date.fromisoformat(as_of))


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


def _check_order(bars: list[Bar]) -> None:
    "Dates ascend. ISO dates compare as text."
    for i, (before, bar) in enumerate(pairwise(bars), start=1):
        if bar.date <= before.date:
            what = "the same date as" if bar.date == before.date else "earlier than"
            raise Invalid([(f"bars[{i}].date", f"{bar.date} is {what} bars[{i - 1}]: one bar a date, oldest first")])


def _blame(row: int, reason: str) -> tuple[str, str]:
    'The schema\'s reason for a row as (field, message): "close: 0.0 must be above zero" blames bars[row].close.'
    column, colon, message = reason.partition(": ")
    if not colon:
        return f"bars[{row}]", reason
    return "ticker" if column == "ticker" else f"bars[{row}].{column}", message
