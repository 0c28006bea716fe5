//! Ctrl-C, and the other signals that ask a program to end.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::*;

fn interrupt(child: &Child) {
    send("-INT", child);
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(sent.expect("there is a kill command").success());
}

unsafe extern "C" {
    /// `signal` of the C library: how a process takes a signal, 0 for as usual.
    fn signal(number: i32, handler: usize) -> usize;
}

const SIGHUP: i32 = 1;

/// Starts a run and lets it come to step 10.
fn started(folder: &Folder, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = folder.command(&[TINY, arguments, &["--log-interval", "1"]].concat());
    // SAFETY: the function may be called between fork and exec.
    unsafe {
        // Tests that `nohup` started would start programs that outlive their terminal.
        command.pre_exec(|| {
            signal(SIGHUP, 0);
            Ok(())
        });
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("step 10/") {
        line.clear();
        assert!(
            lines.read_line(&mut line).unwrap() > 0,
            "the run ended early"
        );
    }
    (child, lines)
}

#[test]
fn ctrl_c_writes_the_checkpoint_prints_samples_and_the_run_can_go_on() {
    let folder = Folder::new();
    folder.train(&[
        "--steps",
        "600",
        "--eval-interval",
        "0",
        "--checkpoint",
        "whole",
        "--metrics",
        "whole.jsonl",
    ]);
    let files = [
        "--checkpoint",
        "part",
        "--metrics",
        "part.jsonl",
        "--plot",
        "part.svg",
        "--samples",
        "3",
    ];
    let run = ["--steps", "600", "--eval-interval", "0"];
    let (mut child, mut lines) = started(&folder, &[&run[..], &files].concat());
    interrupt(&child);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(
        rest.contains("interrupted after step") && rest.contains("3 samples: "),
        "{rest}"
    );
    assert!(!rest.contains("final train loss"), "{rest}");
    assert!(text(&folder.read("part.svg")).contains("</svg>"));

    let done = folder.metrics("part.jsonl").len();
    assert!((10..600).contains(&done), "{done} steps");
    let printed = folder.train(&[
        "--resume",
        "part",
        "--checkpoint",
        "part",
        "--metrics",
        "part.jsonl",
        "--eval-interval",
        "0",
    ]);
    assert!(
        printed.contains(&format!("resumed after step {done}")),
        "{printed}"
    );
    assert_same(
        &folder.metrics("part.jsonl"),
        &folder.metrics("whole.jsonl"),
    );
    assert!(
        folder.read("part") == folder.read("whole"),
        "the checkpoints differ"
    );
}

#[test]
fn a_second_ctrl_c_ends_the_program_at_once() {
    let folder = Folder::new();
    let (mut child, mut lines) = started(&folder, &["--steps", "1000000", "--samples", "1000000"]);
    interrupt(&child);
    // Now it is drawing samples, and would be for many minutes.
    std::thread::sleep(Duration::from_millis(500));
    interrupt(&child);
    let began = Instant::now();
    lines.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn being_told_to_end_and_a_lost_terminal_write_the_checkpoint_too() {
    let folder = Folder::new();
    let endless = ["--steps", "1000000", "--samples", "1000000"];
    let files = ["--checkpoint", "model", "--metrics", "metrics.jsonl"];
    for (signal, code) in [("-TERM", 143), ("-HUP", 129)] {
        let (mut child, mut lines) = started(&folder, &[&endless[..], &files].concat());
        let before = Instant::now();
        send(signal, &child);
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{rest}");
        // Who sent it is not waiting for a million samples.
        assert!(before.elapsed() < Duration::from_secs(30));
        assert!(
            rest.contains("interrupted after step") && !rest.contains("samples"),
            "{rest}"
        );
        assert!(rest.contains("written: model, metrics.jsonl"), "{rest}");
        let done = folder.metrics("metrics.jsonl").len();
        let steps = (done + 1).to_string();
        let printed = folder.train(&["--resume", "model", "--steps", &steps, "--samples", "0"]);
        assert!(
            printed.contains(&format!("resumed after step {done}")),
            "{printed}"
        );
    }
    // A second signal of any kind ends it at once.
    let (mut child, mut lines) = started(&folder, &endless);
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(500));
    send("-TERM", &child);
    lines.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_run_that_nohup_started_outlives_its_terminal() {
    let folder = Folder::new();
    let program = folder.command(&[]).get_program().to_owned();
    let arguments = [TINY, &["--steps", "300", "--log-interval", "1"]].concat();
    let mut child = Command::new("nohup")
        .arg(program)
        .args(arguments)
        .current_dir(&folder.0)
        .env("XDG_RUNTIME_DIR", &folder.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("step 10/")));
    send("-HUP", &child);
    assert!(lines.any(|line| line.unwrap().starts_with("final train loss")));
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_interruption_before_the_first_step_leaves_an_older_checkpoint_alone() {
    let folder = Folder::new();
    folder.train(&["--steps", "2", "--checkpoint", "model", "--samples", "0"]);
    let before = folder.read("model");
    // The line about the training is printed right before signals are heard, and compiling follows.
    let run = ["--steps", "1000000", "--checkpoint", "model"];
    for _ in 0..3 {
        let mut command = folder.command(&[TINY, &run].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("training: ")));
        std::thread::sleep(Duration::from_millis(10));
        interrupt(&child);
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        let code = child.wait().unwrap().code();
        // Either it was too early to be heard, or nothing was trained, or something was.
        let trained = !rest.join("\n").contains("after step 0 of");
        if code != Some(130) || !trained {
            assert!(folder.read("model") == before, "{rest:?}");
        }
    }
}
