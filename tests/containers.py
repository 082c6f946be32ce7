"A container of the service, through the client of a docker engine."

import json
import os
import subprocess
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

DOCKER = os.environ.get("DOCKER") or "docker"
# What a careful cluster allows: nothing to write but /tmp, no rights, little memory, the two cores of the smallest machine.
LOCKED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=768m", "--cpus=2"]
PATIENCE = 60  # seconds; a busy machine is no failure


def docker(*args: str, check: bool = True, timeout: float | None = None) -> str:
    "What the client prints."
    return subprocess.run([DOCKER, *args], capture_output=True, text=True, check=check, timeout=timeout).stdout.strip()


class Container(NamedTuple):
    "One that answers on a port of this machine."
    id: str
    url: str
    seconds: float  # from `docker run` to ready

    def ask(self, path: str, body: dict | None = None) -> tuple[int, dict]:
        "Status and JSON of one request."
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(self.url + path, data, {"Content-Type": "application/json"}), timeout=PATIENCE) as answer:  # noqa: S310
                return answer.status, json.loads(answer.read())
        except HTTPError as error:
            return error.code, json.loads(error.read())

    def output(self) -> tuple[str, str]:
        "What it wrote to stdout and stderr."
        done = subprocess.run([DOCKER, "logs", self.id], capture_output=True, text=True, check=True)
        return done.stdout, done.stderr
