//! Ctrl-C.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::*;

fn interrupt(child: &Child) {
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.expect("there is a kill command").success());
}

/// Starts a run and lets it come to step 10.
fn started(folder: &Folder, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = folder.command(&[TINY, arguments, &["--log-interval", "1"]].concat());
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
