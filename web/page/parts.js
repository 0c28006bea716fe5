// The page's parts, each with its elements.

import { AttentionMaps } from "./attention.js";
import { LossCurve } from "./curve.js";
import { element, fields } from "./elements.js";
import { Figures } from "./figures.js";
import { SampleList } from "./samples.js";
import { SettingsForm } from "./settings.js";

export const figures = new Figures({
  step: element("figure-step"), steps: element("figure-steps"), train: element("figure-train"), test: element("figure-test"), tokens: element("figure-tokens"),
  time: element("figure-time"), progress: element("progress"),
});
export const curve = new LossCurve({
  canvas: element("curve"), summary: element("curve-summary"), rows: element("evaluation-rows"), details: element("evaluations"),
  readout: element("curve-readout"),
});
export const samples = new SampleList(element("sample-list"));
export const maps = new AttentionMaps({
  heads: element("heads"), figure: element("head-figure"), canvas: element("head"), title: element("head-title"),
  summary: element("head-summary"), details: element("head-details"), table: element("head-table"),
});
export const form = new SettingsForm(
  { front: element("front-fields"), more: element("more-fields"), details: element("more"), error: element("settings-error") },
  new Map([["prompt", fields.prompt], ["temperature", fields.temperature], ["top-k", fields["top-k"]]]),
);
