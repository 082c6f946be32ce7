"""The journal's way into Elasticsearch, with the shipped rsyslog.conf: a real rsyslog, a real Elasticsearch that is away for a while,
a journal of real lines. Elasticsearch is 2.4.1, the newest that a package registry used here carries whole; what differs from today's
is said in serve/monitoring/README.md."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from processes import PATIENCE, ask, free_port, running, tool, wait_for

PACKAGE = "elasticsearch-mock-js@1.0.6"  # its tests run against the server in its folder elasticsearch/
# What today's index template does with `flattened`: no field of its own for each feature and quantile.
TEMPLATE = {"template": "logs-stockml.*", "settings": {"number_of_shards": 1, "number_of_replicas": 0},
            "mappings": {"line": {"properties": {"stockml": {"properties": {
                "features": {"type": "object", "enabled": False}, "forecasts": {"type": "object", "enabled": False}}}}}}}
PLAIN = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}  # neither of them needs to be root


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    "The server's jars."
    npm, folder = tool("npm"), Path(tempfile.mkdtemp(prefix="elasticsearch-"))
    done = subprocess.run([npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline",
                           "--prefix", str(folder), PACKAGE], check=False)
    if done.returncode:
        shutil.rmtree(folder)
        pytest.skip(f"{PACKAGE} cannot be installed: no registry reached")
    folder.chmod(0o755)
    yield folder / "node_modules/elasticsearch-mock-js/elasticsearch"
    shutil.rmtree(folder)


def own(path: Path) -> None:
    "Give it to the plain user."
    os.chown(path, PLAIN.get("user", -1), PLAIN.get("group", -1))


class Elasticsearch:
    "One that comes and goes; what it has been told stays."

    def __init__(self, package: Path, folder: Path):
        for name in ("", "config", "data", "logs"):
            (folder / name).mkdir()
            own(folder / name)
        self.url, self.stack, self.log = f"http://127.0.0.1:{(port := free_port())}", ExitStack(), folder / "elasticsearch.log"
        self.command = [
            tool("java"), "-Xms256m", "-Xmx256m", "-Dmapper.allow_dots_in_name=true", f"-Des.path.home={folder}", "-cp", f"{package}/lib/*",
            "org.elasticsearch.bootstrap.Elasticsearch", "start", "-Des.node.local=true", "-Des.network.host=127.0.0.1",
            f"-Des.http.port={port}"]

    def __enter__(self) -> "Elasticsearch":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stack.close()

    def start(self) -> None:
        self.process = self.stack.enter_context(running(self.command, lambda: ask(self.url)[0] == 200, self.log, **PLAIN))

    def empty(self) -> None:
        "As on the first day."
        ask(f"{self.url}/_all", method="DELETE")
        assert ask(f"{self.url}/_template/stockml", TEMPLATE, "PUT")[0] == 200

    def kill(self) -> None:
        "Without a word."
        self.process.kill()
        self.process.wait()

    def count(self) -> int:
        ask(f"{self.url}/logs-stockml.*/_refresh", method="POST")
        status, answer = ask(f"{self.url}/logs-stockml.*/_count")
        return answer["count"] if status == 200 else -1

    def found(self) -> list[dict]:
        "All documents: _index, _id, _source."
        ask(f"{self.url}/logs-stockml.*/_refresh", method="POST")
        return ask(f"{self.url}/logs-stockml.*/_search?size=10000")[1]["hits"]["hits"]


class Journal:
    "Writes as stockml.journal does: whole lines, to the newest of several files."

    def __init__(self, folder: Path, written: list[dict]):
        self.folder, self.part, self.lines = folder, 1, []
        self.forecast, self.other = written[0], written[-1]
        assert (self.forecast["event"]["dataset"], self.other["event"]["dataset"]) == ("stockml.forecast", "stockml.request")

    def write(self, n: int) -> None:
        "As many lines; each fifth is no forecast, and long."
        new = []
        for i in range(len(self.lines), len(self.lines) + n):
            ours = {**self.forecast["stockml"], "forecast_id": str(uuid4())} if i % 5 else {"trace": 'ü"\\' * 3000}
            new.append({**(self.forecast if i % 5 else self.other), "message": f"line {i}", "stockml": ours})
        self.lines += new
        self.raw("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in new))

    def raw(self, text: str) -> None:
        with (self.folder / f"journal-{self.part:06d}.ndjson").open("a") as file:
            file.write(text)


class Way:
    "A journal, rsyslog and Elasticsearch, in a folder that a plain user can write to."

    def __init__(self, folder: Path, conf: Path, elasticsearch: Elasticsearch, written: list[dict]):
        self.folder, self.conf, self.stack, self.elasticsearch = folder, folder / "rsyslog.conf", ExitStack(), elasticsearch
        shutil.copy(conf, self.conf)
        for name in ("journal", "spool"):
            (folder / name).mkdir()
            own(folder / name)
        self.journal = Journal(folder / "journal", written)

    def ship(self) -> subprocess.Popen:
        "Start rsyslog."
        env = {**os.environ, "STOCKML_JOURNAL": str(self.folder / "journal"), "STOCKML_SPOOL": str(self.folder / "spool"),
               "ES_SERVER": self.elasticsearch.url, "ES_TYPE": "line", "ES_USER": "", "ES_PASSWORD": ""}
        pid = self.folder / "spool/pid"
        pid.unlink(missing_ok=True)
        command = [tool("rsyslogd"), "-n", "-f", self.conf, "-i", pid]
        return self.stack.enter_context(running(command, pid.exists, self.folder / "rsyslog.log", env=env, **PLAIN))

    def arrived(self, n: int) -> None:
        try:
            wait_for(lambda: self.elasticsearch.count() >= n, 2 * PATIENCE)
        except AssertionError:
            said = {path.name: path.read_text()[-2000:] for path in (self.folder / "rsyslog.log", *self.folder.glob("spool/*se*"))}
            pytest.fail(f"{self.elasticsearch.count()} of {n} lines have come: {said}")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    "One that every user may enter: pytest's own are closed."
    folder = Path(tempfile.mkdtemp(prefix="way-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def elasticsearch(package, folder) -> Iterator[Elasticsearch]:
    "One for all tests."
    with Elasticsearch(package, folder / "elasticsearch") as running:
        yield running


@pytest.fixture
def way(elasticsearch, folder, monitoring, written, request) -> Iterator[Way]:
    "All of it; rsyslog not started yet."
    tool("rsyslogd")
    if not list(Path("/usr/lib").glob("**/rsyslog/omelasticsearch.so")):
        pytest.skip("no Elasticsearch output of rsyslog here: install rsyslog-elasticsearch")
    (place := folder / request.node.name).mkdir()
    elasticsearch.empty()
    way = Way(place, monitoring / "rsyslog.conf", elasticsearch, written)
    with way.stack:
        yield way


def change(conf: Path, old: str, new: str) -> None:
    assert conf.read_text().count(old) == 1
    conf.write_text(conf.read_text().replace(old, new))


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def outage(way: Way) -> None:
    "Elasticsearch dies while lines come; rsyslog dies meanwhile; both come again."
    journal, rsyslog = way.journal, way.ship()
    journal.write(500)
    way.arrived(1)
    way.elasticsearch.kill()
    journal.write(1500)
    journal.part = 2
    journal.write(500)
    wait_for(lambda: read_so_far(way) == size(way), what="for rsyslog to read all")
    kill(rsyslog)
    journal.write(300)
    way.ship()
    journal.write(200)
    way.elasticsearch.start()
    journal.write(100)


def read_so_far(way: Way) -> int:
    "Bytes of the journal that rsyslog has read, by its own account."
    states = [path.read_text() for path in way.folder.glob("spool/imfile-state*")]
    return sum(json.loads(text)["curr_offs"] for text in states if text)


def size(way: Way) -> int:
    "Bytes of the journal."
    return sum(path.stat().st_size for path in way.folder.glob("journal/*"))


def test_nothing_is_lost_or_doubled_while_elasticsearch_is_away(way):
    way.journal.raw('{"@timestamp": "2000-09-28T2\n')  # the plug was pulled here
    outage(way)
    lines = way.journal.lines
    bad = {**lines[1], "message": "odd", "stockml": {"ticker": {"no": "name"}}}
    way.journal.raw(json.dumps(bad) + "\n")
    way.arrived(len(lines))
    refused = way.folder / "spool/refused"
    wait_for(lambda: refused.exists() and "odd" in refused.read_text(), what="for two refused lines")
    documents = way.elasticsearch.found()
    assert Counter(d["_source"]["message"] for d in documents) == Counter(line["message"] for line in lines)  # each exactly once
    assert sorted((d["_source"] for d in documents), key=str) == sorted(lines, key=str)  # and whole
    assert {(d["_index"], d["_id"]) for d in documents if "forecast_id" in d["_source"]["stockml"]} == {
        ("logs-stockml.forecast-default", line["stockml"]["forecast_id"]) for line in lines if "forecast_id" in line["stockml"]}
    assert {d["_index"] for d in documents} == {"logs-stockml.forecast-default", "logs-stockml.request-default"}
    told = dict(line.split(": ", 1) for line in refused.read_text().splitlines())
    assert told.pop("no JSON") == '{"@timestamp": "2000-09-28T2'
    assert {why: json.loads(line) for why, line in told.items()} == {"failed to parse [stockml.ticker]": bad}


def test_it_may_all_be_sent_again(way):
    way.journal.write(300)
    rsyslog = way.ship()
    way.arrived(300)
    kill(rsyslog)
    for path in way.folder.glob("spool/*"):
        path.unlink()
    rsyslog = way.ship()
    way.journal.write(5)
    way.arrived(305)
    assert len(way.elasticsearch.found()) == 305 and not (way.folder / "spool/refused").exists()
    assert not (way.folder / "spool/unsent").exists()


def test_a_full_queue_lets_the_journal_wait(way):
    change(way.conf, 'queue.size="100000" queue.fullDelayMark="20000"', 'queue.size="4000" queue.fullDelayMark="2000"')
    rsyslog = way.ship()
    way.journal.write(10)
    way.arrived(10)
    way.elasticsearch.kill()
    way.journal.write(4000)
    time.sleep(2)
    assert read_so_far(way) < size(way)  # it waits
    kill(rsyslog)  # lines that were read, and found no room in the queue, are read again
    way.ship()
    way.elasticsearch.start()
    way.arrived(4010)
    assert Counter(d["_source"]["message"] for d in way.elasticsearch.found()) == Counter(line["message"] for line in way.journal.lines)


def test_the_usual_queue_would_lose_lines(way):
    change(way.conf, 'queue.type="Disk" queue.filename="journal"', 'queue.type="LinkedList"')
    outage(way)
    last = way.journal.lines[-1]["message"]
    wait_for(lambda: last in {d["_source"]["message"] for d in way.elasticsearch.found()}, what="for the last line")
    assert len(way.elasticsearch.found()) < len(way.journal.lines) - 1000
