"The image that IMAGE names, run as in production. `make image-test` builds it first."

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from containers import DOCKER, LOCKED, PATIENCE, Container, docker

from stockml.bundle import Bundle, load_bundle


@pytest.fixture(scope="session")
def image() -> str:
    "Name of the image under test."
    if subprocess.run(["sh", "-c", f"command -v {DOCKER} && {DOCKER} info"], capture_output=True, check=False).returncode:
        pytest.skip("no docker engine answers")
    return os.environ.get("IMAGE") or pytest.skip("IMAGE names none: `make image-test` builds and tests one")


@pytest.fixture(scope="session")
def facts(image) -> dict:
    "What the engine knows of it."
    return json.loads(docker("image", "inspect", image))[0]


@pytest.fixture(scope="session")
def create(image) -> Iterator[Callable[..., str]]:
    "Run it, with more options of `docker run`; gone after the tests."
    created = []

    def run(*options: str) -> str:
        created.append(docker("run", "--detach", *LOCKED, *options, image))
        return created[-1]

    yield run
    for container in created:
        docker("rm", "--force", "--volumes", container, check=False)


@pytest.fixture(scope="session")
def start(create) -> Callable[..., Container]:
    "Run it until it is ready."

    def run(*options: str) -> Container:
        begin = time.monotonic()
        name = create("--publish=127.0.0.1::8000", "--env=STOCKML_OPEN=1", *options)
        container = Container(name, f"http://{docker('port', name, '8000')}", 0)
        while time.monotonic() < begin + PATIENCE and docker("inspect", "--format={{.State.Running}}", container.id) == "true":
            try:
                if container.ask("/readyz")[0] == 200:
                    return container._replace(seconds=time.monotonic() - begin)
            except OSError:  # no worker listens yet
                pass
            time.sleep(.05)
        pytest.fail(f"not ready: {container.output()}")

    return run


@pytest.fixture(scope="session")
def service(start) -> Container:
    "One for the tests that leave it as it was."
    return start()


@pytest.fixture(scope="session")
def shipped_folder(service, tmp_path_factory) -> Path:
    "The bundle inside, copied out."
    folder = tmp_path_factory.mktemp("shipped") / "models"
    folder.mkdir()
    docker("cp", f"{service.id}:/app/models/champion", str(folder))
    return folder / "champion"


@pytest.fixture(scope="session")
def shipped(shipped_folder) -> Bundle:
    "It, loaded."
    return load_bundle(shipped_folder)
