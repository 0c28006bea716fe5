//! Indices that name something that isn't there: an error, wherever they come from.

use shadegrad::data::IGNORE_INDEX;
use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
use shadegrad::{Device, Error, Shape, Tape, Tensor, Var};

use crate::common::{Random, device, devices};

/// Checks that an error is about these indices.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(
    result: shadegrad::Result<T>,
    expected: (&str, u32, u32, usize),
) {
    match result {
        Err(Error::IndexOutOfRange {
            operation,
            count,
            largest,
            extent,
        }) => assert_eq!((operation.as_str(), count, largest, extent), expected),
        other => panic!("{expected:?}: {other:?}"),
    }
}

/// An operation over a table of rows, its indices, and how many there may be.
type Indexed = for<'t> fn(Var<'t>, Var<'t>) -> Var<'t>;

/// All operations that take indices: into a table `[5, 3]`, `[4]` of them.
const INDEXED: [(&str, usize, Indexed); 6] = [
    ("embedding", 5, |table, ids| table.embedding(ids)),
    // The kernel's epilogue binds more.
    ("embedding", 5, |table, ids| {
        (table.embedding(ids) * 2.0 + table.slice(0, 0..4)).tanh()
    }),
    ("embedding", 5, |table, ids| {
        let parts = [(0, 2), (2, 5)]
            .map(|(first, end)| table.slice(0, first..end).embedding_part(ids, first, 5));
        parts[0] + parts[1]
    }),
    ("embedding", 3, |table, ids| table.index_select(1, ids)),
    ("gather", 5, |table, ids| {
        table.gather(0, ids.reshape([4, 1]).broadcast_to([4, 1]))
    }),
    ("cross_entropy", 3, |table, ids| {
        table
            .slice(0, 0..4)
            .cross_entropy_rows(ids, CrossEntropy::ignoring(IGNORE_INDEX))
    }),
];

fn table(tape: &Tape) -> Var<'_> {
    tape.variable([5, 3], &Random::new(1).values(15, -1.0, 1.0))
}

#[test]
fn what_the_host_has_is_refused_before_anything_runs() {
    for (name, extent, operation) in INDEXED {
        let last = extent as u32 - 1;
        let tape = Tape::training(device());
        let ids = tape.input([4], &[last, extent as u32, 0, 77]);
        let _result = tape.fetch::<f32>(operation(table(&tape), ids));
        let before = device().stats().submits;
        assert_refused(tape.run(), (name, 2, 77, extent));
        assert_eq!(device().stats().submits, before);
        // Only what is read counts: a slice, every second, another order.
        let tape = Tape::training(device());
        let ids = tape.input([2, 5], &[9, last, 0, last, 0, 9, 9, 9, 9, 9]);
        let ids = ids.slice(0, 0..1).slice(1, 1..5).transpose().reshape([4]);
        let result = tape.fetch::<f32>(operation(table(&tape), ids));
        tape.run().unwrap();
        assert!(result.get().unwrap().iter().all(|value| value.is_finite()));
        let tape = Tape::training(device());
        let ids = tape.input([4, 2], &[0, 9, 0, 9, 0, 9, 77, 9]);
        let _result = tape.fetch::<f32>(operation(table(&tape), ids.slice(1, 0..1).reshape([4])));
        assert_refused(tape.run(), (name, 1, 77, extent));
    }
}

#[test]
fn what_is_on_the_device_is_counted_there() {
    for device in devices() {
        for (name, extent, operation) in INDEXED {
            for (ids, wrong) in [
                ([0, extent as u32 - 1, 1, 0], None),
                ([0, extent as u32, 1, 0], Some((1, extent as u32))),
                ([70, 0, u32::MAX - 1, 99], Some((3, u32::MAX - 1))),
            ] {
                let tape = Tape::training(device);
                let ids = tape.tensor(&Tensor::new(device, [4], &ids).unwrap());
                let (x, other) = (table(&tape), tape.scalar(1.0f32) + 1.0);
                let result = operation(x, ids);
                let gradient = tape.backward(result.sum_all()).of(x).unwrap();
                let fetched = [result, gradient, other].map(|var| tape.fetch::<f32>(var));
                tape.run().unwrap();
                for fetched in fetched {
                    match wrong {
                        None => assert!(fetched.get().unwrap().iter().all(|v| v.is_finite())),
                        // Whatever of the tape is looked at, and as often as one likes.
                        Some((count, largest)) => {
                            assert_refused(fetched.get(), (name, count, largest, extent));
                            assert_refused(fetched.get(), (name, count, largest, extent));
                        }
                    }
                }
            }
        }
    }
}

/// With losses alone and with gradients, of few and many classes: every kernel that reads targets.
#[test]
fn every_form_of_cross_entropy_counts() {
    for device in devices() {
        for (rows, classes) in [(40, 5), (3, 600), (2, 1500), (2, 60_000)] {
            for is_differentiated in [false, true] {
                let logits = Random::new(2).values(rows * classes, -1.0, 1.0);
                let mut targets = Random::new(3).indices(rows, classes);
                targets[rows - 1] = classes as u32 + 4;
                targets[0] = IGNORE_INDEX;
                let tape = Tape::training(device);
                let targets = tape.tensor(&Tensor::new(device, [rows], &targets).unwrap());
                let x = tape.variable([rows, classes], &logits);
                let loss = x.cross_entropy(targets, CrossEntropy::ignoring(IGNORE_INDEX));
                let loss = match is_differentiated {
                    true => tape.backward(loss).of(x).unwrap().sum_all(),
                    false => loss,
                };
                let loss = tape.fetch::<f32>(loss);
                tape.run().unwrap();
                let expected = ("cross_entropy", 1, classes as u32 + 4, classes);
                assert_refused(loss.get(), expected);
            }
        }
    }
}

/// Which of one tape's operations it was.
#[test]
fn the_operation_is_named() {
    let tensor = |ids: &[u32]| Tensor::new(device(), [ids.len()], ids).unwrap();
    let (good, bad) = (tensor(&[0, 1, 2]), tensor(&[0, 9, 2]));
    for (first, second, expected) in [
        (&good, &bad, ("cross_entropy", 1, 9, 3)),
        (&bad, &good, ("embedding", 1, 9, 5)),
        (&bad, &bad, ("embedding", 1, 9, 5)),
    ] {
        let tape = Tape::training(device());
        let logits = table(&tape).embedding(tape.tensor(first));
        let loss = logits.cross_entropy(tape.tensor(second), CrossEntropy::default());
        let loss = tape.fetch::<f32>(loss);
        tape.run().unwrap();
        assert_refused(loss.get(), expected);
    }
}

/// Indices that the tape itself computes.
#[test]
fn computed_indices_are_counted() {
    let tape = Tape::training(device());
    let scores = tape.input([2, 4], &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let rows = tape.input([3, 2], &[0.0f32; 6]).embedding(scores.argmax(1));
    let rows = tape.fetch::<f32>(rows);
    tape.run().unwrap();
    assert_refused(rows.get(), ("embedding", 1, 3, 3));
}

struct Model {
    gpt: Gpt,
    optimizer: AdamW,
}

impl Model {
    fn new(device: &Device, checkpointed: bool) -> Model {
        let config = GptConfig {
            context: 8,
            d_model: 16,
            n_layers: 1,
            n_heads: 2,
            ..GptConfig::new(65)
        };
        let mut builder = ParameterBuilder::new(1);
        let mut gpt = Gpt::new(&config, &mut builder).unwrap();
        gpt.set_checkpoint_blocks(checkpointed);
        let parameters = builder.build(device).unwrap();
        let optimizer = AdamW::new(&parameters, AdamWConfig::default()).unwrap();
        Model { gpt, optimizer }
    }

    /// Loss and whether a step changed the parameters; `[2, 8]` tokens and targets, from the host or the device.
    fn step(
        &mut self,
        device: &Device,
        tokens: &[u32],
        targets: &[u32],
        from_host: bool,
    ) -> (shadegrad::Result<f32>, bool) {
        let values = |model: &Model| model.optimizer.parameters().to_host().unwrap();
        let before = values(self);
        let tape = Tape::training(device);
        let shape = Shape::from([2, 8]);
        let put = |ids: &[u32]| match from_host {
            true => tape.input(shape, ids),
            false => tape.tensor(&Tensor::new(device, shape, ids).unwrap()),
        };
        let (tokens, targets) = (put(tokens), put(targets));
        let loss = self
            .gpt
            .loss(tokens, targets, CrossEntropy::ignoring(IGNORE_INDEX));
        let report = self.optimizer.step(&tape, loss, 0.01).fetch();
        let loss = tape.run().and_then(|()| Ok(report.get()?.loss));
        (loss, before != values(self))
    }
}

#[test]
fn a_step_on_tokens_out_of_range_changes_nothing_and_says_so() {
    for device in devices() {
        for checkpointed in [false, true] {
            for from_host in [true, false] {
                let mut model = Model::new(device, checkpointed);
                let good: Vec<u32> = (0..16).map(|i| i * 4).collect();
                let with = |index: usize, id: u32| {
                    let mut ids = good.clone();
                    ids[index] = id;
                    ids
                };
                let (loss, changed) = model.step(device, &good, &with(3, IGNORE_INDEX), from_host);
                assert!(loss.is_ok() && changed);
                let (loss, changed) = model.step(device, &with(5, 65), &good, from_host);
                assert_refused(loss, ("embedding", 1, 65, 65));
                assert!(!changed);
                let (loss, changed) = model.step(device, &good, &with(15, 70), from_host);
                assert_refused(loss, ("cross_entropy", 1, 70, 65));
                assert!(!changed);
                let (loss, changed) = model.step(device, &good, &good, from_host);
                assert!(loss.is_ok() && changed);
            }
        }
    }
}

#[test]
fn counting_costs_no_dispatch() {
    let dispatches = |from_host: bool| {
        let mut model = Model::new(device(), false);
        let ids: Vec<u32> = (0..16).collect();
        let before = device().stats().dispatches;
        model.step(device(), &ids, &ids, from_host).0.unwrap();
        device().stats().dispatches - before
    };
    assert_eq!(dispatches(true), dispatches(false));
}

/// A part of a table that does not begin with the table's first row.
#[test]
fn a_part_alone_counts_too() {
    for device in devices() {
        let tape = Tape::inference(device);
        let ids = tape.tensor(&Tensor::new(device, [3], &[3u32, 5, 0]).unwrap());
        let rows = tape.fetch::<f32>(table(&tape).slice(0, 2..5).embedding_part(ids, 2, 5));
        tape.run().unwrap();
        assert_refused(rows.get(), ("embedding", 1, 5, 5));
    }
}

/// Skipping batches that are refused, one trains on as if they had not been there.
#[test]
fn what_is_refused_is_not_accumulated() {
    let train = |skips: bool| {
        let mut model = Model::new(device(), false);
        let mut micro_batch = |last: bool, id: u32| {
            let tape = Tape::training(device());
            let ids: Vec<u32> = (0..16).map(|i| if i == 5 { id } else { 4 * i }).collect();
            let tokens = tape.input([2, 8], &ids);
            let loss = model.gpt.loss(tokens, tokens, CrossEntropy::default()) * 0.5;
            if last {
                model.optimizer.step(&tape, loss, 0.01);
            } else {
                model.optimizer.accumulate(&tape, loss).unwrap();
            }
            assert_eq!(tape.run().is_err(), id >= 65);
        };
        let skipped = |micro_batch: &mut dyn FnMut(bool, u32)| {
            if skips {
                micro_batch(false, 65);
                micro_batch(true, 65);
            }
        };
        micro_batch(false, 1);
        micro_batch(true, 2);
        skipped(&mut micro_batch);
        micro_batch(true, 3);
        micro_batch(false, 4);
        skipped(&mut micro_batch);
        micro_batch(true, 5);
        assert_eq!(model.optimizer.steps(), 3);
        model.optimizer.parameters().to_host().unwrap()
    };
    assert!(train(true) == train(false));
}
