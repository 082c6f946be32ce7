"The forecast service: `gunicorn -c serve/gunicorn.conf.py 'serve.app:create_app()'`, from the root of the project."

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
from flask import Flask, request

from stockml import __version__
from stockml.bundle import Bundle, forecast, load_bundle
from stockml.config import BadInput, project_root
from stockml.features import MIN_BARS
from stockml.forecaster import XgbScale

from .body import MAX_BODY, Bar, ForecastRequest, latest_session, read_request, to_bars
from .problems import Invalid, add_problems


def create_app(folder: Path | None = None) -> Flask:
    "The service around the bundle in `folder` (None: `model_folder()`). `BadInput` refuses a damaged one."
    bundle = load_bundle(folder or model_folder())
    warm_up(bundle)
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json.sort_keys = False  # quantiles in their own order
    add_problems(app)
    _add_forecast(app, bundle)
    _add_status(app, bundle)
    return app


def model_folder() -> Path:
    "Where the served bundle stands: STOCKML_MODEL, else the project's champion."
    return Path(os.environ.get("STOCKML_MODEL") or project_root() / "models/champion")


def warm_up(bundle: Bundle) -> None:
    "One forecast of a made-up stock: lazy imports and calendars take a second here, not later. `BadInput` if it fails."
    days = pd.date_range(end=datetime.now(UTC).date(), periods=MIN_BARS)
    bars = [Bar(date=f"{day:%Y-%m-%d}", close=100 + i % 2) for i, day in enumerate(days)]
    try:
        answer(bundle, ForecastRequest(ticker="WARM", bars=bars))
    except Invalid as e:
        raise BadInput(f"the bundle cannot forecast ({e.description}): train again on longer histories") from None


def model_facts(bundle: Bundle) -> dict[str, str]:
    "The name under which the model's forecasts are kept everywhere, and which files exactly it is."
    return {"name": bundle.manifest.get("name", XgbScale.name), "version": bundle.version}


def answer(bundle: Bundle, wanted: ForecastRequest) -> dict[str, Any]:
    "The forecast that a valid request gets, with an id of its own. `Invalid` names the field at fault."
    bars = to_bars(wanted, latest_session(bundle.manifest["as_of"]))
    try:
        with np.errstate(all="ignore"):  # absurd prices overflow; that is answered below, not logged
            [made] = forecast(bundle, bars, tuple(wanted.horizons or ()))
    except BadInput as e:
        field, _, message = str(e).partition(": ")
        raise Invalid([(field, message)]) from None
    if not all(np.isfinite([*f["quantiles"].values(), *f["prices"].values()]).all() for f in made["forecasts"]):
        raise Invalid([("bars", "no finite forecast follows from these prices")])
    return {"forecast_id": str(uuid4()), "ticker": made["ticker"], "origin": made["origin"],
            "model": model_facts(bundle), "forecasts": made["forecasts"]}


def _add_forecast(app: Flask, bundle: Bundle) -> None:
    "What the service is for."

    @app.post("/v1/forecast")
    def forecast_route():
        return answer(bundle, read_request(request))


def _add_status(app: Flask, bundle: Bundle) -> None:
    "For those who run it: is it there, and what is it?"

    @app.get("/healthz")
    def healthz():
        return {"status": "ok"}

    @app.get("/version")
    def version():
        known = {k: bundle.manifest.get(k) for k in ("as_of", "trained_at", "commit", "horizons")}
        return {"package_version": __version__, "model": {**model_facts(bundle), **known}}
