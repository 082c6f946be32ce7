"The pages of the main job, which runs once a session, and a headless Chromium to open them."

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import projects
import pytest

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=10000"]


class Page(NamedTuple):
    "A page as the browser made it of its source."
    dom: str
    console: list[str] # what was written to the console, errors among it

    def all(self, tag: str) -> list[dict[str, str]]:
        "The attributes of every such element."
        found = []

        class Parser(HTMLParser):
            def handle_starttag(self, name, attrs):
                if name == tag:
                    found.append({k: v or "" for k, v in attrs})

        Parser().feed(self.dom)
        return found


@pytest.fixture(scope="session")
def open_page(tmp_path_factory) -> Callable[[Path], Page]:
    "Opens a file in Chromium."
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here; Debian's package chromium has it")
    profile = tmp_path_factory.mktemp("chromium")

    def opened(path: Path) -> Page:
        done = subprocess.run([browser, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()],
                              capture_output=True, text=True, timeout=120, check=True)
        return Page(done.stdout, re.findall(r'CONSOLE[:(]\d+\)?\] "(.*)", source:', done.stderr))

    return opened


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    "The folder of a clone after `stockml run`."
    main_job = projects.pair(tmp_path_factory.getbasetemp() / "projects")[0]
    assert main_job.code == 0, main_job.err
    return main_job.folder
