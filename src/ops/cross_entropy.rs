//! Cross-entropy from logits: the loss and the logits' gradient in one kernel.
//!
//! With `p = softmax(x)` over the classes of a row, target `t`, label smoothing `s` and `V` classes:
//!
//! ```text
//! loss = −(1 − s)·ln p[t] − s/V·Σₖ ln p[k]            dx[k] = p[k] − (1 − s)·[k = t] − s/V
//! ```
//!
//! as PyTorch's `cross_entropy` has it. Label smoothing: Szegedy et al. 2015, "Rethinking the Inception Architecture for
//! Computer Vision". The gradient does not wait for the backward pass: the kernel that finds the loss writes it, where
//! something reads it, already divided by the number of targets that count; over the logits, if nothing else reads those,
//! so that a large vocabulary's are in memory once. Going back from a loss that is not scaled runs nothing more.

use super::indices::Bounds;
use super::rows::Team;
use super::{Operation, Takes, TensorType};
use crate::gpu::{AdapterClass, DType, Kernel};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Operand, Var};

/// How [`Var::cross_entropy`] treats its targets. The default counts every target and does not smooth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// The target of rows that have none: they add nothing to the loss and get no gradient.
    pub ignore_index: Option<u32>,
    /// How much of the target's probability is spread evenly over all classes, `0.0..=1.0`.
    pub label_smoothing: f32,
}

impl CrossEntropy {
    /// Leaves out rows with this target.
    pub fn ignoring(ignore_index: u32) -> CrossEntropy {
        CrossEntropy {
            ignore_index: Some(ignore_index),
            ..CrossEntropy::default()
        }
    }
}

/// `logits [.., V]`, `targets [..]` → the loss, and the logits' gradient if the loss is what gets differentiated.
#[derive(Clone, Debug, Hash)]
struct Loss {
    /// The bits of the label smoothing.
    smoothing: u32,
    /// The mean over the targets that count; else one loss for each row.
    is_mean: bool,
    bounds: Bounds,
}

impl Operation for Loss {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let loss = match self.is_mean {
            true => Shape::SCALAR,
            false => inputs[1].shape,
        };
        vec![TensorType::f32(loss), inputs[0]]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        if node.gradient_if_any(1).is_some() {
            node.not_differentiable(
                "its gradient comes from the kernel that finds the loss; for second derivatives write the loss as \
                 -log_softmax gathered at the targets",
            );
        }
        let mut gradient = node.gradient(0);
        let TensorType { shape, dtype } = node.input(0).tensor_type();
        let lift = self.lift(shape.elements() / shape.last(), dtype);
        if lift > 1.0 {
            gradient = gradient * (1.0 / lift);
        }
        if !self.is_mean {
            let mut shape = gradient.shape().dims().to_vec();
            shape.push(1);
            gradient = gradient.reshape(&shape);
        }
        vec![Some(node.output(1) * gradient), None]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let targets = cx.contiguous(&cx.input(1));
        let rows = targets.elements();
        let logits = cx.input(0);
        let classes = logits.shape().last();
        let logits = cx.reshaped(&logits, Shape::new(&[rows, classes]));
        let writes_gradient = cx.is_needed(1);
        // A gradient as large as the logits is not kept beside them if nobody reads them any more.
        let over_logits = writes_gradient && cx.reuse_input(1, 0);
        let (output, gradient) = (cx.output(0), cx.output(1));
        let losses = match self.is_mean {
            true => cx.temp([rows], DType::F32),
            false => output,
        };
        let counted =
            (self.is_mean && self.bounds.ignored.is_some()).then(|| cx.temp([1], DType::F32));
        let scale = if self.is_mean { 1.0 / rows as f32 } else { 1.0 };
        // A single class has everything, whatever is spread over it: said so, without rounding.
        let smoothing = match classes {
            1 => 0.0,
            _ => f64::from(f32::from_bits(self.smoothing)),
        };
        let strides = logits.layout.strides();
        let variant = Variant::of(cx, classes, writes_gradient);
        let params = |losses: &Operand| {
            [
                rows as u32,
                classes as u32,
                logits.offset(),
                strides[0] as u32,
                strides[1] as u32,
                targets.offset(),
                losses.offset(),
                gradient.offset(),
                self.bounds.ignored.is_some() as u32,
                self.bounds.ignored.unwrap_or(0),
                counted.is_some() as u32,
                scale.to_bits(),
                ((1.0 - smoothing) as f32).to_bits(),
                ((smoothing / classes as f64) as f32).to_bits(),
                f32::NAN.to_bits(),
                self.lift(rows, logits.dtype).to_bits(),
            ]
        };
        // The single workgroup that adds up.
        let lanes = match cx.class() {
            AdapterClass::Software if rows <= 8 * 4096 => 8,
            _ => 256,
        };
        // Larger ones take sixteen rows at a time.
        let adding_up = match lanes {
            8 => rows.div_ceil(8) + 8,
            _ => rows.div_ceil(16 * lanes) + 16 + 8,
        };
        if let Some(counted) = &counted {
            cx.dispatch(
                Dispatch::new(kernel("count_targets", &Team::alone(lanes)).declare(COUNTED))
                    .read(&targets)
                    .write(counted)
                    .params(&params(&losses))
                    .iterations(adding_up)
                    .cost(0, targets.bytes()),
            );
        }
        // Bound for the logits, and where the scale is not counted. Logits that the gradient overwrites are bound with it,
        // so something that the kernel does not read there stands in for them.
        let mut main = variant.kernel(classes);
        if !writes_gradient {
            main = main.declare(WITHOUT_GRADIENT);
        }
        let (main, first) = match over_logits {
            true => (main.declare(OVER_LOGITS), targets),
            false => (main, logits),
        };
        let counter = self.bounds.counter(cx, "cross_entropy");
        let main = counter.kernel(main, 6);
        let mut dispatch = Dispatch::new(main)
            .read(&first)
            .read(&targets)
            .write(&losses)
            .params(&params(&losses))
            .iterations(variant.iterations(classes))
            .groups(rows.div_ceil(variant.rows));
        let mut bytes = logits.bytes() + targets.bytes() + losses.bytes();
        if writes_gradient {
            let scale = counted.unwrap_or(first);
            dispatch = dispatch.write(&gradient).read(&scale);
            bytes += gradient.bytes();
        } else if self.bounds.bindings() > 0 {
            // In the places of those two, so that the counter has the same binding in all of the text's kernels.
            dispatch = dispatch.read(&first).read(&first);
        }
        cx.dispatch(
            counter
                .bind(dispatch)
                .cost(8 * logits.elements() as u64, bytes),
        );
        if self.is_mean && cx.is_needed(0) {
            let scale = counted.unwrap_or(losses);
            cx.dispatch(
                Dispatch::new(kernel("mean_loss", &Team::alone(lanes)))
                    .read(&losses)
                    .read(&scale)
                    .write(&output)
                    .params(&params(&output))
                    .iterations(adding_up)
                    .cost(rows as u64, losses.bytes()),
            );
        }
    }
}

impl Loss {
    /// By how much larger the gradient is written than it should be, a power of two: in halves, a row's share of a mean over
    /// many would be lost below 6e-8. With fewer rows that count, the shares are larger, but none is above the number of rows.
    fn lift(&self, rows: usize, dtype: DType) -> f32 {
        match dtype == DType::F16 && self.is_mean {
            true => rows.next_power_of_two().min(MOST_LIFT) as f32,
            false => 1.0,
        }
    }
}

/// So that what is lifted stays below the largest half, 65,504, also where a single row counts.
const MOST_LIFT: usize = 1 << 14;

/// How logits are read where the gradient overwrites them: one dispatch binds a buffer once.
const OVER_LOGITS: &str = "\
fn logit(row: u32, k: u32) -> f32 {
    return gradient[p.logits_offset + row * p.logits_row + k * p.logits_class];
}
";

/// For losses alone.
const WITHOUT_GRADIENT: &str = "\
fn write_gradient(row: u32, target_class: u32, part: Part, first: u32, step: u32) {}
fn write_of_lane(row: u32, lane: u32, target_class: u32, part: Part, at_target: f32) {}
";

/// What is added up to count targets.
const COUNTED: &str = "fn term(row: u32) -> f32 { return is_counted(row); }";

fn kernel(entry: &'static str, team: &Team) -> Kernel {
    team.kernel(Kernel::builtin("cross_entropy", "cross_entropy", entry))
}

/// How rows are spread over invocations.
struct Variant {
    entry: &'static str,
    team: Team,
    /// Rows in a workgroup.
    rows: usize,
    /// vec4s of logits that an invocation keeps; 0 if rows are read twice.
    kept: usize,
}

/// Rows up to so long are still in the nearest cache when they are read again.
const CACHED: usize = 1024;

/// The most vec4s that an invocation keeps: 100 registers.
const MOST_KEPT: usize = 25;

impl Variant {
    fn of(cx: &Lowering<'_>, classes: usize, writes_gradient: bool) -> Variant {
        let software = |entry, rows, lanes| Variant {
            entry,
            team: Team::alone(lanes),
            rows,
            kept: 0,
        };
        match cx.class() {
            AdapterClass::Software if classes <= 512 => software("rows_by_invocation", 16, 8),
            AdapterClass::Software => {
                let one = software("rows_by_workgroup", 1, 8);
                match one.iterations(classes) <= cx.most_iterations() {
                    true => one,
                    false => software("rows_by_workgroup", 1, 256),
                }
            }
            AdapterClass::Gpu => {
                let lanes = lanes_for_registers(cx, classes).filter(|_| writes_gradient);
                match lanes {
                    Some(lanes) => Variant {
                        entry: "gradients_in_registers",
                        team: Team::workgroup(cx.device(), lanes),
                        rows: 1,
                        kept: classes.div_ceil(4 * lanes),
                    },
                    None => {
                        let team = Team::gpu(cx.device(), classes, 16, 32);
                        Variant {
                            entry: "rows_by_team",
                            rows: team.teams,
                            team,
                            kept: 0,
                        }
                    }
                }
            }
        }
    }

    /// Of an invocation's loops: twice over its share of a row, first four classes at a time, and joining the lanes.
    fn iterations(&self, classes: usize) -> usize {
        let sharers = match self.rows {
            16 => 1,
            _ => self.team.lanes,
        };
        let classes = classes.div_ceil(sharers);
        classes.div_ceil(4) + 4 + classes + 3 * (8 + self.team.lanes.div_ceil(8) + self.team.teams)
    }

    fn kernel(&self, classes: usize) -> Kernel {
        let kernel = kernel(self.entry, &self.team);
        match self.kept {
            0 => kernel,
            blocks => kernel
                .constant("CLASSES", classes)
                .constant("BLOCKS", blocks),
        }
    }
}

/// The invocations that keep a long row in registers, if the device's workgroups are large enough.
fn lanes_for_registers(cx: &Lowering<'_>, classes: usize) -> Option<usize> {
    let limits = cx.device().limits();
    let most = limits
        .max_compute_invocations_per_workgroup
        .min(limits.max_compute_workgroup_size_x) as usize;
    let mut sizes = [128, 256, 512].into_iter().filter(|&lanes| lanes <= most);
    sizes.find(|lanes| classes > CACHED && classes <= 4 * MOST_KEPT * lanes)
}

impl<'t> Var<'t> {
    /// The mean cross-entropy of these logits `[.., V]` with the target classes `[..]` (of type `U32`), as a scalar:
    /// `mean(−ln softmax(logits)[target])` over the targets that are not ignored, 0 if all are.
    ///
    /// A target that is neither ignored nor below `V` makes loss and gradient not a number, and is an error as with
    /// [`Var::embedding`]. The gradient cannot be differentiated again.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::ops::CrossEntropy;
    /// # use shadegrad::data::IGNORE_INDEX;
    /// # let device = shadegrad::Device::new()?;
    /// let tape = shadegrad::Tape::training(&device);
    /// let logits = tape.variable([2, 2], &[0.0, 0.0, 5.0, 1.0]);
    /// let targets = tape.input([2], &[1, IGNORE_INDEX]);
    /// let loss = logits.cross_entropy(targets, CrossEntropy::ignoring(IGNORE_INDEX));
    /// let gradient = tape.backward(loss).of(logits).unwrap();
    /// let (loss, gradient) = (tape.fetch::<f32>(loss), tape.fetch::<f32>(gradient));
    /// tape.run()?;
    /// assert!((loss.get()?[0] - 2f32.ln()).abs() < 1e-6);
    /// assert_eq!(gradient.get()?, [0.5, -0.5, 0.0, 0.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the targets' shape is not that of the logits without the last axis, an element type is wrong, or the label
    /// smoothing is not within `0.0..=1.0`.
    #[track_caller]
    pub fn cross_entropy(self, targets: Var<'t>, options: CrossEntropy) -> Var<'t> {
        self.losses(targets, options, true)
    }

    /// The cross-entropy of every row by itself: as [`Var::cross_entropy`] without the mean, `[.., V]` → `[..]`, 0 where
    /// the target is ignored.
    ///
    /// # Panics
    ///
    /// As [`Var::cross_entropy`].
    #[track_caller]
    pub fn cross_entropy_rows(self, targets: Var<'t>, options: CrossEntropy) -> Var<'t> {
        self.losses(targets, options, false)
    }

    #[track_caller]
    fn losses(self, targets: Var<'t>, options: CrossEntropy, is_mean: bool) -> Var<'t> {
        let (x, t) = (self.tensor_type(), targets.tensor_type());
        assert!(
            x.dtype.is_float()
                && t.dtype == DType::U32
                && x.shape.dims().split_last().map(|(_, rows)| rows) == Some(t.shape.dims()),
            "cross_entropy: logits {:?} {} and targets {:?} {}, expected F32 [.., V] and U32 [..]",
            x.dtype,
            x.shape,
            t.dtype,
            t.shape
        );
        assert!(
            (0.0..=1.0).contains(&options.label_smoothing),
            "cross_entropy: label smoothing {} is not within 0.0..=1.0",
            options.label_smoothing
        );
        let loss = Loss {
            bounds: Bounds::check(
                "cross_entropy",
                targets,
                x.shape.last(),
                options.ignore_index,
            ),
            smoothing: options.label_smoothing.to_bits(),
            is_mean,
        };
        self.tape.record_all(loss, &[self, targets])[0]
    }
}
