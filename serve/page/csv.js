// Reads daily prices from CSV as people have it: any column order and spelling, separator, quotes and line ends.

export const MIN_BARS = 67; // the service needs as many
const MAX_BARS = 50000;
const MAX_TOLD = 6; // of the errors in a file; the rest would say the same
const MAX_PRICE = 1e7;

const NAMES = {
  date: "date", day: "date", datetime: "date", time: "date", timestamp: "date",
  close: "close", close_last: "close", closing_price: "close", price: "close", last: "close",
  adj_close: "adj_close", adjclose: "adj_close", adjusted_close: "adj_close", adj_close_price: "adj_close",
  open: "open", high: "high", low: "low", volume: "volume", vol: "volume",
  ticker: "ticker", symbol: "ticker",
};
const PRICES = ["open", "high", "low", "close", "adj_close"];
const NOTHING = new Set(["", "null", "nan", "na", "n/a", "none", "-", "–"]);

// What is wrong with a file: [{line, message}], the line null where the whole file is meant.
export class CsvProblem extends Error {
  constructor(problems) {
    super(problems[0].message);
    this.problems = problems.slice(0, MAX_TOLD);
    this.more = problems.length - this.problems.length;
  }
}

function refuse(message, line = null) {
  throw new CsvProblem([{ line, message }]);
}

// Text -> {stocks: Map of ticker ("" if there is no such column) -> {bars, lines}, notes}. `lines[i]` is where bars[i] stands.
export function readCsv(text) {
  refuseOtherFiles(text);
  const separator = separatorOf(text);
  const rows = splitRows(text, separator);
  if (!rows.length) refuse("There is nothing in it yet: paste daily prices, with a line of column names on top.");
  const columns = columnsOf(rows[0]);
  const body = rows.slice(1);
  const read = { date: dateReader(body, columns), number: numberReader(body, columns, separator) };
  return collect(body, columns, read);
}

function refuseOtherFiles(text) {
  if (text.startsWith("PK")) refuse("This is an Excel workbook. In Excel, save it as CSV first.");
  if (text.includes("\0")) refuse("This is no text file. Save the prices as CSV first.");
  if (/^\s*<(!doctype|html|\?xml)/i.test(text)) refuse("This is a web page, not a CSV file.");
  if (/^\s*[{[]/.test(text)) refuse("This is JSON, not CSV. Programs may send it to /v1/forecast.");
}

function separatorOf(text) {
  const head = text.replace(/^\uFEFF?\s*/, "").split(/[\r\n]/, 1)[0].replace(/"[^"]*"/g, "");
  const count = (c) => head.split(c).length;
  return [",", ";", "\t", "|"].reduce((best, c) => (count(c) > count(best) ? c : best));
}

// Rows of {line, cells}; blank lines are left out. A quoted cell may hold separators and line ends.
function splitRows(text, separator) {
  const rows = [];
  let cells = [], cell = "", quoted = false, line = 1, start = 1;
  const endRow = () => {
    cells.push(cell.trim());
    if (cells.some((c) => c !== "")) rows.push({ line: start, cells });
    cells = [];
    cell = "";
  };
  const clean = text.replace(/^\uFEFF/, "").replace(/\r\n?/g, "\n");
  for (let i = 0; i < clean.length; i++) {
    const c = clean[i];
    if (c === "\n") line++;
    if (quoted) {
      if (c !== '"') cell += c;
      else if (clean[i + 1] === '"') cell += clean[i++];
      else quoted = false;
    } else if (c === '"' && cell.trim() === "") {
      quoted = true;
      cell = "";
    } else if (c === separator) {
      cells.push(cell.trim());
      cell = "";
    } else if (c === "\n") {
      endRow();
      start = line;
    } else cell += c;
  }
  if (quoted) refuse("A quotation mark is opened here and never closed.", start);
  endRow();
  return rows;
}

// The header -> {names: [our name or null], ignored}.
function columnsOf({ line, cells }) {
  const plain = cells.map((c) => c.toLowerCase().replace(/[^a-z]+/g, "_").replace(/^_+|_+$/g, ""));
  const names = plain.map((c) => NAMES[c] ?? null);
  if (!names.some(Boolean) && cells.some((c) => /^\d/.test(c))) {
    refuse("The first line holds values. It should name the columns, for example: date,open,high,low,close,volume", line);
  }
  const missing = ["date", "close"].filter((n) => !names.includes(n));
  if (missing.length) refuse(`No column is named ${missing.join(" or ")}. Found: ${shorten(cells.join(", "), 80)}.`, line);
  const twice = names.find((n, i) => n && names.indexOf(n) !== i);
  if (twice) refuse(`Two columns mean ${twice}: ${cells.filter((_, i) => names[i] === twice).join(" and ")}. Keep one.`, line);
  return { names, ignored: cells.filter((c, i) => c && !names[i]) };
}

function cellsOf(rows, columns, wanted) {
  const at = columns.names.flatMap((n, i) => (wanted.includes(n) ? [i] : []));
  return rows.flatMap((r) => at.map((i) => r.cells[i] ?? "")).filter((c) => !NOTHING.has(c.toLowerCase()));
}

// 3/4/2025 may be in March or April: which of the two, the other days of the file tell.
function dateReader(rows, columns) {
  const parts = cellsOf(rows, columns, ["date"]).map((c) => c.match(/^(\d{1,2})([/.-])(\d{1,2})[/.-]\d{4}/)).filter(Boolean);
  const dayFirst = parts.some((m) => m[2] === "." || +m[1] > 12);
  return (cell) => {
    let m = cell.match(/^(\d{4})[-/.]?(\d{2})[-/.]?(\d{2})(?:[T ].*)?$/);
    if (m) return realDay(m[1], m[2], m[3]);
    m = cell.match(/^(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})(?:[T ].*)?$/);
    if (m) return dayFirst ? realDay(m[3], m[2], m[1]) : realDay(m[3], m[1], m[2]);
    return null;
  };
}

function realDay(year, month, day) {
  const iso = `${year}-${month.padStart(2, "0")}-${day.padStart(2, "0")}`;
  const time = Date.parse(`${iso}T00:00:00Z`);
  return Number.isNaN(time) || new Date(time).toISOString().slice(0, 10) !== iso ? null : iso;
}

// 1.234,50 in a file with semicolons, $1,234.50 in others. NaN where a cell is no number.
function numberReader(rows, columns, separator) {
  const prices = separator === "," ? [] : cellsOf(rows, columns, PRICES);
  const comma = prices.some((c) => c.includes(",")) && !prices.some((c) => c.lastIndexOf(".") > c.indexOf(",") || /^\d+\.\d+$/.test(c));
  return (cell) => {
    let c = cell.replace(/^[$€£]\s*|[\s'’]/g, "");
    c = comma ? c.replace(/\./g, "").replace(",", ".") : c.replace(/,(?=\d{3}(?:\D|$))/g, "");
    const m = c.match(/^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)([KMB]?)$/i);
    return m ? Number(m[1]) * { "": 1, K: 1e3, M: 1e6, B: 1e9 }[m[2].toUpperCase()] : NaN;
  };
}

function collect(rows, columns, read) {
  const stocks = new Map(), problems = [];
  let empty = 0;
  for (const row of rows) {
    const cells = {};
    columns.names.forEach((name, i) => {
      const cell = row.cells[i] ?? "";
      if (name && !NOTHING.has(cell.toLowerCase())) cells[name] = cell;
    });
    if (PRICES.every((p) => !(p in cells)) && cells.date) empty++;
    else {
      const [bar, wrong] = makeBar(cells, read);
      if (wrong) problems.push({ line: row.line, message: wrong });
      const ticker = (cells.ticker ?? "").toUpperCase();
      if (!stocks.has(ticker)) stocks.set(ticker, []);
      stocks.get(ticker).push({ line: row.line, bar });
    }
  }
  if (problems.length) throw new CsvProblem(problems);
  const notes = [];
  if (empty) notes.push(`${empty === 1 ? "One line" : `${empty} lines`} without prices left out.`);
  if (columns.ignored.length) notes.push(`Not used: ${shorten(columns.ignored.join(", "), 60)}.`);
  if (!stocks.size) refuse("There are column names, but no prices below them.");
  return { stocks: new Map([...stocks].map(([t, found]) => [t, inOrder(found, notes)])), notes };
}

function makeBar(cells, read) {
  if (!cells.date) return [null, "the date is missing"];
  const date = read.date(cells.date);
  if (!date) return [null, `“${shorten(cells.date)}” is no date; write it as 2026-01-31`];
  if (!cells.close) return [null, "the close is missing"];
  const bar = { date };
  for (const name of [...PRICES, "volume"]) {
    if (!(name in cells)) continue;
    const value = read.number(cells[name]);
    if (!Number.isFinite(value)) return [null, `${label(name)} “${shorten(cells[name])}” is no number`];
    if (name === "volume" ? value < 0 : value <= 0) return [null, `${label(name)} ${shorten(cells[name])} must be above zero`];
    if (name !== "volume" && value > MAX_PRICE) return [null, `${label(name)} ${shorten(cells[name])} is too large for a price`];
    bar[name] = name === "volume" ? Math.round(value) : value;
  }
  return [bar, null];
}

// By date, each date once: a line that says the same again is dropped, one that says something else is an error.
function inOrder(found, notes) {
  found.sort((a, b) => (a.bar.date < b.bar.date ? -1 : a.bar.date > b.bar.date ? 1 : a.line - b.line));
  const kept = [];
  for (const one of found) {
    const before = kept.at(-1);
    if (before?.bar.date !== one.bar.date) kept.push(one);
    else if (JSON.stringify(before.bar) !== JSON.stringify(one.bar)) {
      refuse(`${one.bar.date} comes twice with different values; the other one is line ${before.line}`, one.line);
    }
  }
  if (kept.length < found.length) notes.push(`Lines that came twice left out: ${found.length - kept.length}.`);
  return { bars: kept.map((k) => k.bar), lines: kept.map((k) => k.line) };
}

// A message if one stock's history is too short or too long to be sent.
export function lengthProblem(bars) {
  if (bars.length < MIN_BARS) {
    return `${bars.length === 1 ? "This is 1 session" : `These are ${bars.length} sessions`}; a forecast needs at least ${MIN_BARS}, about a quarter of daily prices.`;
  }
  return bars.length > MAX_BARS ? `These are ${bars.length} sessions; at most ${MAX_BARS} can be sent.` : null;
}

export function label(name) {
  return { adj_close: "adjusted close" }[name] ?? name;
}

function shorten(text, most = 24) {
  return text.length > most ? `${text.slice(0, most)}…` : text;
}
