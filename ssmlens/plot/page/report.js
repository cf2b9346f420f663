"use strict";
// The report's only script. Everything from the capture enters the page as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const $ = (id) => document.getElementById(id);
const figure = (name) => structuredClone(data.figures[dark.matches ? "dark" : "light"][name]);
const config = {
  displaylogo: false, responsive: true,
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
};
const state = { prompt: 0, layer: 0, view: 0, scale: "linear" };

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// ── numbers: the inverse of packing.py ────────────────────────────────────────────────────────────
async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const inflated = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(inflated).arrayBuffer());
  const count = planes.length / 2;
  const bits = new Uint32Array(count);
  for (let i = 0; i < count; i++) bits[i] = (planes[i] << 24) | (planes[count + i] << 16);
  return new Float32Array(bits.buffer);
}

/** Call visit(row, key, cell) for every packed cell of a view: those with key ≤ query, or all if the layer looks ahead. */
function visitCells(view, cells, visit) {
  for (let row = 0, at = 0; row < view.side; row++) {
    const end = view.square ? view.side : row + 1;
    for (let key = 0; key < end; key++, at++) visit(row, key, cells[at]);
  }
}

function square(view, cells) {
  const rows = Array.from({ length: view.side }, () => new Array(view.side).fill(null));
  visitCells(view, cells, (row, key, cell) => { rows[row][key] = cell; });
  return rows;
}

// ── the grid of layers ────────────────────────────────────────────────────────────────────────────
const viewsOf = (layer) => layer.views.filter((view) => view.prompt === state.prompt);

function thumbnail(layer, place) {
  const view = viewsOf(layer)[place];
  const picture = view.note
    ? make("span", { className: "none", textContent: view.note })
    : make("img", { src: view.thumbnail, alt: "" });
  const button = make("button", { type: "button", className: "thumb" }, picture, view.title);
  button.setAttribute("aria-label", `Layer ${layer.layer}: ${view.title}. Open large`);
  button.onclick = () => open(layer.layer, place);
  return button;
}

function marked(element, layer) {
  if (layer.verdict === "yes" && layer.softmax) {
    element.textContent = "softmax attention";
    element.className = "mark";
    return element;
  }
  const [text, name] = { yes: ["✓ ok", "ok"], no: ["✗ failed", "failed"] }[layer.verdict] ?? ["? not resolved", "failed"];
  element.textContent = text;
  element.className = `mark ${name}`;
  element.title = layer.reason;
  return element;
}

function card(layer) {
  const title = make("h3", {}, `Layer ${layer.layer}`);
  if (layer.rank !== null) title.append(make("span", { className: "rank", textContent: `rank ${layer.rank}` }));
  title.append(make("span", { className: "grow" }), marked(make("span"), layer));
  const box = make("div", { className: layer.rank === 1 ? "card best" : "card" }, title);
  box.append(make("div", { className: "pair" }, ...viewsOf(layer).slice(0, layer.maps).map((_, i) => thumbnail(layer, i))));
  for (const [name, value] of Object.entries(layer.scores))
    box.append(make("div", { className: "line" }, make("span", {}, name),
      make("span", {}, number(value) + (name in layer.chance ? `, by chance ${number(layer.chance[name])}` : ""))));
  return box;
}

const number = (value, digits = 3) => (value === null ? "–" : String(Number(value.toPrecision(digits))));

function cards() {
  const by = $("order").value, place = (layer) => layer[by] ?? Infinity;
  const layers = data.layers.toSorted((a, b) => place(a) - place(b) || a.layer - b.layer);
  $("cards").replaceChildren(...layers.map(card));
}

// ── one map, large ────────────────────────────────────────────────────────────────────────────────
function open(layer, view = 0) {
  state.layer = data.layers.findIndex((l) => l.layer === layer);
  state.view = view;
  if (!$("large").open) $("large").showModal();
  draw();
}

function choice(parent, names, chosen, choose) {
  const hadFocus = parent.contains(document.activeElement);
  parent.replaceChildren(...names.map((name, i) => {
    const button = make("button", { type: "button", textContent: name, onclick: () => choose(i) });
    button.setAttribute("aria-pressed", i === chosen);
    return button;
  }));
  if (hadFocus) parent.children[chosen].focus();
}

const SCALES = { linear: "Linear", symlog: "Symmetric log", rank: "Rank" };
let drawing = 0;

async function draw() {
  const layer = data.layers[state.layer], views = viewsOf(layer);
  state.view = Math.min(state.view, views.length - 1);
  const view = views[state.view], names = Object.keys(SCALES);
  $("large-title").textContent = `Layer ${layer.layer}`;
  $("large-prompt").textContent = `prompt ${data.prompts[state.prompt].title}`;
  marked($("large-mark"), layer);
  $("previous").disabled = state.layer === 0;
  $("next").disabled = state.layer === data.layers.length - 1;
  choice($("tabs"), views.map((v) => v.title), state.view, (i) => { state.view = i; draw(); });
  choice($("scales"), Object.values(SCALES), names.indexOf(state.scale), (i) => { state.scale = names[i]; draw(); });
  facts(layer);
  $("note").textContent = view.note ?? resolution(view);
  $("profile").hidden = !view.lags;
  const mine = ++drawing;
  if (view.note) return Plotly.purge("map");
  const packed = [view.values, view.lags, view.ahead];
  const [cells, energy, ahead] = await Promise.all(packed.map((text) => (text ? unpack(text) : null)));
  if (mine !== drawing) return;
  drawMap(view, cells);
  if (energy) drawLags(energy, layer.first_lag, ahead);
}

function resolution(view) {
  const what = view.signed ? "the entry of largest magnitude" : "the mean";
  return view.block === 1 ? "" : `A cell is ${what} among ${view.block} × ${view.block} tokens.`;
}

function facts(layer) {
  const rows = { rank: layer.rank, ...layer.scores, closure_error: layer.closure, map_closure: layer.map_closure };
  $("large-facts").replaceChildren(...Object.entries(rows).map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, number(value)))));
}

/** Draw a map as picture.py does: the edges choose each cell's colour in the palette. */
function picture(view, cells, { edges }) {
  const { side, signed } = view;
  const levels = new Float32Array(Uint8Array.from(atob(edges), (c) => c.charCodeAt(0)).buffer);
  const level = (size) => {
    let low = 0, high = levels.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (levels[middle] <= size) low = middle + 1; else high = middle;
    }
    return low;
  };
  const palette = data.palettes[signed ? "signed" : "unsigned"], zero = signed ? levels.length : 0;
  const pixels = new ImageData(side, side);
  visitCells(view, cells, (row, key, cell) => {
    const colour = zero + Math.sign(cell) * level(Math.abs(cell));
    pixels.data.set(palette[Math.max(0, colour)], 4 * (row * side + key));
  });
  const small = Object.assign(document.createElement("canvas"), { width: side, height: side });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const several = Math.max(1, Math.floor(700 / side));
  const large = Object.assign(document.createElement("canvas"), { width: several * side, height: several * side });
  const context = large.getContext("2d");
  context.imageSmoothingEnabled = false; // several pixels per cell, so that cells do not blur
  context.drawImage(small, 0, 0, large.width, large.height);
  return large.toDataURL();
}

function drawMap(view, cells) {
  const labels = data.prompts[state.prompt].labels[view.block], side = view.side, scale = view.scales[state.scale];
  const { data: [numbers, bar], layout } = figure(view.signed ? "signed" : "unsigned");
  const values = square(view, cells), source = picture(view, cells, scale);
  Object.assign(numbers, { x: labels, y: labels, z: values, customdata: values });
  Object.assign(bar.marker.colorbar, { tickvals: scale.tickvals, ticktext: scale.ticktext });
  Object.assign(layout.images[0], { source, sizex: side, sizey: side });
  Object.assign(layout.xaxis, { categoryarray: labels, range: [-0.5, side - 0.5] });
  Object.assign(layout.yaxis, { categoryarray: labels, range: [side - 0.5, -0.5] });
  Plotly.react("map", [numbers, bar], layout, config);
}

function drawLags(back, firstLag, ahead) {
  const { data: [trace], layout } = figure("lags");
  const energy = [...(ahead ? ahead.slice(1).reverse() : []), ...back], least = ahead ? 1 - ahead.length : 0;
  const lags = energy.map((_, at) => least + at), total = energy.reduce((a, b) => a + b, 0);
  const most = energy.reduce((best, e, at) => (Math.abs(lags[at]) >= firstLag && (best < 0 || e > energy[best]) ? at : best), -1);
  const where = most < 0 ? "" : `${Math.abs(lags[most])} ${lags[most] < 0 ? "ahead" : "back"}`;
  $("sharpest").textContent = total && where ? `: most at ${where}` : "";
  Object.assign(trace, { x: lags, y: energy.map((e) => (total ? e / total : 0)) });
  Object.assign(layout, { height: 240, margin: { l: 52, r: 8, t: 20, b: 44 } });
  Object.assign(layout.shapes[0], { x0: ahead ? 0.5 - firstLag : -0.5, x1: firstLag - 0.5 });
  if (ahead) { layout.xaxis.rangemode = "normal"; layout.xaxis.title.text = "tokens back (lag); negative: ahead"; }
  Plotly.react("lags", [trace], layout, config);
}

function step(by) {
  const to = state.layer + by;
  if (to >= 0 && to < data.layers.length) { state.layer = to; draw(); }
}

// ── tables ────────────────────────────────────────────────────────────────────────────────────────
function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells], head = heads[column];
  const up = head.getAttribute("aria-sort") === "descending";
  heads.forEach((cell) => cell.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => parseFloat(row.cells[column].dataset.value ?? row.cells[column].textContent);
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    return Number.isNaN(x) - Number.isNaN(y) || (up ? x - y : y - x) || 0;
  });
  table.tBodies[0].append(...rows);
}

// ── start ─────────────────────────────────────────────────────────────────────────────────────────
function still() {
  for (const name of ["scores", "closure"]) {
    const { data: traces, layout } = figure(name);
    Plotly.react(`${name}-figure`, traces, layout, { ...config, displayModeBar: false });
  }
}

$("prompt").append(...data.prompts.map((p, i) => make("option", { value: i, textContent: p.title })));
$("cut").textContent = data.prompts.length < data.all_prompts
  ? `The first ${data.prompts.length} of ${data.all_prompts} prompts are shown.` : "";
$("prompt").onchange = (event) => { state.prompt = Number(event.target.value); cards(); };
$("order").onchange = cards;
$("previous").onclick = () => step(-1);
$("next").onclick = () => step(1);
$("close").onclick = () => $("large").close();
document.onkeydown = (event) => {
  const by = $("large").open && { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) { event.preventDefault(); step(by); }
};
$("large").onclose = () => { Plotly.purge("map"); Plotly.purge("lags"); };
for (const button of document.querySelectorAll("button.open")) button.onclick = () => open(Number(button.dataset.layer));
for (const table of document.querySelectorAll("table.sortable"))
  [...table.tHead.rows[0].cells].forEach((head, i) => { head.firstElementChild.onclick = () => sortBy(table, i); });
dark.onchange = () => { still(); if ($("large").open) draw(); };
cards();
requestAnimationFrame(still);
