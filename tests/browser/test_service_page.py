"The page for people, in a real Chromium, against the real service under its own policy."

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
from driver import Browser, find_browser

from serve.body import MAX_BARS
from stockml.features import MIN_BARS
from stockml.prices import read_bars

PAGE = Path(__file__).resolve().parents[2] / "serve/page"
READY = "document.querySelectorAll('#horizons input').length === 2"
DONE = "document.querySelector('#panel').innerText && !document.querySelector('#result').hidden"
TEXT = "document.querySelector('{}').innerText"


@contextmanager
def serving(root: Path, bundle: Path, log: Path, **env: str) -> Iterator[str]:
    "The address of a service of its own."
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {**os.environ, "STOCKML_MODEL": str(bundle), "PORT": str(port), "WEB_CONCURRENCY": "1", **env}
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "gunicorn", "-c", "serve/gunicorn.conf.py", "serve.app:create_app()"],
                                   cwd=root, env=env, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 60
        while _ask(port, "GET", "/readyz")[0] != 200:
            assert time.monotonic() < deadline and process.poll() is None, f"not ready: {log.read_text()}"
            time.sleep(.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


def _ask(port: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    "Status and body of one request; 0 if nobody answers."
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


@pytest.fixture(scope="module")
def service(root, bundle_folder, tmp_path_factory):
    "The address of the service that most tests ask."
    with serving(root, bundle_folder, tmp_path_factory.mktemp("service") / "log") as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    "One Chromium for all tests."
    if (binary := find_browser()) is None:
        pytest.skip("no Chromium here; Debian's package chromium has it")
    chromium = Browser(binary, tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser, service):
    "The page, opened; whatever a test does with it, nothing leaves this service and nothing is complained about."
    browser.open(service)
    browser.wait(READY)
    yield browser
    assert [u for u in browser.requests() if not u.startswith((service, "data:", f"blob:{service}"))] == []
    assert browser.complaints() == []


@pytest.fixture(scope="module")
def sample() -> str:
    "The bundled CSV."
    return (PAGE / "sample.csv").read_text()


def _text(page: Browser, selector: str) -> str:
    return page.run(TEXT.format(selector))


def _use_sample(page: Browser) -> None:
    page.click("#sample")
    page.wait(DONE)


def test_sample_is_the_end_of_the_snapshot(snapshot):
    bars = read_bars(snapshot, tickers=["AAPL"]).tail(520).drop(columns="ticker").reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_csv(PAGE / "sample.csv", parse_dates=["date"]), bars, check_dtype=False)


def test_page_stays_small_and_agrees_with_the_service():
    scripts = {p.name: p.read_text() for p in PAGE.glob("*.js")}
    assert sum(map(len, scripts.values())) < 30_720
    assert f"MIN_BARS = {MIN_BARS}, MAX_BARS = {MAX_BARS}" in scripts["csv.js"]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", "".join([*scripts.values(), (PAGE / "style.css").read_text()]))


def test_one_click_shows_chart_table_verdict_and_reasons(page):
    _use_sample(page)
    assert _text(page, "#headline") == "AAPL closed at 311.00 on 5 Aug 2026"
    assert "For 3 Sept 2026 (month), 80% of outcomes should lie between" in _text(page, "#lead")
    assert page.run("document.querySelectorAll('#fan path').length") == 5  # three bands, the median, the history
    assert "NaN" not in page.run("document.querySelector('#fan').outerHTML")
    rows = _text(page, "#quantiles").splitlines()
    assert rows[0].split("\t")[1:6] == ["2.5%", "5%", "10%", "25%", "Median"]
    assert re.search(r"Month\n3 Sept 2026\n?.*\d\d\d\.\d\d\n−\d+\.\d%", _text(page, "#quantiles"))
    assert page.run("[...document.querySelectorAll('#verdicts li')].map(e => e.children[0].innerText)") == ["Next day", "Month"]
    assert re.fullmatch(r"(✓ Skill shown|– No skill shown)", page.run("document.querySelector('#verdicts li').children[1].innerText"))
    assert "nobody can tell from prices" in _text(page, "main")
    assert page.run("document.querySelectorAll('.factors li').length") > 3
    assert "AAPL from 2026-08-05, 21 sessions: " in _text(page, "#panel")
    assert "forecast for AAPL is here" in page.run("document.querySelector('[role=status]').textContent")


def test_answer_is_the_service_own(page, service, sample):
    _use_sample(page)
    bars = pd.read_csv(PAGE / "sample.csv").to_dict("records")
    body = json.dumps({"ticker": "AAPL", "bars": bars})
    median = json.loads(_ask(urlsplit(service).port, "POST", "/v1/forecast", body)[1])["forecasts"][1]["prices"]["0.5"]
    assert f"{median:.2f}" in _text(page, "#quantiles tbody tr:last-child .median")
    assert f"{median:.2f}" in page.run("document.querySelector('#fan').textContent")


def test_chart_has_a_text_and_is_read_by_pointer_and_keys(page):
    _use_sample(page)
    label = page.run("document.querySelector('#fan').getAttribute('aria-label')")
    assert re.search(r"a fan that widens until 3 Sept 2026: 95%:\s\d+", label)
    x, y = page.middle("#scrub")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert re.fullmatch(r"\d+ \w+ 2026: \d+\.\d\d", _text(page, "#readout"))
    page.run("document.querySelector('#scrub').focus()")
    page.press("End")
    assert _text(page, "#readout").startswith("3 Sept 2026, month: median")
    page.press("ArrowLeft")
    assert page.run("document.querySelector('#scrub').getAttribute('aria-valuetext')").startswith("6 Aug 2026, next day: median")
    before = page.run("document.querySelector('.median').getAttribute('d')")
    page.click("#linear")
    assert page.run("document.querySelector('#linear').getAttribute('aria-pressed')") == "true"
    assert page.run("document.querySelector('.median').getAttribute('d')") != before


def test_horizons_are_chosen_and_reasons_have_tabs(page):
    _use_sample(page)
    page.click("#tab-1")
    assert "1 session: " in _text(page, "#panel")
    page.press("ArrowRight")
    assert page.run("document.activeElement.id") == "tab-21"
    assert "21 sessions: " in _text(page, "#panel")
    page.click("#horizons label:last-of-type")
    page.wait("document.querySelectorAll('#quantiles tbody tr').length === 1")
    page.click("#horizons label:first-of-type")
    page.wait("document.querySelector('#horizons-errors').innerText === 'Choose at least one.'")


def test_keyboard_alone_is_enough(page):
    for _ in range(20):
        page.press("Tab")
        if page.run("document.activeElement.id") == "sample":
            break
    page.press("Enter")
    page.wait(DONE)
    seen = set()
    for _ in range(30):
        page.press("Tab")
        seen.add(page.run("document.activeElement.id || document.activeElement.className || document.activeElement.value"))
    assert {"choose", "ticker", "1", "21", "go", "log", "linear", "scrub", "scroll", "tab-21", "panel", "save-answer", "save-request",
            "curl"} <= seen


def test_untidy_csv_is_read(page, sample):
    rows = [line.split(",") for line in sample.splitlines()[1:101]]
    head = '\ufeff"Adj Close";DATE;Symbol;Close/Last;Note'
    table = [f'"{c}";{d[8:]}.{d[5:7]}.{d[:4]};apl;{c};'.replace(f"{c}", c.replace(".", ",")) for d, *_, c, _ in rows]
    page.paste("#csv", "\r\n".join([head, "", *reversed(table), "", ""]))
    page.wait(DONE)
    assert page.run("document.querySelector('#ticker').value") == "APL"
    assert _text(page, "#read") == f"100 sessions, 10 Jul 2024 to {_text(page, '#headline').partition(' on ')[2]}. Not used: Note."
    assert _text(page, "#headline").startswith(f"APL closed at {float(rows[-1][5]):.2f} on ")


@pytest.mark.parametrize(("spoil", "told"), [
    (lambda t: t.replace(",225.615616", ",x225.615616", 1), r"Line 3 ?close “x225.615616” is no number"),
    (lambda t: re.sub(r"^2024-07-12,", "2024-02-30,", t, flags=re.M), r"Line 4 ?“2024-02-30” is no date; write it like 2026-01-31"),
    (lambda t: re.sub(r"^(2024-07-15,).*", r"\g<1>1,1,1,-2,1,5", t, flags=re.M), r"Line 5 ?close “-2” must be above zero"),
    (lambda t: re.sub(r"^(2024-07-15,).*", r"\g<1>9,5,1,2,2,5", t, flags=re.M),
     r"Line 5 ?open and close must lie between low and high"),
    (lambda t: t + "2199-01-04,1,1,1,1,1,1\n", r"Line 522 ?date 2199-01-04 is after "),
    (lambda t: t + "2026-08-05,1,1,1,1,1,1\n", r"Line 522 ?2026-08-05 stands in line 521 too, with other values"),
    (lambda t: t.replace("2024-07-10,227.", "2024-07-10,1,227."), r"Line 2 ?has more values than there are columns: 8"),
    (lambda t: t + "1970-01-01,-1,1,1,1,1,1\n", r"Line 522 ?open “-1” must be above zero"),
    (lambda t: "date,close,constructor\n2024-01-02,,x", r"0 sessions are too few"),
    (lambda t: t.replace("close", "end"), r"Line 1 ?should name the columns, close among them; it says: date, open, high, low, end, "),
    (lambda t: "\n".join(t.splitlines()[:20]), r"19 sessions are too few; 67 are needed\."),
    (lambda t: "PK\x03\x04", r"This is no text\. Save a workbook as CSV first\."),
    (lambda t: "<!doctype html>\n<p>Not found", r"Line 1 ?should name the columns, date and close among them; it says: <!doctype html>.*"),
])
def test_broken_csv_is_told_of_by_line(page, sample, spoil, told):
    page.paste("#csv", spoil(sample))
    message = page.wait("document.querySelector('#csv-errors').innerText")
    assert re.match(told, message.replace("\n", " ")), message
    assert page.run("document.querySelector('#result').hidden")
    assert page.run("document.querySelector('#csv').getAttribute('aria-invalid')") == "true"


def test_line_of_an_error_is_selected_in_the_text(page, sample):
    page.paste("#csv", sample.replace("2024-08-15", "2024-8-x"))
    page.wait("!!document.querySelector('.line')")
    page.click(".line")
    assert page.run("getSelection().toString()").startswith("2024-8-x,")
    assert page.run("document.querySelector('#csv').scrollTop") > 0  # and in sight


def test_files_are_dropped_and_chosen(page, sample, tmp_path):
    (tmp_path / "MSFT_daily.csv").write_text(sample)
    page.drop("body", tmp_path / "MSFT_daily.csv")
    page.wait(DONE)
    assert _text(page, "#headline").startswith("MSFT closed at 311.00")
    (tmp_path / "prices.csv").write_text(sample.replace("311.0,311.0,", "312.0,312.0,").replace(",311.709991", ",313"))
    page.choose("#file", tmp_path / "prices.csv")
    page.wait(TEXT.format("#headline") + ".startsWith('STOCK closed at 312.00')")


def test_file_of_several_stocks_wants_a_choice(page, sample):
    head, *lines = sample.splitlines()
    both = "\n".join([f"ticker,{head}", *(f"{t},{line}" for t in ("AAA", "BBB") for line in lines)])
    page.paste("#csv", both)
    page.wait(TEXT.format("#ticker-errors") + " === 'The file holds 2 stocks. Type one: AAA, BBB …'")
    page.run("document.querySelector('#ticker').focus()")
    for key in ("b", "b", "b", "Enter"):
        page.press(key)
    page.wait(TEXT.format("#headline") + ".startsWith('BBB closed')")


def test_answer_is_downloaded_and_the_request_repeated_from_a_shell(page, service, tmp_path):
    _use_sample(page)
    page.keep_downloads(tmp_path)
    for button in ("#save-answer", "#save-request"):
        page.click(button)
    answer, request = (page.downloaded(tmp_path / f"AAPL-{what}.json") for what in ("forecast", "request"))
    assert len(request["bars"]) == 520
    repeated = subprocess.run(["bash", "-c", _text(page, "#curl")], cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(repeated.stdout)["forecasts"] == answer["forecasts"]


def test_key_is_asked_for_only_when_needed(browser, root, bundle_folder, tmp_path):
    (tmp_path / "keys").write_text(f"desk:{sha256(b's3cret').hexdigest()}\n")
    with serving(root, bundle_folder, tmp_path / "log", STOCKML_API_KEYS_FILE=str(tmp_path / "keys")) as address:
        browser.open(address)
        browser.wait(READY)
        assert browser.run("document.querySelector('#key-part').hidden")
        browser.click("#sample")
        browser.wait(TEXT.format("#key-errors") + " === 'This service wants an API key.'")
        assert browser.run("document.activeElement.id") == "key"
        for key in ("x", "Enter"):
            browser.press(key)
        browser.wait(TEXT.format("#key-errors") + " === 'The service does not know this key.'")
        browser.run("document.querySelector('#key').value = 's3cret'")
        browser.press("Enter")
        browser.wait(DONE)
        kept = _text(browser, "#curl") + browser.run("document.cookie + JSON.stringify({...localStorage, ...sessionStorage})")
        assert "Bearer $STOCKML_KEY" in kept
        assert "s3cret" not in kept
        assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_phone_needs_no_sideways_scrolling_and_text_has_contrast(browser, service, dark):
    browser.open(service, width=360, height=740, dark=dark)
    browser.wait(READY)
    _use_sample(browser)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("document.activeElement.id") == "headline"  # what was asked for is in sight
    assert browser.run(CONTRAST) == []


CONTRAST = """(() => {
  const light = rgb => rgb.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
      .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0)
  const parse = c => c.match(/[\\d.]+/g).map(Number)
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c }
      return [255, 255, 255] }
  const bad = []
  for (const e of document.querySelectorAll('main *, header *, footer *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility()) continue
    const style = getComputedStyle(e), front = e.closest('svg') ? style.fill : style.color
    const [a, b] = [parse(front), behind(e)].map(c => light(c.slice(0, 3))).sort((x, y) => y - x)
    if ((a + .05) / (b + .05) < 4.5) bad.push(`${e.tagName} ${e.className.baseVal ?? e.className}: ${((a + .05) / (b + .05)).toFixed(2)}`)
  }
  return bad })()"""
