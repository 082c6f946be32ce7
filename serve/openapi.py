"The service described as OpenAPI 3.1: what comes in as the models that check it say, what goes out as the models here say."

from datetime import date, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from stockml import __version__
from stockml.features import MIN_BARS

from .body import BatchRequest, ForecastRequest
from .forecasts import EXPLAINED


class Out(BaseModel):
    "What we send holds these fields and no others."
    model_config = ConfigDict(extra="forbid")


class Model(Out):
    "The name under which the model's forecasts are kept, and which files exactly it is."
    name: str
    version: str


Levels = Annotated[dict[str, float], Field(description="Quantile level -> value.")]


class Forecast(Out):
    "Where the price will be at one horizon, with the odds."
    horizon: Annotated[int, Field(description="Sessions after the origin.")]
    target_date: Annotated[str, Field(json_schema_extra={"format": "date"})]
    quantiles: Annotated[Levels, Field(description="Log-return from the origin's adjusted close, by quantile level.")]
    prices: Annotated[Levels, Field(description="The same as prices.")]
    model: Annotated[str, Field(description="Which of the bundle's models answered.")]
    skill: Annotated[bool, Field(description="Whether it has shown skill at this horizon.")]


class Contribution(Out):
    "One factor of the width of an interval."
    part: Annotated[str, Field(description="Of the model: level, har, gjr, trees, or the name of a classical model.")]
    feature: str
    words: Annotated[str, Field(description="The feature as people speak of it.")]
    value: Annotated[float | None, Field(description="The feature in its own unit; null if it is not known or has none.")]
    contribution: Annotated[float, Field(description="To the log of the scale; all of them add up to it.")]
    factor: Annotated[float, Field(description="The same as a factor.")]


class ExplainedForecast(Forecast):
    "A forecast, and why it is as wide as it is."
    contributions: list[Contribution]
    words: Annotated[str, Field(description="The reasons in sentences.")]


class Answer(Out):
    "One stock's forecasts."
    forecast_id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    ticker: str
    origin: Annotated[str, Field(json_schema_extra={"format": "date"}, description="The last bar's date.")]
    model: Model
    forecasts: list[Forecast]


class ExplainedAnswer(Answer):
    forecasts: list[ExplainedForecast]


class Batch(Out):
    "One answer a stock, in the order of the request."
    answers: list[Answer]


class ExplainedBatch(Out):
    answers: list[ExplainedAnswer]


class FieldError(Out):
    field: Annotated[str, Field(examples=["bars[3].close"])]
    message: str


class Problem(Out):
    "RFC 9457: what was wrong, where, and what to do."
    type: str
    title: str
    status: int
    detail: str
    errors: Annotated[list[FieldError], Field(default=[], description="The fields at fault, of a 422.")]


class Status(Out):
    status: str


class ServedModel(Model):
    "The served model and where it comes from."
    sha256: str
    as_of: Annotated[str, Field(json_schema_extra={"format": "date"})]
    trained_at: str | None
    commit: str | None
    data_sha256: str | None
    horizons: list[int]


class Version(Out):
    package_version: str
    model: ServedModel


MODELS = (ForecastRequest, BatchRequest, Answer, Batch, ExplainedAnswer, ExplainedBatch, Problem, Status, Version)
PROBLEMS = {
    400: "Not strict JSON, or not HTTP.", 401: "Without a known key, where keys are asked for.", 404: "There is nothing at this address.",
    408: "The body did not arrive in time.", 413: "The body is too long.", 415: "The body is not declared as JSON.",
    422: "A field is wrong; `errors` names it.", 429: "Too many requests under this key; Retry-After says when to come back.",
    500: "The fault is in the service.", 503: "Not ready: no model yet, or told to end.",
}
EVERYWHERE = {"X-Request-ID": "The request's own id, or ours.", "traceparent": "W3C trace context of our part."}


def document(keys: bool) -> dict[str, Any]:
    "The description; `keys` tells whether callers must show one."
    _, schemas = models_json_schema([(m, "validation") for m in MODELS], ref_template="#/components/schemas/{model}")
    security = [{"bearer": []}, {"key": []}]
    post = {"security": security if keys else [{}, *security]}
    return {
        "openapi": "3.1.1",
        "info": {"title": "stockml", "version": __version__, "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
                 "description": "How far a stock's price may move, with the odds. Which way, nobody can tell from prices."},
        "servers": [{"url": "/"}],
        "paths": {
            "/v1/forecast": {"post": post | _asked("forecast", "Forecast one stock, or several at once", "Answer", "Batch")},
            "/v1/explain": {"post": post | _asked("explain", f"Forecast, and say why, of at most {EXPLAINED} stocks",
                                                  "ExplainedAnswer", "ExplainedBatch")},
            "/healthz": {"get": _told("healthz", "Is the process alive?", _json("Status"))},
            "/readyz": {"get": _told("readyz", "May traffic come?", _json("Status"), 503)},
            "/version": {"get": _told("version", "What is served?", _json("Version"))},
            "/metrics": {"get": _told("metrics", "For Prometheus", {"text/plain": {"schema": {"type": "string"}}})},
            "/openapi.json": {"get": _told("openapi", "This document", {"application/json": {"schema": {"type": "object"}}})},
            "/": {"get": _told("index", "The page for people", {"text/html": {"schema": {"type": "string"}}})},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"},
                                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
    }


def _json(*names: str) -> dict[str, Any]:
    refs = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    return {"application/json": {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}}


def _headers(more: dict[str, str]) -> dict[str, Any]:
    return {name: {"description": what, "schema": {"type": "string"}} for name, what in more.items()}


def _told(name: str, summary: str, content: dict[str, Any], *problems: int) -> dict[str, Any]:
    "An operation, its answer and its problems."
    ok = {"description": "As asked.", "headers": _headers(EVERYWHERE), "content": content}
    return {"operationId": name, "summary": summary, "responses": {"200": ok, **{str(p): _problem(p) for p in (*problems, 500)}}}


def _problem(status: int) -> dict[str, Any]:
    more = {401: {"WWW-Authenticate": "How to show a key."}, 429: {"Retry-After": "Seconds to wait."}}.get(status, {})
    return {"description": PROBLEMS[status], "headers": _headers(EVERYWHERE | more),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def _asked(name: str, summary: str, one: str, several: str) -> dict[str, Any]:
    "An operation that takes bars."
    operation = _told(name, summary, _json(one, several), 400, 401, 408, 413, 415, 422, 429, 503)
    operation["responses"]["200"]["headers"] |= _headers({"Warning": "299, if bars are stale: they end more than 5 sessions ago."})
    body = _json("ForecastRequest", "BatchRequest")
    body["application/json"]["examples"] = {
        "one": {"summary": "One stock", "value": example("ACME") | {"horizons": None}},
        "several": {"summary": "Two stocks at once", "value": {"series": [example("ACME"), example("EMCA")]}},
    }
    return operation | {"requestBody": {"required": True, "content": body}}


def example(ticker: str) -> dict[str, Any]:
    "The shortest history that is forecast, made up."
    days = [day for n in range(MIN_BARS * 2) if (day := date(2024, 1, 2) + timedelta(n)).weekday() < 5][:MIN_BARS]
    return {"ticker": ticker, "bars": [{"date": str(day), "close": 100 + (i * 7 % 11) / 4} for i, day in enumerate(days)]}
