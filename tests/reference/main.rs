//! What `docs/reference.md` promises: looking inside a model, and the figures that the reference documents print.

#[path = "../common/mod.rs"]
mod common;

mod trace;
mod walkthrough;
