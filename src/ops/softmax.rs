//! Softmax and log-softmax over the last axis, each one fused kernel forward and one backward.
//!
//! For another axis, permute it to the end and back.

use super::{Operation, Role, TensorType};
use crate::gpu::{AdapterClass, DType, Kernel};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Operand, Signature, Tape, Var};

const SOURCE: &str = include_str!("../../shaders/softmax.wgsl");

/// Softmax, or with `log` its logarithm.
#[derive(Clone, Debug)]
struct Softmax {
    log: bool,
}

/// The gradient of [`Softmax`], from the arriving gradient and the result.
#[derive(Clone, Debug)]
struct SoftmaxBackward {
    log: bool,
}

impl Operation for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn identity(&self, _signature: &mut Signature) {}

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let TensorType { shape, dtype } = inputs[0];
        assert!(
            dtype == DType::F32 && shape.rank() > 0,
            "{}: needs F32 with a last axis, not {dtype:?} {shape}",
            self.name()
        );
        vec![Tape::f32(shape)]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let operation = SoftmaxBackward { log: self.log };
        let inputs = [node.gradient(0), node.output(0)];
        vec![Some(node.tape().record(operation, &inputs))]
    }

    fn role(&self, output: TensorType) -> Role<'_> {
        Role::Epilogue {
            grid: grid(output.shape),
        }
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        lower(cx, self.log, "forward");
    }
}

impl Operation for SoftmaxBackward {
    fn name(&self) -> &'static str {
        if self.log {
            "log_softmax_backward"
        } else {
            "softmax_backward"
        }
    }

    fn identity(&self, _signature: &mut Signature) {}

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![inputs[0]]
    }

    /// With `u` arriving and all sums along the row:
    ///
    /// - `dx = y·(g − Σ g·y)` has the gradients `y·(u − Σ u·y)` to `g` and `u·(g − Σ g·y) − g·Σ u·y` to `y`;
    /// - `dx = g − exp(y)·Σ g` has `u − Σ exp(y)·u` to `g` and `−exp(y)·u·Σ g` to `y`.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let (g, y, u) = (node.input(0), node.input(1), node.gradient(0));
        let last = [g.shape().rank() - 1];
        let sum = |value: Var<'t>| value.sum_keep(&last);
        if self.log {
            let share = y.exp() * u;
            return vec![
                node.wants(0).then(|| u - sum(share)),
                node.wants(1).then(|| -(share * sum(g))),
            ];
        }
        let along = sum(u * y);
        vec![
            node.wants(0).then(|| y * (u - along)),
            node.wants(1).then(|| u * (g - sum(g * y)) - g * along),
        ]
    }

    fn role(&self, output: TensorType) -> Role<'_> {
        Role::Epilogue {
            grid: grid(output.shape),
        }
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        lower(cx, self.log, "backward");
    }
}

/// A tensor as batch, rows and columns of an epilogue.
fn grid(shape: Shape) -> [usize; 3] {
    [1, shape.elements() / shape.last(), shape.last()]
}

/// One kernel over all rows of the inputs.
fn lower(cx: &mut Lowering<'_>, log: bool, entry: &'static str) {
    let (name, other) = match (log, entry) {
        (false, "forward") => ("softmax", "backward"),
        (true, "forward") => ("log_softmax", "backward"),
        (false, _) => ("softmax_backward", "forward"),
        (true, _) => ("log_softmax_backward", "forward"),
    };
    let [_, rows, columns] = grid(cx.input(0).shape());
    let inputs: Vec<Rows> = (0..cx.input_count())
        .map(|index| Rows::of(cx, cx.input(index), columns))
        .collect();
    let sharing = Sharing::of(cx, rows, columns);
    let vector = columns.is_multiple_of(4) && inputs.iter().all(Rows::is_aligned);
    let loads: String = ["x", "result"]
        .iter()
        .zip(1..=inputs.len())
        .map(|(name, binding)| load(name, binding, vector))
        .collect();
    let epilogue = cx.epilogue(inputs.len() + 1);
    let kernel = sharing
        .kernel(Kernel::builtin(name, SOURCE, entry))
        .constant("LOG", usize::from(log))
        .block(other, "")
        .block("operands", &loads)
        .block("epilogue", &epilogue.wgsl);
    let mut params = sharing.params.to_vec();
    let mut dispatch = Dispatch::new(kernel);
    let mut bytes = epilogue.bytes;
    for input in &inputs {
        params.extend(input.place());
        dispatch = dispatch.read(&input.operand);
        bytes += input.operand.bytes();
    }
    params.resize(8, 0);
    cx.dispatch(
        dispatch
            .params(&params)
            .epilogue(&epilogue)
            .groups(sharing.groups)
            .cost(5 * (rows * columns) as u64, bytes),
    );
}

/// An input seen as rows whose elements lie side by side.
struct Rows {
    operand: Operand,
    /// The distance between rows: zero where all rows are the same one.
    stride: usize,
}

impl Rows {
    /// Copies the operand where its strides do not allow that.
    fn of(cx: &mut Lowering<'_>, operand: Operand, columns: usize) -> Rows {
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
    fn place(&self) -> [u32; 2] {
        [self.operand.offset(), self.stride as u32]
    }

    fn is_aligned(&self) -> bool {
        self.place().iter().all(|word| word.is_multiple_of(4))
    }
}

/// How invocations share the rows: the text and the sizes that depend on it.
struct Sharing {
    /// Invocations to a row.
    lanes: usize,
    /// Teams of so many to a workgroup.
    teams: usize,
    subgroup8: bool,
    groups: usize,
    /// What the kernels' parameters start with: columns, rows, rows of a team, blocks of a row.
    params: [u32; 4],
}

impl Sharing {
    fn of(cx: &Lowering<'_>, rows: usize, columns: usize) -> Sharing {
        let quads = columns.div_ceil(4);
        let (lanes, teams, rows_per_team) = match cx.class() {
            // A team is a vector register. Several teams a thread even out what the threads get.
            AdapterClass::Software => (8, 1, rows.div_ceil(16)),
            AdapterClass::Gpu => {
                let lanes = [8, 32, 128].into_iter().find(|lanes| quads <= 4 * lanes);
                let lanes = lanes.unwrap_or(256);
                (lanes, (64 / lanes).max(1), 1)
            }
        };
        let words = [columns, rows, rows_per_team, quads.div_ceil(lanes)];
        Sharing {
            lanes,
            teams,
            subgroup8: lanes * teams == 8 && cx.device().has_subgroups_of(8),
            groups: rows.div_ceil(rows_per_team).div_ceil(teams),
            params: words.map(|word| word as u32),
        }
    }

    fn kernel(&self, kernel: Kernel) -> Kernel {
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
fn max_over_team(value: f32, local: u32) -> f32 {
    let a = max(value, subgroupShuffleXor(value, 1u));
    let b = max(a, subgroupShuffleXor(a, 2u));
    return max(b, subgroupShuffleXor(b, 4u));
}
";

/// Declares an operand and how four columns of it are loaded. Columns past the end repeat the last ones.
fn load(name: &str, binding: usize, vector: bool) -> String {
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

impl<'t> Var<'t> {
    /// `exp(xᵢ) / Σⱼ exp(xⱼ)` along the last axis, safe for elements of any size. A row of nothing but −∞ gives zeros.
    ///
    /// # Panics
    ///
    /// If this is a scalar, or not `F32`.
    #[track_caller]
    pub fn softmax(self) -> Var<'t> {
        self.tape.record(Softmax { log: false }, &[self])
    }

    /// `xᵢ − ln Σⱼ exp(xⱼ)` along the last axis: the logarithm of [`Var::softmax`], accurate where that is close to zero
    /// or one.
    ///
    /// # Panics
    ///
    /// If this is a scalar, or not `F32`.
    #[track_caller]
    pub fn log_softmax(self) -> Var<'t> {
        self.tape.record(Softmax { log: true }, &[self])
    }
}
