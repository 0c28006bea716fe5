// Files that are opened, dropped and saved.

/** Larger files than these are a slip of the hand. */
const MOST_TEXT = 64 * 2 ** 20;
const MOST_CHECKPOINT = 2 ** 30;

/**
 * Reads a text.
 * @param {File} file
 * @returns {Promise<string>} rejected with a line for the reader if it is none
 */
export async function readText(file) {
  if (await looksLikeCheckpoint(file)) throw new Error(`${file.name} is a checkpoint, not a text: open it under “Checkpoint”.`);
  if (file.size > MOST_TEXT) throw new Error(`${file.name} is larger than ${megabytes(MOST_TEXT)}: a tab can't train on so much, take a part of it.`);
  const bytes = await file.arrayBuffer();
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error(`${file.name} is not a text in UTF-8: save it as one, or paste the text.`);
  }
  if (text.includes("\0")) throw new Error(`${file.name} is not a text: it has bytes that are zero.`);
  if (text.trim() === "") throw new Error(`${file.name} is empty: choose a file that has a text.`);
  return text.replace(/\r\n?/g, "\n");
}

/**
 * Reads a checkpoint's bytes.
 * @param {File} file
 * @returns {Promise<Uint8Array<ArrayBuffer>>} rejected with a line for the reader if it is none
 */
export async function readCheckpoint(file) {
  if (!(await looksLikeCheckpoint(file))) {
    throw new Error(`${file.name} is not a checkpoint: open a .safetensors file that “Save” here or --checkpoint on a desktop has written.`);
  }
  if (file.size > MOST_CHECKPOINT) throw new Error(`${file.name} is larger than ${megabytes(MOST_CHECKPOINT)}: go on with it on a desktop, with --resume.`);
  return new Uint8Array(await file.arrayBuffer());
}

/**
 * Whether a file begins as a safetensors file does: with the length of its header, which is JSON.
 * @param {File} file
 */
export async function looksLikeCheckpoint(file) {
  const head = new DataView(await file.slice(0, 9).arrayBuffer());
  return head.byteLength === 9 && head.getBigUint64(0, true) <= BigInt(file.size) && head.getUint8(8) === "{".charCodeAt(0);
}

/**
 * Saves bytes as a file.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @param {string} name
 */
export function save(bytes, name) {
  const address = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  // Browsers read it after the click; when they are done they don't say.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/**
 * Takes files that are dropped anywhere on the page.
 * @param {HTMLElement} hint is shown while one is held over the page
 * @param {(file: File) => void} take
 */
export function acceptDrops(hint, take) {
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  window.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    hint.hidden = false;
  });
  window.addEventListener("dragleave", (event) => {
    // It has left the page, not just one element for another.
    if (event.relatedTarget === null) hint.hidden = true;
  });
  window.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    hint.hidden = true;
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
}

/** @param {number} bytes */
export function megabytes(bytes) {
  return bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KB` : `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;
}
