//! The ledger: which seeds were run on which core of the program, as a table in `docs/testing.md`.

use std::ops::Range;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

/// Begins the section of the ledger.
const SECTION: &str = "## Ledger";

/// A row of the table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) seeds: Range<u64>,
    pub(super) nodes: u64,
    pub(super) hours: u64,
    pub(super) ops: u64,
    pub(super) violations: usize,
    pub(super) seconds: f64,
    pub(super) trace: String,
}

/// Notes a result: a row of the same core, seeds and size is replaced.
pub(super) fn note(row: &Row) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("this package lies in the workspace")?;
    let core = core(root)?;
    let path = root.join("docs/testing.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let noted = with_row(&text, &core, row).context("docs/testing.md has no ledger")?;
    std::fs::write(&path, noted).with_context(|| path.display().to_string())
}

/// The commit that last changed what is simulated.
fn core(root: &Path) -> anyhow::Result<String> {
    let git = Command::new("git")
        .args(["log", "-1", "--format=%h", "--", "actors", "schema", "migrations"])
        .current_dir(root)
        .output()
        .context("git is needed to name the core")?;
    ensure!(git.status.success(), "git: {}", String::from_utf8_lossy(&git.stderr));
    Ok(String::from_utf8_lossy(&git.stdout).trim().to_owned())
}

/// The text with the row in its ledger.
fn with_row(text: &str, core: &str, row: &Row) -> Option<String> {
    let Row { seeds, nodes, hours, ops, violations, seconds, trace } = row;
    let key = format!("| `{core}` | {}..{} | {nodes} | {hours} | {ops} |", seeds.start, seeds.end);
    let line = format!("{key} {violations} | {seconds:.0} | `{}` |", trace.chars().take(16).collect::<String>());
    let mut lines: Vec<&str> = text.lines().collect();
    let section = lines.iter().position(|line| *line == SECTION)?;
    let table = section + lines[section..].iter().position(|line| line.starts_with("|---"))?;
    let end = table + lines[table..].iter().take_while(|line| line.starts_with('|')).count();
    match lines[table..end].iter().position(|line| line.starts_with(&key)) {
        Some(at) => lines[table + at] = &line,
        None => lines.insert(end, &line),
    }
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_added_at_the_end_of_the_table_and_replaced_when_it_is_run_again() {
        let text = "# Testing\n\n## Ledger\n\n| core | seeds |\n|---|---|\n| `old` | 0..1 |\n\n## After\n";
        let row = |violations| Row {
            seeds: 0..9,
            nodes: 5,
            hours: 6,
            ops: 500,
            violations,
            seconds: 1.0,
            trace: "0123456789abcdef0123".to_owned(),
        };
        let once = with_row(text, "new", &row(1)).unwrap();
        let lines: Vec<_> = once.lines().collect();
        assert_eq!(lines[7], "| `new` | 0..9 | 5 | 6 | 500 | 1 | 1 | `0123456789abcdef` |");
        assert_eq!(lines[9], "## After");
        let again = with_row(&once, "new", &row(0)).unwrap();
        assert_eq!(again.lines().count(), lines.len());
        assert!(again.contains("| 500 | 0 | 1 |"));
    }
}
