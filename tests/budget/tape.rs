//! What a step may cost the host, held by the device's counters: nothing is made from the third identical step on, one
//! submission a step, no waiting, no growth.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shadegrad::gpu::{Fetch, Stats};
use shadegrad::{AdapterClass, DType, Shape, Tape, Tensor};

use crate::common::{Random, device};

/// Counts what each thread allocates on the host.
struct Counting;

thread_local! {
    /// Bytes allocated, and bytes allocated but not given back, by this thread.
    static ALLOCATED: Cell<[i64; 2]> = const { Cell::new([0; 2]) };
}

/// Bytes allocated by this thread so far, and those of them that it holds.
fn allocated() -> [i64; 2] {
    ALLOCATED.with(Cell::get)
}

fn note(allocated: usize, freed: usize) {
    let (allocated, freed) = (allocated as i64, freed as i64);
    // A thread that is ending is of no interest.
    let _ = ALLOCATED.try_with(|counts| {
        let [all, held] = counts.get();
        counts.set([all + allocated, held + allocated - freed]);
    });
}

// SAFETY: every call goes to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        // SAFETY: the caller's promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are the device's, so only one test at a time may run anything.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A two-layer network trained by gradient descent with momentum: products, fused activations, reductions, views,
/// gradients, assignments and data that changes in every step.
struct Model {
    weights: Vec<Tensor>,
    momenta: Vec<Tensor>,
    random: Random,
    batch: usize,
}

impl Model {
    fn new(batch: usize) -> Model {
        let mut random = Random::new(1);
        let shapes: [&[usize]; 4] = [&[6, 16], &[16], &[16, 3], &[3]];
        let weights = shapes.map(|shape| {
            let count = shape.iter().product();
            Tensor::new(device(), shape, &random.values(count, -0.4, 0.4)).unwrap()
        });
        let momenta = shapes.map(|shape| Tensor::zeros(device(), shape, DType::F32).unwrap());
        Model {
            weights: weights.into(),
            momenta: momenta.into(),
            random,
            batch,
        }
    }

    /// Runs a step and gives its loss, not waiting for it.
    fn step(&mut self, rate: f32) -> Fetch<f32> {
        let tape = Tape::training(device());
        let data = self.random.values(6 * self.batch, -1.0, 1.0);
        let x = tape.input([self.batch, 6], &data);
        let target: Vec<f32> = data
            .chunks(6)
            .flat_map(|row| [row[0], row[1] * row[2], row[3].sin()])
            .collect();
        let target = tape.input([self.batch, 3], &target);
        let leaves: Vec<_> = self
            .weights
            .iter()
            .map(|weight| tape.tensor_variable(weight))
            .collect();
        let hidden = (x.matmul(leaves[0]) + leaves[1]).tanh();
        let error = hidden.matmul(leaves[2]) + leaves[3] - target;
        let loss = (error * error).sum_all() / self.batch as f32;
        let gradients = tape.backward(loss);
        let (rate, decay) = (tape.scalar(rate), tape.scalar(0.9f32));
        for ((leaf, weight), momentum) in leaves.iter().zip(&self.weights).zip(&self.momenta) {
            let gradient = gradients.of(*leaf).unwrap();
            let updated = tape.tensor(momentum) * decay + gradient;
            tape.assign(momentum, updated);
            tape.assign(weight, *leaf - updated * rate);
        }
        let loss = tape.fetch(loss);
        tape.run().unwrap();
        loss
    }
}

/// What may not change between identical steps.
#[track_caller]
fn assert_nothing_made(before: Stats, after: Stats) {
    assert_eq!(after.pipelines, before.pipelines, "pipelines");
    assert_eq!(after.bind_groups, before.bind_groups, "bind groups");
    assert_eq!(after.buffers, before.buffers, "buffers");
    assert_eq!(after.buffer_bytes, before.buffer_bytes, "bytes");
    assert_eq!(after.plans, before.plans, "plans");
}

/// Looks until a result has arrived, which is not counted as waiting: the device is asked, not waited for.
fn arrived(result: &Fetch<f32>) -> f32 {
    while !result.is_ready().unwrap() {
        std::thread::yield_now();
    }
    result.item().unwrap()
}

#[test]
fn from_the_third_step_on_nothing_is_made_and_nothing_waits() {
    let _alone = alone();
    let mut model = Model::new(8);
    let mut late = VecDeque::new();
    let mut losses = Vec::new();
    let mut before = device().stats();
    let first_plans = before.plans;
    for step in 1..=40 {
        if step == 3 {
            before = device().stats();
        }
        let last = device().stats();
        // The learning rate is data.
        late.push_back(model.step(0.02 + 0.0005 * step as f32));
        if late.len() > 3 {
            losses.push(arrived(&late.pop_front().unwrap()));
        }
        let now = device().stats();
        assert_eq!(now.submits - last.submits, 1, "step {step}");
        assert_eq!(now.waits, last.waits, "step {step}");
        if step >= 3 {
            assert_nothing_made(before, now);
            assert_eq!(now.replays - last.replays, 1, "step {step}");
        }
    }
    assert_eq!(device().stats().plans - first_plans, 1);
    // It does learn, so what was counted was the work.
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    assert!(
        mean(&losses[27..]) < 0.5 * mean(&losses[..10]),
        "{losses:?}"
    );
}

#[test]
fn memory_is_flat_over_many_steps() {
    let _alone = alone();
    let mut model = Model::new(5);
    let mut late = VecDeque::new();
    let mut bytes = 0;
    for step in 1..=200 {
        late.push_back(model.step(0.01));
        match step % 7 {
            // Results are taken late, dropped without a look, or waited for.
            0 => drop(late.pop_front()),
            1 => drop(late.pop_back().unwrap().item().unwrap()),
            _ if late.len() > 3 => drop(arrived(&late.pop_front().unwrap())),
            _ => {}
        }
        if step == 10 {
            bytes = device().stats().buffer_bytes;
        }
        if step >= 10 {
            assert_eq!(device().stats().buffer_bytes, bytes, "step {step}");
        }
    }
}

#[test]
fn the_host_allocates_the_same_in_every_step_and_keeps_none_of_it() {
    let _alone = alone();
    let mut model = Model::new(6);
    let mut late = VecDeque::new();
    let (mut of_steps, mut held) = (Vec::with_capacity(200), Vec::with_capacity(20));
    for step in 1..=200 {
        let [before, _] = allocated();
        late.push_back(model.step(0.01));
        if late.len() > 3 {
            arrived(&late.pop_front().unwrap());
        }
        let [after, _] = allocated();
        of_steps.push(after - before);
        // How much is held depends on how much is under way: nothing, now and then.
        if step % 10 == 0 {
            late.drain(..).for_each(|loss| {
                arrived(&loss);
            });
            let [_, now] = allocated();
            held.push(now);
        }
    }
    let usual = *of_steps[100..110].iter().max().unwrap();
    println!("{usual} bytes allocated in a step");
    println!("held {held:?}");
    // A table of wgpu's doubles in a step now and then. Planning anew would be six million bytes.
    let more = of_steps[10..]
        .iter()
        .filter(|&&bytes| bytes > usual + usual / 8);
    assert!(more.clone().count() <= 3, "{of_steps:?}");
    assert!(
        more.max().is_none_or(|&most| most < 2 * usual),
        "{of_steps:?}"
    );
    // wgpu's own tables double now and then. What is kept from every step shows in every ten of them: a byte each.
    let mut rises: Vec<i64> = held[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    rises.sort_unstable();
    assert!(rises[rises.len() / 2] < 10, "{held:?}");
}

/// A host that is faster than the device has to wait sooner or later; one that is not, never.
#[test]
fn a_loop_that_shows_its_losses_four_steps_late_waits_only_where_the_device_is_that_far_behind() {
    let _alone = alone();
    let mut model = Model::new(9);
    let mut late = VecDeque::new();
    let mut shown = Vec::new();
    let mut before = device().stats();
    for step in 1..=60 {
        if step == 3 {
            before = device().stats();
        }
        late.push_back(model.step(0.01));
        if late.len() > 4 {
            let loss = late.pop_front().unwrap();
            let waits = device().stats().waits;
            let behind = !loss.is_ready().unwrap();
            shown.push(loss.item().unwrap());
            // Once at most, and not at all if the loss was there. It may arrive between the two looks.
            assert!(
                device().stats().waits - waits <= u64::from(behind),
                "step {step}"
            );
        }
    }
    let after = device().stats();
    assert_nothing_made(before, after);
    // Software adapters share their cores with the host, which is never that fast there.
    if device().class() == AdapterClass::Software {
        assert_eq!(after.waits, before.waits);
    }
    assert_eq!(shown.len(), 56);
    // The tail has not been computed yet, or only just.
    let waits = device().stats().waits;
    shown.extend(late.iter().map(|loss| loss.item().unwrap()));
    assert!(device().stats().waits - waits <= 4);
    assert!(shown.iter().all(|loss| loss.is_finite()));
}

#[test]
fn a_host_that_never_looks_is_held_back_without_making_anything() {
    let _alone = alone();
    let mut model = Model::new(7);
    for _ in 0..20 {
        drop(model.step(0.01));
    }
    let before = device().stats();
    for _ in 0..60 {
        drop(model.step(0.01));
    }
    let after = device().stats();
    assert_nothing_made(before, after);
    assert_eq!(after.submits - before.submits, 60);
}

#[test]
fn waiting_is_counted_where_it_happens() {
    let _alone = alone();
    let x = Tensor::new(device(), [3], &[1.0f32, 2.0, 3.0]).unwrap();
    let before = device().stats();
    assert_eq!(x.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0]);
    device().wait().unwrap();
    let after = device().stats();
    assert!((1..=2).contains(&(after.waits - before.waits)));
    assert_eq!(after.submits - before.submits, 1);
}

#[test]
fn changed_data_replays_and_changed_structure_plans() {
    let _alone = alone();
    let state = Tensor::zeros(device(), [4], DType::F32).unwrap();
    let run = |scalar: f32, seed: u64, constant: f32, extent: usize| {
        let before = device().stats();
        let tape = Tape::training(device());
        tape.set_seed(seed, 7);
        let x = tape.input([extent], &vec![scalar; extent]);
        let y = tape.fetch::<f32>((x * tape.scalar(scalar)).sum_all() * constant);
        tape.assign(&state, tape.tensor(&state) + y_of(&tape, scalar));
        tape.run().unwrap();
        assert_eq!(
            y.item().unwrap(),
            scalar * scalar * extent as f32 * constant
        );
        let after = device().stats();
        (after.plans - before.plans, after.replays - before.replays)
    };
    /// A value by [`Tape::scalar`] that is not used anywhere else.
    fn y_of(tape: &Tape, value: f32) -> shadegrad::Var<'_> {
        tape.scalar(value)
    }
    assert_eq!(run(1.0, 1, 2.0, 5), (1, 0));
    assert_eq!(
        run(2.0, 9, 2.0, 5),
        (0, 1),
        "scalars, data and seeds are data"
    );
    assert_eq!(run(1.0, 1, 3.0, 5), (1, 0), "constants are structure");
    assert_eq!(run(1.0, 1, 2.0, 6), (1, 0), "shapes are structure");
    assert_eq!(run(3.0, 2, 3.0, 5), (0, 1), "plans are kept");
}

#[test]
fn old_plans_give_their_buffers_back() {
    let _alone = alone();
    let run = |extent: usize| {
        let tape = Tape::inference(device());
        let x = tape.input([extent], &vec![1.0f32; extent]);
        // The reductions keep intermediate values in buffers of their own.
        let y = x.exp() * x.exp().sum_all();
        let y = tape.fetch::<f32>(y.sum_all());
        tape.run().unwrap();
        y.item().unwrap();
    };
    // More structures than plans are kept, each of the same size in bytes up to alignment.
    let extents = |round: usize| (0..200).map(move |index| 5000 + 200 * round + index);
    extents(0).for_each(run);
    let first = device().stats().buffer_bytes;
    extents(1).for_each(run);
    extents(2).for_each(run);
    let last = device().stats().buffer_bytes;
    assert!(
        last < first + first / 4,
        "{first} bytes after 200 plans, {last} after 600"
    );
}

#[test]
fn plans_do_not_keep_dropped_tensors() {
    let _alone = alone();
    let elements = 1 << 20;
    let run = |tensor: &Tensor| {
        let tape = Tape::inference(device());
        let y = tape.fetch::<f32>(tape.tensor(tensor).sum_all());
        tape.run().unwrap();
        y.item().unwrap()
    };
    // The plan of a tensor goes when the tensor has gone and something else is planned; nothing is left of it then.
    let mut bytes = Vec::new();
    for round in 0..6 {
        let tensor = Tensor::zeros(device(), [elements], DType::F32).unwrap();
        run(&tensor);
        drop(tensor);
        let other = Tensor::zeros(device(), Shape::new(&[round + 1]), DType::F32).unwrap();
        run(&other);
        drop(other);
        bytes.push(device().stats().buffer_bytes);
    }
    assert!(bytes[5] <= bytes[1], "{bytes:?}");
}
