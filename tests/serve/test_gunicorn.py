"The service as it runs in production: gunicorn, two workers, a real port."

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from werkzeug.exceptions import HTTPException

from serve.body import MAX_BODY
from serve.worker import MAX_HEAD, Gathered
from stockml.bundle import move_folder, write_manifest
from stockml.files import read_json

PATIENCE = 60  # seconds; a busy machine takes ten to start
JSON = {"Content-Type": "application/json"}


class Server:
    "gunicorn on a free port of this machine."

    def __init__(self, root: Path, bundle: Path, log: Path, **env: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        env = {**os.environ, "STOCKML_MODEL": str(bundle), "PORT": str(self.port), **env}
        command = [sys.executable, "-m", "gunicorn", "-c", "serve/gunicorn.conf.py", "serve.app:create_app()"]
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=root, env=env, stdout=out, stderr=out)

    def connect(self) -> HTTPConnection:
        "A connection of its own."
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body=None, headers: dict | None = None) -> tuple[int, dict]:
        "Status and JSON of one request."
        with closing(self.connect()) as connection:
            connection.request(method, path, body, JSON | (headers or {}))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def wait_until_ready(self) -> None:
        "Return once a worker answers; fail with the log if the server ended."
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.ask("GET", "/healthz") == (200, {"status": "ok"}):
                    return
            except ConnectionError:
                time.sleep(.1)
        pytest.fail(f"not ready: {self.log.read_text()}")

    def workers(self) -> list[int]:
        "Process ids of the workers."
        return [int(p) for p in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]


def wait_for(condition: Callable[[], bool]) -> None:
    "Return once it holds."
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(.1)


@contextmanager
def running(root: Path, bundle: Path, log: Path, **env: str) -> Iterator[Server]:
    "A server that answers, and that is gone afterwards."
    server = Server(root, bundle, log, **env)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
        try:
            server.process.wait(PATIENCE)
        finally:
            server.process.kill()


@pytest.fixture(scope="module")
def server(root, bundle_folder, tmp_path_factory) -> Iterator[Server]:
    "One server for the tests that leave it as it was."
    with running(root, bundle_folder, tmp_path_factory.mktemp("gunicorn") / "log", STOCKML_REQUEST_SECONDS="4") as server:
        yield server
        start = time.monotonic()
        server.process.terminate()
        server.process.wait(PATIENCE)
        assert time.monotonic() - start < 10  # not one connection was forgotten


def test_it_forecasts(server, client, good):
    status, answer = server.ask("POST", "/v1/forecast", json.dumps(good))
    assert status == 200
    assert answer["forecasts"] == client.post("/v1/forecast", json=good).json["forecasts"]


def test_concurrent_requests_get_equal_answers_and_ids_of_their_own(server, good):
    body = json.dumps(good)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.ask("POST", "/v1/forecast", body), range(24)))
    assert {status for status, _ in answers} == {200}
    assert len({answer.pop("forecast_id") for _, answer in answers}) == len(answers)
    assert all(answer == answers[0] for answer in answers)


def test_too_long_a_body_is_refused_whether_its_length_is_told_or_not(server):
    assert server.ask("POST", "/v1/forecast", b" " * (MAX_BODY + 1))[0] == 413
    pieces = iter([b" " * 2**20] * (MAX_BODY // 2**20) + [b" "])
    assert server.ask("POST", "/v1/forecast", pieces)[0] == 413  # sent in chunks


def test_a_wrong_request_leaves_it_serving(server):
    status, answer = server.ask("POST", "/v1/forecast", "{}")
    assert (status, [e["field"] for e in answer["errors"]]) == (422, ["ticker", "bars"])
    assert server.ask("GET", "/version")[0] == 200


def test_it_asks_others_for_keys(root, bundle_folder, tmp_path, good):
    (tmp_path / "keys").write_text(f"ann:{hashlib.sha256(b'secret').hexdigest()}")
    env = {"HOST": "0.0.0.0", "STOCKML_API_KEYS_FILE": str(tmp_path / "keys")}  # noqa: S104
    with running(root, bundle_folder, tmp_path / "log", **env) as server:
        assert server.ask("POST", "/v1/forecast", json.dumps(good))[0] == 401
        assert server.ask("POST", "/v1/forecast", json.dumps(good), {"Authorization": "Bearer secret"})[0] == 200


def test_it_listens_on_this_machine_only_and_with_two_workers(server):
    assert f"Listening at: http://127.0.0.1:{server.port}" in server.log.read_text()
    assert len(server.workers()) == 2


def test_told_to_end_it_answers_what_is_under_way_first(root, bundle_folder, tmp_path, good):
    body = json.dumps(good).encode()
    with running(root, bundle_folder, tmp_path / "log", WEB_CONCURRENCY="1") as server:
        connection = server.connect()
        connection.putrequest("POST", "/v1/forecast")
        for header in [*JSON.items(), ("Content-Length", str(len(body)))]:
            connection.putheader(*header)
        connection.endheaders(body[:1000])
        time.sleep(.5)  # a worker has begun to read
        server.process.send_signal(signal.SIGTERM)
        time.sleep(.5)
        connection.send(body[1000:])
        answer = connection.getresponse()
        assert (answer.status, len(json.loads(answer.read())["forecasts"])) == (200, 2)
        connection.close()
        assert server.process.wait(PATIENCE) == 0
    assert "Traceback" not in server.log.read_text()
    with pytest.raises(ConnectionRefusedError):
        server.ask("GET", "/healthz")




@pytest.fixture
def copy(bundle_folder, tmp_path) -> Path:
    "A bundle to be damaged."
    return shutil.copytree(bundle_folder, tmp_path / "bundle")


@pytest.fixture
def newer(bundle_folder, tmp_path) -> Path:
    "Another bundle."
    path = shutil.copytree(bundle_folder, tmp_path / "newer")
    write_manifest(path, read_json(path / "manifest.json") | {"as_of": "2004-01-02"})
    return path


def drip(server: Server, data: bytes, size: int, pause: float, stop: threading.Event) -> None:
    "Send a request a few bytes at a time, for as long as it is taken."
    with socket.create_connection(("127.0.0.1", server.port)) as client, contextlib.suppress(OSError):
        for i in range(0, len(data), size):
            client.sendall(data[i:i + size])
            if stop.wait(pause):
                return
        client.settimeout(1)
        client.recv(1)


@pytest.fixture
def slow_clients(server, good):
    "Sixty clients that send their heads, or their bodies, byte by byte: more than there are threads, by far."
    stop, body = threading.Event(), json.dumps(good).encode()
    head = b"POST /v1/forecast HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    sent = [head, head + b"\r\n" + body, head + b"Expect: 100-continue\r\n\r\n" + body, b""]
    clients = [threading.Thread(target=drip, args=(server, data, 1 if n % 2 else 100, .2, stop)) for n in range(15) for data in sent]
    for client in clients:
        client.start()
    time.sleep(.5)
    yield
    stop.set()
    for client in clients:
        client.join()


def test_slow_clients_hold_nobody_up(server, slow_clients, good):
    body, took = json.dumps(good), []
    for _ in range(20):
        start = time.monotonic()
        assert server.ask("POST", "/v1/forecast", body)[0] == 200
        took.append(time.monotonic() - start)
    assert max(took) < 3


def test_clients_that_do_not_read_hold_nobody_up(server, good):
    body = json.dumps(good | {"horizons": [1] * 100}).encode()
    head = b"POST /v1/forecast HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", server.port))
            client.sendall((head + body) * 3)  # and the answers are many times what the client has room for
        for _ in range(20):
            start = time.monotonic()
            assert server.ask("POST", "/v1/forecast", json.dumps(good))[0] == 200
            assert time.monotonic() - start < 3


HEAD = b"POST /v1/forecast HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("sent", [
    HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n7ffffff\r\n 0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n7fffff\r\n 0\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 00000000000001000000\r\n\r\n",
])
def test_a_forged_length_holds_nobody_up(server, sent):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(12)]
        for client in clients:
            client.sendall(sent)
        for _ in range(8):
            for client in clients:
                with contextlib.suppress(OSError):
                    client.sendall(b"x")
            start = time.monotonic()
            assert server.ask("GET", "/healthz")[0] == 200
            assert time.monotonic() - start < 2
            time.sleep(.2)


def test_who_still_sends_too_long_a_body_hears_so(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(HEAD + b"Content-Length: 90000000\r\n\r\n")
        for _ in range(40):
            client.sendall(b" " * 2**16)
            time.sleep(.02)
        assert client.recv(2**16).startswith(b"HTTP/1.1 413 ")


def framed(data: bytes, step: int) -> Gathered:
    "A request that comes in pieces of that size."
    request = Gathered()
    for i in range(0, len(data), step):
        assert not request.whole
        request.add(data[i:i + step])
    return request


CHUNKS = HEAD + b"Transfer-Encoding: Chunked\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("sent", "body"), [
    (b"GET / HTTP/1.1\r\n\r\n", b""),
    (HEAD + b"content-length:\t 0005 \r\n\r\n12345", b"12345"),
    (CHUNKS + b"0\r\n\r\n", b""),
    (CHUNKS + b"3\r\nabc\r\n00A ;name=\"0\"\r\n0\r\n\r\n01234\r\n0;last\r\nDigest: x\r\nMore: 0\r\n\r\n", b"abc0\r\n\r\n01234"),
])
def test_a_request_is_whole_at_its_last_byte(sent, body, step):
    request = framed(sent, step)
    assert request.whole and (request.body, request.data) == (body, b"")


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", HEAD + b"Content-Length: 1\r\n\r\n1", CHUNKS + b"1\r\n1\r\n0\r\n\r\n"])
def test_what_comes_after_a_request_is_kept(sent):
    assert framed(sent + b"GET", 1000).data == b"GET"


@pytest.mark.parametrize(("sent", "status"), [
    *((HEAD + b"Content-Length: %s\r\n\r\n" % length, 400) for length in (b"", b"-1", b"+1", b"1_0", b"0x1", b"1, 1", b"1 1", b"\xb2")),
    (HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413), (HEAD + b"Content-Length: %s\r\n\r\n" % (b"9" * 5000), 413),
    (HEAD + b"Content-Length: 1\r\nX: y\r\ncontent-length: 1\r\n\r\n", 400),
    (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (CHUNKS + b"\r\n", 400), (CHUNKS + b"-1\r\n", 400), (CHUNKS + b"0x1\r\n", 400), (CHUNKS + b"1;a\rb\r\n", 400),
    (CHUNKS + b"1\r\nab\r\n", 400), (CHUNKS + b"1" * 5000, 400), (CHUNKS + b"1;" + b"a" * 5000, 400),
    (CHUNKS + b"%x\r\n" % (MAX_BODY + 1), 413), (CHUNKS + b"1\r\na\r\n%x\r\n" % MAX_BODY, 413),
    (CHUNKS + b"1;%s\r\na\r\n" % (b"a" * 4000) * (MAX_BODY // 2000), 413), (CHUNKS + b"0\r\nX: " + b"a" * MAX_HEAD, 431),
])
def test_a_doubtful_or_too_long_request_is_refused_as_soon_as_that_is_known(sent, status):
    with pytest.raises(HTTPException) as refused:
        framed(sent, 2**16)
    assert refused.value.code == status


def test_requests_may_come_before_the_answers(server, good):
    body = json.dumps(good).encode()
    post = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    chunked = CHUNKS + b"%x\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(body), body)
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    large = b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000  # a body that nobody reads
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(get + b"\r\n" + post + chunked + large + get + b"\r\n" + get + b"Connection: close\r\n\r\n")
        answers = client.makefile("rb").read()
    assert answers.count(b"HTTP/1.1 200 OK") == 6
    assert answers.count(b'"forecasts"') == 2


def test_what_the_worker_refuses_is_written_down_and_counted(server):
    def count() -> float:
        connection = server.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("stockml_refused_total{"))

    before, sent = count(), {"early": b"Content-Length: 9000000\r\n\r\n", "late": b"Content-Length: 9\r\n\r\n{", "": b"No header\r\n\r\n"}
    for name, end in sent.items():
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            client.sendall(HEAD + b"X-Request-ID: %s\r\n" % name.encode() + end)
            head = client.makefile("rb").read().partition(b"\r\n\r\n")[0].decode()
        status, fields = int(head.split()[1]), dict(line.split(": ") for line in head.splitlines()[1:])
        assert fields["traceparent"] and (not name or fields["X-Request-ID"] == name)
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
        [line] = [line for line in lines if line.get("http", {}).get("request", {}).get("id") == fields["X-Request-ID"]]
        assert line["http"]["response"]["status_code"] == status
        assert (line["event"]["outcome"], line["client"]["address"], line["log.level"]) == ("failure", "127.0.0.1", "warn")
        assert line["trace"]["id"] in fields["traceparent"] and line["message"].startswith(head.splitlines()[0].split(" ", 2)[2])
    assert count() == before + 3


def test_a_client_that_falls_silent_is_told_so(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        start = time.monotonic()
        client.sendall(b"POST /v1/forecast HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ") and b"application/problem+json" in answer
    assert 3 < time.monotonic() - start < 10


@pytest.mark.parametrize(("sent", "status"), [
    (b"GET\x01 / HTTP/1.1\r\n\r\n", b"400"),
    (b"\x16\x03\x01\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
    (b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000, b"431"), (b"a" * 70_000, b"431"),
    (b"POST / HTTP/1.1\r\nTransfer-Encoding: smoke\r\n\r\n", b"501"),
    (b"POST /v1/forecast HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
    (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n1", b"400"),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    (b"POST / HTTP/1.1\r\nContent-Length : 1\r\n\r\n1", b"400"),
    (b"GET /healthz HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", b"413"),
    (b"POST /v1/forecast HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9000000\r\n\r\n", b"413"),
])
def test_what_is_no_http_is_refused_in_the_same_form(server, sent, status):
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(sent)
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert json.loads(body)["status"] == int(status)


def test_a_client_that_waits_to_be_told_is_told_to_go_on(server, good):
    body = json.dumps(good).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(b"POST /v1/forecast HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                       b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        file = client.makefile("rb")
        assert file.readline().split()[1] == b"100"
        client.sendall(body)
        answer = file.read()
    assert b"HTTP/1.1 200 OK" in answer and b"100 Continue" not in answer  # once is enough


def test_a_connection_serves_many_requests(server, good):
    connection, body = server.connect(), json.dumps(good).encode()
    for n in range(6):
        pieces = iter([body[:9], body[9:]])
        connection.request("POST", "/v1/forecast", pieces if n % 2 else body, JSON)  # in chunks, and at once
        answer = connection.getresponse()
        assert (answer.status, len(json.loads(answer.read())["forecasts"])) == (200, 2)
    connection.close()


def test_the_counts_are_of_all_workers(server, good):
    def count() -> int:
        connection = server.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("stockml_forecasts_total{"))

    before, body = count(), json.dumps(good)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: server.ask("POST", "/v1/forecast", body), range(24)))
    assert count() - before == 48
    assert {count() for _ in range(8)} == {before + 48}


def test_lines_of_all_workers_are_whole(server, good):
    body = json.dumps({"series": [{"ticker": f"T{i}", "bars": good["bars"][-70:]} for i in range(30)]})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.ask("POST", "/v1/forecast", body)[1]["answers"], range(16)))
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    kept = {line["stockml"]["forecast_id"] for line in lines if "stockml" in line}
    assert {a["forecast_id"] for answer in answers for a in answer} <= kept


def test_workers_are_small_and_soon_there(root, bundle_folder, tmp_path):
    start = time.monotonic()
    with running(root, bundle_folder, tmp_path / "log") as server:
        assert time.monotonic() - start < 20  # 3 on a quiet machine; `make bench` measures that
        for pid in server.workers():
            peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
            assert int(peak.split()[1]) < 250 * 1024, peak


def test_a_new_champion_is_served_without_a_failed_request(root, copy, newer, tmp_path, good):
    body, statuses, stop = json.dumps(good), [], threading.Event()
    with running(root, copy, tmp_path / "log") as server:
        def load() -> None:
            while not stop.is_set():
                statuses.append(server.ask("POST", "/v1/forecast", body)[0])

        def as_of() -> set[str]:
            return {server.ask("GET", "/version")[1]["model"]["as_of"] for _ in range(10)}

        with ThreadPoolExecutor(2) as pool:
            clients = [pool.submit(load) for _ in range(2)]
            (copy / "residuals.npz").write_bytes(b"rubbish")
            wait_for(lambda: server.log.read_text().count("residuals.npz is damaged") == 2)
            assert as_of() == {"2003-12-31"}
            move_folder(newer, copy)
            wait_for(lambda: as_of() == {"2004-01-02"})
            stop.set()
            for client in clients:
                client.result()
        assert as_of() == {"2004-01-02"}
    assert set(statuses) == {200}
    assert server.log.read_text().count("residuals.npz is damaged") == 2  # each worker says it once


def test_told_to_end_it_says_so_while_it_goes_on(root, bundle_folder, tmp_path, good):
    with running(root, bundle_folder, tmp_path / "log", STOCKML_DRAIN_SECONDS="2") as server:
        assert server.ask("GET", "/readyz") == (200, {"status": "ready"})
        idle = server.connect()
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(.5)
        assert server.ask("GET", "/readyz")[0] == 503
        assert server.ask("POST", "/v1/forecast", json.dumps(good))[0] == 200
        start = time.monotonic()
        assert server.process.wait(PATIENCE) == 0
        assert time.monotonic() - start < 6  # an idle connection keeps nobody
        idle.close()


def test_it_leaves_nothing_behind(root, bundle_folder, tmp_path, good):
    with running(root, bundle_folder, tmp_path / "log", TMPDIR=str(tmp_path)) as server:
        assert list(tmp_path.glob("stockml-*/*.db"))
        old = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(server.workers()) == 2 and not old & set(server.workers()))
        assert server.ask("POST", "/v1/forecast", json.dumps(good))[0] == 200
        assert len(list(tmp_path.glob("stockml-*"))) == 1  # new workers count where the old ones did
    assert not list(tmp_path.glob("stockml-*"))


@pytest.mark.parametrize(("env", "words"), [
    ({"HOST": "0.0.0.0"}, "0.0.0.0 can be reached by others: set STOCKML_API_KEYS_FILE, or STOCKML_OPEN=1"),  # noqa: S104
    ({"STOCKML_API_KEYS_FILE": "/no/such/file"}, "/no/such/file: the API keys cannot be read"),
    ({"STOCKML_DRAIN_SECONDS": "soon"}, "STOCKML_DRAIN_SECONDS"),
    ({"PORT": "abc"}, "PORT: 'abc' is no port"),
])
def test_it_refuses_to_start_wrongly_in_one_line(root, bundle_folder, tmp_path, env, words):
    server = Server(root, bundle_folder, tmp_path / "log", **env)
    assert server.process.wait(PATIENCE) == 2
    [line] = [line for line in server.log.read_text().splitlines() if "[INFO]" not in line]
    assert words in line


def test_a_damaged_bundle_ends_it_with_one_line(root, copy, tmp_path):
    (copy / "residuals.npz").write_bytes(b"rubbish")
    server = Server(root, copy, tmp_path / "log")
    assert server.process.wait(PATIENCE) == 2
    lines = [line for line in server.log.read_text().splitlines() if "[INFO]" not in line]
    assert len(lines) == 1
    assert "residuals.npz is damaged" in lines[0]


def test_a_worker_that_cannot_load_its_bundle_ends_the_server(root, copy, tmp_path):
    with running(root, copy, tmp_path / "log", WEB_CONCURRENCY="1") as server:
        (copy / "model.ubj").unlink()
        os.kill(server.workers()[0], signal.SIGKILL)
        assert server.process.wait(PATIENCE) == 3
    log = server.log.read_text()
    assert "model.ubj is missing" in log
    assert "Traceback" not in log
