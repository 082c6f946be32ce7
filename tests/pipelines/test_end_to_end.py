"The main job from end to end, on a small slice: six stocks, three horizons, to the end of 2004."

import json
import math
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pandas as pd
import projects
import pytest
from mlflow import MlflowClient

from stockml.bundle import forecast, load_bundle
from stockml.files import read_json, sha256
from stockml.forecaster import CLASSICAL, MODELS
from stockml.schema import BARS, FORECASTS

STAGES = ["ingest", "features", "search", "train", "evaluate", "backtest", "drift", "promote"]
HORIZONS = {1: "next day", 5: "week", 21: "month"}
AS_OF = pd.Timestamp("2004-12-31")


@pytest.fixture(scope="session")
def again(project) -> dict:
    "What a second run says, with nothing changed, as JSON."
    second = projects.run(project, "run", "--json")
    assert second.code == 0, second.err
    return json.loads(second.out)


@pytest.fixture(scope="session")
def bars(project):
    return pd.read_parquet(project / "data/bars.parquet")


@pytest.fixture(scope="session")
def forecasts(project):
    return pd.read_parquet(project / "reports/forecasts.parquet")


def mlflow_of(folder: Path) -> tuple[MlflowClient, list]:
    "A project's store, and its runs that are no trials, oldest first."
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("stockml").experiment_id])
    return client, [r for r in reversed(runs) if "mlflow.parentRunId" not in r.data.tags]


def files_of(client: MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    return {a.path for a in client.list_artifacts(run_id, folder)}


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: sha256(p) for p in folder.iterdir()}


def test_all_stages_run_and_tell_of_it(main_job, project):
    assert [line[3:] for line in main_job.err.splitlines() if line.startswith("── ")] == STAGES
    stored = re.findall(r"^\d/6 (.+): (\d+) new", main_job.err, re.M)  # histories that come together are told of together
    assert "AAPL" in ", ".join(names for names, _ in stored)
    assert sum(int(count) for _, count in stored) == len(pd.read_parquet(project / "data/bars.parquet"))
    assert main_job.err.splitlines()[-1].startswith("pipeline: ingest, features,")


def test_summary(main_job, project):
    text = main_job.out
    assert "──" not in text  # progress goes elsewhere
    assert text.startswith("AAPL from 2004-12-31, close ")
    for words in HORIZONS.values():
        low, high = map(float, re.search(rf"{words} +2005-\d\d-\d\d +([\d.]+) – ([\d.]+)", text).groups())
        assert low < float(re.search(r"close ([\d.]+)", text)[1]) < high
    skill, money = text.partition("Skill, ")[2], text.partition("Backtest, 200,000 EUR in AAPL")[2]
    verdict = r"(?:skill|none shown)"
    for words in HORIZONS.values():
        assert re.search(rf"^ +{words} .* (?:{'|'.join(MODELS)}) +(?:yes|no)$", text, re.M)
        assert re.search(rf"^ +{words} +[01]\.\d{{4}} +\w+ .* {verdict} +\| +[01]\.\d{{4}} .* {verdict} +\| +[01]\.\d{{4}}$", skill, re.M)
    for bot in ("budget", "buy and hold", "naive"):
        assert re.search(rf"^ +{bot} .*%$", money, re.M)
    assert "on 2000-09-29" in money
    assert f"Look at  {project}/reports/index.html" in text
    assert "make ui" in text
    assert "make serve" in text


def test_bars(bars):
    assert list(bars) == ["ticker", "date", "open", "high", "low", "close", "adj_close", "volume"]
    BARS.validate(bars)
    assert bars.equals(bars.sort_values(["ticker", "date"], ignore_index=True))
    assert set(bars["ticker"]) == set(projects.SMALL["data"]["tickers"])
    assert bars["date"].max() == AS_OF  # the site has more, and shows nothing later


def test_features(project, bars):
    features = pd.read_parquet(project / "data/features.parquet")
    pd.testing.assert_frame_equal(features[["ticker", "date"]], bars[["ticker", "date"]])
    assert features.shape[1] > 50


def test_forecasts(forecasts, bars):
    assert list(forecasts) == ["model", "ticker", "origin", "horizon", "q025", "q05", "q10", "q25", "q50", "q75",
                               "q90", "q95", "q975", "realized", "fold"]
    FORECASTS.validate(forecasts)
    assert set(forecasts["model"]) == set(MODELS)
    assert set(forecasts["horizon"]) == set(HORIZONS)
    assert forecasts["origin"].min() == pd.Timestamp("2000-01-03")
    scored = forecasts[forecasts["origin"] >= projects.SMALL["split"]["test_from"]]
    assert scored.groupby(["model", "horizon", "ticker"]).size().nunique() == 1  # every model forecasts every origin
    days = bars["date"].drop_duplicates().sort_values()
    for horizon in HORIZONS:
        rows = forecasts[forecasts["horizon"] == horizon]
        assert (rows["realized"].isna() == (rows["origin"] > days.iloc[-1 - horizon])).all()
    price = bars.set_index(["ticker", "date"])["adj_close"]
    apple = forecasts[(forecasts["horizon"] == 1) & (forecasts["ticker"] == "AAPL")].set_index("origin")
    ratio = price["AAPL", pd.Timestamp("2000-09-29")] / price["AAPL", pd.Timestamp("2000-09-28")]
    assert 1 - ratio == pytest.approx(.519, abs=.001)
    assert apple.loc["2000-09-28", "realized"].iloc[0] == pytest.approx(math.log(ratio))


def test_forecasts_of_each_series_alone(project, forecasts):
    "Scored origins only. Models that know no market forecast the same; HAR and XGBoost do not."
    alone = pd.read_parquet(project / "reports/alone.parquet")
    FORECASTS.validate(alone)
    scored = forecasts[forecasts["origin"] >= projects.SMALL["split"]["test_from"]]
    key = ["model", "horizon", "ticker", "origin"]
    a, b = (t.astype({"model": str, "ticker": str}).set_index(key).sort_index() for t in (alone, scored))
    assert a.index.equals(b.index)
    assert a["realized"].equals(b["realized"])
    differs = (a["q10"] != b["q10"]).groupby("model").mean()
    assert set(differs.index[differs > .9]) == {"har", "xgboost"}
    assert (differs.drop(["har", "xgboost"]) == 0).all()


def test_metrics_are_what_dvc_shows(project):
    shown = subprocess.run([projects.BIN / "dvc", "metrics", "show", "--json"], cwd=project, capture_output=True,
                           text=True, check=True, env=projects.environment(project))
    data = json.loads(shown.stdout)[""]["data"]
    names = {f"metrics/{n}.json" for n in ("ingest", "search", "evaluate", "backtest", "drift")}
    assert set(data) == names
    for name, entry in data.items():  # DVC leaves lists out
        assert entry["data"] == {k: v for k, v in read_json(project / name).items() if not isinstance(v, list)}
    scores = data["metrics/evaluate.json"]["data"]
    assert set(scores["models"]) == set(scores["alone"]["models"]) == set(MODELS)
    for part in (scores, scores["alone"]):
        assert {r["n"] for r in part["models"]["har"].values()} == {r["n"] for r in part["models"]["xgboost"].values()}
        assert set(part["skill"]) == set(map(str, HORIZONS))


def test_backtest_shows_the_day_by_name(project):
    metrics = read_json(project / "metrics/backtest.json")
    assert metrics["crash"]["date"] == "2000-09-29"
    assert metrics["crash"]["buy_and_hold"]["return"] == pytest.approx(-.519, abs=.001)
    assert -.519 < metrics["crash"]["budget"]["return"] < 0
    assert metrics["budget"]["max_drawdown"] < metrics["buy_and_hold"]["max_drawdown"]


def test_champion(project, bars):
    champion, challenger = load_bundle(project / "models/champion"), load_bundle(project / "models/challenger")
    made = champion.manifest
    assert {p.name for p in (project / "models/champion").iterdir()} == {
        "model.ubj", "residuals.npz", "reference.parquet", "record.parquet", "manifest.json"}
    assert champion.version == challenger.version
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True,
                            check=True).stdout.strip()
    assert {k: made[k] for k in ("as_of", "commit", "dirty", "who", "promoted_by", "horizons")} == {
        "as_of": "2004-12-31", "commit": commit, "dirty": False, "who": projects.WHO, "promoted_by": projects.WHO,
        "horizons": list(HORIZONS)}
    assert made["data_sha256"] == sha256(project / "data/bars.parquet")
    assert made["params_sha256"] == sha256(project / "params.yaml")
    assert made["metrics"] == read_json(project / "metrics/evaluate.json")["models"]["xgboost"]
    assert made["trees"] == read_json(project / "models/trees.json")
    assert len(made["quantiles"]) == 9
    assert {"features", "trained_at", "run_id"} <= set(made)
    assert made["models"] == list(MODELS)
    record = pd.read_parquet(project / "models/champion/record.parquet")
    assert (set(record["horizon"]), record["origin"].max()) == ({1, 5}, bars["date"].unique()[-2])


def test_who_serves_is_who_earned_it(project, bars):
    "XGBoost where it has skill, in that view; elsewhere the classical model with the least loss."
    scores, champion = read_json(project / "metrics/evaluate.json"), load_bundle(project / "models/champion")
    for view, part in (("market", scores), ("alone", scores["alone"])):
        for h in map(str, HORIZONS):
            best = min(CLASSICAL, key=lambda m, h=h, part=part: part["models"][m][h]["pinball"])
            assert champion.serves(view, int(h)) == (("xgboost", True) if part["skill"][h] else (best, False))
    answers = forecast(champion, bars)
    assert {tuple((f["model"], f["skill"]) for f in a["forecasts"]) for a in answers} == {
        tuple(champion.serves("market", h) for h in HORIZONS)}


@pytest.mark.parametrize("stage", STAGES)
def test_executed_notebooks(project, stage):
    notebook = nbformat.read(project / f"runs/{stage}.ipynb", as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code)
    assert any(c.outputs for c in code)
    bad = [o for c in code for o in c.outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert not [o for o in bad if not o.get("text", "").lstrip("\r").startswith("search: ")]  # its progress, where it takes long
    page = (project / f"runs/{stage}.html").read_text()
    assert not re.findall(r'(?:src|href)="https?:[^"]+"', page.partition("<main>")[0])  # it opens without a network


def test_mlflow_knows_who_when_which_code_which_data(project, again):
    client, runs = mlflow_of(project)
    [run] = runs  # the second run had nothing to do, and recorded nothing
    made = read_json(project / "models/champion/manifest.json")
    assert (run.info.run_id, run.info.status) == (made["run_id"], "FINISHED")
    tags = run.data.tags
    assert (tags["mlflow.user"], tags["mlflow.source.git.commit"]) == (projects.WHO, made["commit"])
    assert tags["stockml.dirty"] == "false"
    assert (tags["stockml.data"], tags["stockml.as_of"]) == (made["data_sha256"], "2004-12-31")
    params, metrics = run.data.params, run.data.metrics
    assert (params["bot.risk_budget"], params["model.rows"]) == ("0.02", "6000")
    assert params["targets.horizons"] == "[1, 5, 21]"
    assert {s.partition(".")[0] for s in params} == {
        "data", "targets", "split", "search", "model", "calibrate", "bot", "drift", "gate"}
    scores = read_json(project / "metrics/evaluate.json")
    assert metrics["evaluate.ratio_1"] == scores["ratio_1"]
    assert metrics["evaluate.models.xgboost.21.cover_95"] == scores["models"]["xgboost"]["21"]["cover_95"]
    assert "backtest.budget.final_equity" in metrics
    assert all(metrics[f"{s}.seconds"] > 0 for s in STAGES)
    assert client.get_experiment_by_name("stockml").artifact_location == (project / "mlartifacts").as_uri()
    files = {s: files_of(client, run.info.run_id, s) for s in STAGES}
    assert all(f"{s}/{s}.ipynb" in files[s] for s in STAGES)
    assert {"evaluate/reliability.png", "evaluate/evaluate.json"} <= files["evaluate"]
    assert {"backtest/equity.png", "backtest/backtest.json"} <= files["backtest"]
    assert {"drift/drift.html", "drift/drift.json"} <= files["drift"]


def test_trials_are_nested(project):
    client, [run] = mlflow_of(project)
    trials = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    ratios = {t.data.tags["stockml.trial"]: t.data.metrics["ratio_to_har"] for t in trials}
    found = read_json(project / "metrics/search.json")
    assert (set(ratios), found["trials"]) == ({"0", "1"}, 2)
    assert ratios["0"] == found["default"]
    assert found["chosen"] in ratios.values()
    assert all("max_depth" in t.data.params for t in trials)


def test_registered_model(project):
    client, [run] = mlflow_of(project)
    [version] = client.search_model_versions("name='stockml'")
    assert version.run_id == run.info.run_id
    for alias in ("challenger", "champion"):
        assert client.get_model_version_by_alias("stockml", alias).version == version.version
    assert files_of(client, run.info.run_id, "bundle") == {
        f"bundle/{n}" for n in ("model.ubj", "residuals.npz", "reference.parquet", "record.parquet", "manifest.json")}


def test_a_second_run_reruns_nothing(again):
    assert (again["ran"], again["run_id"]) == ([], None)


def test_served_forecast_is_that_of_the_command(project, again):
    told = projects.run(project, "forecast", "AAPL", "--json")
    assert (told.code, told.err) == (0, "")
    served, own = again["forecast"], json.loads(told.out)
    assert {k: served[k] for k in own} == own
    assert re.fullmatch(r"[0-9a-f-]{36}", served["forecast_id"])
    assert [f["horizon"] for f in own["forecasts"]] == list(HORIZONS)


def test_history(project):
    told = projects.run(project, "history", "--json")
    history = json.loads(told.out)
    [run], [decision] = history["runs"], history["decisions"]
    assert (run["who"], run["status"], run["dirty"]) == (projects.WHO, "FINISHED", False)
    assert (decision["promoted"], decision["run_id"]) == (True, run["run_id"])
    assert (decision["who"], decision["champion"]) == (projects.WHO, None)
    assert [(e["horizon"], e["ratio"] < 1, e["champion_ratio"]) for e in decision["evidence"]] == [(1, True, None), (5, True, None)]


def test_nothing_keeps_running(project):
    left = [p for p in Path("/proc").glob("[0-9]*/cwd") if p.is_symlink() and lives_in(p, project)]
    assert not left


def lives_in(link: Path, folder: Path) -> bool:
    try:
        return link.readlink().is_relative_to(folder)
    except OSError:  # it has ended, or is somebody else's
        return False


def test_tree_stays_clean(project):
    "All that a run leaves is ignored by git; dvc.lock is what is meant to be committed."
    status = subprocess.run(["git", "status", "--porcelain"], cwd=project, capture_output=True, text=True,
                            check=True).stdout
    assert {line[3:] for line in status.splitlines()} <= {"dvc.lock"}


def test_two_full_runs_are_equal_to_the_byte(project, tmp_path_factory):
    twin = projects.pair(tmp_path_factory.getbasetemp() / "projects")[1]
    assert twin.code == 0, twin.err
    names = ["data/bars.parquet", "data/features.parquet", "data/scales.parquet", "data/fits.npz", "models/trees.json",
             "reports/forecasts.parquet", "reports/alone.parquet", "models/champion/record.parquet"]
    names += [f"models/challenger/{n}" for n in ("model.ubj", "residuals.npz", "reference.parquet")]
    names += [f"metrics/{n}.json" for n in ("ingest", "search", "evaluate", "backtest", "drift")]
    assert [n for n in names if (project / n).read_bytes() != (twin.folder / n).read_bytes()] == []
    assert {f"metrics/{p.name}" for p in (project / "metrics").iterdir()} <= set(names)


@pytest.fixture(scope="session")
def altered(project, tmp_path_factory) -> dict[str, projects.Run]:
    "Copies of the project, each run again with one parameter changed, side by side."
    changes = {"budget": {"bot": {"risk_budget": .01}}, "gate": {"gate": {"coverage_95": [.5, .6]}},
               "serve": {"model": {"serve": "ewma97"}}}

    def rerun(name: str) -> projects.Run:
        folder = Path(shutil.copytree(project, tmp_path_factory.mktemp("altered") / name, symlinks=True))
        projects.set_params(folder, changes[name])
        return projects.run(folder, "run", "--json")

    with ThreadPoolExecutor() as pool:
        return dict(zip(changes, pool.map(rerun, changes), strict=True))


def test_changed_budget_reruns_only_the_backtest(altered, project):
    done = altered["budget"]
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["ran"] == ["backtest"]
    assert hashes(done.folder / "models/champion") == hashes(project / "models/champion")
    new, old = (read_json(f / "metrics/backtest.json")["budget"] for f in (done.folder, project))
    assert new != old
    _, runs = mlflow_of(done.folder)
    assert (runs[-1].info.run_id, runs[-1].data.params["bot.risk_budget"]) == (facts["run_id"], "0.01")
    assert runs[-1].data.tags["stockml.dirty"] == "false"  # parameters have a hash of their own


def test_refused_gate_leaves_the_champion_and_the_run_ends_well(altered, project):
    done = altered["gate"]
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["ran"] == ["promote"]
    assert not facts["gate"]["promoted"]
    assert re.fullmatch(r"h=1: the 95% interval held 9\d\.\d% of the outcomes, not 50% to 60%", facts["gate"]["reasons"][0])
    former, found = facts["gate"]["champion"], facts["gate"]["evidence"]
    assert former["model"] == facts["gate"]["model"]
    assert [(e["champion_ratio"], e["champion_p"]) for e in found] == [(1, 1)] * 2  # it was held against itself
    assert hashes(done.folder / "models/champion") == hashes(project / "models/champion")
    assert facts["forecast"]["model"]["version"] == load_bundle(project / "models/champion").version
    client, _ = mlflow_of(done.folder)
    champion, challenger = (client.get_model_version_by_alias("stockml", a) for a in ("champion", "challenger"))
    assert (int(champion.version), int(challenger.version)) == (1, 2)
    assert challenger.tags["promoted"] == "False"


def test_another_model_serves_once_it_is_named(altered, project):
    done = altered["serve"]
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["ran"] == ["promote"]
    assert facts["gate"]["promoted"]
    assert [(f["model"], f["skill"]) for f in facts["forecast"]["forecasts"]] == [("ewma97", False)] * len(HORIZONS)
    old = load_bundle(project / "models/champion")
    assert facts["forecast"]["model"]["version"] == old.version  # the same files
    assert load_bundle(done.folder / "models/champion").manifest["skill"] == old.manifest["skill"]  # no verdict has changed
