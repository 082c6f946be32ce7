"Walking forward: nobody learns from, or is calibrated with, an outcome that was not known; the forecasts are sound."

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from stockml.baselines import Ewma, Har, Historical, RandomWalk
from stockml.calibrate import residuals, rolling_quantiles
from stockml.config import BadInput
from stockml.evaluate import (
    VIEWS,
    calibrated,
    evaluate_bars,
    forecast_tables,
    makers,
    origins,
    table_writer,
    walk_forward,
    walk_tables,
    walk_views,
    write_tables,
    write_views,
    xgboost_maker,
)
from stockml.features import MIN_BARS, make_features
from stockml.forecaster import MODELS, XgbScale
from stockml.garch import Garch
from stockml.prices import read_bars
from stockml.schema import QUANTILE_COLUMNS, QUANTILES, check_bars, check_forecasts
from stockml.score import score_table
from stockml.targets import known, make_targets

PRICES = ["open", "high", "low", "close", "adj_close"]
HORIZONS = (1, 21)


@pytest.fixture(scope="module")
def forecasts(_panel, features, small_params, trees):
    return evaluate_bars(_panel, small_params, trees=trees, features=features)


def fits(model, features, targets, plan) -> list:
    "That model as it is in each fold."
    return [model().fit(features[features["date"] < f.cut], known(targets[features["date"] < f.cut], f.cut), HORIZONS) for f in plan]


# scales

class Spy:
    "A model that notes what it is shown."
    name, learns, recursive, market, own, window, conformal = "spy", True, False, False, .35, 2500, False

    def __init__(self):
        self.scaled = []

    def fit(self, features, targets, horizons):
        self.shown = features, targets, horizons
        return self

    def scale(self, features):
        self.scaled.append(features)
        return np.full((len(features), len(self.shown[2])), float(len(self.shown[0])))


class Recursive(Spy):
    recursive = True


class Market(Spy):
    market = True


def walk_spies(spy, *args) -> tuple[dict[str, np.ndarray], list[Spy]]:
    "The views, and the spies that were asked for a forecast."
    spies = []
    views = walk_views(lambda: spies.append(spy()) or spies[-1], *args)
    return views, [s for s in spies if s.scaled]


@pytest.mark.parametrize("spy", [Spy, Recursive, Market])
def test_a_model_is_shown_the_past_and_asked_for_the_fold(features, targets, plan, spy):
    views, fitted = walk_spies(spy, features, targets, HORIZONS, plan)
    assert len(fitted) == len(plan) == 2
    for one, fold in zip(fitted, plan, strict=True):
        past, seen, horizons = one.shown
        assert past.equals(features[features["date"] < fold.cut]) and horizons == HORIZONS
        for h in horizons:
            late = targets[f"end_{h}"][past.index].isna() | (targets[f"end_{h}"][past.index] >= fold.cut)
            assert (seen[f"y_{h}"].isna() == late).all() and (seen[f"path_{h}"].isna() == late).all()
        now, until = (features["date"] >= fold.start) & (features["date"] < fold.stop), features["date"] < fold.stop
        assert one.scaled[0].equals(features[until if spy is Recursive else now])  # all of a stock's bars, or the fold's
        assert len(one.scaled) == (2 if spy is Market else 1)
        for v in VIEWS:
            assert (views[v][now] == len(past)).all()
    assert np.isnan(views["market"][features["date"] < plan[0].start]).all()


def test_alone_means_without_the_market_s_features(features, targets, plan):
    _, fitted = walk_spies(Market, features, targets, HORIZONS, plan)
    market = [c for c in features if c.startswith("m_")]
    for one in fitted:
        within, alone = one.scaled
        assert within[market].notna().all(axis=None) and alone[market].isna().all(axis=None)
        assert within.drop(columns=market).equals(alone.drop(columns=market))


def test_what_learns_nothing_forecasts_every_row(features, targets, plan):
    scales = walk_forward(RandomWalk, features, targets, HORIZONS, plan)
    assert (scales == np.sqrt([1, 21])).all()


@pytest.mark.parametrize("name", ["garch", "gjr", "har", "xgboost"])
def test_a_fold_may_be_asked_for_alone(features, targets, plan, small_params, trees, name):
    make = makers(small_params.model, trees)[name]
    whole, first, second = (walk_views(make, features, targets, HORIZONS, p) for p in (plan, plan[:1], plan[1:]))
    for v in VIEWS:
        np.testing.assert_array_equal(np.where(np.isnan(first[v]), second[v], first[v]), whole[v])
        assert (np.isnan(first[v]) | np.isnan(second[v])).all() and np.isfinite(whole[v]).any()


@pytest.mark.parametrize("name", MODELS)
def test_no_scale_knows_the_future(_panel, features, targets, plan, small_params, trees, name):
    day = pd.Timestamp("2002-06-28")  # in the middle of the second fold
    noise = np.where(_panel["date"] > day, np.exp(np.random.default_rng(0).normal(0, .5, len(_panel))), 1.)
    wild = _panel.assign(**{c: _panel[c] * noise for c in PRICES})
    make, early = makers(small_params.model, trees)[name], (features["date"] <= day).to_numpy()
    views = walk_views(make, features, targets, HORIZONS, plan)
    other = walk_views(make, make_features(wild), make_targets(wild, HORIZONS), HORIZONS, plan)
    for v in VIEWS:
        np.testing.assert_array_equal(other[v][early], views[v][early])
        assert isinstance(make(), RandomWalk) or (other[v][~early] != views[v][~early]).mean() > .9


@pytest.mark.parametrize("name", ["har", "xgboost"])
def test_the_view_alone_is_what_a_single_stock_would_get(_panel, features, targets, plan, small_params, trees, name):
    make = makers(small_params.model, trees)[name]
    views, models = walk_views(make, features, targets, HORIZONS, plan), fits(make, features, targets, plan)
    for ticker in ("AAPL", "XOM"):
        mine = (features["ticker"] == ticker).to_numpy()
        single = make_features(_panel[mine].reset_index(drop=True))
        for model, fold in zip(models, plan, strict=True):
            now = ((single["date"] >= fold.start) & (single["date"] < fold.stop)).to_numpy()
            np.testing.assert_array_equal(views["alone"][mine][now], model.scale(single[now]))
            assert not np.allclose(views["market"][mine][now], model.scale(single[now]), rtol=1e-3)


@pytest.mark.parametrize(("make", "shared"), [(RandomWalk, True), (Ewma, True), (Garch, True), (Har, False)])
def test_views_share_their_scales_where_they_cannot_differ(_panel, features, targets, plan, make, shared):
    views = walk_views(make, features, targets, HORIZONS, plan)
    assert (views["market"] is views["alone"]) == shared
    one = (_panel["ticker"] == "KO").to_numpy()
    single = walk_views(make, make_features(_panel[one].reset_index(drop=True)), targets[one].reset_index(drop=True), HORIZONS, plan)
    assert single["market"] is single["alone"]


def test_only_the_view_that_is_asked_for(features, targets, plan):
    both = walk_views(Har, features, targets, HORIZONS, plan)
    for v in VIEWS:
        only = walk_views(Har, features, targets, HORIZONS, plan, (v,))
        assert list(only) == [v]
        np.testing.assert_array_equal(only[v], both[v])


# quantiles

@pytest.mark.parametrize("day", ["2001-06-29", "2002-01-11", "2003-12-30"])
def test_a_store_cut_at_a_day_gives_the_same_forecasts_up_to_it(_panel, small_params, trees, forecasts, day):
    cut = evaluate_bars(_panel[_panel["date"] <= day].reset_index(drop=True), small_params, trees=trees)
    keys = ["model", "ticker", "origin", "horizon", *QUANTILE_COLUMNS, "fold"]
    early = forecasts.loc[forecasts["origin"] <= day, keys].reset_index(drop=True)
    pd.testing.assert_frame_equal(cut[keys], early, check_exact=True)
    there = cut["realized"].notna()
    later = forecasts.loc[forecasts["origin"] <= day, "realized"].reset_index(drop=True)
    assert cut["realized"][there].equals(later[there])
    assert cut[~there & (cut["horizon"] == 1)]["origin"].nunique() == 1


def test_forecasts_keep_their_contract(forecasts, plan):
    check_forecasts(forecasts)
    assert forecasts["model"].unique().tolist() == list(MODELS) and forecasts["horizon"].unique().tolist() == [1, 21]
    assert forecasts["origin"].agg(["min", "max"]).astype(str).tolist() == ["2000-01-03", "2003-12-31"]
    sizes = forecasts.groupby(["model", "horizon"]).size()
    assert (sizes.loc[["random_walk", "historical", "ewma94", "ewma97"]] == 6 * 1004).all()  # every origin
    learned = sizes.loc[["garch", "gjr", "har", "xgboost"]].unstack()
    assert (learned.nunique() == 1).all() and learned.min(axis=None) > 6 * 880  # after their first residuals
    assert (forecasts["fold"] == (forecasts["origin"] >= plan[1].start)).all()


def test_realized_is_the_target_and_null_where_unknown(forecasts, targets):
    for h in (1, 21):
        rows = forecasts[(forecasts["model"] == "har") & (forecasts["horizon"] == h)]
        both = rows.merge(targets, left_on=["ticker", "origin"], right_on=["ticker", "date"])
        np.testing.assert_allclose(both["realized"], both[f"y_{h}"], rtol=1e-6)
        assert rows["realized"].isna().sum() == 6 * h


def test_the_forecasts_are_worth_something(forecasts):
    table = score_table(forecasts).set_index(["horizon", "model"])
    assert table.loc[(1, "xgboost"), "pinball"] < .97 * table.loc[(1, "random_walk"), "pinball"]
    assert table.loc[(1, "xgboost"), "ratio"] < 1.01
    assert table.loc[1]["cover_95"].between(.92, .98).all() and table.loc[1]["cover_80"].between(.74, .9).all()


def test_scales_that_are_there_are_not_made_again(_panel, small_params, trees, forecasts, features, targets, plan, monkeypatch):
    views = walk_views(xgboost_maker(small_params.model, trees), features, targets, HORIZONS, plan)
    monkeypatch.setattr(XgbScale, "fit", lambda *_: pytest.fail("trained again"))
    said = []
    again = evaluate_bars(_panel, small_params, trees=trees, say=said.append, ready={"xgboost": views}, features=features)
    pd.testing.assert_frame_equal(again, forecasts, check_exact=True)
    assert [line for line in said if line in MODELS] == list(MODELS)
    assert [line for line in said if line.startswith("har")] == [
        "har", "har: fold 1/2, origins from 2000-01-01", "har: fold 2/2, origins from 2002-01-01"]


def test_both_views_in_one_walk(_panel, small_params, trees, forecasts, features):
    tables = [*walk_tables(_panel, small_params, trees, features=features, views=VIEWS)]
    within, alone = (pd.concat((t for v, t in tables if v == view), ignore_index=True) for view in VIEWS)
    pd.testing.assert_frame_equal(within, forecasts, check_exact=True)
    keys = ["model", "ticker", "origin", "horizon", "realized", "fold"]
    order = keys[:4]
    alone, within = alone.sort_values(order, ignore_index=True), within.sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(alone[keys], within[keys], check_exact=True)
    same = (alone[QUANTILE_COLUMNS] == within[QUANTILE_COLUMNS]).all(axis=1).groupby(alone["model"]).mean()
    assert (same.drop(["har", "xgboost"]) == 1).all() and (same[["har", "xgboost"]] < .05).all()
    assert {len(t["model"].unique()) * len(t["horizon"].unique()) for _, t in tables} == {1} and len(tables) == 32


def test_nothing_after_the_last_origin_that_is_wanted(_panel, small_params, trees, forecasts, features):
    first = pd.concat((t for _, t in walk_tables(_panel, small_params, trees, features=features, until="2001-06-29")), ignore_index=True)
    pd.testing.assert_frame_equal(first, forecasts[forecasts["fold"] == 0].reset_index(drop=True), check_exact=True)


def test_a_model_that_cannot_be_fitted_may_be_skipped(_panel, small_params, trees):
    short, left_out = _panel[(_panel["date"] >= "1999-09-01") & (_panel["ticker"] == "KO")].reset_index(drop=True), []
    tables = walk_tables(short, small_params, trees, skip=lambda name, why: left_out.append((name, why)))
    models = {m for _, t in tables for m in t["model"].unique()}
    assert models == set(MODELS) - {"xgboost"}
    assert [name for name, _ in left_out] == ["xgboost"] and "training rows: too few" in left_out[0][1]


def test_two_walks_are_equal(_panel, small_params, trees, forecasts):
    pd.testing.assert_frame_equal(evaluate_bars(_panel, small_params, trees=trees), forecasts, check_exact=True)


def test_all_models_are_made_as_params_say(small_params):
    m = xgboost_maker(small_params.model, {"rounds": 3})()
    assert (m.trees, m.rows, m.hide_market, m.device, m.threads, m.seed) == ({"rounds": 3}, 6000, .25, "cpu", 1, 17)
    assert xgboost_maker(small_params.model)().trees == {}
    assert [make().name for make in makers(small_params.model).values()] == list(makers(small_params.model)) == list(MODELS)


def test_origins_know_their_fold(features, plan):
    rows = origins(features, plan)
    assert rows[["ticker", "date"]].equals(features[["ticker", "date"]])
    assert rows.groupby("fold")["date"].agg(["min", "max"]).to_numpy().astype("datetime64[D]").astype(str).tolist() == [
        ["1996-01-02", "1999-12-31"], ["2000-01-03", "2001-12-31"], ["2002-01-02", "2003-12-31"]]


@pytest.mark.parametrize("model", [RandomWalk, Historical])
def test_a_year_or_the_whole_past_of_the_stock_itself(features, targets, plan, small_params, model):
    "Whatever params.yaml says."
    rows, how = origins(features, plan), small_params.calibrate.model_copy(update={"own": 0., "window": 100})
    scales = walk_forward(model, features, targets, HORIZONS, plan)
    table = next(forecast_tables(model(), rows, targets, scales, small_params.targets, how))
    days = np.sort(features["date"].unique())
    at = len(days) // 21 * 21  # last update
    first = days[0] if model is RandomWalk else days[at - 251]
    for row in table.groupby("ticker").tail(1).itertuples():
        past = targets["y_1"][(targets["ticker"] == row.ticker) & targets["end_1"].between(first, days[at])]
        assert len(past) == (at if model is RandomWalk else 252)
        np.testing.assert_allclose(row.q10, np.quantile(past, .1), rtol=1e-4)


def test_the_newest_quantiles_are_what_rolling_would_use_on_the_last_day(features, targets, plan, small_params, trees):
    rows, how = origins(features, plan), small_params.calibrate.model_copy(update={"every": 19, "window": 700})
    last = (features["date"] == features["date"].max()).to_numpy()
    assert (features["date"].nunique() - 1) % how.every == 0  # the last day begins a block
    for make in makers(small_params.model, trees).values():
        model, scales = make(), walk_forward(make, features, targets, HORIZONS, plan)
        for k, h in enumerate(HORIZONS):
            found = calibrated(model, rows, targets, scales[:, k], h, how, QUANTILES)
            assert list(found.tickers) == list(rows["ticker"][last])
            np.testing.assert_allclose(found.quantiles[last], scales[last, k, None] * found.own, rtol=1e-4, atol=1e-7)
            assert found.pooled.shape == (9,) and (np.diff(found.pooled) > 0).all()


def test_quantiles_of_some_rows_are_those_of_all(features, targets, plan, small_params, trees):
    rows, how = origins(features, plan), small_params.calibrate
    wanted = (rows["fold"] == 1).to_numpy()
    for name, make in makers(small_params.model, trees).items():
        scale = walk_forward(make, features, targets, HORIZONS, plan)[:, 0]
        every, some = (calibrated(make(), rows, targets, scale, 1, how, QUANTILES, wanted=w) for w in (None, wanted))
        np.testing.assert_array_equal(some.quantiles[wanted], every.quantiles[wanted])
        np.testing.assert_array_equal(some.own, every.own)
        assert np.isfinite(some.quantiles[wanted]).any() and (name == "xgboost") == np.isfinite(some.quantiles[~wanted]).any()


def test_only_xgboost_is_corrected_by_its_coverage(features, targets, plan, small_params, trees):
    rows, slow = origins(features, plan), small_params.calibrate
    none, fast = (slow.model_copy(update={"gamma": g}) for g in (0., .1))
    y, ends = targets["y_1"].to_numpy(), targets["end_1"]
    for name, make in makers(small_params.model, trees).items():
        scale = walk_forward(make, features, targets, HORIZONS, plan)[:, 0]
        plain, mild, strong = (calibrated(make(), rows, targets, scale, 1, how, QUANTILES) for how in (none, slow, fast))
        assert (name == "xgboost") != np.array_equal(plain.quantiles, strong.quantiles, equal_nan=True)
        assert (name == "xgboost") != np.array_equal(plain.own, mild.own)
        ok = np.isfinite(plain.quantiles).all(axis=1)
        for found in (plain, mild, strong):
            np.testing.assert_array_equal(np.isfinite(found.quantiles), np.tile(ok[:, None], 9))
            assert (np.diff(found.quantiles[ok], axis=1) >= 0).all() and (np.diff(found.own, axis=1) >= 0).all()
        for shifted in mild.own - plain.own:  # all stocks and the pool alike
            np.testing.assert_allclose(mild.pooled - plain.pooled, shifted, atol=1e-6)
        if name == "xgboost":
            past = residuals(rows, y, ends, scale)
            rolled = rolling_quantiles(past, rows, scale, 1, slow.window, slow.every, slow.own)
            np.testing.assert_array_equal(plain.quantiles, rolled)


@pytest.mark.parametrize("h", HORIZONS)
def test_corrections_of_the_coverage_know_no_later_outcome(features, targets, plan, small_params, trees, h):
    rows, how = origins(features, plan), small_params.calibrate.model_copy(update={"gamma": .1})
    make = xgboost_maker(small_params.model, trees)
    scale = walk_forward(make, features, targets, HORIZONS, plan)[:, HORIZONS.index(h)]
    q, day = calibrated(make(), rows, targets, scale, h, how, QUANTILES).quantiles, pd.Timestamp("2002-08-15")
    late = targets.assign(**{f"y_{h}": targets[f"y_{h}"].where(targets[f"end_{h}"] <= day, 9.)})
    other, early = calibrated(make(), rows, late, scale, h, how, QUANTILES).quantiles, (rows["date"] <= day).to_numpy()
    np.testing.assert_array_equal(other[early], q[early])
    after = (rows["date"] > day).to_numpy()
    assert (other[after] != q[after]).any(axis=1).mean() > .9


def test_corrections_mend_the_coverage_of_a_model_that_is_too_calm(features, targets, plan, small_params):
    "Of one that turns too calm: residuals of its own calmer years would take long to say so."
    class Calm(Ewma):
        conformal, own = True, 0.

    rows, how = origins(features, plan), small_params.calibrate
    turned = np.where(features["date"] >= "2002-01-01", .6, 1.)
    scale = Ewma().fit(features, targets, HORIZONS).scale(features)[:, 0] * turned
    late, y = (rows["date"] >= "2002-07-01").to_numpy() & targets["y_1"].notna().to_numpy(), targets["y_1"].to_numpy()
    cover = []
    for gamma in (0., .05):
        q = calibrated(Calm(), rows, targets, scale, 1, how.model_copy(update={"gamma": gamma}), QUANTILES).quantiles
        cover.append(((y > q[:, 2]) & (y <= q[:, 6]))[late].mean())
    assert cover[0] < .7 and cover[1] == pytest.approx(.8, abs=.04)


# odd panels

def test_a_single_series_without_a_market(snapshot, small_params, trees):
    bars = read_bars(snapshot, tickers=["AAPL"])
    bars = bars[bars["date"].between("1990-01-01", "2002-12-31")].reset_index(drop=True)
    forecasts = evaluate_bars(bars, small_params, trees=trees)
    sizes, days = forecasts.groupby(["model", "horizon"]).size(), (bars["date"] >= "2000-01-01").sum()
    assert (sizes.loc[["random_walk", "historical", "ewma94", "ewma97"]] == days).all() and sizes.min() > 200 and len(sizes) == 16
    table = score_table(forecasts).set_index(["horizon", "model"])
    assert table.loc[(1, "xgboost"), "pinball"] < table.loc[(1, "random_walk"), "pinball"]


def test_a_history_too_short_to_learn_from_is_refused(_panel, small_params, trees):
    alone = _panel[_panel["ticker"] == "KO"]
    for first, message in (("1999-09-01", "training rows: too few"), ("2000-01-03", "no walk-forward from 2000-01-01")):
        with pytest.raises(BadInput, match=message):
            evaluate_bars(alone[alone["date"] >= first].reset_index(drop=True), small_params, trees=trees)


def test_a_panel_may_grow_into_a_model(_panel, small_params, trees):
    young = _panel[_panel["date"] >= "1999-09-01"].reset_index(drop=True)
    made = evaluate_bars(young, small_params, trees=trees).query("model == 'xgboost'")
    assert set(made["fold"]) == {1}  # the first fold had too little to learn from


def test_odd_stocks_do_not_spoil_the_others(panel, small_params, trees, forecasts):
    still = panel[panel["ticker"] == "GE"].assign(ticker="STILL", **dict.fromkeys(PRICES, 10.))
    two = panel[panel["ticker"] == "GE"].tail(2).assign(ticker="TWO")
    young = panel[panel["ticker"] == "KO"].tail(MIN_BARS).assign(ticker="YOUNG")
    bars, rejected = check_bars(pd.concat([panel, still, two, young]))
    assert rejected.empty
    found = check_forecasts(evaluate_bars(bars, small_params, trees=trees))
    per_stock = found[found["model"] == "xgboost"].groupby("ticker").size()
    assert "TWO" not in per_stock and per_stock["YOUNG"] == 2 and per_stock["STILL"] == per_stock["GE"] > 1800
    learned = found[(found["ticker"] == "STILL") & ~found["model"].isin(["random_walk", "historical"])]
    assert learned[QUANTILE_COLUMNS].abs().max(axis=None) < .01
    mine = ["random_walk", "historical", "ewma94", "ewma97"]  # with enough residuals of its own, a stock stands for itself
    a, b = (f[f["model"].isin(mine) & f["ticker"].isin(panel["ticker"].unique()) & (f["horizon"] == 1)] for f in (forecasts, found))
    np.testing.assert_array_equal(a[QUANTILE_COLUMNS], b[QUANTILE_COLUMNS])


def test_prices_that_never_move_are_forecast_not_to(panel, small_params, trees):
    panel[PRICES] = 10.
    forecasts = evaluate_bars(panel, small_params, trees=trees)
    assert forecasts["model"].unique().tolist() == list(MODELS)
    assert (np.diff(forecasts[QUANTILE_COLUMNS], axis=1) >= 0).all()  # corrected one by one, they do not cross
    size = forecasts.set_index("model")[QUANTILE_COLUMNS].abs().max(axis=1).groupby("model").max()
    assert (size.drop("xgboost") == 0).all() and size["xgboost"] < 1e-5  # whose quantiles look for their coverage
    table = score_table(forecasts).set_index("model")
    assert (table["pinball"].drop("xgboost") == 0).all() and table["pinball"].max() < 1e-6


# files

def parts(forecasts: pd.DataFrame) -> list[pd.DataFrame]:
    return [t.reset_index(drop=True) for _, t in forecasts.groupby(["model", "horizon"], sort=False)]


def test_tables_are_written_one_after_the_other(forecasts, tmp_path):
    path, tables = tmp_path / "new" / "forecasts.parquet", parts(forecasts)
    assert write_tables(iter(tables), path) == len(forecasts)
    pd.testing.assert_frame_equal(pd.read_parquet(path), forecasts, check_exact=True)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [len(t) for t in tables]
    assert [p.name for p in path.parent.iterdir()] == ["forecasts.parquet"]


def test_the_writer_says_how_many_rows_it_wrote(forecasts, tmp_path):
    with table_writer(tmp_path / "f.parquet") as write:
        assert [write(forecasts[:7]), write(forecasts[:0]), write(forecasts[7:10])] == [7, 0, 3]
        assert not (tmp_path / "f.parquet").exists()  # not before all is written
    assert len(pd.read_parquet(tmp_path / "f.parquet")) == 10


@pytest.mark.parametrize("tables", [[], [0], [0, 0]])
def test_where_there_is_nothing_to_write_the_old_file_stays(forecasts, tmp_path, tables):
    path = tmp_path / "f.parquet"
    path.write_bytes(b"old")
    with pytest.raises(BadInput, match=r"f\.parquet: nothing to write: no history is long enough"):
        write_tables((forecasts[:n] for n in tables), path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["f.parquet"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, BadInput("no"), None])
def test_an_error_on_the_way_leaves_the_old_file(forecasts, tmp_path, error):
    def tables():
        yield forecasts[:50]
        if error:
            raise error
        yield forecasts[:50].assign(more=1.)  # another schema

    path = tmp_path / "f.parquet"
    path.write_bytes(b"old")
    with pytest.raises(type(error) if isinstance(error, Exception) else error or ValueError):
        write_tables(tables(), path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["f.parquet"]


def test_two_views_go_to_two_files(forecasts, tmp_path):
    day, tables = pd.Timestamp("2001-01-02"), parts(forecasts)  # a session
    other = [t.assign(**{c: 2 * t[c] for c in QUANTILE_COLUMNS}) for t in tables]
    mixed = [pair for a, b in zip(tables, other, strict=True) for pair in (("market", a), ("alone", b))]
    write_views(iter(mixed), tmp_path / "m.parquet", tmp_path / "a.parquet", day.date())
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "m.parquet"), forecasts, check_exact=True)
    later = pd.concat([t[t["origin"] >= day] for t in other], ignore_index=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), later, check_exact=True)
    assert len(later) < len(forecasts)


@pytest.mark.parametrize("missing", VIEWS)
def test_two_files_or_none(forecasts, tmp_path, missing):
    tables = [(v, t) for t in parts(forecasts) for v in VIEWS if v != missing]
    with pytest.raises(BadInput, match="nothing to write"):
        write_views(tables, tmp_path / "m.parquet", tmp_path / "a.parquet", "2001-01-01")
    assert not (tmp_path / f"{missing[0]}.parquet").exists()
