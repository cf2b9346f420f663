/* The URL is the only state: everything that changes the view goes through `ssmlens.go`. */
"use strict";

window.ssmlens = (() => {
  // Fields to clear when another field changes.
  const FORGETS = { capture: ["zoom", "query"], prompt: ["zoom", "query"] };
  let scene = null, constants = { defaults: {}, rebuiltBy: {} };

  const params = () => new URLSearchParams(location.search);

  /** Change fields of the address; null resets a field to its default. */
  function go(changes, pathname) {
    const fields = params();
    for (const [field, value] of Object.entries(changes)) {
      if (value === null || value === undefined || value === "" || String(value) === constants.defaults[field]) fields.delete(field);
      else fields.set(field, String(value));
      for (const other of FORGETS[field] || []) if (!(other in changes)) fields.delete(other);
    }
    const text = fields.toString();
    const props = { search: text ? "?" + text : "" };
    if (pathname && pathname !== location.pathname) props.pathname = pathname;
    if (props.search !== location.search || props.pathname) {
      window.dash_clientside.set_props("url", props);
      arrive(props.pathname || location.pathname, props.search); // now: through a callback it would take one more round
    }
  }

  /** The shown value of a field as text: the server's value for the one in the address; "" while unknown. */
  function shown(field) {
    const requested = params().get(field) ?? constants.defaults[field] ?? "";
    return scene?.shown[field]?.[requested] ?? requested;
  }

  /* Whether the reader has acted since the address changed. A control that was set for an earlier address reports its
     value late; only the reader may change the address. */
  let touched = false;
  for (const kind of ["pointerdown", "click", "keydown", "input"]) {
    document.addEventListener(kind, () => { touched = true; }, true);
  }

  /** The values of `shown` may have changed: update the controls. Not a callback's output, as they would wait for it. */
  let times = 0;
  const changed = () => window.dash_clientside.set_props("shown", { data: ++times });

  function theme(name) {
    localStorage.setItem("ssmlens-theme", name);
    go({ theme: name === "dark" ? "dark" : null });
  }

  // Before Dash reads the address: apply the reader's theme, unless the address sets one.
  const dark = localStorage.getItem("ssmlens-theme") || (matchMedia("(prefers-color-scheme: dark)").matches && "dark");
  if (dark === "dark" && !params().has("theme")) {
    const fields = params();
    fields.set("theme", "dark");
    history.replaceState(history.state, "", location.pathname + "?" + fields);
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
    remember(answer) { scene = answer; },
    settle(fixed) { constants = fixed; },
    rebuiltBy: (page) => constants.rebuiltBy[page] || [],
  };
})();

// The requested layout, the URL as Dash knows it, the mounted page with its URL, and whether an error message stands in
// for a page that it waits for.
let structure = null, now = "", mounted = null, waiting = false;

/** The layout that a URL needs. */
function structureOf(pathname, search) {
  const page = (pathname || "/").replaceAll("/", ""), fields = new URLSearchParams(search);
  return [page, ...window.ssmlens.rebuiltBy(page).map((field) => fields.get(field))].join("?");
}

/** Note the reader's URL. If the mounted page can show it, pass it on and return true. */
function arrive(pathname, search) {
  const before = now;
  now = (pathname || "") + (search || "");
  if (now !== before) window.ssmlens.left();
  window.ssmlens.changed();
  if (structureOf(pathname, search) !== structure || document.querySelector(".trouble")) return false;
  follow();
  return true;
}

/** Pass the reader's URL to the mounted page. */
function follow() {
  if (!mounted || now.split("?")[0] !== "/" + mounted.id.page || now === mounted.value) return;
  mounted.value = now;
  window.dash_clientside.set_props(mounted.id, { data: now });
}

window.dash_clientside = Object.assign({}, window.dash_clientside, {
  ssmlens: Object.assign({}, (window.dash_clientside || {}).ssmlens, {
    /** Write the new value of a control to the address. */
    control() {
      if (!window.ssmlens.touched()) return;
      for (const { prop_id, value } of window.dash_clientside.callback_context.triggered) {
        const { field } = JSON.parse(prop_id.slice(0, prop_id.lastIndexOf(".")));
        if (value === null || value === undefined) continue;
        if (String(value) !== window.ssmlens.shown(field)) window.ssmlens.go({ [field]: value });
      }
    },

    /** Take the server's answer about the address. */
    receive(scene) {
      window.ssmlens.remember(scene);
      window.ssmlens.changed();
    },

    /** Request a page that cannot be shown yet at each tick of its interval; update the frame then and once it has come. */
    again(ticks) {
      const { set_props } = window.dash_clientside, waited = waiting;
      waiting = ticks.length > 0;
      if (ticks.some(Boolean)) set_props("structure", { data: `${structure}#${Date.now()}` });
      if (waited || waiting) set_props("again", { data: Date.now() });
    },

    /** Request a new layout if the URL needs one. */
    structure(pathname, search, constants) {
      window.ssmlens.settle(constants);
      if (arrive(pathname, search)) return window.dash_clientside.no_update;
      structure = structureOf(pathname, search);
      return `${structure}#${Date.now()}`;
    },

    /** A page is mounted, with the URL it was built for; the reader may have moved on since. */
    mounted() {
      const [pages] = window.dash_clientside.callback_context.inputs_list;
      mounted = pages.length ? { id: pages[0].id, value: pages[0].value } : null;
      follow();
      return mounted && mounted.id.page;
    },
  }),
});
