"use strict";
/* Figures of a lawful report: one layer at a time, each drawn when its layer is chosen.

   The embedded document (see payload.py):
     layers[i] = {name, about, series: {quantity: [stepset, values, stderrs, n]},
                  plane: {sentence, phase}, view: {size, of, lost},
                  frames: [[step, {quantity: [length, values]}, base64 or null]]}
     stepsets[k] = [steps], ranks[length] = [ranks], run = series, phases = [{name, p, q, …}]
   null stands for a number that does not exist. */

const DOC = JSON.parse(document.getElementById("data").textContent);

/* ---- the layer section ------------------------------------------------------------------------------ */

let suffix = "";
let current = 0;

function showLayer(index, { frameToo = true } = {}) {
  if (!DOC.layers.length) return;
  current = index;
  const layer = DOC.layers[index];
  element("layer").value = String(index);
  element("about").textContent = layer.about;
  element("previous").disabled = index === 0;
  element("next").disabled = index === DOC.layers.length - 1;
  all("#variant button").forEach((b) => {
    b.disabled = !RELATIONS.some((r) => layer.series[r + b.dataset.suffix]);
    b.setAttribute("aria-pressed", String(b.dataset.suffix === suffix));
  });
  const list = layer.frames;
  if (frameToo) {
    element("frame").max = String(Math.max(0, list.length - 1));
    element("frame").value = element("frame").max;
  }
  const quantities = Object.keys(layer.series).sort();
  const before = element("quantity").value;
  element("quantity").replaceChildren(...quantities.map((q) => new Option(q, q)));
  const preferred = [before, "weight_norm2"].find((q) => quantities.includes(q));
  if (preferred) element("quantity").value = preferred;
  readPlane(layer);
  valueTable(layer);
  const aligned = RELATIONS.some((r) => layer.series[r]);
  element("canonical").hidden = !aligned;
  if (!aligned) {
    drawInTurn("layer", [() => draw("any", () => anything(layer))]);
    drawInTurn("frame", []);
    return;
  }
  drawInTurn("layer", [
    ...RELATIONS.map((r) => () => draw(r, () => alignment(layer, r, suffix))),
    () => draw("plane", () => phasePlane(layer)),
    () => draw("participation", () => participation(layer)),
    () => draw("ranks", () => ranks(layer)),
    () => draw("compactness", () => compactness(layer)),
    () => draw("any", () => anything(layer)),
  ]);
  drawInTurn("frame", showFrame(layer));
}

function drawRun() {
  if (element("foretold")) draw("foretold-plot", foretold);
  const absent = (what) => `The ${what} was not logged in this run.`;
  draw("run-loss", () => overSteps(DOC.run, [{ quantity: "loss", color: ink("accent") }], {}, absent("loss")));
  draw("run-accuracy", () => overSteps(DOC.run, [{ quantity: "accuracy", color: ink("accent") }], {}, absent("accuracy")));
}

function wireLayers() {
  if (!DOC.layers.length) return;
  const layer = () => DOC.layers[current];
  element("layer").addEventListener("change", (e) => showLayer(+e.target.value));
  element("previous").addEventListener("click", () => showLayer(Math.max(0, current - 1)));
  element("next").addEventListener("click", () => showLayer(Math.min(DOC.layers.length - 1, current + 1)));
  element("frame").addEventListener("input", () => drawInTurn("frame", showFrame(layer())));
  element("quantity").addEventListener("change", () => draw("any", () => anything(layer())));
  all("#variant button").forEach((b) => b.addEventListener("click", () => { suffix = b.dataset.suffix; showLayer(current, { frameToo: false }); }));
  all("[data-open]").forEach((b) => b.addEventListener("click", () => {
    const index = DOC.layers.findIndex((l) => l.name === b.dataset.open);
    if (index >= 0) showLayer(index);
    element("layers").scrollIntoView();
  }));
}

/* ---- verdicts ------------------------------------------------------------------------------------------ */

const FIRST = 12;
let expanded = false;

function filterVerdicts() {
  const on = new Set(all(".chip").filter((c) => c.getAttribute("aria-pressed") === "true").map((c) => c.dataset.status));
  const layer = element("filter-layer").value, law = element("filter-law").value;
  const rows = all("#verdict-list > li");
  const match = rows.filter((li) => on.has(li.dataset.status) &&
    (layer === "*" || li.dataset.layer === layer) && (law === "*" || li.dataset.law === law));
  const shown = new Set(expanded ? match : match.slice(0, FIRST));
  rows.forEach((li) => { li.hidden = !shown.has(li); });
  element("shown").textContent = `${shown.size} of ${rows.length} shown`;
  element("more").hidden = shown.size === match.length;
  element("more").textContent = `Show all ${match.length}`;
}

function wireVerdicts() {
  if (!element("verdict-list")) return;
  all(".chip").forEach((chip) => chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    filterVerdicts();
  }));
  for (const id of ["filter-layer", "filter-law"]) element(id).addEventListener("change", filterVerdicts);
  element("more").addEventListener("click", () => { expanded = true; filterVerdicts(); });
  all(".glance button").forEach((b) => b.addEventListener("click", () => {
    element("filter-layer").value = b.dataset.layer;
    element("filter-law").value = b.dataset.law;
    all(".chip:not(:disabled)").forEach((c) => c.setAttribute("aria-pressed", "true"));
    filterVerdicts();
    element("verdict-list").scrollIntoView({ block: "center" });
  }));
  filterVerdicts();
}

/* ---- theme ------------------------------------------------------------------------------------------------ */

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  document.documentElement.style.colorScheme = name;
}

window.addEventListener("error", (e) => { document.documentElement.dataset.error = e.message; });
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
setTheme(/dark/.test(location.hash) || prefersDark.matches ? "dark" : "light");
const redraw = () => { drawRun(); showLayer(current, { frameToo: false }); };
prefersDark.addEventListener("change", (e) => { setTheme(e.matches ? "dark" : "light"); redraw(); });
element("theme").addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  redraw();
});

wireVerdicts();
wireLayers();
if (element("foretold")) element("foretold").addEventListener("change", () => draw("foretold-plot", foretold));
all(".plot").forEach((place) => followWidth.observe(place));
drawRun();
showLayer(0);
