"Every version of the data can be visited, none is lost by it, and what is damaged is never used. Git, DVC and its remote are real."

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import call
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from processes import free_port
from projects import ROOT, environment

from stockml import versions
from stockml.bundle import FILES, write_manifest
from stockml.config import BadInput, StockmlError, load_params
from stockml.files import lock, read_json, sha256, write_json
from stockml.objects import Objects, digests, inside
from stockml.prices import read_bars, write_bars
from stockml.reproduce import data_of
from stockml.retrain import set_params
from stockml.schema import BAR_COLUMNS, BAR_KEY, PRICES
from stockml.versions import diff, pick, read_lock, restated

WHO = ("Ada", "Grace")
FACTS = {"models": ["har", "xgboost"], "horizons": [1], "quantiles": [.1, .5], "features": ["r_0"]}


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def dvc(folder: Path, *args: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *args], cwd=folder, env=environment(folder), capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(folder: Path) -> dict:
    "What DVC holds to be out of date, by stage; we are in that folder."
    with Objects(folder) as store:
        return store.repo.status()


def store_of(folder: Path) -> Path:
    return folder / "data/bars.parquet"


def made(folder: Path, bars: pd.DataFrame, day: str, who: str, run: str, tag: str | None = None) -> str:
    "A version of the data as of a day, a model trained from it, and the commit that holds both. Its SHA-256."
    set_params(folder / "params.yaml", {"data.as_of": day})
    write_bars(store_of(folder), bars)
    write_json(folder / "metrics/ingest.json", {"rows": len(bars), "tickers": bars["ticker"].nunique(), "as_of": day})
    (folder / "models/challenger").mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "models/challenger", {
        **FACTS, "as_of": day, "data_sha256": sha256(store_of(folder)), "run_id": run, "who": who, "trained_at": f"{day}T21:00:00+00:00",
        "files": {n: f"{n} of {run}" for n in FILES}})
    dvc(folder, "commit", "--force", "--quiet")
    git(folder, "add", "-A")
    git(folder, "-c", f"user.name={who}", "commit", "-q", "-m", f"Data as of {day}")
    if tag:
        git(folder, "tag", tag)
    return sha256(store_of(folder))


@pytest.fixture(scope="module")
def shop(tmp_path_factory, _panel) -> Path:
    "A project with three versions of its data: until May, until June, and June again after one stock was restated. Copy it to change it."
    folder = tmp_path_factory.mktemp("versions") / "shop"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    stages = {"ingest": {"cmd": "stockml stage ingest", "deps": ["code.py"], "params": ["data"],
                         "outs": [{"data/bars.parquet": {"persist": True}}], "metrics": ["metrics/ingest.json"]},
              "train": {"cmd": "stockml stage train", "deps": ["data/bars.parquet"], "outs": ["models/challenger"]}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (folder / "code.py").write_text("1\n")
    (folder / ".gitignore").write_text("/data/\n/metrics/\n/models/\n/runs/\n.*.lock\n")
    for args in (["init", "-q", "-b", "main"], ["config", "user.name", "Ada"], ["config", "user.email", "ada@example.com"]):
        git(folder, *args)
    dvc(folder, "init", "-q")
    dvc(folder, "config", "core.analytics", "false")
    may, june = (_panel[_panel["date"].between("2003-01-01", day)] for day in ("2003-05-30", "2003-06-30"))
    fixed = june.assign(adj_close=june["adj_close"].where(june["ticker"] != "KO", june["adj_close"] * 1.01))
    for rows, day, who, run, tag in ((may, "2003-05-30", "Ada", "a" * 32, "spring"), (june, "2003-06-30", "Grace", "b" * 32, None),
                                     (fixed, "2003-06-30", "Ada", "c" * 32, None)):
        made(folder, rows, day, who, run, tag)
    decision = {"time": "2003-06-01", "who": "Ada", "reasons": [], "as_of": "2003-05-30", "promoted": True, "run_id": "a" * 32,
                "model": versions.version_of({"files": {n: f"{n} of {'a' * 32}" for n in FILES}})}
    (folder / "models/promotions.jsonl").write_text(
        json.dumps(decision) + "\n" + json.dumps(decision | {"model": "0" * 12, "run_id": "b" * 32, "promoted": False}) + "\n")
    return folder


@pytest.fixture
def project(shop, tmp_path, monkeypatch) -> Path:
    "A copy of it; we are there."
    shutil.copytree(shop, tmp_path / "shop", symlinks=True)
    for key, value in environment(tmp_path / "shop").items():
        monkeypatch.setenv(key, value)
    for key in [k for k in os.environ if k.startswith(("STOCKML_", "MLFLOW_", "GIT_"))]:
        monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path / "shop")
    return tmp_path / "shop"


def logged(*args: str) -> list[dict]:
    return call("data", "log", "--json", *args).json()


def path_of(folder: Path, md5: str) -> Path:
    return folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def damage(path: Path) -> None:
    "One bit, and the mode by which DVC would trust it."
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    path.chmod(0o444)


def refused(answer, *words: str) -> None:
    "One line that says it, and exit code 2."
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), answer
    assert all(w in answer.err for w in words), answer.err


# the log

def test_the_log_tells_of_every_version(project):
    new, before, old = rows = logged()
    assert [r["as_of"] for r in rows] == ["2003-06-30", "2003-06-30", "2003-05-30"]
    assert [r["in_place"] for r in rows] == [True, False, False] and {r["state"] for r in rows} == {"here"}
    assert [r["commits"][0]["who"].split()[0] for r in rows] == ["Ada", "Grace", "Ada"]
    assert [r["commits"][0]["id"] for r in rows] == git(project, "log", "--format=%H").split()
    for r in rows:
        assert (r["md5"], r["sha256"]) == digests(path_of(project, r["md5"]))
        bars = read_bars(path_of(project, r["md5"]))
        assert (r["rows"], r["tickers"]) == (len(bars), 6)
    assert [[(m["run_id"][0], m["verdict"]) for m in r["models"]] for r in rows] == [
        [("c", "not judged")], [("b", "refused")], [("a", "promoted")]]
    text = call("data", "log", "--limit", "2").out
    assert text.startswith(f"* 2003-06-30  {new['rows']:,} rows, 6 tickers, MD5 {new['md5'][:8]}, SHA-256 {new['sha256'][:8]}  in place\n")
    assert f"  2003-06-30  {before['rows']:,} rows" in text and old["md5"][:8] not in text and "Grace <ada@example.com>: Data as of" in text


def test_what_is_not_committed_yet_comes_first(project, _panel):
    write_bars(store_of(project), _panel)
    dvc(project, "commit", "-q", "-f", "ingest")
    first, *others = logged()
    assert (first["commits"], first["in_place"], len(others)) == ([], True, 3)
    assert "not committed: git commit dvc.lock params.yaml keeps it" in call("data", "log").out
    refused(call("data", "checkout", "spring"), first["md5"][:8], "is in no commit yet: keep it by `git commit -m", "--force")
    assert call("data", "checkout", "spring", "--force").code == 0


def test_versions_of_other_branches_come_with_all(project, _panel):
    git(project, "checkout", "-q", "-b", "side")
    side = made(project, _panel, "2003-12-31", "Grace", "d" * 32)
    commit = git(project, "rev-parse", "HEAD")
    git(project, "checkout", "-q", "main")
    git(project, "merge", "-q", "-s", "ours", "side")  # its data was not taken
    assert side in {r["sha256"] for r in logged()}, "what was merged away is history too"
    git(project, "reset", "-q", "--hard", "HEAD^1")
    assert side not in {r["sha256"] for r in logged()} and logged("--all")[0]["sha256"] == side
    assert call("data", "checkout", "latest").code == 0, "the store in place is safe: its branch has it"
    assert call("data", "checkout", commit[:10]).code == 0
    assert sha256(store_of(project)) == side


@pytest.mark.parametrize("text", ["", "{", "stages:", "stages: []", "<<<<<<< HEAD\nstages: {}\n", "stages: {ingest: {outs: 3}}",
                                  "stages: {ingest: {outs: [{path: data/bars.parquet}]}}", "stages: {other: {outs: [{path: x, md5: y}]}}"])
def test_debris_is_no_lock(text):
    assert read_lock(text) is None


def test_a_history_with_debris_in_it_is_read(project):
    before = logged()
    for text in ("<<<<<<< HEAD\n", ""):
        (project / "dvc.lock").write_text(text)
        git(project, "commit", "-q", "-a", "-m", "broken", "--allow-empty")
    git(project, "rm", "-q", "dvc.lock")
    git(project, "commit", "-q", "-m", "gone")
    assert [r["md5"] for r in logged()] == [r["md5"] for r in before]


def test_a_project_below_the_top_of_its_repository(project, tmp_path, monkeypatch):
    (project / "inner").mkdir()
    for name in [n for n in git(project, "ls-files").splitlines() if not n.startswith(".dvc")]:
        (project / "inner" / name).parent.mkdir(parents=True, exist_ok=True)
        git(project, "mv", name, f"inner/{name}")
    git(project, "mv", ".dvc", "inner/.dvc")
    for name in ("data", "metrics", "models"):
        (project / name).rename(project / "inner" / name)
    git(project, "commit", "-q", "-a", "-m", "moved")
    monkeypatch.chdir(project / "inner")
    [now] = logged()
    assert now["in_place"] and now["state"] == "here"
    with Objects(project / "inner") as store:
        assert pick(project / "inner", store, "HEAD").md5 == now["md5"]


# which one

def test_a_version_is_found_by_all_its_names(project):
    new, before, old = logged()
    names = {"latest": new, "HEAD": new, "main": new, "HEAD~1": before, "HEAD~2": old, "spring": old, "2003-05-30": old,
             "a" * 32: old, "b" * 32: before, old["models"][0]["model"]: old, before["models"][0]["model"]: before}
    for r in (new, before, old):
        hashes = r["md5"], r["md5"][:8], r["sha256"], r["sha256"][:12], r["sha256"][:8].upper(), r["commits"][0]["id"][:9]
        names |= dict.fromkeys(hashes, r)
    with Objects(project) as store:
        for name, r in names.items():
            assert pick(project, store, name).md5 == r["md5"], name


@pytest.mark.parametrize(("name", "said"), [
    ("2003-06-30", "fits 2 data versions, name one by its MD5: "), ("1999-01-01", "is no data version: "), ("", "is no data version: "),
    ("f" * 32, "is no data version"), ("abc", "is no data version"), ("--all", "No such option"), ("v1\n2", "is no data version")])
def test_a_name_that_leads_nowhere_or_twice_is_said(project, name, said):
    refused(call("data", "checkout", name), said)


def test_the_latest_is_what_the_history_now_says(project, _panel):
    newest = logged()[0]["md5"]
    made(project, _panel, "2003-12-31", "Grace", "d" * 32)
    (project / "dvc.lock").write_text((project / "dvc.lock").read_text() + "# \n")
    git(project, "commit", "-q", "-a", "-m", "other\u2028ends\x0cof\u0085lines")
    git(project, "revert", "--no-edit", "HEAD", "HEAD~1")
    with Objects(project) as store:
        assert pick(project, store, "latest").md5 == newest


# visiting

def test_there_and_back_nothing_has_changed(project):
    before = {p: p.read_bytes() for p in (store_of(project), *(project / n for n in ("params.yaml", "dvc.lock", "metrics/ingest.json")))}
    said = call("data", "checkout", "spring")
    assert said.code == 0 and "params.yaml: data.as_of: 2003-06-30 -> 2003-05-30" in said.out
    assert sha256(store_of(project)) == logged()[2]["sha256"] and str(load_params().data.as_of) == "2003-05-30"
    assert read_json(project / "metrics/ingest.json")["as_of"] == "2003-05-30"
    assert git(project, "status", "--porcelain").split()[1::2] == ["dvc.lock", "params.yaml"]
    assert set(status(project)) == {"train"}, "the ingest is done, what comes after it is not"
    assert "ingest" not in dvc(project, "repro", "--dry").replace("Stage 'ingest' didn't change, skipping", "")
    assert call("data", "checkout", "latest").code == 0
    assert {p: p.read_bytes() for p in before} == before and git(project, "status", "--porcelain") == ""


def test_the_ingest_does_not_run_although_its_code_has_changed(project):
    (project / "code.py").write_text("2\n")
    assert "ingest" in status(project)
    assert call("data", "checkout", "spring").code == 0
    assert set(status(project)) == {"train"}
    assert call("data", "checkout", "latest").code == 0  # HEAD's own lock, which tells of the old code
    assert "ingest" in status(project)


def test_all_of_the_data_section_goes_along(project):
    set_params(project / "params.yaml", {"data.tickers": ["KO"], "model.seed": 18})
    changed = call("data", "checkout", "spring", "--json").json()["changed"]
    assert changed == {"as_of": ["2003-06-30", "2003-05-30"], "tickers": [["KO"], []]}
    assert (load_params().data.tickers, load_params().model.seed) == ((), 18)


def test_a_copy_leaves_the_project_as_it_is(project, tmp_path):
    write_bars(store_of(project), read_bars(store_of(project)).head(50))  # not kept anywhere
    assert call("data", "checkout", "spring", "--out", tmp_path / "old/bars.parquet").code == 0
    assert sha256(tmp_path / "old/bars.parquet") == logged()[2]["sha256"]
    refused(call("data", "checkout", "spring", "--out", store_of(project)), "is the project's own store")
    assert len(read_bars(store_of(project))) == 50 and git(project, "status", "--porcelain") == ""


def test_what_is_in_no_version_is_not_lost(project):
    write_bars(store_of(project), read_bars(store_of(project)).head(50))
    refused(call("data", "checkout", "spring"), "is in no version of the data: keep it by `dvc commit -f ingest && git commit", "--force")
    assert len(read_bars(store_of(project))) == 50 and str(load_params().data.as_of) == "2003-06-30"
    dvc(project, "commit", "-q", "-f", "ingest")
    git(project, "commit", "-q", "-m", "new data", "dvc.lock", "params.yaml")  # as the line said
    assert call("data", "checkout", "spring").code == 0
    assert call("data", "checkout", "latest").code == 0 and len(read_bars(store_of(project))) == 50


def test_the_only_copy_is_not_lost(project):
    path_of(project, logged()[0]["md5"]).unlink()
    refused(call("data", "checkout", "spring"), "is in no version of the data: keep it")
    assert logged()[0]["state"] == "lost"


def test_a_visit_that_was_cut_off_is_ended_by_the_same_command(project, monkeypatch):
    with monkeypatch.context() as m, pytest.raises(ZeroDivisionError):
        m.setattr(versions, "_put_entry", lambda *_: 1 / 0)
        cut_off(project)
    assert sha256(store_of(project)) == logged()[2]["sha256"]
    cut_off(project)
    assert set(status(project)) == {"train"}


def cut_off(project: Path) -> None:
    with Objects(project) as store:
        versions.checkout(project, pick(project, store, "spring"), store)


def test_not_while_the_pipeline_runs(project):
    with lock(project / "runs/.lock"):
        refused(call("data", "checkout", "spring"), "another run of the pipeline is under way")


# where the bytes are

def test_a_damaged_object_is_named_and_never_used(project):
    old = logged()[2]
    damage(path := path_of(project, old["md5"]))
    for args in (["checkout", "spring"], ["checkout", "spring", "--out", project / "x"], ["diff", "spring"]):
        refused(call("data", *args), str(path), "is damaged", "was not used")
    assert not (project / "x").exists() and sha256(store_of(project)) == logged()[0]["sha256"]
    assert [r["state"] for r in logged()] == ["here", "here", "damaged"] and "DAMAGED" in call("data", "log").out
    assert path.exists(), "left for whoever wants to know"


def test_an_object_that_is_nowhere_is_said(project):
    old = logged()[2]
    path_of(project, old["md5"]).unlink()
    refused(call("data", "checkout", "spring"), "not in DVC's cache, and this project has no default remote")
    row = logged()[2]
    assert (row["state"], row["sha256"], row["rows"]) == ("lost", None, old["rows"]), "the small report of the ingest still tells"
    assert "NOT in the cache, nor in a remote" in call("data", "log").out


def test_an_object_comes_from_the_remote_or_is_refused(project, tmp_path):
    dvc(project, "remote", "add", "--default", "far", str(tmp_path / "far"))
    shutil.copytree(project / ".dvc/cache", tmp_path / "far")
    old, before = logged()[2]["md5"], logged()[1]["md5"]
    for md5 in (old, before):
        path_of(project, md5).unlink()
    assert [r["state"] for r in logged()] == ["here", "remote", "remote"]
    assert call("data", "checkout", "spring").code == 0
    assert digests(store_of(project))[0] == old and path_of(project, old).exists()
    damage(tmp_path / "far/files/md5" / before[:2] / before[2:])
    refused(call("data", "checkout", before), "what remote far has is damaged")
    assert not path_of(project, before).exists(), "DVC would trust it"
    with (project / ".dvc/config").open("a") as f:
        f.write("    verify = true\n")  # as `stockml remote add` sets it: DVC drops what is damaged without a word
    refused(call("data", "checkout", before), "what remote far has is damaged", "stockml push --again")
    manifest = {"data_sha256": "0" * 64, "as_of": "2003-06-30"}
    with Objects(project) as store, pytest.raises(BadInput, match="what remote far has is damaged"):
        data_of(project, store, manifest)
    assert not path_of(project, before).exists()
    (tmp_path / "far/files/md5" / before[:2] / before[2:]).unlink()
    refused(call("data", "checkout", before), "neither in DVC's cache nor in remote far")
    shutil.rmtree(tmp_path / "far")
    assert logged()[1]["state"] in ("lost", "unknown")


def test_a_model_that_only_the_remote_has_leads_to_its_data(project, tmp_path):
    "As on a fresh clone. What is damaged in the cache is read in the remote; what is wrong with that is said."
    old, far = logged()[2], tmp_path / "far"
    [model] = old["models"]
    dvc(project, "remote", "add", "--default", "far", str(far))
    found = {v.md5: v for v in versions.versions(project)}[old["md5"]]
    with Objects(project) as store:
        folder, manifest = store.path(found.models[0]), store.path(inside(store, found.models[0])["manifest.json"])
    places = [p.relative_to(project / ".dvc/cache") for p in (folder, manifest)]
    shutil.copytree(project / ".dvc/cache", far)
    for spoil in (damage, Path.unlink):
        for path in (folder, manifest):
            spoil(path)
        for name in (model["model"], model["run_id"]):
            with Objects(project) as store:
                assert pick(project, store, name).md5 == old["md5"]
    assert not folder.exists(), "a list alone would pass for a whole folder"
    refused(call("data", "checkout", "0" * 12), "'000000000000' is no data version")
    (far / places[1]).chmod(0o644)
    (far / places[1]).write_text("no JSON")
    refused(call("data", "checkout", model["model"]), "is no data version", "what remote far has is damaged")
    far.rename(tmp_path / "gone")
    refused(call("data", "checkout", model["model"]), "is no data version", f"far ({far}): ")


def test_a_remote_that_does_not_answer_is_said_at_once(project):
    old = logged()[2]["md5"]
    path_of(project, old).unlink()
    call("remote", "add", "far", "s3://team/x", "--endpoint-url", f"http://127.0.0.1:{free_port()}", "--secret", "access_key_id=a",
         "--secret", "secret_access_key=b")
    begun = time.monotonic()
    assert [r["state"] for r in logged()] == ["here", "here", "unknown"]
    done = call("data", "checkout", "spring")
    assert (done.code, done.err.count("\n")) == (1, 1) and "far (s3://team/x): cannot be reached" in done.err
    with Objects(project) as store, pytest.raises(StockmlError, match="cannot be reached"):
        data_of(project, store, {"data_sha256": "0" * 64, "as_of": "2003-05-30"})
    assert time.monotonic() - begun < 10
    (project / ".dvc/config").write_text("[core\n")
    refused(call("data", "log"), "no DVC project that can be read", "config file error")


@pytest.mark.parametrize(("gone", "said"), [(".git", "git"), (".dvc", "no DVC project")])
def test_without_git_or_dvc_there_are_no_versions(project, gone, said):
    shutil.rmtree(project / gone)
    refused(call("data", "log"), said)


# what differs

CELL = st.floats(1, 1000, width=32) | st.none()


@st.composite
def stores(draw) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Two stores that share some bars."
    days = pd.to_datetime(["2003-06-02", "2003-06-03", "2003-06-04", "2003-06-06"])
    keys = [(t, d) for t in ("A", "B", "C", "D") for d in days]
    out = []
    for _ in range(2):
        mine = draw(st.lists(st.sampled_from(keys), min_size=1, unique=True).map(sorted))
        rows = [(*k, draw(CELL), draw(st.sampled_from([1., 2.])), draw(st.sampled_from([None, 5, 6]))) for k in mine]
        table = pd.DataFrame(rows, columns=[*BAR_KEY, "high", "close", "volume"])
        kinds = {"ticker": str, "date": "datetime64[ms]", "high": float, "volume": "Int64"}
        out.append(table.assign(open=np.nan, low=np.nan, adj_close=1.).astype(kinds)[BAR_COLUMNS])
    return tuple(out)


@settings(max_examples=8, phases=[p for p in Phase if p is not Phase.shrink])  # files: to shrink takes minutes
@given(pair=stores())
def test_the_difference_is_that_of_the_rows(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("diff")
    paths = [folder / "a.parquet", folder / "b.parquet"]
    for table, path in zip(pair, paths, strict=True):
        table.to_parquet(path, index=False)
    a, b = ({tuple(r[:2]): r[2:] for r in t.astype(object).where(t.notna(), None).itertuples(index=False)} for t in pair)
    found, both = diff(*paths), set(a) & set(b)
    assert (found["before"], found["after"], found["added"], found["gone"]) == (len(a), len(b), len(set(b) - set(a)), len(set(a) - set(b)))
    assert found["restated"] == sum(a[k] != b[k] for k in both)
    assert found["values"] == len(found["cells"]) == sum(x != y for k in both for x, y in zip(a[k], b[k], strict=True))
    assert json.dumps(diff(*paths, rows=3), default=str) == json.dumps(found, default=str), "in pieces as at once"
    sizes = [np.inf if np.isnan(c["change"]) else abs(c["change"]) for c in found["cells"]]
    assert sizes == sorted(sizes, reverse=True)


def test_restated_prices_by_how_much(project):
    facts = call("data", "diff", "HEAD~1", "--json").json()
    assert (facts["added"], facts["gone"]) == (0, 0)
    assert {c["ticker"] for c in facts["cells"]} == {"KO"} and {c["column"] for c in facts["cells"]} == {"adj_close"}
    assert all(c["change"] == pytest.approx(.01) for c in facts["cells"])
    ko = next(t for t in facts["tickers"] if t["ticker"] == "KO")
    assert (ko["restated"], ko["restated_to"], ko["largest"]) == (ko["before"], "2003-06-30", pytest.approx(.01))
    text = call("data", "diff", "HEAD~1", "latest", "--limit", "2").out
    assert "5 tickers the same" in text and text.count("(+1.00%)") == 2
    added = call("data", "diff", "spring", "HEAD~1").out
    assert "126 added, 0 gone, 0 restated" in added and "2003-06-02 2003-06-30" in added


def test_gaps_and_values_that_came(tmp_path, panel):
    bars = panel[panel["ticker"].isin(["AAPL", "GE"]) & (panel["date"] >= "2003-11-01")].reset_index(drop=True)
    new = bars.assign(high=bars["high"].mask(bars.index == 7)).drop(index=5)
    for name, table in (("a", bars), ("b", new)):
        table.to_parquet(tmp_path / f"{name}.parquet", index=False)
    facts = diff(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert (facts["gone"], facts["gaps_before"], facts["gaps_after"]) == (1, 0, 1)
    assert "(went)" in versions.diff_text(facts)
    assert "(came)" in versions.diff_text(diff(tmp_path / "b.parquet", tmp_path / "a.parquet"))


def test_what_is_no_store_is_said(project, tmp_path):
    store_of(project).write_bytes(b"no Parquet")
    refused(call("data", "diff", "spring"), "not a readable price store")
    with pytest.raises(BadInput, match="not a readable price store"):
        diff(tmp_path / "nothing.parquet", tmp_path / "nothing.parquet")


def test_restated_needs_no_prices_that_are_there():
    table = pd.DataFrame({"ticker": ["KO"], "date": pd.to_datetime(["2003-01-02"]), **{c: [1.] for c in PRICES}, "volume": [1]})
    assert restated(table.merge(table, on=BAR_KEY, suffixes=("", "_new"))).empty
