"A project of a few files, and clones of it."

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

FILES = 40


def dvc(folder: Path, work: Callable[[Repo], object], init: bool = False) -> object:
    "Let DVC do something there, in this process: to start it takes seconds."
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        with Repo.init(no_scm=True) if init else Repo() as repo:
            return work(repo)


def fill(folder: Path, word: bytes) -> None:
    "Write the files."
    (folder / "data").mkdir(exist_ok=True)
    for n in range(FILES):
        (folder / f"data/{n}.txt").write_bytes(b"%s %d\n" % (word, n) * 200)
    (folder / "model.bin").write_bytes(word * 40_000)


def enter(folder: Path, monkeypatch) -> Path:
    "Work there, with nothing set up."
    for name in [n for n in os.environ if n.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STOCKML_ROOT", str(folder))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(folder.parent / f"{folder.name}.site"))
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder)
    return folder
