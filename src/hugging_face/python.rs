//! Values as Python writes them, which is how templates print them.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Values within values, at most.
const DEPTH: usize = 100;

/// `str(value)`.
pub(super) fn text(state: &State, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let style = Style {
        state,
        is_json: false,
        ensure_ascii: false,
        sort_keys: false,
        indent: None,
        separators: [", ", ": "].map(str::to_owned),
    };
    let mut out = String::new();
    if !value.is_undefined() {
        style.write(value, 0, &mut out)?;
    }
    Ok(out)
}

/// A text in quotation marks, as Python chooses them.
fn quote(text: &str, out: &mut String) {
    let mark = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == mark => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => {
                let _ = match u32::from(c) {
                    code @ ..=0xff => write!(out, "\\x{code:02x}"),
                    code @ ..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(mark);
}

/// As Python has it: no control, format or private character, none that nobody has assigned, no space but the usual one. Rust
/// escapes the same ones, and at the beginning of a text those that belong to a character before them.
fn is_printable(c: char) -> bool {
    c == '"' || c == '\'' || format!("a{c}").escape_debug().count() == 2
}

/// `strftime` of a date without a time zone, in the locale `C`.
pub(super) fn date(format: &str, now: &jiff::Zoned) -> Result<String, Error> {
    let mut translated = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        let directive = if c == '%' { rest.next() } else { None };
        match directive {
            Some('c') => translated += "%a %b %e %H:%M:%S %Y",
            Some('f') => translated += "%6f",
            Some('r') => translated += "%I:%M:%S %p",
            Some('x') => translated += "%m/%d/%y",
            Some('z' | 'Z') => (),
            _ => translated.extend([c].into_iter().chain(directive)),
        }
    }
    jiff::fmt::strtime::format(translated, now).map_err(|error| refuse(&error.to_string()))
}

fn number(value: &Value, out: &mut String) {
    let float = match value.is_integer() {
        true => None,
        false => f64::try_from(value.clone()).ok(),
    };
    let Some(float) = float else {
        let _ = write!(out, "{value}");
        return;
    };
    let digits = format!("{float:?}").to_lowercase();
    match digits.split_once('e') {
        // Python gives exponents a sign and two digits.
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
        }
        None => out.push_str(&digits),
    }
}

/// How values are to be written.
struct Style<'a> {
    state: &'a State<'a, 'a>,
    /// As JSON, not as `repr(value)`.
    is_json: bool,
    ensure_ascii: bool,
    sort_keys: bool,
    /// What a level is indented by, if lines are to be broken.
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: [String; 2],
}

/// `json.dumps(value, ensure_ascii=False, …)`, as `transformers` has it for `tojson`.
pub(super) fn json(state: &State, value: &Value, options: &Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        }),
    };
    let separators = match options.get::<Option<Vec<String>>>("separators")? {
        None => {
            let between = if indent.is_some() { "," } else { ", " };
            [between, ": "].map(str::to_owned)
        }
        Some(given) => given
            .try_into()
            .map_err(|_| refuse("tojson: separators are two"))?,
    };
    let style = Style {
        state,
        is_json: true,
        ensure_ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        separators,
    };
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(out)
}

impl Style<'_> {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        check(self.state, depth)?;
        let [none, yes, no] = match self.is_json {
            true => ["null", "true", "false"],
            false => ["None", "True", "False"],
        };
        match value.kind() {
            ValueKind::None => out.push_str(none),
            ValueKind::Bool => out.push_str(if value.is_true() { yes } else { no }),
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(float) if float.is_nan() && self.is_json => out.push_str("NaN"),
                Ok(f64::INFINITY) if self.is_json => out.push_str("Infinity"),
                Ok(f64::NEG_INFINITY) if self.is_json => out.push_str("-Infinity"),
                _ => number(value, out),
            },
            ValueKind::String if self.is_json => {
                self.string(value.as_str().unwrap_or_default(), out);
            }
            ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let ends = match value.is_tuple() && !self.is_json {
                    true if value.len() == Some(1) => ["(", ",)"],
                    true => ["(", ")"],
                    false => ["[", "]"],
                };
                self.items(ends, value.try_iter()?, depth, out, |item, out| {
                    self.write(&item, depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.items(["{", "}"], keys, depth, out, |key, out| {
                    match self.is_json {
                        true => self.string(&text(self.state, &key)?, out),
                        false => self.write(&key, depth + 1, out)?,
                    }
                    out.push_str(&self.separators[1]);
                    self.write(&value.get_item(&key)?, depth + 1, out)
                })?;
            }
            kind if self.is_json => return Err(refuse(&format!("tojson: {kind} has no JSON"))),
            _ => *out += &value.to_string(),
        }
        Ok(())
    }

    fn items(
        &self,
        [open, close]: [&str; 2],
        items: impl IntoIterator<Item = Value>,
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push_str(open);
        let mut is_empty = true;
        for item in items {
            out.push_str(if is_empty { "" } else { &self.separators[0] });
            is_empty = false;
            line(depth + 1, out);
            write(item, out)?;
        }
        if !is_empty {
            line(depth, out);
        }
        out.push_str(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        for c in serde_json::Value::from(text).to_string().chars() {
            match self.ensure_ascii && c > '~' {
                true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                    let _ = write!(out, "\\u{unit:04x}");
                }),
                false => out.push(c),
            }
        }
    }
}

/// Each value that is written is a step.
fn check(state: &State, depth: usize) -> Result<(), Error> {
    match depth > DEPTH {
        true => Err(refuse("values are nested too deeply to be printed")),
        false => state.consume_fuel(1),
    }
}

fn refuse(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_owned())
}
