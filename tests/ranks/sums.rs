//! Sums over ranks, and what they must agree on.

use shadegrad::nn::{Init, ParameterBuilder};
use shadegrad::parallel::World;
use shadegrad::{DType, Device, Error, Tape, Tensor, f16};

use crate::{device, launch};

/// Of three pieces, the second of which takes from all three tensors, and of less than one.
const SIZES: [&[usize]; 3] = [&[1_500_001, 7, 900_003], &[1], &[40, 3, 1021]];

/// Numbers that differ in size, so that the order of additions shows.
fn values(rank: usize, tensor: usize, elements: usize) -> Vec<f32> {
    let mut state = (rank * 31 + tensor + 1) as u64;
    let value = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        unit * [1.0, 1e-3, 30.0][(state >> 33) as usize % 3]
    };
    (0..elements).map(value).collect()
}

/// What one rank is to have in the end.
fn expected(ranks: usize, tensor: usize, elements: usize, travel: DType) -> Vec<u32> {
    let rounded = |value: f32| match travel {
        // One rank alone sends nothing.
        DType::F16 if ranks > 1 => f16::from_f32(value).to_f32(),
        _ => value,
    };
    let mut sums: Vec<f32> = values(0, tensor, elements)
        .into_iter()
        .map(rounded)
        .collect();
    for rank in 1..ranks {
        for (sum, value) in sums.iter_mut().zip(values(rank, tensor, elements)) {
            *sum += rounded(value);
        }
    }
    sums.into_iter().map(|sum| rounded(sum).to_bits()).collect()
}

pub fn program(world: &World) {
    let device = device();
    for sizes in SIZES.iter().chain(&SIZES[..1]) {
        for travel in [DType::F32, DType::F16] {
            let tensors = sizes.iter().enumerate().map(|(tensor, &elements)| {
                Tensor::new(&device, [elements], &values(world.rank(), tensor, elements)).unwrap()
            });
            let tensors: Vec<Tensor> = tensors.collect();
            world.sum(&tensors, travel).unwrap();
            for (tensor, summed) in tensors.iter().enumerate() {
                let bits: Vec<u32> = summed
                    .to_vec::<f32>()
                    .unwrap()
                    .into_iter()
                    .map(f32::to_bits)
                    .collect();
                let expected = expected(world.size(), tensor, bits.len(), travel);
                assert!(
                    bits == expected,
                    "tensor {tensor} of {sizes:?} as {travel:?}"
                );
            }
        }
    }
    run_and_sum(world, &device);
    let own = [0.1, 1e17, -0.3].map(|value| value * (world.rank() + 1) as f64);
    let mut sums = own;
    world.sum_f64(&mut sums);
    let expected = [0.1, 1e17, -0.3].map(|value| {
        (1..=world.size())
            .map(|factor| value * factor as f64)
            .sum::<f64>()
    });
    assert_eq!(sums.map(f64::to_bits), expected.map(f64::to_bits));
    world.sum_f64(&mut []);
    // The shares are all rows, in order, and none is larger than another by two.
    for rows in [0, 1, 7, 32] {
        let share = world.share(rows);
        let mut counts = vec![0.0; world.size()];
        counts[world.rank()] = share.len() as f64;
        world.sum_f64(&mut counts);
        assert_eq!(counts.iter().sum::<f64>(), rows as f64);
        assert_eq!(
            counts[..world.rank()].iter().sum::<f64>(),
            share.start as f64
        );
        assert!(
            counts
                .iter()
                .all(|&count| (count - rows as f64 / counts.len() as f64).abs() < 1.0)
        );
    }
}

/// Sums of what a tape writes, which is submitted in parts, have the same bits.
fn run_and_sum(world: &World, device: &Device) {
    let sizes = [1 << 20, 1 << 20, 900_003];
    let values = |tensor| values(world.rank(), tensor, sizes[tensor]);
    let tensor = |tensor| Tensor::new(device, [sizes[tensor]], &values(tensor)).unwrap();
    let tensors: Vec<Tensor> = (0..sizes.len()).map(tensor).collect();
    let tape = Tape::training(device);
    let mut factor = tape.input([1], &[2.0f32]);
    for (index, tensor) in tensors.iter().enumerate().rev() {
        let doubled = tape.input([sizes[index]], &values(index)) * factor;
        tape.assign(tensor, doubled);
        // One after the other.
        factor = doubled.slice(0, 0..1) * 0.0 + 2.0;
    }
    world.run_and_sum(tape, &tensors, DType::F32).unwrap();
    for (index, tensor) in tensors.iter().enumerate() {
        let summed = tensor.to_vec::<f32>().unwrap().into_iter();
        let expected = expected(world.size(), index, sizes[index], DType::F32);
        let doubled = expected.into_iter().map(|bits| 2.0 * f32::from_bits(bits));
        assert!(summed.eq(doubled), "tensor {index}");
    }
}

pub fn sums_are_those_in_the_order_of_ranks() {
    for ranks in [1, 2, 3, 4] {
        launch::run(ranks, "sums");
    }
}

fn reason(outcome: shadegrad::Result<()>) -> String {
    match outcome {
        Err(Error::Ranks { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

pub fn agreement(world: &World) {
    let (rank, last) = (world.rank(), world.size() - 1);
    world.agree("--lr", "0.1").unwrap();
    let differing = if rank == last {
        "0.25, which is longer"
    } else {
        "0.1"
    };
    assert_eq!(
        reason(world.agree("--lr", differing)),
        format!(
            "--lr is 0.25, which is longer on rank {last}, but 0.1 on rank 0: start all ranks with the same build, settings and data"
        )
    );
    assert_eq!(world.settle::<_, String>(Ok(rank)).unwrap(), rank);
    assert_eq!(reason(world.settle(Err("no such file"))), "no such file");
    let outcome = if rank == last {
        Err("no such file")
    } else {
        Ok(())
    };
    assert_eq!(
        reason(world.settle(outcome)),
        format!("rank {last}: no such file")
    );

    let device = device();
    let mut builder = ParameterBuilder::new(3);
    for name in ["one", "two", "three"] {
        builder.parameter(name, [5, 3], Init::Normal { std: 1.0 });
    }
    let parameters = builder.build(&device).unwrap();
    world.check_identical(&parameters, 10).unwrap();
    if rank == last {
        // The smallest change.
        let tensor = parameters[1].tensor();
        let mut values = tensor.to_vec::<f32>().unwrap();
        values[14] = f32::from_bits(values[14].to_bits() ^ 1);
        tensor.write(&values).unwrap();
    }
    let reason = reason(world.check_identical(&parameters, 20));
    let start =
        format!("parameter `two` of rank {last} has other bits than that of rank 0 after step 20");
    assert!(reason.starts_with(&start), "{reason}");
}

pub fn what_differs_between_ranks_is_named() {
    for ranks in [2, 3] {
        launch::run(ranks, "agreement");
    }
}
