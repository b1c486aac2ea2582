//! The simulator itself: bugs that are planted on purpose are found. `stress mutants` tries every one.

use std::collections::BTreeSet;

use starling::planted::Bug;
use starling_tests::mutants::with;
use starling_tests::rig::Plan;

use crate::whole::SMALL;

/// Bugs that are found quickly, with a seed that finds each and the checker that objects.
const KNOWN: [(Bug, u64, &str); 4] = [
    (Bug::WatermarkSkipsGap, 1, "silence"),
    (Bug::HeadNotStored, 1, "acks"),
    (Bug::LogEntryMissing, 1, "agreement"),
    (Bug::RefusedCommitLeavesRows, 9, "silence"),
];

#[test]
fn bugs_that_are_planted_are_found_and_without_them_the_same_seeds_go_well() {
    let seeds: BTreeSet<u64> = KNOWN.iter().map(|(_, seed, _)| *seed).collect();
    for seed in seeds {
        assert_eq!(with(None, &Plan::new(seed, SMALL)), None, "seed {seed}");
    }
    let found = KNOWN.map(|(bug, seed, _)| with(Some(bug), &Plan::new(seed, SMALL)).map(|violation| violation.checker));
    assert_eq!(found, KNOWN.map(|(_, _, checker)| Some(checker)));
}

#[test]
fn every_planted_bug_has_a_name_and_a_sentence_of_its_own() {
    let (names, sentences): (BTreeSet<_>, BTreeSet<_>) = Bug::ALL.iter().map(|bug| (bug.name(), bug.about())).unzip();
    assert_eq!((names.len(), sentences.len()), (Bug::ALL.len(), Bug::ALL.len()));
    assert!(sentences.iter().all(|sentence| sentence.ends_with('.')), "{sentences:?}");
}
