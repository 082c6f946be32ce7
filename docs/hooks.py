"What mkdocs calls: the pages come from `pages`, formulas are drawn, notebooks get a link to their source."

import logging
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))  # for serve; mkdocs takes it off again

from pages import formulas  # noqa: E402
from pages.book import Book  # noqa: E402

log = logging.getLogger("mkdocs.stockml")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    "Look at what there is; make the menu."
    config.extra["book"] = book = Book(ROOT)
    config.nav = book.menu
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    "Add the pages and what they show."
    book: Book = config.extra["book"]
    for file in [f for f in files if f.is_documentation_page()]:  # docs/*.md stand in the menu under other addresses
        files.remove(file)
    for uri in book.pages:
        try:
            files.append(File.generated(config, uri, content=book.text(uri)))
        except ValueError as e:
            log.warning(str(e))
    for path, uri in (book.pictures | book.sources).items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, "openapi.json", content=book.openapi()))
    for name in book.package.missing:
        log.warning(f"{name}: a comment beside it must say what it means")
    return files


def on_page_context(context: dict, page: Page, config: MkDocsConfig, nav: object) -> dict:
    "Templates see where a page's notebook is."
    context["source"] = config.extra["book"].sources.get(config.extra["book"].pages[page.file.src_uri].source)
    return context


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    "Draw the formulas."
    try:
        return formulas.draw(content)
    except ValueError as e:
        log.warning(f"{page.file.src_uri}: {e}")
        return content
