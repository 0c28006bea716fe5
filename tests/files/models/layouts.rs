//! The same tensors, laid out as other programs do.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use shadegrad::DType;
use shadegrad::hugging_face::ModelFiles;

use super::files::scratch;
use super::saved::contents;
use super::table::MODELS;
use super::{directory, load};
use crate::common::device;

/// A tensor of a file: name, type, shape, bytes.
type Raw = (String, Value, Vec<usize>, Vec<u8>);

fn raw(directory: &Path) -> Vec<Raw> {
    let mut all = Vec::new();
    for (name, bytes) in contents(directory) {
        if !name.ends_with(".safetensors") {
            continue;
        }
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let dtype = serde_json::to_value(view.dtype()).unwrap();
            all.push((name, dtype, view.shape().to_vec(), view.data().to_vec()));
        }
    }
    all
}

/// A file of these tensors, in this order, without metadata.
fn write(path: &Path, tensors: &[Raw]) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let end = data.len() + bytes.len();
        let info = json!({ "dtype": dtype, "shape": shape, "data_offsets": [data.len(), end] });
        header.insert(name.clone(), info);
        data.extend(bytes);
    }
    let header = Value::from(header).to_string().into_bytes();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], &header, &data].concat()).unwrap();
}

/// Bare names as of the transformer alone, offsets the other way round, what old versions saved beside the weights, the table
/// once more as the head; in one file, and in two of which an index in any order tells.
#[test]
fn tensors_may_lie_anywhere() {
    for model in &MODELS {
        let (gpt, parameters) = load(model.name, DType::F32, device());
        let expected = parameters.to_host().unwrap();
        let mut tensors = raw(&directory(model.name));
        let table = ["model.embed_tokens.weight", "transformer.wte.weight"];
        if gpt.config().tie_weights {
            let mut head = tensors
                .iter()
                .find(|raw| table.contains(&&*raw.0))
                .unwrap()
                .clone();
            head.0 = "lm_head.weight".to_owned();
            tensors.push(head);
        }
        let constant = match model.name {
            "gpt2" => "transformer.h.1.attn.bias",
            _ => "model.layers.1.self_attn.rotary_emb.inv_freq",
        };
        tensors.push((constant.to_owned(), json!("F32"), vec![3], vec![1; 12]));
        for (name, ..) in &mut tensors {
            let bare = name
                .strip_prefix("model.")
                .or(name.strip_prefix("transformer."));
            *name = bare.unwrap_or(name).to_owned();
        }
        tensors.sort_by(|a, b| b.0.cmp(&a.0));
        for files in [1, 2] {
            let path = scratch("models_layouts", model.name);
            let config = directory(model.name).join("config.json");
            fs::copy(config, path.join("config.json")).unwrap();
            if files == 1 {
                write(&path.join("model.safetensors"), &tensors);
            } else {
                let mut map = Map::new();
                for (file, tensors) in ["b.safetensors", "a.safetensors"]
                    .iter()
                    .zip(tensors.chunks(tensors.len() - 3))
                {
                    write(&path.join(file), tensors);
                    map.extend(tensors.iter().map(|raw| (raw.0.clone(), json!(file))));
                }
                let index = json!({ "weight_map": map }).to_string();
                fs::write(path.join("model.safetensors.index.json"), index).unwrap();
            }
            let opened = ModelFiles::open(&path).unwrap();
            let (_, parameters) = opened.load(device()).unwrap();
            assert!(parameters.to_host().unwrap() == expected, "{}", model.name);
            let before = contents(&path);
            opened.save(&path, &parameters).unwrap();
            for (name, bytes) in contents(&path) {
                let is_kept = bytes == before[&name] || name == "config.json";
                assert!(is_kept, "{}: {name} differs", model.name);
            }
        }
    }
}
