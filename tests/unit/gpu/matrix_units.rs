//! A product on matrix units whose result is known.

use half::f16;

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
        // Exact in f32, whatever is added up first; not in f16.
        let most = 4.0 * size as f32 * 125.0 * 125.0;
        assert!(most < 16_777_216.0);
        assert!(right.iter().all(|x| x.fract() == 0.0));
        let rounded = right.iter().filter(|&&x| f16::from_f32(x).to_f32() != x);
        assert!(rounded.count() > right.len() / 2);
        // Neither symmetric, nor made of equal quarters.
        let extent = 2 * size;
        let (right, turned) = right.split_at(extent * extent);
        assert!((0..extent * extent).all(|i| right[i] == turned[i % extent * extent + i / extent]));
        assert!((0..extent).any(|i| right[i] != right[i * extent]));
        assert!((0..size).any(|i| right[i] != right[i + size]));
        assert!((0..size).any(|i| right[i] != right[i + size * extent]));
    }
}

/// Says that a test is left out for want of matrix units; fails where there must be some, as tests/common does.
pub(crate) fn left_out(test: &str) {
    use std::io::Write;
    let required = std::env::var("SHADEGRAD_REQUIRE_MATRIX_UNITS").is_ok_and(|value| value == "1");
    assert!(!required, "{test}: there are no matrix units");
    // Not by `eprintln!`, which is kept from who runs the tests.
    let said = writeln!(
        std::io::stderr(),
        "left out, for want of matrix units: {test}"
    );
    said.expect("errors can be written");
}
