import base64
import json
import re
from copy import deepcopy
from datetime import date

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from stockml.bundle import forecast
from stockml.config import BadInput
from stockml.prices import write_bars
from stockml.report import forecast_text, gather, limits_text, plot_fan, span, summary_text, write_index
from stockml.schema import QUANTILE_COLUMNS

ROW = {"ratio": .9912, "against": "har", "dm_p": 1e-5, "cover_80": .801, "cover_95": .949, "held": .949, "n": 75000}
ALONE = {**ROW, "ratio": .9987, "against": "gjr", "dm_p": .0321}
BOT = {"final_equity": 297139.4, "yearly_growth": .085, "max_drawdown": .271, "worst_day": "2000-09-29",
       "worst_day_return": -.11}
CRASH = {"date": "2000-09-29", "budget": {"return": -.11}, "buy_and_hold": {"return": -.519}}
GATE = {"promoted": True, "reasons": [], "model": "0123456789ab", "time": "2026-01-01T00:00:00+00:00", "who": "Ada"}


MADE = {"who": "Ada", "trained_at": "2026-01-01T00:00:00+00:00", "commit": "c" * 40, "dirty": True, "data_sha256": "d" * 64, "run_id": "1f"}


def forecasts(model: str, width: float) -> pd.DataFrame:
    "Of a price that stands still: the loss is as wide as the forecast."
    days = pd.bdate_range("2002-01-01", periods=50).as_unit("ms")
    quantiles = {c: width * (i - 4.) for i, c in enumerate(QUANTILE_COLUMNS)}
    return pd.DataFrame({"model": model, "ticker": "AAPL", "origin": days, "horizon": 1, **quantiles, "realized": 0., "fold": 0})


@pytest.fixture
def bars(panel):
    return panel[panel["ticker"] == "AAPL"].reset_index(drop=True)

SAYS = "5 of 99 days cost more than the budget, and then so many words that the line is too long. It must be broken: EXCEEDED."


@pytest.fixture
def answer(bundle, bars):
    return forecast(bundle, bars)[0]


@pytest.fixture
def project(tmp_path, panel):
    "What a run leaves behind, as far as the report is concerned. KO's history ends early."
    keep = (panel["ticker"] != "KO") | (panel["date"] < "2003-06-01")
    write_bars(tmp_path / "data/bars.parquet", panel[keep])
    alone = {"models": {"xgboost": {"1": ALONE, "21": {**ALONE, "ratio": 1.0205}}}, "skill": {"1": False, "21": True}}
    skill = {"models": {"xgboost": {"21": {**ROW, "dm_p": None}, "1": ROW}}, "skill": {"1": True, "21": False},
             "test_from": "2001-01-01", "alone": alone}
    drift = {"alarm": True, "drifted": 15, "features": 56, "missing": ["m_r"]}
    money = {"budget": BOT, "buy_and_hold": BOT, "naive": BOT, "crash": CRASH, "days": {"from": "2000-01-03", "to": "2003-12-31"},
             "risk": {"says": SAYS}}
    (tmp_path / "metrics").mkdir()
    for name, content in (("evaluate", skill), ("backtest", money), ("drift", drift)):
        (tmp_path / f"metrics/{name}.json").write_text(json.dumps(content))
    (tmp_path / "models").mkdir()
    (tmp_path / "models/champion").mkdir()
    (tmp_path / "models/champion/manifest.json").write_text(json.dumps(MADE))
    (tmp_path / "reports").mkdir()
    pd.concat([forecasts("xgboost", 1), forecasts("har", 2)]).to_parquet(tmp_path / "reports/forecasts.parquet")
    lines = [json.dumps({**GATE, "promoted": False}), json.dumps(GATE)]
    (tmp_path / "models/promotions.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def params(small_params):
    return small_params.model_copy(update={"data": small_params.data.model_copy(update={"as_of": date(2003, 12, 31)})})


@pytest.fixture
def facts(project, params, answer):
    return gather(project, params, answer)


def row(text: str, start: str) -> str:
    "The one line of a table that starts so."
    [line] = [line for line in text.splitlines() if line.strip().startswith(start)]
    return re.sub(r"\s+", " ", line.strip())


def test_facts_come_from_the_files(facts, answer):
    assert [r["horizon"] for r in facts["skill"]] == [1, 21]
    assert [r["skill"] for r in facts["skill"]] == [True, False]
    assert [r["alone"]["skill"] for r in facts["skill"]] == [False, True]
    assert [(r["ratio"], r["alone"]["ratio"]) for r in facts["skill"]] == [(.9912, .9987), (.9912, 1.0205)]
    assert facts["stale"] == {"KO": date(2003, 5, 30)}
    assert facts["gate"] == GATE  # the newest decision
    assert (facts["forecast"], facts["crash"]) == (answer, CRASH)
    assert list(facts["backtest"]) == ["budget", "buy_and_hold", "naive"]


@pytest.mark.parametrize("name", ["metrics/evaluate.json", "metrics/backtest.json", "metrics/drift.json",
                                  "models/promotions.jsonl", "data/bars.parquet"])
def test_a_missing_file_is_named(project, params, answer, name):
    (project / name).unlink()
    with pytest.raises(BadInput, match=rf"{name}: (not found|no price store there)"):
        gather(project, params, answer)


@pytest.mark.parametrize(("horizon", "words"), [
    (1, "next day"), (5, "week"), (21, "month"), (252, "year"), (504, "two years"), (63, "63 sessions")])
def test_horizons_in_words(horizon, words):
    assert span(horizon) == words


def test_forecast_is_told_in_prices(answer):
    text = forecast_text(answer)
    assert text.splitlines()[0] == f"AAPL from 2003-12-31, close {answer['close']:.2f}"
    day, month = answer["forecasts"]
    for name, made in (("next day", day), ("month", month)):
        p = made["prices"]
        inner, outer = f"{p['0.1']:.2f} – {p['0.9']:.2f}", f"{p['0.025']:.2f} – {p['0.975']:.2f}"
        assert row(text, name) == f"{name} {made['target_date']} {inner} {outer} {p['0.5']:.2f} xgboost no"


def test_forecast_names_the_model_that_serves_and_its_skill(answer):
    served = deepcopy(answer)
    served["forecasts"][0] |= {"model": "xgboost", "skill": True}
    served["forecasts"][1] |= {"model": "random_walk", "skill": False}
    _, head, *lines = forecast_text(served).splitlines()
    told = [(line[head.index("model"):head.index("skill")].strip(), line[head.index("skill"):]) for line in lines]
    assert told == [("xgboost", "yes"), ("random_walk", "no")]


def test_summary_says_it_all(facts):
    text = summary_text(facts)
    skill = text.partition("Skill, out of sample since 2001-01-01")[2]
    assert row(skill, "next day") == "next day 0.9912 har 1e-05 80.1% 94.9% skill | 0.9987 0.03 none shown | 0.5000"
    assert row(skill, "month") == "month 0.9912 har – 80.1% 94.9% none shown | 1.0205 0.03 skill | –"
    assert row(skill, "horizon") == "horizon ratio against DM p 80% held 95% held verdict | no market DM p verdict | AAPL"
    table = [line for line in skill.splitlines() if "|" in line]
    assert len({tuple(i for i, c in enumerate(line) if c == "|") for line in table}) == 1  # the columns stand below one another
    assert "the best classical model serves" in skill
    assert "Backtest, 200,000 EUR in AAPL, 2000-01-03 to 2003-12-31, after costs" in text
    assert f"Budget: {SAYS}" in " ".join(text.split()) and max(map(len, text.splitlines())) < 160
    assert f"by Ada, commit {'c' * 9} (changed since), data {'d' * 9}, MLflow run 1f." in text
    assert row(text, "budget") == "budget 297,139 +8.5% 27.1% 2000-09-29 -11.0% -11.0%"
    assert row(text, "buy and hold").endswith("-51.9%")
    assert row(text, "naive").endswith(" –")  # nothing is known of its day
    assert "Drift: ALARM, 15 of 56 features moved, 1 missing." in text
    assert "Gate: promoted (model 0123456789ab)." in text
    assert "Stale: 1 histories ended before 2003-12-31 (KO, last 2003-05-30)" in text


def test_summary_of_the_other_outcomes(facts):
    facts |= {"stale": {t: date(2020, 1, 1) for t in "ABCDEF"}, "drift": {**facts["drift"], "alarm": False},
              "gate": {**GATE, "promoted": False, "reasons": ["too wide", "too late"]},
              "skill": [{"horizon": 1, **ROW, "ratio": None, "dm_p": None, "skill": False, "own": np.nan,
                         "alone": {**ALONE, "ratio": None, "dm_p": None, "skill": False}}]}
    text = summary_text(facts)
    assert "Drift: no alarm" in text
    assert "Gate: refused: too wide; too late (model" in text
    assert "Stale: 6 histories ended before 2003-12-31 (A, B, C, D and 2 more, last 2020-01-01)" in text
    skill = text.partition("Skill, ")[2]
    assert row(skill, "next day") == "next day – har – 80.1% 94.9% none shown | – – none shown | –"
    assert "Stale" not in summary_text({**facts, "stale": {}})


def far(facts, horizon=504, prices=(41.2, 241.9), **row):
    "The same facts with a long forecast, and what such forecasts were worth."
    day, month = facts["forecast"]["forecasts"]
    low, high = prices
    long = {**month, "horizon": horizon, "target_date": "2006-01-03", "prices": month["prices"] | {"0.025": low, "0.975": high}}
    scored = {**facts["skill"][0], "horizon": horizon, "held": .8817, "n": 66322, **row}
    return {**facts, "forecast": {**facts["forecast"], "forecasts": [long, day, month]}, "skill": [*facts["skill"], scored]}


def test_limits_of_the_longest_forecast_are_told(facts):
    "With what the test years showed, in the summary and on the page."
    facts |= {"as_of": date(2026, 8, 5), "test_from": "2008-01-01"}
    assert "only about 18 windows" in limits_text(far(facts, 252))  # 18.6 years
    facts = far(facts)
    text = limits_text(facts)
    assert text.startswith("\n  In two years: 41 to 242, says the 95% interval. Such intervals held 88.2% of 66,322 outcomes since 2008,\n")
    assert "only about 9 windows of this length do not overlap" in text
    assert summary_text(facts).startswith(forecast_text(facts["forecast"]) + text + "\n\nSkill, ")


def test_limits_do_not_overstate_a_short_test(facts):
    text = limits_text(far(facts | {"test_from": "2003-06-01"}))
    assert "only about 1 windows of this length" in text
    assert " 0.08 to 1.62, says" in limits_text(far(facts, prices=(.081, 1.619)))  # pence matter to a penny share


def test_near_or_unscored_horizons_have_no_limits_to_tell(facts):
    assert limits_text(facts) == ""
    assert limits_text(far(facts, 63)) == ""
    assert limits_text(far(facts, 64)) != ""
    unscored = far(facts)
    assert limits_text({**unscored, "skill": facts["skill"]}) == ""
    assert summary_text({**unscored, "skill": facts["skill"]}).startswith(forecast_text(unscored["forecast"]) + "\n\nSkill, ")


def test_page_leads_to_what_is_there(facts, project):
    reports = project / "reports"
    (reports / "drift.html").write_text("<p>drift</p>")
    (reports / "fan.png").write_bytes(b"\x89PNG fan")
    facts["gate"] = {**GATE, "promoted": False, "reasons": ["<script>alert(1)</script> & more"]}
    leads = {"Drift <report>": reports / "drift.html", "Scores": project / "metrics/evaluate.json",
             "Gone": reports / "gone.html"}
    page = write_index(reports, facts, leads)
    text = page.read_text()
    found = re.findall(r'<a href="([^"]+)">([^<]+)</a>', text)
    assert found == [("drift.html", "Drift &lt;report&gt;"), ("../metrics/evaluate.json", "Scores")]
    assert base64.b64encode(b"\x89PNG fan").decode() in text
    assert text.count("<img") == 1  # no broken pictures for plots that are not there
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    assert "stockml, as of 2003-12-31" in text
    assert limits_text(far(facts)).splitlines()[1] in write_index(reports, far(facts), leads).read_text()
    assert not re.search(r'(?:src|href)="https?:', text)


@pytest.fixture
def drawn(monkeypatch):
    "The figures that were saved."
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: figures.append(self) or save(self, *a, **k))
    return figures


@pytest.mark.parametrize("factor", [1., 4.])
def test_fan_starts_where_the_history_ends(answer, bars, drawn, tmp_path, factor):
    "Also where the quoted price is another than the adjusted one."
    bars["adj_close"] /= factor
    plot_fan(answer, bars, tmp_path / "fan.png")
    assert (tmp_path / "fan.png").read_bytes().startswith(b"\x89PNG")
    [axis] = drawn[0].axes
    history, median = axis.lines
    assert history.get_ydata()[-1] == median.get_ydata()[0] == pytest.approx(answer["close"])
    assert len(history.get_ydata()) == 504
    np.testing.assert_allclose(median.get_ydata()[1:], [f["prices"]["0.5"] for f in answer["forecasts"]])
    assert [b.get_label() for b in axis.collections] == ["95% of outcomes", "80% of outcomes", "50% of outcomes"]
    assert median.get_xdata()[-1] == pd.Timestamp(answer["forecasts"][-1]["target_date"])


@pytest.mark.parametrize(("held", "notes"), [
    (None, []), ({}, []), ({1: .95}, []), ({1: .95, 21: .9317, 504: .88}, ["month\n95% held 93%", "two years\n95% held 88%"]),
    ({252: .9}, []),
])
def test_fan_tells_what_was_held_where_it_is_known(facts, bars, drawn, tmp_path, held, notes):
    "The nearest horizons would lie on each other; they have none."
    answer = far(facts)["forecast"]
    answer["forecasts"].sort(key=lambda f: f["horizon"])
    plot_fan(answer, bars, tmp_path / "fan.png", *([held] if held is not None else []))
    [axis] = drawn[0].axes
    assert [t.get_text() for t in axis.texts] == notes
    at = {pd.Timestamp(f["target_date"]): f["prices"]["0.975"] for f in answer["forecasts"]}
    assert all(at[pd.Timestamp(t.xy[0])] == t.xy[1] for t in axis.texts)  # each stands at the end of its interval


def test_equal_fans_are_equal_bytes(answer, bars, tmp_path):
    for name in "ab":
        plot_fan(answer, bars, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
