"Every kind of line that the service writes is valid ECS: names, types, allowed values."

import json
import shutil
import socket
import subprocess

import pytest
from ecs import FIELDS, VERSION, fields, problems
from processes import ask, serving, wait_for

import serve.app
from stockml.bundle import move_folder, write_manifest
from stockml.files import read_json

PACKAGE = "@elastic/ecs@8.11.5"
GOOD = {"@timestamp": "2026-08-05T20:15:00.123Z", "log.level": "info", "message": "hello", "ecs.version": VERSION,
        "event": {"kind": "event", "dataset": "stockml.request", "category": ["web"], "duration": 1},
        "log": {"logger": "serve"}, "client": {"address": "127.0.0.1", "ip": "::1"}, "labels": {"a": "b"}, "stockml": {"any": [1, {}]}}


# The check itself


def test_a_good_line_has_no_problems():
    assert problems(GOOD) == []
    assert dict(fields(GOOD))["log.logger"] == "serve"
    assert problems({**{k: v for k, v in GOOD.items() if k != "log"}, "log.logger": "serve", "stockml.more": 1}) == []


@pytest.mark.parametrize(("change", "words"), [
    ({"ticker": "AAPL"}, "ticker: no such field"),
    ({"event": {"kind": "line"}}, "event.kind: 'line' is not allowed"),
    ({"event": {"outcome": "ok"}}, "event.outcome: 'ok' is not allowed"),
    ({"event": {"duration": 1.5}}, "event.duration: 1.5 is no long"),
    ({"event": {"duration": "1"}}, "event.duration: '1' is no long"),
    ({"event": {"category": "web"}}, "event.category: is no array"),
    ({"event": {"category": ["wab"]}}, "event.category: 'wab' is not allowed"),
    ({"http": {"response": {"status_code": True}}}, "http.response.status_code: True is no long"),
    ({"http": {"request": "GET"}}, "http.request: no such field"),
    ({"client": {"ip": "localhost"}}, "client.ip: 'localhost' is no ip"),
    ({"client": {"address": None}}, "client.address: None is no keyword"),
    ({"url": {"port": 2**63}}, f"url.port: {2**63} is no long"),
    ({"trace": {"id": "a" * 1025}}, "trace.id: is too long to be found"),
    ({"@timestamp": "yesterday"}, "@timestamp: 'yesterday' is no date"),
    ({"@timestamp": "2026-08-05"}, "@timestamp: '2026-08-05' is no date"),
    ({"log": {"level": "info"}}, "log.level stands there twice"),
    ({"ecs.version": "8.11"}, "ecs.version is not 8.11.0"),
    ({"labels": "a"}, "labels: 'a' is no object"),
    ({"stockml": "a"}, "stockml: is no object"),
])
def test_a_bad_line_is_told(change, words):
    assert problems({**GOOD, **change}) == [words]


def test_what_each_line_needs():
    assert problems({"message": "hello"}) == ["@timestamp is missing", "ecs.version is missing"]


def test_the_list_is_the_published_one(tmp_path):
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("no node and npm here")
    done = subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path), PACKAGE], check=False)
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be installed: no registry reached")
    script = f"const e = require('{tmp_path}/node_modules/@elastic/ecs'); console.log(JSON.stringify([e.EcsVersion, e.EcsFlat]))"
    version, published = json.loads(subprocess.run(["node", "-e", script], capture_output=True, check=True).stdout)
    assert version == VERSION and len(FIELDS) > 200
    for name, field in FIELDS.items():
        p = published[name]
        told = {"type": p["type"], "ignore_above": p.get("ignore_above"), "array": "array" in p["normalize"] or None,
                "allowed": [v["name"] for v in p["allowed_values"]] if "allowed_values" in p else None, "required": p.get("required")}
        assert field == {k: v for k, v in told.items() if v is not None}, name


# The lines


def kinds(lines: list[dict]) -> set[tuple]:
    "Which kinds of line are there?"
    return {(line.get("event", {}).get("dataset"), line.get("event", {}).get("action"), line["log.level"]) for line in lines}


def test_lines_of_the_app(client, good, logged, monkeypatch):
    stock = {k: good[k] for k in ("ticker", "bars")}
    client.post("/v1/forecast", json=good, headers={"X-Request-ID": "abc-1"})
    client.post("/v1/explain", json=good)
    client.post("/v1/forecast", json={"series": [stock, {**stock, "ticker": "KO"}]})
    client.post("/v1/forecast", json={**good, "ticker": "A/B"})
    client.post("/v1/forecast", json={**good, "bars": [], "x" * 5000: 1})
    client.get("/" + "ü\x00ß" * 500)
    monkeypatch.setattr(serve.app, "make", lambda *_, **__: 1 / 0)
    client.post("/v1/forecast", json=good)
    lines = logged()
    assert kinds(lines) == {("stockml.request", "forecast", "info"), ("stockml.request", "explain", "info"),
                            ("stockml.forecast", "forecast", "info"), ("stockml.request", "forecast", "warn"),
                            ("stockml.request", "none", "warn"), ("stockml.request", "forecast", "error"), (None, None, "error")}
    assert sum("stack_trace" in line.get("error", {}) for line in lines) == 1
    assert [p for line in lines for p in problems(line)] == []


def test_lines_of_the_service(root, bundle_folder, tmp_path, good):
    champion, newer = (shutil.copytree(bundle_folder, tmp_path / name) for name in ("champion", "newer"))
    write_manifest(newer, read_json(newer / "manifest.json") | {"as_of": "2004-01-02"})
    stock = {k: good[k] for k in ("ticker", "bars")}
    with serving(root, champion, tmp_path) as (url, out, _):
        def lines() -> list[dict]:
            return [json.loads(line) for line in out.read_text().splitlines()]

        assert ask(f"{url}/v1/forecast", good)[0] == 200
        assert ask(f"{url}/v1/forecast", {"series": [stock, {**stock, "ticker": "KO"}]})[0] == 200
        assert ask(f"{url}/v1/forecast", {})[0] == 422
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.sendall(b"no HTTP at all\r\n\r\n")
            assert b" 400 " in client.recv(2000)
        move_folder(newer, champion)
        wait_for(lambda: "takes over" in out.read_text())
        (champion / "manifest.json").write_text("{}")
        wait_for(lambda: "goes on serving" in out.read_text())
        found = lines()
    assert kinds(found) == {
        ("stockml.request", "forecast", "info"), ("stockml.forecast", "forecast", "info"), ("stockml.request", "forecast", "warn"),
        ("stockml.request", "refused", "warn"), (None, None, "info"), (None, None, "error")}
    assert [p for line in found for p in problems(line)] == []
