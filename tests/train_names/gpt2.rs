//! The example `gpt2` on the small model that the `transformers` library saved, against what that library computes.

use safetensors::SafeTensors;
use serde_json::Value;

use super::{Folder, text};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gpt2_tiny");

/// What the program prints; if it fails, its error.
fn run(folder: &Folder, arguments: &[&str]) -> Result<String, String> {
    let output = folder.command_of("gpt2", arguments).output().unwrap();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

#[test]
fn tokens_continuations_expectations_and_perplexity() {
    let bytes = std::fs::read(format!("{MODEL}/expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let about: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["about"]).unwrap();
    let folder = Folder::new();

    let prompt = about["prompt"].as_str().unwrap();
    let printed = run(&folder, &["tokenize", MODEL, prompt]).unwrap();
    assert!(
        printed.starts_with(r#"["T", "he", " w", "or""#),
        "{printed}"
    );

    let greedy = [
        "generate",
        MODEL,
        prompt,
        "--tokens",
        "24",
        "--temperature",
        "0",
    ];
    let printed = run(&folder, &greedy).unwrap();
    assert!(
        printed.contains(&format!("\n{prompt}\u{fffd};;;;;\u{fffd};")),
        "{printed}"
    );

    // Probabilities from the softmax of the library's logits.
    let printed = run(&folder, &["top", MODEL, "The world", "--count", "2"]).unwrap();
    assert!(
        printed.contains("\n\"or\" → \"v\" 3.79 %, \" we\" 3.04 %\n"),
        "{printed}"
    );

    folder.write("book.txt", about["text"].as_str().unwrap());
    let stride = about["stride"].to_string();
    let measured = ["perplexity", MODEL, "book.txt", "--stride", &stride];
    let printed = run(&folder, &measured).unwrap();
    let loss = expected.tensor("stream_loss").unwrap();
    let loss = f32::from_le_bytes(loss.data().try_into().unwrap());
    assert!(
        printed.contains(&format!("loss {loss:.4} nats")),
        "{printed}"
    );
}

#[test]
fn one_line_says_what_is_wrong() {
    let folder = Folder::new();
    folder.write("book.txt", "Four score and seven years ago");
    for (arguments, reason) in [
        (
            vec!["top", "nowhere", "x"],
            "error: cannot access nowhere/config.json: ",
        ),
        (vec!["top", MODEL, ""], "error: the text is empty"),
        (
            vec!["perplexity", MODEL, "none.txt"],
            "error: cannot access none.txt: ",
        ),
        (
            vec!["perplexity", MODEL, "book.txt", "--stride", "64"],
            "error: --stride = 64 is not possible: expected 1 to 63",
        ),
    ] {
        let error = run(&folder, &arguments).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}
