//! The history of a run: what happened when, one line each, for whoever has to find out why.

use std::fmt;
use std::time::Duration;

/// How many lines are shown of a long history: its end is what matters.
const SHOWN_MAX: usize = 400;

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub struct History {
    lines: Vec<(Duration, String)>,
}

impl History {
    /// Adds a line.
    pub fn note(&mut self, at: Duration, line: impl Into<String>) {
        let line = line.into();
        tracing::debug!(?at, %line, "history");
        self.lines.push((at, line));
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.lines.len().saturating_sub(SHOWN_MAX);
        if skipped > 0 {
            writeln!(f, "  ({skipped} lines before)")?;
        }
        for (at, line) in &self.lines[skipped..] {
            let seconds = at.as_secs();
            let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            writeln!(f, "  {hours}:{minutes:02}:{rest:02}.{:03}  {line}", at.subsec_millis())?;
        }
        Ok(())
    }
}
