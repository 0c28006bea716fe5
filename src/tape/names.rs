//! The names that values get while a trace is being taken.

use std::fmt;

use super::graph::ValueId;

#[derive(Default)]
pub(super) struct Names {
    /// Where recording is: the names of the scopes around it, joined by dots, with a dot behind.
    pub scope: String,
    pub taps: Vec<(String, ValueId)>,
}

impl Names {
    /// Goes into a scope; gives the length of the one outside.
    pub fn enter(&mut self, name: &impl fmt::Display) -> usize {
        let outside = self.scope.len();
        self.scope += &format!("{name}.");
        outside
    }
}
