// Reads daily prices from CSV as people have it.

import { time } from "./words.js";

const MIN_BARS = 67, MAX_BARS = 50000; // what the service takes
const MAX_TOLD = 6; // errors
const NAMES = {
  __proto__: null, // a column may be called "constructor"
  timestamp: "date", close_last: "close", price: "close", adjclose: "adj_close", adjusted_close: "adj_close", symbol: "ticker",
};
const PRICES = ["open", "high", "low", "close", "adj_close"];
const COLUMNS = ["date", ...PRICES, "volume", "ticker"];
const NOTHING = new Set(["", "null", "nan", "n/a", "none", "-"]);

// What is wrong with a file: [{line, message}], without a line where the whole file is meant.
export class CsvProblem extends Error {
  constructor(problems) {
    super(problems[0].message);
    this.problems = problems.slice(0, MAX_TOLD);
    const more = problems.length - MAX_TOLD;
    if (more > 0) this.problems.push({ message: `… and ${more} more.` });
  }
}

function refuse(message, line) {
  throw new CsvProblem([{ line, message }]);
}

// Text -> {stocks: Map of ticker ("" without such a column) -> {bars, lines}, notes}. `lines[i]` is where bars[i] stands.
export function readCsv(text) {
  if (text.startsWith("PK")) refuse("This is no text. Save a workbook as CSV first.");
  const separator = separatorOf(text), [head, ...rows] = splitRows(text, separator);
  if (!rows.length) refuse("There are no prices below a line of column names.");
  const names = columnsOf(head), notes = [], unused = head.cells.filter((c, i) => !names[i]);
  if (unused.length) notes.push(`Not used: ${shorten(unused.join(", "), 60)}.`);
  for (const row of rows) {
    if (row.cells.slice(names.length).some(Boolean)) refuse(`has more values than there are columns: ${row.cells.length}`, row.line);
    const given = names.map((name, i) => [name, row.cells[i] ?? ""]).filter(([name, cell]) => name && !NOTHING.has(cell.toLowerCase()));
    row.values = Object.fromEntries(given);
  }
  return { stocks: byTicker(rows, numberReader(rows, separator), notes), notes };
}

function separatorOf(text) {
  const head = text.trimStart().split(/[\r\n]/, 1)[0].replace(/"[^"]*"/g, ""), count = (c) => head.split(c).length;
  return [",", ";", "\t"].reduce((best, c) => (count(c) > count(best) ? c : best));
}

// Rows of {line, cells}; blank lines are left out. A quoted cell may hold separators, quotes and line ends.
function splitRows(text, separator) {
  const clean = `${text.replace(/^\uFEFF/, "").replace(/\r\n?/g, "\n")}\n`, rows = [];
  const cell = new RegExp(` *(?:"([^"]*(?:""[^"]*)*)" *|([^${separator}\\n]*))(${separator}|\\n)`, "g");
  let cells = [], line = 1, start = 1;
  for (const [whole, quoted, plain, end] of clean.matchAll(cell)) {
    cells.push((quoted?.replaceAll('""', '"') ?? plain).trim());
    line += whole.split("\n").length - 1;
    if (end === separator) continue;
    if (cells.some(Boolean)) rows.push({ line: start, cells });
    [cells, start] = [[], line];
  }
  return rows;
}

function columnsOf({ line, cells }) {
  const names = cells.map((c) => c.toLowerCase().replace(/[^a-z]+/g, "_").replace(/^_|_$/g, ""))
    .map((c) => NAMES[c] ?? (COLUMNS.includes(c) ? c : null));
  const missing = ["date", "close"].filter((n) => !names.includes(n));
  if (missing.length) {
    refuse(`should name the columns, ${missing.join(" and ")} among them; it says: ${shorten(cells.join(", "), 80)}`, line);
  }
  const twice = names.find((n, i) => n && names.indexOf(n) !== i);
  if (twice) refuse(`has two columns for ${twice}`, line);
  return names;
}

// 2026-01-31, 01/31/2026 or 31.01.2026, and a time of day after it. Null for 30 February.
function readDate(text) {
  const iso = text.replace(/[T ].*/, "")
    .replace(/^(\d\d?)\/(\d\d?)\/(\d{4})$/, "$3-$1-$2")
    .replace(/^(\d\d?)\.(\d\d?)\.(\d{4})$/, "$3-$2-$1")
    .replace(/^(\d{4})\D?(\d\d?)\D?(\d\d?)$/, (_, ...parts) => parts.slice(0, 3).map((p) => p.padStart(2, "0")).join("-"));
  const t = time(iso);
  return !Number.isNaN(t) && new Date(t).toISOString().startsWith(iso) ? iso : null;
}

// 1.234,50 where semicolons stand between the cells, $1,234.50 elsewhere. NaN where it is no number.
function numberReader(rows, separator) {
  const prices = rows.flatMap((r) => PRICES.map((p) => r.values[p] ?? ""));
  const comma = separator !== "," && prices.some((c) => /,\d*$/.test(c)) && !prices.some((c) => /^\d*\.\d+$/.test(c) || /,.*\./.test(c));
  return (text) => {
    const plain = text.replace(/^[$€£]|[\s'’]/g, "");
    const c = comma ? plain.replaceAll(".", "").replace(",", ".") : plain.replace(/,(?=\d{3}(\D|$))/g, "");
    return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(c) ? Number(c) : NaN;
  };
}

function byTicker(rows, readNumber, notes) {
  const stocks = new Map(), problems = [], priced = rows.filter((r) => PRICES.some((p) => p in r.values));
  if (priced.length < rows.length) notes.push(`Without prices, left out: ${rows.length - priced.length}.`);
  for (const { line, values } of priced) {
    const bar = {}, wrong = readBar(bar, values, readNumber), ticker = (values.ticker ?? "").toUpperCase();
    if (wrong) problems.push({ line, message: wrong });
    if (!stocks.has(ticker)) stocks.set(ticker, []);
    stocks.get(ticker).push({ line, bar });
  }
  if (problems.length) throw new CsvProblem(problems);
  return new Map([...stocks].map(([ticker, found]) => [ticker, inOrder(found)]));
}

// Fills a bar; returns what is wrong with it.
function readBar(bar, values, readNumber) {
  for (const name of ["date", "close"]) if (!values[name]) return `the ${name} is missing`;
  bar.date = readDate(values.date);
  if (!bar.date) return `“${shorten(values.date)}” is no date; write it like 2026-01-31`;
  for (const name of [...PRICES, "volume"].filter((n) => n in values)) {
    bar[name] = readNumber(values[name]);
    const told = `${name.replace("_", " ")} “${shorten(values[name])}”`;
    if (Number.isNaN(bar[name])) return `${told} is no number`;
    if (bar[name] < 0 || (bar[name] === 0 && name !== "volume")) return `${told} must be above zero`;
  }
  return null;
}

// By date, each date once: a line that says the same again is dropped, one that says something else is an error.
function inOrder(found) {
  found.sort((a, b) => (a.bar.date > b.bar.date) - (a.bar.date < b.bar.date));
  const kept = found.filter(({ line, bar }, i) => {
    const before = found[i - 1];
    if (before?.bar.date !== bar.date) return true;
    if (JSON.stringify(before.bar) === JSON.stringify(bar)) return false;
    return refuse(`${bar.date} stands in line ${before.line} too, with other values`, line);
  });
  return { bars: kept.map((k) => k.bar), lines: kept.map((k) => k.line) };
}

export function checkLength({ length }) {
  if (length < MIN_BARS) refuse(`${length} sessions are too few; ${MIN_BARS} are needed.`);
  if (length > MAX_BARS) refuse(`${length} sessions are too many; ${MAX_BARS} can be sent.`);
}

function shorten(text, most = 24) {
  return text.length > most ? `${text.slice(0, most)}…` : text;
}
