// The page: takes prices from a person, asks the service, shows what it says.

import { drawFan, fanData, fanSummary, pointText } from "./chart.js";
import { CsvProblem, label, lengthProblem, readCsv } from "./csv.js";
import { day, make, capital, sessions, span } from "./words.js";
import { drawTabs, headline, lead, quantileTable, reasons, verdicts } from "./views.js";

const MAX_FILE = 16 * 2 ** 20; // bytes; more than any history of daily prices
const PLACES = ["csv", "ticker", "horizons", "key", "other"]; // where a message can stand
const $ = (id) => document.getElementById(id);

const state = {
  horizons: null, // all that the model knows
  series: null, // {bars, lines} as read last
  request: null, // what was sent last
  answer: null,
  chart: null, // what is drawn, see showChart
  log: true,
  at: null, // index of the point that is read out
  typed: false, // the ticker is the person's own choice
  running: null, // AbortController of the request under way
};

// --- what a person gives -------------------------------------------------------------------------------------------------

async function takeFile(file) {
  if (file.size > MAX_FILE) return showProblems("csv", [{ line: null, message: `${file.name} is too large for daily prices (${Math.round(file.size / 2 ** 20)} MB).` }]);
  const name = file.name.match(/^[A-Z^][A-Z0-9.^=-]{0,9}(?=[ _.]|$)/)?.[0].replace(/\.CSV$/, "");
  return takeText(await file.text(), name ?? "");
}

function takeText(text, ticker) {
  $("csv").value = text;
  state.typed = false;
  $("ticker").value = ticker;
  return ask(true);
}

async function takeSample() {
  const answer = await fetch("page/sample.csv").catch(() => null);
  if (!answer?.ok) return showProblems("other", [{ line: null, message: "The sample could not be loaded. Is the service still running?" }]);
  return takeText(await answer.text(), "AAPL");
}

// The request that the form stands for, or null with a message beside what is wrong.
function readForm() {
  clearProblems();
  state.series = null;
  $("csv-read").textContent = "";
  try {
    const { stocks, notes } = readCsv($("csv").value);
    const ticker = chooseTicker([...stocks.keys()]);
    const series = ticker === null ? null : stocks.get(stocks.has(ticker) ? ticker : "");
    const wrong = series && lengthProblem(series.bars);
    if (wrong) throw new CsvProblem([{ line: null, message: wrong }]);
    if (!series) return null;
    state.series = series;
    $("csv-read").textContent = [`${series.bars.length} sessions, ${day(series.bars[0].date)} to ${day(series.bars.at(-1).date)}.`, ...notes].join(" ");
    return withHorizons({ ticker: ticker || "STOCK", bars: series.bars });
  } catch (e) {
    if (!(e instanceof CsvProblem)) throw e;
    showProblems("csv", e.problems, e.more);
    return null;
  }
}

// A file of several stocks needs a choice; one without tickers takes what was typed.
function chooseTicker(inFile) {
  const typed = $("ticker").value.trim().toUpperCase(), named = inFile.filter(Boolean);
  $("tickers").replaceChildren(...named.slice(0, 200).map((t) => make("option", { value: t })));
  if (!named.length) return typed;
  if (typed && named.includes(typed)) return typed;
  if (typed && state.typed && named.length > 1) {
    showProblems("ticker", [{ line: null, message: `${typed} is not in this file. It holds ${named.slice(0, 8).join(", ")}${named.length > 8 ? " and others" : ""}.` }]);
    return null;
  }
  if (typed && state.typed) return typed;
  if (named.length > 1) showProblems("ticker", [{ line: null, message: `The file holds ${named.length} stocks; this is ${named[0]}. Type another of them: ${named.slice(1, 7).join(", ")}${named.length > 7 ? ", …" : ""}.` }], 0, "note");
  $("ticker").value = named[0];
  return named[0];
}

function withHorizons(request) {
  if (!state.horizons) return request;
  const chosen = [...document.querySelectorAll("#horizons input:checked")].map((box) => Number(box.value));
  if (!chosen.length) {
    showProblems("horizons", [{ line: null, message: "Choose at least one." }]);
    return null;
  }
  return chosen.length === state.horizons.length ? request : { ...request, horizons: chosen };
}

// --- messages ------------------------------------------------------------------------------------------------------------

function clearProblems() {
  for (const place of PLACES) $(`${place}-errors`).replaceChildren();
  for (const id of ["csv", "ticker", "key"]) $(id).removeAttribute("aria-invalid");
}

function showProblems(place, problems, more = 0, kind = "error") {
  const lines = problems.map(({ line, message }) => make("p", { class: kind }, line ? [lineButton(line), ` ${message}`] : message));
  if (more) lines.push(make("p", { class: kind }, `… and ${more} more.`));
  $(`${place}-errors`).replaceChildren(...lines);
  if (kind === "error") $(place)?.setAttribute?.("aria-invalid", "true");
  if (kind === "error") setStatus("");
}

// Leads to the line in the text.
function lineButton(line) {
  const button = make("button", { type: "button", class: "line" }, `Line ${line}:`);
  button.addEventListener("click", () => {
    const area = $("csv"), lines = area.value.split("\n");
    const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    area.focus();
    area.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
    area.scrollTop = (line - 3) * parseFloat(getComputedStyle(area).lineHeight);
  });
  return button;
}

function setStatus(text) {
  $("status").textContent = text;
}

// The service's own messages, in the words of this page.
function plainMessage(message) {
  const lines = state.series?.lines ?? [];
  return message.replace(/bars\[(\d+)\]/g, (all, i) => (lines[i] ? `line ${lines[i]}` : all))
    .replace(/^Input should be greater than 0$/, "must be above zero")
    .replace(/^Input should be /, "should be ")
    .replace(/^List should have at least (\d+) items? after validation, not (\d+)$/, "at least $1 sessions are needed, these are $2");
}

function showRefusal(status, problem, headers) {
  if (status === 401) return askForKey();
  if (status === 429) {
    const wait = Number(headers.get("Retry-After"));
    return showProblems("other", [{ line: null, message: `Too many requests. Try again ${wait ? `in ${wait} seconds` : "in a moment"}.` }]);
  }
  const byPlace = new Map();
  for (const { field, message } of problem.errors ?? [{ field: "", message: problem.detail ?? problem.title ?? `The service answered ${status}.` }]) {
    const [place, told] = placeOf(field, message);
    byPlace.set(place, [...(byPlace.get(place) ?? []), told]);
  }
  for (const [place, told] of byPlace) showProblems(place, told);
}

function placeOf(field, message) {
  const bar = field.match(/^bars\[(\d+)\](?:\.(\w+))?/), text = plainMessage(message);
  if (bar) {
    const date = state.series?.bars[bar[1]]?.date;
    return ["csv", { line: state.series?.lines[bar[1]] ?? null, message: `${date ? `(${day(date)}) ` : ""}${bar[2] ? `${label(bar[2])}: ` : ""}${text}` }];
  }
  const place = { bars: "csv", ticker: "ticker", horizons: "horizons" }[field.replace(/[.[].*/, "")] ?? "other";
  return [place, { line: null, message: capital(place === "other" && field ? `${field}: ${text}` : text).trim() }];
}

function askForKey() {
  const again = !$("key-part").hidden && $("key").value;
  $("key-part").hidden = false;
  showProblems("key", [{ line: null, message: again ? "The service does not know this key." : "This service wants an API key." }]);
  $("key").focus();
}

// --- the service ---------------------------------------------------------------------------------------------------------

async function call(path, body, signal) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  const key = $("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  return { status: answer.status, ok: answer.ok, headers: answer.headers, data: await answer.json().catch(() => ({})) };
}

async function loadVersion() {
  const { ok, status, data } = await call("version").catch(() => ({ ok: false }));
  if (status === 401) askForKey();
  if (!ok || !data.model?.horizons) return;
  const { model } = data;
  state.horizons = model.horizons;
  $("horizons").replaceChildren(...model.horizons.map((h) => make("label", { class: "chip", title: sessions(h) },
    make("input", { type: "checkbox", value: h, checked: true }), make("span", {}, capital(span(h))))));
  $("model").textContent = `Model ${model.name} ${model.version}, trained on prices up to ${day(model.as_of)}. stockml ${data.package_version}.`;
}

async function ask(moveOn) {
  state.running?.abort();
  const request = readForm();
  if (!request) return;
  const running = state.running = new AbortController();
  $("form").setAttribute("aria-busy", "true");
  setStatus("Asking …");
  try {
    if (!state.horizons) await loadVersion();
    const got = await call("v1/forecast", request, running.signal);
    if (!got.ok) return showRefusal(got.status, got.data, got.headers);
    show(request, got.data, got.headers);
    if (moveOn) moveToResult();
    await explain(request, running.signal);
  } catch (e) {
    if (e.name === "AbortError") return;
    if (!(e instanceof TypeError)) throw e;
    showProblems("other", [{ line: null, message: "The service did not answer. Is it still running?" }]);
  } finally {
    if (state.running === running) $("form").removeAttribute("aria-busy");
  }
}

async function explain(request, signal) {
  const got = await call("v1/explain", request, signal);
  if (got.ok) return drawTabs($("tabs"), $("panel"), got.data, reasons);
  const why = got.status === 404 ? "This service does not explain its forecasts." : `No explanation: ${got.data.detail ?? got.data.title ?? got.status}`;
  $("tabs").replaceChildren();
  $("panel").replaceChildren(make("p", {}, why));
}

// --- what the service says -----------------------------------------------------------------------------------------------

function show(request, answer, headers) {
  Object.assign(state, { request, answer, at: null });
  const close = request.bars.at(-1).close, stale = headers.get("Warning");
  $("welcome").hidden = true;
  $("result").hidden = false;
  $("headline").textContent = headline(answer, close);
  $("lead").textContent = lead(answer);
  $("warning").hidden = !stale;
  $("warning").textContent = stale?.match(/"(.*)"/)?.[1] ?? stale ?? "";
  $("quantiles").replaceChildren(...quantileTable(answer));
  $("verdicts").replaceChildren(...verdicts(answer));
  $("curl").textContent = curlLine(answer.ticker);
  showChart();
  setStatus(`The forecast for ${answer.ticker} is here. ${lead(answer)}`);
}

function curlLine(ticker) {
  const key = $("key").value.trim() ? ' -H "Authorization: Bearer $STOCKML_KEY"' : "";
  return `curl -s ${new URL("v1/forecast", document.baseURI)}${key} --json '@${fileName(ticker)}-request.json'`;
}

const fileName = (ticker) => ticker.replace(/[^A-Za-z0-9.-]/g, "_");

function moveToResult() {
  const { top } = $("headline").getBoundingClientRect();
  if (top > 0 && top < .6 * innerHeight) return; // it is seen already
  $("headline").focus({ preventScroll: true });
  $("result").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function showChart() {
  const data = fanData(state.request.bars, state.answer);
  state.chart = { data, ...drawFan($("fan"), data, state.log) };
  $("fan").setAttribute("aria-label", fanSummary(state.answer.ticker, data));
  $("caption").textContent = "Dots mark the horizons that are forecast; between them the fan is drawn as the root of time."
    + (data.adjusted ? " Past prices are adjusted for splits and dividends." : "");
  $("scrub").setAttribute("aria-valuemin", 0);
  $("scrub").setAttribute("aria-valuemax", state.chart.points.length - 1);
  readPoint(Math.min(state.at ?? Infinity, state.chart.points.length - 1), state.at !== null);
}

// Reads out one point; `marked` is false at rest, where the farthest horizon is told and nothing marked.
function readPoint(i, marked = true) {
  const { data, points, mark } = state.chart, text = pointText(data, points[i]);
  state.at = marked ? i : null;
  mark(marked ? points[i] : null);
  $("readout").textContent = text;
  $("scrub").setAttribute("aria-valuenow", i);
  $("scrub").setAttribute("aria-valuetext", text);
}

function pointAt(event) {
  const { points, width } = state.chart, box = $("fan").getBoundingClientRect();
  const x = (event.clientX - box.left) * width / box.width;
  return points.reduce((best, p, i) => (Math.abs(p.x - x) < Math.abs(points[best].x - x) ? i : best), 0);
}

function stepPoint(event) {
  const last = state.chart.points.length - 1, now = state.at ?? last;
  const to = { ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: now - 1, ArrowDown: now - 1, PageUp: now + 21, PageDown: now - 21, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  readPoint(Math.max(0, Math.min(last, to)));
}

function setAxis(log) {
  state.log = log;
  $("log").setAttribute("aria-pressed", log);
  $("linear").setAttribute("aria-pressed", !log);
  showChart();
}

function save(name, value) {
  const link = make("a", { href: URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function copyCurl() {
  await navigator.clipboard.writeText($("curl").textContent).then(() => {
    $("copy").textContent = "Copied";
  }, () => getSelection().selectAllChildren($("curl"))); // no right to the clipboard: ready for Ctrl+C
  setTimeout(() => { $("copy").textContent = "Copy"; }, 2000);
}

// --- wiring --------------------------------------------------------------------------------------------------------------

function wireForm() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(true);
  });
  $("sample").addEventListener("click", takeSample);
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    if ($("file").files.length) await takeFile($("file").files[0]);
    $("file").value = ""; // the same file again is a change again
  });
  $("csv").addEventListener("input", (event) => {
    if (event.inputType === "insertFromPaste") ask(true);
    else if ($("csv-errors").firstChild) readForm();
  });
  $("ticker").addEventListener("input", () => { state.typed = true; });
  for (const id of ["ticker", "horizons"]) $(id).addEventListener("change", () => state.answer && ask(false));
}

function wireDrop() {
  const over = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget || over(false));
  addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would leave the page for the file
    over(false);
    const { files } = event.dataTransfer, text = event.dataTransfer.getData("text/plain");
    if (files.length > 1) showProblems("csv", [{ line: null, message: "One file at a time, please." }]);
    else if (files.length) takeFile(files[0]);
    else if (text) takeText(text, "");
  });
}

function wireResult() {
  $("log").addEventListener("click", () => setAxis(true));
  $("linear").addEventListener("click", () => setAxis(false));
  $("scrub").addEventListener("pointermove", (event) => readPoint(pointAt(event)));
  $("scrub").addEventListener("pointerdown", (event) => readPoint(pointAt(event)));
  $("scrub").addEventListener("pointerleave", () => readPoint(state.chart.points.length - 1, false));
  $("scrub").addEventListener("keydown", stepPoint);
  $("save-answer").addEventListener("click", () => save(`${fileName(state.answer.ticker)}-forecast.json`, state.answer));
  $("save-request").addEventListener("click", () => save(`${fileName(state.answer.ticker)}-request.json`, state.request));
  $("copy").addEventListener("click", copyCurl);
  new ResizeObserver(() => state.answer && showChart()).observe($("chart"));
}

wireForm();
wireDrop();
wireResult();
loadVersion();
