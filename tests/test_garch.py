"GARCH is its recursion, finds the numbers that made the prices, and is not led astray by prices that no process makes."

import numpy as np
import pandas as pd
import pytest
from arch import arch_model
from hypothesis import given, settings
from hypothesis import strategies as st

from stockml.baselines import long_run
from stockml.features import make_features
from stockml.garch import ENOUGH, TYPICAL, Garch, fit_garch, garch_scales, summed
from stockml.prices import read_bars

HORIZONS = (1, 5, 21, 252)
PRICES = ["open", "high", "low", "close", "adj_close"]


def one(table: pd.DataFrame, ticker: str) -> pd.DataFrame:
    return table[table["ticker"] == ticker].reset_index(drop=True)


@pytest.fixture(scope="module", params=[False, True], ids=["garch", "gjr"])
def leverage(request):
    return request.param


@pytest.fixture(scope="module")
def model(features, leverage):
    return Garch(leverage).fit(features, None, HORIZONS)


def simulated(n: int, alpha: float, gamma: float, beta: float, level: float, seed: int = 0) -> np.ndarray:
    "Log-returns of a GJR process with Student-t shocks."
    rng, v, out = np.random.default_rng(seed), level, []
    for z in rng.standard_t(6, n) * np.sqrt(4 / 6):
        out.append(z * np.sqrt(v))
        v = (1 - alpha - gamma / 2 - beta) * level + (alpha + gamma * (z < 0)) * out[-1]**2 + beta * v
    return np.array(out)


# the recursion and the sum

@pytest.mark.parametrize("numbers", [(.05, 0., .9, 4e-4), (.02, .08, .93, 4e-4), (.02, .08, .93, np.nan)])
def test_scales_are_the_recursion_and_the_sum_over_the_sessions(features, numbers):
    rows = one(features, "AAPL")
    alpha, gamma, beta, fixed = numbers
    level = long_run(rows)**2 if np.isnan(fixed) else np.full(len(rows), fixed)
    level = np.where(np.isnan(level), level[22], level)  # of its own: the first that is known
    persistence, v = alpha + gamma / 2 + beta, level[0]
    scales = garch_scales(rows, numbers, HORIZONS)
    for t, r in enumerate(rows["r_0"]):
        shock = (alpha + gamma * (r < 0)) * r**2 if t else (alpha + gamma / 2) * level[0]
        v = (1 - persistence) * level[t] + shock + beta * v
        if (t % 50 == 0 and t >= 22) or rows["date"][t] == pd.Timestamp("2000-09-29"):
            path = [v]
            while len(path) < HORIZONS[-1]:
                path.append(level[t] + persistence * (path[-1] - level[t]))
            np.testing.assert_allclose(scales[t], [np.sqrt(sum(path[:h])) for h in HORIZONS], rtol=1e-6)
    assert np.isnan(scales[:22]).all() and np.isfinite(scales[22:]).all()


variances = st.floats(1e-8, 1e-1)


@settings(max_examples=60, derandomize=True)
@given(variances, variances, st.floats(0, .9995), st.integers(1, 600))
def test_the_sum_equals_the_loop_and_returns_to_the_level(variance, level, persistence, horizon):
    session, total = variance, 0.
    for _ in range(horizon):
        total += session
        session = level + persistence * (session - level)
    far = 10**7
    found = summed(np.array([variance]), np.array([level]), persistence, (1, horizon, far))[0]
    assert found[:2] == pytest.approx([variance, total], rel=1e-8)
    assert found[2] / far == pytest.approx(level, rel=1e-6, abs=abs(variance - level) * 2e3 / far)


def test_a_still_price_keeps_a_tenth_of_its_level(features):
    rows = one(features, "KO").assign(r_0=np.float32(0))
    floor = .1 * long_run(rows)[:, None] * np.sqrt(HORIZONS)
    np.testing.assert_array_equal(garch_scales(rows, (.1, 0., .8, 0.), HORIZONS)[1000:], floor[1000:])


# fitting

def test_a_fit_finds_the_numbers_that_made_the_returns():
    r = simulated(12_000, .04, .08, .88, 4e-4)
    alpha, gamma, beta, level = fit_garch(100 * r, True)
    assert (alpha, gamma, beta) == pytest.approx((.04, .08, .88), abs=.025) and level == pytest.approx(4e-4, rel=.2)
    blind = fit_garch(100 * r, False)
    assert blind[1] == 0 and blind[0] == pytest.approx(.08, abs=.03)  # rises and falls alike


def test_rounded_prices_are_fitted_with_gaussian_shocks(snapshot, leverage):
    "More than half of RRC's early returns are zero: the likelihood of Student-t shocks grows without limit."
    bars = read_bars(snapshot, tickers=["RRC"])
    r = 100 * np.log(bars.loc[bars["date"] < "1995-01-01", "adj_close"]).diff().dropna().to_numpy()
    assert (r == 0).mean() > .6
    shape = {"mean": "Constant", "p": 1, "o": int(leverage), "q": 1, "rescale": False}
    absurd = arch_model(r, dist="t", **shape).fit(disp="off", show_warning=False).params
    assert absurd["nu"] < 2.3 and absurd["alpha[1]"] > .9
    gauss = arch_model(r, dist="normal", **shape).fit(disp="off", show_warning=False).params
    alpha, gamma, beta, level = fit_garch(r, leverage)
    assert (alpha, gamma, beta) == (gauss["alpha[1]"], gauss.get("gamma[1]", 0), gauss["beta[1]"])
    assert np.sqrt(level) == pytest.approx(r.std() / 100, rel=.2)


def test_tails_heavier_than_those_of_any_return_are_refused(leverage):
    "Returns of which half are zero: two degrees of freedom, and a level far below that of the returns."
    rng = np.random.default_rng(5)
    r = np.where(rng.random(1500) < .5, 0, rng.normal(0, 2, 1500))
    absurd = arch_model(r, mean="Constant", p=1, o=int(leverage), q=1, dist="t", rescale=False).fit(disp="off", show_warning=False)
    persistence = absurd.params["alpha[1]"] + absurd.params.get("gamma[1]", 0) / 2 + absurd.params["beta[1]"]
    assert absurd.params["nu"] < 2.3 and persistence < .99 and absurd.convergence_flag == 0
    assert np.sqrt(fit_garch(r, leverage)[3]) == pytest.approx(r.std() / 100, rel=.05)


def odd_prices() -> dict[str, np.ndarray]:
    "2,000 prices each that no GARCH process has made."
    rng = np.random.default_rng(1)
    walk, jump = np.cumsum(rng.normal(0, .02, 2000)), np.where(np.arange(2000) < 1000, 0., -.7)
    return {
        "rounded": 10 * np.exp(np.round(walk / .05) * .05), "still": np.full(2000, 10.), "one jump": 10 * np.exp(jump),
        "quiet, then a jump": 10 * np.exp(walk / 30 + jump), "drift": 1e-3 * np.exp(np.arange(2000) * .01 + walk),
        "halted": 10 * np.exp(np.where(np.arange(2000) < 1000, walk, walk[1000])),
        "wild at last": 10 * np.exp(np.where(np.arange(2000) < 1500, walk / 20, walk * 3) * .5).clip(1e-3, 1e6),
    }


@pytest.mark.parametrize("kind", odd_prices())
def test_no_price_makes_an_absurd_scale(kind, leverage):
    prices = odd_prices()[kind]
    bars = pd.DataFrame({"ticker": "ODD", "date": pd.bdate_range("1996-01-02", periods=2000).as_unit("ms"),
                         **dict.fromkeys(PRICES, prices), "volume": pd.array([pd.NA] * 2000, "Int64")})
    features = make_features(bars)
    model = Garch(leverage).fit(features, None, HORIZONS)
    scale = model.scale(features)[22:]
    assert np.isfinite(scale).all() and (scale > 0).all()
    biggest = features["r_0"].abs().max() * np.sqrt(252) + .01
    assert scale.max() < biggest * np.sqrt(252) and ((np.diff(scale, axis=1) > 0).all())
    for alpha, gamma, beta, level in model.numbers.values():
        assert alpha + gamma / 2 + beta < .9995 and min(alpha, alpha + gamma, beta) > -1e-6 and level > 0


@pytest.mark.parametrize(("kind", "returns"), {
    "still": np.zeros(1000), "constant drift": np.full(1000, .1), "wild drift": np.random.default_rng(2).normal(3, 2, 1500),
    "no level": np.random.default_rng(3).normal(0, 1, 2000) * np.linspace(.01, 5, 2000)}.items())
def test_a_fit_that_cannot_be_trusted_is_none(kind, returns, leverage):
    assert fit_garch(returns, leverage) is None


# the forecaster

def test_each_stock_has_numbers_of_its_own(model, features, leverage):
    assert set(model.numbers) == set(features["ticker"]) and model.name == ("gjr" if leverage else "garch")
    for ticker in ("AAPL", "XOM"):
        rows = one(features, ticker)
        assert tuple(model.numbers[ticker]) == fit_garch(100 * rows["r_0"].dropna().to_numpy(float), leverage)
        np.testing.assert_array_equal(model.scale(rows), garch_scales(rows, model.numbers[ticker], HORIZONS))
    np.testing.assert_array_equal(model.typical, np.median([*model.numbers.values()], axis=0)[:3])
    gamma = np.array([n[1] for n in model.numbers.values()])
    assert (gamma != 0).all() if leverage else (gamma == 0).all()


def test_an_unknown_stock_gets_the_typical_numbers_and_its_own_level(model, features):
    rows = one(features, "KO")
    new = model.scale(rows.assign(ticker="NEW"))
    np.testing.assert_array_equal(new, garch_scales(rows, (*model.typical, np.nan), HORIZONS))
    assert not np.allclose(new[22:], model.scale(rows)[22:], rtol=.01)
    twice = rows.assign(ticker="NEW", r_0=2 * rows["r_0"], v_all=2 * rows["v_all"])
    np.testing.assert_allclose(model.scale(twice), 2 * new, rtol=1e-6)


def test_a_stock_needs_enough_returns_to_be_fitted(features, leverage):
    short = pd.concat([one(features, "GE")[:ENOUGH], one(features, "KO")[:ENOUGH + 1]])  # the first bar has no return
    model = Garch(leverage).fit(short, None, HORIZONS)
    assert set(model.numbers) == {"KO"}
    none = Garch(leverage).fit(one(features, "GE")[:ENOUGH], None, HORIZONS)
    assert none.numbers == {} and tuple(none.typical) == TYPICAL[leverage]
    assert np.isfinite(none.scale(features)[features["v_all"].notna()]).all()


def test_the_order_of_rows_is_kept(model, features):
    parts = [one(features, t) for t in ("XOM", "AAPL", "KO")]
    np.testing.assert_array_equal(model.scale(pd.concat(parts)), np.concatenate([model.scale(p) for p in parts]))


def test_a_scale_knows_the_past_and_nothing_else(model, features):
    rows = one(features, "AAPL")
    wild = rows.assign(r_0=rows["r_0"].where(rows.index <= 1200, np.float32(.5)))
    whole, cut, other = (model.scale(r) for r in (rows, rows[:1201], wild))
    np.testing.assert_array_equal(whole[:1201], cut)
    np.testing.assert_array_equal(whole[:1201], other[:1201])
    assert (other[1201:] > whole[1201:]).all()


def test_falls_count_for_more_than_rises(features):
    rows, model = one(features, "KO"), Garch(True).fit(features, None, (1,))
    fall, rise = (model.scale(rows.assign(r_0=np.where(rows.index == 1500, np.float32(x), rows["r_0"])))[1500:] for x in (-.1, .1))
    assert fall[0] > 1.1 * rise[0] and (fall >= rise).all()


def test_volatility_returns_to_its_level(model, features):
    "After the crash, a day is expected to be wilder than the average day of the year to come."
    rows = one(features, "AAPL")
    crash = int(np.flatnonzero(rows["date"] == "2000-09-29")[0])
    daily = model.scale(rows)[crash] / np.sqrt(HORIZONS)
    assert (np.diff(daily) < 0).all() and daily[0] > 1.5 * daily[-1] > 1.5 * np.sqrt(model.numbers["AAPL"][3])
