"The forecast service: `gunicorn -c serve/gunicorn.conf.py 'serve.app:create_app()'`, from the root of the project."

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from flask import Flask, request

from stockml import __version__
from stockml.bundle import Bundle, forecast_stocks, load_bundle
from stockml.config import BadInput, project_root
from stockml.features import MIN_BARS, History
from stockml.forecaster import XgbScale

from .body import MAX_BODY, Wanted, latest_session, read_request
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
    days = np.arange(MIN_BARS) + np.datetime64(datetime.now(UTC).date()) - MIN_BARS
    close, unknown = 100. + np.arange(MIN_BARS) % 2, np.full(MIN_BARS, np.nan)
    try:
        answer(bundle, Wanted([History("WARM", days, unknown, unknown, unknown, close, close, unknown)], None, False))
    except Invalid as e:
        raise BadInput(f"the bundle cannot forecast ({e.description}): train again on longer histories") from None


def model_facts(bundle: Bundle) -> dict[str, str]:
    "The name under which the model's forecasts are kept everywhere, and which files exactly it is."
    return {"name": bundle.manifest.get("name", XgbScale.name), "version": bundle.version}


def answer(bundle: Bundle, wanted: Wanted) -> dict[str, Any]:
    "The forecasts that a valid request gets, each with an id of its own. `Invalid` names the field at fault."
    try:
        with np.errstate(all="ignore"):  # absurd prices overflow; that is answered below, not logged
            made, _ = forecast_stocks(bundle, wanted.stocks, wanted.horizons)
    except BadInput as e:
        field, _, message = str(e).partition(": ")
        raise Invalid([(field, message)]) from None
    for i, one in enumerate(made):
        if not all(np.isfinite([*f["quantiles"].values(), *f["prices"].values()]).all() for f in one["forecasts"]):
            raise Invalid([(f"series[{i}].bars" if wanted.several else "bars", "no finite forecast follows from these prices")])
    answers = [{"forecast_id": str(uuid4()), "ticker": one["ticker"], "origin": one["origin"],
                "model": model_facts(bundle), "forecasts": one["forecasts"]} for one in made]
    return {"answers": answers} if wanted.several else answers[0]


def _add_forecast(app: Flask, bundle: Bundle) -> None:
    "What the service is for."

    @app.post("/v1/forecast")
    def forecast_route():
        return answer(bundle, read_request(request, latest_session(bundle.manifest["as_of"])))


def _add_status(app: Flask, bundle: Bundle) -> None:
    "For those who run it: is it there, and what is it?"

    @app.get("/healthz")
    def healthz():
        return {"status": "ok"}

    @app.get("/version")
    def version():
        known = {k: bundle.manifest.get(k) for k in ("as_of", "trained_at", "commit", "horizons")}
        return {"package_version": __version__, "model": {**model_facts(bundle), **known}}
