// Opens a timeline's page in a headless Chromium, and does what a user does: looks, clicks, drags, presses keys, in
// light and in dark. Prints what the page said, as JSON, for `tests/trace_page.rs` to compare with what was recorded.
//   node tests/page/check.mjs BROWSER PAGE.html FOLDER
// writes light.png, dark.png, click.png and range.png to the folder. Talks the DevTools protocol over a pipe: nothing
// but node and the browser is needed.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [browser, page, folder] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "pymalloc-page-"));
const flags = ["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
  "--hide-scrollbars", `--user-data-dir=${profile}`, "about:blank"];
const chromium = spawn(browser, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const [, , , toBrowser, fromBrowser] = chromium.stdio;
const waiting = new Map();
const events = [];
let [number, rest] = [0, ""];

fromBrowser.setEncoding("utf8");
fromBrowser.on("data", (text) => {
  const messages = (rest + text).split("\0");
  rest = messages.pop();
  for (const message of messages.map(JSON.parse)) {
    if (message.id === undefined) events.push(message);
    else if (message.error) waiting.get(message.id).reject(new Error(message.error.message));
    else waiting.get(message.id).resolve(message.result);
  }
});

function call(method, params = {}, sessionId = undefined) {
  const id = ++number;
  toBrowser.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

async function main() {
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
  const tell = (method, params) => call(method, params, sessionId);
  const ask = async (expression) => {
    const { result, exceptionDetails } = await tell("Runtime.evaluate", { expression, returnByValue: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
    return result.value;
  };
  const scheme = (value) => tell("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });
  const picture = async (name) => {
    const { data } = await tell("Page.captureScreenshot", { format: "png" });
    writeFileSync(join(folder, `${name}.png`), Buffer.from(data, "base64"));
  };
  const mouse = (type, x, y, buttons) =>
    tell("Input.dispatchMouseEvent", { type, x, y, button: "left", buttons, clickCount: 1 });
  const key = async (name, modifiers = 0) => {
    const code = { Home: 36, End: 35, ArrowRight: 39, ArrowDown: 40, Enter: 13, Escape: 27, p: 80 }[name];
    for (const type of ["rawKeyDown", "keyUp"]) {
      await tell("Input.dispatchKeyEvent", { type, key: name, code: name, windowsVirtualKeyCode: code, modifiers });
    }
  };
  // What the page shows, and the sums behind it.
  const shown = () => ask(`(() => {
    const isRange = state.anchor !== null;
    const [first, last] = isRange ? range() : [null, state.moment];
    const sums = [...(isRange ? allocatedIn(first, last) : liveAt(last)).values()];
    const add = (column) => sums.reduce((total, one) => total + one[column], 0);
    return { first, last, bytes: add(0), blocks: add(1), text: element("chosen").textContent,
      row: element("top").tBodies[0].rows[0]?.textContent ?? "", flames: element("flames").children.length,
      said: element("plot").getAttribute("aria-valuetext"), back: getComputedStyle(document.body).backgroundColor };
  })()`);

  await tell("Page.enable");
  await tell("Runtime.enable");
  await tell("Log.enable");
  await tell("Emulation.setDeviceMetricsOverride", { width: 1200, height: 1000, deviceScaleFactor: 1, mobile: false });
  await scheme("light");
  await tell("Page.navigate", { url: pathToFileURL(resolve(page)).href });
  while (await ask(`document.readyState !== "complete" || typeof plot === "undefined" || !plot`)) await new Promise((done) => setTimeout(done, 50));

  const results = { light: await shown() };
  await picture("light");
  await scheme("dark");
  results.dark = await shown();
  await picture("dark");
  await scheme("light");

  const box = await ask(`(({ left, top, width, height }) => ({ left, top, width, height }))(plot.over.getBoundingClientRect())`);
  const at = (share) => box.left + box.width * share;
  const middle = box.top + box.height / 2;
  await mouse("mouseMoved", at(0.3), middle, 0);
  await mouse("mousePressed", at(0.3), middle, 1);
  await mouse("mouseReleased", at(0.3), middle, 0);
  results.click = await shown();
  await picture("click");

  await mouse("mouseMoved", at(0.45), middle, 0);
  await mouse("mousePressed", at(0.45), middle, 1);
  for (const share of [0.5, 0.6, 0.7, 0.9]) await mouse("mouseMoved", at(share), middle, 1);
  await mouse("mouseReleased", at(0.9), middle, 0);
  results.drag = await shown();
  await picture("range");

  await ask(`element("plot").focus()`);
  await key("Home");
  results.home = await shown();
  await key("ArrowRight", 8);
  await key("End", 8);
  results.stretched = await shown();
  await key("p");
  results.peak = await shown();
  await ask(`document.querySelector("#flames [tabindex='0']").focus()`);
  await key("ArrowDown");
  await key("Enter");
  results.zoomed = await ask(`[flames.path.length, document.activeElement.path?.length, element("path").textContent]`);
  await key("Escape");
  results.unzoomed = await ask("flames.path.length");
  await ask(`document.querySelector("input[value='2']").click()`);
  results.crates = await shown();
  await ask(`element("samples").open = true`);
  await ask("new Promise((done) => setTimeout(done, 50))");
  results.rows = await ask(`element("samples").querySelectorAll("tbody tr").length`);
  await tell("Emulation.setDeviceMetricsOverride", { width: 480, height: 900, deviceScaleFactor: 1, mobile: false });
  await ask("new Promise((done) => setTimeout(done, 200))");
  await picture("narrow");
  results.overflows = await ask("document.documentElement.scrollWidth > innerWidth");
  results.errors = events.filter(({ method, params }) => method === "Runtime.exceptionThrown"
    || (method === "Log.entryAdded" && params.entry.level === "error")
    || (method === "Runtime.consoleAPICalled" && ["error", "assert", "warning"].includes(params.type))).map(({ params }) => JSON.stringify(params));
  return results;
}

const timer = setTimeout(() => { console.error("the browser does not answer"); chromium.kill("SIGKILL"); process.exit(1); }, 90_000);
try {
  console.log(JSON.stringify(await main()));
} finally {
  clearTimeout(timer);
  chromium.kill("SIGKILL");
  // Its helpers may write for a moment yet; a folder that is left is no fault of the page.
  try { rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }); } catch { /* left */ }
}
