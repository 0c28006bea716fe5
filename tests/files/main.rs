//! What is read and written: checkpoints, directories of other libraries, and files that are not what they should be. A
//! part needs the feature `tokenizers`.

#[cfg(feature = "tokenizers")]
mod chat;
mod checkpoint;
#[path = "../common/mod.rs"]
mod common;
mod generation;
mod hostile;
mod hugging_face;
mod models;
#[cfg(feature = "tokenizers")]
mod tokenizer;
mod trained;
