/* Arrows move: left and right through layers, up and down through channels. */
"use strict";

document.addEventListener("keydown", (event) => {
  const { ssmlens } = window;
  const scene = ssmlens.scene();
  const typing = event.target.closest("input, textarea, select, [role=slider], .ag-root-wrapper, [contenteditable]");
  if (!scene || typing || event.ctrlKey || event.altKey || event.metaKey) return;
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) {
    const next = scene.layers[scene.layers.indexOf(Number(ssmlens.shown("layer"))) + step];
    if (next !== undefined) ssmlens.go({ layer: next });
    event.preventDefault();
  }
  const other = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (other && ssmlens.params().get("view") === "channel") {
    const next = Number(ssmlens.shown("channel") || 0) + other;
    if (next >= 0 && next < scene.channels) ssmlens.go({ channel: next });
    event.preventDefault();
  }
});
