"Why an interval is as wide as it is, over HTTP: the forecast's own answer, and reasons that add up to it."

import numpy as np
import pytest

from serve.body import MAX_BODY
from stockml.bundle import forecast
from stockml.explain import contributions, in_words


def ask(client, body, path="/v1/explain") -> dict:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json


def without_reasons(answer: dict) -> dict:
    return {k: [{n: v for n, v in f.items() if n not in ("contributions", "words")} for f in v] if k == "forecasts" else v
            for k, v in answer.items() if k != "forecast_id"}


def test_it_answers_as_the_forecast_does_and_says_why(client, good, bundle, apple):
    answer, plain = ask(client, good), ask(client, good, "/v1/forecast")
    assert without_reasons(answer) == without_reasons(plain)
    table = contributions(bundle, apple, (1, 21))
    for f in answer["forecasts"]:
        rows = table[table["horizon"] == f["horizon"]]
        assert f["words"] == in_words(rows)
        assert [c["feature"] for c in f["contributions"]] == list(rows["feature"])
        assert list(f["contributions"][0]) == ["part", "feature", "words", "value", "contribution", "factor"]


def test_the_factors_make_the_width(client, good, bundle, apple):
    [one] = forecast(bundle, apple, (1, 21))
    for f, plain in zip(ask(client, good)["forecasts"], one["forecasts"], strict=True):
        scale = np.exp(sum(c["contribution"] for c in f["contributions"]))
        shape = bundle.residuals("alone", f["model"], "AAPL")[bundle.horizons.index(f["horizon"])]
        np.testing.assert_allclose(scale * shape, list(plain["quantiles"].values()), rtol=1e-5)
        np.testing.assert_allclose(np.prod([c["factor"] for c in f["contributions"]]), scale, rtol=1e-9)


def test_a_batch_is_explained_in_its_own_order(client, good):
    stock = {k: good[k] for k in ("ticker", "bars")}
    batch = {"series": [{**stock, "ticker": "ZZZ"}, {**stock, "ticker": "AAA"}], "horizons": [21, 1]}
    answers = ask(client, batch)["answers"]
    assert [a["ticker"] for a in answers] == ["ZZZ", "AAA"]
    assert all(f["words"].startswith(f"{a['ticker']} from 2003-12-31") for a in answers for f in a["forecasts"])
    assert [without_reasons(a) for a in answers] == [without_reasons(a) for a in ask(client, batch, "/v1/forecast")["answers"]]


def test_too_many_at_once_are_not_explained(client, good):
    stocks = [{"ticker": f"T{i}", "bars": good["bars"][-70:]} for i in range(21)]
    answer = client.post("/v1/explain", json={"series": stocks})
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, "series")
    assert len(ask(client, {"series": stocks}, "/v1/forecast")["answers"]) == 21


def test_a_horizon_asked_for_twice_is_explained_twice(client, good):
    first, second = ask(client, {**good, "horizons": [1, 1]})["forecasts"]
    assert first == second


@pytest.mark.parametrize(("body", "status"), [({}, 422), (b"{", 400), (b" " * (MAX_BODY + 1), 413)])
def test_it_refuses_what_the_forecast_refuses(client, body, status):
    sent = {"json": body} if isinstance(body, dict) else {"data": body, "content_type": "application/json"}
    assert client.post("/v1/explain", **sent).status_code == status
