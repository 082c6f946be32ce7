"Walk-forward folds: each origin once, and nothing that a fold learns from reaches into what it forecasts."

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockml.config import BadInput
from stockml.split import folds, in_fold, session_numbers
from stockml.targets import known, make_targets


@settings(max_examples=60, derandomize=True)
@given(offsets=st.sets(st.integers(0, 1500), min_size=12, max_size=200), where=st.floats(0, 1), early=st.integers(0, 9),
       months=st.integers(1, 30), embargo=st.integers(0, 10))
def test_folds_cover_each_origin_once_and_keep_the_embargo(offsets, where, early, months, embargo):
    days = pd.Timestamp("1996-01-01") + pd.to_timedelta(sorted(offsets), unit="D")
    at = embargo + 1 + round(where * (len(days) - embargo - 2))
    first = max(days[at] - pd.Timedelta(days=early), days[at - 1] + pd.Timedelta(days=1))  # perhaps no session
    rows = pd.DataFrame({"date": np.random.default_rng(0).permutation(np.repeat(days, 2))})
    plan = folds(rows["date"], first.date(), months, embargo)
    assert [f.number for f in plan] == list(range(len(plan)))
    assert (np.sum([in_fold(rows, f) for f in plan], axis=0) == (rows["date"] >= first)).all()
    for f in plan:
        assert ((days >= f.cut) & (days < f.start)).sum() == embargo
        assert f.start < f.stop <= f.start + pd.DateOffset(months=months)


@pytest.mark.parametrize("embargo", [0, 5])
def test_purge(panel, embargo):
    horizons = (1, 21, 252)
    targets = make_targets(panel, horizons)
    days = np.sort(panel["date"].unique())
    for fold in folds(panel["date"], pd.Timestamp("1998-01-01").date(), 12, embargo):
        past = panel["date"] < fold.cut
        learned = known(targets[past], fold.cut)
        for h in horizons:
            ends = targets[f"end_{h}"][past][learned[f"y_{h}"].notna()]
            assert ends.max() < fold.cut  # purged by at least the horizon ...
            origins = panel["date"][past][learned[f"y_{h}"].notna()]
            assert ((days > origins.max()) & (days < fold.start)).sum() == h + embargo  # ... and not by more


def test_folds_by_hand():
    days = pd.Series(pd.bdate_range("2000-01-03", "2002-03-01"))
    plan = folds(days, pd.Timestamp("2001-01-01").date(), 12, 2)
    assert [(f.cut, f.start, f.stop) for f in plan] == [
        tuple(map(pd.Timestamp, row)) for row in [("2000-12-28", "2001-01-01", "2002-01-01"),
                                                  ("2001-12-28", "2002-01-01", "2002-03-02")]]


@pytest.mark.parametrize("first", ["1995-06-01", "1996-01-02", "1996-01-09", "2004-01-01"])
def test_nothing_before_or_after_is_refused(panel, first):
    with pytest.raises(BadInput, match=f"no walk-forward from {first}: prices cover 1996-01-02 to 2003-12-31"):
        folds(panel["date"], pd.Timestamp(first).date(), 12, 5)


def test_session_numbers():
    rows = pd.DataFrame({"date": pd.to_datetime(["2000-01-05", "2000-01-03", "2000-01-05", "2000-01-10"])})
    at, days = session_numbers(rows)
    assert at.tolist() == [1, 0, 1, 2] and days.tolist() == sorted(set(rows["date"]))
