//! Low-rank adapters as the `peft` library trains and saves them, `golden/lora`, made by `golden/make_lora.py`.
//! `golden/check_saved.py` opens what these tests leave behind with `peft`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shadegrad::checkpoint::{self, Checkpoint, Metadata};
use shadegrad::hugging_face::{Adapter, AdapterFiles, ModelFiles};
use shadegrad::nn::{Gpt, LoraConfig, ParameterBuilder, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer, ParameterGroups};
use shadegrad::{DType, Tape};

use super::files::scratch;
use super::saved::leave_logits;
use super::tensors::Tensors;
use super::{TOLERANCE, directory, logits};
use crate::common::{assert_close, device, wide};

const NAMES: [&str; 3] = ["llama", "gpt2", "qwen3"];
const STEPS: usize = 20;

fn golden(name: &str, part: &str) -> PathBuf {
    directory("../lora").join(name).join(part)
}

/// A model that stays as it is, with the adapters of a directory.
fn load(name: &str, adapter: &Path) -> (Gpt, Adapter, Parameters) {
    let files = ModelFiles::open(directory(name)).unwrap();
    let (mut gpt, _) = files.load_frozen(DType::F32, Some(0.0), device()).unwrap();
    let saved = AdapterFiles::open(adapter).unwrap();
    let (adapter, parameters) = saved.load(&files, &mut gpt, device()).unwrap();
    (gpt, adapter, parameters)
}

/// As PyTorch's AdamW by default, which knows no groups.
fn optimizer(adapters: &Parameters) -> AdamW {
    let config = AdamWConfig {
        groups: ParameterGroups::DEFAULT,
        ..AdamWConfig::default()
    };
    AdamW::new(adapters, config).unwrap()
}

/// The texts of a step, and what follows.
fn texts(expected: &Tensors, step: usize) -> [Vec<u32>; 2] {
    ["tokens", "targets"].map(|name| {
        let ids = expected.ids(name);
        ids.chunks(ids.len() / STEPS).nth(step).unwrap().to_vec()
    })
}

fn train(gpt: &Gpt, optimizer: &mut AdamW, expected: &Tensors, until: usize) -> Vec<f32> {
    let steps = optimizer.steps() as usize..until;
    let losses = steps.map(|step| {
        let tape = Tape::training(device());
        let ids = texts(expected, step);
        let [tokens, targets] = [0, 1].map(|i| tape.input([2, ids[i].len() / 2], &ids[i]));
        let loss = gpt.loss(tokens, targets, CrossEntropy::default());
        let report = optimizer.step(&tape, loss, 1e-2).fetch();
        tape.run().unwrap();
        report.get().unwrap().loss
    });
    losses.collect()
}

#[test]
fn twenty_steps_are_those_of_peft() {
    for name in NAMES {
        let expected = Tensors::read(&golden(name, "expected.safetensors"));
        let (gpt, adapter, parameters) = load(name, &golden(name, "start"));
        let losses = train(&gpt, &mut optimizer(&parameters), &expected, STEPS);
        let curve = wide(expected.floats("losses"));
        assert_close(name, &losses, &curve, 0.0, TOLERANCE);

        let saved = scratch("lora_saved", name);
        adapter.save(&saved, None).unwrap();
        let [ours, theirs] = [saved.clone(), golden(name, "tuned")]
            .map(|folder| Tensors::read(&folder.join("adapter_model.safetensors")));
        assert!(ours.names().eq(theirs.names()));
        for factor in theirs.names() {
            assert_eq!(ours.get(factor).0, theirs.get(factor).0, "{name}: {factor}");
            let values = wide(theirs.floats(factor));
            assert_close(factor, ours.floats(factor), &values, 0.0, 1e-4);
        }
        let [tokens, _] = texts(&expected, 0);
        leave_logits(&saved, &tokens, &logits(&gpt, 2, &tokens));
    }
}

#[test]
fn adapters_of_peft_give_its_logits_and_so_does_the_merged_model() {
    for name in NAMES {
        let expected = Tensors::read(&golden(name, "expected.safetensors"));
        let [tokens, _] = texts(&expected, 0);
        let (mut gpt, adapter, parameters) = load(name, &golden(name, "tuned"));
        let adapted = logits(&gpt, 2, &tokens);
        assert_close(
            name,
            &adapted,
            &wide(expected.floats("logits")),
            0.0,
            TOLERANCE,
        );
        // The cache sees adapters as well.
        let mut cache = gpt.kv_cache(2, 12).unwrap();
        let tape = Tape::inference(device());
        let cached = gpt.cached_logits(tape.input([2, 12], &tokens), &mut cache);
        let cached = tape.fetch::<f32>(cached);
        tape.run().unwrap();
        assert_close(name, &cached.get().unwrap(), &wide(&adapted), 0.0, 1e-5);

        // Saved again, they are the same, and what is known of them besides.
        let saved = scratch("lora_again", name);
        adapter.save(&saved, None).unwrap();
        let read = |folder: &Path, file: &str| fs::read(folder.join(file)).unwrap();
        let json = |folder: &Path| -> Value {
            serde_json::from_slice(&read(folder, "adapter_config.json")).unwrap()
        };
        let tuned = golden(name, "tuned");
        assert_eq!(json(&saved), json(&tuned));
        let weights = "adapter_model.safetensors";
        assert_eq!(read(&saved, weights), read(&tuned, weights), "{name}");

        for linear in gpt.linears_mut() {
            linear.merge_lora().unwrap();
        }
        drop(parameters);
        assert_close(name, &logits(&gpt, 2, &tokens), &wide(&adapted), 0.0, 1e-5);
        // The same by way of files, for `transformers` to open.
        let files = ModelFiles::open(directory(name)).unwrap();
        let (mut gpt, weights) = files.load(device()).unwrap();
        let opened = AdapterFiles::open(tuned).unwrap();
        opened.load(&files, &mut gpt, device()).unwrap();
        for linear in gpt.linears_mut() {
            linear.merge_lora().unwrap();
        }
        let merged = scratch("models_merged", name);
        files.save(&merged, &weights).unwrap();
        let (gpt, _) = ModelFiles::open(&merged).unwrap().load(device()).unwrap();
        let reopened = logits(&gpt, 2, &tokens);
        assert_close(name, &reopened, &wide(&adapted), 0.0, 1e-5);
        leave_logits(&merged, &tokens, &reopened);
    }
}

#[test]
fn a_training_that_is_resumed_ends_at_the_same_bits() {
    let name = NAMES[0];
    let expected = Tensors::read(&golden(name, "expected.safetensors"));
    let bits = |parameters: &Parameters| -> Vec<u32> {
        let values = parameters.to_host().unwrap().into_iter();
        values
            .flat_map(|(.., values)| values)
            .map(f32::to_bits)
            .collect()
    };
    let (gpt, _, parameters) = load(name, &golden(name, "start"));
    train(&gpt, &mut optimizer(&parameters), &expected, 8);
    let path = scratch("lora_resumed", name).join("checkpoint.safetensors");
    let (gpt, _, parameters) = load(name, &golden(name, "start"));
    let mut first = optimizer(&parameters);
    train(&gpt, &mut first, &expected, 5);
    checkpoint::save(&path, &parameters, Some(&first), &Metadata::default()).unwrap();
    train(&gpt, &mut first, &expected, 8);
    let (gpt, _, resumed) = load(name, &golden(name, "start"));
    let mut second = optimizer(&resumed);
    let saved = Checkpoint::open(&path).unwrap();
    // Adapters and moments only.
    let largest = fs::metadata(&path).unwrap().len();
    assert!(
        largest < 3 * 4 * parameters.element_count() as u64 + 8000,
        "{largest} bytes"
    );
    saved.restore(&resumed, Some(&mut second)).unwrap();
    train(&gpt, &mut second, &expected, 8);
    assert_eq!(bits(&parameters), bits(&resumed));
}

#[test]
fn new_adapters_are_on_the_modules_that_are_named() {
    let files = ModelFiles::open(directory("llama")).unwrap();
    let add = |targets: &[&str]| {
        let (mut gpt, _) = files.load_frozen(DType::F32, None, device()).unwrap();
        let mut builder = ParameterBuilder::new(1);
        let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
        let adapter = files.add_lora(&mut gpt, &mut builder, &LoraConfig::new(2), &targets)?;
        let parameters = builder.build(device())?;
        let saved = scratch("lora_new", "llama");
        adapter.save(&saved, Some("models/llama"))?;
        let again = AdapterFiles::open(&saved)?;
        assert_eq!(again.config(), &LoraConfig::new(2));
        let (mut other, _) = files.load_frozen(DType::F32, None, device())?;
        let (_, loaded) = again.load(&files, &mut other, device())?;
        assert_eq!(loaded.to_host()?, parameters.to_host()?);
        let tensors = Tensors::read(&saved.join("adapter_model.safetensors"));
        Ok::<usize, shadegrad::Error>(tensors.names().count())
    };
    assert_eq!(files.lora_targets(), ["q_proj", "v_proj"]);
    assert_eq!(add(&["q_proj", "v_proj"]).unwrap(), 2 * 2 * 3);
    assert_eq!(
        add(&["self_attn.k_proj", "model.layers.1.mlp.down_proj"]).unwrap(),
        2 * 4
    );
    assert_eq!(add(&["all-linear"]).unwrap(), 2 * 7 * 3);
    for targets in [&["q_proj", "proj"][..], &["lm_head"], &[]] {
        let error = add(targets).unwrap_err().to_string();
        let given = targets.last().unwrap_or(&"none");
        let expected = format!(
            "target module = {given} is not possible: expected some of down_proj, gate_proj, k_proj, o_proj, q_proj, \
             up_proj, v_proj, or all-linear"
        );
        assert_eq!(error, expected);
    }
}

/// Each names the file, and what is wrong in one line.
#[test]
fn directories_that_cannot_be_followed_are_refused() {
    let files = ModelFiles::open(directory("llama")).unwrap();
    let (mut gpt, _) = files.load_frozen(DType::F32, None, device()).unwrap();
    let folder = scratch("lora_refused", "llama");
    let start = golden("llama", "start");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(start.join(file), folder.join(file)).unwrap();
    }
    let path = folder.join("adapter_config.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut refuse = |value: &Value, reason: &str| {
        fs::write(&path, serde_json::to_vec(value).unwrap()).unwrap();
        let opened = AdapterFiles::open(&folder);
        let loaded = opened.and_then(|opened| opened.load(&files, &mut gpt, device()));
        let error = loaded.unwrap_err().to_string();
        assert!(error.contains(folder.to_str().unwrap()), "{error}");
        assert!(
            error.contains(reason) && !error.contains('\n'),
            "{error}, expected {reason}"
        );
    };
    for (key, value, reason) in [
        (
            "peft_type",
            json!("IA3"),
            "peft_type is `IA3`; expected LORA",
        ),
        ("use_dora", json!(true), "use_dora = true is not supported"),
        ("bias", json!("all"), "bias = \"all\" is not supported"),
        (
            "rank_pattern",
            json!({"q_proj": 4}),
            "rank_pattern = {\"q_proj\":4} is not",
        ),
        (
            "alpha_pattern",
            json!({"q_proj": 4}),
            "alpha_pattern = {\"q_proj\":4} is not",
        ),
        (
            "modules_to_save",
            json!(["lm_head"]),
            "modules_to_save = [\"lm_head\"] is not",
        ),
        (
            "init_lora_weights",
            json!("pissa"),
            "init_lora_weights = \"pissa\" is not",
        ),
        (
            "layer_replication",
            json!([[0, 2]]),
            "layer_replication = [[0,2]] is not",
        ),
        ("lora_bias", json!(true), "lora_bias = true is not"),
        (
            "something_new",
            json!("yes"),
            "something_new = \"yes\" is not",
        ),
        ("r", json!(0), "rank = 0 is not possible"),
        ("r", json!(-3), "it describes no adapter"),
        ("r", Value::Null, "it describes no adapter"),
        ("lora_dropout", json!(1.5), "dropout = 1.5 is not possible"),
        (
            "r",
            json!(4),
            "lora_A.weight` has shape [3, 36], the model needs [4, 36]",
        ),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        refuse(&bad, reason);
    }
    let twice = good.to_string().replacen('{', "{\"use_dora\": true, ", 1);
    fs::write(&path, twice).unwrap();
    let error = AdapterFiles::open(&folder).unwrap_err().to_string();
    assert!(error.contains("`use_dora` stands there twice"), "{error}");
    // For `peft`, tensors count only where the configuration wants adapters.
    let reason = "which target_modules, exclude_modules and layers_to_transform of adapter_config.json leave out";
    for (key, value) in [
        ("target_modules", json!(["nothing"])),
        ("target_modules", json!(["proj"])),
        ("exclude_modules", json!(["layers.1.self_attn.q_proj"])),
        ("layers_to_transform", json!([0, 2])),
        ("layers_to_transform", json!(1)),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        refuse(&bad, reason);
    }
    for (key, value) in [
        ("target_modules", json!(".*_proj")),
        ("layers_to_transform", json!([0, 1, 2])),
        ("exclude_modules", json!(["lm_head"])),
    ] {
        let mut other = good.clone();
        other[key] = value;
        fs::write(&path, serde_json::to_vec(&other).unwrap()).unwrap();
        let (mut gpt, _) = files.load_frozen(DType::F32, None, device()).unwrap();
        let opened = AdapterFiles::open(&folder).unwrap();
        opened.load(&files, &mut gpt, device()).unwrap();
    }
    // Adapters of other models, and of layers that have none here.
    let (_, qwen, _) = load("qwen3", &golden("qwen3", "start"));
    qwen.save(&folder, None).unwrap();
    let json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    refuse(&json, "is no adapter of a linear layer of the model");
    fs::remove_file(folder.join("adapter_model.safetensors")).unwrap();
    refuse(&good, "adapter_model.safetensors");
    fs::write(folder.join("adapter_model.bin"), "").unwrap();
    refuse(&good, "save them with peft once more");
}
