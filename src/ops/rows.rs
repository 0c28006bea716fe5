//! What kernels that work row by row (softmax, normalisation) have in common: how invocations share a row, and how they
//! read it.
//!
//! `LANES` invocations, a *team*, share a row; lane `l` takes columns `4·(b·LANES + l)` and the three after it for every
//! block `b`. The team combines what its lanes have in a fixed tree: by shuffles where subgroups have exactly eight
//! lanes, else through workgroup memory.

use crate::gpu::{AdapterClass, Kernel};
use crate::shape::Shape;
use crate::tape::{Lowering, Operand};

/// A tensor as batch, rows and columns of an epilogue.
pub(super) fn grid(shape: Shape) -> [usize; 3] {
    [1, shape.elements() / shape.last(), shape.last()]
}

/// An input seen as rows whose elements lie side by side.
pub(super) struct Rows {
    pub operand: Operand,
    /// The distance between rows: zero where all rows are the same one.
    stride: usize,
}

impl Rows {
    /// Copies the operand where its strides do not allow that.
    pub fn of(cx: &mut Lowering<'_>, operand: Operand, columns: usize) -> Rows {
        let rows = operand.elements() / columns;
        let view = |operand: Operand| {
            let layout = operand.layout.reshape(Shape::new(&[rows, columns]))?;
            (layout.strides()[1] == 1 || columns == 1).then_some(Rows {
                operand,
                stride: layout.strides()[0],
            })
        };
        view(operand).unwrap_or_else(|| {
            let copy = cx.contiguous_copy(&operand);
            view(copy).expect("dense operands are rows")
        })
    }

    /// Offset and row stride, as the kernels take them.
    pub fn place(&self) -> [u32; 2] {
        [self.operand.offset(), self.stride as u32]
    }

    pub fn is_aligned(&self) -> bool {
        self.place().iter().all(|word| word.is_multiple_of(4))
    }
}

/// How invocations share the rows: the text and the sizes that depend on it.
pub(super) struct Sharing {
    /// Invocations to a row.
    lanes: usize,
    /// Teams of so many to a workgroup.
    teams: usize,
    subgroup8: bool,
    /// Teams that have rows.
    pub busy_teams: usize,
    /// Workgroups.
    pub groups: usize,
    /// What the kernels' parameters start with: columns, rows, rows of a team, blocks of a row.
    pub params: [u32; 4],
}

impl Sharing {
    /// With at most `most_teams` on a GPU, where there are otherwise as many as rows.
    pub fn of(cx: &Lowering<'_>, rows: usize, columns: usize, most_teams: usize) -> Sharing {
        let quads = columns.div_ceil(4);
        let (lanes, teams, rows_per_team) = match cx.class() {
            // A team is a vector register. Several teams a thread even out what the threads get.
            AdapterClass::Software => (8, 1, rows.div_ceil(16)),
            AdapterClass::Gpu => {
                let lanes = [8, 32, 128].into_iter().find(|lanes| quads <= 4 * lanes);
                let lanes = lanes.unwrap_or(256);
                (lanes, (64 / lanes).max(1), rows.div_ceil(most_teams))
            }
        };
        let busy_teams = rows.div_ceil(rows_per_team);
        let words = [columns, rows, rows_per_team, quads.div_ceil(lanes)];
        Sharing {
            lanes,
            teams,
            subgroup8: lanes * teams == 8 && cx.device().has_subgroups_of(8),
            busy_teams,
            groups: busy_teams.div_ceil(teams),
            params: words.map(|word| word as u32),
        }
    }

    pub fn kernel(&self, kernel: Kernel) -> Kernel {
        let kernel = kernel
            .constant("LANES", self.lanes)
            .constant("TEAMS", self.teams);
        if self.subgroup8 {
            kernel.block("team", SUBGROUP8)
        } else {
            kernel
        }
    }
}

/// The block `team` for subgroups of eight lanes; the portable one is the default in the shader.
const SUBGROUP8: &str = "\
fn sum_over_team(value: f32, local: u32) -> f32 {
    let a = value + subgroupShuffleXor(value, 1u);
    let b = a + subgroupShuffleXor(a, 2u);
    return b + subgroupShuffleXor(b, 4u);
}
fn sums_over_team(value: vec2<f32>, local: u32) -> vec2<f32> {
    let a = value + subgroupShuffleXor(value, 1u);
    let b = a + subgroupShuffleXor(a, 2u);
    return b + subgroupShuffleXor(b, 4u);
}
fn max_over_team(value: f32, local: u32) -> f32 {
    let a = max(value, subgroupShuffleXor(value, 1u));
    let b = max(a, subgroupShuffleXor(a, 2u));
    return max(b, subgroupShuffleXor(b, 4u));
}
";

/// Declares an operand and how four columns of it are loaded. Columns past the end repeat the last ones.
pub(super) fn load(name: &str, binding: usize, vector: bool) -> String {
    let (element, value) = if vector {
        (
            "vec4<f32>",
            format!("{name}[(at + min(column, last - 3u)) / 4u]"),
        )
    } else {
        let one = |next: usize| format!("{name}[at + min(column + {next}u, last)]");
        (
            "f32",
            format!("vec4<f32>({}, {}, {}, {})", one(0), one(1), one(2), one(3)),
        )
    };
    format!(
        "@group(0) @binding({binding}) var<storage, read> {name}: array<{element}>;\n\
         fn {name}4(row: u32, column: u32) -> vec4<f32> {{\n    \
         let at = p.{name}_at.x + row * p.{name}_at.y;\n    \
         let last = p.n - 1u;\n    \
         return {value};\n}}\n"
    )
}
