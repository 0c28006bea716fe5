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
    /// The last tokens whose text has been given.
    context: Vec<u32>,
    /// Those whose text hasn't.
    held: Vec<u32>,
    /// The bytes of a character that the held ones have begun.
    begun: Vec<u8>,
}

/// What tokens may be parts of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bytes {
    /// None are.
    Whole,
    /// All: each of a token's characters stands for a byte.
    Level,
    /// Those that are called `<0x..>`.
    Fallback,
}

impl Bytes {
    fn of(decoder: &DecoderWrapper) -> Bytes {
        match decoder {
            DecoderWrapper::ByteLevel(_) => Bytes::Level,
            DecoderWrapper::ByteFallback(_) => Bytes::Fallback,
            DecoderWrapper::Sequence(sequence) => {
                let mut kinds = sequence.get_decoders().iter().map(Bytes::of);
                kinds
                    .find(|&kind| kind != Bytes::Whole)
                    .unwrap_or(Bytes::Whole)
            }
            _ => Bytes::Whole,
        }
    }
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special_tokens: bool) -> DecodeStream<'a> {
        DecodeStream {
            tokenizer,
            skip_special_tokens,
            bytes: tokenizer
                .inner
                .get_decoder()
                .map_or(Bytes::Whole, Bytes::of),
            context: Vec::new(),
            held: Vec::new(),
            begun: Vec::new(),
        }
    }

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
        self.held.push(token);
        match self.is_open(&text) {
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
        let rest = self.take()?;
        self.context.clear();
        self.begun.clear();
        Ok(rest)
    }

    /// Whether the held tokens, of which this is the last, may end within a character.
    fn is_open(&mut self, token: &str) -> bool {
        match self.bytes {
            Bytes::Whole => false,
            Bytes::Fallback => {
                let digits = token
                    .strip_prefix("<0x")
                    .and_then(|rest| rest.strip_suffix('>'));
                digits.is_some_and(|digits| {
                    digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok()
                })
            }
            Bytes::Level => {
                let bytes: Option<Vec<u8>> = token.chars().map(byte).collect();
                self.begun
                    .extend(bytes.unwrap_or_else(|| token.as_bytes().to_vec()));
                while let Err(error) = std::str::from_utf8(&self.begun) {
                    let Some(wrong) = error.error_len() else {
                        self.begun.drain(..error.valid_up_to());
                        return true;
                    };
                    self.begun.drain(..error.valid_up_to() + wrong);
                }
                self.begun.clear();
                false
            }
        }
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
