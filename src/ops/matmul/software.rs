//! The matrix product on software adapters.

use super::operands::Matrices;
use crate::gpu::Kernel;

/// The register tile for subgroups of exactly eight lanes, see `shaders/matmul_subgroup8.wgsl`: the kernel, its parameters
/// up to those of the epilogue, and how many workgroups there are.
pub(super) fn subgroup8(
    a: &Matrices,
    b: &Matrices,
    [batch, rows, columns]: [usize; 3],
    depth: usize,
    gated: bool,
) -> (Kernel, Vec<u32>, usize) {
    // A gated tile has 16 columns of each half.
    let half = columns / 2;
    let tiles_n = if gated {
        half.div_ceil(16)
    } else {
        columns.div_ceil(32)
    };
    let tiles = rows.div_ceil(32) * tiles_n;
    let groups = batch * tiles;
    let extents = [rows, columns, depth, tiles_n, tiles, groups];
    let places = [a, b].map(|m| (m.leading(), m.offset(), m.batch));
    let [(lda, a_offset, a_batch), (ldb, b_offset, b_batch)] = places;
    let places = [lda, ldb, a_offset, b_offset, a_batch, b_batch];
    let params = extents.into_iter().chain(places).map(|word| word as u32);
    let starts_b = if gated { half } else { 0 };
    let kernel = Kernel::builtin("matmul", "matmul_subgroup8", "matmul")
        .flag("GATED", gated)
        .declare(&fragments(a, "a", a.is_row_major(), 0))
        .declare(&fragments(b, "b", !b.is_row_major(), starts_b));
    (kernel, params.collect(), groups)
}

/// The text that loads one operand's fragments; `along_depth` says that depth runs along memory. Where it does not, lines
/// are read from `start` on, too.
fn fragments(matrices: &Matrices, name: &str, along_depth: bool, start: usize) -> String {
    let start = if along_depth { 0 } else { start };
    let aligned = [matrices.leading(), matrices.offset(), matrices.batch, start]
        .iter()
        .all(|stride| stride.is_multiple_of(4));
    let section = match (along_depth, aligned) {
        (true, true) => "rows_vec4",
        (false, true) => "columns_vec4",
        (true, false) => "rows_scalar",
        (false, false) => "columns_scalar",
    };
    let sections = include_str!("../../../shaders/matmul_operands.wgsl");
    let start = format!("// section {section}\n");
    let text = sections.split(&start).nth(1).expect("the section exists");
    let text = text
        .split("// section")
        .next()
        .expect("split gives a first part");
    let (binding, outer) = if name == "a" {
        ("1", "p.m")
    } else {
        ("2", "p.n")
    };
    text.replace("X_", &format!("{name}_"))
        .replace("X[", &format!("{name}["))
        .replace(" X:", &format!(" {name}:"))
        .replace("LD", &format!("p.ld{name}"))
        .replace("OUTER", outer)
        .replace("BINDING", binding)
}
