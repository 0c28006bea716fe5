//! One problem: its operands in memory, and the comparison with the reference.

use shadegrad::ops::attention::{Attention, Mask, attention_with_weights};
use shadegrad::{DType, Device, Shape, Tape, Var};

use super::reference::*;
use crate::common::{Random, assert_close, broadcast_index, positions, wide};

/// A mask and the bias that it amounts to together with causality.
pub struct TestMask {
    pub shape: Shape,
    pub values: Vec<f32>,
    pub is_boolean: bool,
    pub dtype: DType,
}

impl TestMask {
    pub fn draw(random: &mut Random, size: Size, is_boolean: bool, dtype: DType) -> TestMask {
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

    pub fn on<'t>(&self, tape: &'t Tape) -> Mask<'t> {
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

    pub fn apply(&self, bias: &mut Bias, size: Size) {
        let full = Shape::new(&[size.batch, size.heads, size.queries, size.keys]);
        for (index, position) in positions(full).enumerate() {
            let value = self.values[broadcast_index(self.shape, &position)];
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
pub enum Layout {
    Dense,
    /// `[B, T, H·Dh]`, as a projection leaves it.
    Heads,
    /// `[B, H, Dh, T]`: the elements of a row are apart.
    Columns,
    /// Part of a larger tensor, at odd places.
    Slice,
}

impl Layout {
    pub const ALL: [Layout; 4] = [Layout::Dense, Layout::Heads, Layout::Columns, Layout::Slice];

    pub fn shape(self, [b, h, t, d]: [usize; 4]) -> Shape {
        match self {
            Layout::Dense => Shape::new(&[b, h, t, d]),
            Layout::Heads => Shape::new(&[b, t, h * d]),
            Layout::Columns => Shape::new(&[b, h, d, t]),
            Layout::Slice => Shape::new(&[b, h, t, d + 3]),
        }
    }

    /// Dense values in this layout, with a filler where it holds more.
    pub fn arrange<T: Copy>(self, values: &[T], filler: T, [_, h, t, d]: [usize; 4]) -> Vec<T> {
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

    pub fn view<'t>(self, x: Var<'t>, [b, h, t, d]: [usize; 4]) -> Var<'t> {
        match self {
            Layout::Dense => x,
            Layout::Heads => x.reshape([b, t, h, d]).permute(&[0, 2, 1, 3]),
            Layout::Columns => x.transpose(),
            Layout::Slice => x.slice(3, 1..1 + d),
        }
    }
}

pub struct Case {
    pub device: &'static Device,
    pub size: Size,
    pub config: Attention,
    pub mask: Option<TestMask>,
    pub seed: u64,
}

impl Case {
    pub fn name(&self, form: &str) -> String {
        let mask = self.mask.as_ref().map(|m| (m.shape, m.is_boolean, m.dtype));
        format!(
            "{form} {:?} {:?} mask {mask:?} on {:?}",
            self.size,
            self.config,
            self.device.class()
        )
    }

    pub fn scale(&self) -> f64 {
        let usual = 1.0 / (self.size.head_dim as f64).sqrt();
        self.config.scale.map_or(usual, f64::from)
    }

    pub fn bias(&self) -> Bias {
        let mut bias = config_bias(self.size, &self.config);
        if let Some(mask) = &self.mask {
            mask.apply(&mut bias, self.size);
        }
        bias
    }

    /// Heads of q, k and v.
    pub fn heads(&self) -> [usize; 3] {
        let shared = self.config.n_kv_heads;
        [self.size.heads, shared, shared]
    }

    pub fn share(&self) -> usize {
        self.size.heads / self.config.n_kv_heads
    }

    /// Random q, k, v and weights of the result, `[B, H, T, Dh]`.
    pub fn operands(&self) -> [Vec<f32>; 4] {
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

    pub fn expected(&self, [q, k, v, w]: &[Vec<f32>; 4], factors: &[f64]) -> Reference {
        self.expected_of([inner(q), inner(k), inner(v)], &wide(w), factors)
    }

    /// Of operands as attention gets them.
    pub fn expected_of(&self, [q, k, v]: [Vec<f64>; 3], w: &[f64], factors: &[f64]) -> Reference {
        let (share, head) = (self.share(), self.size.keys * self.size.head_dim);
        let [k, v] = [k, v].map(|x| repeat_heads(&x, share, head));
        let (bias, scale) = (self.bias(), self.scale());
        let mut r = reference(self.size, [&q, &k, &v], &bias, factors, scale, w);
        r.dk = sum_heads(&r.dk, share, head);
        r.dv = sum_heads(&r.dv, share, head);
        r
    }

    /// Result and gradient of the packed form, both `[B, T, …]`.
    pub fn run_packed(&self, [q, k, v, w]: &[Vec<f32>; 4]) -> (Vec<f32>, Vec<f32>) {
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

    pub fn check_packed(&self) {
        let operands = self.operands();
        let expected = self.expected(&operands, &vec![1.0; self.size.weights()]);
        let (out, dx) = self.run_packed(&operands);
        self.compare_packed(&out, &dx, &expected);
    }

    pub fn compare_packed(&self, out: &[f32], dx: &[f32], expected: &Reference) {
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
    pub fn check_separate(&self, layout: Layout) {
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
