// The page's elements, and what is done with them everywhere.

import { Stopped } from "./engine.js";

/**
 * An element by its name.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 */
export const element = (id) => /** @type {T} */ (document.getElementById(id));

/** @param {string} id */
export const input = (id) => /** @type {HTMLInputElement} */ (document.getElementById(id));

export const buttons = { run: element("run"), step: element("step"), reset: element("reset"), sample: element("sample"), save: element("save") };

/** Settings that are not in the form. */
export const fields = { prompt: input("prompt"), temperature: input("temperature"), "top-k": input("top-k"), attention: input("attention-text") };

/**
 * Says what state the page is in, aloud too where somebody listens.
 * @param {string} text
 */
export function say(text) {
  const status = element("status");
  if (status.textContent !== text) status.textContent = text;
}

/**
 * Acts on a button that can be used. One that can't keeps the focus, so that nobody is lost who has just pressed it.
 * @param {HTMLElement} button
 * @param {() => unknown} act
 */
export function onClick(button, act) {
  button.addEventListener("click", () => {
    if (button.getAttribute("aria-disabled") !== "true") act();
  });
}

/**
 * Does something whose failure is shown in the element of that name.
 * @param {string} id
 * @param {() => Promise<void>} act
 */
export async function orError(id, act) {
  element(id).textContent = "";
  try {
    await act();
  } catch (error) {
    // Why the engine has stopped is said elsewhere.
    if (!(error instanceof Stopped)) element(id).textContent = /** @type {Error} */ (error).message;
  }
}
