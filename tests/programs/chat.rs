//! `lm chat` and `lm generate` on a small model with a tokenizer and a chat template.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Folder, text};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// The small Qwen3 in a directory `model`, with the tokenizer and the template of a family and a
/// `generation_config.json`.
fn with(family: &str, generation: &Value) -> Folder {
    let folder = Folder::new();
    std::fs::create_dir(folder.0.join("model")).unwrap();
    let copy = |from: &str, file: &str| {
        if let Ok(contents) = std::fs::read(format!("{GOLDEN}/{from}/{file}")) {
            folder.write(&format!("model/{file}"), contents);
        }
    };
    copy("models/qwen3", "config.json");
    copy("models/qwen3", "model.safetensors");
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        copy(&format!("chat/{family}"), file);
    }
    folder.write("model/generation_config.json", generation.to_string());
    folder
}

/// What a conversation prints on standard output and standard error.
fn chat(folder: &Folder, arguments: &[&str], lines: impl AsRef<[u8]>) -> [String; 2] {
    let mut command = folder.command_of("lm", &[&["chat", "model"], arguments].concat());
    let pipes = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(lines.as_ref());
    let output = child.wait_with_output().unwrap();
    let printed = [text(&output.stdout), text(&output.stderr)];
    assert!(output.status.success(), "{printed:?}");
    printed
}

/// Every turn is what `transformers` answers to all that has been said before.
#[test]
fn a_conversation_is_that_of_the_library() {
    let expected = std::fs::read(format!("{GOLDEN}/chat/expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let said = |role: &str| -> Vec<String> {
        let messages = expected["conversation"].as_array().unwrap().iter();
        let messages = messages.filter(|message| message["role"] == role);
        messages
            .map(|message| message["content"].as_str().unwrap().to_owned())
            .collect()
    };
    let folder = with("qwen3", &json!({}));
    let system = &said("system")[0];
    let lines = said("user").join("\n\n  \n") + "\n /exit \nnever\n";
    let greedy = ["--system", system, "--tokens", "12", "--temperature", "0"];
    let [out, error] = chat(&folder, &greedy, &lines);
    assert_eq!(out, said("assistant").join("\n") + "\n");
    assert!(
        error.starts_with("adapter: ") && error.lines().count() == 1,
        "{error}"
    );
    // The end of the input is the end, too, with or without that of a line.
    let lines = said("user").join("\r\n");
    assert_eq!(chat(&folder, &greedy, &lines)[0], out);
}

/// An answer is there before the next question is.
#[test]
fn answers_come_at_once() {
    let folder = with("qwen3", &json!({"do_sample": false, "max_new_tokens": 3}));
    let mut command = folder.command_of("lm", &["chat", "model"]);
    let pipes = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = pipes.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut answers = Vec::new();
    for _ in 0..2 {
        input.write_all(b"Who was Ralph?\n").unwrap();
        let mut line = Vec::new();
        output.read_until(b'\n', &mut line).unwrap();
        answers.push(line);
    }
    drop(input);
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(
        answers
            .iter()
            .all(|answer| answer.len() > 1 && answer.ends_with(b"\n")),
        "{answers:?}"
    );
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn a_directory_says_how_tokens_are_drawn() {
    let wanted =
        json!({"do_sample": false, "max_new_tokens": 4, "repetition_penalty": 1.2, "min_p": 0.1});
    let folder = with("qwen3", &wanted);
    let [out, error] = chat(&folder, &[], "Who was Ralph?\n");
    for setting in ["repetition_penalty = 1.2", "min_p = 0.1"] {
        let note = format!(
            "note: the model's generation_config.json asks for {setting}, which is not implemented\n"
        );
        assert!(error.contains(&note), "{error}");
    }
    let greedy = ["--temperature", "0", "--tokens", "4"];
    assert_eq!(
        chat(&with("qwen3", &json!({})), &greedy, "Who was Ralph?\n")[0],
        out
    );
    // Flags come first.
    let [long, _] = chat(&folder, &["--tokens", "9"], "Who was Ralph?\n");
    assert!(
        long.starts_with(out.trim_end_matches(['\n', '\u{fffd}'])) && long.len() > out.len(),
        "{long} {out}"
    );
    let drawn = ["-t", "5", "--tokens", "12"];
    let [hot, _] = chat(&folder, &drawn, "Who was Ralph?\n");
    assert_ne!(hot, long);
    assert_eq!(
        chat(
            &folder,
            &[&drawn[..], &["--seed", "42"]].concat(),
            "Who was Ralph?\n"
        )[0],
        hot
    );
}

/// What is wrong with a line costs that line.
#[test]
fn a_conversation_goes_on_after_what_it_refuses() {
    let folder = with("qwen3", &json!({"do_sample": false, "max_new_tokens": 3}));
    let long = "x".repeat(2000);
    let [out, error] = chat(&folder, &[], format!("{long}\nHi\n"));
    assert_eq!(out, chat(&folder, &[], "Hi\n")[0]);
    assert!(
        error.contains("error: that makes ") && error.contains("the model sees 256"),
        "{error}"
    );
    let [out, error] = chat(&folder, &[], b"\xff\nHi\n");
    assert_eq!(out, chat(&folder, &[], "Hi\n")[0]);
    assert!(
        error.contains("error: the line is not UTF-8 text\n"),
        "{error}"
    );
    // The oldest messages go first.
    let line = "Who was Ralph? ".repeat(12);
    let [out, error] = chat(&folder, &[], format!("{line}\n{line}\n{line}\n{line}\n"));
    assert!(
        error
            .contains("note: the model sees 256 tokens: it has forgotten 2 of the oldest messages"),
        "{error}"
    );
    assert!(out.len() > 8, "{out}");

    let folder = with("mistral", &json!({"do_sample": false, "max_new_tokens": 3}));
    let template = "{{ raise_exception('no ' ~ messages[-1].content) if 'bad' in messages[-1].content }}{{ messages[-1].content ~ odd }}";
    folder.write("model/chat_template.jinja", template);
    let [out, error] = chat(&folder, &[], "bad\nHi\n");
    assert_eq!(out, chat(&folder, &[], "Hi\n")[0]);
    assert!(
        error.contains("error: ") && error.contains("fails in line 1: no bad"),
        "{error}"
    );
    // Templates print objects with their keys in the order in which they are given.
    folder.write(
        "model/chat_template.jinja",
        "{{ raise_exception(tools | tojson) }}",
    );
    let tools = r#"tools=[{"type": "function", "function": {"name": "f", "arguments": 1.0}}]"#;
    let [_, error] = chat(&folder, &["--set", tools], "Hi\n");
    let printed = tools.strip_prefix("tools=").unwrap();
    assert!(error.contains(printed), "{error}");
    folder.write("model/chat_template.jinja", template);
    let set = |value: &str| chat(&folder, &["--set", &format!("odd={value}")], "Hi\n")[0].clone();
    assert_ne!(set("x"), out);
    assert_eq!(set("\"\""), out);
}

/// What the model does not see, or can't do, is said; what is drawn stays the same.
#[test]
fn what_is_not_as_one_might_think_is_noted() {
    let wanted = |stop: &Value| json!({"do_sample": false, "eos_token_id": stop});
    let folder = with("qwen3", &wanted(&json!([5, 5000])));
    let generate = |folder: &Folder, text: &str| {
        let arguments = ["generate", "model", text, "--tokens", "2"];
        folder.command_of("lm", &arguments).output().unwrap()
    };
    let output = generate(&folder, "Who");
    let noted = text(&output.stderr);
    let expected = "note: the model's files say that token 5000 ends texts, but it has 1003: ";
    assert!(noted.contains(expected), "{noted}");
    let same = generate(&with("qwen3", &wanted(&json!(5))), "Who");
    assert_eq!(same.stdout, output.stdout);
    assert!(!text(&same.stderr).contains("note: "));

    let long = "Who was ".repeat(200);
    let noted = text(&generate(&folder, &long).stderr);
    let expected = "note: the model sees 256 tokens: of the text's ";
    assert!(noted.contains(expected), "{noted}");

    let none = json!({"suppress_tokens": (0..1003).collect::<Vec<u32>>()});
    let output = generate(&with("qwen3", &none), "Who");
    let error = text(&output.stderr);
    let expected = "error: suppressed tokens = all is not possible: expected fewer than the 1003";
    assert!(
        !output.status.success() && error.contains(expected),
        "{error}"
    );
}

/// Tokens that nobody reads are not drawn.
#[test]
fn a_text_ends_with_its_reader() {
    let folder = with("qwen3", &json!({}));
    let arguments = ["generate", "model", "Who", "--tokens", "100000000"];
    let mut command = folder.command_of("lm", &arguments);
    let pipes = command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = pipes.spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 4]).unwrap();
    drop(output);
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("it goes on without a reader");
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success());
}

#[test]
fn what_chats_need() {
    let folder = with("qwen3", &json!({}));
    let refused = |arguments: &[&str]| {
        let output = folder
            .command_of("lm", arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        text(&output.stderr)
    };
    for (arguments, reason) in [
        (
            &["chat", "model", "--temperature=-1"][..],
            "error: temperature = -1 is not possible",
        ),
        (
            &["chat", "model", "--template", "rag"],
            "no chat template `rag`, only default",
        ),
        (&["chat", "model", "--set", "x"], "expected NAME=VALUE"),
        (&["chat", "nowhere"], "nowhere"),
    ] {
        let error = refused(arguments);
        assert!(error.contains(reason), "{arguments:?}: {error}");
    }
    std::fs::remove_file(folder.0.join("model/chat_template.jinja")).unwrap();
    let error = refused(&["chat", "model"]);
    assert!(
        error.contains("it has no chat template, neither") && error.lines().count() == 1,
        "{error}"
    );
    folder.write("model/generation_config.json", "{");
    let error = refused(&["chat", "model"]);
    assert!(
        error.contains("chat template") || error.contains("generation_config.json"),
        "{error}"
    );
}

/// The text stands there as it was given, and characters are whole.
#[test]
fn texts_go_on_behind_themselves() {
    for (family, special) in [
        ("qwen3", "<|im_end|>"),
        ("zephyr", "</s>"),
        ("gemma", "<eos>"),
    ] {
        let folder = with(family, &json!({"do_sample": false}));
        for prompt in ["Who  was", " é", special, "a 東京 🙂"] {
            let arguments = ["generate", "model", prompt, "--tokens", "8"];
            let output = folder.command_of("lm", &arguments).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            let printed = String::from_utf8(output.stdout).unwrap();
            assert!(printed.starts_with(prompt), "{family}: {printed:?}");
            assert!(
                printed.len() > prompt.len() + 1 && printed.ends_with('\n'),
                "{family}: {printed:?}"
            );
        }
    }
}

/// What has been drawn is there while the rest is not.
#[test]
fn texts_are_streamed() {
    let folder = with("qwen3", &json!({"do_sample": false}));
    let arguments = ["generate", "model", "Who", "--tokens", "240"];
    let mut command = folder.command_of("lm", &arguments);
    let pipes = command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = pipes.spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut begun = [0; 8];
    output.read_exact(&mut begun).unwrap();
    assert!(begun.starts_with(b"Who"));
    assert!(
        child.try_wait().unwrap().is_none(),
        "it has all come at once"
    );
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(rest.len() > 100 && rest.ends_with(b"\n"), "{}", rest.len());
}
