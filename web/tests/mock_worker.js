// Speaks the engine's protocol without a GPU: losses fall as told, samples are made up. The tests serve it as worker.js, behind
// a line that sets `self.mock`.

const { mode = "", software = false, perMessage = 10, pause = 20 } = self.mock ?? {};

const NAMES = ["elora", "maric", "tavin", "joselle", "anna", "brienna", "kaelor", "sten", "olivier", "marta", "ysolde", "quinlan", "della", "rhona", "viktor"];
const KNOWN = new Set(["anna", "marta", "viktor"]);

const HEADINGS = { context: "Data", "batch-size": "Data", batching: "Data", steps: "Training", lr: "Training", schedule: "Training", seed: "Training",
  "eval-interval": "Evaluation", prompt: "Sampling", samples: "Sampling", temperature: "Sampling", "top-k": "Sampling" };
const field = (name, kind, value, help, values) => ({ name, kind, value, help, heading: HEADINGS[name] ?? "Model", ...(values ? { values } : {}) });
const FIELDS = (program) => {
  const isText = program === "train_text";
  return [
    ...(isText ? [] : [field("batching", "choice", "names", "How batches are cut from it", ["stream", "names"])]),
    field("context", "integer", isText ? "64" : "16", "Tokens the model looks at"),
    field("batch-size", "integer", isText ? "16" : "32", "Rows in a training batch"),
    field("d-model", "integer", isText ? "64" : "32", "Width of the model"),
    field("n-heads", "integer", "4", "Attention heads; they divide the width"),
    field("n-kv-heads", "integer", null, "Heads of keys and values that these share [default: as many]"),
    field("n-layers", "integer", "4", "Blocks"),
    field("d-ff", "integer", null, "Width of the feed-forward layers [default: 4 × width; 8/3 × width for gated ones, rounded up to a multiple of 4]"),
    field("norm", "choice", "rms_norm", "Normalisation", ["layer_norm", "rms_norm"]),
    field("final-norm", "flag", "true", "One more normalisation before the head"),
    field("positions", "choice", isText ? "rotary" : "learned", "How positions are told apart", ["learned", "sinusoidal", "rotary", "none"]),
    field("bias", "flag", "false", "Biases on the blocks' projections and the layer norms"),
    field("attention-bias", "flag", null, "Biases on the projections of attention [default: as --bias]"),
    field("dropout", "number", "0", "Probability of dropping an activation in training"),
    field("steps", "integer", isText ? "2000" : "1500", "Training steps"),
    field("lr", "number", isText ? "0.005" : "0.006", "Learning rate at its highest"),
    field("schedule", "choice", "cosine", "How the learning rate goes on after the warm-up", ["constant", "cosine", "linear"]),
    field("seed", "integer", "42", "Decides initial weights, batches, dropout and samples"),
    field("eval-interval", "integer", "500", "Steps between two evaluations; 0 evaluates at the end only"),
    ...(isText ? [field("prompt", "text", null, "What samples begin with [default: a line end]")] : []),
    field("samples", "integer", isText ? "1" : "20", "How many samples to print at the end"),
    field("temperature", "number", "0.8", "Below 1 sharpens the distribution, above 1 flattens it, 0 takes the most likely token"),
    field("top-k", "integer", null, "Sample among this many of the most likely tokens"),
  ];
};

let model = null;
let timer = 0;
let step = 0;

const settingsOf = (program, flags) => {
  const settings = new Map(FIELDS(program).map(({ name, value }) => [name, value]));
  for (let i = 0; i < flags.length; i += 2) {
    const name = flags[i].slice(2);
    if (!settings.has(name)) throw new Error(`error: unexpected argument '${flags[i]}' found`);
    settings.set(name, flags[i + 1]);
  }
  for (const name of ["d-model", "n-heads", "n-layers", "context", "batch-size", "steps"]) {
    if (!/^\d+$/.test(settings.get(name))) throw new Error(`error: invalid value '${settings.get(name)}' for '--${name} <${name.toUpperCase()}>': invalid digit found in string`);
  }
  return settings;
};

const describe = (program, flags, text) => {
  if (program === "train_text" && text === null) throw new Error("which text? Paste one, or open a file");
  const settings = settingsOf(program, flags);
  const number = (name) => Number(settings.get(name));
  const width = number("d-model");
  if (width % number("n-heads") !== 0) throw new Error(`--n-heads ${number("n-heads")} is not possible: the width, ${width}, is no multiple of it`);
  if (Number(settings.get("n-kv-heads")) > number("n-heads")) throw new Error(`--n-kv-heads ${settings.get("n-kv-heads")} is not possible: at most --n-heads`);
  return {
    program, adapter: software ? "SwiftShader Device (Subzero) | webgpu | CPU" : "NVIDIA GeForce RTX 4070 | webgpu | lovelace", isSoftware: software,
    parameters: number("n-layers") * 12 * width * width + 2 * 27 * width, vocabulary: "\nabcdefghijklmnopqrstuvwxyz",
    note: null, summary: text === null ? "9,944 names, 1,000 of them for the test" : `${text.length} characters`,
    model: `${number("n-layers") * 12 * width * width + 54 * width} parameters · layers ${number("n-layers")}, width ${width}, heads ${number("n-heads")}, context ${number("context")}`,
    flags, command: `cargo run --release --example ${program}${flags.length ? ` -- ${flags.join(" ")}` : ""}`,
    step, steps: number("steps"), context: number("context"), layers: number("n-layers"), heads: number("n-heads"),
    interval: Number(settings.get("eval-interval")),
  };
};

const lossAt = (at) => 1.85 + 1.45 * Math.exp(-at / 160) + 0.35 * Math.exp(-at / 900);
const draw = (count, seed, prompt = "") => Array.from({ length: count }, (_, i) => {
  if (model.program === "train_text") return { text: `${prompt}the quick brown\nfox jumps over ${seed} lazy dogs, and then the rain comes down on all of them`, isNew: true };
  const text = prompt + NAMES[(i * 7 + seed * 3) % NAMES.length];
  return { text, isNew: !KNOWN.has(text) };
});
const evaluate = () => postMessage({ event: "evaluation", step, train: lossAt(step), test: lossAt(step) + 0.04 + step / 60000, samples: draw(20, step / 100 | 0) });
const advance = (count) => {
  const records = [];
  for (let i = 0; i < count && step < model.steps; i++) {
    step += 1;
    const noise = Math.sin(step * 12.9898) * 43758.5453 % 1;
    records.push({ step, loss: lossAt(step) + 0.12 * noise, gradNorm: 0.5, lr: 0.006, stepMs: 1.4 });
    if (model.interval > 0 && step % model.interval === 0 && step < model.steps) {
      postMessage({ event: "steps", records: records.splice(0), tokensPerSecond: 364_000 });
      evaluate();
    }
  }
  if (records.length > 0) postMessage({ event: "steps", records, tokensPerSecond: 364_000 });
};
const stop = () => { clearTimeout(timer); timer = 0; };
const tick = () => {
  timer = 0;
  advance(perMessage);
  if (mode === "nan" && step >= 50) {
    postMessage({ event: "failed", message: "the loss of step 50 is NaN: lower --lr, 0.006 now" });
    return;
  }
  if (mode === "crash" && step >= 50) throw new Error("unreachable executed");
  if (step >= model.steps) {
    evaluate();
    postMessage({ event: "finished", step });
    postMessage({ event: "state", running: false, step });
    return;
  }
  timer = setTimeout(tick, pause);
};

const calls = {
  defaults: ({ program }) => FIELDS(program),
  open({ program, flags, text }) {
    stop();
    const before = step;
    step = 0;
    try { model = describe(program, flags, text); } catch (error) { step = before; throw error; }
    return model;
  },
  openCheckpoint({ bytes, name }) {
    stop();
    const json = new TextDecoder().decode(bytes.subarray(8));
    if (!json.includes("shadegrad")) throw new Error(`${name}: it has no settings of a training run, so it is no checkpoint of train_names or train_text`);
    step = 700;
    model = describe("train_names", ["--d-model", "64", "--n-layers", "2"], null);
    return model;
  },
  run() {
    postMessage({ event: "state", running: true, step });
    if (!timer) timer = setTimeout(tick, 0);
    return null;
  },
  pause() {
    stop();
    postMessage({ event: "state", running: false, step });
    return null;
  },
  step() {
    advance(1);
    postMessage({ event: "state", running: false, step });
    return null;
  },
  sample({ prompt, count, temperature }) {
    if (/[^a-z]/.test(prompt)) throw new Error(`the prompt has “${/[^a-z]/.exec(prompt)[0]}”, which the model has never seen`);
    return draw(count, Math.round(temperature * 10), prompt);
  },
  attention({ text }) {
    const strange = /[^a-z]/.exec(text);
    if (strange && model.program === "train_names") throw new Error(`the text has “${strange[0]}”, which is not in the vocabulary`);
    const tokens = ["\n", ...text];
    const { layers, heads } = model;
    const n = tokens.length;
    const weights = new Float32Array(layers * heads * n * n);
    for (let map = 0; map < layers * heads; map++) {
      for (let query = 0; query < n; query++) {
        let sum = 0;
        for (let key = 0; key <= query; key++) {
          const sharp = Math.min(3, step / 200) * Math.cos((query - key) * (1 + map % heads) + Math.floor(map / heads) + key * map * 0.37);
          sum += weights[(map * n + query) * n + key] = Math.exp(sharp);
        }
        for (let key = 0; key <= query; key++) weights[(map * n + query) * n + key] /= sum;
      }
    }
    return { tokens, layers, heads, weights };
  },
  save() {
    const header = new TextEncoder().encode(`{"__metadata__":{"shadegrad":"${step}"}}`);
    const bytes = new Uint8Array(8 + header.length);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
    bytes.set(header, 8);
    return bytes;
  },
  memory: () => ({ device: 0, wasm: 0, plans: 0, pipelines: 0 }),
  destroy() {
    stop();
    setTimeout(() => postMessage({ event: "failed", message: "the device was lost: the driver was reset" }), 10);
    return null;
  },
};

onmessage = ({ data: { id, call, ...args } }) => {
  try {
    postMessage({ id, result: calls[call](args) });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
};

if (mode === "no-adapter") postMessage({ event: "unsupported", message: "no GPU adapter found: requestAdapter gave none" });
else postMessage({ event: "ready", adapter: "NVIDIA GeForce RTX 4070 | webgpu | lovelace" });
if (mode === "lost") setTimeout(() => { stop(); postMessage({ event: "failed", message: "the device was lost:\n  the driver was reset\n" }); }, 700);
