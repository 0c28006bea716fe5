// Has Chromium compile WGSL, with the stricter rules of its own compiler, Tint: the kernels that a run of the test-suite on
// devices with WebGPU's default limits and no optional features has left in a folder.
//
//   SHADEGRAD_PORTABLE=1 SHADEGRAD_KERNELS=$PWD/target/kernels cargo test --test suite
//   npm --prefix web/tests run kernels
//
// All are parsed and checked, which takes seconds; a software GPU takes minutes to make pipelines of them all, so these are
// made of a few, or with PIPELINES=1 of all.
//
// Fails if the browser has anything to say about one of them, be it a warning.

import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const FOLDER = process.env.SHADEGRAD_KERNELS ?? fileURLToPath(new URL("../../target/kernels/", import.meta.url));

/** Fewer would be the kernels of a single test. */
const FEWEST = 200;

/** So many at a time. */
const BATCH = 50;

/** Of each so many kernels, one becomes a pipeline. */
const EVERY = Number(process.env.PIPELINES ?? 50);

/** Kernels as a browser takes them: it knows no matrices, and wants extensions enabled that wgpu's parser refuses to. */
async function kernels() {
  const names = (await readdir(FOLDER)).filter((name) => name.endsWith(".wgsl"));
  const texts = await Promise.all(names.map((name) => readFile(join(FOLDER, name), "utf8")));
  const all = names.map((name, index) => ({ name, text: texts[index] }));
  const portable = all.filter(({ text }) => !text.includes("coop_mat"));
  return portable.map(({ name, text }) => ({ name, text: /\bsubgroup[A-Z_]/.test(text) ? `enable subgroups; ${text}` : text }));
}

/** Runs in the page: what the browser says of kernels, and whether pipelines come of them. */
async function compile([kernels, every]) {
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) throw new Error("the browser has no WebGPU adapter");
  const features = ["subgroups", "shader-f16"].filter((feature) => adapter.features.has(feature));
  const device = (globalThis.device ??= await adapter.requestDevice({ requiredFeatures: features }));
  const all = kernels.map(async ({ name, text }, index) => {
    if (text.includes("enable f16;") && !features.includes("shader-f16")) return { name, isLeftOut: true, said: [] };
    const module = device.createShaderModule({ code: text });
    const { messages } = await module.getCompilationInfo();
    const said = messages.map(({ type, lineNum, message }) => `${type}: ${message} in: ${text.split("\n")[lineNum - 1]}`);
    if (index % every > 0) return { name, isLeftOut: false, said };
    try {
      await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
    } catch (error) {
      said.push(`error: ${error.message}`);
    }
    return { name, isLeftOut: false, said };
  });
  return Promise.all(all);
}

test("a browser takes every kernel", async (context) => {
  const all = await kernels();
  assert.ok(all.length >= FEWEST, `${FOLDER} has ${all.length} kernels: run the test-suite with SHADEGRAD_KERNELS set to it`);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan",
      "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
    ],
    headless: false,
  });
  try {
    const page = await browser.newPage();
    // WebGPU is for sites that count as secure.
    await page.route("http://localhost/**", (route) => route.fulfill({ contentType: "text/html", body: "<title>kernels</title>" }));
    await page.goto("http://localhost/");
    const results = [];
    for (let start = 0; start < all.length; start += BATCH) {
      results.push(...(await page.evaluate(compile, [all.slice(start, start + BATCH), EVERY])));
    }
    const refused = results.filter(({ said }) => said.length > 0);
    const leftOut = results.filter(({ isLeftOut }) => isLeftOut).length;
    context.diagnostic(`${all.length - leftOut} kernels are accepted; ${leftOut} left out, as this adapter has no f16`);
    const lines = refused.slice(0, 20).map(({ name, said }) => `${name}: ${said.join("\n    ")}`);
    assert.equal(refused.length, 0, `of ${all.length} kernels, ${refused.length} are refused:\n${lines.join("\n")}`);
  } finally {
    await browser.close();
  }
});
