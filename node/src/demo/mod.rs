//! `starling demo`: a few real peers on this machine, in a temporary place that is always cleared away.

mod peer;
mod story;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tempfile::TempDir;
use tokio::time::Instant;

use self::peer::DemoPeer;
use crate::arguments::Demo;
use crate::error::{CliError, ErrorKind};
use crate::output::Output;
use crate::signals::Signals;

/// How long the whole demonstration may take: several times what a folder of a million files needs.
const ALL_WITHIN: Duration = Duration::from_mins(15);

/// Where the demonstration takes place.
#[derive(Debug)]
pub(crate) struct Stage {
    // Before the place, so that a stage that is dropped ends its processes before it clears their files away.
    peers: Vec<DemoPeer>,
    place: TempDir,
    folder: PathBuf,
    output: Output,
    steps: Vec<Step>,
    started: Instant,
}

/// One thing that was shown.
#[derive(Clone, Debug, Serialize)]
struct Step {
    what: String,
    ms: u64,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    equal: bool,
    peers: usize,
    steps: Vec<Step>,
    digests: Vec<PeerDigest>,
    total_ms: u64,
}

/// The digest of one device.
#[derive(Clone, Debug, Serialize)]
struct PeerDigest {
    device: String,
    all: String,
}

/// Shows what the peers do. Whatever happens, they are ended and their files cleared away.
pub(crate) async fn run(demo: Demo, output: Output) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let mut stage = Stage::new(&demo, output)?;
    let told = signals.unless_told(tokio::time::timeout(ALL_WITHIN, story::tell(&mut stage))).await;
    let result = match told {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => {
            let message = format!("the demonstration was not over within {} s", ALL_WITHIN.as_secs());
            Err(CliError::new(ErrorKind::Failed, message).hint("give it a smaller folder"))
        }
        Err(interrupted) => Err(interrupted),
    };
    if let Err(error) = &result
        && error.kind != ErrorKind::Interrupted
    {
        stage.say_logs();
    }
    let report = result.map(|digests| stage.report(digests));
    stage.clear().await?;
    let report = report?;
    if output.json {
        output.reply(&report, |_| String::new())?;
    } else {
        output.text(&verdict(&report))?;
    }
    if report.equal {
        Ok(())
    } else {
        Err(CliError::new(ErrorKind::NotConverged, "the devices do not hold the same library"))
    }
}

fn verdict(report: &Report) -> String {
    let mut lines: Vec<String> =
        report.digests.iter().map(|digest| format!("  {}  {}", digest.all, digest.device)).collect();
    let seconds = format!("{}.{} s", report.total_ms / 1000, report.total_ms % 1000 / 100);
    lines.push(if report.equal {
        format!("all {} devices hold the same library ({seconds})", report.peers)
    } else {
        format!("the {} devices do not hold the same library ({seconds})", report.peers)
    });
    lines.join("\n")
}

impl Stage {
    fn new(demo: &Demo, output: Output) -> Result<Self, CliError> {
        let path = &demo.path;
        let folder =
            path.canonicalize().map_err(|e| CliError::io(format!("{} cannot be indexed", path.display()), e))?;
        if !folder.is_dir() {
            return Err(CliError::new(ErrorKind::Invalid, format!("{} is not a folder", path.display()))
                .hint("give the folder that it lies in"));
        }
        let place = tempfile::Builder::new()
            .prefix("starling-demo-")
            .tempdir()
            .map_err(|e| CliError::io("there is no temporary place for the demonstration", e))?;
        let peers = (0..demo.peers).map(|number| DemoPeer::new(place.path(), number)).collect();
        Ok(Self { peers, place, folder, output, steps: Vec::new(), started: Instant::now() })
    }

    fn report(&self, digests: Vec<PeerDigest>) -> Report {
        let equal = digests.windows(2).all(|pair| pair[0].all == pair[1].all);
        let total_ms = ms(self.started);
        Report { equal, peers: self.peers.len(), steps: self.steps.clone(), digests, total_ms }
    }

    /// Notes a step that began at `since`, and says it.
    fn step(&mut self, since: Instant, what: String) -> Result<(), CliError> {
        let step = Step { what, ms: ms(since) };
        if !self.output.json {
            self.output.text(&format!("{:>7} ms  {}", step.ms, step.what))?;
        }
        self.steps.push(step);
        Ok(())
    }

    fn say_logs(&self) {
        for peer in &self.peers {
            if let Some(log) = peer.log_tail() {
                self.output.aside(&format!("what {} logged last:\n{log}", peer.name()));
            }
        }
    }

    /// Ends every process and clears the place.
    async fn clear(mut self) -> Result<(), CliError> {
        let endings = self.peers.iter_mut().map(DemoPeer::end);
        let ended: Vec<Result<Duration, CliError>> = futures::future::join_all(endings).await;
        let path: &Path = self.place.path();
        let shown = path.display().to_string();
        self.place.close().map_err(|e| CliError::io(format!("{shown} was not cleared away"), e))?;
        ended.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }
}

/// Milliseconds since then.
fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_names_every_digest() {
        let digest = |device: &str, all: &str| PeerDigest { device: device.to_owned(), all: all.to_owned() };
        let mut report = Report {
            equal: true,
            peers: 2,
            steps: Vec::new(),
            digests: vec![digest("A", "00ff"), digest("B", "00ff")],
            total_ms: 4210,
        };
        assert_eq!(verdict(&report), "  00ff  A\n  00ff  B\nall 2 devices hold the same library (4.2 s)");
        report.equal = false;
        assert!(verdict(&report).contains("do not hold the same"));
    }
}
