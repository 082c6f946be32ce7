"""A gunicorn worker whose threads meet whole requests only, and that leaves in good order.

gunicorn's own hands a connection to a thread at its first byte; eight clients that send one byte a second would then be the only
ones served. Here the main loop gathers what comes, of all clients at once, and a thread begins when there is nothing to wait for.
"""

import contextlib
import json
import os
import re
import socket
import struct
import sys
import time
from functools import partial
from io import BytesIO
from selectors import EVENT_READ

from gunicorn import http, util
from gunicorn.arbiter import Arbiter
from gunicorn.http.body import LengthReader
from gunicorn.http.message import Request
from gunicorn.workers.gthread import TConn, ThreadWorker

from stockml.config import BadInput, StockmlError

from .body import MAX_BODY
from .problems import details
from .watch import every_second

MAX_HEAD = 2**16  # bytes of a request's head
MAX_GATHERED = 64 * 2**20  # bytes of requests on their way, of all clients of a worker together
STALL_S = 5  # seconds that a thread waits for a client to go on, one way or the other
LINGER_S = 2  # seconds for a client to read the end and hang up
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)


class Gathered:
    "What a client has sent of a request."

    def __init__(self):
        self.data = bytearray()
        self.size: float = 0  # bytes of all of it; 0 = not known before its head is whole
        self.chunked = False

    def add(self, piece: bytes) -> bool:
        "Take what came; True once its head is whole and says that the client waits to be told to go on."
        self.data += piece
        if self.size or (end := self.data.find(b"\r\n\r\n") + 4) < 4:
            return False
        head = bytes(self.data[:end])
        length, self.chunked = LENGTH.search(head), bool(CHUNKED.search(head))
        self.size = float("inf") if self.chunked else end + (int(length[1]) if length else 0)
        return len(self.data) < self.size and bool(EXPECT.search(head))

    @property
    def endless(self) -> bool:
        "Is its head longer than any is?"
        return not self.size and len(self.data) > MAX_HEAD

    @property
    def whole(self) -> bool:
        "Is it all there, or more than anyone will read?"
        return 0 < self.size <= len(self.data) or len(self.data) > MAX_BODY + MAX_HEAD \
            or (self.chunked and self.data.endswith(b"0\r\n\r\n"))


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

    def enqueue_req(self, conn: TConn) -> None:
        "Gather a request; what is there already takes no turn of the loop."
        self.gathered[conn] = Gathered()
        if conn.parser is None:
            stall = struct.pack("ll", STALL_S, 0)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, stall)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, stall)
        conn.sock.setblocking(False)
        if not self._gather(conn):
            self._await(conn, self.patience, self._on_more)

    def _on_more(self, conn: TConn, _) -> None:
        self._gather(conn)

    def _gather(self, conn: TConn) -> bool:
        "Read what is there. True if that was the end of it: a request for a thread, or a client that left."
        request = self.gathered[conn]
        try:
            while not request.whole:
                if not (piece := conn.sock.recv(2**16)):
                    return self._drop(conn)
                self.size += len(piece)
                if request.add(piece):
                    conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                if request.endless:
                    return self._refuse(conn, 431, "Request Header Fields Too Large", f"a head of more than {MAX_HEAD:,} bytes")
        except BlockingIOError:
            return self._make_room()
        except OSError:
            return self._drop(conn)
        self._hand_over(conn)
        return True

    def _hand_over(self, conn: TConn) -> None:
        "Let a thread answer."
        self._forget(conn)
        data = self._taken(conn)
        if conn.parser is None:
            conn.parser = http.get_parser(self.cfg, conn.sock, conn.client)
        conn.parser.unreader.buf.write(data)
        conn.data_ready = True
        super().enqueue_req(conn)

    def _make_room(self) -> bool:
        "Too much on its way at once: who has been at it the longest has to begin again. False: the caller's goes on."
        while self.size > MAX_GATHERED:
            self._refuse(next(iter(self.gathered)), 503, "Service Unavailable", "too many long requests at once")
        return False

    def _taken(self, conn: TConn) -> bytearray:
        data = self.gathered.pop(conn).data
        self.size -= len(data)
        return data

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

    def _refuse(self, conn: TConn, status: int, title: str, detail: str) -> bool:
        "End it with a word."
        self._forget(conn)
        self._taken(conn)
        with contextlib.suppress(OSError):
            write_problem(conn.sock, status, title, detail)
        self._linger(conn)
        return True

    def murder_pending(self) -> None:
        "In every turn of the loop: end what takes too long."
        super().murder_pending()
        if (now := time.monotonic()) < self.checked + .5:
            return
        self.checked = now
        for conn in [c for c, deadline in self.deadlines.items() if deadline < now]:
            if conn in self.gathered and self.gathered[conn].data:
                self._refuse(conn, 408, "Request Timeout", f"it did not arrive within {self.patience:g} seconds")
            else:
                self._drop(conn)
        if self.leave_at and self.leave_at < now:
            self._leave()

    def finish_request(self, conn: TConn, future) -> None:
        "Keep a connection for the next request, or end it without waiting: gunicorn would, with all others waiting too."
        if self.alive and not future.cancelled() and not future.exception() and future.result():
            super().finish_request(conn, future)
            if self.leave_at:  # told to end: its next request may be on its way already
                conn.timeout = self.leave_at
        else:
            self._linger(conn)

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
        "Its body is here: gunicorn's own reader would copy what is left of it once more for each kilobyte."
        if isinstance(reader := req.body.reader, LengthReader) and reader.length <= MAX_BODY:
            req.body = BytesIO(reader.read(reader.length))
        return super().handle_request(req, conn)

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
        for conn in [c for c, request in self.gathered.items() if not request.data]:
            self._drop(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        super().wait_for_and_dispatch_events(min(timeout, .5))


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


def write_problem(sock: socket.socket, status: int, title: str, detail: str) -> None:
    "What is refused before there is a request is refused in the same form as the rest."
    body = json.dumps(details(status, title, detail[:200]))
    head = (f"HTTP/1.1 {status} {title}", "Connection: close", "Content-Type: application/problem+json", f"Content-Length: {len(body)}")
    util.write_nonblock(sock, "\r\n".join([*head, "", body]).encode("ascii", "replace"))


util.write_error = write_problem  # gunicorn's own speaks HTML, and there is no setting for it
