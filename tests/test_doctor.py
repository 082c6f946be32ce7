"Each thing broken for real: the line that tells of it, and, where it is cheap, that the named command mends it."

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from projects import BIN, clone
from test_hooks import source
from test_tracking import server

from stockml import doctor
from stockml.doctor import CHECKS, Finding, examine, report, within


@pytest.fixture(scope="module")
def _clone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "project"
    folder.mkdir()
    return clone(folder)


@pytest.fixture
def project(_clone, monkeypatch, tmp_path) -> Path:
    "A clone in order; what a test spoils in git's files is put back."
    for name in [n for n in os.environ if n.startswith(("GIT_", "MLFLOW_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STOCKML_ROOT", str(_clone))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    yield _clone
    git(_clone, "checkout", "-q", "--force", "HEAD")
    git(_clone, "clean", "-qfdx")


def git(folder: Path, *args: str, **env: str) -> str:
    return subprocess.run(["git", *args], cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout


def look(name: str, root: Path) -> Finding:
    "What one check finds, as the command would tell it."
    return examine(root, {name: CHECKS[name]})[name]


def mend(found: Finding, root: Path) -> None:
    "Do what it says."
    subprocess.run(["bash", "-c", found.mend], cwd=root, capture_output=True, check=True, timeout=60)


def spoil_cell(path: Path, number: int, **fields) -> None:
    book = json.loads(path.read_text())
    book["cells"][number] |= fields
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def test_command_looks_at_everything_and_exits_with_1_for_an_error(project):
    done = subprocess.run([BIN / "stockml", "doctor", "--json"], cwd=project, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(done.stdout)
    assert list(found) == list(CHECKS)
    assert {f["state"] for f in found.values()} <= {"ok", "info", "warn", "error"}
    assert not [f["says"] for f in found.values() if "could not be looked into" in f["says"]]
    assert all(f["mend"] for f in found.values() if f["state"] in ("warn", "error"))
    own = Path(doctor.__file__).resolve().parents[1]
    assert found["checkout"]["says"] == f"stockml is that of {own}, not of {project}"
    assert done.returncode == 1
    assert {name: found[name]["state"] for name in ("export", "stages", "tree", "params", "clock", "disk")} == dict.fromkeys(
        ("export", "stages", "tree", "params", "clock", "disk"), "ok")
    assert (found["data"]["state"], found["data"]["mend"]) == ("warn", "make run")


def test_broken_check_is_a_line_and_the_others_go_on():
    def broken(root):
        raise RuntimeError("no such\nthing")

    found = examine(Path(), {"one": broken, "two": lambda root: Finding("ok", "fine")})
    assert found["one"] == ("error", "could not be looked into: RuntimeError: no such thing", "")
    assert report(found) == "✗ one        could not be looked into: RuntimeError: no such thing\n✓ two        fine\n\n1 error"
    assert report({"two": Finding("ok", "fine")}).endswith("Nothing is off.")


def test_python_and_packages(project, monkeypatch, tmp_path):
    assert look("packages", project).state == "ok"
    info = tmp_path / "lib/execnb-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: execnb\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    (project / "requirements.lock").write_text("aaa==1 \\\n" + (project / "requirements.lock").read_text())
    found = look("packages", project)
    assert re.fullmatch(r"not as in requirements\.lock \(nbdev will not work\): execnb 9\.9, not 0\.1\.18; aaa is missing", found.says)
    assert (found.state, found.mend) == ("error", "make -B setup")
    assert look("python", project).state == "ok"
    monkeypatch.setattr(doctor.sys, "version_info", (3, 14, 0))
    assert look("python", project) == ("error", "3.14.0; stockml needs 3.11 to 3.13", "rm -rf .venv && make PYTHON=python3.12 setup")


def test_stray_kernel_of_the_user(project, monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    assert look("kernel", project).state == "ok"
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/usr/bin/python3", "-m", "ipykernel", "-f", "{connection_file}"], "display_name": "P"}))
    found = look("kernel", project)
    assert found.says.startswith("the kernel python3 is /usr/bin/python3")
    mend(found, project)
    assert look("kernel", project).state == "ok"


def test_stale_export(project):
    spoil_cell(project / "nbs/43_terminal.ipynb", 2, **source("#| export", "import math"))
    (project / "stockml/files.py").unlink()
    found = look("export", project)
    assert found == ("error", "not what nbs/ exports: stockml/files.py, stockml/terminal.py", "nbdev_export")
    mend(found, project)
    assert look("export", project).state == "ok"


def test_stages_that_lost_their_tag_or_kept_outputs(project):
    train = project / "pipelines/train.ipynb"
    spoil_cell(train, 2, outputs=[{"output_type": "stream", "name": "stdout", "text": ["x"]}])
    found = look("stages", project)
    assert (found.state, found.says) == ("warn", "with outputs, which change at every run: pipelines/train.ipynb")
    mend(found, project)
    assert git(project, "status", "--porcelain") == ""
    spoil_cell(train, 1, metadata={})
    found = look("stages", project)
    assert found.state == "error"
    assert found.says.startswith("pipelines/train.ipynb: no cell is tagged parameters")
    mend(found, project)
    assert look("stages", project).state == "ok"
    train.write_text("{")
    assert "not readable as JSON" in look("stages", project).says


def test_unsolved_conflict(project):
    spoil_cell(project / "nbs/43_terminal.ipynb", 2, **source("<<<<<<< local", "a = 1", "=======", "a = 2", ">>>>>>> remote"))
    assert look("conflicts", project).says == "both versions of a merge stand in nbs/43_terminal.ipynb: keep one, in JupyterLab"


def test_hooks_identity_and_tree(project):
    found = look("hooks", project)
    assert found.says == "not installed: the hook before a commit, the comparing of notebooks, the merging of notebooks"
    mend(found._replace(mend=found.mend.replace("make", f"make -o setup VENV={sys.prefix}")), project)
    assert look("hooks", project).state == "ok"
    git(project, "config", "core.hooksPath", "/elsewhere")
    assert look("hooks", project).mend.startswith("git config --unset core.hooksPath")
    git(project, "config", "--unset", "core.hooksPath")
    for key in ("name", "email"):
        git(project, "config", "--unset", f"user.{key}")
    found = look("identity", project)
    assert found.state == "warn"
    mend(found, project) # into the HOME of this test
    assert look("identity", project) == ("ok", "Your Name <you@example.com>", "")
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "\n")
    assert look("tree", project).state == "ok", "parameters are known by their hash"
    (project / "setup.py").write_text("x = 1\n")
    found = look("tree", project)
    assert re.fullmatch(r"[0-9a-f]{9} and changes that are in no commit: setup\.py", found.says)
    git(project, "config", "user.name", "Ada")
    git(project, "config", "user.email", "ada@example.com")


def test_clock_and_params(project):
    git(project, "commit", "-q", "--allow-empty", "--no-verify", "-m", "later", GIT_COMMITTER_DATE="2099-01-01T00:00:00Z")
    assert "is before the newest commit, 2099-01-01" in look("clock", project).says
    git(project, "reset", "-q", "--hard", "HEAD~1")
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["data"]["as_of"] = "2098-01-01"
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    assert look("clock", project).says == "data.as_of, 2098-01-01, is in the future"
    values["bot"]["stress"] = 7
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    assert look("params", project).says.startswith("params.yaml: bot.stress: ")


@pytest.fixture
def piped(project) -> Path:
    "A project of one short stage, which has run."
    (project / "dvc.yaml").write_text("stages:\n  copy:\n    cmd: cp in out\n    deps: [in]\n    outs: [out]\n")
    (project / "in").write_text("1")
    (project / "dvc.lock").unlink()
    (project / ".dvc/config.local").unlink(missing_ok=True)
    dvc(project, "repro", "-q")
    return project


def dvc(folder: Path, *args: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *args], cwd=folder, check=True)


def test_data_that_is_gone_or_old(piped):
    assert look("data", piped) == ("ok", "all stages are up to date", "")
    (piped / "out").unlink()
    found = look("data", piped)
    assert found == ("warn", "in DVC's cache but not here: out", "dvc checkout")
    mend(found, piped)
    assert look("data", piped).state == "ok"
    (piped / "in").write_text("2")
    assert look("data", piped) == ("warn", "changed since they last ran: copy", "make run")
    (piped / "in").write_text("1")
    shutil.rmtree(piped / ".dvc/cache")
    assert look("data", piped) == ("warn", "not in DVC's cache: out", "make run")
    (piped / "dvc.lock").unlink()
    assert look("data", piped).says == "nothing has been computed: there is no dvc.lock"


def test_remote(project, tmp_path, monkeypatch):
    local = project / ".dvc/config.local"
    assert look("remote", project).state == "warn"

    def remote(url: str, endpoint: str = "") -> Finding:
        keys = {"endpointurl": endpoint, "access_key_id": "a", "secret_access_key": "b"} if endpoint else {}
        lines = [f"    {k} = {v}" for k, v in {"url": url, **keys}.items()]
        local.write_text("\n".join(["[core]", "    remote = team", "['remote \"team\"']", *lines, ""]))
        return look("remote", project)

    try:
        assert remote(str(tmp_path / "none/store")).says == f"team, {tmp_path / 'none/store'}, does not answer: no such folder"
        assert remote(str(tmp_path / "store")) == ("ok", f"team, {tmp_path / 'store'}, answers and is empty", "")
        monkeypatch.setattr(doctor, "PATIENCE", 1)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            found = remote("s3://bucket/team", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert (found.state, found.says) == ("error", "team, s3://bucket/team, does not answer: not done after 1 s")
    finally:
        local.unlink()


def test_champion(project, bundle_folder):
    folder = project / "models/champion"
    assert look("champion", project).state == "warn"
    shutil.copytree(bundle_folder, folder)
    assert look("champion", project).state == "ok"
    (folder / "residuals.npz").write_bytes(b"x")
    found = look("champion", project)
    assert found.state == "error"
    assert "residuals.npz is damaged" in found.says


def test_mlflow(project, monkeypatch):
    assert look("mlflow", project).state == "info"
    (project / "mlflow.db").write_text("this is no database, and long enough to be sure")
    found = look("mlflow", project)
    assert (found.state, "file is not a database" in found.says) == ("error", True)
    mend(found, project)
    assert look("mlflow", project).state == "info"
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    for uri, told in ((f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}"),
                      (f"postgresql://ada:s3cret@127.0.0.1:{port}/mlflow", f"postgresql://ada:***@127.0.0.1:{port}/mlflow")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert look("mlflow", project) == ("error", f"{told} does not answer ([Errno 111] Connection refused)", "unset MLFLOW_TRACKING_URI")
    with server(401) as uri:  # it is there; who may come in, MLflow says itself
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//ada:s3cret@"))
        assert look("mlflow", project) == ("ok", uri.replace("//", "//ada:***@"), "")


def test_patience_has_an_end():
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)
    with socket.socket() as never, pytest.raises(TimeoutError, match=r"not done after 0\.1 s"):
        never.bind(("127.0.0.1", 0))
        never.listen()
        within(.1, lambda: never.accept())
