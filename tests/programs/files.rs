//! What becomes of a run's files when something goes wrong: a kill, a full disk, a reader that has gone, numbers that are
//! none.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::*;

/// The run fails with one line, which is given back.
#[track_caller]
fn failure(output: &Output) -> String {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    let [line] = lines[..] else {
        panic!("one line expected\n{stderr}");
    };
    assert!(line.starts_with("error: "), "{line}");
    line.to_owned()
}

/// The step that a checkpoint holds.
fn step(folder: &Folder, checkpoint: &str) -> u64 {
    let checkpoint = shadegrad::checkpoint::Checkpoint::open(folder.0.join(checkpoint)).unwrap();
    checkpoint.metadata.step
}

#[test]
fn a_killed_run_goes_on_without_a_gap_in_its_metrics() {
    let folder = Folder::new();
    // Evaluations at other steps than checkpoints and at the same ones.
    let common = [
        "--steps",
        "90",
        "--eval-interval",
        "15",
        "--checkpoint-interval",
        "10",
        "--samples",
        "0",
    ];
    let files = |name: &str| {
        let metrics = format!("{name}.jsonl");
        ["--checkpoint", name, "--metrics", &metrics].map(str::to_owned)
    };
    let whole = files("whole");
    folder.train(&[&common[..], &whole.each_ref().map(String::as_str)].concat());
    let part = files("part");
    let part = part.each_ref().map(String::as_str);
    for kill_after in ["step 31/", "step 60/"] {
        let resume: &[&str] = match folder.0.join("part").exists() {
            true => &["--resume", "part"],
            false => &[],
        };
        let shown = ["--log-interval", "1"];
        let arguments = [TINY, &common, &part, resume, &shown].concat();
        let mut command = folder.command(&arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap);
        assert!(lines.any(|line| line.starts_with(kill_after)));
        child.kill().unwrap();
        child.wait().unwrap();

        let checkpoint = step(&folder, "part");
        assert!(checkpoint >= 30, "{checkpoint}");
        let metrics = text(&folder.read("part.jsonl"));
        let complete = metrics.lines().filter(|line| line.ends_with('}')).count();
        assert!(complete as u64 >= checkpoint, "{complete} of {checkpoint}");
    }
    let printed = folder.train(&[&common[..], &part, &["--resume", "part"]].concat());
    assert!(printed.contains("resumed after step"), "{printed}");
    assert_same(
        &folder.metrics("whole.jsonl"),
        &folder.metrics("part.jsonl"),
    );
    assert!(folder.read("whole") == folder.read("part"));

    // Lines that are missing nevertheless are mentioned.
    let metrics = text(&folder.read("part.jsonl"));
    let cut: String = metrics.split_inclusive('\n').take(50).collect();
    folder.write("cut.jsonl", cut);
    let more = [
        "--resume",
        "part",
        "--steps",
        "91",
        "--metrics",
        "cut.jsonl",
    ];
    let output = folder.run(&[TINY, &more, &["--samples", "0"]].concat());
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("note: cut.jsonl lacks the steps from 51 to 90"),
        "{stderr}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_whose_metrics_cannot_be_written_leaves_its_checkpoint() {
    let folder = Folder::new();
    let arguments = |metrics: &'static str| {
        let run = ["--steps", "100000", "--samples", "0", "--log-interval", "1"];
        let files = ["--checkpoint", "model", "--metrics", metrics];
        [TINY, &run, &files].concat()
    };
    let check = |output: &Output, path: &str, reason: &str| {
        let line = failure(output);
        let step = step(&folder, "model");
        assert!(step > 0);
        for expected in [
            &format!("error: --metrics: cannot access {path}: {reason}"),
            &format!("the checkpoint holds everything up to step {step}"),
        ] {
            assert!(line.contains(expected), "`{expected}` expected\n{line}");
        }
        assert!(!text(&output.stdout).contains("written:"));
        // And it can go on from there.
        let steps = (step + 2).to_string();
        folder.train(&["--resume", "model", "--steps", &steps, "--samples", "0"]);
        std::fs::remove_file(folder.0.join("model")).unwrap();
    };

    // A full disk.
    check(
        &folder.run(&arguments("/dev/full")),
        "/dev/full",
        "No space left",
    );

    // A folder that is removed meanwhile.
    std::fs::create_dir(folder.0.join("gone")).unwrap();
    let mut command = folder.command(&arguments("gone/metrics.jsonl"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let metrics = folder.0.join("gone/metrics.jsonl");
    let began = Instant::now();
    while !metrics.exists() {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::remove_dir_all(folder.0.join("gone")).unwrap();
    check(
        &child.wait_with_output().unwrap(),
        "gone/metrics.jsonl",
        "No such file",
    );

    // A reader that goes away.
    let pipe = folder.0.join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let mut command = folder.command(&arguments("pipe"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let mut lines = BufReader::new(std::fs::File::open(&pipe).unwrap()).lines();
    let record: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(record["step"], 1);
    drop(lines);
    check(&child.wait_with_output().unwrap(), "pipe", "Broken pipe");

    // Read to the end, a pipe gets every record once, the last one with its evaluation.
    let run = ["--steps", "12", "--eval-interval", "5", "--metrics", "pipe"];
    let mut command = folder.command(&[TINY, &run].concat());
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let metrics = std::fs::read_to_string(&pipe).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    let records = metrics
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let records: Vec<Value> = records.collect();
    assert_eq!(records.len(), 12);
    for (record, step) in records.iter().zip(1..) {
        assert_eq!(record["step"], step);
        let evaluated = record.get("test_loss").is_some();
        assert_eq!(evaluated, [5, 10, 12].contains(&step), "{record}");
    }
}

#[cfg(unix)]
#[test]
fn files_that_are_none_are_found_before_the_training() {
    let folder = Folder::new();
    let pipe = folder.0.join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    std::os::unix::fs::symlink(&pipe, folder.0.join("pipe.svg")).unwrap();
    for (arguments, expected) in [
        (
            &["--checkpoint", "/dev/null"][..],
            "--checkpoint: cannot access /dev/null: it is not a regular file",
        ),
        (
            &["--checkpoint", "pipe"],
            "--checkpoint: cannot access pipe",
        ),
        (
            &["--checkpoint", "new/"],
            "--checkpoint: cannot access new/",
        ),
        (
            &["--checkpoint", "new/."],
            "--checkpoint: cannot access new/.",
        ),
        (
            &["--checkpoint", "pipe/model"],
            "--checkpoint: pipe/model: there is no folder pipe",
        ),
        (&["--plot", "pipe.svg"], "--plot: cannot access pipe.svg"),
        (&["--profile", "pipe"], "--profile: cannot access pipe"),
        (
            &["--metrics", "pipe"],
            "--metrics: cannot access pipe: nobody reads this pipe",
        ),
        (
            &["--resume", "pipe"],
            "cannot access pipe: it is not a regular file",
        ),
        (&["--resume", "/dev/zero"], "cannot access /dev/zero"),
        (&["-f", "/dev/zero"], "cannot access /dev/zero"),
    ] {
        assert_refused(&folder, arguments, expected);
    }
}

#[test]
fn what_is_too_large_is_found_before_the_training_with_the_flag_to_lower() {
    let folder = Folder::new();
    let wide = ["-d", "128", "-n", "2", "--checkpoint", "model"];
    for (arguments, expected) in [
        (
            &["--eval-batch-size", "262144"][..],
            "an evaluation is too large: ",
        ),
        (&["-b", "262144"], "a training step is too large: "),
        (
            &["--context", "65536", "-b", "1", "--eval-batch-size", "1"],
            "a batch of samples is too large: ",
        ),
    ] {
        let output = folder.run(&[TINY, &wide, &["--samples", "64"], arguments].concat());
        let line = failure(&output);
        assert!(line.contains(expected), "{line}");
        for expected in [" needs ", "iB, this adapter's limit is ", "(lower --"] {
            assert!(line.contains(expected), "{line}");
        }
        let flag = format!("--{}", arguments[0].trim_start_matches('-'));
        let flag = if flag == "--b" { "--batch-size" } else { &flag };
        assert!(line.ends_with(')') && line.contains(flag), "{line}");
        assert!(!text(&output.stdout).contains("step 1"), "{line}");
        assert!(folder.contents().is_empty(), "{line}");
    }
}

#[test]
fn a_checkpoint_is_not_replaced_by_one_of_no_numbers() {
    let folder = Folder::new();
    folder.train(&["--steps", "4", "--checkpoint", "good", "--samples", "0"]);
    let good = folder.read("good");
    // The update makes products of parameters infinite, which no loss of a step before it tells.
    let diverging = ["--lr", "1e16", "--warmup", "0"];
    for (more, step) in [
        (&["--steps", "1"][..], 1),
        (
            &["--steps", "5", "--resume", "good", "--schedule", "constant"],
            5,
        ),
        (&["--steps", "9", "--checkpoint-interval", "1"], 1),
        (&["--steps", "9", "--eval-interval", "1"], 1),
    ] {
        let files = ["--checkpoint", "good", "--metrics", "metrics.jsonl"];
        let output = folder.run(&[TINY, &diverging, more, &files].concat());
        let line = failure(&output);
        assert!(line.contains(&format!("after step {step}")), "{line}");
        assert!(line.contains("lower --lr"), "{line}");
        assert!(folder.read("good") == good, "{more:?}");
        assert!(!text(&output.stdout).contains("final"), "{more:?}");
        assert!(!folder.metrics("metrics.jsonl").is_empty());
        std::fs::remove_file(folder.0.join("metrics.jsonl")).unwrap();
    }
    // Also without a checkpoint, and in the programs that have none.
    let output = folder.run(&[TINY, &diverging, &["--steps", "1"]].concat());
    assert!(failure(&output).contains("after step 1"));
    for program in ["echo_upper", "masked_names"] {
        let mut command = folder.command_of(program, &[&diverging[..], &["--steps", "1"]].concat());
        let line = failure(&command.args(["-b", "4"]).output().unwrap());
        assert!(line.contains("after step 1"), "{program}: {line}");
    }
}

#[test]
fn only_what_was_written_is_said_to_be() {
    let folder = Folder::new();
    let written = |printed: &str| {
        let line = printed.lines().find(|line| line.starts_with("written: "));
        line.map(str::to_owned)
    };
    let files = [
        "--checkpoint",
        "model",
        "--metrics",
        "metrics.jsonl",
        "--plot",
        "plot.svg",
        "--profile",
        "trace.json",
        "--samples",
        "0",
    ];
    let printed = folder.train(&[&["--steps", "3"][..], &files].concat());
    let all = "written: model, metrics.jsonl, plot.svg, trace.json";
    assert_eq!(written(&printed).as_deref(), Some(all), "{printed}");
    for name in ["metrics.jsonl", "trace.json", "plot.svg"] {
        std::fs::remove_file(folder.0.join(name)).unwrap();
    }
    // Nothing is left to do: there are no new records, and no step is watched.
    let printed = folder.train(&[&["--resume", "model"][..], &files].concat());
    let some = "written: model, plot.svg";
    assert_eq!(written(&printed).as_deref(), Some(some), "{printed}");
    assert!(printed.contains("\n0 steps · 0.") || printed.contains("\n0 steps · "));
    let names: Vec<String> = folder.contents().into_keys().collect();
    assert_eq!(names, ["model", "plot.svg"]);
    let printed = folder.train(&["--steps", "1", "--samples", "0"]);
    assert_eq!(written(&printed), None);
}

#[cfg(unix)]
#[test]
fn permissions_and_links_of_outputs_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let folder = Folder::new();
    let at = |name: &str| folder.0.join(name);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let files = [
        "--checkpoint",
        "model",
        "--plot",
        "plot.svg",
        "--profile",
        "trace",
    ];
    let files = [&files[..], &["--samples", "0"]].concat();
    for name in ["model", "plot.svg", "trace"] {
        let real = at("real").join(name);
        std::fs::create_dir_all(at("real")).unwrap();
        std::fs::write(&real, "old").unwrap();
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o600)).unwrap();
        symlink(Path::new("real").join(name), at(name)).unwrap();
    }
    folder.train(&[&["--steps", "2"][..], &files].concat());
    for name in ["model", "plot.svg", "trace"] {
        assert!(at(name).is_symlink(), "{name}");
        let real = at("real").join(name);
        assert_eq!(mode(&real), 0o600, "{name}");
        assert!(std::fs::metadata(&real).unwrap().len() > 100, "{name}");
    }
    let left = std::fs::read_dir(at("real")).unwrap().count();
    assert_eq!(left, 3, "a temporary file is left");

    // Two names of one file are one file.
    std::fs::hard_link(at("real/model"), at("same")).unwrap();
    assert_refused(
        &folder,
        &["--checkpoint", "model", "--metrics", "same"],
        "--metrics: same is also the file of --checkpoint",
    );
    // What is printed has a file too.
    let log = std::fs::File::create(at("log")).unwrap();
    for metrics in ["log", "/dev/stdout"] {
        let mut command = folder.command(&[TINY, &["--metrics", metrics]].concat());
        let output = command.stdout(log.try_clone().unwrap()).output().unwrap();
        assert!(failure(&output).contains("is also the file of standard output"));
    }
}

#[test]
fn times_are_those_of_steps_also_where_results_arrive_together() {
    let folder = Folder::new();
    for steps in ["1", "2", "3", "5", "30"] {
        let run = ["--steps", steps, "--samples", "0", "--metrics", "m.jsonl"];
        let began = Instant::now();
        let printed = folder.train(&[&run[..], &["--log-interval", "1"]].concat());
        let most = began.elapsed().as_secs_f64() * 1e3;
        let lines = text(&folder.read("m.jsonl"));
        let records = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let records: Vec<Value> = records.collect();
        let times = records.iter().map(|r| r["step_ms"].as_f64().unwrap());
        let times: Vec<f64> = times.collect();
        let sum: f64 = times.iter().sum();
        assert!(sum < most, "{sum} ms of {most}");
        // No device does one of these, of thirty dispatches, in a twentieth of a millisecond.
        assert!(times.iter().all(|&ms| ms > 0.05), "{times:?}");
        for record in &records {
            let (ms, pace) = (&record["step_ms"], &record["tokens_per_second"]);
            let (ms, pace) = (ms.as_f64().unwrap(), pace.as_f64().unwrap());
            // Batches of 4 × 16 tokens.
            assert!((pace * ms / 64e3 - 1.0).abs() < 0.05, "{ms} ms, {pace}");
        }
        // The first step, which compiles, does not count.
        let others = &times[1..];
        let line = printed
            .lines()
            .find(|line| line.ends_with(" in all"))
            .unwrap();
        match others.len() {
            0 => assert!(
                line.starts_with("1 step · ") && !line.contains("mean"),
                "{line}"
            ),
            count => {
                let mean = others.iter().sum::<f64>() / count as f64;
                let (_, shown) = line.split_once("mean ").unwrap();
                let shown: f64 = shown.split_once(" ms").unwrap().0.parse().unwrap();
                assert!((shown - mean).abs() < 0.02 * mean + 0.01, "{line}: {mean}");
            }
        }
        assert!(!printed.contains(" 0.0 ms/step"), "{printed}");
        std::fs::remove_file(folder.0.join("m.jsonl")).unwrap();
    }
}
