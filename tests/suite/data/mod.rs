//! From texts to batches.

mod batch;
mod char_tokenizer;
mod shuffle;
mod stream;
mod text;
