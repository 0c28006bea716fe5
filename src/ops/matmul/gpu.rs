//! The matrix product on GPUs.

use super::{Matrices, Sizes, sizes};
use crate::gpu::Kernel;

/// The portable workgroup-memory tile, see `shaders/matmul.wgsl`.
pub(super) fn tiled(a: &Matrices, b: &Matrices, grid: [usize; 3], depth: usize) -> (Kernel, Sizes) {
    let mut sizes = sizes(grid, depth, 64);
    let words = [
        a.row,
        a.column,
        b.row,
        b.column,
        a.offset(),
        b.offset(),
        a.batch,
        b.batch,
        0,
        0,
    ];
    sizes.params.extend(words.map(|word| word as u32));
    let kernel = Kernel::builtin(
        "matmul",
        include_str!("../../../shaders/matmul.wgsl"),
        "matmul",
    );
    (kernel, sizes)
}
