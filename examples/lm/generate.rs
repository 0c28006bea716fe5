//! Text that is written as it is drawn.

use clap::Args;
use shadegrad::hugging_face::{DecodeStream, GenerationConfig};
use shadegrad::nn::CachedTexts;
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::tape::Precision;

use super::{Input, LoadArgs, Model};
use crate::common::args::DeviceArgs;
use crate::common::{Result, terminal};

/// What is drawn from where neither a flag nor the model's directory says.
const SAMPLING: SamplingConfig = SamplingConfig {
    temperature: 0.8,
    top_k: None,
    top_p: None,
};

/// How much is added to a text in that case.
const TOKENS: usize = 50;

/// How tokens are drawn, and with what.
#[derive(Debug, Args)]
pub struct GenerationArgs {
    /// Tokens to add at most; a token that ends texts does so earlier [default: the model's max_new_tokens, else 50, or what
    /// there is room for in a chat]
    #[arg(long)]
    tokens: Option<usize>,
    /// Decides what is drawn
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Below 1 sharpens the distribution, above 1 flattens it, 0 takes the most likely token [default: the model's, else 0.8]
    #[arg(short, long, help_heading = "Sampling")]
    temperature: Option<f32>,
    /// Sample among this many of the most likely tokens [default: the model's]
    #[arg(short = 'k', long, value_name = "K", help_heading = "Sampling")]
    top_k: Option<usize>,
    /// Sample among the most likely tokens that together have this probability [default: the model's]
    #[arg(short = 'p', long, value_name = "P", help_heading = "Sampling")]
    top_p: Option<f32>,
    /// What the model computes with: f32, or mixed (weights, products and cache in f16)
    #[arg(long, default_value_t = Precision::F32)]
    pub precision: Precision,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

impl GenerationArgs {
    /// Refuses flags that make no sense, before anything is loaded.
    ///
    /// # Errors
    ///
    /// Those of [`SamplingConfig::validate`].
    pub fn validate(&self) -> Result<()> {
        Ok(self.sampling(&GenerationConfig::default()).validate()?)
    }

    /// The flags, where they say nothing what the model's directory says.
    fn sampling(&self, wanted: &GenerationConfig) -> SamplingConfig {
        let wanted = wanted.sampling.unwrap_or(SAMPLING);
        SamplingConfig {
            temperature: self.temperature.unwrap_or(wanted.temperature),
            top_k: self.top_k.or(wanted.top_k),
            top_p: self.top_p.or(wanted.top_p),
        }
    }
}

/// Draws tokens of a model.
pub struct Speaker<'a> {
    pub model: &'a Model,
    sampler: [Sampler; 1],
    tokens: Option<usize>,
}

impl<'a> Speaker<'a> {
    /// Also tells what the model's directory asks for in vain.
    ///
    /// # Errors
    ///
    /// Those of [`Sampler::new`].
    pub fn new(model: &'a Model, args: &GenerationArgs) -> Result<Speaker<'a>> {
        let wanted = model.files.generation();
        for setting in &wanted.unsupported {
            terminal::note(format_args!(
                "the model's generation_config.json asks for {setting}, which is not implemented"
            ));
        }
        let has = model.gpt.config().vocab_size;
        let mut stop = model.files.stop_tokens().iter();
        if let Some(beyond) = stop.find(|&&token| token as usize >= has) {
            terminal::note(format_args!(
                "the model's files say that token {beyond} ends texts, but it has {has}: nothing will be drawn that ends one so"
            ));
        }
        let sampler = Sampler::new(args.sampling(wanted), args.seed)?;
        let without_text = model.tokenizer.without_text(has);
        let suppressed = wanted.suppressed_tokens.iter().copied();
        Ok(Speaker {
            model,
            sampler: [sampler.with_suppressed(without_text.into_iter().chain(suppressed))],
            tokens: args.tokens,
        })
    }

    /// Tokens that may follow a prompt, unless nobody says.
    pub fn most(&self, prompt: usize) -> Option<usize> {
        let wanted = self.model.files.generation();
        self.tokens.or_else(|| wanted.most(prompt))
    }

    /// Continues `prompt`, of which `texts` may have a beginning, and gives each token to `tell` as it comes.
    ///
    /// # Errors
    ///
    /// What the device reports, and `tell`.
    pub fn speak(
        &mut self,
        texts: &mut CachedTexts,
        prompt: &[u32],
        most: usize,
        mut tell: impl FnMut(u32) -> Result<()>,
    ) -> Result<()> {
        let stop = self.model.files.stop_tokens().iter().copied();
        let gpt = &self.model.gpt;
        for next in gpt.generation_with(texts, &[prompt], most, &mut self.sampler, stop)? {
            tell(next?.token)?;
            if terminal::is_unread() {
                break;
            }
        }
        Ok(())
    }
}

/// Prints a text and its continuation, which is drawn meanwhile.
///
/// # Errors
///
/// One line about the flags or the model's directory; what the device reports.
pub fn run(input: &Input, args: &GenerationArgs) -> Result<()> {
    args.validate()?;
    let model = Model::open(&input.model, &args.load, args.precision, &args.device)?;
    let prompt = model.prompt(&input.text)?;
    let mut speaker = Speaker::new(&model, args)?;
    let mut stream = model.tokenizer.decode_stream(true);
    // The prompt is printed as it is, and the stream begins with it, too.
    let mut said = model
        .tokenizer
        .decode_without_special_tokens(&prompt)?
        .len();
    for &token in &prompt {
        said -= stream.push(token)?.len().min(said);
    }
    let context = model.gpt.config().context;
    if prompt.len() > context {
        terminal::note(format_args!(
            "the model sees {context} tokens: of the text's {}, the last ones",
            prompt.len()
        ));
    }
    terminal::text(&input.text);
    let mut rest = |text: String| {
        let start = (said..text.len()).find(|&start| text.is_char_boundary(start));
        said -= text.len().min(said);
        terminal::text(start.map_or("", |start| &text[start..]));
    };
    let most = speaker.most(prompt.len()).unwrap_or(TOKENS);
    let mut texts = model.gpt.cached_texts(1)?;
    speaker.speak(&mut texts, &prompt, most, |token| {
        rest(stream.push(token)?);
        Ok(())
    })?;
    rest(stream.finish()?);
    say!("");
    Ok(())
}

/// Prints what is drawn, and keeps it.
pub struct Answer<'a> {
    stream: DecodeStream<'a>,
    pub text: String,
}

impl<'a> Answer<'a> {
    pub fn new(stream: DecodeStream<'a>) -> Answer<'a> {
        let text = String::new();
        Answer { stream, text }
    }

    /// A further token.
    ///
    /// # Errors
    ///
    /// Those of [`DecodeStream::push`].
    pub fn push(&mut self, token: u32) -> Result<()> {
        let text = self.stream.push(token)?;
        self.print(&text);
        Ok(())
    }

    /// The end of it.
    ///
    /// # Errors
    ///
    /// Those of [`DecodeStream::finish`].
    pub fn finish(mut self) -> Result<String> {
        let text = self.stream.finish()?;
        self.print(&text);
        say!("");
        Ok(self.text)
    }

    fn print(&mut self, text: &str) {
        terminal::text(text);
        self.text += text;
    }
}
