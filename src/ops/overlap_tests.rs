//! Kernels for GPUs as GPUs run them, with slices fetched ahead and steps written out: the other tests run them as
//! software adapters do, which takes a third of the time to compile.

use super::attention::Attention;
use crate::gpu::{AdapterClass, DeviceOptions};
use crate::{Device, Tape, Var};

fn device(overlaps: bool) -> Device {
    let options = DeviceOptions {
        class: Some(AdapterClass::Gpu),
        ..DeviceOptions::default()
    };
    let device = Device::with_options(&options).unwrap_or_else(|error| panic!("{error}"));
    device
        .shared
        .overlaps
        .set(overlaps)
        .expect("nothing ran yet");
    device
}

fn values(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0)
        .collect()
}

/// `record` gives a result of variables of the given shapes: it and its gradients, as bits.
fn bits(
    device: &Device,
    shapes: &[&[usize]],
    record: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
) -> Vec<Vec<u32>> {
    let tape = Tape::training(device);
    let leaves: Vec<_> = shapes
        .iter()
        .map(|&shape| tape.variable(shape, &values(shape.iter().product())))
        .collect();
    let result = record(&leaves);
    let gradients = tape.backward((result * result).sum_all());
    let mut fetches = vec![tape.fetch::<f32>(result)];
    for &leaf in &leaves {
        fetches.push(tape.fetch::<f32>(gradients.of(leaf).expect("it depends on all")));
    }
    tape.run().unwrap();
    let fetched = fetches.iter().map(|fetch| fetch.get().unwrap());
    fetched
        .map(|values| values.into_iter().map(f32::to_bits).collect())
        .collect()
}

#[test]
fn overlapping_changes_no_bit() {
    let devices = [true, false].map(device);
    // The tiles that small and large products get, with borders, and a depth of several slices.
    for (rows, depth, columns) in [(33, 70, 50), (1030, 40, 1000)] {
        let shapes: [&[usize]; 2] = [&[rows, depth], &[depth, columns]];
        let [ahead, plain] = [0, 1].map(|i| bits(&devices[i], &shapes, |x| x[0].matmul(x[1])));
        assert!(ahead == plain, "{rows}, {depth}, {columns}");
    }
    let shapes: [&[usize]; 1] = [&[1, 70, 3 * 16]];
    let attend = |device| {
        bits(device, &shapes, |x| {
            x[0].packed_attention(&Attention::causal(2))
        })
    };
    assert!(attend(&devices[0]) == attend(&devices[1]), "attention");
    let written_out = devices.map(|device| {
        let kernels = device.kernels();
        let ahead = kernels
            .iter()
            .filter(|(_, text)| text.contains("OVERLAPPED: bool = true"));
        ahead.count()
    });
    assert!(
        written_out[0] >= 4 && written_out[1] == 0,
        "{written_out:?}"
    );
}
