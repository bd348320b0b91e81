"use strict";
/* Phase diagrams of a sweep.

   The embedded document (see sweep.py):
     axes = [[setting, [values]]], points = [[value of each axis]], claims = [[law, layer]],
     cells[claim][point] = [status, {status: runs}, planned, effect, low, high],
     looks = {status: [sign, class]} */

const DOC = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const known = (x) => x !== null && x !== undefined;
const make = (kind, text = "", name = "") => Object.assign(document.createElement(kind), { textContent: text, className: name });
const say = (x) => (known(x) ? String(+x.toPrecision(3)) : "–");

/* A choice of two axes, and one value of every other axis. */
let across = 0;
let down = DOC.axes.length > 1 ? 1 : -1;
const held = DOC.axes.map(([, values]) => values[0]);

function valuesOf(axis) { return axis < 0 ? [""] : DOC.axes[axis][1]; }

/** The place of the point with these values on the two axes, the others held; −1 for none. */
function placeOf(x, y) {
  return DOC.points.findIndex((point) => point.every((value, axis) =>
    value === (axis === across ? x : axis === down ? y : held[axis])));
}

function sayVotes(cell) {
  return Object.entries(cell[1]).map(([status, n]) => `${n} ${status}`).join(", ") + ` of ${cell[2]}`;
}

function large(claim) {
  const body = make("tbody");
  const rows = [...valuesOf(down)].reverse();  // the second axis rises, as axes do
  for (const y of rows) {
    const row = make("tr");
    const head = make("th", y);
    head.scope = "row";
    row.append(head);
    for (const x of valuesOf(across)) {
      const place = placeOf(x, y);
      const cell = place < 0 ? null : DOC.cells[claim][place];
      if (!cell || !cell[0]) { row.append(make("td", "no verdict", "nothing")); continue; }
      const [sign, look] = DOC.looks[cell[0]] || ["?", "unknown"];
      const votes = Math.max(...Object.values(cell[1]));
      const td = make("td", "", look);
      td.style.setProperty("--share", String(votes / cell[2]));
      td.title = sayVotes(cell);
      td.append(make("b", `${sign} ${votes}/${cell[2]}`));
      td.append(make("small", known(cell[3]) ? say(cell[3]) : cell[0]));
      if (known(cell[3]) && cell[4] !== cell[5]) td.append(make("small", `${say(cell[4])}…${say(cell[5])}`));
      row.append(td);
    }
    body.append(row);
  }
  const foot = make("tr", "", "foot");
  foot.append(make("th", down < 0 ? "" : DOC.axes[down][0] + " ↑", "axis"));
  if (DOC.axes.length) for (const x of valuesOf(across)) foot.append(make("th", x));
  const title = make("tr");
  const name = make("th", DOC.axes.length ? DOC.axes[across][0] + " →" : "", "axis");
  name.colSpan = valuesOf(across).length + 1;
  title.append(name);
  body.append(foot, title);
  element("large").replaceChildren(body);
}

const SVG = "http://www.w3.org/2000/svg";

function small(claim) {
  const button = make("button");
  button.type = "button";
  button.setAttribute("aria-pressed", String(claim === chosen()));
  const xs = valuesOf(across), ys = valuesOf(down);
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", `0 0 ${xs.length * 10} ${ys.length * 10}`);
  picture.style.maxHeight = `${Math.min(96, 34 * ys.length)}px`;
  xs.forEach((x, i) => ys.forEach((y, j) => {
    const place = placeOf(x, y);
    const cell = place < 0 ? null : DOC.cells[claim][place];
    const square = document.createElementNS(SVG, "rect");
    const at = { x: i * 10 + 0.5, y: (ys.length - 1 - j) * 10 + 0.5, width: 9, height: 9, rx: 1.6 };
    for (const [key, value] of Object.entries(at)) square.setAttribute(key, String(value));
    if (cell && cell[0]) {
      square.setAttribute("class", (DOC.looks[cell[0]] || ["?", "unknown"])[1]);
      square.setAttribute("opacity", String(0.25 + (0.75 * Math.max(...Object.values(cell[1]))) / cell[2]));
    }
    picture.append(square);
  }));
  const [law, layer] = DOC.claims[claim];
  button.append(picture, make("b", law), make("span", layer || "whole run"));
  button.addEventListener("click", () => { element("law").value = law; element("layer").value = layer; show(); element("diagrams").scrollIntoView(); });
  return button;
}

function chosen() {
  const law = element("law").value, layer = element("layer").value;
  return DOC.claims.findIndex(([a, b]) => a === law && b === layer);
}

function show() {
  if (chosen() < 0) {  // this law speaks of other layers
    const other = DOC.claims.find(([law]) => law === element("law").value);
    element("layer").value = other[1];
  }
  large(chosen());
  element("small").replaceChildren(...DOC.claims.map((_, i) => small(i)));
}

function select(label, options, value, change) {
  const box = make("label", label + " ");
  const list = document.createElement("select");
  list.append(...options.map(([text, key]) => new Option(text, key)));
  list.value = String(value);
  list.addEventListener("change", () => change(list.value));
  box.append(list);
  return box;
}

/** The selects for axes and held values: there from three settings on. */
function wireAxes() {
  const place = element("choices");
  place.querySelectorAll(".of-axes").forEach((old) => old.remove());
  if (DOC.axes.length < 2) return;
  const names = DOC.axes.map(([key], i) => [key, String(i)]);
  const turn = (set) => (value) => { set(+value); wireAxes(); show(); };
  const boxes = [
    select("across", names, across, turn((i) => { if (i === down) down = across; across = i; })),
    select("up", names, down, turn((i) => { if (i === across) across = down; down = i; })),
  ];
  DOC.axes.forEach(([key, values], i) => {
    if (i !== across && i !== down)
      boxes.push(select(`at ${key} =`, values.map((v) => [v, v]), held[i], (v) => { held[i] = v; show(); }));
  });
  boxes.forEach((box) => box.classList.add("of-axes"));
  place.append(...boxes);
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  document.documentElement.style.colorScheme = name;
}
window.addEventListener("error", (e) => { document.documentElement.dataset.error = e.message; });
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
setTheme(/dark/.test(location.hash) || prefersDark.matches ? "dark" : "light");
prefersDark.addEventListener("change", (e) => setTheme(e.matches ? "dark" : "light"));
element("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));

if (DOC.claims.length) {
  for (const id of ["law", "layer"]) element(id).addEventListener("change", show);
  wireAxes();
  show();
}
document.documentElement.dataset.drawn = "all";
