//! Snapshots that are being taken: of what, from whom, how far, and what they will stand for.
//!
//! A page that does not come costs only that page: it is asked for again, of whoever can give it. Pages may come from
//! several peers, and before and after a restart, since merging them is the ordinary join. The whole then stands for
//! the least that any of its pages was read at.

use std::collections::BTreeMap;

use starling_schema::ids::DeviceId;
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::wire::{Cursor, SnapshotResponse, SnapshotScope};

use super::backfill::Step;
use crate::planted::{self, Bug};

/// A snapshot that was begun before a restart: of what, through which key its pages are merged, and for what they stand.
pub type BegunSnapshot = (SnapshotScope, Cursor, Watermarks);

/// Where a snapshot goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    /// After this key; none is the beginning.
    After(Option<Cursor>),
    /// It has all of it.
    Nowhere,
}

#[derive(Debug)]
struct Snapshot {
    /// Who serves it; none when that one failed or went.
    peer: Option<DeviceId>,
    /// What the pages so far stand for.
    claim: Option<Watermarks>,
    asking: bool,
    applying: bool,
    next: Next,
    waiting: Option<Box<SnapshotResponse>>,
    /// Through which key pages are merged.
    merged: Option<Cursor>,
    /// The end of the page that is being merged.
    merging: Option<Cursor>,
}

/// Owns the snapshots that are under way, at most one of each scope.
#[derive(Debug, Default)]
pub(super) struct Snapshots(BTreeMap<SnapshotScope, Snapshot>);

impl Snapshots {
    /// Goes on with what was begun before a restart, as soon as somebody can serve it.
    pub(super) fn resume(&mut self, begun: impl IntoIterator<Item = BegunSnapshot>) {
        for (scope, through, claim) in begun {
            self.0.insert(scope, Snapshot::new(None, Some(through), Some(claim)));
        }
    }

    /// Begins a snapshot at a peer, unless it is under way.
    pub(super) fn begin(&mut self, scope: SnapshotScope, peer: DeviceId) {
        self.0.entry(scope).or_insert_with(|| Snapshot::new(Some(peer), None, None));
    }

    /// Whether a snapshot is under way that a stream belongs to.
    pub(super) fn cover(&self, stream: Stream) -> bool {
        self.0.keys().any(|scope| covers(*scope, stream))
    }

    /// A page that was asked for came. Says whether it is the one that is next.
    pub(super) fn page(&mut self, peer: DeviceId, page: SnapshotResponse) -> bool {
        let Some(snapshot) = self.0.get_mut(&page.scope) else { return false };
        if snapshot.peer != Some(peer) || !snapshot.asking || snapshot.next != Next::After(page.after) {
            return false;
        }
        snapshot.asking = false;
        let sound = |(stream, through): &(Stream, u64)| covers(page.scope, *stream) && i64::try_from(*through).is_ok();
        let read_at: Watermarks = page.watermarks.iter().filter(sound).collect();
        snapshot.claim = Some(match &snapshot.claim {
            _ if planted::is(Bug::SnapshotClaimsLast) => read_at,
            Some(claim) => claim.iter().map(|(stream, through)| (stream, through.min(read_at.get(stream)))).collect(),
            None => read_at,
        });
        snapshot.next = page.through.map_or(Next::Nowhere, |key| Next::After(Some(key)));
        snapshot.waiting = Some(Box::new(page));
        true
    }

    /// A page could not be had: somebody else is asked, or the same peer later. Gives who failed, if it served.
    pub(super) fn failed(&mut self, peer: DeviceId, scope: SnapshotScope) -> Option<DeviceId> {
        let snapshot = self.0.get_mut(&scope).filter(|snapshot| snapshot.peer == Some(peer))?;
        snapshot.asking = false;
        snapshot.peer.take()
    }

    /// A page could not be merged: it is asked for again. Gives who served it.
    pub(super) fn refused(&mut self, scope: SnapshotScope) -> Option<DeviceId> {
        let snapshot = self.0.get_mut(&scope)?;
        let peer = snapshot.peer;
        *snapshot = Snapshot::new(None, snapshot.merged, snapshot.claim.take());
        peer
    }

    /// A page was merged. Gives what the snapshot stands for when that was the last one.
    pub(super) fn settled(&mut self, scope: SnapshotScope) -> Option<Watermarks> {
        let snapshot = self.0.get_mut(&scope)?;
        snapshot.applying = false;
        snapshot.merged = snapshot.merging.take();
        if snapshot.next == Next::Nowhere && snapshot.waiting.is_none() {
            self.0.remove(&scope).and_then(|snapshot| snapshot.claim)
        } else {
            None
        }
    }

    /// A peer is gone: what it was asked for is asked elsewhere.
    pub(super) fn gone(&mut self, peer: DeviceId) {
        for snapshot in self.0.values_mut().filter(|snapshot| snapshot.peer == Some(peer)) {
            snapshot.peer = None;
            snapshot.asking = false;
        }
    }

    /// What to do now. `server` says who could serve a snapshot whose peer is gone.
    pub(super) fn next(&mut self, server: impl Fn(SnapshotScope) -> Option<DeviceId>, steps: &mut Vec<Step>) {
        for (scope, snapshot) in &mut self.0 {
            if !snapshot.applying
                && let Some(page) = snapshot.waiting.take()
            {
                snapshot.applying = true;
                snapshot.merging = page.through;
                steps.push(Step::ApplySnapshot { page, claim: snapshot.claim.clone().unwrap_or_default() });
            }
            if !snapshot.asking
                && snapshot.waiting.is_none()
                && let Next::After(after) = snapshot.next
            {
                snapshot.peer = snapshot.peer.or_else(|| server(*scope));
                if let Some(peer) = snapshot.peer {
                    snapshot.asking = true;
                    steps.push(Step::FetchSnapshot { peer, scope: *scope, after });
                }
            }
        }
    }
}

impl Snapshot {
    fn new(peer: Option<DeviceId>, merged: Option<Cursor>, claim: Option<Watermarks>) -> Self {
        let next = Next::After(merged);
        Self { peer, claim, asking: false, applying: false, next, waiting: None, merged, merging: None }
    }
}

/// The scope of the snapshot that brings a stream.
pub(super) const fn scope_of(stream: Stream) -> SnapshotScope {
    match stream.kind {
        StreamKind::State => SnapshotScope::State(stream.origin),
        StreamKind::Shared => SnapshotScope::Shared,
    }
}

/// Whether a snapshot of a scope brings a stream.
pub(super) fn covers(scope: SnapshotScope, stream: Stream) -> bool {
    scope_of(stream) == scope
}

#[cfg(test)]
mod tests {
    use starling_schema::ids::RecordId;
    use starling_schema::wire::SnapshotItems;
    use uuid::Uuid;

    use super::*;

    const SCOPE: SnapshotScope = SnapshotScope::Shared;

    fn device(number: u128) -> DeviceId {
        DeviceId(Uuid::from_u128(number))
    }

    /// The key that ends the page of that number; none ends the last.
    fn key(number: u128) -> Option<Cursor> {
        (number > 0).then(|| (1, RecordId(Uuid::from_u128(number))))
    }

    fn marks(through: u64) -> Watermarks {
        Watermarks::from_iter([(Stream::shared(device(9)), through)])
    }

    fn page(after: Option<Cursor>, through: Option<Cursor>, read_at: u64) -> SnapshotResponse {
        let items = SnapshotItems::Shared(Vec::new());
        SnapshotResponse { scope: SCOPE, after, through, watermarks: marks(read_at), items }
    }

    fn next(snapshots: &mut Snapshots, server: u128) -> Vec<Step> {
        let mut steps = Vec::new();
        snapshots.next(|_| Some(device(server)), &mut steps);
        steps
    }

    fn fetch(peer: u128, after: Option<Cursor>) -> Step {
        Step::FetchSnapshot { peer: device(peer), scope: SCOPE, after }
    }

    fn merge(page: SnapshotResponse, claim: u64) -> Step {
        Step::ApplySnapshot { page: Box::new(page), claim: marks(claim) }
    }

    #[test]
    fn a_page_that_fails_is_asked_for_again_and_the_whole_stands_for_the_least_of_its_pages() {
        let mut snapshots = Snapshots::default();
        snapshots.begin(SCOPE, device(1));
        assert_eq!(next(&mut snapshots, 2), [fetch(1, None)]);
        let (first, last) = (page(key(0), key(5), 8), page(key(5), key(0), 6));
        assert!(snapshots.page(device(1), first.clone()));
        assert_eq!(next(&mut snapshots, 2), [merge(first, 8), fetch(1, key(5))]);
        assert_eq!(snapshots.settled(SCOPE), None);
        assert_eq!(snapshots.failed(device(1), SCOPE), Some(device(1)));
        assert_eq!(next(&mut snapshots, 2), [fetch(2, key(5))]);
        assert!(!snapshots.page(device(1), last.clone()), "who failed is not heard any more");
        assert!(snapshots.page(device(2), last.clone()));
        assert_eq!(next(&mut snapshots, 2), [merge(last, 6)]);
        assert_eq!(snapshots.settled(SCOPE), Some(marks(6)));
        assert!(!snapshots.cover(Stream::shared(device(9))));
    }

    #[test]
    fn a_page_that_could_not_be_merged_is_asked_for_again_with_what_followed_it() {
        let mut snapshots = Snapshots::default();
        snapshots.resume([(SCOPE, (1, RecordId(Uuid::from_u128(5))), marks(7))]);
        assert_eq!(next(&mut snapshots, 1), [fetch(1, key(5))]);
        let second = page(key(5), key(6), 9);
        assert!(snapshots.page(device(1), second.clone()));
        assert_eq!(next(&mut snapshots, 1), [merge(second, 7), fetch(1, key(6))]);
        assert!(snapshots.page(device(1), page(key(6), key(0), 9)));
        assert_eq!(snapshots.refused(SCOPE), Some(device(1)));
        assert_eq!(next(&mut snapshots, 3), [fetch(3, key(5))]);
    }

    #[test]
    fn a_snapshot_waits_for_somebody_who_can_serve_it() {
        let mut snapshots = Snapshots::default();
        snapshots.begin(SCOPE, device(1));
        next(&mut snapshots, 1);
        snapshots.gone(device(1));
        let mut steps = Vec::new();
        snapshots.next(|_| None, &mut steps);
        assert_eq!(steps, []);
        assert_eq!(next(&mut snapshots, 2), [fetch(2, None)]);
    }
}
