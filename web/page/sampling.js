// How samples are to be drawn, as the form has it.

import { fields } from "./elements.js";

/**
 * Reads the form.
 * @param {string} usualTemperature what an empty field means
 * @returns {{prompt: string, temperature: number, topK: number | null, how: string}}
 * @throws {Error} a line for the reader, if a value is not possible
 */
export function readSampling(usualTemperature) {
  const [given, k] = [fields.temperature.value.trim() || usualTemperature, fields["top-k"].value.trim()];
  const temperature = Number(given);
  if (given === "" || !(temperature >= 0 && temperature < Infinity)) {
    throw new Error(`Temperature ${given} is not possible: give 0 or a positive number.`);
  }
  const topK = k === "" ? null : Number(k);
  if (topK !== null && !(Number.isInteger(topK) && topK >= 1)) {
    throw new Error(`Top k ${k} is not possible: give a whole number from 1, or leave it empty for all.`);
  }
  const how = [`temperature ${temperature}`, ...(topK === null ? [] : [`top ${topK}`])].join(", ");
  return { prompt: fields.prompt.value, temperature, topK, how };
}
