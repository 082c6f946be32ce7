"Who may ask, and how often."

import hashlib
import subprocess
import sys

import pytest

from serve import access
from serve.access import Access, Bucket, check_door, read_keys
from serve.app import create_app
from stockml.config import BadInput

KEYS = {"ann": "a-long-random-key", "bob": "another-long-random-key"}


def line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# who may ask\n\n" + "".join(line(*k) for k in KEYS.items()).replace("\n", "  # since May\n", 1))
    return path


@pytest.fixture
def locked(bundle_folder, file, monkeypatch):
    "A client of a service that asks for keys."
    monkeypatch.setenv("STOCKML_API_KEYS_FILE", str(file))
    return create_app(bundle_folder).test_client()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("headers", [bearer(KEYS["ann"]), {"Authorization": f"bearer {KEYS['ann']}"}, {"X-API-Key": KEYS["ann"]}])
def test_a_known_key_is_admitted_by_name(locked, good, headers, logged):
    assert locked.post("/v1/forecast", json=good, headers=headers).status_code == 200
    [seen] = logged()
    assert seen["user"] == {"id": "ann"}
    assert KEYS["ann"] not in str(seen)


@pytest.mark.parametrize("headers", [{}, bearer(""), bearer("wrong"), bearer(KEYS["ann"][:-1]), {"X-API-Key": "ü" * 3},
                                     {"Authorization": f"Basic {KEYS['ann']}"}, {"Authorization": KEYS["ann"]}, bearer("\x80")])
@pytest.mark.parametrize("path", ["/v1/forecast", "/v1/explain"])
def test_nobody_else_is(locked, good, headers, path):
    answer = locked.post(path, json=good, headers=headers)
    assert (answer.status_code, answer.content_type) == (401, "application/problem+json")
    assert answer.headers["WWW-Authenticate"].lower().startswith("bearer")


def test_a_hash_is_no_key(locked, good):
    assert locked.post("/v1/forecast", json=good, headers=bearer(hashlib.sha256(KEYS["ann"].encode()).hexdigest())).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/version", "/metrics", "/openapi.json", "/"])
def test_the_rest_is_open(locked, path):
    assert locked.get(path).status_code == 200


def test_the_description_says_whether_a_key_is_needed(locked, client):
    assert {} not in locked.get("/openapi.json").json["paths"]["/v1/forecast"]["post"]["security"]
    assert {} in client.get("/openapi.json").json["paths"]["/v1/forecast"]["post"]["security"]


def test_who_asks_too_often_waits(bundle_folder, file, good, monkeypatch):
    monkeypatch.setenv("STOCKML_API_KEYS_FILE", str(file))
    monkeypatch.setenv("STOCKML_RATE_LIMIT", "2")
    client = create_app(bundle_folder).test_client()
    statuses = [client.post("/v1/forecast", json=good, headers=bearer(KEYS["ann"])).status_code for _ in range(2)]
    refused = client.post("/v1/forecast", json=good, headers=bearer(KEYS["ann"]))
    assert (statuses, refused.status_code, refused.content_type) == ([200, 200], 429, "application/problem+json")
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert client.post("/v1/forecast", json=good, headers=bearer(KEYS["bob"])).status_code == 200  # each has a count of its own


def test_a_bucket_fills_again(monkeypatch):
    now = [0.]
    monkeypatch.setattr(access.time, "monotonic", lambda: now[0])
    bucket = Bucket(60)
    assert [bucket.take() for _ in range(61)] == [0] * 60 + [1]
    now[0] = 2.5
    assert [bucket.take() for _ in range(3)] == [0, 0, .5]
    now[0] = 1e6
    assert [bucket.take() for _ in range(61)] == [0] * 60 + [1]  # a long rest earns one minute, not ten thousand


def test_keys_change_without_a_restart(file, caplog):
    door = Access(file, 5)
    ann = door.buckets["ann"]
    file.write_text(line("ann", KEYS["ann"]) + line("eve", "evening"))
    door.look()
    assert sorted(door.keys.values()) == ["ann", "eve"]
    assert door.buckets["ann"] is ann  # no fresh start by way of the file
    file.write_text("nonsense")
    door.look()
    door.look()
    assert sorted(door.keys.values()) == ["ann", "eve"]
    assert caplog.text.count("the keys known so far stay valid") == 1


@pytest.mark.parametrize(("text", "match"), [
    ("", "no API keys in it"), ("# ann\n", "no API keys in it"), ("ann", "line 1: not NAME:SHA256"),
    ("ann:abc", "line 1: not NAME:SHA256"), (line("ann", "k") + line("a b", "x"), "line 2: not NAME:SHA256"),
    (line("ann", "k") + line("bob", "k"), "line 2: the same key a second time"), (None, "cannot be read"), (b"\xff", "cannot be read"),
])
def test_a_file_without_proper_keys_is_refused(tmp_path, text, match):
    path = tmp_path / "keys"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput, match=match) as error:
        read_keys(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("limit", "match"), [
    ("many", "'many' is no number"), ("0", "'0' is no"), ("-1", "'-1' is no"), ("nan", "'nan' is no"), ("inf", "'inf' is no"),
    ("5", "set STOCKML_API_KEYS_FILE too")])
def test_a_limit_that_is_none_is_refused(monkeypatch, limit, match):
    monkeypatch.setenv("STOCKML_RATE_LIMIT", limit)
    with pytest.raises(BadInput, match=match):
        Access.from_environment()


@pytest.mark.parametrize(("host", "open_", "keys", "fine"), [
    ("127.0.0.1", None, False, True), ("::1", None, False, True), ("localhost", None, False, True), ("0.0.0.0", None, False, False),  # noqa: S104
    ("192.168.1.7", "0", False, False), ("::", "yes", False, False), ("0.0.0.0", "1", False, True), ("0.0.0.0", None, True, True),  # noqa: S104
])
def test_a_door_to_others_is_open_only_if_that_is_said(monkeypatch, file, host, open_, keys, fine):
    if open_:
        monkeypatch.setenv("STOCKML_OPEN", open_)
    door = Access(file if keys else None)
    if fine:
        check_door([(host, 8000), "unix:/tmp/socket"], door)
    else:
        with pytest.raises(BadInput, match="STOCKML_OPEN=1"):
            check_door([("127.0.0.1", 1), (host, 8000)], door)


def test_a_new_key_opens_the_door(root, tmp_path):
    done = subprocess.run([sys.executable, "-m", "serve.access", "ann"], cwd=root, capture_output=True, text=True, check=True)
    key, entry = (text.split()[-1] for text in done.stdout.splitlines())
    (tmp_path / "keys").write_text(entry)
    assert Access(tmp_path / "keys")._name(key) == "ann"
    assert len(key) >= 43


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a b"], ["x" * 65], ["a:b"]])
def test_a_key_needs_a_name(capsys, arguments):
    assert access.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
