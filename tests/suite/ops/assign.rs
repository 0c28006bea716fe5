//! Assignments to persistent tensors: with values computed in place and with copies, the same state results, and what
//! reads the tensor sees it as it was where the reading was recorded.

use shadegrad::tape::Fusion;
use shadegrad::{DType, Tape, Tensor, Var};

use crate::common::{self, Random, device};

/// Runs a test with assigned values computed in place where possible, and with copies.
fn both_ways(test: impl Fn(&dyn Fn() -> Tape)) {
    for fusion in [
        Fusion::ON,
        Fusion {
            copy_elision: false,
            ..Fusion::ON
        },
        Fusion::OFF,
    ] {
        test(&|| {
            let tape = Tape::training(device());
            tape.set_fusion(fusion);
            tape
        });
    }
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(device(), [values.len()], values).unwrap()
}

fn read(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

#[test]
fn increments() {
    both_ways(|tape| {
        let state = tensor(&[1.0, 2.0, 3.0]);
        for step in 1..=5 {
            let tape = tape();
            let x = tape.tensor(&state);
            tape.assign(&state, x + tape.scalar(0.5f32));
            tape.run().unwrap();
            let by = 0.5 * step as f32;
            assert_eq!(read(&state), [1.0 + by, 2.0 + by, 3.0 + by]);
        }
    });
}

#[test]
fn readings_before_and_after() {
    both_ways(|tape| {
        let state = tensor(&[1.0, 2.0]);
        let tape = tape();
        let (old, new) = (tape.tensor(&state), tape.input([2], &[10.0, 20.0]));
        let before = old * 3.0;
        let sum_before = old.sum_all();
        tape.assign(&state, new * 2.0);
        let after = tape.tensor(&state) * 3.0;
        let sum_after = tape.tensor(&state).sum_all();
        let both = before + after;
        let results = [before, after, both].map(|var| tape.fetch::<f32>(var));
        let sums = [sum_before, sum_after].map(|var| tape.fetch::<f32>(var));
        tape.run().unwrap();
        let results = results.map(|result| result.get().unwrap());
        assert_eq!(results, [[3.0, 6.0], [60.0, 120.0], [63.0, 126.0]]);
        assert_eq!(sums.map(|sum| sum.item().unwrap()), [3.0, 60.0]);
        assert_eq!(read(&state), [20.0, 40.0]);
    });
}

#[test]
fn a_late_reading_of_what_was_there() {
    // The value read before is only computed with after the assignment.
    both_ways(|tape| {
        let state = tensor(&[1.0, 2.0]);
        let tape = tape();
        let copy = tape.tensor(&state) * 1.0;
        tape.assign(&state, tape.input([2], &[5.0, 6.0]) + 0.0);
        let difference = tape.fetch::<f32>(tape.tensor(&state) - copy);
        tape.run().unwrap();
        assert_eq!(difference.get().unwrap(), [4.0, 4.0]);
    });
}

#[test]
fn the_last_assignment_wins() {
    both_ways(|tape| {
        let state = tensor(&[0.0, 0.0]);
        let tape = tape();
        let x = tape.input([2], &[1.0, 2.0]);
        let (first, second) = (x * 2.0, x * 3.0);
        tape.assign(&state, first);
        let between = tape.tensor(&state) + 0.5;
        tape.assign(&state, second);
        let results = [first, second, between].map(|var| tape.fetch::<f32>(var));
        tape.run().unwrap();
        let results = results.map(|result| result.get().unwrap());
        assert_eq!(results, [[2.0, 4.0], [3.0, 6.0], [2.5, 4.5]]);
        assert_eq!(read(&state), [3.0, 6.0]);
    });
}

#[test]
fn one_value_in_several_places() {
    both_ways(|tape| {
        let (a, b) = (tensor(&[0.0; 3]), tensor(&[0.0; 3]));
        let tape = tape();
        let value = tape.input([3], &[1.0, 2.0, 3.0]).exp().log();
        tape.assign(&a, value);
        tape.assign(&b, value);
        let doubled = tape.fetch::<f32>(value * 2.0);
        tape.run().unwrap();
        assert_eq!(read(&a), read(&b));
        assert_eq!(
            doubled.get().unwrap(),
            read(&a).iter().map(|x| 2.0 * x).collect::<Vec<_>>()
        );
    });
}

#[test]
fn parts_of_one_buffer() {
    both_ways(|tape| {
        let whole = tensor(&[-1.0; 200]);
        // At offsets where no binding may start, next to each other and apart; one is read while others are written.
        let parts = [
            whole.part(0, [4]),
            whole.part(37, [4]),
            whole.part(41, [4]),
            whole.part(128, [4]),
        ];
        let source = whole.part(100, [4]);
        source.write(&[1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let tape = tape();
        let x = tape.input([4], &[10.0, 20.0, 30.0, 40.0]);
        // Two results of one kernel; one that reads the buffer it goes to; one that is a view.
        tape.assign(&parts[0], x + 1.0);
        tape.assign(&parts[1], (x + 1.0) * 2.0);
        tape.assign(&parts[2], tape.tensor(&source) * x);
        tape.assign(&parts[3], x.reshape([2, 2]).transpose().reshape([4]));
        tape.run().unwrap();
        let mut expected = vec![-1.0; 200];
        expected[..4].copy_from_slice(&[11.0, 21.0, 31.0, 41.0]);
        expected[37..41].copy_from_slice(&[22.0, 42.0, 62.0, 82.0]);
        expected[41..45].copy_from_slice(&[10.0, 40.0, 90.0, 160.0]);
        expected[100..104].copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
        expected[128..132].copy_from_slice(&[10.0, 30.0, 20.0, 40.0]);
        assert_eq!(read(&whole), expected);
    });
}

#[test]
fn gradients_assigned_and_read_elsewhere() {
    both_ways(|tape| {
        let flat = tensor(&[0.0; 8]);
        let parts = [flat.part(0, [2, 2]), flat.part(4, [2, 2])];
        let tape = tape();
        let x = tape.variable([2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let y = tape.variable([2, 2], &[0.5, 1.0, 1.5, 2.0]);
        let gradients = tape.backward((x * x * y).sum_all());
        let [of_x, of_y] = [x, y].map(|leaf| gradients.of(leaf).unwrap());
        tape.assign(&parts[0], of_x);
        tape.assign(&parts[1], of_y);
        // From the values, and from the tensor that now holds them.
        let norm = (of_x * of_x).sum_all() + (of_y * of_y).sum_all();
        let stored = tape.tensor(&flat);
        let stored = (stored * stored).sum_all();
        let results = [norm, stored].map(|var| tape.fetch::<f32>(var));
        let of_x = tape.fetch::<f32>(of_x);
        tape.run().unwrap();
        let expected = [1.0, 4.0, 9.0, 16.0, 1.0, 4.0, 9.0, 16.0];
        assert_eq!(read(&flat), expected);
        assert_eq!(of_x.get().unwrap(), expected[..4]);
        let norm: f32 = expected.iter().map(|x| x * x).sum();
        assert_eq!(results.map(|result| result.item().unwrap()), [norm, norm]);
    });
}

#[test]
fn gradients_accumulate() {
    both_ways(|tape| {
        let sum = tensor(&[0.0; 3]);
        for step in 1..=4 {
            let tape = tape();
            let x = tape.variable([3], &[1.0, 2.0, step as f32]);
            let gradient = tape.backward((x * x).sum_all()).of(x).unwrap();
            tape.assign(&sum, tape.tensor(&sum) + gradient);
            tape.run().unwrap();
        }
        assert_eq!(read(&sum), [8.0, 16.0, 20.0]);
    });
}

#[test]
fn a_value_that_a_later_assignment_overwrites() {
    // `first` may live in `state` only until `state` changes again.
    both_ways(|tape| {
        let (state, other) = (tensor(&[0.0; 2]), tensor(&[0.0; 2]));
        let tape = tape();
        let x = tape.input([2], &[1.0, 2.0]);
        let first = x.exp().log() + 1.0;
        tape.assign(&state, first);
        tape.assign(&state, x * 100.0);
        tape.assign(&other, first);
        tape.run().unwrap();
        assert_eq!(read(&state), [100.0, 200.0]);
        assert_eq!(
            read(&other).iter().map(|x| x.round()).collect::<Vec<_>>(),
            [2.0, 3.0]
        );
    });
}

#[test]
fn moves_between_tensors() {
    both_ways(|tape| {
        let (a, b) = (tensor(&[1.0, 2.0]), tensor(&[3.0, 4.0]));
        let tape = tape();
        let (old_a, old_b) = (tape.tensor(&a) * 1.0, tape.tensor(&b) * 1.0);
        tape.assign(&a, old_b);
        tape.assign(&b, old_a);
        tape.run().unwrap();
        assert_eq!((read(&a), read(&b)), (vec![3.0, 4.0], vec![1.0, 2.0]));
    });
}

#[test]
fn anything_can_be_assigned() {
    both_ways(|tape| {
        let values: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let [input, transposed, constant, product, tensor_to_tensor] =
            [(); 5].map(|()| Tensor::zeros(device(), [3, 4], DType::F32).unwrap());
        let integers = Tensor::zeros(device(), [5], DType::U32).unwrap();
        let source = Tensor::new(device(), [3, 4], &values).unwrap();
        let tape = tape();
        let x = tape.input([3, 4], &values);
        let identity: Vec<f32> = (0..16)
            .map(|i| if i % 5 == 0 { 1.0 } else { 0.0 })
            .collect();
        tape.assign(&input, x);
        tape.assign(&transposed, x.reshape([4, 3]).transpose());
        tape.assign(&constant, tape.full([3, 4], 7.0));
        tape.assign(&product, x.matmul(tape.input([4, 4], &identity)) + 1.0);
        tape.assign(&tensor_to_tensor, tape.tensor(&source));
        tape.assign(
            &integers,
            tape.input([5], &[1u32, 2, u32::MAX, 0x7f80_0001, 5]),
        );
        tape.run().unwrap();
        assert_eq!(read(&input), values);
        let expected: Vec<f32> = (0..12).map(|i| values[i % 4 * 3 + i / 4]).collect();
        assert_eq!(read(&transposed), expected);
        assert_eq!(read(&constant), [7.0; 12]);
        assert_eq!(
            read(&product),
            values.iter().map(|x| x + 1.0).collect::<Vec<_>>()
        );
        assert_eq!(read(&tensor_to_tensor), values);
        assert_eq!(
            integers.to_vec::<u32>().unwrap(),
            [1, 2, u32::MAX, 0x7f80_0001, 5]
        );
    });
}

#[test]
fn drawn_sequences_of_readings_and_assignments() {
    for seed in 0..12 {
        both_ways(|tape| {
            let mut random = Random::new(seed);
            let flat = tensor(&random.values(64, -1.0, 1.0));
            let parts: Vec<Tensor> = (0..4).map(|part| flat.part(16 * part, [16])).collect();
            let mut model: Vec<Vec<f32>> = parts.iter().map(read).collect();
            let tape = tape();
            // Values on the tape, and what they are.
            let mut values = vec![(tape.input([16], &[0.5f32; 16]), vec![0.5f32; 16])];
            let mut fetched = Vec::new();
            for _ in 0..16 {
                let (x, host_x) = values[random.below(values.len())].clone();
                let part = random.below(4);
                match random.below(4) {
                    0 => {
                        tape.assign(&parts[part], x);
                        model[part] = host_x;
                    }
                    1 => {
                        let sum = x + tape.tensor(&parts[part]);
                        let host = host_x
                            .iter()
                            .zip(&model[part])
                            .map(|(a, b)| a + b)
                            .collect();
                        values.push((sum, host));
                    }
                    2 => values.push((x * 0.5, host_x.iter().map(|x| 0.5 * x).collect())),
                    _ => fetched.push((tape.fetch::<f32>(x), host_x)),
                }
            }
            tape.run().unwrap();
            for (index, (fetch, expected)) in fetched.iter().enumerate() {
                assert_eq!(
                    &fetch.get().unwrap(),
                    expected,
                    "seed {seed}, fetch {index}"
                );
            }
            for (part, expected) in model.iter().enumerate() {
                assert_eq!(&read(&parts[part]), expected, "seed {seed}, part {part}");
            }
        });
    }
}

#[test]
#[should_panic(expected = "assign: value and destination differ")]
fn shapes_must_match() {
    let tape = Tape::inference(device());
    tape.assign(&tensor(&[0.0; 3]), tape.full([4], 1.0));
}

/// `f(t)`, then a new value for `t`, then the gradient.
fn differentiated_after_a_write<'t>(
    tape: &'t Tape,
    t: &Tensor,
    f: impl Fn(Var<'t>) -> Var<'t>,
) -> Option<Var<'t>> {
    let leaf = tape.tensor_variable(t);
    let loss = f(leaf).sum_all();
    tape.assign(t, tape.full([2], 7.0));
    tape.backward(loss).of(leaf)
}

#[test]
fn a_gradient_that_reads_what_was_overwritten_is_refused() {
    let rules: [fn(Var<'_>) -> Var<'_>; 5] = [
        |t| t * t,
        |t| t * t.detach(),
        |t| t.sin(),
        |t| t.reshape([1, 2]).matmul(t.reshape([2, 1])),
        |t| t.reshape([2, 1]).broadcast_to([2, 3]).softmax() * t.reshape([2, 1]),
    ];
    for rule in rules {
        let t = tensor(&[2.0, 3.0]);
        let tape = Tape::training(common::device());
        let record = || differentiated_after_a_write(&tape, &t, rule).map(|_| ());
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(record)).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(
            message.contains("of shape [2] that was overwritten"),
            "{message}"
        );
    }
}

#[test]
fn a_gradient_that_does_not_read_it_is_right() {
    let rules: [fn(Var<'_>) -> Var<'_>; 3] = [|t| t * 5.0, |t| t + t.detach().exp(), |t| t.exp()];
    let expected = [[5.0, 5.0], [1.0, 1.0], [2f32.exp(), 3f32.exp()]];
    for (rule, expected) in rules.into_iter().zip(expected) {
        let t = tensor(&[2.0, 3.0]);
        let tape = Tape::training(common::device());
        let gradient = differentiated_after_a_write(&tape, &t, rule).unwrap();
        let gradient = tape.fetch::<f32>(gradient);
        tape.run().unwrap();
        common::assert_close(
            "gradient",
            &gradient.get().unwrap(),
            &common::wide(&expected),
            1e-6,
            0.0,
        );
        assert_eq!(read(&t), [7.0, 7.0]);
    }
}

/// What each assignment of a view of the destination, or of something made of it, should leave there.
#[test]
fn views_of_the_destination() {
    type Make = for<'t> fn(Var<'t>) -> Var<'t>;
    let cases: [(Make, [f32; 9]); 7] = [
        (
            |t| t.transpose(),
            [1.0, 4.0, 7.0, 2.0, 5.0, 8.0, 3.0, 6.0, 9.0],
        ),
        (|t| t, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        (
            |t| t.transpose() + 1.0,
            [2.0, 5.0, 8.0, 3.0, 6.0, 9.0, 4.0, 7.0, 10.0],
        ),
        (
            |t| t.transpose() * t,
            [1.0, 8.0, 21.0, 8.0, 25.0, 48.0, 21.0, 48.0, 81.0],
        ),
        (
            |t| t.slice(0, 1..2).broadcast_to([3, 3]),
            [4.0, 5.0, 6.0, 4.0, 5.0, 6.0, 4.0, 5.0, 6.0],
        ),
        (
            |t| {
                t.reshape([9])
                    .slice(0, 0..3)
                    .reshape([3, 1])
                    .broadcast_to([3, 3])
            },
            [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0],
        ),
        (
            |t| Var::concat(&[t.slice(0, 2..3), t.slice(0, 0..2)], 0),
            [7.0, 8.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        ),
    ];
    let start: Vec<f32> = (1..10).map(|i| i as f32).collect();
    for (make, expected) in cases {
        both_ways(|new_tape| {
            let t = Tensor::new(device(), [3, 3], &start).unwrap();
            let tape = new_tape();
            tape.assign(&t, make(tape.tensor(&t)));
            tape.run().unwrap();
            assert_eq!(read(&t), expected);
        });
    }
}

/// Tensors that share a buffer, as the parameters of a model do.
#[test]
fn between_parts_of_one_buffer() {
    both_ways(|new_tape| {
        let whole = tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let [a, b] = [0, 4].map(|first| whole.part(first, [4]));
        let tape = new_tape();
        tape.assign(&a, tape.tensor(&b));
        tape.run().unwrap();
        assert_eq!(read(&whole), [5.0, 6.0, 7.0, 8.0, 5.0, 6.0, 7.0, 8.0]);
        // Parts that overlap: what is read is what was there before.
        let [c, d] = [0, 1].map(|first| whole.part(first, [6]));
        let tape = new_tape();
        tape.assign(&d, tape.tensor(&c));
        tape.run().unwrap();
        assert_eq!(read(&whole), [5.0, 5.0, 6.0, 7.0, 8.0, 5.0, 6.0, 8.0]);
        // One after the other, not at once.
        let tape = new_tape();
        let (at_a, at_b) = (tape.tensor(&a), tape.tensor(&b));
        tape.assign(&a, at_b * 2.0);
        tape.assign(&b, at_a + 0.5);
        tape.run().unwrap();
        assert_eq!(
            read(&whole),
            [16.0, 10.0, 12.0, 16.0, 16.5, 10.5, 12.5, 16.5]
        );
    });
}

#[test]
fn rows_written_from_the_tensor_itself() {
    both_ways(|new_tape| {
        let values: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let cache = Tensor::new(device(), [1, 3, 2], &values).unwrap();
        let tape = new_tape();
        let rows = tape.tensor(&cache).slice(1, 0..2);
        tape.write_rows(&cache, rows, tape.input([1], &[1u32]));
        tape.run().unwrap();
        assert_eq!(read(&cache), [0.0, 1.0, 0.0, 1.0, 2.0, 3.0]);
    });
}
