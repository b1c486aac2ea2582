//! What is printed: the only place that writes to standard output, as sentences and tables or as JSON.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::api::Document;
use crate::arguments::{Global, When};
use crate::error::{CliError, ErrorDocument, ErrorKind};

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// JSON instead of sentences.
    pub(crate) json: bool,
    /// No progress and no asides.
    pub(crate) quiet: bool,
    color: bool,
}

impl Output {
    /// As the options and the environment ask for.
    pub(crate) fn new(global: &Global) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stdout().is_terminal();
        let color = match global.color {
            When::Auto => wanted,
            When::Always => true,
            When::Never => false,
        };
        Self { json: global.json, quiet: global.quiet, color }
    }

    /// Prints a reply: as one JSON document, or as `human` puts it.
    pub(crate) fn reply<T: Serialize>(self, body: &T, human: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        if self.json { self.json_line(&Document::of(body)) } else { self.text(&human(body)) }
    }

    /// Prints one line of JSON.
    pub(crate) fn json_line<T: Serialize>(self, document: &T) -> Result<(), CliError> {
        let line = serde_json::to_string(document)
            .map_err(|e| CliError::new(ErrorKind::Failed, format!("the answer cannot be written as JSON: {e}")))?;
        self.text(&line)
    }

    /// Prints text and ends its line.
    #[expect(clippy::unused_self, reason = "printing goes through the one value that says how")]
    pub(crate) fn text(self, text: &str) -> Result<(), CliError> {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        write(&[text.as_bytes(), end.as_bytes()])
    }

    /// Prints bytes as they are.
    #[expect(clippy::unused_self, reason = "printing goes through the one value that says how")]
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), CliError> {
        write(&[bytes])
    }

    /// Says something in passing, on standard error.
    pub(crate) fn aside(self, text: &str) {
        if !self.quiet {
            aside(text);
        }
    }

    /// Prints why a command failed, on standard error.
    pub(crate) fn error(self, error: &CliError) {
        if error.kind == ErrorKind::Closed {
            return;
        }
        if self.json {
            let document = ErrorDocument { error: error.clone() };
            aside(&serde_json::to_string(&document).unwrap_or_else(|_| error.message.clone()));
            return;
        }
        let mark = if self.color && io::stderr().is_terminal() { "\u{1b}[31merror:\u{1b}[0m" } else { "error:" };
        aside(&format!("{mark} {}", visible(&error.message)));
        if let Some(hint) = &error.hint {
            aside(&format!("  {}", visible(hint)));
        }
    }

    /// Rows under a header, as text.
    pub(crate) fn table<const N: usize>(
        self,
        header: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if io::stdout().is_terminal() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
        }
        if self.color {
            table.enforce_styling();
            table.set_header(header.map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
        } else {
            table.force_no_tty();
            table.set_header(header);
        }
        for row in rows {
            table.add_row(row.map(|cell| visible(&cell)));
        }
        table.trim_fmt()
    }
}

fn write(parts: &[&[u8]]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let written = parts.iter().try_for_each(|part| stdout.write_all(part)).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::new(ErrorKind::Closed, "whoever read the output has gone"),
        _ => CliError::io("standard output cannot be written", error),
    })
}

/// Writes a line to standard error; when nobody can read that, there is nobody left to tell.
pub(crate) fn aside(text: &str) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// Text with what would move a terminal's cursor made visible: names of files may hold anything.
pub(crate) fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A number of bytes as people read it.
pub(crate) fn size(bytes: Option<i64>) -> String {
    bytes
        .and_then(|bytes| u64::try_from(bytes).ok())
        .map_or_else(String::new, |bytes| humansize::format_size(bytes, humansize::BINARY))
}

/// A time in milliseconds since 1970 in the local time zone.
pub(crate) fn time(ms: Option<i64>) -> String {
    ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map_or_else(String::new, |time| {
        time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    })
}

/// The same for times that are never before 1970.
pub(crate) fn time_of(ms: u64) -> String {
    time(i64::try_from(ms).ok())
}

/// A count with its noun.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Output = Output { json: false, quiet: false, color: false };

    #[test]
    fn a_document_carries_the_number_of_its_shape_first() {
        let digest = crate::api::Digest { all: "00".to_owned(), models: [("tag".to_owned(), "11".to_owned())].into() };
        let text = serde_json::to_string(&Document::of(&digest)).unwrap();
        assert_eq!(text, r#"{"schema":1,"all":"00","models":{"tag":"11"}}"#);
    }

    #[test]
    fn what_would_move_the_cursor_is_made_visible() {
        let table = PLAIN.table(["name"], [["a\u{1b}[2Jb\u{7}".to_owned()]]);
        assert!(!table.contains('\u{1b}') && table.contains("a\u{fffd}[2Jb\u{fffd}"), "{table:?}");
    }

    #[test]
    fn sizes_and_times_that_are_not_known_are_empty() {
        assert_eq!((size(None), size(Some(-1)), time(None)), Default::default());
        assert_eq!(size(Some(2048)), "2 KiB");
        assert_eq!((count(1, "peer", "peers"), count(2, "peer", "peers")), ("1 peer".into(), "2 peers".into()));
    }
}
