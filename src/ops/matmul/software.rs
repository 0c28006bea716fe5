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
        .declare(&accumulate())
        .declare(&fragments(a, "a", a.is_row_major(), 0))
        .declare(&fragments(b, "b", !b.is_row_major(), starts_b));
    (kernel, params.collect(), groups)
}

/// Adds the products of two fragments to a tile. As functions of a row the same took longer, because of how the compiler orders
/// it.
fn accumulate() -> String {
    let rows: String = (0..8)
        .map(|lane| ROWS_OF_LANE.replace("$l", &lane.to_string()))
        .collect();
    format!("fn accumulate(t: ptr<function, Tile>, fa: Fragment, fb: Fragment) {{\n{rows}}}\n")
}

/// Row by row, all four depths at once: then few values are wanted at a time and less is spilled.
const ROWS_OF_LANE: &str = "\
    let a$l = subgroupShuffle(fa.k0, $lu); let b$l = subgroupShuffle(fa.k1, $lu);
    let c$l = subgroupShuffle(fa.k2, $lu); let d$l = subgroupShuffle(fa.k3, $lu);
    (*t).q$l[0] = ((((*t).q$l[0] + fb.k0 * a$l.x) + fb.k1 * b$l.x) + fb.k2 * c$l.x) + fb.k3 * d$l.x;
    (*t).q$l[1] = ((((*t).q$l[1] + fb.k0 * a$l.y) + fb.k1 * b$l.y) + fb.k2 * c$l.y) + fb.k3 * d$l.y;
    (*t).q$l[2] = ((((*t).q$l[2] + fb.k0 * a$l.z) + fb.k1 * b$l.z) + fb.k2 * c$l.z) + fb.k3 * d$l.z;
    (*t).q$l[3] = ((((*t).q$l[3] + fb.k0 * a$l.w) + fb.k1 * b$l.w) + fb.k2 * c$l.w) + fb.k3 * d$l.w;
";

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
