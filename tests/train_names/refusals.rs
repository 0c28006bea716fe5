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
            "d_model = 30 is not possible: expected a multiple of n_heads = 4",
        ),
        (&["-d", "0"], "d_model = 0"),
        (&["-n", "0"], "n_heads = 0"),
        (&["-l", "0"], "n_layers = 0"),
        (&["--d-ff", "0"], "d_ff = 0"),
        (&["--context", "0"], "--context = 0"),
        (&["-b", "0"], "--batch-size = 0"),
        (&["-e", "0"], "--steps = 0"),
        (&["--eval-iters", "0"], "--eval-iters = 0"),
        (&["-d", "100000000"], "d_model = 100000000"),
        (&["-d", "1000000", "-n", "10000"], "parameters"),
        (
            &["-d", "18446744073709551615", "-n", "1"],
            "d_model = 18446744073709551615",
        ),
        (&["-l", "1000000000"], "n_layers = 1000000000"),
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
            "--batch-size = 32",
        ),
        (&["--samples", "1000000000000"], "--samples = 1000000000000"),
        (&["-d", "12", "-n", "4", "--positions", "rotary"], "rotary"),
        (&["--dropout", "1"], "dropout = 1"),
        (&["--lr", "0"], "--lr = 0"),
        (&["--lr", "nan"], "--lr = NaN"),
        (&["--lr=-1"], "--lr = -1"),
        (&["--beta2", "1"], "--beta2 = 1"),
        (&["--weight-decay", "inf"], "--weight-decay = inf"),
        (&["--grad-clip=-1"], "--grad-clip = -1"),
        (&["--steps", "10", "--warmup", "11"], "warmup = 11"),
        (&["--min-lr-ratio", "2"], "2 is not possible"),
        (&["--temperature=-1"], "temperature = -1"),
        (&["-k", "0"], "top_k = 0"),
        (&["-p", "1.5"], "top_p = 1.5"),
        (
            &["--adapter", "no such adapter"],
            "no GPU adapter found that matches `no such adapter`",
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
