//! The table. Adding an operation is adding a row.
//!
//! A row reads: documentation, name and arguments (tensor inputs; then, after a semicolon, constant attributes), the
//! WGSL expression, the gradient as recorded operations, the same function in `f64`, and the ranges that tests sample
//! inputs and attributes from. The arguments of expression and oracle go by the names in the head. A row without a gradient
//! has none for any input, and jumps somewhere; without ranges, inputs are from −4 to 4.

use super::row::{Row, apply};
use crate::gpu::DType;
use crate::tape::Var;

macro_rules! pointwise_table {
    ($(
        $(#[doc = $doc:literal])+
        $visibility:vis $name:ident($($input:ident),* $(; $($attribute:ident),+)?) {
            wgsl: $wgsl:literal,
            $(helpers: $helpers:expr,)?
            $(gradient: $gradient:expr,)?
            oracle: $oracle:expr,
            $(domain: $domain:expr,)?
            $(smooth: $smooth:literal,)?
        }
    )*) => {
        /// The rows by name.
        #[allow(non_upper_case_globals)]
        pub(crate) mod rows {
            use super::*;
            $(
                pub static $name: Row = Row {
                    name: stringify!($name),
                    inputs: &[$(stringify!($input)),*],
                    attributes: &[$($(stringify!($attribute)),+)?],
                    wgsl: $wgsl,
                    helpers: concat!("", $($helpers)?),
                    gradient: pointwise_table!(@gradient [$($input)*] $($gradient)?),
                    oracle: |arguments| {
                        let [$($input,)* $($($attribute,)+)?] = *arguments else {
                            panic!("the oracle takes every input and attribute")
                        };
                        $oracle
                    },
                    domain: &pointwise_table!(@domain [$($input)*] $($domain)?),
                    smooth: pointwise_table!(@smooth [$($gradient)?] $($smooth)?),
                };
            )*
        }

        /// All rows, in the order of this file.
        pub static TABLE: &[&Row] = &[$(&rows::$name),*];

        $(pointwise_table!(@method $visibility $name [$($doc)+] ($($input),*) [$($($attribute),+)?]);)*
    };
    (@gradient [$($input:ident)*]) => { |_| vec![$(pointwise_table!(@for $input None)),*] };
    (@gradient [$($input:ident)*] $gradient:expr) => { $gradient };
    (@domain [$($input:ident)*]) => { [$(pointwise_table!(@for $input (-4.0, 4.0))),*] };
    (@domain [$($input:ident)*] $domain:expr) => { $domain };
    (@smooth []) => { false };
    (@smooth [$gradient:expr]) => { true };
    (@smooth [$gradient:expr] $smooth:literal) => { $smooth };
    (@for $input:ident $value:expr) => { $value };
    // Rows without inputs have no method.
    (@method $visibility:vis $name:ident [$($doc:literal)+] () [$($attribute:ident),*]) => {};
    (@method $visibility:vis $name:ident [$($doc:literal)+] ($first:ident $(, $input:ident)*) [$($attribute:ident),*]) => {
        impl<'t> Var<'t> {
            $(#[doc = $doc])+
            #[track_caller]
            #[allow(dead_code)]
            $visibility fn $name(self $(, $input: Var<'t>)* $(, $attribute: f32)*) -> Var<'t> {
                apply(&rows::$name, &[self $(, $input)*], &[$($attribute),*])
            }
        }
    };
}

/// `√(2/π)`.
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// `1/√(2π)`.
const INV_SQRT_2PI: f32 = 0.398_942_3;

macro_rules! safe_tanh {
    // Several drivers overflow for |x| > 43. From 9.02 on tanh is 1 to f32 precision, and exactly that here, whatever a
    // driver's approximation gives: GELU multiplies what is missing by x.
    () => {
        "fn safe_tanh(x: T) -> T {
    return select(tanh(clamp(x, T(-15.0), T(15.0))), sign(x), abs(x) > T(9.02));
}"
    };
}

macro_rules! erf {
    // x·P(x²)/Q(x²), fitted to erf on |x| ≤ 3.92 for the least relative error, which is 2e-8. Rounding makes it 4e-7.
    // Beyond, erf is 1 to f32 precision, and exactly that here, however a driver divides: GELU multiplies what is missing
    // by x.
    () => {
        "fn erf(x: T) -> T {
    let a = clamp(x, T(-3.92), T(3.92));
    let s = a * a;
    let p = ((((T(2.050043975e-6) * s + T(2.848711632e-4)) * s + T(3.765375797e-3)) * s + T(5.274796551e-2)) * s + T(0.1904016810)) * s + T(1.128379146);
    let q = ((((T(3.809066203e-5) * s + T(1.162465459e-3)) * s + T(1.496874117e-2)) * s + T(0.1141070194)) * s + T(0.5020718392)) * s + T(1.0);
    return select(clamp(a * p / q, T(-1.0), T(1.0)), sign(x), abs(x) > T(3.92));
}"
    };
}

macro_rules! integer_power {
    // `pow` of a negative base is NaN, so powers are multiplied out.
    () => {
        "fn integer_power(x: T, exponent: T) -> T {
    var result = T(1.0);
    var square = x;
    // The exponent is the same in every component.
    for (var left = abs(exponent); any(vec4<bool>(left >= T(1.0))); left = floor(left * T(0.5))) {
        result = result * select(T(1.0), square, left - T(2.0) * floor(left * T(0.5)) == T(1.0));
        square = square * square;
    }
    return select(result, T(1.0) / result, exponent < T(0.0));
}"
    };
}

macro_rules! softplus {
    // Some drivers' logarithms are coarse near 1, where small results come from: ln(1 + e) is 2·artanh(e/(2 + e)), by its
    // series, cut off where what follows is 2e-8 of the result at most.
    () => {
        "fn softplus(x: T) -> T {
    let e = exp(-abs(x));
    let s = e / (e + T(2.0));
    let q = s * s;
    let p = (((((q / T(13.0) + T(1.0 / 11.0)) * q + T(1.0 / 9.0)) * q + T(1.0 / 7.0)) * q + T(0.2)) * q + T(1.0 / 3.0)) * q + T(1.0);
    return max(x, T(0.0)) + T(2.0) * s * p;
}"
    };
}

/// The error function in `f64` by its Taylor series and continued fraction, for the oracles.
fn erf64(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    // Σ (-1)^n x^(2n+1) / (n! (2n+1)), summed in a stable form: erf(x) = 2/√π e^(-x²) Σ 2^n x^(2n+1) / (2n+1)!!
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

fn sigmoid64(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pointwise_table! {
    /// A constant, made by [`Tape::full`](crate::Tape::full).
    pub(crate) constant(; value) {
        wgsl: "value",
        gradient: |_| vec![],
        oracle: value,
        domain: [(-2.0, 2.0)],
    }

    /// In another floating-point type.
    pub(crate) convert(x) {
        wgsl: "x",
        gradient: |r| vec![Some(r.grad)],
        oracle: x,
        domain: [(-2.0, 2.0)],
    }

    /// Integers as floating point.
    pub(crate) to_float(x) {
        wgsl: "T(x)",
        oracle: x,
        domain: [(0.0, 100.0)],
    }

    /// `x + y`
    pub(crate) add(x, y) {
        wgsl: "x + y",
        gradient: |r| vec![Some(r.grad), Some(r.grad)],
        oracle: x + y,
    }

    /// `x − y`
    pub(crate) sub(x, y) {
        wgsl: "x - y",
        gradient: |r| vec![Some(r.grad), Some(-r.grad)],
        oracle: x - y,
    }

    /// `x · y`
    pub(crate) mul(x, y) {
        wgsl: "x * y",
        gradient: |r| vec![Some(r.grad * r.y()), Some(r.grad * r.x())],
        oracle: x * y,
    }

    /// `x · share`, NaN wherever `x` is. Of a product with 0 or 1, which says where a gradient passes, compilers make a choice,
    /// and what is not a number is gone.
    pub(crate) pass(x, share) {
        wgsl: "keep_nan(x * share, x)",
        gradient: |r| vec![Some(r.grad * r.y()), Some(r.grad * r.x())],
        oracle: x * share,
    }

    /// `x / y`
    pub(crate) div(x, y) {
        wgsl: "x / y",
        gradient: |r| vec![Some(r.grad / r.y()), Some(-(r.grad * r.out / r.y()))],
        oracle: x / y,
        domain: [(-4.0, 4.0), (0.5, 4.0)],
    }

    /// `factor · x`
    pub scale(x; factor) {
        wgsl: "x * factor",
        gradient: |r| vec![Some(r.grad.scale(r.attribute(0)))],
        oracle: x * factor,
        domain: [(-4.0, 4.0), (-3.0, 3.0)],
    }

    /// `x + term`
    pub shift(x; term) {
        wgsl: "x + term",
        gradient: |r| vec![Some(r.grad)],
        oracle: x + term,
        domain: [(-4.0, 4.0), (-3.0, 3.0)],
    }

    /// `x / divisor`
    pub(crate) div_by(x; divisor) {
        wgsl: "x / divisor",
        gradient: |r| vec![Some(r.grad / r.attribute(0))],
        oracle: x / divisor,
        domain: [(-4.0, 4.0), (0.5, 3.0)],
    }

    /// `1 / x`
    pub recip(x) {
        wgsl: "T(1.0) / x",
        gradient: |r| vec![Some(-(r.grad * r.out * r.out))],
        oracle: 1.0 / x,
        domain: [(0.3, 4.0)],
    }

    /// `|x|`. The gradient at 0 is 0.
    pub abs(x) {
        wgsl: "abs(x)",
        gradient: |r| vec![Some(r.grad.pass(r.x().sign()))],
        oracle: x.abs(),
        smooth: false,
    }

    /// −1, 0 or 1. The gradient is zero.
    pub sign(x) {
        wgsl: "sign(x)",
        oracle: if x == 0.0 { 0.0 } else { x.signum() },
    }

    /// `eˣ`
    pub exp(x) {
        wgsl: "exp(x)",
        gradient: |r| vec![Some(r.grad * r.out)],
        oracle: x.exp(),
    }

    /// The natural logarithm, for `x > 0`.
    pub log(x) {
        wgsl: "log(x)",
        gradient: |r| vec![Some(r.grad / r.x())],
        oracle: x.ln(),
        domain: [(0.1, 8.0)],
    }

    /// `√x`, for `x ≥ 0`; the gradient is infinite at 0.
    pub sqrt(x) {
        wgsl: "sqrt(x)",
        gradient: |r| vec![Some(r.grad * 0.5 / r.out)],
        oracle: x.sqrt(),
        domain: [(0.1, 8.0)],
    }

    /// `1/√x`, for `x > 0`.
    pub rsqrt(x) {
        wgsl: "inverseSqrt(x)",
        gradient: |r| vec![Some(r.grad * -0.5 * r.out / r.x())],
        oracle: 1.0 / x.sqrt(),
        domain: [(0.1, 8.0)],
    }

    /// `x` to an integer power, any sign of `x`, by repeated multiplication. The exponent must be an integer of at
    /// most 2²⁴.
    pub powi(x; exponent) {
        wgsl: "integer_power(x, exponent)",
        helpers: integer_power!(),
        gradient: |r| {
            let exponent = r.attribute(0);
            vec![Some(r.grad * r.x().powi(exponent - 1.0) * exponent)]
        },
        oracle: x.powi(exponent.round() as i32),
        domain: [(0.5, 2.0), (3.0, 3.0)],
    }

    /// `x` to the power `y`, for `x > 0`: for other bases use [`Var::powi`].
    pub powf(x, y) {
        wgsl: "keep_nan(keep_nan(pow(x, y), x), y)",
        gradient: |r| vec![
            Some(r.grad * r.y() * r.out / r.x()),
            Some(r.grad * r.out * r.x().log()),
        ],
        oracle: x.powf(y),
        domain: [(0.3, 3.0), (-2.0, 2.0)],
    }

    /// The sine of `x` in radians.
    pub sin(x) {
        wgsl: "sin(x)",
        gradient: |r| vec![Some(r.grad * r.x().cos())],
        oracle: x.sin(),
        domain: [(-3.0, 3.0)],
    }

    /// The cosine of `x` in radians.
    pub cos(x) {
        wgsl: "cos(x)",
        gradient: |r| vec![Some(-(r.grad * r.x().sin()))],
        oracle: x.cos(),
        domain: [(-3.0, 3.0)],
    }

    /// The hyperbolic tangent.
    pub tanh(x) {
        wgsl: "keep_nan(safe_tanh(x), x)",
        helpers: safe_tanh!(),
        gradient: |r| vec![Some(r.grad * (1.0 - r.out * r.out))],
        oracle: x.tanh(),
    }

    /// The logistic function `1/(1 + e⁻ˣ)`.
    pub sigmoid(x) {
        // Beyond ±80 the exponential would overflow; the value is 0 or 1 to f32 precision long before.
        wgsl: "keep_nan(T(1.0) / (T(1.0) + exp(-clamp(x, T(-80.0), T(80.0)))), x)",
        gradient: |r| vec![Some(r.grad * r.out * (1.0 - r.out))],
        oracle: sigmoid64(x),
        domain: [(-6.0, 6.0)],
    }

    /// `ln(1 + eˣ)`, without overflow and with small results to their last digits.
    pub softplus(x) {
        wgsl: "keep_nan(softplus(x), x)",
        helpers: softplus!(),
        gradient: |r| vec![Some(r.grad * r.x().sigmoid())],
        oracle: x.max(0.0) + (-x.abs()).exp().ln_1p(),
        domain: [(-6.0, 6.0)],
    }

    /// `max(x, 0)`. The gradient at 0 is 0.
    pub relu(x) {
        wgsl: "keep_nan(max(x, T(0.0)), x)",
        gradient: |r| vec![Some(r.grad.pass(r.x().positive()))],
        oracle: x.max(0.0),
        smooth: false,
    }

    /// 0 where `x ≤ 0`, else 1. The gradient is zero.
    pub positive(x) {
        wgsl: "select(T(1.0), T(0.0), x <= T(0.0))",
        oracle: if x > 0.0 { 1.0 } else { 0.0 },
    }

    /// The error function, to a relative error of 10⁻⁶.
    pub erf(x) {
        wgsl: "keep_nan(erf(x), x)",
        helpers: erf!(),
        gradient: |r| vec![Some(r.grad * (r.x() * -r.x()).exp() * (2.0 / std::f32::consts::PI.sqrt()))],
        oracle: erf64(x),
        domain: [(-3.0, 3.0)],
    }

    /// GELU, exact form: `x·Φ(x)` with the normal distribution function Φ. Hendrycks and Gimpel 2016, "Gaussian Error
    /// Linear Units".
    pub gelu(x) {
        wgsl: "T(0.5) * x * (T(1.0) + erf(x * T(0.70710678)))",
        helpers: erf!(),
        gradient: |r| {
            let x = r.x();
            let cdf = 0.5 * ((x * std::f32::consts::FRAC_1_SQRT_2).erf() + 1.0);
            let density = (x * x * -0.5).exp() * INV_SQRT_2PI;
            vec![Some(r.grad * (cdf + x * density))]
        },
        oracle: 0.5 * x * (1.0 + erf64(x / 2f64.sqrt())),
    }

    /// GELU, tanh form: `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, as GPT-2 uses it.
    pub gelu_tanh(x) {
        wgsl: "T(0.5) * x * (T(1.0) + safe_tanh(T(0.7978846) * (x + T(0.044715) * x * x * x)))",
        helpers: safe_tanh!(),
        gradient: |r| {
            // Halves don't hold the cubes of what they hold.
            let x = r.x().cast(DType::F32);
            let square = x * x;
            let t = ((square * 0.044715 + 1.0) * x * SQRT_2_OVER_PI).tanh();
            let slope = (1.0 - t * t) * (square * (3.0 * 0.044715) + 1.0) * x * SQRT_2_OVER_PI;
            vec![Some(r.grad * 0.5 * (t + 1.0 + slope))]
        },
        oracle: 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
    }

    /// SiLU, also called swish: `x·sigmoid(x)`. Elfwing et al. 2017.
    pub silu(x) {
        wgsl: "x / (T(1.0) + exp(-clamp(x, T(-80.0), T(80.0))))",
        gradient: |r| {
            let s = r.x().sigmoid();
            vec![Some(r.grad * s * (r.x() * (1.0 - s) + 1.0))]
        },
        oracle: x * sigmoid64(x),
        domain: [(-6.0, 6.0)],
    }

    /// The smaller of two. Equal inputs share the gradient.
    pub minimum(x, y) {
        wgsl: "keep_nan(keep_nan(min(x, y), x), y)",
        gradient: |r| {
            let share = r.y().greater(r.x()) + 0.5 * r.x().equal(r.y());
            vec![Some(r.grad.pass(share)), Some(r.grad.pass(1.0 - share))]
        },
        oracle: x.min(y),
        smooth: false,
    }

    /// The larger of two. Equal inputs share the gradient.
    pub maximum(x, y) {
        wgsl: "keep_nan(keep_nan(max(x, y), x), y)",
        gradient: |r| {
            let share = r.x().greater(r.y()) + 0.5 * r.x().equal(r.y());
            vec![Some(r.grad.pass(share)), Some(r.grad.pass(1.0 - share))]
        },
        oracle: x.max(y),
        smooth: false,
    }

    /// `x` limited to `low..=high`. The gradient is 1 inside and on the limits, 0 outside.
    pub clamp(x; low, high) {
        wgsl: "keep_nan(clamp(x, low, high), x)",
        gradient: |r| {
            let low = r.x().at_least(r.attribute(0));
            let high = 1.0 - r.x().above(r.attribute(1));
            vec![Some(r.grad.pass(low * high))]
        },
        oracle: x.clamp(low, high),
        domain: [(-4.0, 4.0), (-1.0, -1.0), (2.0, 2.0)],
        smooth: false,
    }

    /// 1 where `x ≥ limit`, else 0. The gradient is zero.
    pub at_least(x; limit) {
        wgsl: "select(T(0.0), T(1.0), x >= limit)",
        oracle: if x >= limit { 1.0 } else { 0.0 },
        domain: [(-4.0, 4.0), (0.5, 0.5)],
    }

    /// 1 where `x > limit`, else 0. The gradient is zero.
    pub above(x; limit) {
        wgsl: "select(T(0.0), T(1.0), x > limit)",
        oracle: if x > limit { 1.0 } else { 0.0 },
        domain: [(-4.0, 4.0), (0.5, 0.5)],
    }

    /// 1 where `x = y`, else 0. The gradient is zero.
    pub equal(x, y) {
        wgsl: "select(T(0.0), T(1.0), x == y)",
        oracle: if x == y { 1.0 } else { 0.0 },
    }

    /// 1 where `x ≠ y`, else 0. The gradient is zero.
    pub not_equal(x, y) {
        wgsl: "select(T(0.0), T(1.0), x != y)",
        oracle: if x != y { 1.0 } else { 0.0 },
    }

    /// 1 where `x < y`, else 0. The gradient is zero.
    pub less(x, y) {
        wgsl: "select(T(0.0), T(1.0), x < y)",
        oracle: if x < y { 1.0 } else { 0.0 },
    }

    /// 1 where `x ≤ y`, else 0. The gradient is zero.
    pub less_equal(x, y) {
        wgsl: "select(T(0.0), T(1.0), x <= y)",
        oracle: if x <= y { 1.0 } else { 0.0 },
    }

    /// 1 where `x > y`, else 0. The gradient is zero.
    pub greater(x, y) {
        wgsl: "select(T(0.0), T(1.0), x > y)",
        oracle: if x > y { 1.0 } else { 0.0 },
    }

    /// 1 where `x ≥ y`, else 0. The gradient is zero.
    pub greater_equal(x, y) {
        wgsl: "select(T(0.0), T(1.0), x >= y)",
        oracle: if x >= y { 1.0 } else { 0.0 },
    }

    /// `y` where this condition is not zero, else `z`. No gradient flows to the condition.
    pub select(x, y, z) {
        wgsl: "select(z, y, x != T(0.0))",
        gradient: |r| {
            let zero = r.grad.tape().full(r.grad.shape(), 0.0);
            vec![
                None,
                Some(r.x().select(r.grad, zero)),
                Some(r.x().select(zero, r.grad)),
            ]
        },
        oracle: if x != 0.0 { y } else { z },
        domain: [(-1.0, 1.0), (-4.0, 4.0), (-4.0, 4.0)],
    }
}
