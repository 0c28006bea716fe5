//! What `docs/reference.md` promises: looking inside a model, and the figures that the reference documents print.

mod attention_ladder;
mod names_series;
mod programs;
mod trace;
mod visualize;
mod walkthrough;
