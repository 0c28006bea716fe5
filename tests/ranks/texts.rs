//! The programs that learn from a text on several ranks, against one: `train_text` and `lm tune`.

use std::fs;

use crate::programs::{
    Folder, assert_close, assert_printed_once, assert_said_once, join, ranks_of, succeed,
};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gpt2_tiny");

/// A text of lines that differ.
fn book(folder: &Folder) -> String {
    let words = ["the cat", "a dog", "some owl", "my mouse", "his old hat"];
    let line = |n: usize| {
        let [who, whom] = [n * n + n / 7, n * 3 + n / 4].map(|at| words[at % 5]);
        format!("{who} saw {whom} at {n}.\n")
    };
    let path = folder.path("book.txt");
    fs::write(&path, (0..80).map(line).collect::<String>()).unwrap();
    path
}

pub fn train_text_trains_on_ranks() {
    let folder = Folder::new("train_text");
    let book = book(&folder);
    let metrics = [1, 2].map(|ranks| {
        let metrics = folder.path(&format!("{ranks}.jsonl"));
        let flags = format!(
            "--filename {book} --d-model 16 --n-heads 2 --n-layers 1 --context 16 --batch-size 5 --dropout 0.1 \
             --steps 30 --eval-interval 15 --eval-iters 3 --eval-batch-size 4 --final-eval-iters 3 --samples 1 \
             --sample-length 8 --sample-interval 15 --metrics {metrics}"
        );
        let printed = succeed(&ranks_of("train_text", ranks, &flags));
        assert_printed_once(&printed, &["adapter: ", "sample:", "sample 1 of 1:"]);
        metrics
    });
    assert_close(&metrics[1], &metrics[0]);
}

/// Flags of `lm tune` but the model and the text.
fn tune(model: &str, book: &str, out: &str, more: &str) -> String {
    format!(
        "tune {model} {book} --out {out} --context 16 --batch-size 5 --accumulate 2 --checkpoint-blocks --lr 1e-3 \
         --warmup 2 --eval-interval 4 --eval-iters 3 --eval-batch-size 2 --final-eval-iters 3 {more}"
    )
}

pub fn whole_models_are_tuned_on_ranks() {
    let folder = Folder::new("tune");
    let book = book(&folder);
    let metrics = [1, 2].map(|ranks| {
        let [metrics, out] = ["jsonl", "out"].map(|end| folder.path(&format!("{ranks}.{end}")));
        let more = format!("--steps 8 --dropout 0.1 --metrics {metrics}");
        let printed = succeed(&ranks_of("lm", ranks, &tune(MODEL, &book, &out, &more)));
        assert_printed_once(&printed, &["adapter: ", "data: ", "the tuned model: "]);
        assert!(fs::exists(format!("{out}/tokenizer.json")).unwrap());
        metrics
    });
    assert_close(&metrics[1], &metrics[0]);
    // What they saved is a model that goes on from there.
    let printed = succeed(&ranks_of(
        "lm",
        1,
        &format!("info {}", folder.path("2.out")),
    ));
    assert!(printed.contains("36,736"), "{printed}");
}

pub fn adapters_are_trained_on_ranks_and_resumed_on_others() {
    let folder = Folder::new("lora");
    let book = book(&folder);
    let run = |ranks: usize, name: &str, more: &str| {
        let [metrics, out, checkpoint] =
            ["jsonl", "out", "safetensors"].map(|end| folder.path(&format!("{name}.{end}")));
        let more = format!("--metrics {metrics} --checkpoint {checkpoint} {more}");
        let printed = succeed(&ranks_of("lm", ranks, &tune(MODEL, &book, &out, &more)));
        assert_printed_once(&printed, &["adapters: rank 4 on ", "the adapters: "]);
        metrics
    };
    let lora = "--lora 4 --lora-dropout 0.2 --schedule constant";
    let one = run(1, "one", &format!("{lora} --steps 8"));
    run(2, "more", &format!("{lora} --steps 4"));
    let resume = format!("--resume {}", folder.path("more.safetensors"));
    let more = run(3, "more", &format!("{resume} --steps 8"));
    assert_close(&more, &one);
    // And on, apart.
    let apart = format!("{resume} --steps 12 --sync-every 4");
    let flags = tune(MODEL, &book, &folder.path("more.out"), &apart);
    let printed = succeed(&ranks_of("lm", 2, &flags));
    assert_printed_once(&printed, &["ranks: 2, averaged every 4 steps"]);
}

pub fn texts_are_learnt_apart() {
    let folder = Folder::new("texts-apart");
    let book = book(&folder);
    let text = format!(
        "--filename {book} --d-model 16 --n-heads 2 --n-layers 1 --context 16 --batch-size 5 --steps 30 --eval-interval 15 \
         --eval-iters 3 --eval-batch-size 4 --final-eval-iters 3 --samples 0 --sample-length 8 --sync-every 5"
    );
    let printed = succeed(&ranks_of(
        "train_text",
        2,
        &format!("{text} --sample-interval 15"),
    ));
    assert_printed_once(&printed, &["ranks: 2, averaged every 5 steps", "sample:"]);
    assert_said_once(
        &ranks_of("train_text", 2, &format!("{text} --sample-interval 8")),
        "error: --sample-interval is 8, no multiple of --sync-every 5",
    );

    // Adapters, with batches that make a step together; stopped in between, and on to the same bits.
    let flags = |name: &str, more: &str| {
        let [out, checkpoint] =
            ["out", "safetensors"].map(|end| folder.path(&format!("{name}.{end}")));
        tune(
            MODEL,
            &book,
            &out,
            &format!("--checkpoint {checkpoint} {more}"),
        )
    };
    let lora = "--lora 4 --lora-dropout 0.2 --schedule constant --sync-every 2";
    let run = |name: &str, more: &str| succeed(&ranks_of("lm", 2, &flags(name, more)));
    let printed = run("whole", &format!("{lora} --steps 8"));
    assert_printed_once(
        &printed,
        &["ranks: 2, averaged every 2 steps", "the adapters: "],
    );
    run("part", &format!("{lora} --steps 4"));
    run(
        "part",
        &format!("--resume {} --steps 8", folder.path("part.safetensors")),
    );
    for file in ["safetensors", "out/adapter_model.safetensors"] {
        let [whole, part] =
            ["whole", "part"].map(|name| fs::read(folder.path(&format!("{name}.{file}"))).unwrap());
        assert!(whole == part, "{file}");
    }
    assert_said_once(
        &ranks_of(
            "lm",
            2,
            &flags("whole", &format!("{lora} --steps 8 --save-interval 3")),
        ),
        "error: --save-interval is 3, no multiple of --sync-every 2",
    );
}

pub fn what_is_wrong_with_tuning_is_said_once() {
    let folder = Folder::new("tune-wrong");
    let book = book(&folder);
    let flags = |model: &str| tune(model, &book, &folder.path("out"), "--steps 2 --lora 2");
    let pair = |other: &str| {
        let other = ranks_of("lm", 1, &flags(other));
        join(ranks_of("lm", 1, &flags(MODEL)), other)
    };
    assert_said_once(&pair("no-such-model"), "error: rank 1: ");
    let other = folder.path("other");
    fs::create_dir(&other).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let mut bytes = fs::read(format!("{MODEL}/{name}")).unwrap();
        if name == "model.safetensors" {
            let last = bytes.len() - 4;
            bytes[last] ^= 1;
        }
        fs::write(format!("{other}/{name}"), bytes).unwrap();
    }
    assert_said_once(&pair(&other), "error: the fingerprint of weight `");
    assert_said_once(
        &ranks_of("lm", 2, &format!("info {MODEL}")),
        "error: lm info runs as one process, and 2 were started",
    );
}
