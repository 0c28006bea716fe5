//! What a step costs the host: counters of the device, and of an allocator that this program has for that.

#[path = "../common/mod.rs"]
mod common;
mod decoding;
mod nn;
mod optim;
mod tape;
