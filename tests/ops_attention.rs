//! Attention against a plain f64 implementation, in all forms, with all kernels.

mod common;

use common::{Random, assert_close, device, portable_device, wide};
use shadegrad::ops::attention::{Attention, Mask, attention, attention_with_weights};
use shadegrad::{DType, Device, Shape, Tape, Var};

/// The machine's own device, and one that takes the kernels for GPUs.
fn devices() -> [&'static Device; 2] {
    [device(), portable_device()]
}

/// Extents of a problem.
#[derive(Clone, Copy, Debug)]
struct Size {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    head_dim: usize,
}

impl Size {
    fn new(batch: usize, heads: usize, queries: usize, keys: usize, head_dim: usize) -> Size {
        Size {
            batch,
            heads,
            queries,
            keys,
            head_dim,
        }
    }

    fn rows(&self) -> usize {
        self.batch * self.heads * self.queries
    }

    fn weights(&self) -> usize {
        self.rows() * self.keys
    }
}

/// What a query gets for a key beside the scores: `None` hides the key; else what is added to the scaled score.
type Bias = Vec<Option<f64>>;

/// Slopes of linear biases for `heads` heads, as the paper's text gives them.
fn slopes(heads: usize) -> Vec<f64> {
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
fn config_bias(size: Size, config: &Attention) -> Bias {
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
fn repeat_heads(values: &[f64], share: usize, head: usize) -> Vec<f64> {
    values.chunks(head).flat_map(|x| x.repeat(share)).collect()
}

/// The way back: sums over the heads that share keys or values.
fn sum_heads(values: &[f64], share: usize, head: usize) -> Vec<f64> {
    let sum = |group: &[f64]| -> Vec<f64> {
        (0..head)
            .map(|e| group.iter().skip(e).step_by(head).sum())
            .collect()
    };
    values.chunks(share * head).flat_map(sum).collect()
}

fn causal_bias(size: Size, causal: bool) -> Bias {
    (0..size.weights())
        .map(|index| {
            let (i, j) = (index / size.keys % size.queries, index % size.keys);
            (!causal || j + size.queries <= i + size.keys).then_some(0.0)
        })
        .collect()
}

/// Results of the reference: all dense `[B, H, T, Dh]`, weights `[B, H, Tq, Tk]` before dropout.
struct Reference {
    out: Vec<f64>,
    weights: Vec<f64>,
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

/// `factors` is what dropout multiplies each weight by.
fn reference(
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
fn by_position<T: Copy>(values: &[T], heads: usize, rows: usize, dim: usize) -> Vec<T> {
    (0..values.len())
        .map(|index| {
            let (d, h) = (index % dim, index / dim % heads);
            let (t, b) = (index / (dim * heads) % rows, index / (dim * heads * rows));
            values[((b * heads + h) * rows + t) * dim + d]
        })
        .collect()
}

/// Puts three `[rows, …]` side by side.
fn pack<T: Copy>(parts: [&[T]; 3], rows: usize) -> Vec<T> {
    (0..rows)
        .flat_map(|row| {
            parts
                .map(|part| &part[row * part.len() / rows..(row + 1) * part.len() / rows])
                .concat()
        })
        .collect()
}

/// What the operands go through before they reach attention: the operation is mid-graph.
const GAIN: f64 = 1.3;
const SHIFT: f64 = 0.1;

fn inner(values: &[f32]) -> Vec<f64> {
    values
        .iter()
        .map(|&x| f64::from(x) * GAIN + SHIFT)
        .collect()
}

/// A loss that depends on attention's result through weights `w`, and on the variable directly.
fn gradient<'t>(tape: &'t Tape, out: Var<'t>, w: &[f32], variables: &[Var<'t>]) -> Vec<Var<'t>> {
    let w = tape.input(out.shape(), w);
    let mut loss = (out * w).sum_all();
    for &variable in variables {
        loss = loss + variable.sum_all() * 0.5;
    }
    let gradients = tape.backward(loss);
    let of = |&variable| gradients.of(variable).expect("the loss depends on it");
    variables.iter().map(of).collect()
}

fn outer(gradient: &[f64]) -> Vec<f64> {
    gradient.iter().map(|g| g * GAIN + 0.5).collect()
}

/// A mask and the bias that it amounts to together with causality.
struct TestMask {
    shape: Shape,
    values: Vec<f32>,
    is_boolean: bool,
    dtype: DType,
}

impl TestMask {
    fn draw(random: &mut Random, size: Size, is_boolean: bool, dtype: DType) -> TestMask {
        let full = Shape::new(&[size.batch, size.heads, size.queries, size.keys]);
        let shape = random.broadcastable(full);
        let values = (0..shape.elements())
            .map(|_| match (is_boolean, random.below(3)) {
                (true, 0) => [0.0, -0.0][random.below(2)],
                (true, _) => random.between(0.1, 2.0).ceil(),
                (false, 0) => [f32::NEG_INFINITY, -1.0e30, -3.0e38][random.below(3)],
                (false, _) => random.between(-2.0, 2.0),
            })
            .collect();
        TestMask {
            shape,
            values,
            is_boolean,
            dtype,
        }
    }

    fn on<'t>(&self, tape: &'t Tape) -> Mask<'t> {
        let var = if self.dtype == DType::U32 {
            let words: Vec<u32> = self.values.iter().map(|&x| x as u32).collect();
            tape.input(self.shape, &words)
        } else {
            tape.input(self.shape, &self.values)
        };
        if self.is_boolean {
            Mask::Boolean(var)
        } else {
            Mask::Additive(var)
        }
    }

    fn apply(&self, bias: &mut Bias, size: Size) {
        let full = Shape::new(&[size.batch, size.heads, size.queries, size.keys]);
        for (index, position) in common::positions(full).enumerate() {
            let value = self.values[common::broadcast_index(self.shape, &position)];
            let added = match self.is_boolean {
                true => (value != 0.0).then_some(0.0),
                false => (value > -1.0e30).then_some(f64::from(value)),
            };
            bias[index] = bias[index].and_then(|b| Some(b + added?));
        }
    }
}

/// How a `[B, H, T, Dh]` operand lies in memory.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Dense,
    /// `[B, T, H·Dh]`, as a projection leaves it.
    Heads,
    /// `[B, H, Dh, T]`: the elements of a row are apart.
    Columns,
    /// Part of a larger tensor, at odd places.
    Slice,
}

impl Layout {
    const ALL: [Layout; 4] = [Layout::Dense, Layout::Heads, Layout::Columns, Layout::Slice];

    fn shape(self, [b, h, t, d]: [usize; 4]) -> Shape {
        match self {
            Layout::Dense => Shape::new(&[b, h, t, d]),
            Layout::Heads => Shape::new(&[b, t, h * d]),
            Layout::Columns => Shape::new(&[b, h, d, t]),
            Layout::Slice => Shape::new(&[b, h, t, d + 3]),
        }
    }

    /// Dense values in this layout, with a filler where it holds more.
    fn arrange<T: Copy>(self, values: &[T], filler: T, [_, h, t, d]: [usize; 4]) -> Vec<T> {
        match self {
            Layout::Dense => values.to_vec(),
            Layout::Heads => by_position(values, h, t, d),
            Layout::Columns => (0..values.len())
                .map(|index| {
                    let (row, e, head) = (index % t, index / t % d, index / (t * d));
                    values[(head * t + row) * d + e]
                })
                .collect(),
            Layout::Slice => values
                .chunks(d)
                .flat_map(|row| [&[filler], row, &[filler; 2]].concat())
                .collect(),
        }
    }

    fn view<'t>(self, x: Var<'t>, [b, h, t, d]: [usize; 4]) -> Var<'t> {
        match self {
            Layout::Dense => x,
            Layout::Heads => x.reshape([b, t, h, d]).permute(&[0, 2, 1, 3]),
            Layout::Columns => x.transpose(),
            Layout::Slice => x.slice(3, 1..1 + d),
        }
    }
}

struct Case {
    device: &'static Device,
    size: Size,
    config: Attention,
    mask: Option<TestMask>,
    seed: u64,
}

impl Case {
    fn name(&self, form: &str) -> String {
        let mask = self.mask.as_ref().map(|m| (m.shape, m.is_boolean, m.dtype));
        format!(
            "{form} {:?} {:?} mask {mask:?} on {:?}",
            self.size,
            self.config,
            self.device.class()
        )
    }

    fn scale(&self) -> f64 {
        let usual = 1.0 / (self.size.head_dim as f64).sqrt();
        self.config.scale.map_or(usual, f64::from)
    }

    fn bias(&self) -> Bias {
        let mut bias = config_bias(self.size, &self.config);
        if let Some(mask) = &self.mask {
            mask.apply(&mut bias, self.size);
        }
        bias
    }

    /// Heads of q, k and v.
    fn heads(&self) -> [usize; 3] {
        let shared = self.config.n_kv_heads;
        [self.size.heads, shared, shared]
    }

    fn share(&self) -> usize {
        self.size.heads / self.config.n_kv_heads
    }

    /// Random q, k, v and weights of the result, `[B, H, T, Dh]`.
    fn operands(&self) -> [Vec<f32>; 4] {
        let mut random = Random::new(self.seed);
        let s = self.size;
        let [q, k, v] = self.heads();
        [
            (s.queries, q),
            (s.keys, k),
            (s.keys, v),
            (s.queries, s.heads),
        ]
        .map(|(rows, heads)| random.values(s.batch * heads * rows * s.head_dim, -1.5, 1.5))
    }

    fn expected(&self, [q, k, v, w]: &[Vec<f32>; 4], factors: &[f64]) -> Reference {
        let (share, head) = (self.share(), self.size.keys * self.size.head_dim);
        let q = inner(q);
        let [k, v] = [k, v].map(|x| repeat_heads(&inner(x), share, head));
        let mut r = reference(
            self.size,
            [&q, &k, &v],
            &self.bias(),
            factors,
            self.scale(),
            &wide(w),
        );
        r.dk = sum_heads(&r.dk, share, head);
        r.dv = sum_heads(&r.dv, share, head);
        r
    }

    /// Result and gradient of the packed form, both `[B, T, …]`.
    fn run_packed(&self, [q, k, v, w]: &[Vec<f32>; 4]) -> (Vec<f32>, Vec<f32>) {
        let s = self.size;
        let arrange = |x: &Vec<f32>, heads| by_position(x, heads, s.queries, s.head_dim);
        let [hq, hk, hv] = self.heads();
        let parts = [arrange(q, hq), arrange(k, hk), arrange(v, hv)];
        let rows = s.batch * s.queries;
        let data = pack([&parts[0], &parts[1], &parts[2]], rows);
        let tape = Tape::training(self.device);
        tape.set_seed(7, 3);
        let x = tape.variable([s.batch, s.queries, data.len() / rows], &data);
        let qkv = x * GAIN as f32 + SHIFT as f32;
        let out = match &self.mask {
            Some(mask) => qkv.masked_packed_attention(mask.on(&tape), &self.config),
            None => qkv.packed_attention(&self.config),
        };
        let dx = gradient(&tape, out, &arrange(w, s.heads), &[x])[0];
        let (out, dx) = (tape.fetch::<f32>(out), tape.fetch::<f32>(dx));
        tape.run().unwrap();
        (out.get().unwrap(), dx.get().unwrap())
    }

    fn check_packed(&self) {
        let operands = self.operands();
        let expected = self.expected(&operands, &vec![1.0; self.size.weights()]);
        let (out, dx) = self.run_packed(&operands);
        self.compare_packed(&out, &dx, &expected);
    }

    fn compare_packed(&self, out: &[f32], dx: &[f32], expected: &Reference) {
        let s = self.size;
        let name = self.name("packed");
        let arrange = |x: &Vec<f64>, heads| by_position(x, heads, s.queries, s.head_dim);
        assert_close(&name, out, &arrange(&expected.out, s.heads), 2e-5, 2e-5);
        let [hq, hk, hv] = self.heads();
        let Reference { dq, dk, dv, .. } = expected;
        let parts = [arrange(dq, hq), arrange(dk, hk), arrange(dv, hv)];
        let expected = pack([&parts[0], &parts[1], &parts[2]], s.batch * s.queries);
        let name = format!("gradient, {name}");
        assert_close(&name, dx, &outer(&expected), 3e-5, 3e-5);
    }

    /// The separate form, its operands laid out in memory as `layout` says.
    fn check_separate(&self, layout: Layout) {
        let s = self.size;
        let operands = self.operands();
        let expected = self.expected(&operands, &vec![1.0; s.weights()]);
        let [q, k, v, w] = &operands;
        let tape = Tape::training(self.device);
        let rows = [s.queries, s.keys, s.keys];
        let extents = [0, 1, 2].map(|n| [s.batch, self.heads()[n], rows[n], s.head_dim]);
        let variables = [(q, 0), (k, 1), (v, 2)].map(|(data, operand)| {
            let data = layout.arrange(data, 9.0, extents[operand]);
            tape.variable(layout.shape(extents[operand]), &data)
        });
        let views = [0, 1, 2].map(|operand| {
            let x = variables[operand] * GAIN as f32 + SHIFT as f32;
            layout.view(x, extents[operand])
        });
        let mask = self.mask.as_ref().map(|mask| mask.on(&tape));
        let (out, weights) =
            attention_with_weights(views[0], views[1], views[2], mask, &self.config);
        let gradients = gradient(&tape, out, w, &variables);
        let out = tape.fetch::<f32>(out);
        let weights = tape.fetch::<f32>(weights);
        let gradients: Vec<_> = gradients.iter().map(|&g| tape.fetch::<f32>(g)).collect();
        tape.run().unwrap();
        let name = self.name(&format!("{layout:?}"));
        assert_close(&name, &out.get().unwrap(), &expected.out, 2e-5, 2e-5);
        let what = format!("weights, {name}");
        assert_close(
            &what,
            &weights.get().unwrap(),
            &expected.weights,
            2e-5,
            2e-6,
        );
        for (operand, expected) in [expected.dq, expected.dk, expected.dv].iter().enumerate() {
            let expected = layout.arrange(expected, 0.0, extents[operand]);
            let what = format!("gradient {operand}, {name}");
            let actual = gradients[operand].get().unwrap();
            assert_close(&what, &actual, &outer(&expected), 3e-5, 3e-5);
        }
    }
}

fn config(heads: usize, causal: bool) -> Attention {
    match causal {
        true => Attention::causal(heads),
        false => Attention::full(heads),
    }
}

#[test]
fn packed_contexts() {
    for (n, context) in [1, 2, 7, 16, 33, 100, 257].into_iter().enumerate() {
        for device in devices() {
            for causal in [true, false] {
                let heads = 1 + n % 3;
                Case {
                    device,
                    size: Size::new(1 + n % 2, heads, context, context, 8),
                    config: config(heads, causal),
                    mask: None,
                    seed: n as u64,
                }
                .check_packed();
            }
        }
    }
}

/// Shared heads of keys and values, windows and linear biases, each alone and all together, packed and separate; with
/// few rows and many, which different kernels take.
#[test]
fn shared_heads_windows_and_linear_biases() {
    let kinds: [fn(usize) -> Attention; 7] = [
        |heads| Attention::causal(heads).with_kv_heads(heads / 3),
        |heads| Attention::full(heads).with_kv_heads(1),
        |heads| Attention::causal(heads).with_window(5),
        |heads| Attention::full(heads).with_window(3),
        |heads| Attention::causal(heads).with_alibi(),
        |heads| Attention::full(heads).with_alibi(),
        |heads| {
            let config = Attention::causal(heads).with_kv_heads(2);
            config.with_window(9).with_alibi()
        },
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        for device in devices() {
            for (queries, keys) in [(13, 13), (41, 41), (6, 19), (37, 50), (19, 6)] {
                let case = Case {
                    device,
                    size: Size::new(2, 6, queries, keys, 8),
                    config: kind(6),
                    mask: None,
                    seed: 700 + n as u64,
                };
                if queries == keys {
                    case.check_packed();
                } else {
                    case.check_separate(Layout::ALL[n % 4]);
                }
            }
        }
    }
}

/// The same under a mask, with dropout's kernels left out: masks meet windows and biases in one function.
#[test]
fn kinds_under_masks() {
    let mut random = Random::new(11);
    for (n, context) in [11, 45].into_iter().enumerate() {
        let size = Size::new(2, 4, context, context, 8);
        for device in devices() {
            Case {
                device,
                size,
                config: Attention::causal(4)
                    .with_kv_heads(2)
                    .with_window(7)
                    .with_alibi(),
                mask: Some(TestMask::draw(&mut random, size, n == 0, DType::F32)),
                seed: 800 + n as u64,
            }
            .check_packed();
        }
    }
}

#[test]
#[should_panic(expected = "attention: 6 heads cannot share 4 heads of keys and values")]
fn heads_that_do_not_divide() {
    let tape = Tape::training(device());
    tape.full([1, 2, 14 * 8], 0.0)
        .packed_attention(&Attention::causal(6).with_kv_heads(4));
}

#[test]
#[should_panic(expected = "attention: a window of 0 shows no key")]
fn empty_window() {
    let tape = Tape::training(device());
    tape.full([1, 2, 24], 0.0)
        .packed_attention(&Attention::causal(1).with_window(0));
}

/// More workgroups than one dimension of a grid can have.
#[test]
fn packed_large_batch() {
    for device in devices() {
        Case {
            device,
            size: Size::new(22_000, 3, 1, 1, 8),
            config: Attention::causal(3),
            mask: None,
            seed: 50,
        }
        .check_packed();
    }
}

/// Kernels are compiled for each head size, which takes its time: not every size on every device. The other tests have
/// sizes 5, 8 and 24 on both.
#[test]
fn packed_head_sizes() {
    let [own, portable] = devices();
    let sizes: [(usize, &[&'static Device]); 7] = [
        (1, &[portable]),
        (3, &[own]),
        (8, &[own, portable]),
        (16, &[own]),
        (64, &[own, portable]),
        (80, &[portable]),
        (128, &[own, portable]),
    ];
    for (n, (head_dim, devices)) in sizes.into_iter().enumerate() {
        for &device in devices {
            let heads = 1 + n % 6;
            Case {
                device,
                size: Size::new(1 + n % 2, heads, 19, 19, head_dim),
                config: config(heads, n % 3 != 0),
                mask: None,
                seed: 100 + n as u64,
            }
            .check_packed();
        }
    }
}

#[test]
fn packed_with_masks() {
    let mut random = Random::new(5);
    let cases = [
        (13, 8, true, DType::F32),
        (70, 5, true, DType::U32),
        (70, 8, false, DType::F32),
        (13, 5, false, DType::F32),
    ];
    for (n, (context, head_dim, is_boolean, dtype)) in cases.into_iter().enumerate() {
        let size = Size::new(2, 3, context, context, head_dim);
        for device in devices() {
            Case {
                device,
                size,
                config: config(3, n % 3 == 0).with_scale(0.7),
                mask: Some(TestMask::draw(&mut random, size, is_boolean, dtype)),
                seed: 200 + n as u64,
            }
            .check_packed();
        }
    }
}

#[test]
fn separate_operands() {
    let mut random = Random::new(6);
    let lengths = [(7, 7), (5, 18), (18, 5), (1, 33), (33, 1), (40, 41)];
    for (n, (queries, keys)) in lengths.into_iter().enumerate() {
        for device in devices() {
            let size = Size::new(2, 2, queries, keys, [8, 5][n % 2]);
            let mask = (n % 3 == 0).then(|| TestMask::draw(&mut random, size, n == 0, DType::F32));
            Case {
                device,
                size,
                config: config(2, n % 3 != 2),
                mask,
                seed: 300 + n as u64,
            }
            .check_separate(Layout::ALL[n % 4]);
        }
    }
}

/// A query that may attend to nothing gives zeros, and no gradient that is not a number.
#[test]
fn fully_masked_rows() {
    for device in devices() {
        for is_boolean in [true, false] {
            let size = Size::new(1, 2, 9, 9, 8);
            let hidden = if is_boolean { 0.0 } else { f32::NEG_INFINITY };
            let values = (0..9).map(|i| if i % 2 == 0 { hidden } else { 1.0 });
            let case = Case {
                device,
                size,
                config: Attention::causal(2),
                mask: Some(TestMask {
                    shape: Shape::new(&[9, 1]),
                    values: values.collect(),
                    is_boolean,
                    dtype: DType::F32,
                }),
                seed: 400,
            };
            case.check_packed();
            let (out, _) = case.run_packed(&case.operands());
            assert!(out.chunks(16).step_by(2).flatten().all(|&x| x == 0.0));
        }
    }
}

/// Only the operands that need a gradient get one, and keys can be shared by all heads.
#[test]
fn partial_gradients_and_shared_heads() {
    let (b, h, t, d) = (2, 3, 6, 8);
    let mut random = Random::new(7);
    let data = [h, 1, h].map(|heads| random.values(b * heads * t * d, -1.0, 1.0));
    for device in devices() {
        let gradient_of = |wanted: usize| -> Vec<Vec<f32>> {
            let tape = Tape::training(device);
            let operands = [0, 1, 2].map(|n| {
                let shape = [b, if n == 1 { 1 } else { h }, t, d];
                match wanted == n || wanted == 3 {
                    true => tape.variable(shape, &data[n]),
                    false => tape.input(shape, &data[n]),
                }
            });
            let [q, k, v] = operands;
            let k = k.broadcast_to([b, h, t, d]);
            let out = attention(q, k, v, None, &Attention::causal(h));
            let gradients = tape.backward((out * out).sum_all());
            let fetches: Vec<_> = operands
                .iter()
                .filter_map(|&operand| gradients.of(operand))
                .map(|gradient| tape.fetch::<f32>(gradient))
                .collect();
            tape.run().unwrap();
            fetches.iter().map(|f| f.get().unwrap()).collect()
        };
        let all = gradient_of(3);
        assert_eq!(all[1].len(), b * t * d);
        for (wanted, expected) in all.iter().enumerate() {
            assert_eq!(gradient_of(wanted), std::slice::from_ref(expected));
        }
    }
}

/// The gradient that arrives may be a view that repeats one element.
#[test]
fn broadcast_upstream_gradient() {
    let data = Random::new(10).values(2 * 5 * 48, -1.0, 1.0);
    for device in devices() {
        let gradient = |has_weights: bool| {
            let tape = Tape::training(device);
            let x = tape.variable([2, 5, 48], &data);
            let mut out = x.packed_attention(&Attention::causal(2));
            if has_weights {
                out = out * tape.input([2, 5, 16], &[1.0f32; 160]);
            }
            let gradient = tape.backward(out.sum_all()).of(x).unwrap();
            let gradient = tape.fetch::<f32>(gradient);
            tape.run().unwrap();
            gradient.get().unwrap()
        };
        assert_eq!(gradient(false), gradient(true));
    }
}

#[test]
fn the_same_bits_twice() {
    for device in devices() {
        let case = Case {
            device,
            size: Size::new(2, 3, 40, 40, 24),
            config: Attention::causal(3).with_dropout(0.2),
            mask: None,
            seed: 500,
        };
        let operands = case.operands();
        let bits = |(out, dx): (Vec<f32>, Vec<f32>)| -> Vec<u32> {
            out.iter().chain(&dx).map(|x| x.to_bits()).collect()
        };
        let first = bits(case.run_packed(&operands));
        assert_eq!(first, bits(case.run_packed(&operands)));
    }
}

/// With unit vectors as values, the result is the dropped weights themselves: what each weight was multiplied by.
fn dropout_factors(case: &Case, tape_seed: (u64, u64)) -> Vec<f64> {
    let s = case.size;
    assert!(s.keys <= s.head_dim);
    let values: Vec<f32> = (0..s.batch * s.heads * s.keys * s.head_dim)
        .map(|index| f32::from(index / s.head_dim % s.keys == index % s.head_dim))
        .collect();
    let tape = Tape::training(case.device);
    tape.set_seed(tape_seed.0, tape_seed.1);
    let q = tape.input(
        [s.batch, s.heads, s.queries, s.head_dim],
        &vec![0.0f32; s.rows() * s.head_dim],
    );
    let v = tape.input([s.batch, s.heads, s.keys, s.head_dim], &values);
    let k = v * 0.0;
    let out = tape.fetch::<f32>(attention(q, k, v, None, &case.config));
    tape.run().unwrap();
    let out = out.get().unwrap();
    let bias = causal_bias(s, case.config.causal);
    (0..s.weights())
        .map(|pair| {
            let (row, j) = (pair / s.keys, pair % s.keys);
            let seen = bias[row * s.keys..(row + 1) * s.keys]
                .iter()
                .flatten()
                .count();
            f64::from(out[row * s.head_dim + j]) * seen as f64
        })
        .collect()
}

#[test]
fn dropout() {
    // The last takes the kernels for many rows.
    for context in [16, 24, 40] {
        let probability = 0.3;
        let case = |device| Case {
            device,
            size: Size::new(3, 4, context, context, context.max(24)),
            config: Attention::full(4).with_dropout(probability),
            mask: None,
            seed: 600,
        };
        let all = devices().map(|device| dropout_factors(&case(device), (7, 3)));
        let kept = 1.0 / (1.0 - f64::from(probability));
        let count = all[0].len() as f64;
        assert!(all[0].iter().all(|&f| f == 0.0 || (f - kept).abs() < 1e-5));
        let dropped = all[0].iter().filter(|&&f| f == 0.0).count() as f64;
        let deviation = (count * 0.3 * 0.7).sqrt();
        assert!(
            (dropped - 0.3 * count).abs() < 4.0 * deviation,
            "{dropped} of {count} weights were dropped"
        );
        // Every kernel drops the same weights; another step or seed drops others.
        let zeros = |factors: &[f64]| factors.iter().map(|&f| f == 0.0).collect::<Vec<bool>>();
        assert_eq!(zeros(&all[0]), zeros(&all[1]));
        for other in [(7, 4), (8, 3)] {
            let others = zeros(&dropout_factors(&case(device()), other));
            let common = zeros(&all[0])
                .iter()
                .zip(&others)
                .filter(|(a, b)| **a && **b)
                .count();
            assert!((common as f64) < 0.15 * count);
        }
        // Result and gradients are those of attention with these factors.
        for device in devices() {
            let case = case(device);
            let operands = case.operands();
            let expected = case.expected(&operands, &all[0]);
            let (out, dx) = case.run_packed(&operands);
            case.compare_packed(&out, &dx, &expected);
        }
    }
}

#[test]
fn inference_drops_nothing() {
    let data = Random::new(8).values(2 * 5 * 48, -1.0, 1.0);
    let run = |dropout: f32| {
        let tape = Tape::inference(device());
        let x = tape.input([2, 5, 48], &data);
        let out = x.packed_attention(&Attention::causal(2).with_dropout(dropout));
        let out = tape.fetch::<f32>(out);
        tape.run().unwrap();
        out.get().unwrap()
    };
    assert_eq!(run(0.0), run(0.5));
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

#[test]
#[should_panic(
    expected = "packed_attention: [2, 5, 25] is not [B, T, (H + 2·Hkv)·Dh] for 2 heads, 2 of keys and values"
)]
fn packed_shape() {
    let tape = Tape::training(device());
    tape.full([2, 5, 25], 0.0)
        .packed_attention(&Attention::causal(2));
}

#[test]
#[should_panic(expected = "attention: mask [4, 5] does not broadcast to [2, 2, 5, 5]")]
fn mask_shape() {
    let tape = Tape::training(device());
    let mask = Mask::Additive(tape.full([4, 5], 0.0));
    tape.full([2, 5, 24], 0.0)
        .masked_packed_attention(mask, &Attention::causal(2));
}

#[test]
#[should_panic(expected = "attention: head size 129 is larger than 128")]
fn head_size() {
    let tape = Tape::training(device());
    tape.full([2, 5, 3 * 129], 0.0)
        .packed_attention(&Attention::causal(1));
}

#[test]
#[should_panic(expected = "compose attention from matmul and softmax instead")]
fn second_derivative() {
    let tape = Tape::training(device());
    let x = tape.variable([1, 2, 6], &[0.5; 12]);
    let out = x.packed_attention(&Attention::causal(1));
    let gradient = tape.backward(out.sum_all()).of(x).unwrap();
    tape.backward((gradient * gradient).sum_all());
}

#[test]
#[should_panic(expected = "attention_weights: no gradient: the weights are there to be looked at")]
fn gradient_of_weights() {
    let tape = Tape::training(device());
    let x = tape.variable([1, 1, 2, 3], &[0.5; 6]);
    let (_, weights) = attention_with_weights(x, x, x, None, &Attention::full(1));
    tape.backward(weights.sum_all());
}
