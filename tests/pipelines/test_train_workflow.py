"""train.yml, run by act, on this machine and without containers.

GitHub's own actions cannot be had offline: small ones that do the same with folders stand in for them. What the jobs run is real: make,
the pipeline of a small project, and a GitHub that is asked over HTTP.
"""

import os
import shutil
import subprocess
from pathlib import Path

import projects
import pytest
import yaml
from hub import TOKEN, Hub, hub
from processes import tool

STEPS = {
    "actions/checkout": 'cp -a "$PROJECT/." .',
    "actions/setup-python": "true",
    "actions/upload-artifact": """mkdir -p "$STORE/$NAME"
        for path in $FILES; do case "$path" in */) cp -r "$path." "$STORE/$NAME";; *) cp "$path" "$STORE/$NAME";; esac; done""",
    "actions/download-artifact": 'mkdir -p "$FILES" && cp -r "$STORE/$NAME/." "$FILES"',
}
SAME = {"tickers": "AAPL,BAC,GE,KO,PFE,XOM", "as_of": "2004-12-31", "changes": "bot.risk_budget=0.02 drift.share=0.3"}


@pytest.fixture(scope="module")
def bench(project, tmp_path_factory) -> Path:
    "A folder with a project that has been run, stand-ins for the actions, and a `make` that takes the environment that is there."
    folder = tmp_path_factory.mktemp("act")
    shutil.copytree(project, folder / "project", symlinks=True)
    for name, step in STEPS.items():
        env = {"NAME": "${{ inputs.name }}", "FILES": "${{ inputs.path }}"}
        inputs = {k: {"required": False} for k in ("name", "path", "python-version", "persist-credentials", "if-no-files-found")}
        action = {"name": name, "inputs": inputs, "runs": {"using": "composite", "steps": [{"run": step, "shell": "bash", "env": env}]}}
        (folder / name).mkdir(parents=True)
        (folder / name / "action.yml").write_text(yaml.safe_dump(action))
    (folder / "bin").mkdir()
    (folder / "bin/make").write_text(f'#!/bin/sh\nexec {tool("make")} -o setup VENV={projects.BIN.parent} "$@"\n')
    (folder / "bin/make").chmod(0o755)
    return folder


def act(bench: Path, github: Hub, **inputs: str) -> tuple[int, str]:
    "Start the workflow as a person does, with these values in its form."
    flow = yaml.safe_load((bench / "project/.github/workflows/train.yml").read_text())
    used = {step["uses"] for job in flow["jobs"].values() for step in job["steps"] if "uses" in step}
    command = [tool("act"), "workflow_dispatch", "-W", ".github/workflows/train.yml", "-P", "ubuntu-latest=-self-hosted",
               "--no-skip-checkout", "--action-offline-mode", "-s", f"GITHUB_TOKEN={TOKEN}"]
    for name in used:
        if name.partition("@")[0] in STEPS:
            command += ["--local-repository", f"{name}={bench / name.partition('@')[0]}"]
    here = github.env(STORE=str(bench / "store"), PROJECT=str(bench / "project"))
    command += [x for k, v in here.items() if k not in ("GITHUB_TOKEN", "GITHUB_RUN_ID") for x in ("--env", f"{k}={v}")]
    command += [x for k, v in inputs.items() for x in ("--input", f"{k}={v}")]
    path = f"{bench / 'bin'}:{projects.BIN}:{os.environ['PATH']}"
    env = projects.environment(bench / "project") | {"HOME": str(bench / "home"), "PATH": path}
    done = subprocess.run(command, cwd=bench / "project", env=env, capture_output=True, text=True, timeout=600, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_training_keeps_its_reports_and_is_proposed(bench):
    with hub() as github:
        code, said = act(bench, github, **SAME, propose="true")
    assert code == 0, said[-5000:]
    assert "nothing had changed" in said  # the values are those of the project, so that this test is quick
    assert "No alarm." in said and "no DVC remote" in said
    reports = bench / "store/reports"
    assert "reports/index.html" in (reports / "index.html").read_text()
    assert {"index.html", "drift.html", "alarms.md"} <= {p.name for p in (reports / "reports").iterdir()}
    assert (reports / "runs/backtest.ipynb").exists() and (reports / "metrics/evaluate.json").exists()
    assert github.issues == []
    assert github.pulls[0]["base"] == "main"
    [tree] = [v for k, v in github.git.items() if k.startswith("git/trees/")]
    sent = {f["path"]: yaml.safe_load(f["content"]) for f in tree["tree"]}
    assert sent["params.yaml"] == yaml.safe_load((bench / "project/params.yaml").read_text())
    assert next(iter(sent["dvc.lock"]["stages"])) == "ingest"


def test_a_form_that_is_filled_in_with_malice_opens_an_issue_and_nothing_else(bench):
    trap = bench / "trap"
    with hub() as github:
        code, said = act(bench, github, tickers=f'$(touch {trap}); `touch {trap}`"; touch {trap}; "', horizons=f"$(shell touch {trap})",
                         propose="true")
    assert code != 0
    assert "stockml: params: data.tickers" in said
    assert not trap.exists()
    [issue] = github.issues
    assert "did not succeed** (failure)" in issue["body"]
    assert github.pulls == []
