/* The Compare page: one zoom and one pointer for all maps; places are chosen, added, taken out; arrows move them. */
"use strict";

(() => {
  const PARTS = ["capture", "layer", "prompt"]; // of a place
  let facts = null;

  const compare = (places) => window.ssmlens.go({ against: places.slice(1).join("~") });

  /** The places that the address names; where it names none, those that the server chose, null until it has answered. */
  function places() {
    const { shown, params } = window.ssmlens, against = params().get("against") ?? "";
    const first = PARTS.map(shown).join(".");
    if (facts?.against === against && facts.places[0] === first) return facts.places;
    return against ? [first, ...against.split("~")] : null;
  }

  /** The value of a place's matrix there, or null where it has no such tokens. */
  const value = async (side, at) => Math.max(at.query, at.key) >= side.tokens ? null : window.ssmlens.matrix.value(side.values, at);

  const told = (number) => number === null ? "—" : Number.isFinite(number) ? number.toPrecision(3) : "not finite";

  const under = (event) => facts && window.ssmlens.matrix.entry(event, "compare-maps");

  window.ssmlens.matrix.hover("compare-hover", under, async (at) => {
    const word = (side, token) => (facts.texts[side.text] || [])[token - facts.first] || "";
    const values = await Promise.all(facts.sides.map((side) => value(side, at))).catch(() => facts.sides.map(() => NaN));
    const lines = [`query ${at.query}   key ${at.key}`];
    facts.sides.forEach((side, i) => {
      const words = at.query < side.tokens ? `   ${word(side, at.query)} ← ${word(side, at.key)}` : "";
      lines.push(`${side.letter}      ${told(values[i]).padStart(10)}${words}`);
    });
    values.slice(1).forEach((other, i) => {
      const apart = values[0] === null || other === null ? null : values[0] - other;
      lines.push(`${facts.sides[0].letter} − ${facts.sides[i + 1].letter}  ${told(apart).padStart(10)}`);
    });
    return lines.join("\n");
  });

  document.addEventListener("dblclick", (event) => {
    if (event.target.closest("#compare-maps .nsewdrag")) window.ssmlens.go({ zoom: null });
  });

  document.addEventListener("click", (event) => {
    const here = places();
    if (!here) return;
    if (event.target.closest("#compare-add")) compare([...here, here.at(-1)]);
    const out = event.target.closest("[data-remove]");
    if (out) compare(here.filter((_, i) => i !== Number(out.dataset.remove)));
  });

  let steps = 0; // through layers: keys pressed before the places are known

  /** Move every place that shows the same layer as the first, as soon as the places are known. */
  function move() {
    const here = places(), scene = window.ssmlens.scene();
    if (!steps || !here || !scene) return;
    const layer = Number(window.ssmlens.shown("layer"));
    const next = scene.layers[scene.layers.indexOf(layer) + steps];
    steps = 0;
    if (next === undefined) return;
    const against = here.slice(1).map((place) => {
      const [capture, its, prompt] = place.split(".");
      return [capture, Number(its) === layer ? next : its, prompt].join(".");
    });
    window.ssmlens.go({ layer: next, against: against.join("~") });
  }

  /* Left and right move the places; before keys.js, which moves the first. */
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
    /** What is shown now. */
    compare_sides(sides) {
      facts = sides;
      window.ssmlens.changed();
      move();
    },

    /** What the selects of the places show: nothing for a place that is not there. They stay until places are known. */
    compare_places() {
      move();
      const parts = places()?.map((place) => place.split("."));
      if (!parts) return window.dash_clientside.no_update;
      const { outputs_list } = window.dash_clientside.callback_context;
      return outputs_list.map(({ id }) => parts[id.at]?.[PARTS.indexOf(id.part)] ?? null);
    },

    /** Another capture, layer or prompt was chosen for one of the places. */
    compare_place() {
      const here = places();
      if (!here || !window.ssmlens.touched()) return;
      const parts = here.map((place) => place.split("."));
      for (const { prop_id, value } of window.dash_clientside.callback_context.triggered) {
        const { at, part } = JSON.parse(prop_id.slice(0, prop_id.lastIndexOf(".")));
        if (value !== null && value !== undefined && parts[at]) parts[at][PARTS.indexOf(part)] = value;
      }
      const next = parts.map((place) => place.join("."));
      if (next.join() !== here.join()) compare(next);
    },
  });
})();
