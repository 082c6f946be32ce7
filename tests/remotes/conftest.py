"Servers for the session, and a project of a few files that is shared through them."

import shutil
from pathlib import Path

import projects
import pytest
import stores
import yaml
from clones import dvc, enter, fill


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    "SeaweedFS."
    with stores.seaweed(tmp_path_factory.mktemp("s3")) as store:
        yield store


@pytest.fixture(scope="session")
def azure(tmp_path_factory):
    "Azurite."
    with stores.azurite(tmp_path_factory.mktemp("azure")) as store:
        yield store


@pytest.fixture(scope="session")
def google(tmp_path_factory):
    "The emulator of Google Cloud Storage."
    with stores.google(tmp_path_factory.mktemp("google")) as store:
        yield store


@pytest.fixture(scope="session")
def _filled(tmp_path_factory) -> Path:
    "A project with one stage that has run: a folder of many small files, and one larger file."
    folder = tmp_path_factory.mktemp("filled") / "project"
    folder.mkdir()
    shutil.copy(projects.ROOT / "params.yaml", folder)
    stage = {"cmd": "echo done", "outs": ["data", {"model.bin": {"persist": True}}]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    fill(folder, b"first")
    dvc(folder, lambda repo: repo.commit(force=True), init=True)
    return folder


@pytest.fixture
def filled(_filled, tmp_path, monkeypatch) -> Path:
    "That project, and the working directory."
    return enter(Path(shutil.copytree(_filled, tmp_path / "ada")), monkeypatch)


@pytest.fixture
def clone(_filled, tmp_path):
    "Make a clone: what git would bring, and the remotes with their secrets, of another project."
    def make(of: Path, name: str = "bob") -> Path:
        folder = tmp_path / name
        left = shutil.ignore_patterns("cache", "tmp", "data", "model.bin")
        return Path(shutil.copytree(of, folder, ignore=left))
    return make
