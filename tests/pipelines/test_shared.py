"A clone with a filled remote: it serves without computing anything."

import json
import re
import shutil
import subprocess
from pathlib import Path

import projects


def test_clone_with_a_filled_remote_only_serves(project, tmp_path):
    ada = Path(shutil.copytree(project, tmp_path / "ada", ignore=shutil.ignore_patterns("mlflow*", "mlartifacts", "runs")))
    sent = projects.stockml(ada, "push")
    assert sent.returncode == 0, sent.stderr
    subprocess.run(["git", "commit", "-q", "--no-verify", "-am", "computed"], cwd=ada, check=True)
    bob = tmp_path / "bob"
    subprocess.run(["git", "clone", "-q", str(ada), str(bob)], check=True)
    assert projects.stockml(bob, "remote", "add", "team", "../stockml-store").returncode == 0
    done = projects.stockml(bob, "run", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["ran"], said["run_id"], len(said["pulled"])) == ([], None, 19)
    assert "19 results from the remote, nothing to compute" in done.stderr
    served = {p.name: p.read_bytes() for p in (bob / "models/champion").iterdir()}
    assert served == {p.name: p.read_bytes() for p in (ada / "models/champion").iterdir()}
    page = (bob / "reports/index.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert links and all((bob / "reports" / link).exists() for link in links)  # nobody ran notebooks here, so none are linked
    assert "Notebook 1" not in page
