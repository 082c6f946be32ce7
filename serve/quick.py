"""What is plainly right is read in no time; everything else `body` reads slowly, and says what is wrong with it.

A forecast takes a millisecond. To check each of 300 bars as pydantic and the store's contract do takes thirty. So a request is first
held against the same contract column by column. That must never be more lenient: a test holds both against the same spoiled requests.
"""

import re
from datetime import date
from functools import lru_cache

import msgspec
import numpy as np

from stockml.features import MIN_BARS, History
from stockml.prices import GAP, STILL
from stockml.schema import MAX_PRICE

MAX_BARS = 50_000  # of one stock
MAX_SERIES = 100
MAX_HORIZONS = 100
MAX_VOLUME = 1e15  # shares a day: above every real one, and a whole number in a float
OPTIONAL = ("open", "high", "low", "adj_close", "volume")
TICKER = re.compile(r"[A-Z0-9^][A-Z0-9.\-^=]{0,14}", re.ASCII)
FIRST = np.datetime64("1900-01-01")
QUOTE = ord('"')
DIGITS = [0, 1, 2, 3, 5, 6, 8, 9]  # of YYYY-MM-DD


class Bar(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    "As `body.Bar`."
    date: str
    close: float
    open: float | None = None
    high: float | None = None
    low: float | None = None
    adj_close: float | None = None
    volume: float | None = None


class Series(msgspec.Struct, forbid_unknown_fields=True):
    "As `body.Series`."
    ticker: str
    bars: list[Bar]


class ForecastRequest(Series):
    "As `body.ForecastRequest`."
    horizons: list[int] | None = None


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    "As `body.BatchRequest`."
    series: list[Series]
    horizons: list[int] | None = None


ONE, MANY = msgspec.json.Decoder(ForecastRequest), msgspec.json.Decoder(BatchRequest)


def quick(data: bytes, latest: date) -> tuple[list[History], list[int] | None, bool] | None:
    "Stocks, horizons and whether it is a batch; None = not plainly right."
    try:
        several = b'"series"' in data
        wanted = (MANY if several else ONE).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    series, horizons = wanted.series if several else [wanted], wanted.horizons
    if not 1 <= len(series) <= MAX_SERIES or (horizons is not None and not 1 <= len(horizons) <= MAX_HORIZONS):
        return None
    found = [_history(s, np.datetime64(latest)) for s in series]
    if None in found:
        return None
    stocks, texts = zip(*found, strict=True)
    expected = sum(texts) + several + (horizons is not None)
    if np.count_nonzero(np.frombuffer(data, np.uint8) == QUOTE) != 2 * expected:  # a key twice, of which one value would be lost unseen
        return None
    return (list(stocks), horizons, several) if len({s.ticker for s in stocks}) == len(stocks) else None


def _history(series: Series, latest: np.datetime64) -> tuple[History, int] | None:
    "The bars of one stock, and how many texts they are in JSON, keys among them; None = not plainly right."
    bars, n = series.bars, len(series.bars)
    if not MIN_BARS <= n <= MAX_BARS or not TICKER.fullmatch(series.ticker):
        return None
    dates = _dates([b.date for b in bars])
    if dates is None or dates[-1] > latest:
        return None
    close, first = np.array([b.close for b in bars]), bars[0]
    # What the first bar does not have, none has: the count of texts in the request would tell.
    more = {c: np.array([getattr(b, c) for b in bars], float) for c in OPTIONAL if getattr(first, c) is not None}
    adj_close = more.get("adj_close", close)
    moves = np.count_nonzero(adj_close[1:] != adj_close[:-1])
    if moves < STILL * (n - 1) or close.min() <= 0 or close.max() > MAX_PRICE or (more and not _fits(close, more)):
        return None
    if "volume" in more:
        more["volume"] = np.round(more["volume"])
    unknown = _unknown(n)
    texts = 3 + 3 * n + sum(n - np.count_nonzero(np.isnan(x)) for x in more.values())
    return History(series.ticker, dates, *(more.get(c, unknown) for c in ("open", "high", "low")), close, adj_close,
                   more.get("volume", unknown)), texts


@lru_cache(8)
def _unknown(n: int) -> np.ndarray:
    "A column that was not sent."
    column = np.full(n, np.nan)
    column.flags.writeable = False
    return column


def _dates(texts: list[str]) -> np.ndarray | None:
    "YYYY-MM-DD, all of them, as datetime64[D], if they are in order and without a long silence."
    joined = "".join(texts)
    return _parsed(joined) if len(joined) == 10 * len(texts) and joined.isascii() else None


@lru_cache(8)  # stocks of one market have their days in common
def _parsed(joined: str) -> np.ndarray | None:
    raw = np.frombuffer(joined.encode(), np.uint8).reshape(-1, 10)
    digits = raw[:, DIGITS].astype(int) - ord("0")
    if not ((raw[:, [4, 7]] == ord("-")).all() and (digits >= 0).all() and (digits <= 9).all()):
        return None
    # By hand: NumPy 2.4 crashes on a wrong date among many when it reads an array of them.
    year, month, day = digits[:, :4] @ (1000, 100, 10, 1), digits[:, 4:6] @ (10, 1), digits[:, 6:] @ (10, 1)
    first = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    dates = first.astype("datetime64[D]") + (day - 1)
    if month.min() < 1 or month.max() > 12 or not (dates.astype("datetime64[M]") == first).all():  # the 31st of April
        return None
    steps = np.diff(dates).astype(int)
    if dates[0] < FIRST or steps.min() < 1 or steps.max() > GAP:  # in days: so many sessions are more
        return None
    dates.flags.writeable = False
    return dates


def _fits(close: np.ndarray, more: dict[str, np.ndarray]) -> bool:
    "Are the other prices and the volumes possible, and does each day's range hold its open and close?"
    if "adj_close" in more and np.isnan(more["adj_close"]).any():
        return False
    for name, x in more.items():
        wrong = (x < 0) | (x > MAX_VOLUME) if name == "volume" else (x <= 0) | (x > MAX_PRICE)  # NaN is neither
        if wrong.any():
            return False
    opened, slack = more.get("open", close), 1e-4
    if "low" in more and (more["low"] > np.fmin(opened, close) * (1 + slack)).any():
        return False
    return not ("high" in more and (more["high"] < np.fmax(opened, close) * (1 - slack)).any())
