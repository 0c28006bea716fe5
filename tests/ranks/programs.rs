//! The training programs on several ranks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::launch::{Ended, LONGEST, Launched, mpirun};
use crate::{example, faults};

/// A folder of a test's own.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path =
            std::env::temp_dir().join(format!("shadegrad-ranks-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SMALL: &str = "--d-model 16 --n-heads 2 --n-layers 1 --context 16 --batch-size 10 --dropout 0.1 --samples 2 \
                     --eval-interval 20 --eval-iters 3 --final-eval-iters 3 --eval-batch-size 50 --checkpoint-interval 20";

/// The launcher's words for so many ranks of a program.
pub fn ranks_of(name: &'static str, ranks: usize, flags: &str) -> Vec<String> {
    let program = example::program(name).to_str().unwrap().to_owned();
    let words = ["-n".to_owned(), ranks.to_string(), program].into_iter();
    words
        .chain(flags.split_whitespace().map(str::to_owned))
        .collect()
}

fn program(ranks: usize, flags: &str) -> Vec<String> {
    ranks_of("train_names", ranks, flags)
}

/// Of one rank, and of another one with other flags.
pub fn join(first: Vec<String>, second: Vec<String>) -> Vec<String> {
    [first, vec![":".to_owned()], second].concat()
}

fn start(ranks: usize, flags: &str) -> Launched {
    mpirun(&program(ranks, flags), &[])
}

#[track_caller]
fn run(ranks: usize, flags: &str) -> String {
    succeed(&program(ranks, flags))
}

/// Gives what is printed.
#[track_caller]
pub fn succeed(words: &[String]) -> String {
    let ended = mpirun(words, &[]).end_within(LONGEST);
    assert!(ended.succeeded, "{}\n{}", ended.output, ended.errors);
    ended.output
}

/// Of each step, its loss, and those of the evaluation after it.
fn losses(metrics: &str) -> Vec<(u64, Vec<f64>)> {
    let text = fs::read_to_string(Path::new(metrics)).unwrap();
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let records = records.map(|record| {
        let losses = ["train_loss", "train_split_loss", "test_loss", "grad_norm"];
        let losses = losses.iter().filter_map(|name| record[name].as_f64());
        (record["step"].as_u64().unwrap(), losses.collect())
    });
    records.collect()
}

#[track_caller]
pub fn assert_close(actual: &str, expected: &str) {
    let (actual, expected) = (losses(actual), losses(expected));
    assert_eq!(actual.len(), expected.len());
    for ((step, actual), (_, expected)) in actual.iter().zip(&expected) {
        assert_eq!(actual.len(), expected.len());
        let close = actual
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() < 1e-4 * b.abs());
        assert!(close, "step {step}: {actual:?}, alone {expected:?}");
    }
}

pub fn programs_train_on_ranks() {
    let folder = Folder::new("train");
    let file = |name: &str| folder.path(name);
    let flags = |steps: u64, name: &str, more: &str| {
        let (metrics, checkpoint) = (
            file(&format!("{name}.jsonl")),
            file(&format!("{name}.safetensors")),
        );
        format!("{SMALL} --steps {steps} --metrics {metrics} --checkpoint {checkpoint} {more}")
    };
    run(1, &flags(60, "one", "--schedule constant --warmup 5"));
    // Shares of 4, 3 and 3 rows, and on from there with 5 and 5.
    let printed = run(3, &flags(40, "more", "--schedule constant --warmup 5"));
    assert_printed_once(
        &printed,
        &["adapter: ", "model: ", "final train loss ", "samples:"],
    );
    let resume = format!("--resume {}", file("more.safetensors"));
    run(2, &flags(60, "more", &resume));
    assert_close(&file("more.jsonl"), &file("one.jsonl"));
}

pub fn programs_train_apart() {
    let folder = Folder::new("apart");
    let file = |name: &str| folder.path(name);
    let flags = |steps: u64, name: &str, more: &str| {
        let (metrics, checkpoint) = (
            file(&format!("{name}.jsonl")),
            file(&format!("{name}.safetensors")),
        );
        format!("{SMALL} --steps {steps} --metrics {metrics} --checkpoint {checkpoint} {more}")
    };
    let state = |name: &str| fs::read(file(&format!("{name}.safetensors"))).unwrap();
    let of_steps = |name: &str| losses(&file(&format!("{name}.jsonl")));
    let apart = "--schedule constant --warmup 5 --sync-every 10";
    let printed = run(3, &flags(60, "whole", apart));
    assert!(
        printed.contains("ranks: 3, averaged every 10 steps"),
        "{printed}"
    );
    run(3, &flags(60, "again", apart));
    assert!(state("again") == state("whole"), "the same bits again");
    assert_eq!(of_steps("again"), of_steps("whole"));

    // Stopped in between, and on from there to the same bits.
    run(3, &flags(20, "part", apart));
    let resume = format!("--resume {}", file("part.safetensors"));
    run(3, &flags(60, "part", &resume));
    assert!(
        state("part") == state("whole"),
        "the same bits after a resumption"
    );
    assert_eq!(of_steps("part"), of_steps("whole"));

    // On with another number of ranks; then together, and apart again, of which both are told.
    run(2, &flags(80, "part", &resume));
    let told = |more: &str, said: &str| {
        let flags = flags(
            100,
            "part",
            &format!("--resume {} {more}", file("part.safetensors")),
        );
        let ended = start(2, &flags).end_within(LONGEST);
        assert!(
            ended.succeeded && ended.errors.contains(said),
            "{}",
            ended.errors
        );
    };
    told(
        "--sync-every 0",
        "note: --sync-every is 0: the checkpoint's outer momentum is left behind",
    );
    told(
        "--sync-every 10 --steps 120",
        "note: the checkpoint is of a run without --sync-every",
    );

    // Not much is lost: untrained, it is 3.3.
    run(3, &flags(60, "together", "--schedule constant --warmup 5"));
    let end = |name: &str| of_steps(name)[59].1.clone();
    let (whole, together) = (end("whole"), end("together"));
    let [apart, together] = [&whole, &together].map(|losses| losses[2]);
    assert!(
        apart < 2.9 && apart < 1.1 * together,
        "{apart}, together {together}"
    );
}

/// One rank of a program whose command line contains a text.
fn one_rank(text: &str) -> u32 {
    let processes = Command::new("pgrep").args(["-f", text]).output().unwrap();
    let processes = String::from_utf8(processes.stdout).unwrap();
    let name =
        |process: &&str| fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    let rank = processes
        .lines()
        .find(|process| name(process).starts_with("train_names"));
    rank.unwrap().parse().unwrap()
}

/// Waits for the line of a step.
fn wait_for(launched: &Launched, step: &str) {
    while !launched
        .lines
        .recv_timeout(LONGEST)
        .unwrap()
        .starts_with(step)
    {}
}

pub fn programs_end_together() {
    let folder = Folder::new("end");
    let checkpoint = folder.path("names.safetensors");
    let flags =
        format!("{SMALL} --steps 1000000 --eval-interval 0 --sync-every 10 --log-interval 10");
    let launched = start(2, &format!("{flags} --checkpoint {checkpoint}"));
    wait_for(&launched, "step 20/");
    // All hear of it when they are together.
    faults::signal("-TERM", one_rank(&checkpoint));
    let ended = launched.end_within(Duration::from_secs(30));
    let said = ended
        .output
        .lines()
        .find(|line| line.starts_with("interrupted after step "));
    let step = said
        .and_then(|line| line.split(' ').nth(3))
        .unwrap_or("none");
    assert!(step.ends_with('0'), "{}\n{}", ended.output, ended.errors);
    run(
        2,
        &format!(
            "{flags} --resume {checkpoint} --steps {}",
            step.replace(',', "")
        ),
    );

    let ended =
        start(3, &format!("{SMALL} --sync-every 20 --lr 1e30")).end_within(Duration::from_secs(30));
    let is_named =
        ended.errors.contains("error: rank ") && ended.errors.contains(" is NaN at step ");
    assert!(!ended.succeeded && is_named, "{}", ended.errors);
}

pub fn gradients_travel_as_halves() {
    let folder = Folder::new("halves");
    let run = |steps: u64, name: &str, more: &str| {
        let [metrics, checkpoint] =
            ["jsonl", "safetensors"].map(|end| folder.path(&format!("{name}.{end}")));
        let files = format!("--metrics {metrics} --checkpoint {checkpoint}");
        run(2, &format!("{SMALL} --steps {steps} {files} {more}"));
        losses(&metrics)
    };
    let mixed = "--precision mixed --schedule constant --warmup 5";
    let halves = format!("{mixed} --reduce-dtype f16");
    let expected = run(30, "whole", mixed);
    let whole = run(30, "halves", &halves);
    assert_ne!(whole, expected, "they are rounded");
    for ((step, values), (_, expected)) in whole.iter().zip(&expected) {
        let (loss, expected) = (values[0], expected[0]);
        let error = (loss - expected).abs() / expected;
        assert!(error < 0.01, "step {step}: {loss}, as f32 {expected}");
    }
    // It is kept, as other settings are.
    run(20, "resumed", &halves);
    let resume = format!("--resume {}", folder.path("resumed.safetensors"));
    assert_eq!(run(30, "resumed", &resume), whole);
    // What a checkpoint says of the precision counts.
    let resume = format!("--resume {}", folder.path("whole.safetensors"));
    run(40, "whole", &format!("{resume} --reduce-dtype f16"));
}

/// Whether one line begins with each of these.
#[track_caller]
pub fn assert_printed_once(printed: &str, starts: &[&str]) {
    for start in starts {
        let lines = printed.lines().filter(|line| line.starts_with(start));
        assert_eq!(lines.count(), 1, "{start} in {printed}");
    }
}

pub fn costs_are_measured() {
    let program = example::program("rank_costs").to_str().unwrap().to_owned();
    let words = ["-n", "2", &program, "--test"].map(str::to_owned);
    let ended = mpirun(&words, &[]).end_within(LONGEST);
    assert!(ended.succeeded, "{}\n{}", ended.output, ended.errors);
    let predicted = ended.output.matches("predicted ").count();
    assert!(
        predicted == 10 && !ended.output.contains("NaN"),
        "{}",
        ended.output
    );
}

/// Whether there is one line on standard error that begins so, and none from another rank.
#[track_caller]
pub fn assert_said_once(words: &[String], said: &str) {
    let Ended {
        succeeded, errors, ..
    } = mpirun(words, &[]).end_within(Duration::from_secs(60));
    let lines: Vec<&str> = errors
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    let is_said = matches!(lines[..], [line] if line.starts_with(said));
    assert!(!succeeded && is_said, "{errors}");
}

pub fn what_is_wrong_is_said_once() {
    assert_said_once(
        &program(3, "--stepz 1"),
        "error: unexpected argument '--stepz'",
    );
    assert_said_once(&program(3, "--lr -1"), "error: --lr = -1 is not possible");
    assert_said_once(
        &program(3, "--batch-size 2"),
        "error: --batch-size is 2, fewer rows than the 3 ranks that share a batch",
    );
    assert_said_once(
        &join(program(1, "--lr 0.5"), program(1, "--lr 0.25")),
        "error: --lr is 0.25 on rank 1, but 0.5 on rank 0",
    );
    assert_said_once(
        &program(3, "--sync-every 7"),
        "error: --steps is 1500, no multiple of --sync-every 7",
    );
    assert_said_once(
        &join(program(1, "--sync-every 20"), program(1, "--sync-every 10")),
        "error: --sync-every is 10 on rank 1, but 20 on rank 0",
    );
    assert_said_once(
        &program(1, "--sync-every 10"),
        "error: --sync-every 10 is for several ranks, and this is one process",
    );
    assert_said_once(
        &program(2, "--outer-lr 0.5"),
        "error: --outer-lr is of the outer step, of which there is none",
    );
    assert_said_once(
        &program(2, "--precision mixed --reduce-dtype f16 --sync-every 10"),
        "error: --reduce-dtype = f16 is not possible: expected f32 with --sync-every",
    );
    assert_said_once(
        &program(2, "--reduce-dtype f16"),
        "error: --reduce-dtype = f16 is not possible: expected f32 unless --precision is mixed",
    );
    assert_said_once(
        &program(1, "--precision mixed --reduce-dtype f16"),
        "error: --reduce-dtype f16 is for several ranks, and this is one process",
    );
    assert_said_once(
        &join(
            program(1, "--precision mixed --reduce-dtype f16"),
            program(1, "--precision mixed"),
        ),
        "error: --reduce-dtype is \"f32\" on rank 1, but \"f16\" on rank 0",
    );
    let folder = Folder::new("wrong");
    let own = folder.path("names.txt");
    fs::write(&own, "anna\notto\nnora\n".repeat(20)).unwrap();
    let other = format!("{SMALL} --filename {own} --batching stream");
    assert_said_once(
        &join(
            program(1, &format!("{SMALL} --batching stream")),
            program(1, &other),
        ),
        "error: the text's fingerprint is ",
    );
    assert_said_once(
        &join(program(2, SMALL), program(1, "--filename no-such-file.txt")),
        "error: rank 2: ",
    );
}

pub fn a_killed_program_leaves_a_whole_checkpoint() {
    let folder = Folder::new("killed");
    let checkpoint = folder.path("names.safetensors");
    let flags = format!(
        "{SMALL} --steps 100000 --eval-interval 0 --checkpoint {checkpoint} --checkpoint-interval 1 --log-interval 1"
    );
    let launched = start(2, &flags);
    wait_for(&launched, "step 5/");
    faults::signal("-KILL", one_rank(&checkpoint));
    let ended = launched.end_within(Duration::from_secs(30));
    let is_said = [0, 1].map(|rank| ended.says_killed(rank));
    assert!(
        !ended.succeeded && is_said.contains(&true),
        "{}\n{}",
        ended.output,
        ended.errors
    );
    // It can be read, and is of a step that was made.
    let names = run(1, &format!("sample {checkpoint}"));
    assert!(names.lines().count() > 1, "{names}");
}
