"The gate weighs the newest evidence, lets nothing worse in, appoints who serves, and forgets nothing."

import errno
import hashlib
import json
import re
import shutil
import threading
from copy import deepcopy
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from stockml import bundle as bundle_module
from stockml import promote as module
from stockml import tracking
from stockml.bundle import FILES, forecast, load_bundle, save_bundle, write_manifest
from stockml.config import BadInput, Gate, StockmlError, load_params
from stockml.features import make_features
from stockml.files import lock, read_json, sha256, write_json
from stockml.forecaster import CLASSICAL
from stockml.prices import read_bars
from stockml.promote import (
    RECORD,
    Case,
    Decision,
    appoint,
    decisions,
    judge,
    must_serve,
    newest_sessions,
    promote,
    promote_and_register,
    read_case,
    track_record,
    weigh,
)
from stockml.schema import QUANTILE_COLUMNS, QUANTILES
from stockml.score import diebold_mariano, losses
from stockml.targets import make_targets

GATE = Gate(window=2520, level=.05, horizons=(1,), coverage_95=(.93, .97))
AS_OF = "2003-12-31"  # of the bundle
SCORES = {"xgboost": (.010, .030), "gjr": (.012, .029), "har": (.011, .031), "random_walk": (.02, .05)}


def scores(**changes) -> dict:
    "Pinball losses of each model at 1 and 21 sessions, and the verdicts on XGBoost."
    models = {m: {"1": {"pinball": a}, "21": {"pinball": b}} for m, (a, b) in (SCORES | changes).items()}
    return {"models": models, "skill": {"1": True, "21": False}}


METRICS = {**scores(), "alone": {**scores(ewma97=(.009, .028)), "skill": {"1": False, "21": False}}}


@pytest.fixture(scope="module")
def later(_panel, snapshot):
    "The six stocks, half a year beyond what the bundle knows."
    bars = read_bars(snapshot, tickers=sorted(_panel["ticker"].unique()))
    return bars[bars["date"].between("1996-01-01", "2004-06-30")].reset_index(drop=True)


@pytest.fixture(scope="module")
def seen(later):
    "Features of them all."
    return make_features(later)


@pytest.fixture(scope="module")
def tables(later, seen):
    "Real outcomes from 2001 on, forecast at 1 and 21 sessions by volatilities that move slowly, quickly, or hardly at all."
    targets, out = make_targets(later, (1, 21)), {}
    rows = (seen["date"] >= "2001-01-01").to_numpy()
    vols = {"har": seen["v_all"], "gjr": seen["v_sd252"], "xgboost": np.sqrt(seen["v_sd252"] * seen["v_ewma94"])}
    for (name, vol), h in ((v, h) for v in vols.items() for h in (1, 21)):
        y, scale = targets[f"y_{h}"][rows], vol[rows].to_numpy() * np.sqrt(h)
        q = pd.DataFrame(scale[:, None] * np.nanquantile(y / scale, QUANTILES), columns=QUANTILE_COLUMNS).astype(np.float32)
        key = {"model": name, "ticker": seen["ticker"][rows].to_numpy(), "origin": seen["date"][rows].to_numpy(), "horizon": h}
        out[name, h] = pd.DataFrame(key).join(q).assign(realized=y.to_numpy(), end=targets[f"end_{h}"][rows].to_numpy(), fold=0)
    return out


@pytest.fixture
def case(tables, seen):
    "Make a case, as it stood on a day."
    def make(last=AS_OF, metrics=METRICS, gate=GATE, serve="auto", change=lambda made: made) -> Case:
        made = pd.concat([t for (_, h), t in tables.items() if h in gate.horizons], ignore_index=True)
        made = made[made["origin"] <= last]
        made = made.assign(realized=made["realized"].where(made["end"] <= last)).drop(columns="end")
        return Case(change(made), seen[seen["date"] <= last], metrics, gate, serve)

    return make


def spoiled(made: pd.DataFrame, factor: float = 1.3) -> pd.DataFrame:
    "The same forecasts, XGBoost's too wide."
    out = made.copy()
    out.loc[out["model"] == "xgboost", QUANTILE_COLUMNS] *= factor
    return out


@pytest.fixture
def models(bundle_folder, tmp_path):
    "A folder with a challenger."
    shutil.copytree(bundle_folder, tmp_path / "challenger")
    return tmp_path


def evaluated(models, case):
    "The case as it is after an evaluation of this challenger."
    if isinstance(case.metrics, dict) and "challenger" not in case.metrics and (models / "challenger/manifest.json").exists():
        files = read_json(models / "challenger/manifest.json")["files"]
        version = hashlib.sha256("".join(files[n] for n in FILES).encode()).hexdigest()[:12]
        case = case._replace(metrics={**case.metrics, "challenger": version})
    return case


def decide(models, case):
    return promote(models / "challenger", models / "champion", evaluated(models, case), models / "promotions.jsonl")


def state(folder) -> dict[str, str]:
    "Every file and its hash."
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def record_of(champion) -> pd.DataFrame:
    return pd.read_parquet(champion / RECORD)


def swap_record(champion, change) -> None:
    "Give the champion another past, and the hash that goes with it."
    change(record_of(champion)).to_parquet(champion / RECORD, index=False)
    manifest = read_json(champion / "manifest.json")
    write_manifest(champion, manifest | {"files": manifest["files"] | {RECORD: sha256(champion / RECORD)}})


# the newest sessions

def days_of(made) -> list[pd.Timestamp]:
    return sorted(made["origin"].unique())


def test_the_newest_sessions_are_as_many_as_the_window(case):
    made = case().forecasts
    known = made[made["realized"].notna()]
    newest = newest_sessions(made, 100)
    pd.testing.assert_frame_equal(newest, known[known["origin"].isin(days_of(known)[-100:])])
    pd.testing.assert_frame_equal(newest_sessions(made, 10**6), known)
    assert made["origin"].max() == pd.Timestamp(AS_OF) > newest["origin"].max()  # its outcome was not known


@pytest.mark.parametrize(("left", "counted"), [(["GE", "KO"], False), (["GE", "KO", "XOM"], True)])
def test_a_handful_of_stocks_does_not_decide_alone(case, left, counted):
    "The other histories end in June 2003. Days on which fewer than half are left do not count, and the window reaches further back."
    made = case().forecasts
    thin = made[(made["origin"] < "2003-06-02") | made["ticker"].isin(left)]
    newest = newest_sessions(thin, 200)
    assert len(days_of(newest)) == 200
    assert (newest["origin"].max() == pd.Timestamp("2003-12-30")) == counted
    assert (newest["origin"].max() == pd.Timestamp("2003-05-30")) != counted


def test_a_stock_without_an_outcome_does_not_count_as_there(case):
    made = case().forecasts
    gone = (made["origin"] >= "2003-06-02") & ~made["ticker"].isin(["GE", "KO"])
    made["realized"] = made["realized"].mask(gone)
    assert newest_sessions(made, 200)["origin"].max() == pd.Timestamp("2003-05-30")
    assert newest_sessions(made.assign(realized=np.nan), 200).empty


# what the gate asks

NAN = float("nan")
PASSES = {"horizon": 21, "ratio": .99, "against": "har", "dm_t": -3., "dm_p": .01, "cover_95": .95,
          "champion_ratio": NAN, "champion_p": NAN}
NOT_BETTER = "h=21: pinball is {} times that of har (p = {}): not better by more than luck"
COVERAGE = "h=21: the 95% interval held {} of the outcomes, not 93% to 97%"


@pytest.mark.parametrize(("changes", "reasons"), [
    ({}, []),
    ({"dm_p": .0499}, []),
    ({"cover_95": .93}, []),
    ({"cover_95": .97}, []),
    ({"champion_ratio": 1.}, []),
    ({"champion_ratio": 1., "champion_p": 1.}, []),
    ({"champion_ratio": .98, "champion_p": .001}, []),
    ({"champion_ratio": 1.02, "champion_p": .2}, []),
    ({"champion_ratio": 1.02}, []),  # too few days in common for a test
    ({"dm_p": .05}, [NOT_BETTER.format("0.9900", "0.05")]),
    ({"ratio": 1., "dm_t": 0., "dm_p": 1.}, [NOT_BETTER.format("1.0000", "1")]),
    ({"ratio": 1.01, "dm_t": 3.}, [NOT_BETTER.format("1.0100", "0.01")]),
    ({"ratio": 1.01}, [NOT_BETTER.format("1.0100", "0.01")]),
    ({"dm_t": 3.}, [NOT_BETTER.format("0.9900", "0.01")]),
    ({"ratio": NAN}, [NOT_BETTER.format("nan", "0.01")]),
    ({"dm_t": NAN, "dm_p": NAN}, [NOT_BETTER.format("0.9900", "nan")]),
    ({"cover_95": .929}, [COVERAGE.format("92.9%")]),
    ({"cover_95": .98}, [COVERAGE.format("98.0%")]),
    ({"cover_95": NAN}, [COVERAGE.format("nan%")]),
    ({"champion_ratio": 1.02, "champion_p": .001}, ["h=21: pinball is 1.0200 times the champion's (p = 0.001): worse"]),
    ({"ratio": 2., "cover_95": .5, "champion_ratio": 3., "champion_p": 0.},
     [NOT_BETTER.format("2.0000", "0.01"), COVERAGE.format("50.0%"), "h=21: pinball is 3.0000 times the champion's (p = 0): worse"]),
])
def test_what_the_gate_asks(changes, reasons):
    assert judge(pd.DataFrame([PASSES, PASSES | changes]), GATE) == reasons


# the evidence

def test_the_evidence_is_that_of_the_newest_sessions(case, tables):
    "By hand: the pinball of XGBoost over that of the best classical model, and the share of outcomes in the interval."
    gate = GATE.model_copy(update={"window": 300})
    [found] = weigh(case(gate=gate).forecasts, gate).to_dict("records")
    rows = {m: newest_sessions(tables[m, 1][tables[m, 1]["end"] <= AS_OF], 300) for m in ("xgboost", "har", "gjr")}
    loss = {m: losses(r) for m, r in rows.items()}
    best = min(("har", "gjr"), key=lambda m: loss[m].mean())
    y, low, high = (rows["xgboost"][c] for c in ("realized", "q025", "q975"))
    assert len(set(loss["xgboost"].index)) == 300
    assert (found["horizon"], found["against"]) == (1, best)
    assert found["ratio"] == pytest.approx(loss["xgboost"].mean() / loss[best].mean())
    assert (found["dm_t"], found["dm_p"]) == pytest.approx(diebold_mariano(loss["xgboost"], loss[best], 1))
    assert found["cover_95"] == pytest.approx(((y >= low) & (y <= high)).mean())
    assert np.isnan([found["champion_ratio"], found["champion_p"]]).all()


def test_what_is_older_than_the_window_counts_for_nothing(case):
    gate = GATE.model_copy(update={"window": 300})
    made = case(gate=gate).forecasts
    old = made["origin"] < days_of(made)[-301]
    wild = made.assign(realized=made["realized"].mask(old, 9.))
    pd.testing.assert_frame_equal(weigh(made, gate), weigh(wild, gate))
    assert weigh(wild, GATE)["ratio"][0] != pytest.approx(weigh(made, GATE)["ratio"][0], abs=.01)


def test_each_gated_horizon_is_weighed(case):
    gate = GATE.model_copy(update={"horizons": (1, 21)})
    found = weigh(case(gate=gate).forecasts, gate)
    assert found["horizon"].tolist() == [1, 21]
    pd.testing.assert_frame_equal(found[:1], weigh(case().forecasts, GATE))
    assert weigh(case(gate=gate).forecasts, GATE)["horizon"].tolist() == [1]


@pytest.mark.parametrize("change", [
    lambda made: made[made["horizon"] != 21], lambda made: made[made["model"] != "xgboost"], lambda made: made[:0],
    lambda made: made.assign(realized=np.nan), lambda made: made.assign(realized=made["realized"].mask(made["horizon"] == 21)),
])
def test_a_gated_horizon_without_outcomes_is_refused(case, change):
    gate = GATE.model_copy(update={"horizons": (21,)})
    both = case(gate=gate.model_copy(update={"horizons": (1, 21)})).forecasts
    with pytest.raises(BadInput, match=r"^gate.horizons: 21 was not forecast, or has no outcomes; run the evaluate stage again$"):
        weigh(change(both), gate)


def theirs(made) -> pd.DataFrame:
    "What a champion would keep of the challenger's forecasts."
    return made[made["model"] == "xgboost"].drop(columns=["model", "realized", "fold"])


def test_a_champion_that_forecast_the_same_is_no_obstacle(case):
    made = case().forecasts
    found = weigh(made, GATE, theirs(made))
    assert found[["champion_ratio", "champion_p"]].to_numpy().tolist() == [[1., 1.]]
    assert judge(found, GATE) == []


def test_a_champion_that_was_better_by_more_than_luck_is(case):
    made = case(change=lambda made: spoiled(made, 1.25)).forecasts
    better, worse = (weigh(made, GATE, theirs(case(change=lambda m, k=k: spoiled(m, k)).forecasts)) for k in (1., 1.5))
    assert better["champion_ratio"][0] > 1 and better["champion_p"][0] < .01
    assert worse["champion_ratio"][0] < 1 and worse["champion_p"][0] < .001
    assert [r for r in judge(better, GATE) if "champion's" in r] and not [r for r in judge(worse, GATE) if "champion's" in r]


def test_only_origins_that_both_forecast_are_compared(case):
    "The champion knows GE alone, and the last hundred days of it."
    made = case().forecasts
    last = days_of(made)[-100:]
    kept = theirs(spoiled(made))
    kept = kept[(kept["ticker"] == "GE") & kept["origin"].isin(last)]
    rows = made[(made["model"] == "xgboost") & (made["ticker"] == "GE") & made["origin"].isin(last) & made["realized"].notna()]
    expected = losses(rows).mean() / losses(spoiled(rows)).mean()
    assert weigh(made, GATE, kept)["champion_ratio"][0] == pytest.approx(expected)


@pytest.mark.parametrize("days", [0, 1, 11])
def test_too_few_days_in_common_are_no_obstacle(case, days):
    made = case().forecasts
    newest = days_of(made[made["realized"].notna()])[-days:] if days else []
    kept = theirs(spoiled(made, .01))
    found = weigh(spoiled(made, 3.), GATE, kept[kept["origin"].isin(newest)])
    assert np.isnan(found["champion_p"][0])
    assert not [r for r in judge(found, GATE) if "champion's" in r]


def test_quantiles_that_only_one_of_them_has_are_left_out(case):
    made = case(change=spoiled).forecasts
    kept = theirs(case().forecasts)
    fewer = weigh(made, GATE, kept.drop(columns=["q05", "q95"]))
    more = weigh(made, GATE, kept.assign(q60=kept["q50"]))
    for found in (fewer, more):
        assert found["champion_ratio"][0] > 1 and found["champion_p"][0] < .001
    assert more["champion_ratio"][0] == weigh(made, GATE, kept)["champion_ratio"][0] != fewer["champion_ratio"][0]


# who serves

def test_where_xgboost_has_skill_it_serves_and_elsewhere_the_best_classical_model():
    assert appoint(METRICS, (1, 21)) == {
        "skill": {"market": {"1": True, "21": False}, "alone": {"1": False, "21": False}},
        "serves": {"market": {"1": "xgboost", "21": "gjr"}, "alone": {"1": "ewma97", "21": "ewma97"}}}


def test_the_best_is_so_in_its_own_view_and_is_no_stranger():
    metrics = {**scores(arima=(.001, .001)), "alone": {**scores(har=(.001, .002)), "skill": {"1": False, "21": False}}}
    assert appoint(metrics, (1, 21))["serves"] == {"market": {"1": "xgboost", "21": "gjr"}, "alone": {"1": "har", "21": "har"}}


@pytest.mark.parametrize("name", [*CLASSICAL, "xgboost"])
def test_a_model_that_is_named_serves_everything(name):
    "Also horizons without a score, and a view without one; the verdicts stay what they are."
    metrics = {k: v for k, v in METRICS.items() if k != "alone"}
    found = appoint(metrics, (1, 21, 252), name)
    assert found == {"skill": {"market": METRICS["skill"]},
                     "serves": {view: dict.fromkeys(("1", "21", "252"), name) for view in ("market", "alone")}}


def test_what_was_not_scored_is_served_by_xgboost():
    serves = appoint({k: v for k, v in METRICS.items() if k != "alone"}, (1, 252))["serves"]
    assert serves == {"market": {"1": "xgboost", "252": "xgboost"}, "alone": {"1": "xgboost", "252": "xgboost"}}


def altered(path: str, value) -> dict:
    "Scores with one thing replaced."
    metrics = deepcopy(METRICS)
    *parents, last = path.split("/")
    place = metrics
    for key in parents:
        place = place[key]
    place[last] = value
    return metrics


NO_SCORES = [{}, [], None, "x", {"models": METRICS["models"]}, altered("models", []), altered("models/xgboost", []),
             altered("models/xgboost/1", {}), altered("models/har/1/pinball", "x"), altered("models/har/1/pinball", None),
             altered("skill", []), altered("skill/1", "yes"), altered("alone", []), altered("alone/skill", {"1": 1}),
             altered("alone/models", None), {"models": {"har": METRICS["models"]["har"]}, "skill": {}}]


@pytest.mark.parametrize("metrics", NO_SCORES)
def test_what_are_no_scores_is_refused_in_one_line(models, case, metrics):
    with pytest.raises(BadInput, match=r"^metrics/evaluate\.json: [^\n]+; run the evaluate stage again$"):
        decide(models, case(metrics=metrics))
    assert not (models / "champion").exists() and decisions(models / "promotions.jsonl") == []


# the champion's past

@pytest.fixture
def champion(models, case):
    "The challenger, once promoted; as_of is the end of 2003."
    assert decide(models, case()).promoted
    return models / "champion"


def test_the_record_holds_the_newest_forecasts_with_an_outcome(models, case):
    gate = GATE.model_copy(update={"window": 300, "coverage_95": (.9, .99)})
    at_hand = case(gate=gate)
    assert decide(models, at_hand).promoted
    mine = newest_sessions(at_hand.forecasts[at_hand.forecasts["model"] == "xgboost"], 300)
    record = record_of(models / "champion")
    assert list(record) == ["ticker", "origin", "horizon", *QUANTILE_COLUMNS]
    pd.testing.assert_frame_equal(record, mine[list(record)].reset_index(drop=True), check_dtype=False)


def test_since_its_promotion_the_champion_forecasts_with_its_own_bundle(champion, later, seen):
    "And from days after its record only: each forecast is the one that the service would have given that day."
    kept, past = record_of(champion), track_record(champion, seen, GATE)
    pd.testing.assert_frame_equal(past[:len(kept)], kept, check_dtype=False)
    live = past[len(kept):]
    assert kept["origin"].max() == pd.Timestamp("2003-12-30") and live["origin"].min() == pd.Timestamp(AS_OF)
    assert set(live["origin"]) == set(later["date"][later["date"] >= AS_OF]) and len(live) == 6 * live["origin"].nunique()
    served = load_bundle(champion)
    served.manifest["serves"] = {}  # XGBoost throughout
    for day in (AS_OF, "2004-02-17", "2004-06-30"):
        answers = forecast(served, later[later["date"] <= day].reset_index(drop=True), (1,))
        rows = live[live["origin"] == day].set_index("ticker")
        assert set(live["horizon"]) == {1}
        for answer in answers:
            expected = list(answer["forecasts"][0]["quantiles"].values())
            np.testing.assert_allclose(rows.loc[answer["ticker"], QUANTILE_COLUMNS].astype(float), expected, rtol=1e-4, atol=1e-7)


def test_at_long_horizons_it_does_not_forecast_what_it_learned_from(models, case, seen):
    "The record of 21 sessions ends 21 sessions before the model does; the days in between are nobody's."
    gate = GATE.model_copy(update={"horizons": (21,), "level": .999, "coverage_95": (0., 1.)})
    assert decide(models, case(gate=gate)).promoted
    kept, past = record_of(models / "champion"), track_record(models / "champion", seen, gate)
    assert kept["origin"].max() < pd.Timestamp("2003-12-03")
    assert past["origin"][len(kept):].min() == pd.Timestamp(AS_OF)


def test_a_record_that_is_longer_than_the_model_is_old_is_not_overwritten(models, case, seen):
    "Promoted once more, on half a year of forecasts that came after its training: one forecast for each stock and day."
    assert decide(models, case(last="2004-06-30")).promoted
    kept, past = record_of(models / "champion"), track_record(models / "champion", seen, GATE)
    assert kept["origin"].max() == pd.Timestamp("2004-06-29")
    assert set(past["origin"][len(kept):]) == {pd.Timestamp("2004-06-30")}
    assert not past.duplicated(["ticker", "origin", "horizon"]).any()


def test_without_newer_days_the_record_is_all(champion, seen):
    pd.testing.assert_frame_equal(track_record(champion, seen[seen["date"] < AS_OF], GATE), record_of(champion))


def test_a_champion_of_other_features_or_horizons_has_its_record_alone(champion, seen):
    record = record_of(champion)
    pd.testing.assert_frame_equal(track_record(champion, seen.drop(columns="v_sd252"), GATE), record)
    other = track_record(champion, seen, GATE.model_copy(update={"horizons": (5,)}))
    pd.testing.assert_frame_equal(other, record)


def test_no_champion_no_past(models, seen):
    assert track_record(models / "champion", seen, GATE) is None
    shutil.copytree(models / "challenger", models / "champion")
    assert track_record(models / "champion", seen, GATE) is None


def test_a_challenger_is_held_against_what_the_champion_really_forecast(champion, models, case, later, seen):
    "Half a year later the challenger's forecasts are the champion's own, to the last day."
    serving = load_bundle(champion)
    wide = {key: (9 * pooled, {t: 9 * q for t, q in own.items()}) for key, (pooled, own) in serving.quantiles.items()}
    save_bundle(models / "challenger", serving.models, wide, seen[:9], serving.manifest)
    past = track_record(champion, seen, GATE).set_index(["ticker", "origin"])[QUANTILE_COLUMNS]

    def same(made):
        mine = made["model"] == "xgboost"
        made.loc[mine, QUANTILE_COLUMNS] = past.loc[pd.MultiIndex.from_frame(made.loc[mine, ["ticker", "origin"]])].to_numpy()
        return made

    decide(models, case(last="2004-06-30", change=same))
    [found] = decisions(models / "promotions.jsonl")[-1]["evidence"]
    assert (found["champion_ratio"], found["champion_p"]) == (1., 1.)


# through the gate

def test_the_first_champion(models, case):
    before = state(models / "challenger")
    assert decide(models, case()) == (True, [])
    champion, challenger = load_bundle(models / "champion"), load_bundle(models / "challenger")
    assert state(models / "challenger") == before
    assert champion.version == challenger.version
    made, own = champion.manifest, challenger.manifest
    apart = ("sha256", "files")
    assert {k: v for k, v in made.items() if k in own and k not in apart} == {k: v for k, v in own.items() if k not in apart}
    assert made["files"] == own["files"] | {RECORD: sha256(models / "champion" / RECORD)}
    assert made["metrics"] == METRICS["models"]["xgboost"]
    assert {k: made[k] for k in ("skill", "serves")} == appoint(METRICS, (1, 21))
    assert made["promoted_at"] >= made["trained_at"]
    assert sorted(p.name for p in models.iterdir()) == [".promotions.jsonl.lock", "challenger", "champion", "promotions.jsonl"]


@pytest.mark.parametrize(("serve", "market", "alone"), [
    ("auto", [("xgboost", True), ("gjr", False)], [("ewma97", False), ("ewma97", False)]),
    ("har", [("har", False)] * 2, [("har", False)] * 2),
    ("xgboost", [("xgboost", True), ("xgboost", False)], [("xgboost", False)] * 2),
])
def test_appointment_and_skill_reach_the_forecast(models, case, panel, serve, market, alone):
    decide(models, case(serve=serve))
    served = load_bundle(models / "champion")
    for bars, expected in ((panel, market), (panel[panel["ticker"] == "KO"], alone)):
        for answer in forecast(served, bars):
            assert [(f["model"], f["skill"]) for f in answer["forecasts"]] == expected


def test_a_champion_is_replaced_by_one_that_is_no_worse(champion, models, case):
    first = load_bundle(champion)
    shutil.rmtree(models / "challenger")
    save_bundle(models / "challenger", first.models, first.quantiles, pd.DataFrame({"x": [1.]}), first.manifest | {"files": {}})
    assert decide(models, case(last="2004-06-30")).promoted
    assert load_bundle(champion).version == load_bundle(models / "challenger").version != first.version
    assert record_of(champion)["origin"].max() == pd.Timestamp("2004-06-29")


def test_a_refusal_leaves_the_champion_untouched(champion, models, case):
    before = state(champion)
    decision = decide(models, case(change=spoiled))
    assert not decision.promoted
    assert "not better by more than luck" in decision.reasons[0]
    assert "times the champion's" in decision.reasons[-1]
    assert state(champion) == before


def test_better_than_the_classical_models_is_not_enough_if_the_champion_was_better_still(champion, models, case):
    "A champion of the past that was half way to the outcome."
    outcomes = case().forecasts.query("model == 'xgboost'").set_index(["ticker", "origin"])["realized"]

    def wiser(record):
        y = outcomes.loc[pd.MultiIndex.from_frame(record[["ticker", "origin"]])].to_numpy()
        return record.assign(**{c: (record[c] + y) / 2 for c in QUANTILE_COLUMNS})

    swap_record(champion, wiser)
    decision = decide(models, case())
    assert not decision.promoted
    [reason] = decision.reasons
    assert re.fullmatch(r"h=1: pinball is [\d.]+ times the champion's \(p = \S+\): worse", reason)
    [found] = decisions(models / "promotions.jsonl")[-1]["evidence"]
    assert found["ratio"] < 1 and found["champion_ratio"] > 1.5


def test_every_decision_is_logged(models, case, monkeypatch):
    for number, (key, value) in enumerate({"user.name": "Ada Lovelace", "user.email": "ada@example.com"}.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    log, begin = models / "promotions.jsonl", datetime.now(UTC).replace(microsecond=0)
    assert decisions(log) == []
    write_manifest(models / "challenger", read_json(models / "challenger/manifest.json") | {"run_id": "1f"})
    decide(models, case(change=spoiled))
    assert not (models / "champion").exists()
    decide(models, case())
    write_manifest(models / "challenger", read_json(models / "challenger/manifest.json") | {"run_id": "2e", "commit": "c" * 40})
    decide(models, case(change=spoiled))
    first, second, third = found = decisions(log)
    assert [d["promoted"] for d in found] == [False, True, False]
    assert [len(d["reasons"]) for d in found] == [2, 0, 3]
    made = load_bundle(models / "champion")
    commit = made.manifest["commit"]
    assert [(d["model"], d["as_of"], d["commit"], d["run_id"]) for d in found] == [
        (made.version, AS_OF, commit, "1f"), (made.version, AS_OF, commit, "1f"), (made.version, AS_OF, "c" * 40, "2e")]
    assert [d["champion"] for d in found] == [
        None, None, {"model": made.version, "as_of": AS_OF, "commit": commit, "run_id": "1f"}]
    assert {d["who"] for d in found} == {made.manifest["promoted_by"]} == {"Ada Lovelace <ada@example.com>"}
    assert all(begin <= datetime.fromisoformat(d["time"]) <= datetime.now(UTC) for d in found)
    evidence = [d["evidence"][0] for d in found]
    expected = weigh(case().forecasts, GATE).to_dict("records")[0]
    assert {k: v for k, v in evidence[1].items() if v is not None} == {k: v for k, v in expected.items() if v == v}
    assert evidence[0]["champion_ratio"] is None and evidence[2]["champion_ratio"] > 1  # strict JSON: no NaN
    assert second["evidence"] != third["evidence"] and first["reasons"][0].startswith("h=1: pinball is 1.0")


def test_a_damaged_challenger_decides_nothing(champion, models, case):
    with (models / "challenger/model.ubj").open("ab") as file:
        file.write(b"x")
    before = state(models)
    with pytest.raises(BadInput, match=r"challenger/model\.ubj is damaged"):
        decide(models, case())
    assert state(models) == before


@pytest.mark.parametrize("name", [RECORD, "model.ubj", "manifest.json"])
def test_a_damaged_champion_decides_nothing_and_the_cure_is_told(champion, models, case, name):
    with (champion / name).open("ab") as file:
        file.write(b"x")
    before = state(models)
    with pytest.raises(BadInput, match=rf"champion/{name}[^\n]+; or remove \S+/champion: the gate then asks nothing about it$"):
        decide(models, case())
    assert state(models) == before
    shutil.rmtree(champion)
    assert decide(models, case()).promoted


def test_a_champion_without_its_record_is_refused_but_one_that_never_had_any_is_no_obstacle(champion, models, case):
    (champion / RECORD).unlink()
    with pytest.raises(BadInput, match=r"record\.parquet is missing"):
        decide(models, case())
    shutil.rmtree(champion)
    shutil.copytree(models / "challenger", champion)
    assert decide(models, case()).promoted
    entry = decisions(models / "promotions.jsonl")[-1]
    assert entry["champion"]["model"] == entry["model"] and entry["evidence"][0]["champion_ratio"] is None
    assert (champion / RECORD).exists()


def test_missing_outcomes_decide_nothing(champion, models, case):
    before = state(models)
    with pytest.raises(BadInput, match="was not forecast, or has no outcomes"):
        decide(models, case(change=lambda made: made.assign(realized=np.nan)))
    assert state(models) == before


@pytest.mark.parametrize("line", [b"{", b"[]", b"3", b"null", b"\xff", b""])
def test_a_damaged_log_decides_nothing(champion, models, case, line):
    log = models / "promotions.jsonl"
    log.write_bytes(log.read_bytes() + line + b"\n")
    before = state(models)
    for ask in (lambda: decisions(log), lambda: decide(models, case(change=spoiled))):
        with pytest.raises(BadInput, match=r"promotions\.jsonl: line 2 is no decision; [^\n]+$"):
            ask()
    assert state(models) == before


STEPS = [("copytree", shutil), ("to_parquet", pd.DataFrame), ("write_manifest", module), ("move_folder", bundle_module)]


@pytest.mark.parametrize(("step", "owner"), STEPS)
@pytest.mark.parametrize(("crash", "told", "message"), [
    (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    (OSError(errno.ENOSPC, "No space left on device"), StockmlError, r"champion: could.*No space left.*is untouched"),
])
def test_a_crash_in_between_leaves_the_old_champion(champion, models, case, monkeypatch, step, owner, crash, told, message):
    def fail(*_, **__):
        raise crash

    before, later = state(models), case(last="2004-06-30")
    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(told, match=message):
        decide(models, later)
    monkeypatch.undo()
    assert state(models) == before
    assert sorted(p.name for p in models.iterdir()) == [".promotions.jsonl.lock", "challenger", "champion", "promotions.jsonl"]
    assert decide(models, later).promoted


def test_one_promotion_at_a_time(models, case):
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock(models / ".promotions.jsonl.lock"):
            held.set()
            done.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(30)
    try:
        with pytest.raises(BadInput, match=r"^another promotion is under way"):
            decide(models, case())
    finally:
        done.set()
        other.join()
    assert not (models / "champion").exists()
    assert decide(models, case()).promoted


def test_promotions_at_once_are_one_after_the_other_or_told_to_wait(models, case):
    begin, said, at_hand = threading.Barrier(4), [], case()

    def ask():
        begin.wait()
        try:
            said.append(decide(models, at_hand).promoted)
        except BadInput as e:
            said.append(str(e))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 4 and True in said
    assert all(s is True or s.startswith("another promotion is under way") for s in said)
    assert [d["promoted"] for d in decisions(models / "promotions.jsonl")] == [True] * said.count(True)
    assert load_bundle(models / "champion").version == load_bundle(models / "challenger").version


def test_the_log_survives_a_reader_of_lines(models, case):
    for _ in range(3):
        decide(models, case())
    lines = (models / "promotions.jsonl").read_text().splitlines()
    assert [json.loads(line)["promoted"] for line in lines] == [True] * 3


# the files of a run

@pytest.fixture
def run(tmp_path, case):
    "What the stages leave behind, both horizons."
    both = case(gate=GATE.model_copy(update={"horizons": (1, 21)}))
    both.forecasts.to_parquet(tmp_path / "forecasts.parquet", index=False)
    both.features.to_parquet(tmp_path / "features.parquet", index=False)
    write_json(tmp_path / "evaluate.json", METRICS)
    return [tmp_path / name for name in ("forecasts.parquet", "features.parquet", "evaluate.json")]


def test_a_case_is_put_together_from_files(run, case):
    params = load_params(changes={"gate.horizons": "1", "model.serve": "har"})
    found, expected = read_case(*run, params), case()
    assert set(found.forecasts["horizon"]) == {1}  # nothing that is not asked about
    pd.testing.assert_frame_equal(weigh(found.forecasts, GATE), weigh(expected.forecasts, GATE))
    pd.testing.assert_frame_equal(found.features, expected.features.reset_index(drop=True), check_dtype=False)
    assert (found.metrics, found.gate, found.serve) == (METRICS, params.gate, "har")


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_file_that_is_missing_or_damaged_is_named(run, number, harm):
    path = run[number]
    path.unlink() if harm == "gone" else path.write_bytes(b"rubbish")
    with pytest.raises(BadInput, match=rf"^\S+{path.name}: [^\n]+$"):
        read_case(*run, load_params())


def test_bars_are_no_forecasts(run, panel):
    panel.to_parquet(run[0])
    with pytest.raises(BadInput, match=r"forecasts\.parquet: not readable \([^\n]+$"):
        read_case(*run, load_params())


# the registry

@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "An MLflow of this module's own."
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def mlflow(store, monkeypatch):
    "A client of it, outside any stage."
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for name in ("MLFLOW_RUN_ID", tracking.TOKEN):
        monkeypatch.delenv(name, raising=False)
    return tracking.connect()


def decide_and_register(models, case):
    return promote_and_register(models / "challenger", models / "champion", evaluated(models, case), models / "promotions.jsonl")


def trained_by(models, run):
    "Write a run into the challenger's manifest."
    write_manifest(models / "challenger", read_json(models / "challenger/manifest.json") | {"run_id": run})


def versions(client) -> dict[str, str]:
    "Alias -> version."
    return dict(client.get_registered_model(tracking.MODEL).aliases)


def test_the_aliases_follow_the_gate(models, case, mlflow, monkeypatch, tmp_path):
    trained, stage = (tracking.join_run(mlflow, name) for name in ("train", "promote"))
    trained_by(models, trained)
    decision, said = decide_and_register(models, case())
    first = versions(mlflow)
    assert decision.promoted and said == f"registered as version {first['champion']}: challenger, champion"
    made = mlflow.get_model_version_by_alias(tracking.MODEL, "champion")
    assert (made.run_id, made.tags) == (trained, {"promoted": "True"})
    kept = tmp_path / "kept"
    kept.mkdir()
    mlflow.download_artifacts(trained, "bundle", str(kept))
    assert state(kept / "bundle") == state(models / "champion")
    monkeypatch.setenv("MLFLOW_RUN_ID", stage)
    decision, said = decide_and_register(models, case(change=spoiled))
    second = versions(mlflow)
    assert not decision.promoted and said == f"registered as version {second['challenger']}: challenger"
    assert second["champion"] == first["champion"] != second["challenger"]
    assert mlflow.get_model_version_by_alias(tracking.MODEL, "challenger").run_id == stage


@pytest.mark.parametrize(("run", "said"), [
    (None, "not registered: the model belongs to no MLflow run"),
    ("0" * 32, f"not registered: run {'0' * 32} is not in this MLflow"),
])
def test_a_model_of_no_known_run_is_promoted_and_not_registered(models, case, mlflow, run, said):
    trained_by(models, run)
    before = [v.version for v in mlflow.search_model_versions()]
    decision, line = decide_and_register(models, case())
    assert decision.promoted and line == said and (models / "champion").exists()
    assert [v.version for v in mlflow.search_model_versions()] == before


def test_a_broken_mlflow_does_not_undo_a_decision(models, case, monkeypatch, tmp_path):
    (tmp_path / "broken.db").write_bytes(b"garbage" * 1000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/broken.db")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    decision, line = decide_and_register(models, case())
    assert decision.promoted and line.startswith("not registered: MLflow at") and "\n" not in line
    assert len(decisions(models / "promotions.jsonl")) == 1


def test_a_refused_first_model_leaves_nothing_that_could_serve_and_that_is_said(champion, tmp_path):
    refused = Decision(False, ["h=1: not better by more than luck"])
    must_serve(champion, refused)
    with pytest.raises(BadInput, match=r"^the gate refused the first model, so none can serve: h=1: not better by more than luck; bring "):
        must_serve(tmp_path / "none", refused)
