//! `sample` and `info`: what a checkpoint is good for without the text that it was made from.

use super::*;

fn printed(folder: &Folder, name: &'static str, arguments: &[&str]) -> String {
    let output = folder
        .command_of(name, arguments)
        .output()
        .expect("it starts");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    let errors = text(&output.stderr);
    assert!(errors.starts_with("adapter: "), "{errors}");
    text(&output.stdout)
}

fn refused(folder: &Folder, name: &'static str, arguments: &[&str]) -> String {
    let output = folder
        .command_of(name, arguments)
        .output()
        .expect("it starts");
    assert!(
        !output.status.success(),
        "{arguments:?}: {}",
        text(&output.stdout)
    );
    text(&output.stderr)
}

#[test]
fn names_are_sampled_from_a_checkpoint_alone() {
    let folder = Folder::new();
    folder.write("given.txt", "emma\nava\nmia\nlea\nida\n".repeat(20));
    for batching in ["names", "stream"] {
        folder.train(&[
            "-f",
            "given.txt",
            "--batching",
            batching,
            "--context",
            "8",
            "--steps",
            "3",
            "--samples",
            "0",
            "--checkpoint",
            "names.safetensors",
        ]);
        std::fs::rename(folder.0.join("given.txt"), folder.0.join("away.txt")).unwrap();
        let sample = |arguments: &[&str]| {
            let words = [&["sample", "names.safetensors"], arguments].concat();
            printed(&folder, "train_names", &words)
        };
        let names = sample(&["--prompt", "em", "--count", "7"]);
        assert_eq!(names.lines().count(), 7, "{names}");
        assert!(names.lines().all(|name| name.starts_with("em")), "{names}");
        let known = |c: char| "emavilda".contains(c);
        assert!(names.lines().all(|name| name.chars().all(known)), "{names}");
        // The same seed, the same names; another one, others.
        assert_eq!(
            names,
            sample(&["--prompt", "em", "--count", "7", "--seed", "42"])
        );
        assert_ne!(
            names,
            sample(&["--prompt", "em", "--count", "7", "--seed", "1"])
        );
        let short = sample(&["--max-tokens", "2", "-n", "50"]);
        assert!(
            short.lines().all(|name| name.chars().count() <= 2),
            "{short}"
        );
        let likely = sample(&["--temperature", "0", "--count", "3"]);
        assert_eq!(likely.lines().collect::<BTreeSet<_>>().len(), 1, "{likely}");
        assert_eq!(likely, sample(&["--top-k", "1", "--count", "3"]));
        assert_eq!(sample(&[]).lines().count(), 20);
        assert_eq!(sample(&["--precision", "mixed"]).lines().count(), 20);

        let about = printed(&folder, "train_names", &["info", "names.safetensors"]);
        assert!(
            about.contains("training: 3 steps, seed 42, adamw"),
            "{about}"
        );
        assert!(about.contains("\ntoken_embedding.weight  "), "{about}");
        assert!(about.contains("\ntotal  "), "{about}");
        std::fs::rename(folder.0.join("away.txt"), folder.0.join("given.txt")).unwrap();
    }

    let refused = |arguments: &[&str]| {
        let words = [&["sample"], arguments].concat();
        refused(&folder, "train_names", &words)
    };
    let errors = refused(&["names.safetensors", "--prompt", "Zoé"]);
    assert!(
        errors.contains("--prompt: ") && errors.contains("'Z'"),
        "{errors}"
    );
    let errors = refused(&["names.safetensors", "--temperature", "-1"]);
    assert!(errors.contains("--temperature"), "{errors}");
    let errors = refused(&["names.safetensors", "--precision", "f16"]);
    let expected = "precision = f16 is not possible: expected one of f32, mixed";
    assert!(errors.contains(expected), "{errors}");
    let errors = refused(&["names.safetensors", "--count", "2000000"]);
    assert!(errors.contains("--count = 2000000"), "{errors}");
    let errors = refused(&["given.txt"]);
    assert!(errors.contains("not a safetensors file"), "{errors}");
    let long = ["names.safetensors", "--prompt", "emmaemmaemma"];
    let errors = refused(&long);
    assert!(errors.contains("--prompt: it fills"), "{errors}");
    let further = [&["sample"], &long[..], &["--max-tokens", "1", "-n", "2"]].concat();
    assert_eq!(printed(&folder, "train_names", &further).lines().count(), 2);
    let errors = refused(&["nothing"]);
    assert!(errors.contains("nothing"), "{errors}");
}

/// Rather than with names that are nowhere.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_with_an_error() {
    let folder = Folder::new();
    let full = std::fs::File::options().write(true).open("/dev/full");
    let output = folder
        .command_of("train_names", &["--list-adapters"])
        .stdout(full.unwrap())
        .output()
        .unwrap();
    let errors = text(&output.stderr);
    assert!(errors.starts_with("error: standard output: "), "{errors}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn texts_are_sampled_from_a_checkpoint_alone() {
    let folder = Folder::new();
    folder.write("text.txt", "the cat sat on the mat.\n".repeat(30));
    printed_by_training(&folder);
    std::fs::remove_file(folder.0.join("text.txt")).unwrap();
    let sample = |arguments: &[&str]| {
        let words = [
            &["sample", "text.safetensors", "--prompt", "the cat"],
            arguments,
        ]
        .concat();
        printed(&folder, "train_text", &words)
    };
    let one = sample(&["--max-tokens", "30"]);
    assert!(
        one.starts_with("the cat") && one.trim().len() <= 37,
        "{one}"
    );
    assert_eq!(one, sample(&["--max-tokens", "30"]));
    let three = sample(&["--count", "3"]);
    assert!(three.contains("sample 3 of 3:\n  the cat"), "{three}");
}

fn printed_by_training(folder: &Folder) {
    let arguments = [
        "-f",
        "text.txt",
        "--context",
        "8",
        "--steps",
        "3",
        "--sample-interval",
        "0",
        "--samples",
        "0",
        "--checkpoint",
        "text.safetensors",
    ];
    let output = folder
        .command_of("train_text", &[TINY, &arguments].concat())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
