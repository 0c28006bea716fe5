// A browser with a software GPU, the page as it is built, and the program that reads and writes the same checkpoints.

import { execFile } from "node:child_process";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { chromium } from "playwright-core";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const DIST = join(ROOT, "web/dist");
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".wasm": "application/wasm" };
const QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"];
// Browsers clear a workgroup's memory before it runs. Chromium has the driver do it, where SwiftShader takes three times as long
// for that as our kernels for their work, and seven times as long to compile them (docs/performance.md): here its kernels do it.
const CLEARS_BY_DRIVER = "use_vulkan_zero_initialize_workgroup_memory_extension";
const SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];
if (!process.env.CLEARED_BY_DRIVER) SOFTWARE_GPU.push(`--disable-dawn-features=${CLEARS_BY_DRIVER}`);

/** Serves what has been built. */
export async function serve() {
  const server = createServer(async ({ url }, response) => {
    const name = normalize(new URL(url, "http://localhost").pathname.slice(1) || "index.html");
    try {
      if (name.startsWith("..")) throw new Error("elsewhere");
      const body = await readFile(join(DIST, name));
      response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { address: `http://localhost:${server.address().port}/`, close: () => new Promise((resolve) => server.close(resolve)) };
}

/** Starts the browser, with a GPU or without one. */
export function launch({ hasGpu = true } = {}) {
  // Headless browsers of the old kind, which is Playwright's, have no WebGPU.
  const gpu = hasGpu ? SOFTWARE_GPU : ["--enable-unsafe-webgpu", "--disable-gpu", "--disable-software-rasterizer"];
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: false, args: ["--headless=new", ...QUIET, ...gpu] });
}

/**
 * Opens the page. `messages` are those of its worker so far; what the console says is collected in `problems`.
 * @param {import("playwright-core").Browser} browser
 */
export async function visit(browser, address, settings = {}, context = {}) {
  const session = await browser.newContext({ viewport: { width: 1360, height: 900 }, acceptDownloads: true, ...context });
  const page = await session.newPage();
  page.setDefaultTimeout(240_000);
  const problems = [];
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) problems.push(message.text()); });
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("requestfailed", (request) => {
    const reason = request.failure()?.errorText;
    // A worker that is ended may still be loading.
    if (reason !== "net::ERR_ABORTED") problems.push(`${request.url()}: ${reason}`);
  });
  await page.addInitScript(() => {
    const Plain = window.Worker;
    window.messages = [];
    window.Worker = class extends Plain {
      constructor(...args) {
        super(...args);
        window.worker = this;
        this.addEventListener("message", ({ data }) => { if (data.event) window.messages.push(data); });
      }
    };
    // Beside the page's own calls, whose ids are numbers.
    window.ask = (call, args = {}) => new Promise((resolve, reject) => {
      const id = `test ${Math.random()}`;
      const take = ({ data }) => {
        if (data.id !== id) return;
        window.worker.removeEventListener("message", take);
        if (data.error === undefined) resolve(data.result); else reject(new Error(data.error));
      };
      window.worker.addEventListener("message", take);
      window.worker.postMessage({ id, call, ...args });
    });
  });
  const query = new URLSearchParams(settings);
  await page.goto(`${address}?${query}`);
  return { page, problems, session };
}

/** The steps that the page has been told of. */
export const records = (page) => page.evaluate(() => window.messages.filter(({ event }) => event === "steps").flatMap(({ records }) => records));

/** Waits until so many steps have been made. */
export const steps = (page, count) => page.waitForFunction((count) => window.messages.some(({ event, records }) => event === "steps" && records.at(-1).step >= count), count, { polling: 200 });

/** Runs the desktop program; what it prints. */
export async function program(args, environment = {}) {
  const path = process.env.TRAIN_NAMES ?? join(ROOT, "target/debug/examples/train_names");
  const { stdout, stderr } = await promisify(execFile)(path, args, { cwd: ROOT, env: { ...process.env, ...environment }, timeout: 300_000 });
  return stdout + stderr;
}

/** The settings as the program's flags. */
export const flags = (settings) => Object.entries(settings).flatMap(([name, value]) => [`--${name}`, `${value}`]);

/** The environment in which that program runs on SwiftShader, with what a browser promises. */
export function onSwiftShader() {
  const driver = process.env.SWIFTSHADER_ICD ?? "/usr/lib/chromium/vk_swiftshader_icd.json";
  return { VK_DRIVER_FILES: driver, VK_ICD_FILENAMES: driver, SHADEGRAD_PORTABLE: "1" };
}
