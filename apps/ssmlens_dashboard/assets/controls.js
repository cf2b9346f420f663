/* Controls show the fields of the address and write them. */
"use strict";

Object.assign(window.dash_clientside.ssmlens, {
  /** The value of a control from the current address: a server's answer for an earlier address would set it back. */
  controls() {
    const { id } = window.dash_clientside.callback_context.outputs_list;
    return String(window.ssmlens.shown(id.field));
  },

  /** Write the rebuilt controls of Runs and Attribution, which need no capture, to the address. "best" means no value. */
  write_fields() {
    for (const { prop_id, value } of window.dash_clientside.callback_context.triggered) {
      if (value === null || value === undefined) continue;
      const { field } = JSON.parse(prop_id.slice(0, prop_id.lastIndexOf(".")));
      window.ssmlens.go({ [field]: value === "best" ? null : value });
    }
  },
});
