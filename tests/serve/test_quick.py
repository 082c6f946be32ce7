"The quick reader takes nothing that the slow one refuses, and reads what both take in the same way."

import json
from datetime import date

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.exceptions import HTTPException

from serve.body import _read_slowly
from serve.quick import MAX_HORIZONS, MAX_SERIES, _dates, quick

LATEST = date(2003, 12, 31)
KEYS = ["date", "close", "open", "high", "low", "adj_close", "volume"]


def same(data: bytes) -> bool:
    "Hold both readers against each other; True if the quick one took the request."
    found = quick(data, LATEST)
    if found is None:
        return False
    stocks, horizons, several = found
    slow = _read_slowly(data, LATEST)
    assert (tuple(horizons) if horizons else None, several) == (slow.horizons, slow.several)
    for a, b in zip(stocks, slow.stocks, strict=True):
        assert a.ticker == b.ticker
        for x, y in zip(a[1:], b[1:], strict=True):
            np.testing.assert_array_equal(x, y)
    return True


def packed(body) -> bytes:
    return json.dumps(body).encode()


def bars_with(good: dict, *keys: str) -> dict:
    return {**good, "bars": [{k: b[k] for k in b if k in keys} for b in good["bars"]]}


@pytest.mark.parametrize("keys", [["date", "close"], KEYS, ["date", "close", "adj_close"], ["date", "close", "high", "low"],
                                  ["date", "close", "volume"], ["date", "close", "open"]])
def test_an_ordinary_request_is_read_quickly(good, keys):
    assert same(packed(bars_with(good, *keys)))


def test_so_is_a_batch(good):
    one = {k: good[k] for k in ("ticker", "bars")}
    assert same(packed({"series": [one, {**one, "ticker": "MSFT", "bars": one["bars"][100:]}], "horizons": [1]}))
    assert not same(packed({"series": [one, one]}))


def test_so_is_json_of_another_style(good):
    assert same(json.dumps(good, indent=3).encode())
    assert same(json.dumps({k: good[k] for k in reversed(good)}, separators=(",", ":")).encode())


def test_unusual_requests_are_left_to_the_slow_reader(good):
    plain = bars_with(good, "date", "close")
    some = [{**b, "open": b["close"]} if i > 3 else b for i, b in enumerate(plain["bars"])]
    for odd in ({**plain, "bars": some}, {**plain, "ticker": " aapl"}):
        assert quick(packed(odd), LATEST) is None
        _read_slowly(packed(odd), LATEST)


def test_every_day_is_read_as_it_is():
    days = np.arange("1900-01-01", "2099-12-31", dtype="datetime64[D]")
    np.testing.assert_array_equal(_dates(np.datetime_as_string(days).tolist()), days)
    for wrong in ("2003-02-29", "2003-13-01", "2003-00-10", "2003-01-00", "2003-01-32", "1900-02-29", "2003/01/02", "2003-01-0a",
                  "٢٠٠٣-٠١-٠٢"):
        assert _dates([*np.datetime_as_string(days[:36000]).tolist(), wrong]) is None


def test_the_limits_hold_here_too(good):
    one = {k: bars_with(good, "date", "close")[k] for k in ("ticker", "bars")}
    many = [{**one, "ticker": f"T{i}"} for i in range(MAX_SERIES + 1)]
    assert same(packed({"series": many[:2]})) and quick(packed({"series": many}), LATEST) is None
    assert same(packed({**one, "horizons": [1] * MAX_HORIZONS}))
    assert quick(packed({**one, "horizons": [1] * (MAX_HORIZONS + 1)}), LATEST) is None


@pytest.mark.parametrize("key", ["ticker", "bars", "date", "close"])
def test_a_key_twice_is_not_read_quickly(good, key):
    text = packed(bars_with(good, "date", "close"))
    at = text.index(f'"{key}":'.encode())
    value = {"ticker": b'"KO"', "bars": b"[]", "date": b'"1999-01-04"', "close": b"5.0"}[key]
    assert quick(text[:at] + f'"{key}": '.encode() + value + b", " + text[at:], LATEST) is None


# A request in full is too long to be shown; the changes are what matters.
ODD = st.one_of(st.none(), st.booleans(), st.text(max_size=12), st.floats(), st.integers(), st.lists(st.integers(), max_size=2),
                st.sampled_from([0, -1, 1e7, 1e7 + 1, 1e15, 1e16, 2**53, 1e-300]),
                st.sampled_from(["2003-02-30", "2001-1-1", "9999-12-31", "1899-12-31"]),
                st.from_regex(r"[ +-]?\d{1,5}-\d{1,2}-\d{1,2}[ T]?", fullmatch=True))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 75), st.sampled_from([*KEYS, "nonsense"]), ODD), min_size=1, max_size=3),
       plain=st.booleans(), top=st.none() | st.tuples(st.sampled_from(["ticker", "horizons", "bars", "other"]), ODD))
def test_it_is_never_more_lenient(good, changes, plain, top):
    body = {**good, "bars": [dict(b) for b in good["bars"][:80]]}
    if plain:
        body = bars_with(body, "date", "close")
    if top and len(changes) == 1:  # not so often: what is wrong at the top hides the rest
        body[top[0]] = top[1]
    for i, key, value in changes:
        if isinstance(body["bars"], list) and i < len(body["bars"]) and isinstance(body["bars"][i], dict):
            body["bars"][i][key] = value
    try:
        same(packed(body))
    except HTTPException as e:
        pytest.fail(f"read quickly, and refused slowly: {e.description}")
