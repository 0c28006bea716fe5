//! Of the modules that the example programs share, those that need no terminal, no files and no threads.

#![allow(dead_code)]

#[path = "../../examples/common/args.rs"]
pub mod args;
#[path = "../../examples/common/checkpoint.rs"]
pub mod checkpoint;
#[path = "../../examples/common/course.rs"]
pub mod course;
#[path = "../../examples/common/settings.rs"]
pub mod settings;
#[path = "../../examples/common/steps.rs"]
pub mod steps;
#[path = "../../examples/common/stream.rs"]
pub mod stream;
#[path = "../../examples/common/texts.rs"]
pub mod texts;
#[path = "../../examples/common/words.rs"]
pub mod words;

/// What calls end with when something goes wrong: one line.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
