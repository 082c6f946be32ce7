// How dates, prices and names are written for people, and how elements are made.

const SPANS = { 1: "next day", 5: "week", 21: "month", 63: "quarter", 252: "year", 504: "two years" };
export const capital = (text) => text[0].toUpperCase() + text.slice(1);
export const title = (horizon) => capital(span(horizon));
export const span = (horizon) => SPANS[horizon] ?? `${horizon} sessions`;
export const time = (iso) => Date.parse(`${iso}T00:00:00Z`);
export const dates = (options) => new Intl.DateTimeFormat("en-GB", { ...options, timeZone: "UTC" });
const dayFormat = dates({ day: "numeric", month: "short", year: "numeric" });
export const day = (iso) => dayFormat.format(time(iso));

const digits = (n) => ({ minimumFractionDigits: n, maximumFractionDigits: n });

// Cents matter below a thousand, smaller parts to a penny share.
export function price(value) {
  const penny = { minimumSignificantDigits: 3, maximumSignificantDigits: 3 };
  return value.toLocaleString("en", value < 1 ? penny : digits(value < 1000 ? 2 : 0));
}

// A log-return as the percent that a holder sees.
const percentFormat = new Intl.NumberFormat("en", { style: "percent", signDisplay: "exceptZero", ...digits(1) });
export const percent = (logReturn) => percentFormat.format(Math.expm1(logReturn)).replace("-", "−");

// Text stays text, whoever wrote it.
export function fill(element, attributes = {}, children = []) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}
export const make = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const SVG = "http://www.w3.org/2000/svg";
export const makeSvg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
