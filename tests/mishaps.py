"What happens to real machines: processes that are killed at any moment, disks that are full."

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil

FILE_EVENTS = {"open", "os.rename", "os.remove"}


def arm(folder: str, moment: int) -> None:
    "SIGKILL this process just before it opens, renames or removes something in `folder` for the `moment`-th time."
    moments = count(1)

    def hook(event: str, args: tuple) -> None:
        inside = event in FILE_EVENTS and isinstance(args[0], (str, os.PathLike)) and str(args[0]).startswith(folder)
        if inside and next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def deaths(folder: Path, work: Callable, *args) -> Iterator[int]:
    "Do `work` again and again in processes that are killed one moment later each time; ends when it survives."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stockml.prices"])
    for moment in count(1):
        process = context.Process(target=_doomed, args=(str(folder), moment, work, args))
        process.start()
        process.join()
        code = process.exitcode
        process.close()
        if code == 0:
            return
        assert code == -signal.SIGKILL
        yield moment


def _doomed(folder: str, moment: int, work: Callable, args: tuple) -> None:
    arm(folder, moment)
    work(*args)


def ended(pid: int, within_s: float = 10) -> bool:
    "Does that process, whosever child it is, end in time?"
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    "No file of this process or its children may grow beyond `size` bytes: a write fails in the middle."
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
