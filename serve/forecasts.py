"From a valid request to its answer, and to the record of it that the journal keeps."

import time
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from stockml.bundle import Bundle, forecast_stocks
from stockml.config import BadInput
from stockml.features import History, Rows, as_bars, make_features
from stockml.forecaster import XgbScale
from stockml.journal import input_sha256, new_id

from .body import Wanted
from .problems import Invalid


@dataclass(frozen=True)
class Served:
    "A bundle, and what every answer says of it."
    bundle: Bundle
    model: dict[str, str]  # the name under which its forecasts are kept everywhere, and which files exactly it is

    @classmethod
    def of(cls, bundle: Bundle) -> "Served":
        return cls(bundle, {"name": bundle.manifest.get("name", XgbScale.name), "version": bundle.version})


EXPLAINED = 20  # stocks at once; to say why takes fifty times as long as to say what


class Made(NamedTuple):
    "What a request gets, and what is kept of it."
    answers: list[dict[str, Any]]  # one a stock, in the order of the request
    records: list[dict[str, Any]]  # one an answer


def make(served: Served, wanted: Wanted, why: bool = False) -> Made:
    "The forecasts that a valid request gets, each with an id of its own; and `why`, if asked. `Invalid` names the field at fault."
    if why and len(wanted.stocks) > EXPLAINED:
        raise Invalid([("series", f"{len(wanted.stocks)} stocks; at most {EXPLAINED} are explained at once")])
    start = time.perf_counter()
    try:
        with np.errstate(all="ignore"):  # absurd prices overflow; that is answered below, not logged
            made, features = forecast_stocks(served.bundle, wanted.stocks, wanted.horizons)
            reasons = _reasons(served.bundle, wanted.stocks, made) if why else {}
    except BadInput as e:
        field, _, message = str(e).partition(": ")
        raise Invalid([(field, message)]) from None
    answers, records = [], []
    for i, (stock, one, known) in enumerate(zip(wanted.stocks, made, _feature_rows(features), strict=True)):
        _check_finite(one, f"series[{i}].bars" if wanted.several else "bars")
        answers.append({"forecast_id": new_id(), "ticker": one["ticker"], "origin": one["origin"], "model": served.model,
                        "forecasts": [f | reasons[stock.ticker, f["horizon"]] for f in one["forecasts"]] if why else one["forecasts"]})
        records.append({"forecast_id": answers[-1]["forecast_id"], **_record(served, stock, one, known)})
    share = (time.perf_counter() - start) * 1000 / len(records)  # of a batch, each took its part
    return Made(answers, [r | {"ms": round(share, 3)} for r in records])


def _check_finite(one: dict[str, Any], field: str) -> None:
    "`Invalid` blames the bars that no finite forecast follows from."
    if not all(map(isfinite, chain.from_iterable((*f["quantiles"].values(), *f["prices"].values()) for f in one["forecasts"]))):
        raise Invalid([(field, "no finite forecast follows from these prices")])


def _feature_rows(features: Rows) -> list[dict[str, float]]:
    "Feature -> value, a row a stock, of what `forecast_stocks` hands out."
    return [dict(zip(features.names, row, strict=True)) for row in features.values.tolist()]


def _record(served: Served, stock: History, one: dict[str, Any], features: dict[str, float]) -> dict[str, Any]:
    "What is kept of a forecast: enough to say later why it was made, and from what; no bars, only their hash."
    forecasts = [{k: f[k] for k in ("horizon", "target_date", "model", "skill", "quantiles")} for f in one["forecasts"]]
    return {"ticker": one["ticker"], "origin": one["origin"], "close": one["close"], "bars": len(stock.dates),
            "model": served.model, "bundle_sha256": served.bundle.manifest["sha256"], "input_sha256": input_sha256(stock),
            "forecasts": forecasts, "features": features}


def _reasons(bundle: Bundle, stocks: list[History], made: list[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    "Ticker and horizon -> why that forecast is as wide as it is, in numbers and in words."
    from stockml.explain import explained, in_words  # only few ask why

    features = make_features(as_bars(stocks))[["ticker", "date", *bundle.manifest["features"]]]
    # A horizon that was asked for twice has one reason.
    once = [one | {"forecasts": list({f["horizon"]: f for f in one["forecasts"]}.values())} for one in made]
    table = explained(bundle, features, once)
    shown = ["part", "feature", "words", "value", "contribution", "factor"]
    return {key: {"contributions": rows[shown].to_dict("records"), "words": in_words(rows)}
            for key, rows in table.groupby(["ticker", "horizon"], sort=False)}
