"Live forecasts: read as they were told last, joined when due, and held against the record without crying wolf."

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from journals import forecast_line, quantiles_of, world

from stockml import journal as journal_module
from stockml.journal import Journal, event, files
from stockml.live import KEY, MEASURES, by_day, difference, journaled, journaled_inputs, with_outcomes
from stockml.schema import QUANTILE_COLUMNS, QUANTILES

MORE = (.01, *QUANTILES, .99)


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path / "journal")


# from lines to a table

def test_all_that_a_line_says_of_a_forecast(journal):
    line = forecast_line("AAPL", "2000-09-28", (1, 5), sd=.03, version="abc")
    journal.append([line])
    made = journaled(journal.folder)
    assert list(made.columns) == ["forecast_id", *KEY, "model", "version", "skill", *QUANTILE_COLUMNS]
    assert made["forecast_id"].tolist() == [line["stockml"]["forecast_id"]] * 2
    assert made["origin"].dtype == "datetime64[ms]"
    assert made[["ticker", "horizon", "model", "version", "skill"]].to_numpy().tolist() == [
        ["AAPL", 1, "xgboost", "abc", True], ["AAPL", 5, "xgboost", "abc", True]]
    np.testing.assert_allclose(made.loc[1, QUANTILE_COLUMNS].to_numpy(float), [*quantiles_of(.03 * 5**.5).values()], rtol=1e-6)


def test_versions_and_sets_of_quantiles_side_by_side(journal):
    journal.append([forecast_line("KO", "2001-01-03", version="old"), forecast_line("KO", "2001-01-04", version="new", levels=MORE),
                    forecast_line("GE", "2001-01-03", version="new", levels=MORE[::-1])])
    made = journaled(journal.folder).set_index(["ticker", "origin"])
    assert made["version"].tolist() == ["new", "old", "new"]
    assert np.isnan(made.loc[("KO", "2001-01-03"), "q01"]) and made.loc[("KO", "2001-01-04"), "q01"] < 0
    assert made.loc[("GE", "2001-01-03"), "q975"] > made.loc[("GE", "2001-01-03"), "q025"]  # in whatever order they stood


def test_what_is_no_forecast_is_stepped_over(journal):
    good = forecast_line("KO", "2001-01-03")
    alien = forecast_line("GE", "2001-01-03")
    alien["event"]["dataset"] = "stockml.rehearsal"
    spoiled = [forecast_line("GE", day) for day in ("2001-02-30", "soon", "")]
    spoiled += [forecast_line("GE", "2001-01-03", forecasts={"horizon": 1}), forecast_line("GE", "2001-01-03", model=None)]
    no_number = forecast_line("GE", "2001-01-03")
    no_number["stockml"]["forecasts"][0]["quantiles"]["0.5"] = None
    journal.append([event("stockml.bot", "bought", forecasts={"KO": "id"}), alien, *spoiled, no_number, good])
    with files(journal.folder)[0].open("ab") as f:
        f.write(b'\xff rubbish\n[]\n{"stockml": {"forecast_id": 1}}\n' + json.dumps(good).encode()[:300])
    made = journaled(journal.folder)
    assert made[["forecast_id", "ticker"]].to_numpy().tolist() == [[good["stockml"]["forecast_id"], "KO"]]


@example(asked=[("KO", "2001-01-03", many) for many in (False, True, False)], chunk=10**6, roll=10**6)
@settings(max_examples=40)
@given(asked=st.lists(st.tuples(st.sampled_from(["KO", "GE"]), st.sampled_from(["2001-01-03", "2001-01-04"]), st.booleans()), max_size=12),
       chunk=st.sampled_from([500, 2000, 10**6]), roll=st.sampled_from([1000, 10**6]))
def test_the_last_of_several_counts(tmp_path_factory, asked, chunk, roll):
    "Whatever quantiles they have, in whichever file and at once or in pieces."
    journal, told = Journal(tmp_path_factory.mktemp("journal"), roll=roll), {}
    for ticker, origin, many in asked:
        line = forecast_line(ticker, origin, levels=MORE if many else QUANTILES)
        told[ticker, pd.Timestamp(origin)] = line["stockml"]["forecast_id"]
        journal.append([line])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "CHUNK", chunk)
        made = journaled(journal.folder)
    assert dict(zip(zip(made["ticker"], made["origin"], strict=True), made["forecast_id"], strict=True)) == told
    assert made[KEY].equals(made[KEY].sort_values(KEY))


def test_since_is_a_day_of_the_origin(journal):
    journal.append([forecast_line("KO", day) for day in ("2001-01-05", "2001-01-03", "2001-01-04")])
    for since, count in (("", 3), ("2001-01-03", 3), ("2001-01-04", 2), ("2001-01-05", 1), ("2001-01-06", 0)):
        assert len(journaled(journal.folder, since)) == count


def test_nothing_at_all_has_the_same_columns_and_joins(journal, panel):
    made = journaled(journal.folder)
    scored = with_outcomes(made, panel)
    assert made.empty and list(made.columns) == ["forecast_id", *KEY, "model", "version", "skill", *QUANTILE_COLUMNS]
    assert list(scored.columns) == [*made.columns, "realized", "due"]
    assert by_day(scored).empty


# outcomes

def rows(panel: pd.DataFrame, seed: int, n: int, horizons=(1, 5, 21)) -> pd.DataFrame:
    "Forecasts of some stocks on some days, in no order."
    picked = panel.sample(n, random_state=seed)[["ticker", "date"]].rename(columns={"date": "origin"})
    return picked.assign(horizon=np.random.default_rng(seed).choice(horizons, n)).reset_index(drop=True)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), last=st.integers(30, 2000))
def test_an_outcome_is_the_return_from_the_origin_to_the_day_that_it_is_due(_panel, seed, last):
    today = _panel["date"].unique()[min(last, _panel["date"].nunique() - 1)]
    made, known = rows(_panel, seed, 30), _panel[_panel["date"] <= today]
    scored = with_outcomes(made, known)
    pd.testing.assert_frame_equal(scored[KEY], made)
    for r in scored.itertuples():
        own = known[known["ticker"] == r.ticker].reset_index(drop=True)
        at = own.index[own["date"] == r.origin]
        if len(at) and at[0] + r.horizon < len(own):
            first, then = own.loc[at[0]], own.loc[at[0] + r.horizon]
            assert r.realized == pytest.approx(np.log(then["adj_close"] / first["adj_close"]), abs=1e-12)
            assert r.due == then["date"]
        else:
            assert np.isnan(r.realized) and pd.isna(r.due)


def test_restated_prices_restate_outcomes(panel):
    made = rows(panel[panel["date"] < "2003-12-01"], 1, 1000, (5,))
    day = panel["date"].iloc[1000]
    restated = panel.assign(adj_close=panel["adj_close"].where(panel["date"] < day, panel["adj_close"] / 2))
    before, after = with_outcomes(made, panel), with_outcomes(made, restated)
    through = (before["origin"] < day) & (before["due"] >= day)
    assert through.any()
    np.testing.assert_allclose(after["realized"] - before["realized"], np.where(through, -np.log(2), 0), atol=1e-12)


def test_a_stock_without_prices_and_a_day_without_a_session_wait_for_ever(panel):
    made = pd.DataFrame({"ticker": ["NONE", "KO"], "origin": pd.to_datetime(["2001-01-03", "2001-01-06"]).as_unit("ms"), "horizon": 1})
    assert with_outcomes(made, panel)["realized"].isna().all()
    assert with_outcomes(made, panel[:0])["realized"].isna().all()


# days

def test_a_day_by_hand(panel):
    table = rows(panel, 3, 400, (1,)).drop_duplicates(KEY)
    table = with_outcomes(table, panel).assign(**dict(zip(QUANTILE_COLUMNS, np.array([*quantiles_of(.015).values()]), strict=True)))
    table.loc[5, "realized"] = np.nan
    found = by_day(table)
    days = table[table["realized"].notna()].groupby("origin")
    assert found.index.tolist() == sorted(days.groups)
    for day, own in days:
        hits, losses = {"cover_80": [], "cover_95": []}, []
        for r in own.to_dict("records"):
            hits["cover_80"].append(r["q10"] <= r["realized"] <= r["q90"])
            hits["cover_95"].append(r["q025"] <= r["realized"] <= r["q975"])
            errors = [(level, r["realized"] - r[name]) for level, name in zip(QUANTILES, QUANTILE_COLUMNS, strict=True)]
            losses.append(np.mean([level * e if e > 0 else (level - 1) * e for level, e in errors]) / (r["q975"] - r["q025"]))
        expected = {k: np.mean(v) for k, v in hits.items()} | {"loss": np.mean(losses), "n": len(own)}
        assert found.loc[day].to_dict() == pytest.approx(expected)


def test_quantiles_that_other_bundles_lack_change_nothing():
    table = world(np.random.default_rng(1), 50, 1)
    more = table.assign(q01=np.where(np.arange(len(table)) % 2, np.nan, -.2), q99=.2)
    pd.testing.assert_frame_equal(by_day(more), by_day(table))


# against the record

@given(seed=st.integers(0, 10**6), horizon=st.sampled_from([1, 5]), worse=st.sampled_from([1, -1]), shift=st.floats(-1, 1))
def test_difference_by_hand(seed, horizon, worse, shift):
    rng = np.random.default_rng(seed)
    live, record = pd.Series(rng.normal(shift, 1, 100)), pd.Series(rng.normal(0, 1, 700))
    found = difference(live, record, horizon, worse)
    error = np.std(record, ddof=1) * np.sqrt(horizon / 100 + horizon / 700)
    assert (found.live, found.record, found.days) == (pytest.approx(np.mean(live)), pytest.approx(np.mean(record)), 100)
    assert found.z == pytest.approx(worse * (np.mean(live) - np.mean(record)) / error)


@pytest.mark.parametrize(("live", "record", "horizon", "known"), [
    (19, 500, 1, False), (20, 500, 1, True), (99, 500, 5, False), (100, 500, 5, True), (100, 99, 5, False), (0, 500, 1, False),
    (63, 0, 1, False),
])
def test_too_few_days_say_nothing(live, record, horizon, known):
    found = difference(pd.Series(np.arange(float(live))), pd.Series(np.arange(float(record))), horizon, 1)
    assert np.isfinite(found.z) == known
    assert found.days == live


def test_a_record_that_never_varied_is_no_division_by_zero():
    assert np.isfinite(difference(pd.Series([1.] * 50), pd.Series([1.] * 500), 1, -1).z)


def many(horizon: int, live: int, width: float, times: int) -> np.ndarray:
    "z of each measure, in worlds that are drawn anew each time."
    out = []
    for seed in range(times):
        rng = np.random.default_rng([seed, horizon])
        now, then = by_day(world(rng, live, horizon, width=width)), by_day(world(rng, 800, horizon))
        out.append([difference(now[m], then[m], horizon, 1 if m == "loss" else -1).z for m in MEASURES])
    return np.array(out)


@pytest.mark.parametrize(("horizon", "live"), [(1, 63), (5, 126)])
def test_honest_forecasts_hardly_ever_raise_an_alarm(horizon, live):
    "Volatility clusters, stocks fall together, and outcomes of five sessions overlap."
    z = many(horizon, live, 1., 100)
    assert (np.abs(z) > 3).mean(axis=0).max() <= .02
    assert (np.abs(z) > 2).mean(axis=0).max() <= .12
    assert (z.std(axis=0) > .5).all()  # it is not that nothing ever moves


@pytest.mark.parametrize(("horizon", "live"), [(1, 63), (5, 126)])
def test_forecasts_that_are_much_too_narrow_are_found(horizon, live):
    z = many(horizon, live, .6, 30)
    assert (z > 2).all(axis=0).all()
    assert ((z > 3).mean(axis=0) > .85).all()


def test_forecasts_that_are_much_too_wide_are_found_by_their_coverage():
    z = many(1, 63, 2.5, 20)
    assert (z[:, 0] < -3).all()


# what went in

def test_inputs_of_the_newest(journal):
    journal.append([
        forecast_line("KO", "2001-01-03", features={"a": 1., "b": 2.}), forecast_line("KO", "2001-01-04", features={"a": 3., "b": None}),
        forecast_line("KO", "2001-01-04", features={"a": 4., "b": None}), forecast_line("GE", "2001-01-04", features={"a": 5.}),
        event("stockml.rehearsal", "x", ticker="GE", origin="2001-01-05", features={"a": 9.}),
        forecast_line("GE", "2001-01-05", features="none"), forecast_line("GE", "2001-01-05", features={"a": "x"})])
    found = journaled_inputs(journal.folder, "2001-01-04")
    assert found[["ticker", "origin", "a"]].to_numpy().tolist() == [["KO", "2001-01-04", 4.], ["GE", "2001-01-04", 5.]]
    assert found["b"].isna().all()
    assert len(journaled_inputs(journal.folder, "2001-01-03")) == 3
    none = journaled_inputs(journal.folder, "2001-01-06")
    assert none.empty and list(none.columns) == ["ticker", "origin"]
