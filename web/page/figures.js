// The numbers above the curve.

import { atMostEvery } from "./frames.js";
import { duration, loss as lossText, whole } from "./numbers.js";

/** Milliseconds between two looks of the numbers: faster ones can't be read. */
const CALM = 200;

/** Step, losses and speed of the run. */
export class Figures {
  #values = { step: 0, steps: 0, train: NaN, test: NaN, tokens: NaN, time: NaN };
  #elements;
  #show;

  /** @param {{step: HTMLElement, steps: HTMLElement, train: HTMLElement, test: HTMLElement, tokens: HTMLElement, time: HTMLElement, progress: HTMLProgressElement}} elements */
  constructor(elements) {
    this.#elements = elements;
    this.#show = atMostEvery(CALM, () => this.#write());
  }

  /** @param {Partial<{step: number, steps: number, train: number, test: number, tokens: number, time: number}>} values */
  set(values) {
    Object.assign(this.#values, values);
    this.#show();
  }

  /**
   * Begins anew.
   * @param {number} step
   * @param {number} steps
   */
  reset(step, steps) {
    this.set({ step, steps, train: NaN, test: NaN, tokens: NaN, time: NaN });
  }

  #write() {
    const { step, steps, train, test, tokens, time } = this.#values;
    const elements = this.#elements;
    const orNone = (/** @type {number} */ value, /** @type {(value: number) => string} */ write) => (Number.isNaN(value) ? "–" : write(value));
    elements.step.textContent = steps > 0 ? whole(step) : "–";
    elements.steps.textContent = steps > 0 ? `of ${whole(steps)}` : "";
    elements.train.textContent = orNone(train, lossText);
    elements.test.textContent = orNone(test, lossText);
    elements.tokens.textContent = orNone(tokens, whole);
    elements.time.textContent = orNone(time, duration);
    elements.progress.max = Math.max(1, steps);
    elements.progress.value = Math.min(step, steps);
  }
}
