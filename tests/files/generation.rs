//! `generation_config.json` as `transformers` reads it: `golden/chat`, by its `make_chat.py`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shadegrad::hugging_face::{GenerationConfig, ModelFiles};
use shadegrad::sampling::SamplingConfig;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// A directory with nothing but this file.
fn with(name: &str, contents: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("generation_{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("generation_config.json"), contents).unwrap();
    path
}

#[test]
fn what_the_library_draws_from() {
    let json = fs::read(format!("{GOLDEN}/chat/expected.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let cases = json["generation"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let (file, drawn) = (&case["file"], &case["drawn"]);
        let config = GenerationConfig::open(with("drawn", &file.to_string())).unwrap();
        let number = |name: &str| drawn[name].as_f64();
        // What the library restricts nothing by is no restriction here.
        let expected = match drawn["do_sample"] == true {
            true => SamplingConfig {
                temperature: number("temperature").unwrap() as f32,
                top_k: number("top_k").map(|k| k as usize).filter(|&k| k > 0),
                top_p: number("top_p").map(|p| p as f32).filter(|&p| p < 1.0),
            },
            false => SamplingConfig::GREEDY,
        };
        assert_eq!(
            config.sampling.unwrap_or(SamplingConfig::GREEDY),
            expected,
            "{case}"
        );
        assert_eq!(config.sampling.is_some(), !file["do_sample"].is_null());
        assert_eq!(
            config.max_new_tokens,
            number("max_new_tokens").map(|n| n as usize)
        );
        let ends = match &drawn["eos_token_id"] {
            Value::Null => Vec::new(),
            Value::Array(list) => list.iter().filter_map(Value::as_u64).collect(),
            one => vec![one.as_u64().unwrap()],
        };
        let stop = config.stop_tokens.unwrap_or_default();
        assert!(
            stop.iter().map(|&token| u64::from(token)).eq(ends),
            "{case}"
        );
        let suppressed = drawn["suppress_tokens"].as_array().map_or(0, Vec::len);
        assert_eq!(config.suppressed_tokens.len(), suppressed);
        assert!(config.unsupported.is_empty(), "{:?}", config.unsupported);
    }
}

#[test]
fn what_is_asked_for_in_vain_is_named() {
    let neutral = json!({
        "repetition_penalty": 1.0, "num_beams": 1, "min_p": 0, "typical_p": 1, "no_repeat_ngram_size": 0,
        "bad_words_ids": null, "stop_strings": [], "guidance_scale": null, "token_healing": false, "use_cache": true,
        "transformers_version": "5.24.0", "_from_model_config": true
    });
    let config = GenerationConfig::open(with("neutral", &neutral.to_string())).unwrap();
    assert_eq!(config, GenerationConfig::default());
    let all = json!({
        "repetition_penalty": 1.1, "num_beams": 4, "min_p": 0.05, "typical_p": 0.9, "no_repeat_ngram_size": 3,
        "bad_words_ids": [[1]], "stop_strings": "x", "guidance_scale": 1.5, "forced_eos_token_id": 2, "token_healing": true,
        "max_time": 2.5, "watermarking_config": {"bias": 2.5}
    });
    let config = GenerationConfig::open(with("vain", &all.to_string())).unwrap();
    let expected = [
        "bad_words_ids = [[1]]",
        "forced_eos_token_id = 2",
        "guidance_scale = 1.5",
        "max_time = 2.5",
        "min_p = 0.05",
        "no_repeat_ngram_size = 3",
        "num_beams = 4",
        "repetition_penalty = 1.1",
        "stop_strings = \"x\"",
        "token_healing = true",
        "typical_p = 0.9",
        "watermarking_config = {\"bias\":2.5}",
    ];
    assert_eq!(config.unsupported, expected);
}

#[test]
fn lengths_are_of_answers_or_of_texts() {
    let most = |json: &str| GenerationConfig::open(with("most", json)).unwrap().most(10);
    assert_eq!(most("{}"), None);
    assert_eq!(most(r#"{"max_length": 12}"#), Some(2));
    assert_eq!(most(r#"{"max_length": 8}"#), Some(0));
    assert_eq!(most(r#"{"max_length": 8, "max_new_tokens": 5}"#), Some(5));
}

#[test]
fn what_is_no_such_file() {
    for (contents, reason) in [
        ("", "EOF"),
        ("[]", "expected an object"),
        (
            r#"{"temperature": 1, "temperature": 2}"#,
            "`temperature` stands there twice",
        ),
        (r#"{"temperature": "hot"}"#, "temperature: invalid type"),
        (
            r#"{"do_sample": true, "temperature": -1}"#,
            "temperature = -1 is not possible",
        ),
        (
            r#"{"do_sample": true, "top_p": 0}"#,
            "top_p = 0 is not possible",
        ),
        (
            r#"{"do_sample": true, "top_p": 1.5}"#,
            "top_p = 1.5 is not possible",
        ),
        (r#"{"do_sample": 1}"#, "do_sample: invalid type"),
        (
            r#"{"eos_token_id": "</s>"}"#,
            "eos_token_id: expected a token's number or a list",
        ),
        (r#"{"top_k": -5}"#, "top_k: invalid value"),
    ] {
        let error = GenerationConfig::open(with("wrong", contents))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("generation_config.json: ") && error.contains(reason),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// Those of `generation_config.json` come first.
#[test]
fn end_tokens_of_both_files() {
    let model = format!("{GOLDEN}/models/qwen3");
    let of_config: Value =
        serde_json::from_slice(&fs::read(format!("{model}/config.json")).unwrap()).unwrap();
    let of_config = of_config["eos_token_id"].as_u64().map(|token| token as u32);
    for (contents, expected) in [
        (r#"{"do_sample": true}"#, of_config.into_iter().collect()),
        (r#"{"eos_token_id": [7, 8]}"#, vec![7, 8]),
        (r#"{"eos_token_id": null}"#, Vec::new()),
    ] {
        let directory = with("ends", contents);
        for file in ["config.json", "model.safetensors"] {
            fs::copy(format!("{model}/{file}"), directory.join(file)).unwrap();
        }
        let files = ModelFiles::open(&directory).unwrap();
        assert_eq!(files.stop_tokens(), expected);
        assert_eq!(files.end_of_text(), expected.first().copied());
        assert_eq!(
            files.generation().stop_tokens.is_some(),
            contents.contains("eos")
        );
    }
}
