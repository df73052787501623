// Cores: those of the mesh, and the panel that describes one.
const mesh = document.getElementById("mesh");
const panel = document.getElementById("panel");
const table = document.getElementById("cores");
const cells = mesh ? all("button", mesh) : [];
const rows = table ? [...table.tBodies[0].rows] : [];
const heads = table ? [...table.tHead.rows[0].cells] : [];
const number = (cell) => Number(cell.id.slice(1));
let chosen = null;
let shown = null;

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
  const uses = data("data")?.mapping.core_use;
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
