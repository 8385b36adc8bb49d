// The flame graph: the calls from the outermost on, each as wide as what was allocated in it and below.
const flames = {
  ROW: 20,
  root: null,
  // The calls from the root to the one that is as wide as the page.
  path: [],

  show(root) {
    this.root = root;
    this.path = [root];
    this.draw();
  },

  zoom(path) {
    this.path = path;
    this.draw();
    document.querySelector("#flames [tabindex='0']")?.focus();
  },

  draw() {
    const place = document.getElementById("flames");
    if (!this.root) return;
    const width = place.clientWidth;
    const cells = [];
    let depth = 0;
    const cell = (path, left, wide, row, isAbove) => {
      const node = path.at(-1);
      const share = this.root.bytes ? ((node.bytes * 100) / this.root.bytes).toFixed(1) : "0";
      const made = document.createElement("div");
      made.className = isAbove ? "flame above" : "flame";
      made.textContent = node.name;
      made.title = `${node.name}\n${node.place ?? ""}\n${showBytes(node.bytes)} (${share} %) in ${node.blocks} blocks`;
      made.setAttribute("role", "treeitem");
      made.setAttribute("aria-level", String(row + 1));
      made.setAttribute("aria-label", `${node.name}, ${showBytes(node.bytes)}, ${share} percent`);
      made.tabIndex = path.length === this.path.length && !isAbove ? 0 : -1;
      Object.assign(made.style, { left: `${left}px`, top: `${row * this.ROW}px`, width: `${wide}px` });
      // Each name has a tone of its own, the same each time.
      let hash = 0;
      for (const letter of node.name) hash = (hash * 31 + letter.codePointAt(0)) % 997;
      made.style.filter = `hue-rotate(${(hash % 40) - 20}deg)`;
      made.path = path;
      cells.push(made);
      depth = Math.max(depth, row + 1);
    };
    const below = (path, left, wide) => {
      const node = path.at(-1);
      cell(path, left, wide, path.length - 1, false);
      let at = left;
      const children = [...node.children.values()].sort((one, other) => other.bytes - one.bytes);
      for (const child of children) {
        const part = (child.bytes / node.bytes) * wide;
        // A narrower cell can't be seen.
        if (part >= 1) below([...path, child], at, part);
        at += part;
      }
    };
    this.path.slice(0, -1).forEach((_, row) => cell(this.path.slice(0, row + 1), 0, width, row, true));
    if (this.root.bytes > 0) below(this.path, 0, width);
    place.style.height = `${depth * this.ROW}px`;
    place.replaceChildren(...cells);
    const hint = this.path.length > 1 ? `In ${this.path.at(-1).name}. Escape, or a click on a call above it, leads back.`
      : "Each call is as wide as what was allocated in it and below. A click, or Enter, makes one as wide as the page.";
    document.getElementById("path").textContent = hint;
  },

  // The cell that an arrow key leads to: up to the caller, down to the largest callee, sideways to the neighbour.
  neighbour(from, key) {
    const cells = [...document.getElementById("flames").children];
    const is = (cell, path) => cell.path.length === path.length && cell.path.every((node, index) => node === path[index]);
    if (key === "ArrowUp") return cells.find((cell) => is(cell, from.path.slice(0, -1)));
    const isChild = (cell) => is({ path: cell.path.slice(0, -1) }, from.path);
    if (key === "ArrowDown") return cells.find(isChild);
    const row = cells.filter((cell) => cell.path.length === from.path.length);
    return row[row.indexOf(from) + (key === "ArrowRight" ? 1 : -1)];
  },
};

document.getElementById("flames").addEventListener("click", (event) => {
  if (event.target.path) flames.zoom(event.target.path);
});
document.getElementById("flames").addEventListener("keydown", (event) => {
  const from = event.target;
  if (!from.path) return;
  if (event.key === "Enter" || event.key === " ") flames.zoom(from.path);
  else if (event.key === "Escape") flames.zoom([flames.root]);
  else if (event.key.startsWith("Arrow")) {
    const to = flames.neighbour(from, event.key);
    if (to) {
      from.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    }
  } else return;
  event.preventDefault();
});
