"What befalls a replay; the stories of `stories` in conftest.py."

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import projects
import psutil

from stockml.ingest import price_site
from stockml.journal import read

FIRST, BEGUN, EVE, LEARNT, LAST = "2003-06-02", "2003-06-05", "2003-06-11", "2003-06-12", "2003-06-13"
SET = ["monitor.every=2", "monitor.drift_every=1000", "monitor.data_age=[1,4]", "retrain.every=9", "retrain.wait=9", "search.trials=1"]
ANEW = {"forecast_id", "forecasts", "begun", "seconds", "commit", "run_id", "time", "model"}  # differ from run to run


@dataclass
class Place:
    "A replay's folder, the project that it is a clone of, and all that was said."

    project: Path
    folder: Path
    said: list[subprocess.CompletedProcess] = field(default_factory=list)
    children: set[int] = field(default_factory=set)  # of replays that were killed

    @property
    def journal(self) -> Path:
        return self.folder / "journal/journal-000001.ndjson"

    def start(self, *options: str, to: str = LAST, first: str = FIRST, **how) -> subprocess.Popen:
        "In a session of its own, so that Ctrl-C can be pressed."
        command = [projects.BIN / "stockml", "replay", "--from", first, "--to", to, "--folder", self.folder, *options]
        return subprocess.Popen(command, cwd=self.project, env=projects.environment(self.folder), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **how)

    def end(self, process: subprocess.Popen) -> subprocess.CompletedProcess:
        "What it said, once it has ended."
        out, err = process.communicate(timeout=300)
        self.said.append(done := subprocess.CompletedProcess(process.args, process.returncode, out, err))
        return done

    def run(self, *options: str, code: int = 0, **where: str) -> subprocess.CompletedProcess:
        done = self.end(self.start(*options, **where))
        assert done.returncode == code, done.stderr
        return done

    def kill_when(self, seen: Callable[[], bool]) -> None:
        "Start it, and kill -9 as soon as something is seen."
        process = self.start()
        parent = psutil.Process(process.pid)
        until(lambda: process.poll() is not None or seen())
        self.children |= {p.pid for p in parent.children(recursive=True)} if process.poll() is None else set()
        process.kill()
        assert self.end(process).returncode == -signal.SIGKILL, self.said[-1].stderr

    def lines(self, *datasets: str) -> list[dict]:
        "The facts of its lines, oldest first."
        return [x["stockml"] for x in read(self.folder / "journal", *(f"stockml.{d}" for d in datasets))]

    def has(self, dataset: str, **facts: str) -> bool:
        return any(facts.items() <= x.items() for x in self.lines(dataset))

    def story(self, last: str = LAST) -> dict[str, list[dict]]:
        "What happened up to a day, without what no two runs share."
        told = {d: [_same(x) for x in self.lines(d)] for d in ("replay", "bot", "monitor", "retrain")}
        return {d: [x for x in facts if (x.get("day") or x["as_of"]) <= last] for d, facts in told.items()}


def _same(value):
    return {k: _same(v) for k, v in value.items() if k not in ANEW} if isinstance(value, dict) else value


def until(true: Callable[[], bool], within_s: float = 240) -> None:
    "Wait for something."
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(.01)


def at_work_on(place: Place, stage: str) -> bool:
    "Is it at this stage, whose kernel has been through a cell?"
    for path in (place.folder / "runs").glob(f".{stage}.ipynb.*.ipynb"):
        with suppress(FileNotFoundError):  # over, since we looked
            if '"status": "completed"' in path.read_text():
                return True
    return False


def alone(place: Place) -> Place:
    "Nothing happens to it."
    place.run()
    return place


def killed(place: Place) -> Place:
    "kill -9 within a day, between two days and in the middle of the retraining; each time the same command goes on at once."
    place.kill_when(lambda: place.has("forecast", origin="2003-06-06"))
    place.kill_when(lambda: place.has("replay", day="2003-06-09"))
    place.kill_when(lambda: at_work_on(place, "train"))
    place.run()
    return place


def worse(place: Place) -> Place:
    "The challenger learns from little, and no interval would be good enough."
    projects.set_params(place.folder, {"model": {"rows": 1000}, "gate": {"coverage_95": [0.9989, 0.999]}})
    place.run()
    return place


def shaken(place: Place) -> Place:
    "The service is killed, a second replay comes, Ctrl-C is pressed, the journal loses half a line, and a worker is killed."
    process = place.start(to=EVE)
    until(lambda: place.has("forecast", origin="2003-06-06"))
    master(process.pid).kill()
    until(lambda: place.has("forecast", origin="2003-06-09"))
    process.send_signal(signal.SIGSTOP)  # so that it is still there
    place.run(to=EVE, code=2)
    os.killpg(process.pid, signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    place.end(process)
    with place.journal.open("rb+") as f:
        f.truncate(f.seek(0, 2) - 200)
    process = place.start(to=EVE)
    until(lambda: place.has("forecast", origin="2003-06-10"))
    master(process.pid).children()[0].kill()
    assert place.end(process).returncode == 0, place.said[-1].stderr
    return place


def master(replay: int) -> psutil.Process:
    "The service of a replay."
    return next(p for p in psutil.Process(replay).children() if any("gunicorn" in part for part in p.cmdline()))


def full(place: Place) -> Place:
    "The clock is put back by a year: so what stands there is of next year. Then the disk is full."
    year, text = datetime.now(UTC).year, place.journal.read_text()
    text = re.sub(r'"([0-9a-f]{8})-([0-9a-f]{4})(?=-7[0-9a-f]{3}-)', lambda m: _later(m[1] + m[2]), text)
    place.journal.write_text(text.replace(f'"@timestamp":"{year}', f'"@timestamp":"{year + 1}'))
    room = place.journal.stat().st_size + 30_000  # for a day and a half
    place.end(place.start(to=EVE, preexec_fn=lambda: _no_file_beyond(room)))
    place.run(to=EVE)
    return place


def _later(milliseconds: str) -> str:
    "The beginning of an id, a year later."
    digits = f"{int(milliseconds, 16) + 365 * 86_400_000:012x}"
    return f'"{digits[:8]}-{digits[8:]}'


def _no_file_beyond(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def cut_off(place: Place) -> Place:
    "The price site is down for three sessions, then up again."
    projects.set_params(place.folder, {"data": {"base_url": "http://127.0.0.1:9"}})
    place.run(to="2003-06-10")
    with price_site(date.fromisoformat(EVE)) as url:
        projects.set_params(place.folder, {"data": {"base_url": url}})
        place.run(to=EVE)
    return place
