//! `lm tune` and `lm merge`.

use safetensors::SafeTensors;

use super::{MODEL, number, run};
use crate::Folder;

#[test]
fn a_model_is_tuned_and_saved_in_the_layout_that_it_came_in() {
    let folder = Folder::new();
    folder.write("book.txt", "the cat sat on the mat.\n".repeat(40));
    let perplexity = |model: &str| {
        let printed = run(&folder, &["perplexity", model, "book.txt"]).unwrap();
        number(&printed, "loss ")
    };
    let tune = |model: &str, out: &str| {
        let arguments = [
            "tune",
            model,
            "book.txt",
            "--out",
            out,
            "--steps",
            "30",
            "--lr",
            "0.01",
            "--context",
            "16",
            "--eval-interval",
            "15",
            "--save-interval",
            "20",
            "--metrics",
            "metrics.jsonl",
        ];
        run(&folder, &arguments).unwrap()
    };
    let printed = tune(MODEL, "tuned");
    assert!(printed.contains("30 steps of 4 × 16 tokens"), "{printed}");
    assert!(
        printed.contains("step 15: train loss") && printed.contains("the tuned model: tuned"),
        "{printed}"
    );
    let records = folder.metrics("metrics.jsonl");
    assert_eq!(records.len(), 30);
    let losses = |range: std::ops::Range<usize>| -> f64 {
        let losses = records[range]
            .iter()
            .map(|record| record["train_loss"].as_f64().unwrap());
        losses.sum::<f64>() / 5.0
    };
    let (first, last) = (losses(0..5), losses(25..30));
    assert!(last < 0.5 * first, "{first} → {last}");
    let (before, after) = (perplexity(MODEL), perplexity("tuned"));
    assert!(after < 0.5 * before, "{before} → {after}");

    // Everything but the weights' values is as it was.
    for name in ["config.json", "tokenizer.json"] {
        let original = std::fs::read(format!("{MODEL}/{name}")).unwrap();
        assert!(
            folder.read(&format!("tuned/{name}")) == original,
            "{name} has changed"
        );
    }
    let original = std::fs::read(format!("{MODEL}/model.safetensors")).unwrap();
    let tuned = folder.read("tuned/model.safetensors");
    let (length, _) = SafeTensors::read_metadata(&original).unwrap();
    let start = 8 + length;
    assert_eq!(original.len(), tuned.len());
    assert!(
        original[..start] == tuned[..start],
        "the header has changed"
    );

    // Further, in its own place; another directory is none.
    tune("tuned", "tuned");
    assert!(perplexity("tuned") < after);
    for (arguments, reason) in [
        (
            vec!["--out=book.txt", "--context=16"],
            "error: cannot access book.txt: ",
        ),
        (
            vec!["--out=tuned/config.json/x", "--context=16"],
            "error: cannot access tuned/config.json/x: ",
        ),
        (
            vec!["--out=new", "--context=65"],
            "error: --context = 65 is not possible: expected at most 64",
        ),
        (
            vec!["--out=large", "--context=16", "--batch-size=100000"],
            "error: a training step is too large: ",
        ),
        (
            vec!["--out=new", "--dropout=1"],
            "error: --dropout = 1 is not possible",
        ),
        (
            vec!["--out=new", "--metrics=book.txt", "--context=16"],
            "error: --metrics: book.txt is also the file of the text",
        ),
    ] {
        let error = run(
            &folder,
            &[&["tune", MODEL, "book.txt"][..], &arguments].concat(),
        )
        .unwrap_err();
        assert!(error.starts_with(reason), "{error}");
        assert!(!folder.0.join("new").exists(), "{arguments:?}");
    }
}

/// What `lm tune` is given in the tests of adapters and of runs that go on.
const SHORT: [&str; 11] = [
    "book.txt",
    "--context=16",
    "--lr=0.02",
    "--schedule=constant",
    "--warmup=0",
    "--dropout=0.1",
    "--accumulate=2",
    "--checkpoint-blocks",
    "--eval-interval=0",
    "--final-eval-iters=2",
    "--metrics=metrics.jsonl",
];

#[test]
fn adapters_are_tuned_resumed_read_and_merged() {
    let folder = Folder::new();
    folder.write("book.txt", "the cat sat on the mat.\n".repeat(40));
    let loss = |arguments: &[&str]| {
        let command = [&["perplexity", MODEL, "book.txt"][..], arguments].concat();
        number(&run(&folder, &command).unwrap(), "loss ")
    };
    let tune = |arguments: &[&str]| {
        let command = [&["tune", MODEL][..], &SHORT, arguments].concat();
        run(&folder, &command)
    };
    let adapters = [
        "--lora=4",
        "--lora-alpha=16",
        "--lora-dropout=0.1",
        "--lora-targets=c_attn,mlp.c_fc,c_proj",
    ];
    let printed = tune(&[&adapters[..], &["--out=whole", "--steps=20"]].concat()).unwrap();
    for line in [
        "adapters: rank 4 on c_attn, mlp.c_fc, c_proj\n",
        "memory: 143.50 KiB of weights that stay, 64.02 KiB of 4,096 trained parameters, their gradient and moments, ",
        " of activations\n",
        "20 steps of 8 × 16 tokens",
        "the adapters: whole\n",
    ] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    let (before, after) = (loss(&[]), loss(&["--lora=whole"]));
    assert!(after < before - 1.0, "{before} → {after}");

    // In two parts it ends at the same bits.
    let parted = ["--out=parts", "--checkpoint=run.safetensors"];
    tune(&[&adapters[..], &parted, &["--steps=9"]].concat()).unwrap();
    tune(&[&parted[..], &["--resume=run.safetensors", "--steps=20"]].concat()).unwrap();
    let weights = |folder_of: &str| folder.read(&format!("{folder_of}/adapter_model.safetensors"));
    assert!(weights("whole") == weights("parts"));
    let error = tune(&["--resume=run.safetensors", "--lora=5", "--out=parts"]).unwrap_err();
    let reason =
        "--lora 5 contradicts the checkpoint run.safetensors, which has 4: leave the flag out";
    assert!(error.contains(reason), "{error}");

    let merge = |out: &str| run(&folder, &["merge", MODEL, "whole", "--out", out]);
    let printed = merge("merged").unwrap();
    assert!(printed.ends_with("the merged model: merged\n"), "{printed}");
    let merged = run(&folder, &["perplexity", "merged", "book.txt"]).unwrap();
    assert!((number(&merged, "loss ") - after).abs() < 2e-4, "{merged}");
    let generate = |arguments: &[&str]| {
        let greedy = ["--temperature=0", "--tokens=9"];
        run(
            &folder,
            &[&["generate"], arguments, &["the cat"], &greedy].concat(),
        )
        .unwrap()
    };
    let text = generate(&["merged"]);
    assert_eq!(generate(&[MODEL, "--lora=whole"]), text);
    assert_ne!(generate(&[MODEL]), text);

    // Adapters mean nothing on other weights of the same shapes.
    let resume = ["--resume=run.safetensors", "--steps=21"];
    let on_merged = [&["tune", "merged"][..], &SHORT, &parted, &resume].concat();
    for (error, reason) in [
        (
            run(&folder, &on_merged),
            "merged holds other weights than the model that the adapters of the checkpoint run.safetensors were trained on",
        ),
        (
            merge(MODEL),
            "is also the file of the model: choose another one",
        ),
        (
            tune(&["--out=merged", "--lora=2"]),
            "it holds a model.safetensors, by which readers would find other weights than those to be saved",
        ),
        (
            tune(&["--out=new", "--lora=0"]),
            "--lora = 0 is not possible: expected at least 1",
        ),
        (
            tune(&["--out=new", "--lora=2", "--lora-dropout=1"]),
            "--lora-dropout = 1 is not possible",
        ),
        (
            tune(&["--out=new", "--lora=2", "--lora-targets=c_attn,q_proj"]),
            "target module = q_proj is not possible: expected some of c_attn, c_fc, c_proj, or all-linear",
        ),
        (
            run(
                &folder,
                &["tune", MODEL, "book.txt", "--out=new", "--accumulate=0"],
            ),
            "--accumulate = 0 is not possible: expected 1 to 1048576",
        ),
        (
            run(
                &folder,
                &["perplexity", "merged", "book.txt", "--lora=merged"],
            ),
            "adapter_config.json",
        ),
    ] {
        let error = error.unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

/// Of the whole model: in two parts as in one, and a step of two batches is one of their mean.
#[test]
fn tuning_goes_on_from_a_checkpoint_and_adds_up_batches() {
    let folder = Folder::new();
    folder.write("book.txt", "the cat sat on the mat.\n".repeat(40));
    let tune = |arguments: &[&str]| {
        let command = [&["tune", MODEL][..], &SHORT, arguments].concat();
        run(&folder, &command).unwrap();
        folder.metrics("metrics.jsonl")
    };
    tune(&["--out=whole", "--steps=6"]);
    let parted = ["--out=parts", "--checkpoint=run.safetensors"];
    tune(&[&parted[..], &["--steps=3"]].concat());
    tune(&[&parted[..], &["--resume=run.safetensors", "--steps=6"]].concat());
    let weights = |folder_of: &str| folder.read(&format!("{folder_of}/model.safetensors"));
    assert!(weights("whole") == weights("parts"));

    let losses = |accumulate: &str, steps: &str| -> Vec<f64> {
        let arguments = [
            "tune",
            MODEL,
            "book.txt",
            "--context=16",
            "--lr=1e-12",
            "--dropout=0",
            "--eval-interval=0",
            "--final-eval-iters=1",
            "--out=still",
            "--metrics=still.jsonl",
            accumulate,
            steps,
        ];
        run(&folder, &arguments).unwrap();
        let records = folder.metrics("still.jsonl");
        let losses = records
            .iter()
            .map(|record| record["train_loss"].as_f64().unwrap());
        losses.collect()
    };
    let (single, pairs) = (
        losses("--accumulate=1", "--steps=4"),
        losses("--accumulate=2", "--steps=2"),
    );
    for (pair, mean) in single.chunks(2).zip(pairs) {
        assert!(
            ((pair[0] + pair[1]) / 2.0 - mean).abs() < 1e-5,
            "{pair:?}, {mean}"
        );
    }
}
