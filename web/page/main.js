// The page: what its parts tell one another, and the worker.

import { command, flags, read, settingsOf, write } from "./address.js";
import { DataChoice } from "./data.js";
import { Engine, Stopped } from "./engine.js";
import { buttons, element, fields, input, onClick, orError, say } from "./elements.js";
import { acceptDrops, looksLikeCheckpoint, megabytes, readCheckpoint, save } from "./files.js";
import { Refresher } from "./frames.js";
import { loss as lossText, whole } from "./numbers.js";
import { curve, figures, form, maps, samples } from "./parts.js";
import { newCount } from "./samples.js";
import { readSampling } from "./sampling.js";
import { offerCopies } from "./share.js";
import { noAdapter, problem, show } from "./support.js";

/** @typedef {import("./engine.js").Description} Description */
/** @typedef {import("./engine.js").Program} Program */

/** Milliseconds between two evaluations that are read out. */
const READ_OUT = 5000;
/** Names that “Sample” asks for. */
const NAMES = 20;
/** Characters of a text that the attention maps begin with. */
const EXCERPT = 16;

const engine = new Engine(onEvent);
const data = new DataChoice({
  builtIn: input("data-built-in"), own: input("data-own"), builtInLabel: element("built-in-label"), panel: element("own-data"),
  label: element("own-label"), text: element("own-text"), file: element("own-file"), open: input("open-text"), error: element("data-error"),
}, onSettings);

/** The model that the worker has, if it has one. @type {Description | null} */
let model = null;
/** What it was opened with, see {@link chosen}. */
let opened = { settings: "", all: "", text: /** @type {string | null} */ (null) };
/** The program that the form is for. @type {Program} */
let program = "train_names";
let step = 0;
let savedAt = -1;
let isRunning = false;
let isFinished = false;
/** No step has been made yet, so the first one compiles the kernels. */
let isFresh = true;
let hasFailed = false;
let isDrawing = false;
/** The opening that is under way, or was. @type {Promise<void>} */
let opening = Promise.resolve();
let openings = 0;
/** What is being opened. @type {typeof opened | null} */
let asked = null;
/** What the attention maps are of if nobody types anything. */
let usualText = "";
/** When an evaluation was read out. */
let readOut = 0;

// Beginning

const given = read(location.search);
const unsupported = problem();
if (unsupported) show(unsupported, asDesktop());
else opening = start().then(begin).catch(onBroken);

/** What the address asks for, as a command. */
function asDesktop() {
  return command(given.program, flags([...given.settings].filter(([name]) => name !== "attention")));
}

/** Starts the worker. */
async function start() {
  const first = await engine.start();
  if (first.event === "ready") {
    element("adapter").textContent = first.adapter;
    hasFailed = false;
    element("failure").hidden = true;
  }
  if (first.event === "unsupported") show(noAdapter(first.message), asDesktop());
  return first.event === "ready";
}

/** @param {boolean} isReady */
async function begin(isReady) {
  if (!isReady) return;
  const refused = await useProgram(given.program, given.settings);
  if (given.unknownProgram !== null) refused.unshift(`program=${given.unknownProgram}`);
  showAddress();
  await open();
  if (refused.length > 0) form.showError(`The address has settings that ${program} does not have, they are left out: ${refused.join(", ")}`);
}

/** @param {Error} error of a call that nobody answers for */
function onBroken(error) {
  if (!(error instanceof Stopped)) fail(error.message);
}

/** @param {any} event from the worker */
function onEvent(event) {
  switch (event.event) {
    case "steps":
      onSteps(event);
      break;
    case "evaluation":
      onEvaluation(event);
      break;
    case "state":
      step = event.step;
      isRunning = event.running;
      figures.set({ step });
      showState();
      attention.refresh(!isRunning);
      break;
    case "finished":
      step = event.step;
      isRunning = false;
      isFinished = true;
      showState();
      curve.write();
      attention.refresh(true);
      break;
    case "failed":
    case "crashed":
      fail(event.message);
      break;
  }
}

// Settings, data and address

/**
 * Makes the form that of a program.
 * @param {Program} chosen
 * @param {Map<string, string>} settings
 * @returns {Promise<string[]>} settings that it does not have
 */
async function useProgram(chosen, settings) {
  program = chosen;
  input(`program-${program}`).checked = true;
  const [known] = await Promise.all([engine.call("defaults", { program }), data.setProgram(program)]);
  if (program !== chosen) return [];
  fields.prompt.value = fields.temperature.value = fields["top-k"].value = "";
  form.setFields(known);
  element("attention-label").textContent = program === "train_names" ? "Type a name" : "Type a text";
  useText();
  return fill(settings);
}

/**
 * Sets settings, those of the page included.
 * @param {Map<string, string>} settings
 */
function fill(settings) {
  const rest = new Map(settings);
  for (const [name, usual] of pageSettings()) {
    fields[/** @type {keyof typeof fields} */ (name)].value = rest.get(name) ?? usual;
    rest.delete(name);
  }
  return form.fill(rest);
}

/** The settings that only the page has, and what they usually are. @returns {[string, string][]} */
function pageSettings() {
  return [["attention", usualText], ...(form.has("prompt") ? [] : [/** @type {[string, string]} */ (["prompt", ""])])];
}

/** Lets the attention maps begin with something that is in the data, if nobody has typed anything. */
function useText() {
  const usual = program === "train_names" ? "isabella" : ((data.own && excerpt(data.own)) ?? "function");
  if (fields.attention.value === usualText) fields.attention.value = usual;
  usualText = usual;
}

/**
 * The beginning of a text, for the attention maps.
 * @param {string} text
 */
function excerpt(text) {
  const line = text.slice(0, 1000).split("\n").find((line) => line.trim() !== "");
  return line ? [...line.trim()].slice(0, EXCERPT).join("").trimEnd() : null;
}

/** What is chosen now: settings that take a new model, the same with how samples are drawn, and the data. */
function chosen() {
  return {
    settings: JSON.stringify([program, form.differences({ withBound: false })]),
    all: JSON.stringify([program, form.differences({ withBound: true })]),
    text: data.text,
  };
}

/** Whether what is chosen takes another model than there is. */
function isChanged() {
  const now = chosen();
  return now.settings !== opened.settings || now.text !== opened.text;
}

/** Something has been chosen: a model that has not been trained is made anew at once, another one when its user says so. */
function onSettings() {
  useText();
  showAddress();
  if (hasFailed || !form.isMade || !data.check({ focus: false })) return;
  if (step === 0 && !isRunning && (isChanged() || !model)) reset();
  else showState();
}

/** Shows the settings in the address and as a command. */
function showAddress() {
  const own = pageSettings().flatMap(([name, usual]) => {
    const { value } = fields[/** @type {keyof typeof fields} */ (name)];
    return value === usual ? [] : [/** @type {[string, string]} */ ([name, value])];
  });
  const settings = form.differences({ withBound: true });
  history.replaceState(null, "", location.pathname + write(program, [...settings, ...own]) + location.hash);
  const file = data.fileName;
  const isSame = model !== null && chosen().all === opened.all && data.text === opened.text;
  // The engine spells presets out.
  const words = isSame && model ? model.flags : flags(settings);
  element("command").textContent = isSame && model && !file ? model.command : command(program, [...(file ? ["--filename", file] : []), ...words]);
}

// The model

/** Opens a new model with what is chosen. */
async function open() {
  if (!data.check({ focus: true })) return;
  const mine = ++openings;
  form.clearError();
  const now = chosen();
  asked = now;
  const words = flags(form.differences({ withBound: true }));
  say("Preparing the model …");
  try {
    if (isRunning) await engine.call("pause");
    const description = await engine.call("open", { program, flags: words, text: now.text });
    if (mine === openings) adopt(description, now);
  } catch (error) {
    if (mine !== openings || error instanceof Stopped) return;
    model = null;
    step = 0;
    isRunning = false;
    form.showError(/** @type {Error} */ (error).message);
    showState();
    maps.show(null);
  } finally {
    if (mine === openings) asked = null;
  }
}

/**
 * Opens a checkpoint.
 * @param {File} file
 */
async function openCheckpoint(file) {
  const mine = ++openings;
  element("file-error").textContent = element("file-status").textContent = "";
  try {
    const bytes = await readCheckpoint(file);
    say(`Opening ${file.name} …`);
    if (hasFailed && !(await start())) return;
    if (isRunning) await engine.call("pause");
    const description = await tryTexts(bytes, file.name);
    if (mine !== openings) return;
    const settings = settingsOf(description.flags);
    if (description.program !== program) await useProgram(description.program, settings);
    else form.fill(settings);
    form.clearError();
    adopt(description, chosen());
    savedAt = step;
    element("file-status").textContent = `Opened ${file.name}, with ${whole(step)} steps behind it.`;
  } catch (error) {
    if (mine !== openings || error instanceof Stopped) return;
    element("file-error").textContent = /** @type {Error} */ (error).message;
    element("file-error").scrollIntoView({ block: "nearest" });
    showState();
  }
}

/**
 * Opens a checkpoint with the text that it is likely to be for: one's own; or the names; or what else is chosen.
 * @param {Uint8Array} bytes
 * @param {string} name
 * @returns {Promise<Description>}
 */
async function tryTexts(bytes, name) {
  const open = (/** @type {string | null} */ text) => engine.call("openCheckpoint", { bytes, name, text });
  if (data.own !== null || data.text === null) return open(data.text);
  return open(null).catch(() => open(data.text));
}

/**
 * Shows a model that the worker has opened.
 * @param {Description} description
 * @param {typeof opened} asked
 */
function adopt(description, asked) {
  model = description;
  opened = asked;
  step = description.step;
  savedAt = -1;
  isRunning = false;
  isFinished = step >= description.steps;
  isFresh = true;
  element("adapter").textContent = description.adapter;
  const software = element("software");
  software.hidden = !description.isSoftware;
  software.textContent = description.isSoftware
    ? "This is a software adapter: the processor does the GPU's work, ten to a thousand times slower. If this machine has a GPU, turn on graphics acceleration in the browser's settings and start it again; if not, a smaller model is quicker."
    : "";
  element("model").textContent = description.model;
  element("data-summary").textContent = [description.summary, description.note].filter(Boolean).join(". ");
  figures.reset(step, description.steps);
  curve.reset(description.steps, [...description.vocabulary].length);
  samples.clear();
  element("new-legend").hidden = description.program !== "train_names";
  showState();
  showAddress();
  attention.refresh(true);
}

// Training

async function toggle() {
  if (isRunning) {
    say("Pausing …");
    await ask("pause");
    return;
  }
  if (!(await isPrepared())) return;
  say("Starting …");
  await ask("run");
}

async function oneStep() {
  if (isRunning || isFinished || !(await isPrepared())) return;
  say(isFresh ? "Compiling kernels for the first step …" : "One step …");
  await ask("step");
}

/** Makes sure that there is the model that is to be trained; leads to what is wrong where it can't be made. */
async function isPrepared() {
  await opening;
  const now = chosen();
  // How samples are drawn may have been chosen since it was made.
  const isStale = step === 0 && (now.all !== opened.all || now.text !== opened.text);
  if (isStale || isFinished || !model || hasFailed) {
    if (!data.check({ focus: true })) return false;
    await reset();
  }
  const isThere = model !== null && !hasFailed;
  if (!isThere) form.focusError();
  return isThere;
}

/** Begins anew with what is chosen. */
function reset() {
  const now = chosen();
  const isUnderWay = asked !== null && asked.all === now.all && asked.text === now.text;
  if (isUnderWay) return opening;
  // A device that is lost, or a module that has stopped, is gone with its worker.
  if (hasFailed) opening = start().then((isReady) => (!isReady ? undefined : form.isMade ? open() : begin(true))).catch(onBroken);
  else opening = open();
  return opening;
}

/**
 * Calls the worker where a failure is the run's.
 * @param {string} call
 */
async function ask(call) {
  try {
    await engine.call(call);
  } catch (error) {
    if (!(error instanceof Stopped)) fail(/** @type {Error} */ (error).message);
  }
}

/** @param {{records: import("./engine.js").StepRecord[], tokensPerSecond: number}} event */
function onSteps({ records, tokensPerSecond }) {
  const last = records.at(-1);
  if (!last) return;
  curve.addSteps(records);
  if (isFresh && isRunning) say("Training");
  isFresh = false;
  step = last.step;
  const time = records.reduce((sum, { stepMs }) => sum + stepMs, 0) / records.length;
  figures.set({ step, train: curve.loss, tokens: tokensPerSecond, time });
  attention.refresh();
}

/** @param {import("./engine.js").Evaluation} evaluation */
function onEvaluation(evaluation) {
  const areNames = model?.program === "train_names";
  curve.addEvaluation(evaluation);
  samples.addEvaluation(evaluation, areNames);
  figures.set({ test: evaluation.test });
  attention.refresh();
  if (performance.now() - readOut < READ_OUT) return;
  readOut = performance.now();
  const news = areNames ? `, ${newCount(evaluation.samples)}` : "";
  say(`Training. Step ${whole(evaluation.step)}: test loss ${lossText(evaluation.test)}${news}`);
}

/**
 * Training can't go on.
 * @param {string} message
 */
function fail(message) {
  hasFailed = true;
  isRunning = false;
  const failure = element("failure");
  const heading = document.createElement("strong");
  heading.textContent = step > 0 ? `Training has stopped at step ${whole(step)}.` : "The engine does not run.";
  const kept = savedAt >= 0 ? `What was saved at step ${whole(savedAt)} can be opened again.` : step > 0 ? "Nothing of it had been saved." : "";
  const next = "Reset begins anew; if that fails, reload the page.";
  failure.replaceChildren(heading, ` ${sentence(message)} ${[kept, next].filter(Boolean).join(" ")}`);
  failure.hidden = false;
  showState();
}

// Sampling and attention

function drawSamples() {
  return orError("sample-error", async () => {
    await opening;
    if (!model || hasFailed) return;
    const { how, ...request } = readSampling(form.usual("temperature"));
    const areNames = model.program === "train_names";
    isDrawing = true;
    showState();
    try {
      const drawn = await engine.call("sample", { ...request, count: areNames ? NAMES : 1 });
      samples.addDraw(step, how, drawn, areNames);
    } finally {
      isDrawing = false;
      showState();
    }
  });
}

let isAttentionSeen = true;
const attention = new Refresher(async () => {
  const text = fields.attention.value;
  const error = element("attention-error");
  const at = step;
  try {
    const weights = text === "" ? null : await engine.call("attention", { text });
    maps.show(weights);
    error.textContent = "";
    element("attention-step").textContent = weights ? `step ${whole(at)}` : "";
  } catch (problem) {
    if (problem instanceof Stopped) return;
    error.textContent = /** @type {Error} */ (problem).message;
    maps.show(null);
  }
}, () => model !== null && model.program === program && !hasFailed && (isAttentionSeen || !isRunning) && !document.hidden);

new IntersectionObserver((entries) => {
  isAttentionSeen = entries[entries.length - 1].isIntersecting;
  if (isAttentionSeen) attention.refresh();
}, { rootMargin: "200px" }).observe(element("attention"));
document.addEventListener("visibilitychange", () => attention.refresh());

// What is said and shown

/**
 * A message, which may have lines, as a sentence among others.
 * @param {string} message
 */
function sentence(message) {
  const text = message.replace(/\s+/g, " ").trim();
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** Shows what state the run is in, and what can be done. */
function showState() {
  const isReady = model !== null && !hasFailed;
  buttons.run.textContent = isRunning ? "Pause" : isFinished ? "Train again" : step > 0 && isReady ? "Resume" : "Start";
  const can = { run: true, step: isReady && !isRunning && !isFinished, reset: true, sample: isReady && !isDrawing, save: isReady };
  for (const [name, button] of Object.entries(buttons)) {
    button.setAttribute("aria-disabled", String(!can[/** @type {keyof typeof can} */ (name)]));
  }
  if (hasFailed) say("Stopped");
  else if (!model) say("These settings are not possible");
  else if (isRunning) say(isFresh ? "Compiling kernels for the first step …" : "Training");
  else if (isFinished) say(`Done: ${whole(step)} steps`);
  else say(step > 0 ? `Paused at step ${whole(step)}` : "Ready");
  const changed = element("changed");
  const hasChanged = isReady && (step > 0 || isRunning) && isChanged();
  changed.hidden = !hasChanged;
  changed.textContent = hasChanged ? "Settings have changed. They take effect with Reset, which begins anew." : "";
}

// What the user does

onClick(buttons.run, toggle);
onClick(buttons.step, oneStep);
onClick(buttons.reset, async () => {
  await reset();
  if (!model) form.focusError();
});
onClick(buttons.save, () => orError("file-error", async () => {
  const bytes = await engine.call("save");
  const name = `${model?.program === "train_text" ? "text" : "names"}-${step}.safetensors`;
  save(bytes, name);
  savedAt = step;
  element("file-status").textContent = `Saved ${name} (${megabytes(bytes.length)}). On a desktop: ${command(model?.program ?? program, ["--resume", name])}`;
}));
element("sampling").addEventListener("submit", (event) => {
  event.preventDefault();
  if (buttons.sample.getAttribute("aria-disabled") !== "true") drawSamples();
});
element("sampling").addEventListener("change", onSettings);
element("attention-form").addEventListener("submit", (event) => event.preventDefault());
fields.attention.addEventListener("input", () => attention.refresh(true));
fields.attention.addEventListener("change", showAddress);
element("settings-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  await reset();
  if (!model) form.focusError();
});
element("settings-form").addEventListener("change", async ({ target }) => {
  const { name, value } = /** @type {HTMLInputElement} */ (target);
  // Data and its text speak for themselves.
  if (name === "data" || name === "") return;
  if (name === "program") await useProgram(/** @type {Program} */ (value), new Map()).catch(onBroken);
  onSettings();
});
onClick(element("defaults"), () => {
  fill(new Map());
  onSettings();
});
input("open-checkpoint").addEventListener("change", () => {
  const chosen = input("open-checkpoint");
  const file = chosen.files?.[0];
  chosen.value = "";
  if (file) opening = openCheckpoint(file);
});
acceptDrops(element("drop-hint"), async (file) => {
  if (await looksLikeCheckpoint(file)) opening = openCheckpoint(file);
  else data.openFile(file);
});
offerCopies();
