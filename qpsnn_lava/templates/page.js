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

// Layers: the name of one shows what belongs to it, wherever it stands.
const byLayer = new Map();
for (const element of all("tr[data-l], figure[data-l], #mesh button")) {
  for (const layer of element.dataset.l.split(" ")) {
    if (!byLayer.has(layer)) byLayer.set(layer, []);
    byLayer.get(layer).push(element);
  }
}
let lit = null;
const light = (layer) => {
  const set = (which, on) => {
    for (const element of byLayer.get(which) || []) element.classList.toggle("lit", on);
    for (const name of all(`button.layer[data-l="${which}"]`)) name.ariaPressed = String(on);
  };
  const next = layer === lit ? null : layer;
  if (lit !== null) set(lit, false);
  if (next !== null) set(next, true);
  lit = next;
  document.getElementById("mesh")?.classList.toggle("lit", lit !== null);
};

// Downloads, from what the page has inside.
const download = (name) => {
  const whole = document.getElementById("data");
  const json = name === whole.dataset.file;
  const text = json ? whole.textContent : data("files")[name];
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
