//! Heads on their way to attention, against a plain `f64` implementation.

use shadegrad::ops::{Heads, rotary_table};
use shadegrad::{DType, Shape, Tape, Tensor, Var, check};

use crate::common::{Random, assert_close, devices, wide};

/// How many there are, their extent, and what is done to them.
#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    width: usize,
    is_normed: bool,
    is_turned: bool,
}

const EPSILON: f32 = 1e-2;
const BASE: f64 = 100.0;

impl Case {
    fn slots(self) -> usize {
        self.heads + 2 * self.kv_heads
    }

    fn on<'t>(self, weights: [Var<'t>; 2], table: Var<'t>) -> Heads<'t> {
        Heads {
            n_heads: self.heads,
            n_kv_heads: self.kv_heads,
            norms: self.is_normed.then_some((weights, EPSILON)),
            angles: self.is_turned.then_some(table),
        }
    }

    /// Rows of heads, each standing at the position that `position_of` says.
    fn oracle(self, [x, q, k]: [&[f64]; 3], position_of: impl Fn(usize) -> usize) -> Vec<f64> {
        let Case { width, .. } = self;
        let mut y = x.to_vec();
        for (n, head) in y.chunks_mut(width).enumerate() {
            let (row, slot) = (n / self.slots(), n % self.slots());
            if slot >= self.heads + self.kv_heads {
                continue;
            }
            if self.is_normed {
                let squares: f64 = head.iter().map(|x| x * x).sum();
                let rms = (squares / width as f64 + f64::from(EPSILON)).sqrt();
                let weight = if slot < self.heads { q } else { k };
                head.iter_mut().zip(weight).for_each(|(x, w)| *x *= w / rms);
            }
            let turns = if self.is_turned { width / 2 } else { 0 };
            for i in 0..turns {
                let angle = position_of(row) as f64 * BASE.powf(-2.0 * i as f64 / width as f64);
                let (a, b) = (head[i], head[i + width / 2]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + width / 2] = b * angle.cos() + a * angle.sin();
            }
        }
        y
    }
}

const CASES: [(usize, usize, Case); 5] = [
    // Batch and positions. Heads of a multiple of eight go in vectors.
    (
        2,
        5,
        Case {
            heads: 4,
            kv_heads: 2,
            width: 8,
            is_normed: true,
            is_turned: true,
        },
    ),
    (
        1,
        37,
        Case {
            heads: 2,
            kv_heads: 1,
            width: 6,
            is_normed: true,
            is_turned: true,
        },
    ),
    (
        2,
        3,
        Case {
            heads: 3,
            kv_heads: 3,
            width: 40,
            is_normed: true,
            is_turned: false,
        },
    ),
    (
        1,
        2,
        Case {
            heads: 2,
            kv_heads: 2,
            width: 5,
            is_normed: true,
            is_turned: false,
        },
    ),
    (
        1,
        9,
        Case {
            heads: 3,
            kv_heads: 1,
            width: 256,
            is_normed: true,
            is_turned: true,
        },
    ),
];

#[test]
fn values_and_gradients() {
    let mut random = Random::new(41);
    for (batch, length, case) in CASES {
        let shape = Shape::from([batch, length, case.slots() * case.width]);
        let mut draw = |shape: Shape| (shape, random.values(shape.elements(), -2.0, 2.0));
        let weight = Shape::from([case.width]);
        let inputs = [draw(shape), draw(weight), draw(weight)];
        // A table has no angles for odd heads.
        let known = rotary_table(length, case.width.next_multiple_of(2), BASE);
        for device in devices() {
            let checked = check::gradient(
                device,
                &inputs,
                |x| {
                    let extents = [length, known.len() / length];
                    let table = x[0].tape().input(extents, &known);
                    x[0].heads(&case.on([x[1], x[2]], table))
                },
                |x| case.oracle([&x[0], &x[1], &x[2]], |row| row % length),
            );
            if let Err(error) = checked {
                panic!("{case:?} on {:?}: {error}", device.class());
            }
        }
    }
}

/// Keys and values go to the places after those that each text has, where there is room; queries come out.
#[test]
fn into_a_cache() {
    let mut random = Random::new(42);
    let gpt2 = Case {
        heads: 3,
        kv_heads: 3,
        width: 5,
        is_normed: false,
        is_turned: false,
    };
    let llama = Case {
        heads: 4,
        kv_heads: 2,
        width: 16,
        is_normed: false,
        is_turned: true,
    };
    let cases = [(2, 2, gpt2), (2, 1, llama), CASES[0], CASES[1], CASES[4]];
    for (n, (batch, length, case)) in cases.into_iter().enumerate() {
        let (capacity, slots, width) = (length + 4, case.slots(), case.width);
        let x = random.values(batch * length * slots * width, -2.0, 2.0);
        let weights = [0, 1].map(|_| random.values(width, 0.5, 2.0));
        // The last text of some has no room for all.
        let starts: Vec<usize> = (0..batch).map(|b| 3 * b + n % 2 * 4).collect();
        let position = |row: usize| starts[row / length] + row % length;
        let [x64, q64, k64] = [&x, &weights[0], &weights[1]].map(|values| wide(values));
        let expected = case.oracle([&x64, &q64, &k64], position);
        let kept = 2 * case.kv_heads * width;
        for device in devices() {
            for dtype in [DType::F32, DType::F16] {
                let cache = Tensor::zeros(device, [batch, capacity, kept], dtype).unwrap();
                let tape = Tape::inference(device);
                let known = rotary_table(16 + length, width.next_multiple_of(2), BASE);
                let table = tape.input([16 + length, known.len() / (16 + length)], &known);
                let on = weights.each_ref().map(|values| tape.input([width], values));
                let words: Vec<u32> = starts.iter().map(|&start| start as u32).collect();
                let q = tape.input([batch, length, slots * width], &x).cached_heads(
                    &case.on(on, table),
                    &cache,
                    tape.input([batch], &words),
                );
                let (q, held) = (tape.fetch::<f32>(q), tape.tensor(&cache).cast(DType::F32));
                let held = tape.fetch::<f32>(held);
                tape.run().unwrap();
                let mut places = vec![0.0; batch * capacity * kept];
                let mut queries = Vec::new();
                for (row, heads) in expected.chunks(slots * width).enumerate() {
                    let (new, others) = heads.split_at(case.heads * width);
                    queries.extend_from_slice(new);
                    if position(row) < capacity {
                        let at = (row / length * capacity + position(row)) * kept;
                        places[at..at + kept].copy_from_slice(others);
                    }
                }
                let name = format!("{case:?} as {dtype:?} on {:?}", device.class());
                assert_close(&name, &q.get().unwrap(), &queries, 1e-5, 1e-5);
                let tolerance = if dtype == DType::F16 { 1e-3 } else { 1e-5 };
                assert_close(&name, &held.get().unwrap(), &places, tolerance, tolerance);
            }
        }
    }
}

#[test]
#[should_panic(expected = "heads: the norms of heads of 4 have weights of shape [4] and [3]")]
fn weights_of_another_extent() {
    let tape = Tape::inference(devices()[0]);
    let [q, k] = [4, 3].map(|width| tape.full([width], 1.0));
    tape.full([1, 2, 12], 0.0).heads(&Heads {
        n_heads: 1,
        n_kv_heads: 1,
        norms: Some(([q, k], EPSILON)),
        angles: None,
    });
}

#[test]
#[should_panic(
    expected = "heads: keys and values of [1, 3, 12], from starts [1] on, do not fit into [1, 2, 8]"
)]
fn a_cache_that_is_too_small() {
    let device = devices()[0];
    let tape = Tape::inference(device);
    let cache = Tensor::zeros(device, [1, 2, 8], DType::F32).unwrap();
    let heads = Heads {
        n_heads: 1,
        n_kv_heads: 1,
        norms: None,
        angles: None,
    };
    tape.full([1, 3, 12], 0.0)
        .cached_heads(&heads, &cache, tape.input([1], &[0u32]));
}

/// Normalised queries and keys, unturned.
pub fn heads64(
    x: [&[f64]; 3],
    [heads, kv_heads]: [usize; 2],
    width: usize,
    epsilon: f64,
) -> Vec<f64> {
    assert_eq!(epsilon as f32, EPSILON);
    let case = Case {
        heads,
        kv_heads,
        width,
        is_normed: true,
        is_turned: false,
    };
    case.oracle(x, |_| 0)
}
