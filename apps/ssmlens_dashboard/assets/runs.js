/* The Runs page: its table leads to captures. */
"use strict";

Object.assign(window.dash_clientside.ssmlens, {
  /** A cell of these columns holds an address. */
  open_captures(cell) {
    if (!cell || !cell.value || !["maps", "change"].includes(cell.colId)) return;
    const [pathname, search] = cell.value.split("?");
    window.dash_clientside.set_props("url", { pathname, search: "?" + search });
  },
});
