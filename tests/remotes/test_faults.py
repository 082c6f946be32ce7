"What goes wrong between people and their remotes: each is one clear line, and nothing is lost."

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import projects
import pytest
import stores
from botocore.session import get_session
from clones import FILES, dvc, enter
from commands import call
from processes import free_port, wait_for
from test_remotes import configured, contents


def client(store: stores.Store):
    "S3 without DVC."
    return get_session().create_client("s3", "us-east-1", endpoint_url=store.endpoint, aws_access_key_id=stores.KEY,
                                       aws_secret_access_key=stores.SECRET)


def one_line(done, code: int, *words: str) -> str:
    "The last line is the error, and says this."
    *progress, line = done.err.strip().splitlines()
    assert done.code == code, done.err
    assert line.startswith("stockml: ") and all("Traceback" not in p for p in progress)
    for word in words:
        assert word in line
    return line


@pytest.mark.parametrize("command", [["remote", "check"], ["push"], ["pull"]])
def test_wrong_keys_s3(s3, filled, clone, monkeypatch, command):
    call(*s3.add(secret_access_key="not-the-secret"))  # noqa: S106
    if command == ["pull"]:
        enter(clone(filled), monkeypatch)
    here = Path.cwd()
    files = lambda: sorted(p for p in here.rglob("*") if p.is_file() and ".dvc/tmp" not in str(p) and p.name != ".lock")  # noqa: E731
    before = configured(here), files()
    line = one_line(call(*command), 2, "team (s3://team/data): refuses you", "stockml remote list")
    assert "not-the-secret" not in line
    assert (configured(here), files()) == before


def test_wrong_keys_azure(azure, filled):
    text = azure.secrets[0].partition("=")[2].replace(stores.ACCOUNT_KEY, "bm90IHRoZSBrZXk=")
    call(*azure.add(connection_string=text))
    one_line(call("push"), 2, "team (azure://team/data): refuses you")
    call("remote", "remove", "team")
    call(*azure.add(connection_string="nonsense"))
    one_line(call("remote", "check"), 2, "refuses you", "malformed")


def test_no_such_bucket(s3, azure, google, filled):
    for name, store in {"s": s3, "a": azure, "g": google}.items():
        call(*store.add(name, f"{store.url.partition(':')[0]}://nowhere/x"))
        one_line(call("remote", "check", name), 2, "there is no 'nowhere' there")
        one_line(call("push", "-r", name), 2, "there is no 'nowhere' there")


def test_nobody_there(filled):
    call("remote", "add", "s", "s3://team/x", "--endpoint-url", f"http://127.0.0.1:{free_port()}", "--secret", "access_key_id=a",
         "--secret", "secret_access_key=b")
    for command in (["remote", "check"], ["push"]):
        begun = time.monotonic()
        one_line(call(*command), 1, "s (s3://team/x): cannot be reached")
        assert time.monotonic() - begun < 10  # the libraries would try for minutes


def test_package_that_is_not_there(filled):
    call("remote", "add", "drive", "gdrive://root/stockml")
    for command in (["remote", "check"], ["push"]):
        one_line(call(*command), 2, "Google Drive needs a package: pip install dvc-gdrive")


def test_folder_that_cannot_be_written(filled):
    call("remote", "add", "x", "/proc/stockml")
    for command in (["remote", "check"], ["push"]):
        done = call(*command)
        one_line(done, done.code, "x (/proc/stockml)")
        assert done.code in (1, 2)  # root is told otherwise than others


def damage(path: Path) -> None:
    "Change some bytes, as a bad disk does: size, time and mode stay."
    before = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_damaged_object_is_named_and_never_used(filled, clone, monkeypatch):
    assert call("push").code == 0
    store = filled.parent / "stockml-store/files/md5"
    whole = {p.relative_to(store): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    small = next(p for p in sorted(store.rglob("*")) if p.is_file() and p.stat().st_size < 100_000 and p.suffix != ".dir")
    damage(small)
    bob = enter(clone(filled), monkeypatch)
    line = one_line(call("pull"), 1, "data is damaged there and was not used", str(small), "stockml push --again")
    assert "model.bin" not in line
    assert contents(bob) == {"model.bin": contents(filled)["model.bin"]}  # the rest is in place
    kept = [p for p in (bob / ".dvc/cache/files/md5").rglob("*") if p.is_file()]
    assert all(p.read_bytes() == whole[p.relative_to(bob / ".dvc/cache/files/md5")] for p in kept)
    enter(filled, monkeypatch)
    assert call("push", "--again").code == 0
    enter(bob, monkeypatch)
    assert call("pull").code == 0
    assert contents(bob) == contents(filled)


def test_damaged_object_in_s3(s3, filled, clone, monkeypatch):
    call(*s3.add(url="s3://team/damaged"))
    assert call("push").code == 0
    s3c = client(s3)
    key = max(s3c.list_objects_v2(Bucket="team", Prefix="damaged/")["Contents"], key=lambda o: o["Size"])["Key"]  # model.bin
    s3c.put_object(Bucket="team", Key=key, Body=b"x" * 200_000)
    bob = enter(clone(filled), monkeypatch)
    one_line(call("pull"), 1, "model.bin is damaged there and was not used", f"s3://team/{key}")
    assert set(contents(bob)) == {f"data/{n}.txt" for n in range(FILES)}
    s3c.delete_object(Bucket="team", Key=key)
    one_line(call("pull"), 1, "model.bin is not there")
    enter(filled, monkeypatch)
    assert call("push").code == 0
    enter(bob, monkeypatch)
    assert call("pull").code == 0
    assert contents(bob) == contents(filled)


def test_damaged_cache_is_not_sent(filled):
    call("push")
    path = next(p for p in sorted((filled / ".dvc/cache/files/md5").rglob("*")) if p.is_file())
    damage(path)
    one_line(call("push", "--again"), 1, f"{path}: damaged here")


def many(folder: Path, word: bytes, count: int = 200) -> None:
    "So much that a push takes its time."
    shutil.rmtree(folder / "data")
    (folder / "data").mkdir()
    for n in range(count):
        (folder / f"data/{n}.txt").write_bytes(b"%s %d\n" % (word, n) * 4000)
    dvc(folder, lambda repo: repo.commit(force=True))


def start(folder: Path, *args: str) -> subprocess.Popen:
    "The command, under way."
    return subprocess.Popen([projects.BIN / "stockml", *args], cwd=folder, env=projects.environment(folder), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_remote_that_dies_in_the_middle_of_a_push(filled, clone, tmp_path, monkeypatch):
    many(filled, b"dies")
    with stores.seaweed(tmp_path / "s3") as store:
        call(*store.add())
        s3c = client(store)
        pushing = start(filled, "push")
        wait_for(lambda: s3c.list_objects_v2(Bucket="team").get("KeyCount", 0) > 20)
        os.kill(store.pid, signal.SIGKILL)
        _, err = pushing.communicate(timeout=60)
    assert pushing.returncode == 1, err
    assert "Traceback" not in err and err.strip().splitlines()[-1].startswith("stockml: team (s3://team/data): ")
    assert "the same command goes on from there" in err
    with stores.seaweed(tmp_path / "s3", int(store.endpoint.rpartition(":")[2])):
        there = s3c.list_objects_v2(Bucket="team")["KeyCount"]
        assert 0 < there < 202
        assert call("push", "--json").json()["files"] >= 202 - there
        bob = enter(clone(filled), monkeypatch)
        assert call("pull").code == 0  # each object is held against its hash
    assert contents(bob) == contents(filled)


def test_two_people_push_at_once(s3, filled, clone, monkeypatch):
    call(*s3.add(url="s3://team/crowd"))
    bob = clone(filled)
    shutil.copytree(filled / "data", bob / "data")
    shutil.copy(filled / "model.bin", bob)
    many(filled, b"ada", 30)
    many(bob, b"bob", 30)
    pushing = [start(folder, "push", "--json") for folder in (filled, bob)]
    said = [p.communicate(timeout=90) for p in pushing]
    assert [p.returncode for p in pushing] == [0, 0], said
    for n, folder in enumerate((filled, bob)):
        third = enter(clone(folder, f"carol{n}"), monkeypatch)
        assert call("pull").code == 0
        assert contents(third) == contents(folder)
