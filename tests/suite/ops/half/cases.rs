//! The operations that take floats, each with the same in `f64`. Rows of the pointwise table are in `pointwise`.

use shadegrad::ops::attention::{Attention, Mask, attention};
use shadegrad::ops::{Heads, rotary_table};
use shadegrad::{Shape, Tape, Var, f16};

use super::super::attention::reference::{Size, by_position, config_bias, reference, repeat_heads};
use super::super::concat::concatenated;
use super::super::cross_entropy::{self, OPTIONS};
use super::super::embedding::{part_rows, rows};
use super::super::gates::{product64, rotary64, swiglu64};
use super::super::heads::heads64;
use super::super::norm::Norm;
use super::super::reduce::places;
use super::super::softmax::{by_row, log_softmax, softmax};
use crate::common::host::Host;
use crate::common::{Random, device};

pub type Record = Box<dyn for<'t> Fn(&[Var<'t>]) -> Var<'t>>;
pub type Oracle = Box<dyn Fn(&[Vec<f64>]) -> Vec<f64>>;

/// An operation, what it is given, and the same in `f64`.
pub struct Case {
    pub name: String,
    pub inputs: Vec<(Shape, Vec<f32>)>,
    pub record: Record,
    pub oracle: Oracle,
}

/// All cases, drawn from one seed.
pub struct Cases {
    random: Random,
    all: Vec<Case>,
}

impl Cases {
    pub fn all() -> Vec<Case> {
        let mut cases = Cases {
            random: Random::new(1),
            all: Vec::new(),
        };
        cases.products();
        cases.rows();
        cases.losses();
        cases.reductions();
        cases.places();
        cases.layouts();
        cases.gates();
        cases.attention();
        cases.all
    }

    /// With inputs of these shapes, up to 2 in size.
    fn push(
        &mut self,
        name: impl std::fmt::Display,
        shapes: &[&[usize]],
        record: impl for<'t> Fn(&[Var<'t>]) -> Var<'t> + 'static,
        oracle: impl Fn(&[Vec<f64>]) -> Vec<f64> + 'static,
    ) {
        let draw = |dims: &&[usize]| {
            let shape = Shape::new(dims);
            (shape, self.random.values(shape.elements(), -2.0, 2.0))
        };
        let inputs: Vec<_> = shapes.iter().map(draw).collect();
        self.all.push(Case {
            name: format!("{name} of {shapes:?}"),
            inputs,
            record: Box::new(record),
            oracle: Box::new(oracle),
        });
    }

    fn products(&mut self) {
        for [m, k, n] in [[1, 37, 5], [33, 7, 13], [5, 12, 66]] {
            let oracle = move |x: &[Vec<f64>]| product64(&x[0], &x[1], k);
            self.push("matmul", &[&[m, k], &[k, n]], |x| x[0].matmul(x[1]), oracle);
            // Both operands transposed, the result as well: rows of odd length in every direction.
            let turned = move |x: &[Vec<f64>]| {
                let a = Host::new([k, m], x[0].clone()).permute(&[1, 0]);
                let b = Host::new([n, k], x[1].clone()).permute(&[1, 0]);
                let c = product64(&a.values, &b.values, k);
                Host::new([m, n], c).permute(&[1, 0]).values
            };
            self.push(
                "matmul, transposed",
                &[&[k, m], &[n, k]],
                |x| x[0].transpose().matmul(x[1].transpose()).transpose(),
                turned,
            );
        }
        // Batches of odd matrices, one operand shared by the batch.
        let batched = |x: &[Vec<f64>]| {
            let of = |a: &[f64]| product64(a, &x[1], 7);
            x[0].chunks(21).flat_map(of).collect()
        };
        let shapes: [&[usize]; 2] = [&[2, 3, 7], &[1, 7, 5]];
        self.push("matmul, shared", &shapes, |x| x[0].matmul(x[1]), batched);
        let each = |x: &[Vec<f64>]| {
            let pairs = x[0].chunks(21).zip(x[1].chunks(35));
            pairs.flat_map(|(a, b)| product64(a, b, 7)).collect()
        };
        let shapes: [&[usize]; 2] = [&[3, 3, 7], &[3, 7, 5]];
        self.push("matmul, batched", &shapes, |x| x[0].matmul(x[1]), each);
        // Slices that begin at odd elements.
        self.push(
            "matmul of slices",
            &[&[6, 9], &[8, 6]],
            |x| {
                x[0].slice(1, 1..8)
                    .matmul(x[1].slice(0, 1..8).slice(1, 1..4))
            },
            |x| {
                let a = Host::new([6, 9], x[0].clone()).slice(1, 1..8);
                let b = Host::new([8, 6], x[1].clone())
                    .slice(0, 1..8)
                    .slice(1, 1..4);
                product64(&a.values, &b.values, 7)
            },
        );
        // Bias, activation, residual: the product's epilogue.
        for columns in [6, 7] {
            self.push(
                "matmul with an epilogue",
                &[&[5, 7], &[7, columns], &[columns], &[5, columns]],
                |x| x[3] + (x[0].matmul(x[1]) * 0.25 + x[2]).tanh(),
                move |x| {
                    let mut c = product64(&x[0], &x[1], 7);
                    for (i, c) in c.iter_mut().enumerate() {
                        *c = x[3][i] + (0.25 * *c + x[2][i % columns]).tanh();
                    }
                    c
                },
            );
        }
    }

    fn rows(&mut self) {
        for [rows, width] in [[1, 1], [3, 7], [2, 36]] {
            let shape: &[&[usize]] = &[&[rows, width]];
            let by =
                move |of: fn(&[f64]) -> Vec<f64>| move |x: &[Vec<f64>]| by_row(&x[0], width, of);
            self.push("softmax", shape, |x| x[0].softmax(), by(softmax));
            self.push(
                "log_softmax",
                shape,
                |x| x[0].log_softmax(),
                by(log_softmax),
            );
            for norm in Norm::ALL.into_iter().filter(|_| width > 1) {
                let mut shapes: Vec<&[usize]> = vec![&shape[0]];
                let of_columns = [width];
                shapes.push(&of_columns);
                if norm == Norm::Layer {
                    shapes.push(&of_columns);
                }
                let oracle = move |x: &[Vec<f64>]| norm.oracle(x);
                self.push(
                    format!("{norm:?}"),
                    &shapes,
                    move |x| norm.record(x),
                    oracle,
                );
            }
        }
        // Rows that are parts of longer ones, from an odd element on.
        self.push(
            "softmax of slices",
            &[&[4, 9]],
            |x| x[0].slice(1, 1..8).softmax(),
            |x| {
                by_row(
                    &Host::new([4, 9], x[0].clone()).slice(1, 1..8).values,
                    7,
                    softmax,
                )
            },
        );
    }

    fn losses(&mut self) {
        for (rows, classes) in [(7, 5), (1, 67)] {
            for options in OPTIONS {
                let mut targets = self.random.indices(rows, classes);
                if let Some(ignored) = options.ignore_index.filter(|_| rows > 1) {
                    targets[rows / 2] = ignored;
                }
                let shape: &[&[usize]] = &[&[rows, classes]];
                let ids = targets.clone();
                let given = targets.clone();
                self.push(
                    format!("cross_entropy with {options:?}"),
                    shape,
                    move |x| x[0].cross_entropy(x[0].tape().input([rows], &given), options),
                    move |x| {
                        let (losses, _) = cross_entropy::reference(&x[0], &ids, options);
                        vec![cross_entropy::mean(&losses, &ids, options)]
                    },
                );
                let given = targets.clone();
                self.push(
                    format!("cross_entropy_rows with {options:?}"),
                    shape,
                    move |x| x[0].cross_entropy_rows(x[0].tape().input([rows], &given), options),
                    move |x| cross_entropy::reference(&x[0], &targets, options).0,
                );
            }
        }
        let mean = |values: Vec<f64>| vec![values.iter().sum::<f64>() / values.len() as f64];
        self.push(
            "mse",
            &[&[7], &[7]],
            |x| x[0].mse(x[1]),
            move |x| {
                mean(
                    x[0].iter()
                        .zip(&x[1])
                        .map(|(x, t)| (x - t).powi(2))
                        .collect(),
                )
            },
        );
        self.push(
            "binary_cross_entropy",
            &[&[7], &[7]],
            |x| x[0].binary_cross_entropy(x[1]),
            move |x| {
                let softplus = |x: f64| x.exp().ln_1p();
                let pairs = x[0].iter().zip(&x[1]);
                mean(
                    pairs
                        .map(|(x, t)| t * softplus(-x) + (1.0 - t) * softplus(*x))
                        .collect(),
                )
            },
        );
    }

    fn reductions(&mut self) {
        type Reduce = for<'t> fn(Var<'t>, &[usize]) -> Var<'t>;
        type Fold = fn(&[f64]) -> f64;
        let operations: [(&str, Reduce, Fold); 5] = [
            ("sum", |x, axes| x.sum(axes), |v| v.iter().sum()),
            (
                "mean",
                |x, axes| x.mean(axes),
                |v| v.iter().sum::<f64>() / v.len() as f64,
            ),
            (
                "max",
                |x, axes| x.max(axes),
                |v| v.iter().copied().fold(f64::MIN, f64::max),
            ),
            (
                "min",
                |x, axes| x.min(axes),
                |v| v.iter().copied().fold(f64::MAX, f64::min),
            ),
            (
                "var",
                |x, axes| x.var(axes),
                |v| {
                    let mean = v.iter().sum::<f64>() / v.len() as f64;
                    v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / v.len() as f64
                },
            ),
        ];
        let dims: &[usize] = &[3, 4, 5];
        for (name, operation, reduce) in operations {
            for axes in [&[0, 2][..], &[1]] {
                let oracle = move |x: &[Vec<f64>]| {
                    let places = places(Shape::new(&[3, 4, 5]), axes, &x[0]);
                    places.iter().map(|place| reduce(place)).collect()
                };
                self.push(
                    format!("{name} over {axes:?}"),
                    &[dims],
                    move |x| operation(x[0], axes),
                    oracle,
                );
            }
        }
    }

    /// Rows and elements by index.
    fn places(&mut self) {
        for [vocabulary, width] in [[5, 3], [7, 8], [11, 1]] {
            let mut ids = self.random.indices(9, vocabulary);
            ids[3] = ids[5];
            let given = ids.clone();
            let shape: &[&[usize]] = &[&[vocabulary, width]];
            self.push(
                "embedding",
                shape,
                move |x| x[0].embedding(x[0].tape().input([9], &given)),
                move |x| rows(&x[0], &ids, width),
            );
        }
        let ids = self.random.indices(9, 12);
        let given = ids.clone();
        self.push(
            "embedding_part",
            &[&[5, 3]],
            move |x| x[0].embedding_part(x[0].tape().input([9], &given), 3, 12),
            move |x| part_rows(&x[0], &ids, 3, 3),
        );
        let ids = self.random.indices(12, 5);
        let given = ids.clone();
        self.push(
            "gather",
            &[&[4, 5]],
            move |x| x[0].gather(1, x[0].tape().input([4, 3], &given)),
            move |x| (0..12).map(|i| x[0][i / 3 * 5 + ids[i] as usize]).collect(),
        );
        self.push(
            "index_select",
            &[&[5, 3]],
            |x| x[0].index_select(0, x[0].tape().input([4], &[4u32, 0, 4, 1])),
            |x| rows(&x[0], &[4, 0, 4, 1], 3),
        );
    }

    fn layouts(&mut self) {
        self.push(
            "concat",
            &[&[3, 2], &[3, 5], &[3, 1]],
            |x| Var::concat(x, 1),
            |x| {
                let parts = x.iter().zip([2, 5, 1]);
                let parts: Vec<_> = parts
                    .map(|(x, width)| (Shape::new(&[3, width]), x.clone()))
                    .collect();
                concatenated(&parts, 1)
            },
        );
        self.push(
            "stack",
            &[&[3], &[3]],
            |x| Var::stack(x, 1),
            |x| (0..6).map(|i| x[i % 2][i / 2]).collect(),
        );
        self.push(
            "pad",
            &[&[3, 5]],
            |x| x[0].pad(1, 1, 2).pad(0, 1, 0),
            |x| {
                Host::new([3, 5], x[0].clone())
                    .pad(1, 1, 2)
                    .pad(0, 1, 0)
                    .values
            },
        );
        self.push(
            "slices, permuted and repeated",
            &[&[3, 1, 7]],
            |x| {
                let part = x[0].slice(2, 1..6).slice(0, 1..3);
                part.broadcast_to([2, 3, 5])
                    .permute(&[2, 0, 1])
                    .reshape([30])
            },
            |x| {
                let part = Host::new([3, 1, 7], x[0].clone())
                    .slice(2, 1..6)
                    .slice(0, 1..3);
                part.broadcast_to([2, 3, 5].into())
                    .permute(&[2, 0, 1])
                    .values
            },
        );
        for shape in [&[37][..], &[5, 8]] {
            // What it drops depends on the seed alone, which the checker sets.
            let count = shape.iter().product();
            let dims = Shape::new(shape);
            let kept = dropped(dims);
            self.push(
                "dropout",
                &[shape],
                |x| x[0].dropout(0.4),
                move |x| (0..count).map(|i| x[0][i] * kept[i]).collect(),
            );
        }
    }

    fn gates(&mut self) {
        for [rows, width] in [[1, 2], [3, 10], [2, 16]] {
            let shape: &[&[usize]] = &[&[rows, width]];
            let oracle = move |x: &[Vec<f64>]| swiglu64(&x[0], width / 2);
            self.push("swiglu", shape, |x| x[0].swiglu(), oracle);
        }
        // The gate ends the product before it, its gradient the one behind.
        for half in [8, 5] {
            let shapes: [&[usize]; 3] = [&[6, 5], &[5, 2 * half], &[half, 7]];
            self.push(
                "swiglu between products",
                &shapes,
                |x| (x[0].matmul(x[1]) * 0.25).swiglu().matmul(x[2]),
                move |x| {
                    let packed = product64(&x[0], &x[1], 5);
                    let packed: Vec<f64> = packed.iter().map(|x| 0.25 * x).collect();
                    product64(&swiglu64(&packed, half), &x[2], half)
                },
            );
        }
        for [positions, heads, head, turned] in [[5, 3, 6, 2], [3, 4, 8, 4], [7, 1, 2, 1]] {
            let table = rotary_table(positions, head, 10_000.0);
            let columns = heads * head;
            self.push(
                format!("rotary of {turned} heads"),
                &[&[2, positions, columns]],
                move |x| {
                    let table = x[0].tape().input([positions, head], &table);
                    x[0].rotary(table, turned)
                },
                move |x| rotary64(&x[0], positions, columns, head, turned),
            );
        }
        for width in [8, 5] {
            self.push(
                format!("heads of {width}"),
                &[&[2, 3, 4 * width], &[width], &[width]],
                |x| {
                    let heads = Heads {
                        n_heads: 2,
                        n_kv_heads: 1,
                        norms: Some(([x[1], x[2]], 1e-2)),
                        angles: None,
                    };
                    x[0].heads(&heads)
                },
                move |x| heads64([&x[0], &x[1], &x[2]], [2, 1], width, 1e-2),
            );
        }
    }

    fn attention(&mut self) {
        let configs = [
            (
                Attention::causal(2)
                    .with_kv_heads(1)
                    .with_window(5)
                    .with_alibi(),
                [9, 9, 16],
            ),
            (Attention::causal(1), [37, 37, 4]),
            (Attention::full(1), [2, 3, 64]),
        ];
        for (config, [queries, keys, head_dim]) in configs {
            let (heads, shared) = (config.n_heads, config.n_kv_heads);
            let size = Size::new(1, heads, queries, keys, head_dim);
            let kind = config.clone();
            let of = move |[q, k, v]: [&[f64]; 3]| {
                let (share, head) = (heads / shared, keys * head_dim);
                let [k, v] = [k, v].map(|x| repeat_heads(x, share, head));
                let (bias, factors) = (config_bias(size, &kind), vec![1.0; size.weights()]);
                let scale = 1.0 / (head_dim as f64).sqrt();
                reference(
                    size,
                    [q, &k, &v],
                    &bias,
                    &factors,
                    scale,
                    &vec![0.0; q.len()],
                )
                .out
            };
            let shapes: [&[usize]; 3] = [
                &[1, heads, queries, head_dim],
                &[1, shared, keys, head_dim],
                &[1, shared, keys, head_dim],
            ];
            let name = format!("attention with {config:?}");
            if queries != keys {
                self.push(
                    &name,
                    &shapes,
                    move |x| attention(x[0], x[1], x[2], None, &config),
                    move |x| of([&x[0], &x[1], &x[2]]),
                );
                continue;
            }
            let width = (heads + 2 * shared) * head_dim;
            self.push(
                format!("packed {name}"),
                &[&[1, queries, width]],
                move |x| x[0].packed_attention(&config),
                move |x| {
                    let part = |first: usize, heads: usize| {
                        let part = Host::new([queries, width], x[0].clone());
                        let part = part.slice(1, first * head_dim..(first + heads) * head_dim);
                        let part = part.reshape([queries, heads, head_dim].into());
                        part.permute(&[1, 0, 2]).values
                    };
                    let parts = [(0, heads), (heads, shared), (heads + shared, shared)];
                    let [q, k, v] = parts.map(|(first, heads)| part(first, heads));
                    by_position(&of([&q, &k, &v]), heads, queries, head_dim)
                },
            );
        }
        // The mask in halves, −∞ in it.
        let size = Size::new(1, 2, 5, 7, 8);
        let mut mask = self.random.values(5 * 7, -1.0, 1.0);
        for hidden in mask.iter_mut().step_by(3) {
            *hidden = f32::NEG_INFINITY;
        }
        let mask: Vec<f16> = mask.into_iter().map(f16::from_f32).collect();
        let halves = mask.clone();
        let config = Attention::full(2);
        let shapes: [&[usize]; 3] = [&[1, 2, 5, 8], &[1, 2, 7, 8], &[1, 2, 7, 8]];
        self.push(
            "attention with a mask",
            &shapes,
            move |x| {
                let mask = x[0].tape().input([5, 7], &halves);
                attention(x[0], x[1], x[2], Some(Mask::Additive(mask)), &config)
            },
            move |x| {
                let bias: Vec<Option<f64>> = (0..size.weights())
                    .map(|pair| mask[pair % 35].to_f64())
                    .map(|bias| bias.is_finite().then_some(bias))
                    .collect();
                let factors = vec![1.0; size.weights()];
                let scale = 1.0 / 8f64.sqrt();
                let q = [&x[0][..], &x[1], &x[2]];
                reference(size, q, &bias, &factors, scale, &vec![0.0; x[0].len()]).out
            },
        );
    }
}

/// What dropout of probability 0.4 multiplies each element by, on tapes whose seed is that of the checker.
fn dropped(shape: Shape) -> Vec<f64> {
    let tape = Tape::training(device());
    tape.set_seed(0, 0);
    let ones = tape.input(shape, &vec![1.0f32; shape.elements()]);
    let kept = tape.fetch::<f32>(ones.dropout(0.4));
    tape.run().unwrap();
    kept.get().unwrap().into_iter().map(f64::from).collect()
}
