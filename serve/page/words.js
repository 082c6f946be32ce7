// How dates, prices and names are written for people.

const SPANS = { 1: "next day", 5: "week", 21: "month", 63: "quarter", 126: "half a year", 252: "year", 504: "two years" };
const MODELS = {
  xgboost: "XGBoost", har: "HAR", gjr: "GJR-GARCH", garch: "GARCH", ewma94: "EWMA (.94)", ewma97: "EWMA (.97)",
  random_walk: "the random walk", historical: "historical simulation",
};

export const span = (horizon) => SPANS[horizon] ?? `${horizon} sessions`;
export const capital = (text) => text[0].toUpperCase() + text.slice(1);
export const modelName = (name) => MODELS[name] ?? name.replaceAll("_", " ");
export const sessions = (n) => `${n} session${n === 1 ? "" : "s"}`;
export const aheadOf = (horizon) => ({ 1: "On the next day", 5: "In a week", 21: "In a month", 63: "In a quarter",
  126: "In half a year", 252: "In a year", 504: "In two years" })[horizon] ?? `In ${horizon} sessions`;

export const time = (iso) => Date.parse(`${iso}T00:00:00Z`);
const dayFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
export const day = (iso) => dayFormat.format(time(iso)).replace("Sept", "Sep");

// Cents matter below a thousand, smaller parts to a penny share; above, nobody reads them.
export function price(value) {
  const digits = value >= 1000 ? 0 : value >= 1 ? 2 : Math.min(6, 2 - Math.floor(Math.log10(value)));
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// A log-return as the percent that a holder sees.
export function percent(logReturn) {
  const p = 100 * Math.expm1(logReturn);
  const digits = Math.abs(p) < 99.95 ? 1 : 0;
  const text = Math.abs(p).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return `${Number(p.toFixed(digits)) === 0 ? "±" : p > 0 ? "+" : "−"}${text}%`;
}

export const level = (q) => `${Number((100 * q).toPrecision(4))}%`;

// An element with attributes and children; text stays text, whatever a file or the service has put in it.
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return element;
}
