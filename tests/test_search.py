import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import psutil
import pytest
from distributed import Client
from mishaps import ended
from threadpoolctl import threadpool_info

from stockml.baselines import Har
from stockml.config import BadInput, StockmlError
from stockml.evaluate import walk_forward
from stockml.features import make_features
from stockml.files import lock
from stockml.forecaster import TREES
from stockml.search import (
    ADDRESS,
    CODE,
    LONGEST,
    LUCK,
    _result,
    arena,
    batches,
    cluster_client,
    fingerprint,
    fold_scales,
    limits,
    local_client,
    model_of,
    progress,
    propose,
    relative_losses,
    scale_losses,
    search,
    suggest,
)
from stockml.split import in_fold
from stockml.targets import make_targets


def changed(params, section: str, **changes):
    return params.model_copy(update={section: getattr(params, section).model_copy(update=changes)})


@pytest.fixture(scope="module")
def table(_panel):
    return make_features(_panel)


@pytest.fixture(scope="module")
def targets(_panel):
    return make_targets(_panel, (1, 21))


@pytest.fixture(scope="module")
def params(small_params):
    "One process: others only get in each other's way on so few rows. Three folds."
    params = changed(small_params, "model", threads=1, rows=3000)
    return changed(changed(params, "search", trials=4, batch=3), "split", refit_months=5)


@pytest.fixture(scope="module")
def found(table, targets, params):
    "What a search found, and what it told on the way."
    told = []
    out = search(table, targets, params, lambda *trial: told.append(trial), show=False)
    return out, told


@pytest.fixture(scope="module")
def where(table, targets, params):
    return arena(table, targets, params)


@pytest.fixture
def quick(where, params, monkeypatch):
    "A search whose trials cost nothing: the farther eta is from .1, the more HAR's scale is disturbed. Tells what it walks."
    base = walk_forward(Har, where.features, where.targets, where.horizons, where.plan)
    noise = np.random.default_rng(5).normal(size=base.shape)
    here = SimpleNamespace(walked=[], dies_at=None)

    def walk(where, _, trees, fold):
        if len(here.walked) == here.dies_at:
            raise KeyboardInterrupt
        here.walked.append((trees["eta"], fold))
        return (base * np.exp(5 * abs(trees["eta"] - .1) * noise))[in_fold(where.features, where.plan[fold])]

    def run(journal=None, trials=11, **options):
        here.walked.clear()
        asked = changed(params, "search", trials=trials)
        return search(where.features, where.targets, asked, journal=journal, show=False, **options)

    monkeypatch.setattr("stockml.search.arena", lambda *_: where)
    monkeypatch.setattr("stockml.search.fold_scales", walk)
    here.run = run
    return here


def kept(journal) -> list[int]:
    "Numbers of the trials in a journal, as they were written."
    lines = map(json.loads, journal.read_text().splitlines())
    return [line["user_attrs"]["number"] for line in lines if line["op_code"] == 4]


def ratio(trees, where, params) -> float:
    scales = np.full((len(where.features), len(where.horizons)), np.nan)
    for k, fold in enumerate(where.plan):
        scales[in_fold(where.features, fold)] = fold_scales(where, model_of(params), trees, k)
    return relative_losses(where, scales).mean()


def test_loss_prefers_the_scale_that_is_right():
    rng = np.random.default_rng(3)
    sigma = np.exp(rng.normal(0, .7, (4000, 2)))
    y = sigma * rng.standard_normal((4000, 2))
    y[:50, 0] = np.nan
    true, constant = scale_losses(y, sigma), scale_losses(y, np.ones_like(sigma))
    assert np.isnan(true[:50, 0]).all() and np.isfinite(true[50:]).all()
    assert (np.nanmean(true, axis=0) < .95 * np.nanmean(constant, axis=0)).all()
    np.testing.assert_allclose(scale_losses(y, 3 * sigma), true)  # the level is calibrated away; only the shape counts


def test_search_tells_and_returns_every_trial_in_order(found):
    out, told = found
    assert [number for number, *_ in told] == [0, 1, 2, 3]
    assert [{**trees, "ratio": value, "state": state} for _, trees, value, state in told] == out["trials"]
    assert all((t["ratio"] is None) == (t["state"] == "pruned") for t in out["trials"])


def test_first_trial_are_the_defaults_and_they_stay_unless_the_best_leads_by_more_than_luck(found):
    out, told = found
    assert told[0][1] == TREES
    assert (out["default_ratio"], told[0][3]) == (told[0][2], "complete")
    ratios = [t["ratio"] for t in out["trials"] if t["state"] == "complete"]
    assert out["ratio"] == (min(ratios) if out["p"] < LUCK else out["default_ratio"])
    assert {**out["trees"], "ratio": out["ratio"], "state": "complete"} in out["trials"]
    assert len({tuple(t[k] for k in TREES) for t in out["trials"]}) == 4
    assert all(.8 < r < 1.2 for r in ratios)


def test_nothing_after_valid_to_is_seen(found, where, params, _panel):
    "The same search on prices that end at valid_to finds the same, to the last bit, under the same name."
    out, _ = found
    bars = _panel[_panel["date"] <= pd.Timestamp(params.search.valid_to)].reset_index(drop=True)
    assert len(bars) < len(_panel)
    table, targets = make_features(bars), make_targets(bars, (1, 21))
    assert search(table, targets, params, show=False) == out
    assert fingerprint(arena(table, targets, params), model_of(params), params) == fingerprint(where, model_of(params), params)


def test_arena_trains_before_it_validates(where, params):
    first, last = map(pd.Timestamp, (params.search.train_to, params.search.valid_to))
    dates = where.features["date"]
    valid = dates > first
    assert dates.max() <= last
    assert all(fold.cut < fold.start for fold in where.plan)
    assert where.plan[0].start == first + pd.Timedelta(days=1)
    assert sum(in_fold(where.features, fold).sum() for fold in where.plan) == valid.sum()
    assert where.targets.loc[dates == last, ["y_1", "y_21"]].isna().all(axis=None)  # not known at valid_to yet
    assert where.targets.loc[valid, "y_1"].notna().mean() > .95
    assert where.har.shape == (3, 2) == (len(where.plan), len(where.horizons))


def test_a_fold_knows_nothing_of_later_ones(where, params):
    "Ratios up to a fold do not move when later outcomes do."
    later = (where.features["date"] >= where.plan[1].stop).to_numpy()
    other = where.targets.copy()
    other.loc[later, ["y_1", "y_21"]] *= 3
    scales = np.full((len(later), 2), .02)
    for fold, same in ((0, True), (1, True), (2, False)):
        ours, theirs = (relative_losses(w, scales, fold) for w in (where, where._replace(targets=other)))
        assert ours.equals(theirs) == same


def test_one_thread_does_a_fold(where, params, monkeypatch):
    "With more, sums are rounded otherwise, and a worker's trees would not be ours."
    def walk(make, *_):
        assert make().threads == 1
        return np.full((len(where.features), 1), {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}.pop())

    monkeypatch.setattr("stockml.search.walk_forward", walk)
    assert (fold_scales(where, model_of(params), TREES, 0) == 1).all()


def test_long_horizons_have_no_say(table, _panel, params):
    def used(*horizons: int) -> tuple:
        return arena(table, make_targets(_panel, horizons), changed(params, "targets", horizons=horizons)).horizons

    assert used(5, 21, 252) == (5, 21)
    assert LONGEST < 63
    assert used(63, 252) == (63,)


def test_ratio_of_a_model_that_corrects_nothing_is_about_one(where, params):
    idle = {**TREES, "min_child_weight": 1e9, "rounds": 5}  # no split is ever worth it
    assert ratio(idle, where, params) == pytest.approx(1, abs=.02)
    wild = {**TREES, "max_depth": 10, "min_child_weight": 1, "reg_lambda": 0, "eta": 1, "rounds": 20}
    assert ratio(wild, where, params) > ratio(idle, where, params) + .02


def test_defaults_that_are_bad_are_replaced(table, targets, params, monkeypatch):
    "With defaults that overfit, the lead of another trial is no luck."
    wild = {"max_depth": 6, "eta": .15, "rounds": 200, "subsample": .9, "colsample_bytree": .8, "min_child_weight": 100., "reg_lambda": 1.}
    monkeypatch.setattr("stockml.search.TREES", wild)
    out = search(table, targets, changed(params, "search", trials=2), show=False)
    assert out["p"] < LUCK and out["ratio"] < out["default_ratio"] and out["trees"] != wild


@pytest.mark.parametrize("end", ["low", "high"])
def test_space_is_bounded(end):
    bounds = {"max_depth": (2, 6), "eta": (.03, .15), "rounds": (60, 200), "subsample": (.5, .9), "colsample_bytree": (.3, .8),
              "min_child_weight": (100, 1500), "reg_lambda": (1, 50)}
    edge = {k: v[end == "high"] for k, v in bounds.items()}
    assert suggest(optuna.trial.FixedTrial(edge)) == edge
    assert set(edge) == set(TREES)


def test_defaults_lie_in_the_space():
    assert suggest(optuna.trial.FixedTrial(TREES)) == TREES


@pytest.mark.parametrize(("first", "last"), [("1996-02-01", "1999-12-31"), ("2019-01-01", "2019-12-31"), ("1998-12-31", "1999-01-31")])
def test_years_without_prices_are_refused(table, targets, params, first, last):
    dates = {"train_to": pd.Timestamp(first).date(), "valid_to": pd.Timestamp(last).date()}
    with pytest.raises(BadInput, match=f"search: .* rows to {first}, .* to {last}: too few; move search"):
        arena(table, targets, changed(params, "search", **dates))


def test_years_without_outcomes_are_refused(where, table, targets, params):
    with pytest.raises(BadInput, match=r"too few outcomes of 21 sessions are known by search.valid_to; move it further"):
        arena(table, targets.assign(y_21=np.nan), params)


def test_batches_do_not_depend_on_how_many_trials_there_are():
    assert batches(9, 4) == [range(1), range(1, 5), range(5, 9)]
    assert batches(7, 4) == [range(1), range(1, 5), range(5, 7)]
    assert batches(1, 4) == [range(1)]


def frozen(number: int, *ratios: float, complete: bool = True):
    eta = optuna.distributions.FloatDistribution(.03, .15, log=True)
    state = optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED
    return optuna.trial.create_trial(state=state, value=ratios[-1] if complete else None, params={"eta": .03 + number / 1000},
                                     distributions={"eta": eta}, intermediate_values=dict(enumerate(ratios)))


def test_proposals_depend_on_earlier_batches_and_the_seed():
    earlier = [frozen(n, .99, .98 + n / 1000) for n in range(4)]
    whole = propose(range(4, 7), earlier, 3, 17)
    assert propose(range(4, 6), earlier, 3, 17) == whole[:2]
    assert propose(range(4, 7), earlier, 3, 18) != whole
    assert propose(range(7, 10), earlier, 3, 17) != whole
    assert len({json.dumps(trees) for trees, _ in whole}) == 3


def test_limits_are_the_median_of_completed_trials():
    assert np.isinf(limits([], 3)).all()
    trials = [frozen(0, .97, .98, .99), frozen(1, .95, .96, .97), frozen(2, .1, .2, complete=False)]
    assert limits(trials, 3).tolist() == [np.inf, pytest.approx(.97), np.inf]
    assert limits(trials[:1], 3)[1] == .98  # of the first batch: the defaults


def test_who_falls_behind_is_pruned(quick, tmp_path):
    out = quick.run(journal := tmp_path / "search.journal")
    states = [t["state"] for t in out["trials"]]
    assert states[0] == "complete" and {"pruned", "complete"} == set(states[1:])
    for trial in out["trials"][1:4]:  # of the first batch: whoever disturbs HAR more than the defaults do
        assert (trial["state"] == "pruned") == (abs(trial["eta"] - .1) > abs(TREES["eta"] - .1))
        assert len([1 for eta, _ in quick.walked if eta == trial["eta"]]) == (2 if trial["state"] == "pruned" else 3)
    assert abs(out["trees"]["eta"] - .1) == min(abs(t["eta"] - .1) for t in out["trials"] if t["state"] == "complete")
    assert out["p"] < LUCK
    assert kept(journal)[0] == 0 and sorted(kept(journal)) == list(range(11))


@pytest.mark.parametrize("moment", [0, 1, 3, 4, 7, 9, 11, 15, 20])
def test_a_search_that_died_at_any_moment_goes_on(quick, tmp_path, moment):
    whole, journal = quick.run(), tmp_path / "search.journal"
    steps = list(quick.walked)
    assert moment < len(steps)
    quick.dies_at = moment
    with pytest.raises(KeyboardInterrupt):
        quick.run(journal)
    before = set(kept(journal))
    quick.dies_at = None
    told = []
    assert quick.run(journal, done=lambda number, *_: told.append(number)) == whole
    assert len(quick.walked) <= len(steps)
    assert told == list(range(11))  # also what was kept: the record of a run is whole
    numbers = kept(journal)
    assert before <= set(numbers) and sorted(numbers) == list(range(11))  # nothing is walked twice once it is kept
    quick.dies_at = 0
    assert quick.run(journal) == whole  # nothing is left to walk


@pytest.mark.parametrize("stops", [(5, 11), (6, 11), (2, 3, 11), (11, 6)])
def test_more_trials_later_are_the_same_as_all_at_once(quick, tmp_path, stops):
    for trials in stops:
        out = quick.run(tmp_path / "search.journal", trials)
    assert out == quick.run(None, stops[-1])


def test_what_decides_names_the_study(where, params, monkeypatch):
    def name(where=where, params=params) -> str:
        return fingerprint(where, model_of(params), params)

    mine = name()
    assert name(params=changed(params, "search", trials=99)) == mine
    assert name(params=changed(params, "model", threads=7, serve="har")) == mine
    others = [name(params=changed(params, section, **{key: value})) for section, key, value in (
        ("model", "seed", 5), ("model", "rows", 2999), ("model", "hide_market", .5), ("search", "batch", 2))]
    for column, row in (("y_1", 5000), ("y_21", 10)):
        targets = where.targets.copy()
        targets.loc[row, column] += 1e-9
        others.append(name(where._replace(targets=targets)))
    others += [name(where._replace(features=where.features.drop(columns="v_all"))), name(where._replace(plan=where.plan[:2]))]
    for change in ({"TREES": {**TREES, "rounds": 90}}, {"CODE": CODE[1:]}):
        with monkeypatch.context() as patch:
            [[key, value]] = change.items()
            patch.setattr(f"stockml.search.{key}", value)
            others.append(name())
    assert len({mine, *others}) == 1 + len(others)


def test_another_search_in_the_same_journal_begins_anew(quick, params, where, tmp_path):
    journal = tmp_path / "search.journal"
    quick.run(journal, 3)
    search(where.features, where.targets, changed(params, "model", seed=5), journal=journal, show=False)
    assert kept(journal).count(0) == 2
    quick.dies_at = 0
    quick.walked.clear()
    quick.run(journal, 3)  # the first one is still there


def test_torn_line_is_cut_off(quick, tmp_path):
    whole, journal = quick.run(trials=6), tmp_path / "search.journal"
    quick.run(journal, 6)
    text = journal.read_bytes()
    last = text.rstrip(b"\n").rfind(b"\n") + 1
    for size in (last + 1, (last + len(text)) // 2, len(text) - 1):
        journal.write_bytes(text[:size])
        assert quick.run(journal, 6) == whole
        assert 0 < len(quick.walked) <= 3
        assert sorted(kept(journal)) == list(range(6))


@pytest.mark.parametrize("damage", [b"\x00\xff\n", b"{}\n", b"[1]\n", b'{"op_code":4,"study_id":0}\n'])
def test_damaged_journal_is_set_aside(quick, tmp_path, capsys, damage):
    whole, journal = quick.run(trials=3), tmp_path / "search.journal"
    quick.run(journal, 3)
    text = journal.read_bytes()
    journal.write_bytes(text + damage + text)
    assert quick.run(journal, 3) == whole
    assert (tmp_path / "search.damaged").read_bytes() == text + damage + text
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"search: {journal} is damaged (")
    assert line.endswith("kept as search.damaged, the search begins anew")


def test_journal_that_cannot_be_one(quick, tmp_path):
    with pytest.raises(BadInput, match=r"models: Is a directory: make it a file that can be written, or delete it"):
        (tmp_path / "models").mkdir()
        quick.run(tmp_path / "models")
    with lock(tmp_path / ".search.journal.lock"), pytest.raises(BadInput, match="another search is under way"):
        quick.run(tmp_path / "search.journal")


def test_lock_of_a_search_that_was_killed_costs_no_time(quick, tmp_path):
    journal = tmp_path / "search.journal"
    Path(f"{journal}.lock").symlink_to(journal)
    begun = time.monotonic()
    quick.run(journal, 2)
    assert time.monotonic() - begun < 5


PROGRAM = """
import sys
from pathlib import Path
import pandas as pd
from stockml.config import Params
from stockml.search import search
folder = Path(sys.argv[1])
params = Params.model_validate_json((folder / "params.json").read_text())
search(pd.read_parquet(folder / "features"), pd.read_parquet(folder / "targets"), params, journal=folder / "search.journal")
"""


def test_killed_search_goes_on_and_its_workers_are_gone(found, where, table, targets, params, tmp_path):
    "A real SIGKILL, with real workers, while the second batch is walked."
    (tmp_path / "params.json").write_text(changed(params, "model", threads=2).model_dump_json())
    table.to_parquet(tmp_path / "features")
    targets.to_parquet(tmp_path / "targets")
    journal = tmp_path / "search.journal"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (journal.exists() and '"op_code":4' in journal.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(.005)
        children = [p.pid for p in psutil.Process(process.pid).children(recursive=True)]
        process.kill()
    assert len(children) >= 2
    assert all(ended(pid) for pid in children)
    assert 0 in kept(journal) and len(kept(journal)) < 4
    assert search(table, targets, params, journal=journal, show=False) == found[0]
    assert sorted(kept(journal)) == [0, 1, 2, 3]


def test_workers_of_this_machine_find_the_same(found, table, targets, params, monkeypatch):
    monkeypatch.delenv(ADDRESS, raising=False)
    environment = dict(os.environ)
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    assert search(table, targets, changed(params, "model", threads=2), show=False) == found[0]
    assert dict(os.environ) == environment
    left = {p.pid for p in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())}
    assert left <= before


def test_workers_of_this_machine_listen_here_only_and_end_with_an_error():
    with pytest.raises(KeyboardInterrupt), local_client(1) as client:
        pids = [p.pid for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
        ours = [psutil.Process(), *map(psutil.Process, pids)]
        listening = {c.laddr.ip for p in ours for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert client.submit(os.getpid).result() in pids
        raise KeyboardInterrupt
    assert listening == {"127.0.0.1"}
    assert all(ended(pid) for pid in pids)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    "A real scheduler on loopback, without workers."
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    with started("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file):
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < deadline
            time.sleep(.05)
        yield json.loads(file.read_text())["address"]


class started:
    "`dask` with some arguments, until the end of a block."

    def __init__(self, *args):
        self.args = [sys.executable, "-m", "dask", *map(str, args)]

    def __enter__(self):
        self.process = subprocess.Popen(self.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self.process

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def worker(scheduler):
    args = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    with started("worker", scheduler, *args) as process:
        yield process


def test_scheduler_without_workers(scheduler):
    with (pytest.raises(BadInput, match=f"{ADDRESS}={scheduler}: it has no workers: start some with `dask worker {scheduler}`"),
          cluster_client(scheduler, patience=.5)):
        pass


def test_task_that_nobody_will_do_is_not_waited_for(scheduler):
    with Client(scheduler) as client, pytest.raises(OSError, match="none is left"):
        _result(client, client.submit(int), patience=.2)


def test_cluster_finds_the_same(found, table, targets, params, scheduler, worker, monkeypatch):
    monkeypatch.setenv(ADDRESS, scheduler)
    assert search(table, targets, params, show=False) == found[0]
    assert worker.poll() is None  # it is not ours: it stays


def test_lost_workers_are_one_line(table, targets, params, scheduler, worker, monkeypatch, capfd):
    def done(number, *_):
        threading.Timer(.3, worker.kill).start()  # in the second batch

    monkeypatch.setenv(ADDRESS, scheduler)
    with pytest.raises(StockmlError, match=r"^search: workers were lost \(.*\): finished trials are kept, run it again$"):
        search(table, targets, params, done, show=False)
    assert capfd.readouterr().err == ""


def test_cluster_with_other_code_is_refused(scheduler, worker, monkeypatch):
    monkeypatch.setattr("stockml.search.CODE", CODE[1:])
    with pytest.raises(BadInput, match=r"127.0.0.1:\d+ runs other code: install this stockml"), cluster_client(scheduler):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "", "tcp://127.0.0.1:x", "gopher://127.0.0.1:9"])
def test_no_scheduler_is_one_line(address):
    begun = time.monotonic()
    line = f"^{ADDRESS}={address}: no Dask scheduler answers there .*or unset the variable$"
    with pytest.raises(BadInput, match=line) as error, cluster_client(address, patience=1):
        pass
    assert "\n" not in str(error.value) and time.monotonic() - begun < 10


def test_what_listens_but_is_no_scheduler_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        line = rf"^{ADDRESS}={address}: no Dask scheduler answers there \(silent for 1 s\): "
        with pytest.raises(BadInput, match=line), cluster_client(address, patience=1):
            pass


def test_progress_is_a_line_every_few_seconds_in_a_log(capsys, monkeypatch):
    clock = SimpleNamespace(now=0.)
    monkeypatch.setattr("tqdm.std.time", lambda: clock.now)
    with progress(50, 2, show=True) as told:
        for step in range(100):
            clock.now += 1
            told(step // 2, 1, .987654 if step > 20 else np.nan)
    text = capsys.readouterr().err
    assert "\r" not in text
    lines = text.splitlines()
    assert 18 <= len(lines) <= 22
    assert lines[0].startswith("search:   5%") and "the defaults" in lines[0]
    assert "100/100" in lines[-1] and "trial 50/50, best 0.9877" in lines[-1]


def test_no_progress_for_what_takes_a_moment(capsys):
    with progress(3, 2, show=True) as told:
        told(0, 6, np.nan)
    assert capsys.readouterr().err == ""


def test_progress_can_be_off(capsys):
    with progress(3, 2, show=False) as told:
        told(0, 6, 1.)
    assert capsys.readouterr().err == ""


def test_heavy_libraries_are_imported_when_needed_and_code_that_decides_is_named():
    program = "import stockml.search, sys; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"optuna", "dask", "distributed"}
    mine = {name.removeprefix("stockml.") for name in loaded if name.startswith("stockml.")}
    assert set(CODE) == mine - {"config", "files", "lineage"}
