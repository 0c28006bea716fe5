// Taking the settings along: as a command, or as a link.

import { element, onClick } from "./elements.js";

/** Makes the buttons copy. */
export function offerCopies() {
  onClick(element("copy-command"), () => copy(element("command").textContent ?? "", "Command"));
  onClick(element("copy-address"), () => copy(location.href, "Link"));
}

/**
 * @param {string} text
 * @param {string} what
 */
async function copy(text, what) {
  const status = element("copy-status");
  try {
    await navigator.clipboard.writeText(text);
    status.textContent = `${what} copied.`;
  } catch {
    status.textContent = `The browser does not let the page copy. ${what}: ${text}`;
  }
}
