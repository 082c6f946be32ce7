"The reference of the HTTP service, from its own description (serve/openapi.py)."

import json
import re
from typing import Any

from serve.openapi import document

from .notebooks import escape

HEADERS = {"X-Request-ID", "traceparent"}  # of every answer: told once

BOUNDS = {
    "minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below",
    "minLength": "length from", "maxLength": "length up to", "minItems": "at least this many:", "maxItems": "at most this many:",
}


def described() -> dict[str, Any]:
    "OpenAPI, of a service that asks for keys."
    return document(keys=True)


def page() -> str:
    "All endpoints and what they take and give."
    api = described()
    schemas = api["components"]["schemas"]
    ends = [(path, method, op) for path, item in api["paths"].items() for method, op in item.items()]
    rows = "\n".join(f"| [`{method.upper()} {path}`](#{_anchor(path, method)}) | {escape(op['summary'])} |" for path, method, op in ends)
    parts = [f"""# HTTP service

> {api['info']['description']}

This page says what the running service says of itself under `/openapi.json` ([OpenAPI {api['openapi']}](openapi.json)). How to start it and
who may ask stands in [Run the service](service.md).

| endpoint | |
|---|---|
{rows}

Every answer carries `X-Request-ID`, the caller's or our own, and `traceparent`. Errors are
[problem details](https://www.rfc-editor.org/rfc/rfc9457) (`application/problem+json`): [`Problem`](#problem)."""]
    parts += [_operation(path, method, op) for path, method, op in ends]
    parts.append("## What goes in and out { #schemas }")
    parts += [_schema(name, schemas[name]) for name in schemas]
    return "\n\n".join(parts) + "\n"


def _operation(path: str, method: str, op: dict[str, Any]) -> str:
    "One endpoint."
    parts = [f"## {method.upper()} {path} {{ #{_anchor(path, method)} }}", f"{op['summary']}."]
    if body := op.get("requestBody"):
        content = body["content"]["application/json"]
        parts += [f"Takes {_kind(content['schema'])} as JSON.", *map(_example, content.get("examples", {}).values())]
    rows = []
    for status, answer in op["responses"].items():
        content = next(iter(answer["content"].items()))
        said = " ".join([answer["description"], *(f"`{h}`: {v['description']}" for h, v in answer["headers"].items() if h not in HEADERS)])
        rows.append(f"| {status} | {_kind(content[1]['schema']) if 'json' in content[0] else f'`{content[0]}`'} | {escape(said)} |")
    return "\n\n".join([*parts, "| status | answer | |\n|---|---|---|\n" + "\n".join(rows)])


def _example(example: dict[str, Any]) -> str:
    "A body, its bars cut short."
    value = json.loads(json.dumps(example["value"]))
    for series in value.get("series", [value]):
        series["bars"] = [*series["bars"][:2], "..."]
    text = re.sub(r'\{\s+"date": (\S+),\s+"close": (\S+)\s+\}', r'{"date": \1, "close": \2}', json.dumps(value, indent=2))
    return f"{example['summary']}:\n\n```` json\n{text}\n````"


def _anchor(path: str, method: str) -> str:
    return re.sub(r"\W+", "-", f"{method}{path}").strip("-")


def _schema(name: str, schema: dict[str, Any]) -> str:
    "An object and its fields."
    needed = schema.get("required", [])
    rows = "\n".join(f"| `{field}` | {_kind(of)} | {'yes' if field in needed else ''} | {escape(_said(of))} |"
                     for field, of in schema.get("properties", {}).items())
    parts = [f"### {name} {{ #{name.lower()} }}", " ".join(schema.get("description", "").split())]
    return "\n\n".join(filter(None, [*parts, f"| field | type | needed | |\n|---|---|---|---|\n{rows}" if rows else ""]))


def _said(schema: dict[str, Any]) -> str:
    "What a field means, and within which bounds."
    bounds = [f"{word} {schema[key]}" for key, word in BOUNDS.items() if key in schema]
    default = [f"default {json.dumps(schema['default'])}"] if schema.get("default") not in (None, [], {}) else []
    said = " ".join(schema.get("description", "").split())
    return " ".join(filter(None, [said, f"({', '.join(bounds + default)})" if bounds or default else ""]))


def _kind(schema: dict[str, Any]) -> str:
    "A type; objects are links."
    if ref := schema.get("$ref"):
        name = ref.rsplit("/", 1)[1]
        return f"[`{name}`](#{name.lower()})"
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(_kind, several))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(v)}`" for v in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}" if "items" in schema else "list"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"text → {_kind(schema['additionalProperties'])}"
    kind = {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(schema.get("type"), schema.get("type", "anything"))
    return {"date": "date", "uuid": "UUID"}.get(schema.get("format"), kind)
