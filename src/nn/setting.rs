//! What is wrong with a setting of a configuration.

use crate::error::{Error, Result};

pub(super) fn require_positive(name: &str, value: f32) -> Result<()> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(impossible(name, value, "a positive number")),
    }
}

pub(super) fn impossible(name: &str, value: impl ToString, expected: impl Into<String>) -> Error {
    Error::InvalidArgument {
        name: name.to_owned(),
        value: value.to_string(),
        expected: expected.into(),
    }
}
