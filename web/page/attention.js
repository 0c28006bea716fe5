// Attention of all heads of all layers: small maps to choose from, the chosen one large, and the same in words.

import { channels, colour, fit, redrawOnChange } from "./canvas.js";
import { everyFrame } from "./frames.js";
import { percent, visible } from "./numbers.js";

/** More maps than this are not drawn: nobody looks through them. */
const MAPS = 256;
/** Tokens up to which a map is written out as a table. */
const TABLE = 64;

/** The maps. */
export class AttentionMaps {
  /** @type {import("./engine.js").Attention | null} */
  #attention = null;
  /** What the maps were made for: layers, heads. */
  #shape = "";
  /** @type {HTMLCanvasElement[]} */
  #maps = [];
  #chosen = 0;
  #elements;
  #redraw;
  /** @type {ImageData | null} */
  #pixels = null;
  #scratch = document.createElement("canvas");

  /**
   * @param {{heads: HTMLElement, figure: HTMLElement, canvas: HTMLCanvasElement, title: HTMLElement, summary: HTMLElement,
   *   details: HTMLDetailsElement, table: HTMLTableElement}} elements
   */
  constructor(elements) {
    this.#elements = elements;
    this.#redraw = everyFrame(() => this.#draw());
    redrawOnChange(elements.heads, this.#redraw);
    redrawOnChange(elements.canvas, this.#redraw);
    elements.details.addEventListener("toggle", this.#redraw);
    elements.heads.addEventListener("change", ({ target }) => {
      this.#chosen = Number(/** @type {HTMLInputElement} */ (target).value);
      this.#redraw();
    });
  }

  /**
   * Shows other weights.
   * @param {import("./engine.js").Attention | null} attention
   */
  show(attention) {
    this.#attention = attention;
    this.#redraw();
  }

  /**
   * Makes a map for every head; those that are there stay, and with them what has the focus.
   * @param {number} layers
   * @param {number} heads
   */
  #arrange(layers, heads) {
    const shape = `${layers} × ${heads}`;
    if (shape === this.#shape) return;
    this.#shape = shape;
    this.#maps = [];
    const count = Math.min(layers * heads, MAPS);
    if (this.#chosen >= count) this.#chosen = 0;
    const rows = [];
    for (let layer = 0; layer * heads < count; layer++) {
      const row = document.createElement("div");
      row.className = "layer";
      const title = document.createElement("p");
      title.className = "small";
      title.textContent = `Layer ${layer + 1}`;
      const maps = document.createElement("div");
      maps.className = "maps";
      for (let head = 0; head < heads && layer * heads + head < count; head++) {
        const index = layer * heads + head;
        const label = document.createElement("label");
        const input = document.createElement("input");
        Object.assign(input, { type: "radio", name: "head", value: String(index), checked: index === this.#chosen, className: "visually-hidden" });
        input.setAttribute("aria-label", `Layer ${layer + 1}, head ${head + 1}`);
        const canvas = document.createElement("canvas");
        canvas.setAttribute("aria-hidden", "true");
        this.#maps.push(canvas);
        const caption = document.createElement("span");
        caption.textContent = `head ${head + 1}`;
        caption.setAttribute("aria-hidden", "true");
        label.append(input, canvas, caption);
        maps.append(label);
      }
      row.append(title, maps);
      rows.push(row);
    }
    this.#elements.heads.replaceChildren(...rows);
  }

  #draw() {
    const { heads: list, figure, canvas, title, summary, details, table } = this.#elements;
    const attention = this.#attention;
    figure.hidden = !attention;
    list.hidden = !attention;
    if (!attention) return;
    this.#arrange(attention.layers, attention.heads);
    const labels = attention.tokens.map(visible);
    this.#maps.forEach((map, head) => this.#map(map, attention, head, labels, 9));
    this.#map(canvas, attention, this.#chosen, labels, 13);
    const [layer, head] = [Math.floor(this.#chosen / attention.heads), this.#chosen % attention.heads];
    title.textContent = `Layer ${layer + 1}, head ${head + 1}`;
    summary.textContent = describe(attention, this.#chosen, labels);
    if (details.open) tabulate(table, attention, this.#chosen, labels);
  }

  /**
   * Draws a head's weights: a row for each query, a column for each key, nothing where the key comes later.
   * @param {HTMLCanvasElement} canvas
   * @param {import("./engine.js").Attention} attention
   * @param {number} head
   * @param {string[]} labels
   * @param {number} size of a label
   */
  #map(canvas, { tokens, weights }, head, labels, size) {
    const fitted = fit(canvas);
    if (!fitted) return;
    const { context, width } = fitted;
    const n = tokens.length;
    const margin = (width - 2 * size) / n >= size * 0.72 ? Math.round(size * 1.5) : 0;
    const cell = (width - margin) / n;
    const pixels = this.#pixels?.width === n ? this.#pixels : new ImageData(n, n);
    this.#pixels = pixels;
    const [none, all] = [channels("heat-none"), channels("heat-all")];
    for (let query = 0; query < n; query++) {
      for (let key = 0; key < n; key++) {
        const at = 4 * (query * n + key);
        const weight = weights[(head * n + query) * n + key];
        for (let c = 0; c < 3; c++) pixels.data[at + c] = none[c] + (all[c] - none[c]) * weight;
        pixels.data[at + 3] = key <= query ? 255 : 0;
      }
    }
    if (this.#scratch.width !== n || this.#scratch.height !== n) [this.#scratch.width, this.#scratch.height] = [n, n];
    this.#scratch.getContext("2d")?.putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.#scratch, margin, margin, cell * n, cell * n);
    if (margin === 0) return;
    context.fillStyle = colour("ink");
    context.font = `${size}px ${getComputedStyle(canvas).fontFamily}`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let i = 0; i < n; i++) {
      const middle = margin + cell * (i + 0.5);
      context.fillText(labels[i], margin / 2, middle);
      context.fillText(labels[i], middle, margin / 2);
    }
  }
}

/**
 * What the last characters look at most.
 * @param {import("./engine.js").Attention} attention
 * @param {number} head
 * @param {string[]} labels
 */
function describe({ tokens, weights }, head, labels) {
  const n = tokens.length;
  const query = n - 1;
  const row = Array.from(weights.subarray((head * n + query) * n, (head * n + query) * n + n));
  const most = row.map((weight, key) => ({ weight, key })).sort((a, b) => b.weight - a.weight).slice(0, 3);
  const looks = most.map(({ weight, key }) => `${labels[key]} at place ${key + 1} (${percent(weight)})`);
  return `The last character, ${labels[query]}, looks mostly at ${looks.join(", ")}.`;
}

/**
 * Writes a head's weights out.
 * @param {HTMLTableElement} table
 * @param {import("./engine.js").Attention} attention
 * @param {number} head
 * @param {string[]} labels
 */
function tabulate(table, { tokens, weights }, head, labels) {
  const n = Math.min(tokens.length, TABLE);
  const heading = (/** @type {string} */ text, /** @type {string} */ scope) => {
    const cell = document.createElement("th");
    cell.scope = scope;
    cell.textContent = text;
    return cell;
  };
  const top = document.createElement("tr");
  top.append(heading("looks at", "col"), ...labels.slice(0, n).map((label) => heading(label, "col")));
  const rows = labels.slice(0, n).map((label, query) => {
    const row = document.createElement("tr");
    row.append(heading(label, "row"));
    for (let key = 0; key < n; key++) {
      row.insertCell().textContent = key <= query ? percent(weights[(head * tokens.length + query) * tokens.length + key]) : "";
    }
    return row;
  });
  table.replaceChildren(top, ...rows);
}
