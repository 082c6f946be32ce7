// What stands around the chart: a sentence, the table, the verdicts, the reasons.

import { capital, day, fill, make, percent, price, span, title } from "./words.js";

const STRONGEST = 8; // factors shown one by one; the rest together

export function lead({ forecasts }) {
  const { horizon, target_date, prices } = forecasts.at(-1);
  const range = (low, high) => `between ${price(prices[low])} and ${price(prices[high])}`;
  return `For ${day(target_date)} (${span(horizon)}), 80% of outcomes should lie ${range("0.1", "0.9")}, 95% ${range("0.025", "0.975")}.`;
}

export function quantileTable({ forecasts }) {
  const levels = Object.keys(forecasts[0].prices).sort((a, b) => a - b), kind = (q) => ({ class: q === "0.5" ? "median" : "" });
  const name = (q) => (q === "0.5" ? "Median" : `${+(100 * q).toFixed(2)}%`);
  const head = (words, more) => make("th", { scope: "col", ...more }, words);
  const row = (f) => make("tr", {}, make("th", { scope: "row" }, title(f.horizon), make("small", {}, day(f.target_date))),
    levels.map((q) => make("td", kind(q), price(f.prices[q]), make("small", {}, percent(f.quantiles[q])))));
  const names = make("tr", {}, head("Horizon"), levels.map((q) => head(name(q), kind(q))));
  return [make("thead", {}, names), make("tbody", {}, forecasts.map(row))];
}

export function verdicts({ forecasts, model }) {
  return forecasts.map((f) => {
    const name = (f.model ?? model.name).toUpperCase().replaceAll("_", " ");
    const who = f.skill || name === "XGBOOST" ? "XGBoost answers." : `The best classical model answers: ${name}.`;
    return make("li", { class: f.skill ? "shown" : "" }, make("strong", {}, title(f.horizon)),
      make("span", {}, f.skill ? "✓ Skill shown" : "– No skill shown"), make("span", {}, who));
  });
}

export function drawTabs(list, panel, { forecasts }) {
  const tab = { type: "button", role: "tab", "aria-controls": "panel" };
  const tabs = forecasts.map(({ horizon }) => make("button", { ...tab, id: `tab-${horizon}` }, title(horizon)));
  const choose = (i) => {
    tabs.forEach((one, k) => fill(one, { "aria-selected": k === i, tabindex: k === i ? 0 : -1 }));
    fill(panel, { "aria-labelledby": tabs[i].id });
    panel.replaceChildren(...reasons(forecasts[i]));
  };
  tabs.forEach((one, i) => {
    one.addEventListener("click", () => choose(i));
    one.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: -1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose((to + tabs.length) % tabs.length);
      list.querySelector("[aria-selected=true]").focus();
    });
  });
  list.replaceChildren(...tabs);
  choose(Math.max(0, forecasts.findIndex((f) => f.horizon === 21)));
}

function reasons({ contributions, words }) {
  const factors = strongest(contributions), widest = Math.max(.02, ...factors.map((f) => Math.abs(f.log)));
  const bars = factors.map(({ name, log }) => {
    const bar = make("i");
    bar.style.width = `${50 * Math.abs(log) / widest}%`;
    const side = make("span", { class: log > 0 ? "wider" : "narrower" }, bar);
    return make("li", {}, make("span", {}, name), side, make("span", {}, percent(log)));
  });
  const parts = words.split(/\s(?=(?:Widening|Calming|Which way)\b)/).map((w) => make("p", {}, w)); // on lines of their own
  return [make("ol", { class: "factors" }, bars), make("div", { class: "words" }, parts)];
}

// A feature may act in several parts of the model: people want one bar. The long-run level is no reason.
function strongest(contributions) {
  if (!contributions.some((c) => c.part === "level")) return []; // no feature is looked at
  const logs = new Map();
  for (const c of contributions.filter((one) => one.part !== "level")) logs.set(c.words, (logs.get(c.words) ?? 0) + c.contribution);
  const all = [...logs].map(([name, log]) => ({ name: capital(name), log })).sort((a, b) => Math.abs(b.log) - Math.abs(a.log));
  const rest = all.slice(STRONGEST), sum = (list) => list.reduce((s, f) => s + f.log, 0);
  return [...all.slice(0, STRONGEST), ...(rest.length ? [{ name: `${rest.length} smaller ones together`, log: sum(rest) }] : []),
    { name: "All together", log: sum(all) }];
}
