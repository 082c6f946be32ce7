"""What real sites do on bad days. Tests switch these on; they are off otherwise.

A fault is `kind=value`: `slow=0.2` (seconds before each answer), `error=3` (the first three data requests get a 500),
`busy=2` (the first two get a 429 with Retry-After), `truncate=1` (the first page is cut in the middle),
`malformed=AAPL` (one row of that history has text for a price), `restate=AAPL:2` (after a split: all its prices before
the last ten sessions are divided by two).
"""

import threading
import time
from dataclasses import dataclass, field

from flask import Response, request

KINDS = {"slow": float, "error": int, "busy": int, "truncate": int, "malformed": str, "restate": str}
RETRY_AFTER_S = 1


@dataclass
class Faults:
    "The faults that are switched on, and how often each may still strike."

    slow: float = 0.0
    error: int = 0
    busy: int = 0
    truncate: int = 0
    malformed: str = ""
    restate: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def parse(cls, texts: list[str]) -> "Faults":
        "From `kind=value` texts; ValueError names a kind that does not exist."
        pairs = dict(t.split("=", 1) for t in texts)
        if unknown := set(pairs) - set(KINDS):
            raise ValueError(f"unknown fault {', '.join(sorted(unknown))}: choose from {', '.join(KINDS)}")
        return cls(**{k: KINDS[k](v) for k, v in pairs.items()})

    def strikes(self, kind: str) -> bool:
        "Count down one of the counted faults."
        with self.lock:
            left = getattr(self, kind)
            setattr(self, kind, max(0, left - 1))
            return left > 0

    def before(self) -> Response | None:
        "Delay, or answer in place of the page."
        if request.endpoint in ("robots", "clock", "index"):
            return None
        time.sleep(self.slow)
        if self.strikes("error"):
            return Response("internal error", 500)
        if self.strikes("busy"):
            return Response("too many requests", 429, {"Retry-After": str(RETRY_AFTER_S)})
        return None

    def after(self, response: Response) -> Response:
        "Cut the body of a good page in half, with an honest length: a proxy's work."
        if request.endpoint not in ("robots", "clock", "index") and response.status_code == 200 and self.strikes("truncate"):
            response.set_data(response.get_data()[: len(response.get_data()) // 2])
        return response
