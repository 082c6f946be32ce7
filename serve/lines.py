"Log lines: strict JSON with ECS field names, on stdout. What a line holds, its writer knows."

import contextlib
import fcntl
import logging
import os
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stockml import __version__
from stockml.journal import ECS, ENCODE, instant

STDOUT = 1
LEVELS = {"WARNING": "warn", "CRITICAL": "fatal"}  # as ECS spells them
SERVICE = {"name": "stockml", "version": __version__}


def head(level: str, message: str) -> dict[str, Any]:
    "What every line begins with."
    return {"@timestamp": instant(), "log.level": level, "message": message, "ecs.version": ECS, "service": SERVICE}


class Lines:
    "Writes lines whole, whatever other threads and other workers write to the same pipe."

    def __init__(self, folder: str | None = os.environ.get("PROMETHEUS_MULTIPROC_DIR")):
        self.turn = threading.Lock()
        # A pipe keeps 4,096 bytes together, a forecast has more; so the workers take turns. Opened by each after the fork.
        self.file = (Path(folder) / "lines.lock").open("w") if folder else None

    def write(self, *lines: dict[str, Any]) -> None:
        "A reader that is gone is no reason to stop serving."
        data = b"".join([ENCODE(line) + b"\n" for line in lines])
        with self.turn, contextlib.suppress(OSError):
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self.file:
            fcntl.flock(self.file, fcntl.LOCK_EX)
        try:
            while data:
                data = data[os.write(STDOUT, data):]
        finally:
            if self.file:
                fcntl.flock(self.file, fcntl.LOCK_UN)


class Handler(logging.Handler):
    "The same for what Python's logging is told: our own faults, a model that was taken over or refused."

    def __init__(self, lines: Lines, common: Callable[[], dict[str, Any]]):
        super().__init__(logging.INFO)
        self.lines, self.common = lines, common  # what belongs to the request under way, if there is one

    def emit(self, record: logging.LogRecord) -> None:
        line = head(LEVELS.get(record.levelname, record.levelname.lower()), record.getMessage())
        if record.exc_info and record.exc_info[0]:
            kind, error, trace = record.exc_info
            line["error"] = {"type": kind.__name__, "message": str(error),
                             "stack_trace": "".join(traceback.format_exception(kind, error, trace))}
        self.lines.write(line | self.common() | {"log": {"logger": record.name}, "process": {"pid": record.process}})
