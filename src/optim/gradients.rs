//! What all optimizers share: the flat gradient, its accumulation, weight decay by parameter, and updates of whole
//! segments.

use super::clip::{Params, global_norm, over_segment};
use crate::error::Result;
use crate::nn::{FlatTensors, Parameters};
use crate::ops::{Operation, TensorType};
use crate::shape::Shape;
use crate::tape::{Backward, Lowering, Signature, Tape, Var};

/// The rule for weight decay that optimizers start with: 1 for matrices (rank 2 and up), 0 for norms, biases and
/// embeddings, told by their names.
pub fn default_decay(name: &str, shape: Shape) -> f32 {
    let spared = name.contains("norm") || name.contains("embedding") || name.ends_with("bias");
    if shape.rank() >= 2 && !spared {
        1.0
    } else {
        0.0
    }
}

/// The part of an optimizer that does not depend on its formula.
#[derive(Debug)]
pub(super) struct Gradients {
    pub parameters: Parameters,
    gradient: FlatTensors,
    /// The sum over the micro-batches before the last; allocated when first needed.
    accumulated: Option<FlatTensors>,
    /// Micro-batches in `accumulated`.
    pending: usize,
    /// By segment: [`decay_runs`].
    decay: Vec<Vec<u32>>,
    pub steps: u64,
}

/// What a step's update kernels are given, beside the segments.
pub(super) struct Step<'t> {
    pub grad_norm: Var<'t>,
    control: Var<'t>,
    tape: &'t Tape,
}

impl Gradients {
    pub fn new(parameters: &Parameters) -> Result<Gradients> {
        super::require(
            !parameters.is_empty(),
            "parameters",
            "none",
            "at least one parameter to train",
        )?;
        Ok(Gradients {
            parameters: parameters.clone(),
            gradient: parameters.mirror()?,
            accumulated: None,
            pending: 0,
            decay: decay_runs(parameters, default_decay)?,
            steps: 0,
        })
    }

    /// Replaces the rule that gives the factors on the weight decay.
    pub fn set_decay(&mut self, rule: impl Fn(&str, Shape) -> f32) -> Result<()> {
        self.decay = decay_runs(&self.parameters, rule)?;
        Ok(())
    }

    /// Records the gradient of a micro-batch and adds it to what has been accumulated.
    #[track_caller]
    pub fn accumulate<'t>(&mut self, tape: &'t Tape, loss: Var<'t>) -> Result<()> {
        if self.accumulated.is_none() {
            self.accumulated = Some(self.parameters.mirror()?);
        }
        let accumulated = self.accumulated.as_ref().expect("made above");
        if self.pending == 0 {
            // What the last step left there is overwritten.
            self.differentiate(tape, loss, accumulated);
        } else {
            self.differentiate(tape, loss, &self.gradient);
            add(tape, accumulated, &self.gradient);
        }
        self.pending += 1;
        Ok(())
    }

    /// Records everything of a step but the update itself.
    #[track_caller]
    pub fn step<'t>(&mut self, tape: &'t Tape, loss: Var<'t>, clip: Option<f32>) -> Step<'t> {
        self.differentiate(tape, loss, &self.gradient);
        if std::mem::take(&mut self.pending) > 0 {
            let accumulated = self
                .accumulated
                .as_ref()
                .expect("micro-batches are pending");
            add(tape, &self.gradient, accumulated);
        }
        self.steps += 1;
        let (grad_norm, control) = global_norm(tape, self.gradient.segments(), loss, clip);
        Step {
            grad_norm,
            control,
            tape,
        }
    }

    /// Records one update kernel per segment. `values` are its hyperparameters, data of this step.
    pub fn update(
        &self,
        step: &Step<'_>,
        kernel: &'static str,
        values: &[f32],
        moments: &[&FlatTensors],
    ) {
        let tape = step.tape;
        let values = tape.input([values.len()], values);
        for (index, parameters) in self.parameters.segments().iter().enumerate() {
            let runs = &self.decay[index];
            let mut inputs = vec![
                tape.tensor(parameters),
                tape.tensor(&self.gradient.segments()[index]),
                tape.input([runs.len() / 2, 2], runs),
                values,
                step.control,
            ];
            let moments = moments.iter().map(|flat| &flat.segments()[index]);
            inputs.extend(moments.map(|segment| tape.tensor(segment)));
            tape.record_all(UpdateSegment { kernel }, &inputs);
        }
    }

    /// Bytes of parameters, gradients, and what is needed beside them.
    pub fn memory(&self) -> u64 {
        let accumulated = self.accumulated.as_ref().map_or(0, FlatTensors::bytes);
        // Gradients are laid out like the parameters.
        2 * self.gradient.bytes() + accumulated
    }

    pub fn resume(&mut self, steps: u64) {
        self.steps = steps;
        self.pending = 0;
    }

    #[track_caller]
    fn differentiate<'t>(&self, tape: &'t Tape, loss: Var<'t>, to: &FlatTensors) {
        let gradients = tape.backward(loss);
        // All gradients are recorded before the first is assigned, so that the planner may fuse across them; it then
        // lets each gradient's kernel write straight into the flat storage.
        for (parameter, part) in self.parameters.iter().zip(to.parts()) {
            let gradient = gradients.of(parameter.on(tape));
            let gradient = gradient.unwrap_or_else(|| tape.full(parameter.shape(), 0.0));
            tape.assign(part, gradient);
        }
    }
}

/// For each segment, the stretches of parameters whose weights decay alike: of each, the vec4 that it ends before and
/// the bits of the factor that a rule gives. The last ends with the segment.
fn decay_runs(parameters: &Parameters, rule: impl Fn(&str, Shape) -> f32) -> Result<Vec<Vec<u32>>> {
    let segments = parameters.segments();
    let mut runs: Vec<Vec<[u32; 2]>> = vec![Vec::new(); segments.len()];
    for (parameter, &(segment, offset)) in parameters.iter().zip(parameters.places()) {
        let (name, shape) = (parameter.name(), parameter.shape());
        let factor = rule(name, shape);
        super::require(
            factor.is_finite() && factor >= 0.0,
            &format!("decay factor of `{name}`"),
            factor,
            "a finite number, at least 0",
        )?;
        let (end, factor) = ((offset + shape.elements()).div_ceil(4), factor.to_bits());
        match runs[segment].last_mut() {
            Some(run) if run[1] == factor => run[0] = end as u32,
            _ => runs[segment].push([end as u32, factor]),
        }
    }
    for (runs, segment) in runs.iter_mut().zip(segments) {
        let last = runs.last_mut().expect("no segment is empty");
        last[0] = (segment.shape().elements() / 4) as u32;
    }
    Ok(runs.into_iter().map(|runs| runs.concat()).collect())
}

/// Changes one segment of the parameters in place. Inputs: parameters, gradient, [`decay_runs`], hyperparameters,
/// control, moments; the first and the moments are overwritten.
#[derive(Debug)]
struct UpdateSegment {
    /// The kernel's entry point.
    kernel: &'static str,
}

impl Operation for UpdateSegment {
    fn name(&self) -> &'static str {
        self.kernel
    }

    fn identity(&self, _signature: &mut Signature) {}

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        Vec::new()
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it is an update, not a part of the model")
    }

    fn mutates(&self) -> &[usize] {
        match self.kernel {
            "adamw" => &[0, 5, 6],
            "sgd_momentum" => &[0, 5],
            _ => &[0],
        }
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let [runs, values, control] = [2, 3, 4].map(|index| cx.input(index));
        let elements = cx.input(0).elements();
        let params = Params {
            vectors: elements / 4,
            runs: runs.elements() / 2,
            runs_offset: runs.offset(),
            values: values.offset(),
            control: control.offset(),
            ..Params::default()
        };
        let mut dispatch =
            over_segment(cx.class(), self.kernel, params.vectors).params(&params.words());
        let mut bytes = 0;
        for index in 0..cx.input_count() {
            let operand = cx.input(index);
            let is_written = self.mutates().contains(&index);
            bytes += operand.bytes() * if is_written { 2 } else { 1 };
            dispatch = if is_written {
                dispatch.write(&operand)
            } else {
                dispatch.read(&operand)
            };
        }
        cx.dispatch(dispatch.cost(15 * elements as u64, bytes));
    }
}

/// Adds its second input to its first, a segment each.
#[derive(Debug)]
struct AddInto;

fn add(tape: &Tape, to: &FlatTensors, from: &FlatTensors) {
    for (to, from) in to.segments().iter().zip(from.segments()) {
        tape.record_all(AddInto, &[tape.tensor(to), tape.tensor(from)]);
    }
}

impl Operation for AddInto {
    fn name(&self) -> &'static str {
        "add_into"
    }

    fn identity(&self, _signature: &mut Signature) {}

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        Vec::new()
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it is an update, not a part of the model")
    }

    fn mutates(&self) -> &[usize] {
        &[0]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let (to, from) = (cx.input(0), cx.input(1));
        let params = Params {
            vectors: to.elements() / 4,
            ..Params::default()
        };
        cx.dispatch(
            over_segment(cx.class(), "add_into", params.vectors)
                .write(&to)
                .read(&from)
                .params(&params.words())
                .cost(to.elements() as u64, 3 * to.bytes()),
        );
    }
}
