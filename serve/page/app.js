// The page: takes prices from a person, asks the service, shows what it says.

import { drawFan, fanData, fanSummary, pointText } from "./chart.js";
import { checkLength, CsvProblem, readCsv } from "./csv.js";
import { capital, day, fill, make, price, title } from "./words.js";
import { drawTabs, lead, quantileTable, verdicts } from "./views.js";

const MAX_FILE = 16 * 2 ** 20; // bytes
const SILENT = "The service did not answer. Is it still running?";
const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const on = (id, types, act) => types.split(" ").forEach((type) => $(id).addEventListener(type, act));
const say = (id, text) => $(id).replaceChildren(text);

// horizons: all that the model knows; lines: where each bar stands in the CSV; at: the point that is read out;
// named: the ticker, unless a person typed it
const state = { horizons: [], lines: [], named: "", request: null, answer: null, chart: null, log: true, at: null, running: null };

// What a person gives

async function takeFile(file) {
  if (file.size > MAX_FILE) return tell("csv", `${file.name} is too large for daily prices.`);
  return takeText(await file.text(), file.name.match(/^[A-Z^][A-Z0-9.^=-]*(?=[ _.]\w*)/)?.[0] ?? "");
}

function takeText(text, ticker) {
  $("csv").value = text;
  $("ticker").value = state.named = ticker;
  return ask(true);
}

async function takeSample() {
  const answer = await fetch("page/sample.csv").catch(() => ({}));
  return answer.ok ? takeText(await answer.text(), "AAPL") : tell("other", SILENT);
}

// The request that the form stands for; null, and a message beside it, if something is wrong.
function readForm() {
  all(".errors").forEach((place) => place.replaceChildren());
  all("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
  say("read", "");
  try {
    const { stocks, notes } = readCsv($("csv").value), ticker = chooseTicker([...stocks.keys()].filter(Boolean));
    if (!ticker) return null;
    const { bars, lines } = stocks.get(ticker) ?? stocks.values().next().value ?? { bars: [] };
    checkLength(bars);
    state.lines = lines;
    say("read", [`${bars.length} sessions, ${day(bars[0].date)} to ${day(bars.at(-1).date)}.`, ...notes].join(" "));
    return withHorizons({ ticker, bars });
  } catch (e) {
    if (!(e instanceof CsvProblem)) throw e;
    return tell("csv", ...e.problems);
  }
}

function chooseTicker(inFile) {
  const typed = $("ticker").value.trim().toUpperCase(), own = typed !== state.named;
  if (inFile.length < 2) $("ticker").value = own ? typed : state.named = inFile[0] ?? typed;
  else if (!inFile.includes(typed)) {
    return tell("ticker", `The file holds ${inFile.length} stocks. Type one: ${inFile.slice(0, 9).join(", ")} …`);
  }
  return $("ticker").value || "STOCK";
}

function withHorizons(request) {
  const chosen = all("#horizons :checked").map((box) => Number(box.value));
  if (chosen.length === state.horizons.length) return request;
  return chosen.length ? { ...request, horizons: chosen } : tell("horizons", "Choose at least one.");
}

// Messages: texts, or {line, message} that lead into the CSV

function tell(place, ...problems) {
  $(`${place}-errors`).append(...problems.map((p) => make("p", {}, p.line ? lineButton(p.line) : "", p.message ?? p)));
  $(place)?.setAttribute("aria-invalid", true);
  say("status", "");
  return null;
}

function lineButton(line) {
  const button = make("button", { type: "button", class: "line" }, `Line ${line}`);
  button.addEventListener("click", () => {
    const area = $("csv"), before = area.value.split("\n").slice(0, line), end = before.join("\n").length;
    area.setSelectionRange(end - before.at(-1).length, end);
    area.focus();
  });
  return button;
}

// The service counts bars, a person counts lines.
function tellRefusal({ status, data }) {
  if (status === 401) return askForKey();
  if (!data.errors) return tell("other", data.detail);
  const plain = (message) => message.replace(/bars\[(\d+)\]/g, (_, i) => `line ${state.lines[i]}`);
  return data.errors.forEach(({ field, message }) => tellField(field, plain(message)));
}

function tellField(field, message) {
  const [, i, column] = field.match(/^bars\[(\d+)\]\.?(.*)/) ?? [];
  if (i) return tell("csv", { line: state.lines[i], message: `${column.replace("_", " ")} ${message}` });
  const place = { bars: "csv", ticker: "ticker", horizons: "horizons" }[field.match(/^\w*/)[0]];
  return tell(place ?? "other", place ? capital(message.trim()) : `${field}: ${message}`);
}

function askForKey() {
  tell("key", $("key").value ? "The service does not know this key." : "This service wants an API key.");
  $("key-part").hidden = false;
  $("key").focus();
}

// The service

async function call(path, body, signal) {
  const key = $("key").value.trim(), headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  return { status: answer.status, headers: answer.headers, data: await answer.json() };
}

async function loadVersion() {
  const { model } = await fetch("version").then((answer) => answer.json(), () => ({}));
  if (!model) return; // all horizons are asked for then
  state.horizons = model.horizons;
  $("chips").replaceChildren(...model.horizons.map((h) => make("label", { class: "chip" },
    make("input", { type: "checkbox", value: h, checked: "" }), make("span", {}, title(h)))));
  say("model", `Model ${model.name} ${model.version}, trained on prices up to ${day(model.as_of)}.`);
}

async function ask(moveOn) {
  state.running?.abort();
  const { signal } = state.running = new AbortController();
  if (!state.horizons.length) await loadVersion();
  const request = readForm();
  if (!request) return;
  try {
    const got = await call("v1/forecast", request, signal);
    if (got.status !== 200) return tellRefusal(got);
    show(request, got);
    if (moveOn) moveToResult();
    const why = await call("v1/explain", request, signal);
    $("why").hidden = !why.data.forecasts;
    if (why.data.forecasts) drawTabs($("tabs"), $("panel"), why.data);
    else if (why.status !== 404) tellRefusal(why);
  } catch (e) {
    if (e.name === "AbortError") return;
    $("why").hidden = true; // it would tell of other prices
    tell("other", SILENT);
    throw e;
  }
}

// What it says

function show(request, { data: answer, headers }) {
  const { ticker, origin } = answer, key = $("key").value && '-H "Authorization: Bearer $STOCKML_KEY" ';
  Object.assign(state, { request, answer, at: null });
  $("welcome").hidden = true;
  $("result").hidden = false;
  say("headline", `${ticker} closed at ${price(request.bars.at(-1).close)} on ${day(origin)}`);
  say("lead", lead(answer));
  say("warning", headers.get("Warning") ? `These prices are old: the forecast starts on ${day(origin)}, not today.` : "");
  $("quantiles").replaceChildren(...quantileTable(answer));
  $("verdicts").replaceChildren(...verdicts(answer));
  say("curl", `curl -s ${new URL("v1/forecast", document.baseURI)} ${key}--json '@${fileName("request")}'`);
  showChart();
  say("status", `The forecast for ${ticker} is here. ${lead(answer)}`);
}

function moveToResult() {
  const { top } = $("headline").getBoundingClientRect();
  if (top > 0 && top < innerHeight / 2) return; // in sight
  $("headline").focus({ preventScroll: true });
  $("result").scrollIntoView();
}

function showChart() {
  const data = fanData(state.request.bars, state.answer);
  state.chart = drawFan($("fan"), data, state.log);
  fill($("fan"), { "aria-label": fanSummary(data) });
  readPoint(state.at);
}

// Null is rest: the farthest horizon is told, nothing is marked.
function readPoint(at) {
  const { points, mark } = state.chart, last = points.length - 1, text = pointText(points[at ?? last]);
  state.at = at;
  mark(points[at]);
  say("readout", text);
  fill($("scrub"), { "aria-valuemax": last, "aria-valuenow": at ?? last, "aria-valuetext": text });
}

function pointUnder({ offsetX: x }) {
  const { points } = state.chart;
  readPoint(points.reduce((best, p, i) => (Math.abs(p.x - x) < Math.abs(points[best].x - x) ? i : best), 0));
}

function stepPoint(event) {
  const last = state.chart.points.length - 1;
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -last, End: last }[event.key];
  if (!step) return;
  event.preventDefault();
  readPoint(Math.max(0, Math.min(last, (state.at ?? last) + step)));
}

function setAxis({ target }) {
  state.log = target.id === "log";
  for (const id of ["log", "linear"]) fill($(id), { "aria-pressed": id === target.id });
  showChart();
}

const fileName = (what) => `${state.answer.ticker}-${what}.json`;

function save(what, value) {
  const href = URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
  make("a", { href, download: fileName(what) }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

// Wiring

on("form", "submit", (event) => {
  event.preventDefault();
  ask(true);
});
on("sample", "click", takeSample);
on("choose", "click", () => $("file").click());
on("file", "change", async () => {
  await takeFile($("file").files[0]);
  $("file").value = ""; // to be chosen again
});
on("csv", "input", ({ inputType }) => {
  if (inputType !== "insertFromPaste") return;
  if ($("ticker").value === state.named) $("ticker").value = state.named = ""; // that was another file's
  ask(true);
});
for (const id of ["ticker", "horizons"]) on(id, "change", () => state.answer && ask());

for (const type of ["dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault(); // or the browser would open the file
    document.body.classList.toggle("dropping", type === "dragover");
    if (type === "drop" && event.dataTransfer.files.length) takeFile(event.dataTransfer.files[0]);
  });
}

for (const id of ["log", "linear"]) on(id, "click", setAxis);
on("scrub", "pointermove pointerdown", pointUnder);
on("scrub", "pointerleave", () => readPoint(null));
on("scrub", "keydown", stepPoint);
on("save-answer", "click", () => save("forecast", state.answer));
on("save-request", "click", () => save("request", state.request));
new ResizeObserver(() => state.answer && showChart()).observe($("chart"));
loadVersion();
