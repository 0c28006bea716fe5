//! Whatever the planner fuses, results stay the same: drawn graphs with fusions on and off, and the cases that make
//! fusing unsound if nobody looks.

use shadegrad::ops::attention::Attention;
use shadegrad::tape::Fusion;
use shadegrad::{AdapterClass, DType, Device, Tape, Var};

use crate::common::{
    FUSIONS, Random, assert_close, assert_close_f32, device, devices, gpu_device, is_portable,
    portable_device, run_counted,
};

/// Records on a training tape, runs it, and gives what was recorded as results, with the number of dispatches.
fn run_with(
    fusion: Fusion,
    record: impl for<'t> FnOnce(&'t Tape) -> Vec<Var<'t>>,
) -> (Vec<Vec<f32>>, u64) {
    run_counted(device(), fusion, record)
}

/// Runs without any fusion and with each of `fusions`; all must agree. Gives the unfused results, and the dispatches
/// without fusion and with all of it.
fn agree(
    what: &str,
    fusions: &[Fusion],
    record: impl for<'t> Fn(&'t Tape) -> Vec<Var<'t>>,
) -> (Vec<Vec<f32>>, [u64; 2]) {
    let (expected, unfused) = run_with(Fusion::OFF, &record);
    let mut fused = unfused;
    for &fusion in fusions {
        let (actual, dispatches) = run_with(fusion, &record);
        if fusion == Fusion::ON {
            fused = dispatches;
        }
        for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            let scale = expected
                .iter()
                .fold(1e-3f32, |most, value| most.max(value.abs()));
            let what = format!("{what}, result {index}, {fusion:?}");
            assert_close_f32(&what, actual, expected, 1e-4, 1e-5 * f64::from(scale));
        }
    }
    (expected, [unfused, fused])
}

/// The gradients of `loss` with respect to `leaves`, followed by `others`.
fn with_gradients<'t>(
    tape: &'t Tape,
    loss: Var<'t>,
    leaves: &[Var<'t>],
    others: &[Var<'t>],
) -> Vec<Var<'t>> {
    let gradients = tape.backward(loss);
    let of = |&leaf: &Var<'t>| gradients.of(leaf).expect("the loss depends on every leaf");
    leaves
        .iter()
        .map(of)
        .chain(others.iter().copied())
        .collect()
}

/// A drawn graph of smooth operations: pointwise ones of mixed shapes, with reductions, views and products between them.
fn drawn<'t>(tape: &'t Tape, seed: u64) -> Vec<Var<'t>> {
    let mut random = Random::new(seed);
    let shapes: [&[usize]; 5] = [&[4, 6], &[4, 6], &[6], &[4, 1], &[]];
    let leaves: Vec<Var<'t>> = shapes
        .iter()
        .map(|&shape| tape.variable(shape, &random.values(shape.iter().product(), -1.0, 1.0)))
        .collect();
    let square = tape.input([6, 6], &random.values(36, -0.5, 0.5));
    let mut pool = leaves.clone();
    for _ in 0..16 {
        // Later nodes are picked more often, so that chains get long.
        let recent = pool.len().saturating_sub(random.below(10) + 1);
        let x = pool[recent];
        let y = *random.pick(&pool);
        let last = x.shape().rank().saturating_sub(1);
        let is_matrix = x.shape().dims() == [4, 6];
        let fits = x.shape().broadcast(&y.shape()).is_some();
        pool.push(match random.below(14) {
            0 => x.tanh(),
            1 => x.sigmoid(),
            2 => x.sin() * 2.0,
            3 => x.gelu(),
            4 => x.silu() + 0.5,
            5 => (x * x + 1.0).rsqrt(),
            6 if fits => (x + y) * 0.7,
            7 if fits => x - y.tanh(),
            8 | 9 if fits => x.tanh() * y,
            10 if fits => x / (y * y + 1.0),
            // Products take long to compile; every third graph has some.
            11 if is_matrix && seed.is_multiple_of(3) => {
                x.matmul(square) + y.tanh().sum_all() * 0.1
            }
            12 if is_matrix => x.transpose().reshape([4, 6]),
            13 if is_matrix => x.slice(1, 1..4).pad(1, 2, 1),
            _ if x.shape().rank() > 0 => x.sum(&[last]).tanh().sum_all() * x,
            _ => x.cos(),
        });
    }
    let weigh = |var: Var<'t>| (var * var.cos()).sum_all();
    let loss = pool
        .iter()
        .copied()
        .map(weigh)
        .reduce(|sum, term| sum + term)
        .expect("terms");
    let others: Vec<Var<'t>> = (0..5).map(|_| *random.pick(&pool)).chain([loss]).collect();
    with_gradients(tape, loss, &leaves, &others)
}

#[test]
fn drawn_graphs_agree() {
    for seed in 0..5 {
        let fusions = [Fusion::ON, FUSIONS[1 + seed as usize % (FUSIONS.len() - 1)]];
        let what = format!("graph {seed}");
        let (_, [unfused, fused]) = agree(&what, &fusions, |tape| drawn(tape, seed));
        assert!(
            fused * 2 < unfused,
            "{what}: {fused} dispatches fused, {unfused} not"
        );
    }
}

#[test]
fn more_inputs_than_bindings() {
    let mut random = Random::new(1);
    let data: Vec<Vec<f32>> = (0..20).map(|_| random.values(12, -1.0, 1.0)).collect();
    let (results, [unfused, fused]) = agree("sum", &FUSIONS, |tape| {
        let leaves: Vec<Var<'_>> = data
            .iter()
            .map(|values| tape.variable([3, 4], values))
            .collect();
        let products = leaves.windows(2).map(|pair| pair[0] * pair[1]);
        let sum = products.fold(leaves[0], |sum, product| sum + product);
        with_gradients(tape, (sum * sum).sum_all(), &leaves, &[sum])
    });
    assert!(
        fused < unfused / 2,
        "{fused} dispatches fused, {unfused} not"
    );
    let expected = |i: usize| {
        let products = data
            .windows(2)
            .map(|pair| f64::from(pair[0][i]) * f64::from(pair[1][i]));
        f64::from(data[0][i]) + products.sum::<f64>()
    };
    let expected: Vec<f64> = (0..12).map(expected).collect();
    assert_close("sum", &results[20], &expected, 1e-5, 1e-5);
}

#[test]
fn more_outputs_than_bindings() {
    let mut random = Random::new(2);
    let data = random.values(8, -1.0, 1.0);
    let (results, [unfused, fused]) = agree("powers", &FUSIONS, |tape| {
        let x = tape.variable([8], &data);
        let mut powers = vec![x];
        for _ in 0..12 {
            powers.push(*powers.last().unwrap() * x);
        }
        with_gradients(tape, powers[12].sum_all(), &[x], &powers)
    });
    assert!(fused < unfused, "{fused} dispatches fused, {unfused} not");
    for (exponent, power) in results[1..].iter().enumerate() {
        let expected: Vec<f64> = data
            .iter()
            .map(|&x| f64::from(x).powi(exponent as i32 + 1))
            .collect();
        assert_close("a power", power, &expected, 1e-5, 1e-6);
    }
}

#[test]
fn a_chain_longer_than_any_kernel() {
    let (results, [unfused, fused]) = agree("chain", &[Fusion::ON], |tape| {
        let x = tape.variable([5], &[-2.0, -1.0, 0.0, 1.0, 2.0]);
        let y = (0..300).fold(x, |y, step| if step % 2 == 0 { y * 0.98 } else { y + 0.01 });
        with_gradients(tape, y.sum_all(), &[x], &[y])
    });
    assert!(
        fused < unfused / 20,
        "{fused} dispatches fused, {unfused} not"
    );
    let expected = [-2.0, -1.0, 0.0, 1.0, 2.0].map(|x| {
        (0..300).fold(
            x,
            |y: f64, step| if step % 2 == 0 { y * 0.98 } else { y + 0.01 },
        )
    });
    assert_close("chain", &results[1], &expected, 1e-5, 1e-6);
    assert_close("slope", &results[0], &[0.98f64.powi(150); 5], 1e-5, 0.0);
}

#[test]
fn paths_that_leave_a_kernel_and_come_back() {
    // Softmax by hand: the quotient needs the exponentials and, through a reduction, their sum.
    let (results, _) = agree("softmax", &FUSIONS, |tape| {
        let x = tape.variable([2, 3], &[0.5, -1.0, 2.0, 1.0, 1.0, 0.0]);
        let exponentials = x.exp();
        let total = exponentials.sum(&[1]).reshape([2, 1]);
        let shares = exponentials / total;
        // Once more round, beside a neighbour that both sides read.
        let mixed = (shares * x).sum(&[1]).reshape([2, 1]) * exponentials + shares;
        with_gradients(tape, (mixed * mixed).sum_all(), &[x], &[shares, mixed])
    });
    let exp = [0.5f64, -1.0, 2.0, 1.0, 1.0, 0.0].map(f64::exp);
    let expected: Vec<f64> = (0..6)
        .map(|i| exp[i] / exp[i / 3 * 3..i / 3 * 3 + 3].iter().sum::<f64>())
        .collect();
    assert_close("softmax", &results[1], &expected, 1e-5, 1e-6);
}

#[test]
fn shared_subexpressions_of_several_shapes() {
    let mut random = Random::new(3);
    let (row, matrix) = (random.values(6, -1.0, 1.0), random.values(24, -1.0, 1.0));
    agree("shared", &FUSIONS, |tape| {
        let (r, m) = (tape.variable([6], &row), tape.variable([4, 6], &matrix));
        // `gate` is read in its own shape, broadcast, and as a view.
        let gate = (r * 2.0).sigmoid();
        let wide = gate * m + gate;
        let views = gate.reshape([2, 3]).transpose() * gate.slice(0, 0..2);
        let loss = (wide * wide).sum_all() + (views * views).sum_all() + (gate * gate).sum_all();
        with_gradients(tape, loss, &[r, m], &[wide, views, gate])
    });
}

#[test]
fn one_value_as_both_operands() {
    let mut random = Random::new(4);
    let data = random.values(36, -1.0, 1.0);
    agree("aliased", &[Fusion::ON], |tape| {
        let x = tape.variable([6, 6], &data);
        let doubled = x + x;
        let results = [
            x * x,
            doubled / (doubled * doubled + 1.0),
            x.maximum(x),
            x.select(x, x),
            x + x.transpose(),
            x.matmul(x),
            x.matmul(x.transpose()) + x,
            doubled.transpose().matmul(doubled) * doubled,
        ];
        let loss = results
            .iter()
            .map(|y| (*y * *y).sum_all())
            .reduce(|sum, y| sum + y)
            .unwrap();
        with_gradients(tape, loss, &[x], &results)
    });
}

#[test]
fn matrix_products_with_epilogues() {
    let mut random = Random::new(5);
    for (rows, columns) in [(5, 8), (33, 7)] {
        let data = [rows * 6, 6 * columns, columns, rows * columns, rows]
            .map(|count| random.values(count, -1.0, 1.0));
        let what = format!("{rows} × {columns}");
        let (_, [unfused, fused]) = agree(&what, &FUSIONS[..3], |tape| {
            let a = tape.variable([rows, 6], &data[0]);
            let b = tape.variable([6, columns], &data[1]);
            let bias = tape.variable([columns], &data[2]);
            let residual = tape.variable([rows, columns], &data[3]);
            let scale = tape.variable([rows, 1], &data[4]);
            let before = a.matmul(b) + bias;
            let after = before.gelu() * scale + residual;
            with_gradients(
                tape,
                (after * after).sum_all(),
                &[a, b, bias, residual, scale],
                // What the epilogue passes on the way is read as well.
                &[before, after],
            )
        });
        assert!(fused < unfused, "{fused} dispatches fused, {unfused} not");
    }
}

#[test]
fn the_forward_pass_does_not_wait_for_the_backward_pass() {
    // Each block's activation is needed again by its own gradient only.
    let mut random = Random::new(6);
    let (x, w) = (random.values(64, -1.0, 1.0), random.values(64, -0.5, 0.5));
    agree("blocks", &[Fusion::ON], |tape| {
        let (x, w) = (tape.variable([8, 8], &x), tape.variable([8, 8], &w));
        let y = (0..6).fold(x, |y, _| y + y.matmul(w).silu().matmul(w));
        with_gradients(tape, (y * y).sum_all(), &[x, w], &[y])
    });
}

/// Horizontal fusion and nothing else.
const HORIZONTAL: Fusion = Fusion {
    horizontal: true,
    ..Fusion::OFF
};

/// Runs with every dispatch by itself and with some as one, alone and with all other fusions; no bit may differ.
/// Gives the dispatches apart and as one.
fn same_bits(device: &Device, record: impl for<'t> Fn(&'t Tape) -> Vec<Var<'t>>) -> [u64; 2] {
    let without = Fusion {
        horizontal: false,
        ..Fusion::ON
    };
    let dispatches = [(Fusion::OFF, HORIZONTAL), (without, Fusion::ON)].map(|fusions| {
        let (apart, dispatches_apart) = run_counted(device, fusions.0, &record);
        let (together, dispatches_together) = run_counted(device, fusions.1, &record);
        assert!(apart == together, "the same arithmetic, so the same bits");
        [dispatches_apart, dispatches_together]
    });
    dispatches[0]
}

/// The gradients of a product's two factors: dispatches apart and as one.
fn both_gradients(
    device: &Device,
    random: &mut Random,
    [rows, depth, columns]: [usize; 3],
) -> [u64; 2] {
    let data = [rows * depth, depth * columns, rows * columns]
        .map(|count| random.values(count, -1.0, 1.0));
    same_bits(device, |tape| {
        let x = tape.variable([rows, depth], &data[0]);
        let w = tape.variable([depth, columns], &data[1]);
        let upstream = tape.input([rows, columns], &data[2]);
        let gradients = tape.backward_from(x.matmul(w), upstream);
        vec![gradients.of(x).unwrap(), gradients.of(w).unwrap()]
    })
}

#[test]
fn gradients_of_both_factors_share_a_dispatch() {
    let mut random = Random::new(5);
    // One and several tiles, rows that are multiples of four and that are not.
    for shape in [[512, 32, 96], [70, 33, 85], [5, 6, 7]] {
        for device in devices() {
            assert_eq!(both_gradients(device, &mut random, shape), [2, 1]);
        }
    }
    // On GPUs, and without subgroups, a product of few rows or columns has a kernel of its own.
    let thin = both_gradients(device(), &mut random, [5, 3, 2]);
    if device().class() == AdapterClass::Software && !is_portable() {
        assert_eq!(thin, [2, 1]);
    }
}

#[test]
fn gradients_of_factors_that_split_the_depth_share_a_dispatch() {
    let mut random = Random::new(6);
    for device in [gpu_device(), portable_device()] {
        let [apart, together] = both_gradients(device, &mut random, [4096, 32, 8]);
        // The weight's gradient has a second stage.
        assert_eq!([apart, together], [3, 2]);
    }
}

#[test]
fn large_products_stay_apart_on_gpus() {
    let mut random = Random::new(7);
    for device in devices() {
        let [apart, together] = both_gradients(device, &mut random, [16 * 1024, 5, 64]);
        let fewer = match device.class() {
            AdapterClass::Software => 1,
            AdapterClass::Gpu => 0,
        };
        assert_eq!(together, apart - fewer);
    }
}

#[test]
fn gradients_of_queries_and_keys_share_a_dispatch() {
    let mut random = Random::new(8);
    // Several heads in a workgroup and one, heads that share keys, and dropout.
    for (heads, kv_heads, head_dim, context, dropout) in
        [(4, 4, 8, 16, 0.0), (2, 2, 64, 80, 0.0), (4, 2, 6, 9, 0.5)]
    {
        let width = (heads + 2 * kv_heads) * head_dim;
        let x = random.values(2 * context * width, -1.0, 1.0);
        let upstream = random.values(2 * context * heads * head_dim, -1.0, 1.0);
        for device in [gpu_device(), portable_device()] {
            let dispatches = same_bits(device, |tape| {
                let x = tape.variable([2, context, width], &x);
                let upstream = tape.input([2, context, heads * head_dim], &upstream);
                let mut config = Attention::causal(heads).with_kv_heads(kv_heads);
                if dropout > 0.0 {
                    config = config.with_dropout(dropout);
                }
                let y = x.packed_attention(&config);
                vec![tape.backward_from(y, upstream).of(x).unwrap(), y]
            });
            assert_eq!(dispatches, [4, 3], "forward, statistics, both gradients");
        }
    }
}

#[test]
fn gradients_of_norms_wait_for_one_another() {
    let mut random = Random::new(9);
    let (rows, width) = (70, 24);
    let x = random.values(rows * width, -1.0, 1.0);
    let parameters = random.values(6 * width, 0.5, 1.5);
    for device in [gpu_device(), portable_device()] {
        let run = |norm: for<'t> fn(Var<'t>, Var<'t>, Var<'t>, Var<'t>) -> Var<'t>| {
            let [apart, together] = same_bits(device, |tape| {
                let x = tape.variable([rows, width], &x);
                let parameters: Vec<Var<'_>> = parameters
                    .chunks(width)
                    .map(|values| tape.variable([width], values))
                    .collect();
                let biases = parameters[1..].iter();
                let y = parameters
                    .iter()
                    .zip(biases)
                    .fold(x, |y, (&weight, &bias)| {
                        norm(y, weight, bias, parameters[0])
                    });
                let loss = y.tanh().sum_all();
                let gradients = tape.backward(loss);
                let gradients = parameters.iter().map(|&leaf| gradients.of(leaf));
                gradients.flatten().collect()
            });
            apart - together
        };
        // Three and two.
        assert_eq!(run(|x, weight, _, _| x.rms_norm(weight, 1e-5)), 3);
        // All biases are weights as well, so that somebody adds up two gradients in between.
        run(|x, weight, bias, _| x.layer_norm(weight, Some(bias), 1e-5));
        run(|x, weight, _, first| x.layer_norm(weight, Some(first), 1e-5));
    }
}

#[test]
fn gradients_of_biases_wait_for_one_another() {
    let mut random = Random::new(10);
    let (rows, width) = (300, 20);
    let x = random.values(rows * width, -1.0, 1.0);
    let weights = random.values(4 * width * width, -0.3, 0.3);
    for device in [gpu_device(), portable_device()] {
        let [apart, together] = same_bits(device, |tape| {
            let x = tape.variable([rows, width], &x);
            let mut leaves = Vec::new();
            let y = weights.chunks(width * width).fold(x, |y, weight| {
                let weight = tape.variable([width, width], weight);
                let bias = tape.variable([width], &[0.1; 20]);
                leaves.extend([weight, bias]);
                (y.matmul(weight) + bias).tanh()
            });
            with_gradients(tape, y.sum_all(), &leaves, &[])
        });
        // Both gradients of three products, and three biases and one.
        assert_eq!(apart - together, 5);
    }
}

/// Pointwise values of a megabyte and more take the place of what they are computed from, unless something else reads that,
/// or another element of it.
#[test]
fn large_values_are_computed_over_what_they_are_made_of() {
    type Use<'f> = &'f dyn for<'t> Fn(Var<'t>) -> Var<'t>;
    let n = 520;
    for device in devices() {
        for dtype in [DType::F32, DType::F16] {
            let values: Vec<f32> = (0..n * n).map(|i| (i % 31) as f32 - 15.0).collect();
            let padded = |tape: &Tape, use_of: Use<'_>| {
                // Padding has a kernel of its own, which nothing pointwise is part of.
                let x = tape.input([n, n], &values).cast(dtype).pad(0, 250, 250);
                tape.fetch::<f32>(use_of(x).cast(DType::F32).sum(&[1]))
            };
            let uses: [(Use<'_>, bool); 3] = [
                (&|x| (x * 2.0 + 1.0).pad(1, 1, 0), true),
                (&|x| ((x * 2.0).pad(1, 1, 0)) + x.pad(1, 0, 1), false),
                (
                    &|x| (x + x.slice(0, 250..770).transpose().pad(0, 250, 250)).pad(1, 1, 0),
                    false,
                ),
            ];
            for (index, (use_of, is_over)) in uses.into_iter().enumerate() {
                let tape = Tape::inference(device);
                let fetched = padded(&tape, use_of);
                let plan = tape.explain().unwrap();
                drop(fetched);
                let tape = Tape::inference(device);
                let fetched = padded(&tape, use_of);
                tape.run().unwrap();
                let at = |row: usize, column: usize| match (250..770).contains(&row) {
                    true => values[(row - 250) * n + column],
                    false => 0.0,
                };
                let expected = |row: usize| -> f64 {
                    let each = (0..n).map(|column| {
                        f64::from(match index {
                            0 => 2.0 * at(row, column) + 1.0,
                            1 => 3.0 * at(row, column),
                            _ => match (250..770).contains(&row) {
                                true => at(row, column) + values[column * n + row - 250],
                                false => 0.0,
                            },
                        })
                    });
                    each.sum()
                };
                let expected: Vec<f64> = (0..n + 500).map(expected).collect();
                let what = format!("{dtype:?}, use {index}");
                assert_close(&what, &fetched.get().unwrap(), &expected, 1e-5, 1e-3);
                // The pointwise dispatch binds what it writes only.
                let alone = plan.lines().any(|line| {
                    line.contains(": pointwise ")
                        && line.contains("(=s")
                        && !line.contains("inputs")
                });
                assert_eq!(alone, is_over, "{what}\n{plan}");
            }
        }
    }
}

#[test]
fn fusions_by_name() {
    let all = "pointwise, epilogue,gate,copy_elision,horizontal,uniform";
    for (names, expected) in [
        ("", Fusion::ON),
        ("on", Fusion::ON),
        ("off", Fusion::OFF),
        (all, Fusion::ON),
    ] {
        assert_eq!(names.parse::<Fusion>().unwrap(), expected);
    }
    let one = Fusion {
        epilogue: true,
        ..Fusion::OFF
    };
    assert_eq!("epilogue".parse::<Fusion>().unwrap(), one);
    let error = "epilog".parse::<Fusion>().unwrap_err().to_string();
    assert!(error.contains("fusion = epilog is not possible"), "{error}");
}
