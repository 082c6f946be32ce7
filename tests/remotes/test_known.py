"`stockml run` on a clone: what others have computed comes from the remote, the rest is computed."

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from clones import dvc, enter
from commands import call
from projects import ROOT, set_params
from test_faults import damage

from stockml.config import load_params
from stockml.pipeline import other_source
from stockml.remotes import behind, pull_known

COPY = f"{sys.executable} relay.py"
STAGES = {
    "ingest": {"cmd": f"{COPY} source.txt data/bars.parquet", "deps": ["relay.py", "source.txt"], "params": ["data"],
               "outs": [{"data/bars.parquet": {"persist": True}}]},
    "features": {"cmd": f"{COPY} data/bars.parquet data/features.parquet", "deps": ["relay.py", "data/bars.parquet"],
                 "outs": ["data/features.parquet"]},
    "train": {"cmd": f"{COPY} data/features.parquet models/challenger/model.ubj", "deps": ["relay.py", "data/features.parquet"],
              "params": ["model"], "outs": ["models/challenger"]},
    "promote": {"cmd": f"{COPY} models/challenger/model.ubj models/champion/model.ubj", "deps": ["relay.py", "models/challenger"],
                "params": ["gate"], "outs": [{"models/champion": {"persist": True}}]},
}
OUTS = ["data/bars.parquet", "data/features.parquet", "models/challenger", "models/champion"]
SCRIPT = """import sys; from pathlib import Path
source, target = map(Path, sys.argv[1:])
target.parent.mkdir(parents=True, exist_ok=True)
target.write_bytes(target.name.encode() + source.read_bytes())
"""


@pytest.fixture(scope="module")
def _computed(tmp_path_factory) -> Path:
    "A project of four stages that has run and been pushed."
    folder = tmp_path_factory.mktemp("known") / "ada"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (folder / "relay.py").write_text(SCRIPT)
    (folder / "source.txt").write_text("prices" * 100)
    dvc(folder, lambda repo: repo.reproduce(), init=True)
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        assert call("push").code == 0
    return folder


@pytest.fixture
def bob(_computed, tmp_path, monkeypatch) -> Path:
    "A clone of it, with a copy of its remote."
    folder = Path(shutil.copytree(_computed, tmp_path / "bob", ignore=shutil.ignore_patterns("cache", "tmp", "data", "models", "*.local")))
    shutil.copytree(_computed.parent / "stockml-store", tmp_path / "store")
    enter(folder, monkeypatch)
    assert call("remote", "add", "team", "../store").code == 0
    return folder


def taken(folder: Path) -> tuple[list[str], list[str]]:
    "What comes, and what is said."
    said = []
    return pull_known(folder, say=said.append), said


def stored(folder: Path, out: str) -> Path:
    "The object of an out in the remote."
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"].values()
    oid = next(o["md5"] for s in stages for o in s["outs"] if o["path"] == out)
    return folder.parent / "store/files/md5" / oid[:2] / oid[2:]


def test_all_of_it(bob, _computed):
    assert behind(bob)
    paths, said = taken(bob)
    assert (paths, len(said)) == (OUTS, 1)
    assert said[0].startswith("pulling 4 results, ")
    for out in OUTS[:2]:
        assert (bob / out).read_bytes() == (_computed / out).read_bytes()
    assert not behind(bob)
    assert taken(bob) == ([], [])
    assert dvc(bob, lambda repo: repo.status()) == {}


def test_run_computes_what_is_not_there(bob, _computed):
    stored(bob, "data/features.parquet").unlink()
    paths, said = taken(bob)
    assert paths == [OUTS[0], *OUTS[2:]]
    assert "data/features.parquet is not there" in said[1] and said[1].endswith("what is missing is computed")
    assert [stage.name for stage in dvc(bob, lambda repo: repo.reproduce())] == ["features"]
    assert (bob / OUTS[1]).read_bytes() == (_computed / OUTS[1]).read_bytes()


def test_damaged_object_is_computed_instead(bob, _computed):
    damage(stored(bob, "data/features.parquet"))
    paths, said = taken(bob)
    assert "data/features.parquet" not in paths and not (bob / "data/features.parquet").exists()
    assert "data/features.parquet is damaged there and was not used" in said[1]


def test_remote_that_is_gone(bob):
    shutil.rmtree(bob.parent / "store")
    paths, said = taken(bob)
    assert paths == [] and 0 < len(said) <= 4
    call("remote", "remove", "team")
    call("remote", "add", "team", "s3://team/x", "--endpoint-url", "http://127.0.0.1:9")
    paths, said = taken(bob)
    assert (paths, len(said)) == ([], 1)
    assert "team (s3://team/x): cannot be reached" in said[0] and said[0].endswith("what is missing is computed")


def test_run_without_pull(bob):
    assert pull_known(bob, lambda _: True, print) == []
    assert not (bob / "data").exists()
    call("remote", "remove", "team")
    assert taken(bob) == ([], [])


def test_other_parameters_take_what_they_leave_alone_and_what_grows(bob):
    set_params(bob, {"model": {"seed": 18}})
    assert taken(bob)[0] == ["data/bars.parquet", "data/features.parquet", "models/champion"]


def test_other_code(bob):
    (bob / "relay.py").write_text(SCRIPT + "# changed\n")
    assert taken(bob)[0] == ["data/bars.parquet", "models/champion"]  # what runs go on from


@pytest.mark.parametrize("data", [{"source": "csv", "csv": "mine.csv"}, {"base_url": "http://127.0.0.1:1"}])
def test_store_of_another_source_is_left_where_it_is(bob, data):
    set_params(bob, {"data": data})
    assert pull_known(bob, lambda path: other_source(bob, load_params(), path)) == ["models/champion"]


def test_newer_lock_replaces_what_is_saved_and_nothing_else(bob):
    taken(bob)
    carol = Path(shutil.copytree(bob, bob.parent / "carol", ignore=shutil.ignore_patterns("tmp")))
    (carol / "source.txt").write_text("newer prices" * 100)
    dvc(carol, lambda repo: repo.reproduce())
    dvc(carol, lambda repo: repo.push())
    for name in ("dvc.lock", "source.txt"):  # git pull
        shutil.copy(carol / name, bob)
    own = bob / "models/champion/model.ubj"
    own.write_bytes(b"bob's own, in no cache")
    assert taken(bob)[0] == OUTS[:3]
    assert (bob / OUTS[1]).read_bytes() == (carol / OUTS[1]).read_bytes()
    assert own.read_bytes() == b"bob's own, in no cache"
