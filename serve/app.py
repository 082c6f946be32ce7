"The forecast service: `gunicorn -c serve/gunicorn.conf.py 'serve.app:create_app()'`, from the root of the project."

from functools import cache
from pathlib import Path

import msgspec
from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.exceptions import ServiceUnavailable

from stockml import __version__
from stockml.journal import Journal

from .access import Access
from .body import MAX_BODY, in_turn, latest_session, read_request
from .forecasts import make
from .metrics import exposition
from .model import Holder, model_folder
from .observe import add_observation, observe_forecasts, open_journal
from .openapi import document
from .pages import add_pages
from .problems import add_problems

encode = msgspec.json.Encoder().encode  # strict: what is not known is null


def create_app(folder: Path | None = None) -> Flask:
    "The service around the bundle in `folder` (None: `model_folder()`). `BadInput` refuses a damaged one."
    holder, access, journal = Holder(folder or model_folder()), Access.from_environment(), open_journal()
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.url_map.merge_slashes = False  # an address is right or wrong; nobody is sent elsewhere
    app.extensions["stockml"] = holder
    app.extensions["stockml.looks"] = (holder.look, access.look, *([journal.sync] if journal else ()))  # what `watch` looks after
    add_observation(app)
    add_problems(app)
    add_pages(app)
    _add_forecast(app, holder, access, journal)
    _add_status(app, holder)
    _add_facts(app, holder, access)
    return app


def _add_forecast(app: Flask, holder: Holder, access: Access, journal: Journal | None) -> None:
    "What the service is for."

    @app.post("/v1/forecast", endpoint="forecast")
    @app.post("/v1/explain", endpoint="explain")
    def forecast() -> Response:
        g.seen.caller = access.admit(request)
        served = holder.served
        if served is None:
            raise ServiceUnavailable("no model is loaded yet", retry_after=1)
        with in_turn(request.content_length):
            wanted = read_request(request, latest_session(served.bundle.manifest["as_of"]))
            made = make(served, wanted, why=request.endpoint == "explain")
        response = _json({"answers": made.answers} if wanted.several else made.answers[0])
        if warning := observe_forecasts(made.records, journal):
            # 299, as Kubernetes does: 110 is about caches, and RFC 9111 has retired it.
            response.headers["Warning"] = f'299 - "{warning}"'
        return response


def _add_status(app: Flask, holder: Holder) -> None:
    "For those who run it: is it there, may traffic come? Open to all: they tell nothing else."

    @app.get("/healthz")
    def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    def readyz() -> Response:
        if not holder.ready:
            raise ServiceUnavailable("told to end" if holder.draining else "no model is loaded yet", retry_after=1)
        return _json({"status": "ready"})


def _add_facts(app: Flask, holder: Holder, access: Access) -> None:
    "What is served, how it fares, how to ask. Open to all who reach it, as is the page: none of it is a forecast."

    @app.get("/version")
    def version() -> Response:
        manifest = holder.served.bundle.manifest
        known = {k: manifest.get(k) for k in ("sha256", "as_of", "trained_at", "commit", "data_sha256", "horizons")}
        return _json({"package_version": __version__, "model": {**holder.served.model, **known}})

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(exposition(holder.served), content_type=CONTENT_TYPE_LATEST)

    @cache
    def description() -> bytes:
        return encode(document(keys=access.file is not None))

    @app.get("/openapi.json", endpoint="openapi")
    def openapi() -> Response:
        return Response(description(), mimetype="application/json")


def _json(value: object) -> Response:
    return Response(encode(value), mimetype="application/json")
