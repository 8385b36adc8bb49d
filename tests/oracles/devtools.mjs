// Loads a .heapsnapshot file into the Memory panel of the DevTools that a Chromium brings along, as a user would, and asks
// DevTools' own model of the file what each node retains.
//   node tests/oracles/devtools.mjs BROWSER FILE.heapsnapshot FOLDER [RETAINED.txt]
// writes summary.png and retainers.png to the folder. If RETAINED.txt has an id and bytes in each line, both are compared,
// and the exit status tells. Nothing but node and the browser is needed. What it calls inside of DevTools is no interface:
// with another version of Chromium (this was 156) it may have to be changed.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const [browser, file, folder, retained] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "pymalloc-devtools-"));
const port = 9300 + (process.pid % 600);
const host = `127.0.0.1:${port}`;
const flags = ["--headless", "--remote-debugging-pipe", `--remote-debugging-port=${port}`, "--remote-allow-origins=*", "--no-sandbox", "--disable-gpu",
  "--disable-dev-shm-usage", "--hide-scrollbars", `--user-data-dir=${profile}`, "about:blank"];
const chromium = spawn(browser, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const sleep = (millis) => new Promise((done) => setTimeout(done, millis));

// The protocol over a pipe; the port only serves the frontend's files.
const [, , , toBrowser, fromBrowser] = chromium.stdio;
const waiting = new Map();
let [number, rest] = [0, ""];
fromBrowser.setEncoding("utf8");
fromBrowser.on("data", (text) => {
  const messages = (rest + text).split("\0");
  rest = messages.pop();
  for (const { id, result, error } of messages.map(JSON.parse)) {
    if (id === undefined) continue;
    if (error) waiting.get(id).reject(new Error(error.message));
    else waiting.get(id).resolve(result);
  }
});

function call(method, params = {}, sessionId = undefined) {
  const id = ++number;
  toBrowser.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

async function main() {
  const looked = await call("Target.createTarget", { url: "about:blank" });
  // The frontend as the browser serves it, looking at that tab.
  const url = `http://${host}/devtools/devtools_app.html?ws=${host}/devtools/page/${looked.targetId}&panel=heap-profiler`;
  const { targetId } = await call("Target.createTarget", { url });
  const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
  const tell = (method, params) => call(method, params, sessionId);
  const ask = async (expression) => {
    const { result, exceptionDetails } = await tell("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    return result.value;
  };
  const picture = async (name) => {
    const { data } = await tell("Page.captureScreenshot", { format: "png" });
    writeFileSync(join(folder, `${name}.png`), Buffer.from(data, "base64"));
  };
  await tell("Page.enable");
  await tell("Emulation.setDeviceMetricsOverride", { width: 1400, height: 800, deviceScaleFactor: 1, mobile: false });
  // Some moments pass until the frontend is there.
  for (let tries = 0; ; tries++) {
    try {
      await ask(`(async () => {
        globalThis.profiler = await import("./panels/profiler/profiler.js");
        const UI = await import("./ui/legacy/legacy.js");
        await UI.ViewManager.ViewManager.instance().showView("heap-profiler");
      })()`);
      break;
    } catch (error) {
      if (tries > 100) throw error;
      await sleep(300);
    }
  }
  // The panel's own way for a dropped or chosen file.
  await ask(`document.body.appendChild(Object.assign(document.createElement("input"), { type: "file", id: "chosen" })) && true`);
  const { root } = await tell("DOM.getDocument", {});
  const { nodeId } = await tell("DOM.querySelector", { nodeId: root.nodeId, selector: "#chosen" });
  await tell("DOM.setFileInputFiles", { nodeId, files: [resolve(file)] });
  const failed = await ask(`(async () => {
    const input = document.getElementById("chosen");
    const panel = profiler.HeapProfilerPanel.HeapProfilerPanel.instance();
    await panel.loadFromFile(input.files[0]);
    input.remove();
    return "";
  })()`);
  if (failed) throw new Error(failed);
  // In the sidebar, below "Profiles" and the group's title.
  await sleep(1500);
  for (const type of ["mousePressed", "mouseReleased"]) {
    await tell("Input.dispatchMouseEvent", { type, x: 100, y: 140, button: "left", buttons: 1, clickCount: 1 });
  }
  await ask(`(async () => {
    const panel = profiler.HeapProfilerPanel.HeapProfilerPanel.instance();
    while (!panel.visibleView?.profile) await new Promise((done) => setTimeout(done, 100));
    globalThis.view = panel.visibleView;
    globalThis.snapshot = await view.profile.loadPromise;
  })()`);
  return { tell, ask, picture };
}

const timer = setTimeout(() => { console.error("the browser does not answer"); chromium.kill("SIGKILL"); process.exit(1); }, 900_000);
try {
  const { tell, ask, picture } = await main();
  await sleep(1500);
  await picture("summary");
  // Each node with its retained size, class by class: what the rows of the view "Summary" are made from.
  const keys = await ask(`snapshot.aggregatesWithFilter({}).then((classes) => Object.keys(classes))`);
  const sizes = new Map();
  for (const key of keys) {
    await ask(`globalThis.provider = snapshot.createNodesProviderForClass(${JSON.stringify(key)}, {}), true`);
    for (let [first, total] = [0, 1]; first < total; first += 50_000) {
      const part = await ask(`provider.serializeItemsRange(${first}, ${first + 50_000}).then(({ items, totalLength }) =>
        [totalLength, items.map(({ id, retainedSize }) => [id, retainedSize])])`);
      total = part[0];
      part[1].forEach(([id, bytes]) => sizes.set(id, bytes));
    }
    await ask("provider.dispose(), true");
  }
  const wanted = retained ? readFileSync(retained, "utf8").trim().split("\n").map((line) => line.split(" ").map(Number)) : [];
  const equal = wanted.filter(([id, bytes]) => sizes.get(id) === bytes).length;
  console.log(`${sizes.size} nodes of ${keys.length} classes in DevTools; of ${wanted.length} blocks ${equal} retain the same`);
  // One block, and who holds it.
  for (const [x, y] of [[212, 86], [300, 107]]) {
    for (const type of ["mousePressed", "mouseReleased"]) {
      await tell("Input.dispatchMouseEvent", { type, x, y, button: "left", buttons: 1, clickCount: 1 });
    }
    await sleep(1000);
  }
  await picture("retainers");
  process.exitCode = equal === wanted.length ? 0 : 1;
} finally {
  clearTimeout(timer);
  chromium.kill("SIGKILL");
  try { rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }); } catch { /* left */ }
}
