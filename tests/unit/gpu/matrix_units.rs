//! A product on matrix units whose result is known.

use super::*;
use crate::gpu::{DeviceOptions, Feature};

/// In both forms that drivers take, wherever there are any.
#[test]
fn the_product_is_right() {
    let options = DeviceOptions {
        matrix_units: Feature::On,
        ..DeviceOptions::default()
    };
    let device = Device::with_options(&options).unwrap_or_else(|error| panic!("{error}"));
    let before = device.stats();
    let Ok(listed) = device.shared.listed_matrix_units else {
        return left_out("gpu::matrix_units::tests::the_product_is_right");
    };
    for part in [1, 4] {
        let listed = MatrixConfiguration { part, ..listed };
        assert!(is_right(&device, listed), "{listed:?}");
        // Which subgroup an invocation is in, it has to know.
        let wrong = MatrixConfiguration {
            lanes: listed.lanes / 2,
            ..listed
        };
        assert!(!is_right(&device, wrong), "{wrong:?}");
    }
    assert_eq!(device.stats(), before);
}

#[test]
fn a_wrong_product_is_noticed() {
    for size in [8, 16] {
        let right = expected(size);
        assert!(right.iter().all(|x| x.fract() == 0.0 && x.abs() < 2048.0));
        // Neither symmetric, nor made of equal quarters.
        let extent = 2 * size;
        assert!((0..extent).any(|i| right[i] != right[i * extent]));
        assert!((0..size).any(|i| right[i] != right[i + size]));
        assert!((0..size).any(|i| right[i] != right[i + size * extent]));
    }
}
