/* The Compare page: one zoom and one pointer for all maps; places are selected, added and removed; arrow keys move them. */
"use strict";

(() => {
  const PARTS = ["capture", "layer", "prompt"]; // parts of a place
  let facts = null;

  const compare = (places) => window.ssmlens.go({ against: places.slice(1).join("~") });

  /** The places in the address; if it names none, those that the server chose; null until it has answered. */
  function places() {
    const { shown, params } = window.ssmlens, against = params().get("against") ?? "";
    const first = PARTS.map(shown).join(".");
    if (facts?.against === against && facts.places[0] === first) return facts.places;
    return against ? [first, ...against.split("~")] : null;
  }

  /** The value of a place's matrix at an entry; null if the place has no such tokens. */
  const value = async (side, at) => Math.max(at.query, at.key) >= side.tokens ? null : window.ssmlens.matrix.value(side.values, at);

  const formatted = (number) => number === null ? "—" : Number.isFinite(number) ? number.toPrecision(3) : "not finite";

  const under = (event) => facts && window.ssmlens.matrix.entry(event, "compare-maps");

  window.ssmlens.matrix.hover("compare-hover", under, async (at) => {
    const word = (side, token) => (facts.texts[side.text] || [])[token - facts.first] || "";
    const values = await Promise.all(facts.sides.map((side) => value(side, at))).catch(() => facts.sides.map(() => NaN));
    const lines = [`query ${at.query}   key ${at.key}`];
    facts.sides.forEach((side, i) => {
      const words = at.query < side.tokens ? `   ${word(side, at.query)} ← ${word(side, at.key)}` : "";
      lines.push(`${side.letter}      ${formatted(values[i]).padStart(10)}${words}`);
    });
    values.slice(1).forEach((other, i) => {
      const apart = values[0] === null || other === null ? null : values[0] - other;
      lines.push(`${facts.sides[0].letter} − ${facts.sides[i + 1].letter}  ${formatted(apart).padStart(10)}`);
    });
    return lines.join("\n");
  });

  document.addEventListener("dblclick", (event) => {
    if (event.target.closest("#compare-maps .nsewdrag")) window.ssmlens.go({ zoom: null });
  });

  document.addEventListener("click", (event) => {
    const current = places();
    if (!current) return;
    if (event.target.closest("#compare-add")) compare([...current, current.at(-1)]);
    const remove = event.target.closest("[data-remove]");
    if (remove) compare(current.filter((_, i) => i !== Number(remove.dataset.remove)));
  });

  let steps = 0; // arrow keys pressed before the places are known, in layers

  /** Move every place with the same layer as the first, once the places are known. */
  function move() {
    const current = places(), scene = window.ssmlens.scene();
    if (!steps || !current || !scene) return;
    const layer = Number(window.ssmlens.shown("layer"));
    const next = scene.layers[scene.layers.indexOf(layer) + steps];
    steps = 0;
    if (next === undefined) return;
    const against = current.slice(1).map((place) => {
      const [capture, old, prompt] = place.split(".");
      return [capture, Number(old) === layer ? next : old, prompt].join(".");
    });
    window.ssmlens.go({ layer: next, against: against.join("~") });
  }

  /* Left and right move the places. This runs before keys.js, which moves the first. */
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const typing = event.target.closest("input, textarea, select, [role=slider], [contenteditable]");
    if (!step || typing || !document.getElementById("compare-maps")) return;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    event.stopPropagation();
    event.preventDefault();
    steps += step;
    move();
  }, true);

  Object.assign(window.dash_clientside.ssmlens, {
    /** Take the places that are shown. */
    compare_sides(sides) {
      facts = sides;
      window.ssmlens.changed();
      move();
    },

    /** Set the selects of the places, empty for a missing place. They stay as they are until the places are known. */
    compare_places() {
      move();
      const parts = places()?.map((place) => place.split("."));
      if (!parts) return window.dash_clientside.no_update;
      const { outputs_list } = window.dash_clientside.callback_context;
      return outputs_list.map(({ id }) => parts[id.at]?.[PARTS.indexOf(id.part)] ?? null);
    },

    /** The reader selected another capture, layer or prompt for a place: write it to the address. */
    compare_place() {
      const current = places();
      if (!current || !window.ssmlens.touched()) return;
      const parts = current.map((place) => place.split("."));
      for (const { prop_id, value } of window.dash_clientside.callback_context.triggered) {
        const { at, part } = JSON.parse(prop_id.slice(0, prop_id.lastIndexOf(".")));
        if (value !== null && value !== undefined && parts[at]) parts[at][PARTS.indexOf(part)] = value;
      }
      const next = parts.map((place) => place.join("."));
      if (next.join() !== current.join()) compare(next);
    },
  });
})();
