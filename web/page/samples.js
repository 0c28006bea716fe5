// What the model writes: a list of draws, the latest first, with what the training data doesn't have marked.

import { loss as lossText, whole } from "./numbers.js";

/** Draws that are kept. */
const DRAWS = 12;
/** Samples of a draw that are shown, and characters of each. */
const SHOWN = 100;
const CHARACTERS = 4000;

/** The list of samples. */
export class SampleList {
  #list;
  #empty;

  /** @param {HTMLElement} list */
  constructor(list) {
    this.#list = list;
    this.#empty = [...list.children];
  }

  /** Forgets all of them. */
  clear() {
    this.#list.replaceChildren(...this.#empty);
  }

  /**
   * Shows the samples of an evaluation.
   * @param {import("./engine.js").Evaluation} evaluation
   * @param {boolean} areNames
   */
  addEvaluation({ step, test, samples }, areNames) {
    this.#add(`Step ${whole(step)}`, `test loss ${lossText(test)}`, samples, areNames);
  }

  /**
   * Shows samples that were asked for.
   * @param {number} step
   * @param {string} how they were drawn
   * @param {import("./engine.js").Sample[]} samples
   * @param {boolean} areNames
   */
  addDraw(step, how, samples, areNames) {
    this.#add(`Step ${whole(step)}`, `asked for${how ? `, ${how}` : ""}`, samples, areNames);
  }

  /**
   * @param {string} title
   * @param {string} note
   * @param {import("./engine.js").Sample[]} samples
   * @param {boolean} areNames
   */
  #add(title, note, samples, areNames) {
    const draw = document.createElement("article");
    draw.className = "draw";
    const head = document.createElement("h3");
    head.append(title, " ", element("span", "small", areNames ? `${note}, ${newCount(samples)}` : note));
    draw.append(head);
    const shown = samples.slice(0, SHOWN);
    if (areNames) {
      const names = element("ul", "names", "");
      names.append(...shown.map(name));
      draw.append(names);
    } else {
      draw.append(...shown.map(({ text }) => element("pre", "text", cut(text) || " ")));
    }
    if (samples.length > SHOWN) draw.append(element("p", "small", `and ${whole(samples.length - SHOWN)} more`));
    for (const empty of this.#empty) empty.remove();
    this.#list.prepend(draw);
    while (this.#list.children.length > DRAWS) this.#list.lastElementChild?.remove();
    this.#list.scrollTop = 0;
  }
}

/**
 * How many samples are new, in words.
 * @param {import("./engine.js").Sample[]} samples
 */
export function newCount(samples) {
  return `${samples.filter(({ isNew }) => isNew).length} of ${samples.length} new`;
}

/** @param {import("./engine.js").Sample} sample */
function name({ text, isNew }) {
  const item = element("li", isNew ? "new" : "known", "");
  if (isNew) {
    const mark = element("span", "mark", "✦");
    mark.setAttribute("aria-hidden", "true");
    item.append(mark);
  }
  item.append(element("span", "", cut(text) || "(nothing)"));
  if (isNew) item.append(element("span", "visually-hidden", " (new)"));
  return item;
}

/** @param {string} text */
function cut(text) {
  return text.length > CHARACTERS ? `${text.slice(0, CHARACTERS)} …` : text;
}

/**
 * @param {string} tag
 * @param {string} className
 * @param {string} text
 */
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
