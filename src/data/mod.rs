//! From a text file to batches of tokens.
//!
//! ```text
//! read_text ──► CharTokenizer ──► StreamDataset   random windows of one long stream of tokens   ──► Batch
//!          └────────────────────► NamesDataset    one row a name, terminated and padded         ──► Batch
//! ```
//!
//! Batches for training are stateless: batch number `step` is a function of the seed and the step, so a run that is
//! resumed from a checkpoint sees the batches that it would have seen, with nothing to restore but the step.
//!
//! ```
//! use shadegrad::data::{CharTokenizer, Split, StreamDataset};
//!
//! let text = "emma\nolivia\nava\nisabella\nsophia\n".repeat(4);
//! let tokenizer = CharTokenizer::from_text(&text)?;
//! let data = StreamDataset::new(tokenizer.encode(&text)?, 8)?;
//! let batch = data.batch(Split::Train, 4, 42, 0);
//! assert_eq!(batch.inputs.len(), 4 * 8);
//! // The target of each position is the input of the next one.
//! assert_eq!(batch.targets[..7], batch.inputs[1..8]);
//! # Ok::<(), shadegrad::Error>(())
//! ```

mod batch;
mod char_tokenizer;
mod names;
mod shuffle;
mod stream;
mod text;

pub use batch::{Batch, IGNORE_INDEX};
pub use char_tokenizer::CharTokenizer;
pub use names::NamesDataset;
pub use shuffle::Shuffle;
pub use stream::{Split, StreamDataset};
pub use text::{parse_text, read_text};

pub use crate::error::excerpt;
pub use crate::sampling::check_tokens;
