//! Chats as text, by the templates that models come with.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, ErrorKind, State};
use minijinja_contrib::pycompat;
use serde::{Deserialize, Serialize};

use super::files::{is_there, read};
use super::python;
use super::tokenizer::{ROLES, SETTINGS, of_role, settings};
use crate::error::{Error, Result};

const TEMPLATE: &str = "chat_template.jinja";
const TEMPLATES: &str = "additional_chat_templates";
const KEY: &str = "chat_template";

/// The name of the template that is meant where none is named.
const DEFAULT: &str = "default";

/// The steps that a template may take, and how long. 64 bytes that it makes are a step. A message takes tens or hundreds.
const FUEL: u64 = 500_000;
const LONGEST: Duration = Duration::from_secs(5);

/// Room for values that are nested as deeply as so many steps can.
const STACK: usize = 256 << 20;

/// Names that reasoning goes by in messages, of which templates read the first, some the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What somebody says in a chat: `system`, `user` or `assistant`, or what else a template knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who says it.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// `content`, said by `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        let (role, content) = (role.into(), content.into());
        Message { role, content }
    }
}

/// The Jinja template by which a model's directory makes one text of a chat: `chat_template.jinja` and
/// `additional_chat_templates/`, or else `chat_template` of `tokenizer_config.json`, a template or a list of named ones. It
/// renders what `apply_chat_template` of `transformers` renders, with the same variables, functions and handling of
/// whitespace.
///
/// Templates come from others. They see nothing but the chat, and what takes too many steps, or makes too long a text, is
/// an error. So is what takes seconds in spite of that, as it takes to compare two lists of lists that have been doubled
/// sixty times; but such a step is not cut short: a thread that nobody waits for is left with it.
///
/// ```no_run
/// use shadegrad::hugging_face::{ChatTemplate, Message, Tokenizer};
///
/// let tokenizer = Tokenizer::open("models/SmolLM2-135M-Instruct")?;
/// let template = ChatTemplate::open("models/SmolLM2-135M-Instruct")?;
/// let chat = [Message::new("user", "Who was Ralph?")];
/// // The template has written the special tokens.
/// let prompt = tokenizer.encode(&template.render(&chat, true)?)?;
/// # Ok::<(), shadegrad::Error>(())
/// ```
///
/// Special tokens that a message spells out become those tokens, as in `transformers` (where `sanitize_control_tokens` is
/// not set): see [`Tokenizer`](super::Tokenizer).
#[derive(Clone)]
pub struct ChatTemplate {
    path: PathBuf,
    environment: Environment<'static>,
    variables: BTreeMap<String, Value>,
}

impl ChatTemplate {
    /// Reads the template of a model's directory, the one called `default` if there are several.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if a file cannot be read, [`Error::Checkpoint`], with the file, if there is no such template or it is
    /// none that can be used.
    pub fn open(directory: impl AsRef<Path>) -> Result<ChatTemplate> {
        ChatTemplate::open_named(directory, DEFAULT)
    }

    /// Reads another one of a directory with several templates: `tool_use`, say.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::open`].
    pub fn open_named(directory: impl AsRef<Path>, name: &str) -> Result<ChatTemplate> {
        let directory = directory.as_ref();
        let settings = settings(directory)?;
        let mut templates = stored(directory)?;
        if templates.is_empty() {
            templates = listed(&directory.join(SETTINGS), settings.get(KEY))?;
        }
        let names: Vec<String> = templates.keys().cloned().collect();
        let Some((path, source)) = templates.remove(name) else {
            let reason = match names.is_empty() {
                true => format!(
                    "it has no chat template, neither {TEMPLATE} nor `{KEY}` in {SETTINGS}: only models that were trained on chats have one; continue texts instead"
                ),
                false => format!(
                    "it has no chat template `{name}`, only {}",
                    names.join(", ")
                ),
            };
            return Err(Error::checkpoint(directory, reason));
        };
        let mut environment = environment();
        let compiled = environment.add_template_owned(KEY, without_markers(&source));
        compiled.map_err(|error| refuse(&path, &error))?;
        let tokens = ROLES.iter().filter_map(|role| {
            let token = of_role(&settings, role)?;
            Some(((*role).to_owned(), Value::from(token.content)))
        });
        Ok(ChatTemplate {
            path,
            environment,
            variables: tokens.collect(),
        })
    }

    /// The same template with a further variable, or with another value of one: `enable_thinking`, say.
    /// Templates print objects with their keys in the order in which they are serialized, which is that of the alphabet in a
    /// `serde_json::Value` (unless `serde_json` is built with `preserve_order`).
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>, value: impl Serialize) -> ChatTemplate {
        let value = Value::from(Serde(value));
        self.variables.insert(name.into(), value);
        self
    }

    /// The text of a chat: of [`Message`]s, or of anything else that is stored as JSON objects with a `role`.
    /// `add_generation_prompt` ends it with what stands in front of the assistant's next answer.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] without a message, or with one that is no object. [`Error::Checkpoint`], with the
    /// template's file and what it says, if the template refuses the chat, as where roles don't alternate; if it fails;
    /// and if it takes too long.
    pub fn render(
        &self,
        messages: &[impl Serialize],
        add_generation_prompt: bool,
    ) -> Result<String> {
        if messages.is_empty() {
            return Err(invalid("no message"));
        }
        let messages = messages.iter().map(message).collect::<Result<Vec<_>>>()?;
        let mut variables = BTreeMap::from([
            ("messages".to_owned(), Value::from(messages)),
            ("tools".to_owned(), Value::from(())),
            ("documents".to_owned(), Value::from(())),
            (
                "add_generation_prompt".to_owned(),
                Value::from(add_generation_prompt),
            ),
        ]);
        let own = self.variables.iter();
        variables.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        let (sender, receiver) = mpsc::channel();
        let environment = self.environment.clone();
        // Steps don't count all that is compared and joined: so somebody else looks at the clock.
        let thread = thread::Builder::new().stack_size(STACK).spawn(move || {
            let template = environment.get_template(KEY);
            // Nobody may be listening any more.
            let _ = sender.send(template.and_then(|template| template.render(variables)));
        });
        let answer = thread.map(|_| receiver.recv_timeout(LONGEST));
        match answer {
            Ok(Ok(text)) => text.map_err(|error| refuse(&self.path, &error)),
            Ok(Err(_)) => Err(refuse(&self.path, &ErrorKind::OutOfFuel.into())),
            Err(source) => Err(Error::file(&self.path)(source)),
        }
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChatTemplate({})", self.path.display())
    }
}

/// The templates that are files, with these.
fn stored(directory: &Path) -> Result<BTreeMap<String, (PathBuf, String)>> {
    let mut files = Vec::new();
    let path = directory.join(TEMPLATE);
    if is_there(&path) {
        files.push((DEFAULT.to_owned(), path));
    }
    let path = directory.join(TEMPLATES);
    if path.is_dir() {
        for entry in fs::read_dir(&path).map_err(Error::file(&path))? {
            let path = entry.map_err(Error::file(&path))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(name) = name.and_then(|name| name.strip_suffix(".jinja")) {
                files.push((name.to_owned(), path));
            }
        }
    }
    let sources = files.into_iter().map(|(name, path)| {
        let source = String::from_utf8(read(&path)?);
        let source = source.map_err(|error| damaged(&path, error))?;
        // Python reads line ends so.
        Ok((name, (path, source.replace("\r\n", "\n"))))
    });
    sources.collect()
}

/// The templates in a file of settings.
fn listed(
    path: &Path,
    value: Option<&serde_json::Value>,
) -> Result<BTreeMap<String, (PathBuf, String)>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Listed {
        Default(String),
        ByName(BTreeMap<String, String>),
        Named(Vec<Named>),
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
        template: String,
    }

    let listed = value.map_or(Ok(None), Option::<Listed>::deserialize);
    let listed = listed.map_err(|_| {
        let what = format!("its `{KEY}` is neither a text nor a list of texts with names");
        damaged(path, what)
    })?;
    let named: Vec<(String, String)> = match listed {
        None => Vec::new(),
        Some(Listed::Default(source)) => vec![(DEFAULT.to_owned(), source)],
        Some(Listed::ByName(map)) => map.into_iter().collect(),
        Some(Listed::Named(list)) => list.into_iter().map(|it| (it.name, it.template)).collect(),
    };
    let named = named.into_iter();
    Ok(named
        .map(|(name, source)| (name, (path.to_owned(), source)))
        .collect())
}

/// A template's source without the marks of what an assistant says: they don't change the text. What is within them has
/// variables of its own, as in `with`.
fn without_markers(source: &str) -> String {
    let mut rest = source;
    let mut text = String::with_capacity(source.len());
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let (before, tag) = rest[..start + length].split_at(start + 2);
        let name = tag.trim_matches(['-', '+']).trim();
        text += before;
        match name {
            "generation" => text += &tag.replacen(name, "with", 1),
            "endgeneration" => text += &tag.replacen(name, "endwith", 1),
            _ => text += tag,
        }
        rest = &rest[start + length..];
    }
    text + rest
}

/// What `transformers` gives templates.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.expect("it has the usual marks"));
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(|state, value, method, arguments| {
        // Nobody else asks what it will take to make a text that wide.
        let format = value
            .as_str()
            .filter(|_| method == "format")
            .unwrap_or_default();
        let mut widths = format.split(|c: char| !c.is_ascii_digit());
        match widths.any(|digits| digits.len() > 3) {
            true => Err(ErrorKind::OutOfFuel.into()),
            false => pycompat::unknown_method_callback(state, value, method, arguments),
        }
    });
    environment.set_formatter(|out, state: &mut State, value| {
        let text = python::text(state, value)?;
        out.write_str(&text)
            .map_err(|_| ErrorKind::WriteFailure.into())
    });
    environment.add_filter("string", python::text);
    environment.add_filter("tojson", |state: &State, value: &Value, options: Kwargs| {
        python::json(state, value, &options)
    });
    environment.add_test("sequence", |value: &Value| {
        use ValueKind::{Map, Seq, String, Undefined};
        matches!(value.kind(), Seq | Map | String | Undefined)
    });
    for name in ["pprint", "debug"] {
        environment.remove_filter(name);
        environment.remove_global(name);
    }
    environment.add_function("raise_exception", |message: String| {
        Err::<(), _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: &str| {
        python::date(format, &jiff::Zoned::now())
    });
    environment
}

/// A message as templates see it: without what it leaves open, and with its reasoning under each of its names.
fn message(message: &impl Serialize) -> Result<Value> {
    let value = Value::from(Serde(message));
    if value.kind() != ValueKind::Map {
        return Err(invalid(&format!("a message that is a {}", value.kind())));
    }
    let keys = value
        .try_iter()
        .map_err(|error| invalid(&error.to_string()))?;
    let pairs = keys.map(|key| {
        let item = value.get_item(&key).unwrap_or_default();
        (key, item)
    });
    let mut pairs: Vec<(Value, Value)> = pairs.filter(|(_, item)| !item.is_none()).collect();
    let find = |pairs: &[(Value, Value)], name: &str| {
        let mut names = pairs.iter();
        names.position(|(key, _)| key.as_str() == Some(name))
    };
    let reasoning = REASONING.iter().find_map(|name| find(&pairs, name));
    if let Some(at) = reasoning {
        let reasoning = pairs[at].1.clone();
        for name in &REASONING[..2] {
            if find(&pairs, name).is_none() {
                pairs.push((Value::from(*name), reasoning.clone()));
            }
        }
    }
    Ok(Value::from_pairs(pairs))
}

fn invalid(value: &str) -> Error {
    Error::invalid(
        "messages",
        value,
        "at least one object with a role and what is said",
    )
}

fn damaged(path: &Path, reason: impl fmt::Display) -> Error {
    let reason = format!("it has no chat template that can be used: {reason}");
    Error::checkpoint(path, reason)
}

/// What an engine's error says, in one line.
fn refuse(path: &Path, error: &minijinja::Error) -> Error {
    let message = match error.kind() {
        ErrorKind::OutOfFuel => {
            let most = LONGEST.as_secs();
            format!("it takes more than {FUEL} steps or {most} seconds, which no chat needs")
        }
        kind => error.detail().map_or(kind.to_string(), str::to_owned),
    };
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = error
        .line()
        .map_or(String::new(), |line| format!(" in line {line}"));
    Error::checkpoint(path, format!("its chat template fails{line}: {message}"))
}
