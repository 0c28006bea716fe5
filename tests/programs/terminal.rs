//! What a terminal sees: a bar that moves, or lines where it can't be drawn.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Stdio;

use super::*;

unsafe extern "C" {
    fn openpty(
        controller: *mut i32,
        terminal: *mut i32,
        name: *mut u8,
        settings: *const u8,
        size: *const [u16; 4],
    ) -> i32;
}

/// What a run prints on standard output, and draws on a terminal that is its standard error.
fn on_terminal(folder: &Folder, arguments: &[&str], variables: &[(&str, &str)]) -> [String; 2] {
    let (mut controller, mut terminal) = (0, 0);
    let size = [40, 150, 0, 0];
    let null = std::ptr::null_mut();
    // SAFETY: the two numbers are written, the size is read, and the rest may be null.
    let opened = unsafe { openpty(&mut controller, &mut terminal, null, null, &size) };
    assert_eq!(opened, 0);
    // SAFETY: they have just been opened, and nobody else has them.
    let [controller, terminal] =
        [controller, terminal].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let mut command = folder.command(&[TINY, arguments].concat());
    command.env_remove("NO_COLOR").env("TERM", "xterm");
    let child = command
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(terminal)
        .spawn()
        .unwrap();
    drop(command);
    let drawn = std::thread::spawn(move || {
        let mut drawn = Vec::new();
        // The end of a terminal is an error.
        let _ = File::from(controller).read_to_end(&mut drawn);
        text(&drawn)
    });
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    [text(&output.stdout), drawn.join().unwrap()]
}

#[test]
fn a_bar_moves_during_steps_and_evaluations() {
    let folder = Folder::new();
    let evaluation = ["--final-eval-iters", "2000", "--eval-batch-size", "4"];
    let run = [&["--steps", "300", "--samples", "0"], &evaluation[..]].concat();
    let [printed, drawn] = on_terminal(&folder, &run, &[]);
    assert!(!printed.contains("step 300/300"), "{printed}");
    assert!(drawn.contains("/300 loss "), "{drawn}");
    let seen = drawn.matches("evaluating: ").count();
    assert!(seen > 2, "{seen} times: {drawn}");

    // Without colours it is a bar still.
    let [printed, drawn] = on_terminal(&folder, &run, &[("NO_COLOR", "1")]);
    assert!(!printed.contains("step 300/300"), "{printed}");
    assert!(drawn.contains("/300 loss "), "{drawn}");
}

#[test]
fn where_no_bar_can_be_drawn_there_are_lines() {
    let folder = Folder::new();
    let run = ["--steps", "40", "--samples", "0"];
    let [printed, drawn] = on_terminal(&folder, &run, &[("TERM", "dumb")]);
    assert_eq!(drawn, "");
    assert_eq!(printed.matches("\nstep ").count(), 20, "{printed}");
}
