//! Attention against a plain f64 implementation, in all forms, with all kernels.

pub mod case;
mod edges;
mod forms;
mod large_heads;
mod masks;
mod misuse;
pub mod reference;
mod tiles;
mod units;

use shadegrad::Device;
use shadegrad::ops::attention::Attention;

use crate::common::{device, portable_device};

/// The machine's own device, and one that takes the kernels for GPUs.
fn devices() -> [&'static Device; 2] {
    [device(), portable_device()]
}

fn config(heads: usize, causal: bool) -> Attention {
    match causal {
        true => Attention::causal(heads),
        false => Attention::full(heads),
    }
}
