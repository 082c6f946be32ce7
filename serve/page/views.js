// What stands below the chart: the table of quantiles, the verdicts on skill, the reasons.

import { aheadOf, capital, day, level, make, modelName, percent, price, sessions, span } from "./words.js";

const STRONGEST = 8; // factors shown one by one; the rest together

export function headline(answer, close) {
  return `${answer.ticker} closed at ${price(close)} on ${day(answer.origin)}`;
}

export function lead(answer) {
  const last = answer.forecasts.reduce((a, b) => (b.horizon > a.horizon ? b : a)), p = last.prices;
  const range = (low, high) => `between ${price(p[low])} and ${price(p[high])}`;
  return `${aheadOf(last.horizon)}, on ${day(last.target_date)}, 80% of outcomes should lie ${range("0.1", "0.9")}, 95% ${range("0.025", "0.975")}.`;
}

export function quantileTable(answer) {
  const levels = Object.keys(answer.forecasts[0].prices).sort((a, b) => a - b);
  const head = make("tr", {}, make("th", { scope: "col" }, "Horizon"), make("th", { scope: "col" }, "Until"),
    levels.map((q) => make("th", { scope: "col", class: q === "0.5" ? "median" : null }, q === "0.5" ? "Median" : level(q))));
  const rows = answer.forecasts.map((f) => make("tr", {},
    make("th", { scope: "row" }, capital(span(f.horizon)), f.horizon === 1 ? null : make("small", {}, sessions(f.horizon))),
    make("td", { class: "date" }, day(f.target_date)),
    levels.map((q) => make("td", { class: q === "0.5" ? "median" : null }, price(f.prices[q]), make("small", {}, percent(f.quantiles[q]))))));
  return [make("caption", {}, `Prices of ${answer.ticker}, and the change from ${day(answer.origin)}`), make("thead", {}, head), make("tbody", {}, rows)];
}

export function verdicts(answer) {
  return answer.forecasts.map((f) => make("li", { class: f.skill ? "shown" : "none" },
    make("strong", {}, capital(span(f.horizon))),
    make("span", { class: "verdict" }, f.skill ? "✓ Skill shown" : "– No skill shown"),
    make("span", {}, verdictText(f, answer.model.name))));
}

function verdictText(forecast, served) {
  const model = forecast.model ?? served, name = modelName(model);
  if (forecast.skill) return `${name} answers. It told better than the best classical model how far prices move, by more than luck.`;
  if (model === "xgboost") return `${name} answers, though it was not shown to be better than the classical models here.`;
  return `So the best classical model answers: ${name}.`;
}

export function drawTabs(list, panel, explained, draw) {
  const tabs = explained.forecasts.map((f, i) => make("button", { type: "button", role: "tab", id: `tab-${f.horizon}`, "aria-controls": "panel" }, capital(span(f.horizon))));
  const choose = (i, focus) => {
    tabs.forEach((tab, k) => {
      tab.setAttribute("aria-selected", k === i);
      tab.tabIndex = k === i ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", tabs[i].id);
    panel.replaceChildren(...draw(explained.forecasts[i]));
    if (focus) tabs[i].focus();
  };
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => choose(i));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1 + tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(to % tabs.length, true);
    });
  });
  list.replaceChildren(...tabs);
  choose(Math.max(0, explained.forecasts.findIndex((f) => f.horizon === 21)));
}

export function reasons(forecast) {
  const { factors, total } = strongest(forecast.contributions ?? []);
  const widest = Math.max(...factors.map((f) => Math.abs(f.log)), .02);
  const bars = factors.map((f) => {
    const bar = make("span", { class: f.log > 0 ? "factor wider" : "factor narrower" }, make("i"));
    bar.firstChild.style.width = `${50 * Math.abs(f.log) / widest}%`;
    return make("li", {}, make("span", { class: "name" }, f.name), bar, make("span", { class: "number" }, percent(f.log)));
  });
  const sum = total === null ? null : make("p", { class: "total" }, "All together: ", make("strong", {}, `${Math.exp(total).toFixed(2)} times`), " as wide as in this stock’s long run.");
  // Its parts on lines of their own: the sentence is long.
  const words = (forecast.words ?? "").split(/\s(?=(?:Widening|Calming|Which way)\b)/).filter(Boolean);
  return [bars.length ? make("p", { class: "hint" }, "What makes it wider (right) or narrower (left), and by how much:") : null,
    bars.length ? make("ol", { class: "factors" }, bars) : null, sum,
    make("div", { class: "words" }, words.map((w) => make("p", {}, w)))].filter(Boolean);
}

// The same feature may act in more than one part of the model: people want one bar. The long-run level is where all starts, no reason.
function strongest(contributions) {
  const isLevel = (c) => c.part === "level" || (c.part === undefined && c.feature === "v_all" && c.contribution < -1);
  const level = contributions.some(isLevel), logs = new Map();
  for (const c of contributions.filter((c) => !isLevel(c))) {
    const name = c.label ?? c.words ?? c.feature;
    logs.set(name, (logs.get(name) ?? 0) + c.contribution);
  }
  const all = [...logs].map(([name, log]) => ({ name: capital(name), log })).sort((a, b) => Math.abs(b.log) - Math.abs(a.log));
  const factors = all.slice(0, STRONGEST).filter((f) => Math.abs(f.log) >= .0005), rest = all.slice(factors.length);
  const sum = (list) => list.reduce((s, f) => s + f.log, 0);
  if (rest.length) factors.push({ name: `${rest.length} smaller factor${rest.length === 1 ? "" : "s"} together`, log: sum(rest) });
  return { factors, total: level ? sum(all) : null };
}
