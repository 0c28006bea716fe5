//! One row of the table, and the operation that it makes.

use std::hash::{Hash, Hasher};

use super::gradient::{self, MOST_ATTRIBUTES, Rule};
use crate::gpu::DType;
use crate::ops::{Operation, PointwiseFunction, Role, Takes, TensorType, require_floats, widest};
use crate::shape::Shape;
use crate::tape::{Backward, Lowering, Var};

/// The rows whose output is of another kind than their inputs.
const CONSTANT: &str = "constant";
const TO_FLOAT: &str = "to_float";

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
    /// What the planner needs of it.
    pub(crate) const fn function(&self) -> PointwiseFunction {
        PointwiseFunction {
            name: self.name,
            inputs: self.inputs,
            attributes: self.attributes,
            wgsl: self.wgsl,
            helpers: self.helpers,
        }
    }

    /// Records this row's operation: with one `Var` for each of [`Row::inputs`], which broadcast against each other, and
    /// one number for each of [`Row::attributes`]. The methods of [`Var`] do this; it is for going through
    /// [`TABLE`](super::TABLE), and for rows of your own in a `static`, which need a name that no other row has.
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

/// A recorded pointwise operation: a row and its attributes.
#[derive(Clone, Debug)]
pub struct Pointwise {
    /// The row.
    pub row: &'static Row,
    pub(super) attributes: [f32; MOST_ATTRIBUTES],
    /// The output's shape, for rows without inputs.
    pub(super) shape: Option<Shape>,
    /// The output's type, where inputs don't say.
    pub(super) dtype: Option<DType>,
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
    match (row.name, attributes) {
        ("powi", &[exponent]) => assert!(
            exponent.fract() == 0.0 && exponent.abs() <= 16_777_216.0,
            "powi: the exponent {exponent} is no whole number from -2²⁴ to 2²⁴; Var::powf takes others"
        ),
        ("clamp", &[low, high]) => {
            assert!(low <= high, "clamp: nothing lies between {low} and {high}")
        }
        _ => {}
    }
    let operation = Pointwise {
        row,
        attributes: padded,
        shape: None,
        dtype: None,
    };
    inputs[0].tape.record(operation, inputs)
}

impl Hash for Pointwise {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.attributes.map(f32::to_bits).hash(state);
        (self.shape, self.dtype).hash(state);
    }
}

impl Operation for Pointwise {
    fn name(&self) -> &'static str {
        self.row.name
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        if self.row.name != TO_FLOAT {
            require_floats(self.row.name, inputs);
        }
        let mut shape = self.shape.unwrap_or(Shape::SCALAR);
        for input in inputs {
            let Some(broadcast) = shape.broadcast(&input.shape) else {
                let shapes: Vec<Shape> = inputs.iter().map(|input| input.shape).collect();
                panic!("{}: shapes {shapes:?} do not broadcast", self.row.name)
            };
            shape = broadcast;
        }
        let dtype = self.dtype.unwrap_or_else(|| widest(inputs, shape));
        vec![TensorType { shape, dtype }]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let attributes = self.attributes;
        gradient::backward(self.row.gradient, attributes, node)
    }

    fn lower(&self, _cx: &mut Lowering<'_>) {
        unreachable!("pointwise operations are generated, fused with their neighbours");
    }

    fn role(&self, _output: TensorType) -> Role<'_> {
        Role::Pointwise {
            function: self.row.function(),
            attributes: self.attributes(),
            iterations: self.iterations(),
        }
    }

    fn constant(&self) -> Option<f32> {
        (self.row.name == CONSTANT).then_some(self.attributes[0])
    }
}
