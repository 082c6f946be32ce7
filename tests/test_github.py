"What the workflows tell people on GitHub: each thing once, then kept up to date."

import os
import subprocess
import sys

import pytest
from hub import hub

from stockml.compare import MARK


@pytest.fixture
def github():
    with hub() as made:
        yield made


def tell(root, github, what, folder, code=0, **env) -> str:
    "Run it as a job does, through make."
    env = {k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")} | github.env(FOLDER=str(folder), **env)
    done = subprocess.run(["make", "--no-print-directory", what], cwd=root, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(code), done.stderr
    return done.stdout + done.stderr


def test_a_pull_request_has_one_comment(root, github, tmp_path):
    github.add(github.comments, f"{MARK}\nI quote the bot", kind="User", issue=7)
    for _ in range(120):  # a long discussion: ours is on the second page
        github.add(github.comments, "hm", issue=7)
    github.add(github.comments, f"{MARK}\nof another pull request", issue=8)
    for text in ("first", "second"):
        (tmp_path / "comment.md").write_text(f"{MARK}\n\n{text} `$(touch x)` | <b>\n")
        tell(root, github, "tell-pull", tmp_path, PR="7")
    ours = [c["body"] for c in github.comments if c["issue"] == 7 and c["body"].startswith(MARK) and c["user"]["type"] == "Bot"]
    assert len(ours) == 1
    assert "second `$(touch x)` | <b>" in ours[0]
    assert "https://github.com/ada/stockml/actions/runs/17" in ours[0]
    assert github.comments[0]["body"].endswith("I quote the bot")
    assert github.comments[121]["body"].endswith("of another pull request")


def test_a_comment_is_not_longer_than_github_takes(root, github, tmp_path):
    (tmp_path / "comment.md").write_text(f"{MARK}\n" + "x" * 100_000)
    tell(root, github, "tell-pull", tmp_path, PR="7")
    assert len(github.comments[0]["body"]) < 65_536


def test_alarms_are_one_issue(root, github, tmp_path):
    alarms = tmp_path / "alarms.md"
    alarms.write_text("")
    assert "No alarm" in tell(root, github, "tell-alarms", tmp_path, RESULT="success")
    assert github.issues == []
    for night in ("**Drift**: 20 of 45", "**Gate**: refused"):
        alarms.write_text(f"- {night}\n")
        tell(root, github, "tell-alarms", tmp_path, RESULT="success")
    [issue] = github.issues
    assert issue["labels"] == ["alarm"]
    assert "**Gate**: refused" in issue["body"] and "Drift" not in issue["body"]
    issue["state"] = "closed"  # by a person
    tell(root, github, "tell-alarms", tmp_path / "nothing came", RESULT="failure")
    assert len(github.issues) == 2
    assert "did not succeed** (failure)" in github.issues[1]["body"]
    tell(root, github, "tell-alarms", tmp_path / "nothing came", RESULT="cancelled")
    assert github.issues[1]["state"] == "open" and "(failure)" in github.issues[1]["body"]
    alarms.write_text("")
    tell(root, github, "tell-alarms", tmp_path, RESULT="success")
    assert [i["state"] for i in github.issues] == ["closed"] * 2
    tell(root, github, "tell-alarms", tmp_path / "nothing came", RESULT="cancelled")
    assert len(github.issues) == 2


def test_a_training_is_proposed_as_a_pull_request(root, github, tmp_path):
    for name in ("params.yaml", "dvc.lock"):
        (tmp_path / name).write_text(f"{name} of this run\n")
    tell(root, github, "propose", tmp_path)
    [pull] = github.pulls
    assert (pull["head"], pull["base"]) == ("train-17", "main")
    [tree], [commit], [ref] = ([v for k, v in github.git.items() if k.startswith(f"git/{kind}/")] for kind in ("trees", "commits", "refs"))
    assert {f["path"]: f["content"] for f in tree["tree"]} == {n: f"{n} of this run\n" for n in ("params.yaml", "dvc.lock")}
    assert commit["parents"] == ["0" * 40]
    assert ref["ref"] == "refs/heads/train-17"


@pytest.mark.parametrize(("env", "message"), [({"GITHUB_TOKEN": "stolen"}, "401"), ({"GITHUB_REPOSITORY": "ada/other"}, "404"),
                                              ({"GITHUB_API_URL": "http://127.0.0.1:9"}, "refused")])
def test_what_github_refuses_is_one_line(root, github, tmp_path, env, message):
    (tmp_path / "alarms.md").write_text("- **Drift**\n")
    said = tell(root, github, "tell-alarms", tmp_path, code=1, **env)
    assert [line for line in said.splitlines() if line.startswith("github: ") and message in line]
    assert "Traceback" not in said


def test_it_needs_nothing_but_python(root):
    code = "import sys; sys.path.insert(0, '.ci'); import github; print([m for m in sys.modules if 'stockml' in m])"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
