//! The example `lm` on the small model that the `transformers` library saved, against what that library computes.

mod download;
mod tune;

use safetensors::SafeTensors;
use serde_json::Value;

use super::{Folder, text};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gpt2_tiny");

/// What the program prints; if it fails, its error.
fn run(folder: &Folder, arguments: &[&str]) -> Result<String, String> {
    let output = folder.command_of("lm", arguments).output().unwrap();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

/// What the golden file says of itself.
fn about(bytes: &[u8]) -> Value {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    serde_json::from_str(&header.metadata().as_ref().unwrap()["about"]).unwrap()
}

/// A number that a line has behind some words.
fn number(printed: &str, words: &str) -> f64 {
    let (_, rest) = printed
        .split_once(words)
        .unwrap_or_else(|| panic!("{words}: {printed}"));
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn tokens_continuations_expectations_and_perplexity() {
    let bytes = std::fs::read(format!("{MODEL}/expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let about = about(&bytes);
    let folder = Folder::new();

    let prompt = about["prompt"].as_str().unwrap();
    let printed = run(&folder, &["tokenize", MODEL, prompt]).unwrap();
    assert!(
        printed.starts_with(r#"["T", "he", " w", "or""#),
        "{printed}"
    );

    let greedy = [
        "generate",
        MODEL,
        prompt,
        "--tokens",
        "24",
        "--temperature",
        "0",
    ];
    let printed = run(&folder, &greedy).unwrap();
    assert!(
        printed.starts_with(&format!("{prompt}\u{fffd};;;;;\u{fffd};")),
        "{printed}"
    );

    let halves = run(&folder, &[&greedy[..], &["--precision", "mixed"]].concat()).unwrap();
    assert!(
        halves.starts_with(&format!("{prompt}\u{fffd};")),
        "{halves}"
    );

    // Probabilities from the softmax of the library's logits.
    let printed = run(&folder, &["top", MODEL, "The world", "--count", "2"]).unwrap();
    assert!(
        printed.contains("\n\"or\" → \"v\" 3.79 %, \" we\" 3.04 %\n"),
        "{printed}"
    );

    folder.write("book.txt", about["text"].as_str().unwrap());
    let stride = about["stride"].to_string();
    let measured = ["perplexity", MODEL, "book.txt", "--stride", &stride];
    let printed = run(&folder, &measured).unwrap();
    let loss = expected.tensor("stream_loss").unwrap();
    let loss = f32::from_le_bytes(loss.data().try_into().unwrap());
    assert!(
        printed.contains(&format!("loss {loss:.4} nats")),
        "{printed}"
    );
    // Rounded, but hardly another.
    let printed = run(
        &folder,
        &[&measured[..], &["--precision", "mixed"]].concat(),
    )
    .unwrap();
    let in_halves = number(&printed, "loss ");
    let apart = (in_halves - f64::from(loss)).abs();
    assert!(apart < 1e-3, "{printed}");
}

/// The small model in a directory of the test's own, with some of a file's text replaced.
fn model_with(folder: &Folder, name: &str, file: &str, from: &str, to: &str) {
    std::fs::create_dir(folder.0.join(name)).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        folder.write(
            &format!("{name}/{file}"),
            std::fs::read(format!("{MODEL}/{file}")).unwrap(),
        );
    }
    let path = format!("{name}/{file}");
    let replaced = text(&folder.read(&path)).replacen(from, to, 1);
    assert!(replaced.contains(to));
    folder.write(&path, replaced);
}

#[test]
fn the_answer_alone_is_on_standard_output() {
    let folder = Folder::new();
    let output = folder
        .command_of("lm", &["generate", MODEL, "The world", "--tokens", "1"])
        .output()
        .unwrap();
    assert!(text(&output.stdout).starts_with("The world"));
    assert!(text(&output.stderr).contains("adapter: "));
}

#[test]
fn adapters_are_listed_by_every_command_that_needs_one() {
    let folder = Folder::new();
    for arguments in [
        &["generate", "--list-adapters"][..],
        &["top", MODEL, "x", "--list-adapters"],
        &["attention", "--list-adapters"],
        &["perplexity", "--list-adapters"],
        &["tune", "--list-adapters"],
        &["merge", "--list-adapters"],
    ] {
        let printed = run(&folder, arguments).unwrap();
        assert!(printed.starts_with("0: "), "{arguments:?}: {printed}");
    }
    let error = run(&folder, &["top", MODEL]).unwrap_err();
    assert!(error.contains("<TEXT>"), "{error}");
}

#[test]
fn a_text_may_begin_with_a_hyphen() {
    let folder = Folder::new();
    for (arguments, expected) in [
        (&["-the cat"][..], r#"["-", "t", "he","#),
        (&["--the"], r#"["-", "-", "t", "he"]"#),
        (&["-1"], r#"["-", "1"]"#),
        (&["-"], r#"["-"]"#),
        (&["--", "--help"], r#"["-", "-","#),
    ] {
        let printed = run(&folder, &[&["tokenize", MODEL][..], arguments].concat()).unwrap();
        assert!(printed.starts_with(expected), "{printed}");
    }
    let greedy = ["generate", MODEL, "-the", "--tokens", "1", "-t", "0"];
    let printed = run(&folder, &greedy).unwrap();
    assert!(printed.starts_with("-the"), "{printed}");
}

#[test]
fn stored_truncation_shortens_no_text() {
    let folder = Folder::new();
    let truncation = r#""truncation": {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0}"#;
    model_with(
        &folder,
        "short",
        "tokenizer.json",
        "\"truncation\": null",
        truncation,
    );
    folder.write("book.txt", "the cat sat on the mat.\n".repeat(40));
    let [whole, short] =
        [MODEL, "short"].map(|model| run(&folder, &["perplexity", model, "book.txt"]).unwrap());
    assert_eq!(whole, short);
    assert!(number(&format!("x {whole}"), "x ") > 300.0, "{whole}");
}

/// Nothing is opened for writing that is also read, whatever it is called.
#[test]
fn no_output_is_a_file_of_the_model() {
    let folder = Folder::new();
    model_with(&folder, "model", "config.json", "gelu_new", "gelu_new");
    folder.write("book.txt", "the cat sat on the mat.\n".repeat(40));
    #[cfg(unix)]
    std::os::unix::fs::symlink("model/model.safetensors", folder.0.join("link.svg")).unwrap();
    let contents = |name: &str| folder.read(&format!("model/{name}"));
    let names = ["config.json", "model.safetensors", "tokenizer.json"];
    let before = names.map(contents);
    for outputs in [
        &["--metrics=model/model.safetensors", "--out=new"][..],
        &["--metrics=model/../model/tokenizer.json", "--out=new"],
        #[cfg(unix)]
        &["--plot=link.svg", "--out=new"],
        &["--metrics=new/model.safetensors", "--out=new"],
        &["--metrics=model/config.json", "--out=model"],
    ] {
        let _ = std::fs::create_dir(folder.0.join("new"));
        let tune = ["tune", "model", "book.txt", "--context=16", "--steps=1"];
        let error = run(&folder, &[&tune[..], outputs].concat()).unwrap_err();
        assert!(
            error.contains(" is also the file of "),
            "{outputs:?}: {error}"
        );
        assert!(names.map(contents) == before, "{outputs:?}");
    }
    #[cfg(unix)]
    {
        std::fs::create_dir(folder.0.join("maps")).unwrap();
        let svg = folder.0.join("maps/layer_0.svg");
        std::os::unix::fs::symlink("../model/model.safetensors", svg).unwrap();
        let error = run(&folder, &["attention", "model", "x", "--out=maps"]).unwrap_err();
        assert!(
            error.contains(" is also the file of the model's"),
            "{error}"
        );
        assert!(names.map(contents) == before);
    }
}

/// Where logits overflow too.
#[test]
fn a_damaged_model_answers_with_an_error() {
    let folder = Folder::new();
    folder.write("book.txt", "the cat sat on the mat.\n".repeat(40));
    for (name, value, reason) in [
        ("nan", f32::NAN, "tensor `transformer.wte.weight` holds NaN"),
        ("huge", 3e38, ""),
    ] {
        model_with(&folder, name, "config.json", "gelu_new", "gelu_new");
        let path = format!("{name}/model.safetensors");
        let mut bytes = folder.read(&path);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let table = file.tensor("transformer.wte.weight").unwrap().data();
        let start = table.as_ptr() as usize - bytes.as_ptr() as usize;
        let end = start + table.len();
        for number in bytes[start..end].chunks_mut(4) {
            number.copy_from_slice(&value.to_le_bytes());
        }
        folder.write(&path, bytes);
        for arguments in [
            &["generate", name, "x"][..],
            &["top", name, "x"],
            &["perplexity", name, "book.txt"],
            &["attention", name, "xy", "--out=maps"],
        ] {
            // Attention may come out even where what it is attention to overflows.
            if name == "huge" && arguments[0] == "attention" {
                continue;
            }
            let error = run(&folder, arguments).unwrap_err();
            assert!(
                error.contains("error: ") && error.contains(reason) && error.contains("older copy"),
                "{arguments:?}: {error}"
            );
        }
    }
}

#[test]
fn attention_is_drawn_as_a_picture_and_as_a_page() {
    let bytes = std::fs::read(format!("{MODEL}/expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let about = about(&bytes);
    let folder = Folder::new();
    let prompt = about["prompt"].as_str().unwrap();
    run(
        &folder,
        &["attention", MODEL, prompt, "--layer", "1", "--out", "maps"],
    )
    .unwrap();

    // The page holds the weights of the library.
    let page = text(&folder.read("maps/layer_1.html"));
    let (_, data) = page.split_once(r#"id="data">"#).unwrap();
    let data: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
    let weights = expected.tensor("attention").unwrap();
    let [2, heads, length, _] = *weights.shape() else {
        panic!("{:?}", weights.shape())
    };
    assert_eq!(data["tokens"].as_array().unwrap().len(), length);
    let all: Vec<f32> = weights
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b))
        .collect();
    let layer = &all[heads * length * length..];
    for (i, &expected) in layer.iter().enumerate() {
        let (head, query, key) = (i / length / length, i / length % length, i % length);
        match data["heads"][head][query][key].as_f64() {
            Some(actual) => assert!(
                (actual - f64::from(expected)).abs() < 2e-4,
                "{actual} {expected}"
            ),
            None => assert!(key > query && expected == 0.0, "{head} {query} {key}"),
        }
    }
    assert!(!page.contains("http"), "the page needs something else");

    // Every head with its title, every token beside and below every head.
    let picture = text(&folder.read("maps/layer_1.svg"));
    let count = |text: &str| picture.lines().filter(|line| *line == text).count();
    for head in 0..heads {
        assert_eq!(count(&format!("head {head}")), 1);
    }
    let first = data["tokens"][0].as_str().unwrap();
    let same = data["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|token| *token == first)
        .count();
    assert_eq!(count(first), 2 * heads * same);

    crate::pictures::check("layer_1.svg", &picture);
    // What comes later is hatched and said to be hidden, in each head and beside its scale; it isn't a weight of zero.
    let hatched = crate::pictures::hatched(&picture);
    assert_eq!(hatched, heads * (length * (length - 1) / 2 + 1));
    assert_eq!(count("hidden"), heads);
    // Picture and page have one scale, from dark to bright.
    let colours = data["colours"].as_array().unwrap();
    let [dark, bright] = [&colours[0], &colours[colours.len() - 1]]
        .map(|colour| [0, 1, 2].map(|i| colour[i].as_u64().unwrap()));
    assert!(dark.iter().sum::<u64>() < 200, "{dark:?}");
    // The first token gives all to itself.
    let [r, g, b] = bright;
    assert!(picture.contains(&format!("fill=\"#{r:02x}{g:02x}{b:02x}\"")));
    assert!(page.contains("the brighter, the more") && page.contains("prefers-color-scheme: dark"));

    // A text that looks like the end of the page is none.
    let mean = ["attention", MODEL, "a</script>b", "--out", "maps"];
    run(&folder, &mean).unwrap();
    let page = text(&folder.read("maps/layer_0.html"));
    assert_eq!(page.matches("</script>").count(), 2);
}

#[test]
fn what_a_model_needs_is_told_before_it_is_loaded() {
    let folder = Folder::new();
    let llama = format!("{MODEL}/../models/llama");
    let printed = run(&folder, &["info", &llama]).unwrap();
    for expected in [
        "llama: 37,548 parameters, 131 tokens, context 512",
        "3 layers of 36, 6 heads of 6, 3 of keys and values",
        "files: 146.67 KiB of F32",
        "  f32    generate, with a full cache",
        "device memory to train on 4 × 128 tokens a step, with all that it computes:",
        "  mixed  train adapters of rank 8",
        "adapter: ",
    ] {
        assert!(printed.contains(expected), "{printed}\nhas no {expected}");
    }
    let shorter = run(&folder, &["info", &llama, "--context", "16"]).unwrap();
    assert!(shorter.contains("context 16\n"), "{shorter}");
    let error = run(&folder, &["info", &llama, "--context", "513"]).unwrap_err();
    assert!(
        error.contains("context = 513 is not possible: expected 1 to 512, the model's context"),
        "{error}"
    );
    let qwen = format!("{MODEL}/../models/qwen2");
    let generate = |context| run(&folder, &["generate", &qwen, "a", "--context", context]);
    assert!(generate("8").unwrap().starts_with('a'));
    let error = generate("0").unwrap_err();
    assert!(error.contains("context = 0 is not possible"), "{error}");
}

/// What is read of a model in several files is not written over, and a narrower type of what is saved is told.
#[test]
fn models_in_several_files_and_other_types() {
    let folder = Folder::new();
    folder.write("book.txt", "abcabcab".repeat(100));
    std::fs::create_dir(folder.0.join("m")).unwrap();
    for entry in std::fs::read_dir(format!("{MODEL}/../models/llama")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        folder.write(&format!("m/{name}"), std::fs::read(&path).unwrap());
    }
    let tokenizer = r#"{
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "[\\s\\S]" }, "behavior": "Isolated", "invert": false },
        "post_processor": null, "decoder": { "type": "Fuse" },
        "model": { "type": "WordLevel", "vocab": { "a": 0, "b": 1, "c": 2 }, "unk_token": "<unk>" }
    }"#;
    folder.write("m/tokenizer.json", tokenizer);
    let tune = |arguments: &[&str]| {
        let short = [
            "tune",
            "m",
            "book.txt",
            "--context=16",
            "--steps=1",
            "--final-eval-iters=1",
        ];
        run(&folder, &[&short[..], arguments].concat())
    };
    let shard = "model-00002-of-00004.safetensors";
    let error = tune(&["--out=new", &format!("--metrics=m/{shard}")]).unwrap_err();
    let expected = format!("error: --metrics: m/{shard} is also the file of the model's {shard}");
    assert!(error.starts_with(&expected), "{error}");
    let error = tune(&["--out=new", "--lora=2", "--save-dtype=f16"]).unwrap_err();
    assert!(error.contains("cannot be used with"), "{error}");

    let note =
        "saved as BF16: weights are rounded to it; --save-dtype f32 keeps them as they are\n";
    let printed = tune(&["--out=narrow", "--save-dtype=bf16"]).unwrap();
    assert!(printed.contains(note), "{printed}");
    for out in ["--out=same", "--out=m"] {
        assert!(!tune(&[out]).unwrap().contains("saved as"));
    }
    let files = |model: &str| run(&folder, &["info", model]).unwrap();
    assert!(
        files("narrow").contains("files: 73.34 KiB of BF16\n"),
        "{}",
        files("narrow")
    );
    assert!(files("same").contains("files: 146.67 KiB of F32\n"));
    tune(&["--out=adapters", "--lora=2"]).unwrap();
    let merge = ["merge", "narrow", "adapters", "--out=merged"];
    let printed = run(&folder, &merge).unwrap();
    let kept = note.replace(":", ", as the model's files are:");
    assert!(printed.contains(&kept), "{printed}");
    let wide = run(&folder, &[&merge[..], &["--save-dtype=f32"]].concat()).unwrap();
    assert!(!wide.contains("saved as"), "{wide}");
    assert!(files("merged").contains("files: 146.67 KiB of F32\n"));
}

/// The kinds are those of `tests/files/hugging_face/bad_directories.rs`.
#[test]
fn one_line_says_what_is_wrong_with_a_directory() {
    let folder = Folder::new();
    let llama = format!("{MODEL}/../models/llama");
    let copy = |change: &dyn Fn(&str)| {
        let _ = std::fs::remove_dir_all(folder.0.join("bad"));
        std::fs::create_dir(folder.0.join("bad")).unwrap();
        for entry in std::fs::read_dir(&llama).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            folder.write(&format!("bad/{name}"), std::fs::read(&path).unwrap());
        }
        change("bad");
    };
    let replace = |file: &str, from: &str, to: &str| {
        let contents = text(&folder.read(file));
        assert!(contents.contains(from), "{contents}");
        folder.write(file, contents.replace(from, to));
    };
    let remove = |file: &str| std::fs::remove_file(folder.0.join(file)).unwrap();
    let shard = "bad/model-00002-of-00004.safetensors";
    let index = "bad/model.safetensors.index.json";
    let config = "bad/config.json";
    type Change<'a> = (&'a dyn Fn(&str), &'a str);
    let changes: [Change<'_>; 6] = [
        (
            &|_| remove(config),
            "error: cannot access bad/config.json: ",
        ),
        (
            &|_| replace(config, "\"llama\"", "\"mamba\""),
            "error: checkpoint bad/config.json: its model_type is `mamba`; expected one of ",
        ),
        (
            &|_| replace(config, "36", "1000000000"),
            "error: checkpoint bad/config.json: hidden_size = 1000000000 is not possible",
        ),
        (
            &|_| remove(shard),
            "error: checkpoint bad/model.safetensors.index.json: it names model-00002-of-00004.safetensors, which",
        ),
        (
            &|_| folder.write(shard, "<html>"),
            "error: checkpoint bad/model-00002-of-00004.safetensors: it is not a safetensors file",
        ),
        (
            &|_| replace(index, "model-00001-of-00004", "../../etc/passwd"),
            "error: checkpoint bad/model.safetensors.index.json: its weight_map names `../../etc/passwd.safetensors`",
        ),
    ];
    for (change, expected) in changes {
        copy(change);
        for arguments in [&["info", "bad"][..], &["top", "bad", "x"]] {
            let error = run(&folder, arguments).unwrap_err();
            assert!(error.starts_with(expected), "{error}\nnot {expected}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}

#[test]
fn one_line_says_what_is_wrong() {
    let folder = Folder::new();
    folder.write("book.txt", "Four score and seven years ago");
    for (arguments, reason) in [
        (
            vec!["top", "nowhere", "x"],
            "error: cannot access nowhere/config.json: ",
        ),
        (vec!["top", MODEL, ""], "error: the text is empty"),
        (
            vec!["attention", MODEL, "x", "--layer=2", "--out=maps"],
            "error: --layer = 2 is not possible: expected 0 to 1",
        ),
        (
            vec!["attention", MODEL, &"x".repeat(65), "--out=maps"],
            "error: the text has 65 tokens, at most 64 can be shown",
        ),
        (
            vec!["perplexity", MODEL, "none.txt"],
            "error: cannot access none.txt: ",
        ),
        (
            vec!["perplexity", MODEL, "book.txt", "--stride", "64"],
            "error: --stride = 64 is not possible: expected 1 to 63",
        ),
    ] {
        let error = run(&folder, &arguments).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}
