//! The matrix product on software adapters.

use super::{Matrices, Sizes, sizes};
use crate::gpu::Kernel;

/// The register tile for subgroups of exactly eight lanes, see `shaders/matmul_subgroup8.wgsl`.
pub(super) fn subgroup8(
    a: &Matrices,
    b: &Matrices,
    grid: [usize; 3],
    depth: usize,
) -> (Kernel, Sizes) {
    let mut sizes = sizes(grid, depth, 32);
    let [leading_a, leading_b] = [a, b].map(|m| m.leading() as u32);
    sizes.params.extend([
        leading_a,
        leading_b,
        a.offset() as u32,
        b.offset() as u32,
        a.batch as u32,
        b.batch as u32,
    ]);
    let kernel = Kernel::builtin(
        "matmul",
        include_str!("../../../shaders/matmul_subgroup8.wgsl"),
        "matmul",
    )
    .block("a", &fragments(a, "a", a.is_row_major()))
    .block("b", &fragments(b, "b", !b.is_row_major()));
    (kernel, sizes)
}

/// The text that loads one operand's fragments; `along_depth` says that depth runs along memory.
fn fragments(matrices: &Matrices, name: &str, along_depth: bool) -> String {
    let aligned = [matrices.leading(), matrices.offset(), matrices.batch]
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
