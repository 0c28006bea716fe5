//! The programs' flags: what is wrong with them, in one line; how they stand in a form; and those that a run has.

use std::any::TypeId;
use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, Command, CommandFactory, FromArgMatches};
use serde_json::{Map, Value, json};
use shadegrad::tape::Precision;

use crate::common::Result;
use crate::common::args;
use crate::program::{FILES, object};

/// Flags that say again what others say.
const OTHERS: [&str; 4] = ["no_tie", "no_bias", "help", "version"];

/// What clap has to say, without the usage.
pub fn line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

/// The flags of a program for a form, each with its default.
pub fn form<C: CommandFactory>(defaults: &[(&'static str, &'static str)]) -> Value {
    let command = args::command::<C>(defaults);
    command.get_arguments().filter_map(field).collect()
}

fn field(arg: &Arg) -> Option<Value> {
    let name = arg.get_long()?;
    let id = arg.get_id().as_str();
    let is_of_ranks = arg.get_help_heading() == Some(args::RANKS);
    if is_of_ranks || FILES.contains(&id) || OTHERS.contains(&id) {
        return None;
    }
    let is = |types: &[TypeId]| {
        let id = arg.get_value_parser().type_id();
        types.iter().any(|other| id == *other)
    };
    let mut values: Vec<String> = Vec::new();
    let kind = if is(&[TypeId::of::<bool>()]) {
        "flag"
    } else if is(&[TypeId::of::<usize>(), TypeId::of::<u64>()]) {
        "integer"
    } else if is(&[TypeId::of::<f32>(), TypeId::of::<f64>()]) {
        "number"
    } else {
        let possible = arg.get_possible_values();
        values.extend(possible.iter().map(|value| value.get_name().to_owned()));
        if is(&[TypeId::of::<Precision>()]) {
            values
                .extend([Precision::F32, Precision::Mixed].map(|precision| precision.to_string()));
        }
        if values.is_empty() { "text" } else { "choice" }
    };
    let default = arg.get_default_values().first();
    let mut field = json!({
        "name": name,
        "help": arg.get_help().map(ToString::to_string),
        "value": default.map(|value| value.to_string_lossy()),
        "kind": kind,
        "heading": arg.get_help_heading(),
    });
    if !values.is_empty() {
        field["values"] = values.into();
    }
    Some(field)
}

/// The flags of a run with these settings: those that are not as usual, whoever set them, and what else was given.
///
/// # Errors
///
/// If settings are no JSON.
pub fn of_run<C: CommandFactory + FromArgMatches>(
    defaults: &[(&'static str, &'static str)],
    usual: impl Fn(&C) -> Result<Value>,
    settings: Value,
    given: &[String],
) -> Result<Vec<String>> {
    let settings = object(settings)?;
    let command = args::command::<C>(defaults);
    let parse = |words: &[String]| {
        let words = words.iter().map(OsString::from).map(args::dashed);
        let named = std::iter::once(OsString::from("program")).chain(words);
        let matches = command.clone().try_get_matches_from(named);
        matches.map_err(|error| line(&error))
    };
    let usual = object(usual(&C::from_arg_matches(&parse(&[])?)?)?)?;
    let given = parse(given)?;
    let mut flags = Vec::new();
    for (name, id) in flags_of(&command) {
        if settings.contains_key(id) {
            let value = changed(&settings, &usual, id);
            flags.extend(value.map(|value| [format!("--{name}"), value]));
        } else if given.value_source(id) == Some(ValueSource::CommandLine) {
            let values = given.get_raw(id).into_iter().flatten();
            let last = values
                .last()
                .map(|value| value.to_string_lossy().into_owned());
            flags.extend(last.map(|value| [format!("--{name}"), value]));
        }
    }
    Ok(flags.concat())
}

/// Names and identities of flags, in their order, but for those that settings spell out, and files.
fn flags_of(command: &Command) -> impl Iterator<Item = (&str, &str)> {
    let named = command.get_arguments();
    let named = named.filter_map(|arg| Some((arg.get_long()?, arg.get_id().as_str())));
    named.filter(|(_, id)| ![&FILES[..], &OTHERS, &["preset"]].concat().contains(id))
}

/// A setting as its flag says it, if it is not as usual.
fn changed(settings: &Map<String, Value>, usual: &Map<String, Value>, id: &str) -> Option<String> {
    let value = &settings[id];
    match value {
        Value::Null => None,
        value if usual.get(id) == Some(value) => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(match number.as_f64() {
            // The digits of an `f32`, not those of the `f64` that JSON has for it.
            Some(wide) if number.is_f64() && f64::from(wide as f32) == wide => {
                (wide as f32).to_string()
            }
            _ => number.to_string(),
        }),
        other => Some(other.to_string()),
    }
}

/// The command line of a desktop that does what a run does.
pub fn command_line(program: &str, text: Option<&str>, flags: &[String]) -> String {
    let file = text.map(|text| ["--filename", text]);
    let flags = flags.iter().map(String::as_str);
    let words: Vec<String> = file
        .into_iter()
        .flatten()
        .chain(flags)
        .map(quoted)
        .collect();
    let program = format!("cargo run --release --example {program}");
    match words.is_empty() {
        true => program,
        false => format!("{program} -- {}", words.join(" ")),
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{command_line, form, of_run};
    use crate::program::Program;
    use crate::train_names::{self, Names};
    use crate::train_text::{self, Text};

    /// The names, or a text of their kind, with these flags.
    fn run(name: &str, flags: &str) -> crate::common::Result<Box<dyn Program>> {
        let flags = flags.split_whitespace().map(str::to_owned).collect();
        let request = crate::program::Request {
            flags,
            text: (name == train_text::NAME).then(|| "one two three\n".repeat(50)),
            checkpoint: None,
            checkpoint_name: String::new(),
        };
        Ok(match name {
            train_names::NAME => Box::new(Names::new(request)?),
            _ => Box::new(Text::new(request)?),
        })
    }

    #[test]
    fn what_is_wrong_with_a_flag_is_one_line() {
        for (flags, expected) in [
            ("--foo 1", "unexpected argument '--foo' found"),
            (
                "--lr x",
                "invalid value 'x' for '--lr <LR>': invalid float literal",
            ),
            (
                "--norm x",
                "invalid value 'x' for '--norm <NORM>' [possible values: ",
            ),
            (
                "--filename names.txt",
                "--filename names a file, which a page cannot read",
            ),
            ("--batch-size 0", "--batch-size = 0 is not possible"),
            (
                "--context 8",
                "data/names.txt: --context = 8 is not possible",
            ),
        ] {
            let said = run(train_names::NAME, flags)
                .err()
                .expect(flags)
                .to_string();
            assert!(said.starts_with(expected), "{flags}: {said}");
            assert!(!said.contains('\n'), "{flags}: {said}");
        }
    }

    #[test]
    fn the_flags_of_a_run_are_those_that_are_not_as_usual() {
        let usual = train_names::Cli::fields;
        for (given, expected) in [
            ("", ""),
            ("--lr 0.006 --steps 1500 --no-tie", ""),
            (
                "--d_model 16 --lr 0.001 --tie",
                "--d-model 16 --tie true --lr 0.001",
            ),
            (
                "--eval-interval 5 --top-k 3 --n-layers 2",
                "--n-layers 2 --eval-interval 5 --top-k 3",
            ),
            (
                "--beta2 0.999 --norm-eps 1e-5",
                "--norm-eps 0.00001 --beta2 0.999",
            ),
        ] {
            let words: Vec<String> = given.split_whitespace().map(str::to_owned).collect();
            let fields = run(train_names::NAME, given).unwrap().fields().unwrap();
            let flags = of_run(&[], usual, fields, &words).unwrap();
            assert_eq!(flags.join(" "), expected, "{given}");
        }
        // Also those that a preset sets: without it they give the same run.
        let fields = |flags: &str| run(train_names::NAME, flags).unwrap().fields().unwrap();
        for preset in ["numpy", "classes", "program"] {
            let preset = format!("--preset {preset}");
            let words: Vec<String> = preset.split_whitespace().map(str::to_owned).collect();
            let flags = of_run(&[], usual, fields(&preset), &words)
                .unwrap()
                .join(" ");
            assert!(!flags.contains("preset"), "{flags}");
            assert_eq!(fields(&flags), fields(&preset), "{preset}");
        }
    }

    #[test]
    fn a_form_has_all_settings_with_their_defaults() {
        for (name, form, other) in [
            (
                train_names::NAME,
                form::<train_names::Cli>(&[]),
                ["context", "16"],
            ),
            (
                train_text::NAME,
                form::<train_text::Cli>(&train_text::DEFAULTS),
                ["context", "64"],
            ),
        ] {
            let fields = form.as_array().unwrap();
            let find = |name: &str| fields.iter().find(|field| field["name"] == name);
            assert_eq!(find(other[0]).unwrap()["value"], other[1], "{name}");
            assert_eq!(find("tie").unwrap()["kind"], "flag");
            assert_eq!(find("attention-bias").unwrap()["value"], Value::Null);
            assert_eq!(find("precision").unwrap()["values"][1], "mixed");
            assert_eq!(find("ffn").unwrap()["kind"], "choice");
            assert!(find("filename").is_none() && find("no-tie").is_none());
            // There is one process in a tab.
            assert!(find("sync-every").is_none() && find("reduce-dtype").is_none());
            // What a form says is what the program does without it.
            let given = fields.iter().filter(|field| !field["value"].is_null());
            let given = given.map(|field| {
                let value = field["value"].as_str().unwrap();
                format!("--{} {value}", field["name"].as_str().unwrap())
            });
            let given: Vec<String> = given.collect();
            let settings = |flags: &str| run(name, flags).unwrap().fields().unwrap();
            assert_eq!(settings(&given.join(" ")), settings(""), "{name}");
        }
    }

    #[test]
    fn ranks_that_are_apart_are_not_for_a_tab() {
        for name in [train_names::NAME, train_text::NAME] {
            let error = run(name, "--sync-every 5").err().expect("one process");
            assert!(
                error.to_string().contains("on a desktop by --sync-every 0"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_command_line_is_for_a_shell() {
        let flags = ["--prompt", "it's", "--lr", "0.01"].map(str::to_owned);
        assert_eq!(
            command_line("train_text", Some("text.txt"), &flags),
            r"cargo run --release --example train_text -- --filename text.txt --prompt 'it'\''s' --lr 0.01"
        );
        assert_eq!(
            command_line("train_names", None, &[]),
            "cargo run --release --example train_names"
        );
    }
}
