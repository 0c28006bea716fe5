//! Rows with one key to see, values that are no numbers, and more rows than a kernel's loops may go through.

use shadegrad::ops::attention::{Attention, Mask, attention, attention_with_weights};
use shadegrad::tape::Fusion;
use shadegrad::{Device, Tape};

use crate::common::{
    Random, assert_close, device, gpu_device, is_portable, portable_device, run_counted,
};

/// Result and gradients of attention to separate operands for an upstream gradient, and the dispatches.
struct Run {
    out: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    dispatches: u64,
}

/// `q`, `k`, `v`, the mask if any, and the upstream gradient, of `[1, 1, rows, head_dim]` each.
struct Given<'a> {
    head_dim: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    upstream: &'a [f32],
    mask: Option<&'a [f32]>,
}

impl Given<'_> {
    fn run(&self, device: &Device, config: &Attention) -> Run {
        let d = self.head_dim;
        let (results, dispatches) = run_counted(device, Fusion::ON, |tape| {
            let [q, k, v] =
                [self.q, self.k, self.v].map(|x| tape.variable([1, 1, x.len() / d, d], x));
            let mask = self.mask.map(|mask| {
                let shape = [self.q.len() / d, self.k.len() / d];
                Mask::Boolean(tape.input(shape, mask))
            });
            let out = attention(q, k, v, mask, config);
            let upstream = tape.input(out.shape(), self.upstream);
            let gradients = tape.backward_from(out, upstream);
            let [dq, dk, dv] = [q, k, v].map(|x| gradients.of(x).unwrap());
            vec![out, dq, dk, dv]
        });
        let [out, dq, dk, dv] = results.try_into().unwrap();
        Run {
            out,
            dq,
            dk,
            dv,
            dispatches,
        }
    }
}

fn all_devices() -> [&'static Device; 3] {
    [device(), gpu_device(), portable_device()]
}

/// A softmax over one key has no gradient: exactly none, which Adam would take for a full step otherwise. The first row of
/// causal attention, windows of one key, masks that leave one, and one key in all; with few rows and many.
#[test]
fn one_visible_key_gives_no_gradient() {
    let mut random = Random::new(21);
    let [own, gpu, portable] = all_devices();
    for (context, head_dim, devices) in [
        (5, 8, &[own, gpu, portable][..]),
        (5, 5, &[own]),
        (41, 8, &[own, portable]),
        (70, 33, &[own]),
    ] {
        for &device in devices {
            let mut draw = |rows: usize| random.values(rows * head_dim, -9.0, 9.0);
            let [q, k, v, upstream] = [(); 4].map(|()| draw(context));
            let diagonal: Vec<f32> = (0..context * context)
                .map(|pair| f32::from(pair % context == pair / context * 7 % context))
                .collect();
            let windows = [
                (Attention::causal(1).with_window(1), None),
                (Attention::full(1).with_window(1), None),
                (Attention::full(1), Some(&diagonal[..])),
                (Attention::causal(1).with_window(1).with_dropout(0.3), None),
            ];
            for (config, mask) in windows {
                let given = Given {
                    head_dim,
                    q: &q,
                    k: &k,
                    v: &v,
                    upstream: &upstream,
                    mask,
                };
                let Run {
                    out, dq, dk, dv, ..
                } = given.run(device, &config);
                let what = format!(
                    "{context} × {head_dim}, {config:?}, mask {}",
                    mask.is_some()
                );
                assert!(
                    dq.iter().chain(&dk).all(|&x| x == 0.0),
                    "{what}: {dq:?} {dk:?}"
                );
                assert!(dv.iter().any(|&x| x != 0.0), "{what}");
                if mask.is_none() && config.dropout == 0.0 {
                    assert_eq!(out, v, "{what}");
                    assert_eq!(dv, upstream, "{what}");
                }
            }
            // The first row sees itself only, and the others something else as well.
            let [q, k] = [&q, &k].map(|x| x.iter().map(|x| x / 9.0).collect::<Vec<_>>());
            let given = Given {
                head_dim,
                q: &q,
                k: &k,
                v: &v,
                upstream: &upstream,
                mask: None,
            };
            let Run { out, dq, .. } = given.run(device, &Attention::causal(1));
            assert!(dq[..head_dim].iter().all(|&x| x == 0.0));
            assert!(dq[head_dim..].iter().all(|&x| x != 0.0));
            assert_eq!(out[..head_dim], v[..head_dim]);
            // One key in all.
            let given = Given {
                k: &k[..head_dim],
                v: &v[..head_dim],
                ..given
            };
            let Run { dq, dk, .. } = given.run(device, &Attention::full(1));
            assert!(dq.iter().chain(&dk).all(|&x| x == 0.0));
        }
    }
    for device in [own, portable] {
        for context in [5, 41] {
            let values = random.values(2 * context * 48, -9.0, 9.0);
            let tape = Tape::training(device);
            let x = tape.variable([2, context, 48], &values);
            let out = x.packed_attention(&Attention::causal(2));
            let upstream = random.values(2 * context * 16, -1.0, 1.0);
            let upstream = tape.input([2, context, 16], &upstream);
            let dx = tape.fetch::<f32>(tape.backward_from(out, upstream).of(x).unwrap());
            tape.run().unwrap();
            let dx = dx.get().unwrap();
            for row in [0, context] {
                assert!(
                    dx[row * 48..row * 48 + 16].iter().all(|&x| x == 0.0),
                    "packed {context}"
                );
            }
        }
    }
}

/// The same for softmax and cross-entropy by themselves: one element, or one that has everything.
#[test]
fn softmax_with_everything_in_one_place_gives_no_gradient() {
    for device in all_devices() {
        for row in [
            &[3.7f32][..],
            &[-200.0, 100.3, -50.0],
            &[0.1, f32::NEG_INFINITY],
        ] {
            for is_log in [false, true] {
                let tape = Tape::training(device);
                let x = tape.variable([2, row.len()], &row.repeat(2));
                let y = if is_log { x.log_softmax() } else { x.softmax() };
                let n = 2 * row.len();
                // Of log-softmax, only the row's one place.
                let upstream: Vec<f32> = (0..n)
                    .map(|i| match is_log && row[i % row.len()] < 0.0 {
                        true => 0.0,
                        false => 0.3 + 0.17 * i as f32,
                    })
                    .collect();
                let upstream = tape.input([2, row.len()], &upstream);
                let dx = tape.fetch::<f32>(tape.backward_from(y, upstream).of(x).unwrap());
                tape.run().unwrap();
                let dx = dx.get().unwrap();
                assert!(dx.iter().all(|&x| x == 0.0), "{row:?}, {is_log}: {dx:?}");
            }
        }
        for smoothing in [0.0, 0.1, 0.3] {
            let tape = Tape::training(device);
            let x = tape.variable([3, 1], &[0.3, -7.0, 1e3]);
            let config = shadegrad::ops::CrossEntropy {
                label_smoothing: smoothing,
                ..Default::default()
            };
            let loss = x.cross_entropy(tape.input([3], &[0u32; 3]), config);
            let dx = tape.fetch::<f32>(tape.backward(loss).of(x).unwrap());
            let loss = tape.fetch::<f32>(loss);
            tape.run().unwrap();
            assert_eq!(loss.get().unwrap(), [0.0]);
            assert_eq!(dx.get().unwrap(), [0.0; 3]);
        }
    }
}

/// What isn't a number shows in every result that depends on it, and in no row that a mask hides it from.
#[test]
fn not_a_number_in_not_a_number_out() {
    let mut random = Random::new(22);
    let head_dim = 8;
    for device in all_devices() {
        for context in [6, 45] {
            let mut draw = || random.values(context * head_dim, -1.0, 1.0);
            let operands: [Vec<f32>; 4] = [(); 4].map(|()| draw());
            let at = context / 2;
            // A NaN in the queries, keys, values or upstream gradients of row `at`.
            for place in 0..4 {
                let mut given = operands.clone();
                given[place][at * head_dim + 3] = f32::NAN;
                let [q, k, v, upstream] = &given;
                let given = Given {
                    head_dim,
                    q,
                    k,
                    v,
                    upstream,
                    mask: None,
                };
                let run = given.run(device, &Attention::full(1));
                let is_nan = |values: &[f32], row: usize| {
                    let row = &values[row * head_dim..(row + 1) * head_dim];
                    row.iter().any(|x| x.is_nan())
                };
                let what = format!("operand {place}, {context} rows, {:?}", device.class());
                for row in 0..context {
                    let sees = place == 1 || place == 2 || row == at;
                    let expected = sees && place < 3;
                    assert_eq!(is_nan(&run.out, row), expected, "{what}: out {row}");
                    assert_eq!(is_nan(&run.dq, row), sees, "{what}: dq {row}");
                    assert!(is_nan(&run.dk, row), "{what}: dk {row}");
                    // A weight that is no number, or an upstream gradient.
                    assert_eq!(is_nan(&run.dv, row), place != 2, "{what}: dv {row}");
                }
                // Hidden keys: their scores don't count.
                if place == 1 {
                    let mask: Vec<f32> = (0..context * context)
                        .map(|pair| f32::from(pair % context != at))
                        .collect();
                    let hidden = Given {
                        mask: Some(&mask),
                        ..given
                    };
                    let run = hidden.run(device, &Attention::full(1));
                    assert!(run.out.iter().all(|x| x.is_finite()), "{what}: hidden");
                    let causal = given.run(device, &Attention::causal(1));
                    for row in 0..context {
                        assert_eq!(is_nan(&causal.out, row), row >= at, "{what}: causal {row}");
                    }
                }
            }
        }
        let tape = Tape::inference(device);
        let values = [1.0, f32::NAN, 0.5, 0.25];
        let [q, k, v] = [0, 1, 0]
            .map(|n| tape.input([1, 1, 4, 1], &values.map(|x| if n == 1 { x } else { 0.5 })));
        let weights = attention_with_weights(q, k, v, None, &Attention::causal(1)).1;
        let weights = tape.fetch::<f32>(weights);
        tape.run().unwrap();
        let weights = weights.get().unwrap();
        assert_eq!(weights[0], 1.0);
        assert!(weights[4..6].iter().all(|x| x.is_nan()), "{weights:?}");
    }
}

/// Queries that see all keys alike get the mean of the values, however many keys there are, and what a key gets from as
/// many queries is right too: on both sides of what the loops of one dispatch may go through, with the kernels for few rows
/// and many, and with those for GPUs.
#[test]
fn more_rows_than_loops_may_go_through() {
    let (own, portable) = (device(), portable_device());
    let d = 4;
    let scale = 0.5;
    for (device, own_rows, others) in [
        (own, 1, [40_000, 52_440]),
        (own, 33, [523_000, 524_000]),
        (portable, 1, [1_000, 60_000]),
    ] {
        let counts = others.map(|n| {
            let what = format!("{own_rows} × {n} on {:?}", device.class());
            let row = |rows: usize, places: &[(usize, f32)]| {
                let mut values = vec![0.0; rows * d];
                places.iter().for_each(|&(row, x)| values[row * d] = x);
                values
            };
            // Keys: the first and the last have something to give.
            let upstream: Vec<(usize, f32)> = (0..own_rows).map(|i| (i, 1.0)).collect();
            let given = Given {
                head_dim: d,
                q: &row(own_rows, &[]),
                k: &row(n, &[(n - 1, 1.0)]),
                v: &row(n, &[(0, n as f32), (n - 1, 2.0 * n as f32)]),
                upstream: &row(own_rows, &upstream),
                mask: None,
            };
            let run = given.run(device, &Attention::full(1));
            let expected: Vec<f64> = (0..own_rows * d)
                .map(|i| if i % d == 0 { 3.0 } else { 0.0 })
                .collect();
            assert_close(&format!("{what}: out"), &run.out, &expected, 2e-3, 1e-6);
            let slope = scale * (2.0 - 3.0 / n as f64);
            let expected: Vec<f64> = (0..own_rows * d)
                .map(|i| if i % d == 0 { slope } else { 0.0 })
                .collect();
            assert_close(&format!("{what}: dq"), &run.dq, &expected, 2e-3, 1e-6);
            let keys = run.dispatches;
            // Queries: the first and the last of them ask.
            let given = Given {
                head_dim: d,
                q: &row(n, &[(0, 1.0), (n - 1, 1.0)]),
                k: &row(own_rows, &[]),
                v: &row(own_rows, &[(own_rows / 2, own_rows as f32)]),
                upstream: &row(n, &[(0, 1.0), (n - 1, 2.0)]),
                mask: None,
            };
            let run = given.run(device, &Attention::full(1));
            let share = 1.0 / own_rows as f64;
            let of_keys = |value: &dyn Fn(usize) -> f64| -> Vec<f64> {
                (0..own_rows * d)
                    .map(|i| if i % d == 0 { value(i / d) } else { 0.0 })
                    .collect()
            };
            let dv = of_keys(&|_| 3.0 * share);
            let dk = of_keys(&|j| {
                let value = if j == own_rows / 2 {
                    own_rows as f64
                } else {
                    0.0
                };
                scale * 3.0 * share * (value - 1.0)
            });
            assert_close(&format!("{what}: dv"), &run.dv, &dv, 1e-5, 1e-6);
            assert_close(&format!("{what}: dk"), &run.dk, &dk, 1e-5, 1e-6);
            [keys, run.dispatches]
        });
        // Both sides of the bound. Where the environment makes every device portable, it is elsewhere.
        let is_own = !is_portable() || std::ptr::eq(device, portable);
        let both_sides = counts[1][0] > counts[0][0] && counts[1][1] > counts[0][1];
        assert!(both_sides || !is_own, "{own_rows}: {counts:?}");
    }
}

/// The same with dropout, whose random numbers have loops of their own, and with a mask that leaves the last key.
#[test]
fn dropout_and_masks_over_more_rows_than_loops_may_go_through() {
    let d = 4;
    for (device, own_rows, n) in [
        (device(), 1, 52_440),
        (device(), 33, 100_000),
        (portable_device(), 1, 20_000),
    ] {
        let what = format!("{own_rows} × {n} on {:?}", device.class());
        let dropped = Attention::full(1).with_dropout(0.5);
        let [few, many] = [own_rows, n].map(|rows| [vec![0.0f32; rows * d], vec![1.0; rows * d]]);
        let given = Given {
            head_dim: d,
            q: &few[0],
            k: &many[0],
            v: &many[1],
            upstream: &few[1],
            mask: None,
        };
        // Half of the weights, doubled.
        let out = given.run(device, &dropped).out;
        assert!(
            out.iter().all(|x| (x - 1.0).abs() < 0.05),
            "{what}: {out:?}"
        );
        let given = Given {
            q: &many[0],
            k: &few[0],
            v: &few[1],
            upstream: &many[1],
            ..given
        };
        let dv = given.run(device, &dropped).dv;
        let all = n as f32 / own_rows as f32;
        assert!(
            dv.iter().all(|x| (x / all - 1.0).abs() < 0.05),
            "{what}: {dv:?}"
        );
        if own_rows > 1 {
            continue;
        }
        let mut random = Random::new(24);
        let [q, upstream] = [(); 2].map(|()| random.values(d, -2.0, 2.0));
        let [k, v] = [(); 2].map(|()| random.values(n * d, -2.0, 2.0));
        let mask: Vec<f32> = (1..=n).map(|j| f32::from(j == n)).collect();
        let given = Given {
            head_dim: d,
            q: &q,
            k: &k,
            v: &v,
            upstream: &upstream,
            mask: Some(&mask),
        };
        let Run {
            out, dq, dk, dv, ..
        } = given.run(device, &Attention::full(1));
        assert_eq!(out, v[(n - 1) * d..], "{what}");
        assert!(dq.iter().chain(&dk).all(|&x| x == 0.0), "{what}");
        assert_eq!(dv[(n - 1) * d..], upstream, "{what}");
    }
}

/// More pairs of queries and keys than 32 bits count, under a mask.
#[test]
fn more_pairs_than_a_tensor_can_have() {
    let n = 1 << 16;
    let is_seen = |j: usize| !j.is_multiple_of(5);
    let mask: Vec<f32> = (0..n).map(|j| f32::from(is_seen(j))).collect();
    let values: Vec<f32> = (0..3 * n)
        .map(|i| {
            if i % 3 == 2 {
                (i / 3 % 100) as f32
            } else {
                0.0
            }
        })
        .collect();
    let (results, _) = run_counted(device(), Fusion::ON, |tape| {
        let x = tape.variable([1, n, 3], &values);
        let mask = Mask::Boolean(tape.input([n], &mask));
        let out = x.masked_packed_attention(mask, &Attention::causal(1).with_window(2));
        let dx = tape.backward(out.sum_all()).of(x).unwrap();
        vec![out, dx]
    });
    for i in 0..n {
        let seen: Vec<usize> = (i.saturating_sub(1)..=i).filter(|&j| is_seen(j)).collect();
        let sum: f32 = seen.iter().map(|j| (j % 100) as f32).sum();
        assert_eq!(results[0][i], sum / seen.len().max(1) as f32, "row {i}");
        // Of its own row, and of the next.
        let share = |i: usize| 1.0 / (i - 1..=i).filter(|&j| is_seen(j)).count() as f32;
        let expected = match is_seen(i) {
            true if i + 1 < n => share(i) + share(i + 1),
            true => share(i),
            false => 0.0,
        };
        assert_eq!(results[1][3 * i + 2], expected, "value {i}");
    }
}

#[test]
#[should_panic(
    expected = "attention: weights [1, 1, 65536, 65536] have more than 4294967295 elements"
)]
fn more_weights_than_a_tensor_can_have() {
    let tape = Tape::inference(device());
    let x = tape.full([1, 1, 1 << 16, 1], 0.0);
    attention_with_weights(x, x, x, None, &Attention::causal(1));
}

/// As many rows together, of which none is long.
#[test]
fn many_rows_of_narrow_heads() {
    let (batch, context, d) = (17, 1000, 4);
    let mut random = Random::new(23);
    let [x, upstream] = [3, 1].map(|n| random.values(batch * context * d * n, -1.0, 1.0));
    let [all, alone] = [0..batch, batch - 1..batch].map(|rows| {
        let n = rows.len();
        let (values, _) = run_counted(device(), Fusion::ON, |tape| {
            let from = rows.start * context * d;
            let x = tape.variable([n, context, 3 * d], &x[3 * from..]);
            let out = x.packed_attention(&Attention::causal(1));
            let upstream = tape.input([n, context, d], &upstream[from..]);
            let dx = tape.backward_from(out, upstream).of(x).unwrap();
            vec![out, dx]
        });
        values
    });
    for (all, alone) in all.iter().zip(&alone) {
        assert_eq!(all[all.len() - alone.len()..], alone[..]);
        assert!(alone.iter().all(|x| x.abs() < 10.0) && alone.iter().any(|&x| x != 0.0));
    }
}
