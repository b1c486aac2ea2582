//! What catching up must do, by value.

use starling_schema::change::{FieldWrite, Op, SharedChange};
use starling_schema::hlc::Hlc;
use starling_schema::ids::RecordId;
use starling_schema::record::Seen;
use starling_schema::wire::SnapshotItems;
use uuid::Uuid;

use super::*;

fn device(n: u128) -> DeviceId {
    DeviceId(Uuid::from_u128(n))
}

fn stream() -> Stream {
    Stream::shared(device(9))
}

fn batch(after: u64, through: u64) -> Batch {
    let change = |seq| SharedChange {
        seq,
        hlc: Hlc { time: seq, device: device(9) },
        model: 5,
        record: RecordId(Uuid::from_u128(u128::from(seq))),
        op: Op::Delete { seen: Seen::new() },
        ends_commit: true,
    };
    Batch { stream: stream(), after, through, items: Items::Shared((after + 1..=through).map(change).collect()) }
}

fn page(after: u64, through: u64, head: u64) -> PageResponse {
    PageResponse::Page { batch: batch(after, through), head, floor: 0, clean: head }
}

fn fetch(peer: u128, after: u64) -> Step {
    Step::Fetch { peer: device(peer), stream: stream(), after, clean: after }
}

fn apply(after: u64, through: u64) -> Step {
    Step::Apply { batch: batch(after, through), served: Served { floor: 0, clean: 10 } }
}

fn apply_live(after: u64, through: u64) -> Step {
    Step::Apply { batch: batch(after, through), served: Served::live(through) }
}

fn with_peer(peer: u128, head: u64) -> Backfill {
    let mut backfill = Backfill::new(Watermarks::new(), Clean::default(), []);
    backfill.peer_marks(device(peer), &Watermarks::from_iter([(stream(), head)]));
    backfill
}

#[test]
fn what_a_peer_has_more_is_fetched_once() {
    let mut backfill = with_peer(1, 10);
    assert_eq!(backfill.steps(0), [fetch(1, 0)]);
    assert_eq!(backfill.steps(0), []);
    assert_eq!(backfill.missing(), 10);
}

#[test]
fn the_next_page_is_asked_for_while_the_last_is_applied() {
    let mut backfill = with_peer(1, 10);
    backfill.steps(0);
    backfill.page(device(1), stream(), page(0, 4, 10), 0);
    assert_eq!(backfill.steps(0), [apply(0, 4), fetch(1, 4)]);
    backfill.page(device(1), stream(), page(4, 10, 10), 0);
    assert_eq!(backfill.steps(0), []);
    backfill.settled(stream(), 4, None);
    assert_eq!(backfill.steps(0), [apply(4, 10)]);
    backfill.settled(stream(), 10, None);
    assert_eq!((backfill.steps(0), backfill.missing(), backfill.held()), (vec![], 0, 0));
}

#[test]
fn a_batch_ahead_of_its_turn_waits_and_the_gap_is_pulled() {
    let mut backfill = with_peer(1, 0);
    assert!(!backfill.offer(device(1), batch(5, 6)));
    assert_eq!(backfill.steps(0), [fetch(1, 0)]);
    backfill.page(device(1), stream(), page(0, 5, 6), 0);
    assert_eq!(backfill.steps(0), [Step::Apply { batch: batch(0, 5), served: Served { floor: 0, clean: 6 } }]);
    backfill.settled(stream(), 5, None);
    assert_eq!(backfill.steps(0), [apply_live(5, 6)]);
}

#[test]
fn a_duplicate_is_dropped() {
    let mut backfill = Backfill::new(Watermarks::from_iter([(stream(), 7)]), Clean::default(), []);
    backfill.offer(device(1), batch(3, 7));
    assert_eq!((backfill.steps(0), backfill.held()), (vec![], 0));
}

#[test]
fn a_peer_that_fails_rests_and_another_is_asked() {
    let mut backfill = with_peer(1, 10);
    backfill.peer_marks(device(2), &Watermarks::from_iter([(stream(), 10)]));
    assert_eq!(backfill.steps(0), [fetch(1, 0)]);
    backfill.failed(device(1), stream(), 0);
    assert_eq!(backfill.steps(0), [fetch(2, 0)]);
    backfill.failed(device(2), stream(), 0);
    assert_eq!(backfill.steps(999), []);
    assert_eq!(backfill.steps(1_000), [fetch(1, 0)]);
}

#[test]
fn a_peer_that_goes_is_replaced_where_it_left_off() {
    let mut backfill = with_peer(1, 10);
    backfill.peer_marks(device(2), &Watermarks::from_iter([(stream(), 10)]));
    backfill.steps(0);
    backfill.page(device(1), stream(), page(0, 4, 10), 0);
    backfill.steps(0);
    backfill.peer_gone(device(1));
    assert_eq!(backfill.steps(0), [fetch(2, 4)]);
}

#[test]
fn what_was_pruned_comes_by_snapshot_and_then_the_log_goes_on() {
    let mut backfill = with_peer(1, 10);
    backfill.steps(0);
    backfill.page(device(1), stream(), PageResponse::TakeSnapshot { floor: 8 }, 0);
    let scope = SnapshotScope::Shared;
    assert_eq!(backfill.steps(0), [Step::FetchSnapshot { peer: device(1), scope, after: None }]);
    let through = Some((5, RecordId(Uuid::from_u128(3))));
    let first = SnapshotResponse {
        scope,
        after: None,
        through,
        watermarks: Watermarks::from_iter([(stream(), 8)]),
        items: SnapshotItems::Shared(Vec::new()),
    };
    let last = SnapshotResponse {
        after: through,
        through: None,
        watermarks: Watermarks::from_iter([(stream(), 10)]),
        ..first.clone()
    };
    backfill.snapshot_page(device(1), first.clone());
    let claim = Watermarks::from_iter([(stream(), 8)]);
    let merge_first = Step::ApplySnapshot { page: Box::new(first), claim: claim.clone() };
    assert_eq!(backfill.steps(0), [merge_first, Step::FetchSnapshot { peer: device(1), scope, after: through }]);
    backfill.snapshot_page(device(1), last.clone());
    backfill.snapshot_settled(scope);
    assert_eq!(backfill.steps(0), [Step::ApplySnapshot { page: Box::new(last), claim }]);
    backfill.snapshot_settled(scope);
    assert_eq!(backfill.applied().get(stream()), 8);
    assert_eq!(backfill.steps(0), [fetch(1, 8)]);
}

#[test]
fn a_batch_that_cannot_be_applied_is_pulled_again_when_it_is_time() {
    let mut backfill = with_peer(1, 10);
    backfill.steps(0);
    backfill.page(device(1), stream(), page(0, 10, 10), 0);
    backfill.steps(0);
    backfill.settled(stream(), 3, Some(500));
    assert_eq!(backfill.steps(499), []);
    assert_eq!(backfill.steps(500), [fetch(1, 3)]);
}

#[test]
fn what_is_parked_is_held_but_not_applied() {
    let mut backfill = with_peer(1, 10);
    backfill.steps(0);
    backfill.page(device(1), stream(), page(0, 10, 10), 0);
    backfill.steps(0);
    backfill.parked(stream(), 3, 10, false, 0);
    assert_eq!((backfill.steps(60_000), backfill.missing(), backfill.applied().get(stream())), (vec![], 0, 3));
    backfill.offer(device(1), batch(10, 11));
    assert_eq!(backfill.steps(60_000), [apply_live(10, 11)]);
    backfill.parked(stream(), 3, 11, false, 0);
    backfill.advanced(&Watermarks::from_iter([(stream(), 11)]));
    backfill.offer(device(1), batch(11, 12));
    assert_eq!(backfill.steps(60_000), [apply_live(11, 12)]);
}

#[test]
fn what_waits_behind_a_gap_leaves_room_for_the_pages_that_fill_it() {
    let mut backfill = with_peer(1, 0);
    let heavy = |after: u64| {
        let mut batch = batch(after, after + 1);
        if let Items::Shared(changes) = &mut batch.items {
            let write = FieldWrite { field: 1, value: "x".repeat(1 << 20).into(), seen: Seen::new() };
            changes[0].op = Op::Set { life: None, fields: vec![write] };
        }
        batch
    };
    let held = (1..40).filter(|after| {
        backfill.offer(device(1), heavy(*after));
        backfill.held() == *after
    });
    assert_eq!(held.count(), 15);
    assert_eq!(backfill.steps(0), [fetch(1, 0)]);
}

#[test]
fn a_stream_that_has_parked_as_much_as_may_be_waits_un_held() {
    let mut backfill = with_peer(1, 10);
    backfill.steps(0);
    backfill.page(device(1), stream(), page(0, 10, 10), 0);
    backfill.steps(0);
    backfill.parked(stream(), 3, 7, true, 0);
    assert_eq!((backfill.steps(59_999), backfill.missing()), (vec![], 3));
    assert_eq!(backfill.steps(60_000), [fetch(1, 7)]);
}

#[test]
fn streams_of_devices_that_never_belonged_are_not_asked_for_and_few_are_remembered() {
    let mut backfill = with_peer(1, 10);
    backfill.only(BTreeSet::from([device(8)]));
    assert_eq!((backfill.steps(0), backfill.missing(), backfill.behind(device(1))), (vec![], 0, 0));
    let many = (100..20_000).map(|n| (Stream::shared(device(n)), 1)).collect();
    backfill.peer_marks(device(1), &many);
    assert_eq!(backfill.peers[&device(1)].marks.len(), STREAMS_MAX);
    backfill.only(BTreeSet::from([device(8), device(9)]));
    assert_eq!(backfill.steps(0), [fetch(1, 0)]);
}

fn rows(after: u64, through: u64, clean: u64) -> PageResponse {
    let batch = Batch { stream: Stream::state(device(9)), after, through, items: Items::State(Vec::new()) };
    PageResponse::Page { batch, head: 30, floor: 5, clean }
}

/// What is said of being clean in the requests for a state stream of three pages, when the servers of the first two
/// are clean up to 28 and 25. That a page is applied is told by the store first, or by whoever applied it.
fn said_clean(mut backfill: Backfill, store_first: bool) -> Vec<(u64, u64)> {
    let stream = Stream::state(device(9));
    backfill.peer_marks(device(1), &Watermarks::from_iter([(stream, 30)]));
    let mut said = Vec::new();
    let mut ask = |backfill: &mut Backfill| {
        for step in backfill.steps(0) {
            if let Step::Fetch { after, clean, .. } = step {
                said.push((after, clean));
            }
        }
    };
    ask(&mut backfill);
    backfill.page(device(1), stream, rows(0, 10, 28), 0);
    ask(&mut backfill);
    backfill.page(device(1), stream, rows(10, 20, 25), 0);
    ask(&mut backfill);
    for through in [10, 20] {
        if store_first {
            backfill.advanced(&Watermarks::from_iter([(stream, through)]));
        }
        backfill.settled(stream, through, None);
        backfill.peer_gone(device(1));
        backfill.peer_marks(device(1), &Watermarks::from_iter([(stream, 30)]));
        ask(&mut backfill);
    }
    said
}

#[test]
fn who_began_with_nothing_says_how_clean_it_is_before_the_pages_before_are_applied() {
    for store_first in [true, false] {
        let fresh = Backfill::new(Watermarks::new(), Clean::default(), []);
        assert_eq!(said_clean(fresh, store_first), [(0, u64::MAX), (10, 28), (20, 25), (20, 25), (20, 25)]);
    }
}

#[test]
fn who_was_away_is_clean_up_to_its_watermark_only() {
    let away = Backfill::new(Watermarks::from_iter([(Stream::state(device(9)), 3)]), Clean::default(), []);
    assert_eq!(said_clean(away, true), [(3, 3), (10, 10), (20, 20), (20, 20), (20, 20)]);
}

#[test]
fn who_claims_more_than_it_gives_is_asked_last() {
    let mut backfill = with_peer(1, u64::MAX);
    backfill.peer_marks(device(2), &Watermarks::from_iter([(stream(), 10)]));
    assert_eq!(backfill.steps(0), [fetch(1, 0)]);
    backfill.page(device(1), stream(), PageResponse::UpToDate { head: u64::MAX }, 0);
    assert_eq!(backfill.steps(0), [fetch(2, 0)]);
    assert_eq!(backfill.missing(), u64::MAX);
}

#[test]
fn a_page_that_leaves_a_gap_is_refused() {
    let mut backfill = with_peer(1, 10);
    backfill.steps(0);
    backfill.page(device(1), stream(), page(3, 10, 10), 0);
    assert_eq!((backfill.held(), backfill.steps(0)), (0, vec![]));
    assert_eq!(backfill.steps(1_000), [fetch(1, 0)]);
}

#[test]
fn a_page_that_is_next_in_its_turn_finds_room_whatever_waits() {
    let mut backfill = with_peer(1, 10).with_room(4 * weight(&batch(8, 9)));
    backfill.steps(0);
    assert!(!backfill.offer(device(1), batch(8, 9)));
    assert_eq!(backfill.held(), 1);
    backfill.page(device(1), stream(), page(0, 8, 10), 0);
    assert_eq!(backfill.steps(0)[0], apply(0, 8));
}

#[test]
fn what_waits_behind_a_gap_that_nobody_can_fill_for_half_a_minute_is_dropped() {
    let mut backfill = with_peer(1, 6);
    backfill.offer(device(1), batch(5, 6));
    backfill.peer_marks(device(2), &Watermarks::from_iter([(stream(), 4)]));
    backfill.peer_gone(device(1));
    backfill.steps(0);
    backfill.steps(HOPELESS_MS);
    assert_eq!(backfill.held(), 1, "another can fill a part of the gap");
    backfill.peer_gone(device(2));
    backfill.steps(HOPELESS_MS + 1);
    backfill.steps(2 * HOPELESS_MS);
    assert!(backfill.holds(), "whoever has the rest may be about to say so");
    backfill.steps(2 * HOPELESS_MS + 1);
    assert_eq!((backfill.held(), backfill.holds()), (0, false));
    backfill.peer_marks(device(1), &Watermarks::from_iter([(stream(), 6)]));
    assert_eq!(backfill.steps(0), [fetch(1, 0)]);
}
