//! LayerNorm and RMSNorm over the last axis, fused forward and backward.
//!
//! Forward keeps `1/σ` and the mean of every row for the gradient. Backward is two dispatches: the gradient of the
//! input together with partial sums of the parameters' gradients, and those added up. The gradient that reaches the
//! input another way, around a residual branch, is added as the first one's epilogue.

use super::rows::{Loops, Rows, Sharing, grid, load};
use super::{Operation, Role, Takes, TensorType, epilogue, require_floats};
use crate::gpu::{AdapterClass, DType, Kernel};
use crate::ops::reduce::sum_to;
use crate::tape::{Backward, Dispatch, Epilogue, Lowering, Operand, Var};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// `(x − mean)/√(variance + ε)·weight + bias`
    Layer,
    /// `x/√(mean(x²) + ε)·weight`
    Rms,
}

/// Inputs `x`, weight and, optionally, bias; outputs `y` and the rows' statistics `[rows, 2]`: `1/σ`, mean.
#[derive(Clone, Debug, Hash)]
struct Norm {
    kind: Kind,
    /// Its bits.
    epsilon: u32,
}

/// Inputs `x`, weight, statistics and `dy`; outputs `dx`, the weight's gradient and, with a bias, the bias's.
#[derive(Clone, Debug, Hash)]
struct NormBackward {
    kind: Kind,
    epsilon: u32,
    bias: bool,
}

impl Operation for Norm {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Layer => "layer_norm",
            Kind::Rms => "rms_norm",
        }
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        require_floats(self.name(), inputs);
        let epsilon = f32::from_bits(self.epsilon);
        assert!(
            epsilon.is_finite() && epsilon >= 0.0,
            "{}: ε is {epsilon}, expected a finite number, at least 0",
            self.name()
        );
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
        let [_, rows, _] = grid(shape);
        vec![TensorType::f32(shape), TensorType::f32([rows, 2].into())]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let inputs = [
            node.input(0),
            node.input(1),
            node.output(1),
            node.gradient(0),
        ];
        let operation = NormBackward {
            kind: self.kind,
            epsilon: self.epsilon,
            bias: node.inputs().len() == 3,
        };
        let gradients = node.tape().record_all(operation, &inputs);
        gradients.into_iter().map(Some).collect()
    }

    fn role(&self, output: TensorType) -> Role<'_> {
        epilogue(grid(output.shape))
    }

    /// Statistics, `x`, weight, bias.
    fn bindings(&self, _inputs: usize) -> usize {
        4
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let [_, rows, width] = grid(cx.input(0).shape());
        let bias = cx.input_count() == 3;
        // Without a bias the kernel never reads one; it still binds something.
        let third = if bias { 2 } else { 1 };
        let inputs = [0, 1, third].map(|index| Rows::of(cx, cx.input(index), width));
        let statistics = cx.output(1);
        let epilogue = cx.epilogue(5);
        let loops = Loops {
            passes: 3,
            stores: epilogue.iterations,
        };
        let sharing = Sharing::repeating(cx, rows, width, loops);
        let [x, weight, third] = inputs;
        let kernel = self.kind.kernel(
            cx,
            (self.name(), "forward"),
            (&sharing, &epilogue),
            ("bias", bias),
            [&x, &weight, &third],
        );
        let mut params = sharing.params.to_vec();
        params.extend([x.place(), weight.place(), third.place(), [0; 2]].concat());
        params.extend([sharing.groups as u32, self.epsilon, 0, 0]);
        cx.dispatch(
            Dispatch::new(kernel)
                .write(&statistics)
                .read(&x.operand)
                .read(&weight.operand)
                .read(&third.operand)
                .params(&params)
                .epilogue(&epilogue)
                .groups(sharing.groups)
                .iterations(sharing.iterations)
                .cost(
                    6 * (rows * width) as u64,
                    x.operand.bytes() + epilogue.bytes,
                ),
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

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [x, weight] = [inputs[0], inputs[1]];
        if self.bias {
            vec![x, weight, weight]
        } else {
            vec![x, weight]
        }
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    /// With `h = P(x)/σ`, where `P` subtracts the mean of the row (LayerNorm) or nothing (RMSNorm), and `g = dy·weight`:
    ///
    /// ```text
    /// dx = J·g,  J·v = (P(v) − h·mean(v·h))/σ,  J symmetric
    /// dweight = Σ dy·h over the rows,  dbias = Σ dy
    /// ```
    ///
    /// For `u` arriving at `dx`, `a = mean(g·h)`, `b = mean(u·h)` and `c = mean(P(u)·P(g))`, the gradient of `u·J·g` to
    /// `x` is `−(h·(c − 3·a·b) + b·P(g) + a·P(u))/σ²`. That to the statistics is part of it.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let (x, weight, dy) = (node.input(0), node.input(1), node.input(3));
        let last = [x.shape().rank() - 1];
        let mean = |v: Var<'t>| v.mean_keep(&last);
        let project = |v: Var<'t>| match self.kind {
            Kind::Layer => v - mean(v),
            Kind::Rms => v,
        };
        let centred = project(x);
        let rstd = (mean(centred * centred) + f32::from_bits(self.epsilon)).rsqrt();
        let h = centred * rstd;
        let jacobian = |v: Var<'t>| (project(v) - h * mean(v * h)) * rstd;
        let mut to_x: Vec<Var<'t>> = Vec::new();
        let mut to_weight = None;
        let mut to_dy: Vec<Var<'t>> = Vec::new();
        if let Some(u) = node.gradient_if_any(0) {
            let g = dy * weight;
            let (pu, pg) = (project(u), project(g));
            let (a, b, c) = (mean(g * h), mean(u * h), mean(pu * pg));
            let v = jacobian(u);
            to_x.push(-((h * (c - a * b * 3.0) + b * pg + a * pu) * rstd * rstd));
            to_weight = Some(sum_to(v * dy, weight.shape()));
            to_dy.push(v * weight);
        }
        if let Some(u) = node.gradient_if_any(1) {
            to_x.push(jacobian(dy * u));
            to_dy.push(h * u);
        }
        if let Some(u) = self.bias.then(|| node.gradient_if_any(2)).flatten() {
            to_dy.push(u.broadcast_to(dy.shape()));
        }
        let sum = |terms: Vec<Var<'t>>| terms.into_iter().reduce(|sum, term| sum + term);
        vec![sum(to_x), to_weight, None, sum(to_dy)]
    }

    fn role(&self, output: TensorType) -> Role<'_> {
        epilogue(grid(output.shape))
    }

    /// Statistics, `x`, weight, `dy`, partial sums.
    fn bindings(&self, _inputs: usize) -> usize {
        5
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let [_, rows, width] = grid(cx.input(0).shape());
        let [x, weight, dy] = [0, 1, 3].map(|index| Rows::of(cx, cx.input(index), width));
        let epilogue = cx.epilogue(6);
        // The last pass is that of the sums, column by column.
        let loops = Loops {
            passes: 3,
            stores: epilogue.iterations,
        };
        let sharing = Sharing::summing(cx, rows, width, loops);
        let partial = cx.temp([sharing.groups, 2, width], DType::F32);
        let outputs: Vec<Operand> = (1..=1 + usize::from(self.bias))
            .map(|index| cx.output(index))
            .collect();
        let mut params = sharing.params.to_vec();
        params.extend([x.place(), weight.place(), [0; 2], dy.place()].concat());
        params.extend([sharing.groups as u32, 0]);
        params.extend([&outputs[0], &outputs[outputs.len() - 1]].map(Operand::offset));

        let kernel = self.kind.kernel(
            cx,
            (self.name(), "backward"),
            (&sharing, &epilogue),
            ("dy", self.bias),
            [&x, &weight, &dy],
        );
        cx.dispatch(
            Dispatch::new(kernel)
                .read(&cx.input(2))
                .read(&x.operand)
                .read(&weight.operand)
                .read(&dy.operand)
                .write(&partial)
                .params(&params)
                .epilogue(&epilogue)
                .groups(sharing.groups)
                .iterations(sharing.iterations)
                .cost(
                    12 * (rows * width) as u64,
                    x.operand.bytes() + dy.operand.bytes() + epilogue.bytes,
                ),
        );
        if (1..=outputs.len()).any(|index| cx.is_needed(index)) {
            self.add_up(cx, &partial, &outputs, params);
        }
    }
}

impl NormBackward {
    /// The second stage: the partial sums of all workgroups.
    fn add_up(
        &self,
        cx: &mut Lowering<'_>,
        partial: &Operand,
        outputs: &[Operand],
        mut params: Vec<u32>,
    ) {
        let (columns, parts) = match cx.class() {
            AdapterClass::Software => (8, 1),
            AdapterClass::Gpu => (8, 32),
        };
        // The epilogue's part of the parameters, which this stage has none of.
        params.resize(16 + 4 * 7, 0);
        let entry = match self.bias {
            true => "parameters_with_bias",
            false => "parameters",
        };
        let kernel = Kernel::builtin("norm_parameters", "norm", entry)
            .constant("COLUMNS", columns)
            .constant("PARTS", parts)
            .flag("BIAS", self.bias);
        let width = outputs[0].elements();
        let mut dispatch = Dispatch::new(kernel)
            .read(partial)
            .params(&params)
            .groups(width.div_ceil(columns))
            .iterations(partial.shape().dim(0).div_ceil(parts) + 16)
            .cost(partial.elements() as u64, partial.bytes());
        for output in outputs {
            dispatch = dispatch.write(output);
        }
        // Nothing needs these gradients before the optimizer runs.
        if cx.class() == AdapterClass::Gpu {
            dispatch = dispatch
                .fusable("norm_parameters", columns * parts)
                .deferrable();
        }
        cx.dispatch(dispatch);
    }
}

/// The widest rows that stay in registers. Beyond, unrolling makes kernels that compile for seconds to save a third of
/// the time.
const WIDEST_IN_REGISTERS: usize = 256;

impl Kind {
    /// A kernel with its operands, `x`, weight and a third, and the epilogue: in registers where they do, else the portable form.
    fn kernel(
        self,
        cx: &Lowering<'_>,
        (name, entry): (&'static str, &'static str),
        (sharing, epilogue): (&Sharing, &Epilogue),
        (third, bias): (&str, bool),
        operands: [&Rows; 3],
    ) -> Kernel {
        let width = sharing.params[0] as usize;
        let vector = width.is_multiple_of(4) && operands.iter().all(|rows| rows.is_aligned());
        let names = ["x", "weight", third].into_iter().zip(2..);
        let loads: String = names
            .map(|(name, binding)| load(name, binding, vector))
            .collect();
        let kernel = if cx.device().has_subgroups_of(8) && width <= WIDEST_IN_REGISTERS {
            Kernel::builtin(name, "norm_subgroup8", entry)
                .constant("BLOCKS", width.div_ceil(32))
                .declare(&epilogue.wgsl_by_rows)
        } else {
            sharing
                .kernel(Kernel::builtin(name, "norm", entry))
                .declare(&epilogue.wgsl)
        };
        kernel
            .declare(&loads)
            .flag("LAYER_NORM", self == Kind::Layer)
            .flag("BIAS", bias)
    }
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
        let operation = Norm {
            kind: Kind::Layer,
            epsilon: epsilon.to_bits(),
        };
        let mut inputs = vec![self, weight];
        inputs.extend(bias);
        self.tape.record_all(operation, &inputs)[0]
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
            epsilon: epsilon.to_bits(),
        };
        self.tape.record_all(operation, &[self, weight])[0]
    }
}
