//! Pointwise operations: one [`TABLE`] row each. From a row come the method on [`Var`], the kernel, the fusion
//! with neighbours, the gradient, and the rows of the oracle test and the gradient check.

mod gradient;
mod operators;
pub(crate) mod table;

use std::hash::Hash;

pub use table::TABLE;

pub use gradient::Rule;

use crate::gpu::DType;
use crate::ops::{Operation, Role, TensorType, require_f32};
use crate::shape::Shape;
use crate::tape::{Backward, Lowering, Signature, Tape, Var};

/// One row of the table: everything the crate knows about a pointwise operation.
pub struct Row {
    /// The operation's name: of the method, in WGSL, in panics and in profiles.
    pub name: &'static str,
    /// Names of the tensor inputs, as [`Row::wgsl`] refers to them.
    pub inputs: &'static [&'static str],
    /// Names of the constant attributes, as [`Row::wgsl`] refers to them.
    pub attributes: &'static [&'static str],
    /// The value as a WGSL expression over type `T`, which is `f32` or `vec4<f32>`. What may drop NaN, as `min`, `max` and
    /// `clamp` do, goes through `keep_nan(value, x)`, which is `x` where `x` is NaN, else the value.
    pub wgsl: &'static str,
    /// WGSL functions over `T` that the expression calls, if any.
    pub helpers: &'static str,
    /// The gradient rule: one entry per input, recorded operations.
    pub gradient: for<'t> fn(&Rule<'t>) -> Vec<Option<Var<'t>>>,
    /// The value in `f64`, for tests: inputs, then attributes.
    pub oracle: fn(&[f64]) -> f64,
    /// Where tests sample the inputs and the attributes from.
    pub domain: &'static [(f64, f64)],
    /// Whether finite differences make sense everywhere in the domain (not for steps and comparisons).
    pub smooth: bool,
}

impl Row {
    /// Records this row's operation: with one `Var` for each of [`Row::inputs`], which broadcast against each other, and
    /// one number for each of [`Row::attributes`]. The methods of [`Var`] do this; it is for going through
    /// [`TABLE`], and for rows of your own in a `static`, which need a name that no other row has.
    ///
    /// # Panics
    ///
    /// If there are no inputs, not as many inputs or attributes as the row names, an attribute that is not finite, or
    /// shapes that do not broadcast.
    #[track_caller]
    pub fn apply<'t>(&'static self, inputs: &[Var<'t>], attributes: &[f32]) -> Var<'t> {
        assert!(
            !inputs.is_empty()
                && inputs.len() == self.inputs.len()
                && attributes.len() == self.attributes.len(),
            "{}: takes {:?} and the attributes {:?}, given are {} and {}",
            self.name,
            self.inputs,
            self.attributes,
            inputs.len(),
            attributes.len()
        );
        apply(self, inputs, attributes)
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Most attributes that a row has.
const MOST_ATTRIBUTES: usize = 2;

/// A recorded pointwise operation: a row and its attributes.
#[derive(Clone, Debug)]
pub struct Pointwise {
    /// The row.
    pub row: &'static Row,
    attributes: [f32; MOST_ATTRIBUTES],
    /// The output's shape, for rows without inputs.
    shape: Option<Shape>,
}

impl Pointwise {
    /// The attributes' values, in the row's order.
    pub fn attributes(&self) -> &[f32] {
        &self.attributes[..self.row.attributes.len()]
    }

    /// How often the row's loops go round at most: those of rows that have one take a bit of an attribute at a time.
    pub(crate) fn iterations(&self) -> usize {
        if !self.row.helpers.contains("for (") {
            return 0;
        }
        let bits = |attribute: &f32| 2 + attribute.abs().max(1.0).log2() as usize;
        self.attributes().iter().map(bits).max().unwrap_or(0)
    }
}

/// Records a row.
#[track_caller]
pub(crate) fn apply<'t>(row: &'static Row, inputs: &[Var<'t>], attributes: &[f32]) -> Var<'t> {
    let mut padded = [0.0; MOST_ATTRIBUTES];
    padded[..attributes.len()].copy_from_slice(attributes);
    assert!(
        attributes.iter().all(|value| value.is_finite()),
        "{}: attributes must be finite, these are {attributes:?}",
        row.name
    );
    if std::ptr::eq(row, &table::rows::powi) {
        assert!(
            attributes[0].fract() == 0.0 && attributes[0].abs() <= 16_777_216.0,
            "powi: the exponent {} is no whole number from -2²⁴ to 2²⁴; Var::powf takes others",
            attributes[0]
        );
    }
    if std::ptr::eq(row, &table::rows::clamp) {
        assert!(
            attributes[0] <= attributes[1],
            "clamp: nothing lies between {} and {}",
            attributes[0],
            attributes[1]
        );
    }
    let operation = Pointwise {
        row,
        attributes: padded,
        shape: None,
    };
    inputs[0].tape.record(operation, inputs)
}

/// Records a constant.
#[track_caller]
pub(crate) fn constant(tape: &Tape, shape: Shape, value: f32) -> Var<'_> {
    assert!(
        value.is_finite(),
        "constants must be finite, this is {value}"
    );
    let operation = Pointwise {
        row: &table::rows::constant,
        attributes: [value, 0.0],
        shape: Some(shape),
    };
    tape.record(operation, &[])
}

impl Operation for Pointwise {
    fn name(&self) -> &'static str {
        self.row.name
    }

    fn identity(&self, signature: &mut Signature) {
        self.attributes.map(f32::to_bits).hash(signature);
        self.shape.hash(signature);
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        if !std::ptr::eq(self.row, &table::rows::to_float) {
            require_f32(self.row.name, inputs);
        }
        let mut shape = self.shape.unwrap_or(Shape::SCALAR);
        for input in inputs {
            let Some(broadcast) = shape.broadcast(&input.shape) else {
                let shapes: Vec<Shape> = inputs.iter().map(|input| input.shape).collect();
                panic!("{}: shapes {shapes:?} do not broadcast", self.row.name)
            };
            shape = broadcast;
        }
        vec![Tape::f32(shape)]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        gradient::backward(self, node)
    }

    fn lower(&self, _cx: &mut Lowering<'_>) {
        unreachable!("pointwise operations are generated, fused with their neighbours");
    }

    fn role(&self, _output: TensorType) -> Role<'_> {
        Role::Pointwise(self)
    }

    fn constant(&self) -> Option<f32> {
        std::ptr::eq(self.row, &table::rows::constant).then_some(self.attributes[0])
    }
}

impl<'t> Var<'t> {
    /// Reads integers as floating point; `F32` values pass unchanged. No gradient.
    pub fn to_f32(self) -> Var<'t> {
        match self.dtype() {
            DType::F32 => self,
            DType::U32 => apply(&table::rows::to_float, &[self], &[]),
        }
    }
}
