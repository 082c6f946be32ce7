"When a model is trained anew, what params.yaml then says, and what git keeps of it. The run itself: tests of `stockml replay`."

import os
import subprocess
from datetime import date

import pytest
import yaml

from stockml.config import BadInput, StockmlError, load_params
from stockml.monitor import Check
from stockml.retrain import reason_to_retrain, record_version, set_params

# when

LAST = date(2000, 5, 31)  # a Wednesday; 21 sessions later it is 2000-06-29, 63 sessions later 2000-08-29
NOW, WAITED, DUE = date(2000, 6, 1), date(2000, 6, 29), date(2000, 8, 29)


def one(monitor: str, state: str = "alarm") -> Check:
    return Check(monitor, state, 3.4, 2, 3, f"{monitor} said so")


@pytest.mark.parametrize(("today", "checks", "reason"), [
    (LAST, [], None),
    (NOW, [], None),
    (DUE, [], "63 sessions since the last training"),
    (date(2000, 8, 28), [], None),
    (date(2000, 9, 15), [], "75 sessions since the last training"),
    (LAST, [one("coverage")], None),
    (date(2000, 6, 28), [one("coverage")], None),
    (WAITED, [one("coverage")], "coverage is in alarm: coverage said so"),
    (WAITED, [one("data"), one("drift")], "drift is in alarm: drift said so"),
    (WAITED, [one("drift"), one("pinball")], "drift is in alarm: drift said so"),
    (WAITED, [one("coverage", "warn"), one("drift", "ok"), one("pinball", "unknown")], None),
    (WAITED, [one("data"), one("inputs"), one("model")], None),
    (DUE, [one("data")], "63 sessions since the last training"),
    (DUE, [one("drift")], "drift is in alarm: drift said so"),
    (date(1999, 1, 4), [one("drift")], None),
])
def test_reasons(today, checks, reason):
    assert reason_to_retrain(today, LAST, checks, load_params().retrain) == reason


# what from

@pytest.fixture
def params(tmp_path, root):
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    return tmp_path / "params.yaml"


def test_a_change_is_one_line_and_all_comments_stay(params):
    before = params.read_text().splitlines()
    set_params(params, {"data.as_of": "2020-05-29"})
    after = params.read_text().splitlines()
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [
        ('  as_of: "2026-08-05"       # nothing later is seen, by anything',
         '  as_of: "2020-05-29"       # nothing later is seen, by anything')]
    set_params(params, {"data.as_of": "2026-08-05"})
    assert params.read_text().splitlines() == before


def test_every_kind_of_value_is_read_back_as_it_was_given(params):
    given = {"data.tickers": ["ON", "NO", "TRUE", "1E5", "AAPL"], "targets.horizons": [1, 5, 21], "model.threads": 1,
             "bot.risk_budget": .05, "bot.ticker": "ON", "data.base_url": None, "gate.coverage_95": [.9, .99], "data.as_of": "2020-02-29",
             "retrain.on_alarm": []}
    set_params(params, given)
    read = load_params(params)
    found = {k: getattr(getattr(read, k.split(".")[0]), k.split(".")[1]) for k in given}
    plain = {k: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, date) else v for k, v in found.items()}
    assert plain == given
    assert yaml.safe_load(params.read_text())["data"]["tickers"] == ["ON", "NO", "TRUE", "1E5", "AAPL"]
    text = params.read_text()
    for comment in ("[]: all that the source lists", "sessions: a day, a week", "the saved model always runs on a CPU",
                    "null: start the bundled site"):
        assert comment in text
    set_params(params, {"model.seed": 18})  # and again, on what we wrote
    assert load_params(params).data.tickers == read.data.tickers


def test_nothing_to_change_changes_nothing(params):
    before = params.read_bytes()
    set_params(params, {})
    assert params.read_bytes() == before


@pytest.mark.parametrize(("changes", "said"), [
    ({"data.as_of": "1890-01-01"}, r"^params\.yaml: data.as_of"), ({"model.threads": 0}, r"^params\.yaml: model.threads"),
    ({"model.threads": "2"}, r"^params\.yaml: model.threads"), ({"data.tickers": [1]}, r"^params\.yaml: data.tickers"),
    ({"data.as_off": "2020-01-01"}, "no key data.as_off"), ({"nowhere.x": 1}, "no key nowhere.x"), ({"data": 1}, "no key data"),
    ({"model.seed": 18, "model.threads": -1}, "model.threads"),
])
def test_what_is_wrong_leaves_the_file_as_it_was(params, changes, said):
    before = params.read_bytes()
    with pytest.raises(BadInput, match=said) as e:
        set_params(params, changes)
    assert "\n" not in str(e.value)
    assert params.read_bytes() == before
    assert [p.name for p in params.parent.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("damage", ["data: [", "", "just: this\n", None])
def test_a_file_that_is_none_is_said_in_one_line(params, damage):
    params.unlink() if damage is None else params.write_text(damage)
    with pytest.raises(BadInput, match=r"params\.yaml") as e:
        set_params(params, {"data.as_of": "2020-05-29"})
    assert "\n" not in str(e.value)


# what git keeps

def git(folder, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A repository in which a training has just changed the params; dvc.lock is new to it."
    for key in [k for k in os.environ if k.startswith("GIT_")]:
        monkeypatch.delenv(key)
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml", "code.py", "notes"):
        (folder / name).write_text("1\n")
    for command in (["init", "-q"], ["config", "user.name", "Ada"], ["config", "user.email", "ada@example.com"], ["add", "."],
                    ["commit", "-qm", "first"]):
        git(folder, *command)
    return folder


def test_only_what_leads_to_the_model_is_committed(project):
    for name in ("params.yaml", "dvc.lock", "code.py", "notes", "new"):
        (project / name).write_text("2\n")
    git(project, "add", "code.py")
    commit = record_version(project, "Trained as of 2020-05-29\n\nwhy")
    assert commit == git(project, "rev-parse", "HEAD")
    assert git(project, "show", "--name-only", "--format=%B", commit).split() == [
        "Trained", "as", "of", "2020-05-29", "why", "dvc.lock", "params.yaml"]
    assert git(project, "show", "HEAD:dvc.lock") == "2"
    assert git(project, "status", "--porcelain").splitlines() == ["M  code.py", " M notes", "?? new"]


@pytest.mark.parametrize("around", [(), ("notes",), ("new",), ("notes", "new"), ("staged",), ("staged", "new")])
@pytest.mark.parametrize("lang", ["C", "de_DE.UTF-8"])
def test_nothing_new_is_no_error_whatever_else_has_changed(project, monkeypatch, around, lang):
    monkeypatch.setenv("LC_ALL", lang)
    for name in around:
        (project / name).write_text("2\n")
    if "staged" in around:
        git(project, "add", "staged")
    head, status = git(project, "rev-parse", "HEAD"), git(project, "status", "--porcelain")
    assert record_version(project, "x") == head
    assert (git(project, "rev-parse", "HEAD"), git(project, "status", "--porcelain")) == (head, status)


def test_the_project_is_the_one_that_was_named(project, tmp_path, monkeypatch):
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    assert record_version(project, "x") == git(project, "rev-parse", "HEAD")


def test_without_a_repository_or_without_git_there_is_no_commit(project, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "params.yaml").write_text("1\n")
    assert record_version(tmp_path, "x") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record_version(project, "x") is None


def test_what_git_says_against_it_is_one_line(project):
    (project / "params.yaml").write_text("2\n")
    hook = project / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho one >&2\necho not on a Friday >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(StockmlError, match=r"^git commit in .*: not on a Friday$"):
        record_version(project, "x")
