//! Byte-pair tokens as the `tokenizers` library of Python gives them: `golden/gpt2_tiny`.

#![cfg(feature = "tokenizers")]

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use shadegrad::hugging_face::Tokenizer;

fn golden() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden/gpt2_tiny"]
        .iter()
        .collect()
}

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tokenizer_{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// Tokens and strings are those of the golden file, also from the two files that GPT-2 itself came with.
#[test]
fn tokens_and_strings() {
    let bytes = fs::read(golden().join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let ids = |name: &str| -> Vec<u32> {
        let tensor = expected.tensor(name).unwrap();
        let words = tensor.data().as_chunks().0.iter();
        words.map(|word| u32::from_le_bytes(*word)).collect()
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let about: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["about"]).unwrap();

    let json = fs::read_to_string(golden().join("tokenizer.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let model = &json["model"];
    let merges = model["merges"].as_array().unwrap().iter().map(|pair| {
        let [left, right] = [0, 1].map(|side| pair[side].as_str().unwrap());
        format!("{left} {right}\n")
    });
    let old = scratch("merges");
    let text = format!("#version: 0.2\n{}", merges.collect::<String>());
    fs::write(old.join("merges.txt"), text).unwrap();
    fs::write(old.join("vocab.json"), model["vocab"].to_string()).unwrap();

    for directory in [golden(), old] {
        let tokenizer = Tokenizer::open(&directory).unwrap();
        assert_eq!(tokenizer.vocab_size(), 288);
        assert_eq!(tokenizer.token("<|endoftext|>"), Some(287));
        let prompt = tokenizer.encode(about["prompt"].as_str().unwrap()).unwrap();
        assert_eq!(prompt, ids("tokens"));
        assert_eq!(
            tokenizer.strings(&prompt).unwrap(),
            strings(&about["strings"])
        );
        let text = about["text"].as_str().unwrap();
        let stream = tokenizer.encode(text).unwrap();
        assert_eq!(stream, ids("stream"));
        assert_eq!(tokenizer.decode(&stream).unwrap(), text);
        // Any text comes back, whatever it is made of.
        let odd = "naïve — 東京\r\n\t🙂 <|endoftext|>";
        assert_eq!(
            tokenizer.decode(&tokenizer.encode(odd).unwrap()).unwrap(),
            odd
        );
    }
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn what_is_no_tokenizer() {
    let directory = scratch("refused");
    let refused = |directory: &Path| Tokenizer::open(directory).unwrap_err().to_string();
    let error = refused(&directory);
    assert!(
        error.starts_with("cannot access ") && error.contains("tokenizer.json"),
        "{error}"
    );
    fs::write(directory.join("vocab.json"), "{}").unwrap();
    let error = refused(&directory);
    assert!(
        error.starts_with("cannot access ") && error.contains("merges.txt"),
        "{error}"
    );
    fs::write(directory.join("tokenizer.json"), "{\"model\": 1}").unwrap();
    let error = refused(&directory);
    assert!(
        error.contains("tokenizer.json: it is no tokenizer that can be used: "),
        "{error}"
    );

    let tokenizer = Tokenizer::open(golden()).unwrap();
    let error = tokenizer.decode(&[5, 288]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "token 288 is out of range for a vocabulary of 288"
    );
}
