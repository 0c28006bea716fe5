//! Text of tokens that arrive one by one.

use tokenizers::DecoderWrapper;

use super::Tokenizer;
use crate::error::Result;

/// So many tokens whose text has been given stay in front of the next ones: what decoders do at the beginning of a text,
/// such as taking a space away, they then do there.
const CONTEXT: usize = 4;

/// Decodes tokens one by one: each [`push`](DecodeStream::push) gives what has become certain, whole characters always.
/// All of it together is the text that [`Tokenizer::decode`] gives for all tokens at once. The work for a token does not
/// grow with the text.
///
/// A character whose bytes are spread over several tokens comes with the last of them. Where a tokenizer has tokens for
/// single bytes (`<0xE2>`, as sentencepiece's have), a row of them comes with the first token behind it: they are a text
/// only if all of them are.
///
/// ```no_run
/// use shadegrad::hugging_face::Tokenizer;
///
/// let tokenizer = Tokenizer::open("models/gpt2")?;
/// let mut stream = tokenizer.decode_stream(true);
/// for token in tokenizer.encode("Ralph 🙂")? {
///     print!("{}", stream.push(token)?);
/// }
/// println!("{}", stream.finish()?);
/// # Ok::<(), shadegrad::Error>(())
/// ```
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    bytes: Bytes,
    /// Bytes of a character that has been begun.
    begun: Vec<u8>,
    /// The last tokens whose text has been given.
    context: Vec<u32>,
    /// Those whose text hasn't.
    held: Vec<u32>,
}

/// What tokens may be parts of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bytes {
    /// All: each of a token's characters stands for a byte, and the text is these bytes.
    Level,
    /// Those that are called `<0x..>`.
    Fallback,
    /// None are.
    Whole,
}

impl Bytes {
    fn of(decoder: &DecoderWrapper) -> Bytes {
        match decoder {
            DecoderWrapper::ByteLevel(_) => Bytes::Level,
            DecoderWrapper::ByteFallback(_) => Bytes::Fallback,
            DecoderWrapper::Sequence(sequence) => match sequence.get_decoders() {
                [only] => Bytes::of(only),
                chain if chain.iter().any(|part| Bytes::of(part) == Bytes::Fallback) => {
                    Bytes::Fallback
                }
                _ => Bytes::Whole,
            },
            _ => Bytes::Whole,
        }
    }
}

impl Tokenizer {
    /// Decodes tokens one by one, with or without the special ones, as they are drawn.
    pub fn decode_stream(&self, skip_special_tokens: bool) -> DecodeStream<'_> {
        DecodeStream {
            tokenizer: self,
            skip_special_tokens,
            bytes: self.inner.get_decoder().map_or(Bytes::Whole, Bytes::of),
            begun: Vec::new(),
            context: Vec::new(),
            held: Vec::new(),
        }
    }
}

impl DecodeStream<'_> {
    /// The text that a further token makes certain; often one token's, sometimes none.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::decode`]; also if the decoder, unlike those of the model types that this crate knows, takes back
    /// text for what follows it.
    pub fn push(&mut self, token: u32) -> Result<String> {
        let inner = &self.tokenizer.inner;
        let Some(text) = inner.id_to_token(token) else {
            // What has no text separates two texts.
            let before = self.finish()?;
            return Ok(before + "\u{fffd}");
        };
        if self.skip_special_tokens && inner.get_added_vocabulary().is_special_token(&text) {
            return Ok(String::new());
        }
        if self.bytes == Bytes::Level {
            let bytes: Option<Vec<u8>> = text.chars().map(byte).collect();
            let bytes = bytes.unwrap_or_else(|| text.into_bytes());
            self.begun.extend(bytes);
            return Ok(self.ended());
        }
        self.held.push(token);
        match self.bytes == Bytes::Fallback && is_byte(&text) {
            true => Ok(String::new()),
            false => self.take(),
        }
    }

    /// The rest: `U+FFFD` for characters that have been begun and not ended. What is pushed afterwards is another text.
    ///
    /// # Errors
    ///
    /// As [`DecodeStream::push`].
    pub fn finish(&mut self) -> Result<String> {
        let mut rest = self.take()?;
        rest += &String::from_utf8_lossy(&self.begun);
        self.context.clear();
        self.begun.clear();
        Ok(rest)
    }

    /// The text of all bytes but those of a character that hasn't ended.
    fn ended(&mut self) -> String {
        let last = self.begun.utf8_chunks().last();
        let open = last.map_or(&[][..], |chunk| chunk.invalid());
        let is_open = std::str::from_utf8(open).is_err_and(|error| error.error_len().is_none());
        let open = if is_open { open.to_vec() } else { Vec::new() };
        self.begun.truncate(self.begun.len() - open.len());
        let text = String::from_utf8_lossy(&self.begun).into_owned();
        self.begun = open;
        text
    }

    /// The text of the held tokens.
    fn take(&mut self) -> Result<String> {
        let decode = |tokens: &[u32]| self.tokenizer.decoded(tokens, false);
        let before = decode(&self.context)?;
        self.context.append(&mut self.held);
        let whole = decode(&self.context)?;
        let excess = self.context.len().saturating_sub(CONTEXT);
        self.context.drain(..excess);
        match whole.strip_prefix(&before) {
            Some(text) => Ok(text.to_owned()),
            None => Err(self.tokenizer.refuse(
                "its decoder takes back text for what follows, so it can't be streamed: decode all tokens at once",
            )),
        }
    }
}

/// Whether a token is one byte, as decoders see it.
fn is_byte(token: &str) -> bool {
    let digits = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The byte that a character of byte-level tokens stands for: itself where it can be printed, else the next from U+0100 on.
/// Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
fn byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}
