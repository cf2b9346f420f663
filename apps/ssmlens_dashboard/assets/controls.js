/* Controls show what the address says. */
"use strict";

Object.assign(window.dash_clientside.ssmlens, {
  /** The value of a control as the address has it now: an answer of the server to an earlier one would set it back. */
  controls() {
    const { id } = window.dash_clientside.callback_context.outputs_list;
    return String(window.ssmlens.shown(id.field));
  },
});
