//! The kernels that measure a device.

use super::*;

/// The kernels do what their cost says they do: nothing is left out by a clever compiler.
#[test]
fn the_work_is_done() {
    let device = Device::new().unwrap_or_else(|error| panic!("{error}"));
    for fused in [false, true] {
        let sums = Tensor::zeros(&device, [4 * LANES], DType::F32).unwrap();
        let tape = Tape::inference(&device);
        let load = Load::MultiplyAdd { fused, rounds: 1 };
        tape.record_all(load, &[tape.tensor(&sums)]);
        tape.run().unwrap();
        for (i, sum) in sums.to_vec::<f32>().unwrap().into_iter().enumerate() {
            // x ← ¾x + ¼, 32 times: the distance from 1 shrinks to ¾³² of what it was.
            let lane = (i % LANES) as f64;
            let starts = 12.0 * lane + 3.0 * (0.0 + 0.25 + 0.5 + 0.75) + 4.0 * 0.1 + 4.0 * 0.2;
            let expected = 12.0 + (starts - 12.0) * 0.75f64.powi(32);
            assert!(
                (f64::from(sum) - expected).abs() < 1e-5 * expected,
                "{i}: {sum}, not {expected}"
            );
        }
    }
    for [width, lanes] in COPIES {
        let values: Vec<f32> = (0..2 * MOST_AT_ONCE).map(|i| i as f32).collect();
        let source = Tensor::new(&device, [values.len()], &values).unwrap();
        let destination = Tensor::zeros(&device, [values.len()], DType::F32).unwrap();
        let tape = Tape::inference(&device);
        let operands = [tape.tensor(&source), tape.tensor(&destination)];
        tape.record_all(Load::Copy { width, lanes }, &operands);
        tape.run().unwrap();
        assert_eq!(destination.to_vec::<f32>().unwrap(), values);
    }
}

#[test]
fn memory_is_given_back() {
    let device = Device::new().unwrap_or_else(|error| panic!("{error}"));
    let ceiling = Ceiling::measure(&device).unwrap();
    assert!(ceiling.flops_per_second > 1e8 && ceiling.bytes_per_second > 1e8);
    // When the next tape is planned.
    let tape = Tape::inference(&device);
    let sum = tape.fetch::<f32>(tape.scalar(1f32) + 1.0);
    tape.run().unwrap();
    assert_eq!(sum.item().unwrap(), 2.0);
    assert!(device.stats().buffer_bytes < 1 << 20);
}
