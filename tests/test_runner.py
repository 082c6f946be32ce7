import os
import signal
import tempfile
import time
from functools import partial
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from projects import gone

from stockml.config import BadInput, StockmlError
from stockml.runner import checked, declared, run_notebook, to_html
from stockml.warm import ready

PARAMETERS = """text: str = "x"  # a comment
whole: int = 1
part: float = 0.5
sure: bool = False
many: list = []
more: dict = {}
free = None
"""


@pytest.fixture
def write(tmp_path):
    "Write a notebook: its parameters, then code cells."
    def write_(*code: str, parameters: str = PARAMETERS, tag: str = "parameters") -> Path:
        cells = [new_markdown_cell("# A notebook"), new_code_cell(parameters, metadata={"tags": [tag]}),
                 *map(new_code_cell, code)]
        path = tmp_path / "sample.ipynb"
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        return path

    return write_


def complaint(kind, *args, **kwargs) -> str:
    "What the runner says; always one line."
    with pytest.raises(kind) as e:
        run_notebook(*args, **kwargs)
    assert type(e.value) is kind
    assert "\n" not in str(e.value)
    return str(e.value)


def test_declared_types(write):
    kinds = declared(write())
    assert kinds == {"text": str, "whole": int, "part": float, "sure": bool, "many": list, "more": dict, "free": object}


@pytest.mark.parametrize(("name", "given", "value"), [
    ("text", "ON", "ON"), ("text", "NO", "NO"), ("text", "TRUE", "TRUE"), ("text", "INF", "INF"), ("text", "1", "1"),
    ("whole", "7", 7), ("whole", 7, 7), ("part", "1", 1.0), ("part", 2, 2.0), ("part", "0.25", 0.25),
    ("sure", "true", True), ("many", '["ON", "NO"]', ["ON", "NO"]), ("more", '{"a": 1}', {"a": 1}),
    ("free", "ON", "ON"),
])
def test_text_becomes_the_declared_type_and_nothing_else(write, name, given, value):
    typed = checked(write(), {name: given})[name]
    assert (typed, type(typed)) == (value, type(value))


@pytest.mark.parametrize(("given", "expected"), [
    ({"wole": 1}, "sample.ipynb: no parameter wole; it takes text, whole, part, sure, many, more, free"),
    ({"whole": "one"}, "sample.ipynb: whole: not a int: 'one'"),
    ({"whole": 1.5}, "sample.ipynb: whole: not a int: 1.5"),
    ({"whole": True}, "sample.ipynb: whole: not a int: True"),
    ({"whole": "true"}, "sample.ipynb: whole: not a int: True"),
    ({"part": "half"}, "sample.ipynb: part: not a float: 'half'"),
    ({"sure": "yes"}, "sample.ipynb: sure: not a bool: 'yes'"),
    ({"sure": 1}, "sample.ipynb: sure: not a bool: 1"),
    ({"text": 1}, "sample.ipynb: text: not a str: 1"),
    ({"many": "AAPL,KO"}, "sample.ipynb: many: not a list: 'AAPL,KO'"),
    ({"more": "[1]"}, "sample.ipynb: more: not a dict: [1]"),
])
def test_wrong_parameter_is_refused_before_a_kernel_starts(write, tmp_path, given, expected):
    notebook = write("open('started', 'w').close()")
    assert complaint(BadInput, notebook, tmp_path / "out.ipynb", given, cwd=tmp_path) == expected
    assert [p.name for p in tmp_path.iterdir()] == ["sample.ipynb"]


def test_lost_tag_is_refused_before_a_kernel_starts(write, tmp_path):
    notebook = write("open('started', 'w').close()", tag="other")
    for given in ({}, {"whole": 2}):
        said = complaint(BadInput, notebook, tmp_path / "o.ipynb", given, cwd=tmp_path)
        assert "sample.ipynb: no cell is tagged parameters" in said
    assert [p.name for p in tmp_path.iterdir()] == ["sample.ipynb"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "print(1)", "\x00"])
def test_what_is_no_notebook_is_named(tmp_path, content):
    (tmp_path / "bad.ipynb").write_text(content)
    assert "bad.ipynb: not a notebook (" in complaint(BadInput, tmp_path / "bad.ipynb", tmp_path / "out.ipynb")
    assert complaint(BadInput, tmp_path / "none.ipynb", tmp_path / "out.ipynb") == f"{tmp_path}/none.ipynb: not found"


def test_run_gives_parameters_folder_and_output(write, tmp_path, capfd):
    notebook = write("from pathlib import Path", "Path('made').write_text(f'{text} {whole + 1}')", "print('seen')",
                     "whole * 2")
    before = notebook.read_bytes()
    (tmp_path / "work").mkdir()
    out = run_notebook(notebook, tmp_path / "runs/out.ipynb", {"text": "NO", "whole": "20"}, cwd=tmp_path / "work")
    assert (tmp_path / "work/made").read_text() == "NO 21"
    assert "seen" in capfd.readouterr().out
    assert notebook.read_bytes() == before
    assert nbformat.read(out, as_version=4).cells[-1].outputs[0]["data"]["text/plain"] == "40"
    assert [p.name for p in out.parent.iterdir()] == ["out.ipynb"]
    to_html(out, page := tmp_path / "out.html")
    assert "A notebook" in page.read_text()


def test_failing_cell_is_named_and_kept(write, tmp_path):
    out = tmp_path / "runs/out.ipynb"
    notebook = write("kept = 1", "if whole: raise KeyError('two\\nlines')", "open('later', 'w').close()")
    message = complaint(StockmlError, notebook, out, cwd=tmp_path, show=False)
    assert message.startswith("sample.ipynb, cell 3 (if whole: raise KeyError('two\\nlines')): KeyError: ")
    assert message.endswith(f"see {out.with_name('out.failed.ipynb')}")
    assert [p.name for p in out.parent.iterdir()] == ["out.failed.ipynb"]
    assert "KeyError" in out.with_name("out.failed.ipynb").read_text()
    assert not (tmp_path / "later").exists()
    run_notebook(notebook, out, {"whole": 0}, cwd=tmp_path, show=False)
    assert [p.name for p in out.parent.iterdir()] == ["out.ipynb"]


def test_error_of_many_lines_is_told_in_one(write, tmp_path):
    message = complaint(StockmlError, write("raise ValueError('one\\n  two\\n\\nthree')"), tmp_path / "out.ipynb",
                        show=False)
    assert "ValueError: one two three; see" in message


def test_bad_input_found_by_a_notebook_stays_bad_input(write, tmp_path):
    notebook = write("from stockml.config import BadInput", "raise BadInput('prices.csv, line 3: date: missing')")
    assert complaint(BadInput, notebook, tmp_path / "out.ipynb", show=False) == "prices.csv, line 3: date: missing"


def children() -> set[int]:
    "The processes that this one has started, and that are still there."
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_time_limit_ends_the_kernel(write, tmp_path):
    notebook = write("import os, time", "open('pid', 'w').write(str(os.getpid()))", "time.sleep(60)")
    begun = time.monotonic()
    message = complaint(BadInput, notebook, tmp_path / "out.ipynb", cwd=tmp_path, timeout_s=6, show=False)
    assert message == "sample.ipynb: not done after 6 s: give it more time, or less to do"
    assert time.monotonic() - begun < 30
    assert gone(int((tmp_path / "pid").read_text()))
    assert not (tmp_path / "out.ipynb").exists()


def test_kernel_that_dies_is_named(write, tmp_path):
    notebook = write("import os", "os._exit(3)")
    assert "sample.ipynb" in complaint(StockmlError, notebook, tmp_path / "out.ipynb", show=False)


def test_the_runner_gives_signals_back(write, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    run_notebook(write(), tmp_path / "out.ipynb", show=False)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


ORDER = """
import time

from ipykernel.kernelapp import IPKernelApp


def late(self=None, sleep=time.sleep, stop=IPKernelApp.instance().control_thread.io_loop.stop):  # IPython forgets its names at the end
    sleep(.5)
    stop()


def told(timeout=None, control=IPKernelApp.instance().control_thread, join=IPKernelApp.instance().iopub_thread.thread.join, open=open):
    with open("order", "w") as file:
        file.write("orders are still taken" if control.is_alive() else "last")
    join(timeout)


IPKernelApp.instance().control_thread.io_loop.stop = late
IPKernelApp.instance().iopub_thread.thread.join = told
"""
PATH = """
import colorsys
import sys

print("a fork" if "stockml.warm" in sys.modules else "a new Python", colorsys.__file__)
"""


@pytest.fixture
def forked(write, tmp_path):
    "Run a notebook in a fork."
    if not hasattr(os, "pidfd_open"):
        pytest.skip("forks are for Linux")

    def run(code: str) -> str:
        with ready(tmp_path, ["ipykernel.ipkernel"]):
            out = run_notebook(write(code), tmp_path / "out.ipynb", cwd=tmp_path, show=False)
        return "".join(o.get("text", "") for c in nbformat.read(out, 4).cells for o in c.get("outputs", []))

    return run


def test_a_kernel_in_a_fork_sends_what_was_printed_until_it_takes_no_more_orders(forked, tmp_path):
    forked(ORDER)
    assert (tmp_path / "order").read_text() == "last"


def test_a_kernel_in_a_fork_looks_for_modules_as_any_other(forked, tmp_path):
    (tmp_path / "colorsys.py").touch()
    said = forked(PATH)
    assert said.startswith("a fork ") and str(tmp_path) not in said


@pytest.mark.parametrize(("folder", "spoken_through"), [("short", "ipc"), ("long" * 30, "tcp"), ("ü" * 45, "tcp")])
def test_kernels_do_not_compete_for_ports(write, tmp_path, monkeypatch, folder, spoken_through):
    (tmp_path / folder).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
    out = run_notebook(write("print(get_ipython().parent.parent.transport)"), tmp_path / "out.ipynb", show=False)
    assert nbformat.read(out, 4).cells[-1].outputs[0]["text"].strip() == spoken_through
    assert not list((tmp_path / folder).iterdir())


def test_kernel_that_cannot_start_is_named(write, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(StockmlError, match="its kernel died"):
        run_notebook(write("1"), tmp_path / "out.ipynb", show=False)


@pytest.mark.parametrize("seconds", [.15, .3, .6])
def test_time_limit_while_a_kernel_starts_leaves_nothing(write, tmp_path, monkeypatch, seconds):
    (tmp_path / "sockets").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "sockets"))
    before = children()
    notebook = write("import time", "time.sleep(60)")
    assert "not done after" in complaint(BadInput, notebook, tmp_path / "out.ipynb", timeout_s=seconds, show=False)
    assert not children() - before and not list((tmp_path / "sockets").iterdir())


def test_kernel_that_does_not_answer_is_named(write, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("papermill.execute_notebook", partial(papermill.execute_notebook, start_timeout=1))
    assert "its kernel has not answered for 1 s" in complaint(StockmlError, write("1"), tmp_path / "out.ipynb", show=False)
