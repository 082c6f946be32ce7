"A namespace of one's own on the cluster of KUBECONFIG, with the overlay `local` and the image that IMAGE names."

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

K8S = Path(__file__).resolve().parents[2] / "serve/k8s"
PATIENCE = 180  # seconds; two pods start side by side, under load, on what may be a small machine
LOAD = (Path(__file__).parent / "load.py").read_text()


def kubectl(*args: str, check: bool = True, **options) -> str:
    "What it prints."
    done = subprocess.run(["kubectl", *args], capture_output=True, text=True, check=False, **options)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


class Place:
    "The service in a namespace."

    def __init__(self, namespace: str, folder: Path, image: str):
        self.namespace, self.folder, self.image = namespace, folder, image

    def kubectl(self, *args: str, **options) -> str:
        return kubectl("--namespace", self.namespace, *args, **options)

    def apply(self, image: str | None = None, **settings: str) -> None:
        "The overlay, as `kubectl apply -k` would, with another image or other settings."
        name, _, tag = (image or self.image).rpartition(":")
        new = {"digest": f"sha256:{tag}"} if name.endswith("@sha256") else {"newTag": tag}
        overlay = {
            "resources": [os.path.relpath(K8S / "overlays/local", self.folder.resolve())],
            "images": [{"name": "stockml", "newName": name.removesuffix("@sha256"), **new}],
            "configMapGenerator": [{"name": "stockml", "behavior": "merge", "literals": [f"{k}={v}" for k, v in settings.items()]}],
        }
        (self.folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        self.kubectl("apply", "-k", str(self.folder))

    def rolled_out(self, seconds: int = PATIENCE) -> bool:
        "Does the rollout come to a good end in time?"
        return "successfully" in self.kubectl("rollout", "status", "deployment/stockml", f"--timeout={seconds}s", check=False)

    def pods(self) -> dict[str, bool]:
        "Name -> ready, of those that are not ending."
        items = json.loads(self.kubectl("get", "pods", "-l", "app.kubernetes.io/name=stockml", "-o", "json"))["items"]
        return {i["metadata"]["name"]: any(c["type"] == "Ready" and c["status"] == "True" for c in i["status"].get("conditions", []))
                for i in items if "deletionTimestamp" not in i["metadata"]}

    def endpoints(self) -> set[str]:
        "Pods that get traffic."
        subsets = json.loads(self.kubectl("get", "endpoints", "stockml", "-o", "json")).get("subsets", [])
        return {a["targetRef"]["name"] for s in subsets for a in s.get("addresses", [])}

    @contextmanager
    def load(self) -> Iterator[Callable[[], dict]]:
        "Requests all the time, from a node as a load balancer would send them; afterwards the call returns how they went."
        address = json.loads(self.kubectl("get", "service", "stockml", "-o", "json"))["spec"]["clusterIP"]
        safe = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "load"}, "spec": {
            "restartPolicy": "Never", "hostNetwork": True, "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001},
            "containers": [{"name": "load", "image": self.image, "command": ["python", "-c", LOAD, address], "securityContext": safe,
                            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}],  # noqa: S108
            "volumes": [{"name": "tmp", "emptyDir": {}}]}}
        self.kubectl("apply", "-f", "-", input=json.dumps(pod))
        self.kubectl("wait", "--for=condition=Ready", "pod/load", f"--timeout={PATIENCE}s")
        result: dict = {}
        try:
            yield lambda: result
            self.kubectl("exec", "load", "--", "touch", "/tmp/stop")  # noqa: S108
            end = time.monotonic() + PATIENCE
            while self.kubectl("get", "pod", "load", "-o", "jsonpath={.status.phase}") == "Running" and time.monotonic() < end:
                time.sleep(.5)
            result.update(json.loads(self.kubectl("logs", "load")))
            print(result)
        finally:
            self.kubectl("delete", "pod", "load", "--wait", check=False)


@pytest.fixture(scope="session")
def image() -> str:
    "What the cluster runs."
    if not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"):
        pytest.skip("KUBECONFIG names no cluster, or there is no kubectl")
    if subprocess.run(["kubectl", "get", "--raw", "/readyz", "--request-timeout=10s"], capture_output=True, check=False).returncode:
        pytest.skip("the cluster of KUBECONFIG does not answer")
    return os.environ.get("IMAGE") or pytest.skip("IMAGE names no image for the nodes to pull: see `make push`")


@pytest.fixture(scope="module")
def place(image, tmp_path_factory) -> Iterator[Place]:
    "A fresh namespace where the service runs; gone afterwards."
    namespace = f"stockml-test-{uuid4().hex[:8]}"
    kubectl("create", "namespace", namespace)
    try:
        place = Place(namespace, tmp_path_factory.mktemp("overlay"), image)
        place.apply()
        assert place.rolled_out(), place.kubectl("describe", "pods")
        yield place
    finally:
        kubectl("delete", "namespace", namespace, "--wait", "--timeout=120s", check=False)
