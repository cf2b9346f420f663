/* Controls show what the address says, and write it. */
"use strict";

Object.assign(window.dash_clientside.ssmlens, {
  /** The value of a control as the address has it now: an answer of the server to an earlier one would set it back. */
  controls() {
    const { id } = window.dash_clientside.callback_context.outputs_list;
    return String(window.ssmlens.shown(id.field));
  },

  /** A control of a page that needs no capture, made anew with its value: Runs, Attribution. "best" is no value. */
  write_fields() {
    for (const { prop_id, value } of window.dash_clientside.callback_context.triggered) {
      if (value === null || value === undefined) continue;
      const { field } = JSON.parse(prop_id.slice(0, prop_id.lastIndexOf(".")));
      window.ssmlens.go({ [field]: value === "best" ? null : value });
    }
  },
});
