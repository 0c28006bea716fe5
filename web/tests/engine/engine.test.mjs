// The page with its real engine in a browser whose GPU is a software one, driven as a person would.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { flags, launch, onSwiftShader, program, records, serve, steps, visit } from "./harness.mjs";

/** Of a model that a software GPU trains in no time. */
const SMALL = {
  "d-model": 16, "n-layers": 1, "n-heads": 2, "context": 16, "batch-size": 8, "steps": 400, "eval-interval": 50,
  "eval-iters": 2, "final-eval-iters": 2, "eval-batch-size": 8, "samples": 3, "seed": 7,
};
const STEPS = 330;

let server, browser, scratch;
before(async () => {
  [server, browser] = await Promise.all([serve(), launch()]);
  scratch = await mkdtemp(join(tmpdir(), "shadegrad-page-"));
});
after(async () => {
  await browser?.close();
  await server?.close();
  await rm(scratch, { recursive: true, force: true });
});

/** Bytes that the browser's process for the GPU has in memory. */
function gpuProcess() {
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      if (!readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("--type=gpu-process")) continue;
      return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) * 1024;
    } catch { /* It has ended meanwhile. */ }
  }
  assert.fail("no process for the GPU is found");
}

/** What page, engine and GPU hold. */
async function memory(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("HeapProfiler.collectGarbage");
  await session.send("Performance.enable");
  const { metrics } = await session.send("Performance.getMetrics");
  const heap = metrics.find(({ name }) => name === "JSHeapUsedSize").value;
  return { ...await page.evaluate(() => window.ask("memory")), heap, gpu: gpuProcess() };
}

test("a model trains, is looked at, saved, and goes on elsewhere", async () => {
  const { page, problems } = await visit(browser, server.address, SMALL);
  const status = page.locator("#status");
  await status.filter({ hasText: "Ready" }).waitFor();
  assert.match(await page.locator("#adapter").textContent(), /swiftshader/i);
  assert.ok(await page.locator("#software").isVisible(), "a software GPU is called one");

  // By keyboard.
  await page.locator("#run").focus();
  await page.keyboard.press("Enter");
  await steps(page, 20);
  const early = await memory(page);
  await steps(page, STEPS);
  await page.locator("#run").focus();
  await page.keyboard.press("Enter");
  await status.filter({ hasText: "Paused" }).waitFor();
  const late = await memory(page);
  for (const what of ["device", "wasm", "plans", "pipelines"]) assert.ok(early[what] > 0, `${what}: ${early[what]}`);
  // An evaluation has been made since, and samples, which have plans of their own.
  assert.ok(late.device < 1.5 * early.device && late.device - early.device < 4 << 20, `device: ${early.device}, ${late.device}`);
  assert.ok(late.wasm - early.wasm < 2 << 20, `wasm: ${early.wasm}, ${late.wasm}`);
  assert.ok(late.heap - early.heap < 2 << 20, `heap: ${early.heap}, ${late.heap}`);
  assert.ok(late.gpu - early.gpu < 80 << 20, `GPU process: ${early.gpu}, ${late.gpu}`);

  const seen = await records(page);
  const step = seen.at(-1).step;
  assert.deepEqual(seen.map(({ step }) => step), Array.from(seen, (_, index) => index + 1));
  const mean = (part) => part.reduce((sum, { loss }) => sum + loss, 0) / part.length;
  assert.ok(mean(seen.slice(0, 5)) > 3.0 && mean(seen.slice(-50)) < 2.6, `${mean(seen.slice(0, 5))}, ${mean(seen.slice(-50))}`);
  const evaluations = await page.evaluate(() => window.messages.filter(({ event }) => event === "evaluation"));
  assert.deepEqual(evaluations.map(({ step }) => step), [50, 100, 150, 200, 250, 300]);
  assert.ok(evaluations.at(-1).test < 2.6 && evaluations.every(({ samples }) => samples.length === 3));
  // Paused is paused.
  await page.waitForTimeout(500);
  assert.equal((await records(page)).length, seen.length);

  await page.locator("#prompt").fill("em");
  await page.locator("#sample").click();
  await page.locator("#sample-list", { hasText: /\bem\w*/ }).waitFor();
  await page.locator("#attention-text").fill("emilia");
  await page.locator("#head-summary", { hasText: /looks/ }).waitFor();
  const weights = await page.evaluate(async () => {
    const { tokens, layers, heads, weights } = await window.ask("attention", { text: "emilia" });
    return { tokens: tokens.length, layers, heads, weights: [...weights] };
  });
  const n = weights.tokens;
  assert.deepEqual([weights.layers, weights.heads, weights.weights.length], [1, 2, 2 * n * n]);
  for (let row = 0; row < 2 * n; row++) {
    const sum = weights.weights.slice(row * n, (row + 1) * n).reduce((a, b) => a + b);
    assert.ok(Math.abs(sum - 1) < 1e-4, `row ${row}: ${sum}`);
  }

  const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#save").click()]);
  const saved = join(scratch, "tab.safetensors");
  await download.saveAs(saved);
  const gone = join(scratch, "gone-on.safetensors");
  const said = await program(["--resume", saved, "--steps", `${step + 5}`, "--checkpoint", gone, "--samples", "2", "--eval-interval", "0", "--final-eval-iters", "2", "--eval-batch-size", "8"]);
  assert.match(said, new RegExp(`${step}`));

  // And back again: the desktop's checkpoint in the tab.
  await page.locator("#open-checkpoint").setInputFiles(gone);
  await page.locator("#figure-step", { hasText: `${step + 5}` }).waitFor();
  // That run is at its end; with more steps it goes on.
  const bytes = (await readFile(gone)).toString("base64");
  await page.evaluate(async ([bytes, steps]) => {
    window.messages.length = 0;
    await window.ask("openCheckpoint", { bytes: Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0)), name: "gone-on", text: null, flags: ["--steps", steps] });
    await window.ask("step");
  }, [bytes, `${step + 9}`]);
  await steps(page, step + 6);
  assert.ok((await records(page))[0].loss < 2.9);
  assert.deepEqual(problems, []);

  await page.evaluate(() => window.ask("destroy"));
  await page.locator("#failure", { hasText: /lost/i }).waitFor();
  await page.close();
});

test("losses are those of the desktop program on the same GPU", async () => {
  const settings = { ...SMALL, "steps": 50, "eval-interval": 0 };
  const { page, problems } = await visit(browser, server.address, settings);
  await page.locator("#status", { hasText: "Ready" }).waitFor();
  await page.locator("#run").click();
  await steps(page, 50);
  const tab = (await records(page)).map(({ loss }) => loss);
  assert.deepEqual(problems, []);
  await page.close();
  const metrics = join(scratch, "metrics.jsonl");
  const said = await program([...flags(settings), "--metrics", metrics], onSwiftShader());
  assert.match(said, /SwiftShader/);
  const native = (await readFile(metrics, "utf8")).trim().split("\n").map((line) => JSON.parse(line).train_loss);
  assert.equal(native.length, 50);
  for (const [index, loss] of native.entries()) {
    assert.ok(Math.abs(loss - tab[index]) < 1e-4, `step ${index + 1}: ${loss} and ${tab[index]}`);
  }
});

test("without an adapter the page says what to do", async () => {
  const without = await launch({ hasGpu: false });
  const { page } = await visit(without, server.address);
  await page.locator("#unsupported").waitFor();
  assert.ok(!await page.locator("#main").isVisible());
  assert.match(await page.locator("#unsupported-title").textContent(), /WebGPU/);
  assert.ok(await page.locator("#unsupported-remedies li").count() >= 2);
  assert.match(await page.locator("#unsupported-command").textContent(), /cargo run --release --example train_names/);
  await without.close();
});
