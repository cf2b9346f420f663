/* What pages with a matrix under the pointer share: its numbers, the label that tells them, the rectangle of a zoom. */
"use strict";

window.ssmlens.matrix = (() => {
  const TILE = 64; // tokens a side of what is fetched for the pointer
  const MOST = 200; // rectangles that are kept
  const kept = new Map();

  /** A rectangle of the matrix that a `/values` path names, fetched once: its width and values. */
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

  /** The entry under the pointer, on these axes of a plot; null above the diagonal. */
  function entry(event, plot, xaxis, yaxis) {
    const box = plot.getBoundingClientRect();
    const key = Math.round(xaxis.p2d(event.clientX - box.left - xaxis._offset));
    const query = Math.round(yaxis.p2d(event.clientY - box.top - yaxis._offset));
    return key >= 0 && key <= query ? { query, key } : null;
  }

  /** Show a label beside the pointer, within the window. */
  function place(label, event) {
    label.hidden = false;
    const right = event.clientX + 16 + label.offsetWidth > innerWidth;
    label.style.left = `${right ? event.clientX - 16 - label.offsetWidth : event.clientX + 16}px`;
    label.style.top = `${Math.min(event.clientY + 16, innerHeight - label.offsetHeight - 8)}px`;
  }

  /** Put what a plot's axes span into the address, in whole tokens. */
  function zoom({ _fullLayout: { xaxis, yaxis } }) {
    const whole = (range) => {
      const [low, high] = [...range].sort((a, b) => a - b);
      const first = Math.max(0, Math.round(low + 0.5)), end = Math.round(high + 0.5);
      return [first, Math.max(end, first + 1)];
    };
    window.ssmlens.go({ zoom: [yaxis.range, xaxis.range].map((range) => whole(range).join("-")).join(",") });
  }

  return { fetched, value, entry, place, zoom };
})();
