"What a replay must survive: nothing is lost, nothing is counted twice."

import shutil
import signal
import subprocess
from collections import Counter

import pandas as pd
import projects
import pytest
from lives import BEGUN, EVE, FIRST, LAST, LEARNT, Place
from mishaps import ended

from stockml.bundle import load_bundle
from stockml.files import read_json
from stockml.journal import find, read
from stockml.prices import read_bars, sessions

DAYS = [str(d.date()) for d in sessions(pd.Timestamp(FIRST).date(), pd.Timestamp(LAST).date())]
GAP = ["2003-06-06", "2003-06-09", "2003-06-10"]


def once(place: Place, days: list[str]) -> None:
    "Each day, each deal and each forecast is there once."
    for dataset in ("replay", "bot"):
        assert [x["day"] for x in place.lines(dataset)] == days
    made = Counter((x["ticker"], x["origin"]) for x in place.lines("forecast"))
    assert set(made.values()) == {1}
    assert {origin for _, origin in made} == set(days)
    checks = Counter((x["monitor"], x["as_of"]) for x in place.lines("monitor"))
    assert set(checks.values()) == {1}


def same(place: Place, other: Place, last: str = LAST) -> None:
    assert place.story(last) == other.story(last)


def test_days_of_a_replay(lived):
    place = lived("alone")
    once(place, DAYS)
    state = place.lines("replay")[-1]
    assert (state["number"], state["trained"], state["priced"], state["stocks"]) == (len(DAYS), LEARNT, LAST, 6)
    assert [x["as_of"] for x in place.lines("retrain")] == ["2003-05-30", LEARNT]
    assert load_bundle(place.folder / "models/champion").manifest["as_of"] == max(
        x["as_of"] for x in place.lines("retrain") if x["promoted"])
    assert set(read_bars(place.folder / "data/bars.parquet")["ticker"]) == set(projects.SMALL["data"]["tickers"])
    assert f"Replay of {len(DAYS)} sessions" in place.said[-1].stdout


def test_money_follows_from_the_prices(lived):
    "Equity moves by what was held times the return, and by nothing else than costs."
    for x in lived("alone").lines("bot"):
        before, held = x["equity_before"], x["held"].get(x["ticker"], 0.)
        assert x["equity"] <= before * (1 + held * x["return"]) + 1e-6
        assert x["equity"] >= before * (1 + held * x["return"]) * (1 - .001)


def test_killed_at_any_moment_it_ends_in_the_same_state(lived):
    place = lived("killed")
    once(place, DAYS)
    same(place, lived("alone"))
    assert [done.returncode for done in place.said] == [-signal.SIGKILL] * 3 + [0]
    assert len(place.children) > 8  # services, spiders, the price site, DVC, a stage, its kernel
    assert all(ended(pid, 20) for pid in place.children)


def test_killed_service_and_half_a_line(lived):
    place = lived("shaken")
    same(place, lived("alone"), EVE)
    assert [x["day"] for x in place.lines("replay")] == DAYS[:DAYS.index(EVE) + 1]
    assert [x["day"] for x in place.lines("bot")] == DAYS[:DAYS.index(EVE) + 1]


def test_second_replay_in_the_same_folder_is_refused(lived):
    [second] = [done for done in lived("shaken").said if done.returncode == 2]
    assert second.stderr.startswith("stockml: another replay in shaken is under way")
    assert (second.stdout, second.stderr.count("\n")) == ("", 1)


def test_ctrl_c_ends_after_the_day_under_way(lived):
    [stopped] = [done for done in lived("shaken").said if done.returncode == 130]
    assert stopped.stdout == ""
    assert "no prices" not in stopped.stderr  # the spider did not hear it
    said = [line for line in stopped.stderr.splitlines() if line]
    assert len(said) == 1 and said[0].startswith("stopped after 2003-06-")


def test_full_disk_is_one_line(lived):
    place = lived("full")
    failed, resumed = place.said
    assert failed.returncode == 2
    assert "be written" in failed.stderr.splitlines()[-1]
    assert "Traceback" not in failed.stderr
    assert resumed.returncode == 0
    same(place, lived("alone"), EVE)
    once(place, DAYS[:DAYS.index(EVE) + 1])


def test_clock_that_went_back(lived):
    "The first lines are of next year, the later ones of this one; the order of lines counts, and each is found."
    place = lived("full")
    made = list(read(place.folder / "journal", "stockml.forecast"))
    assert made[0]["@timestamp"] > made[-1]["@timestamp"]
    for line in (made[0], made[-1]):
        assert find(place.folder / "journal", line["stockml"]["forecast_id"]).line == line
    bot = place.lines("bot")
    assert {i for x in bot for i in x["forecasts"].values()} <= {x["stockml"]["forecast_id"] for x in made}


def test_site_that_is_down_for_three_days(lived):
    place = lived("cut_off")
    days = {x["day"]: x for x in place.lines("bot")}
    assert list(days) == DAYS[:DAYS.index(EVE) + 1]
    before, after = days[BEGUN], days[EVE]
    for day in GAP:
        assert f"{day}: no prices: " in place.said[0].stderr
        assert days[day]["halted"] == f"the newest price is of {BEGUN}"
        assert (days[day]["return"], days[day]["equity"], days[day]["weights"]) == (0, before["equity"], before["weights"])
    price = read_bars(place.folder / "data/bars.parquet", tickers=["AAPL"]).set_index("date")["adj_close"]
    assert after["return"] == pytest.approx(price[EVE] / price[BEGUN] - 1)
    assert after["held"] == before["weights"]
    assert [str(d.date()) for d in price.loc[FIRST:].index] == DAYS[:DAYS.index(EVE) + 1]  # none is missing in the end
    states = [x["state"] for x in place.lines("monitor") if x["monitor"] == "data" and x["as_of"] in GAP]
    assert set(states) == {"warn"}
    assert {x["origin"] for x in place.lines("forecast")}.isdisjoint(GAP)


def test_worse_challenger_is_refused_and_the_replay_goes_on(lived, begun):
    place = lived("worse")
    first, second = place.lines("retrain")
    assert (first["promoted"], second["promoted"], second["as_of"]) == (True, False, LEARNT)
    assert any("95% interval" in reason for reason in second["reasons"])
    assert f"{LEARNT}: refused, " in place.said[-1].stderr
    old, now = (load_bundle(p.folder / "models/champion").manifest["sha256"] for p in (begun, place))
    assert old == now
    assert read_json(place.folder / "models/challenger/manifest.json")["as_of"] == LEARNT
    last = [x for x in place.lines("forecast") if x["origin"] == LAST]
    assert len(last) == 6
    assert {x["bundle_sha256"] for x in last} == {old}
    once(place, DAYS)


class TestRefused:
    "One line, exit code 2, and nothing is touched."

    @pytest.mark.parametrize(("options", "where", "message"), [
        ((), {"first": "2003-06-03"}, "--from: the replay in "), ((), {"first": "2003-05-01"}, "--from: the replay in "),
        ((), {"first": "2003-06-20"}, "--from: 2003-06-20 is after --to, 2003-06-13"),
        (("--set", "monitor.every=3"), {}, "--set: the replay in "), (("--set", "monitor.evry=3"), {}, "monitor.evry"),
    ])
    def test_what_does_not_fit_the_replay_there(self, begun, options, where, message):
        before = begun.journal.read_bytes()
        done = Place(begun.project, begun.folder).run(*options, code=2, **where)
        assert done.stderr.startswith("stockml: ") and message in done.stderr
        assert done.stderr.count("\n") == 1
        assert begun.journal.read_bytes() == before

    @pytest.mark.parametrize(("options", "where", "message"), [
        ((), {"first": "2003-05-31", "to": "2003-06-01"}, "no session from 2003-05-31 to 2003-06-01"),
        (("--set", "data.source=csv"), {}, "data.source: a replay scrapes day by day"),
        (("--set", "bot.ticker=MSFT"), {}, "bot.ticker: MSFT is not among data.tickers"),
    ])
    def test_what_cannot_be_replayed(self, begun, tmp_path, options, where, message):
        done = Place(begun.project, tmp_path / "new").run(*options, code=2, **where)
        assert message in done.stderr
        assert not (tmp_path / "new").exists()

    def test_folder_that_is_something_else(self, begun, tmp_path):
        (tmp_path / "file").touch()
        assert "is not empty and no replay" in Place(begun.project, tmp_path).run(code=2).stderr

    def test_project_that_is_no_git_repository(self, begun, tmp_path):
        project = shutil.copytree(begun.project, tmp_path / "project", ignore=shutil.ignore_patterns(".git"))
        done = Place(project, tmp_path / "new").run(code=2)
        assert done.stderr.splitlines()[-1].endswith("a replay needs the project's git repository")
        assert not (tmp_path / "new").exists()


def test_versions_are_in_git(lived):
    place = lived("alone")
    log = subprocess.run(["git", "log", "--format=%s"], cwd=place.folder, capture_output=True, text=True, check=True).stdout.splitlines()
    assert log[0].startswith(f"Trained as of {LEARNT}, ")
    assert log[-1] == "small"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=place.folder, capture_output=True, text=True, check=True).stdout
    assert status == ""
