//! Directories that cannot be loaded, of every kind: each is one line that names the file, what is wrong, and what would be
//! right.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use shadegrad::Error;
use shadegrad::hugging_face::ModelFiles;

use super::files::{Owned, scratch};
use super::golden;
use crate::common::device;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The shard with the head.
const FIRST: &str = "model-00001-of-00004.safetensors";

/// A copy of a golden directory.
struct Copy(PathBuf);

impl Copy {
    fn of(name: &str, test: &str) -> Copy {
        let copy = scratch(test);
        let files = fs::read_dir(golden().parent().unwrap().join("models").join(name)).unwrap();
        for file in files {
            let path = file.unwrap().path();
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
        Copy(copy)
    }

    fn write(&self, file: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.0.join(file), contents).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.0.join(file)).unwrap();
    }

    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let mut json = serde_json::from_slice(&fs::read(self.0.join(file)).unwrap()).unwrap();
        change(&mut json);
        self.write(file, serde_json::to_vec(&json).unwrap());
    }

    /// Sets a key of the configuration.
    fn set(&self, key: &str, value: Value) {
        self.edit(CONFIG, |json| json[key] = value);
    }

    /// Replaces a text of the configuration.
    fn replace(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.0.join(CONFIG)).unwrap();
        assert!(text.contains(from), "{from}");
        self.write(CONFIG, text.replacen(from, to, 1));
    }

    /// Changes the tensors of a file.
    fn tensors(&self, file: &str, change: impl FnOnce(&mut HashMap<String, Owned>)) {
        let bytes = fs::read(self.0.join(file)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let owned = tensors.iter().map(|(name, view)| {
            let owned = Owned {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            (name.to_owned(), owned)
        });
        let mut owned = owned.collect();
        change(&mut owned);
        let views = owned.iter().map(|(name, tensor)| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
            (name, view.unwrap())
        });
        self.write(file, safetensors::serialize(views, None).unwrap());
    }

    fn cut(&self, file: &str, length: u64) {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(self.0.join(file))
            .unwrap();
        file.set_len(length).unwrap();
    }
}

/// The golden directory, what is done to it, the file that is to blame, and what is said of it.
type Bad = (&'static str, fn(&Copy), &'static str, &'static str);

const CONFIGURATIONS: &[Bad] = &[
    (
        "llama",
        |c| c.set("model_type", json!("mamba")),
        CONFIG,
        "its model_type is `mamba`; expected one of gpt2, llama, mistral, qwen2, qwen3, gemma3_text",
    ),
    (
        "llama",
        |c| c.set("model_type", json!("ll\na\u{1b}[31mma\0")),
        CONFIG,
        "its model_type is `ll\\na\\u{1b}[31mma\\u{0}`; expected one of ",
    ),
    (
        "llama",
        |c| c.set("model_type", Value::Null),
        CONFIG,
        "it names no model_type; expected one of gpt2, ",
    ),
    (
        "llama",
        |c| c.set("model_type", json!(["llama"])),
        CONFIG,
        "model_type: invalid type: sequence, expected a string",
    ),
    (
        "llama",
        |c| c.write(CONFIG, "{"),
        CONFIG,
        "it is no configuration of a model: EOF",
    ),
    (
        "llama",
        |c| c.write(CONFIG, "[]"),
        CONFIG,
        "it is no configuration of a model: invalid type: sequence, expected an object",
    ),
    (
        "llama",
        |c| c.write(CONFIG, b"\xff\xfe{\0}\0"),
        CONFIG,
        "it is no configuration of a model: ",
    ),
    (
        "llama",
        |c| c.write(CONFIG, "{\"a\":".repeat(100_000)),
        CONFIG,
        "it is no configuration of a model: recursion limit exceeded",
    ),
    (
        "llama",
        |c| c.replace("0.003", "1e999"),
        CONFIG,
        "it is no configuration of a model: number out of range",
    ),
    (
        "llama",
        |c| c.replace("\"rms_norm_eps\"", "\"hidden_size\": 36, \"rms_norm_eps\""),
        CONFIG,
        "it is no configuration of a model: `hidden_size` stands there twice",
    ),
    (
        "llama",
        |c| c.cut(CONFIG, 100_000_001),
        CONFIG,
        "it has more than 100 MB: that is something else",
    ),
    (
        "llama",
        |c| c.set("num_hidden_layers", json!(1_000_000_000)),
        CONFIG,
        "num_hidden_layers = 1000000000 is not possible: expected 1 to 4096",
    ),
    (
        "llama",
        |c| c.set("num_hidden_layers", json!("3")),
        CONFIG,
        "num_hidden_layers: invalid type: string \"3\", expected usize",
    ),
    (
        "llama",
        |c| c.set("hidden_size", json!(-36)),
        CONFIG,
        "hidden_size: invalid value: integer `-36`, expected usize",
    ),
    (
        "llama",
        |c| c.set("hidden_size", json!(36.0)),
        CONFIG,
        "hidden_size: invalid type: floating point `36.0`, expected usize",
    ),
    (
        "llama",
        |c| c.set("vocab_size", json!(1u64 << 63)),
        CONFIG,
        "vocab_size = 9223372036854775808 is not possible: expected 1 to 16777216",
    ),
    (
        "llama",
        |c| {
            c.set("vocab_size", json!(1 << 24));
            c.set("hidden_size", json!(6000));
        },
        CONFIG,
        "the model's size = ",
    ),
    (
        "llama",
        |c| c.set("rms_norm_eps", json!(0)),
        CONFIG,
        "rms_norm_eps = 0 is not possible: expected a positive number",
    ),
    (
        "llama",
        |c| c.set("attention_dropout", json!(1.5)),
        CONFIG,
        "attention_dropout = 1.5 is not possible: expected 0 or more, below 1",
    ),
    (
        "llama",
        |c| c.set("attention_bias", json!(1)),
        CONFIG,
        "attention_bias: invalid type: integer `1`, expected a boolean",
    ),
    (
        "llama",
        |c| c.set("hidden_act", json!("relu6")),
        CONFIG,
        "hidden_act `relu6` is not known: expected one of silu, swish, ",
    ),
    (
        "llama",
        |c| c.set("num_key_value_heads", json!(4)),
        CONFIG,
        "num_key_value_heads = 4 is not possible: expected a divisor of num_attention_heads = 6",
    ),
    (
        "gpt2",
        |c| c.set("num_attention_heads", json!(6)),
        CONFIG,
        "n_head and num_attention_heads are one key, and say different things",
    ),
    (
        "llama",
        |c| c.set("num_attention_heads", json!(5)),
        CONFIG,
        "num_key_value_heads = 3 is not possible: expected a divisor of num_attention_heads = 5",
    ),
    (
        "llama",
        |c| {
            c.set("num_attention_heads", json!(5));
            c.set("num_key_value_heads", Value::Null);
        },
        CONFIG,
        "hidden_size = 36 is no multiple of num_attention_heads = 5",
    ),
    (
        "llama",
        |c| c.set("head_dim", json!(7)),
        CONFIG,
        "head_dim = 7 is not possible: expected heads of even extent for rotary positions, not of 7",
    ),
    (
        "llama",
        |c| c.set("eos_token_id", json!("</s>")),
        CONFIG,
        "eos_token_id: expected a token's number or a list of such",
    ),
    (
        "llama",
        |c| {
            c.edit(CONFIG, |json| {
                json["rope_parameters"]["rope_type"] = json!("longrope")
            })
        },
        CONFIG,
        "rope_type `longrope` is not supported: expected one of default, linear, llama3, yarn",
    ),
    (
        "llama",
        |c| {
            c.edit(CONFIG, |json| {
                json["rope_parameters"]["factor"] = Value::Null
            })
        },
        CONFIG,
        "rope_parameters.factor is missing",
    ),
    (
        "llama",
        |c| c.set("rope_scaling", json!({"type": "linear", "factor": 0})),
        CONFIG,
        "rotary.scaling.factor = 0 is not possible: expected a positive number",
    ),
    (
        "llama",
        |c| c.set("rope_scaling", json!(2)),
        CONFIG,
        "rope_scaling = 2 is no object",
    ),
    (
        "llama",
        |c| {
            c.set(
                "rope_parameters",
                json!({"full_attention": {"rope_type": "default"}}),
            )
        },
        CONFIG,
        "rope_parameters by kind of layer is not supported",
    ),
    (
        "gemma3_text",
        |c| c.set("rope_parameters", json!({"rope_type": "default"})),
        CONFIG,
        "rope_parameters has neither full_attention nor sliding_attention",
    ),
    (
        "gemma3_text",
        |c| c.set("rope_scaling", json!({"rope_type": "linear", "factor": 8})),
        CONFIG,
        "rope_scaling stands beside rope_parameters: leave out the one that doesn't hold",
    ),
    (
        "llama",
        |c| c.set("partial_rotary_factor", json!(0.5)),
        CONFIG,
        "partial_rotary_factor = 0.5 is not supported, only 1",
    ),
    (
        "llama",
        |c| c.set("quantization_config", json!({"bits": 4})),
        CONFIG,
        "quantization_config = {\"bits\":4} is not supported, only null",
    ),
    (
        "qwen3",
        |c| c.set("per_layer_config", json!({"0": {"head_dim": 8}})),
        CONFIG,
        "per_layer_config = {\"0\":{\"head_dim\":8}} is not supported, only null",
    ),
    (
        "gemma3_text",
        |c| c.set("final_logit_softcapping", json!(30.0)),
        CONFIG,
        "final_logit_softcapping = 30.0 is not supported, only null",
    ),
    (
        "llama",
        |c| c.set("attn_logit_softcapping", json!(50)),
        CONFIG,
        "attn_logit_softcapping = 50 is not supported, only null",
    ),
    (
        "gemma3_text",
        |c| c.set("use_bidirectional_attention", json!(true)),
        CONFIG,
        "use_bidirectional_attention = true is not supported, only false",
    ),
    (
        "gemma3_text",
        |c| c.set("query_pre_attn_scalar", json!(-4)),
        CONFIG,
        "query_pre_attn_scalar = ",
    ),
    (
        "gemma3_text",
        |c| c.set("layer_types", json!(["full_attention"])),
        CONFIG,
        "layer_types has 1 entries for ",
    ),
    (
        "gemma3_text",
        |c| {
            c.edit(CONFIG, |json| {
                json["layer_types"][1] = json!("chunked_attention")
            })
        },
        CONFIG,
        "layer_types has `chunked_attention`: expected full_attention or sliding_attention",
    ),
    (
        "gemma3_text",
        |c| c.set("sliding_window", Value::Null),
        CONFIG,
        "layer_types has a sliding_attention, but there is no sliding_window",
    ),
    (
        "mistral",
        |c| c.set("sliding_window", json!(0)),
        CONFIG,
        "sliding_window is 0: expected 1 or more, or null",
    ),
    (
        "mistral",
        |c| c.set("layer_types", json!(vec!["full_attention"; 3])),
        CONFIG,
        "layer_types ",
    ),
    (
        "llama",
        |c| c.set("sliding_window", json!(64)),
        CONFIG,
        "sliding_window = 64 is not supported, only null",
    ),
];

/// What doesn't fit the weights, and weights that are no weights.
const FILES: &[Bad] = &[
    (
        "llama",
        |c| c.set("intermediate_size", json!(51)),
        "",
        "the model of config.json needs [51, 36]",
    ),
    (
        "llama",
        |c| c.set("num_hidden_layers", json!(4)),
        "",
        "tensor `model.layers.3.input_layernorm.weight`, which the model of config.json needs, is missing",
    ),
    (
        "llama",
        |c| c.set("num_hidden_layers", json!(2)),
        "",
        "belongs to no part of the model of config.json, which has 2 layers",
    ),
    (
        "llama",
        |c| c.set("attention_bias", json!(true)),
        "",
        "tensor `model.layers.0.self_attn.q_proj.bias`, which the model of config.json needs, is missing",
    ),
    (
        "qwen2",
        |c| {
            c.set("model_type", json!("llama"));
            c.set("sliding_window", Value::Null);
            c.set("layer_types", Value::Null);
        },
        WEIGHTS,
        "belongs to no part of the model of config.json",
    ),
    (
        "gemma3_text",
        |c| c.set("tie_word_embeddings", json!(false)),
        WEIGHTS,
        "tensor `lm_head.weight`, which the model of config.json needs, is missing: if it is tied to the token table, set \
         tie_word_embeddings to true",
    ),
    (
        "qwen3",
        |c| {
            c.remove(WEIGHTS);
            c.write("pytorch_model.bin", "");
        },
        "",
        "there is a pytorch_model.bin, but no model.safetensors: the weights are in PyTorch's own format: save the model \
         with transformers once more",
    ),
    (
        "llama",
        |c| c.remove("model-00003-of-00004.safetensors"),
        INDEX,
        "it names model-00003-of-00004.safetensors, which is not there: get that file, too",
    ),
    (
        "llama",
        |c| c.write(INDEX, "{}"),
        INDEX,
        "it is no index of weights: missing field `weight_map`",
    ),
    (
        "llama",
        |c| c.edit(INDEX, |json| json["weight_map"] = json!({})),
        INDEX,
        "its weight_map is empty",
    ),
    (
        "llama",
        |c| {
            c.edit(INDEX, |json| {
                json["weight_map"] = json!({"lm_head.weight": 1})
            })
        },
        INDEX,
        "it is no index of weights: invalid type: integer `1`, expected a string",
    ),
    (
        "llama",
        |c| {
            let double =
                format!("{{\"weight_map\": {{\"x\": \"{FIRST}\", \"x\": \"{WEIGHTS}\"}}}}");
            c.write(INDEX, double);
        },
        INDEX,
        "it is no index of weights: `x` stands there twice",
    ),
    (
        "llama",
        |c| {
            c.edit(INDEX, |json| {
                json["weight_map"]["x"] = json!("../../etc/passwd")
            })
        },
        INDEX,
        "its weight_map names `../../etc/passwd`, which is no file's name",
    ),
    (
        "llama",
        |c| c.edit(INDEX, |json| json["weight_map"]["x"] = json!("/etc/passwd")),
        INDEX,
        "its weight_map names `/etc/passwd`, which is no file's name",
    ),
    (
        "llama",
        |c| c.edit(INDEX, |json| json["weight_map"]["x"] = json!("..")),
        INDEX,
        "its weight_map names `..`, which is no file's name",
    ),
    (
        "llama",
        |c| {
            fs::create_dir(c.0.join("folder")).unwrap();
            c.edit(INDEX, |json| json["weight_map"]["x"] = json!("folder"));
        },
        "folder",
        "it is not a regular file",
    ),
    (
        "llama",
        |c| c.edit(INDEX, |json| json["weight_map"]["x"] = json!(CONFIG)),
        CONFIG,
        "it is not a safetensors file",
    ),
    (
        "llama",
        |c| {
            c.edit(INDEX, |json| {
                json["weight_map"]
                    .as_object_mut()
                    .unwrap()
                    .remove("model.norm.weight");
            });
        },
        INDEX,
        "tensor `model.norm.weight` of model-00003-of-00004.safetensors is not in the index",
    ),
    (
        "llama",
        |c| c.edit(INDEX, |json| json["weight_map"]["x"] = json!(FIRST)),
        INDEX,
        "tensor `x` is not in model-00001-of-00004.safetensors",
    ),
    (
        "llama",
        |c| {
            let head = Owned {
                dtype: Dtype::F32,
                shape: vec![1],
                bytes: vec![0; 4],
            };
            c.tensors("model-00002-of-00004.safetensors", |all| {
                all.insert("lm_head.weight".to_owned(), head);
            });
        },
        INDEX,
        "tensor `lm_head.weight` is in model-00002-of-00004.safetensors, the index says ",
    ),
    (
        "llama",
        |c| c.cut(FIRST, 1000),
        FIRST,
        "it is truncated or damaged",
    ),
    ("llama", |c| c.cut(FIRST, 0), FIRST, "it is empty"),
    (
        "llama",
        |c| c.write(FIRST, "<html>sign in</html>"),
        FIRST,
        "it is not a safetensors file",
    ),
    (
        "llama",
        |c| {
            c.write(
                FIRST,
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            )
        },
        FIRST,
        "it is a pointer of Git LFS, not the file that it stands for: fetch that with `git lfs pull`",
    ),
    (
        "mistral",
        |c| {
            c.tensors(WEIGHTS, |all| {
                all.get_mut("model.norm.weight").unwrap().dtype = Dtype::I16;
            });
        },
        WEIGHTS,
        "expected one of F32, F16, BF16",
    ),
    (
        "qwen3",
        |c| {
            c.tensors(WEIGHTS, |all| {
                let table = all.get_mut("model.embed_tokens.weight").unwrap();
                table.shape.reverse();
            });
        },
        WEIGHTS,
        "tensor `model.embed_tokens.weight` has shape ",
    ),
    (
        "qwen3",
        |c| {
            c.tensors(WEIGHTS, |all| {
                let norm = all["model.norm.weight"].clone();
                all.insert("model.layers.0.mlp.experts.weight".to_owned(), norm);
            });
        },
        WEIGHTS,
        "tensor `model.layers.0.mlp.experts.weight` belongs to no part of the model of config.json",
    ),
    (
        "qwen3",
        |c| with_numbers(c, f32::NAN),
        WEIGHTS,
        "tensor `model.layers.0.input_layernorm.weight` holds NaN at element 2: the model is damaged or its training has \
         diverged; use an older copy",
    ),
    (
        "qwen3",
        |c| with_numbers(c, f32::NEG_INFINITY),
        WEIGHTS,
        "tensor `model.layers.0.input_layernorm.weight` holds -inf at element 2: ",
    ),
];

/// Puts a number among the weights of a norm, which are F32 here.
fn with_numbers(copy: &Copy, number: f32) {
    copy.tensors(WEIGHTS, |all| {
        let norm = all
            .get_mut("model.layers.0.input_layernorm.weight")
            .unwrap();
        let count = norm.shape[0];
        let mut numbers = vec![1.0; count];
        numbers[2] = number;
        norm.dtype = Dtype::F32;
        norm.bytes = numbers.iter().flat_map(|n: &f32| n.to_le_bytes()).collect();
    });
}

fn load(directory: &Path) -> Result<(), Error> {
    ModelFiles::open(directory)?.load(device())?;
    Ok(())
}

#[test]
fn each_is_one_line() {
    for (number, (name, change, file, says)) in CONFIGURATIONS.iter().chain(FILES).enumerate() {
        let copy = Copy::of(name, "bad");
        load(&copy.0).unwrap();
        change(&copy);
        let error = match load(&copy.0) {
            Err(error) => error.to_string(),
            Ok(()) => panic!("{number}: nothing is said, but expected `{says}`"),
        };
        let path = match *file {
            "" => copy.0.clone(),
            file => copy.0.join(file),
        };
        let expected = (path.to_str().unwrap(), *says);
        let has = error.contains(expected.0) && error.contains(expected.1);
        assert!(
            has && error.lines().count() == 1,
            "{number}: {error}\nnot {expected:?}"
        );
    }
}

/// As in a copy that has been fetched by half: nothing reads on as if nobody had wanted the file.
#[test]
#[cfg(unix)]
fn links_that_lead_nowhere() {
    use std::os::unix::fs::symlink;

    let copy = Copy::of("qwen3", "links");
    for file in [CONFIG, WEIGHTS, "generation_config.json"] {
        let (path, kept) = (copy.0.join(file), copy.0.join("kept"));
        let is_there = path.exists();
        if is_there {
            fs::rename(&path, &kept).unwrap();
        }
        symlink("nowhere", &path).unwrap();
        let error = load(&copy.0).unwrap_err().to_string();
        let expected = format!("cannot access {}: ", path.display());
        assert!(error.starts_with(&expected), "{error}");
        copy.remove(file);
        if is_there {
            fs::rename(&kept, &path).unwrap();
        }
        load(&copy.0).unwrap();
    }
}

#[test]
fn what_is_no_directory() {
    let nowhere = scratch("nowhere").join("models");
    for (directory, expected) in [
        (nowhere.clone(), nowhere.join(CONFIG)),
        (golden().join(CONFIG), golden().join(CONFIG).join(CONFIG)),
    ] {
        let error = load(&directory).unwrap_err().to_string();
        let expected = format!("cannot access {}: ", expected.display());
        assert!(error.starts_with(&expected), "{error}");
    }
    let copy = Copy::of("qwen3", "no_directory");
    copy.remove(CONFIG);
    fs::create_dir(copy.0.join(CONFIG)).unwrap();
    let error = load(&copy.0).unwrap_err().to_string();
    assert!(error.ends_with("it is not a regular file"), "{error}");
}
