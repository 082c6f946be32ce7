'"How did you not see it coming?" Every fact of the answer is the one that held then, and can be looked up.'

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import call
from hypothesis import given
from hypothesis import strategies as st
from journals import forecast_line, quantiles_of
from test_monitor import Page

from stockml import tracking
from stockml.bundle import forecast, load_bundle, write_manifest
from stockml.explain import contributions
from stockml.features import make_features
from stockml.files import plain, read_json
from stockml.journal import Journal, event, files, find, new_id
from stockml.prices import write_bars
from stockml.why import (
    as_text,
    bot_then,
    lines_after,
    lines_before,
    model_of,
    monitors_then,
    outcomes,
    reasons,
    unusual,
    why,
    write_answer,
)

ORIGIN = "2003-06-02"


# how unusual

def straight(q: list[float], levels: list[float], x: float) -> float:
    "The probability on the line between the two quantiles around x."
    for a, b, p, r in zip(q, q[1:], levels, levels[1:], strict=False):
        if a <= x <= b and a < b:
            return p + (r - p) * (x - a) / (b - a)
    raise AssertionError


@given(q=st.lists(st.floats(-.5, .5), min_size=9, max_size=9, unique=True).map(sorted), x=st.floats(-1, 1))
def test_where_an_outcome_lies(q, x):
    levels = [.025, .05, .1, .25, .5, .75, .9, .95, .975]
    found = unusual(dict(zip(map(str, levels), q, strict=True)), x)
    if x < q[0]:
        assert found["probability"] == .025 and found["words"].startswith("below the 2.5% quantile")
        assert found["words"].endswith(": less than one day in 40 was expected to be so")
    elif x > q[-1]:
        assert found["probability"] == .975 and found["words"].startswith("above the 97.5% quantile")
        assert found["words"].endswith(": less than one day in 40 was expected to be so")
    else:
        assert found["probability"] == pytest.approx(straight(q, levels, x), abs=1e-6)
        assert found["words"] == f"{found['probability']:.1%} of the outcomes were expected to be as low or lower"


@given(xs=st.lists(st.floats(-1, 1), min_size=2, max_size=2).map(sorted))
def test_a_lower_outcome_is_never_less_unusual(xs):
    low, high = (unusual(quantiles_of(.2), x)["probability"] for x in xs)
    assert low <= high


@pytest.mark.parametrize(("shift", "realized", "words"), [
    (0., -.3, "below the 2.5% quantile, 3.0 times as far from zero"), (0., .4, "above the 97.5% quantile, 4.0 times as far from zero"),
    (.5, -.3, "below the 2.5% quantile:"), (.5, .1, "below the 2.5% quantile, 0.2 times as far from zero"),
    (-.5, -.1, "above the 97.5% quantile, 0.2 times as far from zero"),
])
def test_the_side_is_that_of_the_forecast(shift, realized, words):
    assert unusual({"0.025": shift - .1, "0.5": shift, "0.975": shift + .1}, realized)["words"].startswith(words)


# what stood around it

def monitor(name: str, day: str, state: str = "ok") -> dict:
    return event("stockml.monitor", "x", monitor=name, as_of=day, state=state, text=f"{name} of {day}")


def bot(day: str, *ids: str) -> dict:
    return event("stockml.bot", "x", day=day, forecasts={f"T{i}": x for i, x in enumerate(ids)})


def numbered(n: int) -> dict:
    return event("stockml.test", "x" * 50, n=n)


@pytest.mark.parametrize("roll", [400, 1000, 10**6])
@pytest.mark.parametrize("debris", [b"", b"torn\rby\r\nsomeone\n"])
def test_lines_before_and_after_are_all_others_of_their_kind(tmp_path, roll, debris):
    journal, ids = Journal(tmp_path, roll=roll), []
    for n in range(12):
        line = forecast_line("KO", ORIGIN, features={})
        ids.append(line["stockml"]["forecast_id"])
        journal.append([numbered(n), line])
        with files(tmp_path)[-1].open("ab") as f:
            f.write(debris)
    assert len(files(tmp_path)) == (1 if roll == 10**6 else 12)
    for n, i in enumerate(ids):
        found = find(tmp_path, i)
        assert [x["stockml"]["n"] for x in lines_before(tmp_path, found, "stockml.test")] == list(range(n, -1, -1))
        assert [x["stockml"]["n"] for x in lines_after(tmp_path, found, "stockml.test")] == list(range(n + 1, 12))


@pytest.mark.parametrize("roll", [500, 10**6])
def test_what_the_monitors_and_the_bot_said_is_of_then(tmp_path, roll):
    journal, line = Journal(tmp_path, roll=roll), forecast_line("KO", ORIGIN, features={})
    mine = line["stockml"]["forecast_id"]
    for x in (monitor("coverage", "2003-05-01"), bot("2003-05-30", new_id(), mine[:-1] + "x"), monitor("drift", "2003-05-02", "warn"),
              monitor("coverage", "2003-06-01", "alarm"), line, monitor("coverage", "2003-06-03"), bot("2003-06-02", new_id(), mine),
              monitor("data", "2003-06-03", "alarm"), bot("2003-06-03", new_id()), bot("2003-06-04"), bot("2003-06-05")):
        journal.append([x])
    found = find(tmp_path, mine)
    assert [(c["monitor"], c["as_of"], c["state"]) for c in monitors_then(tmp_path, found)] == [
        ("coverage", "2003-06-01", "alarm"), ("drift", "2003-05-02", "warn")]
    assert [b["day"] for b in bot_then(tmp_path, found)] == ["2003-06-02", "2003-06-03", "2003-06-04"]


def test_before_all_monitors_and_without_a_bot_there_is_nothing(tmp_path):
    line = forecast_line("KO", ORIGIN, features={})
    Journal(tmp_path).append([line, monitor("data", "2003-06-03"), bot("2003-06-03", new_id())])
    found = find(tmp_path, line["stockml"]["forecast_id"])
    assert (monitors_then(tmp_path, found), bot_then(tmp_path, found)) == ([], [])


# a project with a forecast

@pytest.fixture(scope="module")
def shop(tmp_path_factory, _panel, bundle_folder) -> tuple[Path, dict, pd.DataFrame]:
    "Bars, a champion with two ways to answer, and its forecasts of one day, as the service writes them down."
    root = tmp_path_factory.mktemp("shop")
    write_bars(root / "data/bars.parquet", _panel)
    shutil.copytree(bundle_folder, root / "models/champion")
    known = _panel[_panel["date"] <= ORIGIN]
    journal, lines = Journal(root / "journal"), {}
    journal.append([monitor("coverage", "2003-06-01", "alarm")])
    for name in ("xgboost", "har", "gjr"):
        manifest = read_json(root / "models/champion/manifest.json")
        write_manifest(root / "models/champion", manifest | {"serves": {"market": {"1": name, "21": "xgboost"}}, "run_id": "run"})
        bundle = load_bundle(root / "models/champion")
        features = make_features(known).groupby("ticker").tail(1).set_index("ticker")[bundle.manifest["features"]]
        for made in forecast(bundle, known):
            if made["ticker"] in ("AAPL", "KO"):
                kept = {k: made[k] for k in ("ticker", "origin", "close", "forecasts")}
                lines[name, made["ticker"]] = line = forecast_line(
                    made["ticker"], ORIGIN, **{k: v for k, v in kept.items() if k not in ("ticker", "origin")},
                    features={k: None if np.isnan(v) else float(v) for k, v in features.loc[made["ticker"]].items()},
                    model={"name": "xgboost", "version": bundle.version}, bundle_sha256=bundle.manifest["sha256"])
                journal.append([line])
    decision = {"time": "2003-05-30T20:00:00+00:00", "who": "Ada", "promoted": True, "reasons": [], "model": bundle.version,
                "as_of": "2003-12-31", "run_id": None, "champion": None, "evidence": [
                    {"horizon": 1, "ratio": .99, "against": "gjr", "dm_p": .01, "cover_95": .95},
                    {"horizon": 21, "ratio": .99, "against": "gjr", "dm_p": None, "cover_95": None}]}
    (root / "models/promotions.jsonl").write_text(json.dumps(decision) + "\n")
    return root, lines, known


def bars_of(root: Path):
    return lambda ticker: pd.read_parquet(root / "data/bars.parquet").query("ticker == @ticker").reset_index(drop=True)


def id_of(line: dict) -> str:
    return line["stockml"]["forecast_id"]


@pytest.mark.parametrize("name", ["xgboost", "har"])
@pytest.mark.parametrize("ticker", ["AAPL", "KO"])
def test_reasons_are_those_that_explain_gives_from_the_bars(shop, name, ticker):
    root, lines, known = shop
    manifest = read_json(root / "models/champion/manifest.json")
    bundle = load_bundle(root / "models/champion")
    bundle = type(bundle)(bundle.models, bundle.quantiles, manifest | {"serves": {"market": {"1": name, "21": "xgboost"}}})
    found, words = reasons(bundle, lines[name, ticker]["stockml"])
    expected = contributions(bundle, known)
    expected = expected[expected["ticker"] == ticker].reset_index(drop=True)
    assert set(expected["model"]) == {name, "xgboost"}
    pd.testing.assert_frame_equal(pd.DataFrame(found), expected, check_dtype=False, rtol=1e-4, atol=1e-5)
    assert words.startswith(f"{ticker} from {ORIGIN}, 1 session")


def test_a_model_that_needs_the_whole_past_gives_no_reasons(shop):
    root, lines, _ = shop
    found, words = reasons(load_bundle(root / "models/champion"), lines["gjr", "KO"]["stockml"])
    assert {r["horizon"] for r in found} == {21}
    assert "21 sessions" in words


def test_outcomes_are_those_of_the_price_store(shop, _panel):
    root, lines, known = shop
    facts = lines["xgboost", "AAPL"]["stockml"]
    own = _panel[_panel["ticker"] == "AAPL"].set_index("date")["adj_close"]
    day, month = outcomes(facts, bars_of(root)("AAPL"))
    at = own.index.get_loc(pd.Timestamp(ORIGIN))
    assert day["realized"] == pytest.approx(np.log(own.iloc[at + 1] / own.iloc[at]))
    assert month["due"] == own.index[at + 21].date()
    assert month["probability"] == unusual(month["quantiles"], month["realized"])["probability"]
    assert [("realized" in o) for o in outcomes(facts, known[known["ticker"] == "AAPL"])] == [False, False]
    assert outcomes(facts, None) == facts["forecasts"]


def test_all_of_it_strict_and_in_words(shop):
    root, lines, _ = shop
    facts = why(root, root / "journal", id_of(lines["gjr", "AAPL"]), bars_of(root))
    json.dumps(facts, allow_nan=False)
    assert facts["model"]["same"] is True
    assert [c["monitor"] for c in facts["monitors"]] == ["coverage"] and facts["bot"] == []
    assert facts["proofs"]["journal"] == "journal/journal-000001.ndjson, line 6"
    assert facts["proofs"]["the same again"] == f"stockml reproduce {id_of(lines['gjr', 'AAPL'])}"
    assert f"stockml data checkout {facts['model']['data_sha256'][:12]}" in facts["proofs"]["data"]
    text = as_text(facts)
    for words in ("coverage was alarm (2003-06-01)", "no bot traded on this forecast", "h=21: 0.9900 times the loss of gjr (p = nan)",
                  "it came to", "models/promotions.jsonl, decision of 2003-05-30T20:00:00+00:00"):
        assert words in text, words
    assert "WARNING" not in text
    assert "not due yet" in as_text(why(root, root / "journal", id_of(lines["gjr", "AAPL"])))


def test_a_bundle_that_is_not_the_one_is_said(shop):
    root, lines, _ = shop
    facts = why(root, root / "journal", id_of(lines["xgboost", "AAPL"]))  # the manifest has changed since
    assert facts["model"]["same"] is False
    assert "WARNING: the bundle found is not the one that made this forecast: their hashes differ" in as_text(facts)


def test_the_page_is_whole_and_loads_nothing(shop, tmp_path):
    root, lines, _ = shop
    facts = why(root, root / "journal", id_of(lines["gjr", "AAPL"]), bars_of(root))
    facts["monitors"][0]["text"] = evil = '<script>alert("x")</script>'
    write_answer(facts, tmp_path / "why.html")
    text = (tmp_path / "why.html").read_text()
    page = Page(text)
    assert page.loads == [] and not {"script", "link", "img"} & set(page.tags) and "url(" not in text and "@import" not in text
    assert any(evil in t for t in page.texts)
    assert page.tags.count("h2") == 8 and page.tags.count("svg") == 1
    assert page.tags.count("rect") == 6 and page.tags.count("line") == 3  # two horizons, their outcomes, and zero


# the model

@pytest.fixture
def project(shop, tmp_path) -> Path:
    shutil.copytree(shop[0] / "models/champion", tmp_path / "models/champion")
    return tmp_path


def test_a_model_is_found_among_those_at_hand(project):
    version = load_bundle(project / "models/champion").version
    assert model_of(project, version, None)[1] == str(project / "models/champion")
    (project / "models/champion").rename(project / "models/challenger")
    assert model_of(project, version, None)[1] == str(project / "models/challenger")
    (project / "models/challenger/model.ubj").write_bytes(b"damaged")
    assert model_of(project, version, None) == (None, f"model {version} is not at hand, and no decision of the gate names its run")
    assert model_of(project, "f" * 12, {"run_id": None}).bundle is None


def test_another_damaged_model_is_no_obstacle(project):
    version = load_bundle(project / "models/champion").version
    shutil.copytree(project / "models/champion", project / "models/challenger")
    (project / "models/champion/manifest.json").write_text("{")
    assert model_of(project, version, None)[1] == str(project / "models/challenger")


def test_a_model_that_is_gone_is_fetched_from_its_run(project, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = tracking.join_run(tracking.connect(), "train")
    tracking.register(run, project / "models/champion")
    version = load_bundle(project / "models/champion").version
    shutil.rmtree(project / "models/champion")
    found = model_of(project, version, {"run_id": run})
    assert (found.bundle.version, found.folder) == (version, f"MLflow run {run}, artifact bundle")
    assert (project / "models/kept" / version / "model.ubj").exists()
    lost = model_of(project, "e" * 12, {"run_id": "0" * 32})
    assert lost.bundle is None and lost.folder.startswith(f"model {'e' * 12} could not be fetched from MLflow run {'0' * 32}: ")
    assert not (project / "models/kept" / ("e" * 12)).exists()


def test_without_its_model_the_rest_is_still_told(shop, tmp_path):
    root, lines, _ = shop
    facts = why(tmp_path, root / "journal", id_of(lines["gjr", "AAPL"]), bars_of(root))
    assert facts["model"]["same"] is None and facts["reasons"]["terms"] == []
    assert "is not at hand, and no decision of the gate names its run" in as_text(facts)
    assert facts["gate"] is None and facts["outcomes"][0]["realized"]


# the command

@pytest.fixture
def here(shop, monkeypatch) -> Path:
    monkeypatch.setenv("STOCKML_ROOT", str(shop[0]))
    monkeypatch.delenv("STOCKML_JOURNAL", raising=False)
    return shop[0]


def test_the_command_answers(here, shop, tmp_path):
    known = id_of(shop[1]["gjr", "KO"])
    code, out, err = call("why", known, "--html", tmp_path / "why.html")
    assert (code, err) == (0, "") and out.startswith(f"Forecast\n  {known}: KO from the close of {ORIGIN}")
    assert Page((tmp_path / "why.html").read_text()).tags.count("h2") == 8
    code, out, _ = call("why", known, "--json")
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail) == plain(why(here, here / "journal", known, bars_of(here)))
    assert call("why", known, "--folder", here)[0] == 0


@pytest.mark.parametrize(("wrong", "said"), [("AAPL", "is no forecast id"), ("", "is no forecast id"),
                                               ("01a224d6-8bc7-7899-9271-d1e99b39701f", "no such forecast in")])
def test_an_unknown_id_is_one_line(here, wrong, said):
    code, out, err = call("why", wrong)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1


def test_no_journal_is_one_line(here, tmp_path):
    os.environ["STOCKML_JOURNAL"] = str(tmp_path / "nowhere")
    try:
        code, _, err = call("why", new_id())
    finally:
        del os.environ["STOCKML_JOURNAL"]
    assert code == 2 and "no journal there" in err and err.count("\n") == 1


def test_it_answers_without_the_heavy_libraries(here, shop):
    heavy = {"mlflow", "evidently", "matplotlib", "arch", "optuna", "papermill", "dask", "sklearn", "scipy.stats", "exchange_calendars"}
    code = ("import atexit, sys; from stockml.cli import main\n"
            f"atexit.register(lambda: print(sorted({heavy} & set(sys.modules)), file=sys.stderr))\nmain()")
    done = subprocess.run([sys.executable, "-c", code, "why", id_of(shop[1]["gjr", "KO"])], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
