"Who may ask: API keys, of which only hashes are kept, and how often each. `python -m serve.access NAME` makes one."

import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import sys
import threading
import time
from pathlib import Path

from flask import Request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import TooManyRequests, Unauthorized

from stockml.config import BadInput, StockmlError

log = logging.getLogger(__name__)

NAME = r"[A-Za-z0-9._-]{1,64}"
LINE = re.compile(rf"({NAME}):([0-9a-f]{{64}})")
# A key is 256 random bits: nobody tries them all, so one fast hash keeps it as well as a slow one would.
KEY_BYTES = 32
CHALLENGE = WWWAuthenticate("bearer", {"realm": "stockml"})


class Bucket:
    "So many requests a minute, a minute's worth of them at once."

    def __init__(self, per_minute: float):
        self.size, self.rate, self.left, self.at = max(1., per_minute), per_minute / 60, max(1., per_minute), time.monotonic()
        self.turn = threading.Lock()

    def take(self) -> float:
        "0 if there is room for a request, else the seconds until there is."
        with self.turn:
            now = time.monotonic()
            self.left, self.at = min(self.size, self.left + (now - self.at) * self.rate), now
            if self.left < 1:
                return (1 - self.left) / self.rate
            self.left -= 1
            return 0


class Access:
    "The door: open to all without a file of keys, else to those in it."

    def __init__(self, file: Path | None = None, per_minute: float | None = None):
        if per_minute and not file:
            raise BadInput("STOCKML_RATE_LIMIT counts requests by key: set STOCKML_API_KEYS_FILE too")
        self.file, self.per_minute = file, per_minute
        self.taken = file and _state(file)
        self.keys = read_keys(file) if file else {}
        self.buckets = {name: Bucket(per_minute) for name in self.keys.values()} if per_minute else {}

    @classmethod
    def from_environment(cls) -> "Access":
        "As STOCKML_API_KEYS_FILE and STOCKML_RATE_LIMIT (requests a minute, of each key, in each worker) say."
        file, limit = os.environ.get("STOCKML_API_KEYS_FILE"), os.environ.get("STOCKML_RATE_LIMIT")
        try:
            per_minute = float(limit) if limit else None
        except ValueError:
            per_minute = math.nan
        if per_minute is not None and not 0 < per_minute < math.inf:
            raise BadInput(f"STOCKML_RATE_LIMIT: {limit!r} is no number of requests a minute above zero")
        return cls(Path(file) if file else None, per_minute)

    def admit(self, request: Request) -> str | None:
        "The name of the caller's key; none if the door is open to all. 401 without a known key, 429 if it comes too often."
        if not self.file:
            return None
        name = self._name(_presented(request))
        if name is None:
            raise Unauthorized("send a known key: Authorization: Bearer KEY, or X-API-Key: KEY", www_authenticate=CHALLENGE)
        bucket = self.buckets.get(name)
        if bucket and (wait := bucket.take()):
            raise TooManyRequests(f"{self.per_minute:g} requests a minute are allowed to this key", retry_after=math.ceil(wait))
        return name

    def _name(self, key: str) -> str | None:
        "Whose key it is. All are compared, each in constant time: how long it takes tells nothing."
        digest, found = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest(), None
        for known, name in self.keys.items():
            found = name if hmac.compare_digest(known, digest) else found
        return found

    def look(self) -> None:
        "Take over the keys in the file if it changed; a file that cannot be read changes nothing."
        if not self.file or (now := _state(self.file)) == self.taken:
            return
        self.taken = now
        try:
            keys = read_keys(self.file)
        except StockmlError as e:
            log.error("%s; the keys known so far stay valid", e)
            return
        names = set(keys.values())
        self.buckets = {n: self.buckets.get(n) or Bucket(self.per_minute) for n in names} if self.per_minute else {}
        self.keys = keys
        log.info("%d API keys read from %s", len(keys), self.file)


def read_keys(file: Path) -> dict[str, str]:
    "SHA-256 of each key -> its name. `BadInput` names the line that is wrong."
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"{file}: the API keys cannot be read ({getattr(e, 'strerror', None) or e})") from None
    keys: dict[str, str] = {}
    for n, line in enumerate(lines, start=1):
        if not (text := line.partition("#")[0].strip()):
            continue
        if not (found := LINE.fullmatch(text)):
            raise BadInput(f"{file}, line {n}: not NAME:SHA256; python -m serve.access NAME makes one")
        if found[2] in keys:
            raise BadInput(f"{file}, line {n}: the same key a second time")
        keys[found[2]] = found[1]
    if not keys:
        raise BadInput(f"{file}: no API keys in it; python -m serve.access NAME makes one")
    return keys


def check_door(addresses: list, access: Access) -> None:
    "`BadInput` if others than this machine could ask without a key, unless STOCKML_OPEN=1 says that this is meant."
    if access.file or os.environ.get("STOCKML_OPEN") == "1":
        return
    for address in addresses:
        host = address[0] if isinstance(address, tuple) else "localhost"  # a socket in the file system is this machine's own
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise BadInput(f"{host} can be reached by others: set STOCKML_API_KEYS_FILE, or STOCKML_OPEN=1 to serve everybody")


def _presented(request: Request) -> str:
    "The key that a request carries; empty if none."
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("X-API-Key", "")


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def main(arguments: list[str]) -> int:
    "Print a new key, and the line that lets it in."
    if len(arguments) != 1 or not re.fullmatch(NAME, arguments[0]):
        print("usage: python -m serve.access NAME (letters, digits, . _ -; at most 64)", file=sys.stderr)
        return 2
    key = secrets.token_urlsafe(KEY_BYTES)
    print(f"key, shown this once:              {key}")
    print(f"line for STOCKML_API_KEYS_FILE:    {arguments[0]}:{hashlib.sha256(key.encode()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
