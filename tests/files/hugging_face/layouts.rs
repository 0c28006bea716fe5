//! Where the weights lie: heads that are tied and heads that are not, one file and several, and what is in the way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use safetensors::SafeTensors;
use serde_json::Value;
use shadegrad::hugging_face::{ModelFiles, SaveDType, export, export_in_files};
use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder, PositionKind};
use shadegrad::{DType, Error};

use super::files::{copy_with, scratch, tensors, write};
use super::golden;
use crate::common::device;

const TABLE: &str = "transformer.wte.weight";
const HEAD: &str = "lm_head.weight";

/// Every file of a directory.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = match entry.path().is_file() {
            true => fs::read(entry.path()).unwrap(),
            false => Vec::new(),
        };
        (name, bytes)
    });
    entries.collect()
}

/// A model of several files.
fn several() -> PathBuf {
    golden().parent().unwrap().join("models/llama")
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Head {
    Absent,
    Same,
    Other,
}

/// What `transformers` makes of all combinations, but that it draws a missing head at random.
#[test]
fn heads() {
    let said = "  \"tie_word_embeddings\": true,\n";
    for (says, text) in [
        (Some(true), said),
        (Some(false), "  \"tie_word_embeddings\": false,\n"),
        (None, ""),
    ] {
        for head in [Head::Absent, Head::Same, Head::Other] {
            for has_table in [true, false] {
                let what = format!("{says:?}, head {head:?}, table {has_table}");
                let directory = copy_with("heads", said, text);
                let mut stored = tensors();
                let table = stored[TABLE].clone();
                let mut own = table.clone();
                if head == Head::Other {
                    own.bytes[4..8].copy_from_slice(&2.5f32.to_le_bytes());
                }
                let values = |bytes: &[u8]| {
                    let numbers = bytes.as_chunks().0.iter();
                    numbers.map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
                };
                let needed = match has_table {
                    true => values(&table.bytes),
                    false => values(&own.bytes),
                };
                if head != Head::Absent {
                    stored.insert(HEAD.to_owned(), own.clone());
                }
                if !has_table {
                    stored.remove(TABLE);
                }
                write(&directory, &stored);
                let opened = ModelFiles::open(&directory);
                let is_tied = says != Some(false);
                let is_missing = match (is_tied, head) {
                    (true, Head::Absent) => !has_table,
                    (false, Head::Absent) => true,
                    (true, _) => false,
                    (false, _) => !has_table,
                };
                if is_missing {
                    let error = opened.unwrap_err().to_string();
                    assert!(error.contains("is missing"), "{what}: {error}");
                    continue;
                }
                let files = opened.unwrap();
                let (_, parameters) = files.load(device()).unwrap();
                let ours = parameters.get("token_embedding.weight").unwrap();
                assert!(ours.tensor().to_vec::<f32>().unwrap() == needed, "{what}");
                let has_own = !is_tied || (head == Head::Other && has_table);
                assert_eq!(files.config().tie_weights, !has_own, "{what}");
                if let Some(ours) = parameters.get("head.weight") {
                    let ours = ours.tensor().to_vec::<f32>().unwrap();
                    let theirs = values(&own.bytes);
                    let turned = (0..theirs.len()).map(|i| ours[i % 32 * 288 + i / 32]);
                    assert!(turned.eq(theirs), "{what}");
                }
                let saved = directory.join("saved");
                files.save(&saved, &parameters).unwrap();
                let [before, after] = [&directory, &saved]
                    .map(|directory| contents(directory)["model.safetensors"].clone());
                assert!(before == after, "{what}");
                let again = ModelFiles::open(&saved).unwrap();
                assert_eq!(again.config(), files.config(), "{what}");
            }
        }
    }
}

/// What is there stays, and all of it, where one file cannot be written.
#[test]
fn files_are_replaced_together_or_not_at_all() {
    let files = ModelFiles::open(several()).unwrap();
    let (_, parameters) = files.load(device()).unwrap();
    let saved = scratch("together");
    files.save(&saved, &parameters).unwrap();
    let whole = contents(&saved);
    assert_eq!(whole.len(), 6);
    for name in whole.keys().filter(|name| name.ends_with(".safetensors")) {
        let norm = parameters.get("norm.weight").unwrap();
        norm.tensor().write(&[0.25f32; 36]).unwrap();
        fs::remove_file(saved.join(name)).unwrap();
        fs::create_dir(saved.join(name)).unwrap();
        let error = files.save(&saved, &parameters).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
        let after = contents(&saved);
        assert!(after.keys().eq(whole.keys()), "{name}: something is left");
        let same = |(other, bytes): (&String, &Vec<u8>)| other == name || *bytes == whole[other];
        assert!(after.iter().all(same), "{name}: another file has changed");
        fs::remove_dir(saved.join(name)).unwrap();
        fs::write(saved.join(name), &whole[name]).unwrap();
    }
    // Who has opened the files before they were replaced reads what they were.
    #[cfg(unix)]
    {
        let opened = ModelFiles::open(&saved).unwrap();
        files.save(&saved, &parameters).unwrap();
        assert!(contents(&saved) != whole);
        let (_, before) = opened.load(device()).unwrap();
        let norm = before.get("norm.weight").unwrap();
        assert!(norm.tensor().to_vec::<f32>().unwrap() != [0.25; 36]);
        let after = ModelFiles::open(&saved).unwrap().load(device()).unwrap().1;
        assert!(after.to_host().unwrap() == parameters.to_host().unwrap());
    }
}

/// Readers would take the other ones. Nothing is removed, whoever has written it.
#[test]
fn weights_of_the_other_layout_are_in_the_way() {
    let index = "model.safetensors.index.json";
    for (from, other, name) in [
        (several(), "model.safetensors", "in_the_way_of_several"),
        (golden(), index, "in_the_way_of_one"),
        (golden(), "adapter_config.json", "in_the_way_of_adapters"),
    ] {
        let files = ModelFiles::open(from).unwrap();
        let (_, parameters) = files.load(device()).unwrap();
        let directory = scratch(name);
        fs::write(directory.join(other), "somebody's").unwrap();
        fs::write(directory.join("notes.txt"), "somebody's, too").unwrap();
        let before = contents(&directory);
        let expected = format!(
            "checkpoint {}: it holds a {other}, by which readers would find other weights than those to be saved: name \
             another directory, or remove that file",
            directory.display()
        );
        let saved = files.save(&directory, &parameters).unwrap_err();
        assert_eq!(saved.to_string(), expected);
        let checked = files.check_output(&directory).unwrap_err();
        assert_eq!(checked.to_string(), expected);
        if other != "model.safetensors" {
            let exported = export(&directory, files.config(), &parameters, None);
            assert_eq!(exported.unwrap_err().to_string(), expected);
        }
        assert!(contents(&directory) == before);
        fs::remove_file(directory.join(other)).unwrap();
        files.check_output(&directory).unwrap();
        files.save(&directory, &parameters).unwrap();
        assert!(directory.join("notes.txt").exists());
    }
}

/// Matrices of more numbers than are read from the device at a time, or turned.
#[test]
fn large_matrices_go_in_pieces() {
    let config = GptConfig {
        d_model: 512,
        d_ff: 6150,
        n_layers: 1,
        positions: PositionKind::Rotary,
        ..GptConfig::new(27)
    };
    let mut builder = ParameterBuilder::new(3);
    Gpt::new(&config, &mut builder).unwrap();
    let parameters = builder.build(device()).unwrap();
    let directory = scratch("export_large");
    export(&directory, &config, &parameters, None).unwrap();
    let (_, again) = ModelFiles::open(&directory)
        .unwrap()
        .load(device())
        .unwrap();
    assert!(again.to_host().unwrap() == parameters.to_host().unwrap());
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn exports_in_several_files() {
    let files = ModelFiles::open(several()).unwrap();
    let (_, parameters) = files.load(device()).unwrap();
    let expected = parameters.to_host().unwrap();
    for (largest, count) in [(0, 30), (20_000, 10), (60_000, 3), (1 << 20, 1)] {
        let directory = scratch("export_in_files");
        let (config, dtype) = (files.config(), SaveDType::AsStored);
        export_in_files(&directory, config, &parameters, None, dtype, largest).unwrap();
        let again = ModelFiles::open(&directory).unwrap();
        let (_, restored) = again.load(device()).unwrap();
        assert!(restored.to_host().unwrap() == expected, "{largest}");
        let mut found = contents(&directory);
        found.remove("config.json").unwrap();
        let index = found.remove("model.safetensors.index.json");
        assert_eq!(found.len(), count, "{largest}: {:?}", found.keys());
        let Some(index) = index else {
            assert!(found.contains_key("model.safetensors"));
            continue;
        };
        let index: Value = serde_json::from_slice(&index).unwrap();
        let numbers = files.config().parameter_count();
        assert_eq!(index["metadata"]["total_size"], 4 * numbers);
        assert_eq!(index["metadata"]["total_parameters"], numbers);
        for (number, (name, bytes)) in (1..).zip(&found) {
            assert_eq!(
                *name,
                format!("model-{number:05}-of-{count:05}.safetensors")
            );
            let shard = SafeTensors::deserialize(bytes).unwrap();
            let data: usize = shard.iter().map(|(_, tensor)| tensor.data().len()).sum();
            assert!(data as u64 <= largest || shard.len() == 1, "{name}: {data}");
            for tensor in shard.names() {
                assert_eq!(index["weight_map"][tensor], **name);
            }
        }
    }
}

#[test]
fn progress_ends_with_everything() {
    for dtype in [DType::F32, DType::F16] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let files = ModelFiles::open(several()).unwrap().with_progress({
            let told = told.clone();
            move |done, all| told.lock().unwrap().push((done, all))
        });
        let (_, parameters) = files.load_as(dtype, device()).unwrap();
        let told = told.lock().unwrap();
        let all = (dtype.bytes() * parameters.element_count()) as u64;
        assert!(told.is_sorted() && told.iter().all(|(_, of)| *of == all));
        assert_eq!(told.last(), Some(&(all, all)));
    }
}
