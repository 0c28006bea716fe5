//! What a run prints and writes, and that it is the same run every time.

use super::*;

#[test]
fn adapters_are_listed_and_their_absence_says_what_to_install() {
    let folder = Folder::new();
    let output = folder.run(&["--list-adapters"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).starts_with("0: "),
        "{}",
        text(&output.stdout)
    );

    for arguments in [&["--list-adapters"][..], &[]] {
        let output = folder
            .command(arguments)
            .env("WGPU_BACKEND", "vulkan")
            .env("VK_DRIVER_FILES", "/none")
            .env("VK_ICD_FILENAMES", "/none")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            text(&output.stderr).contains("no GPU adapter found: install"),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let folder = Folder::new();
    let run = |name: &str, more: &[&str]| {
        let (metrics, checkpoint) = (format!("{name}.jsonl"), format!("{name}.safetensors"));
        let files = [
            "--steps",
            "30",
            "--eval-interval",
            "10",
            "--metrics",
            &metrics,
            "--checkpoint",
            &checkpoint,
        ];
        let printed = folder.train(&[&files, more].concat());
        (printed, folder.metrics(&metrics), folder.read(&checkpoint))
    };
    let (printed, first, first_checkpoint) = run("first", &["--samples", "7"]);
    let (_, second, second_checkpoint) = run("second", &["--samples", "0"]);
    assert_same(&first, &second);
    assert!(
        first_checkpoint == second_checkpoint,
        "the checkpoints differ"
    );
    let (_, other, _) = run("other", &["--seed", "43"]);
    assert!(first != other);

    assert!(printed.starts_with("adapter: "), "{printed}");
    for expected in [
        "9,987 names",
        "parameters",
        "final train loss",
        "7 samples: ",
        "distinct",
        "ms/step",
    ] {
        assert!(
            printed.contains(expected),
            "`{expected}` expected\n{printed}"
        );
    }
    assert_eq!(
        printed
            .lines()
            .filter(|line| line.starts_with("  "))
            .count(),
        7,
        "{printed}"
    );
    assert_eq!(first.len(), 30);
    for (record, step) in first.iter().zip(1..) {
        assert_eq!(record["step"], step);
        assert!(
            record["grad_norm"].as_f64().unwrap() > 0.0 && record["lr"].as_f64().unwrap() > 0.0
        );
        assert_eq!(
            record.get("test_loss").is_some(),
            step % 10 == 0,
            "{record}"
        );
        assert_eq!(
            record.get("train_split_loss").is_some(),
            step % 10 == 0,
            "{record}"
        );
    }
    let loss = |index: usize| first[index]["train_loss"].as_f64().unwrap();
    // Near ln 27, and lower in the end.
    assert!(
        (loss(0) - 3.2958).abs() < 0.3 && loss(29) < loss(0),
        "{} … {}",
        loss(0),
        loss(29)
    );
}

#[test]
fn a_run_that_was_stopped_and_resumed_is_the_run_that_was_not() {
    let folder = Folder::new();
    let common = [
        "--schedule",
        "constant",
        "--warmup",
        "3",
        "--dropout",
        "0.1",
        "--eval-interval",
        "10",
    ];
    let run = |more: &[&str]| folder.train(&[&common, more].concat());
    run(&[
        "--steps",
        "30",
        "--checkpoint",
        "whole",
        "--metrics",
        "whole.jsonl",
    ]);
    run(&[
        "--steps",
        "15",
        "--checkpoint",
        "half",
        "--metrics",
        "half.jsonl",
    ]);
    // A run that went on beyond its last checkpoint before it was killed.
    let mut metrics = text(&folder.read("half.jsonl"));
    let beyond = metrics
        .lines()
        .last()
        .unwrap()
        .replace("\"step\":15", "\"step\":16");
    metrics += &format!("{beyond}\n{{\"step\":17,\"train_l");
    folder.write("half.jsonl", metrics);
    let resume = [
        "--resume",
        "half",
        "--steps",
        "30",
        "--checkpoint",
        "half",
        "--metrics",
        "half.jsonl",
    ];
    let printed = folder.train(
        &[
            &resume[..],
            &["--eval-interval", "10", "--plot", "half.svg"],
        ]
        .concat(),
    );
    assert!(printed.contains("resumed after step 15"), "{printed}");
    assert!(
        folder.read("whole") == folder.read("half"),
        "the checkpoints differ"
    );

    let (whole, mut half) = (folder.metrics("whole.jsonl"), folder.metrics("half.jsonl"));
    // The first half evaluated at its end.
    let extra = half[14].as_object_mut().unwrap();
    assert!(extra.remove("test_loss").is_some() && extra.remove("train_split_loss").is_some());
    assert_same(&whole, &half);

    // Nothing is left to do but to draw samples: greedy ones are all the same.
    let printed = folder.train(&["--resume", "whole", "-t", "0", "--samples", "9"]);
    assert!(
        printed.contains("9 samples") && printed.contains("1 distinct"),
        "{printed}"
    );
    let printed = folder.train(&["--resume", "whole", "--top-k", "1", "--samples", "9"]);
    assert!(printed.contains("1 distinct"), "{printed}");

    folder.write("greek.txt", "αννα\nελενη\nσοφια\n");
    folder.write("other.json", "{\"no\": \"record\"}\n");
    folder.write("cut", &folder.read("whole")[..2000]);
    folder.write("cut-short", &folder.read("whole")[..4]);
    for (arguments, expected) in [
        (&["--resume", "missing"][..], "cannot access missing"),
        (&["--resume", "cut"], "checkpoint cut: "),
        (&["--resume", "cut-short"], "checkpoint cut-short: "),
        (&["--resume", "greek.txt"], "checkpoint greek.txt: "),
        (
            &["--resume", "whole", "-d", "16"],
            "--d-model 16 contradicts the checkpoint whole, which has 8",
        ),
        (
            &["--resume", "whole", "--context", "20"],
            "--context 20 contradicts",
        ),
        (
            &["--resume", "whole", "--ffn", "relu"],
            "--ffn relu contradicts the checkpoint whole, which has swiglu",
        ),
        (&["--resume", "whole", "--tie"], "--tie true contradicts"),
        (
            &["--resume", "whole", "--seed", "1"],
            "--seed 1 contradicts",
        ),
        (
            &["--resume", "whole", "--precision", "mixed"],
            "--precision mixed contradicts the checkpoint whole, which has f32",
        ),
        (
            &["--resume", "whole", "--batching", "stream"],
            "--batching stream contradicts",
        ),
        (
            &["--resume", "whole", "--steps", "20"],
            "--steps 20 is less than the 30 steps",
        ),
        (
            &["--resume", "whole", "-f", "greek.txt"],
            "vocabulary lacks",
        ),
        (
            &["--resume", "whole", "--metrics", "whole"],
            "--metrics: whole is also the file of --resume",
        ),
        (
            &["--resume", "whole", "--metrics", "other.json"],
            "line 1 of other.json",
        ),
    ] {
        assert_refused(&folder, arguments, expected);
    }
}

#[test]
fn the_precision_is_printed_and_kept() {
    let folder = Folder::new();
    let common = ["--schedule", "constant", "--warmup", "3"];
    let run = |more: &[&str]| folder.train(&[&common, more].concat());
    let mixed = |steps, path| {
        run(&[
            "--precision",
            "mixed",
            "--steps",
            steps,
            "--checkpoint",
            path,
        ])
    };
    let printed = mixed("20", "whole");
    assert!(printed.contains("AdamW, precision mixed, "), "{printed}");
    mixed("12", "half");
    let resume = ["--resume", "half", "--steps", "20", "--checkpoint", "half"];
    let printed = folder.train(&resume);
    assert!(printed.contains("AdamW, precision mixed, "), "{printed}");
    assert!(
        folder.read("whole") == folder.read("half"),
        "the checkpoints differ"
    );
    assert_refused(
        &folder,
        &["--resume", "half", "--precision", "f32"],
        "--precision f32 contradicts the checkpoint half, which has mixed",
    );

    // Other bits than in f32, which is what nobody asked for something else.
    let printed = run(&["--steps", "20", "--checkpoint", "full"]);
    assert!(printed.contains("AdamW, precision f32, "), "{printed}");
    assert!(folder.read("full")[8000..] != folder.read("whole")[8000..]);
}

#[test]
fn a_stream_is_trained_on_and_drawn_as_svg_and_png() {
    let folder = Folder::new();
    folder.write("names.txt", "emma\nava\nolivia\nsophia\nmia\n".repeat(20));
    let stream = [
        "--batching",
        "stream",
        "-f",
        "names.txt",
        "--steps",
        "12",
        "--samples",
        "5",
        "--eval-interval",
        "5",
    ];
    let printed = folder.train(&[&stream[..], &["--plot", "plot.svg"]].concat());
    assert!(
        printed.contains("final train loss") && printed.contains("a stream of 540 characters"),
        "{printed}"
    );
    let svg = text(&folder.read("plot.svg"));
    for expected in [
        "<svg",
        "</svg>",
        "step",
        "loss (nats per token)",
        "test split, evaluated",
        "names.txt",
    ] {
        assert!(svg.contains(expected), "`{expected}` expected\n{svg}");
    }
    pictures::check("plot.svg", &svg);
    // Losses differ from step to step by less than a pixel, and no two are drawn at one height.
    let mut heights: Vec<f64> = pictures::longest_line(&svg).iter().map(|p| p.1).collect();
    assert_eq!(heights.len(), 12);
    assert!(heights.iter().any(|height| height.fract() != 0.0));
    heights.sort_by(f64::total_cmp);
    heights.dedup();
    assert_eq!(heights.len(), 12);
    folder.train(&[&stream[..], &["--plot", "plot.PNG"]].concat());
    assert!(folder.read("plot.PNG").starts_with(b"\x89PNG\r\n"));
    let left: Vec<String> = folder.contents().into_keys().collect();
    assert_eq!(left, ["names.txt", "plot.PNG", "plot.svg"]);
}

#[test]
fn a_run_that_diverges_stops_and_leaves_the_checkpoint_alone() {
    let folder = Folder::new();
    folder.write("model", "an older file");
    let diverging = [
        "--lr",
        "1e30",
        "--grad-clip",
        "0",
        "--warmup",
        "0",
        "--steps",
        "40",
        "--checkpoint",
        "model",
    ];
    let output = folder.run(&[TINY, &diverging, &["--metrics", "metrics.jsonl"]].concat());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.starts_with("error: ") && stderr.contains("at step"),
        "{stderr}"
    );
    assert_eq!(folder.read("model"), b"an older file");
    // What was finite is on record.
    assert!(!folder.metrics("metrics.jsonl").is_empty());
}

#[test]
fn presets_are_the_published_models_and_flags_change_them() {
    let folder = Folder::new();
    for (preset, expected) in [
        (
            "numpy",
            "7,888 parameters · layers 2, width 16, heads 4, gelu_tanh 64, layer_norm, learned positions, context 64, \
             tied head, biases but in attention, no final norm\n",
        ),
        (
            "classes",
            "13,915 parameters · layers 4, width 16, heads 4, gelu 64, layer_norm, learned positions, context 8, \
             own head with a bias, biases but in attention\n",
        ),
        (
            "program",
            "50,688 parameters · layers 4, width 32, heads 4, swiglu 85, rms_norm, learned positions, context 16, \
             tied head\n",
        ),
    ] {
        let short = [
            "--preset",
            preset,
            "--steps",
            "2",
            "--lr",
            "0.002",
            "--final-eval-iters",
            "1",
            "--samples",
            "0",
        ];
        let output = folder.run(&short);
        let printed = text(&output.stdout);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(printed.contains(expected), "{preset}: {printed}");
        assert!(
            printed.contains("training: 2 steps")
                && printed.contains("learning rate 0.002 (constant), warm-up 0"),
            "{preset}: {printed}"
        );
    }
}

#[test]
fn a_profile_is_printed_and_its_trace_written() {
    let folder = Folder::new();
    let run = |steps: &str| {
        let arguments = ["--steps", steps, "--samples", "0", "--profile=trace.json"];
        let printed = folder.train(&arguments);
        let trace: serde_json::Value = serde_json::from_slice(&folder.read("trace.json")).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let kernels = events
            .iter()
            .filter(|event| event["cat"] == "kernel")
            .count();
        (printed, kernels)
    };
    let (printed, kernels) = run("12");
    for text in [
        "6 runs timed",
        "distinct pipelines",
        "of the least possible",
        "of ceiling",
        "bytes for each of",
        "the first step was finished",
        "written: trace.json",
    ] {
        assert!(printed.contains(text), "`{text}` is missing:\n{printed}");
    }
    assert!(kernels > 60, "{kernels} dispatches");
    // One step is too short for a table, but not for the rest.
    let (printed, kernels) = run("1");
    assert!(printed.contains("1 run timed"), "{printed}");
    assert_eq!(kernels, 0);
}
