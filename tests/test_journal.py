"The journal: whole lines, whatever happens to those who write and to those who read."

import contextlib
import errno
import json
import multiprocessing
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockml import journal as module
from stockml.config import BadInput
from stockml.journal import LINE, Journal, decoded, event, files, find, id_time, new_id, pieces, read


def numbers(folder) -> list[int]:
    return [line["stockml"]["n"] for line in read(folder)]


def lines(*ns: int) -> list[dict]:
    return [event("stockml.test", "line", n=n) for n in ns]


def write_many(folder, first: int, count: int) -> None:
    journal = Journal(folder, roll=20_000)
    for n in range(first, first + count):
        journal.append(lines(n))


def test_processes_write_beside_one_another(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(tmp_path, 1000 * k, 300)) for k in range(4)]
    for w in writers:
        w.start()
    for w in writers:
        w.join()
    found = numbers(tmp_path)
    assert sorted(found) == [1000 * k + n for k in range(4) for n in range(300)]
    for k in range(4):  # each writer's own lines are in its order
        mine = [n for n in found if n // 1000 == k]
        assert mine == sorted(mine)
    assert len(files(tmp_path)) > 3
    assert all(p.stat().st_size < 20_000 + 1000 for p in files(tmp_path))


def test_a_reader_sees_whole_lines_only(tmp_path):
    journal = Journal(tmp_path)
    journal.append(lines(1))
    with files(tmp_path)[0].open("ab") as f:
        f.write(b'{"stockml": {"n": 2')
    assert numbers(tmp_path) == [1]
    journal.append(lines(3))
    assert numbers(tmp_path) == [1, 3]
    assert files(tmp_path)[0].read_bytes().count(b'{"stockml": {"n": 2\n') == 1  # nothing is ever changed, not even debris


@given(cut=st.integers(0, 400))
def test_a_file_cut_anywhere_loses_the_cut_line_only(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    journal.append(lines(1, 2, 3))
    path = files(folder)[0]
    data = path.read_bytes()
    path.write_bytes(data[:max(0, len(data) - cut)])
    whole = path.read_bytes().count(b"\n")
    Journal(folder).append(lines(9))
    expected = [1, 2, 3][:whole]
    with contextlib.suppress(ValueError):  # cut right before its newline, a line is whole again once it is closed
        expected = [json.loads(x)["stockml"]["n"] for x in path.read_bytes().splitlines()[:whole + 1]][:-1]
        expected = [n for n in expected if n != 9]
    found = numbers(folder)
    assert found[-1] == 9
    assert set(expected) <= set(found[:-1]) <= {1, 2, 3}
    assert found[:-1] == sorted(found[:-1])


def test_no_room_leaves_nothing_of_the_lines(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.append(lines(1))
    write, calls = os.write, []

    def half(handle, data):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[:len(data) // 2])

    monkeypatch.setattr(module.os, "write", half)
    with pytest.raises(BadInput, match="No space left"):
        journal.append(lines(2, 3))
    monkeypatch.setattr(module.os, "write", write)
    journal.append(lines(4))
    assert numbers(tmp_path) == [1, 4]
    assert all(json.loads(x) for x in files(tmp_path)[0].read_bytes().splitlines())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(tmp_path):
    Journal(tmp_path)
    (tmp_path / "journal-000001.ndjson").symlink_to("/dev/full")
    with pytest.raises(BadInput, match="cannot be written"):
        Journal(tmp_path).append(lines(1))


def test_killed_while_writing_nothing_written_is_lost(tmp_path):
    code = ("import sys\nfrom stockml.journal import Journal, event\njournal, n = Journal(sys.argv[1]), 0\n"
            "while True:\n    journal.append([event('stockml.test', 'line', n=n)]); print(n, flush=True); n += 1")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        for _ in range(500):
            last = int(writer.stdout.readline())
        writer.kill()
    assert numbers(tmp_path)[:last + 1] == list(range(last + 1))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="journal cannot be written"):
        Journal(tmp_path / "file" / "journal")
    with pytest.raises(BadInput, match="no journal there"):
        list(read(tmp_path / "nowhere"))


def test_an_id_tells_its_time():
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(UUID(i).version == 7 and UUID(i).variant == UUID(str(uuid4())).variant for i in ids)
    assert abs((id_time(ids[0]) - datetime.now(UTC)).total_seconds()) < 10


@pytest.mark.parametrize("backwards", [False, True])
def test_a_forecast_is_found_also_when_the_clock_went_back(tmp_path, monkeypatch, backwards):
    journal, ids, now = Journal(tmp_path, roll=1500), [], [1_700_000_000_000_000_000]
    monkeypatch.setattr(module.time, "time_ns", lambda: now[0])
    for _ in range(40):
        now[0] += (-3600 if backwards else 3600) * 10**9
        monkeypatch.setattr(module, "instant", lambda: datetime.fromtimestamp(now[0] / 1e9, UTC).isoformat())
        ids.append(new_id())
        journal.append([event("stockml.forecast", "x", forecast_id=ids[-1])])
    assert len(files(tmp_path)) > 4
    for i in ids:
        found = find(tmp_path, i)
        assert found.line["stockml"]["forecast_id"] == i
        assert json.loads(found.path.read_bytes().splitlines()[found.number - 1]) == found.line


@pytest.mark.parametrize("wrong", ["", "AAPL", "x" * 1000, "01976d0c"])
def test_what_is_no_id_is_said(tmp_path, wrong):
    Journal(tmp_path)
    with pytest.raises(BadInput, match="is no forecast id"):
        find(tmp_path, wrong)


def test_debris_in_the_middle_costs_itself_only(tmp_path):
    journal = Journal(tmp_path)
    journal.append(lines(1))
    with files(tmp_path)[0].open("ab") as f:
        f.write(b"\xff\xfe\x00 rubbish\n[1, 2]\n\n" + b"{" * 1000 + b"\n")
    journal.append(lines(2))
    assert numbers(tmp_path) == [1, 2]


def test_pieces_are_whole_lines_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 100)
    Journal(tmp_path).append([event("stockml.test", "x" * size, n=size) for size in (1, 500, 3, 99, 2000)])
    found = list(pieces(files(tmp_path)[0]))
    assert all(p.endswith(b"\n") for p in found)
    assert [x["stockml"]["n"] for p in found for x in decoded(p, LINE)] == [1, 500, 3, 99, 2000]


def test_what_is_not_finite_is_null(tmp_path):
    Journal(tmp_path).append([event("stockml.test", "x", n=float("nan"), m=float("inf"))])
    [line] = read(tmp_path)
    assert line["stockml"] == {"n": None, "m": None}
