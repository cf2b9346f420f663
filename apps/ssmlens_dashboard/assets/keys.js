/* Keys: left and right step through layers, up and down through channels, n and p through captures. */
"use strict";

/** Step to another capture of the same run, or among those without a run. Keep the zoom: a run has one prompt. */
function stepCapture(by) {
  const { ssmlens } = window, { captures } = ssmlens.scene();
  const capture = captures[captures.indexOf(ssmlens.shown("capture")) + by];
  const fields = ssmlens.params();
  if (capture) ssmlens.go({ capture, zoom: fields.get("zoom"), query: fields.get("query") });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-step]");
  if (button && window.ssmlens.scene()) stepCapture(Number(button.dataset.step));
});

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
  if (event.key === "n" || event.key === "p") stepCapture(event.key === "n" ? 1 : -1);
  const other = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (other && ssmlens.params().get("view") === "channel") {
    const next = Number(ssmlens.shown("channel") || 0) + other;
    if (next >= 0 && next < scene.channels) ssmlens.go({ channel: next });
    event.preventDefault();
  }
});
