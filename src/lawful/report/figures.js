"use strict";
/* The figures of a layer, for a page that defines DOC (see page.js):

     DOC.stepsets[k] = [steps], DOC.ranks[length] = [ranks], DOC.phases = [{name, p, q, …}]
     series = {quantity: [k, values, stderrs, n]}
   null stands for a number that does not exist. */

const RELATIONS = ["rga_a", "rwa_a", "gwa_a", "rga_b", "rwa_b", "gwa_b"];
const Z95 = 1.96;
const element = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const inferior = (text) => text.replace(/\b([A-Za-z])_([a-z0-9])\b/g, "$1<sub>$2</sub>");
const known = (x) => x !== null && x !== undefined;

/* ---- words and numbers ------------------------------------------------------------- */

function say(x, digits = 3) {
  if (!known(x)) return "–";
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return x.toExponential(digits - 1);
  return size >= 1000 ? Math.round(x).toLocaleString("en") : String(+x.toPrecision(digits));
}
/** Value ± standard error with the digits the error allows, as `wording.number` does. */
function sayBoth(x, error) {
  if (!known(error) || !(error > 0)) return say(x);
  const places = 1 - Math.floor(Math.log10(error));
  if (places < 0 || places > 5) return `${say(x)} ± ${say(error, 2)}`;
  return `${x.toFixed(places)} ± ${error.toFixed(places)}`;
}
const saySteps = (n) => n.toLocaleString("en");

const INDEX = /(‖|(?:^|[^A-Za-z0-9_.])[A-Za-zα-ωΑ-Ω])(?:_([A-Za-z0-9])|\^([A-Za-z0-9]))(?![A-Za-z0-9_])/g;

/** Set a text with the indices and exponents of its one-letter symbols, as `formula` in html.py. */
function setFormula(place, text) {
  place.replaceChildren();
  let done = 0;
  for (const found of text.matchAll(INDEX)) {
    const [whole, symbol, low, high] = found;
    const mark = document.createElement(low ? "sub" : "sup");
    mark.textContent = low || high;
    place.append(text.slice(done, found.index) + symbol, mark);
    done = found.index + whole.length;
  }
  place.append(text.slice(done));
  return place;
}

/* ---- series ---------------------------------------------------------------------------- */

/** Points [{step, value, error}] of a quantity; those without a value are left out. */
function points(series, quantity) {
  const found = series[quantity];
  if (!found) return [];
  const [place, values, errors] = found;
  return DOC.stepsets[place]
    .map((step, i) => ({ step, value: values[i], error: errors ? errors[i] : null }))
    .filter((p) => known(p.value));
}

/** The step axis: log10(step), with step 0 half a decade left of the first positive step. */
function stepAxis(steps) {
  const positive = steps.filter((s) => s > 0);
  const first = positive.length ? Math.min(...positive) : 1;
  const last = positive.length ? Math.max(...positive) : 1;
  const zero = Math.log10(first) - 0.5;
  const at = (step) => (step > 0 ? Math.log10(step) : zero);
  const factors = last / first > 100 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let e = Math.floor(Math.log10(first)); e <= Math.log10(last); e++)
    for (const f of factors) {
      const step = f * 10 ** e;
      if (step >= first && step <= last && step >= 1) ticks.push(step);
    }
  if (!ticks.length) ticks.push(first);
  const shown = steps.includes(0) ? [0, ...ticks] : ticks;
  const left = steps.includes(0) ? zero : Math.log10(first);
  const pad = Math.max(0.06 * (Math.log10(last) - left), 0.1);
  const short = (s) => (s >= 1e6 ? s / 1e6 + "M" : s >= 1e3 ? s / 1e3 + "k" : String(s));
  return {
    at,
    layout: {
      tickvals: shown.map(at), ticktext: shown.map(short),
      range: [left - pad, (positive.length ? Math.log10(last) : zero) + pad],
    },
    rule: steps.includes(0) && positive.length
      ? [{ type: "line", x0: zero + 0.25, x1: zero + 0.25, y0: 0, y1: 1, yref: "paper",
           line: { color: ink("faint"), width: 1, dash: "dot" } }] : [],
  };
}

/** A line over steps with its 95 % band. */
function curve(axis, pts, name, color, { dash = "solid", band = true, marks = true } = {}) {
  const x = pts.map((p) => axis.at(p.step));
  const hover = pts.map((p) => `${name} at step ${saySteps(p.step)}: ${sayBoth(p.value, p.error)}`);
  const line = {
    x, y: pts.map((p) => p.value), name: inferior(name), text: hover, hovertemplate: "%{text}<extra></extra>",
    mode: marks && pts.length < 60 ? "lines+markers" : "lines",
    line: { color, width: 2, dash }, marker: { size: 5, color },
  };
  const sure = pts.filter((p) => known(p.error) && p.error > 0);
  if (!band || !sure.length) return [line];
  if (pts.length === 1) {
    line.error_y = { array: [Z95 * sure[0].error], color, thickness: 1.2, width: 3 };
    return [line];
  }
  const sx = sure.map((p) => axis.at(p.step));
  const edge = (sign) => sure.map((p) => p.value + sign * Z95 * p.error);
  return [{
    x: [...sx, ...sx.slice().reverse()], y: [...edge(1), ...edge(-1).reverse()],
    fill: "toself", fillcolor: color, opacity: 0.18, line: { width: 0 }, mode: "lines", hoverinfo: "skip",
    showlegend: false,
  }, line];
}

/* ---- drawing ------------------------------------------------------------------------------ */

const CONFIG = { displayModeBar: false };

/* A figure follows the width of its place: the window, the phone turned round, the printer. */
const followWidth = new ResizeObserver((places) => {
  for (const { target } of places) if (target.data && target.offsetWidth) Plotly.Plots.resize(target);
});

function base(extra = {}) {
  const axis = {
    gridcolor: ink("grid"), linecolor: ink("faint"), zeroline: false, automargin: true,
    tickfont: { size: 11 }, title: { font: { size: 11.5 }, standoff: 6 },
  };
  const merge = (own = {}) => ({ ...axis, ...own, title: { ...axis.title, ...(own.title || {}) } });
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, color: ink("soft"), size: 11.5 },
    margin: { l: 38, r: 10, t: 8, b: 34 }, hovermode: "closest",
    dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false,
    hoverlabel: { bgcolor: ink("panel"), bordercolor: ink("faint"), font: { color: ink("ink") } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } },
    ...extra, xaxis: merge(extra.xaxis), yaxis: merge(extra.yaxis),
  };
}

/** Put a figure in its place, or the sentence that says why there is none. */
function draw(id, make) {
  const place = element(id);
  if (!place) return;
  let figure;
  try {
    figure = make();
    if (typeof figure !== "string") {
      place.classList.remove("empty");
      if (place.querySelector(".absent")) place.replaceChildren();
      Plotly.react(place, figure.data, base(figure.layout), CONFIG);
    }
  } catch (error) {
    document.documentElement.dataset.error = `${id}: ${error.message}`;
    figure = `This figure could not be drawn (${error.message}).`;
  }
  if (typeof figure === "string") {
    Plotly.purge(place);
    place.classList.add("empty");
    const sentence = document.createElement("p");
    sentence.className = "absent";
    sentence.textContent = figure;
    place.replaceChildren(sentence);
  }
}

/** Figures are drawn one a turn, so the page answers while they come. A lane ("layer" or
    "frame") that is given new work drops what it had left; the other goes on. */
const lanes = {};
function drawInTurn(lane, jobs) {
  lanes[lane] = jobs;
  document.documentElement.removeAttribute("data-drawn");
  const turn = () => {
    if (lanes[lane] !== jobs) return;
    const job = jobs.shift();
    if (job) { job(); setTimeout(turn, 0); return; }
    if (Object.values(lanes).every((left) => !left.length)) document.documentElement.dataset.drawn = "all";
  };
  turn();
}

/* ---- figures of a layer --------------------------------------------------------------------- */

function overSteps(series, list, layout = {}, absent = "Not measured in this layer.") {
  const lines = list.map((q) => ({ ...q, pts: points(series, q.quantity) })).filter((q) => q.pts.length);
  if (!lines.length) return absent;
  const axis = stepAxis([...new Set(lines.flatMap((q) => q.pts.map((p) => p.step)))]);
  return {
    data: lines.flatMap((q) => curve(axis, q.pts, q.name || q.quantity, q.color, q)),
    layout: {
      showlegend: lines.length > 1, shapes: axis.rule, ...layout,
      margin: { l: 38, r: 10, t: lines.length > 3 ? 50 : lines.length > 1 ? 28 : 8, b: 34 },
      xaxis: { ...axis.layout, title: { text: "step" } },
    },
  };
}

function alignment(layer, relation, suffix) {
  const series = layer.series;
  const main = points(series, relation + suffix);
  if (!main.length) return `${relation}${suffix} was not measured in this layer.`;
  const nulls = suffix === "_tracefree" ? [] : [["_haar", "random rotation", "dash"], ["_permutation", "permuted neurons", "dashdot"]];
  const drawn = nulls.map(([tail, name, dash]) => [points(series, relation + tail), name, dash]);
  const steps = new Set(main.map((p) => p.step));
  const axis = stepAxis([...steps, ...drawn.flatMap(([pts]) => pts.map((p) => p.step))]);
  const color = ink(relation.slice(0, 3));
  const shapes = [...axis.rule];
  if (main[0].step === 0 && main.length > 1)
    shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: main[0].value, y1: main[0].value,
      line: { color, width: 1.2, dash: "dot" } });
  const values = [main, ...drawn.map(([pts]) => pts)].flat().map((p) => p.value);
  return {
    data: [
      ...drawn.filter(([pts]) => pts.length).flatMap(([pts, name, dash]) =>
        curve(axis, pts, name, ink("null"), { dash, band: false, marks: pts.length === 1 })),
      ...curve(axis, main, relation, color),
    ],
    layout: {
      shapes, xaxis: axis.layout, margin: { l: 32, r: 8, t: 6, b: 24 },
      yaxis: { range: [Math.min(-0.03, Math.min(...values) - 0.05), Math.max(1.05, Math.max(...values) + 0.05)] },
    },
  };
}

/* The six relations as lines a·p + b·q = c. */
const LINES = [
  ["rga_a", 1, -1, 2], ["rwa_a", 1, 0, 2], ["gwa_a", 0, 1, 0],
  ["rga_b", -1, 1, 2], ["rwa_b", 1, 0, 0], ["gwa_b", 0, 1, 2],
];

/** Points of the path of (p, q) with both errors. */
function path(layer) {
  const q = new Map(points(layer.series, "exponent_q").map((o) => [o.step, o]));
  return points(layer.series, "exponent_p").filter((o) => q.has(o.step))
    .map((o) => ({ step: o.step, p: o.value, ep: o.error, q: q.get(o.step).value, eq: q.get(o.step).error }));
}

function phasePlane(layer) {
  const track = path(layer);
  const low = Math.max(-12, Math.min(-3.2, ...track.map((t) => Math.min(t.p, t.q) - 0.5)));
  const high = Math.min(12, Math.max(5.2, ...track.map((t) => Math.max(t.p, t.q) + 0.5)));
  const shapes = [], annotations = [];
  for (const [relation, a, b, c] of LINES) {
    const color = ink(relation.slice(0, 3));
    const dash = relation.endsWith("_a") ? "solid" : "dash";
    const ends = b === 0 ? [[c / a, low], [c / a, high]] : [[low, (c - a * low) / b], [high, (c - a * high) / b]];
    shapes.push({ type: "line", layer: "below", x0: ends[0][0], y0: ends[0][1], x1: ends[1][0], y1: ends[1][1],
      line: { color, width: 1.4, dash } });
    const mark = b === 0 ? [c / a, low + 0.35] : a === 0 ? [low + 0.6, c / b]
      : a > 0 ? [3.2, 1.2] : [-1, 1];
    annotations.push({ x: mark[0], y: mark[1], text: relation, showarrow: false, font: { size: 11, color },
      bgcolor: ink("panel"), borderpad: 2 });
  }
  const places = DOC.phases.filter((v) => known(v.p));
  const data = [];
  if (track.length) {
    const n = track.length;
    const shade = track.map((_, i) => (n === 1 ? 1 : i / (n - 1)));
    const scale = [[0, ink("null")], [1, ink("path")]];
    const bar = (key) => ({ type: "data", array: track.map((t) => Z95 * (t[key] || 0)), color: ink("null"), thickness: 0.8, width: 0 });
    data.push({
      x: track.map((t) => t.p), y: track.map((t) => t.q), mode: n > 1 ? "lines+markers" : "markers",
      error_x: bar("ep"), error_y: bar("eq"), line: { color: ink("path"), width: 1.4 },
      marker: { size: shade.map((s) => 6 + 5 * s), color: shade, cmin: 0, cmax: 1, colorscale: scale },
      text: track.map((t) => `step ${saySteps(t.step)}: p = ${say(t.p)}, q = ${say(t.q)}`),
      hovertemplate: "%{text}<extra></extra>",
    });
  }
  data.push({
    x: places.map((v) => v.p), y: places.map((v) => v.q), mode: "markers+text",
    text: places.map((v) => v.name.replace("backward", "back").replace("forward", "forw")),
    textposition: places.map((v) => (v.p === -2 ? "top center" : "top right")), textfont: { color: ink("ink"), size: 12.5 },
    marker: { size: 10, color: "rgba(0,0,0,0)", line: { color: ink("ink"), width: 1.6 } },
    customdata: places.map((v) => `phase ${v.name}: input side ${v.backward}; output side ${v.forward}`),
    hovertemplate: "%{customdata}<extra></extra>", cliponaxis: false,
  });
  return {
    data,
    layout: {
      shapes, annotations, margin: { l: 36, r: 10, t: 10, b: 36 },
      xaxis: { range: [low, high], dtick: 2, showgrid: false, title: { text: "p  (H<sub>a</sub> ~ s<sup>p</sup>)" } },
      yaxis: { range: [low, high], dtick: 2, showgrid: false, title: { text: "q  (G<sub>b</sub> ~ s<sup>q</sup>)" }, scaleanchor: "x", constrain: "domain" },
    },
  };
}

/** The sentence beside the plane, and the row of the phase the layer is in. */
function readPlane(layer) {
  element("plane-reading").textContent = layer.plane.sentence;
  all(".phases tr").forEach((row) => row.classList.toggle("near", row.dataset.phase === layer.plane.phase));
}

/* ---- matrices and spectra: one slider ---------------------------------------------------------- */

/** Six k × k matrices from the packed lower triangles. */
function unpack(text, size) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const entries = new Int8Array(bytes.buffer);
  let next = 0;
  return Array.from({ length: 6 }, () => {
    const matrix = Array.from({ length: size }, () => new Array(size).fill(null));
    for (let i = 0; i < size; i++)
      for (let j = 0; j <= i; j++) {
        const raw = entries[next++];
        matrix[i][j] = matrix[j][i] = raw === -128 ? null : raw / 127;
      }
    return matrix;
  });
}

/** A layer with fewer neurons than the picture has rows is padded with null: cut that off. */
function trim(matrix) {
  let size = matrix.length;
  while (size && matrix[size - 1].every((x) => !known(x))) size--;
  return matrix.slice(0, size).map((row) => row.slice(0, size));
}

function heatMap(matrix) {
  const tick = { showgrid: false, showticklabels: false, ticks: "", automargin: false, showline: false };
  return {
    data: [{
      type: "heatmap", z: matrix, zmin: -1, zmax: 1, showscale: false,
      colorscale: [[0, ink("cold")], [0.5, ink("mid")], [1, ink("warm")]],
      hovertemplate: "neurons %{y}, %{x}: %{z:.2f}<extra></extra>",
    }],
    layout: { margin: { l: 0, r: 0, t: 2, b: 2 }, xaxis: { ...tick, constrain: "domain" },
      yaxis: { ...tick, autorange: "reversed", scaleanchor: "x", constrain: "domain" } },
  };
}

const logAxis = (text) => ({ type: "log", nticks: 6, exponentformat: "power", minexponent: 2, title: { text } });

function spectra(frame) {
  const shown = [["spectrum_H_a", "H_a", "rga", "solid"], ["spectrum_H_b", "H_b", "rga", "dash"],
    ["spectrum_G_a", "G_a", "gwa", "solid"], ["spectrum_G_b", "G_b", "gwa", "dash"],
    ["singular_values", "Z", "rwa", "solid"]];
  const data = [];
  for (const [quantity, name, color, dash] of shown) {
    if (!frame[quantity]) continue;
    const [length, values] = frame[quantity];
    // The eigenvalues of Z are the squares of the singular values of W.
    const power = quantity === "singular_values" ? values.map((s) => (known(s) ? s * s : s)) : values;
    const top = Math.max(...power.filter(known));
    if (!(top > 0)) continue;
    const y = power.map((v) => (known(v) && v > 1e-12 * top ? v / top : null));
    data.push({ x: DOC.ranks[length], y, name: inferior(name), mode: "lines", line: { color: ink(color), width: 2, dash },
      hovertemplate: `${name}, rank %{x}: %{y:.2e}<extra></extra>` });
  }
  if (!data.length) return "No spectrum was kept for this layer.";
  return { data, layout: { showlegend: true, margin: { l: 44, r: 10, t: 28, b: 36 },
    xaxis: { type: "log", title: { text: "rank" } , dtick: Math.log10(10) }, yaxis: logAxis("share of the largest") } };
}

function powers(layer, step, frame) {
  if (!frame.singular_values) return "The singular directions of W were not kept for this layer.";
  const s = frame.singular_values[1], length = frame.singular_values[0];
  const data = [];
  const fitted = (quantity) => (points(layer.series, quantity).find((p) => p.step === step) || {}).value;
  for (const [quantity, name, color, exponent, symbol] of [
    ["power_H_a", "vᵀH_a v", "rga", "exponent_p", "circle"], ["power_G_b", "uᵀG_b u", "gwa", "exponent_q", "diamond"]]) {
    if (!frame[quantity] || frame[quantity][0] !== length) continue;
    const both = frame[quantity][1].map((v, i) => [s[i], v]).filter(([a, v]) => a > 0 && v > 0);
    if (!both.length) continue;
    const top = Math.max(...both.map(([, v]) => v));
    data.push({ x: both.map((b) => b[0]), y: both.map((b) => b[1] / top), name: inferior(name), mode: "markers",
      marker: { color: ink(color), size: 6, symbol, opacity: 0.8 }, hovertemplate: `${name}: %{y:.2e} at s = %{x:.3g}<extra></extra>` });
    const slope = fitted(exponent);
    if (!known(slope)) continue;
    // The fit keeps s > 0.03 s₁; its line passes through the centre of those points.
    const kept = both.filter(([a]) => a > 0.03 * Math.max(...s.filter(known)));
    const mean = (pick) => kept.reduce((sum, k) => sum + Math.log(pick(k)), 0) / kept.length;
    const [cx, cy] = [mean((k) => k[0]), mean((k) => k[1] / top)];
    const ends = [Math.min(...kept.map((k) => k[0])), Math.max(...kept.map((k) => k[0]))];
    data.push({ x: ends, y: ends.map((a) => Math.exp(cy + slope * (Math.log(a) - cx))), mode: "lines",
      name: `slope ${exponent.slice(-1)} = ${say(slope)}`, line: { color: ink(color), width: 1.6, dash: "dot" }, hoverinfo: "skip" });
  }
  const range = s.filter((x) => x > 0);
  const wide = Math.max(...range) > 100 * Math.min(...range);
  if (!data.length) return "No power along the singular directions of W was kept for this layer.";
  return { data, layout: { showlegend: true, margin: { l: 44, r: 10, t: 50, b: 36 },
    xaxis: { type: "log", title: { text: "singular value s of W" }, dtick: wide ? 1 : "D2" }, yaxis: logAxis("share of the largest") } };
}

const VIEW_NAMES = ["H_a", "G_a", "Z_a", "H_b", "G_b", "Z_b"];

/** Set the words around the slider and return the drawing jobs of the frame it points at. */
function showFrame(layer) {
  const list = layer.frames;
  const slider = element("frame");
  slider.closest(".slider").hidden = list.length < 2;
  const [step, curves, view] = list[Math.min(+slider.value, list.length - 1)] || [null, {}, null];
  element("frame-step").textContent = list.length ? saySteps(step) : "";
  const { size, of, lost } = layer.view;
  element("scale").hidden = element("views").hidden = !view;
  const away = lost ? `${lost} of the steps kept could not be read. ` : "";
  element("views-note").textContent = !list.length ? away || "No matrices and no spectra were kept for this layer."
    : away + (list.length + lost < of ? `${list.length} of the ${of} steps kept are in this file, to keep it small. ` : "") +
      (view ? `Up to ${size} neurons of each side; each matrix is divided by its largest diagonal entry.`
        : "No matrices were kept at this step.");
  const jobs = [];
  if (view) {
    const matrices = unpack(view, size).map(trim);
    VIEW_NAMES.forEach((name, i) => jobs.push(() => draw(`view-${i}`, () =>
      matrices[i].length ? heatMap(matrices[i]) : `${name} could not be estimated.`)));
  }
  jobs.push(() => draw("spectra", () => spectra(curves)));
  jobs.push(() => draw("powers", () => powers(layer, step, curves)));
  return jobs;
}

/* ---- rank, compactness, anything ---------------------------------------------------------------- */

function participation(layer) {
  const list = [["H_a", "rga", "solid"], ["H_b", "rga", "dash"], ["G_a", "gwa", "solid"], ["G_b", "gwa", "dash"], ["Z", "rwa", "solid"]];
  return overSteps(layer.series, list.map(([m, color, dash]) =>
    ({ quantity: `participation_${m}`, name: m, color: ink(color), dash, marks: false })), { yaxis: { rangemode: "tozero" } });
}

function ranks(layer) {
  return overSteps(layer.series, [
    { quantity: "rank_W", name: "rank W", color: ink("rwa"), marks: false },
    { quantity: "entropy_rank_Z", name: "entropy Z", color: ink("rwa"), dash: "dash", marks: false },
    { quantity: "rank_H_b", name: "rank H_b", color: ink("rga"), marks: false },
    { quantity: "entropy_rank_H_b", name: "entropy H_b", color: ink("rga"), dash: "dash", marks: false },
  ], { yaxis: { rangemode: "tozero" } });
}

function compactness(layer) {
  const names = { entropy_rank_H_b: "entropy rank of H_b", rank_H_b: "rank of H_b", participation_H_b: "participation of H_b" };
  const rank = Object.keys(names).find((q) => points(layer.series, q).length);
  const mean = new Map();
  for (const relation of RELATIONS)
    for (const p of points(layer.series, relation)) mean.set(p.step, [...(mean.get(p.step) || []), p.value]);
  // A mean of fewer relations is another quantity: only the steps with the most are compared.
  const most = Math.max(0, ...[...mean.values()].map((list) => list.length));
  const pts = rank ? points(layer.series, rank).filter((p) => (mean.get(p.step) || []).length === most) : [];
  if (!pts.length) return "Rank and alignment were not measured at the same step in this layer.";
  const average = (list) => list.reduce((a, b) => a + b, 0) / list.length;
  return {
    data: [{
      x: pts.map((p) => average(mean.get(p.step))), y: pts.map((p) => p.value), mode: pts.length > 1 ? "lines+markers" : "markers",
      line: { color: ink("faint"), width: 1.4 },
      marker: { size: 9, color: pts.map((_, i) => (pts.length > 1 ? i / (pts.length - 1) : 1)), cmin: 0, cmax: 1,
        colorscale: [[0, ink("null")], [1, ink("path")]] },
      text: pts.map((p) => `step ${saySteps(p.step)}`), hovertemplate: "%{text}: %{y:.3g} at alignment %{x:.2f}<extra></extra>",
    }],
    layout: { xaxis: { title: { text: most === 6 ? "mean of the six relations" : `mean of ${most} relations` } }, yaxis: { rangemode: "tozero", title: { text: inferior(names[rank]) } },
      margin: { l: 46, r: 10, t: 8, b: 36 } },
  };
}

function anything(layer) {
  const quantity = element("quantity").value;
  setFormula(element("meaning"), quantity ? DOC.meanings[quantity] : "");
  return overSteps(layer.series, [{ quantity, color: ink("accent") },
    { quantity: quantity + "_predicted", name: "predicted", color: ink("null"), dash: "dash", band: false }], {}, quantity
    ? `${quantity} has no finite value in this layer.` : "Nothing has been measured in this layer yet.");
}

/* ---- prediction beside measurement -------------------------------------------------------------- */

const HUES = ["rga", "rwa", "gwa", "accent", "path", "warm", "cold", "soft"];
const CASES = 12;

/** A quantity in every layer (or case) that has it, theory's number dashed in the same colour. */
function foretold() {
  const quantity = element("foretold").value, told = quantity + "_predicted";
  const meaning = DOC.meanings[quantity] || "";
  const all = [{ name: "whole run", series: DOC.run }, ...DOC.layers];
  const having = all.filter((l) => points(l.series, quantity).length || points(l.series, told).length);
  const shown = having.slice(0, CASES).map((l, i) => ({ name: l.name, color: ink(HUES[i % HUES.length]),
    seen: points(l.series, quantity), said: points(l.series, told) }));
  const some = having.length > CASES ? `. The first ${CASES} of ${having.length} are drawn.` : "";
  setFormula(element("foretold-meaning"), meaning + some);
  const steps = [...new Set(shown.flatMap((l) => [...l.seen, ...l.said].map((p) => p.step)))];
  if (!steps.length) return `${quantity} has no finite value.`;
  if (steps.length === 1) return besideEachOther(shown);
  const axis = stepAxis(steps);
  return {
    data: shown.flatMap((l) => [
      ...curve(axis, l.seen, l.name, l.color),
      ...curve(axis, l.said, `${l.name}, predicted`, l.color, { dash: "dash", band: false, marks: l.said.length === 1 })
        .map((line) => ({ ...line, showlegend: false })),
    ]),
    layout: { showlegend: true, shapes: axis.rule, xaxis: { ...axis.layout, title: { text: "step" } },
      margin: { l: 46, r: 10, t: 30 + 14 * Math.ceil(shown.length / 3), b: 36 } },
  };
}

/** Numbers of one moment only: a mark a case, theory's as an open one. */
function besideEachOther(shown) {
  const names = shown.map((l) => l.name);
  const marks = (pick, name, symbol) => ({ x: names, y: shown.map((l) => (l[pick][0] || {}).value ?? null), name,
    error_y: { array: shown.map((l) => Z95 * ((l[pick][0] || {}).error || 0)), thickness: 1.2, width: 4 },
    mode: "markers", marker: { size: 10, symbol, color: shown.map((l) => l.color) } });
  return { data: [marks("seen", "measured", "circle"), marks("said", "predicted", "diamond-open")],
    layout: { showlegend: true, margin: { l: 46, r: 10, t: 30, b: 60 } } };
}

function valueTable(layer) {
  const cell = (text, kind = "td", name = "") => Object.assign(document.createElement(kind), { textContent: text, className: name });
  const row = (...cells) => { const tr = document.createElement("tr"); tr.append(...cells); return tr; };
  const head = row(...["quantity", "first", "last", "± stderr", "n", "meaning"].map((t) => cell(t, "th")));
  const rows = Object.keys(layer.series).sort().map((quantity) => {
    const pts = points(layer.series, quantity);
    const last = pts[pts.length - 1];
    const n = layer.series[quantity][3];
    return row(cell(quantity, "th"), cell(say(pts.length ? pts[0].value : null, 4)), cell(say(last ? last.value : null, 4)),
      cell(say(last ? last.error : null, 2)), cell(n ? saySteps(n) : "–"), setFormula(cell("", "td", "text"), DOC.meanings[quantity]));
  });
  const body = document.createElement("tbody");
  body.append(...rows);
  const top = document.createElement("thead");
  top.append(head);
  element("values").replaceChildren(top, body);
}

