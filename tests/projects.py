"A whole small project in a folder of its own: what a user's clone looks like, with little to compute."

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from stockml.files import lock, read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
WHO = "Ada Lovelace <ada@example.com>"
SMALL = {
    "data": {"tickers": ["AAPL", "BAC", "GE", "KO", "PFE", "XOM"], "as_of": "2004-12-31"},
    "targets": {"horizons": [1, 5, 21]},
    "split": {"forecast_from": "2000-01-01", "test_from": "2001-01-01"},
    "search": {"trials": 2, "train_to": "1998-12-31", "valid_to": "2000-12-31"},
    "model": {"device": "cpu", "rows": 6000, "threads": 1},
    "drift": {"reference_sessions": 1260},
    "gate": {"level": 0.999, "coverage_95": [0.85, 0.99]},
}


def clone(folder: Path) -> Path:
    "The tracked files as they are now, with small parameters, committed in a repository of their own."
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    set_params(folder, SMALL)
    name, email = WHO.rstrip(">").split(" <")
    for command in (["init", "-q"], ["config", "user.name", name], ["config", "user.email", email],
                    ["add", "-A"], ["commit", "-q", "--no-verify", "-m", "small"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def set_params(folder: Path, changes: dict[str, dict]) -> None:
    "Change params.yaml of a project."
    values = yaml.safe_load((folder / "params.yaml").read_text())
    for section, fields in changes.items():
        values[section].update(fields)
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def environment(folder: Path) -> dict[str, str]:
    "The environment of someone who works in that folder and has set nothing up."
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("STOCKML_", "MLFLOW_", "DVC_", "GIT_"))}
    return mine | {"DVC_SITE_CACHE_DIR": str(folder.parent / f"{folder.name}.dvc")}


def stockml(folder: Path, *args: str, timeout_s: float = 600) -> subprocess.CompletedProcess:
    "Run the command there."
    return subprocess.run([BIN / "stockml", *args], cwd=folder, env=environment(folder), capture_output=True, text=True,
                          timeout=timeout_s, check=False)


class Run(NamedTuple):
    "A project, and what the command said there."
    folder: Path
    code: int
    out: str
    err: str


def run(folder: Path, *args: str) -> Run:
    done = stockml(folder, *args)
    return Run(folder, done.returncode, done.stdout, done.stderr)


def copy(of: Path, to: Path) -> Path:
    "A project elsewhere: MLflow knows its files by their whole paths."
    shutil.copytree(of, to, symlinks=True)
    if not (to / "mlflow.db").exists():
        return to
    with closing(sqlite3.connect(to / "mlflow.db")) as db:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("model_versions", "storage_location")):
            db.execute(f"update {table} set {column} = replace({column}, ?, ?)", (f"{of}/", f"{to}/"))  # noqa: S608
        db.commit()
    return to


@cache
def pair(base: Path) -> tuple[Run, Run]:
    "The main job in two fresh clones: one to look at, one to compare it with. Run once, side by side; each of pytest's workers has a copy."
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    origin = base.parents[1] / base.name if worker else base
    with lock(origin.with_suffix(".lock"), wait=True):
        if not (told := origin / "told.json").exists():
            shutil.rmtree(origin, ignore_errors=True)  # a worker that died may have left half of it
            folders = [clone(origin / "project"), clone(origin / "twin")]
            with ThreadPoolExecutor() as pool:
                write_json(told, [done[1:] for done in pool.map(lambda folder: run(folder, "run"), folders)])
    folders = [copy(origin / name, base / name) if worker else origin / name for name in ("project", "twin")]
    return tuple(Run(folder, code, out.replace(str(origin), str(base)), err) for folder, (code, out, err) in
                 zip(folders, read_json(told), strict=True))


def alive(pid: int) -> bool:
    "Is a process there, and not just waiting to be buried?"
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 15) -> bool:
    "Does a process end soon?"
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(.05)
    return not alive(pid)
