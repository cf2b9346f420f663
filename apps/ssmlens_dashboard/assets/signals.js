/* The Signals page: dragging over tokens sets the zoom of the address, a double click resets it. */
"use strict";

(() => {
  const FIGURES = ["#signals-steps", "#signals-norms"];

  Object.assign(window.dash_clientside.ssmlens, {
    /** The reader drew a range of columns: write their tokens to the address. */
    zoomed_tokens(...changes) {
      const [changed] = window.dash_clientside.callback_context.triggered;
      const range = changed && changed.value && [changed.value["xaxis.range[0]"], changed.value["xaxis.range[1]"]];
      if (!range || range[0] === undefined) return;
      const figure = document.querySelector("#" + changed.prop_id.split(".")[0] + " .js-plotly-plot");
      const { first, end, block } = figure.layout.meta;
      const [low, high] = range.sort((a, b) => a - b);
      const token = (column) => Math.min(Math.max(first + column * block, first), end);
      const from = Math.min(token(Math.round(low + 0.5)), end - 1);
      const to = Math.max(token(Math.round(high + 0.5)), from + 1);
      window.ssmlens.go({ zoom: `${from}-${to},${from}-${to}` });
    },
  });

  // Detect a double click by hand: no dblclick event comes, as plotly covers the page while a button is down.
  let twice = null;
  document.addEventListener("mousedown", (event) => {
    const over = FIGURES.some((figure) => event.target.closest(`${figure} .nsewdrag`));
    twice = over && event.detail === 2 ? [event.clientX, event.clientY] : null;
  }, true);
  document.addEventListener("mouseup", (event) => {
    if (twice && Math.hypot(event.clientX - twice[0], event.clientY - twice[1]) < 4) window.ssmlens.go({ zoom: null });
    twice = null;
  }, true);
})();
