"Prometheus' rules, and the way of an alert: real service, real Prometheus, real Alertmanager, a webhook."

import json
import os
import re
import signal
import subprocess
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from processes import ask, free_port, running, serving, tool, wait_for

import serve.metrics

TESTS = Path(__file__).with_name("alerts.test.yaml")
METRICS = Path(serve.metrics.__file__)


def ran(name: str, *args) -> subprocess.CompletedProcess:
    "A program that has ended."
    return subprocess.run([tool(name), *map(str, args)], capture_output=True, text=True, check=False, timeout=60)


def rules(monitoring: Path) -> dict[str, dict]:
    "Alert -> rule."
    groups = yaml.safe_load((monitoring / "prometheus/alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_configurations_are_valid(monitoring):
    for done in (ran("promtool", "check", "config", monitoring / "prometheus.yml"),
                 ran("promtool", "check", "rules", monitoring / "prometheus/alerts.yml"),
                 ran("amtool", "check-config", monitoring / "alertmanager.yml")):
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


def test_each_alert_fires_and_keeps_still_as_told():
    done = ran("promtool", "test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_both_ways(monitoring):
    told = defaultdict(set)
    for group in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in group["alert_rule_test"]:
            told[case["alertname"]].add(bool(case["exp_alerts"]))
    assert dict(told) == {name: {True, False} for name in rules(monitoring)}


@pytest.mark.parametrize("expr", ["vector(1)", "vector(1) > 2"])
def test_broken_rules_fail_their_tests(monitoring, tmp_path, expr):
    broken = yaml.safe_load((monitoring / "prometheus/alerts.yml").read_text())
    for rule in (rule for group in broken["groups"] for rule in group["rules"]):
        rule["expr"] = expr
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(broken))
    (tmp_path / "test.yaml").write_text(re.sub(r"rule_files: .*", "rule_files: [alerts.yml]", TESTS.read_text()))
    done = ran("promtool", "test", "rules", tmp_path / "test.yaml")
    assert done.returncode
    assert {name for name in rules(monitoring) if re.search(rf"alertname:\s*{name}\b", done.stdout + done.stderr)} == set(rules(monitoring))


LATER = {"stockml_errors_total", "stockml_refused_total", "stockml_monitor_state"}  # when there are some


def test_what_the_rules_ask_for_is_told(monitoring, root, bundle_folder, body, tmp_path):
    with serving(root, bundle_folder, tmp_path) as (url, _, _):
        ask(f"{url}/v1/forecast", body)
        with urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310
            told = answer.read().decode()
    asked = set(re.findall(r"stockml_\w+", " ".join(rule["expr"] for rule in rules(monitoring).values())))
    assert {name for name in asked if not re.search(rf"^{name}[ {{]", told, re.MULTILINE)} == LATER
    known = {f"stockml_{name}" for name in re.findall(r'(?:Counter|Gauge|Histogram)\("stockml_(\w+)"', METRICS.read_text())}
    assert {name.removesuffix("_total") for name in LATER} - {"stockml_monitor_state"} <= known
    assert 'stockml_bundle_reloads_total{result="refused"} 0.0' in told


class Webhook(ThreadingHTTPServer):
    "Keeps what it is told."

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Hears)
        self.heard: list[dict] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def alerts(self, status: str) -> set[str]:
        return {alert["labels"]["alertname"] for told in self.heard for alert in told["alerts"] if alert["status"] == status}


class Hears(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


def workers(process: subprocess.Popen) -> list[int]:
    "The processes that it has started."
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def shortened(monitoring: Path, folder: Path, service: int, alertmanager: int, webhook: int) -> None:
    "The shipped configuration with other addresses and with seconds for minutes; nothing else is changed."
    given = yaml.safe_load((monitoring / "prometheus.yml").read_text())
    given["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    given["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    del given["scrape_configs"][0]["dns_sd_configs"]  # no DNS here
    given["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{service}"]}]
    (folder / "prometheus").mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(given))
    alerts = yaml.safe_load((monitoring / "prometheus/alerts.yml").read_text())
    for rule in (rule for group in alerts["groups"] for rule in group["rules"] if "for" in rule):
        rule["for"] = "1s"
    (folder / "prometheus/alerts.yml").write_text(yaml.safe_dump(alerts))
    route = yaml.safe_load((monitoring / "alertmanager.yml").read_text())
    for part in (route["route"], *route["route"]["routes"]):
        part |= {"group_wait": "1s", "group_interval": "1s"}
    route["receivers"][0]["webhook_configs"][0]["url"] = f"http://127.0.0.1:{webhook}/"
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(route))


def test_a_service_that_dies_is_told_to_the_webhook(monitoring, root, bundle_folder, body, tmp_path):
    prometheus, alertmanager = tool("prometheus"), tool("prometheus-alertmanager")
    webhook, ports = Webhook(), [free_port(), free_port()]
    watch, manage = (f"http://127.0.0.1:{port}" for port in ports)

    def value(query: str) -> float | None:
        status, told = ask(f"{watch}/api/v1/query?query={query}")  # 503 while it starts
        found = told["data"]["result"] if status == 200 else []
        return float(found[0]["value"][1]) if found else None

    with serving(root, bundle_folder, tmp_path) as (url, _, service):
        shortened(monitoring, tmp_path, int(url.rpartition(":")[2]), ports[1], webhook.server_port)
        managing = [alertmanager, f"--config.file={tmp_path}/alertmanager.yml", f"--storage.path={tmp_path}/am",
                    "--cluster.listen-address=", f"--web.listen-address=127.0.0.1:{ports[1]}"]
        watching = [prometheus, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb",
                    f"--web.listen-address=127.0.0.1:{ports[0]}"]
        with (running(managing, lambda: ask(f"{manage}/api/v2/status")[0] == 200, tmp_path / "am.log"),
              running(watching, lambda: value("up") == 1, tmp_path / "prometheus.log")):
            for _ in range(3):
                assert ask(f"{url}/v1/forecast", body)[0] == 200
            wait_for(lambda: value('stockml_request_seconds_count{endpoint="forecast",status="200"}'.replace('"', "%22")) == 3)
            assert "StockmlDown" not in webhook.alerts("firing")
            for pid in [service.pid, *workers(service)]:  # alone, a worker goes on with its connections for a while
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: "StockmlDown" in webhook.alerts("firing"))
            told = next(t for t in webhook.heard for a in t["alerts"] if a["labels"]["alertname"] == "StockmlDown")
            assert (told["receiver"], told["groupLabels"]) == ("webhook", {"severity": "page"})
            assert [a["annotations"]["summary"] for a in told["alerts"]] == [f"{url.removeprefix('http://')} does not answer"]
            with serving(root, bundle_folder, tmp_path, int(url.rpartition(":")[2])):
                wait_for(lambda: "StockmlDown" in webhook.alerts("resolved"))
    webhook.shutdown()
    webhook.server_close()
