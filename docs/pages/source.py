"What a module says about itself, read from its text: signatures, the comments beside them (docments), docstrings, errors."

import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

CELL = re.compile(r"^# %% \S+ #(\w+)$", re.MULTILINE)  # nbdev's mark: which cell of the notebook the lines are from
ERROR = re.compile(r"\b[A-Z]\w*(?:Error|Input|Busy|Refused)\b")


@dataclass
class Value:
    "A parameter, a field, a constant or what comes back."
    name: str
    kind: str  # as written; empty if not
    default: str | None  # as written
    comment: str  # shape, unit, range, meaning


@dataclass
class Thing:
    "A public function, class or constant."
    name: str
    cell: str  # id of the notebook cell that defines it
    what: str  # function, class or constant
    doc: str
    takes: list[Value] = field(default_factory=list)  # parameters or fields
    gives: Value | None = None  # of a function
    errors: list[str] = field(default_factory=list)
    methods: list["Thing"] = field(default_factory=list)
    bases: list[str] = field(default_factory=list)
    decorators: list[str] = field(default_factory=list)


@dataclass
class Module:
    "A module of the package."
    name: str
    doc: str
    things: list[Thing]
    imports: dict[str, str]  # name -> module of the package that it is from


def read(path: Path) -> Module:
    "The public names of a module, in the order in which they stand there."
    text = path.read_text()
    tree, comments = ast.parse(text), _comments(text)
    cells = [(text.count("\n", 0, m.start()) + 1, m[1]) for m in CELL.finditer(text)]
    public = _exported(tree)
    things = [(node, _things(node, comments)) for node in tree.body]
    out = []
    for node, found in things:
        for thing in (t for t in found if t.name in public):
            thing.cell = next((cell for line, cell in reversed(cells) if line <= node.lineno), "")
            out.append(thing)
    return Module(path.stem, ast.get_docstring(tree) or "", out, _imports(tree))


def _imports(tree: ast.Module) -> dict[str, str]:
    found = ((node.module, alias) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module for alias in node.names)
    return {alias.asname or alias.name: module.removeprefix("stockml.") for module, alias in found}


def _comments(text: str) -> dict[int, str]:
    "Line -> the comment on it; linters' own left out."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = {t.start[0]: re.sub(r"#\s*noqa.*", "", t.string).lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}
    return {line: comment for line, comment in found.items() if comment}


def _exported(tree: ast.Module) -> set[str]:
    "`__all__`."
    return next((set(ast.literal_eval(node.value)) for node in tree.body
                 if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"), set())


def _things(node: ast.stmt, comments: dict[int, str]) -> list[Thing]:
    "What a statement defines."
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [_function(node, comments)]
        case ast.ClassDef():
            return [_class(node, comments)]
        case ast.AnnAssign(target=ast.Name() as target, value=ast.expr() as value):
            return [_constant(node, target, value, comments)]
        case ast.Assign():
            return [_constant(node, *pair, comments) for target in node.targets for pair in _pairs(target, node.value)]
    return []


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    "Names and their values, where several are set at once."
    if not isinstance(target, ast.Tuple):
        return [(target, value)]
    values = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts) else [value] * len(target.elts)
    return list(zip(target.elts, values, strict=True))


def _constant(node: ast.stmt, target: ast.expr, value: ast.expr, comments: dict[int, str]) -> Thing:
    said = comments.get(node.lineno) or comments.get(node.end_lineno, "")
    return Thing(ast.unparse(target), "", "constant", said, gives=Value(ast.unparse(target), "", ast.unparse(value), said))


def _function(node: ast.FunctionDef, comments: dict[int, str]) -> Thing:
    "nbdev's rule: the comment on the line on which a parameter stands is its own; the last one on a line gets it."
    a = node.args
    args = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs, *([a.kwarg] if a.kwarg else [])]
    defaults = dict(zip([x.arg for x in (*a.posonlyargs, *a.args)][::-1], a.defaults[::-1], strict=False))
    defaults |= {x.arg: d for x, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if d is not None}
    lines = {x.lineno: x.arg for x in args} | ({node.returns.lineno: "return"} if node.returns else {})
    said = {name: comments.get(line, "") for line, name in lines.items()}
    stars = {id(a.vararg): "*", id(a.kwarg): "**"}
    takes = [Value(stars.get(id(x), "") + x.arg, _kind(x.annotation), ast.unparse(defaults[x.arg]) if x.arg in defaults else None,
                   said.get(x.arg) or _help(x.annotation)) for x in args if x.arg not in ("self", "cls")]
    gives = Value("", _kind(node.returns), None, said.get("return", ""))
    doc = ast.get_docstring(node) or ""
    return Thing(node.name, "", "function", doc, takes, gives, _errors(node, doc), decorators=[ast.unparse(d) for d in node.decorator_list])


def _errors(node: ast.FunctionDef, doc: str) -> list[str]:
    "Raised in it by name, or named by its docstring."
    thrown = [n.exc for n in ast.walk(node) if isinstance(n, ast.Raise) and n.exc]
    raised = [ast.unparse(e.func if isinstance(e, ast.Call) else e) for e in thrown]
    return list(dict.fromkeys([*ERROR.findall(" ".join(re.findall(r"`([^`]+)`", doc))), *filter(ERROR.fullmatch, raised)]))


def _kind(annotation: ast.expr | None) -> str:
    "A type as written; what Typer or pydantic want to know beside it is left out."
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated" and isinstance(annotation.slice, ast.Tuple):
        return _kind(annotation.slice.elts[0])
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    return ast.unparse(annotation) if annotation else ""


def _help(annotation: ast.expr | None) -> str:
    "What a command line's option says of itself."
    for node in ast.walk(annotation) if annotation else ():
        if isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant):
            return node.value.value
    return ""


def _class(node: ast.ClassDef, comments: dict[int, str]) -> Thing:
    fields, methods = [], []
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and not part.target.id.startswith("_"):
            fields.append(Value(part.target.id, _kind(part.annotation), ast.unparse(part.value) if part.value else None,
                                comments.get(part.end_lineno, "")))
        elif isinstance(part, ast.FunctionDef) and (not part.name.startswith("_") or part.name == "__init__"):
            methods.append(_function(part, comments))
    init = next((m for m in methods if m.name == "__init__"), None)
    return Thing(node.name, "", "class", ast.get_docstring(node) or (init.doc if init else ""), (init.takes if init else []) or fields,
                 methods=[m for m in methods if m is not init], bases=[ast.unparse(b) for b in node.bases],
                 decorators=[ast.unparse(d) for d in node.decorator_list])
