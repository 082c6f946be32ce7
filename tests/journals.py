"Forecasts as production writes them down, and worlds in which they are honest."

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from stockml.journal import event, new_id
from stockml.schema import QUANTILE_COLUMNS, QUANTILES


def quantiles_of(sd: float = .02, levels: tuple[float, ...] = QUANTILES) -> dict[str, float]:
    "A normal forecast."
    return {f"{q:g}": float(sd * norm.ppf(q)) for q in levels}


def forecast_line(ticker: str, origin: str, horizons: tuple[int, ...] = (1,), sd: float = .02, version: str = "demo",
                  levels: tuple[float, ...] = QUANTILES, **facts: Any) -> dict[str, Any]:
    "A line as the service writes it."
    made = [{"horizon": h, "target_date": "2100-01-01", "model": "xgboost", "skill": True,
             "quantiles": quantiles_of(sd * h**.5, levels)} for h in horizons]
    return event("stockml.forecast", f"forecast of {ticker}", **{
        "forecast_id": new_id(), "ticker": ticker, "origin": origin, "close": 20., "bars": 520, "ms": 1.5, "features": {"v_abs1": .01},
        "model": {"name": "xgboost", "version": version}, "bundle_sha256": "b" * 64, "input_sha256": "a" * 64, "forecasts": made, **facts})


def world(rng: np.random.Generator, days: int, horizon: int, stocks: int = 4, width: float = 1.) -> pd.DataFrame:
    "Days of stocks that fall together and whose volatility clusters, forecast by one who knows it: `by_day` can read them."
    noise, log = rng.normal(size=days + horizon), np.zeros(days + horizon)
    for t in range(1, len(log)):
        log[t] = .97 * log[t - 1] + .15 * noise[t]
    sd = .02 * np.exp(log)[:, None]
    shock = (rng.normal(size=(len(log), 1)) + rng.normal(size=(len(log), stocks))) / 2**.5
    total = lambda x: np.cumsum(np.vstack([np.zeros((1, x.shape[1])), x]), axis=0)  # noqa: E731
    realized, variance = (c[horizon:] - c[:-horizon] for c in (total(sd * shock), total(sd**2)))
    scale = np.broadcast_to(np.sqrt(variance), realized.shape)[:days].ravel() * width
    table = pd.DataFrame(scale[:, None] * norm.ppf(QUANTILES), columns=QUANTILE_COLUMNS)
    origin = np.repeat(pd.bdate_range("2000-01-03", periods=days), stocks)
    return table.assign(origin=origin, horizon=horizon, realized=realized[:days].ravel())
