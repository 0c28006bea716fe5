//! Mutated files given to the program: it ends by itself, with a line, and what it would have replaced is whole.

use super::*;

/// Of each kind.
const FILES: usize = 24;

/// A few bytes of the first `head` overwritten, or everything from there on cut off.
fn mutate(random: &mut Random, good: &[u8], head: usize) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len().min(head));
        match random.below(6) {
            0 => bytes.truncate(at.max(1)),
            1 => bytes[at] = random.below(256) as u8,
            2 => drop(bytes.splice(at..at, *b"\xff\0")),
            3 => bytes[at] ^= 1 << random.below(8),
            _ => {
                let digit = bytes[at..].iter().position(u8::is_ascii_digit);
                if let Some(place) = digit {
                    bytes[at + place] = b'0' + random.below(10) as u8;
                }
            }
        }
    }
    bytes
}

/// Runs the program on each of many files, beside a good checkpoint and its metrics.
fn withstands(good: &[u8], head: usize, arguments: &[&str]) {
    let folder = Folder::new();
    let outputs = [
        "--checkpoint",
        "kept.safetensors",
        "--metrics",
        "kept.jsonl",
    ];
    folder.train(&[&["--steps", "2"], &outputs[..]].concat());
    let kept = ["kept.safetensors", "kept.jsonl"].map(|name| (name, folder.read(name)));
    let mut random = Random::new(20);
    let (mut taken, mut refused) = (0, 0);
    for number in 0..FILES {
        for (name, bytes) in &kept {
            folder.write(name, bytes);
        }
        folder.write("mutated", mutate(&mut random, good, head));
        // Had the file asked for more steps than these, the program would not end soon.
        let more = ["--steps", "3", "--samples", "2"];
        let output = folder.run(&[&more[..], arguments, &outputs].concat());
        let stderr = text(&output.stderr);
        match output.status.code() {
            Some(0) => taken += 1,
            Some(1) => {
                refused += 1;
                let is_one = stderr
                    .lines()
                    .filter(|line| line.starts_with("error: "))
                    .count()
                    == 1;
                assert!(is_one && stderr.len() < 4000, "{number}: {stderr}");
                for (name, bytes) in &kept {
                    assert!(
                        &folder.read(name) == bytes,
                        "{number}: {name} is gone: {stderr}"
                    );
                }
            }
            other => panic!("{number} ends with {other:?}: {stderr}"),
        }
    }
    assert!(refused > FILES / 4, "{taken} taken, {refused} refused");
}

#[test]
fn mutated_checkpoints() {
    let folder = Folder::new();
    folder.train(&["--steps", "2", "--checkpoint", "good.safetensors"]);
    let good = folder.read("good.safetensors");
    let head = 8 + u64::from_le_bytes(*good.first_chunk().unwrap()) as usize;
    withstands(&good, head, &["--resume", "mutated"]);
}

#[test]
fn mutated_texts() {
    let names = "emma\nolivia\nava\nisabella\nsophia\nmia\n".repeat(4);
    let arguments = [TINY, &["-f", "mutated"]].concat();
    withstands(names.as_bytes(), names.len(), &arguments);
}
