"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const parsed = new Map();
  const data = (id) => {
    if (!parsed.has(id)) parsed.set(id, JSON.parse(document.getElementById(id).textContent));
    return parsed.get(id);
  };
  const make = (tag, ...inside) => {
    const element = document.createElement(tag);
    element.append(...inside);
    return element;
  };
  root.classList.add("scripted");

  // Theme: as the system says, light or dark.
  const themes = ["system", "light", "dark"];
  const theme = document.getElementById("theme");
  const show = (name) => {
    if (name === "system") delete root.dataset.theme;
    else root.dataset.theme = name;
    theme.textContent = `Theme: ${name}`;
  };
  theme.addEventListener("click", () => {
    show(themes[(themes.indexOf(root.dataset.theme || "system") + 1) % themes.length]);
  });
  document.getElementById("print").addEventListener("click", () => window.print());

  // Tables: a click on a head sorts its rows, by number where the cell has one.
  const key = (row, column) => {
    const cell = row.cells[column];
    const marked = cell.dataset.value !== undefined ? cell : cell.querySelector("[data-value]") || cell;
    const text = cell.dataset.sort ?? marked.dataset.value ?? cell.textContent.trim();
    const number = Number(text);
    return text !== "" && Number.isFinite(number) ? number : text;
  };
  const order = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === "number") return -1;
    return typeof b === "number" ? 1 : a.localeCompare(b);
  };
  const sort = (head) => {
    const up = head.ariaSort === "descending" || (head.ariaSort === "none" && head.cellIndex === 0);
    for (const other of head.parentNode.cells) if (other.ariaSort) other.ariaSort = "none";
    head.ariaSort = up ? "ascending" : "descending";
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, head.cellIndex), row]);
    rows.sort(([a], [b]) => (up ? order(a, b) : order(b, a)));
    body.append(...rows.map(([, row]) => row));
  };

  // Cores and layers.
  const mesh = document.getElementById("mesh");
  const panel = document.getElementById("panel");
  const table = document.getElementById("cores");
  const cells = mesh ? all("button", mesh) : [];
  const rows = table ? [...table.tBodies[0].rows] : [];
  const heads = table ? [...table.tHead.rows[0].cells] : [];
  const number = (cell) => Number(cell.id.slice(1));
  const byLayer = new Map();
  for (const element of all("tr[data-l], figure[data-l], #mesh button, button.layer")) {
    for (const layer of element.dataset.l.split(" ")) {
      if (!byLayer.has(layer)) byLayer.set(layer, []);
      byLayer.get(layer).push(element);
    }
  }
  let lit = null;
  let chosen = null;
  let shown = null;

  const light = (layer) => {
    const next = layer === lit ? null : layer;
    const set = (which, on) => {
      for (const element of byLayer.get(which) || []) {
        if (element.matches("button.layer")) element.ariaPressed = String(on);
        else element.classList.toggle("lit", on);
      }
      if (panel) for (const name of all(`button.layer[data-l="${which}"]`, panel)) name.ariaPressed = String(on);
    };
    if (lit !== null) set(lit, false);
    if (next !== null) set(next, true);
    lit = next;
    if (mesh) mesh.classList.toggle("lit", lit !== null);
  };

  const describe = (i) => {
    if (!panel || shown === i || !rows[i]) return;
    shown = i;
    const row = rows[i];
    const list = make("dl");
    for (let column = 4; column < row.cells.length; column += 1) {
      const cell = row.cells[column];
      const label = make("dt", ...[...heads[column].childNodes].flatMap((node) =>
        node.nodeName === "BUTTON" ? [node.textContent] : [node.cloneNode(true)]));
      const value = make("dd", ...[...cell.childNodes].map((node) => node.cloneNode(true)));
      if (cell.dataset.value !== undefined) {
        value.dataset.at = cell.dataset.at;
        value.dataset.value = cell.dataset.value;
      }
      if (cell.className) {
        value.className = cell.className;
        value.style.cssText = cell.style.cssText;
      }
      list.append(label, value);
    }
    const [chip, core] = all("span", row.cells[0]).map((node) => node.cloneNode(true));
    const [x, y] = [row.cells[1], row.cells[2]].map((cell) => {
      const place = make("span", cell.textContent);
      place.dataset.at = cell.dataset.at;
      place.dataset.value = cell.dataset.value;
      return place;
    });
    const title = make("h3", "Core ", core, " of chip ", chip, make("small", ", tile (", x, ", ", y, ")"));
    const slices = make("div", ...[...row.cells[3].childNodes].map((node) => node.cloneNode(true)));
    slices.className = "slices";
    for (const name of all("button.layer", slices)) name.ariaPressed = String(name.dataset.l === lit);
    panel.replaceChildren(title, slices, list);
  };

  const choose = (i) => {
    const mark = (core, on) => {
      if (core === null) return;
      const cell = document.getElementById(`m${core}`);
      if (!cell) return;
      cell.ariaPressed = String(on);
      if (on) cell.tabIndex = 0;
      for (const layer of cell.dataset.l.split(" ")) {
        for (const element of byLayer.get(layer) || []) {
          if (element.matches("tr, figure")) element.classList.toggle("has", on);
        }
      }
    };
    mark(chosen, false);
    for (const cell of cells) if (cell.tabIndex === 0) cell.tabIndex = -1;
    chosen = i;
    mark(chosen, true);
    describe(i);
  };

  const select = document.getElementById("resource");
  const paint = () => {
    const { shade, text } = data("shades")[select.value];
    const uses = data("report")?.mapping.core_use;
    for (const cell of cells) {
      const i = number(cell);
      cell.className = `s${shade[i]}${cell.classList.contains("lit") ? " lit" : ""}`;
      cell.textContent = text[i];
      cell.ariaLabel = `${cell.ariaLabel.split(":")[0]}: ${text[i]}`;
      const at = cell.dataset.at.replace(/[^/]*$/, select.value);
      cell.dataset.at = at;
      if (uses) cell.dataset.value = JSON.stringify(uses[i][select.value]);
      else delete cell.dataset.value;
    }
  };

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const middle = (cell) => {
    const box = cell.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const next = (from, [right, down]) => {
    const [x, y] = middle(from);
    let best = null;
    let least = Infinity;
    for (const cell of cells) {
      const [a, b] = middle(cell);
      const along = (a - x) * right + (b - y) * down;
      const across = Math.abs((a - x) * down) + Math.abs((b - y) * right);
      if (along > 1 && along + 3 * across < least) [best, least] = [cell, along + 3 * across];
    }
    return best;
  };
  if (mesh) {
    mesh.addEventListener("keydown", (event) => {
      const from = event.target.closest("button");
      if (!from || event.ctrlKey || event.metaKey || event.altKey) return;
      const way = arrows[event.key];
      const to = way ? next(from, way) : { Home: cells[0], End: cells[cells.length - 1] }[event.key];
      if (way || to) event.preventDefault();
      if (!to) return;
      from.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
      describe(number(to));
    });
    mesh.addEventListener("pointerover", (event) => {
      const cell = event.target.closest("button");
      if (cell && event.pointerType === "mouse") describe(number(cell));
    });
    mesh.addEventListener("pointerleave", () => { if (chosen !== null) describe(chosen); });
    mesh.addEventListener("click", (event) => {
      const cell = event.target.closest("button");
      if (cell) choose(number(cell));
    });
  }
  if (select) {
    select.disabled = false;
    select.addEventListener("change", paint);
    if (cells.length) paint();
  }
  const first = cells.find((cell) => cell.tabIndex === 0);
  if (first) choose(number(first));

  // Downloads, from what the page has inside.
  const download = (name) => {
    const json = name === "report.json";
    const text = json ? document.getElementById("report").textContent : data("files")[name];
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: json ? "application/json" : "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.matches("button.layer")) light(button.dataset.l);
    else if (button.dataset.file) download(button.dataset.file);
    else if (button.closest(".sortable thead")) sort(button.closest("th"));
  });
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = all("details:not([open]):not(#all-cores)");
    for (const element of opened) element.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const element of opened) element.open = false;
  });
})();
