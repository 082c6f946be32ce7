import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from stockml.files import sha256
from stockml.lineage import code_version, now, provenance, who


@pytest.fixture
def repository(tmp_path, monkeypatch):
    "A project of its own under git, with one commit by Ada."
    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (tmp_path / "params.yaml").write_text("seed: 17\n")
    (tmp_path / "code.py").write_text("x = 1\n")
    git("init", "-q")
    git("config", "user.name", "Ada Lovelace")
    git("config", "user.email", "ada@example.com")
    git("add", "params.yaml", "code.py")
    git("commit", "-qm", "first")
    return git


def test_who_is_whom_git_would_name(repository):
    assert who() == "Ada Lovelace <ada@example.com>"
    repository("config", "--unset", "user.email")
    assert who() == "Ada Lovelace"


def test_who_without_git_is_the_login_name(monkeypatch, tmp_path):
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "ada")
    assert who() == "ada"
    assert code_version() == {"commit": None, "dirty": None}


def test_now_is_utc_to_the_second():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", now())
    assert abs(datetime.fromisoformat(now()) - datetime.now(UTC)) < timedelta(seconds=5)


def test_changed_file_makes_the_tree_dirty(repository, tmp_path):
    head = repository("rev-parse", "HEAD")
    assert code_version() == {"commit": head, "dirty": False}
    (tmp_path / "params.yaml").write_text("seed: 18\n")
    assert code_version() == {"commit": head, "dirty": False}, "parameters have a hash of their own"
    (tmp_path / "code.py").write_text("x = 2\n")
    assert code_version() == {"commit": head, "dirty": True}
    (tmp_path / "dvc.lock").write_text("what a run leaves")
    repository("commit", "-qam", "second")
    assert code_version() == {"commit": repository("rev-parse", "HEAD"), "dirty": False}


def test_new_module_makes_the_tree_dirty(repository, tmp_path):
    (tmp_path / "module.py").write_text("x = 1\n")
    assert code_version()["dirty"] is True


def test_outside_a_repository_nothing_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_version() == {"commit": None, "dirty": None}


def test_repository_without_a_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert code_version() == {"commit": None, "dirty": None}


def test_provenance_names_data_and_params_by_content(repository, tmp_path):
    data = tmp_path / "bars"
    data.write_text("prices")
    facts = provenance(data)
    assert list(facts) == ["who", "trained_at", "commit", "dirty", "data_sha256", "params_sha256"]
    assert facts["data_sha256"] == sha256(data)
    assert facts["params_sha256"] == sha256(tmp_path / "params.yaml")
    (tmp_path / "other.yaml").write_text("seed: 1\n")
    assert provenance(data, tmp_path / "other.yaml")["params_sha256"] == sha256(tmp_path / "other.yaml")
