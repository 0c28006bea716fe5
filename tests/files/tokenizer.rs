//! Byte-pair tokens as the `tokenizers` library of Python gives them: `golden/gpt2_tiny`.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};
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

    let old = old_files("refused_ids");
    fs::write(old.join("added_tokens.json"), r#"{"<pad>": 5}"#).unwrap();
    let error = refused(&old);
    assert!(
        error.contains("added_tokens.json: ") && error.contains("its id 5 of `<pad>`"),
        "{error}"
    );
}

/// What the `tokenizers` crate panics on is an error in one line, and prints nothing else.
#[test]
fn files_that_the_library_panics_on() {
    let json = fs::read_to_string(golden().join("tokenizer.json")).unwrap();
    let good: Value = serde_json::from_str(&json).unwrap();
    let directory = scratch("panics");
    let open = |change: fn(&mut Value)| {
        let mut json = good.clone();
        change(&mut json);
        fs::write(directory.join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::open(&directory)
    };
    let check = |error: shadegrad::Error| {
        let error = error.to_string();
        let expected = "tokenizer.json: it is no tokenizer that can be used: the tokenizers crate panics on it: ";
        assert!(
            error.contains(expected) && error.lines().count() == 1,
            "{error}"
        );
    };
    let refused = open(|json| {
        json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    });
    check(refused.unwrap_err());
    // What remains of a token is shorter than what is to be taken from its end.
    let strips = open(|json| {
        json["decoder"] = json!({"type": "Strip", "content": "R", "start": 0, "stop": 2});
    });
    let strips = strips.unwrap();
    let tokens = strips.encode("R").unwrap();
    check(strips.decode(&tokens).unwrap_err());
    let tokens = strips.encode("a").unwrap();
    assert_eq!(strips.decode(&tokens).unwrap(), "a");

    // Not every decoder can take no token.
    let words = open(|json| json["decoder"] = json!({"type": "BPEDecoder", "suffix": "</w>"}));
    let words = words.unwrap();
    assert_eq!(words.decode(&[]).unwrap(), "");
    let end = words.token("<|endoftext|>").unwrap();
    assert_eq!(words.decode_without_special_tokens(&[end]).unwrap(), "");
}

#[test]
fn tokens_without_text_lose_nothing() {
    let tokenizer = Tokenizer::open(golden()).unwrap();
    assert_eq!(
        tokenizer.decode(&[49, 288, 64, 4_000_000_000]).unwrap(),
        "R\u{fffd}a\u{fffd}"
    );
    assert_eq!(tokenizer.without_text(291), [288, 289, 290]);
    assert_eq!(tokenizer.last(), Some((287, "<|endoftext|>".to_owned())));
}

/// As in `transformers`, where a model's type says the class that nothing else names.
#[test]
fn gpt2_puts_a_space_in_front_if_it_is_to() {
    let directory = scratch("prefix");
    for file in ["tokenizer.json", "config.json"] {
        fs::copy(golden().join(file), directory.join(file)).unwrap();
    }
    let plain = Tokenizer::open(&directory).unwrap();
    let settings = r#"{"add_prefix_space": true}"#;
    fs::write(directory.join("tokenizer_config.json"), settings).unwrap();
    let tokenizer = Tokenizer::open(&directory).unwrap();
    let expected = plain.encode(" Ralph").unwrap();
    assert_eq!(tokenizer.encode("Ralph").unwrap(), expected);
    assert_ne!(plain.encode("Ralph").unwrap(), expected);
}

#[test]
fn stored_truncation_and_padding_are_off() {
    let json = fs::read_to_string(golden().join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&json).unwrap();
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
    });
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 287, "pad_type_id": 0, "pad_token": "<|endoftext|>"
    });
    let directory = scratch("truncated");
    fs::write(directory.join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = Tokenizer::open(&directory).unwrap();
    let expected = Tokenizer::open(golden()).unwrap();
    for text in ["ab", &"four score and seven ".repeat(20)] {
        assert_eq!(
            tokenizer.encode(text).unwrap(),
            expected.encode(text).unwrap()
        );
    }
}

/// `vocab.json` and `merges.txt` of the golden tokenizer: 287 tokens.
fn old_files(name: &str) -> PathBuf {
    let json = fs::read_to_string(golden().join("tokenizer.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let merges = json["model"]["merges"].as_array().unwrap().iter();
    let merges = merges.map(|pair| {
        let [left, right] = [0, 1].map(|side| pair[side].as_str().unwrap());
        format!("{left} {right}\n")
    });
    let old = scratch(name);
    let text = format!("#version: 0.2\n{}", merges.collect::<String>());
    fs::write(old.join("merges.txt"), text).unwrap();
    fs::write(old.join("vocab.json"), json["model"]["vocab"].to_string()).unwrap();
    old
}

/// Of `<tool>`, `<pad>`, `<|endoftext|>` and `<b>` those that are tokens, as `GPT2TokenizerFast` of `transformers` 4.57
/// numbers them.
#[test]
fn added_tokens_beside_a_vocabulary_and_merges() {
    let token = |content: &str, more: &str| {
        format!(
            r#"{{"content": "{content}", "lstrip": false, "rstrip": false, "normalized": true{more}}}"#
        )
    };
    let end = token(
        "<|endoftext|>",
        r#", "special": true, "single_word": false"#,
    );
    let tool = token("<tool>", r#", "special": false, "single_word": false"#);
    let word = token("<b>", r#", "special": false, "single_word": true"#);
    let pad = r#"{"content": "<pad>", "lstrip": true, "special": true, "normalized": false}"#;
    let decoder = format!(
        r#"{{"added_tokens_decoder": {{"287": {end}, "288": {tool}, "289": {pad}, "290": {word}}}, "pad_token": "<pad>"}}"#
    );
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u32]);
    let cases: [Case; 6] = [
        ("none", &[], &[287]),
        (
            "two",
            &[
                (
                    "added_tokens.json",
                    r#"{"<tool>": 288, "<|endoftext|>": 287, "<pad>": 289}"#,
                ),
                ("special_tokens_map.json", r#"{"pad_token": "<pad>"}"#),
            ],
            &[288, 289, 287],
        ),
        (
            "map",
            &[(
                "special_tokens_map.json",
                r#"{"pad_token": "<pad>", "additional_special_tokens": ["<tool>"]}"#,
            )],
            &[289, 288, 287],
        ),
        (
            "decoder",
            &[("tokenizer_config.json", &decoder)],
            // The blank before `<pad>` is part of it, and `<b>` is no word there.
            &[288, 289, 287],
        ),
        (
            "gap",
            &[("added_tokens.json", r#"{"<tool>": 300}"#)],
            &[300, 301],
        ),
        ("no_room", &[("config.json", r#"{"vocab_size": 287}"#)], &[]),
    ];
    let text = "Hello <tool> the <pad>, Ralph<|endoftext|> x  <b>word";
    for (name, files, expected) in cases {
        let directory = old_files(&format!("added_{name}"));
        for (file, contents) in files {
            fs::write(directory.join(file), contents).unwrap();
        }
        let tokenizer = Tokenizer::open(&directory).unwrap();
        let tokens = tokenizer.encode(text).unwrap();
        let added = tokens.iter().copied().filter(|&token| token >= 287);
        assert_eq!(added.collect::<Vec<_>>(), expected, "{name}");
        let decoded = tokenizer.decode(&tokens).unwrap();
        let stripped = text.replace(" <pad>", "<pad>");
        assert!(decoded == text || decoded == stripped, "{name}: {decoded}");
    }
    // What `GPT2Tokenizer` of `transformers` 5.24 puts around a text.
    for (settings, expected) in [
        (r#"{}"#, &[39, 68][..]),
        (r#"{"add_bos_token": true}"#, &[287, 39, 68]),
        (
            r#"{"add_bos_token": true, "add_eos_token": true}"#,
            &[287, 39, 68, 287],
        ),
        (
            r#"{"add_bos_token": true, "bos_token": "<pad>", "pad_token": "<pad>"}"#,
            &[287, 39, 68],
        ),
        (
            r#"{"add_eos_token": true, "add_bos_token": false}"#,
            &[39, 68, 287],
        ),
    ] {
        let directory = old_files("ends");
        fs::write(directory.join("tokenizer_config.json"), settings).unwrap();
        let tokenizer = Tokenizer::open(&directory).unwrap();
        let tokens = tokenizer.encode_with_special_tokens("He").unwrap();
        assert_eq!(tokens, expected, "{settings}");
        assert_eq!(tokenizer.encode("He").unwrap(), [39, 68]);
    }
    let directory = old_files("prefix");
    let settings = r#"{"add_prefix_space": true}"#;
    fs::write(directory.join("tokenizer_config.json"), settings).unwrap();
    let tokens = Tokenizer::open(&directory).unwrap().encode("He").unwrap();
    assert_eq!(tokens, [220, 39, 68]);
}
