"JupyterLab as `make lab` opens it: the start page runs from top to bottom, and its plot is seen."

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import nbformat
import projects
import psutil
import pytest
from driver import Browser, find_browser
from processes import free_port, running

TOKEN = "lab"  # of a server on this machine, for the time of the test
START = "nbs/tutorials/start.ipynb"
LABEL = "[...document.querySelectorAll('{}')].find(e => e.textContent === '{}')"
QUEUED = "[...document.querySelectorAll('.jp-InputPrompt')].some(e => /\\*/.test(e.textContent))"
RUN = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].filter(e => /\\d/.test(e.textContent)).length"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    "A fresh clone, where nothing has run."
    folder = tmp_path_factory.mktemp("lab") / "project"
    folder.mkdir()
    return projects.clone(folder)


@pytest.fixture(scope="module")
def lab(project, tmp_path_factory) -> Iterator[str]:
    "The address of a JupyterLab there, of a user whose own kernel python3 is no good."
    home, port = tmp_path_factory.mktemp("home"), free_port()
    stray = home / "data/kernels/python3/kernel.json"
    stray.parent.mkdir(parents=True)
    stray.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "stray", "language": "python"}))
    folders = {f"JUPYTER_{what.upper()}_DIR": str(home / what) for what in ("data", "config", "runtime")}
    options = f"--no-browser --port={port} --ServerApp.port_retries=0 --allow-root --IdentityProvider.token={TOKEN}"
    command = ["make", "-s", "-o", "setup", f"VENV={sys.prefix}", "lab", f"LAB={options}"]
    env = projects.environment(project) | folders | {"HOME": str(home), "CI": "true", "PYTHONPATH": str(project)}
    with running(command, lambda: asked(port, "status"), home / "log", cwd=project, env=env):
        yield f"http://127.0.0.1:{port}"
        urlopen(Request(f"http://127.0.0.1:{port}/api/shutdown?token={TOKEN}", method="POST"), timeout=20).close()


def asked(port: int | str, what: str) -> dict:
    "An answer of the server's API."
    with urlopen(f"http://127.0.0.1:{port}/api/{what}?token={TOKEN}", timeout=20) as answer:
        return json.load(answer)


@pytest.fixture
def browser(tmp_path):
    if (binary := find_browser()) is None:
        pytest.skip("no Chromium here; Debian's package chromium has it")
    chromium = Browser(binary, tmp_path)
    yield chromium
    chromium.close()


def choose(browser: Browser, menu: str, item: str) -> None:
    "Choose from a menu with the mouse."
    for kind, label in ((".lm-MenuBar-itemLabel", menu), (".lm-Menu-itemLabel", item)):
        browser.wait("!!" + LABEL.format(kind, label))
        x, y = browser.run(f"(() => {{ const b = {LABEL.format(kind, label)}.getBoundingClientRect()\nreturn [b.x + 5, b.y + 5] }})()")
        for event in ("mouseMoved", "mousePressed", "mouseReleased"):
            browser.call("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", clickCount=1)


def test_start_page_runs_and_shows_its_plot(lab, browser, project):
    browser.open(f"{lab}/?token={TOKEN}", height=5000)  # JupyterLab draws only what is in sight
    browser.wait("document.querySelectorAll('.jp-NotebookPanel .jp-Cell').length > 5", 60)
    browser.wait("document.querySelector('.jp-RenderedMarkdown img')?.naturalWidth > 300")
    assert browser.run("document.querySelector('#jp-main-dock-panel .lm-TabBar-tab.lm-mod-current').innerText").strip() == "start.ipynb"
    browser.wait("document.querySelector('.jp-NotebookPanel-toolbar').innerText.includes('Python 3')")
    browser.wait("!!document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')", 60)
    choose(browser, "Run", "Run All Cells")
    cells = [c for c in nbformat.read(project / START, as_version=4).cells if c.cell_type == "code"]
    browser.wait(f"{RUN} === {len(cells)} && !{QUEUED}", 60)
    assert browser.run("[...document.querySelectorAll('.jp-OutputArea-output img')].map(i => i.naturalWidth > 300)") == [True]
    assert browser.run("document.querySelectorAll('[data-mime-type=\"application/vnd.jupyter.stderr\"], .jp-mod-error').length") == 0
    text = browser.run("document.querySelector('.jp-Notebook').innerText")
    assert "Traceback" not in text
    assert "stages     tagged, and without outputs" in text  # of stockml doctor
    assert "not yet" in text
    assert [u for u in browser.requests() if not u.startswith((lab, lab.replace("http", "ws"), "data:", "blob:"))] == []
    if folder := os.environ.get("PICTURES"):
        browser.picture(Path(folder) / "lab.png", whole=False)


def test_stages_run_at_the_root_and_other_notebooks_in_their_folder(lab, project):
    server = psutil.Process(next(c.pid for c in psutil.net_connections("tcp") if c.laddr.port == int(lab.rpartition(":")[2]) and c.pid))
    for path, folder in (("pipelines/features.ipynb", project), ("nbs/00_config.ipynb", project / "nbs")):
        before = {p.pid for p in server.children()}
        body = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        urlopen(Request(f"{lab}/api/sessions?token={TOKEN}", json.dumps(body).encode()), timeout=20).close()  # noqa: S310
        [kernel] = [p for p in server.children() if p.pid not in before]
        assert Path(kernel.cwd()) == folder
        assert Path(kernel.cmdline()[0]).parent == projects.BIN
