"The service as it runs in production: gunicorn, two workers, a real port."

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from serve.body import MAX_BODY

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

    def ask(self, method: str, path: str, body=None) -> tuple[int, dict]:
        "Status and JSON of one request."
        connection = self.connect()
        connection.request(method, path, body, JSON)
        answer = connection.getresponse()
        result = answer.status, json.loads(answer.read())
        connection.close()
        return result

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
    with running(root, bundle_folder, tmp_path_factory.mktemp("gunicorn") / "log") as server:
        yield server


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
