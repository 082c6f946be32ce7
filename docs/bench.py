"""Measure speed and size, and write docs/PERFORMANCE.md: `make bench`, or `make bench PARTS="sharing clone"`; see --help.

Machines differ and are noisy, so each figure stands beside a floor that ran in turns with it: the same work with the part that is ours
left out. The ratio is what to compare over time. Medians of three rounds, of a replay and a
clone of one. Each part says when it was measured.
"""

import argparse
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import latency
import numpy as np
import pandas as pd
import xgboost as xgb

from stockml.config import load_params
from stockml.evaluate import VIEWS, makers, walk_tables, walk_views, xgboost_maker
from stockml.features import feature_columns, make_features
from stockml.files import atomic
from stockml.forecaster import CLASSICAL, MODELS, pick_device
from stockml.ingest import ingest, price_site
from stockml.journal import ENCODE, Journal, event, files, new_id, pieces, read
from stockml.prices import read_bars
from stockml.split import folds
from stockml.targets import known, make_targets

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "scrapy_project/exchange/snapshot.parquet"
ROUNDS = 3
bars = read_bars(SNAPSHOT)
params = load_params(changes={"model.device": "cpu"})
features, targets = make_features(bars), make_targets(bars, params.targets.horizons)


def scrape() -> None:
    "All twenty histories, through the spider, into a new store."
    with tempfile.TemporaryDirectory() as folder:
        ingest(Path(folder) / "bars.parquet", say=lambda _: None)


def download() -> None:
    "The floor: the same pages, one after the other, thrown away."
    with price_site() as url:
        for ticker, count in bars.groupby("ticker").size().items():
            for page in range(1, -(-count // 1000) + 1):
                urlopen(f"{url}/history/{ticker}?page={page}").read()  # noqa: S310


def rolling() -> None:
    "The floor: as many rolling means of returns as there are features."
    for _, part in bars.groupby("ticker"):
        r = np.log(part["adj_close"]).diff()
        for _ in feature_columns(features):
            r.rolling(22).mean()


def many(rows: int) -> np.ndarray:
    "So many of the panel's rows, the first ones again where there are not enough."
    old = np.flatnonzero(features["v_sd132"].notna())
    return np.resize(old, rows)


PICK = many(200_000)
GOAL = known(targets, "2027-01-01")


def fit(device: str = "cpu") -> None:
    "One fit of the served model: 200,000 rows, all horizons."
    model = params.model.model_copy(update={"device": device})
    xgboost_maker(model)().fit(features.iloc[PICK], GOAL.iloc[PICK], params.targets.horizons)


def plain_fit() -> None:
    "The floor: XGBoost's own squared error on as many rows, rounds and outputs."
    x, y = features[feature_columns(features)].to_numpy()[PICK], np.nan_to_num(GOAL[["y_1", "y_5", "y_21"]].to_numpy()[PICK])
    xgb.train({"max_depth": 5, "nthread": 2, "max_bin": 64}, xgb.QuantileDMatrix(x, y, max_bin=64), 150)


def walking(*names: str, views: tuple[str, ...] = VIEWS) -> None:
    "The walk-forward of some models over the panel: all folds, horizons and views."
    s = params.split
    plan = folds(features["date"], s.forecast_from, s.refit_months, s.embargo)
    for name in names:
        walk_views(makers(params.model)[name], features, targets, params.targets.horizons, plan, views)


def calibrating() -> None:
    "From scales to quantiles, all models, views and horizons."
    scale = np.full((len(features), len(params.targets.horizons)), .02)
    ready = {name: {VIEWS[0]: scale, VIEWS[1]: scale.copy()} for name in MODELS}
    for _ in walk_tables(bars, params, ready=ready, features=features, views=VIEWS):
        pass


def sorting() -> None:
    "The floor: one sort of all standardized outcomes per model, view and horizon."
    for _ in MODELS:
        for _ in VIEWS:
            for h in params.targets.horizons:
                np.sort(targets[f"y_{h}"].to_numpy() / .02)


CASES: list[tuple[str, Callable, str, Callable, str]] = [
    ("scrape of all 20 histories", scrape, "the same pages by urllib", download, "60 s"),
    ("features of the panel (169,450 rows)", lambda: make_features(bars), "as many rolling means", rolling, "5 s"),
    ("one fit of the model on 200,000 rows", fit, "plain squared error", plain_fit, "8 s"),
    ("walk-forward of XGBoost", lambda: walking("xgboost"), "walk-forward of HAR", lambda: walking("har"), "180 s"),
    ("walk-forward of all classical models", lambda: walking(*CLASSICAL), "of those without arch's fits",
     lambda: walking(*(set(CLASSICAL) - {"garch", "gjr"})), "240 s"),
    ("calibration of all models", calibrating, "a sort of the outcomes each", sorting, ""),
]


def timed(work: Callable) -> float:
    "Seconds of wall time, or of what the work itself says was the part that counts."
    begun = time.perf_counter()
    counted = work()
    return counted if isinstance(counted, float) else time.perf_counter() - begun


def compare(work: Callable, floor: Callable) -> tuple[float, float, float]:
    "Median seconds of both, in turns, and the median ratio."
    pairs = [(timed(work), timed(floor)) for _ in range(ROUNDS)]
    return (statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs), statistics.median(a / b for a, b in pairs))


def served(soak_s: float = 600) -> list[str]:
    "The service under wrk beside a bare Flask endpoint, and beside MLflow's and BentoML's servers on ready features."
    model = ROOT / "models/champion"
    if not model.exists() or not shutil.which("wrk"):
        return ["| the service | needs `make run` first, and wrk | | | | |"]
    with tempfile.TemporaryDirectory() as folder:
        f = latency.measure(model, 4, ROUNDS, Path(folder)) | latency.peers(model, 4, Path(folder))
        s = latency.soak(model, soak_s, Path(folder))
    ours = f["ours_requests_s"]
    return [
        f"| one forecast, 300 bars, three horizons, 1 connection | {f['median_ms']:.2f} ms | bare endpoint, ready features | "
        f"{f['bare_median_ms']:.2f} ms | {f['median_over_bare']:.2f} | 2 |",
        f"| the same, 8 connections | {f['requests_s']:.0f}/s | bare endpoint | {f['bare_requests_s']:.0f}/s | "
        f"{f['throughput_bare_over_ours']:.2f} (theirs over ours) | 2 |",
        f"| its 99th percentile over the median | {f['p99_ms']:.1f} ms | | | {f['p99_over_median']:.2f} | 5 |",
        f"| 64 stocks in one request | {f['batch_ms']:.1f} ms | one stock | {f['median_ms']:.2f} ms | {f['batch_over_single']:.1f} | 8 |",
        f"| forecasts, 8 connections | {ours:.0f}/s | `mlflow models serve`, ready features | {f['mlflow_requests_s']:.0f}/s | "
        f"{ours / f['mlflow_requests_s']:.1f} (ours over theirs) | at least 10 |",
        f"| forecasts, 8 connections | {ours:.0f}/s | BentoML, ready features | {f['bentoml_requests_s']:.0f}/s | "
        f"{ours / f['bentoml_requests_s']:.1f} (ours over theirs) | at least 1 |",
        f"| start to ready | {f['ready_s']:.1f} s | | | | 3 s |", f"| largest worker | {f['worker_mib']:.0f} MiB | | | | 250 MiB |",
        f"| {soak_s:.0f} s at full load: errors; memory of the workers | {s.errors} | at the start {s.before:.0f} MiB | "
        f"{s.after:.0f} MiB | {s.after / s.before:.3f} | 0; 1.05 |",
    ]


def forecast_line() -> dict:
    "A line as the service writes it: the newest features of AAPL, three horizons, nine quantiles."
    names, one = feature_columns(features), features[features["ticker"] == "AAPL"].iloc[-1]
    quantiles = {str(q): .01 * q for q in params.targets.quantiles}
    forecasts = [{"horizon": h, "target_date": "2017-12-29", "model": "xgboost", "skill": True, "quantiles": quantiles} for h in (1, 5, 21)]
    return event("stockml.forecast", "forecast of AAPL", forecast_id=new_id(), ticker="AAPL", origin="2017-12-28", close=42.1, bars=520,
                 model={"name": "xgboost", "version": "0" * 12}, bundle_sha256="0" * 64, input_sha256="0" * 64, forecasts=forecasts,
                 features={n: float(one[n]) for n in names}, ms=1.)


def appending(folder: Path, lines: int = 20_000) -> tuple[float, float]:
    "Lines a second, one at a time, into a journal; and into a plain file that is forced to the disk as often."
    line, journal = forecast_line(), Journal(folder / "journal")
    begun = time.perf_counter()
    for _ in range(lines):
        journal.append([line])
    journal.sync()
    ours, begun = lines / (time.perf_counter() - begun), time.perf_counter()
    with (folder / "plain").open("ab", buffering=0) as f:
        for n in range(lines):
            f.write(ENCODE(line) + b"\n")
            if n % 1000 == 999:
                os.fsync(f.fileno())
    return ours, lines / (time.perf_counter() - begun)


MILLION = """
import sys, time, resource
from pathlib import Path
from stockml.bundle import load_bundle
from stockml.config import load_params
from stockml.monitor import Case, all_checks
from stockml.prices import read_bars
root, journal, snapshot = map(Path, sys.argv[1:])
begun, bars = time.perf_counter(), read_bars(snapshot)
bundle = load_bundle(root / "models/champion")
all_checks(Case(bars["date"].max().date(), bars, bundle, root / "models/champion", journal, load_params()))
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def a_million(folder: Path) -> tuple[float, float, float]:
    "Seconds and GiB of all monitors over a million journaled forecasts, twenty stocks a day; seconds to read those bytes."
    line, journal = forecast_line(), Journal(folder / "journal")
    days = [str(d)[:10] for d in np.sort(bars["date"].unique())[:-1][::-1]]
    tickers = list(bars["ticker"].unique())
    for n in range(1_000_000 // len(tickers)):
        journal.append([line | {"stockml": line["stockml"] | {"forecast_id": new_id(), "ticker": t, "origin": days[n % len(days)]}}
                        for t in tickers])
    journal.sync()
    begun = time.perf_counter()
    for path in files(folder / "journal"):
        for piece in pieces(path):
            piece.count(b"\n")
    floor = time.perf_counter() - begun
    out = subprocess.run([sys.executable, "-c", MILLION, ROOT, folder / "journal", SNAPSHOT], capture_output=True, text=True, check=True)
    return *map(float, out.stdout.split()), floor


def asked_why(folder: Path) -> tuple[float, float]:
    "Seconds that `stockml why` takes; and those that Python takes to load pandas and XGBoost."
    journal = Journal(folder / "asked")
    journal.append([line := forecast_line()])
    journal.sync()
    ask, floor = [["stockml", "why", line["stockml"]["forecast_id"]], [sys.executable, "-c", "import pandas, xgboost"]]
    env = {**os.environ, "STOCKML_JOURNAL": str(folder / "asked"), "STOCKML_ROOT": str(ROOT)}
    run = lambda argv: subprocess.run(argv, cwd=ROOT, env=env, check=True, capture_output=True)  # noqa: E731
    return compare(lambda: run(ask), lambda: run(floor))[:2]


def production() -> list[str]:
    "The journal, the monitors, why."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, plain = appending(folder)
        why, load = asked_why(folder)
        lines = [f"| journal, one line at a time | {ours:,.0f}/s | a plain file, forced to the disk as often | {plain:,.0f}/s | "
                 f"{plain / ours:.2f} (theirs over ours) | 5,000/s |",
                 f"| `stockml why` | {why:.2f} s | Python loads pandas and XGBoost | {load:.2f} s | {why / load:.2f} | 2 s |"]
        shutil.rmtree(folder / "journal")
        seconds, memory, floor = a_million(folder)
        lines.append(f"| all monitors over a million journaled forecasts | {seconds:.1f} s, {memory:.2f} GiB | reading those bytes | "
                     f"{floor:.1f} s | {seconds / floor:.1f} | 60 s, 2 GiB |")
    return lines


def lived(days: tuple[str, str] = ("2000-06-01", "2001-05-31")) -> list[str]:
    "A year of production, looked at weekly, retrained monthly; and the training of its first model."
    with tempfile.TemporaryDirectory() as name:
        ask = ["stockml", "replay", "--from", days[0], "--to", days[1], "--folder", f"{name}/replay", "--set", "retrain.every=21"]
        year = timed(lambda: subprocess.run(ask, cwd=ROOT, check=True, capture_output=True))
        first, *later = [line["stockml"]["seconds"] for line in read(Path(name) / "replay/journal", "stockml.retrain")]
    return [f"| replay of a year, its first model and {len(later)} retrainings of {sum(later) / len(later):.0f} s | {year:.0f} s | "
            f"training the first model | {first:.0f} s | {year / first:.1f} | 600 s |"]


def on_gpu() -> list[str]:
    "The same fit on a GPU, if there is one."
    if pick_device("auto") != "cuda":
        return ["| the same fit on a GPU | no GPU here | | | | |"]
    a, b, ratio = compare(lambda: fit("cuda"), fit)
    return [f"| the same fit on a GPU | {a:.2f} s | on the CPU | {b:.2f} s | {ratio:.2f} | |"]


def again() -> list[str]:
    "A second `make run`, with nothing changed."
    if not (ROOT / "models/champion").exists():
        return []
    subprocess.run(["stockml", "run"], cwd=ROOT, check=True, capture_output=True)
    status = [sys.executable, "-m", "dvc", "status", "-q"]
    a, b, ratio = compare(lambda: subprocess.run(["stockml", "run"], cwd=ROOT, check=True, capture_output=True),
                          lambda: subprocess.run(status, cwd=ROOT, check=True, capture_output=True))
    return [f"| `stockml run`, nothing changed | {a:.1f} s | `dvc status` | {b:.1f} s | {ratio:.2f} | 15 s |"]


class Shared:
    "Two clones and a kind of remote: one clone has everything in its cache, the other nothing. Each push goes to a place of its own."

    def __init__(self, folder: Path, url: str, settings: list[str]):
        self.folder, self.url, self.settings, self.turn = folder, url, settings, 0
        for name in ("full", "empty"):
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / name)], check=True)
            shutil.copy(ROOT / "dvc.lock", folder / name)

    def call(self, clone: str, *argv: str) -> None:
        "Run something there."
        env = {**os.environ, "STOCKML_ROOT": str(self.folder / clone), "DVC_SITE_CACHE_DIR": str(self.folder / f"{clone}.site")}
        subprocess.run(argv, cwd=self.folder / clone, env=env, check=True, capture_output=True)

    def times(self, command: str, checked: bool = False) -> tuple[float, float, float]:
        "Median seconds of `stockml push` (or pull), of DVC's own, that checks what comes or does not, and of the ratios."
        return compare(lambda: self.once(command, True, "stockml"), lambda: self.once(command, checked, sys.executable, "-m", "dvc"))

    def once(self, command: str, checked: bool, *program: str) -> float:
        "One of them; a pull is one from where the last push went to."
        self.turn += command == "push"
        lines = [f"url = {self.url}/{self.turn}", f"verify = {str(checked).lower()}", *self.settings]
        cache = f"[cache]\ndir = {ROOT / '.dvc/cache'}\n"
        for clone in ("full", "empty"):
            (self.folder / clone / ".dvc/config.local").write_text("\n".join(
                ["[core]\nremote = x", cache if clone == "full" else "", "['remote \"x\"']", *lines]))
        if command == "pull":
            self.forget()
        begun = time.perf_counter()
        self.call("full" if command == "push" else "empty", *program, command)
        return time.perf_counter() - begun

    def forget(self) -> None:
        "The second clone is as new."
        for left in (".dvc/cache", "data", "models", "reports", "metrics"):
            shutil.rmtree(self.folder / "empty" / left, ignore_errors=True)


def shared() -> list[str]:
    "What a team shares: status, push and pull beside plain DVC, and a clone that becomes ready to serve."
    if not (ROOT / "models/champion").exists():
        return []
    sys.path.append(str(ROOT / "tests"))
    sys.path.append(str(ROOT / "tests/remotes"))
    from stores import seaweed

    a, b, ratio = compare(lambda: subprocess.run([sys.executable, "-m", "dvc", "status"], cwd=ROOT, check=True, capture_output=True),
                          lambda: subprocess.run([sys.executable, "-c", "import dvc.repo"], check=True))
    lines = [f"| `dvc status` | {a:.1f} s | Python loads DVC | {b:.1f} s | {ratio:.2f} | 3 s |"]
    with tempfile.TemporaryDirectory() as name, seaweed(Path(name) / "s3") as store:
        keys = [f"endpointurl = {store.endpoint}", "region = us-east-1", *(s.replace("=", " = ", 1) for s in store.secrets)]
        for kind, url, settings in (("a folder", f"{name}/store", []), ("S3", "s3://team", keys)):
            (place := Path(name) / kind.split()[-1]).mkdir()
            both = Shared(place, url, settings)
            for command, way, checked in (("push", "to", False), ("pull", "from", True), ("pull", "from", False)):
                a, b, ratio = both.times(command, checked)
                what = "`dvc pull`, every object hashed too" if checked else f"`dvc {command}`, unchecked"
                lines.append(f"| `stockml {command}` {way} {kind} | {a:.1f} s | {what} | {b:.1f} s | {ratio:.2f} | 1.25 |")
        both.forget()
        seconds = timed(lambda: both.call("empty", "stockml", "run"))
    return [*lines, f"| a clone with a filled remote, from `stockml run` to its forecast | {seconds:.0f} s | | | | 120 s |"]


def whole() -> list[str]:
    "`make run` in a clean clone with an empty HOME: wall time, and the largest process."
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "stockml"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        env = {k: v for k, v in os.environ.items() if k not in ("STOCKML_ROOT", "VIRTUAL_ENV", "MAKEFLAGS")}
        env |= {"HOME": folder, "PATH": os.pathsep.join(p for p in env["PATH"].split(os.pathsep) if ".venv" not in p)}
        begun = time.perf_counter()
        subprocess.run(["make", "run"], cwd=clone, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall = time.perf_counter() - begun
        shutil.rmtree(clone)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return [f"| `make run` from a clean clone, set-up included | {wall:.0f} s | | | | 600 s |",
            f"| its largest process | {peak:.2f} GiB | | | | 2 GiB |"]


def computing() -> list[str]:
    "The arithmetic, without DVC, MLflow or notebooks."
    rows = []
    for name, work, floor_name, floor, limit in CASES:
        a, b, ratio = compare(work, floor)
        rows.append(f"| {name} | {a:.2f} s | {floor_name} | {b:.2f} s | {ratio:.2f} | {limit} |")
    return rows + on_gpu()


PARTS = {"computing": computing, "production": production, "service": served, "sharing": shared, "rerun": again, "clone": whole,
         "replay": lived}
LONG = ("clone", "replay")  # ten minutes each: only when asked for
PAGE = ROOT / "docs/PERFORMANCE.md"


def measured(part: str) -> str:
    "A part's section of the page."
    rows = PARTS[part]()
    print("\n".join(rows), flush=True)
    when = (f"Measured on {time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
            f"XGBoost {xgb.__version__}, pandas {pd.__version__}.")
    return "\n".join([when, "", "| what | median | floor or peer | median | ratio | limit |", "|---|---|---|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART",
                        help=f"of {', '.join(PARTS)}; default: all but {' and '.join(LONG)}. The others' figures stay as they are.")
    parts = parser.parse_args().parts or [p for p in PARTS if p not in LONG]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    known = dict(re.findall(r"(?ms)^## (\w+)\n\n(.*?)\n*(?=^## |\Z)", PAGE.read_text())) if PAGE.exists() else {}
    for part in parts:
        known[part.capitalize()] = measured(part)
        told = [f"## {name.capitalize()}\n\n{known[name.capitalize()]}" for name in PARTS if name.capitalize() in known]
        with atomic(PAGE) as tmp:
            tmp.write_text("\n\n".join(["# Performance", __doc__.split("\n\n")[1].strip(), *told]) + "\n")


if __name__ == "__main__":
    main()
