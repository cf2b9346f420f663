/* The URL is the only state: everything that changes the view goes through `ssmlens.go`. */
"use strict";

window.ssmlens = (() => {
  // What no longer makes sense when another field changes.
  const FORGETS = { capture: ["zoom", "query"], prompt: ["zoom", "query"] };
  let scene = null, constants = { defaults: {}, rebuiltBy: {} };

  const params = () => new URLSearchParams(location.search);

  /** Change fields of the address; null takes one out, and so back to its default. */
  function go(changes, pathname) {
    const told = params();
    for (const [field, value] of Object.entries(changes)) {
      if (value === null || value === undefined || value === "" || String(value) === constants.defaults[field]) told.delete(field);
      else told.set(field, String(value));
      for (const other of FORGETS[field] || []) if (!(other in changes)) told.delete(other);
    }
    const text = told.toString();
    const props = { search: text ? "?" + text : "" };
    if (pathname && pathname !== location.pathname) props.pathname = pathname;
    if (props.search !== location.search || props.pathname) {
      window.dash_clientside.set_props("url", props);
      arrive(props.pathname || location.pathname, props.search); // at once: a callback later is a round later
    }
  }

  /** The value of a field as text: what the server shows for what the address says, "" as long as nobody knows. */
  function shown(field) {
    const asked = params().get(field) ?? constants.defaults[field] ?? "";
    return scene?.shown[field]?.[asked] ?? asked;
  }

  /* Whether the reader has done something since the address changed. A control that was set to an address they have left
     tells its value late; only they may write one. */
  let touched = false;
  for (const kind of ["pointerdown", "click", "keydown", "input"]) {
    document.addEventListener(kind, () => { touched = true; }, true);
  }

  /** What `shown` tells may have changed: so may controls. Not a callback's output, for which they would wait. */
  let times = 0;
  const changed = () => window.dash_clientside.set_props("shown", { data: ++times });

  function theme(name) {
    localStorage.setItem("ssmlens-theme", name);
    go({ theme: name === "dark" ? "dark" : null });
  }

  // Before Dash reads the address: the theme that the reader likes, unless the address asks for one.
  const dark = localStorage.getItem("ssmlens-theme") || (matchMedia("(prefers-color-scheme: dark)").matches && "dark");
  if (dark === "dark" && !params().has("theme")) {
    const told = params();
    told.set("theme", "dark");
    history.replaceState(history.state, "", location.pathname + "?" + told);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("#theme-switch, [data-export], [data-download]");
    if (!button) return;
    if (button.id === "theme-switch") theme(params().get("theme") === "dark" ? "light" : "dark");
    if (button.dataset.download) {
      button.href = "/data/" + button.dataset.download + location.search;
      button.download = button.dataset.download;
    }
    if (button.dataset.export) {
      const graph = document.querySelector("#" + button.dataset.figure + " .js-plotly-plot");
      const at = [shown("layer"), shown("prompt")];
      const filename = ["ssmlens", button.dataset.figure, ...at].filter(Boolean).join("-");
      const { width, height } = graph._fullLayout;
      const scale = button.dataset.export === "png" ? 2 : 1;
      window.Plotly.downloadImage(graph, { format: button.dataset.export, filename, width, height, scale });
    }
  });

  return {
    go, shown, changed, params, touched: () => touched, left() { touched = false; }, scene: () => scene,
    remember(told) { scene = told; },
    settle(fixed) { constants = fixed; },
    rebuiltBy: (page) => constants.rebuiltBy[page] || [],
  };
})();

// The layout that was asked for, the URL as Dash knows it, the page that is there with the URL it was told, and whether
// what is there instead of a page waits for it.
let structure = null, now = "", here = null, waiting = false;

/** The layout that a URL asks for. */
function structureOf(pathname, search) {
  const page = (pathname || "/").replaceAll("/", ""), told = new URLSearchParams(search);
  return [page, ...window.ssmlens.rebuiltBy(page).map((field) => told.get(field))].join("?");
}

/** The reader is at a URL: whether the page that is there can show it, which is told so. */
function arrive(pathname, search) {
  const before = now;
  now = (pathname || "") + (search || "");
  if (now !== before) window.ssmlens.left();
  window.ssmlens.changed();
  if (structureOf(pathname, search) !== structure || document.querySelector(".trouble")) return false;
  follow();
  return true;
}

/** Tell the page that is there where the reader is now. */
function follow() {
  if (!here || now.split("?")[0] !== "/" + here.id.page || now === here.value) return;
  here.value = now;
  window.dash_clientside.set_props(here.id, { data: now });
}

window.dash_clientside = Object.assign({}, window.dash_clientside, {
  ssmlens: Object.assign({}, (window.dash_clientside || {}).ssmlens, {
    /** A control has another value: so has the address. */
    control() {
      if (!window.ssmlens.touched()) return;
      for (const { prop_id, value } of window.dash_clientside.callback_context.triggered) {
        const { field } = JSON.parse(prop_id.slice(0, prop_id.lastIndexOf(".")));
        if (value === null || value === undefined) continue;
        if (String(value) !== window.ssmlens.shown(field)) window.ssmlens.go({ [field]: value });
      }
    },

    /** What the server says of the address. */
    told(scene) {
      window.ssmlens.remember(scene);
      window.ssmlens.changed();
    },

    /** A page that cannot be shown yet is asked for anew when its interval ticks; what surrounds it also when it came. */
    again(ticks) {
      const { set_props } = window.dash_clientside, waited = waiting;
      waiting = ticks.length > 0;
      if (ticks.some(Boolean)) set_props("structure", { data: `${structure}#${Date.now()}` });
      if (waited || waiting) set_props("again", { data: Date.now() });
    },

    /** What asks for a new layout when it changes. */
    structure(pathname, search, constants) {
      window.ssmlens.settle(constants);
      if (arrive(pathname, search)) return window.dash_clientside.no_update;
      structure = structureOf(pathname, search);
      return `${structure}#${Date.now()}`;
    },

    /** A page has come, with the URL it was made for; the reader may have gone on since. */
    mounted() {
      const [pages] = window.dash_clientside.callback_context.inputs_list;
      here = pages.length ? { id: pages[0].id, value: pages[0].value } : null;
      follow();
      return here && here.id.page;
    },
  }),
});
