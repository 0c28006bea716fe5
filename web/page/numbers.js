// Numbers as the page writes them.

const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** @param {number} value */
export const whole = (value) => WHOLE.format(value);

/** @param {number} value */
export const loss = (value) => (Number.isFinite(value) ? value.toFixed(3) : "not a number");

/** @param {number} share from 0 to 1 */
export const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** @param {number} milliseconds */
export function duration(milliseconds) {
  if (!Number.isFinite(milliseconds)) return "–";
  if (milliseconds >= 10_000) return `${(milliseconds / 1000).toFixed(1)} s`;
  if (milliseconds >= 100) return `${WHOLE.format(milliseconds)} ms`;
  return `${milliseconds.toPrecision(2)} ms`;
}

/**
 * The next of 1, 2, 5, 10, 20, … that is at least `value`.
 * @param {number} value above 0
 */
export function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const digit = [1, 2, 5, 10].find((step) => step * power >= value * (1 - 1e-9)) ?? 10;
  return digit * power;
}

/**
 * A character that shows: line ends and spaces would not.
 * @param {string} token
 */
export function visible(token) {
  return token.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "␣") || "∅";
}
