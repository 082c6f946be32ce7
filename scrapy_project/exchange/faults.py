"""What real sites do on bad days. Tests switch these on; they are off otherwise.

A fault is `kind=value`:

    slow=0.2                      seconds before each answer
    error=3                       the first three data requests get a 500
    busy=2                        the first two get a 429 with Retry-After (retry_after=5: that many seconds, else 1)
    truncate=1                    the first page is cut in the middle
    malformed=AAPL:2001-01-03     that row has text for its closes, or null in JSON
    restate=AAPL:2:2020-08-31     a split: once the clock is there, all prices before that date are divided by two
    robots=/v8                    robots.txt forbids addresses that begin so
"""

import threading
import time
from dataclasses import dataclass, field
from datetime import date

from flask import Response, request

FREE = ("robots", "clock", "index")  # endpoints that never misbehave


def _row(text: str) -> tuple[str, date]:
    ticker, day = text.split(":")
    return ticker, date.fromisoformat(day)


def _split(text: str) -> tuple[str, float, date]:
    ticker, factor, day = text.split(":")
    return ticker, float(factor), date.fromisoformat(day)


KINDS = {"slow": float, "error": int, "busy": int, "retry_after": int, "truncate": int, "malformed": _row,
         "restate": _split, "robots": str}


@dataclass
class Faults:
    "The faults that are switched on; the counted ones say how often they may still strike."

    slow: float = 0.0
    error: int = 0
    busy: int = 0
    retry_after: int = 1
    truncate: int = 0
    malformed: tuple[str, date] | None = None
    restate: tuple[str, float, date] | None = None
    robots: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def parse(cls, texts: list[str]) -> "Faults":
        "From `kind=value` texts; ValueError names the one that is none."
        faults = {}
        for text in texts:
            kind, _, value = text.partition("=")
            if kind not in KINDS:
                raise ValueError(f"unknown fault {kind!r}: choose from {', '.join(KINDS)}")
            try:
                faults[kind] = KINDS[kind](value)
            except ValueError:
                raise ValueError(f"fault {kind}: cannot read {value!r}; see exchange/faults.py") from None
        return cls(**faults)

    def strikes(self, kind: str) -> bool:
        "Count down one of the counted faults."
        with self.lock:
            left = getattr(self, kind)
            setattr(self, kind, max(0, left - 1))
            return left > 0

    def before(self) -> Response | None:
        "Delay, or answer in place of the page."
        if request.endpoint in FREE:
            return None
        time.sleep(self.slow)
        if self.strikes("error"):
            return Response("internal error", 500)
        if self.strikes("busy"):
            return Response("too many requests", 429, {"Retry-After": str(self.retry_after)})
        return None

    def after(self, response: Response) -> Response:
        "Cut the body of a good page in half, with a length that fits: a proxy's work."
        if request.endpoint not in FREE and response.status_code == 200 and self.strikes("truncate"):
            response.set_data(response.get_data()[: len(response.get_data()) // 2])
        return response
