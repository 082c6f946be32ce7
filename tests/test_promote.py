import json
import shutil
import threading
from copy import deepcopy

import pytest

from stockml import tracking
from stockml.bundle import load_bundle, write_manifest
from stockml.config import BadInput, Gate
from stockml.files import lock, read_json, sha256
from stockml.promote import decisions, judge, promote, promote_and_register

GATE = Gate(max_ratio=1., horizons=(1, 21), coverage_95=(.93, .97))
ROW = {"ratio": .99, "against": "har", "cover_95": .95}
METRICS = {"models": {"xgboost": {"1": {**ROW}, "21": {**ROW}}, "har": {"1": {**ROW}}},
           "skill": {"1": True, "21": False}}


def scored(**changes) -> dict:
    "Scores with a few numbers changed at horizon 21."
    metrics = deepcopy(METRICS)
    metrics["models"]["xgboost"]["21"].update(changes)
    return metrics


@pytest.fixture
def models(bundle_folder, tmp_path):
    "A folder with a challenger."
    shutil.copytree(bundle_folder, tmp_path / "challenger")
    return tmp_path


def decide(models, metrics=METRICS, gate=GATE):
    return promote(models / "challenger", models / "champion", metrics, gate, models / "promotions.jsonl")


def state(folder) -> dict[str, str]:
    "Every file and its hash."
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("changes", "reasons"), [
    ({}, []),
    ({"ratio": 1.}, []),
    ({"cover_95": .93}, []),
    ({"cover_95": .97}, []),
    ({"ratio": 1.0001}, ["h=21: pinball is 1.0001 times that of har, more than 1"]),
    ({"ratio": float("nan")}, ["h=21: pinball is nan times that of har, more than 1"]),
    ({"ratio": None}, ["h=21: pinball is nan times that of har, more than 1"]),  # as JSON tells it
    ({"cover_95": .929}, ["h=21: the 95% interval held 92.9% of the outcomes, not 93% to 97%"]),
    ({"cover_95": .98}, ["h=21: the 95% interval held 98.0% of the outcomes, not 93% to 97%"]),
    ({"ratio": 2., "cover_95": float("nan")}, ["h=21: pinball is 2.0000 times that of har, more than 1",
                                               "h=21: the 95% interval held nan% of the outcomes, not 93% to 97%"]),
])
def test_what_the_gate_asks(changes, reasons):
    assert judge(scored(**changes), GATE) == (not reasons, reasons)


def test_only_gated_horizons_count():
    assert judge(scored(ratio=9.), GATE.model_copy(update={"horizons": (1,)})).promoted


@pytest.mark.parametrize("metrics", [{}, {"models": {}}, {"models": {"xgboost": {"1": ROW}}}])
def test_a_gated_horizon_without_a_score_is_refused(metrics):
    with pytest.raises(BadInput, match=r"^gate.horizons: (1|21) was not scored; run the evaluate stage again$"):
        judge(metrics, GATE)


NO_SCORES = [[], None, "x", {"models": []}, {"models": {"xgboost": []}}, {"models": {"xgboost": {"1": [], "21": []}}},
             scored(ratio="x"), scored(cover_95=[]), scored(against=None), METRICS | {"skill": []},
             {"models": {"xgboost": {"1": {}, "21": {}}}}, METRICS | {"skill": {"1": "yes"}}]


@pytest.mark.parametrize("metrics", NO_SCORES)
def test_what_are_no_scores_is_refused_in_one_line(models, metrics):
    with pytest.raises(BadInput, match=r"^metrics: [^\n]+; run the evaluate stage again$"):
        decide(models, metrics)
    assert not (models / "champion").exists() and decisions(models / "promotions.jsonl") == []


def test_without_verdicts_no_skill_is_claimed(models):
    assert decide(models, {"models": METRICS["models"]}).promoted
    assert load_bundle(models / "champion").manifest["skill"] == {}


def test_the_first_champion(models):
    before = state(models / "challenger")
    assert decide(models).promoted
    champion, challenger = load_bundle(models / "champion"), load_bundle(models / "challenger")
    assert state(models / "challenger") == before
    assert champion.version == challenger.version
    made = champion.manifest
    assert {k: v for k, v in made.items() if k in challenger.manifest and k != "sha256"} == {
        k: v for k, v in challenger.manifest.items() if k != "sha256"}
    assert (made["metrics"], made["skill"]) == (METRICS["models"]["xgboost"], METRICS["skill"])
    assert made["promoted_at"] >= made["trained_at"]
    assert sorted(p.name for p in models.iterdir()) == [".promotions.jsonl.lock", "challenger", "champion",
                                                        "promotions.jsonl"]


def test_skill_reaches_the_forecast(models, panel):
    from stockml.bundle import forecast

    decide(models)
    answer = forecast(load_bundle(models / "champion"), panel[panel["ticker"] == "KO"])[0]
    assert [f["skill"] for f in answer["forecasts"]] == [True, False]


def test_a_refusal_leaves_the_champion_untouched(models):
    decide(models)
    before = state(models / "champion")
    decision = decide(models, scored(ratio=1.2))
    assert not decision.promoted
    assert state(models / "champion") == before


def test_every_decision_is_logged(models):
    assert decisions(models / "promotions.jsonl") == []
    decide(models, scored(ratio=1.2))
    assert not (models / "champion").exists()
    decide(models)
    refused, promoted = decisions(models / "promotions.jsonl")
    assert (refused["promoted"], promoted["promoted"]) == (False, True)
    assert refused["reasons"] == ["h=21: pinball is 1.2000 times that of har, more than 1"]
    assert refused["ratios"] == {"1": .99, "21": 1.2}
    manifest = read_json(models / "champion/manifest.json")
    assert {d["model"] for d in (refused, promoted)} == {load_bundle(models / f).version for f in ("challenger", "champion")}
    assert {k: promoted[k] for k in ("as_of", "commit", "who")} == {
        "as_of": manifest["as_of"], "commit": manifest["commit"], "who": manifest["promoted_by"]}


def test_a_damaged_challenger_decides_nothing(models):
    decide(models)
    before = state(models)
    with (models / "challenger/model.ubj").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadInput, match=r"model\.ubj is damaged"):
        decide(models)
    after = state(models)
    after.pop("challenger/model.ubj")
    before.pop("challenger/model.ubj")
    assert after == before


def test_missing_scores_decide_nothing(models):
    decide(models)
    before = state(models)
    with pytest.raises(BadInput, match="was not scored"):
        decide(models, {"models": {}})
    assert state(models) == before


@pytest.mark.parametrize("line", [b"{", b"[]", b"3", b"null", b"\xff", b""])
def test_a_damaged_log_decides_nothing(models, line):
    decide(models)
    log = models / "promotions.jsonl"
    log.write_bytes(log.read_bytes() + line + b"\n")
    before = state(models)
    for ask in (lambda: decisions(log), lambda: decide(models, scored(ratio=1.2))):
        with pytest.raises(BadInput, match=r"promotions\.jsonl: line 2 is no decision; [^\n]+$"):
            ask()
    assert state(models) == before


def test_one_promotion_at_a_time(models):
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock(models / ".promotions.jsonl.lock"):
            held.set()
            done.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(30)
    try:
        with pytest.raises(BadInput, match=r"^another promotion is under way"):
            decide(models)
    finally:
        done.set()
        other.join()
    assert not (models / "champion").exists()
    assert decide(models).promoted


def test_the_log_survives_a_reader_of_lines(models):
    for _ in range(3):
        decide(models)
    lines = (models / "promotions.jsonl").read_text().splitlines()
    assert [json.loads(line)["promoted"] for line in lines] == [True] * 3


# the registry

@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "An MLflow of this module's own."
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def mlflow(store, monkeypatch):
    "A client of it, outside any stage."
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for name in ("MLFLOW_RUN_ID", tracking.TOKEN):
        monkeypatch.delenv(name, raising=False)
    return tracking.connect()


def decide_and_register(models, metrics=METRICS):
    return promote_and_register(models / "challenger", models / "champion", metrics, GATE, models / "promotions.jsonl")


def trained_by(models, run):
    "Write a run into the challenger's manifest."
    write_manifest(models / "challenger", read_json(models / "challenger/manifest.json") | {"run_id": run})


def versions(client) -> dict[str, str]:
    "Alias -> version."
    return dict(client.get_registered_model(tracking.MODEL).aliases)


def test_the_aliases_follow_the_gate(models, mlflow, monkeypatch, tmp_path):
    trained, stage = (tracking.join_run(mlflow, name) for name in ("train", "promote"))
    trained_by(models, trained)
    decision, said = decide_and_register(models)
    first = versions(mlflow)
    assert decision.promoted and said == f"registered as version {first['champion']}: challenger, champion"
    made = mlflow.get_model_version_by_alias(tracking.MODEL, "champion")
    assert (made.run_id, made.tags) == (trained, {"promoted": "True"})
    kept = tmp_path / "kept"
    kept.mkdir()
    mlflow.download_artifacts(trained, "bundle", str(kept))
    assert state(kept / "bundle") == state(models / "champion")
    monkeypatch.setenv("MLFLOW_RUN_ID", stage)
    decision, said = decide_and_register(models, scored(ratio=1.2))
    second = versions(mlflow)
    assert not decision.promoted and said == f"registered as version {second['challenger']}: challenger"
    assert second["champion"] == first["champion"] != second["challenger"]
    assert mlflow.get_model_version_by_alias(tracking.MODEL, "challenger").run_id == stage


@pytest.mark.parametrize(("run", "said"), [
    (None, "not registered: the model belongs to no MLflow run"),
    ("0" * 32, f"not registered: run {'0' * 32} is not in this MLflow"),
])
def test_a_model_of_no_known_run_is_promoted_and_not_registered(models, mlflow, run, said):
    trained_by(models, run)
    before = [v.version for v in mlflow.search_model_versions()]
    decision, line = decide_and_register(models)
    assert decision.promoted and line == said and (models / "champion").exists()
    assert [v.version for v in mlflow.search_model_versions()] == before


def test_a_broken_mlflow_does_not_undo_a_decision(models, monkeypatch, tmp_path):
    (tmp_path / "broken.db").write_bytes(b"garbage" * 1000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/broken.db")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    decision, line = decide_and_register(models)
    assert decision.promoted and line.startswith("not registered: MLflow at") and "\n" not in line
    assert len(decisions(models / "promotions.jsonl")) == 1
