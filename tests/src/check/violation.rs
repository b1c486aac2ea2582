//! What a checker says when something does not hold.

use std::fmt;

/// Something that must hold does not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Which checker found it.
    pub checker: &'static str,
    /// What exactly differs.
    pub detail: String,
}

impl Violation {
    /// What a checker found.
    pub fn new(checker: &'static str, detail: impl Into<String>) -> Self {
        Self { checker, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.detail)
    }
}
