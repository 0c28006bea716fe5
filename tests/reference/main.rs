//! What `docs/reference.md` promises: looking inside a model, and the figures that the reference documents print.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/example.rs"]
mod example;
#[path = "../common/pictures.rs"]
mod pictures;

mod attention_ladder;
mod names_series;
mod programs;
mod trace;
mod visualize;
mod walkthrough;
