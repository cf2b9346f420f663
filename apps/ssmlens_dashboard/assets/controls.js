/* Controls show what the address says. */
"use strict";

Object.assign(window.dash_clientside.ssmlens, {
  /** Values of controls as the address has them now: an answer of the server to an earlier one would set them back. */
  controls() {
    const { outputs_list } = window.dash_clientside.callback_context;
    return outputs_list.map(({ id }) => String(window.ssmlens.shown(id.field) ?? ""));
  },
});
