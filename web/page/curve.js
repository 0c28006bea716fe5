// The loss curve: a drawing, a sentence and a table of the same.

import { channels, colour, fit, redrawOnChange } from "./canvas.js";
import { everyFrame } from "./frames.js";
import { History } from "./history.js";
import { loss as lossText, nice, whole } from "./numbers.js";

const MARGIN = { left: 40, right: 14, top: 10, bottom: 34 };
/** Rows of the table. */
const ROWS = 100;

/** Draws the losses of a run. */
export class LossCurve {
  #history = new History();
  /** Steps of the whole run. */
  #steps = 1000;
  /** The loss of guessing among all characters alike. */
  #chance = NaN;
  /** @type {{x: number} | null} */
  #pointer = null;
  #canvas;
  #summary;
  #rows;
  #details;
  #readout;
  #redraw;

  /** @param {{canvas: HTMLCanvasElement, summary: HTMLElement, rows: HTMLElement, details: HTMLDetailsElement, readout: HTMLElement}} elements */
  constructor({ canvas, summary, rows, details, readout }) {
    this.#canvas = canvas;
    this.#summary = summary;
    this.#rows = rows;
    this.#details = details;
    this.#readout = readout;
    this.#redraw = everyFrame(() => this.#draw());
    redrawOnChange(canvas, this.#redraw);
    canvas.addEventListener("pointermove", ({ offsetX }) => this.#point({ x: offsetX }));
    canvas.addEventListener("pointerleave", () => this.#point(null));
    details.addEventListener("toggle", () => this.#write());
  }

  /**
   * Begins anew.
   * @param {number} steps of the whole run
   * @param {number} characters in the vocabulary
   */
  reset(steps, characters) {
    this.#history.clear();
    this.#steps = Math.max(1, steps);
    this.#chance = Math.log(characters);
    this.#write();
    this.#redraw();
  }

  /** @param {{step: number, loss: number}[]} records */
  addSteps(records) {
    for (const { step, loss } of records) this.#history.add(step, loss);
    this.#redraw();
  }

  /** @param {{step: number, train: number, test: number}} evaluation */
  addEvaluation(evaluation) {
    this.#history.addEvaluation(evaluation);
    this.#write();
    this.#redraw();
  }

  /** The latest training loss, smoothed. */
  get loss() {
    return this.#history.latest?.loss;
  }

  /** Says in words and numbers what the drawing shows. */
  write() {
    this.#write();
  }

  /** @param {{x: number} | null} pointer */
  #point(pointer) {
    this.#pointer = pointer;
    this.#redraw();
  }

  #write() {
    const { first, latest, evaluations } = this.#history;
    const last = evaluations.at(-1);
    const sentences = [];
    if (first && latest) {
      sentences.push(latest.step === first.step
        ? `Training loss ${lossText(first.loss)} at step ${whole(first.step)}.`
        : `Training loss from ${lossText(first.loss)} at step ${whole(first.step)} to ${lossText(latest.loss)} at step ${whole(latest.step)}.`);
    }
    if (last) sentences.push(`Test loss ${lossText(last.test)} at step ${whole(last.step)}.`);
    if (Number.isFinite(this.#chance)) sentences.push(`Guessing would be ${lossText(this.#chance)}.`);
    this.#summary.textContent = sentences.join(" ");
    if (!this.#details.open) return;
    const shown = evaluations.slice(-ROWS).reverse();
    const cells = shown.map(({ step, train, test }) => [whole(step), lossText(train), lossText(test)]);
    this.#rows.replaceChildren(...(cells.length > 0 ? cells : [["none yet", "", ""]]).map((texts) => {
      const row = document.createElement("tr");
      for (const text of texts) row.insertCell().textContent = text;
      return row;
    }));
  }

  #draw() {
    const fitted = fit(this.#canvas);
    if (!fitted) return;
    const { context, width, height } = fitted;
    const history = this.#history;
    const plot = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };

    // The axis grows in round steps with the run, up to all of it.
    const reached = Math.max(history.latest?.step ?? 0, history.evaluations.at(-1)?.step ?? 0);
    const end = reached === 0 ? this.#steps : Math.max(reached, Math.min(this.#steps, nice(Math.max(20, reached * 1.02))));
    const { low, high, tick } = lossRange(history, this.#chance);
    const x = (/** @type {number} */ step) => plot.left + ((plot.right - plot.left) * step) / end;
    const y = (/** @type {number} */ value) => plot.bottom - ((plot.bottom - plot.top) * (value - low)) / (high - low);

    context.font = `12px ${getComputedStyle(this.#canvas).fontFamily}`;
    axes(context, plot, { low, high, tick, end, x, y });

    context.save();
    context.beginPath();
    context.rect(plot.left, plot.top - 4, plot.right - plot.left + 5, plot.bottom - plot.top + 8);
    context.clip();
    if (this.#chance > low && this.#chance < high) {
      line(context, [[plot.left, y(this.#chance)], [plot.right, y(this.#chance)]], colour("muted"), 1, [2, 4]);
    }
    /** @type {[number, number][]} */
    const raw = [];
    /** @type {[number, number][]} */
    const smooth = [];
    history.forEach((step, loss, smoothed) => {
      raw.push([x(step), y(loss)]);
      smooth.push([x(step), y(smoothed)]);
    });
    const [r, g, b] = channels("train");
    line(context, raw, `rgba(${r},${g},${b},0.35)`, 1, []);
    line(context, smooth, colour("train"), 2, []);
    /** @type {[number, number][]} */
    const test = history.evaluations.map(({ step, test }) => [x(step), y(test)]);
    line(context, test, colour("test"), 2, [6, 4]);
    if (test.length <= 60) {
      context.fillStyle = colour("test");
      for (const [across, down] of test) {
        context.beginPath();
        context.arc(across, down, 3.5, 0, 2 * Math.PI);
        context.fill();
      }
    }
    context.restore();
    this.#drawPointer(context, plot, x);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {{left: number, right: number, top: number, bottom: number}} plot
   * @param {(step: number) => number} x
   */
  #drawPointer(context, plot, x) {
    const pointer = this.#pointer;
    /** @type {{step: number, smoothed: number} | null} */
    let nearest = null;
    if (pointer) {
      let best = Infinity;
      this.#history.forEach((step, _, smoothed) => {
        const distance = Math.abs(x(step) - pointer.x);
        if (distance < best) [best, nearest] = [distance, { step, smoothed }];
      });
    }
    const found = /** @type {{step: number, smoothed: number} | null} */ (nearest);
    if (!found) {
      this.#readout.textContent = "";
      return;
    }
    line(context, [[x(found.step), plot.top], [x(found.step), plot.bottom]], colour("muted"), 1, []);
    this.#readout.textContent = `step ${whole(found.step)}: ${lossText(found.smoothed)}`;
  }
}

/**
 * What of the losses is shown.
 * @param {History} history
 * @param {number} chance
 */
function lossRange(history, chance) {
  let [least, most] = [Infinity, -Infinity];
  const take = (/** @type {number} */ value) => {
    if (!Number.isFinite(value)) return;
    least = Math.min(least, value);
    most = Math.max(most, value);
  };
  history.forEach((_, loss) => take(loss));
  for (const { test } of history.evaluations) take(test);
  if (least > most) [least, most] = Number.isFinite(chance) ? [0, chance * 1.1] : [0, 4];
  const tick = nice(Math.max(most - least, 0.05) / 5);
  return { low: Math.max(0, Math.floor(least / tick - 0.1) * tick), high: Math.ceil(most / tick + 0.1) * tick, tick };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {{left: number, right: number, top: number, bottom: number}} plot
 * @param {{low: number, high: number, tick: number, end: number, x: (step: number) => number, y: (loss: number) => number}} scales
 */
function axes(context, plot, { low, high, tick, end, x, y }) {
  context.fillStyle = colour("muted");
  context.textBaseline = "middle";
  context.textAlign = "right";
  const digits = Math.max(0, -Math.floor(Math.log10(tick) + 1e-9));
  for (let value = low; value <= high + tick / 2; value += tick) {
    line(context, [[plot.left, y(value)], [plot.right, y(value)]], colour("grid"), 1, []);
    context.fillText(value.toFixed(digits), plot.left - 6, y(value));
  }
  context.textBaseline = "top";
  const step = Math.max(1, nice(end / Math.max(2, Math.round((plot.right - plot.left) / 85))));
  for (let value = 0; value <= end + 1e-6; value += step) {
    context.textAlign = value === 0 ? "left" : x(value) > plot.right - 20 ? "right" : "center";
    line(context, [[x(value), plot.bottom], [x(value), plot.bottom + 4]], colour("muted"), 1, []);
    context.fillText(whole(value), x(value) + (context.textAlign === "right" ? 4 : 0), plot.bottom + 6);
  }
  context.textAlign = "right";
  context.textBaseline = "alphabetic";
  context.fillText("step", plot.right, plot.bottom + 31);
  context.textAlign = "left";
  context.fillText("loss", 2, plot.bottom + 31);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {[number, number][]} points
 * @param {string} style
 * @param {number} width
 * @param {number[]} dash
 */
function line(context, points, style, width, dash) {
  if (points.length === 0) return;
  context.strokeStyle = style;
  context.lineWidth = width;
  context.lineJoin = "round";
  context.setLineDash(dash);
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
  context.setLineDash([]);
}
