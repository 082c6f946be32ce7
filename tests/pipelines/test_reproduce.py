"A model, and a forecast, from commit, data and parameters: equal where they are the same, and not where one of them is another."

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import projects
import pytest
import yaml
from commands import call
from processes import free_port

from serve.body import Wanted
from serve.forecasts import Served, make
from stockml.bundle import FILES, load_bundle, write_manifest
from stockml.config import BadInput
from stockml.features import histories
from stockml.files import read_json, sha256
from stockml.journal import Journal, event, find
from stockml.objects import Objects, digests
from stockml.prices import read_bars, write_bars
from stockml.reproduce import (
    Record,
    answer_again,
    bars_sent,
    changes_of,
    compared,
    data_of,
    on_record,
    other_packages,
    promised,
    request_of,
    set_as_run,
    steps,
    surroundings,
    verdict_text,
)
from stockml.versions import pick, version_of

ORIGIN = "2004-06-30"
SWAPPED, OTHER, DIRTY, LOST, NOWHERE, BARE = (c * 32 for c in "bcdef9")  # runs of models whose record tells something else


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, message: str) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--no-verify", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def claim(folder: Path, run: str, **facts) -> None:
    "A record that says something else about the same model."
    shutil.copytree(folder / "models/champion", place := folder / "models/kept" / run)
    write_manifest(place, read_json(place / "manifest.json") | {"run_id": run, **facts})


def asked(folder: Path) -> list[str]:
    "Forecasts of all stocks in one request and of one alone, as the service keeps them. Their ids."
    served, bars = Served.of(load_bundle(folder / "models/champion")), read_bars(folder / "data/bars.parquet", pd.Timestamp(ORIGIN).date())
    journal, ids = Journal(folder / "journal"), []
    for n, part in enumerate((bars.groupby("ticker").tail(520), bars[bars["ticker"] == "KO"].tail(300))):
        records = make(served, Wanted(histories(part), None, True)).records
        journal.append([event("stockml.forecast", "x", **r) | {"http": {"request": {"id": f"request {n}"}}} for r in records])
        ids.append(records[-1]["forecast_id"])
    return ids


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> tuple[Path, list[str]]:
    "A copy of the session's project, a year's forecasts, and records that are not true. What it holds now is another version of the data."
    run = projects.pair(tmp_path_factory.getbasetemp() / "projects")[0]
    assert run.code == 0, run.err
    folder = tmp_path_factory.mktemp("again") / "project"
    shutil.copytree(run.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("reports", "__pycache__"))
    ids = asked(folder)
    commit(folder, "the lock of the run")
    lock = yaml.safe_load((folder / "dvc.yaml").read_text())
    lock["stages"]["search"]["frozen"] = True
    (folder / "dvc.yaml").write_text(yaml.safe_dump(lock, sort_keys=False))
    frozen = commit(folder, "the search is frozen")
    projects.set_params(folder, {"calibrate": {"own": .5}})
    other = commit(folder, "another parameter")
    bars = read_bars(folder / "data/bars.parquet")
    bars.loc[(bars["ticker"] == "KO") & (bars.index % 5 == 0), "adj_close"] *= 1.02  # restated here and there
    write_bars(folder / "data/bars.parquet", bars)
    done = subprocess.run([sys.executable, "-m", "dvc", "commit", "-q", "-f", "ingest"], cwd=folder, env=projects.environment(folder),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commit(folder, "another version of the data")
    claim(folder, SWAPPED, data_sha256=sha256(folder / "data/bars.parquet"), commit=frozen)
    claim(folder, OTHER, commit=other, params_sha256=sha256(folder / "params.yaml"))
    claim(folder, DIRTY, dirty=True)
    claim(folder, LOST, commit="1" * 40)
    claim(folder, NOWHERE, data_sha256="0" * 64)
    git(folder, "tag", "bare", git(folder, "commit-tree", "-m", "nothing", git(folder, "hash-object", "-t", "tree", "-w", "/dev/null")))
    claim(folder, BARE, commit=git(folder, "rev-parse", "bare"))
    return folder, ids


@pytest.fixture(scope="module")
def rebuilt(shop, tmp_path_factory) -> dict[str, projects.Run]:
    "What the command says: of a forecast, and thereby of its model; of a model said to be from other data; and from another parameter."
    folder, [forecast, _] = shop
    kept = tmp_path_factory.mktemp("kept") / "clone"
    wanted = {"honest": [forecast, "--keep", str(kept), "--json"], "swapped": [SWAPPED, "--json"], "other": [OTHER]}
    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(wanted, pool.map(lambda args: projects.run(folder, "reproduce", *args), wanted.values()), strict=True))
    return done | {"kept": kept}


@pytest.fixture
def here(shop, monkeypatch) -> Path:
    "We are there."
    for key in [k for k in os.environ if k.startswith(("STOCKML_", "MLFLOW_", "GIT_"))]:
        monkeypatch.delenv(key)
    for key, value in projects.environment(shop[0]).items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(shop[0])
    return shop[0]


def refused(answer, *words: str) -> None:
    assert (answer.code, answer.out, answer.err.splitlines()[-1].startswith("stockml: ")) == (2, "", True), answer
    assert all(w in answer.err.splitlines()[-1] for w in words), answer.err


# equal, and not

def test_an_honest_forecast_and_its_model_are_equal_bit_for_bit(rebuilt, shop):
    done = rebuilt["honest"]
    assert done.code == 0, done.out + done.err
    facts = json.loads(done.out)
    assert facts["equal"] and facts["forecast"]["equal"] and facts["facts"] == {} and facts["doubts"] == [] and facts["params"] == {}
    champion = read_json(shop[0] / "models/champion/manifest.json")
    assert {n: f["is"] for n, f in facts["files"].items()} == {n: champion["files"][n] for n in FILES}
    assert (facts["model"], facts["commit"], facts["data"]["sha256"]) == (version_of(champion), champion["commit"], champion["data_sha256"])
    assert (facts["forecast"]["stocks"], facts["forecast"]["horizons"], facts["forecast"]["bars"]) == (
        6, [1, 5, 21], f"data version {facts['data']['md5'][:8]}"), "the store in place holds others"
    assert "record.parquet" in facts["not_rebuilt"]
    assert [s for s, seconds in facts["stages"].items() if seconds] == ["features", "search", "train"]
    assert [line.partition(" (")[0] for line in done.err.splitlines()[1:4]] == ["1/3 features", "2/3 search", "3/3 train"]


def test_nothing_is_written_to_the_team_s_record(rebuilt, shop):
    folder, kept = shop[0], rebuilt["kept"]
    assert not (kept / "mlflow.db").exists() and git(folder, "status", "--porcelain") == ""
    assert read_json(kept / "models/challenger/manifest.json")["run_id"] is None


def test_the_clone_s_own_code_runs(rebuilt):
    with surroundings(rebuilt["kept"]):
        code = "import stockml.train, stockml.config; print(stockml.train.__file__, stockml.config.project_root())"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout
    assert said.split() == [str(rebuilt["kept"] / "stockml/train.py"), str(rebuilt["kept"])]


def test_another_version_of_the_data_is_not_equal(rebuilt):
    done = rebuilt["swapped"]
    assert done.code == 1, done.err
    facts = json.loads(done.out)
    assert not facts["equal"] and facts["facts"] == {}
    assert not any(f["equal"] for f in facts["files"].values())
    assert "arrays, by up to" in facts["files"]["residuals.npz"]["how"] and facts["stages"]["search"] == 0


def test_another_parameter_is_not_equal(rebuilt):
    done = rebuilt["other"]
    assert done.code == 1, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("NOT EQUAL: model ")
    assert "  model.ubj: equal" in lines and "  reference.parquet: equal" in lines, "they do not depend on it"
    assert any(x.startswith("  residuals.npz: differs, ") for x in lines)
    assert "search frozen" in done.out


def test_a_forecast_that_was_another_by_one_bit_is_not_equal(rebuilt, shop, here):
    found = find(here / "journal", shop[1][0])
    line = json.loads(json.dumps(found.line["stockml"]))
    with Objects(here) as store:
        bars, _ = bars_sent(here, store, request_of(found))
    record = Record(here / "models/champion", read_json(here / "models/champion/manifest.json"), "")
    assert answer_again(rebuilt["kept"], record, bars, line)["equal"]
    q = line["forecasts"][1]["quantiles"]
    q["0.5"] = float(np.nextafter(q["0.5"], 1))
    answer = answer_again(rebuilt["kept"], record, bars, line)
    assert not answer["equal"] and list(answer["differ"]) == [5] and 0 < answer["differ"][5]["by"] < 1e-15


# cannot be done

@pytest.mark.parametrize(("name", "said"), [
    ("0" * 12, "no model of that version, and no such run"), ("AAPL", "no model of that version"),
    ("0" * 32, "it is in no MLflow that is known here"), (LOST, "commit 111111111111 is not in this repository"),
    (DIRTY, "the tree was dirty: commit "), (NOWHERE, "is in no version that is here or in a remote"),
    (BARE, "cannot be rebuilt: "),
    ("01a224d6-8bc7-7899-9271-d1e99b39701f", "no such forecast")])
def test_what_cannot_be_done_is_said(here, name, said):
    refused(call("reproduce", name), said)


def test_a_folder_that_is_there_is_not_written_to(here, tmp_path):
    (tmp_path / "mine").write_text("x")
    refused(call("reproduce", SWAPPED, "--keep", tmp_path), "is there already")


def test_a_damaged_object_is_named(here):
    wanted = read_json(here / "models/champion/manifest.json")
    with Objects(here) as store:
        version, path = data_of(here, store, wanted)
        assert digests(path) == (version.md5, wanted["data_sha256"])
        before = path.read_bytes()
        path.chmod(0o644)
        try:
            path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
            path.chmod(0o444)
            with pytest.raises(BadInput, match=rf"{path} is damaged .* was not used"):
                data_of(here, store, wanted)
        finally:
            path.chmod(0o644)
            path.write_bytes(before)
            path.chmod(0o444)


def test_bars_that_are_nowhere_are_said(here, shop):
    [line] = lines = request_of(find(here / "journal", shop[1][1]))
    with Objects(here) as store:
        bars, _ = bars_sent(here, store, lines)
        assert len(bars) == 300 and set(bars["ticker"]) == {"KO"}
        with pytest.raises(BadInput, match=r"KO up to 2004-06-30\) are in no version of the data"):
            bars_sent(here, store, [line | {"input_sha256": "0" * 64}])


# what it rests on

def test_a_dirty_tree_is_tried_with_the_parameters_of_its_run(here, tmp_path):
    manifest = read_json(here / "models/champion/manifest.json")
    assert promised(here, manifest | {"dirty": True}, force=True) == [
        f"the tree was dirty: commit {manifest['commit'][:12]} had uncommitted changes when the model was trained"]
    shutil.copy(here / "params.yaml", tmp_path)
    projects.set_params(tmp_path, {"model": {"rows": 1000}, "calibrate": {"own": .9}})  # as if the run's own were never committed
    changed, doubts = set_as_run(here, tmp_path, manifest | {"params_sha256": "0" * 64})
    assert (changed, doubts) == ({"model.rows": 6000, "calibrate.own": .35}, [])
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["model"]["rows"] == 6000
    shutil.copy(here / "params.yaml", tmp_path)
    projects.set_params(tmp_path, {"bot": {"stress": .5}, "calibrate": {"own": .35}})  # which the run did not read before the gate
    nowhere = manifest | {"params_sha256": "0" * 64, "run_id": "0" * 32}
    with pytest.raises(BadInput, match=r"params.yaml \(SHA-256 000000000000\) was not that of the commit, .* --force"):
        set_as_run(here, tmp_path, nowhere)
    assert set_as_run(here, tmp_path, nowhere, force=True)[1][-1].startswith("params.yaml (SHA-256 0"), "what is not known is said"


def test_parameters_that_were_committed_later_are_found(here, tmp_path):
    "As after `stockml run --set` and every retraining: the commit had others, and no MLflow is asked."
    manifest = read_json(here / "models/champion/manifest.json") | {"run_id": None}
    shutil.copy(here / "params.yaml", tmp_path)
    projects.set_params(tmp_path, {"model": {"rows": 1000}, "calibrate": {"own": .9}})
    assert set_as_run(here, tmp_path, manifest) == ({"model.rows": 6000, "calibrate.own": .35}, [])
    assert sha256(tmp_path / "params.yaml") == manifest["params_sha256"]


def test_a_bundle_comes_from_the_remote(here, tmp_path):
    "A clone has neither a cache nor runs; nothing but the bundle comes to lie in its cache."
    manifest = read_json(here / "models/champion/manifest.json")
    config = (here / ".dvc/config").read_text()
    (here / ".dvc/cache").rename(tmp_path / "far")
    (here / "models").rename(tmp_path / "models")
    try:
        call("remote", "add", "far", tmp_path / "far")
        with Objects(here) as store:
            record = on_record(here, store, version_of(manifest), tmp_path / "bundle")
            assert (record.found, record.manifest) == ("remote far", manifest)
            assert len([p for p in (here / ".dvc/cache").rglob("*") if p.is_file()]) == len(manifest["files"]) + 1
            assert pick(here, store, manifest["run_id"]).md5 == data_of(here, store, manifest)[0].md5
        call("remote", "add", "s", "s3://team/x", "--endpoint-url", f"http://127.0.0.1:{free_port()}", "--default", "--secret",
             "access_key_id=a", "--secret", "secret_access_key=b")
        with Objects(here) as store, pytest.raises(BadInput, match=r"no such run: s \(s3://team/x\): cannot be reached"):
            on_record(here, store, "0" * 12, tmp_path / "none")
    finally:
        for path in (here / ".dvc/cache", here / "models"):
            shutil.rmtree(path, ignore_errors=True)
        (tmp_path / "far").rename(here / ".dvc/cache")
        (tmp_path / "models").rename(here / "models")
        (here / ".dvc/config").write_text(config)
        (here / ".dvc/config.local").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["challenger", "champion"])
def test_a_bundle_comes_from_the_folder_the_cache_or_mlflow(here, tmp_path, name):
    manifest = read_json(here / "models/champion/manifest.json")
    version, run = version_of(manifest), manifest["run_id"]
    places = ["models"] if name == "challenger" else ["models", ".dvc/cache"]
    aside = [(here / p, tmp_path / p.replace("/", "-")) for p in places]
    with Objects(here) as store:
        assert on_record(here, store, run, tmp_path / "x").found == "models/champion", "with the gate's word"
        for source, target in aside:
            source.rename(target)
        try:
            if name == "champion":
                (here / "models").mkdir()
                (here / "models/promotions.jsonl").write_text(json.dumps({"model": version, "run_id": run, "promoted": True}) + "\n")
            record = on_record(here, store, version, tmp_path / "bundle")
            assert record.found == ("DVC's cache" if name == "challenger" else f"artifact bundle of MLflow run {run}")
            assert "serves" in record.manifest and load_bundle(tmp_path / "bundle").version == version
        finally:
            shutil.rmtree(here / "models", ignore_errors=True)
            for source, target in aside:
                target.rename(source)


@pytest.mark.parametrize(("logged", "changes"), [
    ({}, {}), ({"model.rows": "200000", "data.csv": "None", "targets.horizons": "[1, 5]", "no.such": "1", "model.new": "2"}, {}),
    ({"model.device": "cuda", "targets.horizons": "[1]"}, {"model.device": "cuda", "targets.horizons": [1]}),
    ({"given.search.changes.model.rows": "100", "given.search.journal": "x", "model.rows": "100"}, {"model.rows": 100}),
    ({"model.rows": "200000.0"}, {})])
def test_changes_are_what_differs(logged, changes):
    values = {"model": {"rows": 200000, "device": "auto"}, "data": {"csv": None}, "targets": {"horizons": [1, 5]}}
    assert changes_of(logged, values) == changes


def test_packages_that_differ_are_named(root):
    text = (root / "requirements.lock").read_text()
    assert "numpy==" in text and not [p for p in other_packages(text) if p.startswith("numpy ")]
    assert any(p.startswith("numpy is ") and p.endswith(", was 0.1") for p in other_packages("numpy==0.1 \\\n    --hash=sha256:0\n"))


@pytest.mark.parametrize(("stages", "said"), [
    ({"train": {"cmd": "python train.py", "outs": ["models/challenger"]}}, "stage train is not run by `stockml stage`"),
    ({"train": {"cmd": "stockml stage train", "outs": ["models/other"]}}, "no stage makes models/challenger")])
def test_another_pipeline_is_refused(tmp_path, stages, said):
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    with pytest.raises(BadInput, match=said):
        steps(tmp_path)


def test_what_a_stage_is_given_comes_along(tmp_path):
    stage = {"cmd": "stockml stage train -p 'changes={\"model.rows\": \"100\"}' -p store=x.parquet", "outs": [{"models/challenger": {}}]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"ingest": {"cmd": "stockml stage ingest", "outs": ["data/bars.parquet"]},
                                                                  "late": stage | {"frozen": True}}}))
    [step] = steps(tmp_path)
    assert (step.name, step.parameters, step.frozen) == ("late", {"changes": '{"model.rows": "100"}', "store": "x.parquet"}, True)


def test_the_manifest_s_facts_are_compared_too(bundle_folder, tmp_path):
    shutil.copytree(bundle_folder, tmp_path / "old")
    manifest = read_json(tmp_path / "old/manifest.json")
    write_manifest(tmp_path / "old", manifest | {"who": "Grace", "trained_at": "then", "serves": {"market": {"1": "har"}}})
    same = compared(Record(tmp_path / "old", read_json(tmp_path / "old/manifest.json"), ""), bundle_folder)
    assert same["equal"] and same["facts"] == {}
    write_manifest(tmp_path / "old", manifest | {"trees": {"rounds": 16}})
    other = compared(Record(tmp_path / "old", read_json(tmp_path / "old/manifest.json"), ""), bundle_folder)
    assert not other["equal"] and other["facts"] == {"trees": {"was": {"rounds": 16}, "is": {"rounds": 15}}}
    facts = {**other, "model": "m", "found": "x", "commit": "c" * 40, "data": {"md5": "d" * 32, "as_of": ""}, "params": {}, "stages": {},
             "doubts": [], "packages": ["numpy is 2, was 1"], "not_rebuilt": [], "seconds": 1.}
    assert "manifest, trees: was {'rounds': 16}, is {'rounds': 15}" in verdict_text(facts)
    assert "other packages than then: numpy is 2, was 1" in verdict_text(facts)
