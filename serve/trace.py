"Which request is this, and whose larger story is it part of? X-Request-ID and W3C trace context, made where none came."

import re
from random import getrandbits
from typing import Any, NamedTuple

REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")  # what is echoed and logged is short and harmless
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


class Trace(NamedTuple):
    "One request's names."
    request_id: str
    trace_id: str  # of the whole story: the caller's, where it sent one
    span_id: str  # of our part in it
    flags: str  # the caller's choice whether it is sampled

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def read_trace(environ: dict[str, Any]) -> Trace:
    "The caller's names where they are well formed, else new ones: a bad header is no reason to refuse a forecast."
    request_id, parent = environ.get("HTTP_X_REQUEST_ID", ""), environ.get("HTTP_TRACEPARENT", "")
    if not REQUEST_ID.fullmatch(request_id):
        request_id = f"{getrandbits(128):032x}"
    # A later version may hold more fields after those of version 00.
    found = TRACEPARENT.fullmatch(parent if parent.startswith("00") else parent[:55])
    trace_id, flags = found.groups() if found else (f"{getrandbits(128):032x}", "00")
    return Trace(request_id, trace_id, f"{getrandbits(63) + 1:016x}", flags)
