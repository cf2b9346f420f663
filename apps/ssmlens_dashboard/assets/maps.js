/* The Maps page: the zoom, full-resolution values under the pointer, and the text coloured by one query's row: the query
   under the pointer while it rests on the map or the text, else the query of the address. A click sets the address. */
"use strict";

(() => {
  const PARAGRAPH = 256; // tokens
  const REST = 80; // milliseconds that the pointer rests on a row before the text shows it
  // The row of the address, the row that colours the text, and the query under the pointer.
  let tokens = [], pinned = null, painted = null, pointed = null;
  let pressed = null, resting = null;

  const CARD = "maps-map";

  /** The cell under the pointer; null if the map has none there. */
  function cell(event) {
    const under = window.ssmlens.matrix.entry(event, CARD);
    return under && Math.max(under.query, under.key) < tokens.length ? under : null;
  }

  /** The path to the values of the matrix shown. */
  function values() {
    const at = window.ssmlens.params();
    for (const field of ["theme", "scale", "query", "by", "against", "zoom"]) at.delete(field);
    return "/values?" + at;
  }

  window.ssmlens.matrix.hover("hover", cell, async (under) => {
    const name = (i) => `${i} ${tokens[i]}`;
    const number = await window.ssmlens.matrix.value(values(), under).catch(() => null);
    const text = number === null ? "cannot be read" : Number.isFinite(number) ? number.toPrecision(3) : "not finite";
    return `query  ${name(under.query)}\nkey    ${name(under.key)}\nvalue  ${text}`;
  });

  document.addEventListener("mousedown", (event) => {
    pressed = window.ssmlens.matrix.over(event, CARD) ? { x: event.clientX, y: event.clientY, twice: event.detail === 2 } : null;
  }, true);

  // A press without movement is a click: it selects the query. A double click shows the whole map.
  document.addEventListener("mouseup", (event) => {
    const still = pressed && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) < 4;
    const under = still && cell(event);
    if (still && pressed.twice) window.ssmlens.go({ zoom: null });
    else if (under) window.ssmlens.go({ query: under.query });
    pressed = null;
  }, true);

  document.addEventListener("click", (event) => {
    const token = event.target.closest("#maps-text [data-token]");
    if (token) window.ssmlens.go({ query: token.dataset.token });
  });

  /** Colour only the paragraphs in sight, as a text may be long. */
  const sight = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      target.inSight = isIntersecting;
      if (isIntersecting) colour(target);
      else if (!target.isConnected) sight.unobserve(target);
    }
  }, { rootMargin: "200px" });

  /** Build the tokens as elements in paragraphs, once per text. */
  function write(panel) {
    if (panel.tokens === tokens) return;
    panel.tokens = tokens;
    const paragraphs = [];
    for (let first = 0; first < tokens.length; first += PARAGRAPH) {
      const paragraph = document.createElement("p");
      tokens.slice(first, first + PARAGRAPH).forEach((token, i) => {
        const piece = document.createElement("span");
        piece.dataset.token = first + i;
        piece.textContent = token;
        paragraph.append(piece);
      });
      paragraphs.push(paragraph);
      sight.observe(paragraph);
    }
    panel.replaceChildren(...paragraphs);
  }

  /** Colour each token of a paragraph by its weight in the row, with a bar of that height. */
  function colour(paragraph) {
    if (!painted || paragraph.row === painted) return;
    paragraph.row = painted;
    const { values, query, signed, largest } = painted;
    for (const piece of paragraph.children) {
      const i = Number(piece.dataset.token), v = values[i] ?? 0;
      const share = (Math.abs(v) / largest).toFixed(3);
      const name = ["token", signed ? (v < 0 ? "minus" : "plus") : "unit",
        i === query ? "query" : i >= values.length ? "later" : ""].join(" ");
      if (piece.className !== name) piece.className = name;
      if (piece.share !== share) piece.style.setProperty("--share", piece.share = share);
    }
  }

  function paint() {
    const panel = document.getElementById("maps-text");
    if (!panel || !painted) return;
    write(panel);
    for (const paragraph of panel.children) if (paragraph.inSight) colour(paragraph);
  }

  const title = (row) => `${row.title}, row of query ${row.query} ${tokens[row.query]}`;

  /** Add the largest magnitude to a row. */
  const measured = (row) => ({ ...row, largest: row.values.reduce((most, v) => Math.max(most, Math.abs(v ?? 0)), 1e-30) });

  /** Colour the text by the row of the query under the pointer once it rests; elsewhere by the row of the address. */
  function point(query) {
    if (!pinned || query === pointed) return;
    pointed = query;
    clearTimeout(resting);
    const base = pinned;
    const show = (row) => {
      if (pointed !== query || pinned !== base || painted === row) return;
      painted = row;
      paint();
      window.dash_clientside.set_props("maps-row-title", { children: title(row) });
    };
    if (query === null || query === pinned.query) show(pinned);
    else {
      resting = setTimeout(() => window.ssmlens.matrix.fetched(values(), `${query}-${query + 1},0-${base.causal ? query + 1 : tokens.length}`).then((row) => {
        const plain = Array.from(row.values, (v) => Number.isFinite(v) ? Number(v.toPrecision(4)) : null);
        show(measured({ ...base, query, values: plain }));
      }, () => show(base)), REST);
    }
  }

  document.addEventListener("mousemove", (event) => {
    if (pressed || !document.getElementById("maps-text")) return;
    const token = event.target.closest("#maps-text [data-token]");
    point(token ? Number(token.dataset.token) : cell(event)?.query ?? null);
  });
  document.documentElement.addEventListener("mouseleave", () => point(null));

  // The value of the token under the pointer, as its tooltip.
  document.addEventListener("mouseover", (event) => {
    const piece = event.target.closest("#maps-text [data-token]");
    if (!piece || !painted) return;
    const v = painted.values[piece.dataset.token];
    piece.title = v === undefined || v === null ? piece.dataset.token : `${piece.dataset.token}: ${v}`;
  });

  Object.assign(window.dash_clientside.ssmlens, {
    /** Paint the text; return its title. */
    titled(row, texts) {
      tokens = texts || [];
      painted = pinned = row && measured(row);
      pointed = null;
      if (!row) return "Row of a query";
      setTimeout(paint, 0);
      return title(row);
    },
  });
})();
