const main = document.querySelector("main");
const svg = main.querySelector("svg");
const tip = document.getElementById("tip");
const names = ["unused", "empty, kept by a thread", "", "a run, one block of several pools", "part of the one before it"];

function poolAt(x, y) {
  const column = Math.floor((x - grid.x) / grid.across);
  const row = Math.floor((y - grid.y) / grid.down);
  if (column < 0 || column >= grid.columns || row < 0) return null;
  const across = Math.floor((x - grid.x - column * grid.across) / grid.pitch);
  const down = Math.floor((y - grid.y - row * grid.down) / grid.pitch);
  const arena = arenas[row * grid.columns + column];
  if (!arena || across >= grid.perRow || down >= 64 / grid.perRow) return null;
  const number = down * grid.perRow + across;
  return { arena, arenaNumber: row * grid.columns + column, number, pool: arena[number + 1] };
}

function describe(found) {
  const [use, blockBytes, blocks, live, cached, remote, uncarved, untouched] = found.pool;
  const start = BigInt(found.arena[0]) + BigInt(found.number * 32768);
  const lines = [`arena ${found.arenaNumber + 1}, pool ${found.number}, at 0x${start.toString(16)}`];
  if (use !== 2) {
    lines.push(names[use]);
  } else {
    const share = (part) => `${part} (${Math.round((part * 1000) / blocks) / 10} %)`;
    lines.push(`${blocks} blocks of ${blockBytes} bytes`, `live: ${share(live)}`);
    if (cached) lines.push(`in thread caches: ${share(cached)}`);
    if (remote) lines.push(`freed by other threads, not collected: ${share(remote)}`);
    const free = blocks - live - cached - remote - uncarved;
    if (free) lines.push(`free, used before: ${share(free)}`);
    if (uncarved) lines.push(`never used: ${share(uncarved)}`);
  }
  lines.push(untouched ? `${untouched / 1024} KiB of 32 without memory` : "all of its 32 KiB have memory");
  return lines.join("\n");
}

function choose(number) {
  for (const path of svg.querySelectorAll(".choice")) path.classList.remove("choice");
  main.classList.toggle("chosen", number !== null);
  if (number !== null) for (const path of svg.querySelectorAll(`.c${number}`)) path.classList.add("choice");
}

svg.addEventListener("pointermove", (event) => {
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const found = poolAt(place.x, place.y);
  tip.hidden = !found;
  if (!found) return;
  tip.textContent = describe(found);
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
});
svg.addEventListener("pointerleave", () => { tip.hidden = true; });
for (const row of svg.querySelectorAll(".row")) {
  row.addEventListener("pointerenter", () => choose(row.dataset.class));
  row.addEventListener("pointerleave", () => choose(null));
}
