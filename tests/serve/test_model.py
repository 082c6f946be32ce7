"Another champion takes over while the service runs; a damaged one does not."

import shutil

import pytest

import serve.model
from serve.model import Holder
from stockml.bundle import move_folder, write_manifest
from stockml.config import BadInput
from stockml.files import read_json


@pytest.fixture
def folder(bundle_folder, tmp_path):
    "The served folder."
    return shutil.copytree(bundle_folder, tmp_path / "champion")


@pytest.fixture
def newer(bundle_folder, tmp_path):
    "Another bundle, to take its place."
    path = shutil.copytree(bundle_folder, tmp_path / "newer")
    write_manifest(path, read_json(path / "manifest.json") | {"as_of": "2004-01-02"})
    return path


def look_twice(holder: Holder) -> None:
    "Once to see a change, once more to see that it is over."
    holder.look()
    holder.look()


def test_a_new_champion_takes_over(folder, newer, caplog):
    caplog.set_level("INFO")
    holder = Holder(folder)
    old = holder.served
    look_twice(holder)
    assert holder.served is old
    move_folder(newer, folder)
    holder.look()
    assert holder.served is old  # it may still be growing
    holder.look()
    assert holder.served.bundle.manifest["as_of"] == "2004-01-02"
    assert "of 2004-01-02 takes over" in caplog.text


@pytest.mark.parametrize("harm", ["cut", "gone", "rubbish", "folder gone", "blind"])
def test_a_damaged_one_is_refused_once_and_the_old_one_serves_on(folder, newer, caplog, monkeypatch, harm):
    holder = Holder(folder)
    old = holder.served
    if harm == "folder gone":
        shutil.rmtree(folder)
    else:
        move_folder(newer, folder)
    if harm == "cut":
        (folder / "residuals.npz").write_bytes((folder / "residuals.npz").read_bytes()[:-10])
    elif harm == "gone":
        (folder / "model.ubj").unlink()
    elif harm == "rubbish":
        (folder / "manifest.json").write_text("{}")
    elif harm == "blind":
        monkeypatch.setattr(serve.model, "warm_up", lambda _: (_ for _ in ()).throw(BadInput("the bundle cannot forecast")))
    for _ in range(5):
        holder.look()
    assert holder.served is old
    assert caplog.text.count("goes on serving") == 1


def test_once_it_is_mended_it_takes_over(folder, newer):
    holder = Holder(folder)
    whole = (newer / "model.ubj").read_bytes()
    (newer / "model.ubj").write_bytes(whole[:100])
    move_folder(newer, folder)
    look_twice(holder)
    (folder / "model.ubj").write_bytes(whole)
    look_twice(holder)
    assert holder.served.bundle.manifest["as_of"] == "2004-01-02"


def test_a_bundle_that_changes_while_it_is_read_is_read_again(folder, newer, monkeypatch):
    holder, load = Holder(folder), serve.model.load

    def slow(path):
        served = load(path)
        if newer.exists():
            move_folder(newer, folder)
        return served

    monkeypatch.setattr(serve.model, "load", slow)
    (folder / "reference.parquet").touch()
    look_twice(holder)
    assert holder.served.bundle.manifest["as_of"] == "2003-12-31"
    look_twice(holder)
    assert holder.served.bundle.manifest["as_of"] == "2004-01-02"


def test_the_same_files_again_are_no_new_model(folder, caplog):
    caplog.set_level("INFO")
    holder = Holder(folder)
    old = holder.served
    (folder / "manifest.json").touch()
    look_twice(holder)
    assert holder.served is old
    assert "takes over" not in caplog.text


def test_ready_means_warm_and_not_leaving(app, client, monkeypatch, good):
    holder = app.extensions["stockml"]
    assert client.get("/readyz").json == {"status": "ready"}
    monkeypatch.setattr(holder, "draining", True)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.content_type, answer.headers["Retry-After"]) == (503, "application/problem+json", "1")
    assert client.get("/healthz").status_code == 200
    assert client.post("/v1/forecast", json=good).status_code == 200  # who comes all the same is served
    monkeypatch.undo()
    monkeypatch.setattr(holder, "served", None)
    assert client.get("/readyz").status_code == client.post("/v1/forecast", json=good).status_code == 503
    assert client.get("/healthz").status_code == 200
