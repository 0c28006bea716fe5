//! What all optimizers share: the flat gradient, its accumulation, weight decay by parameter, and updates of whole
//! segments.

use super::clip::{Params, global_norm, kernel, over_segment};
use super::groups::{Factors, ParameterGroups};
use super::loss_scale::{LossScale, Scale};
use super::optimizer::Update;
use crate::error::{Error, Result};
use crate::gpu::DType;
use crate::gpu::buffer::Buffer;
use crate::nn::{FlatTensors, Parameters};
use crate::ops::{Operation, TensorType};
use crate::shape::Shape;
use crate::tape::{Backward, Lowering, Tape, Var};

/// The part of an optimizer that does not depend on its formula.
#[derive(Debug)]
pub(super) struct Gradients {
    pub parameters: Parameters,
    pub scale: Scale,
    /// By parameter.
    factors: Vec<Factors>,
    /// Of the parameters that are not frozen.
    gradient: FlatTensors,
    /// The sum over the micro-batches before the last; allocated when first needed.
    accumulated: Option<FlatTensors>,
    /// Micro-batches in `accumulated`, and the parameters that their losses depend on.
    pending: usize,
    /// Whether their losses were scaled.
    pending_scaled: bool,
    reached: Vec<bool>,
    pub steps: u64,
}

/// What a step's update kernels are given, beside the segments.
pub(super) struct Step<'t> {
    loss: Var<'t>,
    control: Var<'t>,
    is_scaled: bool,
    tape: &'t Tape,
    /// Whether it is made from what has been accumulated alone.
    is_accumulated: bool,
    /// By segment of the gradient: [`Gradients::runs`].
    runs: Vec<Vec<[u32; 4]>>,
}

impl Gradients {
    pub fn new(
        parameters: &Parameters,
        groups: &ParameterGroups,
        loss_scale: LossScale,
    ) -> Result<Gradients> {
        if parameters.dtype() != DType::F32 {
            let value = format!("{:?}, which is for inference", parameters.dtype());
            let expected = "F32: build them without ParameterBuilder::with_dtype, and train on tapes of mixed precision";
            return Err(Error::invalid("the parameters' type", value, expected));
        }
        if let Some(frozen) = parameters.iter().find(|parameter| parameter.is_frozen()) {
            let name = format!("`{}`", frozen.name());
            let expected = "parameters to train: describe them to another ParameterBuilder, or freeze some by ParameterGroups";
            return Err(Error::invalid(name, "frozen by its builder", expected));
        }
        let factors = groups.of(parameters)?;
        Ok(Gradients {
            scale: Scale::new(parameters.device(), loss_scale)?,
            gradient: mirror(parameters, &factors)?,
            parameters: parameters.clone(),
            reached: vec![false; factors.len()],
            factors,
            accumulated: None,
            pending: 0,
            pending_scaled: false,
            steps: 0,
        })
    }

    /// Storage for what belongs to the parameters that are not frozen.
    pub fn mirror(&self) -> Result<FlatTensors> {
        mirror(&self.parameters, &self.factors)
    }

    /// Records the gradient of a micro-batch and adds it to what has been accumulated.
    #[track_caller]
    pub fn accumulate<'t>(&mut self, tape: &'t Tape, loss: Var<'t>) -> Result<()> {
        self.require_one_precision(tape);
        if self.accumulated.is_none() {
            self.accumulated = Some(self.mirror()?);
        }
        let accumulated = self.accumulated.as_ref().expect("made above");
        let reached = if self.pending == 0 {
            // What the last step left there is overwritten.
            self.differentiate(tape, loss, accumulated)
        } else {
            let reached = self.differentiate(tape, loss, &self.gradient);
            add(tape, accumulated, &self.gradient);
            reached
        };
        if !tape.is_refused() {
            self.reached = reached;
            self.pending += 1;
            self.pending_scaled = self.scale.on(tape).is_some();
        }
        Ok(())
    }

    /// What has been accumulated, if anything has.
    pub fn accumulated(&self) -> Option<&FlatTensors> {
        self.accumulated.as_ref().filter(|_| self.pending > 0)
    }

    /// Records everything of a step but the update itself: of what has been accumulated alone, or of the loss's gradient
    /// too.
    #[track_caller]
    pub fn step<'t>(
        &mut self,
        tape: &'t Tape,
        loss: Var<'t>,
        clip: Option<f32>,
        is_accumulated: bool,
    ) -> Step<'t> {
        self.require_one_precision(tape);
        let loss = loss.cast(DType::F32);
        let reached = if is_accumulated {
            assert!(
                self.pending > 0,
                "step_accumulated: nothing has been accumulated since the last step"
            );
            self.reached.clone()
        } else {
            let reached = self.differentiate(tape, loss, &self.gradient);
            if let Some(accumulated) = self.accumulated() {
                add(tape, &self.gradient, accumulated);
            }
            reached
        };
        let runs = self.runs(&reached);
        // What has been accumulated waits for a tape that runs.
        if !tape.is_refused() {
            self.resume(self.steps + 1);
        }
        let scale = self.scale.on(tape);
        let segments = self.read(is_accumulated).segments();
        let control = global_norm(tape, segments, loss, clip, scale);
        Step {
            loss,
            control,
            is_scaled: scale.is_some(),
            tape,
            is_accumulated,
            runs,
        }
    }

    /// Records one update kernel per segment. `values` are its hyperparameters, data of this step, the learning rate first.
    /// Gives what the optimizer gives back.
    pub fn update<'t, const N: usize>(
        &self,
        step: &Step<'t>,
        kernel: &'static str,
        mut values: [f32; N],
        moments: &[&FlatTensors],
    ) -> Update<'t> {
        // Everything that the kernel would multiply must be finite, or it shall do nothing and the report say so.
        let factors = self.factors.iter();
        let largest = factors.fold(1.0f32, |most, factors| {
            most.max(factors.learning_rate * factors.weight_decay.max(1.0))
        });
        if let Some(&value) = values.iter().find(|&value| !(value * largest).is_finite()) {
            values[0] = value * largest;
        }
        let tape = step.tape;
        let learning_rate = values[0];
        let values = tape.input([N], &values);
        let segments = self.read(step.is_accumulated).segments();
        for (index, gradient) in segments.iter().enumerate() {
            let runs = &step.runs[index];
            let source = &self.parameters.segments()[self.source(index)];
            let mut inputs = vec![
                tape.tensor(source),
                tape.tensor(gradient),
                tape.input([runs.len(), 4], runs.as_flattened()),
                values,
                step.control,
            ];
            let moments = moments.iter().map(|flat| &flat.segments()[index]);
            inputs.extend(moments.map(|segment| tape.tensor(segment)));
            let vectors = runs.last().expect("no segment is empty")[0] as usize;
            let moments = inputs.len() - MOMENTS;
            // Only mixed tapes read it, and others leave it behind.
            let halves = tape.is_mixed().then(|| tape.tensor_in_halves(source));
            let halves = halves.flatten();
            inputs.extend(halves);
            let update = UpdateSegment {
                kernel,
                vectors,
                moments,
                has_halves: halves.is_some(),
            };
            tape.record_all(update, &inputs);
        }
        let control = |index: usize| {
            let word = step.control.slice(0, index..index + 1);
            word.reshape(Shape::SCALAR)
        };
        Update {
            loss: step.loss,
            grad_norm: control(0),
            loss_scale: step.is_scaled.then(|| control(3)),
            step: self.steps,
            learning_rate,
        }
    }

    /// The factors, for checkpoints.
    pub fn settings(&self) -> serde_json::Value {
        super::groups::settings(&self.parameters, &self.factors)
    }

    /// Bytes of parameters, gradients, and what is needed beside them.
    pub fn memory(&self) -> u64 {
        let accumulated = self.accumulated.as_ref().map_or(0, FlatTensors::bytes);
        let scale = self.scale.state().map_or(0, |(state, _)| state.bytes());
        let halves = self.parameters.segments().iter();
        let halves = halves.filter_map(|segment| segment.buffer.halves());
        let halves: u64 = halves.map(Buffer::bytes).sum();
        self.parameters.bytes() + self.gradient.bytes() + accumulated + scale + halves
    }

    pub fn resume(&mut self, steps: u64) {
        self.steps = steps;
        self.pending = 0;
        self.reached.fill(false);
    }

    /// Gradients are added up as they are.
    #[track_caller]
    fn require_one_precision(&self, tape: &Tape) {
        let is_scaled = self.scale.on(tape).is_some();
        assert!(
            self.pending == 0 || self.pending_scaled == is_scaled,
            "step: the losses of its micro-batches are scaled in part only; record them in one precision"
        );
    }

    /// What a step's norm and update read.
    fn read(&self, is_accumulated: bool) -> &FlatTensors {
        let accumulated = self.accumulated.as_ref().filter(|_| is_accumulated);
        accumulated.unwrap_or(&self.gradient)
    }

    /// Which parameters, of those that are not frozen, the loss depends on, or that of an earlier micro-batch.
    #[track_caller]
    fn differentiate<'t>(&self, tape: &'t Tape, loss: Var<'t>, to: &FlatTensors) -> Vec<bool> {
        let gradients = tape.backward(self.scale.applied(loss));
        let (mut reached, mut reaches_any) = (self.reached.clone(), false);
        // All gradients are recorded before the first is assigned, so that the planner may fuse across them; it then
        // lets each gradient's kernel write straight into the flat storage.
        for ((index, ..), part) in to.places().zip(to.parts()) {
            let parameter = &self.parameters[index];
            let gradient = gradients.of(parameter.on(tape));
            reached[index] |= gradient.is_some();
            reaches_any |= gradient.is_some();
            let gradient = gradient.unwrap_or_else(|| tape.full(parameter.shape(), 0.0));
            tape.assign(part, gradient);
        }
        assert!(
            reaches_any,
            "step: the loss depends on no parameter that this optimizer trains: is it detached, or of another model?"
        );
        reached
    }

    /// The segment of the parameters that a segment of the gradient mirrors.
    fn source(&self, segment: usize) -> usize {
        let mut places = self.gradient.places();
        let place = places.find(|&(_, other, _)| other == segment);
        let (index, ..) = place.expect("no segment is empty");
        self.parameters.places()[index].0
    }

    /// For each segment of the gradient, the stretches that are treated alike: the vec4 that each ends before, the bits of
    /// its factors on learning rate and weight decay, and how many vec4s further on the parameters lie than their
    /// gradients. Parameters that no loss of this step depends on are left alone, as in PyTorch: their rate is zero.
    fn runs(&self, reached: &[bool]) -> Vec<Vec<[u32; 4]>> {
        let mut runs: Vec<Vec<[u32; 4]>> = vec![Vec::new(); self.gradient.segments().len()];
        for (index, segment, offset) in self.gradient.places() {
            let factors = match reached[index] {
                true => self.factors[index],
                false => Factors::FROZEN,
            };
            let elements = self.parameters[index].shape().elements();
            let end = (offset + elements).div_ceil(4) as u32;
            let shift = (self.parameters.places()[index].1 - offset) / 4;
            let run = [
                end,
                factors.learning_rate.to_bits(),
                factors.weight_decay.to_bits(),
                shift as u32,
            ];
            match runs[segment].last_mut() {
                Some(last) if last[1..] == run[1..] => last[0] = end,
                _ => runs[segment].push(run),
            }
        }
        runs
    }
}

fn mirror(parameters: &Parameters, factors: &[Factors]) -> Result<FlatTensors> {
    let trained = (0..factors.len()).filter(|&index| !factors[index].is_frozen());
    parameters.mirror_of(&trained.collect::<Vec<usize>>())
}

/// Changes one segment of the parameters in place. Inputs: parameters, gradient, [`Gradients::runs`], hyperparameters,
/// control, moments, and the parameters' copy in halves if it is kept; the first, the moments and the copy are overwritten.
/// Or, with the first two inputs only, adds a segment to another.
#[derive(Debug, Hash)]
struct UpdateSegment {
    /// The kernel's entry point.
    kernel: &'static str,
    /// Of the gradient, without the padding at the end.
    vectors: usize,
    /// How many moments there are.
    moments: usize,
    has_halves: bool,
}

/// Where the moments begin.
const MOMENTS: usize = 5;

impl Operation for UpdateSegment {
    fn name(&self) -> &'static str {
        self.kernel
    }

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        Vec::new()
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it is an update, not a part of the model")
    }

    fn mutates(&self) -> &[usize] {
        let all = &[0, MOMENTS, MOMENTS + 1, MOMENTS + 2];
        &all[..1 + self.moments + usize::from(self.has_halves)]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let mut params = Params {
            vectors: self.vectors as u32,
            ..Params::default()
        };
        let mut flops = 4;
        if cx.input_count() >= MOMENTS {
            let [runs, values, control] = [2, 3, 4].map(|index| cx.input(index));
            params = Params {
                runs: runs.elements() as u32 / 4,
                runs_offset: runs.offset() / 4,
                values: values.offset() / 4,
                control: control.offset(),
                ..params
            };
            flops = 60;
        }
        let mut kernel = kernel(self.kernel);
        let halves = MOMENTS + self.moments;
        if self.has_halves {
            let binding = 1 + halves;
            kernel = kernel.declare(&format!(
                "@group(0) @binding({binding}) var<storage, read_write> halves: array<vec4<f32>>;\n\
                 fn keep_half(place: u32, value: vec4<f32>) {{ halves[place] = value; }}"
            ));
        }
        let mut dispatch = over_segment(cx.class(), kernel, self.vectors).params(params.words());
        let mut bytes = 0;
        for index in 0..cx.input_count() {
            let operand = cx.input(index);
            let is_written = self.mutates().contains(&index);
            // Of the parameters, only those that have a gradient.
            let used = operand.bytes().min(16 * self.vectors as u64);
            let is_read_too = is_written && index != halves;
            bytes += used * if is_read_too { 2 } else { 1 };
            dispatch = if is_written {
                dispatch.write(&operand)
            } else {
                dispatch.read(&operand)
            };
        }
        cx.dispatch(dispatch.cost(flops * self.vectors as u64, bytes));
    }
}

/// Adds the segments of `from` to those of `to`.
fn add(tape: &Tape, to: &FlatTensors, from: &FlatTensors) {
    for (to, from) in to.segments().iter().zip(from.segments()) {
        let sum = UpdateSegment {
            kernel: "add_into",
            vectors: to.shape().elements() / 4,
            moments: 0,
            has_halves: false,
        };
        tape.record_all(sum, &[tape.tensor(to), tape.tensor(from)]);
    }
}
