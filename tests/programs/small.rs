//! The programs without flags.

use super::*;

fn run(name: &'static str) -> String {
    let folder = Folder::new();
    let mut command = folder.command_of(name, &[]);
    let output = command
        .env("TMPDIR", &folder.0)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn what_goes_wrong_is_said_with_its_remedy() {
    let folder = Folder::new();
    for name in ["tiny", "digits"] {
        let mut command = folder.command_of(name, &[]);
        let output = command.env("WGPU_ADAPTER_NAME", "nothing").output();
        let errors = text(&output.expect("it starts").stderr);
        let expected = "Error: no adapter matches `nothing`: give the number of one of these";
        assert!(errors.contains(expected), "{name}: {errors}");
    }
}

#[test]
fn digits_are_read() {
    let printed = run("digits");
    let accuracy = printed.lines().find_map(|line| {
        let number = line.strip_prefix("test accuracy ")?.split(' ').next()?;
        number.parse::<f64>().ok()
    });
    assert!(accuracy.is_some_and(|percent| percent >= 97.0), "{printed}");
}

#[test]
fn the_complete_program_learns_names_and_writes_some() {
    let printed = run("tiny");
    let number = |start: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(start));
        line.unwrap_or_else(|| panic!("{start} is not in {printed}"))
            .parse::<f64>()
            .unwrap()
    };
    // Letters drawn as often as they occur give 2.7.
    assert!(number("test loss ") < 2.5, "{printed}");
    let names = printed.lines().filter(|line| line.starts_with("  "));
    assert_eq!(names.count(), 10, "{printed}");
}
