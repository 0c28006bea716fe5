// What all drawings share: sharp canvases and the style sheet's colours.

/**
 * Fits a canvas' pixels to its size on the page and clears it.
 * @param {HTMLCanvasElement} canvas
 * @returns {{context: CanvasRenderingContext2D, width: number, height: number} | null} a context in units of the page, none
 *   where the canvas is not shown
 */
export function fit(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const context = canvas.getContext("2d");
  if (width === 0 || height === 0 || !context) return null;
  const scale = Math.min(window.devicePixelRatio || 1, 3);
  const [across, down] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** @type {Map<string, string>} */
const colours = new Map();
/** @type {Set<() => void>} */
const redraws = new Set();

for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)", "(forced-colors: active)"]) {
  window.matchMedia(query).addEventListener("change", () => {
    colours.clear();
    for (const redraw of redraws) redraw();
  });
}

/**
 * A colour of the style sheet.
 * @param {string} name of the custom property, without dashes
 */
export function colour(name) {
  let value = colours.get(name);
  if (value === undefined) {
    value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    colours.set(name, value);
  }
  return value;
}

/**
 * A colour of the style sheet in numbers; it is written there as `#rrggbb`.
 * @param {string} name
 * @returns {[number, number, number]}
 */
export function channels(name) {
  const value = parseInt(colour(name).slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

/**
 * Draws anew when the element's size or the colours change.
 * @param {Element} element
 * @param {() => void} redraw
 */
export function redrawOnChange(element, redraw) {
  redraws.add(redraw);
  new ResizeObserver(redraw).observe(element);
}
