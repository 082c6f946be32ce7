import json
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from datetime import date, timedelta
from io import StringIO
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import Answer, call
from projects import BIN, ROOT, environment, set_params
from pyarrow.parquet import ParquetFile

from stockml import cli
from stockml.bundle import forecast, load_bundle
from stockml.config import BadInput
from stockml.explain import bars_text, contributions, in_words
from stockml.features import make_features
from stockml.files import sha256, write_json
from stockml.forecaster import MODELS
from stockml.prices import read_bars, write_bars
from stockml.schema import FORECASTS, QUANTILE_COLUMNS, QUANTILES


@pytest.fixture(scope="module")
def shop(tmp_path_factory, _panel, bundle_folder) -> Path:
    "A project with prices, a champion, a challenger and scores. Its clock stands on the panel's last day."
    folder = tmp_path_factory.mktemp("shop")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in ("pipelines", "serve"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    set_params(folder, {"data": {"as_of": "2003-12-31"}, "targets": {"horizons": [1, 21]},
                        "gate": {"horizons": [1, 21]},
                        "split": {"forecast_from": "2000-01-01", "test_from": "2001-01-01"},
                        "search": {"train_to": "1998-12-31", "valid_to": "1999-12-31"},
                        "model": {"threads": 1, "rows": 6000}})
    write_bars(folder / "data/bars.parquet", _panel)
    for name in ("champion", "challenger"):
        shutil.copytree(bundle_folder, folder / "models" / name)
    good, bad = {"pinball": .01}, {"pinball": .02}
    models = {"xgboost": {"1": good, "21": bad}, "har": {"1": bad, "21": bad}, "gjr": {"1": bad, "21": good}}
    panel, alone = ({"models": models, "skill": {"1": first, "21": False}} for first in (True, False))
    write_json(folder / "metrics/evaluate.json", {**panel, "alone": alone, "challenger": load_bundle(folder / "models/challenger").version})
    return folder


@pytest.fixture(autouse=True)
def here(shop, monkeypatch):
    "The project at hand, with a tracking store of its own."
    monkeypatch.setenv("STOCKML_ROOT", str(shop))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shop}/mlflow.db")


def state(folder: Path) -> dict[str, str]:
    "Every file and its hash; the lock files do not count."
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()
            and p.suffix != ".lock"}


# What a user may get wrong: the command, what it says, and what is wrong with the project or the file `bad.csv`.

def params(old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = yaml.safe_dump(yaml.safe_load((folder / "params.yaml").read_text()))
        assert old in text
        (folder / "params.yaml").write_text(text.replace(old, new))

    return spoil


def without(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def damaged(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"damaged")

    return spoil


def csv(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        bars = pd.read_parquet(folder / "data/bars.parquet",
                               filters=[("ticker", "==", "KO")])[["date", "close"]].tail(200)
        change(bars.astype({"close": object}).reset_index(drop=True)).to_csv(folder / "bad.csv", index=False)

    return spoil


def made_up(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda f: f) -> Path:
    "A file of forecasts in which xgboost knows the truth, at two horizons; the month lacks garch."
    rng, days = np.random.default_rng(3), pd.bdate_range("2001-01-02", periods=700).as_unit("ms")
    y, shape, rows = rng.uniform(-1, 1, size=1400), 2 * np.array(QUANTILES) - 1, []
    for horizon in (1, 21):
        for model, width in {"xgboost": 1., "har": 1.3, "ewma97": 1.5, "garch": .6, "random_walk": 2.}.items():
            frame = pd.DataFrame(np.tile(width * shape, (1400, 1)), columns=QUANTILE_COLUMNS)
            rows.append(frame.assign(model=model, ticker=np.repeat(["A", "B"], 700), origin=np.tile(days, 2), horizon=horizon, realized=y))
    made = pd.concat(rows[:-2] + rows[-1:], ignore_index=True)
    change(made).to_parquet(folder / "f.parquet")
    return folder / "f.parquet"


def forecasts_file(change: Callable[[pd.DataFrame], pd.DataFrame] = lambda f: f) -> Callable[[Path], None]:
    return lambda folder: made_up(folder, change) and None


def ran(folder: Path) -> None:
    "What the stages leave for the gate: forecasts of made-up stocks, features of a real one."
    (folder / "reports").mkdir()
    made = pd.read_parquet(made_up(folder / "reports")).assign(fold=0)
    made.to_parquet(folder / "reports/forecasts.parquet", index=False)
    bars = pd.read_parquet(folder / "data/bars.parquet", filters=[("ticker", "==", "KO")]).tail(300)
    make_features(bars.reset_index(drop=True)).to_parquet(folder / "data/features.parquet", index=False)


def cell(line: int, column: str, value: object) -> Callable[[Path], None]:
    "A CSV with one wrong value; the header is line 1."
    def change(bars: pd.DataFrame) -> pd.DataFrame:
        bars[column] = bars[column].astype(object)
        bars.loc[line - 2, column] = value
        return bars

    return csv(change)


FORECAST = ["forecast", "KO", "--csv", "bad.csv"]
EVALUATE = ["evaluate", "data/bars.parquet", "--out", "out.parquet", "--test-from"]
MISTAKES = {
    "unknown ticker": (["forecast", "ZZZ"], r"unknown ticker ZZZ: .*/bars\.parquet has AAPL, BAC, GE, KO, PFE, XOM"),
    "unknown horizon": (["forecast", "KO", "--horizons", "1,2"],
                        r"horizons: \[2\] not known to this model; it forecasts \[1, 21\]"),
    "horizons in words": (["forecast", "KO", "--horizons", "1,week"], r"--horizons: not whole numbers .*: '1,week'"),
    "bad date": (["forecast", "KO", "--as-of", "29.9.2000"], r"--as-of: not a date \(YYYY-MM-DD\): '29\.9\.2000'"),
    "long after its end": (["forecast", "KO", "--as-of", "2010-01-04"],
                           r"KO: its history ended on 2003-12-31, .* --as-of 2003-12-31"),
    "before its begin": (["forecast", "KO", "--as-of", "1990-01-02"], r"bars: none; at least \d+ sessions"),
    "unknown key": (["forecast", "KO"], r"params\.yaml: model\.speed: Extra inputs",
                    params("seed: 17", "seed: 17\n  speed: 3")),
    "wrong type": (["forecast", "KO"], r"params\.yaml: model\.seed: .* got 'x'", params("seed: 17", "seed: x")),
    "wrong type, main job": (["run"], r"params\.yaml: model\.seed: .* got 'x'", params("seed: 17", "seed: x")),
    "no params": (["run"], r"/params\.yaml: not found", without("params.yaml")),
    "no pipeline": (["run"], r"/dvc\.yaml: not found", without("dvc.yaml")),
    "damaged bundle": (["forecast", "KO"], r"/champion/model\.ubj is damaged", damaged("models/champion/model.ubj")),
    "damaged manifest": (["forecast", "KO"], r"/champion/manifest\.json: not readable",
                         damaged("models/champion/manifest.json")),
    "no champion": (["forecast", "KO"], r"/models/champion: no model there; stockml run makes one",
                    without("models/champion")),
    "no prices": (["forecast", "KO"], r"/bars\.parquet: no price store there; `stockml ingest` makes one",
                  without("data")),
    "damaged prices": (["forecast", "KO"], r"/bars\.parquet: not a readable price store", damaged("data/bars.parquet")),
    "no csv": (FORECAST, r"bad\.csv: not found"),
    "csv of another": ([*FORECAST[:1], "GE", *FORECAST[2:]], r"bad\.csv: no rows of GE",
                       csv(lambda b: b.assign(ticker="KO"))),
    "csv without closes": (FORECAST, r"bad\.csv: no column close", csv(lambda b: b[["date"]])),
    "csv of one row": (FORECAST, r"bad\.csv: 1 rows of prices", csv(lambda b: b.head(1))),
    "csv of few rows": (FORECAST, r"bad\.csv: KO: 50 bars, and a forecast takes \d+: bring a longer history", csv(lambda b: b.head(50))),
    "text in a price": (FORECAST, r"bad\.csv, line 7: close: not a finite number: 'n/a!'", cell(7, "close", "n/a!")),
    "negative price": (FORECAST, r"bad\.csv, line 7: close: -1\.0 must be above zero", cell(7, "close", -1)),
    "price of zero": (FORECAST, r"bad\.csv, line 7: close: 0\.0 must be above zero", cell(7, "close", 0)),
    "date twice": (FORECAST, r"bad\.csv, line \d+: .*twice", csv(lambda b: pd.concat([b.head(100), b.tail(101)]))),
    "dates in disorder": (FORECAST, r"bad\.csv, line \d+: dates of KO are not in order",
                          csv(lambda b: pd.concat([b[50:], b[:50]]))),
    "date to come": (FORECAST, r"bad\.csv, line 201: date: \d{4}-\d\d-\d\d is after \d{4}-\d\d-\d\d",
                     cell(201, "date", str(date.today() + timedelta(9)))),
    "panel to come": (["evaluate", "bad.csv", *EVALUATE[2:], "2003-06-01"],
                      r"bad\.csv: no ticker can be used: KO: line 201: date: \d{4}.* is after .*: remove what has not happened yet",
                      lambda f: cell(201, "date", str(date.today() + timedelta(9)))(f) or with_ticker(f / "bad.csv")),
    "no panel": (["evaluate", "none.csv", *EVALUATE[2:], "2003-01-01"], r"none\.csv: not found"),
    "damaged panel": ([*EVALUATE, "2003-01-01"], r"bars\.parquet: not a readable Parquet file",
                      damaged("data/bars.parquet")),
    "test too early": ([*EVALUATE, "1997-01-01"], r"--test-from: 1997-01-01 leaves less than two years"),
    "test too late": ([*EVALUATE, "2004-01-01"], r"--test-from: 2004-01-01 is after 2003-12-31"),
    "test that ends first": ([*EVALUATE, "2003-01-01", "--test-to", "2002-01-01"],
                             r"--test-from: 2003-01-01 is after 2002-01-01"),
    "test on no date": ([*EVALUATE, "soon"], r"--test-from: not a date"),
    "no forecasts": (["score", "none.parquet"], r"none\.parquet: not found"),
    "bars are no forecasts": (["score", "data/bars.parquet"],
                              r"data/bars\.parquet: no column model, origin, horizon, realized"),
    "damaged forecasts": (["score", "bad.parquet"], r"bad\.parquet: not a readable Parquet file",
                          damaged("bad.parquet")),
    "forecasts without a quantile": (["score", "f.parquet"], r"f\.parquet: without the quantiles q25",
                                    forecasts_file(lambda f: f.drop(columns="q25"))),
    "forecasts without a number": (["score", "f.parquet"], r"f\.parquet: 2 forecasts at horizon 1 with .*first xgboost, A, 2001",
                                  forecasts_file(lambda f: f.assign(q50=f["q50"].where(f.index > 1)))),
    "forecast twice": (["score", "f.parquet"], r"xgboost has A from 2001-01-02 twice",
                       forecasts_file(lambda f: pd.concat([f, f[:1]]))),
    "nothing to score": (["score", "f.parquet", "--test-from", "2004-01-01"], r"nothing to score from 2004-01-01 on",
                         forecasts_file()),
    "no outcome to score by": (["score", "f.parquet", "--by", "pit"], r"nothing of xgboost to score",
                               forecasts_file(lambda f: f.assign(realized=np.nan))),
    "unknown breakdown": (["score", "f.parquet", "--by", "month"], r"--by: 'month' is none; choose from year, ticker, models, pit"),
    "unknown model": (["score", "f.parquet", "--model", "lstm"],
                      r"--model: f\.parquet has no forecast of lstm: there are ewma97, garch, har, random_walk, xgboost", forecasts_file()),
    "breakdown of nobody": (["score", "f.parquet", "--by", "year"], r"has no forecast of xgboost: there are ewma97, ",
                            forecasts_file(lambda f: f[f["model"] != "xgboost"])),
    "nothing to trade on": (["backtest"], r"/reports/forecasts\.parquet: not found"),
    "damaged to trade on": (["backtest"], r"/forecasts\.parquet: not a readable", damaged("reports/forecasts.parquet")),
    "unknown stock to trade": (["backtest", "--ticker", "ZZZ"], r"unknown ticker ZZZ"),
    "change of no key": (["backtest", "--set", "bot.risk=1"],
                         r"params: no key 'bot\.risk'; did you mean bot\.risk_budget\?"),
    "change without a value": (["backtest", "--set", "bot.risk_budget"], r"--set: not KEY=VALUE: 'bot\.risk_budget'"),
    "change of type": (["backtest", "--set", "bot.risk_budget=much"], r"params: bot\.risk_budget: .*got 'much'"),
    "unknown stage": (["stage", "trian"], r"no stage 'trian': dvc\.yaml has ingest, .*"),
    "unknown parameter": (["stage", "drift", "-p", "window=3"],
                          r"drift\.ipynb: no parameter window; it takes changes, "),
    "parameter of another type": (["stage", "drift", "-p", "changes=3"], r"drift\.ipynb: changes: not a dict: 3"),
    "parameter without a value": (["stage", "drift", "-p", "changes"], r"-p: not KEY=VALUE: 'changes'"),
    "unknown source": (["ingest", "--source", "bloomberg"],
                       r"source: 'bloomberg' is none; choose from exchange, yahoo, stooq, csv"),
    "source without a file": (["ingest", "--source", "csv"], r"source csv: name the file"),
    "source that is missing": (["ingest", "--csv", "none.csv"], r"none\.csv: not found"),
    "no scores to judge by": (["promote"], r"/metrics/evaluate\.json: not found", ran, without("metrics")),
    "no forecasts to judge by": (["promote"], r"/reports/forecasts\.parquet: not readable .*; stockml run makes it"),
    "no features to judge by": (["promote"], r"/data/features\.parquet: not readable .*; stockml run makes it",
                                ran, without("data/features.parquet")),
    "bars to judge by": (["promote"], r"/reports/forecasts\.parquet: not readable .*; stockml run makes it",
                         ran, lambda f: shutil.copy(f / "data/bars.parquet", f / "reports/forecasts.parquet") and None),
    "no such scores": (["promote"], r"metrics/evaluate\.json: models: Field required .*; run the evaluate stage again",
                       ran, lambda f: write_json(f / "metrics/evaluate.json", {"ratio": 1})),
    "another horizon to judge": (["promote"], r"gate\.horizons: 5 was not forecast, or has no outcomes; run the evaluate stage again",
                                 ran, lambda f: set_params(f, {"targets": {"horizons": [1, 5]}, "gate": {"horizons": [5]}})),
    "damaged challenger": (["promote"], r"/challenger/residuals\.npz is damaged", ran,
                           damaged("models/challenger/residuals.npz")),
    "damaged champion": (["promote"], r"/champion/model\.ubj is damaged .*; or remove \S+/champion: ", ran,
                         damaged("models/champion/model.ubj")),
    "damaged log of decisions": (["promote"], r"/promotions\.jsonl: line 1 is no decision", ran, damaged("models/promotions.jsonl")),
    "no model to serve": (["promote"], r"params\.yaml: model\.serve: Input should be 'auto', .*got 'arima'",
                          params("serve: auto", "serve: arima")),
    "unknown ticker to explain": (["explain", "ZZZ"], r"unknown ticker ZZZ"),
    "unknown horizon to explain": (["explain", "KO", "--horizon", "5"],
                                   r"horizons: \[5\] not known to this model; it forecasts \[1, 21\]"),
    "horizon of none": (["explain", "KO", "--horizon", "0"], r"Invalid value for '--horizon'"),
    "bad date to explain": (["explain", "KO", "--as-of", "soon"], r"--as-of: not a date"),
    "no picture": (["explain", "KO", "--plot", "why.pdf"], r"--plot: why\.pdf is no name of a PNG file"),
    "folder for a picture": (["explain", "KO", "--plot", "models"], r"--plot: models is no name of a PNG file"),
    "nobody to explain": (["explain", "KO"], r"/models/champion: no model there", without("models/champion")),
    "no such command": (["forcast"], r"No such command 'forcast'"),
    "no such option": (["forecast", "KO", "--horizon", "1"], r"No such option: --horizon"),
    "no ticker": (["forecast"], r"Missing argument 'ticker'"),
    "too much": (["promote", "now"], r"Got unexpected extra argument"),
    "no number": (["history", "--limit", "all"], r"Invalid value for '--limit'"),
    "no runs": (["history", "--limit", "0"], r"Invalid value for '--limit'"),
    "no port": (["serve", "--port", "70000"], r"Invalid value for '--port'"),
    "nothing to serve": (["serve"], r"/models/champion: no model there", without("models/champion")),
    "damaged to serve": (["serve"], r"/champion/reference\.parquet is damaged",
                         damaged("models/champion/reference.parquet")),
}


def with_ticker(path: Path) -> None:
    pd.read_csv(path).assign(ticker="KO").to_csv(path, index=False)


WARM = """import json, os, sys, traceback
from stockml import bundle, cli, evaluate, features, ingest, pipeline, prices, promote, report, schema, score
def child(job):
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{job['cwd']}.{name}", os.O_WRONLY | os.O_CREAT), number)
    sys.argv, code = ["stockml", *job["args"]], 1
    try:
        cli.main()
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)  # to take all modules apart would take a second
for line in sys.stdin:
    pid = os.fork() or child(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def told(shop, tmp_path_factory) -> dict[str, tuple[Answer, bool]]:
    "Every mistake, made in a process of its own, forked once all is imported: the answer; is the project as it was?"
    places, answers = tmp_path_factory.mktemp("mistakes"), {}
    with subprocess.Popen([sys.executable, "-c", WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as warm:
        for number, (name, (args, _, *spoil)) in enumerate(MISTAKES.items()):
            folder = Path(shutil.copytree(shop, places / str(number)))
            for change in spoil:
                change(folder)
            before, env = state(folder), environment(folder) | {"STOCKML_ROOT": str(folder)}
            warm.stdin.write(json.dumps({"args": args, "cwd": str(folder), "env": env}) + "\n")
            warm.stdin.flush()
            code = warm.stdout.readline()
            assert code, "the command cannot even be imported"
            said = (Path(f"{folder}.{stream}").read_text() for stream in ("out", "err"))
            answers[name] = Answer(int(code), *said), state(folder) == before
    return answers


@pytest.mark.parametrize("name", ["unknown ticker", "no such option"])
def test_program_says_the_same(told, shop, name):
    done = subprocess.run([BIN / "stockml", *MISTAKES[name][0]], cwd=shop, env=environment(shop), capture_output=True,
                          text=True, check=False)
    answer = told[name][0]
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (answer.code, answer.out, 1)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_told_in_one_line_and_leaves_all_as_it_was(told, name):
    (code, out, err), untouched = told[name]
    assert (code, out) == (2, ""), err
    assert re.fullmatch(r"stockml: [^\n]+\n", err)
    assert re.search(MISTAKES[name][1], err)
    assert untouched


def test_port_in_use_is_told(shop):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = call("serve", "--port", port)
    assert answer == (2, "", f"stockml: 127.0.0.1:{port} cannot be listened on (Address already in use): "
                             "choose another --port or --host\n")


def test_help_is_what_a_bare_command_gives():
    assert call() == call("--help")
    assert call().code == 0
    assert "Commands:" in call().out


@pytest.mark.parametrize("command", [c.name or c.callback.__name__ for c in cli.app.registered_commands])
def test_every_command_helps_with_an_example(command):
    answer = call(command, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert f"Example: stockml {command}" in " ".join(answer.out.split()) or command == "version"


def test_commands_that_others_rely_on():
    names = {c.name or c.callback.__name__ for c in cli.app.registered_commands}
    assert {"run", "ingest", "forecast", "explain", "evaluate", "score", "backtest", "promote", "history", "serve",
            "stage"} <= names


def test_forecast(shop, panel):
    bundle = load_bundle(shop / "models/champion")
    [own] = forecast(bundle, panel[panel["ticker"] == "KO"])
    answer = call("forecast", "ko", "--json")
    assert answer.json() == {**own, "model": {"name": "xgboost", "version": bundle.version}}
    assert answer.err == ""
    text = call("forecast", "KO")
    assert text.out.startswith(f"KO from 2003-12-31, close {own['close']:.2f}\n")
    assert [f["model"] for f in own["forecasts"]] == ["xgboost", "xgboost"]
    assert re.search(r"^ +month .* xgboost +no$", text.out, re.MULTILINE)
    assert [f["horizon"] for f in call("forecast", "KO", "--horizons", "21", "--json").json()["forecasts"]] == [21]


def test_forecast_as_of_sees_nothing_later(panel, shop):
    answer = call("forecast", "KO", "--as-of", "2002-07-06", "--json")
    past = panel[(panel["ticker"] == "KO") & (panel["date"] <= "2002-07-06")]
    [own] = forecast(load_bundle(shop / "models/champion"), past)
    assert (answer.json()["origin"], answer.json()["forecasts"]) == ("2002-07-05", own["forecasts"])
    assert answer.err.startswith("note: the model was trained on prices up to 2003-12-31")


def test_forecast_of_ones_own_file(panel, tmp_path, shop):
    bars = panel[panel["ticker"] == "KO"].tail(300)
    bars[["date", "close"]].rename(columns=str.title).to_csv(tmp_path / "mine.csv", index=False)
    made = call("forecast", "MINE", "--csv", tmp_path / "mine.csv", "--json").json()
    assert (made["ticker"], made["origin"], made["close"]) == ("MINE", "2003-12-31", bars["close"].iloc[-1])
    early = call("forecast", "MINE", "--csv", tmp_path / "mine.csv", "--as-of", "2003-11-28", "--json").json()
    assert early["origin"] == "2003-11-28"


def test_explain(shop, panel):
    own = panel[panel["ticker"] == "KO"].reset_index(drop=True)
    rows = contributions(load_bundle(shop / "models/champion"), own, (1,))
    answer = call("explain", "ko", "--json")
    made = answer.json()
    assert (made["ticker"], made["origin"], made["horizon"], answer.err) == ("KO", "2003-12-31", 1, "")
    assert made["model"] == {"name": "xgboost", "version": load_bundle(shop / "models/champion").version}
    assert math.prod(c["factor"] for c in made["contributions"]) == pytest.approx(made["scale"])
    assert [c["feature"] for c in made["contributions"]] == rows["feature"].tolist()
    assert made["words"] == in_words(rows)
    text = call("explain", "KO").out
    paragraph, table = text.split("\n\n")
    assert " ".join(paragraph.split()) == made["words"] and table.rstrip("\n") == bars_text(rows)
    assert max(map(len, text.splitlines())) <= 110


def test_explain_another_day_as_a_picture(shop, panel, tmp_path):
    answer = call("explain", "KO", "--as-of", "2002-07-06", "--horizon", "21", "--plot", tmp_path / "why.png", "--json")
    assert (answer.json()["origin"], answer.json()["horizon"]) == ("2002-07-05", 21)
    assert (tmp_path / "why.png").read_bytes()[:4] == b"\x89PNG"
    assert "note: the model was trained on prices up to 2003-12-31" in answer.err
    panel[panel["ticker"] == "KO"].tail(300)[["date", "close"]].to_csv(tmp_path / "mine.csv", index=False)
    assert call("explain", "MINE", "--csv", tmp_path / "mine.csv").out.startswith("MINE from 2003-12-31, 1 session: ")


@pytest.fixture(scope="module")
def evaluated(shop) -> tuple[Path, Answer]:
    "Six stocks, walked forward from 2001 on."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOCKML_ROOT", str(shop))
        path = shop / "walked/forecasts.parquet"
        return path, call("evaluate", shop / "data/bars.parquet", "--out", path, "--test-from", "2001-01-01", "--json")


def test_evaluate_a_panel(evaluated):
    path, answer = evaluated
    scores = {(r["model"], r["horizon"]): r for r in answer.json()}
    assert set(scores) == {(m, h) for m in MODELS for h in (1, 21)}
    assert all(.7 < r["cover_80"] < .95 and r["cover_95"] > .9 for r in scores.values())
    said = re.findall(r"^walking (\S+?)(?:: fold (\d)/3, origins from \S+)? \(\d+ s\)$", answer.err, re.MULTILINE)
    assert list(dict.fromkeys(m for m, _ in said)) == list(MODELS)
    assert said[-4:] == [("xgboost", number) for number in ("", "1", "2", "3")]
    assert len(answer.err.splitlines()) == len(said) + 1  # and the number of forecasts
    made = FORECASTS.validate(pd.read_parquet(path))
    assert (made["origin"].min(), made["origin"].max()) == (pd.Timestamp("2001-01-02"), pd.Timestamp("2003-12-31"))
    assert made.groupby(["model", "horizon"]).size().nunique() == 1
    assert made["realized"].isna().sum() == 8 * 6 * (1 + 21)  # outcomes that are not known yet
    assert ParquetFile(path).num_row_groups == 8 * 2  # one model and horizon each: all at once were never in memory


def test_score_agrees_with_evaluate(evaluated):
    path, answer = evaluated
    assert call("score", path, "--json").json() == answer.json()
    late = {r["n"] for r in call("score", path, "--test-from", "2003-01-02", "--json").json()}
    assert max(late) < min(r["n"] for r in answer.json())
    text = call("score", path)
    assert re.search(r"horizon +model +n +pinball", text.out)
    assert "nothing" not in text.out
    nothing = call("score", path, "--test-from", "2003-12-31")
    assert nothing == (2, "", "stockml: nothing to score from 2003-12-31 on: no forecast that every model made has an outcome\n")


def test_score_table_ratios_and_verdict(tmp_path):
    path = made_up(tmp_path)
    rows = {(r["horizon"], r["model"]): r for r in call("score", path, "--json").json()}
    assert set(rows) == {(1, m) for m in ("xgboost", "har", "ewma97", "garch", "random_walk")} | {
        (21, m) for m in ("xgboost", "har", "ewma97", "random_walk")}
    own = rows[1, "xgboost"]
    assert {k: own[k] for k in ("n", "against", "years_better", "years", "skill")} == {
        "n": 1400, "against": "har", "years_better": 3, "years": 3, "skill": True}
    assert own["vs"] == pytest.approx({m: own["pinball"] / rows[1, m]["pinball"] for m in ("random_walk", "ewma97", "garch", "har")})
    assert (own["vs"]["har"], own["crps"] < rows[1, "har"]["crps"]) == (own["ratio"], True)
    assert (rows[21, "xgboost"]["vs"]["garch"], rows[1, "har"]["skill"]) == (None, None)
    table, matrix, verdict = call("score", path).out.split("\n\n")
    assert re.match(r" +horizon +model +n +pinball +crps +cover_80 +cover_95 +against +ratio +dm_t +dm_p +better_years\n", table)
    assert len(table.splitlines()) == 10
    assert re.search(r"horizon +model +random_walk +ewma97 +garch +har\n +1 +xgboost +0\.\d{4} .*\n +21 +xgboost .* – +0\.\d{4}$", matrix)
    assert re.fullmatch(r"1 session: skill: \d+\.\d\d% less loss than har \(t -\d+\.\d, p \S+\), better in 3 of 3 years\.\n"
                        r"21 sessions: skill: .*\nDirection: no skill shown, because none is claimed; .*\n", verdict)


def test_score_of_another_model(tmp_path):
    path = made_up(tmp_path)
    assert "1 session: no skill shown: " in call("score", path, "--model", "garch").out
    assert "21 sessions: no forecast of garch." in call("score", path, "--model", "garch").out
    bare = made_up(tmp_path, lambda f: f[f["model"].isin(["har", "garch"])])
    text = call("score", bare).out
    assert text.endswith("No verdict: nothing of xgboost to score; --model names another.\n")
    assert re.search(r"1 +garch .*\n +1 +har ", text.split("\n\n")[1])


@pytest.mark.parametrize(("by", "keys", "last"), [
    ("year", [2001, 2002, 2003], "Horizon 21: better in 3 of 3 years."),
    ("ticker", ["A", "B"], "Horizon 21: better in 2 of 2 tickers."),
    ("models", ["har", "ewma97", "garch", "random_walk"], "Horizon 21: better than 3 of 3 models."),
])
def test_score_looks_closer(tmp_path, by, keys, last):
    path = made_up(tmp_path)
    rows = call("score", path, "--by", by, "--json").json()
    name = "against" if by == "models" else by
    assert sorted(map(str, {r[name] for r in rows if r["horizon"] == 1})) == sorted(map(str, keys))
    assert all(r["ratio"] < 1 and r["n"] > 0 for r in rows)
    assert by == "models" or all(.9 < r["cover_95"] <= 1 for r in rows)
    text = call("score", path, "--by", by).out
    assert re.match(rf" *horizon +{name} ", text)
    assert text.splitlines()[-1] == last


def test_score_as_a_histogram(tmp_path):
    path = made_up(tmp_path)
    rows = call("score", path, "--by", "pit", "--model", "garch", "--json").json()
    assert {(r["model"], r["horizon"]) for r in rows} == {("garch", 1)}
    assert sum(r["observed"] for r in rows) == pytest.approx(1)
    assert (rows[0]["low"], rows[-1]["high"], rows[0]["observed"] > 5 * rows[0]["expected"]) == (0, 1, True)  # too narrow
    text = call("score", path, "--by", "pit").out
    assert text.startswith("xgboost: outcomes between neighbouring quantiles, observed over expected; 1 is right\n")
    assert re.search(r"\n0\.975 1\.000 +\d\.\d\d +\d\.\d\d\n$", text)


def test_score_tells_of_long_files(tmp_path, monkeypatch, capsys):
    part = pd.DataFrame({"horizon": np.full(1_000_001, 5)})
    assert cli.tell(part) is part
    assert cli.tell(part[1:]) is not None
    assert capsys.readouterr().err == "horizon 5: 1,000,001 forecasts\n"


def test_evaluate_closes_only_as_csv(panel, tmp_path, evaluated):
    panel[["ticker", "date", "close"]].to_csv(tmp_path / "closes.csv", index=False)
    answer = call("evaluate", tmp_path / "closes.csv", "--out", tmp_path / "out.parquet", "--test-from", "2002-01-01",
                  "--test-to", "2002-12-31", "--json")
    assert {r["model"] for r in answer.json()} == set(MODELS)
    made = pd.read_parquet(tmp_path / "out.parquet")
    assert (made["origin"].min(), made["origin"].max()) == (pd.Timestamp("2002-01-02"), pd.Timestamp("2002-12-31"))
    assert made["realized"].notna().all()  # prices after --test-to tell how it went
    with_ranges = pd.read_parquet(evaluated[0])
    mine, other = (t[(t["model"] == "random_walk") & (t["origin"] >= "2002-01-01")].head(50)["realized"]
                  for t in (made, with_ranges))
    assert mine.tolist() == pytest.approx(other.tolist())


def test_evaluate_one_stock(panel, tmp_path):
    panel[panel["ticker"] == "AAPL"].to_parquet(tmp_path / "one.parquet")
    command = "evaluate", tmp_path / "one.parquet", "--out", tmp_path / "out.parquet", "--test-from", "2002-06-03"
    answer = call(*command, "--json")
    assert {r["model"] for r in answer.json()} == set(MODELS)
    assert set(pd.read_parquet(tmp_path / "out.parquet")["ticker"]) == {"AAPL"}


def test_evaluate_twelve_years_of_closes(snapshot, tmp_path):
    "Without a market and without ranges: a verdict for each horizon all the same."
    bars = read_bars(snapshot, tickers=["KO"])
    bars = bars.loc[bars["date"].between("1992-01-01", "2003-12-31"), ["ticker", "date", "close"]]
    bars.to_csv(tmp_path / "ko.csv", index=False)
    answer = call("evaluate", tmp_path / "ko.csv", "--out", tmp_path / "out.parquet", "--test-from", "2000-01-03")
    assert answer.code == 0 and "left out" not in answer.err
    assert re.search(r"\n1 session: (no )?skill( shown)?: .*\n21 sessions: (no )?skill( shown)?: .*\nDirection: ", answer.out)
    assert FORECASTS.validate(pd.read_parquet(tmp_path / "out.parquet")).groupby(["model", "horizon"]).size().min() > 900


@pytest.fixture(scope="module")
def motley(_panel) -> pd.DataFrame:
    "Closes of four good stocks, of a young one, and of others with one fault each."
    closes = _panel[["ticker", "date", "close"]]
    ko, ge = (closes[closes["ticker"] == t] for t in ("KO", "GE"))
    return pd.concat([closes[closes["ticker"].isin(["AAPL", "BAC", "PFE", "XOM"])], ge.tail(85).assign(ticker="YOUNG"),
                      ko.assign(ticker="ZERO", close=ko["close"].where(ko["date"] != "2001-05-07", 0.)),
                      ko.assign(ticker="STILL", close=7.), ko[ko["date"].dt.year != 2000].assign(ticker="HOLE"),
                      ko.head(2).assign(ticker="TWO"), ge.assign(ticker="Twin"), ge.assign(ticker="TWIN")], ignore_index=True)


@pytest.fixture(scope="module")
def sifted(shop, motley, tmp_path_factory) -> dict[str, tuple[Answer, pd.DataFrame]]:
    "The same panel as CSV and as Parquet, evaluated."
    folder, out = tmp_path_factory.mktemp("motley"), {}
    motley.to_csv(folder / "panel.csv", index=False)
    motley.to_parquet(folder / "panel.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOCKML_ROOT", str(shop))
        for kind in ("csv", "parquet"):
            answer = call("evaluate", folder / f"panel.{kind}", "--out", folder / "out.parquet", "--test-from", "2002-01-02", "--json")
            out[kind] = answer, pd.read_parquet(folder / "out.parquet")
    return out


def test_evaluate_leaves_out_what_is_at_fault(sifted, motley):
    (code, out, err), made = sifted["csv"]
    assert code == 3
    row = motley.index[(motley["ticker"] == "ZERO") & (motley["close"] == 0)][0]
    left = dict(re.findall(r"^left out (\S+): (.*)$", err, re.MULTILINE))
    assert list(left) == ["HOLE", "STILL", "TWIN", "TWO", "ZERO"]
    assert left["ZERO"] == f"line {row + 2}: close: 0.0 must be above zero: correct or remove it"
    assert left["HOLE"].startswith("no bar on 252 sessions between 1999-12-31 and 2001-01-02: ")
    assert "note: too few bars for an outcome 21 sessions ahead, not scored there: YOUNG\n" in err
    assert set(made["ticker"]) == {"AAPL", "BAC", "PFE", "XOM", "YOUNG"}
    assert {(r["model"], r["horizon"]) for r in json.loads(out)} == {(m, h) for m in MODELS for h in (1, 21)}
    young = made[(made["ticker"] == "YOUNG") & (made["model"] == "xgboost")]
    assert young.groupby("horizon")["realized"].count().tolist() == [18, 0]


def test_evaluate_csv_and_parquet_alike(sifted):
    (mine, made), (other, again) = sifted["csv"], sifted["parquet"]
    pd.testing.assert_frame_equal(made, again)
    assert (other.code, other.out) == (3, mine.out)


def test_evaluate_good_tickers_as_if_the_others_were_not_there(sifted, motley, tmp_path):
    good = motley[motley["ticker"].isin(["AAPL", "BAC", "PFE", "XOM", "YOUNG"])]
    good.to_csv(tmp_path / "good.csv", index=False)
    answer = call("evaluate", tmp_path / "good.csv", "--out", tmp_path / "out.parquet", "--test-from", "2002-01-02", "--json")
    assert (answer.code, answer.out) == (0, sifted["csv"][0].out)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out.parquet"), sifted["csv"][1])


def test_evaluate_without_xgboost_where_history_is_short(panel, tmp_path):
    "The classical models need less: their forecasts, one line about the other, and an exit code of its own."
    panel[(panel["ticker"] == "KO") & (panel["date"] >= "2000-12-01")].to_parquet(tmp_path / "short.parquet")
    answer = call("evaluate", tmp_path / "short.parquet", "--out", tmp_path / "out.parquet", "--test-from", "2003-01-02", "--json")
    assert answer.code == 3
    assert re.search(r"^left out model xgboost: \d+ training rows: too few for a model; bring more .*$", answer.err, re.MULTILINE)
    assert {r["model"] for r in json.loads(answer.out)} == set(MODELS) - {"xgboost"}
    assert set(pd.read_parquet(tmp_path / "out.parquet")["model"]) == set(MODELS) - {"xgboost"}


def test_evaluate_says_what_its_exit_codes_mean():
    text = " ".join(call("evaluate", "--help").out.split())
    assert "Exit code 0: all went in; 3: tickers, or XGBoost, were left out; 2: nothing could be done." in text


def test_evaluate_where_no_outcome_is_known_yet(shop, tmp_path):
    out = tmp_path / "out.parquet"
    answer = call("evaluate", shop / "data/bars.parquet", "--out", out, "--test-from", "2003-12-31")
    assert (answer.code, answer.out) == (0, "no scores: not one outcome is known yet\n")
    assert len(pd.read_parquet(out)) == 8 * 6 * 2


def test_evaluate_to_an_early_end_as_to_the_last(shop, evaluated, tmp_path):
    "--test-to spares the folds after it; what was forecast before is the same."
    answer = call("evaluate", shop / "data/bars.parquet", "--out", tmp_path / "out.parquet", "--test-from", "2001-01-01",
                  "--test-to", "2001-06-29", "--json")
    assert answer.code == 0 and "xgboost: fold 2/2" in answer.err
    made, whole = pd.read_parquet(tmp_path / "out.parquet"), pd.read_parquet(evaluated[0])
    pd.testing.assert_frame_equal(made, whole[whole["origin"] <= "2001-06-29"].reset_index(drop=True))


def test_evaluate_warns_of_years_that_were_searched(shop, tmp_path):
    answer = call("evaluate", shop / "data/bars.parquet", "--out", tmp_path / "out.parquet",
                  "--test-from", "1999-12-01", "--test-to", "1999-12-31", "--set", "model.rows=1000")
    assert answer.code == 0
    assert answer.err.startswith("note: the trees were chosen on years up to 1999-12-31")


def test_progress_on_a_terminal_is_one_line_that_goes_away(monkeypatch):
    class Terminal(StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    with redirect_stderr(Terminal()) as err, cli.progress() as say:
        say("reading", lasting=False)
        say("walking [har]: fold 1/2")
        time.sleep(.3)
        cli.note("left out TWO: why")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err.getvalue())
    assert re.search(r"\S walking \[har\]: fold 1/2 0:00:0\d", text)
    assert "\rleft out TWO: why\n" in text
    assert err.getvalue().endswith("\x1b[1A\x1b[2K")


def test_progress_elsewhere_is_a_line_for_what_lasts():
    with redirect_stderr(StringIO()) as err, cli.progress() as say:
        say("reading", lasting=False)
        say("walking har")
    assert err.getvalue() == "walking har (0 s)\n"


@pytest.mark.parametrize(("years", "tickers", "begin"), [
    (15, "A", "1999-06-01"), (12, "ABC", "2000-06-02"), (5, "ABC", "2007-06-01"), (3, "ABC", "2009-06-01"),
    (12, "A", "2001-12-"), (5, "A", "2008-12-"),
    (4, "A", "2007-06-01"), (2, "A", "2009-06-01"),  # too short for XGBoost: the others need less
])
def test_walk_begins_when_there_is_enough_to_learn_from(years, tickers, begin):
    days = pd.bdate_range(f"{2009 - years}-06-01", "2010-06-01")
    panel = pd.concat([pd.DataFrame({"ticker": t, "date": days}) for t in tickers])
    assert str(cli.warm_up(panel, date(2009, 6, 1))).startswith(begin)


def test_backtest(evaluated, shop, tmp_path, monkeypatch):
    shutil.copytree(shop, tmp_path / "shop")
    (tmp_path / "shop/reports").mkdir()
    shutil.copy(evaluated[0], tmp_path / "shop/reports")
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path / "shop"))
    bold, shy = call("backtest", "--json").json(), call("backtest", "--json", "--set", "bot.risk_budget=0.001").json()
    assert set(bold["backtest"]) == {"budget", "naive", "buy_and_hold"}
    assert shy["backtest"]["budget"]["mean_weight"] < bold["backtest"]["budget"]["mean_weight"]
    assert shy["backtest"]["buy_and_hold"] == bold["backtest"]["buy_and_hold"]
    assert (bold["bot"]["ticker"], bold["crash"]) == ("AAPL", {"date": "2000-09-29"})  # before the walk
    assert call("backtest", "--ticker", "ko").out.startswith("Backtest, 200,000 EUR in KO, 2001-01-02 to 2003-12-31, after costs\n")


@pytest.fixture
def own_shop(shop, tmp_path, monkeypatch) -> Path:
    "A copy of the project whose stages have run, to be changed."
    folder = Path(shutil.copytree(shop, tmp_path / "shop", ignore=shutil.ignore_patterns("mlflow*", "walked")))
    ran(folder)
    monkeypatch.setenv("STOCKML_ROOT", str(folder))
    return folder


def test_promote_and_its_history(own_shop):
    assert call("promote", "--json").json() == {"promoted": True, "reasons": []}
    set_params(own_shop, {"gate": {"coverage_95": [.97, .99]}})
    refused = call("promote")
    assert (refused.code, refused.err) == (0, "not registered: the model belongs to no MLflow run\n")
    assert re.match(r"refused: h=1: the 95% interval held 9[45]\.\d% of the outcomes, not 97% to 99%; h=21: the 95%", refused.out)
    found, first, second = call("history", "--json").json()["decisions"]
    assert found["reasons"] == ["found in place, without a line in this log"]
    assert (first["promoted"], second["promoted"]) == (True, False)
    assert [e["horizon"] for e in first["evidence"]] == [1, 21]
    assert (first["evidence"][0]["champion_ratio"], second["evidence"][0]["champion_ratio"]) == (None, 1)  # the first one had no record
    assert second["champion"]["model"] == first["model"]
    text = call("history", "--limit", "1")
    assert text.out.startswith("no runs yet\n")
    assert "refused" in text.out
    assert "promoted" not in text.out


@pytest.mark.parametrize(("serve", "alone", "within"), [
    ("auto", "gjr", ("xgboost", True)), ("random_walk", "random_walk", ("random_walk", False)), ("xgboost", "xgboost", ("xgboost", True)),
])
def test_forecast_comes_from_the_model_that_was_appointed(own_shop, serve, alone, within):
    "The verdict on a single series counts, for that is what is forecast: there the shop's scores show no skill."
    set_params(own_shop, {"model": {"serve": serve}})
    assert call("promote", "--json").json()["promoted"]
    made = call("forecast", "KO", "--json").json()
    assert [(f["model"], f["skill"]) for f in made["forecasts"]] == [(alone, False)] * 2
    assert load_bundle(own_shop / "models/champion").serves("market", 1) == within
    line = next(line for line in call("forecast", "KO").out.splitlines() if "month" in line)
    assert line.split()[-2:] == [alone, "no"]


def test_ingest_of_ones_own_file(panel, shop, tmp_path, monkeypatch):
    shutil.copy(shop / "params.yaml", tmp_path)
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    panel[panel["ticker"] == "KO"].to_csv(tmp_path / "mine.csv", index=False)
    report = call("ingest", "--csv", tmp_path / "mine.csv", "--tickers", "ko", "--json").json()
    assert (report["added"], report["tickers"], report["as_of"]) == (2015, ["KO"], "2003-12-31")
    again = call("ingest", "--csv", tmp_path / "mine.csv")
    assert again.out == "0 added, 0 restated, 2015 unchanged, 0 quarantined; 1 tickers, 0 stale, 0 gaps\n"


def test_request_is_what_the_service_takes(shop):
    answer = call("request", "KO", "--horizons", "1", "--sessions", "300")
    body = answer.json()
    assert (body["ticker"], body["horizons"], len(body["bars"])) == ("KO", [1], 300)


def test_version():
    from stockml import __version__

    assert call("version").out == f"{__version__}\n"


@pytest.mark.parametrize(("texts", "changes"), [([], {}), (["a.b=c=d", "e.f="], {"a.b": "c=d", "e.f": ""})])
def test_changes_are_read(texts, changes):
    assert cli.read_changes(texts) == changes


def test_values_are_read_strictly():
    assert cli.read_day(None, "--x") is None
    assert cli.read_horizons(None) is None
    assert cli.read_horizons("1, 5,21") == (1, 5, 21)
    for text in ("2000-02-30", "yesterday", "2000"):
        with pytest.raises(BadInput, match=rf"^--x: not a date \(YYYY-MM-DD\): '{text}'$"):
            cli.read_day(text, "--x")
    for text in ("1.5", "1,,5", "week"):
        with pytest.raises(BadInput, match=r"^--horizons: not whole numbers separated by commas: "):
            cli.read_horizons(text)


def test_an_error_of_the_program_is_no_mistake_of_the_user(monkeypatch):
    "What nobody foresaw keeps its traceback: exit code 2 would blame the user."
    monkeypatch.setattr(cli, "load_params", lambda **_: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["stockml", "backtest"])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError):
        cli.main()
    signal.signal(signal.SIGTERM, handler)


def test_end_of_the_main_job(own_shop, evaluated):
    "One real forecast over HTTP, and the page that leads to everything."
    root, params = own_shop, cli.load_params()
    shutil.rmtree(root / "models/champion")
    with pytest.raises(cli.StockmlError,
                       match=r"^no champion: the gate has refused every model so far; see models/promotions\.jsonl$"):
        cli.finish(root, params)
    assert call("promote", "--json").json()["promoted"]
    shutil.copy(evaluated[0], root / "reports")
    facts = call("backtest", "--json").json()
    days = {k: facts["bot"][k] for k in ("from", "to")}
    write_json(root / "metrics/backtest.json", {**facts["backtest"], "crash": facts["crash"], "risk": facts["risk"], "days": days})
    write_json(root / "metrics/drift.json", {"alarm": False, "drifted": 0, "features": 40, "missing": []})
    models = {}
    for row in call("score", evaluated[0], "--json").json():
        models.setdefault(row["model"], {})[str(row["horizon"])] = row
    scores = {"models": models, "skill": dict.fromkeys(models["xgboost"], False)}
    version = load_bundle(root / "models/challenger").version
    write_json(root / "metrics/evaluate.json", {**scores, "challenger": version, "test_from": "2001-01-01", "alone": scores})
    facts = cli.finish(root, params)
    own = call("forecast", "AAPL", "--json").json()
    assert {k: facts["forecast"][k] for k in own} == own
    assert [f["model"] for f in own["forecasts"]] == ["gjr", "gjr"]
    page = (root / "reports/index.html").read_text()
    assert "AAPL from 2003-12-31" in page
    assert re.search(r"month .* gjr +no</pre>", page)
    assert (root / "reports/fan.png").exists()
    assert "../models/promotions.jsonl" in page
    assert "runs/" not in page  # no notebook ran here
    assert f"{root}/reports/index.html" in cli.where_to_look(root)


@pytest.fixture
def serving(shop):
    "`stockml serve`, and its address."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [BIN / "stockml", "serve", "--port", str(port), "--workers", "1"]
    with subprocess.Popen(command, cwd=shop, env=environment(shop), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        yield process, f"http://127.0.0.1:{port}"
        process.kill()


def test_serve_until_told_to_end(serving, shop):
    process, url = serving
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(f"{url}/version", timeout=2) as answer:  # noqa: S310 (our own service)
                facts = json.load(answer)
            break
        except OSError:
            time.sleep(.1)
    assert facts["model"]["version"] == load_bundle(shop / "models/champion").version
    process.terminate()
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said


def test_interrupted_by_hand(shop, tmp_path):
    "Ctrl-C: no traceback, no half-written file."
    command = [BIN / "stockml", *EVALUATE[:2], "--out", str(tmp_path / "out.parquet"), "--test-from", "1999-06-01"]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (what runs in the background is deaf to it)
    with subprocess.Popen(command, cwd=shop, env=environment(shop), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, preexec_fn=heard) as process:
        while "walking" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_json_is_strict(evaluated):
    text = call("score", evaluated[0], "--json").out
    assert not re.search(r"\bNaN\b|\bInfinity\b", text)


def test_only_xgboost_does_without_scikit_learn():
    code = """if True:
        import sys
        from stockml.terminal import Lean
        sys.meta_path.insert(0, Lean)
        import stockml.forecaster
        assert "sklearn" not in sys.modules
        from sklearn.linear_model import LinearRegression
        assert LinearRegression().fit([[0], [1]], [1, 3]).predict([[2]]).round(6) == 5
    """
    subprocess.run([sys.executable, "-c", code], check=True)
