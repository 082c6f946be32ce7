"Scores by their definitions, and a test that cries wolf as seldom as it says."

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from stockml.config import BadInput
from stockml.schema import QUANTILE_COLUMNS, QUANTILES, quantile_name
from stockml.score import (
    as_metrics,
    comparable,
    diebold_mariano,
    levels_of,
    losses,
    pinball,
    plot_reliability,
    reliability,
    score_table,
    verdicts,
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


def by_date(values: np.ndarray) -> pd.Series:
    return pd.Series(values, DAYS[:len(values)])


@pytest.mark.parametrize(("horizon", "lag"), [(1, 10), (5, 10), (21, 42)])
def test_diebold_mariano_by_hand(horizon, lag):
    rng = np.random.default_rng(1)
    d = np.convolve(rng.normal(.02, 1, 320), np.ones(8) / 8, "valid")
    noise = rng.normal(size=len(d))
    n, mean = len(d), sum(d) / len(d)
    variance = 0.
    for k in range(-lag, lag + 1):  # Newey and West (1987): Bartlett weights
        gamma = sum((d[i] - mean) * (d[i - abs(k)] - mean) for i in range(abs(k), n)) / n
        variance += (1 - abs(k) / (lag + 1)) * gamma
    t = mean / np.sqrt(variance / n)
    got = diebold_mariano(by_date(d + noise), by_date(noise), horizon)
    assert got == pytest.approx((t, 2 * (1 - stats.norm.cdf(abs(t)))), rel=1e-9)
    assert diebold_mariano(by_date(noise), by_date(d + noise), horizon) == pytest.approx((-got[0], got[1]))


def test_diebold_mariano_counts_days_and_not_rows():
    rng = np.random.default_rng(2)
    one, zero = by_date(rng.normal(.1, 1, 300)), by_date(np.zeros(300))
    many = pd.concat([one + e for e in (-1, 0, 1)])  # three stocks a day with the same mean
    assert diebold_mariano(many, pd.concat([zero] * 3), 1) == pytest.approx(diebold_mariano(one, zero, 1))


def test_diebold_mariano_of_equals_and_of_too_little():
    one = by_date(np.random.default_rng(3).normal(size=60))
    assert diebold_mariano(one, one, 1) == (0, 1)
    assert np.isnan(diebold_mariano(one[:19], one[:19] * 2, 1)).all()
    assert np.isfinite(diebold_mariano(one[:20], one[:20] * 2, 1)).all()


def rejections(horizon: int, days: int, edge: float = 0.) -> float:
    "Share of worlds in which two models, the second worse by `edge`, differ at the 5% level; losses overlap."
    rng, seen = np.random.default_rng(4), []
    for _ in range(300):
        a, b = (np.convolve(rng.exponential(size=days + horizon - 1), np.ones(horizon), "valid") for _ in "ab")
        seen.append(diebold_mariano(by_date(a), by_date(b + edge * horizon), horizon)[1] < .05)
    return np.mean(seen)


@pytest.mark.parametrize("horizon", [1, 5])
def test_diebold_mariano_cries_wolf_one_time_in_twenty(horizon):
    assert .03 < rejections(horizon, 600) < .09


def test_diebold_mariano_sees_a_real_difference():
    assert rejections(1, 600, edge=.25) > .9


def forecasts_of(model: str, width: float, y: np.ndarray, horizon: int = 1, ticker: str = "A") -> pd.DataFrame:
    "Normal quantiles of a stated width against outcomes y."
    frame = pd.DataFrame(np.tile(width * NORMAL, (len(y), 1)), columns=QUANTILE_COLUMNS)
    return frame.assign(model=model, ticker=ticker, origin=DAYS[:len(y)], horizon=horizon, realized=y, fold=0)


@pytest.fixture
def outcomes():
    return np.random.default_rng(5).normal(size=1500)


WIDTHS = {"random_walk": 2., "ewma": .6, "har": 1.3, "xgboost": 1.}


@pytest.fixture
def forecasts(outcomes):
    return pd.concat([forecasts_of(m, w, outcomes) for m, w in WIDTHS.items()], ignore_index=True)


def test_scores_against_the_best_classical_model(forecasts, outcomes):
    table = score_table(forecasts).set_index("model")
    expected = {m: pinball(outcomes, np.tile(w * NORMAL, (1500, 1)), LEVELS).mean() for m, w in WIDTHS.items()}
    assert table["pinball"].to_dict() == pytest.approx(expected)
    assert table["against"].to_dict() == {"xgboost": "har", "random_walk": "har", "ewma": "har", "har": "ewma"}
    assert table["ratio"].to_dict() == pytest.approx(
        {m: expected[m] / expected["ewma" if m == "har" else "har"] for m in WIDTHS})
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
    holes = forecasts.drop(forecasts.index[forecasts["model"].eq("ewma")][:100])  # one model starts late
    holes.loc[holes["origin"] > "2005-01-01", "realized"] = np.nan  # not known yet
    rows = comparable(holes)
    assert set(rows) == set(WIDTHS)
    keys = [r[["ticker", "origin"]] for r in rows.values()]
    assert all(k.equals(keys[0]) for k in keys)
    common = forecasts["origin"].unique()[100:]
    assert (keys[0]["origin"] == common[common <= pd.Timestamp("2005-01-01")]).all()


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
    assert set(metrics) == {"models", "skill", "ratio_1", "ratio_21"} and metrics["skill"] == {"1": True, "21": False}
    for row in table.to_dict("records"):
        horizon, model = str(row.pop("horizon")), row.pop("model")
        assert metrics["models"][model][horizon] == row
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
    assert seen["ewma"].tolist() == [(outcomes <= .6 * z).mean() for z in NORMAL]


def test_the_plot_is_a_png_and_the_same_twice(forecasts, outcomes, tmp_path):
    both = pd.concat([forecasts, forecasts_of("har", 3., outcomes, horizon=21)])
    for name in ("a.png", "b.png"):
        plot_reliability(both, tmp_path / name)
    a, b = ((tmp_path / n).read_bytes() for n in ("a.png", "b.png"))
    assert a == b and a.startswith(b"\x89PNG") and sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
