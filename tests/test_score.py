"Scores by their definitions, and a test that cries wolf as seldom as it says."

import gc
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from stockml.config import BadInput
from stockml.forecaster import CLASSICAL
from stockml.schema import QUANTILE_COLUMNS, QUANTILES, quantile_name
from stockml.score import (
    BASELINES,
    DIRECTION,
    as_metrics,
    breakdown,
    comparable,
    crps,
    crps_weights,
    diebold_mariano,
    horizon_parts,
    levels_of,
    losses,
    open_forecasts,
    pinball,
    pit,
    plot_pit,
    plot_reliability,
    ratios,
    reliability,
    score_table,
    verdict_lines,
    verdicts,
    years_better,
)

LEVELS = np.array(QUANTILES)
NORMAL = stats.norm.ppf(LEVELS)
DAYS = pd.bdate_range("2000-01-03", periods=1500)


@settings(derandomize=True)
@given(st.integers(1, 9999).map(lambda n: n / 10_000))
def test_a_level_survives_its_column_name(level):
    name = quantile_name(level)
    assert levels_of(pd.DataFrame(columns=["model", "q", "quality", name])) == {name: level}


numbers = st.floats(-5, 5)


@settings(derandomize=True)
@given(arrays(float, st.integers(1, 20), elements=numbers), arrays(float, (20, 9), elements=numbers))
def test_pinball_is_its_definition(y, q):
    expected = [np.mean([tau * (a - b) if a >= b else (1 - tau) * (b - a) for tau, b in zip(LEVELS, row, strict=True)])
                for a, row in zip(y, q, strict=False)]
    np.testing.assert_allclose(pinball(y, q[:len(y)], LEVELS), expected, atol=1e-12)
    assert (pinball(y, np.repeat(y[:, None], 9, axis=1), LEVELS) == 0).all()


def test_the_true_quantiles_have_the_least_pinball():
    y = np.random.default_rng(0).normal(size=20_000)
    loss = {s: pinball(y, np.tile(s * NORMAL, (len(y), 1)), LEVELS).mean() for s in (.8, .95, 1., 1.05, 1.25)}
    assert min(loss, key=loss.get) == 1. and loss[.8] > loss[.95] and loss[1.25] > loss[1.05]


def normal_crps(y: np.ndarray, width: float) -> np.ndarray:
    "Of N(0, width): Gneiting and Raftery (2007), section 4.2."
    z = y / width
    return width * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


@pytest.mark.parametrize("width", [.7, 1., 1.4])
@pytest.mark.parametrize(("levels", "tolerance"), [
    (np.arange(1, 2000) / 2000, .002),  # fine levels: the integral itself
    (LEVELS, .032),  # nine of them: 3% too low
])
def test_crps_is_the_closed_form_of_a_normal(width, levels, tolerance):
    y = stats.norm.ppf((np.arange(4000) + .5) / 4000)  # each part of the distribution once
    got = crps(y, np.tile(width * stats.norm.ppf(levels), (len(y), 1)), levels)
    assert got.mean() == pytest.approx(normal_crps(y, width).mean(), rel=tolerance)
    if len(levels) > 9:
        inner = np.abs(y) < 2.5
        np.testing.assert_allclose(got[inner], normal_crps(y, width)[inner], atol=.002)


def test_crps_of_one_quantile_is_the_absolute_error():
    assert crps(np.array([3., -1.]), np.array([[1.], [1.]]), np.array([.5])).tolist() == [2, 2]


def test_crps_weights_by_hand():
    assert crps_weights(np.array([.1, .5, .6])) == pytest.approx([.3, .25, .45])  # .1 + .4 / 2, (.6 - .1) / 2, .1 / 2 + .4
    assert crps_weights(LEVELS).sum() == pytest.approx(1)


def by_date(values: np.ndarray) -> pd.Series:
    return pd.Series(values, DAYS[:len(values)])


@pytest.mark.parametrize(("horizon", "freedom"), [(1, 18), (5, 18), (21, 7)])
def test_diebold_mariano_by_hand(horizon, freedom):
    rng = np.random.default_rng(1)
    d = np.convolve(rng.normal(.02, 1, 320), np.ones(8) / 8, "valid")
    noise = rng.normal(size=len(d))
    n, mean, variance = len(d), sum(d) / len(d), 0.
    for j in range(1, freedom + 1):  # Lazarus, Lewis, Stock and Watson (2018): equally weighted cosines
        wave = sum((d[i] - mean) * np.cos(np.pi * j * (i + .5) / n) for i in range(n)) * np.sqrt(2 / n)
        variance += wave**2 / freedom
    t = mean / np.sqrt(variance / n)
    got = diebold_mariano(by_date(d + noise), by_date(noise), horizon)
    assert got == pytest.approx((t, 2 * (1 - stats.t.cdf(abs(t), freedom))), rel=1e-9)
    assert diebold_mariano(by_date(noise), by_date(d + noise), horizon) == pytest.approx((-got[0], got[1]))


@pytest.mark.parametrize(("horizon", "days"), [(1, 20), (5, 60), (21, 250), (252, 1100), (504, 2500)])
def test_diebold_mariano_finds_no_more_skill_in_noise_than_it_says(horizon, days):
    rng, found = np.random.default_rng(7), 0
    for _ in range(400):
        d = pd.Series(np.convolve(rng.normal(size=days + horizon - 1), np.ones(horizon), "valid"))
        found += diebold_mariano(d, 0 * d, horizon)[1] < .05
    assert .02 < found / 400 < .09


def test_diebold_mariano_counts_days_and_not_rows():
    rng = np.random.default_rng(2)
    one, zero = by_date(rng.normal(.1, 1, 300)), by_date(np.zeros(300))
    many = pd.concat([one + e for e in (-1, 0, 1)])  # three stocks a day with the same mean
    assert diebold_mariano(many, pd.concat([zero] * 3), 1) == pytest.approx(diebold_mariano(one, zero, 1))


def test_diebold_mariano_of_equals_and_of_too_little():
    one = by_date(np.random.default_rng(3).normal(size=60))
    assert diebold_mariano(one, one, 1) == (0, 1)
    assert np.isnan(diebold_mariano(one[:11], one[:11] * 2, 1)).all()
    assert np.isfinite(diebold_mariano(one[:12], one[:12] * 2, 1)).all()


def rejections(horizon: int, days: int, edge: float = 0.) -> float:
    "Share of worlds in which two models, the second worse by `edge`, differ at the 5% level; losses overlap."
    rng, seen = np.random.default_rng(4), []
    for _ in range(300):
        a, b = (np.convolve(rng.exponential(size=days + horizon - 1), np.ones(horizon), "valid") for _ in "ab")
        seen.append(diebold_mariano(by_date(a), by_date(b + edge * horizon), horizon)[1] < .05)
    return np.mean(seen)


@pytest.mark.parametrize("horizon", [1, 5])
def test_diebold_mariano_cries_wolf_one_time_in_twenty(horizon):
    assert .02 < rejections(horizon, 600) < .09


def test_diebold_mariano_sees_a_real_difference():
    assert rejections(1, 600, edge=.25) > .9


def forecasts_of(model: str, width: float, y: np.ndarray, horizon: int = 1, ticker: str = "A") -> pd.DataFrame:
    "Normal quantiles of a stated width against outcomes y."
    frame = pd.DataFrame(np.tile(width * NORMAL, (len(y), 1)), columns=QUANTILE_COLUMNS)
    return frame.assign(model=model, ticker=ticker, origin=DAYS[:len(y)], horizon=horizon, realized=y, fold=0)


@pytest.fixture
def outcomes():
    return np.random.default_rng(5).normal(size=1500)


def test_the_classical_models():
    assert BASELINES == tuple(CLASSICAL) == ("random_walk", "historical", "ewma94", "ewma97", "garch", "gjr", "har")


WIDTHS = {"random_walk": 2., "ewma94": .6, "har": 1.3, "xgboost": 1.}


@pytest.fixture
def forecasts(outcomes):
    return pd.concat([forecasts_of(m, w, outcomes) for m, w in WIDTHS.items()], ignore_index=True)


def test_scores_against_the_best_classical_model(forecasts, outcomes):
    table = score_table(forecasts).set_index("model")
    expected = {m: pinball(outcomes, np.tile(w * NORMAL, (1500, 1)), LEVELS).mean() for m, w in WIDTHS.items()}
    assert table["pinball"].to_dict() == pytest.approx(expected)
    assert table["against"].to_dict() == {"xgboost": "har", "random_walk": "har", "ewma94": "har", "har": "ewma94"}
    assert table["ratio"].to_dict() == pytest.approx(
        {m: expected[m] / expected["ewma94" if m == "har" else "har"] for m in WIDTHS})
    normal = {m: crps(outcomes, np.tile(w * NORMAL, (1500, 1)), LEVELS).mean() for m, w in WIDTHS.items()}
    assert table["crps"].to_dict() == pytest.approx(normal)
    assert table["dm_t"]["xgboost"] < -3 and table["dm_p"]["xgboost"] < .01 and table["dm_t"]["random_walk"] > 3


def test_coverage_is_counted(forecasts, outcomes):
    table = score_table(forecasts).set_index("model")
    for model, width in WIDTHS.items():
        for name, z in (("cover_80", stats.norm.ppf(.9)), ("cover_95", stats.norm.ppf(.975))):
            assert table[name][model] == (np.abs(outcomes) <= width * z).mean()
    assert table["cover_80"]["xgboost"] == pytest.approx(.8, abs=.03)
    edge = forecasts_of("har", 1., np.repeat(NORMAL[[2, 6]], 50))  # on the very bounds: inside
    assert score_table(edge)["cover_80"][0] == 1


def test_models_are_compared_on_the_same_rows(forecasts):
    holes = forecasts.drop(forecasts.index[forecasts["model"].eq("ewma94")][:100])  # one model starts late
    holes.loc[holes["origin"] > "2005-01-01", "realized"] = np.nan  # not known yet
    rows = comparable(holes)
    assert set(rows) == set(WIDTHS)
    keys = [r[["ticker", "origin"]] for r in rows.values()]
    assert all(k.equals(keys[0]) for k in keys)
    common = forecasts["origin"].unique()[100:]
    assert (keys[0]["origin"] == common[common <= pd.Timestamp("2005-01-01")]).all()


def slow_comparable(forecasts):
    "The definition: an origin counts if each model has an outcome there."
    realized = forecasts[forecasts["realized"].notna()]
    count = realized.groupby(["ticker", "origin"])["model"].transform("size")
    full = realized[count == realized["model"].nunique()].sort_values(["ticker", "origin"])
    return {m: rows.reset_index(drop=True) for m, rows in full.groupby("model")}


@settings(derandomize=True, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0, 1), st.booleans())
def test_comparable_is_its_definition(seed, share, categories):
    rng = np.random.default_rng(seed)
    full = pd.concat([forecasts_of(m, 1., np.arange(6.), ticker=t) for m in ("b", "a", "c") for t in ("Z", "Y")])
    part = full.sample(frac=share, random_state=rng)
    part["realized"] = part["realized"].where(rng.random(len(part)) < .9)
    kind = "category" if categories else "str"
    got, expected = comparable(part.astype({"model": kind, "ticker": kind})), slow_comparable(part)
    assert list(got) == list(expected)
    for model, rows in expected.items():
        pd.testing.assert_frame_equal(got[model].astype({"model": "str", "ticker": "str"}), rows)


def test_a_forecast_counts_once(forecasts):
    with pytest.raises(BadInput, match=r"^forecasts: har has A from 2000-01-04 twice; it can count only once$"):
        score_table(pd.concat([forecasts, forecasts[forecasts["model"] == "har"][1:2]]))


def test_a_horizon_at_a_time_scores_the_same(forecasts, outcomes):
    month = forecasts.assign(horizon=21)[forecasts["model"].ne("har")]  # not every model forecasts every horizon
    parts, alive = [forecasts, month], []

    def read():
        for part in parts:
            gc.collect()
            assert not [ref for ref in alive if ref() is not None], "one horizon lives while the next is read"
            frame = part.copy()
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    both = pd.concat(parts)
    for job in (score_table, reliability, pit, lambda f: breakdown(f, "year"), lambda f: breakdown(f, "models")):
        alive.clear()
        pd.testing.assert_frame_equal(job(read()), job(both))
        assert len(alive) == 2


def test_a_model_without_a_horizon_breaks_nothing(forecasts):
    both = pd.concat([forecasts, forecasts[forecasts["model"].isin(["har", "random_walk"])].assign(horizon=5)])
    table = score_table(both)
    assert table.groupby("horizon")["model"].agg(list).to_dict() == {1: sorted(WIDTHS), 5: ["har", "random_walk"]}
    each = ratios(table)
    assert each.columns.tolist() == ["random_walk", "ewma94", "har"]
    assert each["ewma94"].isna().tolist() == [False] * 4 + [True] * 2
    assert verdict_lines(table)[1] == "5 sessions: no forecast of xgboost."
    assert set(as_metrics(table)["skill"]) == {"1"}
    assert breakdown(both, "ticker")["horizon"].tolist() == [1]
    assert set(pit(both).groupby("horizon")["model"].nunique()) == {4, 2}


def test_ratio_to_each_classical_model(forecasts, outcomes):
    table = score_table(pd.concat([forecasts, forecasts_of("xgboost", 3., outcomes, 5), forecasts_of("har", 1., outcomes, 5)]))
    loss = table.set_index(["horizon", "model"])["pinball"]
    for (_, row), (_, each) in zip(table.iterrows(), ratios(table).iterrows(), strict=True):
        for rival, ratio in each.dropna().items():
            assert ratio == pytest.approx(row["pinball"] / loss[row["horizon"], rival])
    assert ratios(score_table(forecasts_of("mine", 1., outcomes))).shape == (1, 0)


def test_order_of_the_rows_does_not_matter(forecasts):
    pd.testing.assert_frame_equal(score_table(forecasts.sample(frac=1, random_state=0)), score_table(forecasts))


def test_only_origins_of_the_test_count(forecasts):
    day = "2003-01-01"
    pd.testing.assert_frame_equal(score_table(forecasts, day), score_table(forecasts[forecasts["origin"] >= day]))
    assert (score_table(forecasts, day)["n"] < 1500).all()


def test_horizons_are_scored_apart(forecasts, outcomes):
    month = forecasts_of("har", 3., outcomes, horizon=21)
    table = score_table(pd.concat([forecasts, month]))
    assert table["horizon"].tolist() == [1] * 4 + [21]
    alone = table.iloc[-1]
    assert alone["against"] == "har" and alone["ratio"] == 1 and alone["dm_p"] == 1


@pytest.mark.parametrize(("damage", "test_from", "said"), [
    (lambda f: f.assign(realized=np.nan), None, "^nothing to score: no forecast"),
    (lambda f: f[:0], None, "^nothing to score: no forecast"),
    (lambda f: f, "2100-01-01", "^nothing to score from 2100-01-01 on: no forecast"),
    (lambda f: f[f["model"].ne("har") | (f["origin"] < "2001")], "2001-01-01", None),  # no HAR: scored without it
    (lambda f: f[["model", "ticker", "origin", "horizon", "realized", "q05", "q50", "q95"]], None,
     "^forecasts: without q10, q90, q025, q975; the intervals cannot be scored$"),
])
def test_nothing_to_score_is_said_in_one_line(forecasts, damage, test_from, said):
    if said is None:
        assert set(score_table(damage(forecasts), test_from)["model"]) == set(WIDTHS) - {"har"}
        return
    with pytest.raises(BadInput, match=said) as e:
        as_metrics(score_table(damage(forecasts), test_from))
    assert "\n" not in str(e.value)


def test_metrics_need_the_model_they_are_about(forecasts):
    for table in (pd.DataFrame(), score_table(forecasts[forecasts["model"] != "xgboost"])):
        with pytest.raises(BadInput, match=r"^nothing to score: no forecast of xgboost has an outcome$"):
            as_metrics(table)


def test_skill_means_better_and_more_than_luck():
    rows = [(1, .99, -3., .003), (5, .99, -1., .2), (21, 1.01, 3., .003), (252, .9, np.nan, np.nan)]
    table = pd.DataFrame([{"model": m, "horizon": h, "ratio": r if m == "xgboost" else .5, "dm_t": t, "dm_p": p}
                          for h, r, t, p in rows for m in ("har", "xgboost")])
    assert verdicts(table) == {1: True, 5: False, 21: False, 252: False}
    assert verdicts(table, level=.5)[5] and verdicts(table, "har")[1]


def test_a_significant_loser_has_no_skill():
    "Its mean over all rows is lower, its mean over the days is higher: the days differ in their number of stocks."
    table = pd.DataFrame([{"model": "xgboost", "horizon": 1, "ratio": .99, "dm_t": 3., "dm_p": .003}])
    assert verdicts(table) == {1: False}


def test_metrics_are_the_table_nested(forecasts, outcomes):
    table = score_table(pd.concat([forecasts, forecasts_of("xgboost", 3., outcomes, horizon=21)]))
    metrics = as_metrics(table)
    assert set(metrics) == {"models", "skill", "years", "ratio_1", "ratio_21"} and metrics["skill"] == {"1": True, "21": False}
    for row in table.to_dict("records"):
        horizon, model = str(row.pop("horizon")), row.pop("model")
        better, of = row.pop("years_better"), row.pop("years")
        assert metrics["models"][model][horizon] == row
        assert model != "xgboost" or metrics["years"][horizon] == {"better": better, "of": of}
    assert metrics["ratio_1"] == metrics["models"]["xgboost"]["1"]["ratio"] < 1 == metrics["ratio_21"]


def test_losses_carry_their_dates(forecasts, outcomes):
    rows = forecasts[forecasts["model"] == "har"]
    loss = losses(rows)
    assert (loss.index == rows["origin"]).all()
    assert loss.iloc[3] == pytest.approx(pinball(outcomes[3:4], 1.3 * NORMAL[None], LEVELS)[0])


def test_reliability_of_a_perfect_and_of_a_narrow_forecast(forecasts, outcomes):
    seen = reliability(forecasts).pivot(index="level", columns="model", values="observed")
    assert seen.index.tolist() == list(QUANTILES)
    np.testing.assert_allclose(seen["xgboost"], LEVELS, atol=.03)
    assert seen["ewma94"].tolist() == [(outcomes <= .6 * z).mean() for z in NORMAL]


def test_pit_counts_between_the_quantiles(forecasts, outcomes):
    bins = pit(forecasts)
    assert bins.columns.tolist() == ["model", "horizon", "low", "high", "expected", "observed"]
    own = bins[bins["model"] == "har"]
    assert own["low"].tolist() == [0, *QUANTILES]
    assert own["high"].tolist() == [*QUANTILES, 1]
    np.testing.assert_allclose(own["expected"], [.025, .025, .05, .15, .25, .25, .15, .05, .025, .025])
    by_hand, _ = np.histogram(outcomes, [-np.inf, *1.3 * NORMAL, np.inf])
    np.testing.assert_allclose(own["observed"], by_hand / 1500, atol=1e-12)
    assert bins.groupby("model")["observed"].sum().to_numpy() == pytest.approx(1)
    share = (bins["observed"] / bins["expected"]).groupby(bins["model"])
    np.testing.assert_allclose(share.get_group("xgboost"), 1, atol=.3)  # 37 outcomes in the smallest
    assert share.first()["ewma94"] > 2 and share.last()["ewma94"] > 2  # too narrow: high at both ends
    assert share.first()["random_walk"] < .2  # too wide


def test_an_outcome_on_a_quantile_lies_below_it():
    bins = pit(forecasts_of("har", 1., NORMAL))
    assert bins["observed"].tolist() == pytest.approx([1 / 9] * 9 + [0])


def test_years_are_counted_by_their_means():
    day = pd.DatetimeIndex(["2001-01-02", "2001-12-31", "2002-01-02", "2003-05-05"])
    a, b = pd.Series([3., 0., 1., 1.], day), pd.Series([2., 2., 1., 0.], day)
    assert years_better(a, b) == (1, 3)  # 2001 better on the mean, 2002 equal, 2003 worse
    assert years_better(b, a) == (1, 3)


@pytest.fixture
def two_stocks(forecasts, outcomes):
    other = np.random.default_rng(6).normal(size=1500) * .7
    return pd.concat([forecasts, *(forecasts_of(m, w, other, ticker="B") for m, w in WIDTHS.items())], ignore_index=True)


@pytest.mark.parametrize("by", ["year", "ticker"])
def test_breakdown_is_the_table_of_each_part(two_stocks, by):
    "The rival is the best over all, also where another is better."
    table = breakdown(two_stocks, by)
    whole = score_table(two_stocks).set_index("model").loc["xgboost"]
    assert set(table["against"]) == {whole["against"]}
    key = two_stocks["ticker"] if by == "ticker" else two_stocks["origin"].dt.year
    assert table[by].tolist() == sorted(key.unique())
    for row in table.to_dict("records"):
        part = score_table(two_stocks[key == row[by]]).set_index("model")
        assert row["ratio"] == pytest.approx(part["pinball"]["xgboost"] / part["pinball"][whole["against"]])
        assert {k: row[k] for k in ("n", "cover_80", "cover_95")} == part.loc["xgboost", ["n", "cover_80", "cover_95"]].to_dict()
    assert table["n"].sum() == whole["n"]
    if by == "year":
        assert ((table["ratio"] < 1).sum(), len(table)) == (whole["years_better"], whole["years"])


def test_against_each_model_the_best_first(two_stocks):
    table = breakdown(two_stocks, "models", "xgboost", "2002-01-01")
    scored = score_table(two_stocks, "2002-01-01").set_index("model")
    assert table["against"].tolist() == scored["pinball"].drop("xgboost").sort_values().index.tolist()
    assert table["ratio"].tolist() == pytest.approx((scored["pinball"]["xgboost"] / scored["pinball"][table["against"]]).tolist())
    first = table.iloc[0]
    assert first[["against", "ratio", "dm_t", "dm_p", "years_better", "years"]].to_dict() == scored.loc[
        "xgboost", ["against", "ratio", "dm_t", "dm_p", "years_better", "years"]].to_dict()
    assert "har" not in set(breakdown(two_stocks, "models", "har")["against"])


@pytest.mark.parametrize(("by", "model", "said"), [
    ("month", "xgboost", "^by: 'month' is none; choose from year, ticker, models$"),
    ("year", "lstm", "^nothing of lstm to score: there are ewma94, har, random_walk, xgboost$"),
])
def test_breakdown_of_nothing(forecasts, by, model, said):
    with pytest.raises(BadInput, match=said):
        breakdown(forecasts, by, model)
    with pytest.raises(BadInput, match=r"^nothing of xgboost to score: no forecast of every model has an outcome$"):
        breakdown(forecasts.assign(realized=np.nan), "year")


def test_verdicts_in_words():
    row = {"model": "xgboost", "against": "har", "years_better": 14, "years": 15}
    facts = [(1, .99, -8., 1e-15), (5, .999, -.5, .6), (21, 1.02, 3., .002), (504, .97, np.nan, np.nan)]
    table = pd.DataFrame([row | {"horizon": h, "ratio": r, "dm_t": t, "dm_p": p} for h, r, t, p in facts])
    assert verdict_lines(table) == [
        "1 session: skill: 1.00% less loss than har (t -8.0, p 1e-15), better in 14 of 15 years.",
        "5 sessions: no skill shown: 0.10% less loss than har (t -0.5, p 0.6), better in 14 of 15 years.",
        "21 sessions: no skill shown: 2.00% more loss than har (t 3.0, p 0.002), better in 14 of 15 years.",
        "504 sessions: no skill shown: 3.00% less loss than har (too few days for a test), better in 14 of 15 years.",
        DIRECTION]


@pytest.fixture
def written(two_stocks, tmp_path) -> Path:
    both = pd.concat([two_stocks, two_stocks[two_stocks["model"].ne("har")].assign(horizon=21)])
    both.loc[both["origin"] > "2005-01-01", "realized"] = np.nan
    both.sample(frac=1, random_state=0).to_parquet(tmp_path / "forecasts.parquet", row_group_size=700)
    return tmp_path / "forecasts.parquet"


def test_a_file_scores_like_its_table(written):
    whole = pd.read_parquet(written)
    file = open_forecasts(written)
    assert (file.horizons, file.models) == ([1, 21], sorted(WIDTHS))
    for since in (None, "2002-01-01"):
        pd.testing.assert_frame_equal(score_table(horizon_parts(file, since)), score_table(whole, since))
        pd.testing.assert_frame_equal(breakdown(horizon_parts(written, since), "ticker"), breakdown(whole, "ticker", test_from=since))
    for part, horizon in zip(horizon_parts(written, "2002-01-01"), (1, 21), strict=True):
        assert set(part["horizon"]) == {horizon}
        assert part["realized"].notna().all() and (part["origin"] >= "2002-01-01").all()
        assert "fold" not in part and part["ticker"].cat.categories.tolist() == ["A", "B"]


@pytest.mark.parametrize("change", [
    lambda f: f.drop(columns="fold").assign(note="ours"),
    lambda f: f.assign(origin=f["origin"].dt.date),
    lambda f: f.assign(origin=f["origin"].astype("datetime64[ns]"), horizon=f["horizon"].astype("int8")),
    lambda f: f.astype({"model": "category", "ticker": "category"}),
    lambda f: f.astype(dict.fromkeys(QUANTILE_COLUMNS, "float64")),
])
def test_other_peoples_files_are_read(forecasts, tmp_path, change):
    change(forecasts).to_parquet(tmp_path / "f.parquet")
    got = score_table(horizon_parts(tmp_path / "f.parquet", "2003-01-01"))
    pd.testing.assert_frame_equal(got, score_table(forecasts, "2003-01-01"))


@pytest.mark.parametrize(("change", "said"), [
    (lambda f: f[["ticker", "origin"]], "no column model, horizon, realized: these are no forecasts"),
    (lambda f: f.drop(columns=["q25", "q75"]), "without the quantiles q25, q75"),
    (lambda f: f.assign(origin="2001-01-02"), "origin: not dates but "),
    (lambda f: f.assign(origin=f["origin"].dt.tz_localize("UTC")), "origin: not dates but timestamp"),
    (lambda f: f.assign(horizon=1.), "horizon: not whole numbers but double"),
    (lambda f: f.assign(ticker=7), "ticker: not text but int64"),
    (lambda f: f.assign(q25="x"), "q25: not numbers but "),
    (lambda f: f.assign(horizon=0), "a forecast without a model, or without a horizon of at least one session"),
    (lambda f: f.assign(model=f["model"].where(f.index > 0)), "a forecast without a model"),
    (lambda f: f.assign(ticker=f["ticker"].where(f.index > 0)), "1 forecasts at horizon 1 with a key"),
    (lambda f: f.assign(q50=f["q50"].where(f.index > 2)), "3 forecasts at horizon 1 .*: first random_walk, A, 2000-01-03"),
    (lambda f: f.assign(q50=f["q10"] - 1), "6,000 forecasts at horizon 1 .*ascending"),
    (lambda f: f.assign(q025=-np.inf), "6,000 forecasts at horizon 1 .*numbers"),
    (lambda f: f.assign(realized=np.inf), "6,000 forecasts at horizon 1 .*outcome"),
    (lambda f: pd.concat([f, f[:1]]), "random_walk has A from 2000-01-03 twice"),
    (lambda f: f[:0], "nothing to score"),
    (lambda f: f.assign(realized=np.nan), "nothing to score"),
])
def test_a_file_that_is_none_is_told(forecasts, tmp_path, change, said):
    change(forecasts).to_parquet(tmp_path / "f.parquet")
    with pytest.raises(BadInput, match=said) as e:
        score_table(horizon_parts(tmp_path / "f.parquet"))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("damage", [lambda b: b"damaged", lambda b: b[:-9], lambda b: b[:4] + bytes(2000) + b[2004:]])
def test_a_damaged_file_is_told(written, damage):
    written.write_bytes(damage(written.read_bytes()))
    with pytest.raises(BadInput, match=r"forecasts\.parquet: not a readable Parquet file of forecasts \(") as e:
        score_table(horizon_parts(written))
    assert "\n" not in str(e.value)
    written.unlink()
    with pytest.raises(BadInput, match=r"forecasts\.parquet: not found"):
        horizon_parts(written)


@pytest.mark.parametrize("plot", [plot_reliability, plot_pit])
def test_the_plot_is_a_png_and_the_same_twice(forecasts, outcomes, tmp_path, plot):
    both = pd.concat([forecasts, forecasts_of("har", 3., outcomes, horizon=21)])
    for name in ("a.png", "b.png"):
        plot(both, tmp_path / name)
    a, b = ((tmp_path / n).read_bytes() for n in ("a.png", "b.png"))
    assert a == b and a.startswith(b"\x89PNG") and sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
