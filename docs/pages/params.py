"The reference of params.yaml: values and comments from the file, types from the schema, effects from dvc.yaml."

import io
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types as at
import yaml
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from stockml.config import Params

from .notebooks import code, escape


def page(root: Path) -> str:
    "A section of the file after the other."
    text = (root / "params.yaml").read_text()
    values, stages = YAML().load(text), yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    parts = ["""# params.yaml

> Everything that can be turned. Change a value, `make run` again, and only what depends on it is done again.

`stockml stage NAME -p 'changes={"bot.risk_budget": "0.01"}'`, and `--set bot.risk_budget=0.01` where a command has it, differ from the
file for one run. What is misspelt, of another type or out of range is refused before any work starts."""]
    for name, field in Params.model_fields.items():
        section = field.annotation
        rows = "\n".join(f"| {code(f'{name}.{key}')} | {_kind(of)} | {code(_value(values[name][key]))} | {escape(said(text, name, key))} |"
                         for key, of in section.model_fields.items())
        parts.append(f"## {name}\n\n{section.__doc__}\n\n| key | type | value | |\n|---|---|---|---|\n{rows}\n\n{_effects(name, stages)}")
    return "\n\n".join(parts) + "\n"


def said(text: str, section: str, key: str) -> str:
    "The comment beside a key; a row of dots says that it goes on beside the next one."
    lines = re.split(rf"^{section}:\n", text, maxsplit=1, flags=re.MULTILINE)[1].split("\n")
    return next((line.partition(" # ")[2].strip() for line in lines if line.strip().startswith(f"{key}:")), "").replace(" | ", ", ")


def _value(value: Any) -> str:
    "As YAML writes it."
    out = io.StringIO()
    YAML().dump({"v": value}, out)
    return out.getvalue().split("#")[0].removeprefix("v:").strip() or "null"


def _effects(section: str, stages: dict[str, Any]) -> str:
    "Which stages read it."
    read = [name for name, stage in stages.items() if any(str(p).split(".")[0] == section for p in stage.get("params", []))]
    if not read:
        return "No stage reads it, commands do."
    return f"A change makes {', '.join(f'`{name}`' for name in read)} run again, and what follows."


def _kind(field: FieldInfo) -> str:
    "A type in words, with its bounds."
    return _typed(field.annotation) + _bounds(field.metadata)


def _typed(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f"`{a}`" for a in args)
    if origin is tuple:
        return f"list of {_typed(args[0])}" if args[-1] is Ellipsis else f"{len(args)} times {_typed(args[0])}"
    if hasattr(kind, "__metadata__"):
        return _typed(kind.__origin__) + _bounds(kind.__metadata__)
    if args:
        return " or ".join(_typed(a) for a in args if a is not type(None)) + (" or null" if type(None) in args else "")
    return {"int": "whole number", "float": "number", "str": "text", "bool": "true or false"}.get(kind.__name__, kind.__name__)


def _bounds(metadata: Any) -> str:
    "Least and greatest value."
    parts = [m for one in metadata for m in getattr(one, "metadata", [one])]
    words = {at.Ge: ("ge", "at least"), at.Gt: ("gt", "above"), at.Le: ("le", "at most"), at.Lt: ("lt", "below")}
    out = [f"{words[type(p)][1]} {getattr(p, words[type(p)][0])}" for p in parts if type(p) in words]
    return f", {', '.join(out)}" if out else ""
