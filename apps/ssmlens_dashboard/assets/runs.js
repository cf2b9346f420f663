/* The Runs page: links from the table to captures. */
"use strict";

Object.assign(window.dash_clientside.ssmlens, {
  /** Open the address in a cell of a link column. */
  open_captures(cell) {
    if (!cell || !cell.value || !["maps", "change"].includes(cell.colId)) return;
    const [pathname, search] = cell.value.split("?");
    window.dash_clientside.set_props("url", { pathname, search: "?" + search });
  },
});
