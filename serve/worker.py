"""A gunicorn worker whose threads meet whole requests only, and that leaves in good order.

gunicorn's own hands a connection to a thread at its first byte; eight clients that send one byte a second would then be the only
ones served. Here the main loop gathers what comes, of all clients at once, and a thread begins when there is nothing to wait for: it
reads from no socket. What cannot be framed without doubt, or is too long, is refused here.
"""

import contextlib
import fcntl
import json
import os
import re
import socket
import struct
import sys
import termios
import time
from concurrent.futures import Future
from functools import partial
from io import BytesIO
from selectors import EVENT_READ

from gunicorn import http, util
from gunicorn.arbiter import Arbiter
from gunicorn.http.message import Request
from gunicorn.workers.gthread import TConn, ThreadWorker
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    RequestHeaderFieldsTooLarge,
    RequestTimeout,
    ServiceUnavailable,
)
from werkzeug.exceptions import NotImplemented as UnknownCoding

from stockml.config import BadInput, StockmlError

from .body import MAX_BODY
from .observe import observe_refusal
from .problems import details
from .watch import every_second

MAX_HEAD = 2**16  # bytes of a request's head
MAX_GATHERED = 64 * 2**20  # bytes of requests on their way, of all clients of a worker together
MAX_LINE = 4096  # bytes of the line that begins a chunk
PIECE, PIECES = 2**16, 8  # bytes read at once, and how often in one turn of the loop: then it is another client's
AT_ONCE = 2**15  # bytes of a request for a forecast that takes a millisecond or two: 700 bars
ROOM = 2**18  # bytes of an answer that the system takes from us without waiting for the client
STALL_S = 5  # seconds that a thread waits for a client to take more of its answer
LINGER_S = 4  # seconds for a client to read the end and hang up
FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding|expect):[ \t]*([^\r\n]*)", re.IGNORECASE)
NAMES = re.compile(rb"\r\n(x-request-id|traceparent):[ \t]*([^\r\n]*)", re.IGNORECASE)
CHUNK = re.compile(rb"([0-9a-f]+)[ \t]*(;[^\r\n]*)?", re.IGNORECASE)


class Gathered:
    "What a client has sent of a request. HTTP's errors are raised as werkzeug knows them."

    def __init__(self):
        self.came = 0  # bytes, all told
        self.data = bytearray()  # what has no place yet; once all is there, the beginning of the next request
        self.head, self.body = b"", bytearray()
        self.length: int | None = 0  # bytes of the body; None = it comes in chunks
        self.whole = False

    def add(self, piece: bytes) -> bool:
        "Take what came; True once its head is whole and says that the client waits to be told to go on."
        self.data += piece
        self.came += len(piece)
        waits = not self.head and self._read_head()
        if self.head:
            self._read_chunks() if self.length is None else self._read_length()
        return waits and not self.whole

    def _read_head(self) -> bool:
        "What the head says of what follows it, in one way only; True if the client waits to be told to go on."
        end = self.data.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(self.data) > MAX_HEAD:
                raise RequestHeaderFieldsTooLarge(f"a head of more than {MAX_HEAD:,} bytes")
            return False
        self.head = bytes(self.data[:end])
        del self.data[:end]
        found = [(name.lower(), value.strip(b" \t").lower()) for name, value in FRAMING.findall(self.head)]
        fields = dict(found)
        length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
        if len(fields) < len(found) or (length is not None and coding is not None):
            raise BadRequest("its length is told twice")
        if coding is not None:
            if coding != b"chunked":
                raise UnknownCoding("Transfer-Encoding: only chunked is known")
            self.length = None
        elif length is not None:
            if not length.isdigit():
                raise BadRequest("Content-Length: not a number")
            self.length = int(length.lstrip(b"0")[:16] or b"0")  # int() refuses thousands of digits; 16 are too many already
            self._check(self.length)
        return fields.get(b"expect") == b"100-continue"

    def _check(self, size: int) -> None:
        if size > MAX_BODY:
            raise RequestEntityTooLarge(f"The body is too long; {MAX_BODY:,} bytes is the limit.")

    def _read_length(self) -> None:
        if len(self.data) >= self.length:
            self.body, self.data, self.whole = self.data[:self.length], self.data[self.length:], True

    def _read_chunks(self) -> None:
        "Take the chunks that are whole."
        self._check(self.came // 2)  # as much again may stand between them
        data, at = self.data, 0
        while not self.whole:
            if (end := data.find(b"\r\n", at, at + MAX_LINE)) < 0:
                if len(data) >= at + MAX_LINE:
                    raise BadRequest("a chunk without a size")
                break
            if not (line := CHUNK.fullmatch(data, at, end)):
                raise BadRequest("a chunk without a size")
            if not (size := int(line[1], 16)):  # the last one; fields may follow, then an empty line
                if (end := data.find(b"\r\n\r\n", end)) < 0:
                    if len(data) > at + MAX_HEAD:
                        raise RequestHeaderFieldsTooLarge(f"a trailer of more than {MAX_HEAD:,} bytes")
                    break
                at, self.whole = end + 4, True
                break
            self._check(len(self.body) + size)
            start, stop = end + 2, end + 2 + size
            if len(data) < stop + 2:
                break
            if data[stop:stop + 2] != b"\r\n":
                raise BadRequest("a chunk that is longer than its size")
            self.body += data[start:stop]
            at = stop + 2
        del data[:at]

    def names(self) -> dict[str, str]:
        "What its sender calls it, as WSGI would tell."
        return {f"HTTP_{name.decode().upper().replace('-', '_')}": value.strip(b" \t").decode("latin-1")
                for name, value in NAMES.findall(self.head)}


class Worker(ThreadWorker):
    "See above. It says in one line why it cannot start; the server then ends rather than try again for ever."

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gathered: dict[TConn, Gathered] = {}  # the oldest first
        self.deadlines: dict[TConn, float] = {}  # of those that the main loop waits for
        self.size = 0  # bytes gathered
        self.checked = time.monotonic()
        self.leave_at: float | None = None
        self.patience = request_seconds()

    def load_wsgi(self):
        try:
            super().load_wsgi()
        except StockmlError as e:
            self.log.error("%s", e)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        every_second(*self.wsgi.extensions["stockml.looks"])

    # A request comes

    def enqueue_req(self, conn: TConn, rest: bytes = b"") -> None:
        "Gather a request, of which the rest of what came before is the beginning; what is there already takes no turn of the loop."
        self.gathered[conn] = Gathered()
        if not conn.initialized:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", STALL_S, 0))
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        conn.sock.setblocking(False)
        if not self._gather(conn, rest):
            self._await(conn, self.patience, self._on_more)

    def _on_more(self, conn: TConn, _) -> None:
        self._gather(conn)

    def _gather(self, conn: TConn, rest: bytes = b"") -> bool:
        "Read what is there. True if that was the end of it: a request for a thread, or a client that left."
        request = self.gathered[conn]
        try:
            for _ in range(PIECES):
                if not (piece := rest or conn.sock.recv(PIECE)):
                    return self._drop(conn)
                rest = b""
                self.size += len(piece)
                if request.add(piece):
                    conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                if request.whole:
                    return self._hand_over(conn)
        except BlockingIOError:
            pass
        except OSError:
            return self._drop(conn)
        except HTTPException as e:
            return self._refuse(conn, e)
        return self._make_room()

    def _hand_over(self, conn: TConn) -> bool:
        "Let a thread answer. gunicorn parses the head alone: its own readers would copy what is left of a body again and again."
        self._forget(conn)
        request = self._taken(conn)
        conn.parser = http.get_parser(self.cfg, [request.head], conn.client)
        conn.body, conn.rest = BytesIO(request.body), bytes(request.data)
        conn.data_ready = True
        if request.came < AT_ONCE and request.head.startswith(b"POST /v1/forecast ") and not conn.rest and not unsent(conn.sock):
            self._answer(conn)
        else:
            super().enqueue_req(conn)
        return True

    def _answer(self, conn: TConn) -> None:
        "Answer in the main loop: a thread that is woken, and wakes us, would take a fifth as long again as the forecast."
        done = Future()
        done.set_result(self.handle(conn))
        self.finish_request(conn, done)

    def _make_room(self) -> bool:
        "Too much on its way at once: who has been at it the longest has to begin again. False: the caller's goes on."
        while self.size > MAX_GATHERED:
            self._refuse(next(iter(self.gathered)), ServiceUnavailable("too many long requests at once"))
        return False

    def _taken(self, conn: TConn) -> Gathered:
        request = self.gathered.pop(conn)
        self.size -= request.came
        return request

    # Waiting, and its end

    def _await(self, conn: TConn, seconds: float, callback) -> None:
        "Call back when a client sends something; no longer than so many seconds."
        if conn.sock.fileno() >= 0:  # not dropped in the meantime
            self.deadlines[conn] = time.monotonic() + seconds
            self.poller.register(conn.sock, EVENT_READ, partial(callback, conn))

    def _forget(self, conn: TConn) -> None:
        if self.deadlines.pop(conn, None):
            self.poller.unregister(conn.sock)

    def _drop(self, conn: TConn) -> bool:
        "End a connection, now."
        self._forget(conn)
        if conn in self.gathered:
            self._taken(conn)
        self.nr_conns -= 1
        conn.close()
        return True

    def _refuse(self, conn: TConn, error: HTTPException) -> bool:
        "End it with a word."
        self._forget(conn)
        names = self._taken(conn).names()
        with contextlib.suppress(OSError):
            write_problem(conn.sock, error.code, error.name, error.description, names)
        self._linger(conn)
        return True

    def murder_pending(self) -> None:
        "In every turn of the loop: end what takes too long."
        super().murder_pending()
        if (now := time.monotonic()) < self.checked + .5:
            return
        self.checked = now
        for conn in [c for c, deadline in self.deadlines.items() if deadline < now]:
            if conn in self.gathered and self.gathered[conn].came:
                self._refuse(conn, RequestTimeout(f"it did not arrive within {self.patience:g} seconds"))
            else:
                self._drop(conn)
        if self.leave_at and self.leave_at < now:
            self._leave()

    def finish_request(self, conn: TConn, future) -> None:
        "Keep a connection for the next request, or end it without waiting: gunicorn would, with all others waiting too."
        if not (self.alive and not future.cancelled() and not future.exception() and future.result()):
            self._linger(conn)
        elif conn.rest:  # it did not wait for the answer
            self.enqueue_req(conn, conn.rest)
        else:
            super().finish_request(conn, future)
            if self.leave_at:  # told to end: its next request may be on its way already
                conn.timeout = self.leave_at

    def _linger(self, conn: TConn) -> None:
        "Hang up, but listen until the other side did too: else it might lose our last words."
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
        else:
            self._await(conn, LINGER_S, self._on_last)

    def _on_last(self, conn: TConn, _) -> None:
        "A client that still sends is listened to, or it would not hear us; one that hung up is forgotten."
        try:
            if conn.sock.recv(2**16):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop(conn)

    def handle_request(self, req: Request, conn: TConn):
        "Its body is here, and its client was told to send it."
        req.body, conn.body = conn.body, None
        req._expected_100_continue = False
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        "gunicorn would look for what the application left of the body: none of it is on its way."
        return keepalive

    # Leaving

    def handle_exit(self, sig, frame) -> None:
        "SIGTERM: say so on /readyz at once, go on for STOCKML_DRAIN_SECONDS, then answer only what is under way."
        if not getattr(self, "wsgi", None):
            super().handle_exit(sig, frame)
        elif not self.leave_at:
            self.wsgi.extensions["stockml"].draining = True
            self.cfg.set("keepalive", 0)  # who comes back comes over a new connection: to another server
            self.leave_at = time.monotonic() + drain_seconds()
            self.checked = 0.
            self.method_queue.defer(lambda: None)  # wake the loop

    def _leave(self) -> None:
        "No new requests from here on."
        self.leave_at = None
        super().handle_exit(None, None)

    def set_accept_enabled(self, enabled: bool) -> None:
        "At the end close the door: who comes late is refused at once, and goes elsewhere, instead of waiting for nobody."
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for listener in self.sockets:
            listener.close()
        for conn in self.keepalived_conns:
            self.poller.unregister(conn.sock)
            self._drop(conn)
        self.keepalived_conns.clear()
        for conn in [c for c, request in self.gathered.items() if not request.came]:
            self._drop(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        super().wait_for_and_dispatch_events(min(timeout, .5))


def unsent(sock: socket.socket) -> int:
    "Bytes of earlier answers that the client has not taken yet."
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]


def drain_seconds() -> float:
    "How long to go on after SIGTERM, while others are told to send no more."
    return _seconds("STOCKML_DRAIN_SECONDS", "0")


def request_seconds() -> float:
    "How long a request may take from its first byte to its last."
    return _seconds("STOCKML_REQUEST_SECONDS", "15")


def _seconds(name: str, usual: str) -> float:
    text = os.environ.get(name, usual)
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", text):
        raise BadInput(f"{name}: {text!r} is no number of seconds")
    return float(text)


def write_problem(sock: socket.socket, status: int, title: str, detail: str, names: dict[str, str] | None = None) -> None:
    "What is refused before there is a request is refused, counted and written down in the same form as the rest."
    try:
        address = sock.getpeername()[0]
    except (OSError, IndexError):  # gone already, or a Unix socket
        address = ""
    trace = observe_refusal(status, f"{title}: {detail[:200]}", address, names or {})
    body = json.dumps(details(status, title, detail[:200]))
    head = (f"HTTP/1.1 {status} {title}", "Connection: close", "Content-Type: application/problem+json", f"Content-Length: {len(body)}",
            f"X-Request-ID: {trace.request_id}", f"traceparent: {trace.traceparent}")
    util.write_nonblock(sock, "\r\n".join([*head, "", body]).encode("ascii", "replace"))


util.write_error = write_problem  # gunicorn's own speaks HTML, and there is no setting for it
