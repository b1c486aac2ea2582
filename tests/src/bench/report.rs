//! What a benchmark found, and how it is printed: a few lines for people, one of JSON for scripts.

use std::fmt;

use serde_json::{Map, Value as Json, json};

/// What one run found.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// The figure that the benchmark is about.
    pub(super) seconds: f64,
    /// The same work done by the simplest program there is.
    pub(super) reference_seconds: f64,
    /// The most memory that the process in question ever held.
    pub(super) rss_mib: Option<f64>,
    /// Bytes that came over the network, by row.
    pub(super) wire_bytes_per_row: Option<f64>,
    /// What must be reached, and whether it was.
    pub(super) target: (&'static str, bool),
    /// What else is worth knowing.
    pub(super) extra: Vec<(&'static str, Json)>,
}

/// The median run of several.
#[derive(Clone, Debug)]
pub(super) struct Report {
    name: &'static str,
    rows: usize,
    seconds_of_runs: Vec<f64>,
    measured: Measured,
}

impl Report {
    /// The run whose time is in the middle; of an even number the slower one.
    pub(super) fn median(name: &'static str, rows: usize, mut all: Vec<Measured>) -> Option<Self> {
        let seconds_of_runs = all.iter().map(|one| rounded(one.seconds)).collect();
        all.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let measured = all.get(all.len() / 2)?.clone();
        Some(Self { name, rows, seconds_of_runs, measured })
    }

    fn ratio(&self) -> f64 {
        self.measured.seconds / self.measured.reference_seconds
    }

    /// One document.
    pub(super) fn json(&self) -> Json {
        let Measured { seconds, reference_seconds, rss_mib, wire_bytes_per_row, target, extra } = &self.measured;
        let mut document = Map::from_iter([
            ("schema".to_owned(), json!(1)),
            ("name".to_owned(), json!(self.name)),
            ("rows".to_owned(), json!(self.rows)),
            ("seconds".to_owned(), json!(rounded(*seconds))),
            ("reference_seconds".to_owned(), json!(rounded(*reference_seconds))),
            ("ratio".to_owned(), json!(rounded(self.ratio()))),
            ("rss_mib".to_owned(), json!(rss_mib.map(rounded))),
            ("wire_bytes_per_row".to_owned(), json!(wire_bytes_per_row.map(rounded))),
            ("target".to_owned(), json!(target.0)),
            ("reached".to_owned(), json!(target.1)),
            ("seconds_of_runs".to_owned(), json!(self.seconds_of_runs)),
        ]);
        document.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Json::Object(document)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { seconds, reference_seconds, rss_mib, wire_bytes_per_row, target, extra } = &self.measured;
        let mut line = |key: &str, value: String| writeln!(f, "{key:<28} {value}");
        line("benchmark", self.name.to_owned())?;
        line("rows", self.rows.to_string())?;
        line("seconds", format!("{seconds:.4}"))?;
        line("reference_seconds", format!("{reference_seconds:.4}"))?;
        line("ratio", format!("{:.2}", self.ratio()))?;
        if let Some(rss_mib) = rss_mib {
            line("rss_mib", format!("{rss_mib:.1}"))?;
        }
        if let Some(bytes) = wire_bytes_per_row {
            line("wire_bytes_per_row", format!("{bytes:.1}"))?;
        }
        for (key, value) in extra {
            line(key, value.to_string())?;
        }
        line("target", format!("{}: {}", target.0, if target.1 { "reached" } else { "MISSED" }))
    }
}

/// To a ten-thousandth: more digits are noise.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// How many in a second.
pub(super) fn per_second(count: usize, seconds: f64) -> f64 {
    (f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds).round()
}
