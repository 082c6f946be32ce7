"The monitors: each state is reached on real prices, and what they say is kept and shown once."

import json
import re
import shutil
from datetime import date, timedelta
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from journals import forecast_line

from stockml import monitor as module
from stockml.bundle import load_bundle, write_manifest
from stockml.config import BadInput
from stockml.files import read_json, sha256
from stockml.journal import STATE, Journal, read
from stockml.live import with_outcomes
from stockml.monitor import (
    STATES,
    Case,
    Check,
    age_checks,
    all_checks,
    champion_record,
    check,
    drift_check,
    inputs_check,
    keep,
    live_checks,
    monitor_history,
    monitor_text,
    run_monitors,
    strip,
    write_page,
)
from stockml.prices import sessions
from stockml.promote import RECORD
from stockml.schema import QUANTILE_COLUMNS, QUANTILES

AS_OF, TICKERS = date(2003, 12, 31), ["AAPL", "BAC", "GE", "KO", "PFE", "XOM"]


@pytest.fixture(scope="module")
def honest(_panel, features) -> pd.DataFrame:
    "One day ahead for each stock and day of 2000 to 2003, by yesterday's volatility; calibrated over those years."
    y = with_outcomes(features[["ticker", "date"]].rename(columns={"date": "origin"}).assign(horizon=1), _panel)
    scale = features["v_ewma94"].to_numpy()
    q = scale[:, None] * np.nanquantile(y["realized"] / scale, QUANTILES)
    table = y[["ticker", "origin", "horizon"]].join(pd.DataFrame(q, columns=QUANTILE_COLUMNS).astype(np.float32))
    return table[(table["origin"] >= "2000-01-03").to_numpy()].reset_index(drop=True)


@pytest.fixture
def champion(tmp_path, bundle_folder, honest):
    "The small bundle, with a record until the end of 2002."
    shutil.copytree(bundle_folder, tmp_path / "models/champion")
    give_record(tmp_path / "models/champion", honest[honest["origin"] < "2003-01-01"])
    return tmp_path / "models/champion"


def give_record(champion, record: pd.DataFrame) -> None:
    record.to_parquet(champion / RECORD, index=False)
    manifest = read_json(champion / "manifest.json")
    write_manifest(champion, manifest | {"files": manifest["files"] | {RECORD: sha256(champion / RECORD)}})


@pytest.fixture
def case(tmp_path, champion, panel, small_params):
    Journal(tmp_path / "journal")
    return Case(AS_OF, panel, load_bundle(champion), champion, tmp_path / "journal", small_params)


def told(case: Case, made: pd.DataFrame, width: float = 1., bias: float = 0.) -> None:
    "Forecasts in the journal, as the service would have written them."
    lines = []
    for r in made.to_dict("records"):
        quantiles = {f"{q:g}": r[name] * width + bias for q, name in zip(QUANTILES, QUANTILE_COLUMNS, strict=True)}
        forecasts = [{"horizon": 1, "model": "xgboost", "skill": True, "quantiles": quantiles}]
        lines.append(forecast_line(r["ticker"], f"{r['origin']:%Y-%m-%d}", forecasts=forecasts))
    Journal(case.journal).append(lines)


def states(checks: list[Check]) -> dict[str, str]:
    return {c.monitor: c.state for c in checks}


def until_november(case: Case) -> Case:
    "An ordinary stretch: in December 2003 fewer outcomes than usual lay outside, two standard errors."
    return case._replace(bars=case.bars[case.bars["date"] < "2003-12-01"])


def section(case: Case, name: str, **changes) -> Case:
    "With other settings."
    return case._replace(params=case.params.model_copy(update={name: getattr(case.params, name).model_copy(update=changes)}))


# a check

@pytest.mark.parametrize(("value", "state", "kept"), [
    (-9., "ok", -9.), (1.99999, "ok", 2.), (2., "warn", 2.), (2.9, "warn", 2.9), (3., "alarm", 3.), (1e300, "alarm", 1e300),
    (np.float32(2.5), "warn", 2.5), (np.nan, "unknown", None), (np.inf, "unknown", None),
])
def test_a_number_against_its_thresholds(value, state, kept):
    assert check("coverage", value, (2., 3.), "text") == ("coverage", state, kept, 2., 3., "text")
    json.dumps(check("coverage", value, (2., 3.), "text"), allow_nan=False)


# coverage and pinball

def test_honest_forecasts_are_fine(case, honest):
    case = until_november(case)
    told(case, honest[honest["origin"] >= "2003-08-01"])
    assert states(live_checks(case)) == {"coverage": "ok", "pinball": "ok"}


def test_what_is_said_are_the_newest_days_that_are_due(case, honest):
    short = case.params.monitor.model_copy(update={"window": 63})  # in which h=5 has too few windows that do not overlap
    case = case._replace(params=case.params.model_copy(update={"monitor": short}))
    told(case, honest[honest["origin"] >= "2003-06-02"])
    coverage, pinball = live_checks(case)
    due = sorted(honest["origin"].unique())[-1 - case.params.monitor.window:-1]  # of the last day nothing is known
    scored = with_outcomes(honest[honest["origin"].isin(due)], case.bars)
    held = ((scored["realized"] >= scored["q025"]) & (scored["realized"] <= scored["q975"])).mean()
    held_80 = ((scored["realized"] >= scored["q10"]) & (scored["realized"] <= scored["q90"])).mean()
    assert any(f"h=1: {share:.1%} of an interval's outcomes held in 63 days" in coverage.text for share in (held, held_80))
    assert "h=1: 0." in pinball.text and "in 63 days" in pinball.text


@pytest.mark.parametrize(("width", "bias", "expected"), [
    (.4, 0., {"coverage": "alarm", "pinball": "alarm"}), (4., 0., {"coverage": "alarm"}),
    (1., .05, {"coverage": "alarm", "pinball": "alarm"}),
])
def test_forecasts_that_are_wrong_are_an_alarm(case, honest, width, bias, expected):
    told(case, honest[honest["origin"] >= "2003-09-01"], width, bias)
    assert states(live_checks(case)).items() >= expected.items()


def test_between_fine_and_wrong_there_is_a_warning(case, honest):
    live = honest[honest["origin"] >= "2003-09-01"]
    told(case, live, .7)
    coverage, pinball = live_checks(case)
    for name, value in (("coverage", coverage.value), ("pinball", pinball.value)):
        assert value > 0
        found = states(live_checks(section(case, "monitor", **{name: (value * .9, value * 1.1)})))
        assert found[name] == "warn"


@pytest.mark.parametrize("days", [0, 5, 19])
def test_too_few_outcomes_are_unknown(case, honest, days):
    due = sorted(honest["origin"].unique())[-1 - days:]
    told(case, honest[honest["origin"].isin(due)])
    found = live_checks(case)
    assert states(found) == {"coverage": "unknown", "pinball": "unknown"}
    assert {c.text for c in found} == {f"too few outcomes yet ({days} days)"}


def test_no_record_no_bars_or_no_forecast_is_unknown(case, honest):
    assert set(states(live_checks(case)).values()) == {"unknown"}
    case = until_november(case)
    told(case, honest[honest["origin"] >= "2003-08-01"])
    assert set(states(live_checks(case)).values()) == {"ok"}
    assert set(states(live_checks(case._replace(bars=case.bars[:0]))).values()) == {"unknown"}
    (case.champion / RECORD).unlink()
    assert set(states(live_checks(case)).values()) == {"unknown"}


# the champion's record

def test_the_record_is_joined_with_its_outcomes(case, honest):
    give_record(case.champion, pd.concat([honest, honest.assign(horizon=21)]))
    record = champion_record(case)
    assert len(record) == len(honest)  # horizons that the gate does not ask for are left out
    expected = with_outcomes(honest, case.bars)
    pd.testing.assert_series_equal(record["realized"], expected["realized"])
    assert record["realized"].isna().sum() == len(TICKERS)


def test_without_a_record_it_is_empty(case):
    (case.champion / RECORD).unlink()
    record = champion_record(case)
    assert record.empty and {"horizon", "realized", *QUANTILE_COLUMNS} <= set(record)


# drift

def two_stocks(case: Case) -> Case:
    "Evidently takes seconds, and the longer the more there is."
    return section(case._replace(bars=case.bars[case.bars["ticker"].isin(["KO", "GE"])]), "drift", reference_sessions=1260)


def test_a_market_that_is_not_what_it_was(case):
    few = two_stocks(case)
    found = drift_check(section(few, "drift", share=.001))
    assert found.state == "alarm"
    assert re.fullmatch(r"\d+ of \d+ features drifted; most of all \w+, \w+, \w+", found.text)
    assert 0 < found.value < .5
    share = found.value * 1.5
    assert drift_check(section(few, "drift", share=share)) == ("drift", "warn", found.value, share / 2, share, found.text)


def test_drift_of_a_short_history_is_unknown(case):
    found = drift_check(case._replace(bars=case.bars[case.bars["date"] < "1999-01-01"]))
    assert (found.state, found.value) == ("unknown", None)
    assert "sessions are too few for a window of 252 against 2520" in found.text


# inputs

def spoken(case, days: list[str], tickers=TICKERS, **features) -> None:
    known = dict.fromkeys(case.bundle.manifest["features"], .01) | features
    Journal(case.journal).append([forecast_line(t, day, features=known) for day in days for t in tickers])


DAYS = ["2003-12-29", "2003-12-30", "2003-12-31"]


def test_inputs_as_ever(case):
    spoken(case, DAYS)
    assert inputs_check(case)[:3] == ("inputs", "ok", 0.)


@pytest.mark.parametrize(("lost", "state"), [(1, "ok"), (6, "warn"), (40, "alarm")])
def test_features_that_are_not_known_any_more(case, lost, state):
    names = case.bundle.manifest["features"]
    before = pd.read_parquet(case.champion / "reference.parquet")
    spoken(case, DAYS, **dict.fromkeys(names[:lost]))
    share = sum(before[n].notna().mean() for n in names[:lost]) / len(names)  # what was unknown before is no loss
    found = inputs_check(case)
    assert (found.state, found.value) == (state, pytest.approx(share, abs=1e-4))
    assert found.text == f"{share:.1%} of the features unknown beyond the usual"


def test_what_was_never_known_is_usual(case):
    reference = pd.read_parquet(case.champion / "reference.parquet")
    name = case.bundle.manifest["features"][0]
    reference.assign(**{name: np.nan}).to_parquet(case.champion / "reference.parquet")
    spoken(case, DAYS, **{name: None})
    assert inputs_check(case).value == 0


@pytest.mark.parametrize(("gone", "state"), [(["KO"], "warn"), (["KO", "XOM"], "alarm")])
def test_stocks_that_are_not_forecast_any_more(case, gone, state):
    spoken(case, DAYS[:2])
    spoken(case, DAYS[2:], [t for t in TICKERS if t not in gone])
    found = inputs_check(case)
    assert (found.state, found.value) == (state, pytest.approx(len(gone) / 6, abs=1e-4))
    assert found.text.endswith(f"; not forecast on 2003-12-31: {', '.join(gone)}")


def test_what_was_forecast_long_ago_is_not_missed(case):
    spoken(case, ["2003-06-02"], ["OLD"])
    spoken(case, DAYS)
    assert inputs_check(case).state == "ok"


def test_inputs_of_nothing_are_unknown(case):
    spoken(case, ["2003-06-02"])
    assert inputs_check(case).state == "unknown"


# age

@pytest.mark.parametrize(("today", "data", "model"), [
    (date(2003, 12, 31), "ok", "ok"), (date(2004, 1, 2), "ok", "ok"), (date(2004, 1, 5), "warn", "ok"), (date(2004, 1, 8), "alarm", "ok"),
    (date(2004, 7, 2), "alarm", "warn"), (date(2005, 1, 3), "alarm", "alarm"),
])
def test_ages_are_counted_in_sessions(case, today, data, model):
    found = age_checks(case._replace(as_of=today))
    assert states(found) == {"data": data, "model": model}
    behind = len(sessions(AS_OF + timedelta(days=1), today))
    assert [c.value for c in found] == [behind, behind]
    assert found[0].text == f"the newest bar is of 2003-12-31, {behind} sessions ago"


def test_without_bars_their_age_is_unknown(case):
    found = age_checks(case._replace(bars=case.bars[:0]))
    assert states(found) == {"data": "unknown", "model": "ok"}


def test_without_bars_every_monitor_still_speaks(case):
    found = states(all_checks(case._replace(bars=case.bars[:0])))
    assert found == {"coverage": "unknown", "pinball": "unknown", "inputs": "unknown", "data": "unknown", "model": "ok", "drift": "unknown"}


# what is kept, and the page

class Page(HTMLParser):
    "A page whose tags are balanced, its texts, and all that it would load."
    VOID = frozenset(("meta", "br", "link", "img"))

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open, self.texts, self.loads, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


EVIL = '<script>alert("x")</script> & <b>'


def checks_of(z: float, text: str = "fine") -> list[Check]:
    return [check("coverage", z, (2., 3.), text), check("data", np.nan, (2, 5), "there are no bars")]


def test_what_was_said_is_kept_once_a_day(tmp_path):
    journal = Journal(tmp_path)
    for day, z in ((1, 1.), (2, 2.5), (2, 3.5), (3, .5)):  # the second day was cut off and done again
        keep(checks_of(z), date(2003, 1, day), journal)
    history = monitor_history(tmp_path)
    own = history[history["monitor"] == "coverage"]
    assert own[["as_of", "state", "value"]].to_numpy().tolist() == [
        ["2003-01-01", "ok", 1.], ["2003-01-02", "alarm", 3.5], ["2003-01-03", "ok", .5]]
    assert len(history) == 6
    assert [line["log.level"] for line in read(tmp_path) if line["stockml"]["monitor"] == "coverage"] == ["info", "warn", "error", "info"]
    assert list(history.columns) == ["as_of", "monitor", "state", "value", "warn", "alarm", "text", "time"]


def test_an_old_day_that_is_checked_again_is_not_the_newest(tmp_path):
    journal = Journal(tmp_path)
    for day, z in ((1, 3.5), (3, .5), (2, 3.5)):
        keep(checks_of(z), date(2003, 1, day), journal)
    assert monitor_history(tmp_path)["as_of"].is_monotonic_increasing
    write_page(monitor_history(tmp_path), tmp_path / "page.html")
    assert "worst state: unknown; as of 2003-01-03" in Page((tmp_path / "page.html").read_text()).texts


def test_the_newest_states_stand_in_a_file_of_their_own(tmp_path):
    journal = Journal(tmp_path)
    keep([*checks_of(3.5), check("drift", .1, (.15, .3), "x")], date(2003, 1, 1), journal)
    keep(checks_of(1.), date(2003, 1, 2), journal)
    kept = read_json(tmp_path / STATE)
    assert kept["drift"] == {"as_of": "2003-01-01", "monitor": "drift", "state": "ok", "value": .1, "warn": .15, "alarm": .3, "text": "x"}
    assert (kept["coverage"]["as_of"], kept["coverage"]["state"], kept["data"]["value"]) == ("2003-01-02", "ok", None)


def test_the_page_has_each_monitor_its_history_and_nothing_from_elsewhere(tmp_path):
    journal = Journal(tmp_path)
    for day, z in ((1, -4.), (2, 2.5), (3, 3.5)):
        keep(checks_of(z, EVIL), date(2003, 1, day), journal)
    write_page(monitor_history(tmp_path), tmp_path / "page.html", f"Monitors {EVIL}")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert page.loads == [] and not {"script", "link", "img"} & set(page.tags) and "url(" not in text and "@import" not in text
    assert page.tags.count("svg") == 2 and page.tags.count("rect") == 6
    assert page.texts.count(EVIL) == 1 and page.texts.count(f"Monitors {EVIL}") == 2
    assert f"2003-01-02: {EVIL}" in page.texts  # of a bar
    assert "worst state: alarm; as of 2003-01-03" in page.texts
    assert text.index("coverage") < text.index("data</b>")  # the worst first


def test_the_page_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "journal")
    keep(checks_of(1.), date(2003, 1, 1), journal)
    write_page(monitor_history(journal.folder), tmp_path / "page.html")
    before = (tmp_path / "page.html").read_bytes()
    monkeypatch.setattr(module.Path, "write_text", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_page(monitor_history(journal.folder), tmp_path / "page.html", "another")
    assert (tmp_path / "page.html").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"page.html", "journal"}


def test_a_page_of_nothing_is_refused(tmp_path):
    Journal(tmp_path)
    with pytest.raises(BadInput, match="no monitor ever ran here"):
        write_page(monitor_history(tmp_path), tmp_path / "page.html")


def test_the_bars_of_a_history_stand_in_their_picture(tmp_path):
    "The alarm's line is reached by an alarm and by nothing that is better than expected."
    journal = Journal(tmp_path)
    for day, z in ((1, -9.), (2, np.nan), (3, 3.)):
        keep(checks_of(z), date(2003, 1, day), journal)
    history = monitor_history(tmp_path)
    picture = strip(history[history["monitor"] == "coverage"])
    tops = [float(y) for y in re.findall(r'<rect x="[\d.]+" y="([\d.]+)"', picture)]
    lines = [float(y) for y in re.findall(r'y1="([\d.]+)"', picture)]
    assert tops[2] == pytest.approx(lines[1], abs=.1) and tops[0] > lines[0] and tops[1] > lines[0]
    assert all(0 <= y <= 60 for y in (*tops, *lines))


def test_all_of_it(case, honest, tmp_path):
    case = section(two_stocks(case), "drift", share=1.)
    told(case, honest[honest["origin"] >= "2003-09-01"])
    found = run_monitors(tmp_path, case.params, case.bars, AS_OF, case.journal)
    assert [c.monitor for c in found] == ["coverage", "pinball", "inputs", "data", "model", "drift"]
    assert set(states(found).values()) <= {*STATES, "unknown"} and states(found)["drift"] == "ok"
    assert set(read_json(case.journal / STATE)) == set(states(found))
    assert len(Page((tmp_path / "reports/monitor.html").read_text()).tags) > 50
    assert len(run_monitors(tmp_path, case.params, case.bars, AS_OF, case.journal, drift=False)) == 5
    assert len(monitor_text(found).splitlines()) == 6
