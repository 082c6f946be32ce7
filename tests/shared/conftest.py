"A team's MLflow for real: a server of its own, runs in PostgreSQL, files in an S3 store; all on this machine, gone afterwards."

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from processes import PATIENCE, free_port, tool, wait_for

KEYS = {"AWS_ACCESS_KEY_ID": "mlflow", "AWS_SECRET_ACCESS_KEY": "a secret of the server", "AWS_DEFAULT_REGION": "us-east-1"}


def answers(url: str) -> bool:
    with urlopen(url, timeout=5) as answer:  # noqa: S310
        return answer.status == 200


class Postgres:
    "A cluster of its own; PostgreSQL refuses to be root."

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None) or Path(tool("pg_ctl")).parent
        self.uri = f"postgresql+psycopg2://mlflow@127.0.0.1:{self.port}/mlflow"
        self.run("initdb", "--username=mlflow", "--auth=trust", "--no-sync", "--encoding=UTF8")
        self.start()
        self.run("createdb", "--host=127.0.0.1", f"--port={self.port}", "--username=mlflow", "mlflow", data=False)

    def run(self, program: str, *args: str, data: bool = True) -> None:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        where = [f"--pgdata={self.folder / 'data'}"] if data else []
        with (self.folder / "said.txt").open("ab") as log:  # a server that goes on would hold a pipe open
            done = subprocess.run([self.programs / program, *where, *args], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                  cwd=self.folder, timeout=PATIENCE, check=False, **user)
        assert done.returncode == 0, (self.folder / "said.txt").read_text()

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.run("pg_ctl", "start", "--wait", f"--log={self.folder / 'log.txt'}", f"--options={options}")

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "--wait", "--mode=fast")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    "A database server."
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        tool("initdb")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    server = Postgres(folder)
    yield server
    with suppress(AssertionError):
        server.stop()
    shutil.rmtree(folder)


class Program:
    "A server in a process group of its own, started, killed and started again."

    def __init__(self, args: list, url: str, log: Path, env: dict[str, str]):
        self.args, self.url, self.log, self.env = [str(a) for a in args], url, log, env
        self.process: subprocess.Popen | None = None

    def begin(self) -> "Program":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
                                            start_new_session=True, cwd=self.log.parent)
        return self

    def ready(self) -> "Program":
        wait_for(lambda: self.process.poll() is not None or answers(self.url), 2 * PATIENCE, f"for {self.args[:3]}")
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
        return self

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[Program]:
    "SeaweedFS, with a key that only the MLflow server has; the bucket is made by the first file."
    folder, ports = tmp_path_factory.mktemp("s3"), [free_port() for _ in range(8)]
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    beside = str(Path(sys.executable).parent)
    weed = shutil.which("weed", path=f"{beside}{os.pathsep}{os.environ['PATH']}") or tool("weed")
    args = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.port.iceberg=0",
            "-s3.port.lance=0", "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=20",
            *(f"-{name}={port}" for name, port in zip(names, ports, strict=True))]
    program = Program(args, f"http://127.0.0.1:{ports[6]}/healthz", folder / "log.txt", {**os.environ, **KEYS}).begin()
    yield program
    program.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory, postgres, s3) -> Iterator[Program]:
    "The MLflow server."
    for driver in ("psycopg2", "boto3"):
        pytest.importorskip(driver)
    port, folder = free_port(), tmp_path_factory.mktemp("server")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "STOCKML_"))}
    env |= {**KEYS, "MLFLOW_S3_ENDPOINT_URL": s3.url.removesuffix("/healthz"), "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    args = [Path(sys.executable).parent / "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1",
            "--backend-store-uri", postgres.uri, "--serve-artifacts", "--artifacts-destination", "s3://mlflow/artifacts"]
    with ExitStack() as stack:
        program = Program(args, f"http://127.0.0.1:{port}/health", folder / "log.txt", env)
        stack.callback(lambda: program.process and program.kill())
        program.begin().ready()
        s3.ready()
        yield program


@pytest.fixture
def team(server, monkeypatch, tmp_path) -> str:
    "The server's address, in the environment of a project of its own; MLflow's client asks again at once."
    (tmp_path / "project").mkdir()
    uri = server.url.removesuffix("/health")
    monkeypatch.setenv("STOCKML_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("STOCKML_RUN", raising=False)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    return uri
