/* The Layers page: every block of the model, and a click on one, on a row or on a cell of the figure opens its map. */
"use strict";

(() => {
  /** An element with text; text is never read as HTML. */
  function element(tag, className, text = "", ...children) {
    const made = document.createElement(tag);
    made.className = className;
    made.append(text, ...children);
    return made;
  }

  /** Map or mask of a block, small, and the way to it. */
  function thumbnail({ index, digest }, view, search) {
    const picture = document.createElement("img"), link = element("a", "", "", picture);
    picture.alt = link.title = `Layer ${index}: attention ${view}`;
    picture.loading = "lazy";
    requestIdleCallback(() => { picture.src = `/thumbnail.png${search}&of=${digest}`; }); // scores come first
    link.href = "/maps" + search;
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      window.dash_clientside.set_props("url", { pathname: "/maps", search });
    });
    return link;
  }

  /** A block: its number, what it is, whether its maps may be believed, and what they look like. */
  function block(told) {
    const name = element("b", "", String(told.index)), kind = element("span", "muted", ` ${told.kind}`);
    if (!told.views) return element("div", "block other", "", name, kind);
    const mark = element("span", told.bad ? "failed" : "ok", told.bad ? "✗" : "✓");
    mark.title = told.told;
    const pictures = Object.entries(told.views).map(([view, search]) => thumbnail(told, view, search));
    const parts = [element("div", "block-head", "", name, kind, mark), element("div", "pictures", "", ...pictures)];
    if (told.bad) parts.push(element("div", "failed", told.told));
    return element("div", told.bad ? "block bad" : "block", "", ...parts);
  }

  Object.assign(window.dash_clientside.ssmlens, {
    /** Some layers are not scored yet: the answer to this asks for more. */
    ask_again(unscored) {
      if (unscored) window.dash_clientside.set_props("layers-asked", { data: unscored });
    },

    /** A block each into the page; the answer is their container's class. */
    blocks(told) {
      document.getElementById("layers-blocks").replaceChildren(...told.map(block));
      return "blocks";
    },

    open_layer(row, cell) {
      const [changed] = window.dash_clientside.callback_context.triggered;
      if (!changed || !changed.value) return;
      const layer = changed.prop_id.startsWith("layers-table") ? row.rowId : cell.points[0].x;
      window.ssmlens.go({ layer }, "/maps");
    },
  });
})();
