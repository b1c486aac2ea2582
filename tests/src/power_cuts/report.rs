//! What all cuts together found.

use std::fmt;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value as Json, json};

use super::cut::Checked;
use crate::processes::chart::{Chart, Series};
use crate::processes::page::{page, section, tile};

/// How many failures are told in the last line: the report has all.
const FAILURES_MAX: usize = 5;

/// All cuts of a run.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) cuts: usize,
    pub(super) seed: u64,
    pub(super) commits: usize,
    pub(super) entries: usize,
    pub(super) checked: Vec<Checked>,
}

impl Report {
    fn lost(&self) -> usize {
        self.checked.iter().map(|cut| cut.lost).sum()
    }

    /// How many cuts left writes in doubt that were then on the disk in part only.
    fn torn(&self) -> usize {
        self.checked.iter().filter(|cut| cut.cut.kept < cut.cut.doubtful).count()
    }

    /// What is wrong, in sentences.
    pub(super) fn failures(&self) -> Vec<String> {
        let all = self.checked.iter().filter(|cut| !cut.problems.is_empty());
        all.take(FAILURES_MAX).map(|cut| format!("after {} writes: {}", cut.at, cut.problems.join(", "))).collect()
    }

    /// The last line for scripts.
    pub(super) fn result(&self) -> Json {
        let broken = self.checked.iter().filter(|cut| !cut.problems.is_empty()).count();
        let acked: usize = self.checked.iter().map(|cut| cut.acked).sum();
        json!({
            "schema": 1, "cuts": self.cuts, "seed": self.seed, "commits": self.commits, "log_entries": self.entries,
            "acked_before_cuts": acked, "lost": self.lost(), "broken": broken, "with_partial_writes": self.torn(),
        })
    }

    /// Leaves the report in a directory.
    pub(super) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        let cut = |cut: &Checked| {
            json!({
                "after": cut.at, "doubtful": cut.cut.doubtful, "kept": cut.cut.kept, "acked": cut.acked,
                "lost": cut.lost, "there": cut.there, "problems": cut.problems,
            })
        };
        let all: Vec<Json> = self.checked.iter().map(cut).collect();
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
        };
        write("report.json", format!("{:#}\n", json!({ "schema": 1, "result": self.result(), "cuts": all })))?;
        write("report.html", self.page())
    }

    fn page(&self) -> String {
        let tiles = [
            tile(&self.checked.len().to_string(), "power cuts", None),
            tile(&self.lost().to_string(), "acknowledged commits lost", Some(self.lost() == 0)),
            tile(&self.failures().len().to_string(), "cuts with a problem", Some(self.failures().is_empty())),
            tile(&self.torn().to_string(), "cuts that lost part of the writes since the flush", None),
            tile(&self.commits.to_string(), "commits acknowledged in all", None),
        ];
        let chart = |title, y_label, series| Chart {
            title,
            x_label: "writes and flushes before the cut",
            y_label,
            x_max: number(self.entries),
            log_from: None,
            x_ticks: None,
            bands: Vec::new(),
            series,
        };
        let series = |name: &str, class, line, of: fn(&Checked) -> usize| Series {
            name: name.to_owned(),
            class,
            line,
            points: self.checked.iter().map(|cut| (number(cut.at), number(of(cut)))).collect(),
        };
        let commits = vec![
            series("acknowledged before the cut", "c0", true, |cut| cut.acked),
            series("there after it", "c5", false, |cut| cut.there),
        ];
        let writes = vec![
            series("since the last flush", "c4", false, |cut| cut.cut.doubtful),
            series("of them on the disk", "c0", false, |cut| cut.cut.kept),
        ];
        let content = [
            format!("<p>seed {}</p><div class=\"tiles\">{}</div>", self.seed, tiles.concat()),
            section(
                &chart("Commits", "commits", commits),
                "What is there must not be below what was acknowledged.",
                &[],
            ),
            section(
                &chart("Writes in doubt", "writes", writes),
                "Of what was written after the last flush, a random part is on the disk.",
                &[],
            ),
        ];
        page("A peer through power cuts", &content.concat())
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cuts      {} of a log of {} writes and flushes", self.checked.len(), self.entries)?;
        writeln!(f, "commits   {}", self.commits)?;
        write!(f, "lost      {}", self.lost())
    }
}
