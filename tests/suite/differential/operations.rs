//! The operations by the names that `make_cases.py` gives them.

use serde_json::Value;
use shadegrad::ops::CrossEntropy;
use shadegrad::ops::attention::{Attention, Mask, attention};
use shadegrad::ops::rotary_table;
use shadegrad::{Shape, Var};

use super::{extents, indices};

pub fn apply<'t>(op: &str, a: &[Var<'t>], ids: Option<Var<'t>>, attributes: &Value) -> Var<'t> {
    let number = |name: &str| attributes[name].as_f64().expect("a number") as f32;
    let count = |name: &str| attributes[name].as_u64().expect("a count") as usize;
    let axes = || extents(&attributes["axes"]);
    let ids = || ids.expect("the operation takes indices");
    let x = a[0];
    match op {
        "add" => x + a[1],
        "sub" => x - a[1],
        "mul" => x * a[1],
        "div" => x / a[1],
        "powf" => x.powf(a[1]),
        "minimum" => x.minimum(a[1]),
        "maximum" => x.maximum(a[1]),
        "select" => x.above(0.5).select(a[1], a[2]),
        "less" => x.less(a[1]),
        "neg" => -x,
        "scale" => x * number("factor"),
        "shift" => x + number("factor"),
        "recip" => x.recip(),
        "abs" => x.abs(),
        "exp" => x.exp(),
        "log" => x.log(),
        "sqrt" => x.sqrt(),
        "rsqrt" => x.rsqrt(),
        "powi" => x.powi(number("exponent")),
        "sin" => x.sin(),
        "cos" => x.cos(),
        "tanh" => x.tanh(),
        "sigmoid" => x.sigmoid(),
        "softplus" => x.softplus(),
        "mse" => x.mse(a[1]),
        "binary_cross_entropy" => x.binary_cross_entropy(a[1]),
        "relu" => x.relu(),
        "erf" => x.erf(),
        "gelu" => x.gelu(),
        "gelu_tanh" => x.gelu_tanh(),
        "silu" => x.silu(),
        "clamp" => x.clamp(-1.0, 0.5),
        "matmul" => x.matmul(a[1]),
        "linear" => (x.matmul(a[1]) + a[2]).gelu(),
        "sum" => x.sum(&axes()),
        "mean" => x.mean(&axes()),
        "max" => x.max(&axes()),
        "min" => x.min(&axes()),
        "var" => x.var(&axes()),
        "var_unbiased" => x.var_unbiased(&axes()),
        "argmax" => x.argmax(axes()[0]).to_f32(),
        "softmax" => x.softmax(),
        "log_softmax" => x.log_softmax(),
        "layer_norm" => x.layer_norm(a[1], a.get(2).copied(), number("epsilon")),
        "rms_norm" => x.rms_norm(a[1], number("epsilon")),
        "cross_entropy" => {
            let options = CrossEntropy {
                ignore_index: attributes["ignored"].as_u64().map(|index| index as u32),
                label_smoothing: number("smoothing"),
            };
            match attributes["mean"].as_bool() {
                Some(true) => x.cross_entropy(ids(), options),
                _ => x.cross_entropy_rows(ids(), options),
            }
        }
        "embedding" => x.embedding(ids()),
        "gather" => x.gather(count("axis"), ids()),
        "index_select" => x.index_select(count("axis"), ids()),
        "pad" => x.pad(count("axis"), count("before"), count("after")),
        "concat" => Var::concat(a, count("axis")),
        "stack" => Var::stack(a, count("axis")),
        "identity" => x * 1.0,
        "swiglu" => x.swiglu(),
        "rotary" => {
            let (length, size) = (x.shape().dim(x.shape().rank() - 2), count("size"));
            let table = rotary_table(length, size, 10_000.0);
            x.rotary(x.tape().input([length, size], &table), count("heads"))
        }
        "attention" => attend(a, attributes),
        unknown => panic!("no operation is called {unknown}"),
    }
}

fn attend<'t>(a: &[Var<'t>], attributes: &Value) -> Var<'t> {
    let [q, k, v] = *a else {
        panic!("queries, keys and values");
    };
    let is = |name: &str| attributes[name].as_bool() == Some(true);
    let config = Attention {
        n_kv_heads: k.shape().dim(1),
        causal: is("causal"),
        window: attributes["window"].as_u64().map(|window| window as usize),
        alibi: is("alibi"),
        scale: attributes["scale"].as_f64().map(|scale| scale as f32),
        ..Attention::full(q.shape().dim(1))
    };
    let mask = attributes["mask"].as_object().map(|mask| {
        let shape = Shape::new(&extents(&mask["shape"]));
        let seed = mask["seed"].as_u64().expect("a seed") as u32;
        let seen = indices(seed, shape.elements(), 4);
        Mask::Boolean(q.tape().input(shape, &seen))
    });
    attention(q, k, v, mask, &config)
}
