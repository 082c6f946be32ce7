"The reference of the command line: a page for each command, from what Typer knows of it."

import re
import shlex
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import typer.main

from stockml.cli import app

from .notebooks import code, escape

TYPES = {"str": "text", "int": "whole number", "float": "number", "Path": "path", "bool": ""}


def commands() -> dict[str, Any]:
    "Top-level commands by name, in alphabetical order."
    found = typer.main.get_command(app).commands
    return {name: found[name] for name in sorted(found) if not found[name].hidden}


def every(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    "A command and all below it, with their full names."
    yield name, command
    for below, sub in sorted(getattr(command, "commands", {}).items()):
        yield from every(f"{name} {below}", sub)


def names() -> dict[str, str]:
    "`stockml NAME` -> address of its description, seen from the site's root."
    return {f"stockml {full}": f"cli/{name}.md" + (f"#{_anchor(full)}" if full != name else "")
            for name, top in commands().items() for full, _ in every(name, top)}


def index() -> str:
    "The way in."
    rows = "\n".join(f"| [`stockml {full}`]({name}.md{'#' + _anchor(full) if full != name else ''}) | {escape(_first(c.help))} |"
                     for name, top in commands().items() for full, c in every(name, top) if not hasattr(c, "commands"))
    return f"""# Command line

> One verb for each thing that a person or a workflow wants done.

Results go to standard output, progress and errors to standard error. `--json` prints for programs. Bad input is answered with one line and
exit code 2, what could not have been prevented with exit code 1; being interrupted gives 130, being told to end 143.

| command | |
|---|---|
{rows}

What a command does and why is written in [its notebook](../../nbs/45_cli.ipynb).
"""


def page(name: str) -> str:
    "One command, and those below it."
    parts = []
    for full, command in every(name, commands()[name]):
        parts.append(f"# stockml {full}" if full == name else f"## stockml {full} {{ #{_anchor(full)} }}")
        parts += list(_command(full, command))
    return "\n\n".join(filter(None, parts)) + "\n"


def _anchor(full: str) -> str:
    return full.replace(" ", "-")


def _command(full: str, command: Any) -> Iterator[str]:
    "What it does, how it is called, what it takes."
    paragraphs = [" ".join(p.split()) for p in (command.help or "").split("\n\n")]
    text = "\n\n".join(paragraphs)
    examples = re.findall(r"Example: (stockml .*)", text)
    said = [p.strip() for p in re.sub(r"Example: stockml .*", "", text).split("\n\n")]
    yield _quoted(said[0]) if " " in full else f"> {said[0]}"
    yield from map(_quoted, said[1:])
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    arguments = [p for p in shown if not p.opts[0].startswith("-")]
    options = [p for p in shown if p.opts[0].startswith("-")]
    if not hasattr(command, "commands"):
        yield f"```` sh\n{' '.join(['stockml', full, *map(_called, arguments), *map(_needed, options)]).strip()}\n````"
    if arguments:
        yield "| argument | | |\n|---|---|---|\n" + "\n".join(f"| `{_shown(p)}` | {_kind(p)} | {escape(p.help or '')} |" for p in arguments)
    if options:
        yield "| option | | default | |\n|---|---|---|---|\n" + "\n".join(
            f"| {_flags(p)} | {_kind(p)} | {_default(p)} | {escape(p.help or '')} |" for p in options)
    if examples:
        yield "Example:\n\n```` sh\n" + "\n".join(examples) + "\n````"


def _quoted(text: str) -> str:
    "Options in running text are code."
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", text)


def _called(argument: Any) -> str:
    return _shown(argument) if argument.required else f"[{_shown(argument)}]"


def _shown(argument: Any) -> str:
    return (argument.metavar or argument.name).upper() + ("..." if argument.nargs == -1 else "")


def _needed(option: Any) -> str:
    "An option that must be there; the others are in the table."
    return f"{option.opts[0]} {option.metavar or option.name.upper()}" if option.required else ""


def _flags(option: Any) -> str:
    return ", ".join(code(flag) for flag in (*option.opts, *option.secondary_opts))


def _kind(param: Any) -> str:
    "What it takes, with its range."
    kind = param.type_descriptor.annotation
    if get_args(kind) and get_origin(kind) is not list:
        kind = next(a for a in get_args(kind) if a is not type(None))
    inner = get_args(kind)[0] if get_origin(kind) is list else kind
    choices = [str(getattr(a, "value", a)) for a in (inner if hasattr(inner, "__members__") else ())]
    said = " or ".join(f"`{c}`" for c in choices) or code(param.metavar)
    low, high = param.min, param.max
    bounds = "".join(f", {word} {limit:g}" for word, limit in (("at least", low), ("at most", high)) if limit is not None)
    return (said or TYPES.get(getattr(inner, "__name__", str(inner)), "text")) + bounds


def _default(option: Any) -> str:
    if option.required:
        return "needed"
    value = option.default
    return "" if value in (None, False, [], ()) or callable(value) else f"`{shlex.quote(str(value)) if value is not True else 'on'}`"


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())
