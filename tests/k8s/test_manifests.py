"The overlays, without a cluster: they render, the API's own schemas accept them, and they keep the promises of the base."

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

VALIDATE = "kubernetes-validate==1.37.0"
SCHEMAS = ("1.25", "1.37")  # the oldest and the newest that it brings


@pytest.fixture(scope="module", params=["local", "cloud", "edge"])
def overlay(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def rendered(overlay, root, tmp_path_factory) -> Path:
    "All objects of an overlay in one file."
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl here")
    done = subprocess.run(["kubectl", "kustomize", root / "serve/k8s/overlays" / overlay], capture_output=True, text=True, check=True)
    path = tmp_path_factory.mktemp("k8s") / f"{overlay}.yaml"
    path.write_text(done.stdout)
    return path


@pytest.fixture
def objects(rendered) -> dict[str, dict]:
    "Kind -> object; of each kind there is one."
    return {o["kind"]: o for o in yaml.safe_load_all(rendered.read_text())}


def test_the_schemas_accept_it(rendered):
    tool = [Path(sys.executable).parent / "uv", "tool", "run", "--quiet", "--from", VALIDATE, "kubernetes-validate"]
    if subprocess.run([*tool, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{VALIDATE} cannot be installed: no registry reached")
    for version in SCHEMAS:
        done = subprocess.run([*tool, "--strict", "-k", version, rendered], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warn" not in (done.stdout + done.stderr).lower()
    rendered.with_name("bad.yaml").write_text(rendered.read_text().replace("readOnlyRootFilesystem", "readonlyRootFilesystem"))
    assert subprocess.run([*tool, "--strict", rendered.with_name("bad.yaml")], capture_output=True, check=False).returncode


def test_pods_are_locked_down_everywhere(objects):
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001,
                                      "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                            "capabilities": {"drop": ["ALL"]}}
    assert not pod["automountServiceAccountToken"]
    assert container["resources"]["limits"]["memory"]
    assert objects["NetworkPolicy"]["spec"]["egress"] == []


def test_a_rollout_takes_nothing_away_and_a_pod_leaves_in_peace(objects):
    spec = objects["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle"} <= pod["containers"][0].keys()
    drain = int(objects["ConfigMap"]["data"]["STOCKML_DRAIN_SECONDS"])
    assert 5 + drain + 20 < pod["terminationGracePeriodSeconds"]  # preStop, drain, gunicorn's graceful_timeout


def test_each_says_who_may_ask(objects):
    settings = objects["ConfigMap"]["data"]
    assert ("STOCKML_OPEN" in settings) != ("STOCKML_API_KEYS_FILE" in settings)


def test_what_old_clusters_lack_is_in_the_cloud_alone(objects, overlay):
    assert ({"HorizontalPodAutoscaler", "PodDisruptionBudget"} <= objects.keys()) == (overlay == "cloud")
    assert ("replicas" in objects["Deployment"]["spec"]) == (overlay != "cloud")
