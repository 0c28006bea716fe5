//! A conversation.

use std::error::Error;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use minijinja::Value;
use shadegrad::hugging_face::{ChatTemplate, Message};
use shadegrad::nn::CachedTexts;

use super::Model;
use super::generate::{Answer, GenerationArgs, Speaker};
use crate::common::{Result, terminal};

/// What ends a conversation, beside the end of the input.
const EXIT: &str = "/exit";

/// The command line of `lm chat`.
#[derive(Debug, Args)]
pub struct Chat {
    /// The model's directory, of one that was trained on chats
    model: PathBuf,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Another one of the directory's chat templates
    #[arg(long, value_name = "NAME", default_value = "default")]
    template: String,
    /// A variable of the template and its value in JSON: enable_thinking=false, say; may be given several times
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, Value)>,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// A template's variable as a flag.
fn variable(text: &str) -> std::result::Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    // What is no JSON is a text. This type keeps the order of keys, in which templates print them.
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

/// What has been said.
struct Conversation<'a> {
    speaker: Speaker<'a>,
    template: ChatTemplate,
    /// What the model has computed of it.
    texts: CachedTexts,
    messages: Vec<Message>,
}

impl Chat {
    /// Reads a line, answers it, and so on.
    ///
    /// # Errors
    ///
    /// One line about the flags or the model's directory; what the device reports. What is wrong with a line that was read
    /// is told, and the conversation goes on without it.
    pub fn run(self) -> Result<()> {
        self.generation.validate()?;
        let mut template = ChatTemplate::open_named(&self.model, &self.template)?;
        for (name, value) in self.variables {
            template = template.with_variable(name, value);
        }
        let system = self.system.map(|text| Message::new("system", text));
        let model = Model::open(
            &self.model,
            &self.generation.load,
            self.generation.precision,
            &self.generation.device,
        )?;
        let mut conversation = Conversation {
            speaker: Speaker::new(&model, &self.generation)?,
            template,
            texts: model.gpt.cached_texts(1)?,
            messages: system.into_iter().collect(),
        };
        let input = io::stdin();
        loop {
            if input.is_terminal() {
                let _ = write!(io::stderr(), "> ").and_then(|()| io::stderr().flush());
            }
            let mut line = Vec::new();
            let length = input.lock().read_until(b'\n', &mut line)?;
            if length == 0 || terminal::is_unread() {
                return Ok(());
            }
            let Ok(line) = String::from_utf8(line) else {
                terminal::error(&*Box::<dyn Error>::from("the line is not UTF-8 text"));
                continue;
            };
            if line.trim() == EXIT {
                return Ok(());
            }
            let line = line.trim_end_matches(['\n', '\r']);
            if line.trim().is_empty() {
                continue;
            }
            conversation.messages.push(Message::new("user", line));
            match conversation.prompt() {
                Ok(prompt) => conversation.answer(&prompt)?,
                Err(error) => {
                    terminal::error(&*error);
                    conversation.messages.pop();
                }
            }
        }
    }
}

impl Conversation<'_> {
    /// The tokens of what has been said, without what the model would not see any more: the oldest turns.
    fn prompt(&mut self) -> Result<Vec<u32>> {
        let model = self.speaker.model;
        let context = model.gpt.config().context;
        let first = usize::from(self.messages[0].role == "system");
        let mut forgotten = 0;
        loop {
            let text = self.template.render(&self.messages, true)?;
            let tokens = model.tokenizer.encode(&text)?;
            if tokens.len() < context && !tokens.is_empty() {
                if forgotten > 0 {
                    terminal::note(format_args!(
                        "the model sees {context} tokens: it has forgotten {forgotten} of the oldest messages"
                    ));
                }
                return Ok(tokens);
            }
            // A turn is a question and its answer.
            if self.messages.len() < first + 3 {
                let length = tokens.len();
                return Err(format!(
                    "that makes {length} tokens, the model sees {context}, its answer included"
                )
                .into());
            }
            self.messages.drain(first..first + 2);
            forgotten += 2;
        }
    }

    fn answer(&mut self, prompt: &[u32]) -> Result<()> {
        let model = self.speaker.model;
        let room = model.gpt.config().context - prompt.len();
        let most = self
            .speaker
            .most(prompt.len())
            .map_or(room, |most| most.min(room));
        let mut answer = Answer::new(model.tokenizer.decode_stream(true));
        self.speaker
            .speak(&mut self.texts, prompt, most, |token| answer.push(token))?;
        self.messages
            .push(Message::new("assistant", answer.finish()?));
        Ok(())
    }
}
