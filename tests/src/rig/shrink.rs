//! Shrinking: drops steps of a plan while the same checker still fails, until none can be dropped or time is up.

use std::collections::BTreeSet;

use super::plan::Plan;
use super::run::run;

/// What is left of a plan that still fails.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The places of the steps that are kept.
    pub kept: BTreeSet<usize>,
    /// How often it was tried.
    pub tries: usize,
}

/// Shrinks a plan that the named checker objected to. `is_late` says when to stop; what is left then still fails.
pub fn shrink(plan: &Plan, checker: &str, mut is_late: impl FnMut() -> bool) -> Shrunk {
    let mut kept: Vec<usize> = (0..plan.steps.len()).collect();
    let (mut tries, mut chunk) = (0, kept.len().div_ceil(2).max(1));
    loop {
        let mut at = 0;
        while at < kept.len() {
            if is_late() {
                return Shrunk { kept: kept.into_iter().collect(), tries };
            }
            let candidate: BTreeSet<usize> =
                kept[..at].iter().chain(&kept[(at + chunk).min(kept.len())..]).copied().collect();
            tries += 1;
            let outcome = run(&plan.clone().keeping(&candidate));
            if outcome.violation.is_some_and(|violation| violation.checker == checker) {
                kept = candidate.into_iter().collect();
            } else {
                at += chunk;
            }
        }
        if chunk == 1 {
            return Shrunk { kept: kept.into_iter().collect(), tries };
        }
        chunk = chunk.div_ceil(2);
    }
}
