//! Which plans a device keeps.

use std::sync::Arc;

use crate::{DType, Device, Tape, Tensor};

fn sum(device: &Device, elements: usize) -> f32 {
    let tensor = Tensor::zeros(device, [elements], DType::F32).unwrap();
    let tape = Tape::inference(device);
    let sum = tape.fetch::<f32>(tape.tensor(&tensor).sum_all());
    tape.run().unwrap();
    sum.item().unwrap()
}

#[test]
fn what_is_dropped_is_freed() {
    let device = Device::new().unwrap_or_else(|error| panic!("{error}"));
    let allocated = || {
        device.wait().unwrap();
        let report = device.shared.wgpu.generate_allocator_report();
        report.map_or(0, |report| {
            report
                .allocations
                .iter()
                .map(|allocation| allocation.size)
                .sum()
        })
    };
    // A plan does not keep a dropped tensor's memory for longer than until the next plan.
    sum(&device, 10);
    let before: u64 = allocated();
    sum(&device, 1 << 22);
    sum(&device, 20);
    assert!(
        allocated() < before + (1 << 20),
        "{before}, {}",
        allocated()
    );
    // Nothing that a device holds holds the device.
    let shared = Arc::downgrade(&device.shared);
    drop(device);
    assert!(shared.upgrade().is_none());
}
