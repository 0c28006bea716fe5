//! Directories that cannot be loaded: one line that names file, thing and remedy, before anything is on the device.

use std::fs;
use std::path::Path;

use safetensors::tensor::Dtype;
use shadegrad::hugging_face::ModelFiles;

use super::files::{copy_with, scratch, tensors, write};
use super::golden;
use crate::common::device;

#[track_caller]
fn refuses(directory: &Path, file: &str, reason: &str) {
    let error = ModelFiles::open(directory).unwrap_err().to_string();
    let path = match file {
        "" => directory.to_owned(),
        file => directory.join(file),
    };
    let expected = format!("{}: {reason}", path.display());
    assert!(error.contains(&expected), "{error}\nnot: {expected}");
}

#[test]
fn configurations() {
    for (number, (from, to, reason)) in [
        (
            "gelu_new",
            "swish",
            "activation_function `swish` is not known: expected one of gelu_new, ",
        ),
        (
            "\"gpt2\"",
            "\"mamba\"",
            "its model_type is `mamba`; expected one of gpt2, llama, mistral, qwen2, qwen3, gemma3_text",
        ),
        ("\"model_type\": \"gpt2\",", "", "it names no model_type"),
        (
            "\"n_head\": 4",
            "\"n_head\": 5",
            "n_embd = 32 is not possible: expected a multiple of n_head = 5",
        ),
        (
            "\"n_head\": 4",
            "\"n_head\": \"four\"",
            "n_head: invalid type: string \"four\", expected usize",
        ),
        ("}", "", "it is no configuration of a model: EOF"),
        (
            "\"scale_attn_weights\": true",
            "\"scale_attn_weights\": false",
            "scale_attn_weights = false is not supported",
        ),
        (
            "\"add_cross_attention\": false",
            "\"add_cross_attention\": true",
            "add_cross_attention = true is not supported",
        ),
        (
            "layer_idx\": false",
            "layer_idx\": true",
            "scale_attn_by_inverse_layer_idx = true is not supported",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let directory = copy_with(&format!("config{number}"), from, to);
        refuses(&directory, "config.json", reason);
    }
}

#[test]
fn configurations_of_other_weights() {
    for (number, (from, to, reason)) in [
        (
            "\"vocab_size\": 288",
            "\"vocab_size\": 300",
            "tensor `transformer.wte.weight` has shape [288, 32], the model of config.json needs [300, 32]",
        ),
        (
            "\"n_layer\": 2",
            "\"n_layer\": 3",
            "tensor `transformer.h.2.ln_1.weight`, which the model of config.json needs, is missing",
        ),
        (
            "\"n_layer\": 2",
            "\"n_layer\": 1",
            "tensor `transformer.h.1.attn.c_attn.bias` belongs to no part of the model of config.json, which has 1 layers",
        ),
        (
            "\"n_inner\": null",
            "\"n_inner\": 100",
            "tensor `transformer.h.0.mlp.c_fc.bias` has shape [128], the model of config.json needs [100]",
        ),
        (
            "embeddings\": true",
            "embeddings\": false",
            "tensor `lm_head.weight`, which the model of config.json needs, is missing",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let directory = copy_with(&format!("other{number}"), from, to);
        refuses(&directory, "model.safetensors", reason);
    }
}

#[test]
fn files() {
    let directory = scratch("missing");
    let error = ModelFiles::open(&directory).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot access ") && error.contains("config.json"),
        "{error}"
    );

    fs::copy(golden().join("config.json"), directory.join("config.json")).unwrap();
    let error = ModelFiles::open(&directory).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot access ") && error.contains("model.safetensors"),
        "{error}"
    );
    fs::write(directory.join("pytorch_model.bin"), "").unwrap();
    refuses(
        &directory,
        "",
        "there is a pytorch_model.bin, but no model.safetensors: the weights are in PyTorch's own format: save",
    );

    let weights = fs::read(golden().join("model.safetensors")).unwrap();
    let end = weights.len();
    for (contents, reason) in [
        (&weights[..end - 1], "it is truncated or damaged"),
        (&weights[..1000], "it is truncated or damaged"),
        (&weights[..0], "it is empty"),
        (
            &b"<html>a page of errors</html>"[..],
            "it is not a safetensors file",
        ),
    ] {
        fs::write(directory.join("model.safetensors"), contents).unwrap();
        refuses(&directory, "model.safetensors", reason);
    }
}

#[test]
fn headers() {
    let directory = copy_with("headers", "gelu_new", "gelu_new");
    let path = directory.join("model.safetensors");
    let weights = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(*weights.first_chunk().unwrap());
    let header = String::from_utf8(weights[8..8 + length as usize].to_vec()).unwrap();
    let mut longer = weights.clone();
    longer.push(0);
    let with = |length: u64| [&length.to_le_bytes()[..], &weights[8..]].concat();
    let data = &weights[8 + length as usize..];
    let replaced = |from: &str, to: &str| {
        let header = header.replacen(from, to, 1);
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header.as_bytes(), data].concat()
    };
    for (contents, reason) in [
        (longer, "it is truncated or damaged"),
        (weights[..7].to_vec(), "it is not a safetensors file"),
        (with(u64::MAX), "it is not a safetensors file"),
        (with(length + 1), "it is not a safetensors file"),
        (with(weights.len() as u64), "it is truncated or damaged"),
        (
            replaced("[0,", "[4,"),
            "it is not a safetensors file (invalid JSON in header",
        ),
        (
            replaced("transformer.wpe.weight", "transformer.wte.weight"),
            "it is not a safetensors file (invalid JSON in header",
        ),
        (
            replaced("\"F32\"", "\"F99\""),
            "it is not a safetensors file (invalid JSON in header",
        ),
    ] {
        fs::write(&path, contents).unwrap();
        refuses(&directory, "model.safetensors", reason);
    }
}

#[test]
fn weights_that_are_no_numbers() {
    for (name, value) in [("nan", f32::NAN), ("infinite", f32::INFINITY)] {
        let directory = copy_with(name, "gelu_new", "gelu_new");
        let mut changed = tensors();
        let bias = changed.get_mut("transformer.ln_f.bias").unwrap();
        bias.bytes[12..16].copy_from_slice(&value.to_le_bytes());
        write(&directory, &changed);
        let files = ModelFiles::open(&directory).unwrap();
        let error = files.load(device()).unwrap_err().to_string();
        let expected = format!("tensor `transformer.ln_f.bias` holds {value} at element 3: ");
        assert!(error.contains(&expected), "{error}");
    }
}

/// Neither a crash nor half of another model.
#[test]
fn a_file_that_is_changed_after_it_was_opened() {
    let directory = copy_with("changed_later", "gelu_new", "gelu_new");
    let files = ModelFiles::open(&directory).unwrap();
    let (_, parameters) = files.load(device()).unwrap();
    let path = directory.join("model.safetensors");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(5000).unwrap();
    let error = files.load(device()).unwrap_err().to_string();
    assert!(error.contains("it has been changed since"), "{error}");
    // What is in the model can still be saved.
    files.save(&directory, &parameters).unwrap();
    let saved = fs::read(&path).unwrap();
    assert!(saved == fs::read(golden().join("model.safetensors")).unwrap());
}

#[test]
fn types() {
    let directory = copy_with("types", "gelu_new", "gelu_new");
    let mut changed = tensors();
    let bias = changed.get_mut("transformer.ln_f.bias").unwrap();
    bias.dtype = Dtype::I32;
    write(&directory, &changed);
    let reason = "tensor `transformer.ln_f.bias` has type I32, expected one of F32, F16, BF16";
    refuses(&directory, "model.safetensors", reason);
}
