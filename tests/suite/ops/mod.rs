//! Operations against plain `f64` implementations and finite differences, one file per family.

mod assign;
mod attention;
mod attention_long;
mod concat;
mod cross_entropy;
mod dropout;
mod embedding;
pub mod gates;
mod half;
mod heads;
mod indices;
mod losses;
mod matmul;
mod matmul_half;
mod norm;
mod pointwise;
mod pointwise_values;
mod reduce;
mod sample;
mod softmax;
mod views;
