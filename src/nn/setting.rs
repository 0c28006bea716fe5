//! What is wrong with a setting of a configuration.

use crate::error::{Error, Result};

pub(super) fn require_positive(name: &str, value: f32) -> Result<()> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(Error::invalid(name, value, "a positive number")),
    }
}
