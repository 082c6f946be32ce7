import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from projects import gone

from stockml.warm import ADDRESS, Cold, Process, command, ready, search_path

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks are for Linux")
TELL = """
import os, sys
print("known" in sys.modules, os.getcwd(), os.environ.get("WHO"), sys.argv[1:], sys.stdin.read(), flush=True)
print("an error", file=sys.stderr, flush=True)
sys.exit(int(sys.argv[1]))
"""
WAIT = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.fixture
def place(tmp_path):
    "A project with a module, and programs: one that tells what it was given, one that waits."
    for name, code in (("tell", TELL), ("wait", WAIT), ("known", "")):
        (tmp_path / f"{name}.py").write_text(code)
    return tmp_path


@pytest.fixture
def package(tmp_path):
    "A project with a package of its own, as a clone has: what forks needs, and nothing else yet."
    (tmp_path / "stockml").mkdir()
    for name in ("__init__", "warm"):
        shutil.copy(Path(__file__).parents[1] / f"stockml/{name}.py", tmp_path / "stockml")
    return tmp_path


def run(place: Path, *argv: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(*argv), cwd=place, env={**os.environ, **env}, input="hello", capture_output=True, text=True, timeout=60,
                          check=False)


def warm(place: Path) -> bool:
    "Wait until a fork knows the module."
    end = time.monotonic() + 30
    while not (known := run(place, "tell", "0").stdout.startswith("True")) and time.monotonic() < end:
        time.sleep(.1)
    return known


@contextmanager
def begun(place: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    "A program that waits, behind its command; the process id that it tells."
    with subprocess.Popen(command("wait"), cwd=place, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_fork_is_what_a_new_python_would_be(place):
    cold = run(place, "tell", "3", "and more", WHO="Ada")
    assert cold.stdout == f"False {place} Ada ['3', 'and more'] hello\n"
    with ready(place, ["known"]):
        assert warm(place)
        fork = run(place, "tell", "3", "and more", WHO="Ada")
    assert (fork.stdout, fork.stderr, fork.returncode) == (cold.stdout.replace("False", "True"), "an error\n", 3)
    assert cold.stderr == "an error\n"


def test_who_asks_while_modules_load_does_not_wait_for_all_of_them(place):
    for n in range(40):
        (place / f"slow{n}.py").write_text("import time; time.sleep(.5)")
    with ready(place, ["known", *(f"slow{n}" for n in range(40))]):
        assert warm(place)
        (place / "tell.py").write_text("import sys; print('slow39' in sys.modules)")
        assert run(place, "tell").stdout == "False\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_command_ends_the_fork(place, number):
    with ready(place, []), begun(place) as (process, pid):
        assert process.pid != pid
        process.send_signal(number)
        assert process.wait(10) == -number
        assert gone(pid)


def test_a_fork_that_is_killed_looks_killed(place):
    with ready(place, []), begun(place) as (process, pid):
        os.kill(pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL


def test_no_fork_outlives_the_process_that_forks(place):
    with ready(place, []), begun(place) as (process, pid):
        os.kill(parent(pid), signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        assert gone(pid)
        assert run(place, "tell", "0").stdout.startswith("False") # and who asks then gets a new Python


def test_all_are_gone_when_the_one_who_opened_the_block_is_killed(place):
    code = ("import subprocess, sys, time\nfrom pathlib import Path\nfrom stockml.warm import command, ready\n"
            "with ready(Path.cwd(), []):\n    child = subprocess.Popen(command('wait'), stdin=subprocess.PIPE)\n    time.sleep(600)\n")
    (place / "wait.py").write_text("import os, sys; print(os.getpid(), flush=True); sys.stdin.read()") # it looks after itself
    with subprocess.Popen([sys.executable, "-c", code], cwd=place, stdout=subprocess.PIPE, text=True) as opener:
        pid = int(opener.stdout.readline())
        forker = parent(pid)
        opener.kill()
    assert gone(pid)
    assert gone(forker)


def test_who_starts_when_the_opener_is_killed_is_refused(place):
    "Else it would wait for the process that forks, which waits for the forks that wait for it."
    (place / "wait.py").write_text("import subprocess, sys, time\nfrom stockml.warm import command\nprint('up', flush=True)\n"
                                   "sys.stdin.read()\ntime.sleep(.5)\nsubprocess.run(command('tell', '0'), stdin=subprocess.DEVNULL)")
    code = ("import subprocess, sys, time\nfrom pathlib import Path\nfrom stockml.warm import command, ready\nwith ready(Path.cwd(), []):\n"
            "    subprocess.Popen(command('wait'), stdin=subprocess.PIPE)\n    time.sleep(600)\n")
    with subprocess.Popen([sys.executable, "-c", code], cwd=place, stdout=subprocess.PIPE, text=True) as opener:
        assert opener.stdout.readline() == "up\n"
        opener.kill()
        assert opener.stdout.readline().startswith("False") # told by a Python of its own, to the end of the pipe
        assert opener.stdout.read() == ""


def test_a_system_that_tells_no_ends_has_no_forks(place, monkeypatch):
    def refuse(_):
        raise OSError("not here")

    monkeypatch.setattr("os.pidfd_open", refuse)
    with ready(place, ["known"]):
        assert ADDRESS not in os.environ
        assert run(place, "tell", "0").stdout.startswith("False")


def test_what_is_left_in_open_files_is_written(place):
    (place / "write.py").write_text("import sys; sys.kept = open('text', 'w'); sys.kept.write('all of it'); sys.stdout.write('and this')")
    with ready(place, ["known"]):
        assert warm(place)
        assert run(place, "write").stdout == "and this"
    assert (place / "text").read_text() == "all of it"


@pytest.mark.parametrize(("code", "status"), [("sys.exit()", 0), ("sys.exit('told')", 1), ("sys.exit(7)", 7), ("1 / 0", 1), ("", 0)])
def test_exit_codes(place, code, status):
    (place / "end.py").write_text(f"import sys, atexit; atexit.register(print, 'cleaned up')\n{code}")
    cold = run(place, "end")
    with ready(place, []):
        fork = run(place, "end")
    assert (cold.returncode, cold.stdout) == (fork.returncode, fork.stdout) == (status, "cleaned up\n")
    assert cold.stderr.splitlines()[-1:] == fork.stderr.splitlines()[-1:]


def test_each_fork_draws_numbers_of_its_own(place):
    (place / "draw.py").write_text("import numpy; print(numpy.random.rand())")
    with ready(place, ["numpy", "known"]):
        assert warm(place)
        assert run(place, "draw").stdout != run(place, "draw").stdout


def test_a_folder_that_is_named_from_here(place, monkeypatch):
    (place / "below").mkdir()
    (place / "below/where.py").write_text("import os; open('where', 'w').write(os.getcwd())")
    with ready(Path("/"), []):
        monkeypatch.chdir(place)
        assert Process(["where"], "below").wait() == 0
    assert (place / "below/where").read_text() == str(place / "below")


def test_a_file_that_vanishes_is_no_trouble_for_others(package):
    (package / "stockml/fact.py").write_text("")
    (package / "stockml/other.py").write_text("import time; time.sleep(2)")
    (package / "wait.py").write_text(WAIT)
    with ready(package, ["stockml.fact", "stockml.other"]), begun(package) as (process, _):
        (package / "stockml/fact.py").unlink()
        time.sleep(3)
        assert process.poll() is None


def test_code_that_has_changed_is_not_run_from_memory(package):
    (package / "stockml/fact.py").write_text("FACT = 1")
    (package / "tell.py").write_text("import sys; print('stockml.fact' in sys.modules); from stockml.fact import FACT; print(FACT)")
    with ready(package, ["stockml.fact"]):
        assert warm(package)
        assert run(package, "tell").stdout == "True\n1\n"
        (package / "stockml/fact.py").write_text("FACT = 2")
        os.utime(package / "stockml/fact.py", (2e9, 2e9))
        assert run(package, "tell").stdout == "False\n2\n"


def test_another_path_of_modules_gets_a_python_of_its_own(place):
    with ready(place, ["known"]):
        assert warm(place)
        assert run(place, "tell", "0", PYTHONPATH=str(place)).stdout.startswith("False")
        with pytest.raises(Cold):
            Process(["tell", "0"], place, {"PYTHONPATH": "/elsewhere"})


def test_a_block_within_a_block_is_the_same(place):
    with ready(place, ["known"]):
        before = os.environ[ADDRESS]
        with ready(place, []):
            assert os.environ[ADDRESS] == before
        assert warm(place)
    assert ADDRESS not in os.environ


def test_commands_by_name(place):
    (place / "tool.py").write_text("import sys\ndef main():\n    print('known' in sys.modules, sys.argv)")
    with ready(place, ["known"], greet="tool:main"):
        assert warm(place)
        ask = ["greet", "a b", "$HOME"]
        done = subprocess.run(ask, cwd=place, env={**os.environ, "PATH": search_path()}, capture_output=True, text=True, check=True)
    assert done.stdout == "True ['tool', 'a b', '$HOME']\n"
    assert ADDRESS not in os.environ
    assert search_path().startswith(str(Path(sys.executable).parent))


def test_what_cannot_be_loaded_says_so_where_it_is_needed(place):
    (place / "broken.py").write_text("1 / 0")
    with ready(place, ["broken", "nothing_of_that_name", "known"]):
        assert warm(place)
        assert "ZeroDivisionError" in run(place, "broken").stderr
        assert run(place, "broken").returncode == 1


def test_a_folder_for_temporary_files_with_a_long_name_is_no_trouble(place, monkeypatch):
    (long := place / ("x" * 120)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with ready(place, ["known"]):
        assert run(place, "tell", "0").stdout.startswith("False")


def test_many_at_once(place):
    with ready(place, ["known"]), ExitStack() as open_:
        processes = [open_.enter_context(subprocess.Popen(command("tell", str(n)), cwd=place, stdin=subprocess.DEVNULL, text=True,
                                                          stdout=subprocess.PIPE)) for n in range(12)]
        said = [p.communicate(timeout=60)[0] for p in processes]
    assert [p.returncode for p in processes] == [*range(12)]
    assert all(f"['{n}']" in text for n, text in enumerate(said))
