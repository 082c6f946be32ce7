"The description is valid, and true: what it promises is what comes."

import json

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from serve.openapi import Answer as OneAnswer
from serve.openapi import Batch, ExplainedAnswer, ExplainedBatch, Problem, Version, document, example
from stockml.features import MIN_BARS


@pytest.fixture
def described(client) -> dict:
    return client.get("/openapi.json").json


def test_it_is_openapi(described):
    OpenAPIV31SpecValidator(described).validate()
    OpenAPIV31SpecValidator(document(keys=True)).validate()


def test_it_names_what_there_is_and_nothing_else(app, described):
    there = {(str(r), m.lower()) for r in app.url_map.iter_rules() for m in r.methods - {"HEAD", "OPTIONS"}}
    there.discard(("/page/<name>", "get"))  # parts of the page at /
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == there


@pytest.mark.parametrize("path", ["/v1/forecast", "/v1/explain"])
def test_its_examples_are_answered_as_it_says(client, described, path):
    examples = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
    one, several = (OneAnswer, Batch) if path == "/v1/forecast" else (ExplainedAnswer, ExplainedBatch)
    one.model_validate_json(client.post(path, json=examples["one"]["value"]).data, strict=True)
    several.model_validate_json(client.post(path, json=examples["several"]["value"]).data, strict=True)


def test_the_example_is_the_shortest_request(client):
    assert len(example("ACME")["bars"]) == MIN_BARS


def test_the_others_answer_as_it_says(client):
    Version.model_validate_json(client.get("/version").data, strict=True)
    for sent in ("{}", "{"):
        Problem.model_validate_json(client.post("/v1/forecast", data=sent, content_type="application/json").data, strict=True)


def test_what_comes_in_is_described_by_what_checks_it(described):
    bar = described["components"]["schemas"]["Bar"]
    assert bar["additionalProperties"] is False
    assert set(bar["required"]) == {"date", "close"}
    assert "NaN" not in json.dumps(described)


def test_the_page_runs_only_what_is_ours(client):
    for path in ("/", "/page/app.js"):
        answer = client.get(path)
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "http" not in policy and "unsafe" not in policy
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/page/app.js").mimetype == "text/javascript"


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/page/none.js", "/page/"])
def test_the_page_is_a_folder_and_no_more(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")


def test_a_page_that_is_known_is_not_sent_again(client):
    first = client.get("/")
    again = client.get("/", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
