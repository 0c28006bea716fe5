// A browser, and the page as static files in some folder of a site, with the mock for its worker.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const PAGE = fileURLToPath(new URL("../../page/", import.meta.url));
const MOCK = fileURLToPath(new URL("../mock_worker.js", import.meta.url));
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
/** Not at the root: whoever publishes the page does so in a folder. */
const FOLDER = "/some/where/";

/** Serves the page. */
export async function serve() {
  const server = createServer(async ({ url }, response) => {
    const path = new URL(url, "http://localhost").pathname;
    const name = normalize(path.slice(FOLDER.length) || "index.html");
    try {
      if (!path.startsWith(FOLDER) || name.startsWith("..")) throw new Error("elsewhere");
      const body = await readFile(join(PAGE, name));
      response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { address: `http://localhost:${server.address().port}${FOLDER}`, close: () => new Promise((resolve) => server.close(resolve)) };
}

/** Starts the browser. */
export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--enable-precise-memory-info"],
  });
}

/**
 * Opens the page with a mock worker; what the console reports is collected in `problems`.
 * @param {import("playwright-core").Browser} browser
 * @param {string} address of the folder
 * @param {{query?: string, mock?: object, context?: object, before?: () => void, hasWebGpu?: boolean, worker?: string}} options
 */
export async function visit(browser, address, { query = "", mock = {}, context = {}, before, hasWebGpu = true, worker } = {}) {
  const session = await browser.newContext({ viewport: { width: 1360, height: 900 }, reducedMotion: "reduce", ...context });
  const page = await session.newPage();
  page.setDefaultTimeout(8000);
  const problems = [];
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) problems.push(message.text()); });
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("requestfailed", (request) => {
    const reason = request.failure()?.errorText;
    // A worker that is ended may still be loading.
    if (reason !== "net::ERR_ABORTED") problems.push(`${request.url()}: ${reason}`);
  });
  // Without a GPU headless browsers may have no `navigator.gpu`; the mock needs none, the page looks whether there is one.
  await page.addInitScript((hasWebGpu) => {
    Object.defineProperty(Navigator.prototype, "gpu", { configurable: true, value: {} });
    if (!hasWebGpu) delete Navigator.prototype.gpu;
  }, hasWebGpu);
  if (before) await page.addInitScript(before);
  const body = worker ?? `self.mock = ${JSON.stringify(mock)};\n${await readFile(MOCK, "utf8")}`;
  await page.route("**/worker.js", (route) => route.fulfill({ contentType: "text/javascript", body }));
  await page.goto(address + query);
  return { page, problems, session };
}

/** Waits until the status line begins with a text. */
export function status(page, text) {
  return page.locator("#status", { hasText: text }).waitFor();
}
