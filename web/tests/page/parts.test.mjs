// The parts of the page that need no browser.

import assert from "node:assert/strict";
import { test } from "node:test";
import { command, flags, read, settingsOf, write } from "../../page/address.js";
import { History } from "../../page/history.js";
import { duration, nice, visible } from "../../page/numbers.js";

test("an address says what it was written from", () => {
  const settings = [["d-model", "64"], ["prompt", "a&b=c d"], ["attention", "zoë"]];
  const query = write("train_text", settings);
  const found = read(query);
  assert.equal(found.program, "train_text");
  assert.deepEqual([...found.settings], settings);
  assert.equal(write("train_names", []), "");
  assert.equal(write("train_text", []), "?program=train_text");
});

test("an address may write flags with underscores, and a program that there isn't is named", () => {
  assert.deepEqual([...read("?d_model=8").settings], [["d-model", "8"]]);
  const found = read("?program=train_birds");
  assert.deepEqual([found.program, found.unknownProgram], ["train_names", "train_birds"]);
});

test("flags are settings and back", () => {
  const settings = new Map([["d-model", "64"], ["lr", "-1"], ["tie", "true"]]);
  assert.deepEqual(settingsOf(flags(settings)), settings);
  assert.deepEqual(settingsOf(["--tie", "--lr=0.1"]), new Map([["tie", "true"], ["lr", "0.1"]]));
});

test("a command line can be pasted into a shell", () => {
  assert.equal(command("train_names", []), "cargo run --release --example train_names");
  assert.equal(command("train_text", ["--prompt", "it's $HOME"]), "cargo run --release --example train_text -- --prompt 'it'\\''s $HOME'");
});

test("a history is bounded, and its means stay those of the steps", () => {
  const history = new History();
  const steps = 1_000_000;
  for (let step = 1; step <= steps; step++) history.add(step, step / steps);
  const points = [];
  history.forEach((step, loss, smoothed) => points.push({ step, loss, smoothed }));
  assert.ok(points.length > 1000 && points.length <= 2048, `${points.length} points`);
  for (const { step, loss } of points) assert.ok(Math.abs(loss - step / steps) < 1e-9, `step ${step}: ${loss}`);
  for (const { loss, smoothed } of points.slice(0, -40)) assert.ok(Math.abs(loss - smoothed) < 1e-3);
  assert.equal(history.first.step, 1);
  assert.equal(history.latest.step, steps);
  for (let i = 1; i <= 10_000; i++) history.addEvaluation({ step: i, train: 1, test: 1 });
  assert.ok(history.evaluations.length <= 512);
  assert.equal(history.evaluations.at(-1).step, 10_000);
});

test("a history may begin late, and forgets", () => {
  const history = new History();
  for (let step = 700_001; step <= 700_100; step++) history.add(step, 2);
  const points = [];
  history.forEach((step, loss, smoothed) => points.push([step, loss, smoothed]));
  assert.ok(points.length > 0);
  for (const [step, loss, smoothed] of points) {
    assert.ok(Math.abs(step - 700_050) < 1000, `step ${step}`);
    assert.deepEqual([loss, smoothed], [2, 2]);
  }
  history.add(700_101, NaN);
  assert.equal(history.latest.step, 700_100);
  history.clear();
  history.forEach(() => assert.fail("it is empty"));
});

test("numbers and characters are written to be read", () => {
  assert.deepEqual([0.03, 1, 3, 180, 0.2].map(nice), [0.05, 1, 5, 200, 0.2]);
  assert.deepEqual([1.234, 45.6, 1234, 12_345, NaN].map(duration), ["1.2 ms", "46 ms", "1,234 ms", "12.3 s", "–"]);
  assert.deepEqual(["\n", " ", "a"].map(visible), ["⏎", "␣", "a"]);
});
