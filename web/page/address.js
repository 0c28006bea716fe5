// Settings in the page's address and as a command line.

/** @typedef {import("./engine.js").Program} Program */

/** @type {Program[]} */
export const PROGRAMS = ["train_names", "train_text"];

/**
 * Reads an address's query.
 * @param {string} query
 * @returns {{program: Program, settings: Map<string, string>, unknownProgram: string | null}}
 */
export function read(query) {
  /** @type {Map<string, string>} */
  const settings = new Map();
  /** @type {Program} */
  let program = "train_names";
  let unknownProgram = null;
  for (const [key, value] of new URLSearchParams(query)) {
    const name = key.replaceAll("_", "-");
    if (name !== "program") settings.set(name, value);
    else if (PROGRAMS.includes(/** @type {Program} */ (value))) program = /** @type {Program} */ (value);
    else unknownProgram = value;
  }
  return { program, settings, unknownProgram };
}

/**
 * Writes an address's query, empty where everything is as usual.
 * @param {Program} program
 * @param {Iterable<[string, string]>} settings what differs from the defaults
 */
export function write(program, settings) {
  const parameters = new URLSearchParams([...settings]);
  if (parameters.size === 0 && program === "train_names") return "";
  return `?${new URLSearchParams([["program", program], ...parameters])}`;
}

/**
 * Settings as flags of the program.
 * @param {Iterable<[string, string]>} settings
 * @returns {string[]}
 */
export function flags(settings) {
  return [...settings].flatMap(([name, value]) => [`--${name}`, value]);
}

/**
 * Flags as settings: `--name value`, `--name=value`, or `--name` alone, which is true.
 * @param {string[]} words
 * @returns {Map<string, string>}
 */
export function settingsOf(words) {
  /** @type {Map<string, string>} */
  const settings = new Map();
  for (let i = 0; i < words.length; i++) {
    const [, name, value] = /^--([^=]+)(?:=(.*))?$/s.exec(words[i]) ?? [];
    if (name === undefined) continue;
    if (value !== undefined) settings.set(name, value);
    else if (i + 1 < words.length && !words[i + 1].startsWith("--")) settings.set(name, words[++i]);
    else settings.set(name, "true");
  }
  return settings;
}

/**
 * The command line that does the same on a desktop.
 * @param {Program} program
 * @param {string[]} words
 */
export function command(program, words) {
  const line = `cargo run --release --example ${program}`;
  return words.length === 0 ? line : `${line} -- ${words.map(quoted).join(" ")}`;
}

/** @param {string} word */
function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
