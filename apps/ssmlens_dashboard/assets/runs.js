/* The Runs page: its controls write the address, also where there is no capture at all; its table leads to captures. */
"use strict";

Object.assign(window.dash_clientside.ssmlens, {
  /** A cell of these columns holds an address. */
  open_captures(cell) {
    if (!cell || !cell.value || !["maps", "change"].includes(cell.colId)) return;
    const [pathname, search] = cell.value.split("?");
    window.dash_clientside.set_props("url", { pathname, search: "?" + search });
  },

  runs_control() {
    for (const { prop_id, value } of window.dash_clientside.callback_context.triggered) {
      if (value === null || value === undefined) continue;
      const { field } = JSON.parse(prop_id.slice(0, prop_id.lastIndexOf(".")));
      window.ssmlens.go({ [field]: value === "best" ? null : value });
    }
  },
});
