//! From texts to batches.

mod batch;
mod char_tokenizer;
mod names;
mod shuffle;
mod stream;
mod text;
