"use strict";
/* The page of `lawful watch`: asks what changed, three times a second, and draws what is looked at.

   Everything a run says is set as text, never as markup. The numbers of the layer that is shown are
   kept in DOC in the form the figures read (figures.js) and grow by what is new. */

const DOC = { stepsets: {}, phases: [] };
const ASK = 300, HIDDEN = 4000, LOST = 4000;  // milliseconds
const KEPT = 800;  // points of a curve before it is thinned
const TAILS = ["", "_haar", "_permutation"];
const make = (kind, text = "", name = "") => Object.assign(document.createElement(kind), { textContent: text, className: name });

const runs = new Map();
let keys = [];
let epoch = "", change = 0;
let run = null;          // key of the run that is shown
let layer = null;        // its layer
let head = null;         // answer of /api/run
let quantities = {};     // of the layer: name → meaning
let shown = { series: {} }, whole = { series: {} };
let world = null;        // phases and relations
let opened;
const ready = new Promise((done) => { opened = done; });  // the world is here
let plotting = false;

/* ---- asking ------------------------------------------------------------------------------ */

let token = location.hash.slice(1);
try { token = token || sessionStorage.getItem("token") || ""; if (token) sessionStorage.setItem("token", token); } catch { /* no storage: the address keeps it */ }
if (location.hash) history.replaceState(null, "", location.pathname);

class Closed extends Error {}

async function ask(path, query = {}) {
  const address = path + (Object.keys(query).length ? "?" + new URLSearchParams(query) : "");
  const headers = token ? { Authorization: "Bearer " + token } : {};
  const answer = await fetch(address, { headers, signal: AbortSignal.timeout(10000) });
  if (answer.status === 401) throw new Closed();
  return answer.json();
}

/** One round: what changed, and the parts of it that are on the screen. */
async function round() {
  const news = await ask("/api/runs", { after: change, epoch });
  if (news.epoch !== epoch) { runs.clear(); epoch = news.epoch; }
  if (news.keys) { keys = news.keys; for (const key of [...runs.keys()]) if (!keys.includes(key)) runs.delete(key); }
  for (const one of news.runs) runs.set(one.key, one);
  change = news.change;
  if (news.runs.length || news.keys) showRuns();
  if ((!run || !runs.has(run)) && keys.length) await choose(keys.find((k) => runs.has(k)));
  else if (run && news.runs.some((one) => one.key === run)) await refresh();
}

async function follow() {
  let wait = ASK;
  try {
    await round();
    tell(`following ${runs.size} ${runs.size === 1 ? "run" : "runs"}`, false);
    element("door").hidden = true; element("room").hidden = false;
  } catch (error) {
    if (error instanceof Closed) { element("door").hidden = false; element("room").hidden = true; tell("locked", true); return; }
    tell("not connected, trying again", true);
    wait = LOST / 2;
  }
  setTimeout(follow, document.hidden ? HIDDEN : wait);
}

function tell(text, away) {
  if (element("state").textContent !== text) element("state").textContent = text;
  element("state").classList.toggle("away", away);
}

/* ---- the list of runs ----------------------------------------------------------------------- */

const LOOKS = { holds: "holds", violated: "violated", undetermined: "undetermined", "out of regime": "outside" };

function showRuns() {
  element("count").textContent = keys.length ? "" : "No run is here yet. This page waits for one.";
  const list = element("runs");
  const old = new Map([...list.children].map((li) => [li.dataset.key, li]));
  list.replaceChildren(...keys.filter((key) => runs.has(key)).map((key) => entry(key, old.get(key))));
}

function entry(key, old) {
  const one = runs.get(key);
  if (old && old.dataset.change === String(one.change) && old.dataset.on === String(key === run)) return old;
  const li = make("li");
  Object.assign(li.dataset, { key, change: one.change, on: key === run });
  const button = make("button");
  button.type = "button";
  button.setAttribute("aria-current", String(key === run));
  button.append(make("b", one.name));
  button.append(make("small", one.fault ? "cannot be read" : `${one.status || "no status"}, step ${saySteps(Math.max(0, one.last))}`));
  const votes = make("div", "", "votes");
  for (const [status, n] of Object.entries(one.tally || {})) {
    const part = make("i", "", LOOKS[status] || "unknown");
    part.style.flex = String(n);
    part.title = `${n} ${status}`;
    votes.append(part);
  }
  button.append(votes);
  button.addEventListener("click", () => choose(key));
  li.append(button);
  return li;
}

/* ---- one run ----------------------------------------------------------------------------------- */

async function choose(key) {
  if (!key) return;
  run = key; layer = null; head = null;
  shown = { series: {} }; whole = { series: {} };
  showRuns();
  await refresh();
}

let busy = false, again = false;

/** Bring what is on the screen up to date; a second call meanwhile waits for the first. */
async function refresh() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    do { again = false; await bring(run); } while (again);
  } finally { busy = false; }
}

async function bring(key) {
  const one = runs.get(key);
  const found = await ask("/api/run", { run: key });
  if (key !== run) { again = true; return; }
  head = found;
  element("main").hidden = false;
  element("title").textContent = one.title && !one.fault ? one.title : one.name;
  element("fault").hidden = !head.fault;
  element("fault").textContent = head.fault ? `This run cannot be read: ${head.fault}` : "";
  for (const part of ["facts", "verdicts", "layers", "run"]) element(part).hidden = Boolean(head.fault);
  element("knobs-section").hidden = true;
  if (head.fault) return;
  showHead(one);
  if (layer === null || !head.layers.includes(layer)) layer = head.layers.includes(layer) ? layer : head.layers[0] ?? "";
  showPicker();
  document.documentElement.dataset.first ||= String(Math.round(performance.now()));
  await bringLayer(key);
}

function showHead(one) {
  element("facts").replaceChildren(...head.facts.filter(([label]) => ["model", "optimizer", "data", "steps", "status", "seed"].includes(label))
    .map(([label, text]) => { const box = make("div"); box.append(make("dt", label), make("dd", text)); return box; }));
  element("settings").replaceChildren(...head.settings.map(([label, text]) => {
    const row = make("tr"), name = make("th", label);
    name.scope = "row";
    row.append(name, make("td", text));
    return row;
  }));
  element("judged").textContent = head.note || (!one.judged ? "The laws are being tested."
    : !head.laws.length ? "No law was tested on this run."
    : `Tested at step ${saySteps(Math.max(0, head.step))}${one.current ? "." : "; newer measurements are being tested."} Choose a square to open its layer.`);
  glance();
  element("knobs-section").hidden = !head.knobs.length;
  element("knobs").replaceChildren(...head.knobs.map(([name, where, value, bounds, advice, law]) => {
    const li = make("li");
    li.append(make("b", name), ` ${where ? where + ": " : ""}${value} ${bounds}. ${advice} `, make("span", law, "kind"));
    return li;
  }));
}

let glanced = "";

function glance() {
  const now = JSON.stringify([head.laws, head.glance]);
  if (now === glanced) return;
  glanced = now;
  const top = make("tr");
  top.append(make("td"), ...head.laws.map((law) => { const th = make("th"); th.scope = "col"; th.append(make("span", law)); return th; }));
  const rows = head.glance.map(([name, cells]) => {
    const row = make("tr"), first = make("th", name || "whole run");
    first.scope = "row";
    row.append(first, ...cells.map((cell, i) => {
      const td = make("td");
      if (!cell) return td;
      const button = make("button", cell[1], cell[0]);
      button.type = "button";
      button.title = `${head.laws[i]}, ${name || "whole run"}`;
      button.addEventListener("click", () => { openLayer(name); element("layers").scrollIntoView(); });
      td.append(button);
      return td;
    }));
    return row;
  });
  const thead = make("thead"), body = make("tbody");
  thead.append(top);
  body.append(...rows);
  element("glance").replaceChildren(thead, body);
}

function showPicker() {
  const names = ["", ...head.layers];
  const list = element("layer");
  if ([...list.options].map((o) => o.value).join("\n") !== names.join("\n"))
    list.replaceChildren(...names.map((name) => new Option(name || "whole run", name)));
  list.value = layer;
  const place = names.indexOf(layer);
  element("previous").disabled = place <= 0;
  element("next").disabled = place < 0 || place === names.length - 1;
}

async function openLayer(name) {
  layer = name;
  shown = { series: {} };
  showPicker();
  await refresh();
}

/* ---- the layer --------------------------------------------------------------------------------- */

async function bringLayer(key) {
  await ready;
  const name = layer;
  const about = await ask("/api/layer", { run: key, layer: name });
  if (key !== run || name !== layer) { again = true; return; }
  if (about.fault) return;
  quantities = about.quantities;
  showQuantities();
  showVerdicts(about.verdicts);
  element("plane-reading").textContent = about.plane.sentence;
  const wanted = world.relations.flatMap(([r]) => TAILS.map((tail) => r + tail)).concat("exponent_p", "exponent_q", element("quantity").value);
  const grown = await grow(shown, key, name, wanted.filter((q) => quantities[q]));
  const grownToo = await grow(whole, key, "", ["loss", "accuracy"]);
  if (key !== run || name !== layer) { again = true; return; }
  if (plotting && (grown || grownToo)) drawAll();
}

/** Fetch what the curves gained; a curve not yet here is fetched whole. True when there was any. */
async function grow(place, key, name, wanted) {
  let any = false;
  const had = wanted.filter((q) => place.series[q]), fresh = wanted.filter((q) => !place.series[q]);
  for (const [list, after] of [[fresh, -1], [had, place.last ?? -1]]) {
    if (!list.length) continue;
    const news = await ask("/api/series", { run: key, layer: name, q: list.join(","), after });
    for (const [q, [set, values, errors]] of Object.entries(news.series || {})) {
      append(place, name, q, news.stepsets[set], values, errors);
      any = true;
    }
  }
  place.last = Math.max(place.last ?? -1, ...wanted.filter((q) => place.series[q]).map((q) => DOC.stepsets[place.series[q][0]].at(-1)));
  return any;
}

function append(place, name, q, steps, values, errors) {
  const id = `${name ? "layer" : "run"}:${q}`;
  if (!place.series[q]) { place.series[q] = [id, [], []]; DOC.stepsets[id] = []; }
  const [, kept, mine] = place.series[q], at = DOC.stepsets[id];
  steps.forEach((step, i) => {
    if (at.length && step <= at.at(-1)) return;
    at.push(step); kept.push(values[i]); mine.push(errors ? errors[i] : null);
  });
  if (at.length > KEPT) {  // every second point of the older part
    const keep = (_, i) => i % 2 === 0 || i >= at.length - 50;
    place.series[q] = [id, kept.filter(keep), mine.filter(keep)];
    DOC.stepsets[id] = at.filter(keep);
  }
}

function showQuantities() {
  const names = Object.keys(quantities), list = element("quantity"), before = list.value;
  if ([...list.options].map((o) => o.value).join() !== names.join()) {
    list.replaceChildren(...names.map((q) => new Option(q, q)));
    list.value = names.includes(before) ? before : names.includes("weight_norm2") ? "weight_norm2" : names[0] || "";
  }
  setFormula(element("meaning"), quantities[list.value] || "");
}

function showVerdicts(list) {
  element("verdict-list").replaceChildren(...list.map((v) => {
    const li = make("li", "", v.look[0]), claim = make("span", "", "claim");
    claim.append(make("b", v.law));
    const numbers = make("dl"), box = make("div");
    box.append(make("dd", v.effect), ...(v.interval === "–" ? [] : [make("dd", v.interval)]));
    numbers.append(box);
    li.append(make("span", `${v.look[1]} ${v.look[2]}`, "badge"), claim, setFormula(make("p"), v.sentence), numbers);
    return li;
  }));
}

let drawing = false, stale = false;

/** Draw everything; asked again meanwhile, once more after: no figure waits behind the others. */
function drawAll() {
  if (drawing) { stale = true; return; }
  drawing = true; stale = false;
  const figures = [
    ...world.relations.map(([r]) => [r, () => alignment(shown, r, "")]),
    ["plane", () => phasePlane(shown)],
    ["any", drawAny],
    ["run-loss", () => overSteps(whole.series, [{ quantity: "loss", color: ink("accent") }], {}, "The loss was not logged in this run.")],
    ["run-accuracy", () => overSteps(whole.series, [{ quantity: "accuracy", color: ink("accent") }], {}, "The accuracy was not logged in this run.")],
  ];
  const newest = String(whole.last ?? "");
  drawInTurn("layer", [
    ...figures.filter(([id]) => near.has(id)).map(([id, figure]) => () => draw(id, figure)),
    () => { drawing = false; document.documentElement.dataset.shown = newest; if (stale) setTimeout(drawAll, 0); },
  ]);
}

/* Only figures on the screen, or nearly, are drawn; one that comes there is drawn then. */
const near = new Set();
const watchPlace = new IntersectionObserver((entries) => {
  let fresh = false;
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) { fresh ||= !near.has(target.id); near.add(target.id); } else near.delete(target.id);
  }
  if (fresh && plotting) drawAll();
}, { rootMargin: "300px" });

function drawAny() {
  const quantity = element("quantity").value;
  return overSteps(shown.series, [{ quantity, color: ink("accent") }], {}, "Nothing has been measured here yet.");
}

/* ---- plotly, in parts, after the first numbers are on the screen -------------------------------- */

async function loadPlotly() {
  const parts = await Promise.all(Array.from({ length: world.parts }, (_, i) => fetch(`/plotly-${i}`).then((r) => r.text())));
  const script = document.createElement("script");
  script.src = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
  await new Promise((done, failed) => { script.onload = done; script.onerror = failed; document.head.append(script); });
  URL.revokeObjectURL(script.src);
  plotting = true;
  drawAll();
}

/* ---- wiring ---------------------------------------------------------------------------------------- */

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  document.documentElement.style.colorScheme = name;
}
window.addEventListener("error", (e) => { document.documentElement.dataset.error = e.message; });
window.addEventListener("unhandledrejection", (e) => { document.documentElement.dataset.error = String(e.reason); });
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
setTheme(prefersDark.matches ? "dark" : "light");
const redraw = () => { if (plotting) drawAll(); };
prefersDark.addEventListener("change", (e) => { setTheme(e.matches ? "dark" : "light"); redraw(); });
element("theme").addEventListener("click", () => { setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); redraw(); });
element("layer").addEventListener("change", (e) => openLayer(e.target.value));
for (const [id, by] of [["previous", -1], ["next", 1]])
  element(id).addEventListener("click", () => openLayer(["", ...head.layers][["", ...head.layers].indexOf(layer) + by]));
element("quantity").addEventListener("change", () => { setFormula(element("meaning"), quantities[element("quantity").value] || ""); refresh().then(redraw); });
element("door").addEventListener("submit", (e) => {
  e.preventDefault();
  token = element("token").value.trim();
  try { sessionStorage.setItem("token", token); } catch { /* only for this page then */ }
  follow();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && !busy) round().catch(() => {}); });

const first = round().catch(() => {});  // asked at once: the first numbers wait for nothing else
fetch("/world.json").then((r) => r.json()).then(async (found) => {
  world = found;
  DOC.phases = world.phases;
  element("alignment").append(...world.relations.map(([r, meaning]) => {
    const figure = make("figure"), caption = make("figcaption"), plot = make("div", "", "plot short");
    plot.id = r;
    caption.append(make("b", r), " " + meaning);
    figure.append(caption, plot);
    return figure;
  }));
  all(".plot").forEach((place) => { followWidth.observe(place); watchPlace.observe(place); });
  opened();
  await first;
  return follow();
}).then(loadPlotly);
