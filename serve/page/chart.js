// The fan chart: what the price did, and the bands in which it may be.

import { dates, day, makeSvg, price, span, time, title } from "./words.js";

const BANDS = [["0.025", "0.975", "95%"], ["0.1", "0.9", "80%"], ["0.25", "0.75", "50%"]];
const EDGE = ["0.5", "0.975", "0.025", "0.9", "0.1"]; // labels, the first ones if room is short
const DAY = 864e5;

// History as if quoted today, and the knots of the fan.
export function fanData(bars, answer) {
  const last = bars.at(-1), origin = time(last.date), adjusted = (b) => b.adj_close ?? b.close;
  const knots = answer.forecasts.map((f) => ({ t: time(f.target_date), iso: f.target_date, ...f }));
  const reach = Math.max(1.6 * (knots.at(-1).t - origin), 100 * DAY); // longer histories would squeeze the fan
  const history = bars.map((b) => ({ t: time(b.date), iso: b.date, value: adjusted(b) * last.close / adjusted(last) }));
  return { history: history.filter((p) => p.t >= origin - reach), knots, origin, close: last.close };
}

const range = (prices) => ([low, high, name]) => `${name}: ${price(prices[low])} – ${price(prices[high])}`.replaceAll(" ", "\u00a0");

export function fanSummary({ history, knots }) {
  const { iso, prices } = knots.at(-1);
  const since = day(history[0].iso);
  return `Chart: prices since ${since} and a fan that widens until ${day(iso)}: ${BANDS.map(range(prices)).join(", ")}. A table follows.`;
}

export function pointText(point) {
  if (!point.prices) return `${day(point.iso)}: ${price(point.value)}`;
  const median = `${day(point.iso)}, ${span(point.horizon)}: median\u00a0${price(point.prices["0.5"])}`;
  return [median, ...BANDS.map(range(point.prices)).reverse()].join(" · ");
}

// Returns its points, and a function that marks one.
export function drawFan(svg, data, log) {
  const { clientWidth: width, clientHeight } = svg, label = 14 + 7 * price(data.knots.at(-1).prices["0.975"]).length;
  const box = { left: label, right: width - label, top: 28, bottom: clientHeight - 26, width };
  const scales = makeScales(data, box, log), marker = makeSvg("g", { class: "marker" });
  svg.replaceChildren(...grid(data, box, scales, log), ...fan(data, scales), ...horizonMarks(data, box, scales),
    ...edgeLabels(data, box, scales), marker);
  const points = [...data.history, ...data.knots].map((p) => ({ ...p, x: scales.x(p.t) }));
  return { points, mark: (point) => marker.replaceChildren(...(point ? markOf(point, box, scales) : [])) };
}

function makeScales({ history, knots }, box, log) {
  const values = [...history.map((p) => p.value), ...knots.flatMap((k) => [k.prices["0.025"], k.prices["0.975"]])];
  const min = Math.min(...values), max = Math.max(...values), put = log ? Math.log : (v) => v;
  const pad = .04 * (put(max) - put(min)) || 1, low = put(min) - pad, high = put(max) + pad;
  const start = history[0].t, end = knots.at(-1).t;
  return {
    x: (t) => box.left + (box.right - box.left) * (t - start) / (end - start),
    y: (v) => box.bottom - (box.bottom - box.top) * (put(v) - low) / (high - low),
    start, end, min, max,
  };
}

// Between two knots a level moves with the root of time, as prices spread.
function levelPath({ origin, close, knots }, scales, level) {
  const stops = [[0, Math.log(close)], ...knots.map((k) => [Math.sqrt(k.t - origin), Math.log(k.prices[level])])];
  return stops.slice(1).flatMap((b, i) => Array.from({ length: 17 }, (_, k) => {
    const [root, log] = stops[i].map((a, j) => a + (b[j] - a) * k / 16);
    return [scales.x(origin + root ** 2), scales.y(Math.exp(log))];
  }));
}

const draw = (kind, points) => makeSvg("path", { class: kind, d: `M${points.map((p) => p.map((v) => v.toFixed(1))).join("L")}` });

function fan(data, scales) {
  const path = (level) => levelPath(data, scales, level);
  return [
    ...BANDS.map(([low, high, name]) => draw(`band-${parseInt(name, 10)}`, [...path(high), ...path(low).reverse()])),
    draw("median", path("0.5")),
    draw("history", data.history.map((p) => [scales.x(p.t), scales.y(p.value)])),
    ...data.knots.map((k) => dot("knot", scales.x(k.t), scales.y(k.prices["0.5"]), 2.5)),
  ];
}

const text = (x, y, anchor, words, kind = "tick") => makeSvg("text", { x, y, "text-anchor": anchor, class: kind }, words);
const dot = (kind, cx, cy, r) => makeSvg("circle", { class: kind, cx, cy, r });
const line = (kind, x1, y1, x2, y2) => makeSvg("line", { class: kind, x1, y1, x2, y2 });

function grid(data, box, scales, log) {
  const { left, right, top, bottom } = box, now = scales.x(data.origin);
  const lines = priceTicks(scales, log, (bottom - top) / 50).flatMap((v) => {
    const y = scales.y(v);
    return [line("grid", left, y, right, y), text(left - 8, y + 4, "end", v.toLocaleString("en", { maximumSignificantDigits: 6 }))];
  });
  const days = dateTicks(scales, (right - left) / 78).map(([t, words]) => text(Math.min(scales.x(t), right), bottom + 18, "middle", words));
  return [...lines, ...days, line("axis", left, bottom, right, bottom), line("today", now, top, now, bottom)];
}

// Names of the horizons, the farthest first: near ones may have no room.
function horizonMarks({ knots, origin }, box, scales) {
  let free = box.width;
  return knots.toReversed().flatMap((k) => {
    const x = scales.x(k.t), words = title(k.horizon), half = 3.6 * words.length, middle = Math.min(x, box.width - half);
    if (middle + half > free || x - scales.x(origin) < half) return [];
    free = middle - half - 8;
    return [line("target", x, box.top, x, box.bottom), text(middle, 16, "middle", words)];
  });
}

function edgeLabels({ knots }, box, scales) {
  const { prices } = knots.at(-1), taken = [];
  return EDGE.flatMap((q) => {
    const y = scales.y(prices[q]);
    if (taken.some((other) => Math.abs(other - y) < 15)) return [];
    taken.push(y);
    return [text(box.right + 7, y + 4, "start", price(prices[q]), q === "0.5" ? "edge" : "tick")];
  });
}

function markOf(point, box, scales) {
  const dots = Object.values(point.prices ?? [point.value]).map((v) => dot("", point.x, scales.y(v), 3));
  return [line("", point.x, box.top, point.x, box.bottom), ...dots];
}

function priceTicks({ min, max }, log, most) {
  if (!log || max / min < 2.5) {
    const rough = (max - min || 1) / most, unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 2.5, 5, 10].find((s) => s * unit >= rough), first = Math.ceil(min / step);
    return Array.from({ length: Math.floor(max / step) - first + 1 }, (_, i) => (first + i) * step);
  }
  const fine = max / min < 40 ? [1, 1.5, 2, 3, 4, 5, 7] : [1, 3];
  return Array.from({ length: 16 }, (_, i) => fine.map((s) => s * 10 ** (i - 7))).flat().filter((v) => v >= min && v <= max);
}

// Months, quarters, years: as many as there is room for.
function dateTicks({ start, end }, most) {
  const step = [1, 3, 6, 12, 24, 60].find((months) => (end - start) / DAY / 30.4 / months <= most) ?? 120;
  const form = dates(step < 12 ? { month: "short", year: "numeric" } : { year: "numeric" }), out = [];
  let month = Math.floor((new Date(start).getUTCFullYear() - 2000) * 12 / step) * step, t;
  while ((t = Date.UTC(2000, month)) <= end) {
    if (t >= start) out.push([t, form.format(t)]);
    month += step;
  }
  return out;
}
