"Which pages the site has, in which order, from which file of the repository each is made."

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from . import api, commands, notebooks, params, service
from .links import Links

PARTS = (  # title, folder, numbers of the notebooks, what they are about
    ("Method", "method", range(0, 18), "From a price to a distribution, in the order in which it is built up. Each notebook is a module: "
     "why, define, show on real prices, assert."),
    ("Running it", "running", range(18, 27), "What turns the method into a pipeline: tracked, searched, gated, served, reported."),
    ("Production", "production", range(27, 34), "What happens after a model is served: journal, monitors, retraining, and the answer to "
     "'how did you not see it coming?'"),
    ("Team", "team", range(34, 100), "What several people share, and the command line that all of it is used from."),
)
HOWTOS = ("forecast", "explain", "service", "deploy", "replay", "remotes", "versions", "mlflow", "experiments", "notebooks")
REFERENCE = ("PERFORMANCE",)  # of docs/*.md
PICTURES = (".png", ".svg", ".jpg", ".webp")


@dataclass
class Page:
    "A page to be."
    uri: str  # seen from the site's root, ends in .md
    source: str  # the repository's file that it is made from; links in it are seen from there
    title: str
    lead: str  # one line
    text: Callable[[], str]

    @property
    def notebook(self) -> bool:
        return self.source.endswith(".ipynb")


class Book:
    "All pages, the menu, and files that go with them."

    def __init__(self, root: Path):
        self.root, self.package = root, api.Package(root)
        self.tracked = [path for path in _files(root) if (root / path).is_file()]
        self.pages: dict[str, Page] = {}
        self.menu: list[Any] = []
        self._build()
        self.pictures = {p: f"files/{p}" for p in self.tracked if p.endswith(PICTURES) and p.startswith(("nbs/", "docs/", "serve/"))}
        self.sources = {p.source: f"files/{p.source}" for p in self.pages.values() if p.notebook}
        files = {p.source: p.uri for p in self.pages.values()} | {f"docs/{uri}": uri for uri in (*self.pages, "openapi.json")}
        known = {"README.md": "index.md", "nbs": "method/index.md", "stockml": "api/index.md", "params.yaml": "params.md"}
        self.links = Links(root, known | files | self.pictures, self.package.names() | commands.names())

    def text(self, uri: str) -> str:
        "A page's Markdown, its links resolved."
        page = self.pages[uri]
        return self.links.resolve(page.text(), page.source, uri)

    def openapi(self) -> str:
        "The service's description as a file."
        return json.dumps(service.described(), indent=1)

    def _add(self, uri: str, title: str, text: Callable[[], str], source: str = "", lead: str = "") -> str:
        self.pages[uri] = Page(uri, source or f"docs/{uri}", title, lead, text)
        return uri

    def _build(self) -> None:
        home = notebooks.read(self.root / "nbs/index.ipynb")
        self.menu.append({"Home": self._add("index.md", "stockml", partial(_home, home), "nbs/index.ipynb")})
        for part in PARTS:
            self.menu.append({part[0]: self._part(*part)})
        self.menu.append({"How-tos": self._howtos()})
        self.menu.append({"Tutorials": self._tutorials()})
        self.menu.append({"Reference": self._reference()})

    def _part(self, title: str, folder: str, numbers: range, about: str) -> list[Any]:
        "Notebooks of nbs/ by number."
        found = [p for p in self.tracked if (m := re.fullmatch(r"nbs/(\d+)_\w+\.ipynb", p)) and int(m[1]) in numbers]
        menu = [self._notebook(path, f"{folder}/{Path(path).stem}.md") for path in sorted(found)]
        if folder == "running":
            menu.append({"Stages": [self._notebook(f"pipelines/{name}.ipynb", f"{folder}/stages/{name}.md") for name in self._stages()]})
        self._add(f"{folder}/index.md", title, partial(self._listed, title, about, [p for p in self.pages if p.startswith(f"{folder}/")]))
        return [f"{folder}/index.md", *menu]

    def _stages(self) -> list[str]:
        stages = yaml.safe_load((self.root / "dvc.yaml").read_text())["stages"]
        return [name for name in stages if f"pipelines/{name}.ipynb" in self.tracked]

    def _notebook(self, path: str, uri: str) -> dict[str, str]:
        book = notebooks.read(self.root / path)
        title, lead = notebooks.heading(book)
        number = re.match(r"\d+", Path(path).name)
        title = f"{number[0]} {title}" if number else title
        return {title: self._add(uri, title, partial(notebooks.page, book), path, lead)}

    def _listed(self, title: str, about: str, uris: list[str]) -> str:
        "The way into a part."
        rows = [f"| [{self.pages[u].title}](/{u}) | {notebooks.escape(self.pages[u].lead)} |" for u in uris]
        return f"# {title}\n\n> {about}\n\n| | |\n|---|---|\n" + "\n".join(rows).replace("](/", "](" + "../" * uris[0].count("/")) + "\n"

    def _markdown(self, path: str, uri: str) -> dict[str, str]:
        "A page that stands in the repository as it is."
        text = (self.root / path).read_text()
        title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), Path(path).stem)
        said = next((p for p in text.split("\n\n")[1:] if p.strip() and not p.lstrip().startswith(("#", "```", "|"))), "")
        lead = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", notebooks.first(" ".join(line.strip("> ") for line in said.splitlines())))
        return {title: self._add(uri, title, lambda: notebooks.spaced(text), path, lead)}

    def _howtos(self) -> list[Any]:
        there = [Path(p).stem for p in self.tracked if re.fullmatch(r"docs/[\w-]+\.md", p) and Path(p).stem not in REFERENCE]
        order = [*(n for n in HOWTOS if n in there), *sorted(set(there) - set(HOWTOS))]
        menu = [self._markdown(f"docs/{name}.md", f"howto/{name}.md") for name in order]
        menu.append(self._markdown("serve/monitoring/README.md", "howto/monitoring.md"))
        self._add("howto/index.md", "How-tos", partial(self._listed, "How-tos", "One task each, from the question to the command.",
                                                       [p for p in self.pages if p.startswith("howto/")]))
        return ["howto/index.md", *menu]

    def _tutorials(self) -> list[Any]:
        there = [p for p in self.tracked if re.fullmatch(r"nbs/tutorials/\w+\.ipynb", p)]
        found = sorted(there, key=lambda p: (Path(p).stem != "start", p))
        menu = [self._notebook(path, f"tutorials/{Path(path).stem}.md") for path in found]
        self._add("tutorials/index.md", "Tutorials", partial(self._listed, "Tutorials", "Notebooks to run yourself: `make lab` opens them.",
                                                             [p for p in self.pages if p.startswith("tutorials/")]))
        return ["tutorials/index.md", *menu]

    def _reference(self) -> list[Any]:
        self._add("api/index.md", "API", partial(api.index, self.package))
        homes = {notebooks.module_of(notebooks.read(self.root / p.source)): p.source for p in self.pages.values() if p.notebook}
        modules = [{name: self._add(f"api/{name}.md", f"stockml.{name}", partial(api.page, self.package, name, f"../../{homes[name]}"))}
                   for floor in self.package.floors for name in floor if name in self.package.modules]
        self._add("cli/index.md", "Command line", commands.index)
        verbs = [{name: self._add(f"cli/{name}.md", f"stockml {name}", partial(commands.page, name))} for name in commands.commands()]
        return [{"Command line": ["cli/index.md", *verbs]}, {"API": ["api/index.md", *modules]},
                {"params.yaml": self._add("params.md", "params.yaml", partial(params.page, self.root))},
                {"HTTP service": self._add("http.md", "HTTP service", service.page)},
                self._markdown("docs/PERFORMANCE.md", "performance.md"),
                self._markdown("scrapy_project/exchange/PROVENANCE.md", "provenance.md")]


def _files(root: Path) -> list[str]:
    "What git knows or would know; everything, outside of a clone."
    told = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, text=True)
    return told.stdout.splitlines() if told.returncode == 0 else sorted(str(p.relative_to(root)) for p in root.rglob("*"))


def _home(book: Any) -> str:
    "The README, and below its first words the ways in."
    head, _, rest = notebooks.page(book).partition("\n\n```sh")
    return f"---\nhide: [navigation]\n---\n\n{head}\n\n{WAYS}\n\n```sh{rest}"


WAYS = """<div class="grid cards" markdown>

- :material-chart-bell-curve: **[The method](../docs/method/index.md)**

    From a price to a distribution, notebook by notebook, with its formulas and checks.

- :material-console: **[How-tos](../docs/howto/index.md)**

    Forecast your own prices, run the service, deploy it, share data and experiments.

- :material-play-circle-outline: **[The crash, lived through](tutorials/crash.ipynb)**

    A replay of the day on which Apple fell by half, step by step.

- :material-book-open-variant: **[Reference](../docs/api/index.md)**

    Every function with shapes, units and errors; commands, parameters, HTTP.

</div>"""
