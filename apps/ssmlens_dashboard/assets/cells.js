/* The widget of a matrix, on every page that has one: the numbers of the entry under the pointer, and the zoom.
   Scripts load in the order of their names: this one loads before those of the pages. */
"use strict";

(() => {
  const TILE = 64; // tokens per side of a square fetched for the pointer
  const MOST = 200; // most rectangles in the cache
  const kept = new Map();

  /** Fetch a rectangle of the matrix at a `/values` path, once: its width and values. */
  function fetched(path, zoom) {
    const url = new URL(path, location.href);
    url.searchParams.set("zoom", zoom);
    if (!kept.has(url.href)) {
      if (kept.size > MOST) kept.clear();
      kept.set(url.href, fetch(url).then(async (answer) => {
        if (!answer.ok) throw new Error(answer.statusText);
        const width = Number(answer.headers.get("X-Shape").split(",")[1]);
        return { width, values: new Float32Array(await answer.arrayBuffer()) };
      }));
    }
    return kept.get(url.href);
  }

  /** The value of one entry, from a square of the matrix. */
  async function value(path, { query, key }) {
    const row = query - (query % TILE), column = key - (key % TILE);
    const { width, values } = await fetched(path, `${row}-${row + TILE},${column}-${column + TILE}`);
    return values[(query - row) * width + (key - column)];
  }

  const plot = (card) => document.querySelector(`#${card} .js-plotly-plot`);

  /** The axes of the panel under the pointer. While a button is down, plotly covers the page with an element. */
  function over(event, card) {
    if (!plot(card)?._fullLayout || !event.target.closest(`#${card}, .dragcover`)) return null;
    for (const area of document.querySelectorAll(`#${card} .nsewdrag`)) {
      const { left, right, top, bottom } = area.getBoundingClientRect();
      const inside = event.clientX >= left && event.clientX < right && event.clientY >= top && event.clientY < bottom;
      const [, number] = inside ? area.dataset.subplot.match(/^x(\d*)y/) : [];
      if (inside) return ["xaxis", "yaxis"].map((axis) => plot(card)._fullLayout[axis + number]);
    }
    return null;
  }

  /** The entry under the pointer in a card; null outside its panels, and above the diagonal of a causal matrix. */
  function entry(event, card) {
    const axes = over(event, card);
    if (!axes) return null;
    const [xaxis, yaxis] = axes, box = plot(card).getBoundingClientRect();
    const key = Math.round(xaxis.p2d(event.clientX - box.left - xaxis._offset));
    const query = Math.round(yaxis.p2d(event.clientY - box.top - yaxis._offset));
    const ahead = plot(card)._fullLayout.images?.some((image) => image.name === "looks ahead"); // tiles.py
    return key >= 0 && query >= 0 && (ahead || key <= query) ? { query, key } : null;
  }

  /** Show a label beside the pointer, within the window. */
  function place(label, event) {
    label.hidden = false;
    const right = event.clientX + 16 + label.offsetWidth > innerWidth;
    label.style.left = `${right ? event.clientX - 16 - label.offsetWidth : event.clientX + 16}px`;
    label.style.top = `${Math.min(event.clientY + 16, innerHeight - label.offsetHeight - 8)}px`;
  }

  /** Show a label with `text(entry)` while the pointer is over an entry; `at` finds the entry, or null. */
  function hover(id, at, text) {
    let latest = null;
    document.addEventListener("mousemove", async (event) => {
      const label = document.getElementById(id);
      if (!label) return;
      const under = latest = at(event);
      if (!under) { label.hidden = true; return; }
      const message = await text(under);
      if (latest !== under) return;
      label.textContent = message;
      place(label, event);
    });
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("#maps-whole, #compare-whole, #signals-whole")) window.ssmlens.go({ zoom: null });
  });

  window.ssmlens.matrix = { fetched, value, over, entry, hover };

  Object.assign(window.dash_clientside.ssmlens, {
    /** The reader drew a rectangle in some panel: write the tokens it covers fully to the address, for all panels. */
    zoomed(change) {
      const [changed] = window.dash_clientside.callback_context.triggered;
      const drawn = Object.keys(change || {}).some((name) => /^[xy]axis\d*\.range\[0\]$/.test(name));
      const figure = drawn && plot(changed.prop_id.split(".")[0]);
      if (!figure) return;
      const covered = (range) => {
        const [low, high] = [...range].sort((a, b) => a - b);
        const first = Math.max(0, Math.round(low + 0.5)), end = Math.round(high + 0.5);
        return [first, Math.max(end, first + 1)];
      };
      const { xaxis, yaxis } = figure._fullLayout;
      window.ssmlens.go({ zoom: [yaxis.range, xaxis.range].map((range) => covered(range).join("-")).join(",") });
    },
  });
})();
