"Notebooks under git for real: what `make hooks` installs, what a diff shows, what a merge makes of two sides."

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from projects import BIN, ROOT

FILES = [".ci/hooks", ".ci/notebook.py", ".gitattributes", ".gitconfig", ".pre-commit-config.yaml", "Makefile", "pyproject.toml",
         "settings.ini"]
NOTEBOOK = "nbs/00_config.ipynb"
FIRST, SECOND, THIRD = 3, 7, 11  # cells with code


class Repo:
    "A repository with one notebook, of someone who has what `make setup` makes."

    def __init__(self, folder: Path, files=FILES):
        self.folder, self.notebook = folder, folder / NOTEBOOK
        for name in (*files, NOTEBOOK):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        (folder / ".gitignore").write_text(".venv\n*.pyc\n")
        home = folder.parent / "home"
        home.mkdir(exist_ok=True)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "PRE_COMMIT")) and k != "CI"}
        self.env = clean | {"HOME": str(home), "PRE_COMMIT_HOME": str(home / "cache"), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.com")
        self.commit("begin")

    def run(self, *command: str, ok: bool = True, **env: str) -> subprocess.CompletedProcess:
        done = subprocess.run(command, cwd=self.folder, env=self.env | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False, timeout=120)
        assert not ok or done.returncode == 0, done.stdout
        return done

    def git(self, *args: str, ok: bool = True) -> str:
        return self.run("git", *args, ok=ok).stdout

    def make(self, target: str, ok: bool = True, **env: str) -> str:
        return self.run("make", "-s", "-o", "setup", f"VENV={sys.prefix}", target, ok=ok, **env).stdout

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--no-verify", "-m", message)

    def change(self, **cells: dict) -> None:
        "Lay fields over cells: c3={'source': [...]}."
        book = json.loads(self.notebook.read_text())
        for name, fields in cells.items():
            book["cells"][int(name[1:])] |= fields
        self.notebook.write_text(json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n")

    def sides(self, ours: dict, theirs: dict, message: str = "theirs") -> None:
        "The branch `theirs`, and one more commit here."
        self.git("checkout", "-qb", "theirs")
        self.change(**theirs)
        self.commit(message)
        self.git("checkout", "-q", "main")
        self.change(**ours)
        self.commit("ours")

    def cells(self) -> list:
        "The cells of a notebook that is valid."
        book = nbformat.reads(self.notebook.read_text(), as_version=4)
        nbformat.validate(book)
        return book.cells


def said(text: str) -> dict:
    "A cell's outputs."
    return {"outputs": [{"output_type": "stream", "name": "stdout", "text": [text]}]}


def source(*lines: str) -> dict:
    return {"source": [*(line + "\n" for line in lines[:-1]), lines[-1]]}


@pytest.fixture
def repo(tmp_path) -> Repo:
    "With git told, but without the hook."
    made = Repo(tmp_path / "repo")
    (made.folder / ".git/stockml").mkdir()
    for name in (".gitconfig", ".ci/notebook.py"):
        shutil.copy(made.folder / name, made.folder / ".git/stockml")
    made.git("config", "include.path", "stockml/.gitconfig")
    return made


def test_outputs_are_settled_and_other_cells_merged(repo):
    repo.sides({f"c{FIRST}": source("a = 1"), f"c{SECOND}": said("ours\n")}, {f"c{THIRD}": source("b = 1"), f"c{SECOND}": said("theirs\n")})
    repo.git("merge", "theirs")
    cells = repo.cells()
    assert (cells[FIRST].source, cells[THIRD].source, cells[SECOND].outputs[0].text) == ("a = 1", "b = 1", "ours\n")
    before = repo.notebook.read_bytes()
    repo.run("nbdev_clean", "--fname", "nbs")
    assert repo.notebook.read_bytes() == before, "what a merge writes is clean"


def test_both_changed_one_cell(repo):
    repo.sides({f"c{FIRST}": source("a = 'ours'")}, {f"c{FIRST}": source("a = 'theirs'")})
    told = repo.git("merge", "theirs", ok=False)
    assert f"{NOTEBOOK}: both sides changed the same cells" in told
    assert f"git add {NOTEBOOK}" in told
    text = repo.cells()[FIRST].source
    assert text.index("<<<<<<< ") < text.index("a = 'ours'") < text.index("=======") < text.index("a = 'theirs'") < text.index(">>>>>>> ")
    assert repo.git("diff", "--name-only", "--diff-filter=U").split() == [NOTEBOOK]
    repo.git("add", "-A")
    assert "no notebook holds both versions" in repo.run("pre-commit", "run", "conflicts", ok=False).stdout
    repo.change(**{f"c{FIRST}": source("a = 'both'")})
    repo.git("add", "-A")
    repo.run("pre-commit", "run", "conflicts")


def test_rebase_of_a_commit_whose_message_has_an_apostrophe(repo):
    repo.sides({f"c{FIRST}": source("a = 'ours'")}, {f"c{FIRST}": source("a = 'theirs'")}, "it isn't $(touch hit) 'quiet'")
    repo.git("checkout", "-q", "theirs")
    assert "CONFLICT" in repo.git("rebase", "main", ok=False)
    text = repo.cells()[FIRST].source
    assert "a = 'ours'" in text
    assert "a = 'theirs'" in text
    assert not (repo.folder / "hit").exists()


@pytest.mark.parametrize("spoil", ["no nbdime", "no notebook"])
def test_what_cannot_be_merged_by_cells_is_merged_as_text(repo, spoil):
    repo.sides({f"c{FIRST}": source("a = 'ours'")}, {f"c{FIRST}": source("a = 'theirs'")})
    if spoil == "no nbdime":
        repo.env["PATH"] = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not Path(p, "nbmerge").exists())
    if spoil == "no notebook":
        repo.notebook.write_text("{" + repo.notebook.read_text())
        repo.commit("spoilt")
    told, text = repo.git("merge", "theirs", ok=False), repo.notebook.read_text()
    assert "CONFLICT" in told
    assert "<<<<<<<" in text
    assert "a = 'ours'" in text
    assert "a = 'theirs'" in text
    assert "merged as text" in told
    assert "a = 'theirs'" in repo.git("diff")


def test_diff_shows_what_matters(repo):
    noise = {"execution_count": 7, "metadata": {"collapsed": True}}
    repo.change(**{f"c{FIRST}": {**noise, "id": "another"}})
    assert repo.git("diff") == ""
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBORw0" * 999, "text/plain": ["<Figure>"]}}
    repo.change(**{f"c{FIRST}": {"metadata": {"tags": ["parameters"]}}, f"c{SECOND}": {"outputs": [picture]},
                   f"c{THIRD}": source("new = 1")})
    shown = repo.git("diff")
    assert "-── code\n+── code parameters\n" in shown
    assert "+new = 1\n" in shown
    assert "+→ image/png " in shown
    assert "+→ <Figure>\n" in shown
    assert len(shown) < 3000
    repo.commit("changed")
    assert "+new = 1\n" in repo.git("log", "-p", "-1")


def test_git_runs_nothing_of_a_branch_that_is_only_looked_at(tmp_path):
    repo = Repo(tmp_path / "repo")
    repo.make("git")
    repo.sides({f"c{FIRST}": source("a = 1")}, {f"c{THIRD}": source("b = 1")})
    repo.git("checkout", "-q", "theirs")
    (repo.folder / ".ci/notebook.py").write_text("import pathlib\npathlib.Path('hit').touch()\n")
    (repo.folder / ".gitconfig").write_text("[core]\n\tfsmonitor = touch hit; false\n[alias]\n\tdiff = !touch hit\n")
    repo.commit("a trap")
    repo.git("status")
    assert "+b = 1" in repo.git("diff", "main", "--", NOTEBOOK)
    repo.git("merge", "--no-edit", "main")
    assert [repo.cells()[n].source for n in (FIRST, THIRD)] == ["a = 1", "b = 1"]
    assert not (repo.folder / "hit").exists()


def test_installed_once_and_kept(tmp_path):
    repo = Repo(tmp_path / "repo")
    hook = repo.folder / ".git/hooks/pre-commit"
    assert repo.make("git", CI="true") == ""
    assert not hook.exists()
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho a hook of my own\n")
    hook.chmod(0o755)
    told = repo.make("git")
    assert "compared and merged cell by cell" in told
    assert "migration mode" in told
    assert repo.git("config", "merge.notebook.driver").startswith("f() {")
    assert repo.make("git") + repo.make("hooks") == "", "nothing is left to do"
    repo.git("config", "--add", "include.path", "../.gitconfig")  # of an earlier version
    (repo.folder / ".git/stockml/notebook.py").write_text("old")
    assert repo.make("git") == ""
    assert repo.git("config", "--get-all", "include.path") == "stockml/.gitconfig\n"
    assert (repo.folder / ".git/stockml/notebook.py").read_bytes() == (ROOT / ".ci/notebook.py").read_bytes()
    (repo.folder / "note.txt").write_text("x")
    repo.git("add", "-A")
    assert "a hook of my own" in repo.git("commit", "-m", "note")


def test_where_nothing_can_be_installed(tmp_path):
    repo = Repo(tmp_path / "repo")
    repo.git("config", "core.hooksPath", "/elsewhere")
    assert "core.hooksPath is /elsewhere" in repo.make("git")
    assert repo.run("make", "-s", "-o", "setup", f"VENV={sys.prefix}", "hooks", ok=False).returncode == 2
    assert not (repo.folder / ".git/hooks/pre-commit").exists()
    repo.git("config", "--unset", "core.hooksPath")
    shutil.rmtree(repo.folder / ".git/hooks")
    (repo.folder / ".git/hooks").write_text("no folder")
    assert "could not be installed here" in repo.make("git")
    inner = repo.folder / "vendored"
    shutil.copytree(repo.folder / ".ci", inner / ".ci")
    assert "belongs to another repository" in repo.run(str(inner / ".ci/hooks"), ok=False).stdout
    shutil.rmtree(repo.folder / ".git")
    assert repo.make("git") == ""
    assert "no git repository here" in repo.make("hooks", ok=False)


def test_commit_is_cleaned_first(tmp_path):
    repo = Repo(tmp_path / "repo")
    stage = repo.folder / "pipelines/ingest.ipynb"
    stage.parent.mkdir()
    shutil.copy(ROOT / "pipelines/ingest.ipynb", stage)
    (repo.folder / ".venv").symlink_to(sys.prefix)
    repo.commit("a stage")
    repo.make("hooks")
    repo.change(**{f"c{FIRST}": {"execution_count": 7, "metadata": {"collapsed": True}}})
    book = json.loads(stage.read_text())
    book["cells"][1]["outputs"] = said("x")["outputs"]
    stage.write_text(json.dumps(book))
    assert "files were modified by this hook" in repo.git("commit", "-am", "work", ok=False)
    assert repo.notebook.read_text() == (ROOT / NOTEBOOK).read_text()
    assert stage.read_text() == (ROOT / "pipelines/ingest.ipynb").read_text()
    assert (repo.folder / "stockml/config.py").read_text() == (ROOT / "stockml/config.py").read_text()


def test_linked_worktree_borrows_the_environment(tmp_path):
    repo = Repo(tmp_path / "repo")
    (repo.folder / ".venv").symlink_to(sys.prefix)
    repo.git("worktree", "add", "-q", str(tmp_path / "linked"), "-b", "linked")
    call = ["python3", ".ci/notebook.py", "run"]
    env = repo.env | {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([*call, "ruff", "--version"], cwd=tmp_path / "linked", env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ruff ")
    done = subprocess.run([*call, "nosuch"], cwd=tmp_path / "linked", env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (127, "no nosuch here: make setup\n")
