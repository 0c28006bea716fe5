//! Matrix products against `f64` loops: every kernel variant, form, odd shapes, batches, epilogues, gradients.

use shadegrad::tape::Fusion;
use shadegrad::{Device, Tape, Var};

use crate::common::{Random, assert_close, device, portable_device};

/// `C = A·B` with `B` shared by the batch or not.
fn reference(a: &[f32], b: &[f32], [batch, m, k, n]: [usize; 4], shared: bool) -> Vec<f64> {
    let mut c = vec![0.0; batch * m * n];
    for i in 0..batch {
        let b = if shared { b } else { &b[i * k * n..] };
        for row in 0..m {
            for column in 0..n {
                c[(i * m + row) * n + column] = (0..k)
                    .map(|x| a[(i * m + row) * k + x] as f64 * b[x * n + column] as f64)
                    .sum();
            }
        }
    }
    c
}

/// The matrices of `values` (each `rows × columns`) as an input that holds them transposed, seen the right way round.
fn stored_transposed<'t>(
    tape: &'t Tape,
    values: &[f32],
    [batch, rows, columns]: [usize; 3],
) -> Var<'t> {
    let mut turned = vec![0.0; values.len()];
    debug_assert_eq!(values.len(), batch * rows * columns);
    for (i, &value) in values.iter().enumerate() {
        let (matrix, row, column) = (i / (rows * columns), i / columns % rows, i % columns);
        turned[(matrix * columns + column) * rows + row] = value;
    }
    tape.input([batch, columns, rows], &turned).transpose()
}

/// Operands stored transposed or not; with `forms` of eight, the second one shared by the batch, too.
fn check(device: &Device, shapes: &[[usize; 4]], forms: usize) {
    check_values(device, shapes, forms, 1.0);
}

/// With elements up to `most`.
fn check_values(device: &Device, shapes: &[[usize; 4]], forms: usize, most: f64) {
    let mut random = Random::new(1);
    for &[batch, m, k, n] in shapes {
        for form in 0..forms {
            let (turn_a, turn_b, shared) = (form & 1 != 0, form & 2 != 0, form & 4 != 0);
            let a = random.values(batch * m * k, -most, most);
            let b = random.values(if shared { 1 } else { batch } * k * n, -most, most);
            let tape = Tape::inference(device);
            let x = match turn_a {
                true => stored_transposed(&tape, &a, [batch, m, k]),
                false => tape.input([batch, m, k], &a),
            };
            let y = match (turn_b, shared) {
                (true, true) => stored_transposed(&tape, &b, [1, k, n]).reshape([k, n]),
                (true, false) => stored_transposed(&tape, &b, [batch, k, n]),
                (false, true) => tape.input([k, n], &b),
                (false, false) => tape.input([batch, k, n], &b),
            };
            let product = tape.fetch::<f32>(x.matmul(y));
            tape.run().unwrap();
            let expected = reference(&a, &b, [batch, m, k, n], shared);
            let what = format!("[{batch}, {m}, {k}]·[{k}, {n}], form {form}");
            assert_close(&what, &product.get().unwrap(), &expected, 1e-5, 1e-5);
        }
    }
}

const SHAPES: [[usize; 4]; 10] = [
    [1, 1, 1, 1],
    [1, 33, 85, 27],
    [2, 5, 7, 3],
    [3, 64, 32, 64],
    [1, 1, 9, 40],
    [2, 40, 9, 1],
    [4, 1, 1, 5],
    [1, 130, 17, 70],
    [1, 32, 512, 96],
    [7, 16, 8, 16],
];

#[test]
fn variants_of_this_adapter() {
    check(device(), &SHAPES, 8);
}

#[test]
fn portable_variants() {
    check(portable_device(), &SHAPES, 8);
}

/// A row whose invocations have several squares: all of them full, the last ones past the end, and some half full.
#[test]
fn long_rows() {
    let shapes = [
        [1, 1, 12, 512],
        [1, 1, 12, 576],
        [1, 1, 9, 576],
        [1, 1, 12, 514],
        [1, 1, 8, 264],
    ];
    check(device(), &shapes, 4);
}

/// The tiles for GPUs, each with an edge, with loads of four elements and of one, and a depth shared by workgroups.
#[test]
fn tiles_for_gpus() {
    check(
        portable_device(),
        &[
            [33, 130, 20, 129],
            [130, 52, 12, 60],
            [1, 16_400, 12, 28],
            [1, 27, 9, 16_400],
            [1, 40, 1100, 72],
            [1, 300, 70, 210],
        ],
        4,
    );
    // So deep that several workgroups share it; smaller elements, because errors grow with the sums.
    check_values(portable_device(), &[[1, 20, 3000, 24]], 4, 0.5);
}

/// Where workgroups share the depth, the second stage has the epilogue.
#[test]
fn shared_depths_keep_their_epilogue() {
    let mut random = Random::new(5);
    let [x, w] = [6 * 16_400, 16_400 * 10].map(|n| random.values(n, -0.05, 0.05));
    let bias = random.values(10, -1.0, 1.0);
    let record = |tape: &Tape| {
        let (x, w) = (tape.input([6, 16_400], &x), tape.input([16_400, 10], &w));
        tape.fetch::<f32>((x.matmul(w) + tape.input([10], &bias)).powi(2.0))
    };
    let [tape, counted] = [0; 2].map(|_| Tape::inference(portable_device()));
    let value = record(&tape);
    tape.run().unwrap();
    let mut expected = reference(&x, &w, [1, 6, 16_400, 10], true);
    for (i, value) in expected.iter_mut().enumerate() {
        *value = (*value + f64::from(bias[i % 10])).powi(2);
    }
    assert_close("square", &value.get().unwrap(), &expected, 1e-5, 1e-5);
    drop(record(&counted));
    let names: Vec<_> = counted.profile().unwrap().iter().map(|t| t.name).collect();
    assert_eq!(names, ["matmul", "matmul_sum"]);
}

/// A few vectors times a matrix, the depth shared by the invocations of a workgroup.
#[test]
fn rows_for_gpus() {
    check(
        portable_device(),
        &[
            [1, 1, 300, 260],
            [3, 4, 37, 9],
            [2, 70, 132, 1],
            [1, 33, 5, 3],
        ],
        4,
    );
}

#[test]
fn more_groups_than_one_dimension_holds() {
    check(device(), &[[66_000, 1, 2, 1]], 8);
}

#[test]
fn slices_are_read_in_place_and_odd_strides_are_copied() {
    let mut random = Random::new(2);
    let packed = random.values(6 * 5 * 12, -1.0, 1.0);
    let tape = Tape::inference(device());
    let x = tape.input([6, 5, 12], &packed);
    // Heads out of a packed projection: [batch, heads, time, head size], strided in every axis.
    let heads = x.reshape([6, 5, 3, 4]).permute(&[0, 2, 1, 3]);
    let scores = tape.fetch::<f32>(heads.matmul(heads.transpose()));
    // Every second column: neither rows nor columns are dense.
    let sparse = x.reshape([30, 6, 2]).slice(2, 1..2).reshape([30, 6]);
    let gram = tape.fetch::<f32>(sparse.transpose().matmul(sparse));
    tape.run().unwrap();
    let at = |b: usize, t: usize, h: usize, d: usize| packed[(b * 5 + t) * 12 + h * 4 + d] as f64;
    let mut expected = Vec::new();
    for (b, h) in (0..18).map(|i| (i / 3, i % 3)) {
        for (i, j) in (0..25).map(|i| (i / 5, i % 5)) {
            expected.push((0..4).map(|d| at(b, i, h, d) * at(b, j, h, d)).sum());
        }
    }
    assert_close("heads", &scores.get().unwrap(), &expected, 1e-5, 1e-6);
    let column = |row: usize, c: usize| packed[row * 12 + 2 * c + 1] as f64;
    let expected: Vec<f64> = (0..36)
        .map(|i| {
            (0..30)
                .map(|row| column(row, i / 6) * column(row, i % 6))
                .sum()
        })
        .collect();
    assert_close("gram", &gram.get().unwrap(), &expected, 1e-5, 1e-5);
}

#[test]
fn what_a_product_reads_is_not_its_epilogue() {
    // The factor has the product's own shape.
    let [x, w] = [[1.0, 2.0, 3.0, 4.0], [1.0, 0.5, -1.0, 2.0f32]];
    let tape = Tape::inference(device());
    let product = (tape.input([2, 2], &x) * 2.0).matmul(tape.input([2, 2], &w));
    let product = tape.fetch::<f32>(product);
    tape.run().unwrap();
    assert_eq!(product.get().unwrap(), [-2.0, 9.0, -2.0, 19.0]);
}

#[test]
fn epilogues_store_what_separate_kernels_would() {
    for (device, columns) in [
        (device(), 24),
        (device(), 27),
        (portable_device(), 24),
        (portable_device(), 27),
    ] {
        let mut random = Random::new(3);
        let [x, w] = [40 * 16, 16 * columns].map(|n| random.values(n, -1.0, 1.0));
        let [bias, residual] = [columns, 40 * columns].map(|n| random.values(n, -1.0, 1.0));
        let record = |tape: &Tape, fusion: Fusion| {
            tape.set_fusion(fusion);
            let [x, w] = [
                tape.variable([2, 20, 16], &x),
                tape.variable([16, columns], &w),
            ];
            let bias = tape.variable([columns], &bias);
            let residual = tape.variable([2, 20, columns], &residual);
            let linear = x.matmul(w) + bias;
            let out = residual + linear.gelu_tanh();
            let gradients = tape.backward((out * out).sum_all());
            let all = [
                Some(linear),
                Some(out),
                gradients.of(x),
                gradients.of(w),
                gradients.of(bias),
                gradients.of(residual),
            ];
            all.map(|var| tape.fetch::<f32>(var.unwrap()))
        };
        let run = |fusion: Fusion| {
            let [tape, counted] = [Tape::training(device), Tape::training(device)];
            let fetches = record(&tape, fusion);
            record(&counted, fusion);
            tape.run().unwrap();
            let values: Vec<_> = fetches
                .into_iter()
                .map(|fetch| fetch.get().unwrap())
                .collect();
            (values, counted.profile().unwrap().len())
        };
        let (fused, few) = run(Fusion::ON);
        let (plain, many) = run(Fusion::OFF);
        assert!(few + 10 < many, "{few} dispatches fused, {many} unfused");
        for (fused, plain) in fused.iter().zip(&plain) {
            let plain: Vec<f64> = plain.iter().map(|&value| value as f64).collect();
            assert_close("epilogue", fused, &plain, 1e-5, 1e-5);
        }
    }
}

#[test]
fn gradients_are_products_too() {
    // d/dA Σ W∘(A·B) = W·Bᵀ and d/dB = Aᵀ·W, with B shared by the batch, A used twice, all mid-graph.
    let mut random = Random::new(4);
    for &[batch, m, k, n] in &[[1, 4, 3, 5], [3, 17, 8, 9], [2, 32, 33, 64]] {
        for shared in [true, false] {
            let a = random.values(batch * m * k, -1.0, 1.0);
            let b = random.values(if shared { 1 } else { batch } * k * n, -1.0, 1.0);
            let w = random.values(batch * m * n, -1.0, 1.0);
            let tape = Tape::training(device());
            let x = tape.variable([batch, m, k], &a);
            let y = if shared {
                tape.variable([k, n], &b)
            } else {
                tape.variable([batch, k, n], &b)
            };
            let weights = tape.input([batch, m, n], &w);
            let product = (x * 2.0 + x).matmul(y) * weights;
            let gradients = tape.backward(product.sum_all());
            let dx = tape.fetch::<f32>(gradients.of(x).unwrap());
            let dy = tape.fetch::<f32>(gradients.of(y).unwrap());
            tape.run().unwrap();
            let mut expected_x = vec![0.0; a.len()];
            let mut expected_y = vec![0.0; b.len()];
            for (i, &weight) in w.iter().enumerate() {
                let (matrix, row, column) = (i / (m * n), i / n % m, i % n);
                let base = if shared { 0 } else { matrix * k * n };
                for x in 0..k {
                    let (at_a, at_b) = ((matrix * m + row) * k + x, base + x * n + column);
                    expected_x[at_a] += 3.0 * weight as f64 * b[at_b] as f64;
                    expected_y[at_b] += 3.0 * weight as f64 * a[at_a] as f64;
                }
            }
            assert_close("dA", &dx.get().unwrap(), &expected_x, 1e-5, 1e-5);
            assert_close("dB", &dy.get().unwrap(), &expected_y, 1e-5, 1e-5);
        }
    }
}

#[test]
#[should_panic(expected = "matmul: [2, 3] and [4, 5] do not multiply")]
fn inner_extents_must_agree() {
    let tape = Tape::inference(device());
    let (a, b) = (tape.full([2, 3], 1.0), tape.full([4, 5], 1.0));
    let _ = a.matmul(b);
}

/// A batch of two by two as one of four, each with a copy of its matrix.
fn repeated(x: Var<'_>) -> Var<'_> {
    let dims = x.shape().dims().to_vec();
    let [.., rows, columns] = dims[..] else {
        panic!("{dims:?} is no matrix");
    };
    (x.broadcast_to([2, 2, rows, columns]) * 1.0).reshape([4, rows, columns])
}

/// Batches that broadcast in part: products and gradients as of operands that were broadcast before.
#[test]
fn partly_broadcast_batches() {
    let shapes: [[&[usize]; 2]; 5] = [
        [&[2, 2, 3, 4], &[2, 4, 5]],
        [&[2, 4, 3], &[2, 2, 3, 5]],
        [&[2, 1, 3, 4], &[1, 2, 4, 5]],
        [&[3, 4], &[2, 2, 4, 5]],
        [&[2, 2, 1, 4], &[2, 1, 4, 5]],
    ];
    let mut random = Random::new(3);
    for [of_a, of_b] in shapes {
        let [a, b] = [of_a, of_b].map(|dims| {
            let count = dims.iter().product();
            random.values(count, -1.0, 1.0)
        });
        let run = |whole: bool| {
            let tape = Tape::training(device());
            let x = tape.variable(of_a, &a);
            let y = tape.variable(of_b, &b);
            let product = match whole {
                false => x.matmul(y),
                true => {
                    let (x, y) = (repeated(x), repeated(y));
                    let columns = y.shape().last();
                    x.matmul(y).reshape([2, 2, x.shape().dim(1), columns])
                }
            };
            let loss = ((product + 0.5) * product).sum_all();
            let gradients = tape.backward(loss);
            let fetched = [Some(product), gradients.of(x), gradients.of(y)]
                .map(|value| tape.fetch::<f32>(value.unwrap()));
            tape.run().unwrap();
            fetched.map(|value| value.get().unwrap())
        };
        let (direct, whole) = (run(false), run(true));
        for (direct, whole) in direct.iter().zip(&whole) {
            let whole: Vec<f64> = whole.iter().map(|&x| x as f64).collect();
            assert_close(&format!("{of_a:?}·{of_b:?}"), direct, &whole, 1e-5, 1e-5);
        }
    }
}
