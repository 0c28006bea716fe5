//! Plans in print: what a tape is after each pass of the planner.

use std::process::Command;

use crate::common::device;
use shadegrad::tape::Fusion;
use shadegrad::{Tape, Tensor};

/// A step of a linear layer: the product with its epilogue, a pruned seed, an assignment.
fn step(fusion: Fusion) -> Vec<String> {
    let device = device();
    let weights = Tensor::new(device, [4, 3], &[0.1f32; 12]).unwrap();
    let tape = Tape::training(device);
    tape.set_fusion(fusion);
    let x = tape.input([2, 4], &[1.0f32; 8]);
    let w = tape.tensor_variable(&weights);
    let loss = (x.matmul(w) + 1.0).tanh().transpose().mean_all();
    let gradient = tape.backward(loss).of(w).unwrap();
    tape.assign(&weights, w - gradient * 0.1);
    let _loss = tape.fetch::<f32>(loss);
    let lines = tape.explain().unwrap();
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn every_pass_is_printed() {
    let lines = step(Fusion::ON);
    let passes: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("== ")?.split_once(':'))
        .map(|(pass, _)| pass)
        .collect();
    assert_eq!(
        passes,
        [
            "recorded",
            "live",
            "fusion groups",
            "lowering",
            "horizontal fusion",
            "memory",
            "uniform operands"
        ]
    );
    for expected in [
        "%2 = matmul(%0, %1)  F32 [2, 3]",
        "-- boundary",
        "fetched: %6",
        "pruned: %7",
        "%5 is %4 from 0 with strides [1, 3]",
        "matmul %2 then shift %3, tanh %4: reads %0 %1, stores %4",
    ] {
        assert!(
            lines.iter().any(|line| line == expected),
            "{expected}: {lines:#?}"
        );
    }
}

#[test]
fn fusions_that_are_off_are_not_printed() {
    let lines = step(Fusion::OFF);
    let has = |text: &str| lines.iter().any(|line| line.starts_with(text));
    assert!(has("matmul %2: reads %0 %1, stores %2"), "{lines:#?}");
    assert!(!has("== horizontal fusion") && !has("== uniform operands"));
}

/// The environment variable prints each plan once, to the error output; this test is its own program.
#[test]
fn the_environment_asks_for_it() {
    if std::env::var("SHADEGRAD_EXPLAINED").is_ok() {
        for _ in 0..2 {
            let tape = Tape::inference(device());
            let _sum = tape.fetch::<f32>(tape.input([2], &[1.0f32, 2.0]).sum_all());
            tape.run().unwrap();
        }
        return;
    }
    let run = |variable: &str, value: &str| {
        // Not `current_exe`, which is the loader's where a script has started this with a loader of its own.
        let own = std::env::args_os().next().unwrap();
        let output = Command::new(own)
            .args([
                "--exact",
                "explain::the_environment_asks_for_it",
                "--nocapture",
            ])
            .env("SHADEGRAD_EXPLAINED", "1")
            .env(variable, value)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (worked, printed) = run("SHADEGRAD_PLAN", "print");
    assert!(
        worked && printed.matches("input  F32 [2]\n").count() == 1,
        "{printed}"
    );
    let (worked, printed) = run("SHADEGRAD_PLAN", "");
    assert!(worked && !printed.contains("=="), "{printed}");
    for (variable, value) in [("SHADEGRAD_PLAN", "yes"), ("SHADEGRAD_FUSE", "epilog")] {
        let (worked, printed) = run(variable, value);
        let said = format!("{variable} = {value} is not possible");
        assert!(!worked && printed.contains(&said), "{printed}");
    }
}
