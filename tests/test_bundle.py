"A bundle is loaded whole or refused, saved whole or not at all, and forecasts what its model would."

import errno
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from stockml import bundle as module
from stockml.bundle import FILES, forecast, load_bundle, move_folder, save_bundle, write_manifest
from stockml.config import BadInput, StockmlError
from stockml.evaluate import VIEWS, seen_as
from stockml.features import MIN_BARS, make_features
from stockml.files import read_json, sha256, write_json
from stockml.forecaster import CLASSICAL, MODELS, corrected_scale
from stockml.schema import QUANTILES

PRICES = ["open", "high", "low", "close", "adj_close"]
LEVELS = [f"{q:g}" for q in QUANTILES]


@pytest.fixture
def copy(bundle_folder, tmp_path):
    "A bundle that may be damaged."
    return shutil.copytree(bundle_folder, tmp_path / "copy")


def save(folder, bundle, **changes):
    "Save a loaded bundle again, changed."
    parts = {"models": bundle.models, "quantiles": bundle.quantiles, "reference": pd.DataFrame({"x": [1.]})} | changes
    manifest = bundle.manifest | parts.pop("manifest", {})
    save_bundle(folder, **parts, manifest=manifest)


def wider(bundle, factor=2):
    "Its residual quantiles, all of them so many times as wide."
    return {key: (factor * pooled, {t: factor * q for t, q in own.items()}) for key, (pooled, own) in bundle.quantiles.items()}


def served_by(bundle, name, views=VIEWS):
    "The bundle with one model for everything, in these views; all are said to have shown skill."
    for_all = lambda value: {view: {str(h): value for h in bundle.horizons} for view in views}  # noqa: E731
    return replace(bundle, manifest=bundle.manifest | {"serves": for_all(name), "skill": for_all(True)})


def quantiles_of(answer):
    "Of all horizons, as an array."
    return np.array([list(f["quantiles"].values()) for f in answer["forecasts"]])


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
    {"features": [1, 2]}, {"features": "v_all"}, {"skill": []}, {"skill": {"1": True}}, {"skill": None},
    {"skill": {"market": {"1": "yes"}}}, {"skill": {"market": None}}, {"models": []}, {"models": "xgboost"},
    {"models": ["xgboost", "arima"]}, {"models": sorted(CLASSICAL)}, {"serves": []}, {"serves": {"1": "har"}},
    {"serves": {"market": {"1": "arima"}}}, {"serves": {"alone": {"21": None}}},
    {"models": ["xgboost", "har"], "serves": {"alone": {"1": "gjr"}}},
    {"as_of": None}, {"as_of": "yesterday"}, {"as_of": "2003-02-30"}, {"as_of": "20031231"}, {"as_of": 20031231},
])
def test_a_manifest_that_does_not_fit_is_refused(copy, changes):
    write_manifest(copy, read_json(copy / "manifest.json") | changes)
    with pytest.raises(BadInput, match="copy") as e:
        load_bundle(copy)
    assert "\n" not in str(e.value)


def test_a_model_that_is_to_serve_must_be_there(copy):
    write_manifest(copy, read_json(copy / "manifest.json") | {"models": ["har"], "serves": {"alone": {"1": "gjr", "21": "har"}}})
    with pytest.raises(BadInput, match=r"manifest\.json is no manifest of a bundle \(.*gjr, xgboost must be among the models"):
        load_bundle(copy)


@pytest.mark.parametrize("key", ["horizons", "quantiles", "features", "as_of", "files", "sha256", "models"])
def test_a_manifest_needs_what_the_code_reads(copy, key):
    manifest = read_json(copy / "manifest.json")
    del manifest[key]
    write_json(copy / "manifest.json", manifest) if key == "sha256" else write_manifest(copy, manifest)
    with pytest.raises(BadInput, match=rf"copy/manifest\.json is no manifest of a bundle \({key}: .*\): restore"):
        load_bundle(copy)


@pytest.mark.parametrize("alter", [
    lambda m: m["features"].reverse(), lambda m: m["features"].__setitem__(0, "zzz"),
    lambda m: m.update(skill={"market": {"1": True}}), lambda m: m.update(serves={"alone": {"1": "har"}}),
    lambda m: m["models"].remove("har"), lambda m: m.update(horizons=[1, 5]),
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


@pytest.mark.parametrize("harm", ["altered", "gone"])
def test_a_further_file_with_a_hash_is_held_to_it(copy, harm):
    manifest, path = read_json(copy / "manifest.json"), copy / "record.parquet"
    path.write_bytes(b"what it forecast")
    write_manifest(copy, manifest | {"files": manifest["files"] | {path.name: sha256(path)}})
    assert load_bundle(copy).manifest["files"][path.name]
    path.unlink() if harm == "gone" else path.write_bytes(b"what it would have liked to forecast")
    with pytest.raises(BadInput, match=rf"copy/record\.parquet is {'missing' if harm == 'gone' else 'damaged'}.*: restore the bundle"):
        load_bundle(copy)


def rewrite(folder, change):
    "Alter the arrays of a bundle as its writer might have done: the hashes are right."
    path = folder / "residuals.npz"
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)
    rehash(folder, path)


def rehash(folder, path):
    manifest = read_json(folder / "manifest.json")
    write_manifest(folder, manifest | {"files": manifest["files"] | {path.name: sha256(path)}})


@pytest.mark.parametrize("key", ["pooled/market/har", "own/market/xgboost", "tickers/alone/har", "pooled/market/random_walk",
                                 "model/har/market", "model/xgboost/alone", "model/garch/typical", "model/gjr/tickers"])
def test_an_array_that_is_not_there_is_named(copy, key):
    rewrite(copy, lambda a: a.pop(key))
    with pytest.raises(BadInput, match=rf"^\S+copy/residuals\.npz does not hold '({key}|{key.split('/')[-1]})': restore the bundle[^\n]*$"):
        load_bundle(copy)


MISFITS = {
    "pooled of one horizon": lambda a: a.update({"pooled/market/gjr": a["pooled/market/gjr"][:1]}),
    "own without a level": lambda a: a.update({"own/alone/xgboost": a["own/alone/xgboost"][:, :, 1:]}),
    "own without a ticker": lambda a: a.update({"own/market/har": a["own/market/har"][1:]}),
    "one ticker too few": lambda a: a.update({"tickers/market/har": a["tickers/market/har"][1:]}),
    "GARCH numbers without a ticker": lambda a: a.update({"model/garch/numbers": a["model/garch/numbers"][1:]}),
    "a pickle": lambda a: a.update({"own/market/har": np.array([{}], dtype=object)}),
}


@pytest.mark.parametrize("name", MISFITS)
def test_arrays_that_do_not_fit_are_refused(copy, name):
    rewrite(copy, MISFITS[name])
    with pytest.raises(BadInput, match=r"^\S+copy: not the arrays of a bundle \(.+\): restore the bundle[^\n]*$"):
        load_bundle(copy)


def test_no_pickle_is_ever_opened(copy, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    rewrite(copy, lambda a: a.update({"pooled/market/har": np.array([Trap()], dtype=object)}))
    with pytest.raises(BadInput, match="allow_pickle=False"):
        load_bundle(copy)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 not a zip after all"])
def test_what_was_never_an_npz_is_refused_in_one_line(copy, content):
    (copy / "residuals.npz").write_bytes(content)
    rehash(copy, copy / "residuals.npz")
    with pytest.raises(BadInput, match=r"^\S+copy: not the arrays of a bundle \(.+\): restore the bundle[^\n]*$"):
        load_bundle(copy)


# saving

def test_there_and_back(bundle, bundle_folder, panel, tmp_path):
    save(tmp_path / "again", bundle)
    again = load_bundle(tmp_path / "again")
    assert again.horizons == bundle.horizons == (1, 21)
    assert list(again.models) == list(bundle.models) == list(MODELS)
    for name in MODELS:
        assert forecast(served_by(again, name), panel) == forecast(served_by(bundle, name), panel)
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
        save(copy, bundle, quantiles=wider(bundle))
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
    pooled, own = bundle.quantiles["alone", "har"]
    one_more = bundle.quantiles | {("alone", "har"): (pooled, own | {"NEW": pooled})}
    changes = {"same": {}, "noted": {"manifest": {"note": "x"}}, "wider": {"quantiles": wider(bundle)}, "own": {"quantiles": one_more},
               "fewer": {"models": {k: m for k, m in bundle.models.items() if k != "gjr"}}}
    for name, change in changes.items():
        save(tmp_path / name, bundle, **change)
    versions = {name: load_bundle(tmp_path / name).version for name in changes}
    assert versions["same"] == versions["noted"] and len(set(versions.values())) == 4
    assert all(len(v) == 12 for v in versions.values())


# forecasting

def test_a_forecast_is_the_training_code_s_scale_times_the_residuals(bundle, panel):
    last = make_features(panel).groupby("ticker").tail(1)
    model = bundle.models["xgboost"]
    scales = corrected_scale(model.booster.inplace_predict, model.har, last)
    for answer, scale in zip(forecast(bundle, panel), scales, strict=True):
        for k, part in enumerate(answer["forecasts"]):
            quantiles = scale[k] * bundle.quantiles["market", "xgboost"][1][answer["ticker"]][k]
            assert list(part["quantiles"]) == LEVELS and part["model"] == "xgboost"
            np.testing.assert_allclose(list(part["quantiles"].values()), quantiles, rtol=1e-6)
            np.testing.assert_allclose(list(part["prices"].values()), answer["close"] * np.exp(quantiles), rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("view", VIEWS)
def test_every_model_can_answer(bundle, panel, view, name):
    "As its own training code would, within the panel and for each stock by itself; only XGBoost can have skill."
    served = served_by(bundle, name)
    parts = [panel] if view == "market" else [rows for _, rows in panel.groupby("ticker")]
    answers = [answer for part in parts for answer in forecast(served, part)]
    features = make_features(panel)
    newest = features.groupby("ticker").tail(1).index
    scales = seen_as(view, bundle.models[name], features)[newest]
    _, own = bundle.quantiles.get((view, name)) or bundle.quantiles["market", name]
    assert [a["ticker"] for a in answers] == sorted(own)
    for answer, scale in zip(answers, scales, strict=True):
        assert {(f["model"], f["skill"]) for f in answer["forecasts"]} == {(name, name == "xgboost")}
        np.testing.assert_allclose(quantiles_of(answer), scale[:, None] * own[answer["ticker"]], rtol=1e-5)


@pytest.mark.parametrize(("name", "sessions"), [("random_walk", None), ("historical", 252)])
def test_history_itself_answers(bundle, panel, name, sessions):
    "The quantiles of a stock's own daily returns, of all or of the last 252."
    for answer in forecast(served_by(bundle, name), panel, (1,)):
        price = panel.loc[panel["ticker"] == answer["ticker"], "adj_close"]
        returns = np.log(price).diff().dropna().to_numpy()
        np.testing.assert_allclose(quantiles_of(answer)[0], np.quantile(returns[-(sessions or len(returns)):], QUANTILES), rtol=1e-5)


def test_a_single_series_has_residuals_of_its_own(bundle, panel):
    "The answer without a market is no copy of the one within it: scale and residuals are those of a series alone."
    within = {a["ticker"]: quantiles_of(a) for a in forecast(bundle, panel)}
    last = make_features(panel).groupby("ticker").tail(1)
    scales = dict(zip(last["ticker"], seen_as("alone", bundle.models["xgboost"], last), strict=True))
    _, own = bundle.quantiles["alone", "xgboost"]
    for ticker, part in panel.groupby("ticker"):
        alone = quantiles_of(forecast(bundle, part)[0])
        np.testing.assert_allclose(alone, scales[ticker][:, None] * own[ticker], rtol=1e-5)
        assert not np.allclose(alone, within[ticker], rtol=1e-3)


def test_each_stock_is_answered_in_the_view_that_it_has(bundle, panel):
    "In one panel: GE went on alone after the others had ended, so they have a market and it has none."
    manifest = {"serves": {"market": {"1": "har", "21": "xgboost"}, "alone": {"1": "ewma94", "21": "gjr"}},
                "skill": {"market": {"1": True, "21": True}, "alone": {"1": True, "21": True}}}
    served = replace(bundle, manifest=bundle.manifest | manifest)
    mixed = panel[(panel["ticker"] == "GE") | (panel["date"] < "2003-06-01")].reset_index(drop=True)
    answers = {a["ticker"]: a for a in forecast(served, mixed)}
    names = {t: [(f["model"], f["skill"]) for f in a["forecasts"]] for t, a in answers.items()}
    assert names == {t: [("har", False), ("xgboost", True)] for t in answers} | {"GE": [("ewma94", False), ("gjr", False)]}
    np.testing.assert_allclose(quantiles_of(answers["GE"]), quantiles_of(forecast(served, mixed[mixed["ticker"] == "GE"])[0]), rtol=1e-6)
    early = forecast(served, panel[panel["date"] < "2003-06-01"])
    np.testing.assert_allclose(quantiles_of(answers["KO"]), quantiles_of(next(a for a in early if a["ticker"] == "KO")), rtol=1e-5)


@pytest.mark.parametrize("name", ["garch", "gjr"])
def test_garch_serves_a_stock_that_it_never_saw(bundle, panel, name):
    "With the numbers of a typical stock around its own level; the residuals are those of all."
    served, part = served_by(bundle, name), panel[panel["ticker"] == "GE"]
    known, unknown = (quantiles_of(forecast(served, part.assign(ticker=t))[0]) for t in ("GE", "NEW"))
    pooled, own = bundle.quantiles["market", name]
    scale = unknown[:, 0] / pooled[:, 0]
    np.testing.assert_allclose(unknown, scale[:, None] * pooled, rtol=1e-5, atol=1e-9)
    usual = np.log(part["adj_close"]).diff().std() * np.sqrt(bundle.horizons)
    assert ((scale > usual / 3) & (scale < usual * 3)).all()
    assert not np.allclose(scale, known[:, 0] / own["GE"][:, 0], rtol=1e-3)


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


@pytest.mark.parametrize("name", [m for m in MODELS if m not in ("garch", "gjr")])
@pytest.mark.parametrize("view", VIEWS)
def test_an_unknown_ticker_gets_the_residuals_of_all(bundle, panel, view, name):
    part = panel if view == "market" else panel[panel["ticker"] == "GE"]
    served, last = served_by(bundle, name), {t: part["ticker"].replace("GE", t) for t in ("GE", "GEN")}
    known, unknown = (next(quantiles_of(a) for a in forecast(served, part.assign(ticker=column)) if a["ticker"] == t)
                      for t, column in last.items())
    pooled, own = bundle.quantiles.get((view, name)) or bundle.quantiles["market", name]
    scale = known[:, :1] / own["GE"][:, :1]
    np.testing.assert_allclose(unknown, scale * pooled, rtol=1e-4, atol=1e-7)
    assert np.allclose(known, unknown, rtol=1e-3) == np.allclose(own["GE"], pooled)  # HAR's are pooled, as it is


def test_only_the_horizons_asked_for(bundle, panel):
    both, one = forecast(bundle, panel), forecast(bundle, panel, (21,))
    assert [f["horizon"] for f in both[0]["forecasts"]] == [1, 21]
    assert [a["forecasts"] for a in one] == [a["forecasts"][1:] for a in both]


@pytest.mark.parametrize("view", VIEWS)
def test_skill_comes_from_the_manifest_and_is_never_assumed(bundle, panel, tmp_path, view):
    save(tmp_path / "m", bundle, manifest={"skill": {view: {"1": True}}})
    skilled, part = load_bundle(tmp_path / "m"), panel[panel["ticker"] == "AAPL"]
    told = {"market": forecast(skilled, panel)[0], "alone": forecast(skilled, part)[0]}
    assert {v: [f["skill"] for f in a["forecasts"]] for v, a in told.items()} == {v: [v == view, False] for v in VIEWS}
    assert not any(f["skill"] for f in forecast(bundle, panel)[0]["forecasts"])


@pytest.mark.parametrize("serves", [{}, {"market": {}}, {"alone": {"21": "har"}}])
def test_xgboost_answers_where_nobody_is_named(bundle, panel, serves):
    answer = forecast(replace(bundle, manifest=bundle.manifest | {"serves": serves}), panel)[0]
    assert [(f["model"], f["skill"]) for f in answer["forecasts"]] == [("xgboost", False)] * 2


def test_wrong_requests_are_refused(bundle, panel):
    with pytest.raises(BadInput, match=r"horizons: \[0, 5\] not known to this model; it forecasts \[1, 21\]"):
        forecast(bundle, panel, (5, 1, 0))
    short = panel[(panel["ticker"] != "KO") | (panel["date"] < "1996-03-01")].groupby("ticker").head(MIN_BARS)
    with pytest.raises(BadInput, match=f"bars: KO has 42; at least {MIN_BARS} sessions are needed"):
        forecast(bundle, short.reset_index(drop=True))
    with pytest.raises(BadInput, match="bars: none"):
        forecast(bundle, panel[:0])
