const AREAS = 8;
const element = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const LINES = [["live", 1, "text", []], ["resident (RSS)", 3, "resident", [6, 4]], ["arenas, mapped", 4, "arenas", [2, 3]]];

const peak = samples.reduce((best, sample, index) => (sample[1] > samples[best][1] ? index : best), 0);
const state = { mode: 0, moment: peak, anchor: null, hidden: new Set() };
let areas = series(0, AREAS);
let plot = null;

// Text of the page is set as text, never as HTML.
function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function areaColour(area, index) {
  return colour(area.isOthers ? "other" : `a${index + 1}`);
}

// Areas are drawn as sums, the highest first: each covers the one drawn before it, down to the axis.
function stacked() {
  let below = new Float64Array(samples.length);
  const sums = areas.map(({ bytes }) => (below = below.map((one, index) => one + bytes[index])));
  return sums.reverse();
}

function drawMarks(u) {
  const { ctx, bbox } = u;
  const mark = (index, style, dash, label) => {
    const x = Math.round(u.valToPos(times[index], "x", true));
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = style;
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.setLineDash(dash.map((length) => length * devicePixelRatio));
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    const isRight = x > bbox.left + bbox.width * 0.8;
    ctx.textAlign = isRight ? "right" : "left";
    const [dx, y] = [5 * devicePixelRatio, bbox.top - 5 * devicePixelRatio];
    if (label) ctx.fillText(label, x + (isRight ? dx : -dx), y);
    ctx.restore();
  };
  mark(peak, colour("a2"), [5, 3], `▼ peak: ${showBytes(samples[peak][2])}`);
  mark(state.moment, colour("focus"), [], "");
}

function options(width) {
  const axis = { stroke: colour("faint"), grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("edge") } };
  const powers = Array.from({ length: 50 }, (_, power) => 2 ** power);
  const area = (reversed) => {
    const index = areas.length - 1 - reversed;
    const fill = areaColour(areas[index], index);
    return { label: areas[index].name, fill, stroke: fill, width: 0, points: { show: false } };
  };
  const line = ([label, , name, dash]) =>
    ({ label, stroke: colour(name), width: 1.5, dash, points: { show: false }, show: !state.hidden.has(label) });
  return {
    width, height: 340, padding: [24, 16, null, null], legend: { show: false },
    scales: { x: { time: false }, y: { range: (u, low, high) => [0, (high || 1) * 1.04] } },
    cursor: { y: false, drag: { x: true, y: false, setScale: false }, points: { show: false } },
    axes: [
      { ...axis, values: (u, values) => values.map(showTime), space: 90 },
      { ...axis, values: (u, values) => values.map(showBytes), incrs: powers, size: 78 },
    ],
    series: [{}, ...areas.map((_, index) => area(index)), ...LINES.map(line)],
    hooks: { draw: [drawMarks], setSelect: [chooseDragged], ready: [listen] },
  };
}

function drawPlot() {
  const place = element("plot");
  plot?.destroy();
  const lines = LINES.map(([, column]) => samples.map((sample) => sample[column]));
  plot = new uPlot(options(place.clientWidth), [times, ...stacked(), ...lines], place);
  showRange();
}

// The sample at or before a place.
function sampleAt(pixels) {
  const time = plot.posToVal(pixels, "x");
  return Math.max(times.findLastIndex((one) => one <= time), 0);
}

function nearest(pixels) {
  const time = plot.posToVal(pixels, "x");
  const before = sampleAt(pixels);
  const after = Math.min(before + 1, times.length - 1);
  return times[after] - time < time - times[before] ? after : before;
}

function chooseDragged(u) {
  if (u.select.width < 4) return;
  const [first, last] = [nearest(u.select.left), nearest(u.select.left + u.select.width)];
  if (first !== last) choose(last, first);
}

function listen(u) {
  let down = null;
  u.over.addEventListener("mousedown", (event) => { down = event.offsetX; });
  u.over.addEventListener("mouseup", (event) => {
    if (down !== null && Math.abs(event.offsetX - down) < 4) choose(nearest(event.offsetX), null);
    down = null;
  });
}

// Chooses a moment, or the range from another to it.
function choose(moment, anchor) {
  state.moment = Math.min(Math.max(moment, 0), samples.length - 1);
  state.anchor = anchor === state.moment ? null : anchor;
  plot.redraw(false);
  showRange();
  show();
}

function range() {
  return [Math.min(state.anchor, state.moment), Math.max(state.anchor, state.moment)];
}

function showRange() {
  const box = { left: 0, width: 0, top: 0, height: plot.over.clientHeight };
  if (state.anchor !== null) {
    const [left, right] = range().map((index) => plot.valToPos(times[index], "x"));
    Object.assign(box, { left, width: right - left });
  }
  plot.setSelect(box, false);
}

function show() {
  const isRange = state.anchor !== null;
  const [first, last] = isRange ? range() : [null, state.moment];
  const sums = isRange ? allocatedIn(first, last) : liveAt(last);
  let [bytes, blocks] = [0, 0];
  for (const [one, count] of sums.values()) [bytes, blocks] = [bytes + one, blocks + count];
  const amount = `${showBytes(bytes)} in ${blocks.toLocaleString("en")} blocks`;
  const note = last === peak && !isRange ? " (the peak)" : "";
  const text = isRange
    ? `Allocated between ${showTime(times[first])} and ${showTime(times[last])}, and not freed by then: ${amount}`
    : `Live after ${showTime(times[last])}${note}: ${amount}`;
  element("chosen").textContent = text;
  element("clear").disabled = !isRange;
  const slider = element("plot");
  slider.setAttribute("aria-valuemax", samples.length - 1);
  slider.setAttribute("aria-valuenow", state.moment);
  slider.setAttribute("aria-valuetext", text);
  showLegend(last);
  showTable(byGroup(sums, state.mode), bytes);
  flames.show(tree(sums));
}

function showLegend(index) {
  const item = (chip, name, bytes, ...more) => make("li", {}, make("label", {}, ...more, chip,
    make("span", { className: "name", textContent: name, title: name })), make("span", { className: "bytes", textContent: showBytes(bytes) }));
  const ofAreas = areas.map((area, number) => {
    const chip = make("span", { className: "chip" });
    chip.style.background = areaColour(area, number);
    return item(chip, area.name, area.bytes[index]);
  });
  const ofLines = LINES.map(([name, column, tone, dash]) => {
    const chip = make("span", { className: "chip line" });
    chip.style.borderTop = `2px ${["solid", "dotted", "dashed"][dash.length && (dash[0] > 2 ? 2 : 1)]} ${colour(tone)}`;
    const box = make("input", { type: "checkbox", checked: !state.hidden.has(name), value: name });
    return item(chip, name, samples[index][column], box);
  });
  element("legend").replaceChildren(...ofAreas, ...ofLines);
}

function showTable(groups, total) {
  element("what").textContent = ["Function", "Line", "Crate"][state.mode];
  const row = ({ name, bytes, blocks }) => make("tr", {}, ...[showBytes(bytes), `${((bytes * 100) / total).toFixed(1)} %`,
    blocks.toLocaleString("en"), name].map((text) => make("td", { textContent: text })));
  element("top").tBodies[0].replaceChildren(...groups.slice(0, 30).map(row));
}

function showSamples() {
  const row = ([time, live, most, resident, arenas, atPeak], index) => {
    const note = index === peak ? "the peak" : atPeak ? "taken at a peak" : "";
    const texts = [showTime(time / 1000), ...[live, most, resident, arenas].map(showBytes), note];
    return make("tr", {}, ...texts.map((text) => make("td", { textContent: text })));
  };
  element("samples").querySelector("tbody").replaceChildren(...samples.map(row));
}

function about() {
  const parts = [recorded.program.split("/").at(-1), `process ${recorded.process}`,
    `begun ${new Date(recorded.started).toISOString().replace("T", " ").slice(0, 19)} UTC`, `${samples.length} samples`];
  if (recorded.sampledEvery) parts.push(`estimates: one block sampled every ${showBytes(recorded.sampledEvery)}`);
  if (recorded.lost) parts.push(`${recorded.lost} blocks could not be recorded`);
  if (recorded.isCut) parts.push("without an end: the program was killed, or it still ran");
  Object.assign(element("about"), { textContent: parts.join(" · "), title: recorded.program });
}

element("plot").addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in steps) {
    const anchor = event.shiftKey ? state.anchor ?? state.moment : null;
    choose(state.moment + steps[event.key], anchor);
  } else if (event.key === "p" || event.key === "P") choose(peak, event.shiftKey ? state.anchor ?? state.moment : null);
  else if (event.key === "Escape") choose(state.moment, null);
  else return;
  event.preventDefault();
});
element("modes").addEventListener("change", (event) => {
  state.mode = Number(event.target.value);
  areas = series(state.mode, AREAS);
  drawPlot();
  show();
});
element("legend").addEventListener("change", ({ target }) => {
  if (target.checked) state.hidden.delete(target.value);
  else state.hidden.add(target.value);
  const place = LINES.findIndex(([name]) => name === target.value);
  plot.setSeries(1 + areas.length + place, { show: target.checked });
});
element("to-peak").addEventListener("click", () => choose(peak, null));
element("clear").addEventListener("click", () => choose(state.moment, null));
element("samples").addEventListener("toggle", showSamples, { once: true });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawPlot(); show(); });
new ResizeObserver(() => {
  const width = element("plot").clientWidth;
  if (plot && width && width !== plot.width) {
    plot.setSize({ width, height: 340 });
    showRange();
    flames.draw();
  }
}).observe(element("plot"));

about();
drawPlot();
show();
