//! A plain f64 implementation, and where its values lie.

use shadegrad::ops::attention::Attention;
use shadegrad::{Tape, Var};

use crate::common::{Random, wide};

/// Extents of a problem.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_dim: usize,
}

impl Size {
    pub fn new(batch: usize, heads: usize, queries: usize, keys: usize, head_dim: usize) -> Size {
        Size {
            batch,
            heads,
            queries,
            keys,
            head_dim,
        }
    }

    pub fn rows(&self) -> usize {
        self.batch * self.heads * self.queries
    }

    pub fn weights(&self) -> usize {
        self.rows() * self.keys
    }
}

/// What a query gets for a key beside the scores: `None` hides the key; else what is added to the scaled score.
pub type Bias = Vec<Option<f64>>;

/// Slopes of linear biases for `heads` heads, as the paper's text gives them.
pub fn slopes(heads: usize) -> Vec<f64> {
    let whole = heads.next_power_of_two();
    if whole == heads {
        let ratio = (-8.0 / heads as f64).exp2();
        return (1..=heads).map(|h| ratio.powi(h as i32)).collect();
    }
    let mut all = slopes(whole / 2);
    all.extend(slopes(whole).into_iter().step_by(2));
    all.truncate(heads);
    all
}

/// Causality, window and linear biases.
pub fn config_bias(size: Size, config: &Attention) -> Bias {
    let slopes = slopes(size.heads);
    (0..size.weights())
        .map(|index| {
            let (row, j) = (index / size.keys, (index % size.keys) as i64);
            let i = (row % size.queries + size.keys) as i64 - size.queries as i64;
            let window = config.window.map_or(i64::MAX, |window| window as i64);
            let is_seen = (!config.causal || j <= i) && (i - j).abs() < window;
            let slope = slopes[row / size.queries % size.heads];
            let bias = -slope * (i - j).abs() as f64;
            is_seen.then_some(if config.alibi { bias } else { 0.0 })
        })
        .collect()
}

/// Heads of keys or values, `[B, Hkv, …]`, repeated for all the heads that share them.
pub fn repeat_heads(values: &[f64], share: usize, head: usize) -> Vec<f64> {
    values.chunks(head).flat_map(|x| x.repeat(share)).collect()
}

/// The way back: sums over the heads that share keys or values.
pub fn sum_heads(values: &[f64], share: usize, head: usize) -> Vec<f64> {
    let sum = |group: &[f64]| -> Vec<f64> {
        (0..head)
            .map(|e| group.iter().skip(e).step_by(head).sum())
            .collect()
    };
    values.chunks(share * head).flat_map(sum).collect()
}

pub fn causal_bias(size: Size, causal: bool) -> Bias {
    (0..size.weights())
        .map(|index| {
            let (i, j) = (index / size.keys % size.queries, index % size.keys);
            (!causal || j + size.queries <= i + size.keys).then_some(0.0)
        })
        .collect()
}

/// Results of the reference: all dense `[B, H, T, Dh]`, weights `[B, H, Tq, Tk]` before dropout.
pub struct Reference {
    pub out: Vec<f64>,
    pub weights: Vec<f64>,
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dv: Vec<f64>,
}

/// `factors` is what dropout multiplies each weight by.
pub fn reference(
    size: Size,
    [q, k, v]: [&[f64]; 3],
    bias: &Bias,
    factors: &[f64],
    scale: f64,
    dout: &[f64],
) -> Reference {
    let Size {
        queries,
        keys,
        head_dim: dim,
        ..
    } = size;
    let mut r = Reference {
        out: vec![0.0; q.len()],
        weights: vec![0.0; size.weights()],
        dq: vec![0.0; q.len()],
        dk: vec![0.0; k.len()],
        dv: vec![0.0; v.len()],
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    for row in 0..size.rows() {
        let head = row / queries;
        let own = row * dim..(row + 1) * dim;
        let other = |j: usize| (head * keys + j) * dim..(head * keys + j + 1) * dim;
        let pairs = row * keys..(row + 1) * keys;
        let scores: Vec<Option<f64>> = pairs
            .clone()
            .map(|pair| {
                bias[pair].map(|b| b + scale * dot(&q[own.clone()], &k[other(pair % keys)]))
            })
            .collect();
        let top = scores.iter().flatten().fold(f64::MIN, |a, &b| a.max(b));
        let sum: f64 = scores.iter().flatten().map(|s| (s - top).exp()).sum();
        for (j, pair) in pairs.clone().enumerate() {
            r.weights[pair] = scores[j].map_or(0.0, |s| (s - top).exp() / sum);
            for d in 0..dim {
                r.out[row * dim + d] +=
                    r.weights[pair] * factors[pair] * v[(head * keys + j) * dim + d];
            }
        }
        let delta = dot(&r.out[own.clone()], &dout[own.clone()]);
        for (j, pair) in pairs.enumerate() {
            let dropped = r.weights[pair] * factors[pair];
            let dweight = factors[pair] * dot(&dout[own.clone()], &v[other(j)]);
            let dscore = scale * r.weights[pair] * (dweight - delta);
            for d in 0..dim {
                let (here, there) = (row * dim + d, (head * keys + j) * dim + d);
                r.dq[here] += dscore * k[there];
                r.dk[there] += dscore * q[here];
                r.dv[there] += dropped * dout[here];
            }
        }
    }
    r
}

/// Reorders `[B, H, T, Dh]` to `[B, T, H, Dh]`.
pub fn by_position<T: Copy>(values: &[T], heads: usize, rows: usize, dim: usize) -> Vec<T> {
    (0..values.len())
        .map(|index| {
            let (d, h) = (index % dim, index / dim % heads);
            let (t, b) = (index / (dim * heads) % rows, index / (dim * heads * rows));
            values[((b * heads + h) * rows + t) * dim + d]
        })
        .collect()
}

/// Puts three `[rows, …]` side by side.
pub fn pack<T: Copy>(parts: [&[T]; 3], rows: usize) -> Vec<T> {
    (0..rows)
        .flat_map(|row| {
            parts
                .map(|part| &part[row * part.len() / rows..(row + 1) * part.len() / rows])
                .concat()
        })
        .collect()
}

/// What the operands go through before they reach attention: the operation is mid-graph.
pub const GAIN: f64 = 1.3;
pub const SHIFT: f64 = 0.1;

pub fn inner(values: &[f32]) -> Vec<f64> {
    values
        .iter()
        .map(|&x| f64::from(x) * GAIN + SHIFT)
        .collect()
}

/// A loss that depends on attention's result through weights `w`, and on the variable directly.
pub fn gradient<'t>(
    tape: &'t Tape,
    out: Var<'t>,
    w: &[f32],
    variables: &[Var<'t>],
) -> Vec<Var<'t>> {
    let w = tape.input(out.shape(), w);
    let mut loss = (out * w).sum_all();
    for &variable in variables {
        loss = loss + variable.sum_all() * 0.5;
    }
    let gradients = tape.backward(loss);
    let of = |&variable| gradients.of(variable).expect("the loss depends on it");
    variables.iter().map(of).collect()
}

pub fn outer(gradient: &[f64]) -> Vec<f64> {
    gradient.iter().map(|g| g * GAIN + 0.5).collect()
}

/// The reference's gradients, which the other tests trust, against finite differences of its result.
#[test]
fn reference_gradients() {
    let size = Size::new(1, 2, 4, 5, 3);
    let mut random = Random::new(9);
    let mut draw = |n: usize| wide(&random.values(n, -1.0, 1.0));
    let mut operands = [draw(24), draw(30), draw(30)];
    let dout = draw(24);
    let factors: Vec<f64> = draw(40)
        .iter()
        .map(|&f| if f > 0.5 { 0.0 } else { 1.4 })
        .collect();
    let bias = causal_bias(size, true);
    let run = |operands: &[Vec<f64>; 3]| {
        let [q, k, v] = operands;
        reference(size, [q, k, v], &bias, &factors, 0.6, &dout)
    };
    let loss = |operands: &[Vec<f64>; 3]| -> f64 {
        run(operands)
            .out
            .iter()
            .zip(&dout)
            .map(|(a, b)| a * b)
            .sum()
    };
    let r = run(&operands);
    for (operand, gradient) in [r.dq, r.dk, r.dv].iter().enumerate() {
        for index in 0..gradient.len() {
            let at = operands[operand][index];
            let mut side = |step: f64| {
                operands[operand][index] = at + step;
                loss(&operands)
            };
            let difference = (side(1e-5) - side(-1e-5)) / 2e-5;
            operands[operand][index] = at;
            assert!((difference - gradient[index]).abs() < 1e-8);
        }
    }
}
