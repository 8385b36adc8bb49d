// Queries of the recording. A sample has: milliseconds, live, most, resident, arenas, whether at a peak; then, for each
// change, its stack, the sample that its blocks are from (-1: before the first), bytes and blocks.
const HEAD = 6;
const samples = recorded.samples;
const times = samples.map((sample) => sample[0] / 1000);

function eachChange(sample, visit) {
  for (let at = HEAD; at < sample.length; at += 4) {
    visit(sample[at], sample[at + 1], sample[at + 2], sample[at + 3]);
  }
}

// What a stack is charged to: its function (0), line (1) or crate (2).
function groupOf(stack, mode) {
  return recorded.frames[recorded.stacks[stack][0]][mode];
}

// Bytes and blocks by stack: the sums of the changes up to a sample whose births isMeant accepts.
function sum(until, isMeant) {
  const sums = new Map();
  for (let index = 0; index <= until; index += 1) {
    eachChange(samples[index], (stack, birth, bytes, blocks) => {
      if (!isMeant(birth)) return;
      const known = sums.get(stack) ?? [0, 0];
      sums.set(stack, [known[0] + bytes, known[1] + blocks]);
    });
  }
  for (const [stack, [bytes, blocks]] of sums) if (bytes <= 0 || blocks <= 0) sums.delete(stack);
  return sums;
}

const liveAt = (index) => sum(index, () => true);
// Allocated after the first sample and not freed by the second.
const allocatedIn = (first, last) => sum(last, (birth) => birth > first);

function byGroup(sums, mode) {
  const groups = new Map();
  for (const [stack, [bytes, blocks]] of sums) {
    const group = groupOf(stack, mode);
    const known = groups.get(group) ?? [0, 0];
    groups.set(group, [known[0] + bytes, known[1] + blocks]);
  }
  return [...groups].map(([group, [bytes, blocks]]) => ({ name: recorded.names[group], bytes, blocks }))
    .sort((one, other) => other.bytes - one.bytes);
}

// The groups with the most bytes over time, each with its bytes at each sample, and the sum of the others.
function series(mode, most) {
  const running = new Map();
  const all = new Map();
  samples.forEach((sample, index) => {
    eachChange(sample, (stack, birth, bytes) => {
      const group = groupOf(stack, mode);
      if (!all.has(group)) all.set(group, new Float64Array(samples.length));
      running.set(group, (running.get(group) ?? 0) + bytes);
    });
    for (const [group, bytes] of running) all.get(group)[index] = Math.max(bytes, 0);
  });
  const size = (bytes) => bytes.reduce((total, one) => total + one, 0);
  const sorted = [...all].map(([group, bytes]) => ({ name: recorded.names[group], bytes, size: size(bytes) }))
    .sort((one, other) => other.size - one.size);
  const kept = sorted.slice(0, most);
  if (sorted.length > most) {
    const others = new Float64Array(samples.length);
    for (const { bytes } of sorted.slice(most)) bytes.forEach((one, index) => { others[index] += one; });
    kept.push({ name: `${sorted.length - most} others`, bytes: others, isOthers: true });
  }
  return kept;
}

// The calls as a tree, from the outermost on.
function tree(sums) {
  const root = { name: "all", bytes: 0, blocks: 0, children: new Map() };
  for (const [stack, [bytes, blocks]] of sums) {
    let node = root;
    for (const frame of [null, ...recorded.stacks[stack].slice(1)]) {
      if (frame !== null) {
        const [name, place] = recorded.frames[frame];
        let child = node.children.get(name);
        if (!child) node.children.set(name, child = { name: recorded.names[name], bytes: 0, blocks: 0, children: new Map() });
        child.place = recorded.names[place];
        node = child;
      }
      node.bytes += bytes;
      node.blocks += blocks;
    }
  }
  return root;
}

function showBytes(bytes) {
  let size = bytes;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (Math.abs(size) < 9999.5) return `${size < 99.5 && unit !== "B" ? size.toFixed(1) : Math.round(size)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(1)} TiB`;
}

function showTime(seconds) {
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 600) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
}
