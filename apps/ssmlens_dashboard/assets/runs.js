/* The Runs page: its controls write the address, also where there is no capture at all. */
"use strict";

Object.assign(window.dash_clientside.ssmlens, {
  runs_control() {
    for (const { prop_id, value } of window.dash_clientside.callback_context.triggered) {
      if (value === null || value === undefined) continue;
      const { field } = JSON.parse(prop_id.slice(0, prop_id.lastIndexOf(".")));
      window.ssmlens.go({ [field]: value === "best" ? null : value });
    }
  },
});
