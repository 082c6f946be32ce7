"A bundle is loaded whole or refused, saved whole or not at all, and forecasts what its model would."

import errno
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stockml import bundle as module
from stockml.bundle import FILES, forecast, load_bundle, move_folder, save_bundle, write_manifest
from stockml.config import BadInput, StockmlError
from stockml.features import MIN_BARS, make_features
from stockml.files import read_json, write_json
from stockml.forecaster import corrected_scale
from stockml.schema import QUANTILES

PRICES = ["open", "high", "low", "close", "adj_close"]
LEVELS = [f"{q:g}" for q in QUANTILES]


@pytest.fixture
def copy(bundle_folder, tmp_path):
    "A bundle that may be damaged."
    return shutil.copytree(bundle_folder, tmp_path / "copy")


def save(folder, bundle, **changes):
    "Save a loaded bundle again, changed."
    parts = {"pooled": bundle.pooled, "own": bundle.own, "reference": pd.DataFrame({"x": [1.]})} | changes
    manifest = bundle.manifest | parts.pop("manifest", {})
    save_bundle(folder, SimpleNamespace(booster=bundle.booster, har=bundle.har), **parts, manifest=manifest)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# loading

def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at * (len(data) - 1) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "first byte": lambda p: flip(p, 0), "middle byte": lambda p: flip(p, 1), "last byte": lambda p: flip(p, 2),
    "shorter": lambda p: p.write_bytes(p.read_bytes()[:-1]), "longer": lambda p: p.write_bytes(p.read_bytes() + b"x"),
    "empty": lambda p: p.write_bytes(b""),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(copy, name, damage):
    DAMAGES[damage](copy / name)
    with pytest.raises(BadInput, match=rf"copy/{name} is damaged .*: restore the bundle"):
        load_bundle(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(BadInput, match=rf"copy/{name} is missing: restore the bundle"):
        load_bundle(copy)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"files": {}}'])
def test_a_broken_manifest_is_refused(copy, text):
    path = copy / "manifest.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(BadInput, match=r"copy/manifest\.json"):
        load_bundle(copy)


@pytest.mark.parametrize("changes", [
    {"files": {}}, {"files": []}, {"horizons": [1]}, {"quantiles": [.5]}, {"features": ["v_all"]}, {"features": None},
    {"horizons": ["a", 1]}, {"horizons": [21, 1]}, {"horizons": [1, 1]}, {"horizons": [0, 1]}, {"horizons": [1., 21.]},
    {"quantiles": ["x"] * 9}, {"quantiles": sorted(QUANTILES)[::-1]}, {"quantiles": [*QUANTILES[:-1], 1.]},
    {"features": [1, 2]}, {"features": "v_all"}, {"skill": []}, {"skill": {"1": "yes"}}, {"skill": None},
    {"as_of": None}, {"as_of": "yesterday"}, {"as_of": "2003-02-30"}, {"as_of": "20031231"}, {"as_of": 20031231},
])
def test_a_manifest_that_does_not_fit_is_refused(copy, changes):
    write_manifest(copy, read_json(copy / "manifest.json") | changes)
    with pytest.raises(BadInput, match="copy") as e:
        load_bundle(copy)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("key", ["horizons", "quantiles", "features", "as_of", "files", "sha256"])
def test_a_manifest_needs_what_the_code_reads(copy, key):
    manifest = read_json(copy / "manifest.json")
    del manifest[key]
    write_json(copy / "manifest.json", manifest) if key == "sha256" else write_manifest(copy, manifest)
    with pytest.raises(BadInput, match=rf"copy/manifest\.json is no manifest of a bundle \({key}: .*\): restore"):
        load_bundle(copy)


@pytest.mark.parametrize("alter", [
    lambda m: m["features"].reverse(), lambda m: m["features"].__setitem__(0, "zzz"),
    lambda m: m.update(skill={"1": True, "21": True}), lambda m: m.update(horizons=[1, 5]),
    lambda m: m.update(quantiles=[q / 2 for q in m["quantiles"]]), lambda m: m.update(as_of="2099-01-01"),
    lambda m: m.update(who="somebody else"), lambda m: m.update(note="x"), lambda m: m.pop("commit"),
    lambda m: m.update(sha256="0" * 64),
])
def test_an_altered_manifest_is_refused(copy, alter):
    manifest = read_json(copy / "manifest.json")
    alter(manifest)
    write_json(copy / "manifest.json", manifest)
    with pytest.raises(BadInput, match=r"^\S+copy/manifest\.json is damaged .*: restore the bundle[^\n]*$"):
        load_bundle(copy)


def test_the_layout_of_a_manifest_is_free(copy, bundle):
    path = copy / "manifest.json"
    path.write_text(json.dumps(dict(reversed(read_json(path).items()))))
    assert load_bundle(copy).manifest == bundle.manifest


@pytest.mark.parametrize("name", FILES)
def test_each_file_needs_its_hash(copy, name):
    manifest = read_json(copy / "manifest.json")
    del manifest["files"][name]
    write_manifest(copy, manifest)
    with pytest.raises(BadInput, match=name):
        load_bundle(copy)


def test_no_pickle_is_ever_opened(copy):
    np.savez(copy / "residuals.npz", pooled=np.array([{}], dtype=object))
    manifest = read_json(copy / "manifest.json")
    manifest["files"]["residuals.npz"] = module.sha256(copy / "residuals.npz")
    write_manifest(copy, manifest)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_bundle(copy)


# saving

def test_there_and_back(bundle, bundle_folder, panel, tmp_path):
    save(tmp_path / "again", bundle)
    again = load_bundle(tmp_path / "again")
    assert again.horizons == bundle.horizons == (1, 21)
    assert forecast(again, panel) == forecast(bundle, panel)
    for name in ("model.ubj", "residuals.npz"):
        assert (tmp_path / "again" / name).read_bytes() == (bundle_folder / name).read_bytes()


def test_a_bundle_is_replaced_as_a_whole(bundle, copy):
    (copy / "leftover.txt").write_text("of an older version")
    save(copy, bundle, manifest={"as_of": "2004-01-01"})
    assert sorted(contents(copy)) == sorted([*FILES, "manifest.json"])
    assert load_bundle(copy).manifest["as_of"] == "2004-01-01"
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


STEPS = [("savez", np), ("to_parquet", pd.DataFrame), ("write_json", module), ("move_folder", module)]


@pytest.mark.parametrize(("step", "owner"), STEPS)
@pytest.mark.parametrize(("crash", "seen", "message"), [
    (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    (OSError(errno.ENOSPC, "No space left on device"), StockmlError, "copy: could.*No space left.*is untouched"),
])
def test_a_crash_while_saving_leaves_the_old_bundle(bundle, copy, monkeypatch, step, owner, crash, seen, message):
    def fail(*_, **__):
        raise crash

    before = contents(copy)
    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(seen, match=message):
        save(copy, bundle, pooled=bundle.pooled * 2)
    assert contents(copy) == before and [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_what_a_killed_save_left_behind_is_no_obstacle(bundle, copy):
    (copy.parent / ".copy.tmp").mkdir()
    (copy.parent / ".copy.tmp/half.npz").write_bytes(b"half")
    save(copy, bundle)
    assert load_bundle(copy) and [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_a_move_that_fails_puts_the_old_folder_back(copy, tmp_path):
    before = contents(copy)
    with pytest.raises(FileNotFoundError):
        move_folder(tmp_path / "nowhere", copy)
    assert contents(copy) == before and [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_a_move_heals_what_a_killed_one_left(copy, tmp_path):
    before, aside = contents(copy), tmp_path / ".copy.old"
    copy.rename(aside)  # killed between the two renames
    with pytest.raises(FileNotFoundError):
        move_folder(tmp_path / "nowhere", copy)
    assert contents(copy) == before and not aside.exists()


def test_a_version_names_all_that_a_forecast_depends_on(bundle, tmp_path):
    changes = {"same": {}, "noted": {"manifest": {"note": "x"}}, "pooled": {"pooled": bundle.pooled * 2},
               "own": {"own": bundle.own | {"NEW": bundle.pooled}}}
    for name, change in changes.items():
        save(tmp_path / name, bundle, **change)
    versions = {name: load_bundle(tmp_path / name).version for name in changes}
    assert versions["same"] == versions["noted"] and len(set(versions.values())) == 3
    assert all(len(v) == 12 for v in versions.values())


# forecasting

def test_a_forecast_is_the_training_code_s_scale_times_the_residuals(bundle, panel):
    last = make_features(panel).groupby("ticker").tail(1)
    scales = corrected_scale(bundle.booster, bundle.har, last)
    for answer, scale in zip(forecast(bundle, panel), scales, strict=True):
        for k, part in enumerate(answer["forecasts"]):
            quantiles = scale[k] * bundle.own[answer["ticker"]][k]
            assert list(part["quantiles"]) == LEVELS
            np.testing.assert_allclose(list(part["quantiles"].values()), quantiles, rtol=1e-6)
            np.testing.assert_allclose(list(part["prices"].values()), answer["close"] * np.exp(quantiles), rtol=1e-6)


def test_dates_and_closes(bundle, panel):
    answers = forecast(bundle, panel)
    closes = panel.groupby("ticker")["close"].last()
    assert [a["ticker"] for a in answers] == list(closes.index) and [a["close"] for a in answers] == closes.tolist()
    assert {a["origin"] for a in answers} == {"2003-12-31"}
    targets = {(f["horizon"], f["target_date"]) for a in answers for f in a["forecasts"]}
    assert targets == {(1, "2004-01-02"), (21, "2004-02-02")}


def test_prices_are_those_of_the_listing(bundle, panel):
    panel["adj_close"] /= 50  # dividends and splits that came later
    one, other = (forecast(bundle, b)[0] for b in (panel, panel.assign(close=panel["close"] * 2)))
    assert one["close"] == panel["close"][panel["ticker"] == "AAPL"].iloc[-1]
    low, high = (one["forecasts"][0]["prices"][q] for q in ("0.025", "0.975"))
    assert low < one["close"] < high and other["forecasts"][0]["prices"]["0.5"] == pytest.approx(
        2 * one["forecasts"][0]["prices"]["0.5"], rel=1e-6)


def steady(panel, value):
    return panel.assign(**dict.fromkeys(PRICES, value))


ODD = {"real": lambda p: p, "short": lambda p: p.groupby("ticker").tail(MIN_BARS).reset_index(drop=True),
       "still": lambda p: steady(p, 10.), "dear": lambda p: steady(p, 9e6), "cheap": lambda p: steady(p, 1e-4),
       "alone": lambda p: p[p["ticker"] == "GE"], "no ohlc": lambda p: p.assign(open=np.nan, high=np.nan, low=np.nan),
       "crash": lambda p: p.assign(**{c: p[c].where(p["date"] < "2003-12-31", p[c] / 1000) for c in PRICES})}


@pytest.mark.parametrize("kind", ODD)
def test_quantiles_ascend_and_prices_are_positive_and_finite(bundle, panel, kind):
    answers = forecast(bundle, ODD[kind](panel))
    json.dumps(answers, allow_nan=False)
    for part in (f for a in answers for f in a["forecasts"]):
        quantiles, prices = (list(part[k].values()) for k in ("quantiles", "prices"))
        assert (np.diff(quantiles) >= 0).all() and (np.diff(prices) >= 0).all() and min(prices) > 0
        assert quantiles[0] < 0 < quantiles[-1]


def test_an_unknown_ticker_gets_the_residuals_of_all(bundle, panel):
    known, unknown = (forecast(bundle, panel[panel["ticker"] == "GE"].assign(ticker=t))[0] for t in ("GE", "NEW"))
    q = np.array([[list(f["quantiles"].values()) for f in a["forecasts"]] for a in (known, unknown)])
    scale = q[0] / bundle.own["GE"]
    np.testing.assert_allclose(q[1], scale[:, :1] * bundle.pooled, rtol=1e-5)
    assert not np.allclose(q[0], q[1], rtol=1e-3)


def test_only_the_horizons_asked_for(bundle, panel):
    both, one = forecast(bundle, panel), forecast(bundle, panel, (21,))
    assert [f["horizon"] for f in both[0]["forecasts"]] == [1, 21]
    assert [a["forecasts"] for a in one] == [a["forecasts"][1:] for a in both]


def test_skill_comes_from_the_manifest_and_is_never_assumed(bundle, panel, tmp_path):
    save(tmp_path / "m", bundle, manifest={"skill": {"1": True}})
    with_skill = forecast(load_bundle(tmp_path / "m"), panel)[0]["forecasts"]
    assert [f["skill"] for f in with_skill] == [True, False]
    assert not any(f["skill"] for f in forecast(bundle, panel)[0]["forecasts"])


def test_wrong_requests_are_refused(bundle, panel):
    with pytest.raises(BadInput, match=r"horizons: \[0, 5\] not known to this model; it forecasts \[1, 21\]"):
        forecast(bundle, panel, (5, 1, 0))
    short = panel[(panel["ticker"] != "KO") | (panel["date"] < "1996-03-01")].groupby("ticker").head(MIN_BARS)
    with pytest.raises(BadInput, match=f"bars: KO has 42; at least {MIN_BARS} sessions are needed"):
        forecast(bundle, short.reset_index(drop=True))
    with pytest.raises(BadInput, match="bars: none"):
        forecast(bundle, panel[:0])
