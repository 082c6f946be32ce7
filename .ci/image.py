"""Build the image of the champion, or push it: what `make image` and `make push` do, from the root of a project.

Its labels say which commit, model and data it holds. DOCKER, IMAGE and BASE_IMAGE in the environment differ from the defaults.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from stockml import __version__
from stockml.bundle import load_bundle
from stockml.config import BadInput
from stockml.lineage import code_version

DOCKER, IMAGE = os.environ.get("DOCKER") or "docker", os.environ.get("IMAGE") or "stockml:latest"


def fail(line: str) -> None:
    "One line, exit code 2."
    print(line, file=sys.stderr)
    sys.exit(2)


def docker(*args: str, **options) -> subprocess.CompletedProcess:
    "Run the engine's client; what it says is shown."
    done = subprocess.run([DOCKER, *args], check=False, text=True, **options)
    if done.returncode:
        sys.exit(done.returncode)
    return done


def need_engine() -> None:
    "One clear line without a docker engine."
    try:
        subprocess.run([DOCKER, "info"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        fail(f"no docker engine answers `{DOCKER} info`: start one, or name it with DOCKER_HOST")


def build() -> None:
    "The image of models/champion."
    champion = Path("models/champion")
    if not champion.exists():
        fail(f"no champion in {champion}: `make run` trains one")
    try:
        bundle = load_bundle(champion)
    except BadInput as e:
        fail(str(e))
    need_engine()
    code = code_version()
    facts = {"VERSION": __version__, "COMMIT": f"{code['commit']}{'-dirty' if code['dirty'] else ''}",
             "MODEL_VERSION": bundle.version, "DATA_SHA256": bundle.manifest.get("data_sha256", "unknown")}
    if base := os.environ.get("BASE_IMAGE"):
        facts["BASE_IMAGE"] = base
    docker("build", "--file", "serve/Dockerfile", "--tag", IMAGE, *(f"--build-arg={k}={v}" for k, v in facts.items()), ".")
    print(f"{IMAGE}: model {bundle.version}, {image_facts()['Size'] / 1e6:.0f} MB")


def push(registry: str) -> None:
    "The image to a registry, tagged by commit and model; says its digest, by which it is deployed."
    need_engine()
    labels = image_facts()["Config"]["Labels"]
    commit, _, dirty = labels["org.opencontainers.image.revision"].partition("-")
    tag = f"{registry}/stockml:{commit[:12]}{dirty and '-dirty'}-{labels['stockml.model.version']}"
    if password := os.environ.get("REGISTRY_PASSWORD"):
        docker("login", registry.split("/")[0], "--username", os.environ.get("REGISTRY_USER", ""), "--password-stdin", input=password)
    docker("tag", IMAGE, tag)
    docker("push", tag)
    print(next(d for d in image_facts()["RepoDigests"] if d.startswith(f"{registry}/")))


def image_facts() -> dict:
    "What the engine knows of the image."
    return json.loads(docker("image", "inspect", IMAGE, stdout=subprocess.PIPE).stdout)[0]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["build"]:
            build()
        case ["push", registry] if registry:
            push(registry)
        case _:
            fail("image.py build | push HOST:PORT; make push needs REGISTRY=HOST:PORT")
