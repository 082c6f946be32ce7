"The documentation site is built once, strictly, and looked at: links, what it loads, what the reference says of whom, and in a browser."

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import lxml.html
import pytest
import typer.main
from browser.driver import Browser, find_browser

from serve.openapi import document
from stockml.cli import app
from stockml.config import Params

LOADED = (("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("object", "data"))


@pytest.fixture(scope="module")
def site(root, tmp_path_factory) -> Path:
    "The site as `make docs` builds it, in a folder of its own."
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=root, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, ""), done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, lxml.html.HtmlElement]:
    "Every page, parsed."
    return {path: lxml.html.parse(str(path)).getroot() for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


@pytest.fixture(scope="module")
def made(root):
    "The package that makes the pages."
    sys.path.insert(0, str(root / "docs"))
    try:
        yield importlib.import_module("pages")
    finally:
        sys.path.remove(str(root / "docs"))


def text(element) -> str:
    return " ".join(element.text_content().split())


def test_every_link_and_anchor_leads_somewhere(pages):
    ids = {path: page.xpath("//@id") for path, page in pages.items()}
    assert not {path.name: twice for path, there in ids.items() if (twice := {i for i in there if there.count(i) > 1})}, "ids used twice"
    lost, outside = [], set()
    for path, page in pages.items():
        for link in page.xpath("//a[@href]"):
            to = urlsplit(link.get("href"))
            if to.scheme:
                outside.add(link.get("href"))
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            if not target.is_file() or (to.fragment and target in ids and unquote(to.fragment) not in ids[target]):
                lost.append(f"{path.name}: {link.get('href')}")
    assert not lost
    assert all(re.fullmatch(r"mailto:\S+|https://[a-z0-9-]+(\.[a-z0-9-]+)+(/\S*)?", link) for link in outside), outside


def test_nothing_is_loaded_from_another_host(site, pages):
    for path, page in pages.items():
        for tag, attribute in LOADED:
            for value in page.xpath(f"//{tag}/@{attribute}"):
                assert value.startswith("data:") or (path.parent / urlsplit(value).path).is_file(), f"{path.name}: <{tag}> {value}"
    for sheet in site.rglob("*.css"):
        assert not [u for u in re.findall(r"url\(([^)]*)\)", sheet.read_text()) if "//" in u and "data:" not in u and "w3.org" not in u]
        assert "@import" not in sheet.read_text()


def sections(page) -> dict[str, list]:
    "Anchor of each heading -> the elements below it, up to the next one."
    out, at = {}, None
    for element in page.xpath("//article/*"):
        if element.tag in ("h1", "h2", "h3"):
            at = out.setdefault(element.get("id"), [])
        elif at is not None:
            at.append(element)
    return out


def parameters(below: list) -> dict[str, str]:
    "Name -> meaning, of the table that says parameter or field."
    tables = [t for part in below for t in part.xpath("self::table | .//table") if text(t.xpath(".//th")[0]) in ("parameter", "field")]
    rows = [row for table in tables for row in table.xpath(".//tbody/tr")]
    return {text(r[0]).lstrip("*"): text(r[-1]) for r in rows}


def documented(thing) -> dict[str, list[str]]:
    "Of a public function or class: anchor -> names of the parameters, of itself and of its methods."
    if inspect.isfunction(thing):
        return {thing.__name__: list(inspect.signature(thing).parameters)}
    methods = {name: m for name, m in vars(thing).items() if inspect.isfunction(m) and not name.startswith("_")}
    return {f"{thing.__name__}-{name}": list(inspect.signature(m).parameters)[1:]
            for name, m in methods.items() if m.__module__ == thing.__module__ and m.__name__ != "<lambda>"}


def test_every_public_name_is_in_the_reference_and_every_parameter_has_a_meaning(root, site, pages):
    count, untold = 0, []
    for path in sorted((root / "stockml").glob("[a-z]*.py")):
        module, page = importlib.import_module(f"stockml.{path.stem}"), pages[site / f"api/{path.stem}.html"]
        below, ids = sections(page), set(page.xpath("//@id"))
        for name in module.__all__:
            assert name in ids, f"{path.stem}.{name} is not in the reference"
            thing = inspect.unwrap(getattr(module, name))
            for anchor, names in documented(thing).items() if inspect.isfunction(thing) or inspect.isclass(thing) else ():
                said = parameters(below[anchor])
                assert list(said) == names, f"{path.stem}.{anchor}: {said}"
                untold += [f"{path.stem}.{anchor}: {name}" for name, meaning in said.items() if not meaning]
                count += len(said)
    assert count > 800 and not untold


def test_every_command_and_option_is_in_the_reference(site, pages):
    def walk(name, command):
        yield name, command
        for below, sub in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {below}", sub)

    for top, command in typer.main.get_command(app).commands.items():
        page = pages[site / f"cli/{top}.html"]
        for name, sub in walk(top, command):
            assert any(text(h).startswith(f"stockml {name}") for h in page.xpath("//h1 | //h2")), name
            shown = {text(code) for code in page.xpath("//td/code")}
            flags = {flag for p in sub.params if p.name != "help" for flag in p.opts if flag.startswith("-")}
            assert flags <= shown, f"{name}: {flags - shown}"
        assert f"{top}.html" in {a.partition("#")[0] for a in pages[site / "cli/index.html"].xpath("//article//a/@href")}


def test_every_endpoint_field_and_parameter_is_in_the_reference(site, pages):
    api, page = document(keys=True), text(pages[site / "http.html"])
    assert json.loads((site / "openapi.json").read_text()) == json.loads(json.dumps(api))
    for path, item in api["paths"].items():
        assert all(f"{method.upper()} {path}" in page for method in item)
    for name, schema in api["components"]["schemas"].items():
        said = sections(pages[site / "http.html"])[name.lower()]
        assert set(schema.get("properties", {})) == {text(r[0]) for part in said for r in part.xpath(".//tbody/tr")}
    keys = {text(code) for code in pages[site / "params.html"].xpath("//td[1]/code")}
    assert keys == {f"{section}.{key}" for section, f in Params.model_fields.items() for key in f.annotation.model_fields}


def test_notebooks_are_there_without_what_is_only_for_nbdev(root, site, pages):
    books = [*sorted((root / "nbs").glob("[0-9]*.ipynb")), *(root / "nbs/tutorials").glob("*.ipynb"), *(root / "pipelines").glob("*.ipynb")]
    links = {Path(path.parent / a).resolve(): path for path, page in pages.items() for a in page.xpath("//a[@download]/@href")}
    for book in books:
        path = links[site / "files" / book.relative_to(root)]
        assert (site / "files" / book.relative_to(root)).read_bytes() == book.read_bytes()
        code = "\n".join(pre.text_content() for pre in pages[path].xpath("//article//pre"))
        assert not re.search(r"#\|\s*(export|hide|default_exp|eval)|nbdev_export\(", code), path.name
        cells = json.loads(book.read_text())["cells"]
        exported = {f"cell-{c['id']}" for c in cells if c["cell_type"] == "code" and re.match(r"#\|\s*export\b", "".join(c["source"]))}
        assert exported <= set(pages[path].xpath("//@id")), path.name


def test_formulas_are_drawn(site, pages):
    page = pages[site / "method/13_explain.html"]
    drawn = page.xpath("//*[local-name()='svg' and contains(@class, 'formula')]")
    assert len(drawn) > 10 and all(f.xpath(".//*[local-name()='path']") for f in drawn)
    for path, page in pages.items():
        assert "arithmatex" not in " ".join(page.xpath("//@class")), path.name


def test_what_would_mislead_stops_the_build(root, made, tmp_path):
    api, formulas, links = (importlib.import_module(f"pages.{name}") for name in ("api", "formulas", "links"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "there.txt").write_text("")
    files, names = {"docs/b.md": "howto/b.md", "nbs/1.ipynb": "method/1.md"}, {"stockml.files.plain": "api/files.md#plain"}
    known = links.Links(tmp_path, files, names)
    text = "[a](b.md#x) [n](../nbs/1.ipynb), [t](../there.txt), `stockml.files.plain`\n```\n[c](d.md)\n```\n"
    assert known.resolve(text, "docs/a.md", "howto/a.md") == (
        "[a](b.md#x) [n](../method/1.md), t, [`stockml.files.plain`](../api/files.md#plain)\n```\n[c](d.md)\n```\n")
    with pytest.raises(ValueError, match=r"docs/a\.md: a link leads nowhere: gone\.md"):
        known.resolve("[a](gone.md)", "docs/a.md", "howto/a.md")
    with pytest.raises(ValueError, match="not LaTeX that can be drawn"):
        formulas.drawn(r"\frac{", True)
    (tmp_path / "stockml").mkdir()
    (tmp_path / "stockml/odd.py").write_text('__all__ = ["f"]\ndef f(\n    a: int, # said\n    qqq: int,\n) -> int:\n    "Odd."\n')
    (tmp_path / ".importlinter").write_text("[importlinter:contract:floors]\nlayers =\n    odd\n")
    package = api.Package(tmp_path)
    assert "| `a`{ .whole } | `int`{ .whole } | said |" in api.page(package, "odd", "x.ipynb")
    assert package.missing == ["odd.f.qqq"]


def test_opens_from_disk_with_search_and_formulas(site, tmp_path):
    if not (binary := find_browser()):
        pytest.skip("no Chromium here")
    browser = Browser(binary, tmp_path)
    try:
        browser.open((site / "method/13_explain.html").as_uri())
        assert browser.run("document.querySelector('div.formula svg').getBoundingClientRect().height") > 30
        assert browser.run("getComputedStyle(document.querySelector('.define')).borderLeftStyle") == "solid"
        browser.run("document.querySelector('#__search').click()")
        browser.run("""(() => { const q = document.querySelector("[data-md-component=search-query]"); q.focus(); q.value = "pinball"
            for (const kind of ["keyup", "input"]) q.dispatchEvent(new Event(kind, {bubbles: true})) })()""")
        browser.wait("document.querySelectorAll('.md-search-result__item').length > 2")
        assert any("score" in a for a in browser.run("[...document.querySelectorAll('a.md-search-result__link')].map(a => a.href)"))
        assert {urlsplit(r).scheme for r in browser.requests()} <= {"file", "data", "blob"}
        assert browser.complaints() == []
        browser.open((site / "api/features.html").as_uri(), width=390, height=844, dark=True)
        assert browser.run("document.documentElement.scrollWidth") <= 390, "a phone would have to scroll sideways"
    finally:
        browser.close()
