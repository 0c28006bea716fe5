//! What `examples/attention_ladder` prints.

use std::process::Command;

use crate::example::program;

#[path = "../../../examples/attention_ladder/agreement.rs"]
mod agreement;

#[test]
fn rungs_that_differ_are_an_error() {
    let good = [("1 and 2", 1.8e-7, 3.0), ("4 and 5", 2e-6, 0.01)];
    agreement::check(&good).unwrap();
    for (difference, size) in [
        (5.4e30, 5.4e30),
        (5.4e30, 1.0),
        (1.0, 3.0),
        (0.0, f32::NAN),
        (f32::NAN, 1.0),
        (f32::INFINITY, f32::INFINITY),
    ] {
        let error = agreement::check(&[good[0], ("4 and 5", difference, size)]).unwrap_err();
        assert!(error.contains("(4 and 5 by"), "{error}");
    }
}

#[test]
fn rungs_agree_and_scaling_keeps_the_variance() {
    let output = Command::new(program("attention_ladder"))
        .args([
            "--batch",
            "8",
            "--positions",
            "64",
            "--channels",
            "32",
            "--runs",
            "1",
        ])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    // Five rungs under the head of the table.
    assert_eq!(
        printed
            .lines()
            .filter(|line| line.ends_with("ms |"))
            .count(),
        5
    );

    let after = |start: &str| -> Vec<f64> {
        let lines = printed.lines().map(str::trim);
        let rest = lines.filter_map(|line| line.strip_prefix(start));
        rest.map(|rest| rest.trim().parse().unwrap()).collect()
    };
    let differences: Vec<f64> = printed
        .lines()
        .filter(|line| line.starts_with("largest difference"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(differences.len(), 3);
    assert!(
        differences.iter().all(|&difference| difference < 1e-5),
        "{differences:?}"
    );

    // Sums of 16 products of standard normal numbers.
    let [raw] = after("variance of scores:")[..] else {
        panic!("one variance of scores:\n{printed}");
    };
    let [scaled] = after("variance of scores / √head size:")[..] else {
        panic!("one variance of scaled scores:\n{printed}");
    };
    assert!((raw - 16.0).abs() < 2.0, "{raw}");
    assert!(
        (scaled - 1.0).abs() < 0.12 && (raw / scaled - 16.0).abs() < 0.01,
        "{scaled}"
    );
    let rows: Vec<Vec<f64>> = printed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("softmax of the first 8 "))
        .map(|line| {
            let row = line.split_once('[').unwrap().1.trim_end_matches(']');
            row.split(", ")
                .map(|weight| weight.parse().unwrap())
                .collect()
        })
        .collect();
    let [unscaled, even] = &rows[..] else {
        panic!("two rows:\n{printed}");
    };
    let largest = |row: &[f64]| row.iter().copied().fold(0.0, f64::max);
    for row in [unscaled, even] {
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-3, "{row:?}");
    }
    assert!(
        largest(unscaled) > largest(even),
        "scaling evens the weights out"
    );
}
