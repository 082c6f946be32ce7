"What is shipped for ELK and for the light set, as far as it can be read without starting it: whole, pinned, closed, and about our fields."

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from ecs import FIELDS, fields
from processes import tool

SETS = ["serve/compose.yaml", "serve/monitoring/elk.compose.yaml", "serve/monitoring/light.compose.yaml"]
SECRETS = {"ELASTIC_PASSWORD": "a1", "KIBANA_PASSWORD": "b2", "FILEBEAT_PASSWORD": "c3"}


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def mapped(properties: dict, above: str = "") -> Iterator[tuple[str, dict]]:
    "Field -> its mapping, of an index template."
    for name, field in properties.items():
        if "properties" in field:
            yield from mapped(field["properties"], f"{above}{name}.")
        else:
            yield above + name, field


@pytest.fixture
def template(monitoring) -> dict[str, dict]:
    "The fields that the index template knows."
    return dict(mapped(load(monitoring / "index-template.json")["template"]["mappings"]["properties"]))


# The sets


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_a_valid_one(root, name):
    checked = subprocess.run(["check-jsonschema", "--builtin-schema", "vendor.compose-spec", root / name], capture_output=True, text=True,
                             check=False)
    assert checked.returncode == 0, checked.stdout


def test_compose_understands_them(root):
    compose = tool("docker-compose")
    for name in SETS:
        done = subprocess.run([compose, "-f", root / name, "config", "-q"], capture_output=True, text=True, check=False,
                              env={**os.environ, **SECRETS})
        assert done.returncode == 0, done.stderr
    without = subprocess.run([compose, "-f", root / SETS[1], "config", "-q"], capture_output=True, text=True, check=False,
                             env={k: v for k, v in os.environ.items() if k not in SECRETS})
    assert without.returncode and "PASSWORD" in without.stderr


@pytest.mark.parametrize("name", SETS[1:])
def test_sets_are_closed_pinned_and_whole(root, name):
    services = yaml.safe_load((root / name).read_text())["services"]
    assert all(port.startswith("127.0.0.1:") for s in services.values() for port in s.get("ports", []))
    images = {s["image"] for s in services.values()} - {"${IMAGE:-stockml:latest}"}
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images)
    for volume in [v for s in services.values() for v in s.get("volumes", []) if v.startswith("./")]:
        assert (root / "serve/monitoring" / volume.split(":")[0]).exists()
    elastic = {image.rpartition(":")[2] for image in images if "elastic" in image}
    assert len(elastic) == ("elk" in name)  # one version


# The way to the index


def test_ecs_fields_are_mapped_as_ecs_has_them(template):
    assert template.keys() <= FIELDS.keys()
    assert {name: field["type"] for name, field in template.items()} == {name: FIELDS[name]["type"] for name in template}


def test_all_that_the_service_writes_is_mapped(template, written):
    assert {name for line in written for name, _ in fields(line)} <= {*template, "stockml"}


def test_ours_cannot_explode(monitoring):
    rules = load(monitoring / "index-template.json")["template"]["mappings"]["dynamic_templates"]
    first = next(iter(rules[0].values()))
    assert (first["match_mapping_type"], first["path_match"], first["mapping"]["type"]) == ("object", "stockml.*", "flattened")


def test_names_agree(monitoring):
    settings = load(monitoring / "index-template.json")
    script, beat = (monitoring / "setup.sh").read_text(), yaml.safe_load((monitoring / "filebeat.yml").read_text())
    assert settings["template"]["settings"]["index.lifecycle.name"] == "stockml" and "/_ilm/policy/stockml @ilm.json" in script
    assert settings["template"]["settings"]["index.default_pipeline"] == "stockml" and "/_ingest/pipeline/stockml @ingest" in script
    assert settings["index_patterns"] == ["logs-stockml.*-*"]
    assert beat["output.elasticsearch"]["index"] == "logs-%{[event.dataset]}-default"
    assert 'string="logs-%$.dataset%-default"' in (monitoring / "rsyslog.conf").read_text()
    assert f'PUT /_security/user/{beat["output.elasticsearch"]["username"]}' in script


# The dashboard


def test_the_dashboard_is_whole(monitoring, template):
    objects = [json.loads(line) for line in (monitoring / "dashboard.ndjson").read_text().splitlines()]
    known = {(o["type"], o["id"]) for o in objects}
    assert len(known) == len(objects) and {t for t, _ in known} == {"index-pattern", "lens", "dashboard"}
    assert all((r["type"], r["id"]) in known for o in objects for r in o["references"])
    [dashboard], [view] = ([o for o in objects if o["type"] == kind] for kind in ("dashboard", "index-pattern"))
    assert view["attributes"]["title"] == load(monitoring / "index-template.json")["index_patterns"][0]
    panels = json.loads(dashboard["attributes"]["panelsJSON"])
    assert [f"{p['panelIndex']}:{p['panelRefName']}" for p in panels] == [r["name"] for r in dashboard["references"]]
    assert {r["id"] for r in dashboard["references"]} == {o["id"] for o in objects if o["type"] == "lens"}
    cells = [(x, y) for p in panels for x in range(p["gridData"]["x"], p["gridData"]["x"] + p["gridData"]["w"])
             for y in range(p["gridData"]["y"], p["gridData"]["y"] + p["gridData"]["h"])]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 48  # nothing lies on another
    for lens in (o for o in objects if o["type"] == "lens"):
        check_lens(lens["attributes"]["state"], lens["references"], template)


def check_lens(state: dict, references: list[dict], template: dict) -> None:
    [(layer, content)] = state["datasourceStates"]["formBased"]["layers"].items()
    columns, shown = content["columns"], state["visualization"]
    assert [r["name"] for r in references] == [f"indexpattern-datasource-layer-{layer}"]
    assert list(columns) == content["columnOrder"]
    used = [c["columnId"] for c in shown["columns"]] if "columns" in shown else [
        name for part in shown["layers"] for name in (part["xAccessor"], *part["accessors"], part.get("splitAccessor")) if name]
    assert sorted(used) == sorted(columns)
    asked = {c["sourceField"] for c in columns.values()} - {"___records___"} | set(re.findall(r"([\w.@]+):", state["query"]["query"]))
    assert all(name in template or name.startswith("stockml.") for name in asked), asked
    numbers = {c["sourceField"] for c in columns.values() if c["operationType"] == "percentile"}
    assert all(template[name]["type"] == "long" for name in numbers)


# The set-up


class Hears(BaseHTTPRequestHandler):
    "Takes all it is told; not an Elasticsearch, only a listener to what would be sent to one."

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard[self.path] = (self.headers["Authorization"], body)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_PUT

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def listener():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hears)
    server.heard = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def set_up(monitoring: Path, listener, part: str, **secrets: str) -> subprocess.CompletedProcess:
    command = ["bash", monitoring / "setup.sh", part, f"http://127.0.0.1:{listener.server_port}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **SECRETS, **secrets}, timeout=60)


def test_set_up_sends_all_of_it(monitoring, listener):
    tool("curl")
    for part in ("elasticsearch", "kibana"):
        done = set_up(monitoring, listener, part)
        assert done.returncode == 0, done.stderr
    assert len(listener.heard) == 7 and {who for who, _ in listener.heard.values()} == {"Basic ZWxhc3RpYzphMQ=="}  # elastic:a1
    sent = {path: body for path, (_, body) in listener.heard.items()}
    assert (monitoring / "dashboard.ndjson").read_bytes() in sent.pop("/api/saved_objects/_import?overwrite=true")
    told = {path: json.loads(body) for path, body in sent.items()}
    assert told["/_security/user/kibana_system/_password"] == {"password": "b2"}
    assert told["/_security/user/stockml_writer"]["password"] == "c3"
    for path, name in (("/_ilm/policy", "ilm"), ("/_ingest/pipeline", "ingest-pipeline"), ("/_index_template", "index-template")):
        assert told[f"{path}/stockml"] == load(monitoring / f"{name}.json")


@pytest.mark.parametrize("password", ["", 'a"b', "a\\b", "a b"])
def test_set_up_refuses_a_password_that_would_break_json(monitoring, listener, password):
    assert set_up(monitoring, listener, "elasticsearch", KIBANA_PASSWORD=password).returncode == 2
    assert listener.heard == {}
