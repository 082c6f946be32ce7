import errno
import json
import os
import signal
import subprocess
import sys
from datetime import date
from threading import Timer

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mishaps import deaths, full_disk

from stockml.config import BadInput, StockmlError
from stockml.files import atomic, lock, plain, read_json, sha256, write_json


@pytest.fixture
def target(tmp_path):
    "A file with content, alone in its folder."
    path = tmp_path / "a.json"
    path.write_text("old")
    return path


def untouched(path) -> bool:
    return path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == [path.name]


def test_atomic_replaces_the_whole_file(target):
    with atomic(target) as tmp:
        tmp.write_text("new")
        assert tmp.parent == target.parent
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == [target.name]


def test_atomic_makes_folders_and_respects_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        write_json(tmp_path / "deep" / "er" / "a.json", 1)
    finally:
        os.umask(mask)
    assert (tmp_path / "deep" / "er" / "a.json").stat().st_mode & 0o777 == 0o640


def test_error_while_writing_leaves_what_was_there(target):
    with pytest.raises(ZeroDivisionError), atomic(target) as tmp:
        tmp.write_text("half")
        raise ZeroDivisionError
    assert untouched(target)


def test_full_disk_in_the_middle_of_a_write(target):
    with full_disk(1000), pytest.raises(BadInput, match=r"a\.json: could not be written .*too large.*untouched$"):
        write_json(target, list(range(1000)))
    assert untouched(target)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(("code", "words", "kind"), [
    (errno.ENOSPC, "No space left on device", BadInput),
    (errno.EDQUOT, "Disk quota exceeded", BadInput),
    (errno.EIO, "Input/output error", StockmlError),  # nothing that whoever called us could mend
])
def test_failing_disk_at_the_last_moment(target, monkeypatch, call, code, words, kind):
    "Delayed allocation: some file systems find out that they are full only when they flush."
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StockmlError, match=rf"a.json: could not be written \({words}\)") as e:
        write_json(target, 1)
    assert e.type is kind
    monkeypatch.undo()
    assert untouched(target)


def test_folder_that_cannot_be_made_is_one_clear_line(target):
    for place in (lambda p: write_json(p, 1), lambda p: lock(p).__enter__()):
        with pytest.raises(StockmlError, match=r"a\.json/b: .*\((File exists|Not a directory)\)"):
            place(target / "b")
    assert untouched(target)


def test_killed_at_any_moment_leaves_old_or_new(tmp_path):
    target, seen = tmp_path / "a.json", set()
    write_json(target, "old")
    for _ in deaths(tmp_path, write_json, target, "new"):
        seen.add(read_json(target))
        write_json(target, "old")
    assert read_json(target) == "new"
    assert seen == {"old", "new"}


def test_sha256_of_the_standards_example(target):
    target.write_text("abc")
    assert sha256(target) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(NUMBERS, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=10)


@given(VALUES)
def test_plain_is_strict_json_and_idempotent(value):
    once = plain(value)
    assert plain(once) == once == json.loads(json.dumps(once, allow_nan=False))


@pytest.mark.parametrize(("value", "expected"), [
    (np.float32("nan"), None), (float("-inf"), None), (pd.NaT, None), (np.datetime64("NaT"), None),
    (np.int64(3), 3), (np.bool_(True), True), (np.array([1.0, np.inf]), [1.0, None]),
    (date(2000, 9, 29), "2000-09-29"), (pd.Timestamp("2000-09-29"), "2000-09-29T00:00:00"),
    ({1: (2, {"x": np.float64(0.5)})}, {"1": [2, {"x": 0.5}]}),
])
def test_plain_of_numpy_and_dates(value, expected):
    assert plain(value) == expected


def test_equal_json_is_equal_bytes(tmp_path):
    write_json(tmp_path / "a", {"y": 1, "x": [float("nan")]})
    write_json(tmp_path / "b", {"x": (None,), "y": np.int8(1)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1,"])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.json: not readable as JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(BadInput, match=r"b\.json: not found"):
        read_json(tmp_path / "b.json")


HOLDER = """
import sys
from pathlib import Path
from stockml.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    "Another process that holds the lock `tmp_path / 'x.lock'`."
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "x.lock")], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_two_runs_at_once(holder, tmp_path):
    with pytest.raises(BadInput, match=r"another ingest is under way \(it holds .*x\.lock\): wait until it ends"), \
            lock(tmp_path / "x.lock", what="ingest"):
        pass


def test_lock_of_a_killed_process_is_free(holder, tmp_path):
    holder.kill()
    holder.wait()
    with lock(tmp_path / "x.lock"):
        pass


def test_waiting_for_a_lock(holder, tmp_path):
    Timer(0.2, holder.kill).start()
    with lock(tmp_path / "x.lock", wait=True):
        assert holder.wait() == -signal.SIGKILL


def test_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "x.lock"):
        raise ZeroDivisionError
    with lock(tmp_path / "x.lock"):
        pass
