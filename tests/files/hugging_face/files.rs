//! Other layouts of the same model, and writing what was read.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use shadegrad::hugging_face::{ModelFiles, export};
use shadegrad::nn::{FeedForwardKind, Gpt, GptConfig, NormKind, ParameterBuilder, Parameters};
use shadegrad::{DType, Error};

use super::golden;
use crate::common::device;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// A directory of its own for a test, empty.
pub fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hugging_face_{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// A copy of the golden directory with some text of its configuration replaced.
pub fn copy_with(name: &str, from: &str, to: &str) -> PathBuf {
    let path = scratch(name);
    let config = fs::read_to_string(golden().join(CONFIG)).unwrap();
    assert!(config.contains(from), "{from}");
    fs::write(path.join(CONFIG), config.replace(from, to)).unwrap();
    fs::copy(golden().join(WEIGHTS), path.join(WEIGHTS)).unwrap();
    path
}

/// A tensor by itself.
#[derive(Clone)]
pub struct Owned {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// The golden tensors by name.
pub fn tensors() -> HashMap<String, Owned> {
    let bytes = fs::read(golden().join(WEIGHTS)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned = file.tensors().into_iter().map(|(name, tensor)| {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        let bytes = tensor.data().to_vec();
        let owned = Owned {
            dtype,
            shape,
            bytes,
        };
        (name, owned)
    });
    owned.collect()
}

/// Writes tensors as the weights of a directory.
pub fn write(directory: &Path, tensors: &HashMap<String, Owned>) {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (name, view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(directory.join(WEIGHTS), bytes).unwrap();
}

fn load(directory: &Path) -> (ModelFiles, Gpt, Parameters) {
    let files = ModelFiles::open(directory).unwrap();
    let (gpt, parameters) = files.load(device()).unwrap();
    (files, gpt, parameters)
}

fn assert_same_files(a: &Path, b: &Path) {
    for file in [CONFIG, WEIGHTS] {
        let [a, b] = [a, b].map(|directory| fs::read(directory.join(file)).unwrap());
        assert!(a == b, "{file} differs");
    }
}

/// Loads, saves to another directory and over the own one, and compares bytes.
fn round_trip(directory: &Path) -> Parameters {
    let (files, _, parameters) = load(directory);
    let saved = directory.join("saved");
    files.save(&saved, &parameters).unwrap();
    assert_same_files(directory, &saved);
    let (files, _, parameters) = load(&saved);
    files.save(&saved, &parameters).unwrap();
    assert_same_files(directory, &saved);
    parameters
}

#[test]
fn saved_back_unchanged_it_is_the_same() {
    let saved = scratch("unchanged");
    let (files, _, parameters) = load(&golden());
    files.save(saved.join("new"), &parameters).unwrap();
    assert_same_files(&golden(), &saved.join("new"));
    // What the `transformers` library writes is also what a model of this crate is exported as.
    let config = files.config().clone();
    export(&saved, &config, &parameters, files.end_of_text()).unwrap();
    let [a, b] = [&golden(), &saved].map(|directory| fs::read(directory.join(WEIGHTS)).unwrap());
    assert!(a == b, "the export differs");
    let exported = ModelFiles::open(&saved).unwrap();
    assert_eq!(exported.config(), &config);
    assert_eq!(exported.end_of_text(), Some(287));
}

#[test]
fn changed_weights_are_saved() {
    let saved = scratch("changed");
    let (files, _, parameters) = load(&golden());
    let name = "blocks.1.ffn.up.bias";
    let values: Vec<f32> = (0..128).map(|i| i as f32 / 3.0).collect();
    parameters
        .get(name)
        .unwrap()
        .tensor()
        .write(&values)
        .unwrap();
    files.save(&saved, &parameters).unwrap();
    let (_, _, parameters) = load(&saved);
    for (saved, shape, values) in parameters.to_host().unwrap() {
        assert_eq!(values.len(), shape.elements());
        assert_eq!(saved == name, values.len() == 128 && values[3] == 1.0);
    }
}

/// As on the hub: without prefix, with the masks that old versions saved, and the tied head once more.
#[test]
fn bare_names_masks_and_a_tied_head() {
    let directory = copy_with("bare", "gelu_new", "gelu_pytorch_tanh");
    let mut bare = HashMap::new();
    for (name, tensor) in tensors() {
        bare.insert(
            name.strip_prefix("transformer.").unwrap().to_owned(),
            tensor,
        );
    }
    bare.insert("lm_head.weight".to_owned(), bare["wte.weight"].clone());
    for layer in 0..2 {
        let mask = |dtype, shape: &[usize], bytes| Owned {
            dtype,
            shape: shape.to_vec(),
            bytes,
        };
        let triangle = (0..64 * 64).map(|i| (i % 64 <= i / 64) as u8).collect();
        let bias = mask(Dtype::U8, &[1, 1, 64, 64], triangle);
        bare.insert(format!("h.{layer}.attn.bias"), bias);
        let masked = mask(Dtype::F32, &[], (-1e4f32).to_le_bytes().to_vec());
        bare.insert(format!("h.{layer}.attn.masked_bias"), masked);
    }
    write(&directory, &bare);
    let parameters = round_trip(&directory);
    let (_, _, expected) = load(&golden());
    assert_eq!(parameters.to_host().unwrap(), expected.to_host().unwrap());
}

#[test]
fn half_precision() {
    for (name, dtype) in [("f16", Dtype::F16), ("bf16", Dtype::BF16)] {
        let directory = copy_with(name, "gelu_new", "gelu_new");
        let round = |bytes: &[u8; 4]| {
            let value = f32::from_le_bytes(*bytes);
            match dtype {
                Dtype::F16 => (
                    f16::from_f32(value).to_le_bytes(),
                    f16::from_f32(value).to_f32(),
                ),
                _ => (
                    bf16::from_f32(value).to_le_bytes(),
                    bf16::from_f32(value).to_f32(),
                ),
            }
        };
        let mut small = tensors();
        let mut rounded = Vec::new();
        for (name, tensor) in &mut small {
            tensor.dtype = dtype;
            let numbers: Vec<_> = tensor.bytes.as_chunks().0.iter().map(round).collect();
            tensor.bytes = numbers.iter().flat_map(|(bytes, _)| *bytes).collect();
            if name == "transformer.wte.weight" {
                rounded.extend(numbers.iter().map(|(_, value)| *value));
            }
        }
        write(&directory, &small);
        let parameters = round_trip(&directory);
        let table = parameters.get("token_embedding.weight").unwrap();
        assert_eq!(table.tensor().to_vec::<f32>().unwrap(), rounded);
    }
}

/// Halves in memory: from files of every type, and exported as such; what is opened is saved in its own types.
#[test]
fn parameters_in_halves() {
    let exported = scratch("halves");
    let files = ModelFiles::open(golden()).unwrap();
    let (_, halves) = files.load_as(DType::F16, device()).unwrap();
    let (_, floats) = files.load(device()).unwrap();
    assert_eq!(2 * halves.bytes(), floats.bytes());
    export(&exported, files.config(), &halves, None).unwrap();
    let bytes = fs::read(exported.join(WEIGHTS)).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    for (name, tensor) in tensors() {
        let rounded = tensor.bytes.as_chunks().0.iter();
        let rounded = rounded.flat_map(|b| f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes());
        let written = read.tensor(&name).unwrap();
        assert_eq!(written.dtype(), Dtype::F16);
        assert_eq!(written.data(), rounded.collect::<Vec<u8>>(), "{name}");
    }
    // The file of halves, back into halves.
    let again = ModelFiles::open(&exported).unwrap();
    let (_, same) = again.load_as(DType::F16, device()).unwrap();
    assert_eq!(same.to_host().unwrap(), halves.to_host().unwrap());
    again.save(exported.join("again"), &same).unwrap();
    assert_same_files(&exported, &exported.join("again"));
    // Into a file of floats.
    files.save(exported.join("wide"), &halves).unwrap();
    let (_, _, wide) = load(&exported.join("wide"));
    assert_eq!(wide.to_host().unwrap(), halves.to_host().unwrap());

    // What halves cannot hold is lost neither in memory nor in a file.
    let bias = floats.get("blocks.1.ffn.up.bias").unwrap();
    bias.tensor().write(&[1e5f32; 128]).unwrap();
    let beyond = "100000 is beyond F16";
    match again.save(exported.join("again"), &floats).unwrap_err() {
        Error::Parameter { name, reason } => {
            assert_eq!(name, "blocks.1.ffn.up.bias");
            assert!(reason.contains(beyond), "{reason}");
        }
        other => panic!("{other}"),
    }
    assert_same_files(&exported, &exported.join("again"));
    files.save(exported.join("wide"), &floats).unwrap();
    let large = ModelFiles::open(exported.join("wide")).unwrap();
    let error = large.load_as(DType::F16, device()).unwrap_err();
    let expected = format!("tensor `transformer.h.1.mlp.c_fc.bias`: {beyond}");
    assert!(error.to_string().contains(&expected), "{error}");
}

/// The library holds a head of its own as `[vocabulary, width]`.
#[test]
fn a_head_of_its_own_is_transposed() {
    let tied = "\"tie_word_embeddings\": true";
    let directory = copy_with("untied", tied, "\"tie_word_embeddings\": false");
    let mut untied = tensors();
    let mut head = untied["transformer.wte.weight"].clone();
    let numbers = (0..288 * 32).flat_map(|i| (i as f32).to_le_bytes());
    head.bytes = numbers.collect();
    untied.insert("lm_head.weight".to_owned(), head);
    write(&directory, &untied);
    let parameters = round_trip(&directory);
    let head = parameters.get("head.weight").unwrap();
    assert_eq!(head.shape(), [32, 288].into());
    let values = head.tensor().to_vec::<f32>().unwrap();
    assert_eq!(
        (values[1], values[288], values[32 * 288 - 1]),
        (32.0, 1.0, (288 * 32 - 1) as f32)
    );

    let exported = scratch("untied_export");
    let (files, _, parameters) = load(&directory);
    export(&exported, files.config(), &parameters, None).unwrap();
    let (_, _, again) = load(&exported);
    assert_eq!(again.to_host().unwrap(), parameters.to_host().unwrap());
}

/// What `transformers` does too: a head that is stored and differs is the model's, whatever the configuration says of it.
#[test]
fn a_stored_head_that_differs_is_used_and_kept() {
    let tied = "  \"tie_word_embeddings\": true,\n";
    for (name, to) in [("differs", tied), ("differs_unsaid", "")] {
        let directory = copy_with(name, tied, to);
        let mut untied = tensors();
        let mut head = untied["transformer.wte.weight"].clone();
        head.bytes[4..8].copy_from_slice(&2.5f32.to_le_bytes());
        untied.insert("lm_head.weight".to_owned(), head);
        write(&directory, &untied);
        let (files, _, parameters) = load(&directory);
        assert!(!files.config().tie_weights);
        let head = parameters.get("head.weight").unwrap();
        assert_eq!(head.tensor().to_vec::<f32>().unwrap()[288], 2.5);
        let table = parameters.get("token_embedding.weight").unwrap();
        let mut values = table.tensor().to_vec::<f32>().unwrap();
        assert_ne!(values[1], 2.5);
        // Training changes the table alone.
        values[2] = 7.0;
        table.tensor().write(&values).unwrap();
        let saved = directory.join("saved");
        files.save(&saved, &parameters).unwrap();
        let (files, _, again) = load(&saved);
        assert!(!files.config().tie_weights);
        assert_eq!(again.to_host().unwrap(), parameters.to_host().unwrap());
        // Nobody ties it again.
        let config = fs::read_to_string(saved.join(CONFIG)).unwrap();
        assert!(
            config.contains("\"tie_word_embeddings\": false"),
            "{config}"
        );
    }
}

#[test]
fn dropouts_may_differ() {
    let directory = copy_with("dropouts", "\"attn_pdrop\": 0.1", "\"attn_pdrop\": 0.2");
    let (files, _, parameters) = load(&directory);
    let config = files.config();
    assert_eq!(
        (
            config.dropout,
            config.embedding_dropout(),
            config.attention_dropout()
        ),
        (0.1, 0.1, 0.2)
    );
    let (gpt, _) = files.load_with_dropout(0.3, device()).unwrap();
    assert_eq!(gpt.config().attention_dropout(), 0.3);
    let exported = scratch("dropouts_export");
    export(&exported, config, &parameters, None).unwrap();
    assert_eq!(ModelFiles::open(&exported).unwrap().config(), config);
}

#[test]
fn several_tokens_may_end_a_text() {
    let directory = copy_with(
        "ends",
        "\"eos_token_id\": 287",
        "\"eos_token_id\": [286, 287]",
    );
    let files = ModelFiles::open(directory).unwrap();
    assert_eq!(files.end_of_text(), Some(286));
    assert_eq!(files.stop_tokens(), [286, 287]);
}

/// A table in parts is one tensor in the file.
#[test]
fn parts_are_joined() {
    let files = ModelFiles::open(golden()).unwrap();
    let mut builder = ParameterBuilder::new(0).with_parameter_limit(15_000);
    Gpt::new(files.config(), &mut builder).unwrap();
    let parameters = builder.build_zeroed(device()).unwrap();
    files.restore(&parameters).unwrap();
    let saved = scratch("parts");
    files.save(&saved, &parameters).unwrap();
    assert_same_files(&golden(), &saved);
}

#[test]
fn another_model_is_neither_saved_nor_exported() {
    let gpt2 = GptConfig {
        norm: NormKind::LayerNorm,
        ffn: FeedForwardKind::Relu,
        bias: true,
        n_layers: 1,
        ..GptConfig::new(27)
    };
    let change = |change: fn(&mut GptConfig)| {
        let mut config = gpt2.clone();
        change(&mut config);
        config
    };
    let others = [
        (
            change(|c| c.norm = NormKind::RmsNorm),
            "gpt2 has no norm = \"rms_norm\"; llama has no ",
        ),
        (
            change(|c| c.attention_bias = Some(false)),
            "gpt2 has no attention_bias = false; ",
        ),
        (
            change(|c| c.head_bias = true),
            "gpt2 has no head_bias = true; ",
        ),
        (
            change(|c| c.final_norm = false),
            "gpt2 has no final_norm = false; ",
        ),
    ];
    let mut builder = ParameterBuilder::new(0);
    Gpt::new(&gpt2, &mut builder).unwrap();
    let parameters = builder.build(device()).unwrap();
    let directory = scratch("another");
    let saved = ModelFiles::open(golden())
        .unwrap()
        .save(&directory, &parameters);
    assert_eq!(
        saved.unwrap_err().to_string(),
        "parameter `blocks.0.ffn.up.bias`: the model has 85 numbers there, the one of the configuration 128"
    );
    for (config, lacks) in &others {
        let exported = export(&directory, config, &parameters, None).unwrap_err();
        assert!(matches!(exported, Error::InvalidArgument { .. }));
        assert!(exported.to_string().contains(lacks), "{exported}");
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}
