/* The Layers page: a click on a row or a cell of the figure opens that layer's map. */
"use strict";

Object.assign(window.dash_clientside.ssmlens, {
  /** Some layers are not scored yet: the answer to this asks for more. */
  ask_again(unscored) {
    if (unscored) window.dash_clientside.set_props("layers-asked", { data: unscored });
  },

  open_layer(row, cell) {
    const [changed] = window.dash_clientside.callback_context.triggered;
    if (!changed || !changed.value) return;
    const layer = changed.prop_id.startsWith("layers-table") ? row.rowId : cell.points[0].x;
    window.ssmlens.go({ layer }, "/maps");
  },
});

/* Thumbnails are fetched when they come into view. */
(() => {
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      target.src = target.dataset.picture;
    }
  }, { rootMargin: "200px" });
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) {
      for (const node of addedNodes) {
        if (node.querySelectorAll) node.querySelectorAll("img[data-picture]").forEach((picture) => seen.observe(picture));
      }
    }
  }).observe(document, { childList: true, subtree: true });
})();
