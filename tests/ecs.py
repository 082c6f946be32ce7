"""Is a line valid ECS? Held against ecs.json: the field sets of ECS 8.11.0 that a service can need, with types, longest keywords,
arrays and allowed values, taken from `EcsFlat` of Elastic's npm package @elastic/ecs 8.11.5 (Apache License 2.0,
copyright 2023 Elasticsearch B.V.). tests/serve/test_ecs.py compares the two where npm is there."""

import ipaddress
import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

VERSION, OURS = "8.11.0", "stockml"
FIELDS = json.loads(Path(__file__).with_name("ecs.json").read_text())
OBJECTS = {"object", "flattened", "nested"}  # what stands below them is free


def fields(line: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    "Dotted name and value of each field, whether written nested or with dots; objects of ours and free ones whole."
    for key, value in line.items():
        name = above + key
        free = name == OURS or FIELDS.get(name, {}).get("type") in OBJECTS
        if isinstance(value, dict) and not free:
            yield from fields(value, f"{name}.")
        else:
            yield name, value


def problems(line: dict[str, Any]) -> list[str]:
    "What is wrong with it, in words."
    found = list(fields(line))
    twice = [f"{name} stands there twice" for name, n in Counter(name for name, _ in found).items() if n > 1]
    missing = [f"{name} is missing" for name, f in FIELDS.items() if f.get("required") and name not in dict(found)]
    version = [f"ecs.version is not {VERSION}"] if dict(found).get("ecs.version", VERSION) != VERSION else []
    return [*twice, *missing, *version, *(f"{name}: {wrong}" for name, value in found if (wrong := _wrong(name, value)))]


def _wrong(name: str, value: Any) -> str | None:
    if name == OURS or name.startswith(f"{OURS}."):
        return None if name != OURS or isinstance(value, dict) else "is no object"
    if (field := FIELDS.get(name)) is None:
        return "no such field"
    if field.get("array"):
        if not isinstance(value, list):
            return "is no array"
        return next((wrong for v in value if (wrong := _wrong_value(field, v))), None)
    return _wrong_value(field, value)


def _wrong_value(field: dict[str, Any], value: Any) -> str | None:
    if not _is(field["type"], value):
        return f"{value!r} is no {field['type']}"
    if isinstance(value, str) and len(value) > field.get("ignore_above", len(value)):
        return "is too long to be found"
    if value not in field.get("allowed", [value]):
        return f"{value!r} is not allowed"
    return None


def _is(kind: str, value: Any) -> bool:
    "Would Elasticsearch take this JSON value for that type, without bending it?"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case "date":
            return isinstance(value, str) and "T" in value and _parses(datetime.fromisoformat, value)
        case "ip":
            return isinstance(value, str) and _parses(ipaddress.ip_address, value)
        case "long":
            return number and isinstance(value, int) and -2**63 <= value < 2**63
        case "float" | "scaled_float":
            return number
        case "boolean":
            return isinstance(value, bool)
        case "object" | "flattened" | "nested":
            return isinstance(value, dict)
        case _:  # keyword, constant_keyword, wildcard, match_only_text
            return isinstance(value, str)


def _parses(parse, text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True
