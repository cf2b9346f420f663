/* The Layers page: every block of the model. A click on a block, a table row or a cell of the figure opens its map. */
"use strict";

(() => {
  /** Make an element with text; text is never parsed as HTML. */
  function element(tag, className, text = "", ...children) {
    const node = document.createElement(tag);
    node.className = className;
    node.append(text, ...children);
    return node;
  }

  /** Make a thumbnail of a block's map or mask that links to it. */
  function thumbnail({ index, digest }, view, search) {
    const picture = document.createElement("img"), link = element("a", "", "", picture);
    picture.alt = link.title = `Layer ${index}: attention ${view}`;
    picture.loading = "lazy";
    requestIdleCallback(() => { picture.src = `/thumbnail.png${search}&of=${digest}`; }); // after the scores
    link.href = "/maps" + search;
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      window.dash_clientside.set_props("url", { pathname: "/maps", search });
    });
    return link;
  }

  /** Make a block: its number, kind, verdict and thumbnails. */
  function block(facts) {
    const name = element("b", "", String(facts.index)), kind = element("span", "muted", ` ${facts.kind}`);
    if (!facts.views) return element("div", "block other", "", name, kind);
    const mark = element("span", facts.bad ? "failed" : "ok", facts.bad ? "✗" : "✓");
    mark.title = facts.verdict;
    const pictures = Object.entries(facts.views).map(([view, search]) => thumbnail(facts, view, search));
    const parts = [element("div", "block-head", "", name, kind, mark), element("div", "pictures", "", ...pictures)];
    if (facts.bad) parts.push(element("div", "failed", facts.verdict));
    return element("div", facts.bad ? "block bad" : "block", "", ...parts);
  }

  Object.assign(window.dash_clientside.ssmlens, {
    /** Ask for more scores while some layers are unscored. */
    ask_again(unscored) {
      if (unscored) window.dash_clientside.set_props("layers-asked", { data: unscored });
    },

    /** Put the blocks into the page; return the class of their container. */
    blocks(list) {
      document.getElementById("layers-blocks").replaceChildren(...list.map(block));
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
