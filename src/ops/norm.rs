//! LayerNorm and RMSNorm over the last axis, fused forward and backward.
//!
//! Forward keeps `1/σ` and the mean of every row for the gradient. Backward is two dispatches: the gradient of the
//! input together with partial sums of the parameters' gradients, and those added up.

use std::hash::Hash;

use super::{Operation, TensorType};
use crate::gpu::{DType, Kernel};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Operand, Signature, Tape, Var};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// `(x − mean)/√(variance + ε)·weight + bias`
    Layer,
    /// `x/√(mean(x²) + ε)·weight`
    Rms,
}

/// Inputs `x`, weight and, for LayerNorm, bias; outputs `y` and the rows' statistics `[rows, 2]`.
#[derive(Clone, Debug)]
struct Norm {
    kind: Kind,
    epsilon: f32,
}

/// Inputs `x`, weight, statistics and `dy`; outputs `dx`, the weight's gradient and, for LayerNorm, the bias's.
#[derive(Clone, Debug, Hash)]
struct NormBackward {
    kind: Kind,
}

/// Rows that share a partial sum of the parameters' gradients.
const ROWS_PER_GROUP: usize = 64;

/// The rows and the width that a tensor is seen as.
fn rows_of(shape: Shape) -> [usize; 2] {
    let width = shape.last();
    [shape.elements() / width, width]
}

impl Operation for Norm {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Layer => "layer_norm",
            Kind::Rms => "rms_norm",
        }
    }

    fn identity(&self, signature: &mut Signature) {
        (self.kind, self.epsilon.to_bits()).hash(signature);
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let shape = inputs[0].shape;
        for parameter in &inputs[1..] {
            assert!(
                parameter.shape.dims() == [shape.last()] && shape.rank() > 0,
                "{}: weight and bias for {shape} have shape [{}], not {}",
                self.name(),
                shape.last(),
                parameter.shape
            );
        }
        let [rows, _] = rows_of(shape);
        vec![Tape::f32(shape), Tape::f32([rows, 2].into())]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let inputs = [
            node.input(0),
            node.input(1),
            node.output(1),
            node.gradient(0),
        ];
        let operation = NormBackward { kind: self.kind };
        let gradients = node.tape().record_all(operation, &inputs);
        gradients.into_iter().map(Some).collect()
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let x = cx.contiguous(&cx.input(0));
        let weight = cx.contiguous(&cx.input(1));
        // RMSNorm's kernel never reads the bias; it still binds one.
        let bias = match self.kind {
            Kind::Layer => cx.contiguous(&cx.input(2)),
            Kind::Rms => weight,
        };
        let (y, statistics) = (cx.output(0), cx.output(1));
        let size = Size::of(x.shape());
        let offsets = Offsets {
            x: x.offset(),
            weight: weight.offset(),
            bias: bias.offset(),
            y: y.offset(),
            ..Offsets::default()
        };
        let kernel = kernel(cx, self.kind, "forward", size.width, &[x, weight, bias, y]);
        cx.dispatch(
            Dispatch::new(kernel)
                .write(&statistics)
                .read(&x)
                .read(&weight)
                .read(&bias)
                .write(&y)
                .params(&params(size, offsets, self.epsilon))
                .groups(size.groups)
                .cost(6 * x.elements() as u64, x.bytes() + y.bytes()),
        );
    }
}

impl Operation for NormBackward {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Layer => "layer_norm_backward",
            Kind::Rms => "rms_norm_backward",
        }
    }

    fn identity(&self, signature: &mut Signature) {
        self.hash(signature);
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x, weight] = [inputs[0], inputs[1]];
        match self.kind {
            Kind::Layer => vec![x, weight, weight],
            Kind::Rms => vec![x, weight],
        }
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable(
            "it is a fused kernel; for second derivatives write the normalisation with mean, var and rsqrt",
        )
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let [x, weight, dy] = [0, 1, 3].map(|index| cx.input(index));
        let [x, weight, dy] = [x, weight, dy].map(|operand| cx.contiguous(&operand));
        let statistics = cx.input(2);
        let dx = cx.output(0);
        let size = Size::of(x.shape());
        let partial = cx.temp([size.groups, 2, size.width], DType::F32);
        let outputs: Vec<Operand> = match self.kind {
            Kind::Layer => vec![cx.output(1), cx.output(2)],
            Kind::Rms => vec![cx.output(1)],
        };
        let offsets = Offsets {
            x: x.offset(),
            weight: weight.offset(),
            y: dx.offset(),
            dy: dy.offset(),
            dweight: outputs[0].offset(),
            dbias: outputs.last().map_or(0, Operand::offset),
            ..Offsets::default()
        };
        let words = params(size, offsets, 0.0);
        let kernel = kernel(cx, self.kind, "backward", size.width, &[x, weight, dx, dy]);
        cx.dispatch(
            Dispatch::new(kernel)
                .write(&statistics)
                .read(&x)
                .read(&weight)
                .read(&weight)
                .write(&dx)
                .read(&dy)
                .write(&partial)
                .params(&words)
                .groups(size.groups)
                .cost(
                    12 * x.elements() as u64,
                    x.bytes() + dy.bytes() + dx.bytes(),
                ),
        );
        let entry = match self.kind {
            Kind::Layer => "reduce_layer",
            Kind::Rms => "reduce_rms",
        };
        let mut reduce = Dispatch::new(Kernel::builtin("norm_reduce", PORTABLE, entry))
            .read(&partial)
            .params(&words)
            .grid(size.width.div_ceil(8), 1, 1)
            .cost(partial.elements() as u64, partial.bytes());
        for output in &outputs {
            reduce = reduce.write(output);
        }
        cx.dispatch(reduce);
    }
}

/// Extents as the kernels take them.
#[derive(Clone, Copy)]
struct Size {
    rows: usize,
    width: usize,
    groups: usize,
}

impl Size {
    fn of(shape: Shape) -> Size {
        let [rows, width] = rows_of(shape);
        Size {
            rows,
            width,
            groups: rows.div_ceil(ROWS_PER_GROUP),
        }
    }
}

/// First elements of the operands.
#[derive(Clone, Copy, Default)]
struct Offsets {
    x: u32,
    weight: u32,
    bias: u32,
    y: u32,
    dy: u32,
    dweight: u32,
    dbias: u32,
}

fn params(size: Size, offsets: Offsets, epsilon: f32) -> [u32; 12] {
    [
        size.rows as u32,
        size.width as u32,
        ROWS_PER_GROUP as u32,
        size.groups as u32,
        offsets.x,
        offsets.weight,
        offsets.bias,
        offsets.y,
        offsets.dy,
        offsets.dweight,
        offsets.dbias,
        epsilon.to_bits(),
    ]
}

const PORTABLE: &str = include_str!("../../shaders/norm.wgsl");
const SUBGROUP8: &str = include_str!("../../shaders/norm_subgroup8.wgsl");

/// The register form where it fits, else the portable one.
fn kernel(
    cx: &Lowering<'_>,
    kind: Kind,
    entry: &'static str,
    width: usize,
    operands: &[Operand],
) -> Kernel {
    let name = match (kind, entry) {
        (Kind::Layer, "forward") => "layer_norm",
        (Kind::Rms, "forward") => "rms_norm",
        (Kind::Layer, _) => "layer_norm_backward",
        (Kind::Rms, _) => "rms_norm_backward",
    };
    let aligned = operands
        .iter()
        .all(|operand| operand.offset().is_multiple_of(4));
    let fits = width.is_multiple_of(4) && width <= 1024 && aligned;
    let kernel = if fits && cx.device().has_subgroups_of(8) {
        let blocks = width.div_ceil(32);
        Kernel::builtin(name, SUBGROUP8, entry).constant("BLOCKS", blocks)
    } else {
        Kernel::builtin(name, PORTABLE, entry)
    };
    kernel.flag("LAYER_NORM", kind == Kind::Layer)
}

impl<'t> Var<'t> {
    /// Normalises the last axis: `(x − mean)/√(variance + ε)·weight + bias`, with the biased variance.
    /// `[…, width] → […, width]`. Ba et al. 2016, "Layer Normalization".
    ///
    /// # Panics
    ///
    /// If weight or bias is not of shape `[width]`.
    #[track_caller]
    pub fn layer_norm(self, weight: Var<'t>, bias: Option<Var<'t>>, epsilon: f32) -> Var<'t> {
        let bias = bias.unwrap_or_else(|| self.tape.full(weight.shape(), 0.0));
        let operation = Norm {
            kind: Kind::Layer,
            epsilon,
        };
        self.tape.record_all(operation, &[self, weight, bias])[0]
    }

    /// Scales the last axis to unit root mean square: `x/√(mean(x²) + ε)·weight`. `[…, width] → […, width]`. Zhang and
    /// Sennrich 2019, "Root Mean Square Layer Normalization".
    ///
    /// # Panics
    ///
    /// If the weight is not of shape `[width]`.
    #[track_caller]
    pub fn rms_norm(self, weight: Var<'t>, epsilon: f32) -> Var<'t> {
        let operation = Norm {
            kind: Kind::Rms,
            epsilon,
        };
        self.tape.record_all(operation, &[self, weight])[0]
    }
}
