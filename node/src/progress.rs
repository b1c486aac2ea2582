//! How far long work is, on standard error: a bar on a terminal, elsewhere at most one line a second.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::api::Progress;
use crate::output::{Output, aside, count, visible};

/// Work that is over sooner shows no progress.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// How often a plain line is written at most.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How often a bar is drawn at most.
const DRAWS_PER_SECOND: u8 = 5;

/// Shows how far one piece of work is. Dropping it takes a bar away.
#[derive(Debug)]
pub(crate) struct Reporter {
    quiet: bool,
    started: Instant,
    said: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Reporter {
    /// For work that starts now.
    pub(crate) fn new(output: Output) -> Self {
        Self { quiet: output.quiet, started: Instant::now(), said: None, bar: None }
    }

    /// Shows where the work is.
    pub(crate) fn update(&mut self, progress: &Progress) {
        if self.quiet || self.started.elapsed() < SHOWN_AFTER {
            return;
        }
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| new_bar(progress.expected));
            bar.set_position(progress.seen);
            bar.set_message(sentence(progress));
        } else if self.said.is_none_or(|said| said.elapsed() >= LINE_EVERY) {
            self.said = Some(Instant::now());
            aside(&sentence(progress));
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(expected: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
    let (bar, template) = match expected {
        Some(expected) => (ProgressBar::with_draw_target(Some(expected), target), "{bar:30} {percent}% {wide_msg}"),
        None => (ProgressBar::with_draw_target(None, target), "{spinner} {wide_msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn sentence(progress: &Progress) -> String {
    let text = format!("{}: {}, {}", visible(&progress.path), progress.phase, count(progress.seen, "entry", "entries"));
    let of = progress.expected.map_or_else(String::new, |expected| format!(" of {expected}"));
    let read = match progress.hashed {
        0 => String::new(),
        hashed => format!(", {} read", count(hashed, "file", "files")),
    };
    format!("{text}{of}{read}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_and_how_far() {
        let progress =
            Progress { path: "/data".to_owned(), phase: "scanning".to_owned(), seen: 5, expected: Some(9), hashed: 1 };
        assert_eq!(sentence(&progress), "/data: scanning, 5 entries of 9, 1 file read");
    }
}
