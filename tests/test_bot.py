"The bot trades a session late, pays for it, knows what it can lose, and says what the worst day did."

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stockml import bot
from stockml.bot import (
    Book,
    backtest,
    budget_report,
    day_report,
    loss,
    mark,
    naive_points,
    naive_weights,
    new_book,
    plot_equity,
    rebalance,
    run_bot,
    stated_limit,
    summarize,
    target_weights,
)
from stockml.config import BadInput, load_params
from stockml.features import make_features
from stockml.prices import read_bars
from stockml.split import folds

BOT = load_params().bot.model_copy(update={"stress_factor": 5., "name_limit": .25})
SETTINGS = BOT.model_copy(update={
    "capital": 100., "cost_bps": 0., "slippage_bps": 0., "kill_drawdown": .25, "rest_sessions": 3})
COSTLY = SETTINGS.model_copy(update={"cost_bps": 30., "slippage_bps": 20.})


@pytest.fixture(scope="module")
def aapl(_panel):
    return _panel[_panel["ticker"] == "AAPL"].reset_index(drop=True)


@pytest.fixture(scope="module")
def bad_day(aapl):
    "The simplest forecast of a bad day: 2.4 times the last month's volatility."
    r = np.log(aapl.set_index("date")["adj_close"]).diff()
    return (-2.4 * r.rolling(22).std()).dropna()


@pytest.fixture(scope="module")
def runs(aapl, bad_day):
    return backtest(aapl, bad_day, bad_day * 0 + 1, BOT)


# positions

BAD = st.floats(-20, 5) | st.sampled_from([0., -1e-300, float("nan"), float("-inf")])
LIMITS = st.fixed_dictionaries({
    "risk_budget": st.floats(1e-4, 1), "stress": st.floats(.01, 1), "stress_factor": st.floats(1, 50),
    "name_limit": st.floats(.01, 1), "gross_limit": st.floats(.01, 1)}).map(lambda d: SETTINGS.model_copy(update=d))


@settings(derandomize=True, max_examples=300)
@given(st.dictionaries(st.sampled_from("ABCDEFGH"), BAD), LIMITS)
def test_every_limit_holds_whatever_is_forecast(bad, limits):
    weights, why = target_weights(bad, limits)
    assert weights.keys() == why.keys() == bad.keys()
    hair = 1 + 1e-9
    assert all(0 <= w <= limits.name_limit * hair and w * limits.stress <= stated_limit(limits) * hair for w in weights.values())
    assert sum(weights.values()) <= limits.gross_limit * hair
    assert sum(w * loss(bad[t]) for t, w in weights.items() if w) <= limits.risk_budget * hair
    assert all((w == 0) == (not np.isfinite(bad[t])) == (why[t] == "no forecast") for t, w in weights.items())


@settings(derandomize=True, max_examples=100)
@given(BAD.filter(np.isfinite), LIMITS)
def test_one_stock_is_held_up_to_the_limit_that_is_named(bad, limits):
    "Not less than the limits allow: the one that is named is reached."
    (weight,), (why,) = (d.values() for d in target_weights({"A": bad}, limits))
    reached = {"risk budget": limits.risk_budget / loss(bad), "stress case": stated_limit(limits) / limits.stress,
               "name limit": limits.name_limit, "gross limit, shared": limits.gross_limit}
    assert weight == pytest.approx(min(reached.values())) == pytest.approx(reached[why.partition(":")[0]])


@settings(derandomize=True, max_examples=50)
@given(st.dictionaries(st.sampled_from("ABC"), BAD, min_size=1), LIMITS)
def test_halted_means_flat_and_says_why(bad, limits):
    weights, why = target_weights(bad, limits, "the drift monitor's alarm")
    assert set(weights.values()) == {0} and set(why.values()) == {"halted: the drift monitor's alarm"}
    book = rebalance(Book(100, 100, {"A": .4, "Z": .3}, 0), weights, limits)
    assert book.weights == {} and book.equity == 100


def test_several_stocks_share_one_budget():
    params = BOT
    alone, many = (target_weights({f"S{i}": -.03 for i in range(n)}, params) for n in (1, 9))
    assert alone[0]["S0"] == pytest.approx(stated_limit(params) / params.stress)
    assert sum(many[0].values()) * loss(-.03) == pytest.approx(params.risk_budget)
    assert many[1]["S0"] == "risk budget, shared: 2.0% for all 9 stocks"
    gross = target_weights({f"S{i}": -.001 for i in range(20)}, params)
    assert sum(gross[0].values()) == pytest.approx(1) and gross[1]["S7"] == "gross limit, shared: 100.0% for all 20 stocks"


def test_the_defaults_keep_the_stated_limit_in_every_fall_up_to_the_stress_case():
    params = BOT
    for fall in np.linspace(0, params.stress, 50):
        for bad in (-1e-6, -.005, -.02, -.1, -.9):
            weights, _ = target_weights({"A": bad}, params)
            after = mark(Book(100, 100, weights, 0), {"A": -fall})
            assert 1 - after.equity / 100 <= stated_limit(params) + 1e-12


def test_no_forecast_no_position():
    assert target_weights({"A": np.nan, "B": -.5}, SETTINGS)[0]["A"] == 0 < target_weights({"A": np.nan, "B": -.5}, SETTINGS)[0]["B"]
    assert target_weights({}, SETTINGS) == ({}, {})
    assert naive_weights(np.array([np.nan, 1e-9, 0., -1e-9])).tolist() == [0, 1, 0, 0]


# the book

DAYS = st.lists(st.tuples(st.dictionaries(st.sampled_from("ABC"), st.floats(-.9, 1)),
                          st.dictionaries(st.sampled_from("ABC"), st.floats(0, 1 / 3))), max_size=12)


def walk(book: Book, days: list, settings) -> Book:
    for returns, weights in days:
        book = rebalance(mark(book, returns), weights, settings)
    return book


@settings(derandomize=True, max_examples=100)
@given(DAYS, st.integers(0, 12))
def test_a_book_that_went_through_json_goes_on_as_if_nothing_had_happened(days, at):
    middle = walk(new_book(100.), days[:at], COSTLY)
    again = Book(**json.loads(json.dumps(middle._asdict())))
    assert again == middle
    assert walk(again, days[at:], COSTLY) == walk(new_book(100.), days, COSTLY)


@settings(derandomize=True, max_examples=100)
@given(DAYS)
def test_costs_are_never_negative_and_the_book_adds_up(days):
    book = new_book(100.)
    for returns, weights in days:
        marked = mark(book, returns)
        gain = sum(w * returns.get(t, 0) for t, w in book.weights.items())
        assert marked.equity == pytest.approx(book.equity * (1 + gain))
        book = rebalance(marked, weights, COSTLY)
        assert 0 < book.equity <= marked.equity and book.peak > 0
        assert book.weights == ({} if marked.rest else {t: w for t, w in weights.items() if w})


def test_several_stocks_by_hand():
    book = rebalance(new_book(100.), {"A": .5, "B": .25}, COSTLY)
    assert book.equity == pytest.approx(100 * (1 - .75 * .005))
    book = mark(book, {"A": .2, "C": 9.})  # B has no price today, C is not held
    assert book.equity == pytest.approx(100 * (1 - .75 * .005) * 1.1)
    assert book.weights == {"A": pytest.approx(.6 / 1.1), "B": pytest.approx(.25 / 1.1)}
    sold = rebalance(book, {"B": .25 / 1.1}, COSTLY)
    assert sold.weights == {"B": .25 / 1.1} and sold.equity == pytest.approx(book.equity * (1 - .6 / 1.1 * .005))


@settings(derandomize=True, max_examples=50)
@given(arrays(float, 20, elements=st.floats(-.9, 1)), arrays(float, 20, elements=st.floats(0, 1)))
def test_the_backtest_is_the_stepper(returns, wanted):
    book, equity = new_book(COSTLY.capital), []
    for i, r in enumerate(returns):
        book = rebalance(mark(book, {"AAPL": r}), {"AAPL": wanted[i - 1]} if i else {}, COSTLY)
        equity.append(book.equity)
    assert run_bot(returns, wanted, COSTLY)["equity"].tolist() == equity


# the report on the budget

def report_of(*daily: float, **changes) -> dict:
    equity = 100 * np.cumprod([1., *(1 + d for d in daily)])
    return budget_report(pd.Series(equity, pd.bdate_range("2000-09-25", periods=len(equity))), BOT.model_copy(update=changes))


def test_the_budget_report_by_hand():
    got = report_of(.01, -.021, 0., -.0999, -.019)
    assert (got["days"], got["over_budget"], got["expected"], got["exceeded"]) == (4, 2, .1, 0)
    assert (got["worst_day"].isoformat(), got["limit"]) == ("2000-09-29", pytest.approx(.1))
    assert got["worst_in_budgets"] == pytest.approx(4.995)
    assert "2 of 4 days at risk cost more than the budget of 2.0%" in got["says"] and "10.0%, was kept on every day." in got["says"]


def test_a_limit_that_was_exceeded_is_told_plainly():
    got = report_of(.01, -.11, -.3)
    assert got["exceeded"] == 2
    assert "-30.0%, 15.0 budgets." in got["says"] and got["says"].endswith("was EXCEEDED on 2 of the days, first on 2000-09-27.")
    assert report_of(-.11, stress_factor=6.)["exceeded"] == 0


def test_nothing_held_is_no_day_at_risk():
    assert report_of(0., 0.)["says"] == "No day at risk: nothing was held."
    assert report_of(.01, .02)["worst_in_budgets"] == 0


# trading

def test_a_weight_is_filled_a_session_later_and_earns_the_session_after():
    returns = np.array([9., .5, .1, -.2, .3])
    run = run_bot(returns, np.array([1., 0., 1., 1., 1.]), SETTINGS, kill=False)
    assert run["weight"].tolist() == [0, 1, 0, 1, 1]
    np.testing.assert_allclose(run["equity"], [100, 100, 110, 110, 143])


@settings(derandomize=True, max_examples=50)
@given(arrays(float, 12, elements=st.floats(-.9, 2)), arrays(float, 12, elements=st.floats(0, 1)), st.integers(1, 11))
def test_what_comes_later_changes_nothing(returns, wanted, at):
    later, other = returns.copy(), wanted.copy()
    later[at + 1:], other[at:] = -.5, .5  # a weight decided at `at` cannot act before at + 1
    a, b = (run_bot(*x, COSTLY)[:at + 1] for x in ((returns, wanted), (later, other)))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


@settings(derandomize=True, max_examples=50)
@given(arrays(float, 30, elements=st.floats(-.99, 3)), arrays(float, 30, elements=st.floats(0, 1)), st.booleans())
def test_long_or_flat_never_ruined_never_in_debt(returns, wanted, kill):
    run = run_bot(returns, wanted, COSTLY, kill)
    assert (run["equity"] > 0).all() and run["weight"].between(0, 1).all() and (run["weight"][run["killed"]] == 0).all()
    if not kill:
        assert (run["equity"] <= run_bot(returns, wanted, SETTINGS, kill=False)["equity"] * (1 + 1e-9)).all()


def test_costs_are_paid_on_what_is_traded():
    run = run_bot(np.array([0., 0., .25, 0., 0.]), np.array([.5, .5, 0., 0., 0.]), COSTLY)
    bought = 100 * (1 - .5 * .005)
    grown = bought * (1 + .5 * .25)
    drifted = .5 * 1.25 / 1.125  # the weight has grown with the price: the excess is sold
    trimmed = grown * (1 - (drifted - .5) * .005)
    sold = trimmed * (1 - .5 * .005)
    np.testing.assert_allclose(run["equity"], [100, bought, trimmed, sold, sold])


def test_holding_costs_once():
    run = run_bot(np.r_[0, np.full(50, .01)], np.ones(51), COSTLY)
    assert run["equity"].iloc[-1] == pytest.approx(100 * (1 - .005) * 1.01**49)


@pytest.mark.parametrize("rest", [1, 3])
def test_the_kill_switch_sells_a_session_later_rests_and_starts_anew(rest):
    returns = np.array([0, 0, -.26, -.1, .5, .5, .5, .5, .5])
    run = run_bot(returns, np.ones(9), SETTINGS.model_copy(update={"rest_sessions": rest}))
    flat = range(3, 3 + rest)  # seen at the close of 2, sold at the close of 3
    assert run.index[run["killed"]].tolist() == list(flat) and run.index[run["weight"] == 0].tolist() == [0, *flat]
    after = 100 * .74 * .9
    expected = [100, 100, 74, *[after] * (rest + 1)]
    np.testing.assert_allclose(run["equity"], [*expected, *after * 1.5 ** np.arange(1, 10 - len(expected))])
    assert summarize(pd.bdate_range("2000-01-03", periods=9), run)["kills"] == 1


def test_the_kill_switch_needs_the_whole_drawdown_and_counts_from_the_new_peak():
    returns = np.array([0, 0, 1., -.24, 0, -.02, -.2, 0, 0, 0, 0, -.24, -.02, 0, 0])
    run = run_bot(returns, np.ones(15), SETTINGS)
    assert run.index[run["killed"]].tolist() == [6, 7, 8, 13, 14]  # 200 -> 149; then 119 -> 89
    assert summarize(pd.bdate_range("2000-01-03", periods=15), run)["kills"] == 2


def test_without_the_switch_nothing_is_killed():
    run = run_bot(np.array([0, 0, -.9, -.9]), np.ones(4), SETTINGS, kill=False)
    assert not run["killed"].any() and run["equity"].iloc[-1] == pytest.approx(1)


# summary

def test_summary_by_hand():
    days = pd.bdate_range("2000-01-03", periods=4)
    run = pd.DataFrame({"equity": [100., 120., 90., 99.], "weight": [0., 1., 1., .5], "killed": False})
    got = summarize(days, run)
    assert got["final_equity"] == 99 and got["max_drawdown"] == pytest.approx(.25) and got["mean_weight"] == .625
    assert (got["worst_day"], got["worst_day_return"], got["kills"]) == (days[2].date(), pytest.approx(-.25), 0)
    assert got["yearly_growth"] == pytest.approx(.99 ** (252 / 3) - 1)
    assert got["yearly_volatility"] == pytest.approx(np.std([.2, -.25, .1]) * np.sqrt(252))


# the backtest on real prices

def test_2000_09_29(runs, aapl):
    "The day that the first team's money was gone: the stock fell by 51.9%."
    report = day_report(runs, "2000-09-29")
    price = aapl.set_index("date")["adj_close"]
    fall = price["2000-09-29"] / price["2000-09-28"] - 1
    assert round(fall, 3) == -.519
    for name in ("naive", "buy_and_hold"):
        assert report[name]["return"] == pytest.approx(fall) and report[name]["weight"] == 1
    budget = report["budget"]
    assert budget["return"] == pytest.approx(budget["weight"] * fall, abs=.001)
    limit = stated_limit(BOT)
    assert 1 - budget["after"] / budget["before"] < limit == .1
    told = budget_report(runs["budget"]["equity"], BOT)
    assert (told["worst_day"].isoformat(), told["exceeded"]) == ("2000-09-29", 0)
    assert told["worst_return"] == budget["return"] and "The stated limit of 5 budgets, 10.0%, was kept" in told["says"]
    assert summarize(runs["naive"].index, runs["naive"])["worst_day"].isoformat() == "2000-09-29"


def test_a_day_that_no_run_covers(runs):
    first = runs["naive"].index[0]
    for day in ("2000-09-30", first, "1990-01-02", "2030-01-02"):  # Saturday; nothing before it; too early; too late
        assert day_report(runs, day) == {}


def test_the_budget_follows_its_forecast_a_session_late(runs, bad_day):
    run, params = runs["budget"], BOT
    assert (run.index == bad_day.index).all() and run["equity"].iloc[0] == params.capital == 200_000
    wanted = np.minimum(stated_limit(params) / params.stress, params.risk_budget / (1 - np.exp(bad_day)))
    alive = ~run["killed"].to_numpy()[1:]
    np.testing.assert_allclose(run["weight"][1:][alive], wanted[:-1][alive])
    assert alive.mean() > .5


def test_only_the_budget_has_a_kill_switch(aapl, bad_day):
    runs = backtest(aapl, bad_day, bad_day * 0 + 1, SETTINGS.model_copy(update={"kill_drawdown": .1}))
    kills = {name: summarize(run.index, run)["kills"] for name, run in runs.items()}
    assert kills["budget"] > 0 == kills["naive"] == kills["buy_and_hold"]


def test_buy_and_hold_is_the_stock(runs, aapl):
    price = aapl.set_index("date")["adj_close"].reindex(runs["buy_and_hold"].index)
    expected = 200_000 * (1 - .001) * price.iloc[-1] / price.iloc[1]
    assert runs["buy_and_hold"]["equity"].iloc[-1] == pytest.approx(expected)
    assert runs["naive"]["equity"].equals(runs["buy_and_hold"]["equity"])  # it was told `up` every day


def test_forecasts_after_a_day_do_not_change_what_the_bot_did_before(runs, aapl, bad_day):
    day = "2000-09-28"
    other = bad_day.where(bad_day.index < day, -.5)
    again = backtest(aapl, other, bad_day * 0 - 1, BOT)["budget"]
    pd.testing.assert_frame_equal(again[:day], runs["budget"][:day], check_exact=True)
    assert not again.equals(runs["budget"])


def test_a_day_without_a_forecast_is_spent_flat(aapl, bad_day):
    holes = bad_day.drop(bad_day.index[100])
    run = backtest(aapl, holes, holes * 0 + 1, SETTINGS)["naive"]
    assert run["weight"].iloc[101] == 0 and (run["weight"].drop(run.index[[0, 101]]) == 1).all()


@pytest.mark.parametrize("sessions", [0, 1])
def test_nothing_to_trade_is_refused(aapl, bad_day, sessions):
    few = bad_day[len(bad_day) - sessions:]
    with pytest.raises(BadInput, match="fewer than two sessions have forecasts"):
        backtest(aapl, few, few, SETTINGS)


def test_a_price_that_never_moves(aapl, bad_day):
    runs = backtest(aapl.assign(adj_close=10.), bad_day * 0, bad_day * 0, COSTLY)
    for name, equity in (("budget", 100 * (1 - .005 / 6)), ("naive", 100.), ("buy_and_hold", 99.5)):
        got = summarize(runs[name].index, runs[name])
        assert got["final_equity"] == pytest.approx(equity) and got["kills"] == 0


def test_the_naive_bot_sees_no_outcome_that_was_not_known(aapl, monkeypatch):
    trained, train = [], bot.xgb.train
    monkeypatch.setattr(bot.xgb, "train", lambda p, data, n: trained.append(data.num_row()) or train(p, data, n))
    bars = aapl[aapl["date"].between("1999-01-01", "2001-06-29")].reset_index(drop=True)
    day, prices = pd.Timestamp("2001-01-31"), ["open", "high", "low", "close", "adj_close"]
    wild = bars.assign(**{c: bars[c].where(bars["date"] <= day, bars[c] * 3) for c in prices})
    plan = folds(bars["date"], pd.Timestamp("2000-07-03").date(), 9, 5)
    points, other = (naive_points(b, make_features(b), plan) for b in (bars, wild))
    assert points.index.tolist() == bars["date"][bars["date"] >= "2000-07-03"].tolist() and len(plan) == 2
    pd.testing.assert_series_equal(points[:day], other[:day], check_exact=True)
    assert not points.equals(other) and points.std() > .001
    ends = bars["date"].shift(-1)  # of the next day's return
    assert trained == [(ends < fold.cut).sum() for fold in plan] * 2


def test_the_plot_is_a_png_and_the_same_twice(runs, tmp_path):
    for name in ("a.png", "b.png"):
        plot_equity(runs, tmp_path / name)
    a, b = ((tmp_path / n).read_bytes() for n in ("a.png", "b.png"))
    assert a == b and a.startswith(b"\x89PNG")


def test_the_snapshot_holds_the_fall(snapshot):
    price = read_bars(snapshot, tickers=["AAPL"]).set_index("date")["adj_close"]
    assert price.pct_change()["2000-09-29"] == pytest.approx(-.519, abs=.0005)
