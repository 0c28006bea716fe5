//! The programs that need no files: what they take, and what they print.

use std::process::{Command, Output};

use crate::example::program;

const PROGRAMS: [&str; 3] = ["walkthrough", "attention_ladder", "custom_op"];

/// What a program does where there is no desktop.
fn run(name: &'static str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program(name));
    for desktop in [
        "XDG_RUNTIME_DIR",
        "WAYLAND_DISPLAY",
        "DISPLAY",
        "NODEVICE_SELECT",
    ] {
        command.env_remove(desktop);
    }
    command.args(arguments).output().unwrap()
}

#[test]
fn help_and_what_they_do_not_take_run_nothing() {
    for name in PROGRAMS {
        let help = run(name, &["--help"]);
        let printed = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success() && help.stderr.is_empty(), "{name}");
        assert!(printed.contains(&format!("Usage: {name}")), "{printed}");
        assert!(!printed.contains("adapter:"), "{printed}");
        for unknown in ["--bogus", "bogus"] {
            let refused = run(name, &[unknown]);
            let message = String::from_utf8(refused.stderr).unwrap();
            assert_eq!(refused.status.code(), Some(2), "{name} {unknown}");
            assert!(
                refused.stdout.is_empty() && message.contains(unknown),
                "{message}"
            );
        }
    }
}

#[test]
fn drivers_have_nothing_to_complain_about() {
    for (name, arguments) in [
        ("custom_op", &[][..]),
        ("train_names", &["--list-adapters"]),
    ] {
        let output = run(name, arguments);
        assert!(
            output.status.success() && !output.stdout.is_empty(),
            "{name}"
        );
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
    }
}
