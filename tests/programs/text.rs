//! `train_text`, as far as it is not the loop that it shares with `train_names`.

use super::*;

const TINY: &[&str] = &[
    "-f",
    "text.txt",
    "-d",
    "8",
    "-n",
    "2",
    "-l",
    "1",
    "-b",
    "4",
    "--context",
    "8",
    "--eval-batch-size",
    "4",
    "--eval-iters",
    "2",
    "--sample-length",
    "20",
];

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("text.txt", "the cat sat on the mat.\n".repeat(30));
    folder
}

fn run(folder: &Folder, arguments: &[&str]) -> (bool, String, String) {
    let mut command = folder.command_of("train_text", &[TINY, arguments].concat());
    let output = command.output().expect("the program starts");
    (
        output.status.success(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_text_is_trained_on_with_samples_on_the_way_and_resumed_to_the_same_bits() {
    let folder = folder();
    let train = |arguments: &[&str]| {
        let constant = ["--schedule", "constant", "--warmup", "2"];
        let (success, printed, errors) = run(&folder, &[&constant, arguments].concat());
        assert!(success, "{arguments:?}: {errors}");
        printed
    };
    let whole = train(&[
        "--steps",
        "20",
        "--checkpoint",
        "whole",
        "--eval-interval",
        "10",
        "--sample-interval",
        "10",
        "--samples",
        "2",
        "--prompt",
        "the ",
    ]);
    assert!(whole.starts_with("adapter: "), "{whole}");
    for expected in [
        "text.txt, 720 characters (648 to train on, 72 for the test), 12 different ones",
        "step 10: train loss",
        "| test perplexity",
        "sample:\n  the ",
        "sample 2 of 2:\n  the ",
        "final train loss",
    ] {
        assert!(whole.contains(expected), "`{expected}` expected\n{whole}");
    }
    train(&["--steps", "8", "--checkpoint", "half"]);
    let half = train(&["--steps", "20", "--resume", "half", "--checkpoint", "half"]);
    assert!(half.contains("resumed after step 8"), "{half}");
    assert!(
        folder.read("whole") == folder.read("half"),
        "the checkpoints differ"
    );

    // Checkpoints of the other program are refused, and so is what does not fit.
    folder.train(&["--steps", "1", "--checkpoint", "names"]);
    folder.write("tokenizer.json", "{}");
    let mut refused = vec![
        (vec!["--resume", "names"], "it was written by train_names"),
        (vec!["--prompt", "THE"], "--prompt: character 'T'"),
        (vec!["--prompt", ""], "--prompt: it is empty"),
        (vec!["--filename", "missing"], "cannot access missing"),
        (vec!["--context", "80"], "at least 81 are needed"),
        (
            vec!["--resume", "whole", "--tokenizer", "tokenizer.json"],
            "--tokenizer tokenizer.json contradicts the checkpoint whole, which has none",
        ),
    ];
    if cfg!(not(feature = "tokenizers")) {
        refused.push((
            vec!["--tokenizer", "tokenizer.json"],
            "build it with --features tokenizers",
        ));
    }
    for (arguments, expected) in refused {
        let (success, printed, errors) = run(&folder, &arguments);
        assert!(!success, "{arguments:?}: {printed}");
        assert!(
            errors.starts_with("error: ") && errors.contains(expected),
            "{arguments:?}: {errors}"
        );
        assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    }
    let mut command = folder.command_of("train_text", &[]);
    let errors = text(&command.output().unwrap().stderr);
    assert!(errors.contains("--filename FILE"), "{errors}");
}

/// With the tokenizer of the small GPT-2, of which the checkpoint holds no copy: a resumed run reads the file again.
#[cfg(feature = "tokenizers")]
#[test]
fn byte_pairs_of_gpt2_are_trained_on_and_resumed_to_the_same_bits() {
    let folder = folder();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gpt2_tiny");
    let tokenizer = std::fs::read_to_string(format!("{golden}/tokenizer.json")).unwrap();
    folder.write("tokenizer.json", &tokenizer);
    let train = |arguments: &[&str]| {
        let (success, printed, errors) = run(
            &folder,
            &[
                &["--schedule", "constant", "--tokenizer", "tokenizer.json"],
                arguments,
            ]
            .concat(),
        );
        assert!(success, "{arguments:?}: {errors}");
        printed
    };
    let whole = train(&["--steps", "6", "--checkpoint", "whole", "--prompt", "the c"]);
    for expected in ["byte-pair tokens (", "sample 1", "\n  the c"] {
        assert!(whole.contains(expected), "`{expected}` expected\n{whole}");
    }
    train(&["--steps", "3", "--checkpoint", "half"]);
    train(&["--steps", "6", "--resume", "half", "--checkpoint", "half"]);
    assert!(
        folder.read("whole") == folder.read("half"),
        "the checkpoints differ"
    );

    // Which tokenizer it was is known by its digest, not by where it lay.
    std::fs::create_dir(folder.0.join("elsewhere")).unwrap();
    let [old, new] = ["tokenizer.json", "elsewhere/moved.json"].map(|name| folder.0.join(name));
    std::fs::rename(old, new).unwrap();
    let go_on = ["--resume", "whole", "--steps", "7"];
    let (success, _, errors) = run(&folder, &go_on);
    assert!(!success);
    for expected in [
        "cannot access tokenizer.json",
        "the checkpoint whole names this file: say with --tokenizer where it is now",
    ] {
        assert!(errors.contains(expected), "{errors}");
    }
    let moved = [
        "--tokenizer",
        "elsewhere/moved.json",
        "--checkpoint",
        "more",
    ];
    let (success, printed, errors) = run(&folder, &[&go_on[..], &moved].concat());
    assert!(success, "{errors}");
    assert!(printed.contains("resumed after step 6"), "{printed}");
    // That one knows where it lies now.
    let (success, _, errors) = run(&folder, &["--resume", "more", "--steps", "8"]);
    assert!(success, "{errors}");
    folder.write("other.json", format!("{tokenizer}\n"));
    let other = ["--tokenizer", "other.json"];
    let (success, _, errors) = run(&folder, &[&go_on[..], &other].concat());
    assert!(
        !success && errors.contains("other.json is not the file that the checkpoint was trained"),
        "{errors}"
    );

    folder.write("tokenizer.json", "{}");
    let (success, _, errors) = run(&folder, &["--tokenizer", "tokenizer.json"]);
    assert!(!success && errors.contains("tokenizer.json"), "{errors}");
}

#[test]
fn a_text_that_only_the_checkpoint_names_is_said_to_be() {
    let folder = folder();
    let train = |arguments: &[&str]| {
        let small = ["-d", "8", "-n", "2", "-l", "1", "-b", "4", "--context", "8"];
        let short = ["--final-eval-iters", "1", "--sample-length", "5"];
        let arguments = [&small[..], &short, arguments].concat();
        let output = folder.command_of("train_text", &arguments).output();
        let output = output.unwrap();
        (output.status.success(), text(&output.stderr))
    };
    let first = ["-f", "text.txt", "--steps", "2", "--checkpoint", "model"];
    assert!(train(&first).0);
    std::fs::rename(folder.0.join("text.txt"), folder.0.join("moved.txt")).unwrap();
    let go_on = ["--resume", "model", "--steps", "3"];
    let (success, errors) = train(&go_on);
    assert!(!success);
    assert!(
        errors.contains("text.txt") && errors.contains("the checkpoint model names this file"),
        "{errors}"
    );
    let (success, errors) = train(&[&go_on[..], &["-f", "moved.txt"]].concat());
    assert!(success && errors.is_empty(), "{errors}");
    // A flag's own mistake is none of the checkpoint's.
    let (success, errors) = train(&[&go_on[..], &["-f", "text.txt"]].concat());
    assert!(!success && !errors.contains("checkpoint"), "{errors}");
}

#[test]
fn a_model_is_exported_as_a_directory_of_the_transformers_library() {
    let folder = folder();
    let shared = ["--n-kv-heads", "1", "--steps", "2"];
    let (success, printed, errors) =
        run(&folder, &[&shared[..], &["--checkpoint", "text"]].concat());
    assert!(success, "{errors}");
    assert!(
        printed.contains("heads 2 on 1 of keys and values"),
        "{printed}"
    );
    let export = |checkpoint: &str, directory: &str| {
        let arguments = ["export", checkpoint, directory];
        let output = folder
            .command_of("train_text", &arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let path = folder.0.join(directory);
        let read = |name: &str| std::fs::read(path.join(name)).unwrap();
        let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&read(name)).unwrap();
        (path.clone(), json("config.json"), json("tokenizer.json"))
    };
    let (path, config, tokenizer) = export("text", "model");
    assert_eq!(config["model_type"], "llama");
    assert_eq!(config["num_key_value_heads"], 1);
    assert_eq!(config["eos_token_id"], serde_json::Value::Null);
    // Characters in the order of their code points, the line end first.
    assert_eq!(tokenizer["model"]["vocab"]["\n"], 0);
    assert_eq!(tokenizer["model"]["vocab"]["a"], 3);
    let checkpoint = shadegrad::checkpoint::Checkpoint::open(folder.0.join("text")).unwrap();
    let files = shadegrad::hugging_face::ModelFiles::open(path).unwrap();
    assert_eq!(files.config().n_kv_heads(), 1);
    let trained: shadegrad::nn::GptConfig =
        serde_json::from_value(checkpoint.metadata.config.clone()).unwrap();
    assert_eq!(files.config().parameter_count(), trained.parameter_count());

    // What the library has no type for is one line.
    let odd = ["--steps", "1", "--head-bias", "--checkpoint", "odd"];
    let (success, _, errors) = run(&folder, &odd);
    assert!(success, "{errors}");
    let output = folder
        .command_of("train_text", &["export", "odd", "none"])
        .output()
        .unwrap();
    let errors = text(&output.stderr);
    assert!(
        !output.status.success() && errors.contains("llama has no head_bias = true"),
        "{errors}"
    );
}
