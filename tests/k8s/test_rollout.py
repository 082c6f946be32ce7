"What a release does to those who are being served: nothing."

import json
import time

import pytest


def test_it_runs_as_the_manifests_say(place):
    pods = place.pods()
    assert len(pods) == 2
    assert all(pods.values())
    assert place.endpoints() == set(pods)
    for pod in pods:
        assert place.kubectl("exec", pod, "--", "id", "-u").strip() == "10001"
        assert "Read-only" in place.kubectl("exec", pod, "--", "sh", "-c", "touch /app/x 2>&1 || true")


def test_a_rolling_update_under_load_loses_no_request(place):
    before = place.pods()
    with place.load() as result:
        place.apply(RELEASE="2")
        assert place.rolled_out()
        time.sleep(12)  # until the last of the old ones has ended
    assert not set(place.pods()) & set(before)
    assert result()["lost"] == []
    assert result()["kept"] > 100
    assert result()["fresh"] > 100


@pytest.mark.parametrize("change", [{"image": "stockml:no-such-image"}, {"STOCKML_MODEL": "/nowhere"}], ids=["no such image", "no model"])
def test_what_cannot_start_takes_no_traffic_and_is_undone(place, change):
    if "image" in change:
        change = {"image": f"{place.image.rpartition('/')[0]}/{change['image']}"}
    before = place.pods()
    with place.load() as result:
        place.apply(RELEASE="2", **change)
        assert not place.rolled_out(20)
        assert place.endpoints() == set(before)
        place.kubectl("rollout", "undo", "deployment/stockml")
        assert place.rolled_out()
    assert place.pods() == before
    assert result()["lost"] == []


def test_a_release_is_undone_under_load(place):
    with place.load() as result:
        place.kubectl("rollout", "undo", "deployment/stockml", "--to-revision=1")
        assert place.rolled_out()
        time.sleep(12)
    template = json.loads(place.kubectl("get", "deployment", "stockml", "-o", "json"))["spec"]["template"]
    settings = template["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"]
    assert "RELEASE" not in json.loads(place.kubectl("get", "configmap", settings, "-o", "json"))["data"]
    assert result()["lost"] == []
