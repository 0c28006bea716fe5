// The page's end of the conversation with the worker in which the library runs.

/** @typedef {"train_names" | "train_text"} Program */

/**
 * What the worker says about a model that it has opened.
 * @typedef {object} Description
 * @property {Program} program
 * @property {string} adapter
 * @property {boolean} isSoftware
 * @property {number} parameters
 * @property {string} vocabulary
 * @property {string} summary one line about the data
 * @property {string | null} [note] what else is to be known about it
 * @property {string} model one line about the model
 * @property {string[]} flags the settings, as the program's flags
 * @property {string} command what does the same on a desktop
 * @property {number} step steps done
 * @property {number} steps steps to do
 * @property {number} context
 * @property {number} layers
 * @property {number} heads
 */

/** @typedef {{name: string, help: string, value: string | number | boolean | null, values?: string[], kind: "integer" | "number" | "choice" | "flag" | "text", heading?: string | null}} Field */
/** @typedef {{step: number, loss: number, gradNorm: number, lr: number, stepMs: number}} StepRecord */
/** @typedef {{text: string, isNew: boolean}} Sample */
/** @typedef {{step: number, train: number, test: number, samples: Sample[]}} Evaluation */
/** @typedef {{tokens: string[], layers: number, heads: number, weights: Float32Array}} Attention */

/** A worker that trains, and the calls that wait for its answers. */
export class Engine {
  /** @type {Worker | null} */
  #worker = null;
  /** @type {Map<number, {resolve: (value: any) => void, reject: (error: Error) => void}>} */
  #calls = new Map();
  #id = 0;
  /** @type {(event: any) => void} takes the first event of a worker */
  #first = () => {};
  /** @type {(event: any) => void} */
  #listener;

  /** @param {(event: any) => void} listener takes the worker's events, and `crashed {message}` */
  constructor(listener) {
    this.#listener = listener;
  }

  /**
   * Starts a worker; one that runs already is ended, and with it its device.
   * @returns {Promise<any>} its first event: `ready`, `unsupported`, `failed` or `crashed`
   */
  start() {
    this.stop("it was started anew");
    const first = new Promise((resolve) => { this.#first = resolve; });
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => this.#receive(data);
    worker.onerror = (event) => {
      event.preventDefault();
      const reason = event.message || "its files could not be loaded";
      this.stop(reason);
      this.#receive({ event: "crashed", message: `The engine has stopped: ${reason}.` });
    };
    this.#worker = worker;
    return first;
  }

  /**
   * Ends the worker. Calls without an answer fail.
   * @param {string} reason
   */
  stop(reason) {
    this.#worker?.terminate();
    this.#worker = null;
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const call of calls) call.reject(new Stopped(reason));
  }

  /**
   * Calls the worker.
   * @param {string} call
   * @param {object} [args]
   * @returns {Promise<any>}
   */
  call(call, args = {}) {
    const worker = this.#worker;
    if (!worker) return Promise.reject(new Stopped("it does not run"));
    const id = ++this.#id;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      worker.postMessage({ id, call, ...args });
    });
  }

  /** @param {any} message */
  #receive(message) {
    if (message.event) {
      this.#first(message);
      this.#listener(message);
      return;
    }
    const call = this.#calls.get(message.id);
    this.#calls.delete(message.id);
    if (message.error === undefined) call?.resolve(message.result);
    else call?.reject(new Error(message.error));
  }
}

/** A call had no answer because the worker ended. Whoever ended it says so elsewhere. */
export class Stopped extends Error {
  /** @param {string} reason */
  constructor(reason) {
    super(`the engine has stopped: ${reason}`);
  }
}
