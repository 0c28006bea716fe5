//! Which operands become uniform ones.

use crate::gpu::AdapterClass;
use crate::tape::Fusion;
use crate::{Device, Tape};

/// Both factors of products and their gradients through several windows, with rows of any alignment.
#[test]
fn windows_change_no_bit() {
    let device = Device::new().unwrap_or_else(|error| panic!("{error}"));
    device.shared.most_windows.set(4).expect("nothing ran yet");
    let is_software = device.class() == AdapterClass::Software;
    for (rows, depth, columns) in [(600, 96, 64), (700, 85, 33), (200, 64, 260)] {
        let factors = [rows * depth, depth * columns].map(|count| -> Vec<f32> {
            (0..count)
                .map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0)
                .collect()
        });
        let results = |uniform: bool| {
            let tape = Tape::training(&device);
            tape.set_fusion(Fusion {
                uniform,
                ..Fusion::ON
            });
            let x = tape.variable([rows, depth], &factors[0]);
            let w = tape.variable([depth, columns], &factors[1]);
            // Copies, so that what is read is an intermediate value.
            let product = (x * 0.5).matmul(w * 2.0);
            let gradients = tape.backward((product * product).sum_all());
            let values = [product, gradients.of(x).unwrap(), gradients.of(w).unwrap()];
            let fetches = values.map(|value| tape.fetch::<f32>(value));
            tape.run().unwrap();
            fetches.map(|fetch| fetch.get().unwrap())
        };
        assert!(
            results(true) == results(false),
            "{rows}, {depth}, {columns}"
        );
    }
    let kernels = device.kernels();
    let has_windows = kernels
        .iter()
        .any(|(_, text)| text.contains("_2: array<vec4<f32>"));
    assert_eq!(has_windows, is_software);
}
