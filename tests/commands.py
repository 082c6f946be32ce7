"The `stockml` command, run in this process."

import json
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple

import pytest

from stockml import cli


class Answer(NamedTuple):
    "What it came to."
    code: int
    out: str
    err: str

    def json(self):
        assert self.code == 0, self.err
        return json.loads(self.out)


def call(*args) -> Answer:
    "Run it."
    argv, handler, finders, out, err = sys.argv, signal.getsignal(signal.SIGTERM), [*sys.meta_path], StringIO(), StringIO()
    sys.argv = ["stockml", *map(str, args)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as e:
            cli.main()
    finally:
        sys.argv, sys.meta_path[:] = argv, finders
        signal.signal(signal.SIGTERM, handler)
    return Answer(e.value.code or 0, out.getvalue(), err.getvalue())
