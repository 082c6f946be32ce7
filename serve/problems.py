"Errors as RFC 9457 problem details: every answer that is not a success says what, where, and what to do."

import json

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, InternalServerError, RequestEntityTooLarge, UnprocessableEntity

MAX_ERRORS = 20  # listed in one answer; a client that is wrong on every row learns nothing from the rest
MAX_TEXT = 200  # characters of a field or message: both may quote what the client sent


class Invalid(UnprocessableEntity):
    "A request that is JSON but breaks the contract: (field, message) pairs, the first one is the headline."

    def __init__(self, errors: list[tuple[str, str]]):
        self.errors = [{"field": f[:MAX_TEXT], "message": m[:MAX_TEXT]} for f, m in errors[:MAX_ERRORS]]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__("{field}: {message}".format(**self.errors[0]) + more)


def add_problems(app: Flask) -> None:
    "Answer every error of this app as application/problem+json."
    app.register_error_handler(HTTPException, _problem)


def _problem(error: HTTPException) -> Response:
    "One error as problem+json, under the headers that it has anyway (Allow, for one)."
    body = details(error.code, error.name, error.description)
    if isinstance(error, InternalServerError):
        body["detail"] = "The fault is here, not in the request; it has been logged."
    if isinstance(error, RequestEntityTooLarge):
        body["detail"] = f"The body is too long; {request.max_content_length:,} bytes is the limit."
    if isinstance(error, Invalid):
        body["errors"] = error.errors
        g.seen.wrong = error.errors[0]["field"]
    response = error.get_response()
    response.data = json.dumps(body)
    response.content_type = "application/problem+json"
    return response


def details(status: int, title: str, detail: str | None) -> dict:
    "The members that every problem has."
    return {"type": "about:blank", "title": title, "status": status, "detail": detail}
