// The settings form: a field for each of the program's flags, as the program itself describes them.

/** @typedef {import("./engine.js").Field} Field */

/** What is changed most, in this order, and how the form calls it. */
const FRONT = new Map([
  ["d-model", "Width"],
  ["n-layers", "Layers"],
  ["n-heads", "Heads"],
  ["context", "Context"],
  ["batch-size", "Batch"],
  ["lr", "Learning rate"],
  ["steps", "Steps"],
  ["eval-interval", "Evaluate every"],
]);

/** The form. */
export class SettingsForm {
  /** @type {Map<string, {field: Field, input: HTMLInputElement | HTMLSelectElement, isBound: boolean}>} */
  #fields = new Map();
  #front;
  #more;
  #moreDetails;
  #error;
  #bound;
  /** @type {HTMLElement | null} */
  #wrong = null;

  /**
   * @param {{front: HTMLElement, more: HTMLElement, details: HTMLDetailsElement, error: HTMLElement}} elements
   * @param {Map<string, HTMLInputElement>} bound inputs elsewhere on the page that stand for fields of these names
   */
  constructor({ front, more, details, error }, bound) {
    this.#front = front;
    this.#more = more;
    this.#moreDetails = details;
    this.#error = error;
    this.#bound = bound;
  }

  /**
   * Makes the fields, with their defaults.
   * @param {Field[]} fields
   */
  setFields(fields) {
    this.#fields.clear();
    this.clearError();
    /** @type {Map<string, HTMLElement>} */
    const front = new Map();
    /** @type {Map<string, HTMLElement[]>} */
    const more = new Map();
    for (const field of fields) {
      const bound = this.#bound.get(field.name);
      const input = bound ?? makeInput(field);
      this.#fields.set(field.name, { field, input, isBound: bound !== undefined });
      if (bound) continue;
      const label = FRONT.get(field.name);
      if (label) front.set(field.name, row(field, input, label));
      else {
        const heading = field.heading ?? "Others";
        more.set(heading, [...(more.get(heading) ?? []), row(field, input, null)]);
      }
    }
    this.#front.replaceChildren(...[...FRONT.keys()].flatMap((name) => front.get(name) ?? []));
    this.#more.replaceChildren(...[...more].map(([heading, rows]) => group(heading, rows)));
    this.fill(new Map());
  }

  /** Whether there are fields. */
  get isMade() {
    return this.#fields.size > 0;
  }

  /** @param {string} name */
  has(name) {
    return this.#fields.has(name);
  }

  /**
   * The default of a field.
   * @param {string} name
   */
  usual(name) {
    return text(this.#fields.get(name)?.field.value ?? null);
  }

  /**
   * Sets the given settings, and all others to their defaults.
   * @param {Map<string, string>} settings
   * @returns {string[]} what could not be set: there is no such setting, or a switch is to be neither on nor off
   */
  fill(settings) {
    for (const { field, input } of this.#fields.values()) set(input, text(field.value));
    const refused = [];
    for (const [name, value] of settings) {
      const entry = this.#fields.get(name);
      if (!entry || !set(entry.input, value)) refused.push(`${name}=${value}`);
    }
    return refused;
  }

  /**
   * The settings that differ from their defaults.
   * @param {{withBound: boolean}} options whether those count that stand elsewhere on the page
   * @returns {[string, string][]}
   */
  differences({ withBound }) {
    /** @type {[string, string][]} */
    const different = [];
    for (const [name, { field, input, isBound }] of this.#fields) {
      if (isBound && !withBound) continue;
      const value = get(input);
      // An empty field asks for the default, whatever that is.
      if (value !== "" && value !== text(field.value)) different.push([name, value]);
    }
    return different;
  }

  /**
   * Shows what is wrong with the settings, at the fields that the message names.
   * @param {string} message
   */
  showError(message) {
    this.clearError();
    this.#error.textContent = message;
    this.#error.hidden = false;
    const named = [...message.matchAll(/--([a-z][a-z0-9-]*)/g)].map(([, name]) => this.#fields.get(name));
    const entry = named.find((entry) => entry !== undefined);
    if (!entry) return;
    this.#wrong = entry.input;
    entry.input.setAttribute("aria-invalid", "true");
    const described = entry.input.getAttribute("aria-describedby");
    entry.input.dataset.describedby = described ?? "";
    entry.input.setAttribute("aria-describedby", [this.#error.id, described].filter(Boolean).join(" "));
    if (this.#more.contains(entry.input)) this.#moreDetails.open = true;
  }

  /** Takes the message away. */
  clearError() {
    this.#error.hidden = true;
    this.#error.textContent = "";
    const wrong = this.#wrong;
    if (!wrong) return;
    wrong.removeAttribute("aria-invalid");
    if (wrong.dataset.describedby) wrong.setAttribute("aria-describedby", wrong.dataset.describedby);
    else wrong.removeAttribute("aria-describedby");
    this.#wrong = null;
  }

  /** Leads whoever wants to go on to what is wrong. */
  focusError() {
    const wrong = this.#wrong ?? this.#error;
    if (wrong === this.#error) wrong.tabIndex = -1;
    wrong.focus();
    wrong.scrollIntoView({ block: "center" });
  }
}

/** @param {Field["value"]} value */
function text(value) {
  return value === null || value === undefined ? "" : String(value);
}

/** @param {HTMLInputElement | HTMLSelectElement} input */
function get(input) {
  if (input instanceof HTMLInputElement && input.type === "checkbox") return String(input.checked);
  // What a sample begins with may be a space; nothing else is one.
  return input.name === "prompt" ? input.value : input.value.trim();
}

/**
 * @param {HTMLInputElement | HTMLSelectElement} input
 * @param {string} value
 * @returns {boolean} whether that is possible
 */
function set(input, value) {
  if (input instanceof HTMLSelectElement) {
    // The program says what is wrong with a kind that it doesn't have.
    if (![...input.options].some((option) => option.value === value)) input.add(new Option(value, value));
    input.value = value;
    return true;
  }
  if (input.type !== "checkbox") {
    input.value = value;
    return true;
  }
  input.checked = value === "true";
  return value === "true" || value === "false";
}

/**
 * @param {Field} field
 * @returns {HTMLInputElement | HTMLSelectElement}
 */
function makeInput(field) {
  const { name, kind, value } = field;
  const choices = kind === "choice" ? (field.values ?? []) : kind === "flag" && value === null ? ["true", "false"] : null;
  const input = document.createElement(choices ? "select" : "input");
  input.id = `setting-${name}`;
  input.name = name;
  if (input instanceof HTMLSelectElement) {
    if (value === null) input.add(new Option("default", ""));
    for (const choice of choices ?? []) input.add(new Option(choice, choice));
  } else if (kind === "flag") {
    input.type = "checkbox";
  } else {
    // Not a number field: what is no number is for the program to refuse, in its own words.
    input.inputMode = { integer: "numeric", number: "decimal" }[/** @type {string} */ (kind)] ?? "text";
    input.spellcheck = false;
    input.placeholder = defaultOf(field);
  }
  return input;
}

/**
 * What a field without a default says that it is if nobody sets it.
 * @param {Field} field
 */
function defaultOf({ value, help }) {
  return value === null ? (/\[default: ([^\];]+)/.exec(help)?.[1] ?? "") : "";
}

/**
 * @param {string} heading
 * @param {HTMLElement[]} rows
 */
function group(heading, rows) {
  const made = document.createElement("fieldset");
  made.className = "fields";
  const legend = document.createElement("legend");
  legend.textContent = heading;
  made.append(legend, ...rows);
  return made;
}

/**
 * A field with its label, its flag and its help.
 * @param {Field} field
 * @param {HTMLInputElement | HTMLSelectElement} input
 * @param {string | null} title
 */
function row(field, input, title) {
  const made = document.createElement("div");
  made.className = input.type === "checkbox" ? "field switch" : "field";
  const label = document.createElement("label");
  label.htmlFor = input.id;
  const flag = document.createElement("code");
  flag.textContent = field.name;
  if (title) label.append(title, " ", flag);
  else label.append(flag);
  const help = document.createElement("span");
  help.id = `help-${field.name}`;
  help.textContent = field.help;
  // In front there is no room for it; it is there to be heard, and to be seen where the pointer rests.
  help.className = title ? "visually-hidden" : "small help";
  if (title) made.title = field.help;
  input.setAttribute("aria-describedby", help.id);
  made.append(label, input, help);
  return made;
}
