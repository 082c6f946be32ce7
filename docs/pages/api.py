"The API reference: a page for each module, from what `source` reads. Every parameter has a meaning, or the build says which has none."

import configparser
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import source
from .notebooks import code, escape, first
from .words import HERE, WORDS

WIDTH = 88  # of a signature on one line
NAMES = re.compile(r"\b[A-Z]\w+\b")


class Package:
    "All modules of stockml, and what their names mean."

    def __init__(self, root: Path):
        self.modules = {p.stem: source.read(p) for p in sorted((root / "stockml").glob("[a-z]*.py"))}
        self.floors = _floors(root / ".importlinter")
        self.classes = {t.name: (m.name, t) for m in self.modules.values() for t in m.things if t.what == "class"}
        self.missing: list[str] = []  # parameters without a meaning, dotted

    def names(self) -> dict[str, str]:
        "Dotted names, with and without `stockml.` -> address of the page and anchor, seen from the site's root."
        out = {}
        for module in self.modules.values():
            for thing in module.things:
                for name in (thing.name, *(f"{thing.name}.{m.name}" for m in thing.methods)):
                    for prefix in ("", "stockml."):
                        out[f"{prefix}{module.name}.{name}"] = f"api/{module.name}.md#{anchor(name)}"
            out[f"stockml.{module.name}"] = f"api/{module.name}.md"
        for name, (module, _) in self.classes.items():
            out.setdefault(name, f"api/{module}.md#{anchor(name)}")
        return out

    def find(self, module: source.Module, name: str) -> tuple[str, source.Thing] | None:
        "What a name means in a module, if it is ours: where it is from, and what it is."
        home = module.imports.get(name, module.name)
        return next(((home, t) for t in self.modules[home].things if t.name == name), None) if home in self.modules else None

    def typed(self, module: source.Module, kind: str) -> str:
        "A type as code; a link to the first class of ours in it."
        own = next((found for name in NAMES.findall(kind) if (found := self.find(module, name))), None)
        return f"[{code(kind)}]({own[0]}.md#{anchor(own[1].name)})" if own else code(kind)

    def meaning(self, module: source.Module, thing: source.Thing, part: source.Thing, value: source.Value) -> str:
        "What a parameter means: its own comment, else what is said of the same name nearby, of its type, or everywhere."
        plain = value.name.lstrip("*")
        dotted = f"{module.name}.{thing.name}.{'' if part is thing else part.name + '.'}{plain}"
        for said in (value.comment, self._inherited(module, thing, part, plain), HERE.get(dotted, ""), self._earlier(module, part, value),
                     self._of_type(module, value.kind), WORDS.get(plain, "")):
            if said:
                return said
        if part.what == "function" or part.methods:  # a plain record's docstring may say enough
            self.missing.append(dotted)
        return ""

    def inherited(self, module: source.Module, thing: source.Thing, part: source.Thing) -> str:
        "What the same method of a class above says of itself."
        above = [found for base in thing.bases if (found := self.find(module, base))]
        return next((m.doc or self.inherited(self.modules[home], a, m) for home, a in above for m in a.methods if m.name == part.name), "")

    def _inherited(self, module: source.Module, thing: source.Thing, part: source.Thing, name: str) -> str:
        "Of the same method's parameter in a class above."
        for base in thing.bases:
            if found := self.find(module, base):
                above = found[1]
                same = next((m for m in above.methods if m.name == part.name), None)
                said = next((v.comment for v in same.takes if v.name.lstrip("*") == name and v.comment), "") if same else ""
                if said or (said := self._inherited(self.modules[found[0]], above, part, name)):
                    return said
        return ""

    def _earlier(self, module: source.Module, part: source.Thing, value: source.Value) -> str:
        "Of the same name and type further up in the module, if only one thing is said of it there."
        parts = [p for t in module.things for p in (t, *t.methods)]
        before = parts[:next(i for i, p in enumerate(parts) if p is part)]
        said = {v.comment for p in before for v in p.takes if v.name == value.name and v.kind == value.kind and v.comment}
        return said.pop() if len(said) == 1 else ""

    def _of_type(self, module: source.Module, kind: str) -> str:
        "Of a class or alias of ours that the type names."
        for name in NAMES.findall(kind):
            found = self.find(module, name)
            if found and found[1].what == "class":
                return f"{first(found[1].doc)} (`{name}`)"
            if found and found[1].what == "constant" and (said := re.search(r"help='([^']*)'", found[1].gives.default)):
                return said[1]
        return ""


def anchor(name: str) -> str:
    "Of a name on its page."
    return name.replace(".", "-")


def _floors(path: Path) -> list[list[str]]:
    "import-linter's layers, from the ground up."
    config = configparser.ConfigParser()
    config.read(path)
    layers = config["importlinter:contract:floors"]["layers"].split("\n")
    return [[name.strip() for name in re.split("[:|]", line)] for line in reversed(layers) if line.strip()]


def index(package: Package) -> str:
    "The way in."
    rows = []
    for number, floor in enumerate(package.floors):
        rows += [f"| {number} | [`stockml.{name}`]({name}.md) | {escape(package.modules[name].doc)} |" for name in floor
                 if name in package.modules]
    words = "\n".join(f"| `{name}` | {escape(said)} |" for name, said in sorted(WORDS.items()))
    return f"""# API reference

> Every public function and class: its signature, what goes in and comes out with shape and unit, and the errors it raises.

These pages are read from the code: each comment beside a parameter is its documentation. Arrays are described by their shape, `(n,)` or
`(n, horizons)`; money is in EUR, prices in the listing currency, returns are logarithmic, horizons and windows count sessions.

Two errors mean something to a caller: [`BadInput`](config.md#BadInput) can be mended by whoever called and says how (exit code 2),
[`StockmlError`](config.md#StockmlError) could not have been prevented (exit code 1).

A module imports only from floors below its own.

| floor | module | |
|---|---|---|
{chr(10).join(rows)}

## Names that mean the same everywhere

| name | |
|---|---|
{words}
"""


def page(package: Package, name: str, notebook: str) -> str:
    "One module; `notebook` is the page of the notebook that defines it, seen from here."
    module = package.modules[name]
    constants = [t for t in module.things if t.what == "constant"]
    things = [t for t in module.things if t.what != "constant"]
    why = f"Why it is as it is, and what it does on real values: [the notebook]({notebook})."
    parts = [f"# stockml.{name}", f"> {module.doc}", why, _contents(things)]
    if constants:
        rows = "\n".join(f'| `{t.name}`{{ #{anchor(t.name)} }} | {code(_short(t.gives.default))} | {escape(t.doc)} |' for t in constants)
        parts.append(f"## Constants\n\n| name | value | |\n|---|---|---|\n{rows}")
    parts += [_described(package, module, thing, notebook) for thing in things]
    return "\n\n".join(filter(None, parts)) + "\n"


def _contents(things: list[source.Thing]) -> str:
    rows = "\n".join(f"| [`{t.name}`](#{anchor(t.name)}) | {escape(first(t.doc))} |" for t in things)
    return f"| | |\n|---|---|\n{rows}" if len(things) > 2 else ""


def _described(package: Package, module: source.Module, thing: source.Thing, notebook: str) -> str:
    "A function or class with its methods."
    parts = [f"## {thing.name} {{ #{anchor(thing.name)} }}"]
    if thing.what == "function":
        parts += _function(package, module, thing, thing)
    else:
        kind = next((b for b in thing.bases if b not in ("NamedTuple", "BaseModel", "Protocol")), "")
        fields = _table("field", thing.takes, partial(package.typed, module), lambda v: _field(package, module, thing, v))
        parts += [f"```` python\nclass {thing.name}{f'({kind})' if kind else ''}\n````", thing.doc, fields]
    where = f"{notebook}#cell-{thing.cell}" if thing.cell else notebook
    parts.append(f'[Defined in the notebook]({where}){{ .defined }}')
    for method in thing.methods:
        name = f"{thing.name}.{method.name}"
        parts += [f"### {name} {{ #{anchor(name)} }}", *_function(package, module, thing, method)]
    return "\n\n".join(filter(None, parts))


def _field(package: Package, module: source.Module, thing: source.Thing, value: source.Value) -> str:
    "What a field means; those of params.yaml stand in its own reference."
    section = thing.name.lower()
    if "Section" in thing.bases and not value.comment and section != "params":
        return f"see [{section}.{value.name}](../params.md#{section})"
    return package.meaning(module, thing, thing, value)


def _function(package: Package, module: source.Module, thing: source.Thing, part: source.Thing) -> list[str]:
    "Signature, sentence, parameters, what comes back, errors."
    takes = _table("parameter", part.takes, partial(package.typed, module), lambda v: package.meaning(module, thing, part, v))
    gives, back = part.gives, ""
    if gives and gives.kind not in ("", "None"):
        back = f"**Returns** {package.typed(module, gives.kind)}" + (f": {escape(gives.comment)}" if gives.comment else "")
    elif gives and gives.comment:
        back = f"**Returns** nothing: {escape(gives.comment)}"
    errors = "**Errors** " + ", ".join(f"`{e}`" for e in part.errors) if part.errors else ""
    return [f"```` python\n{signature(part)}\n````", _examples(part.doc or package.inherited(module, thing, part)), takes, back, errors]


def _examples(doc: str) -> str:
    "A docstring whose example is a command."
    return re.sub(r"\s*Example: (stockml .*)", r"\n\n```` sh\n\1\n````", doc)


def signature(thing: source.Thing) -> str:
    "As it would be called, with types."
    equals = {True: " = ", False: "="}
    takes = [v.name + (f": {v.kind}" if v.kind else "") + (equals[bool(v.kind)] + v.default if v.default else "") for v in thing.takes]
    back = f" -> {thing.gives.kind}" if thing.gives and thing.gives.kind else ""
    marks = "".join(f"@{d}\n" for d in thing.decorators if d in ("property", "classmethod", "staticmethod", "contextmanager"))
    line = f"{thing.name}({', '.join(takes)}){back}"
    if len(line) > WIDTH:
        line = f"{thing.name}(\n" + "".join(f"    {t},\n" for t in takes) + f"){back}"
    return marks + line


def _table(what: str, values: list[source.Value], typed: Callable[[str], str], meaning: Callable[[source.Value], str]) -> str:
    "Names, types, defaults where there are any, and what they mean."
    if not values:
        return ""
    defaults = any(v.default is not None for v in values)
    rows = [f"| {code(v.name)} | {typed(v.kind)} |" + (f" {code(_short(v.default))} |" if defaults else "") + f" {escape(meaning(v))} |"
            for v in values]
    head = f"| {what} | type |{' default |' if defaults else ''} |"
    return "\n".join([head, "|---|---|---|" + ("---|" if defaults else ""), *rows])


def _short(text: str | None) -> str | None:
    "A long value, cut."
    return text if text is None or len(text) <= 60 else f"{text[:57]}..."
