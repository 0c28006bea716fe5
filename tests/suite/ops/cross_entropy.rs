//! Cross-entropy against its formula in `f64`.

use shadegrad::data::IGNORE_INDEX;
use shadegrad::ops::CrossEntropy;
use shadegrad::{Device, Shape, Tape, check};

use crate::common::{Random, assert_close, device, gpu_device, portable_device, wide};

/// The loss of every row and its gradient.
pub fn reference(x: &[f64], targets: &[u32], options: CrossEntropy) -> (Vec<f64>, Vec<f64>) {
    let classes = x.len() / targets.len();
    let smoothing = f64::from(options.label_smoothing);
    let (mut losses, mut gradient) = (Vec::new(), Vec::new());
    for (row, &target) in x.chunks(classes).zip(targets) {
        if options.ignore_index == Some(target) {
            losses.push(0.0);
            gradient.extend(vec![0.0; classes]);
            continue;
        }
        let most = row.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = row.iter().map(|x| (x - most).exp()).sum();
        let log_p = |k: usize| row[k] - most - total.ln();
        let all: f64 = (0..classes).map(log_p).sum();
        let at_target = log_p(target as usize);
        losses.push(-(1.0 - smoothing) * at_target - smoothing / classes as f64 * all);
        gradient.extend((0..classes).map(|k| {
            let hit = f64::from(k == target as usize);
            log_p(k).exp() - (1.0 - smoothing) * hit - smoothing / classes as f64
        }));
    }
    (losses, gradient)
}

pub fn mean(losses: &[f64], targets: &[u32], options: CrossEntropy) -> f64 {
    losses.iter().sum::<f64>() * per_count(targets, options)
}

/// One over the number of targets that count, or zero.
fn per_count(targets: &[u32], options: CrossEntropy) -> f64 {
    let counts = |target: &&u32| options.ignore_index != Some(**target);
    match targets.iter().filter(counts).count() {
        0 => 0.0,
        count => 1.0 / count as f64,
    }
}

/// Targets of which every third or so is ignored, where the options ignore any.
fn draw_targets(random: &mut Random, n: usize, classes: usize, options: CrossEntropy) -> Vec<u32> {
    let draw = |_| match options.ignore_index {
        Some(ignore) if random.below(3) == 0 => ignore,
        _ => random.below(classes) as u32,
    };
    (0..n).map(draw).collect()
}

pub const OPTIONS: [CrossEntropy; 4] = [
    CrossEntropy {
        ignore_index: None,
        label_smoothing: 0.0,
    },
    CrossEntropy {
        ignore_index: Some(IGNORE_INDEX),
        label_smoothing: 0.0,
    },
    CrossEntropy {
        ignore_index: None,
        label_smoothing: 0.1,
    },
    CrossEntropy {
        ignore_index: Some(1),
        label_smoothing: 0.3,
    },
];

#[test]
fn gradients_over_drawn_shapes() {
    let mut random = Random::new(1);
    for device in [device(), portable_device(), gpu_device()] {
        for options in OPTIONS {
            for _ in 0..2 {
                let (rows, classes) = (random.shape(3, 4), 1 + random.below(9));
                let targets = draw_targets(&mut random, rows.elements(), classes, options);
                let mut shape = rows.dims().to_vec();
                shape.push(classes);
                let logits = random.values(rows.elements() * classes, -3.0, 3.0);
                let inputs = [(Shape::new(&shape), logits)];
                let _ = check::gradient(
                    device,
                    &inputs,
                    |x| x[0].cross_entropy(x[0].tape().input(rows, &targets), options),
                    |x| {
                        let (losses, _) = reference(&x[0], &targets, options);
                        vec![mean(&losses, &targets, options)]
                    },
                )
                .unwrap();
                let _ = check::gradient(
                    device,
                    &inputs,
                    |x| x[0].cross_entropy_rows(x[0].tape().input(rows, &targets), options),
                    |x| reference(&x[0], &targets, options).0,
                )
                .unwrap();
            }
        }
    }
}

/// Loss and gradient of given logits, both compared.
fn run(device: &Device, logits: &[f32], targets: &[u32], options: CrossEntropy, absolute: f64) {
    let tape = Tape::training(device);
    let shape = [targets.len(), logits.len() / targets.len()];
    let x = tape.variable(shape, logits);
    let loss = x.cross_entropy(tape.input([targets.len()], targets), options);
    let gradient = tape.backward(loss).of(x).unwrap();
    let (loss, gradient) = (tape.fetch::<f32>(loss), tape.fetch::<f32>(gradient));
    tape.run().unwrap();
    let (losses, mut expected) = reference(&wide(logits), targets, options);
    let what = format!("{shape:?} with {options:?}");
    let expected_loss = [mean(&losses, targets, options)];
    assert_close(&what, &loss.get().unwrap(), &expected_loss, 2e-6, absolute);
    let scale = per_count(targets, options);
    expected.iter_mut().for_each(|slope| *slope *= scale);
    let absolute = absolute * scale;
    assert_close(&what, &gradient.get().unwrap(), &expected, 2e-5, absolute);
}

#[test]
fn vocabularies_small_and_large() {
    let mut random = Random::new(2);
    for (rows, classes) in [
        (512, 27),
        (31, 28),
        (4100, 65),
        (9, 130),
        (6, 257),
        (5, 511),
        (9, 513),
        (3, 1025),
        (3, 2050),
        // Rows that a workgroup keeps in registers: of 128 and of 256 invocations.
        (2, 12_800),
        (2, 12_801),
        (2, 25_600),
        (4, 50_257),
    ] {
        let logits = random.values(rows * classes, -5.0, 5.0);
        for options in OPTIONS {
            let targets = draw_targets(&mut random, rows, classes, options);
            run(device(), &logits, &targets, options, 1e-6);
            run(portable_device(), &logits, &targets, options, 1e-6);
            run(gpu_device(), &logits, &targets, options, 1e-6);
        }
    }
}

#[test]
fn grids_beyond_65535_groups() {
    let mut random = Random::new(3);
    let rows = 70_000;
    let logits = random.values(rows * 3, -2.0, 2.0);
    let targets = random.indices(rows, 3);
    run(portable_device(), &logits, &targets, OPTIONS[3], 1e-6);
    run(gpu_device(), &logits, &targets, OPTIONS[3], 1e-6);
    // Sixteen rows a group here.
    let rows = 16 * rows;
    let logits = random.values(rows * 2, -2.0, 2.0);
    let targets = random.indices(rows, 2);
    run(device(), &logits, &targets, OPTIONS[1], 1e-6);
}

#[test]
fn logits_of_any_size() {
    let far = [
        1e4, -1e4, 0.0, 9.9e3, // only one class is possible
        1e4, 1e4, 1e4, 1e4, // all are equally likely
        -1e4, -1e4, -1.0002e4, -1e4,
    ];
    for device in [device(), portable_device(), gpu_device()] {
        for options in OPTIONS {
            run(device, &far, &[0, 3, 2], options, 1e-3);
        }
        // Classes masked by −∞, the first of a row among them.
        let tape = Tape::training(device);
        let x = tape.variable([2, 3], &[f32::NEG_INFINITY, 1.0, 1.0, 2.0, 2.0, -3.0e38]);
        let loss = x.cross_entropy_rows(tape.input([2], &[1, 0u32]), CrossEntropy::default());
        let gradient = tape.backward(loss.sum_all()).of(x).unwrap();
        let (loss, gradient) = (tape.fetch::<f32>(loss), tape.fetch::<f32>(gradient));
        tape.run().unwrap();
        let half = 2f64.ln();
        assert_close("masked", &loss.get().unwrap(), &[half, half], 1e-6, 0.0);
        let expected = [0.0, -0.5, 0.5, -0.5, 0.5, 0.0];
        assert_close("masked", &gradient.get().unwrap(), &expected, 1e-6, 0.0);
    }
}

#[test]
fn ignored_rows_count_for_nothing() {
    let options = CrossEntropy::ignoring(IGNORE_INDEX);
    for device in [device(), portable_device(), gpu_device()] {
        run(
            device,
            &[1.0, 2.0, 3.0, 4.0],
            &[IGNORE_INDEX; 2],
            options,
            0.0,
        );
        // What an ignored row holds does not matter.
        let tape = Tape::training(device);
        let x = tape.variable([2, 2], &[0.0, 0.0, f32::NAN, f32::INFINITY]);
        let loss = x.cross_entropy(tape.input([2], &[0, IGNORE_INDEX]), options);
        let gradient = tape.backward(loss).of(x).unwrap();
        let (loss, gradient) = (tape.fetch::<f32>(loss), tape.fetch::<f32>(gradient));
        tape.run().unwrap();
        assert_close("loss", &loss.get().unwrap(), &[2f64.ln()], 1e-6, 0.0);
        assert_eq!(gradient.get().unwrap(), [-0.5, 0.5, 0.0, 0.0]);
    }
}

#[test]
fn operands_through_strides() {
    let mut random = Random::new(5);
    let (values, targets) = (
        random.values(6 * 4 * 5, -2.0, 2.0),
        random.indices(3 * 5, 4),
    );
    let tape = Tape::inference(device());
    // [6, 4, 5] → rows 2..5, classes last; targets transposed.
    let logits = tape.input([6, 4, 5], &values).slice(0, 2..5);
    let targets_var = tape.input([5, 3], &targets).transpose();
    let losses = logits
        .permute(&[0, 2, 1])
        .cross_entropy_rows(targets_var, OPTIONS[2]);
    let losses = tape.fetch::<f32>(losses);
    tape.run().unwrap();
    let (mut x, mut t) = (Vec::new(), Vec::new());
    for (i, j) in (0..3).flat_map(|i| (0..5).map(move |j| (i, j))) {
        x.extend((0..4).map(|k| f64::from(values[((i + 2) * 4 + k) * 5 + j])));
        t.push(targets[j * 3 + i]);
    }
    let (expected, _) = reference(&x, &t, OPTIONS[2]);
    assert_close("strided", &losses.get().unwrap(), &expected, 1e-6, 1e-6);
}

#[test]
fn dispatches() {
    let count = |options: CrossEntropy, backward: bool| {
        let tape = Tape::training(device());
        let x = tape.variable([4, 3], &[0.5; 12]);
        let loss = x.cross_entropy(tape.input([4], &[0u32; 4]), options);
        tape.fetch::<f32>(loss);
        if backward {
            tape.fetch::<f32>(tape.backward(loss).of(x).unwrap());
        }
        tape.profile().unwrap().len()
    };
    // Rows and their sum; counting only where targets may be ignored.
    assert_eq!(count(OPTIONS[0], true), 2);
    assert_eq!(count(OPTIONS[1], true), 3);
    assert_eq!(count(OPTIONS[0], false), 2);
}

#[test]
#[should_panic(expected = "cross_entropy: no gradient: its gradient comes from")]
fn second_derivatives_are_refused() {
    let tape = Tape::training(device());
    let x = tape.variable([1, 2], &[0.0, 1.0]);
    let loss = x.cross_entropy(tape.input([1], &[0u32]), CrossEntropy::default());
    let gradient = tape.backward(loss).of(x).unwrap();
    tape.backward(gradient.sum_all());
}

#[test]
#[should_panic(expected = "cross_entropy: logits F32 [2, 3] and targets U32 [3]")]
fn every_row_has_a_target() {
    let tape = Tape::inference(device());
    let x = tape.input([2, 3], &[0.0f32; 6]);
    x.cross_entropy(tape.input([3], &[0u32; 3]), CrossEntropy::default());
}

#[test]
fn the_gradient_takes_the_place_of_logits_that_nobody_else_reads() {
    const ROWS: usize = 9;
    let mut random = Random::new(8);
    // Short rows, rows that a workgroup shares, and rows that it keeps.
    for (device, classes) in [device(), portable_device(), gpu_device()]
        .into_iter()
        .flat_map(|device| [27, 200, 1003, 2001].map(|classes| (device, classes)))
    {
        let x = random.values(ROWS * 4, -1.0, 1.0);
        let w = random.values(4 * classes, -3.0, 3.0);
        let targets = random.indices(ROWS, classes);
        // The loss and the gradient of w, and whether the logits have another reader.
        let record = |tape: &Tape, is_shared: bool| {
            let w = tape.variable([4, classes], &w);
            let logits = tape.input([ROWS, 4], &x).matmul(w).reshape([3, 3, classes]);
            let loss = logits.cross_entropy(tape.input([3, 3], &targets), OPTIONS[2]);
            let gradient = tape.backward(loss).of(w).unwrap();
            let fetched = (tape.fetch::<f32>(loss), tape.fetch::<f32>(gradient));
            let logits = is_shared.then(|| tape.fetch::<f32>(logits));
            (fetched, logits)
        };
        let values = |is_shared| {
            let tape = Tape::training(device);
            let ((loss, gradient), logits) = record(&tape, is_shared);
            tape.run().unwrap();
            if let Some(logits) = logits {
                let (x, w) = (wide(&x), wide(&w));
                let expected: Vec<f64> = (0..ROWS * classes)
                    .map(|i| {
                        let (row, column) = (i / classes, i % classes);
                        let terms = (0..4).map(|k| x[row * 4 + k] * w[k * classes + column]);
                        terms.sum()
                    })
                    .collect();
                assert_close("logits", &logits.get().unwrap(), &expected, 1e-5, 1e-5);
            }
            (loss.get().unwrap(), gradient.get().unwrap())
        };
        assert_eq!(
            values(false),
            values(true),
            "{classes} classes: the same bits"
        );
        let least = |is_shared| {
            let tape = Tape::training(device);
            record(&tape, is_shared);
            tape.memory().unwrap().lower_bound
        };
        let logits = 4 * (ROWS * classes) as u64;
        assert!(least(true) >= 2 * logits);
        assert!(least(false) < logits + logits / 2 + 4 * (4 * classes) as u64);
    }
}
