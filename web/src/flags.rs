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
    if FILES.contains(&id) || OTHERS.contains(&id) {
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
