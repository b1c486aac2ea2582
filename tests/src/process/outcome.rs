//! What a command printed and how it ended.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

/// Why a command was refused, as `--json` prints it.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// Which sort of failure.
    pub kind: String,
    /// One sentence.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefusalDocument {
    error: Refusal,
}

impl Outcome {
    /// The one document of a command that succeeded.
    ///
    /// # Panics
    /// When it failed, or printed anything but one document of schema 1.
    #[must_use]
    pub fn document(&self) -> Value {
        assert_eq!(self.code, Some(0), "the command failed: {self:?}");
        self.printed()
    }

    /// The one document that was printed, however the command ended.
    ///
    /// # Panics
    /// When anything else was printed.
    #[must_use]
    pub fn printed(&self) -> Value {
        let lines: Vec<&str> = self.stdout.lines().collect();
        let [line] = lines[..] else { panic!("not one line: {self:?}") };
        parsed(line)
    }

    /// Every line of a command that succeeded.
    ///
    /// # Panics
    /// When it failed, or a line is no document of schema 1.
    #[must_use]
    pub fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "the command failed: {self:?}");
        self.stdout.lines().map(parsed).collect()
    }

    /// The refusal of a command that ended with `code`: the last line of standard error.
    ///
    /// # Panics
    /// When it ended otherwise, or the line has another shape.
    #[must_use]
    pub fn refusal(&self, code: i32) -> Refusal {
        assert_eq!(self.code, Some(code), "the command ended otherwise: {self:?}");
        let line = self.stderr.lines().last().unwrap_or_default();
        let document: RefusalDocument =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no error document ({error}): {self:?}"));
        document.error
    }
}

fn parsed(line: &str) -> Value {
    let document: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"));
    assert_eq!(document["schema"], 1, "{line}");
    document
}
