import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pandas as pd
import pytest

from stockml.bundle import forecast
from stockml.client import Client, Service, ask, request_body
from stockml.config import BadInput, StockmlError


@pytest.fixture(scope="module")
def url(bundle_folder):
    with Service(bundle_folder) as running:
        address = running.url
        yield address


@pytest.fixture
def bars(panel):
    "A history with holes in what is not required."
    bars = panel[panel["ticker"] == "AAPL"].tail(400).reset_index(drop=True)
    bars.loc[5, ["open", "high", "low"]] = np.nan
    bars.loc[7, "volume"] = pd.NA
    return bars


def test_answer_over_http_is_the_librarys(url, bars, bundle):
    answer, [own] = ask(url, bars), forecast(bundle, bars)
    assert (answer["ticker"], answer["origin"], answer["forecasts"]) == (own["ticker"], own["origin"], own["forecasts"])
    assert answer["model"] == {"name": "xgboost", "version": bundle.version}
    assert ask(url, bars)["forecast_id"] != answer["forecast_id"]


def test_the_client_says_the_same_with_types(url, bars, panel, bundle):
    [made], [raw] = Client(url).forecast(bars, (1, 21)), forecast(bundle, bars, (1, 21))
    assert (made.ticker, made.origin.isoformat(), made.version) == (raw["ticker"], raw["origin"], bundle.version)
    for typed, f in zip(made.horizons, raw["forecasts"], strict=True):
        facts = (typed.sessions, typed.target_date.isoformat(), typed.model, typed.skill)
        assert facts == tuple(f[k] for k in ("horizon", "target_date", "model", "skill"))
        assert typed.prices[.975] == f["prices"]["0.975"] and list(typed.quantiles) == [float(q) for q in f["quantiles"]]


def test_the_client_asks_for_many_at_once(url, panel, bundle):
    many = panel.groupby("ticker").tail(300).reset_index(drop=True)
    made, raw = Client(url).forecast(many), forecast(bundle, many)
    assert [m.ticker for m in made] == [r["ticker"] for r in raw] == sorted(many["ticker"].unique())
    assert [m.horizons[0].prices[.5] for m in made] == [r["forecasts"][0]["prices"]["0.5"] for r in raw]
    assert Client(url).version()["model"]["version"] == bundle.version
    words = Client(url).explain(many[many["ticker"].isin(["AAPL", "KO"])], (1,))
    assert set(words) == {("AAPL", 1), ("KO", 1)} and all(len(w) > 40 for w in words.values())


def test_only_what_is_asked_for_and_only_what_is_there(url, bars, bundle):
    few = bars[["ticker", "date", "close"]]
    [made] = ask(url, few, (21,))["forecasts"]
    assert made == forecast(bundle, few.assign(**{c: np.nan for c in ("open", "high", "low")}, adj_close=few["close"],
                                               volume=pd.array([pd.NA] * len(few), dtype="Int64"))[bars.columns],
                            (21,))[0]["forecasts"][0]


def test_request_is_strict_json_without_nulls(bars):
    body = request_body(bars, (1,))
    text = json.dumps(body, allow_nan=False)
    assert "null" not in text
    assert body["horizons"] == [1]
    assert "horizons" not in request_body(bars)
    assert len(body["bars"]) == 400
    assert set(body["bars"][5]) == {"date", "close", "adj_close", "volume"}
    assert set(body["bars"][7]) == {"date", "open", "high", "low", "close", "adj_close"}
    assert body["bars"][-1]["date"] == "2003-12-31"


@pytest.mark.parametrize(("spoil", "expected"), [
    (lambda b: (b, (1, 22)), "answered 422: horizons: "),
    (lambda b: (b.tail(10), None), "answered 422: bars: "),
    (lambda b: (b.assign(close=-1.), None), "answered 422: bars[0].close: "),
])
def test_what_the_service_refuses_is_bad_input(url, bars, spoil, expected):
    with pytest.raises(BadInput) as e:
        ask(url, *spoil(bars))
    assert expected in str(e.value)
    assert "\n" not in str(e.value)


ANSWERS = {
    "gateway": (502, b"<html>Bad gateway</html>"), "list": (503, b"[]"), "bare": (400, b'{"title": "Bad"}'),
    "detail": (413, b'{"title": "Too large", "detail": "more than a megabyte"}'), "page": (200, b"<html>hello</html>"),
}


@pytest.fixture(scope="module")
def stranger():
    "A server that is none of ours, as there are in front of many services."
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            name = self.path.split("/")[1]
            if name == "garbage":
                self.wfile.write(b"no HTTP at all\r\n\r\n")
                return
            status, body = ANSWERS[name]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("name", "kind", "expected"), [
    ("gateway", StockmlError, "answered 502: Bad Gateway"), ("list", StockmlError, "answered 503: Service Unavailable"),
    ("bare", BadInput, "answered 400: Bad"), ("detail", BadInput, "answered 413: more than a megabyte"),
    ("page", StockmlError, "answered, but not with JSON: is this the service?"),
    ("garbage", StockmlError, "does not answer (no HTTP at all"),
])
def test_strangers_answers_are_told_in_one_line(stranger, bars, name, kind, expected):
    with pytest.raises(kind) as e:
        ask(f"{stranger}/{name}", bars)
    assert type(e.value) is kind
    assert str(e.value).startswith(f"{stranger}/{name} {expected}")
    assert "\n" not in str(e.value)


def test_service_ends_with_the_block(bundle_folder, bars):
    with Service(bundle_folder) as running:
        address = running.url
        ask(address, bars)
    with pytest.raises(StockmlError, match=r"does not answer \(.*refused\): is the service up\?"):
        ask(address, bars)


@pytest.mark.parametrize("spoil", ["missing", "damaged"])
def test_bundle_that_cannot_be_served_is_told_at_once(bundle_folder, tmp_path, spoil):
    folder = tmp_path / "model"
    if spoil == "damaged":
        shutil.copytree(bundle_folder, folder)
        (folder / "residuals.npz").write_bytes(b"x")
    begun = time.monotonic()
    with pytest.raises(StockmlError) as e, Service(folder):
        pass
    assert time.monotonic() - begun < 45
    assert str(e.value).startswith(f"the service did not start: {folder}/")
    assert "\n" not in str(e.value)
