//! Tests of the library in one program: what has been compiled for one test, another may use, and there is one program to
//! link. What needs a process of its own, or comes with a feature, is a program beside this one.

mod check;
#[path = "../common/mod.rs"]
mod common;
mod custom_op;
mod data;
mod differential;
mod errors;
mod explain;
mod fusion;
mod gated_products;
mod golden;
mod iterations;
mod layers;
mod metrics;
mod misuse;
mod mixed;
mod nan;
mod nn;
mod ops;
mod optim;
mod parameters;
mod poison;
mod profile;
mod sampling;
mod shaders;
mod shapes;
mod threads;
mod waiting;
