"""Is the service quick enough? `make latency` is the gate: exit code 1 if it is not, 2 if it cannot be measured.

Absolute times drift with the machine. So the service stands beside a bare Flask endpoint that only calls the booster on ready
features: same model, same gunicorn, two workers each, wrk in turns on both, medians of the rounds. `--peers` adds MLflow's and BentoML's
servers, each installed in an environment of its own.
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import numpy as np
import psutil

from stockml.bundle import load_bundle
from stockml.client import request_body
from stockml.prices import read_bars

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "scrapy_project/exchange/snapshot.parquet"
HORIZONS = (1, 5, 21)
BARE = ["-m", "gunicorn", "-w", "2", "-k", "gthread", "--threads", "4", "docs.peers.bare:app"]
OURS = ["-m", "gunicorn", "-c", "serve/gunicorn.conf.py", "serve.app:create_app()"]


class Load(NamedTuple):
    "What wrk saw."
    rate: float  # requests a second
    median: float  # milliseconds
    p99: float
    errors: int


class Limit(NamedTuple):
    name: str  # as in metrics/latency.json
    text: str
    aim: float
    most: float  # the gate closes above: the aim, and what a noisy machine adds to it


LIMITS = (
    Limit("throughput_bare_over_ours", "throughput: bare endpoint over ours, 8 connections", 2, 2.6),
    Limit("median_over_bare", "median latency: ours over the bare endpoint, 1 connection", 2, 2.6),
    Limit("p99_over_median", "99th percentile over the median, 8 connections", 5, 8),
    Limit("batch_over_single", "64 stocks in one request over a single one", 8, 14),
    Limit("ready_s", "seconds from start to ready", 3, 5),
    Limit("worker_mib", "memory of the largest worker, MiB", 250, 250),
    Limit("errors", "requests that failed", 0, 0),
)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def served(command: list[str], model: Path, ready: str, env: dict | None = None) -> Iterator[tuple[str, float, psutil.Process]]:
    "Run a server: its address, the seconds it took to answer, its process."
    port, begun = free_port(), time.perf_counter()
    env = {**os.environ, "STOCKML_MODEL": str(model), "STOCKML_ROOT": str(ROOT), "HOST": "127.0.0.1", "PORT": str(port),
           "WEB_CONCURRENCY": "2", "OMP_NUM_THREADS": "1", **(env or {})}
    argv = [a.replace("{port}", str(port)) for a in command]
    if "docs.peers.bare:app" in argv:
        argv += ["-b", f"127.0.0.1:{port}"]
    process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        yield url, until_it_answers(f"{url}{ready}", process, begun), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def until_it_answers(url: str, process: subprocess.Popen, begun: float, limit_s: float = 120) -> float:
    "Seconds since `begun`."
    while time.perf_counter() - begun < limit_s and process.poll() is None:
        try:
            urlopen(url, timeout=1).close()  # noqa: S310 (our own server)
            return time.perf_counter() - begun
        except OSError as e:
            if getattr(e, "code", 0) in (404, 405):
                return time.perf_counter() - begun
            time.sleep(.02)
    sys.exit(f"latency: {' '.join(process.args)} did not answer")


def wrk(url: str, body: Path, connections: int, seconds: float) -> Load:
    "Load a server with POST requests of one body."
    script = body.with_suffix(".lua")
    script.write_text(f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
                      f'local f = io.open("{body}", "rb")\nwrk.body = f:read("*a")\nf:close()\n')
    out = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script), url],
                         capture_output=True, text=True, check=True).stdout
    unit = {"us": .001, "ms": 1, "s": 1000, "m": 60_000}
    at = {p: float(n) * unit[u] for p, n, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s|m)\b", out)}
    wrong = sum(map(int, re.findall(r"(?:connect|read|write|timeout|Non-2xx or 3xx responses:) (\d+)", out)))
    return Load(float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), at["50"], at["99"], wrong)


def bodies(folder: Path, model: Path) -> dict[str, Path]:
    "One stock of 300 bars, 64 such stocks, ready features."
    bars = read_bars(SNAPSHOT)
    own = bars[bars["ticker"] == "AAPL"].tail(300)[["ticker", "date", "close"]]
    one = request_body(own, HORIZONS)
    many = {"series": [{"ticker": f"T{i}", "bars": one["bars"]} for i in range(64)], "horizons": one["horizons"]}
    ready = [round(float(x), 6) for x in np.random.default_rng(1).normal(size=len(load_bundle(model).manifest["features"]))]
    columns = [f"f{i}" for i in range(len(ready))]
    sent = {"one": one, "many": many, "ready": {"features": ready}, "mlflow": {"dataframe_split": {"columns": columns, "data": [ready]}}}
    return {name: _written(folder / f"{name}.json", json.dumps(body)) for name, body in sent.items()}


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def measure(model: Path, seconds: float, rounds: int, folder: Path) -> dict[str, float]:
    "The figures of the gate."
    body = bodies(folder, model)
    with served([sys.executable, *OURS], model, "/readyz") as (ours, ready_s, process), \
         served([sys.executable, *BARE], model, "/") as (bare, _, _):
        ask = {"ours": (f"{ours}/v1/forecast", body["one"]), "bare": (f"{bare}/predict", body["ready"]),
               "many": (f"{ours}/v1/forecast", body["many"])}
        for what in ask.values():
            wrk(*what, 2, 1)  # warm
        turns = [{(name, c): wrk(*ask[name], c, seconds) for name, c in (("ours", 1), ("bare", 1), ("many", 1), ("ours", 8), ("bare", 8))}
                 for _ in range(rounds)]
        memory = max(p.memory_info().rss for p in process.children()) / 2**20
    of = lambda f: statistics.median(f(t) for t in turns)  # noqa: E731
    return {
        "throughput_bare_over_ours": of(lambda t: t["bare", 8].rate / t["ours", 8].rate),
        "median_over_bare": of(lambda t: t["ours", 1].median / t["bare", 1].median),
        "p99_over_median": of(lambda t: t["ours", 8].p99 / t["ours", 8].median),
        "batch_over_single": of(lambda t: t["many", 1].median / t["ours", 1].median),
        "ready_s": ready_s, "worker_mib": memory, "errors": sum(load.errors for t in turns for load in t.values()),
        "median_ms": of(lambda t: t["ours", 1].median), "bare_median_ms": of(lambda t: t["bare", 1].median),
        "requests_s": of(lambda t: t["ours", 8].rate), "bare_requests_s": of(lambda t: t["bare", 8].rate),
        "p99_ms": of(lambda t: t["ours", 8].p99), "batch_ms": of(lambda t: t["many", 1].median),
    }


class Soak(NamedTuple):
    "What a long time at full load did."
    errors: int
    before: float  # MiB of the largest worker, once warm
    after: float


def soak(model: Path, seconds: float, folder: Path) -> Soak:
    "Eight connections for a long time."
    body = bodies(folder, model)["one"]
    with served([sys.executable, *OURS], model, "/readyz") as (ours, _, process):
        largest = lambda: max(p.memory_info().rss for p in process.children()) / 2**20  # noqa: E731
        wrk(f"{ours}/v1/forecast", body, 8, 10)
        before = largest()
        return Soak(wrk(f"{ours}/v1/forecast", body, 8, seconds).errors, before, largest())


def peers(model: Path, seconds: float, folder: Path) -> dict[str, float]:
    "Requests a second of others' servers on ready features, and ours on bars, in turns."
    home = ROOT / ".venv-peers"
    if not (home / "bin/bentoml").exists():
        print("installing the peers in .venv-peers ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--system-certs", "--python", str(home / "bin/python"),
                        "-r", "docs/peers/requirements.txt"], cwd=ROOT, check=True)
    python, body, saved = str(home / "bin/python"), bodies(folder, model), folder / "mlflow"
    subprocess.run([python, "docs/peers/mlflow_model.py", str(model), str(saved)], cwd=ROOT, check=True, capture_output=True)
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    mlflow = [python, "-m", "mlflow", "models", "serve", "-m", str(saved), "--env-manager", "local", "-h", "127.0.0.1",
              "-p", "{port}", "-w", "2"]
    bento = [python, "-m", "bentoml", "serve", "docs.peers.bento:Booster", "--host", "127.0.0.1", "--port", "{port}"]
    with served([sys.executable, *OURS], model, "/readyz") as (ours, *_), \
         served(mlflow, model, "/ping", {"PATH": path}) as (a, *_), served(bento, model, "/readyz", {"PATH": path}) as (b, *_):
        ask = {"ours": (f"{ours}/v1/forecast", body["one"]), "mlflow": (f"{a}/invocations", body["mlflow"]),
               "bentoml": (f"{b}/predict", body["ready"])}
        turns = [{name: wrk(*what, 8, seconds) for name, what in ask.items()} for _ in range(3)]
    bad = {name for t in turns for name, load in t.items() if load.errors}
    if bad:
        sys.exit(f"latency: {', '.join(sorted(bad))} answered with errors")
    return {f"{name}_requests_s": statistics.median(t[name].rate for t in turns) for name in ask}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/champion", help="folder of a bundle")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="also against the servers of MLflow and BentoML")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics/latency.json")
    given = parser.parse_args()
    if not shutil.which("wrk"):
        print("latency: needs wrk: apt-get install wrk, or brew install wrk", file=sys.stderr)
        sys.exit(2)
    if not (given.model / "manifest.json").exists():
        print(f"latency: no bundle in {given.model}: make run, or --model", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.model.resolve(), given.seconds, given.rounds, Path(folder))
        if given.peers:
            found |= peers(given.model.resolve(), given.seconds, Path(folder))
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    for limit in LIMITS:
        word = "BAD " if found[limit.name] > limit.most else "ok  " if found[limit.name] <= limit.aim else "slow"
        print(f"{word} {limit.text:<60} {found[limit.name]:8.2f}  (aim {limit.aim:g}, at most {limit.most:g})")
    print(" ".join(f"{k} {v:.2f}" for k, v in found.items() if k not in {x.name for x in LIMITS}))
    sys.exit(int(any(found[x.name] > x.most for x in LIMITS)))


if __name__ == "__main__":
    main()
