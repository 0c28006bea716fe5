//! What the program refuses, before anything is touched.

use super::*;

#[test]
fn bad_texts_are_refused() {
    let folder = Folder::new();
    folder.write("empty.txt", "");
    folder.write("blank.txt", "\n \n\n");
    folder.write("latin1.txt", b"zo\xe9\nemma\n");
    folder.write("short.txt", "emma\nava\n");
    folder.write("long.txt", "emma\nwolfeschlegelsteinhausen\n");
    folder.write("one.txt", "emma\n");
    let stream = "--batching=stream";
    for (arguments, expected) in [
        (&["-f", "missing.txt"][..], "missing.txt"),
        (&["-f", "."], "cannot access ."),
        (&["-f", "empty.txt"], "empty.txt is empty"),
        (&["-f", "blank.txt"], "blank.txt is empty"),
        (
            &["-f", "latin1.txt"],
            "latin1.txt is not UTF-8 text: invalid byte at offset 2",
        ),
        (&["-f", "short.txt", stream], "at least 17 are needed"),
        (&["-f", "long.txt"], "wolfeschlegelsteinhausen"),
        (&["-f", "one.txt"], "at least 2 names"),
        (&[stream, "--context", "50000"], "50001 are needed"),
    ] {
        assert_refused(&folder, arguments, expected);
    }
}

#[test]
fn impossible_settings_are_refused() {
    let folder = Folder::new();
    for (arguments, expected) in [
        (
            &["-d", "30", "-n", "4"][..],
            "--d-model = 30 is not possible: expected a multiple of --n-heads = 4",
        ),
        (&["-d", "0"], "--d-model = 0"),
        (&["-n", "0"], "--n-heads = 0"),
        (&["-l", "0"], "--n-layers = 0"),
        (&["--d-ff", "0"], "--d-ff = 0"),
        (&["--context", "0"], "--context = 0"),
        (&["-b", "0"], "--batch-size = 0"),
        (&["-e", "0"], "--steps = 0"),
        (&["--eval-iters", "0"], "--eval-iters = 0"),
        (&["-d", "100000000"], "--d-model = 100000000"),
        (
            &["-d", "1000000", "-n", "10000"],
            "lower --d-model, --d-ff, --n-layers, --context",
        ),
        (
            &["-d", "18446744073709551615", "-n", "1"],
            "--d-model = 18446744073709551615",
        ),
        (&["-l", "1000000000"], "--n-layers = 1000000000"),
        (&["-b", "1000000000000"], "--batch-size = 1000000000000"),
        (
            &[
                "--context",
                "1000000000",
                "--batching",
                "stream",
                "-b",
                "32",
            ],
            "--context = 1000000000 is not possible: expected at most 4194304",
        ),
        (&["--samples", "1000000000000"], "--samples = 1000000000000"),
        (&["-d", "12", "-n", "4", "--positions", "rotary"], "rotary"),
        (&["--dropout", "1"], "--dropout = 1"),
        (&["--lr", "0"], "--lr = 0"),
        (&["--lr", "nan"], "--lr = NaN"),
        (&["--lr=-1"], "--lr = -1"),
        (&["--beta2", "1"], "--beta2 = 1"),
        (&["--weight-decay", "inf"], "--weight-decay = inf"),
        (&["--grad-clip=-1"], "--grad-clip = -1"),
        (&["--steps", "10", "--warmup", "11"], "--warmup = 11"),
        (
            &["--min-lr-ratio", "2"],
            "--min-lr-ratio = 2 is not possible",
        ),
        (&["--temperature=-1"], "--temperature = -1"),
        (&["-k", "0"], "--top-k = 0"),
        (&["-p", "1.5"], "--top-p = 1.5"),
        (
            &["--adapter", "no such adapter"],
            "no adapter matches `no such adapter`: give the number of one of these, or a part of its name: 0: ",
        ),
    ] {
        assert_refused(&folder, arguments, expected);
    }
}

#[test]
fn outputs_that_cannot_be_written_are_refused() {
    let folder = Folder::new();
    folder.write("names.txt", "emma\nava\nolivia\n");
    folder.write("old.safetensors", "an older file");
    for (arguments, expected) in [
        (
            &["--checkpoint", "missing/model.safetensors"][..],
            "there is no folder missing",
        ),
        (
            &["--metrics", "missing/metrics.jsonl"],
            "there is no folder missing",
        ),
        (
            &["--plot", "missing/plot.svg"],
            "there is no folder missing",
        ),
        (&["--checkpoint", "."], "--checkpoint: . is a folder"),
        (&["--metrics", "."], "--metrics: . is a folder"),
        (
            &["--plot", "plot.jpg"],
            "plot.jpg ends neither in .svg nor in .png",
        ),
        (&["--plot", "plot"], "plot ends neither"),
        (
            &["--metrics", "out.svg", "--plot", "./out.svg"],
            "also the file of --metrics",
        ),
        (
            &["-f", "names.txt", "--metrics", "./names.txt"],
            "also the file of --filename",
        ),
        (&["--resume", "old.safetensors"], "old.safetensors"),
    ] {
        assert_refused(&folder, arguments, expected);
    }
}

#[test]
fn usage_errors_exit_with_2_and_flags_take_hyphens_and_underscores() {
    let folder = Folder::new();
    for arguments in [
        &["--no-such-flag"][..],
        &["--lr", "fast"],
        &["--norm", "batch_norm"],
        &["--tie", "--no-tie"],
    ] {
        let output = folder.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    // Understood, so that what is refused is the last flag.
    let spellings = [
        "--d_model=16",
        "--n_heads",
        "2",
        "--n-layers",
        "1",
        "--top_k",
        "3",
        "--epochs",
        "5",
        "--no_tie",
    ];
    for ending in [["--batch_size", "0"], ["--batch-size", "0"]] {
        assert_refused(
            &folder,
            &[&spellings[..], &ending].concat(),
            "--batch-size = 0",
        );
    }
}

#[test]
fn numbers_that_are_none_are_refused_at_their_flags() {
    let folder = Folder::new();
    let numbers = [
        "--lr",
        "--min-lr-ratio",
        "--beta1",
        "--beta2",
        "--weight-decay",
        "--grad-clip",
        "--dropout",
        "--norm-eps",
        "--temperature",
        "--top-p",
    ];
    for flag in numbers {
        for value in ["nan", "inf", "-inf", "-1", "1e39"] {
            let expected = format!("error: {flag} = ");
            assert_refused(&folder, &[&format!("{flag}={value}")], &expected);
        }
        assert_refused(&folder, &[flag, "-1"], &format!("error: {flag} = -1 "));
    }
    for flag in ["--lr", "--norm-eps", "--top-p"] {
        for value in ["0", "-0", "1e-50"] {
            assert_refused(&folder, &[flag, value], &format!("error: {flag} = "));
        }
    }
    // Whether the schedule needs it or not.
    let constant = ["--schedule", "constant", "--min-lr-ratio", "nan"];
    assert_refused(&folder, &constant, "--min-lr-ratio = NaN");
    let counts = [
        "--steps",
        "--batch-size",
        "--context",
        "--eval-batch-size",
        "--eval-iters",
        "--d-model",
        "--n-heads",
        "--n-layers",
        "--d-ff",
        "--top-k",
    ];
    for flag in counts {
        assert_refused(&folder, &[flag, "0"], &format!("error: {flag} = 0"));
    }
    for flag in [
        "--eval-iters",
        "--final-eval-iters",
        "--samples",
        "--context",
    ] {
        let most = usize::MAX.to_string();
        assert_refused(&folder, &[flag, &most], &format!("error: {flag} = {most}"));
    }
    for (flag, value) in [
        ("--seed", "-1"),
        ("--steps", "-1"),
        ("--steps", "18446744073709551616"),
        ("--eval-interval", "1.5"),
        ("--log-interval", "0"),
    ] {
        let output = folder.run(&[flag, value]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flag}: {stderr}");
        let expected = format!("invalid value '{value}' for '{flag}");
        assert!(stderr.contains(&expected), "{flag}: {stderr}");
    }
    for (program, flag, value) in [
        ("masked_names", "--hide", "nan"),
        ("masked_names", "--d-model", "18446744073709551615"),
        ("masked_names", "--d-model", "1000000"),
        ("masked_names", "--dropout", "1"),
        ("masked_names", "--lr", "inf"),
        ("masked_names", "--batch-size", "0"),
        ("echo_upper", "--lr", "-1"),
        ("echo_upper", "--test-words", "0"),
    ] {
        let output = folder.command_of(program, &[flag, value]).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{program} {flag}: {stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains(flag),
            "{program} {flag}: {stderr}"
        );
    }
}

#[test]
fn flags_with_optional_values_take_them_with_a_space_and_with_a_sign() {
    let folder = Folder::new();
    let short = ["--steps", "1", "--samples", "0"];
    for (profile, file) in [
        (&["--profile"][..], "trace.json"),
        (&["--profile=a.json"], "a.json"),
        (&["--profile", "b.json"], "b.json"),
    ] {
        let printed = folder.train(&[&short[..], profile].concat());
        let written = format!("written: {file}");
        assert!(printed.contains(&written), "{profile:?}: {printed}");
    }
    let model = |flags: &[&str]| {
        let printed = folder.train(&[&short[..], flags].concat());
        let line = printed.lines().find(|line| line.starts_with("model: "));
        line.unwrap().to_owned()
    };
    assert_eq!(model(&["--tie", "true"]), model(&["--tie=true"]));
    assert_eq!(model(&["--tie", "true"]), model(&["--tie"]));
    assert_eq!(model(&["--tie", "false"]), model(&["--no-tie"]));
    assert_eq!(model(&["--bias", "true"]), model(&["--bias"]));
    assert_eq!(
        model(&["--final-norm", "false"]),
        model(&["--final-norm=false"])
    );
}

#[test]
fn no_message_is_as_long_as_the_line_that_it_is_about() {
    let folder = Folder::new();
    let long = "emma".repeat(2_500_000);
    folder.write("long.txt", format!("ava\n{long}\n"));
    folder.write("control.txt", format!("ava\nolga\n{long}\u{7}\n"));
    folder.write("one.txt", &long);
    folder.write(
        "gap.txt",
        format!("{}{long}_\n", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n"),
    );
    let record = format!("{{\"step\": \"{long}\"}}\n");
    folder.write("metrics.jsonl", record);
    folder.train(&["--steps", "1", "--checkpoint", "model"]);
    let most = "emma".repeat(30_000);
    let mut cases = vec![
        ("train_names", vec!["-f", "long.txt"]),
        ("train_names", vec!["-f", "control.txt"]),
        ("train_names", vec!["-f", "one.txt"]),
        ("train_names", vec!["-f", &most]),
        ("train_names", vec!["--adapter", &most]),
        ("train_names", vec!["--resume", &most]),
        (
            "train_names",
            vec!["--resume", "model", "--metrics", "metrics.jsonl"],
        ),
        ("masked_names", vec!["-f", "gap.txt"]),
        ("masked_names", vec![&most]),
        ("echo_upper", vec![&most]),
        ("train_text", vec!["-f", &most]),
    ];
    // Nor is one about what a checkpoint holds.
    let mut checkpoint = folder.read("model");
    let length = u64::from_le_bytes(checkpoint[..8].try_into().unwrap()) as usize;
    let header = text(&checkpoint[8..8 + length]).replace("embedding", &long);
    checkpoint.splice(8..8 + length, header.bytes());
    checkpoint[..8].copy_from_slice(&(header.len() as u64).to_le_bytes());
    folder.write("names", checkpoint);
    cases.push(("train_names", vec!["--resume", "names"]));
    for (program, arguments) in cases {
        let output = folder.command_of(program, &arguments).output().unwrap();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let shown: Vec<&str> = arguments.iter().map(|a| &a[..a.len().min(20)]).collect();
        assert_eq!(output.status.code(), Some(1), "{program} {shown:?}");
        let length = stderr.len() + stdout.len();
        assert!(length < 6000, "{program} {shown:?}: {length}");
        assert!(stderr.starts_with("error: "), "{program} {shown:?}");
    }
    let output = folder.run(&["--lr", &most]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.starts_with("error: invalid value 'emma") && stderr.len() < 6000);
}
