//! What kernels that work row by row (softmax, normalisation) have in common: how invocations share a row, and how they
//! read it.
//!
//! `LANES` invocations, a *team*, share a row; lane `l` takes columns `4·(b·LANES + l)` and the three after it for every
//! block `b`. The team combines what its lanes have in a fixed order: by subgroup operations or through workgroup memory.

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

/// Rows' partial sums are worth writing for so many rows, and for so many workgroups at most.
const ROWS_SUMMED: usize = 16;
const MOST_SUMS: usize = 1024;

/// How invocations share the rows: the text and the sizes that depend on it.
pub(super) struct Sharing {
    /// Invocations to a row.
    lanes: usize,
    /// Teams of so many to a workgroup.
    teams: usize,
    /// Blocks of a row that stay in registers.
    kept: usize,
    team: &'static str,
    /// Workgroups.
    pub groups: usize,
    /// What the kernels' parameters start with: columns, rows, rows of a team, blocks of a row.
    pub params: [u32; 4],
}

impl Sharing {
    /// With a team for every row, on GPUs.
    pub fn of(cx: &Lowering<'_>, rows: usize, columns: usize) -> Sharing {
        Sharing::with(cx, rows, columns, |_| 1)
    }

    /// For kernels that leave partial sums over the rows of a workgroup: enough rows to each for the sums to weigh
    /// little.
    pub fn summing(cx: &Lowering<'_>, rows: usize, columns: usize) -> Sharing {
        Sharing::with(cx, rows, columns, |teams| {
            let enough = ROWS_SUMMED.div_ceil(teams);
            rows.div_ceil(MOST_SUMS * teams).max(enough)
        })
    }

    fn with(
        cx: &Lowering<'_>,
        rows: usize,
        columns: usize,
        rows_per_team: impl Fn(usize) -> usize,
    ) -> Sharing {
        let quads = columns.div_ceil(4);
        let device = cx.device();
        let (lanes, teams, rows_per_team) = match cx.class() {
            // A team is a vector register. Several teams a thread even out what the threads get.
            AdapterClass::Software => (8, 1, rows.div_ceil(16)),
            AdapterClass::Gpu => {
                let lanes = [8, 32, 128].into_iter().find(|lanes| quads <= 4 * lanes);
                let lanes = lanes.unwrap_or(256);
                let teams = (128 / lanes).max(1);
                (lanes, teams, rows_per_team(teams))
            }
        };
        let blocks = quads.div_ceil(lanes);
        let team = if device.has_subgroups_of(8) {
            include_str!("../../shaders/team_subgroup8.wgsl")
        } else if teams == 1 && device.has_subgroups() {
            include_str!("../../shaders/team_subgroups.wgsl")
        } else {
            TEAM
        };
        let words = [columns, rows, rows_per_team, blocks];
        Sharing {
            lanes,
            teams,
            // Unrolled for llvmpipe, kernels compile for seconds to save a third of the time.
            kept: match cx.class() {
                AdapterClass::Software => 0,
                AdapterClass::Gpu => blocks.min(4),
            },
            team,
            groups: rows.div_ceil(rows_per_team).div_ceil(teams),
            params: words.map(|word| word as u32),
        }
    }

    pub fn kernel(&self, kernel: Kernel) -> Kernel {
        kernel
            .prelude(self.team)
            .constant("LANES", self.lanes)
            .constant("TEAMS", self.teams)
            .constant("KEPT", self.kept)
    }
}

/// What kernels that work row by row begin with, in the portable form.
pub(super) const TEAM: &str = include_str!("../../shaders/team.wgsl");

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

/// Like [`load`], for kernels that go from row to row: `x_place` says where four columns are, `x_step` how far on they
/// are in the next row, and `x_load` loads them.
pub(super) fn load_by_rows(name: &str, binding: usize, vector: bool) -> String {
    let (element, place, step, value) = if vector {
        (
            "vec4<f32>",
            "vec4<u32>((at + min(column, last - 3u)) / 4u)",
            " / 4u",
            format!("{name}[place.x]"),
        )
    } else {
        let one = |axis: char| format!("{name}[place.{axis}]");
        let [x, y, z, w] = ['x', 'y', 'z', 'w'].map(one);
        (
            "f32",
            "at + min(vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last))",
            "",
            format!("vec4<f32>({x}, {y}, {z}, {w})"),
        )
    };
    format!(
        "@group(0) @binding({binding}) var<storage, read> {name}: array<{element}>;\n\
         fn {name}_place(row: u32, column: u32) -> vec4<u32> {{\n    \
         let at = p.{name}_at.x + row * p.{name}_at.y;\n    \
         let last = p.n - 1u;\n    \
         return {place};\n}}\n\
         fn {name}_step() -> u32 {{ return p.{name}_at.y{step}; }}\n\
         fn {name}_load(place: vec4<u32>) -> vec4<f32> {{ return {value}; }}\n"
    )
}
