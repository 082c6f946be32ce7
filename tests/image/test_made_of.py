"What images and the compose set are made from; no engine needed."

import re

import pytest
import yaml

PIN = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)


def pins(path) -> dict[tuple[str, str], str]:
    "(package, where) -> version."
    return {(name, where): version for name, version, where in PIN.findall(path.read_text())}


@pytest.mark.parametrize("name", ["serve/requirements.lock", "serve/mlflow/requirements.lock"])
def test_images_hold_the_versions_of_the_project(root, name):
    of_project, of_image = pins(root / "requirements.lock"), pins(root / name)
    known = {}  # a package is in the project's lock for all Pythons, or for some
    for (package, _), version in of_project.items():
        known.setdefault(package, set()).add(version)
    own = {p for p, _ in of_image} - known.keys()
    assert own <= {"xgboost-cpu", "psycopg2-binary"}
    known["xgboost-cpu"] = known["xgboost"]
    assert all(version in known[package] for (package, _), version in of_image.items() if package in known)
    assert (root / name).read_text().count("--hash=sha256:") >= len(of_image)


def test_every_wanted_package_is_locked(root):
    wanted = {re.split(r"[<>=#\s]", line)[0] for line in (root / "serve/requirements.in").read_text().splitlines()} - {""}
    assert wanted <= {package for package, _ in pins(root / "serve/requirements.lock")}


def test_the_set_is_closed_to_other_machines_and_whole(root):
    services = yaml.safe_load((root / "serve/compose.yaml").read_text())["services"]
    assert services.keys() == {"service", "mlflow", "database", "files", "prometheus"}
    assert all(port.startswith("127.0.0.1:") for s in services.values() for port in s.get("ports", []))
    for volume in [v for s in services.values() for v in s.get("volumes", []) if v.startswith("./")]:
        assert (root / "serve" / volume.split(":")[0]).is_file()
    scraped = yaml.safe_load((root / "serve/monitoring/prometheus.yml").read_text())["scrape_configs"]
    assert scraped[0]["dns_sd_configs"][0]["names"] == ["service"]


def test_mlflow_keeps_nothing_of_its_own_and_alone_has_the_key(root):
    services = yaml.safe_load((root / "serve/compose.yaml").read_text())["services"]
    assert set(services["mlflow"]["depends_on"]) == {"database", "files"} and "volumes" not in services["mlflow"]
    assert all("healthcheck" in services[name] for name in services["mlflow"]["depends_on"])
    keys = {n: {k: v for k, v in s.get("environment", {}).items() if k.startswith("AWS_") and k != "AWS_DEFAULT_REGION"}
            for n, s in services.items()}
    assert keys["mlflow"] == keys["files"] != {} and not any(keys[n] for n in keys.keys() - {"mlflow", "files"})
    command = (root / "serve/mlflow/Dockerfile").read_text()
    assert "--serve-artifacts" in command and '--artifacts-destination \\"$ARTIFACTS\\"' in command
    assert services["mlflow"]["environment"]["ARTIFACTS"].endswith("s3://mlflow/artifacts}")
