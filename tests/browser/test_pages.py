import re
from urllib.parse import unquote

import pytest

from stockml.files import read_json

STAGES = ["ingest", "features", "search", "train", "evaluate", "backtest", "drift", "promote"]
MEASURE = """<script>
for (const i of document.images) { i.dataset.width = i.naturalWidth; i.dataset.height = i.naturalHeight }
document.body.dataset.overflow = document.documentElement.scrollWidth - window.innerWidth</script>"""


@pytest.fixture(scope="module")
def index(open_page, project):
    return open_page(project / "reports/index.html")


@pytest.fixture
def measured(open_page, project):
    "The way in again, with the sizes of its pictures as the browser sees them written into the page."
    copy = project / "reports/measured.html"
    text = (project / "reports/index.html").read_text()
    copy.write_text(text.replace("</body>", f"<script>window.onload = () => {{ {MEASURE[8:-9]} }}</script></body>"))
    yield open_page(copy)
    copy.unlink()


def test_the_browser_would_tell_of_errors_and_broken_pictures(open_page, tmp_path):
    (tmp_path / "bad.html").write_text(f'<p>x</p><img src="none.png">{MEASURE}<script>throw new Error("boom")</script>')
    page = open_page(tmp_path / "bad.html")
    assert page.console == ["Uncaught Error: boom"]
    assert page.all("img")[0]["data-width"] == "0"


def test_index_shows_forecast_skill_money_and_state(index):
    assert "<title>stockml, as of 2004-12-31</title>" in index.dom
    for text in ("AAPL from 2004-12-31", "next day", "Skill, out of sample since 2001-01-01",
                 "Backtest, 200,000 EUR in AAPL",
                 "on 2000-09-29", "Drift: ", "Gate: promoted"):
        assert text in index.dom
    assert index.console == []


def test_index_leads_to_files_that_exist(index, project):
    links = [unquote(a["href"]) for a in index.all("a")]
    targets = [(project / "reports" / link).resolve() for link in links]
    assert [t for t in targets if not (t.is_file() and t.stat().st_size)] == []
    assert all(t.is_relative_to(project) for t in targets)
    assert {f"../runs/{s}.html" for s in STAGES} | {"drift.html", "forecasts.parquet"} <= set(links)


def test_pictures_of_the_index_load(measured):
    pictures = measured.all("img")
    assert [p["alt"] for p in pictures] == ["fan.png", "reliability.png", "equity.png"]
    assert all(int(p["data-width"]) > 300 and int(p["data-height"]) > 100 for p in pictures)
    [body] = measured.all("body")
    assert int(body["data-overflow"]) <= 0  # nothing sticks out sideways
    assert measured.console == []


def test_drift_report_draws_its_plots(open_page, project, tmp_path):
    "The page alone, as someone would mail it, with the number of its plots that have colour written into it."
    source = (project / "reports/drift.html").read_text()
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="http', source)
    count = """<script>setTimeout(() => {
        const painted = c => c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some(v => v)
        document.body.dataset.painted = [...document.querySelectorAll("canvas")].filter(painted).length
    }, 5000)</script>"""
    (tmp_path / "drift.html").write_text(source + count)
    page, found = open_page(tmp_path / "drift.html"), read_json(project / "metrics/drift.json")
    text = re.sub(r"<script.*?</script>", "", page.dom.partition("<body")[2], flags=re.S)
    assert f"Drift is detected for {found['share']:.1%}"[:-3] in text
    assert f"({found['drifted']} out of {found['features']})" in text
    plots = len(page.all("canvas"))
    assert plots == 2 * min(10, found["features"])  # the first ten features, each in both windows
    assert int(page.all("body")[0]["data-painted"]) == plots
    assert page.console == []


@pytest.mark.parametrize("stage", STAGES)
def test_page_of_a_notebook_opens_without_a_network(open_page, project, stage):
    page = open_page(project / f"runs/{stage}.html")
    assert page.console == []
    assert f"{STAGES.index(stage) + 1} · {stage}" in page.dom
    assert not [s["src"] for s in page.all("script") if s.get("src", "").startswith("http")]
