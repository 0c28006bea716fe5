//! Kernels for GPUs as GPUs run them, with slices fetched ahead and steps written out: the other tests run them as
//! software adapters do, which takes a third of the time to compile.

use super::attention::Attention;
use crate::gpu::matrix_units::tests::left_out;
use crate::gpu::{AdapterClass, DType, DeviceOptions, Feature};
use crate::tape::Precision;
use crate::{Device, Tape, Var};

fn device(overlaps: bool) -> Device {
    let options = DeviceOptions {
        class: Some(AdapterClass::Gpu),
        matrix_units: Feature::On,
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
    // Compiled beside one another.
    let same_bits = |shapes: &[&[usize]], record: for<'t> fn(&[Var<'t>]) -> Var<'t>| {
        let [ahead, plain] = std::thread::scope(|scope| {
            let runs = devices
                .each_ref()
                .map(|device| scope.spawn(|| bits(device, shapes, record)));
            runs.map(|run| run.join().expect("no run fails"))
        });
        assert!(ahead == plain, "{shapes:?}");
    };
    // The tiles that small and large products get, with borders, and a depth of several slices.
    same_bits(&[&[33, 70], &[70, 50]], |x| x[0].matmul(x[1]));
    same_bits(&[&[33, 70], &[70, 40]], |x| x[0].matmul(x[1]).swiglu());
    same_bits(&[&[1030, 40], &[40, 1000]], |x| x[0].matmul(x[1]));
    // Heads of 32 take two slices along the rows and several across.
    same_bits(&[&[1, 70, 3 * 32]], |x| {
        x[0].packed_attention(&Attention::causal(1))
    });
    let overlapping = devices.each_ref().map(|device| {
        let kernels = device.kernels();
        let texts = kernels.iter().map(|(_, text)| text);
        texts
            .filter(|text| text.contains("OVERLAPPED: bool = true"))
            .count()
    });
    // Small and large tiles, a gate, attention; in texts of several kernels the constant has another name.
    assert!(
        overlapping[0] >= 4 && overlapping[1] == 0,
        "{overlapping:?}"
    );
}

/// On matrix units, with tiles of both sizes, and slices that nobody's invocations share evenly.
#[test]
fn overlapping_changes_no_bit_on_matrix_units() {
    let devices = [true, false].map(device);
    if devices[0].matrix_units().is_none() {
        let name = "ops::overlap_tests::overlapping_changes_no_bit_on_matrix_units";
        return left_out(name);
    }
    let run = |device: &Device, [m, k, n]: [usize; 3], gated: bool| -> Vec<u32> {
        let tape = Tape::inference(device);
        tape.set_precision(Precision::Mixed);
        let product = tape
            .input([m, k], &values(m * k))
            .matmul(tape.input([k, n], &values(k * n)));
        let product = if gated { product.swiglu() } else { product };
        let result = tape.fetch::<f32>(product.cast(DType::F32));
        tape.run().unwrap();
        let result = result.get().unwrap();
        result.into_iter().map(f32::to_bits).collect()
    };
    for (shape, gated) in [
        ([33, 70, 50], false),
        ([33, 72, 80], true),
        ([700, 40, 640], false),
    ] {
        let [ahead, plain] = devices.each_ref().map(|device| run(device, shape, gated));
        assert!(ahead == plain, "{shape:?}");
    }
    let ahead = devices.each_ref().map(|device| {
        let kernels = device.kernels();
        let text = |(name, text): &(&str, String)| {
            *name == "matmul_units" && text.contains("= fetched_a(work, local + 0u, k + DEPTH)")
        };
        kernels.iter().filter(|kernel| text(kernel)).count()
    });
    assert_eq!(ahead, [3, 0]);
}
