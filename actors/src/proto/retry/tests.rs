//! What holds of retries, with the clock wound by hand.

use StreamKind::{Shared, State};
use uuid::Uuid;

use super::*;

/// No jitter: the delay as it is.
const EVEN: f64 = 0.5;

fn peer(n: u128) -> DeviceId {
    DeviceId(Uuid::from_u128(n))
}

/// Peer 1 is connected and lacks the shared change 1, committed at 0.
fn behind() -> RetrySchedule {
    let mut schedule = RetrySchedule::default();
    schedule.connected(peer(1), [], 0);
    schedule.committed(Shared, 1, 0);
    schedule
}

/// Lets every send fail; gives when each was made, and the time of the end.
fn exhaust(schedule: &mut RetrySchedule) -> (Vec<u64>, u64) {
    let mut sent_at = Vec::new();
    let mut now_ms = 0;
    while let Some(due_at_ms) = schedule.next_due() {
        now_ms = due_at_ms;
        for send in schedule.due(now_ms) {
            sent_at.push(now_ms);
            schedule.failed(send.peer, send.kind, "disk full", now_ms, EVEN);
        }
    }
    (sent_at, now_ms)
}

#[test]
fn a_commit_acked_by_way_of_gossip_is_never_sent() {
    let mut schedule = behind();
    assert_eq!(schedule.next_due(), Some(1_000));
    schedule.acked(peer(1), Shared, 1, 200);
    assert_eq!(schedule.next_due(), None);
    assert_eq!(schedule.items().count(), 0);
}

#[test]
fn a_send_that_fails_is_made_again_after_1_2_4_8_and_16_s_and_then_is_a_dead_letter() {
    let mut schedule = behind();
    let (sent_at, now_ms) = exhaust(&mut schedule);
    assert_eq!(sent_at, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000]);
    let error = "disk full".to_owned();
    let letter = DeadLetter { peer: peer(1), kind: Shared, through: 1, attempts: 6, error, at_ms: now_ms };
    assert_eq!(schedule.dead_letters().collect::<Vec<_>>(), [&letter]);
    assert_eq!(schedule.items().count(), 0);
}

#[test]
fn a_retry_speaks_from_where_the_peer_is_to_the_newest_state() {
    let mut schedule = RetrySchedule::default();
    schedule.connected(peer(1), [(State, 4)], 0);
    schedule.committed(State, 5, 0);
    assert_eq!(schedule.due(1_000), [Send { peer: peer(1), kind: State, after: 4 }]);
    schedule.failed(peer(1), State, "busy", 1_000, EVEN);
    schedule.committed(State, 9, 1_500);
    assert_eq!(schedule.due(2_000), [Send { peer: peer(1), kind: State, after: 4 }]);
    schedule.acked(peer(1), State, 5, 2_000);
    assert_eq!(schedule.items().map(|item| item.attempts).collect::<Vec<_>>(), [0]);
    assert_eq!(schedule.due(3_000), [Send { peer: peer(1), kind: State, after: 5 }]);
    schedule.acked(peer(1), State, 9, 3_000);
    assert_eq!(schedule.next_due(), None);
}

#[test]
fn one_peer_that_fails_does_not_touch_the_others() {
    let mut schedule = behind();
    schedule.connected(peer(2), [(Shared, 1)], 0);
    exhaust(&mut schedule);
    schedule.committed(Shared, 2, 40_000);
    assert_eq!(schedule.due(41_000), [Send { peer: peer(2), kind: Shared, after: 1 }]);
    let letters: Vec<_> = schedule.dead_letters().map(|letter| (letter.peer, letter.through)).collect();
    assert_eq!(letters, [(peer(1), 2)]);
}

#[test]
fn a_dead_letter_goes_when_the_peer_acks_even_through_others() {
    let mut schedule = behind();
    exhaust(&mut schedule);
    schedule.disconnected(peer(1));
    schedule.acked(peer(1), Shared, 0, 40_000);
    assert_eq!(schedule.dead_letters().len(), 1);
    schedule.acked(peer(1), Shared, 1, 40_000);
    assert_eq!(schedule.dead_letters().len(), 0);
}

#[test]
fn a_dead_letter_survives_a_restart_and_is_retried_when_the_peer_reconnects() {
    let mut schedule = behind();
    exhaust(&mut schedule);
    let letters = schedule.dead_letters().cloned();
    let mut schedule = RetrySchedule::restore([(Shared, 1)], schedule.items(), letters);
    assert_eq!((schedule.next_due(), schedule.dead_letters().len()), (None, 1));
    schedule.connected(peer(1), [], 50_000);
    assert_eq!((schedule.next_due(), schedule.dead_letters().len()), (Some(51_000), 0));
}

#[test]
fn an_item_survives_a_restart_with_its_attempts() {
    let mut schedule = behind();
    schedule.due(1_000);
    schedule.failed(peer(1), Shared, "busy", 1_000, EVEN);
    let items: Vec<_> = schedule.items().collect();
    let mut schedule = RetrySchedule::restore([(Shared, 1)], items.clone(), []);
    assert_eq!(schedule.due(10_000), []);
    schedule.connected(peer(1), [], 10_000);
    let attempts = |items: &[RetryItem]| items.iter().map(|item| item.attempts).collect::<Vec<_>>();
    assert_eq!(attempts(&schedule.items().collect::<Vec<_>>()), attempts(&items));
    assert_eq!(schedule.due(10_000 + FIRST_SEND_MS - 1), []);
    assert_eq!(schedule.due(10_000 + FIRST_SEND_MS), [Send { peer: peer(1), kind: Shared, after: 0 }]);
}

#[test]
fn an_offline_peer_is_not_retried() {
    let mut schedule = behind();
    schedule.disconnected(peer(1));
    schedule.committed(Shared, 2, 500);
    assert_eq!(schedule.next_due(), None);
    assert_eq!(schedule.due(u64::MAX), []);
}

#[test]
fn a_pull_that_runs_resets_the_attempts() {
    let mut schedule = behind();
    schedule.due(1_000);
    schedule.failed(peer(1), Shared, "busy", 1_000, EVEN);
    schedule.pulling(peer(1), 1_500);
    let item = RetryItem { peer: peer(1), kind: Shared, attempts: 0, due_at_ms: 2_500, error: None };
    assert_eq!(schedule.items().collect::<Vec<_>>(), [item]);
}

#[test]
fn an_answer_without_progress_is_asked_again_and_is_no_failure() {
    let mut schedule = behind();
    for round in 0..20 {
        let now_ms = 1_000 + 16_000 * round;
        assert_eq!(schedule.due(now_ms).len(), 1);
        schedule.acked(peer(1), Shared, 0, now_ms);
    }
    assert_eq!(schedule.dead_letters().len(), 0);
}

#[test]
fn a_send_that_is_never_answered_counts_as_failed() {
    let mut schedule = behind();
    assert_eq!(schedule.due(1_000).len(), 1);
    assert_eq!(schedule.unanswered(1_000 + ANSWER_MS_MAX - 1), []);
    assert_eq!(schedule.unanswered(1_000 + ANSWER_MS_MAX), [(peer(1), Shared)]);
    assert_eq!(schedule.due(1_000 + ANSWER_MS_MAX), []);
    assert_eq!(schedule.failed(peer(1), Shared, "no answer came", 1_000 + ANSWER_MS_MAX, EVEN), None);
    let item = schedule.items().next().unwrap();
    assert_eq!((item.attempts, item.due_at_ms), (1, 2_000 + ANSWER_MS_MAX));
}

#[test]
fn dead_letters_are_retried_or_dropped_on_demand() {
    let mut schedule = behind();
    exhaust(&mut schedule);
    let mut other = schedule.clone();
    assert_eq!(schedule.retry(peer(1), 60_000), 1);
    assert_eq!(schedule.due(60_000).len(), 1);
    assert_eq!(schedule.dead_letters().len(), 0);
    assert_eq!(other.drop_letters(peer(1)), 1);
    assert_eq!((other.next_due(), other.dead_letters().len()), (None, 0));
}

#[test]
fn an_error_is_clipped_between_characters() {
    assert_eq!(clipped(&"ä".repeat(ERROR_BYTES_MAX)).len(), ERROR_BYTES_MAX);
    assert_eq!(clipped(&format!("x{}", "ä".repeat(ERROR_BYTES_MAX))).len(), ERROR_BYTES_MAX - 1);
}

#[test]
fn jitter_spreads_a_delay_by_a_quarter_both_ways() {
    assert_eq!([jittered(1_000, 0.0), jittered(1_000, 0.5), jittered(1_000, 1.0)], [750, 1_000, 1_250]);
    assert_eq!(jittered(1_000, f64::NAN), 1_000);
}
