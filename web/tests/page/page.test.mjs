// The page against a worker that only speaks the engine's protocol: what is asked of the page itself.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { launch, serve, status, visit } from "./harness.mjs";

/** As fast as the page can take it. */
const FAST = { perMessage: 100, pause: 5 };

let browser;
let site;
before(async () => [browser, site] = await Promise.all([launch(), serve()]));
after(async () => {
  await browser?.close();
  await site?.close();
});

/** A test with a page of its own, which must not complain. */
function onPage(title, options, act) {
  test(title, async () => {
    const visited = await visit(browser, site.address, options);
    try {
      await act(visited.page, visited);
      const unexpected = visited.problems.filter((problem) => !options.complains?.test(problem));
      assert.deepEqual(unexpected, []);
    } finally {
      await visited.session.close();
    }
  });
}

const text = (page, selector) => page.locator(selector).textContent();
const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.name || document.activeElement.textContent.trim());

onPage("it trains, shows what it does, and ends", { mock: { ...FAST, perMessage: 50 }, query: "?eval-interval=500" }, async (page) => {
  await status(page, "Ready");
  assert.equal(await text(page, "#adapter"), "NVIDIA GeForce RTX 4070 | webgpu | lovelace");
  await page.getByRole("button", { name: "Start" }).click();
  await status(page, "Done: 1,500 steps");
  assert.match(await text(page, "#curve-summary"), /^Training loss from 3\.\d+ at step 1 to 1\.\d+ at step 1,500\. Test loss 1\.\d+ at step 1,500\./);
  await page.waitForFunction(() => document.getElementById("figure-step").textContent === "1,500");
  assert.equal(await text(page, "#figure-tokens"), "364,000");
  // Three evaluations, the latest first; what is new is marked by more than a colour.
  const heads = await page.locator("#sample-list h3").allTextContents();
  assert.equal(heads.length, 3);
  assert.match(heads[0], /^Step 1,500 test loss 1\.\d+, 1\d of 20 new$/);
  const items = await page.locator("#sample-list article").first().locator("li").evaluateAll((all) => all.map((item) => [item.className, item.textContent]));
  for (const [kind, name] of items) assert.match(name, kind === "new" ? /^✦[a-z]+ \(new\)$/ : /^[a-z]+$/);
  await page.getByText("Evaluations as a table").click();
  await page.locator("#evaluation-rows tr").nth(2).waitFor();
  assert.equal(await page.locator("#evaluation-rows tr").count(), 3);
  // Something was drawn: the canvas is not of one colour.
  const colours = await page.locator("#curve").evaluate((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
  });
  assert.ok(colours > 20, `${colours} colours`);
  await page.getByRole("button", { name: "Train again" }).click();
  await status(page, "Training");
});

onPage("everything can be done with the keyboard alone", { mock: { perMessage: 2, pause: 20 } }, async (page) => {
  await status(page, "Ready");
  const press = (key) => page.keyboard.press(key);
  // Through the whole page once: everything that can be used is met, shows that it is, and has a name.
  const met = [];
  const open = await page.evaluate(() => document.querySelector("#more").open = true);
  assert.ok(open);
  for (let i = 0; i < 120; i++) {
    await press("Tab");
    const here = await page.evaluate(() => {
      const element = document.activeElement;
      if (element === document.body) return null;
      const label = element.closest(".button, .maps label");
      const style = getComputedStyle(label ?? element);
      const name = element.getAttribute("aria-label") || element.labels?.[0]?.textContent || element.textContent || element.getAttribute("aria-labelledby");
      const box = element.getBoundingClientRect();
      return { id: element.id || element.name || element.textContent.trim(), hasRing: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2, name: name.trim(),
        isSeen: label !== null || (box.width > 1 && box.height > 1) };
    });
    if (here === null) break;
    met.push(here);
  }
  for (const { id, hasRing, name, isSeen } of met) assert.ok(hasRing && name && isSeen, `${id}: ring ${hasRing}, name “${name}”, seen ${isSeen}`);
  const ids = met.map(({ id }) => id);
  for (const id of ["run", "step", "reset", "prompt", "temperature", "top-k", "sample", "attention-text", "head", "program-train_names", "data-built-in", "setting-d-model",
    "setting-lr", "setting-seed", "apply", "defaults", "save", "open-checkpoint", "copy-command", "copy-address"]) assert.ok(ids.includes(id), `${id} is not met: ${ids}`);
  assert.deepEqual(ids.slice(0, 1), ["Skip to training"]);
  assert.ok(ids.indexOf("run") < ids.indexOf("prompt") && ids.indexOf("prompt") < ids.indexOf("attention-text") && ids.indexOf("attention-text") < ids.indexOf("setting-d-model"));

  // Start, pause, step, reset; the focus stays where it was.
  await page.locator("#run").focus();
  await press("Enter");
  await status(page, "Training");
  await press("Space");
  await status(page, "Paused at step");
  assert.equal(await focused(page), "run");
  assert.equal(await text(page, "#run"), "Resume");
  const paused = Number(/step ([\d,]+)/.exec(await text(page, "#status"))[1].replaceAll(",", ""));
  await press("Tab");
  await press("Enter");
  await status(page, `Paused at step ${paused + 1}`);
  await press("Tab");
  await press("Enter");
  await status(page, "Ready");
  assert.equal(await focused(page), "reset");

  // A setting, by Enter; then another program, by arrows.
  await page.locator("#setting-n-layers").focus();
  await press("Control+a");
  await page.keyboard.type("2");
  await press("Enter");
  await page.waitForFunction(() => document.getElementById("model").textContent.includes("layers 2,"));
  assert.equal(await focused(page), "setting-n-layers");
  await page.locator("#program-train_names").focus();
  await press("ArrowDown");
  await page.waitForFunction(() => document.getElementById("setting-d-model").value === "64");
  assert.equal(await focused(page), "program-train_text");
  await press("ArrowUp");
  await status(page, "Ready");
  await page.waitForFunction(() => document.getElementById("setting-d-model").value === "32");

  // Heads, by arrows: one place in the order of tabs, each with its name.
  await page.locator("#heads input:checked").focus();
  await press("ArrowRight");
  await page.waitForFunction(() => document.getElementById("head-title").textContent === "Layer 1, head 2");
  await page.getByText("Weights as a table").focus();
  await press("Enter");
  await page.locator("#head-table th[scope=row]").first().waitFor();

  // Samples, by Enter in the field.
  await page.locator("#prompt").focus();
  await page.keyboard.type("an");
  await press("Enter");
  await page.locator("#sample-list li").first().waitFor();
  assert.match(await page.locator("#sample-list li").first().textContent(), /^✦?an/);
});

onPage("the address has what is not as usual, and makes the same page again", { query: "?program=train_names&d_model=64&bias=true&norm=layer_norm&attention=anna&temperature=0.5&prompt=ma" }, async (page) => {
  await status(page, "Ready");
  const settings = async () => page.evaluate(() => ({
    width: document.getElementById("setting-d-model").value, bias: document.getElementById("setting-bias").checked, norm: document.getElementById("setting-norm").value,
    text: document.getElementById("attention-text").value, temperature: document.getElementById("temperature").value, prompt: document.getElementById("prompt").value,
    k: document.getElementById("top-k").value, layers: document.getElementById("setting-n-layers").value, program: document.querySelector("[name=program]:checked").value,
  }));
  const expected = { width: "64", bias: true, norm: "layer_norm", text: "anna", temperature: "0.5", prompt: "ma", k: "", layers: "4", program: "train_names" };
  assert.deepEqual(await settings(), expected);
  assert.equal(await text(page, "#command"), "cargo run --release --example train_names -- --d-model 64 --norm layer_norm --bias true --temperature 0.5");
  const change = async (selector, value) => {
    await page.fill(selector, value);
    await page.locator(selector).press("Tab");
  };
  await change("#setting-n-layers", "2");
  await change("#top-k", "5");
  await change("#attention-text", "isabella");
  await page.getByText("More settings").click();
  await page.uncheck("#setting-bias");
  await status(page, "Ready");
  const query = new URL(page.url()).search;
  assert.deepEqual([...new URLSearchParams(query)].sort(), [["d-model", "64"], ["n-layers", "2"], ["norm", "layer_norm"], ["program", "train_names"], ["prompt", "ma"], ["temperature", "0.5"], ["top-k", "5"]]);
  assert.match(await text(page, "#command"), /--n-layers 2 --norm layer_norm --temperature 0\.5 --top-k 5$/);
  await page.reload();
  await status(page, "Ready");
  assert.deepEqual(await settings(), { ...expected, bias: false, text: "isabella", k: "5", layers: "2" });
  assert.equal(new URL(page.url()).search, query);
  // As usual again: nothing is left in it.
  await page.click("#defaults");
  await page.waitForFunction(() => location.search === "");
  // A text has its own settings, and the same words for them.
  await page.check("#program-train_text");
  await page.waitForFunction(() => location.search === "?program=train_text");
  await status(page, "Ready");
  assert.match(await text(page, "#command"), /^cargo run --release --example train_text -- --filename text\.txt$/);
});

onPage("settings that need a new model wait for Reset while one is being trained", { mock: { perMessage: 2, pause: 20 } }, async (page) => {
  await status(page, "Ready");
  await page.click("#run");
  await status(page, "Training");
  await page.fill("#setting-d-model", "48");
  await page.locator("#setting-d-model").press("Tab");
  await page.getByText("Settings have changed").waitFor();
  assert.match(await text(page, "#model"), /width 32/);
  await page.click("#reset");
  await status(page, "Ready");
  assert.match(await text(page, "#model"), /width 48/);
  assert.ok(await page.locator("#changed").isHidden());
});

for (const scheme of ["light", "dark"]) {
  onPage(`text has a contrast of 4.5 in ${scheme} colours`, { mock: { ...FAST, software: true, mode: "nan" }, context: { colorScheme: scheme } }, async (page) => {
    await status(page, "Ready");
    await page.fill("#attention-text", "É");
    await page.fill("#prompt", "É");
    await page.click("#sample");
    await page.locator("#sample-error:not(:empty)").waitFor();
    await page.fill("#prompt", "");
    await page.click("#sample");
    await page.locator("#sample-list li").first().waitFor();
    await page.click("#run");
    await page.locator("#failure").waitFor();
    await page.evaluate(() => {
      document.querySelectorAll("details").forEach((details) => { details.open = true; });
      document.getElementById("settings-error").hidden = false;
      document.getElementById("settings-error").textContent = "an error";
      document.getElementById("unsupported").hidden = false;
      document.getElementById("unsupported-message").textContent = "an error";
      document.getElementById("drop-hint").hidden = false;
    });
    const poor = await page.evaluate(() => {
      const parse = (value) => {
        const [r, g, b, a = 1] = value.match(/[\d.]+/g).map(Number);
        return value.startsWith("color(srgb") ? { rgb: [r * 255, g * 255, b * 255], a } : { rgb: [r, g, b], a };
      };
      const luminance = (rgb) => {
        const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const contrast = (one, other) => {
        const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
        return (light + 0.05) / (dark + 0.05);
      };
      const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
          const { rgb, a } = parse(getComputedStyle(at).backgroundColor);
          if (a === 1) return rgb;
        }
        return null;
      };
      const found = [];
      let count = 0;
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      const elements = new Set([...document.querySelectorAll("input, select, textarea")]);
      while (walker.nextNode()) if (walker.currentNode.nodeValue.trim()) elements.add(walker.currentNode.parentElement);
      for (const element of elements) {
        if (!element.checkVisibility() || element.closest("noscript, option")) continue;
        const style = getComputedStyle(element);
        for (const colour of [style.color, ...(element.placeholder ? [getComputedStyle(element, "::placeholder").color] : [])]) {
          count += 1;
          const ratio = contrast(parse(colour).rgb, behind(element));
          if (ratio < 4.5) found.push(`${element.tagName} “${element.textContent.trim().slice(0, 40)}”: ${ratio.toFixed(2)}`);
        }
      }
      // Lines of drawings, edges of fields, and marks: 3.
      const root = getComputedStyle(document.documentElement);
      const hex = (name) => [1, 3, 5].map((at) => parseInt(root.getPropertyValue(`--${name}`).trim().slice(at, at + 2), 16));
      for (const name of ["train", "test", "new", "accent", "field", "heat-all"]) {
        const ratio = contrast(hex(name), hex("card"));
        if (ratio < 3) found.push(`${name}: ${ratio.toFixed(2)}`);
      }
      return { found, count };
    });
    assert.deepEqual(poor.found, []);
    assert.ok(poor.count > 150, `${poor.count} texts`);
  });
}

for (const width of [360, 320]) {
  onPage(`nothing is wider than a phone of ${width} pixels`, { mock: { ...FAST, software: true }, query: "?eval-interval=100", context: { viewport: { width, height: 740 }, hasTouch: true, isMobile: true } }, async (page) => {
    const check = async (state) => {
      const wide = await page.evaluate(() => [...document.body.querySelectorAll("*")]
        .filter((element) => !element.closest(".scroll, .visually-hidden, .skip") && element.getBoundingClientRect().right > innerWidth + 0.5)
        .map((element) => `${element.tagName}#${element.id}.${element.className}`));
      assert.deepEqual(wide, [], state);
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), state);
    };
    await status(page, "Ready");
    await check("ready");
    await page.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
    await page.check("#data-own");
    await page.fill("#own-text", `${"x".repeat(500)}\nanna\n`);
    await page.locator("#own-text").blur();
    await page.fill("#attention-text", "wolfeschlegelsteinh");
    await page.getByRole("button", { name: "Start" }).tap();
    await status(page, "Done");
    await page.fill("#prompt", "a".repeat(300));
    await page.tap("#sample");
    await page.locator("#sample-list").getByText("asked for").waitFor();
    await page.tap("#save");
    await page.locator("#file-status:not(:empty)").waitFor();
    await check("all open");
    await page.evaluate(() => {
      document.getElementById("unsupported").hidden = false;
      document.getElementById("unsupported-command").textContent = `cargo run ${"--a-long-flag 100000 ".repeat(8)}`;
      document.getElementById("settings-error").hidden = false;
      document.getElementById("settings-error").textContent = "y".repeat(200);
    });
    await check("messages");
    // Large enough to be touched.
    const small = await page.locator("button:visible, .button:visible, input:not(.visually-hidden):visible, select:visible").evaluateAll((all) => all
      .filter((element) => !["radio", "checkbox"].includes(element.type) && element.getBoundingClientRect().height < 38).map((element) => element.id));
    assert.deepEqual(small, []);
  });
}

onPage("who wants less motion gets none", {}, async (page) => {
  await status(page, "Ready");
  const moving = await page.evaluate(() => [getComputedStyle(document.documentElement).scrollBehavior,
    ...[...document.querySelectorAll("*")].map((element) => getComputedStyle(element)).filter(({ transitionDuration, animationName }) => transitionDuration !== "0s" || animationName !== "none").map(() => "moves")]);
  assert.deepEqual(moving, ["auto"]);
});

onPage("a hundred thousand steps leave no more behind than twenty thousand", { mock: { perMessage: 400, pause: 4 }, query: "?steps=100000&eval-interval=1000" }, async (page, { session }) => {
  const devtools = await session.newCDPSession(page);
  await devtools.send("Performance.enable");
  const measure = async () => {
    for (let i = 0; i < 2; i++) await devtools.send("HeapProfiler.collectGarbage");
    const { metrics } = await devtools.send("Performance.getMetrics");
    const values = Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
    return { heap: values.JSHeapUsedSize, nodes: values.Nodes, listeners: values.JSEventListeners };
  };
  const reached = (step) => page.waitForFunction((step) => Number(document.getElementById("figure-step").textContent.replaceAll(",", "")) >= step, step, { polling: 50 });
  await status(page, "Ready");
  await page.click("#run");
  await reached(20_000);
  const early = await measure();
  await status(page, "Done: 100,000 steps");
  await reached(100_000);
  const late = await measure();
  assert.ok(late.heap < early.heap + 300_000, `heap: ${early.heap} and ${late.heap} bytes`);
  assert.ok(late.nodes < early.nodes + 400, `nodes: ${early.nodes} and ${late.nodes}`);
  assert.ok(late.listeners <= early.listeners + 5, `listeners: ${early.listeners} and ${late.listeners}`);
  console.log(`heap after 20,000 steps ${early.heap}, after 100,000 ${late.heap} bytes; nodes ${early.nodes}, ${late.nodes}`);
});

onPage("a tab without frames misses nothing, and piles nothing up", {
  mock: FAST, query: "?steps=20000&eval-interval=1000",
  before: () => {
    const frames = [];
    window.requestAnimationFrame = (draw) => frames.push(draw);
    window.owedFrames = () => frames.length;
    window.giveFrames = () => frames.splice(0).forEach((draw) => draw(performance.now()));
  },
}, async (page) => {
  await page.waitForFunction(() => document.getElementById("status").textContent === "Ready", null, { polling: 50 });
  await page.evaluate(() => document.getElementById("run").click());
  await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("Done"), null, { polling: 50 });
  assert.ok(await page.evaluate(() => window.owedFrames()) <= 3);
  await page.evaluate(() => window.giveFrames());
  assert.match(await text(page, "#curve-summary"), /at step 20,000\./);
  assert.equal(await text(page, "#head-title"), "Layer 1, head 1");
});

// What can go wrong

onPage("without WebGPU it says what to do", { hasWebGpu: false, query: "?d-model=64" }, async (page) => {
  await page.getByRole("heading", { name: "This browser has no WebGPU" }).waitFor();
  assert.ok(await page.locator("#main").isHidden());
  const remedies = await page.locator("#unsupported-remedies li").allTextContents();
  assert.match(remedies[0], /^This browser: Chrome/);
  for (const name of ["Firefox", "Safari", "Linux", "--enable-unsafe-webgpu", "about:config"]) assert.ok(remedies.some((remedy) => remedy.includes(name)), name);
  assert.equal(await text(page, "#unsupported-command"), "cargo run --release --example train_names -- --d-model 64");
  assert.equal(await page.locator("#unsupported").getAttribute("role"), "alert");
});

onPage("on an address that is not secure it says so", { hasWebGpu: false, before: () => Object.defineProperty(window, "isSecureContext", { value: false }) }, async (page) => {
  await page.getByRole("heading", { name: "not secure" }).waitFor();
  assert.match(await text(page, "#unsupported"), /https.*localhost/s);
});

onPage("without an adapter it says what to do", { mock: { mode: "no-adapter" } }, async (page) => {
  await page.getByRole("heading", { name: "found no GPU" }).waitFor();
  assert.match(await text(page, "#unsupported"), /requestAdapter gave none.*hardware acceleration.*chrome:\/\/gpu/s);
});

onPage("a software adapter is warned about", { mock: { software: true } }, async (page) => {
  await status(page, "Ready");
  assert.match(await text(page, "#software"), /^This is a software adapter.*slower/);
});

onPage("a lost device stops the training, and Reset begins anew with a new worker", { mock: { mode: "lost", perMessage: 2, pause: 20 } }, async (page) => {
  await status(page, "Ready");
  await page.click("#run");
  await page.locator("#failure").waitFor();
  assert.match(await text(page, "#failure"), /^Training has stopped at step \d+\. The device was lost: the driver was reset\. Nothing of it had been saved\. Reset begins anew; if that fails, reload the page\.$/);
  await status(page, "Stopped");
  assert.equal(await page.getAttribute("#save", "aria-disabled"), "true");
  await page.click("#reset");
  await status(page, "Ready");
  assert.ok(await page.locator("#failure").isHidden());
  await page.click("#run");
  await status(page, "Training");
});

onPage("a loss that is no number stops it, with the engine's advice", { mock: { ...FAST, mode: "nan" } }, async (page) => {
  await status(page, "Ready");
  await page.click("#run");
  await page.locator("#failure").waitFor();
  assert.match(await text(page, "#failure"), /The loss of step 50 is NaN: lower --lr/);
});

onPage("an engine that breaks is said to, and started anew", { mock: { ...FAST, mode: "crash" }, complains: /unreachable/ }, async (page) => {
  await status(page, "Ready");
  await page.click("#run");
  await page.locator("#failure").waitFor();
  assert.match(await text(page, "#failure"), /The engine has stopped: .*unreachable executed/);
  await page.click("#reset");
  await status(page, "Ready");
});

onPage("an engine that can't be loaded is said to", { worker: "import './shadegrad_web_that_is_missing.js';", complains: /404|missing/ }, async (page) => {
  await page.locator("#failure").waitFor();
  assert.match(await text(page, "#failure"), /^The engine does not run\. .*reload the page/);
});

onPage("bad settings are shown at their field", { query: "?d-model=33" }, async (page) => {
  const alert = page.locator("#settings-error");
  await alert.waitFor();
  assert.equal(await alert.textContent(), "--n-heads 4 is not possible: the width, 33, is no multiple of it");
  const field = page.locator("#setting-n-heads");
  assert.equal(await field.getAttribute("aria-invalid"), "true");
  assert.match(await field.getAttribute("aria-describedby"), /settings-error/);
  await page.click("#run");
  await page.waitForFunction(() => document.activeElement.id === "setting-n-heads");
  await field.fill("3");
  await field.press("Enter");
  await status(page, "Ready");
  assert.ok(await alert.isHidden());
  assert.equal(await field.getAttribute("aria-invalid"), null);
  // One that hides is brought to light.
  await page.getByText("More settings").click();
  await page.fill("#setting-seed", "");
  await page.fill("#setting-n-kv-heads", "3");
  await page.locator("#setting-n-kv-heads").press("Enter");
  await status(page, "Ready");
  await page.fill("#setting-n-kv-heads", "9");
  await page.getByText("More settings").click();
  await page.waitForFunction(() => document.getElementById("more").open);
  assert.equal(await page.getAttribute("#setting-n-kv-heads", "aria-invalid"), "true");
});

onPage("what is no number is for the program to refuse", { query: "?batch-size=many" }, async (page) => {
  await page.locator("#settings-error").waitFor();
  assert.match(await text(page, "#settings-error"), /invalid value 'many' for '--batch-size/);
  assert.equal(await page.getAttribute("#setting-batch-size", "aria-invalid"), "true");
});

onPage("settings of the address that there aren't are named", { query: "?d-modle=64&bias=maybe&program=train_birds" }, async (page) => {
  await page.locator("#settings-error").waitFor();
  assert.match(await text(page, "#settings-error"), /left out: program=train_birds, d-modle=64, bias=maybe/);
  assert.equal(await text(page, "#status"), "Ready");
});

onPage("samples and attention say what they can't do", {}, async (page) => {
  await status(page, "Ready");
  await page.fill("#attention-text", "Zoë");
  await page.locator("#attention-error:not(:empty)").waitFor();
  assert.equal(await text(page, "#attention-error"), "the text has “Z”, which is not in the vocabulary");
  await page.fill("#attention-text", "zoe");
  await page.waitForFunction(() => document.getElementById("attention-error").textContent === "");
  for (const [field, value, message] of [["#temperature", "-1", /^Temperature -1 is not possible/], ["#top-k", "0.5", /^Top k 0.5 is not possible/], ["#prompt", "A", /^the prompt has “A”/]]) {
    const before = await page.inputValue(field);
    await page.fill(field, value);
    await page.locator(field).press("Enter");
    await page.waitForFunction((source) => new RegExp(source).test(document.getElementById("sample-error").textContent), message.source);
    await page.fill(field, before);
  }
});

onPage("a checkpoint is saved and opened, by button and by drop; wrong files are refused", {}, async (page) => {
  await status(page, "Ready");
  await page.click("#step");
  await status(page, "Paused at step 1");
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
  assert.equal(download.suggestedFilename(), "names-1.safetensors");
  const bytes = await readFile(await download.path());
  assert.match(await text(page, "#file-status"), /^Saved names-1\.safetensors \(1 KB\)\. On a desktop: cargo run --release --example train_names -- --resume names-1\.safetensors$/);
  const file = (name, content) => ({ name, mimeType: "application/octet-stream", buffer: Buffer.from(content) });
  await page.setInputFiles("#open-checkpoint", file("names-1.safetensors", bytes));
  await status(page, "Paused at step 700");
  assert.equal(await page.inputValue("#setting-d-model"), "64");
  assert.equal(await page.inputValue("#setting-n-layers"), "2");
  assert.match(page.url(), /d-model=64&n-layers=2/);
  assert.match(await text(page, "#file-status"), /^Opened names-1\.safetensors, with 700 steps/);

  await page.setInputFiles("#open-checkpoint", file("cat.png", "\x89PNG\r\n\x1a\nand so on"));
  await page.locator("#file-error:not(:empty)").waitFor();
  assert.match(await text(page, "#file-error"), /^cat\.png is not a checkpoint: open a \.safetensors file/);
  const strange = Buffer.concat([Buffer.from([2, 0, 0, 0, 0, 0, 0, 0]), Buffer.from("{}")]);
  await page.setInputFiles("#open-checkpoint", file("other.safetensors", strange));
  await page.waitForFunction(() => document.getElementById("file-error").textContent.startsWith("other.safetensors: it has no settings"));
  await status(page, "Paused at step 700");

  await page.check("#data-own");
  assert.match(await text(page, "#data-error"), /nothing here yet/);
  await page.click("#reset");
  await page.waitForFunction(() => document.activeElement.id === "own-text");
  await status(page, "Paused at step 700");
  await page.setInputFiles("#open-text", file("latin1.txt", Buffer.from([0x6e, 0xe9, 0x65])));
  await page.waitForFunction(() => document.getElementById("data-error").textContent.startsWith("latin1.txt is not a text in UTF-8"));
  await page.setInputFiles("#open-text", file("names-1.safetensors", bytes));
  await page.waitForFunction(() => document.getElementById("data-error").textContent.startsWith("names-1.safetensors is a checkpoint"));

  const drop = (name, content) => page.evaluate(([name, content]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(content)], name));
    for (const type of ["dragover", "drop"]) {
      document.getElementById("curve").dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }
  }, [name, [...content]]);
  await drop("birds.txt", Buffer.from("wren\nlark\nfinch\n"));
  await page.waitForFunction(() => document.getElementById("own-text").value.startsWith("wren"));
  assert.ok(await page.locator("#drop-hint").isHidden());
  assert.match(await text(page, "#command"), /--filename birds\.txt/);
  // Trained already: the data waits for Reset.
  assert.ok(await page.locator("#changed").isVisible());
  await drop("again.safetensors", bytes);
  await page.waitForFunction(() => document.getElementById("file-status").textContent.startsWith("Opened again.safetensors"));
});

onPage("nothing is trained on but what is chosen", {}, async (page) => {
  await status(page, "Ready");
  await page.check("#data-own");
  await page.click("#run");
  await page.waitForFunction(() => document.activeElement.id === "own-text");
  await status(page, "Ready");
  await page.keyboard.type("wren lark");
  await page.click("#run");
  await status(page, "Training");
  assert.equal(await text(page, "#data-summary"), "9 characters");
});

onPage("a long text is not put into the page", {}, async (page) => {
  await status(page, "Ready");
  await page.check("#program-train_text");
  await page.check("#data-own");
  await page.setInputFiles("#open-text", { name: "long.txt", mimeType: "text/plain", buffer: Buffer.from("a long text, \n".repeat(200_000)) });
  await page.getByText("long.txt: 2,800,000 characters, too many to show here").waitFor();
  assert.equal(await page.inputValue("#own-text"), "");
  await page.waitForFunction(() => document.getElementById("data-summary").textContent === "2800000 characters");
  assert.equal(await page.inputValue("#attention-text"), "a long text,");
});

onPage("nothing comes from elsewhere", { complains: /Content Security Policy|icon\.svg: net::ERR_ABORTED/ }, async (page, { session }) => {
  const origins = new Set();
  session.on("request", (request) => origins.add(new URL(request.url()).origin));
  await page.reload();
  await status(page, "Ready");
  assert.deepEqual([...origins], [new URL(site.address).origin]);
  const policy = await page.getAttribute("meta[http-equiv=Content-Security-Policy]", "content");
  assert.match(policy, /default-src 'none'; script-src 'self' 'wasm-unsafe-eval'/);
  // The policy holds: what is written into the page does not run.
  await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.isBroken = true";
    document.body.append(script);
  });
  assert.equal(await page.evaluate(() => window.isBroken), undefined);
});
