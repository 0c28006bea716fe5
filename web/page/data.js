// What is trained on: the names that come with the page, or somebody's own text.

import { whole } from "./numbers.js";
import { readText } from "./files.js";

/** Characters up to which a text from a file goes into the text field; a longer one would make the page stutter. */
const SHOWN = 100_000;

/** What a text program trains on where nobody has given a text: what this page is made of. */
const SOURCE = ["index.html", "style.css", ...["main", "address", "attention", "canvas", "curve", "data", "elements", "engine", "figures",
  "files", "frames", "history", "numbers", "parts", "samples", "sampling", "settings", "share", "support"].map((name) => `${name}.js`)];

/** The choice of the data. */
export class DataChoice {
  /** @type {string | null} a file's name */
  #name = null;
  /** @type {string | null} a file's text, where it is too long to show */
  #long = null;
  /** @type {import("./engine.js").Program} */
  #program = "train_names";
  #source = "";
  #elements;
  #onChange;

  /**
   * @param {{builtIn: HTMLInputElement, own: HTMLInputElement, builtInLabel: HTMLElement, panel: HTMLElement, label: HTMLElement,
   *   text: HTMLTextAreaElement, file: HTMLElement, open: HTMLInputElement, error: HTMLElement}} elements
   * @param {() => void} onChange
   */
  constructor(elements, onChange) {
    this.#elements = elements;
    this.#onChange = onChange;
    const { builtIn, own, text, open } = elements;
    for (const radio of [builtIn, own]) {
      radio.addEventListener("change", () => {
        this.#show();
        onChange();
      });
    }
    text.addEventListener("input", () => {
      this.#name = null;
      this.#elements.file.hidden = true;
    });
    text.addEventListener("change", onChange);
    open.addEventListener("change", () => {
      const file = open.files?.[0];
      open.value = "";
      if (file) this.openFile(file);
    });
  }

  /**
   * Offers data for a program.
   * @param {import("./engine.js").Program} program
   */
  async setProgram(program) {
    this.#program = program;
    const areNames = program === "train_names";
    this.#elements.builtInLabel.textContent = areNames ? "Built in" : "This page's source";
    this.#elements.label.textContent = areNames ? "One name a line" : "Any text";
    if (areNames || this.#source !== "") return;
    const texts = SOURCE.map(async (name) => (await fetch(new URL(name, import.meta.url))).text());
    try {
      this.#source = (await Promise.all(texts)).join("\n");
    } catch {
      this.#elements.error.textContent = "This page's source could not be loaded: paste a text of your own.";
    }
  }

  /**
   * Takes a file's text.
   * @param {File} file
   */
  async openFile(file) {
    const { own, text, error } = this.#elements;
    error.textContent = "";
    own.checked = true;
    this.#show();
    try {
      const read = await readText(file);
      this.#name = file.name;
      this.#long = read.length > SHOWN ? read : null;
      text.value = this.#long === null ? read : "";
      this.#show();
      this.#onChange();
    } catch (problem) {
      error.textContent = /** @type {Error} */ (problem).message;
    }
  }

  /** Somebody's own text, if there is to be one. */
  get own() {
    return this.#elements.own.checked ? (this.#long ?? this.#elements.text.value) : null;
  }

  /** The text to train on, or null for the names that come with the engine. */
  get text() {
    return this.own ?? (this.#program === "train_text" ? this.#source : null);
  }

  /** How a command line calls the text, if it is not the names that the program has. */
  get fileName() {
    if (this.text === null) return null;
    return (this.own === null ? null : this.#name) ?? (this.#program === "train_text" ? "text.txt" : "names.txt");
  }

  /**
   * Whether there is something to train on; says so where not.
   * @param {{focus: boolean}} options
   */
  check({ focus }) {
    const isMissing = this.text !== null && this.text?.trim() === "";
    this.#elements.error.textContent = isMissing ? "There is nothing here yet: paste a text or open a file." : "";
    if (isMissing && focus) (this.own === null ? this.#elements.own : this.#elements.text).focus();
    return !isMissing;
  }

  #show() {
    const { own, panel, text, file } = this.#elements;
    panel.hidden = !own.checked;
    text.hidden = this.#long !== null;
    file.hidden = this.#name === null;
    const length = this.#long?.length ?? text.value.length;
    file.textContent = `${this.#name}: ${whole(length)} characters${this.#long === null ? "" : ", too many to show here"}`;
  }
}
