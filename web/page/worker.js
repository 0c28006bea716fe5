// The worker in which the library runs: it hands the page's calls to the engine, and the engine's answers back. The engine
// posts its events itself.

import init, { call, start } from "./shadegrad_web.js";

const started = init({ module_or_path: new URL("shadegrad_web_bg.wasm", import.meta.url) }).then(start);

self.onmessage = async ({ data: { id, call: name, ...args } }) => {
  try {
    await started;
    const result = await call(name, args);
    self.postMessage({ id, result }, result instanceof Uint8Array ? [result.buffer] : []);
  } catch (error) {
    self.postMessage({ id, error: error instanceof Error ? error.message : String(error) });
  }
};

// What could not be loaded or compiled has no other way to the page.
started.catch((error) => self.postMessage({ event: "failed", message: `the engine could not be started: ${error.message}` }));
