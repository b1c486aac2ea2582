//! What a run found, judged, and written down.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value as Json, json};

use super::Arguments;
use super::lag::{Sample, percentile};
use super::ledger::{Library, Lost};
use super::plan::Plan;
use super::run::Run;

/// How many lost writes are listed.
const LOST_MAX: usize = 50;

/// For so long after a fault its devices may still be catching up.
const CALM_AFTER: Duration = Duration::from_secs(5);

/// Everything about a run that has ended.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) arguments: Arguments,
    pub(crate) plan: Plan,
    pub(crate) notes: Vec<String>,
    pub(crate) run: Arc<Run>,
    /// How long after healing all were equal.
    pub(crate) equal: Option<Duration>,
    /// What processes said that ended by themselves.
    pub(crate) ended: Vec<String>,
    /// What is wrong with databases and with how processes ended.
    pub(crate) damage: Vec<String>,
    /// What devices said of themselves when they were not equal.
    pub(crate) verdicts: Vec<String>,
}

/// What a run led to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Writes that were acknowledged.
    pub acked: usize,
    /// Of those, the ones that are missing in the end.
    pub lost: usize,
    /// Whether all devices printed the same digest in time.
    pub equal: bool,
    /// How long after healing they did.
    pub seconds_to_equal: Option<f64>,
    /// From a commit to another device: the median, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The same, below which 99 of a hundred lie.
    pub p99_ms: Option<f64>,
    /// Processes that were killed, and faults altogether.
    pub kills: usize,
    /// Faults of all kinds.
    pub faults: usize,
    /// What is wrong, in sentences; empty when nothing is.
    pub failures: Vec<String>,
    pub(crate) lost_writes: Vec<Lost>,
    pub(crate) more: Json,
}

impl Outcome {
    /// The last line for scripts.
    #[must_use]
    pub fn json(&self) -> Json {
        json!({
            "schema": 1, "acked": self.acked, "lost": self.lost, "equal": self.equal,
            "seconds_to_equal": self.seconds_to_equal.map(rounded), "p50_ms": self.p50_ms.map(rounded),
            "p99_ms": self.p99_ms.map(rounded), "failures": self.failures, "more": self.more,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        writeln!(f, "acknowledged      {} writes, {} lost", self.acked, self.lost)?;
        writeln!(f, "equal             {}, after {} s", self.equal, shown(self.seconds_to_equal))?;
        writeln!(f, "commit to others  p50 {} ms, p99 {} ms", shown(self.p50_ms), shown(self.p99_ms))?;
        write!(f, "more              {}", self.more)
    }
}

/// To a thousandth: more digits are noise.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// In milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

impl Report {
    /// Says what is wrong. Without equality every device's dump is looked at.
    pub(crate) fn judge(&self, dumps: Vec<Vec<Json>>, skew: Duration) -> Outcome {
        let ledger = self.run.ledger.lock();
        let mut lost_writes: Vec<Lost> = Vec::new();
        for dump in dumps {
            for lost in ledger.lost(&Library::of(dump), skew) {
                if !lost_writes.iter().any(|known| (&known.key, &known.written) == (&lost.key, &lost.written)) {
                    lost_writes.push(lost);
                }
            }
        }
        let mut failures = Vec::new();
        if self.equal.is_none() {
            failures.push(format!("the devices are not equal: {}", self.verdicts.join(" | ")));
        }
        if !lost_writes.is_empty() {
            failures.push(format!("{} acknowledged writes are missing", lost_writes.len()));
        }
        failures.extend(self.ended.iter().chain(&self.damage).cloned());
        let mut lags: Vec<Duration> = self.samples().iter().map(|sample| sample.lag).collect();
        lags.sort_unstable();
        Outcome {
            acked: ledger.acked(),
            lost: lost_writes.len(),
            equal: self.equal.is_some(),
            seconds_to_equal: self.equal.map(|time| time.as_secs_f64()),
            p50_ms: percentile(&lags, 50.0).map(ms),
            p99_ms: percentile(&lags, 99.0).map(ms),
            kills: self.plan.faults.iter().filter(|fault| fault.kind == "kill").count(),
            faults: self.plan.faults.len(),
            failures,
            lost_writes,
            more: self.more(ledger.unanswered(), ledger.acked()),
        }
    }

    fn more(&self, in_doubt: usize, acked: usize) -> Json {
        let mut calm: Vec<Duration> = self.calm().iter().map(|sample| sample.lag).collect();
        calm.sort_unstable();
        let (refused, refusals) = self.run.refusals();
        #[expect(clippy::cast_precision_loss, reason = "a number of writes is far below what a double holds exactly")]
        let per_second = acked as f64 / self.arguments.length.as_secs_f64();
        json!({
            "seed": self.arguments.seed, "nodes": self.arguments.nodes, "faults": self.plan.faults.len(),
            "acked_per_second": rounded(per_second), "in_doubt": in_doubt, "refused": refused, "refusals": refusals,
            "samples": self.samples().len(), "unseen": self.run.lag.lock().unseen(self.arguments.nodes), "calm_p50_ms": percentile(&calm, 50.0).map(ms).map(rounded),
            "calm_p99_ms": percentile(&calm, 99.0).map(ms).map(rounded),
            "mib_per_minute": self.run.memory.lock().median_growth().map(rounded),
            "late_mib_per_minute": self.run.memory.lock().late_growth().map(rounded),
            "most_mib_by_fifth": self.run.memory.lock().most_by_fifth().into_iter().map(rounded).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }

    /// How long each followed record took to each other device.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.run.lag.lock().samples()
    }

    /// Of the samples those that no fault had to do with: none of the two devices was down, and no partition was.
    pub(crate) fn calm(&self) -> Vec<Sample> {
        let near = |sample: &Sample| {
            let faults = self.plan.faults.iter().filter(|fault| fault.kind != "skew");
            let during = faults.filter(|fault| {
                (fault.from.saturating_sub(CALM_AFTER)..fault.to + CALM_AFTER).contains(&sample.committed)
            });
            during.into_iter().any(|fault| {
                fault.kind == "partition" || fault.devices.contains(&sample.from) || fault.devices.contains(&sample.to)
            })
        };
        let mut samples = self.samples();
        samples.retain(|sample| !near(sample));
        samples
    }

    /// Leaves the report in a directory.
    pub(crate) fn write(&self, directory: &Path, outcome: &Outcome) -> anyhow::Result<()> {
        std::fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
        };
        write("report.json", format!("{:#}\n", self.json(outcome)))?;
        write("report.html", super::page::of(self, outcome))?;
        let mut lines = Vec::new();
        for (key, written) in self.run.ledger.lock().all_acked() {
            let line = json!({
                "model": key.model, "id": key.id, "field": key.field, "value": written.value,
                "device": written.device, "sent_s": written.sent.as_secs_f64(),
                "acked_s": written.acked.map(|at| at.as_secs_f64()),
            });
            writeln!(lines, "{line}")?;
        }
        let path = directory.join("acknowledged.ndjson");
        std::fs::write(&path, lines).with_context(|| format!("{} cannot be written", path.display()))
    }

    fn json(&self, outcome: &Outcome) -> Json {
        let faults = self.plan.faults.iter().map(|fault| {
            json!({
                "kind": fault.kind, "devices": fault.devices, "from_s": fault.from.as_secs_f64(),
                "to_s": fault.to.as_secs_f64(),
            })
        });
        let faults: Vec<Json> = faults.collect();
        let lost: Vec<Json> = outcome.lost_writes.iter().take(LOST_MAX).map(Lost::json).collect();
        let Arguments { nodes, rate, length, faults: wanted, seed, .. } = &self.arguments;
        json!({
            "schema": 1,
            "arguments": {
                "nodes": nodes, "rate": rate, "for_s": length.as_secs_f64(), "faults": wanted, "seed": seed,
            },
            "result": outcome.json(),
            "faults": faults,
            "lost": lost,
            "memory": self.run.memory.lock().json(),
        })
    }
}
