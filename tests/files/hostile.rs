//! A thousand files that are not what they should be, mutated from good ones with a fixed seed: whatever they hold, there is
//! an answer, and soon; nothing panics, and what was there before is still there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use shadegrad::checkpoint::{self, Checkpoint, Metadata};
use shadegrad::data::{CharTokenizer, NamesDataset, Split, StreamDataset, read_text};
use shadegrad::hugging_face::ModelFiles;
use shadegrad::nn::{Init, ParameterBuilder, Parameters};
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};

use crate::common::{Random, device};

/// Of each kind.
const FILES: usize = 200;

/// The longest that one file may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder of its own for a test, gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("hostile-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Changes some bytes: overwritten, flipped, cut out, repeated, put in, or everything from somewhere on gone. Three times in
/// four within the first `head` bytes.
fn mutate(random: &mut Random, good: &[u8], head: usize) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=random.below(4) {
        let reach = match random.below(4) {
            0 => bytes.len(),
            _ => bytes.len().min(head),
        };
        let at = random.below(reach);
        let end = (at + 1 + random.below(12)).min(bytes.len());
        if bytes.is_empty() {
            return bytes;
        }
        match random.below(8) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let fill = [0x00, 0xff, b'"', b'{', b'9', b'-', 0x80][random.below(7)];
                bytes[at..end].fill(fill);
            }
            5 => bytes.truncate(at),
            6 => drop(bytes.splice(at..at, *b"\xff\xfe\0\0")),
            _ => {
                let digit = b"0123456789"[random.below(10)];
                if let Some(place) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    bytes[at + place] = digit;
                }
            }
        }
    }
    bytes
}

/// Replaces, removes or repeats something in a JSON document, which stays one.
fn mutate_json(random: &mut Random, value: &mut Value) {
    let odd = |random: &mut Random| match random.below(12) {
        0 => Value::Null,
        1 => Value::from(-1),
        2 => Value::from(u64::MAX),
        3 => Value::from(1e300),
        4 => Value::from(0),
        5 => Value::from(""),
        6 => Value::from("x".repeat(5000)),
        7 => Value::from(vec![Value::Null; 3]),
        8 => serde_json::json!({}),
        9 => Value::from(true),
        10 => Value::from(1u64 << 33),
        _ => Value::from("\u{0}🦀\u{202e}"),
    };
    match value {
        Value::Object(entries) if !entries.is_empty() && random.below(8) > 0 => {
            let key = entries.keys().nth(random.below(entries.len())).cloned();
            let key = key.expect("there is one");
            match random.below(6) {
                0 => drop(entries.remove(&key)),
                1 => drop(entries.insert(format!("{key}x"), odd(random))),
                _ => mutate_json(random, entries.get_mut(&key).expect("it is there")),
            }
        }
        Value::Array(elements) if !elements.is_empty() && random.below(8) > 0 => {
            let at = random.below(elements.len());
            match random.below(6) {
                0 => drop(elements.remove(at)),
                1 => elements.insert(at, elements[at].clone()),
                _ => mutate_json(random, &mut elements[at]),
            }
        }
        _ => *value = odd(random),
    }
}

/// Half of the documents stay JSON.
fn mutate_document(random: &mut Random, good: &[u8]) -> Vec<u8> {
    if random.below(2) == 0 {
        return mutate(random, good, good.len());
    }
    let mut value: Value = serde_json::from_slice(good).unwrap();
    for _ in 0..=random.below(3) {
        mutate_json(random, &mut value);
    }
    value.to_string().into_bytes()
}

/// Gives each of many files to `open`, which says whether it was taken. Some are and some aren't, or else the test
/// would say little.
fn withstands(
    kind: &str,
    mut make: impl FnMut(&mut Random) -> Vec<u8>,
    mut open: impl FnMut(&[u8]) -> Result<(), String>,
) {
    let mut random = Random::new(20);
    let (mut taken, mut refused) = (0, 0);
    for number in 0..FILES {
        let bytes = make(&mut random);
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| open(&bytes)));
        let spent = start.elapsed();
        match outcome {
            Ok(Ok(())) => taken += 1,
            Ok(Err(message)) => {
                refused += 1;
                assert!(
                    !message.is_empty() && message.len() < 2000,
                    "{kind} {number}: a message of {} bytes",
                    message.len()
                );
            }
            Err(_) => panic!(
                "{kind} {number} makes it panic; it begins {:?}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(300)])
            ),
        }
        assert!(spent < PATIENCE, "{kind} {number} took {spent:?}");
    }
    assert!(
        refused > FILES / 10,
        "{kind}: {taken} taken, {refused} refused"
    );
}

struct Model {
    parameters: Parameters,
    optimizer: AdamW,
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut builder = ParameterBuilder::new(seed);
        builder.parameter("linear.weight", [3, 5], Init::Normal { std: 1.0 });
        builder.parameter("linear.bias", [5], Init::Normal { std: 1.0 });
        let parameters = builder.build(device()).unwrap();
        let optimizer = AdamW::new(&parameters, AdamWConfig::default()).unwrap();
        Model {
            parameters,
            optimizer,
        }
    }

    /// Parameters and moments as bits.
    fn bits(&self) -> Vec<Vec<u32>> {
        let state = self.optimizer.state();
        let segments = state.iter().flat_map(|(_, flat)| flat.segments());
        let segments = self.parameters.segments().iter().chain(segments);
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
        segments
            .map(|segment| bits(segment.to_vec().unwrap()))
            .collect()
    }
}

/// The length of a safetensors file's header, with what announces it.
fn header(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize
}

#[test]
fn checkpoints() {
    let folder = Folder::new("checkpoints");
    let good = folder.0.join("good.safetensors");
    let model = Model::new(1);
    let metadata = Metadata {
        vocabulary: "abc".chars().collect(),
        step: 7,
        ..Metadata::default()
    };
    checkpoint::save(&good, &model.parameters, Some(&model.optimizer), &metadata).unwrap();
    let good = std::fs::read(good).unwrap();
    let head = header(&good);
    let mut target = Model::new(2);
    let mut before = target.bits();
    let open = |bytes: &[u8]| {
        let path = folder.write("mutated.safetensors", bytes);
        let Model {
            parameters,
            optimizer,
        } = &mut target;
        let opened = Checkpoint::open(&path);
        let outcome = opened.and_then(|file| file.restore(parameters, Some(optimizer)));
        let after = target.bits();
        if outcome.is_err() {
            assert_eq!(before, after, "half of it was restored");
        }
        before = after;
        // Nothing writes to what it reads.
        assert_eq!(std::fs::read(path).unwrap(), bytes);
        outcome.map_err(|error| error.to_string())
    };
    withstands("checkpoint", |random| mutate(random, &good, head), open);
}

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gpt2_tiny");
    std::fs::read(folder.join(name)).unwrap()
}

fn open_model(folder: &Folder) -> Result<(), String> {
    let opened = ModelFiles::open(&folder.0).and_then(|files| files.load(device()));
    opened.map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn weights() {
    let folder = Folder::new("weights");
    folder.write("config.json", &golden("config.json"));
    let good = golden("model.safetensors");
    let head = header(&good);
    let open = |bytes: &[u8]| {
        folder.write("model.safetensors", bytes);
        open_model(&folder)
    };
    withstands("weights", |random| mutate(random, &good, head), open);
}

#[test]
fn configurations() {
    let folder = Folder::new("configurations");
    folder.write("model.safetensors", &golden("model.safetensors"));
    let good = golden("config.json");
    let open = |bytes: &[u8]| {
        folder.write("config.json", bytes);
        open_model(&folder)
    };
    withstands(
        "configuration",
        |random| mutate_document(random, &good),
        open,
    );
}

#[cfg(feature = "tokenizers")]
#[test]
fn tokenizers() {
    use shadegrad::hugging_face::Tokenizer;

    let folder = Folder::new("tokenizers");
    let good = golden("tokenizer.json");
    let open = |bytes: &[u8]| {
        folder.write("tokenizer.json", bytes);
        let tokenizer = Tokenizer::open(&folder.0).map_err(|error| error.to_string())?;
        let text = "The quick brown fox; 1,234 \u{0}🦀<|endoftext|>\u{e9}";
        let tokens = tokenizer.encode(text).map_err(|error| error.to_string())?;
        // Tokens that it has, and those that it hasn't.
        let _ = tokenizer.strings(&tokens);
        let _ = tokenizer.decode(&[&tokens[..], &[0, 287, 288, u32::MAX]].concat());
        tokenizer
            .decode(&tokens)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    withstands("tokenizer", |random| mutate_document(random, &good), open);
}

#[test]
fn texts() {
    let folder = Folder::new("texts");
    let names = "emma\nolivia\r\nava\n\nisabella\nsophia\nzoë\n李\n\u{feff}mia\n";
    let make = |random: &mut Random| {
        let good = names.repeat(1 + random.below(20)).into_bytes();
        let bytes = mutate(random, &good, good.len());
        match random.below(10) {
            0 => vec![bytes.first().copied().unwrap_or(0); random.below(100_000)],
            1 => bytes.into_iter().filter(|&byte| byte != b'\n').collect(),
            2 => b"\n \r\n\t".repeat(random.below(10)),
            _ => bytes,
        }
    };
    let open = |bytes: &[u8]| {
        let path = folder.write("text.txt", bytes);
        let read = || {
            let text = read_text(&path)?;
            let names = NamesDataset::new(&text, 16, 1).or_else(|_| {
                // Longer names need a longer context.
                NamesDataset::new(&text, 200_000, 1)
            });
            let tokenizer = CharTokenizer::from_text(&text)?;
            let tokens = tokenizer.encode(&text)?;
            assert_eq!(tokenizer.decode(&tokens)?, text);
            let stream = StreamDataset::new(tokens, 8)?;
            let _ = stream.batch(Split::Train, 3, 1, 1);
            let names = names?;
            let _ = names.train_batch(4, 1);
            let _ = names.test_batches(4).count();
            Ok(())
        };
        read().map_err(|error: shadegrad::Error| error.to_string())
    };
    withstands("text", make, open);
}
