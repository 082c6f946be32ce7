"An explanation multiplies out to the forecast's own scale, whatever serves, and says it in words."

import itertools
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb

from stockml.bundle import Bundle, forecast, last_scales
from stockml.config import BadInput
from stockml.explain import (
    COLUMNS,
    DIRECTION,
    UNITS,
    bars_of,
    bars_text,
    chain,
    contributions,
    described,
    explained,
    har_terms,
    importances,
    in_words,
    label,
    plot_contributions,
    plot_importances,
    terms,
)
from stockml.features import MIN_BARS, feature_columns, make_features
from stockml.forecaster import CLASSICAL, MODELS, XgbScale, base_scales
from stockml.targets import known, make_targets

PRICES = ["open", "high", "low", "close", "adj_close"]


def served_by(bundle, name):
    "The bundle with one model for everything."
    serves = {view: dict.fromkeys(map(str, bundle.horizons), name) for view in ("market", "alone")}
    return replace(bundle, manifest=bundle.manifest | {"serves": serves})


def scales(bundle, bars, name):
    "What the model says, ticker by ticker (tickers, horizons)."
    features = make_features(bars)[["ticker", "date", *bundle.manifest["features"]]]
    return last_scales(bundle.models[name], features, features.groupby("ticker").tail(1))


def product(table):
    return table.groupby(["ticker", "horizon"])["factor"].prod().unstack().to_numpy()


@pytest.fixture(scope="session")
def far(_panel):
    "A bundle that also looks a year ahead, beyond the trees."
    horizons, features = (1, 21, 252), make_features(_panel)
    seen = known(make_targets(_panel, horizons), "2003-01-01")
    models = {"xgboost": XgbScale({"rounds": 10}, rows=4000, threads=1).fit(features, seen, horizons)}
    quantiles = {("market", "xgboost"): (np.tile([-2., 0., 2.], (3, 1)), {})}
    return Bundle(models, quantiles, {"horizons": horizons, "quantiles": (.025, .5, .975), "features": feature_columns(features)})


@pytest.fixture
def one(bundle, panel):
    "AAPL's next session, within the panel."
    table = contributions(bundle, panel, (1,))
    return table[table["ticker"] == "AAPL"]


# the chain

@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_factors_multiply_out_to_the_scale_of_whatever_serves(bundle, panel, name, alone):
    bars = panel[panel["ticker"] == "KO"].reset_index(drop=True) if alone else panel
    table = contributions(served_by(bundle, name), bars)
    assert set(table["model"]) == {name} and list(table) == COLUMNS
    np.testing.assert_allclose(product(table), scales(bundle, bars, name), rtol=1e-5)
    np.testing.assert_allclose(table["factor"], np.exp(table["contribution"]))
    parts = {"xgboost": ["level", "har", "gjr", "trees"], "har": ["level", "har"]}
    alike = [name] if name in ("random_walk", "historical") else ["level", name]
    assert list(table["part"].unique()) == parts.get(name, alike)


def test_each_horizon_is_explained_by_the_model_that_answers_it(bundle, panel):
    serves = {"market": {"1": "xgboost", "21": "har"}, "alone": {"1": "gjr", "21": "har"}}
    mixed = replace(bundle, manifest=bundle.manifest | {"serves": serves})
    for bars, names in ((panel, ["xgboost", "har"]), (panel[panel["ticker"] == "GE"].reset_index(drop=True), ["gjr", "har"])):
        table = contributions(mixed, bars)
        answer = forecast(mixed, bars)[0]
        assert table.groupby("horizon")["model"].first().tolist() == names == [f["model"] for f in answer["forecasts"]]
        expected = np.column_stack([scales(bundle, bars, name)[:, k] for k, name in enumerate(names)])
        np.testing.assert_allclose(product(table), expected, rtol=1e-5)


def steady(panel, value):
    return panel.assign(**dict.fromkeys(PRICES, value))


ODD = {"short": lambda p: p.groupby("ticker").tail(MIN_BARS).reset_index(drop=True), "still": lambda p: steady(p, 10.),
       "cheap": lambda p: steady(p, 1e-4), "no ohlc": lambda p: p.assign(open=np.nan, high=np.nan, low=np.nan, volume=np.nan),
       "crash": lambda p: p.assign(**{c: p[c].where(p["date"] < "2003-12-31", p[c] / 1000) for c in PRICES}),
       "calm": lambda p: p.assign(**{c: p[c].where(p["date"] < "2002-12-01", 10.) for c in PRICES})}


@pytest.mark.parametrize("name", ["xgboost", "har", "ewma94"])
@pytest.mark.parametrize("kind", ODD)
def test_odd_prices_are_explained_as_well(bundle, panel, kind, name):
    bars = ODD[kind](panel)
    table = contributions(served_by(bundle, name), bars)
    assert np.isfinite(table["contribution"]).all()
    np.testing.assert_allclose(product(table), scales(bundle, bars, name), rtol=1e-5)
    assert "nan" not in in_words(table)
    for _, rows in table.groupby(["ticker", "horizon"]):
        assert np.exp(sum(log for _, log in bars_of(rows))) == pytest.approx(chain(rows)["ratio"])


def test_trees_are_divided_by_xgboost_itself(bundle, panel):
    model, table = bundle.models["xgboost"], contributions(bundle, panel, (1,))
    trees = table[table["part"] == "trees"]
    seen = trees[trees["feature"] != "any day"].pivot(index="ticker", columns="feature", values="seen")[bundle.manifest["features"]]
    own = model.booster.predict(xgb.DMatrix(seen.to_numpy(np.float32)), pred_contribs=True)[:, 0]
    made = trees.pivot(index="ticker", columns="feature", values="contribution")[[*bundle.manifest["features"], "any day"]]
    np.testing.assert_allclose(made, own, atol=1e-6)
    assert made["any day"].nunique() == 1


def test_a_contribution_is_the_feature_s_shapley_value(panel):
    "Against the definition: the mean over all orders of what the feature adds, unknown ones being averaged over the tree's cover."
    features = make_features(panel)
    model = XgbScale({"rounds": 3, "max_depth": 2}, rows=4000, threads=1)
    model.fit(features, known(make_targets(panel, (1,)), "2003-01-01"), (1,))
    table = pd.concat({t: _walkable(f) for t, f in model.booster.trees_to_dataframe().groupby("Tree")})
    one = Bundle({"xgboost": model}, {("market", "xgboost"): (np.ones((1, 1)), {})},
                 {"horizons": (1,), "quantiles": (.5,), "features": feature_columns(features)})
    rows = contributions(one, panel)
    rows = rows[(rows["ticker"] == "GE") & (rows["part"] == "trees")].set_index("feature")
    x = rows["seen"].drop("any day").to_numpy()
    used = sorted(set(table["feature"].dropna().astype(int)))
    assert 1 < len(used) <= 7
    worth = {s: sum(_expected(table.loc[t], 0, x, s) for t in table.index.get_level_values(0).unique())
             for n in range(len(used) + 1) for s in itertools.combinations(used, n)}
    for j in used:
        orders = list(itertools.permutations(used))
        gain = np.mean([worth[tuple(sorted({*o[:o.index(j)], j}))] - worth[tuple(sorted(o[:o.index(j)]))] for o in orders])
        assert rows["contribution"].iloc[j] == pytest.approx(gain, abs=1e-6)
    assert rows.loc["any day", "contribution"] == pytest.approx(worth[()], abs=1e-6)
    assert (rows["contribution"].drop(rows.index[[*used, -1]]) == 0).all()


def _walkable(tree):
    number = {name: int(name.split("-")[1]) for name in tree["ID"]}
    out = pd.DataFrame({"feature": pd.to_numeric(tree["Feature"].str[1:].where(tree["Feature"] != "Leaf")), "split": tree["Split"],
                        "value": tree["Gain"], "cover": tree["Cover"]})
    for name in ("Yes", "No", "Missing"):
        out[name] = tree[name].map(number)
    return out.set_index(tree["Node"])


def _expected(tree, node, x, seen):
    "A tree's mean where only some features are seen."
    row = tree.loc[node]
    if np.isnan(row["feature"]):
        return row["value"]
    if (j := int(row["feature"])) in seen:
        return _expected(tree, row["Missing" if np.isnan(x[j]) else "Yes" if x[j] < row["split"] else "No"], x, seen)
    sides = [(tree.loc[row[s], "cover"], _expected(tree, row[s], x, seen)) for s in ("Yes", "No")]
    return sum(c * v for c, v in sides) / sum(c for c, _ in sides)


def test_terms_of_har_are_its_own(bundle, panel):
    "Where one window alone is unusual, all that is unusual about HAR is put down to it."
    har, features = bundle.models["har"], make_features(panel)
    row = features[features["ticker"] == "KO"].tail(1).reset_index(drop=True)
    level, usual = float(row["v_all"].iloc[0]), np.sqrt(2 / np.pi)
    for name in (n for n in features if n in ("v_abs1", "v_abs5", "v_abs22", "v_abs66", "v_abs252", "v_neg1", "v_neg5")):
        row[name] = np.float32(level)
    for name in ("m_stress1", "m_stress5", "m_stress22"):
        row[name] = np.float32(usual)
    ordinary = {t.feature: t.logs for t in har_terms(har, row)}
    assert all(np.abs(v).max() < 1e-5 for k, v in ordinary.items() if k != "ordinary day")
    row["v_neg1"] = np.float32(4 * level)
    moved = {t.feature: t.logs for t in har_terms(har, row)}
    np.testing.assert_allclose(moved["ordinary day"], ordinary["ordinary day"])
    np.testing.assert_allclose(sum(moved.values()), np.log(har.scale(row)[0] / level / np.sqrt(har.horizons)), rtol=1e-6)
    assert all(np.abs(v).max() < 1e-5 for k, v in moved.items() if k not in ("ordinary day", "v_neg1"))
    assert np.abs(moved["v_neg1"]).min() > 1e-3 and "floor" not in moved


def test_the_floor_of_har_is_a_term(bundle, panel):
    table = contributions(served_by(bundle, "har"), ODD["calm"](panel))
    assert "floor" in set(table["feature"])


def test_beyond_the_trees_the_base_stands(far, panel):
    table = contributions(far, panel)
    assert {h: set(t["part"]) for h, t in table.groupby("horizon")} == {
        1: {"level", "har", "gjr", "trees"}, 21: {"level", "har", "gjr", "trees"}, 252: {"level", "har", "gjr"}}
    np.testing.assert_allclose(product(table), scales(far, panel, "xgboost"), rtol=1e-5)
    rows = table[(table["ticker"] == "KO") & (table["horizon"] == 252)]
    assert chain(rows)["trees"] is None
    assert "Beyond 63 sessions there are no trees: the base accounts for x" in in_words(rows)
    last = make_features(panel).groupby("ticker").tail(1)
    base = base_scales(far.models["xgboost"].har, last)[:, 2]
    np.testing.assert_allclose(product(table)[:, 2], base, rtol=1e-5)


def test_without_a_market_its_features_are_not_known(bundle, panel):
    table = contributions(bundle, panel[panel["ticker"] == "KO"].reset_index(drop=True), (1,))
    market = table["feature"].str.startswith("m_")
    assert market.any() and table.loc[market, "value"].isna().all() and "har" not in set(table.loc[market, "part"])
    assert label(table[market].iloc[0], .01).endswith(", not known")


def test_mistakes_are_those_of_a_forecast(bundle, panel):
    with pytest.raises(BadInput, match=r"horizons: \[5\] not known to this model"):
        contributions(bundle, panel, (5,))
    with pytest.raises(BadInput, match="bars: AAPL has 20"):
        contributions(bundle, panel.groupby("ticker").head(20).reset_index(drop=True))


def test_only_the_past_is_explained(bundle, panel):
    day = pd.Timestamp("2002-07-05")
    past = panel[panel["date"] <= day].reset_index(drop=True)
    now = contributions(bundle, past)
    changed = panel.assign(**{c: panel[c].where(panel["date"] <= day, panel[c] * 3) for c in PRICES})
    pd.testing.assert_frame_equal(now, contributions(bundle, changed[changed["date"] <= day].reset_index(drop=True)))
    assert set(now["origin"]) == {"2002-07-05"}


def test_one_row_takes_milliseconds(bundle, panel):
    own = panel[panel["ticker"] == "KO"].reset_index(drop=True)
    features, answers = make_features(own)[["ticker", "date", *bundle.manifest["features"]]], forecast(bundle, own)
    spent = []
    for _ in range(10):
        begun = time.perf_counter()
        explained(bundle, features, answers)
        spent.append(time.perf_counter() - begun)
    assert min(spent) < .1  # about 7 ms on an idle core


# words

def test_no_feature_is_without_words(panel):
    names = feature_columns(make_features(panel.groupby("ticker").tail(80).reset_index(drop=True)))
    words = {n: described(n) for n in names}
    assert [n for n, w in words.items() if w.family == "other"] == []
    assert len({w.text for w in words.values()}) == len(names)
    assert all((w.family == "market") == n.startswith("m_") for n, w in words.items())
    assert {w.unit for w in words.values()} <= set(UNITS)


@pytest.mark.parametrize(("feature", "text"), [
    ("v_ewma94", "volatility of about the last 17 sessions"), ("v_neg5", "falls of the last 5 sessions"),
    ("v_abs1", "moves of the last session"), ("r_0", "return of the last session"), ("r_1", "return 1 session before the last session"),
    ("season1", "moves thirteen weeks (and multiples) before the next session: reports"),
    ("season21", "moves thirteen weeks (and multiples) before the next 21 sessions: reports"),
    ("m_v_ewma99", "the market's volatility of about the last 100 sessions"), ("gjr", "volatility as the stock's own GJR remembers it"),
    ("something_new", "something_new"),
])
def test_words_of_a_feature(feature, text):
    assert described(feature).text == text


@pytest.mark.parametrize(("feature", "value", "text"), [
    ("v_abs1", .06, "3.0 times the long run"), ("m_stress5", np.sqrt(2 / np.pi), "1.0 times the long run"), ("r_0", np.log(.5), "-50.0%"),
    ("fall22", -5.94, "5.9 sigma"), ("mom5", -1.2, "-1.2 sigma"), ("season1", 1.44, "1.4 times the usual"),
    ("volume5", np.log(2), "2.0 times"),
    ("weekday", 4., "Friday"), ("monthday", 29., "29"), ("down22", .25, "25%"),
    ("m_v_abs1", .0123, "1.2% a day"), ("jump22", .5, "0.50"), ("m_beta", np.nan, "not known"),
])
def test_values_are_told_in_units_that_say_something(feature, value, text):
    row = pd.Series({"feature": feature, "words": "it", "value": value})
    assert label(row, .02) == f"it, {text}"


def test_paragraph_tells_what_the_numbers_are(one):
    logs = one["contribution"].where(one["part"] != "trees", 30 * one["contribution"])  # the test's small trees hardly dare
    one = one.assign(contribution=logs, factor=np.exp(logs))
    c, text = chain(one), in_words(one)
    assert text.startswith(f"AAPL from 2003-12-31, 1 session: the 95% interval is {c['ratio']:.2f} times as wide as at the stock's ")
    assert f"The base accounts for x{c['base']:.2f} (HAR's half for x" in text
    assert f"the trees for x{c['trees']:.2f}, of which x" in text
    assert text.endswith(DIRECTION)
    assert c["scale"] == pytest.approx(c["long_run"] * c["base"] * c["trees"])
    trees, level = one[(one["part"] == "trees") & (one["feature"] != "any day")].sort_values("contribution"), one["seen"].iloc[0]
    widening, calming = text.split("Widening: ")[1].split(" Calming: ")
    for row, part in ((trees.iloc[-1], widening), (trees.iloc[0], calming)):
        assert abs(row["contribution"]) >= .005 and part.startswith(f"{label(row, level)} (x{row['factor']:.2f})")
    assert in_words(one, 1).count("(x") == 2


def test_width_is_a_ratio_of_intervals(bundle, panel):
    "The sentence holds of the interval that was served: at the long-run scale it would be narrower by just that."
    bars = panel[panel["ticker"] == "KO"].reset_index(drop=True)
    c = chain(contributions(bundle, bars, (1,)))
    q = forecast(bundle, bars, (1,))[0]["forecasts"][0]["quantiles"]
    residuals = bundle.residuals("alone", "xgboost", "KO")[0]
    assert (q["0.975"] - q["0.025"]) / (residuals[-1] - residuals[0]) / c["long_run"] == pytest.approx(c["ratio"], rel=1e-5)


@pytest.mark.parametrize(("name", "text"), [
    ("har", r"HAR alone serves this horizon \(x\d\.\d\d, of which x\d\.\d\d on an ordinary day\)\."),
    ("ewma94", r"EWMA94 alone serves this horizon \(x(\d\.\d\d)\)\. \w+: volatility of about the last 17 sessions, .* \(x\1\)\."),
    ("garch", r"GARCH alone serves this horizon .*: volatility as the stock's own GARCH remembers it, \d\.\d times the long run \(x"),
    ("gjr", r"GJR alone serves this horizon .*: volatility as the stock's own GJR remembers it, \d\.\d times the long run \(x"),
    ("random_walk", r"KO from 2003-12-31, 21 sessions: served by random walk, which .* looks at no feature\."),
    ("historical", r"served by historical, which .* looks at no feature\."),
])
def test_words_of_the_classical_models(bundle, panel, name, text):
    said = in_words(contributions(served_by(bundle, name), panel[panel["ticker"] == "KO"].reset_index(drop=True), (21,)))
    assert re.search(text, said), said
    assert said.endswith(DIRECTION) and "tree" not in said


def test_every_model_has_words():
    assert set(CLASSICAL) == {"random_walk", "historical", "ewma94", "ewma97", "garch", "gjr", "har"}, "explain the new one too"


def test_a_paragraph_a_forecast(bundle, panel):
    text = in_words(contributions(bundle, panel)).split("\n\n")
    assert len(text) == 12 and [t.split()[0] for t in text[::2]] == sorted(set(panel["ticker"]))


# pictures

@pytest.mark.parametrize("name", ["xgboost", "har", "ewma94", "random_walk"])
def test_bars_add_up(bundle, panel, name):
    rows = contributions(served_by(bundle, name), panel[panel["ticker"] == "KO"].reset_index(drop=True), (1,))
    total = rows.loc[rows["part"] != "level", "contribution"].sum()
    for most in (1, 5, 100):
        bars = bars_of(rows, most)
        assert sum(log for _, log in bars) == pytest.approx(total, abs=1e-9)
    assert len(bars_text(rows).splitlines()) == len(bars_of(rows))
    if name == "xgboost":
        bars = bars_of(rows, 12)
        assert [n for n, _ in bars[:3]] == ["HAR, its half", "GJR, its half", "any day, by the trees"]
        assert len(bars) == 16 and bars[-1][0] == f"{len(rows[rows['part'] == 'trees']) - 13} other features"
        sizes = [abs(log) for _, log in bars[3:-1]]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", ["xgboost", "har", "ewma94", "random_walk"])
def test_picture_is_a_whole_png_and_the_same_each_time(bundle, panel, tmp_path, name):
    rows = contributions(served_by(bundle, name), panel[panel["ticker"] == "KO"].reset_index(drop=True), (1,))
    for file in ("a.png", "b.png"):
        plot_contributions(rows, tmp_path / "new" / file)
    a, b = (p.read_bytes() for p in sorted((tmp_path / "new").iterdir()))
    assert a == b and a[:8] == b"\x89PNG\r\n\x1a\n" and a[-8:-4] == b"IEND"


# all forecasts

def test_importances_are_mean_sizes(far, panel):
    features = make_features(panel)
    sample = features.iloc[np.linspace(0, len(features) - 1, 400).astype(int)]
    single, family = importances(far, sample), importances(far, sample, "family")
    assert list(single) == list(family) == ["horizon", "name", "words", "importance", "percent"]
    assert set(single["horizon"]) == {1, 21} and len(single) == 2 * len(feature_columns(features))
    usable = sample[sample["v_sd132"].notna()]
    assert len(usable) < len(sample)
    sizes = np.array([[t.logs[:2] for t in terms(far.models["xgboost"], usable.iloc[[i]], far.horizons) if t.part == "trees"][:-1]
                      for i in range(0, len(usable), 20)])
    part = importances(far, usable.iloc[::20])
    for k, h in enumerate((1, 21)):
        mine = part[part["horizon"] == h].set_index("name")["importance"][far.manifest["features"]]
        np.testing.assert_allclose(mine, np.abs(sizes[:, :, k]).mean(axis=0), atol=1e-7)
    for _, rows in single.groupby("horizon"):
        assert rows["importance"].is_monotonic_decreasing
    total = single.assign(family=[described(n).family for n in single["name"]]).groupby(["horizon", "family"])["importance"].sum()
    grouped = family.set_index(["horizon", "name"])["importance"]
    assert set(grouped.index) == set(total.index) and (grouped <= total[grouped.index] + 1e-9).all()
    np.testing.assert_allclose(single["percent"], 100 * np.expm1(single["importance"]))


@pytest.mark.parametrize("by", ["feature", "family"])
def test_importances_of_a_shipped_bundle_as_a_picture(bundle, bundle_folder, tmp_path, by):
    table = importances(bundle, pd.read_parquet(bundle_folder / "reference.parquet"), by)
    plot_importances(table, tmp_path / "i.png")
    assert (tmp_path / "i.png").read_bytes()[:4] == b"\x89PNG" and table["importance"].max() > 0


def test_an_explanation_needs_no_plotting_library_nor_shap():
    code = "import sys, stockml.explain; sys.exit(any(m in sys.modules for m in ('matplotlib', 'shap', 'mlflow', 'arch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
