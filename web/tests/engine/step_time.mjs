// Step times of the tab and of the desktop program on the same software GPU, in turns: `npm run step-time [-- TURNS]`.
// It measures, and holds nothing; a quiet machine and the release program are wanted (TRAIN_NAMES).

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { flags, launch, onSwiftShader, program, records, serve, steps, visit } from "./harness.mjs";

const COMMON = { "eval-interval": 0, "eval-iters": 1, "final-eval-iters": 1, "eval-batch-size": 8, "samples": 1, "seed": 7 };
/** Models, and from which step on they are measured: the first ones compile kernels. */
const MODELS = {
  "d_model 16, 1 layer, 8 × 16 tokens": { from: 20, settings: { ...COMMON, "d-model": 16, "n-layers": 1, "n-heads": 2, "context": 16, "batch-size": 8, "steps": 200 } },
  "d_model 64, 4 layers, 32 × 16 tokens": { from: 4, settings: { ...COMMON, "d-model": 64, "n-layers": 4, "n-heads": 4, "context": 16, "batch-size": 32, "steps": 20 } },
};

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
const turns = Number(process.argv[2] ?? 5);
const scratch = await mkdtemp(join(tmpdir(), "shadegrad-step-time-"));
const server = await serve();

/** Milliseconds of a step, the median. */
async function inTab({ settings, from }) {
  const browser = await launch();
  const { page } = await visit(browser, server.address, settings);
  await page.locator("#status", { hasText: "Ready" }).waitFor();
  await page.locator("#run").click();
  await steps(page, settings.steps);
  const times = (await records(page)).slice(from).map(({ stepMs }) => stepMs);
  await browser.close();
  return median(times);
}

async function natively({ settings, from }) {
  const metrics = join(scratch, "metrics.jsonl");
  await rm(metrics, { force: true });
  await program([...flags(settings), "--metrics", metrics], onSwiftShader());
  const lines = (await readFile(metrics, "utf8")).trim().split("\n");
  return median(lines.map((line) => JSON.parse(line)).filter(({ step }) => step > from).map(({ step_ms }) => step_ms));
}

for (const [name, model] of Object.entries(MODELS)) {
  const pairs = [];
  for (let turn = 1; turn <= turns; turn++) {
    const native = await natively(model);
    const tab = await inTab(model);
    pairs.push({ native, tab, ratio: tab / native });
    console.log(`${name}, turn ${turn}: tab ${tab.toFixed(1)} ms, native ${native.toFixed(1)} ms, ratio ${(tab / native).toFixed(2)}`);
  }
  const of = (what) => median(pairs.map((pair) => pair[what])).toFixed(2);
  console.log(`${name}: tab ${of("tab")} ms, native ${of("native")} ms, ratio ${of("ratio")}`);
}
await server.close();
await rm(scratch, { recursive: true, force: true });
