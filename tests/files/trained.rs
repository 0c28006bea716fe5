//! Models from checkpoints, and parts of files.

use std::fs;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use shadegrad::checkpoint::{self, Checkpoint, Metadata};
use shadegrad::data::CharTokenizer;
use shadegrad::nn::{Gpt, GptConfig, Linear, ParameterBuilder, Parameters};
use shadegrad::optim::{AdamW, AdamWConfig};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::tape::Precision;
use shadegrad::{DType, Error, f16};

use crate::checkpoint::Directory;
use crate::common::device;

fn config() -> GptConfig {
    GptConfig {
        context: 8,
        d_model: 16,
        n_heads: 2,
        n_layers: 1,
        ..GptConfig::new(27)
    }
}

fn tokenizer() -> CharTokenizer {
    CharTokenizer::from_text("\nabcdefghijklmnopqrstuvwxyz").unwrap()
}

fn text(gpt: &Gpt) -> Vec<u32> {
    let mut sampler = Sampler::new(SamplingConfig::default(), 3).unwrap();
    gpt.generate(&[0, 5, 13], 12, &mut sampler, None).unwrap()
}

#[test]
fn a_model_comes_back_from_its_file_alone() {
    let folder = Directory::new("trained");
    let path = folder.file("model.safetensors");
    // A table of whole rows, and one that is split.
    for limit in [u64::MAX, 10 * 16 * 4] {
        let mut builder = ParameterBuilder::new(1).with_parameter_limit(limit);
        let gpt = Gpt::new(&config(), &mut builder).unwrap();
        let parameters = builder.build(device()).unwrap();
        let optimizer = AdamW::new(&parameters, AdamWConfig::default()).unwrap();
        let metadata = Metadata {
            step: 7,
            ..Metadata::of(&config(), &tokenizer())
        };
        checkpoint::save(&path, &parameters, Some(&optimizer), &metadata).unwrap();

        let (same, characters) = Gpt::from_checkpoint(&path, device()).unwrap();
        assert_eq!(text(&same), text(&gpt));
        assert_eq!(same.config(), &config());
        assert_eq!(characters, tokenizer());
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.metadata, metadata);
        let (_, again) = checkpoint.gpt(device()).unwrap();
        assert_eq!(again.to_host().unwrap(), parameters.to_host().unwrap());
    }
}

/// A model in halves comes back to the bit, into halves and into floats; one of floats is rounded to halves, which none of
/// its numbers may be too large for.
#[test]
fn models_in_halves_come_and_go() {
    let folder = Directory::new("halves");
    let path = folder.file("model.safetensors");
    let save = |parameters: &Parameters| {
        let metadata = Metadata::of(&config(), &tokenizer());
        checkpoint::save(&path, parameters, None, &metadata).unwrap();
        fs::read(&path).unwrap()
    };
    // The table as a whole, and split.
    for rows in [usize::MAX, 10] {
        let build = |dtype: DType| {
            let limit = rows.saturating_mul(16 * dtype.bytes()) as u64;
            let builder = ParameterBuilder::new(1).with_parameter_limit(limit);
            let mut builder = builder.with_dtype(dtype);
            Gpt::new(&config(), &mut builder).unwrap();
            builder.build(device()).unwrap()
        };
        let (halves, floats) = (build(DType::F16), build(DType::F32));
        let saved = save(&halves);
        let read = SafeTensors::deserialize(&saved).unwrap();
        assert!(read.iter().all(|(_, tensor)| tensor.dtype() == Dtype::F16));
        let table = |name: &str| read.tensor(name).unwrap().data().to_vec();
        let name = "param.blocks.0.attention.qkv.weight";
        let weight = halves.get(&name[6..]).unwrap();
        let numbers = weight.tensor().to_vec::<f16>().unwrap();
        assert_eq!(table(name), bytemuck::cast_slice::<f16, u8>(&numbers));

        let checkpoint = Checkpoint::open(&path).unwrap();
        let (gpt, same) = checkpoint.gpt_as(DType::F16, device()).unwrap();
        assert_eq!(
            (same.dtype(), gpt.precision()),
            (DType::F16, Precision::Mixed)
        );
        assert_eq!(save(&same), saved);
        let (gpt, wide) = checkpoint.gpt(device()).unwrap();
        assert_eq!(
            (wide.dtype(), gpt.precision()),
            (DType::F32, Precision::F32)
        );
        assert_eq!(wide.to_host().unwrap(), halves.to_host().unwrap());

        save(&floats);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let (_, rounded) = checkpoint.gpt_as(DType::F16, device()).unwrap();
        assert_eq!(rounded.to_host().unwrap(), halves.to_host().unwrap());
        let norm = floats.get("norm.weight").unwrap();
        norm.tensor().write(&[7e4f32; 16]).unwrap();
        save(&floats);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let error = checkpoint.gpt_as(DType::F16, device()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("parameter `norm.weight`: 70000 is beyond F16"),
            "{error}"
        );
        checkpoint.gpt(device()).unwrap();
    }
}

#[test]
fn what_is_no_model_of_characters_is_refused() {
    let folder = Directory::new("other");
    let path = folder.file("model.safetensors");
    let mut builder = ParameterBuilder::new(1);
    Gpt::new(&config(), &mut builder).unwrap();
    let parameters = builder.build(device()).unwrap();
    let refused = |metadata: Metadata, expected: &str| {
        checkpoint::save(&path, &parameters, None, &metadata).unwrap();
        let error = Gpt::from_checkpoint(&path, device()).unwrap_err();
        assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused(Metadata::default(), "it is not of a Gpt");
    let whole = Metadata::of(&config(), &tokenizer());
    let of_bytes = Metadata {
        vocabulary: Vec::new(),
        ..whole.clone()
    };
    refused(of_bytes, "no vocabulary of characters");
    let more = CharTokenizer::from_text("\nabcdefghijklmnopqrstuvwxyzé").unwrap();
    refused(
        Metadata::of(&config(), &more),
        "its vocabulary has 28 characters, its model 27 tokens",
    );
    let wider = GptConfig {
        d_model: 32,
        ..config()
    };
    refused(Metadata::of(&wider, &tokenizer()), "has shape [27, 16]");
    // Larger than any memory: found before any is taken.
    let vast = GptConfig {
        d_ff: 1 << 24,
        ..config()
    };
    refused(Metadata::of(&vast, &tokenizer()), "the model needs [16, ");
    // The text of another tokenizer is kept as it is, and only where there is one.
    let with_text = Metadata {
        tokenizer: Some("{\"model\": 1}".to_owned()),
        ..whole.clone()
    };
    for metadata in [whole, with_text] {
        checkpoint::save(&path, &parameters, None, &metadata).unwrap();
        let is_there = String::from_utf8_lossy(&fs::read(&path).unwrap()).contains("tokenizer");
        assert_eq!(is_there, metadata.tokenizer.is_some());
        assert_eq!(Checkpoint::open(&path).unwrap().metadata, metadata);
    }
}

fn two_layers() -> Parameters {
    let mut builder = ParameterBuilder::new(2);
    Linear::new(&mut builder.enter("body"), 2, 3, true);
    Linear::new(&mut builder.enter("head"), 3, 2, false);
    builder.build(device()).unwrap()
}

/// A file of tensors from elsewhere.
fn file(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views = tensors.iter().map(|&(name, dtype, shape, bytes)| {
        (name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn parts_of_files_from_elsewhere() {
    let folder = Directory::new("part");
    let path = folder.file("weights.safetensors");
    // 1 to 6 as F16, and 1.5, -2, 0.25 as BF16.
    let weight: Vec<u8> = [0x3c00u16, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600]
        .iter()
        .flat_map(|half| half.to_le_bytes())
        .collect();
    let bias: Vec<u8> = [0x3fc0u16, 0xc000, 0x3e80]
        .iter()
        .flat_map(|half| half.to_le_bytes())
        .collect();
    let counts = [0u8; 8];
    let whole = file(&[
        ("encoder.weight", Dtype::F16, &[2, 3], &weight),
        ("encoder.bias", Dtype::BF16, &[3], &bias),
        ("counts", Dtype::I64, &[1], &counts),
    ]);
    fs::write(&path, whole).unwrap();
    let parameters = two_layers();
    let before = parameters.to_host().unwrap();
    let body = |name: &str| Some(format!("body.{}", name.strip_prefix("encoder.")?));
    let part = checkpoint::load_part(&path, &parameters, body).unwrap();
    assert_eq!(part.loaded, ["body.weight", "body.bias"]);
    assert_eq!(part.missing, ["head.weight"]);
    assert_eq!(part.unused, ["counts"]);
    assert_eq!(
        part.to_string(),
        "2 parameters loaded; 1 not loaded: head.weight; 1 of the file not used: counts"
    );
    let after = parameters.to_host().unwrap();
    assert_eq!(after[0].2, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(after[1].2, [1.5, -2.0, 0.25]);
    assert_eq!(after[2], before[2]);

    // A name that the model lacks is not used, rather than an error or nothing.
    let part = checkpoint::load_part(&path, &parameters, |name| Some(name.to_owned())).unwrap();
    assert_eq!(
        (part.loaded.len(), part.missing.len(), part.unused.len()),
        (0, 3, 3)
    );
    assert_eq!(parameters.to_host().unwrap(), after);
}

#[test]
fn parts_that_do_not_fit_change_nothing() {
    let folder = Directory::new("part-refused");
    let path = folder.file("weights.safetensors");
    let bytes = [0u8; 64];
    let parameters = two_layers();
    let before = parameters.to_host().unwrap();
    let refused = |contents: Vec<u8>, name_of: &dyn Fn(&str) -> Option<String>, expected: &str| {
        fs::write(&path, contents).unwrap();
        let error = checkpoint::load_part(&path, &parameters, name_of).unwrap_err();
        assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(parameters.to_host().unwrap(), before);
    };
    let named = |name: &str| Some(name.to_owned());
    let bias = ("body.bias", Dtype::F32, &[3][..], &bytes[..12]);
    refused(
        file(&[bias, ("head.weight", Dtype::F32, &[2, 3], &bytes[..24])]),
        &named,
        "tensor `head.weight` has shape [2, 3], the parameter `head.weight` has shape [3, 2]",
    );
    refused(
        file(&[bias, ("head.weight", Dtype::I32, &[3, 2], &bytes[..24])]),
        &named,
        "has type I32, expected one of F32, F16, BF16",
    );
    refused(
        file(&[bias, ("other.bias", Dtype::F32, &[3], &bytes[..12])]),
        &|_| Some("body.bias".to_owned()),
        "tensors `body.bias` and `other.bias` are both to be the parameter `body.bias`",
    );
    let halves = {
        let mut builder = ParameterBuilder::new(1).with_dtype(DType::F16);
        Linear::new(&mut builder.enter("body"), 2, 3, true);
        builder.build(device()).unwrap()
    };
    let large: Vec<u8> = [1.5f32, -7e4, 2.0].map(f32::to_le_bytes).concat();
    let large = file(&[("body.bias", Dtype::F32, &[3], &large)]);
    fs::write(&path, &large).unwrap();
    let unchanged = halves.to_host().unwrap();
    let error = checkpoint::load_part(&path, &halves, named).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("tensor `body.bias`: -70000 is beyond F16"),
        "{error}"
    );
    assert_eq!(halves.to_host().unwrap(), unchanged);
    let mut cut = file(&[bias]);
    cut.truncate(cut.len() - 4);
    refused(cut, &named, "truncated");
    refused(b"weights".to_vec(), &named, "not a safetensors file");
    let missing = checkpoint::load_part(folder.file("nothing"), &parameters, named);
    assert!(matches!(missing.unwrap_err(), Error::File { .. }));
}
