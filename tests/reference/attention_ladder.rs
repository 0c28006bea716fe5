//! What `examples/attention_ladder` prints.

use std::process::Command;

use crate::example::program;

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
