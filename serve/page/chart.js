// The fan chart: what the price did, and the bands in which it may be up to the farthest horizon.

import { capital, day, makeSvg, price, span, time } from "./words.js";

const BANDS = [["0.025", "0.975", "95%"], ["0.1", "0.9", "80%"], ["0.25", "0.75", "50%"]];
const EDGE_LEVELS = ["0.5", "0.975", "0.025", "0.9", "0.1"]; // labelled at the right edge, the first ones first if room is short
const DAY = 864e5;
const LINE = 15; // pixels between two labels that can still be read

// History as if quoted today (adjusted prices end on the last close), and the knots that the fan passes through.
export function fanData(bars, answer) {
  const last = bars.at(-1), scale = last.close / (last.adj_close ?? last.close);
  const knots = answer.forecasts.map((f) => ({ t: time(f.target_date), iso: f.target_date, horizon: f.horizon, prices: f.prices }))
    .sort((a, b) => a.t - b.t);
  const origin = time(last.date);
  const reach = Math.max(1.6 * (knots.at(-1).t - origin), 100 * DAY); // longer histories would squeeze the fan
  const history = bars.map((b) => ({ t: time(b.date), iso: b.date, value: (b.adj_close ?? b.close) * scale }))
    .filter((p) => p.t >= origin - reach);
  const bands = BANDS.filter(([low, high]) => low in knots[0].prices && high in knots[0].prices);
  return { history, knots, bands, origin, close: last.close, adjusted: bars.some((b) => b.adj_close && Math.abs(b.adj_close * scale / b.close - 1) > .001) };
}

export function fanSummary(ticker, data) {
  const { knots, bands, history } = data, last = knots.at(-1);
  const ranges = bands.map(([low, high, name]) => `${name} between ${price(last.prices[low])} and ${price(last.prices[high])}`);
  return `Chart of ${ticker}: daily prices from ${day(history[0].iso)} to ${day(history.at(-1).iso)}, where it closed at ${price(data.close)}, `
    + `then a fan that widens to ${day(last.iso)}: ${ranges.join(", ")}. The table below holds all numbers.`;
}

// What stands at one point of the chart, in words.
export function pointText(data, point) {
  if (!point.prices) return `${day(point.iso)}: ${price(point.value)}`;
  const ranges = data.bands.toReversed().map(([low, high, name]) => `${name} ${price(point.prices[low])} – ${price(point.prices[high])}`);
  return `${day(point.iso)}, ${span(point.horizon)}: median ${price(point.prices["0.5"])} · ${ranges.join(" · ")}`;
}

// Draws into `svg` and returns what hovering needs: all points with their x, and a function that marks one.
export function drawFan(svg, data, log) {
  const width = Math.max(280, svg.clientWidth), height = Math.max(240, svg.clientHeight);
  const box = { left: 4, right: width - 62, top: 30, bottom: height - 26, width, height };
  const scales = makeScales(data, box, log);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const marker = makeSvg("g", { class: "marker" });
  svg.replaceChildren(...grid(data, box, scales, log), ...fan(data, scales), ...horizonMarks(data, box, scales),
    ...edgeLabels(data, box, scales), marker);
  const points = [...data.history, ...data.knots].map((p) => ({ ...p, x: scales.x(p.t) }));
  return { points, width, mark: (point) => marker.replaceChildren(...(point ? markOf(point, box, scales) : [])) };
}

function makeScales(data, box, log) {
  const values = [...data.history.map((p) => p.value), ...data.knots.flatMap((k) => Object.values(k.prices).length
    ? data.bands.flatMap(([low, high]) => [k.prices[low], k.prices[high]]) : []), data.close];
  const put = log ? Math.log : (v) => v;
  const low = put(Math.min(...values)), high = put(Math.max(...values)), pad = .04 * (high - low || Math.abs(high) || 1);
  const start = data.history[0].t, end = data.knots.at(-1).t;
  return {
    x: (t) => box.left + (box.right - box.left) * (t - start) / (end - start),
    y: (v) => box.bottom - (box.bottom - box.top) * (put(v) - low + pad) / (high - low + 2 * pad),
    start, end, min: Math.min(...values), max: Math.max(...values),
  };
}

// Between two knots a level moves with the square root of time, as the spread of prices does.
function levelPath(data, scales, level) {
  const knots = [{ t: data.origin, value: data.close }, ...data.knots.map((k) => ({ t: k.t, value: k.prices[level] }))];
  const root = (t) => Math.sqrt(t - data.origin), out = [[scales.x(knots[0].t), scales.y(knots[0].value)]];
  for (let i = 1; i < knots.length; i++) {
    const a = knots[i - 1], b = knots[i], steps = 16;
    for (let k = 1; k <= steps; k++) {
      const r = root(a.t) + (root(b.t) - root(a.t)) * k / steps, share = k / steps;
      out.push([scales.x(data.origin + r * r), scales.y(Math.exp(Math.log(a.value) * (1 - share) + Math.log(b.value) * share))]);
    }
  }
  return out;
}

const draw = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function fan(data, scales) {
  const bands = data.bands.map(([low, high, name]) => makeSvg("path", {
    class: `band band-${parseInt(name, 10)}`,
    d: `${draw(levelPath(data, scales, high))}${draw(levelPath(data, scales, low).reverse()).replace("M", "L")}Z`,
  }));
  const past = draw(data.history.map((p) => [scales.x(p.t), scales.y(p.value)]));
  const median = data.knots.map((k) => makeSvg("circle", { class: "knot", cx: scales.x(k.t), cy: scales.y(k.prices["0.5"]), r: 2.5 }));
  return [...bands, makeSvg("path", { class: "median", d: draw(levelPath(data, scales, "0.5")) }),
    makeSvg("path", { class: "history", d: past }), ...median];
}

function grid(data, box, scales, log) {
  const lines = priceTicks(scales.min, scales.max, log, (box.bottom - box.top) / 55).flatMap((v) => {
    const y = scales.y(v);
    return y > box.bottom || y < box.top ? [] : [
      makeSvg("line", { class: "grid", x1: box.left, x2: box.right, y1: y, y2: y }),
      makeSvg("text", { class: "tick", x: box.left, y: y - 4 }, tickText(v)),
    ];
  });
  const days = dateTicks(scales.start, scales.end, (box.right - box.left) / 78).map(([t, text]) => {
    const x = Math.max(box.left + 24, Math.min(box.right - 4, scales.x(t)));
    return makeSvg("text", { class: "tick", x, y: box.height - 8, "text-anchor": "middle" }, text);
  });
  const now = scales.x(data.origin);
  return [...lines, makeSvg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }), ...days,
    makeSvg("line", { class: "today", x1: now, x2: now, y1: box.top, y2: box.bottom })];
}

// Names of the horizons above their dates, the farthest first: near ones have no room in a wide fan.
function horizonMarks(data, box, scales) {
  const out = [];
  let free = box.width;
  for (const k of data.knots.toReversed()) {
    const x = scales.x(k.t), text = capital(span(k.horizon)), half = 3.6 * text.length;
    const middle = Math.min(x, box.width - half - 2);
    if (middle + half > free || x - scales.x(data.origin) < half) continue;
    free = middle - half - 8;
    out.push(makeSvg("line", { class: "target", x1: x, x2: x, y1: box.top, y2: box.bottom }),
      makeSvg("text", { class: "tick", x: middle, y: 18, "text-anchor": "middle" }, text));
  }
  return out;
}

function edgeLabels(data, box, scales) {
  const last = data.knots.at(-1), taken = [];
  return EDGE_LEVELS.flatMap((q) => {
    if (!(q in last.prices)) return [];
    const y = scales.y(last.prices[q]);
    if (taken.some((other) => Math.abs(other - y) < LINE)) return [];
    taken.push(y);
    return [makeSvg("text", { class: q === "0.5" ? "edge edge-median" : "edge", x: box.right + 7, y: y + 4 }, price(last.prices[q]))];
  });
}

function markOf(point, box, scales) {
  const values = point.prices ? Object.values(point.prices) : [point.value];
  return [makeSvg("line", { x1: point.x, x2: point.x, y1: box.top, y2: box.bottom }),
    ...values.map((v) => makeSvg("circle", { cx: point.x, cy: scales.y(v), r: point.prices ? 2.5 : 4 }))];
}

function priceTicks(min, max, log, most) {
  if (!log || max / min < 2.5) {
    const rough = (max - min) / Math.max(2, most), unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 2.5, 5, 10].find((s) => s * unit >= rough);
    const first = Math.ceil(min / step);
    return Array.from({ length: Math.floor(max / step) - first + 1 }, (_, i) => (first + i) * step);
  }
  const fine = max / min < 40 ? [1, 1.5, 2, 3, 4, 5, 7] : max / min < 1000 ? [1, 2, 5] : [1];
  const out = [];
  for (let e = Math.floor(Math.log10(min)); e <= Math.ceil(Math.log10(max)); e++) out.push(...fine.map((s) => s * 10 ** e));
  return out.filter((v) => v >= min && v <= max);
}

const tickText = (v) => v.toLocaleString("en", { maximumSignificantDigits: 6 });

// Dates that people count in: weeks for a short chart, then months, quarters, years.
function dateTicks(start, end, most) {
  const days = (end - start) / DAY;
  const form = (options) => new Intl.DateTimeFormat("en-GB", { ...options, timeZone: "UTC" });
  const week = [7, 14, 28].find((s) => days / s <= most);
  if (week && days < 130) {
    const text = form({ day: "numeric", month: "short" });
    const first = Math.ceil((start / DAY + 3) / 7) * 7 - 3; // a Monday
    return Array.from({ length: Math.floor((end / DAY - first) / week) + 1 }, (_, i) => (first + i * week) * DAY).map((t) => [t, text.format(t)]);
  }
  const step = [1, 2, 3, 6, 12, 24, 60, 120, 240].find((s) => days / 30.4 / s <= most) ?? 600;
  const text = form(step < 12 ? { month: "short", year: "numeric" } : { year: "numeric" });
  const out = [], from = new Date(start).getUTCFullYear() * 12;
  for (let m = Math.floor(from / step) * step; ; m += step) {
    const t = Date.UTC(0, m) && Date.UTC(Math.floor(m / 12), m % 12);
    if (t > end) return out;
    if (t >= start) out.push([t, text.format(t).replace("Sept", "Sep")]);
  }
}
