//! What kernels that work row by row (softmax, normalisation, cross-entropy) have in common: how invocations share a row,
//! and how they read it.
//!
//! `LANES` invocations, a *team*, share a row; in most of them lane `l` takes columns `4·(b·LANES + l)` and the three after
//! it for every block `b`. The team combines what its lanes have in a fixed order: by shuffles within a subgroup, by
//! subgroup operations and workgroup memory, or through workgroup memory alone.

use crate::gpu::{AdapterClass, Device, Kernel};
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

/// How invocations come together for rows: the lanes of a team, the teams of a workgroup, and the file by which the lanes
/// of a team combine what they have.
pub(super) struct Team {
    pub lanes: usize,
    pub teams: usize,
    file: &'static str,
    /// The lanes of all subgroups, if the file depends on it.
    subgroup: Option<usize>,
}

/// Invocations of a workgroup that has several teams, on GPUs.
const WORKGROUP: usize = 128;

impl Team {
    /// For `units` of each row, of which a lane may have several.
    pub fn of(cx: &Lowering<'_>, units: usize) -> Team {
        match cx.class() {
            AdapterClass::Software => Team::software(cx.device()),
            AdapterClass::Gpu => Team::gpu(cx.device(), units, 4, MOST_KEPT),
        }
    }

    /// For software adapters: a vector register.
    fn software(device: &Device) -> Team {
        let subgroup = device.has_subgroups_of(8).then_some(8);
        let file = subgroup.map_or("team", |_| "team_shuffles");
        Team {
            file,
            subgroup,
            ..Team::alone(8)
        }
    }

    /// A workgroup of so many lanes, in the portable form.
    pub fn alone(lanes: usize) -> Team {
        Team {
            lanes,
            teams: 1,
            file: "team",
            subgroup: None,
        }
    }

    /// A workgroup of so many lanes, on GPUs.
    pub fn workgroup(device: &Device, lanes: usize) -> Team {
        Team {
            file: match device.has_subgroups() {
                true => "team_subgroups",
                false => "team",
            },
            ..Team::alone(lanes)
        }
    }

    /// For GPUs: the smallest team whose lanes have at most `each` of `units`, of the sizes that make sense; the largest
    /// beyond. Teams within a subgroup need neither workgroup memory nor barriers, and may have `most` of them a lane.
    pub fn gpu(device: &Device, units: usize, each: usize, most: usize) -> Team {
        let fits = |lanes: &usize| units <= each * lanes;
        let subgroup = device.subgroup_size().filter(|&size| {
            let widest = size.min(32);
            size >= 8 && WORKGROUP.is_multiple_of(size) && units <= most * widest
        });
        if let Some(size) = subgroup {
            let widest = size.min(32);
            let lanes = [8, 16, 32].into_iter().find(fits).unwrap_or(widest);
            let lanes = lanes.min(widest);
            return Team {
                lanes,
                teams: WORKGROUP / lanes,
                file: "team_shuffles",
                subgroup,
            };
        }
        let lanes = [8, 32, 128].into_iter().find(fits).unwrap_or(256);
        match (WORKGROUP / lanes).max(1) {
            1 => Team::workgroup(device, lanes),
            teams => Team {
                teams,
                ..Team::alone(lanes)
            },
        }
    }

    /// The kernel with what such teams declare, instead of team.wgsl.
    pub fn kernel(&self, kernel: Kernel) -> Kernel {
        let kernel = kernel
            .declare_file(self.file)
            .constant("LANES", self.lanes)
            .constant("TEAMS", self.teams);
        match self.subgroup {
            Some(size) => kernel.constant("SUBGROUP", size),
            None => kernel,
        }
    }
}

/// Blocks of a row that a lane keeps in registers, at most: in kernels that keep little else, and in those that keep
/// several values for each column.
const MOST_KEPT: usize = 8;
const MOST_KEPT_WITH_SUMS: usize = 4;

/// So many elements keep a large GPU busy: a team takes more than one row only where there are more.
const ELEMENTS_AT_ONCE: usize = 1 << 22;
const MOST_ROWS_OF_A_TEAM: usize = 16;

/// Rows' partial sums are worth writing for so many rows. There are as many workgroups as keep so many elements under way,
/// within bounds: each leaves sums for all columns, which have to be added up.
const ROWS_SUMMED: usize = 16;
const ELEMENTS_UNDER_WAY: usize = 3 << 18;
const SUMS: (usize, usize) = (256, 1024);

/// How invocations share the rows: the text and the sizes that depend on it.
pub(super) struct Sharing {
    team: Team,
    /// Blocks of a row that stay in registers.
    kept: usize,
    /// What the last of a row's blocks lack: 0 nothing, 4 quads of columns, 1 single columns.
    edge: usize,
    /// Workgroups.
    pub groups: usize,
    /// Of an invocation's loops.
    pub iterations: usize,
    /// What the kernels' parameters start with: columns, rows, rows of a team, blocks of a row.
    pub params: [u32; 4],
}

/// The loops of a kernel that works row by row.
#[derive(Clone, Copy)]
pub(super) struct Loops {
    /// Over the blocks of every row.
    pub passes: usize,
    /// How often other loops go round for each block that is stored: those of the epilogue.
    pub stores: usize,
}

impl Loops {
    /// Iterations of one row, with what a team exchanges.
    fn of_row(self, team: &Team, blocks: usize) -> usize {
        // Three exchanges: eight lanes' values, then an eighth of the lanes'.
        let exchange = 10 + team.lanes.div_ceil(8) + team.teams;
        1 + self.passes * (blocks + 1) + self.stores * blocks + 3 * exchange
    }
}

impl Sharing {
    /// With a team for every row, on GPUs.
    pub fn of(cx: &Lowering<'_>, rows: usize, columns: usize, loops: Loops) -> Sharing {
        Sharing::with(cx, rows, columns, loops, MOST_KEPT, |_| 1)
    }

    /// For kernels that read the same operands for every row: a few rows to a team where there are many.
    pub fn repeating(cx: &Lowering<'_>, rows: usize, columns: usize, loops: Loops) -> Sharing {
        let rows_per_team = (rows * columns).div_ceil(ELEMENTS_AT_ONCE);
        Sharing::with(cx, rows, columns, loops, MOST_KEPT, |_| {
            rows_per_team.clamp(1, MOST_ROWS_OF_A_TEAM)
        })
    }

    /// For kernels that leave partial sums over the rows of a workgroup: enough rows to each for the sums to weigh
    /// little.
    pub fn summing(cx: &Lowering<'_>, rows: usize, columns: usize, loops: Loops) -> Sharing {
        Sharing::with(cx, rows, columns, loops, MOST_KEPT_WITH_SUMS, |teams| {
            let enough = ROWS_SUMMED.div_ceil(teams);
            let sums = (ELEMENTS_UNDER_WAY / (teams * columns)).clamp(SUMS.0, SUMS.1);
            rows.div_ceil(sums * teams).max(enough)
        })
    }

    fn with(
        cx: &Lowering<'_>,
        rows: usize,
        columns: usize,
        loops: Loops,
        most_kept: usize,
        rows_per_team: impl Fn(usize) -> usize,
    ) -> Sharing {
        let quads = columns.div_ceil(4);
        let most = cx.most_iterations();
        let (mut team, rows_per_team) = match cx.class() {
            // Several teams a thread even out what the threads get.
            AdapterClass::Software => (Team::software(cx.device()), rows.div_ceil(16)),
            AdapterClass::Gpu => {
                let team = Team::gpu(cx.device(), quads, 4, most_kept);
                let rows_per_team = rows_per_team(team.teams);
                (team, rows_per_team)
            }
        };
        // What precedes and follows the rows goes over the blocks, too.
        let iterations = |team: &Team| {
            let blocks = quads.div_ceil(team.lanes);
            let around = blocks * (4 + 2 * team.teams) + 8;
            (blocks, around, loops.of_row(team, blocks))
        };
        let (mut blocks, mut around, mut of_row) = iterations(&team);
        if around + of_row > most {
            team = Team::alone(256);
            (blocks, around, of_row) = iterations(&team);
        }
        let rows_per_team = rows_per_team.min((most.saturating_sub(around) / of_row).max(1));
        // Unrolled for llvmpipe, kernels compile for seconds to save a third of the time.
        let (kept, edge) = match cx.class() {
            AdapterClass::Software => (0, 1),
            AdapterClass::Gpu => {
                let edge = match columns {
                    columns if columns == 4 * team.lanes * blocks => 0,
                    columns if columns.is_multiple_of(4) => 4,
                    _ => 1,
                };
                (blocks.min(most_kept), edge)
            }
        };
        let words = [columns, rows, rows_per_team, blocks];
        Sharing {
            iterations: around + rows_per_team * of_row,
            kept,
            edge,
            groups: rows.div_ceil(rows_per_team).div_ceil(team.teams),
            team,
            params: words.map(|word| word as u32),
        }
    }

    pub fn kernel(&self, kernel: Kernel) -> Kernel {
        self.team
            .kernel(kernel)
            .constant("KEPT", self.kept)
            .constant("EDGE", self.edge)
    }
}

/// Declares an operand, and how four columns of a row are loaded: by `x4` or, in kernels that go from row to row, where they
/// are by `x_place`, from there by `x_load`, and how far on they are in the next row by `x_step`. Columns past the end repeat
/// the last ones.
pub(super) fn load(name: &str, binding: usize, vector: bool) -> String {
    let (element, place, step, value) = if vector {
        (
            "vec4<f32>",
            "vec4<u32>((at + min(column, last - 3u)) / 4u)",
            " / 4u",
            format!("{name}[place.x]"),
        )
    } else {
        let [x, y, z, w] = ['x', 'y', 'z', 'w'].map(|axis| format!("{name}[place.{axis}]"));
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
         fn {name}_load(place: vec4<u32>) -> vec4<f32> {{ return {value}; }}\n\
         fn {name}4(row: u32, column: u32) -> vec4<f32> {{ return {name}_load({name}_place(row, column)); }}\n"
    )
}
