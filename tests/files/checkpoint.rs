//! Checkpoints: what is saved comes back to the bit, and what cannot be used is refused with its reason.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use shadegrad::checkpoint::{self, Checkpoint, Metadata};
use shadegrad::nn::{Init, Parameter, ParameterBuilder, Parameters};
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer, Sgd, SgdConfig};
use shadegrad::{Error, Tape};

use crate::common::{self, Random};

/// A directory of its own, removed at the end.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("shadegrad-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// `Σ sin(weight · x + bias)²`, and what trains it.
struct Run {
    weight: Parameter,
    bias: Parameter,
    parameters: Parameters,
    optimizer: AdamW,
}

impl Run {
    fn new(seed: u64, columns: usize) -> Run {
        let mut builder = ParameterBuilder::new(seed).with_segment_limit(1024);
        let (weight, bias) = builder.scope("linear", |b| {
            let weight = b.parameter("weight", [9, columns], Init::Normal { std: 0.7 });
            (
                weight,
                b.parameter("bias", [columns], Init::Normal { std: 0.7 }),
            )
        });
        let parameters = builder.build(common::device()).unwrap();
        let config = AdamWConfig {
            weight_decay: 0.1,
            clip_norm: Some(1.0),
            ..AdamWConfig::default()
        };
        let optimizer = AdamW::new(&parameters, config).unwrap();
        Run {
            weight,
            bias,
            parameters,
            optimizer,
        }
    }

    /// Trains on data that depend on the step alone; gives the losses as bits.
    fn train(&mut self, steps: std::ops::Range<u64>) -> Vec<u32> {
        let mut losses = Vec::new();
        for step in steps {
            let tape = Tape::training(common::device());
            let shape = self.weight.shape();
            let x = Random::new(step).values(shape.elements(), -1.0, 1.0);
            let x = tape.input(shape, &x);
            let y = (self.weight.on(&tape) * x + self.bias.on(&tape)).sin();
            let report = self.optimizer.step(&tape, (y * y).sum_all(), 0.05).fetch();
            tape.run().unwrap();
            losses.push(report.get().unwrap().loss.to_bits());
        }
        losses
    }

    fn save(&self, path: &Path) {
        let metadata = Metadata {
            tokenizer: None,
            config: json!({"d_model": 32, "norm": "rms"}),
            vocabulary: "\nabç🦀".chars().collect(),
            step: self.optimizer.steps(),
            seed: u64::MAX - 3,
            extra: json!({"best": 1.25}),
        };
        checkpoint::save(path, &self.parameters, Some(&self.optimizer), &metadata).unwrap();
    }

    /// Parameters and moments as bits.
    fn bits(&self) -> Vec<u32> {
        let state = self.optimizer.state();
        let segments = state.iter().flat_map(|(_, flat)| flat.segments());
        let segments = self.parameters.segments().iter().chain(segments);
        segments
            .flat_map(|segment| segment.to_vec::<f32>().unwrap())
            .map(f32::to_bits)
            .collect()
    }
}

#[test]
fn everything_comes_back_to_the_bit() {
    let directory = Directory::new("round-trip");
    let path = directory.file("run.safetensors");
    let mut saved = Run::new(1, 30);
    saved.train(0..3);
    saved.save(&path);
    assert_eq!(directory.entries(), ["run.safetensors"]);

    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.metadata.config["norm"], "rms");
    assert_eq!(checkpoint.metadata.vocabulary, ['\n', 'a', 'b', 'ç', '🦀']);
    assert_eq!(checkpoint.metadata.step, 3);
    assert_eq!(checkpoint.metadata.seed, u64::MAX - 3);
    assert_eq!(checkpoint.metadata.extra["best"], 1.25);
    let optimizer = checkpoint.optimizer.as_ref().unwrap();
    assert_eq!((optimizer.name.as_str(), optimizer.steps), ("adamw", 3));
    assert_eq!(optimizer.settings["beta2"], 0.999);

    let mut restored = Run::new(2, 30);
    assert_ne!(saved.bits(), restored.bits());
    checkpoint
        .restore(&restored.parameters, Some(&mut restored.optimizer))
        .unwrap();
    assert_eq!(saved.bits(), restored.bits());
    assert_eq!(restored.optimizer.steps(), 3);

    // Saving it again gives the same file, and replaces an old one.
    let again = directory.file("again.safetensors");
    fs::write(&again, "old").unwrap();
    restored.save(&again);
    assert_eq!(fs::read(&path).unwrap(), fs::read(&again).unwrap());

    // Parameters alone, for a program that only samples.
    let sampling = Run::new(3, 30);
    checkpoint.restore(&sampling.parameters, None).unwrap();
    assert_eq!(
        saved.parameters.to_host().unwrap(),
        sampling.parameters.to_host().unwrap()
    );
}

#[test]
fn a_resumed_run_continues_to_the_same_bits() {
    let directory = Directory::new("resume");
    let path = directory.file("run.safetensors");
    let mut whole = Run::new(1, 30);
    let expected = whole.train(0..12);

    let mut first = Run::new(1, 30);
    let mut losses = first.train(0..7);
    first.save(&path);
    drop(first);
    let mut second = Run::new(99, 30);
    let checkpoint = Checkpoint::open(&path).unwrap();
    checkpoint
        .restore(&second.parameters, Some(&mut second.optimizer))
        .unwrap();
    losses.extend(second.train(checkpoint.metadata.step..12));
    assert_eq!(losses, expected);
    assert_eq!(second.bits(), whole.bits());
}

/// The message with which a file is refused.
fn refusal(path: &Path) -> String {
    let error = Checkpoint::open(path).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains(&*path.to_string_lossy()), "{message}");
    message
}

#[test]
fn truncated_and_foreign_files_are_refused() {
    let directory = Directory::new("truncated");
    let path = directory.file("run.safetensors");
    Run::new(1, 3).save(&path);
    let whole = fs::read(&path).unwrap();
    let cut = directory.file("cut.safetensors");
    for length in 1..whole.len() {
        fs::write(&cut, &whole[..length]).unwrap();
        let message = refusal(&cut);
        if length >= 8 {
            assert!(message.contains("truncated"), "{length}: {message}");
        }
    }
    fs::write(&cut, []).unwrap();
    assert!(refusal(&cut).contains("is empty"));
    fs::write(&cut, [&whole[..], &[0; 4]].concat()).unwrap();
    assert!(refusal(&cut).contains("truncated or damaged"));
    fs::write(&cut, "emma\nolivia\nava\nisabella\nsophia\n").unwrap();
    assert!(refusal(&cut).contains("not a safetensors file"));

    // Damage anywhere in the header is an error or harmless, never a panic.
    let model = Run::new(1, 3);
    let mut random = Random::new(1);
    for _ in 0..500 {
        let mut damaged = whole.clone();
        let position = random.below(whole.len().min(1200));
        damaged[position] = random.below(256) as u8;
        fs::write(&cut, damaged).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(&cut) {
            let _ = checkpoint.restore(&model.parameters, None);
        }
    }

    let missing = Checkpoint::open(directory.file("missing")).unwrap_err();
    assert!(matches!(missing, Error::File { .. }), "{missing:?}");
}

/// Writes a safetensors file with given metadata and one tensor `param.x` of two elements.
fn write_foreign(path: &Path, dtype: &str, metadata: &str) {
    let size = if dtype == "F32" { 8 } else { 4 };
    let header = format!(
        r#"{{{metadata}"param.x":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,{size}]}}}}"#
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + size, 0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn files_without_usable_metadata_are_refused() {
    let directory = Directory::new("metadata");
    let path = directory.file("file.safetensors");
    write_foreign(&path, "F32", "");
    assert!(refusal(&path).contains("no entry `shadegrad`"));
    let entry = |text: &str| format!(r#""__metadata__":{{"shadegrad":{}}},"#, json!(text));
    write_foreign(&path, "F32", &entry("{"));
    assert!(refusal(&path).contains("metadata is damaged"));
    write_foreign(&path, "F32", &entry("{}"));
    assert!(refusal(&path).contains("states no version"));
    write_foreign(&path, "F32", &entry(r#"{"version": 7}"#));
    assert!(refusal(&path).contains("version 7"));
    write_foreign(&path, "F32", &entry(r#"{"version": 1, "step": -1}"#));
    assert!(refusal(&path).contains("metadata is damaged"));
    write_foreign(&path, "BF16", &entry(r#"{"version": 1}"#));
    assert!(refusal(&path).contains("`param.x` has type BF16"));

    write_foreign(&path, "F32", &entry(r#"{"version": 1, "step": 5}"#));
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.metadata.step, 5);
    let mut builder = ParameterBuilder::new(1);
    let x = builder.parameter("x", [2], Init::Ones);
    let parameters = builder.build(common::device()).unwrap();
    let mut sgd = Sgd::new(&parameters, SgdConfig::default()).unwrap();
    let error = checkpoint.restore(&parameters, Some(&mut sgd)).unwrap_err();
    assert!(error.to_string().contains("without an optimizer"));
    assert_eq!(x.tensor().to_vec::<f32>().unwrap(), [1.0; 2]);
    checkpoint.restore(&parameters, None).unwrap();
    assert_eq!(x.tensor().to_vec::<f32>().unwrap(), [0.0; 2]);
}

#[test]
fn other_models_and_optimizers_are_refused_and_left_alone() {
    let directory = Directory::new("other");
    let path = directory.file("run.safetensors");
    Run::new(1, 30).save(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();

    let mut wider = Run::new(2, 31);
    let before = wider.bits();
    let error = checkpoint
        .restore(&wider.parameters, Some(&mut wider.optimizer))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`param.linear.weight` has shape [9, 30]") && error.contains("[9, 31]"),
        "{error}"
    );
    assert_eq!(before, wider.bits());

    let build = |names: &[(&str, &[usize])]| {
        let mut builder = ParameterBuilder::new(1);
        for (name, shape) in names {
            builder.parameter(*name, *shape, Init::Zeros);
        }
        builder.build(common::device()).unwrap()
    };
    let message = |parameters: &Parameters| {
        let error = checkpoint.restore(parameters, None).unwrap_err();
        error.to_string()
    };
    let weight = ("linear.weight", &[9, 30][..]);
    let bias = ("linear.bias", &[30][..]);
    let extra = ("head.weight", &[2][..]);
    assert!(message(&build(&[weight, bias, extra])).contains("`param.head.weight`, which"));
    assert!(message(&build(&[weight])).contains("`param.linear.bias` belongs to no parameter"));

    let same = build(&[weight, bias]);
    let mut sgd = Sgd::new(&same, SgdConfig::default()).unwrap();
    let error = checkpoint.restore(&same, Some(&mut sgd)).unwrap_err();
    assert!(error.to_string().contains("optimizer adamw, not sgd"));
    let host = same.to_host().unwrap();
    assert!(
        host.iter()
            .all(|(.., values)| values.iter().all(|&x| x == 0.0))
    );
}

#[test]
fn unwritable_paths_are_found_beforehand() {
    let directory = Directory::new("unwritable");
    let file = directory.file("file");
    fs::write(&file, "precious").unwrap();
    let refused = |path: PathBuf| {
        let early = checkpoint::check_writable(&path).unwrap_err();
        assert!(matches!(early, Error::File { .. }), "{early:?}");
        let run = Run::new(1, 3);
        let late = checkpoint::save(&path, &run.parameters, None, &Metadata::default());
        assert_eq!(early.to_string(), late.unwrap_err().to_string());
    };
    refused(directory.file("missing").join("run.safetensors"));
    refused(file.join("run.safetensors"));
    refused(directory.0.clone());
    refused(PathBuf::from(""));
    refused(directory.0.join("new/"));
    refused(directory.0.join("new/."));
    #[cfg(unix)]
    {
        refused(PathBuf::from("/dev/null"));
        let pipe = directory.file("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        refused(pipe.clone());
        // Nor is anything read that may have no end.
        for path in [pipe.clone(), PathBuf::from("/dev/zero")] {
            let error = Checkpoint::open(path).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
        fs::remove_file(pipe).unwrap();
        // Nor what is no checkpoint, however large: here a TiB of nothing.
        let size = 1u64 << 40;
        let header =
            format!(r#"{{"x":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}"#);
        let path = directory.file("huge");
        let start = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        fs::write(&path, &start).unwrap();
        let huge = fs::File::options().write(true).open(&path).unwrap();
        huge.set_len(start.len() as u64 + size).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(
            error.to_string().contains("no checkpoint of this crate"),
            "{error}"
        );
        fs::remove_file(path).unwrap();
    }

    // What can be written is found so, and is neither made nor changed.
    checkpoint::check_writable(&file).unwrap();
    checkpoint::check_writable(directory.file("new")).unwrap();
    assert_eq!(directory.entries(), ["file"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link() {
    let directory = Directory::new("link");
    let (file, link) = (directory.file("file"), directory.file("link"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    Run::new(1, 3).save(&link);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    Checkpoint::open(&file).unwrap();

    // Also one that leads, by way of another, to what is not there yet.
    let (new, second) = (directory.file("new"), directory.file("second"));
    std::os::unix::fs::symlink("new", &second).unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&second, &link).unwrap();
    checkpoint::check_writable(&link).unwrap();
    Run::new(1, 3).save(&link);
    for link in [link, second] {
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
    assert!(fs::symlink_metadata(&new).unwrap().is_file());
    Checkpoint::open(&new).unwrap();
}

#[cfg(unix)]
#[test]
fn who_may_read_a_checkpoint_stays_as_it_was() {
    use std::os::unix::fs::PermissionsExt;

    let directory = Directory::new("mode");
    let path = directory.file("run.safetensors");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    Run::new(1, 3).save(&path);
    // A new one has the rights that the system gives new files.
    let other = directory.file("other");
    fs::write(&other, "").unwrap();
    assert_eq!(mode(&path), mode(&other));
    for expected in [0o600, 0o640, 0o666] {
        fs::set_permissions(&path, PermissionsExt::from_mode(expected)).unwrap();
        // What a killed run has left changes nothing.
        let left = directory.file(".run.safetensors.tmp");
        fs::write(&left, "").unwrap();
        fs::set_permissions(&left, PermissionsExt::from_mode(0o606)).unwrap();
        Run::new(1, 3).save(&path);
        assert_eq!(mode(&path), expected);
    }
}
