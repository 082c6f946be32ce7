"A notebook as a page: what a reader wants, without what only nbdev needs."

import ast
import html
import json
import re
from pathlib import Path
from types import SimpleNamespace

DIRECTIVE = re.compile(r"^#\|\s*(\S+).*\n?", re.MULTILINE)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
ITEM = r"([-*]|\d+\.) "
PICTURES = {"image/png": "png", "image/jpeg": "jpeg"}


def read(path: Path) -> SimpleNamespace:
    "A notebook of the repository, in the form that nbdev writes."
    cells = json.loads(path.read_text(), object_hook=lambda d: d | {k: "".join(v) for k, v in d.items() if _lines(v)})["cells"]
    return SimpleNamespace(cells=[SimpleNamespace(**{"id": "", "outputs": []} | cell) for cell in cells])


def _lines(value: object) -> bool:
    "Text, as notebooks keep it."
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def heading(book: SimpleNamespace) -> tuple[str, str]:
    "Its title, and the subtitle that follows as a quote."
    lines = book.cells[0].source.splitlines()
    title = next((line[2:] for line in lines if line.startswith("# ")), "")
    return title, " ".join(line[1:].strip() for line in lines if line.startswith(">"))


def module_of(book: SimpleNamespace) -> str:
    "The module that it is exported to; empty if to none."
    found = re.search(r"^#\|\s*default_exp (\S+)", "\n".join(c.source for c in book.cells if c.cell_type == "code"), re.MULTILINE)
    return found[1] if found else ""


def page(book: SimpleNamespace) -> str:
    "Its cells as Markdown; each exported one under the anchor `cell-<id>`."
    module = module_of(book)
    return "\n\n".join(filter(None, (spaced(c.source) if c.cell_type == "markdown" else _code(c, module) for c in book.cells))) + "\n"


def spaced(source: str) -> str:
    "A list that follows a paragraph at once gets the blank line that Python-Markdown asks for."
    parts = re.split(r"(^```.*?^```)", source, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if i % 2 else _spaced(part) for i, part in enumerate(parts))


def _spaced(text: str) -> str:
    out: list[str] = []
    for line in text.split("\n"):
        if re.match(ITEM, line) and out and out[-1].strip() and not re.match(rf"{ITEM}|\s", out[-1]):
            out.append("")
        out.append(line)
    return "\n".join(out)


def _code(cell: SimpleNamespace, module: str) -> str:
    "What a cell says and what came out of it; nothing of cells that are there for nbdev."
    told = set(DIRECTIVE.findall(cell.source))
    source = DIRECTIVE.sub("", cell.source).strip()
    if told & {"hide", "default_exp"} or not source:
        return ""
    fence = f"```` python\n{source}\n````"
    if "export" in told:
        fence = _define(fence, cell.id, module, ast.parse(source).body)
    return "\n\n".join([fence, *filter(None, map(_output, cell.outputs))])


def _define(fence: str, cell: str, module: str, body: list[ast.stmt]) -> str:
    "A cell that becomes part of the package, below links to its names in the reference. Search leads there too, not here."
    if all(isinstance(node, ast.Import | ast.ImportFrom) for node in body):
        summary = "<summary>What it imports</summary>"
        return f'<details class="imports" id="cell-{cell}" data-search-exclude markdown>\n{summary}\n\n{fence}\n\n</details>'
    defined = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")]
    names = [f"`stockml.{module}`", *(f"[`{name}`](../docs/api/{module}.md#{name})" for name in defined)]
    label = f'<p class="names" markdown>{" ".join(names)}</p>'
    return f'<div class="define" id="cell-{cell}" data-search-exclude markdown>\n\n{label}\n\n{fence}\n\n</div>'


def _output(out: dict) -> str:
    "The richest form that needs no script."
    data = out.get("data", {})
    for kind, name in PICTURES.items():
        if kind in data:
            return f'<p class="plot"><img alt="What the cell drew" src="data:image/{name};base64,{"".join(data[kind].split())}"></p>'
    if "image/svg+xml" in data:
        return f'<div class="plot">{_one_block(data["image/svg+xml"])}</div>'
    if "<table" in data.get("text/html", "") and "<script" not in data["text/html"]:
        return f'<div class="output">{_table(data["text/html"])}</div>'
    if "text/markdown" in data:
        return data["text/markdown"]
    text = ANSI.sub("", out.get("text") or data.get("text/plain") or "\n".join(out.get("traceback", []))).rstrip()
    return f"```` {{ .text .output }}\n{text}\n````" if text else ""


def _table(text: str) -> str:
    "A table of pandas, without its own style."
    text = re.sub(r"<style.*?</style>|<p>\d+ rows.*?</p>", "", text, flags=re.DOTALL)
    return _one_block(re.sub(r'<table[^>]*>', "<table>", re.sub(r' style="[^"]*"', "", text)))


def _one_block(text: str) -> str:
    "HTML that no blank line cuts in two."
    return "".join(line.strip() + "\n" for line in text.splitlines() if line.strip()).strip()


def escape(text: str) -> str:
    "Text for a table of Markdown; code in it stays as it is."
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if i % 2 else html.escape(part, quote=False).replace("|", "&#124;") for i, part in enumerate(parts))


def code(text: str | None) -> str:
    "Code for a cell of a table; what is short is not broken."
    return f"`{text}`" + ("{ .whole }" if len(text) <= 28 else "") if text else ""


def first(text: str) -> str:
    "The first sentence."
    return re.split(r"(?<=\.)\s", text.strip(), maxsplit=1)[0]
