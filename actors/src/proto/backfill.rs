//! Catching up: which ranges are missing, who is fetching them, and what arrived ahead of its turn.
//!
//! Inputs are news (a peer's watermarks, a batch, a page, what was applied); after each, [`Backfill::steps`] says what
//! to do next. A stream is applied strictly in order; while one page is applied the next is asked for.

use std::collections::{BTreeMap, BTreeSet};

use starling_schema::change::{Batch, Items};
use starling_schema::ids::DeviceId;
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::wire::{Cursor, PageResponse, SnapshotResponse, SnapshotScope};

use super::clean::{self, Clean};
use super::snapshots::{BegunSnapshot, Snapshots, covers, scope_of};
use crate::planted::{self, Bug};

/// The most bytes of batches that wait for their turn. What does not fit is dropped and pulled again, never lost.
pub const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Pages of one stream that wait while another is applied: enough that the writer never idles.
const PAGES_AHEAD: usize = 3;

/// Pulls under way at one peer; half of what the transport allows, the rest is for acks and hellos.
const PULLS_PER_PEER_MAX: usize = 4;

/// How long a peer that failed on a stream is left alone at first; doubled with each failure.
const REST_MS: u64 = 1_000;

/// The longest that it is left alone.
const REST_MS_MAX: u64 = 30_000;

/// The most streams of which a peer's word is remembered: two for every statement that a library can hold.
pub const STREAMS_MAX: usize = 8_192;

/// How long what waits behind a gap is kept while nobody who is connected can fill it: several times what an offer that
/// was passed on takes to be followed by the heartbeat of whoever has the rest.
pub const HOPELESS_MS: u64 = 30_000;

/// How long a stream waits that has as much parked as may be.
const FULL_MS: u64 = 60_000;

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Apply a batch; then call [`Backfill::settled`].
    Apply {
        /// The batch; it starts at or before the stream's watermark.
        batch: Batch,
        /// What its server said of itself.
        served: Served,
    },
    /// Ask a peer for what follows; then call [`Backfill::page`] or [`Backfill::failed`].
    Fetch {
        /// Whom.
        peer: DeviceId,
        /// Of which stream.
        stream: Stream,
        /// After which number.
        after: u64,
        /// How far we shall be clean by then.
        clean: u64,
    },
    /// Ask a peer for a page of a snapshot; then call [`Backfill::snapshot_page`] or [`Backfill::snapshot_failed`].
    FetchSnapshot {
        /// Whom.
        peer: DeviceId,
        /// Of what.
        scope: SnapshotScope,
        /// After which key.
        after: Option<Cursor>,
    },
    /// Merge a page of a snapshot; then call [`Backfill::snapshot_settled`].
    ApplySnapshot {
        /// The page.
        page: Box<SnapshotResponse>,
        /// What the pages so far stand for together: with the last one it counts.
        claim: Watermarks,
    },
}

/// What whoever served a batch said of itself when it read it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Served {
    /// Below this it may lack entries or tombstones.
    pub floor: u64,
    /// Up to here it held nothing that was deleted.
    pub clean: u64,
}

impl Served {
    /// Of a live batch that reaches `through`: it says nothing of what is before or after it.
    #[must_use]
    pub const fn live(through: u64) -> Self {
        Self { floor: 0, clean: through }
    }
}

#[derive(Debug, Default)]
struct PeerView {
    marks: BTreeMap<Stream, u64>,
    pulls: usize,
    resting: BTreeMap<Stream, Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    until_ms: u64,
    next_ms: u64,
}

#[derive(Debug)]
struct Held {
    batch: Batch,
    served: Served,
    bytes: usize,
}

/// Owns what is missing and what waits.
#[derive(Debug)]
pub struct Backfill {
    applied: Watermarks,
    clean: Clean,
    peers: BTreeMap<DeviceId, PeerView>,
    held: BTreeMap<Stream, BTreeMap<u64, Held>>,
    held_bytes: usize,
    held_bytes_max: usize,
    /// Since when nobody who is connected could fill the gap before what is held of a stream.
    hopeless: BTreeMap<Stream, u64>,
    refused: u64,
    fetching: BTreeMap<Stream, DeviceId>,
    /// What is being applied: up to which number, and how clean its server was.
    applying: BTreeMap<Stream, (u64, u64)>,
    waiting: BTreeMap<Stream, u64>,
    parked: BTreeMap<Stream, u64>,
    snapshots: Snapshots,
    origins: Option<BTreeSet<DeviceId>>,
}

impl Backfill {
    /// Starts from what is applied, and what is held in the store until its time comes.
    #[must_use]
    pub fn new(applied: Watermarks, clean: Clean, parked: impl IntoIterator<Item = (Stream, u64)>) -> Self {
        Self {
            applied,
            clean,
            peers: BTreeMap::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            held_bytes_max: HELD_BYTES_MAX,
            hopeless: BTreeMap::new(),
            refused: 0,
            fetching: BTreeMap::new(),
            applying: BTreeMap::new(),
            waiting: BTreeMap::new(),
            parked: parked.into_iter().collect(),
            snapshots: Snapshots::default(),
            origins: None,
        }
    }

    /// The same with room for so many bytes of waiting batches.
    #[must_use]
    pub fn with_room(self, held_bytes_max: usize) -> Self {
        Self { held_bytes_max, ..self }
    }

    /// Whether a batch starts beyond what is held of its stream: there is a gap before it.
    #[must_use]
    pub fn is_ahead(&self, batch: &Batch) -> bool {
        batch.after > self.frontier(batch.stream)
    }

    /// How many batches found no room; each is pulled again in its turn.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Goes on with snapshots that were begun before a restart.
    #[must_use]
    pub fn resuming(mut self, begun: impl IntoIterator<Item = BegunSnapshot>) -> Self {
        self.snapshots.resume(begun);
        self
    }

    /// How far every stream is applied.
    #[must_use]
    pub fn applied(&self) -> &Watermarks {
        &self.applied
    }

    /// The store went ahead by itself: local commits, or parked changes whose time came.
    pub fn advanced(&mut self, applied: &Watermarks) {
        for (stream, through) in applied.iter() {
            self.raise(stream, through);
        }
        self.drop_stale();
    }

    /// The stream is applied up to here, be it told by whoever applied it or by the store: whichever comes first.
    fn raise(&mut self, stream: Stream, applied: u64) {
        let before = self.applied.get(stream);
        if let Some((through, clean)) = self.applying.get(&stream)
            && before < *through
            && *through <= applied
        {
            self.clean.take_in(stream, before, *clean);
        }
        self.applied.raise(stream, applied);
    }

    /// Only these devices may ever have written anything: streams of others that a peer names are left alone.
    pub fn only(&mut self, origins: BTreeSet<DeviceId>) {
        self.origins = Some(origins);
    }

    fn is_known(&self, stream: Stream) -> bool {
        self.origins.as_ref().is_none_or(|origins| origins.contains(&stream.origin))
    }

    /// A peer is connected and says how far it is. Its marks only rise.
    pub fn peer_marks(&mut self, peer: DeviceId, marks: &Watermarks) {
        let view = self.peers.entry(peer).or_default();
        for (stream, through) in marks.iter() {
            if view.marks.len() < STREAMS_MAX || view.marks.contains_key(&stream) {
                let known = view.marks.entry(stream).or_default();
                *known = through.max(*known);
            }
        }
    }

    /// A peer is gone: what it was asked for is asked elsewhere.
    pub fn peer_gone(&mut self, peer: DeviceId) {
        self.peers.remove(&peer);
        self.fetching.retain(|_, at| *at != peer);
        self.snapshots.gone(peer);
    }

    /// Drops what waits behind a gap that nobody who is connected could fill for [`HOPELESS_MS`]; it comes again with
    /// what fills the gap, if anybody has that.
    fn drop_hopeless(&mut self, now_ms: u64) {
        if self.held.is_empty() {
            return self.hopeless.clear();
        }
        let wanted = self.wanted();
        let is_hopeless = |stream: &Stream| {
            let (kept, first) = (self.kept(*stream), self.held.get(stream).and_then(|held| held.keys().next()));
            first.is_some_and(|first| *first > kept)
                && !wanted.contains_key(stream)
                && !self.applying.contains_key(stream)
        };
        let hopeless: BTreeSet<Stream> = self.held.keys().copied().filter(is_hopeless).collect();
        self.hopeless.retain(|stream, _| hopeless.contains(stream));
        for stream in hopeless {
            let since_ms = *self.hopeless.entry(stream).or_insert(now_ms);
            if now_ms.saturating_sub(since_ms) >= HOPELESS_MS {
                self.hopeless.remove(&stream);
                self.release(stream);
            }
        }
    }

    /// A batch was pushed. Says whether it can be applied in turn; otherwise it waits, or is pulled later.
    pub fn offer(&mut self, from: DeviceId, batch: Batch) -> bool {
        if let Some(view) = self.peers.get_mut(&from) {
            if planted::is(Bug::LiveBatchSkipsGap) && !view.marks.contains_key(&batch.stream) {
                self.applied.raise(batch.stream, batch.after);
            }
            let known = view.marks.entry(batch.stream).or_default();
            *known = batch.through.max(*known);
        }
        let in_turn = !self.is_ahead(&batch);
        // What waits behind a gap must leave room for the pages that fill it.
        if !in_turn && self.held_bytes + weight(&batch) > self.held_bytes_max / 4 {
            self.refused += 1;
            if planted::is(Bug::OverflowForgotten) {
                self.applied.raise(batch.stream, batch.through);
            }
            return false;
        }
        let served = Served::live(batch.through);
        self.hold(batch, served) && in_turn
    }

    /// An answer to [`Step::Fetch`].
    pub fn page(&mut self, peer: DeviceId, stream: Stream, response: PageResponse, now_ms: u64) {
        self.pulled(peer, stream);
        match response {
            PageResponse::Page { batch, head, floor, clean } => {
                self.set_mark(peer, stream, head.max(batch.through));
                let frontier = self.frontier(stream);
                if batch.stream != stream || batch.after > frontier || batch.through <= frontier {
                    return self.rest(peer, stream, now_ms);
                }
                if let Some(view) = self.peers.get_mut(&peer) {
                    view.resting.remove(&stream);
                }
                self.hold(batch, Served { floor, clean });
            }
            PageResponse::UpToDate { head } => {
                self.set_mark(peer, stream, head);
                // Who claims more than it gives is asked last.
                if head > self.frontier(stream) {
                    self.rest(peer, stream, now_ms);
                }
            }
            PageResponse::TakeSnapshot { .. } => self.snapshots.begin(scope_of(stream), peer),
        }
    }

    /// A fetch failed: the peer is left alone for a while on this stream, others are asked.
    pub fn failed(&mut self, peer: DeviceId, stream: Stream, now_ms: u64) {
        self.pulled(peer, stream);
        self.rest(peer, stream, now_ms);
    }

    /// A batch was applied, or could not be: then it is pulled again after `retry_at_ms`.
    pub fn settled(&mut self, stream: Stream, applied: u64, retry_at_ms: Option<u64>) {
        self.raise(stream, applied);
        self.applying.remove(&stream);
        match retry_at_ms {
            Some(until_ms) => {
                self.waiting.insert(stream, until_ms);
                self.release(stream);
            }
            None => {
                self.waiting.remove(&stream);
            }
        }
        self.drop_stale();
    }

    /// Of a batch only the first part was applied: what follows is held in the store, up to `through`, until its time
    /// comes. It is not asked for again, and it is not applied. A stream that is full holds no more: it waits.
    pub fn parked(&mut self, stream: Stream, applied: u64, through: u64, full: bool, now_ms: u64) {
        self.applying.remove(&stream);
        if full {
            self.waiting.insert(stream, now_ms + FULL_MS);
            self.release(stream);
        }
        self.applied.raise(stream, applied);
        let held = self.parked.entry(stream).or_default();
        *held = through.max(*held);
        self.drop_stale();
    }

    /// An answer to [`Step::FetchSnapshot`].
    pub fn snapshot_page(&mut self, peer: DeviceId, page: SnapshotResponse) {
        let (scope, read_at) = (page.scope, page.watermarks.clone());
        if !self.snapshots.page(peer, page) {
            return;
        }
        if let Some(view) = self.peers.get_mut(&peer) {
            view.resting.retain(|stream, _| !covers(scope, *stream));
        }
        if let SnapshotScope::State(owner) = scope {
            // Whoever served it: the whole is as clean as its least clean page, those before a restart included.
            let stream = Stream::state(owner);
            self.clean.take_in(stream, self.applied.get(stream), read_at.get(stream));
        }
    }

    /// A page of a snapshot could not be had: it is asked for again, elsewhere if possible.
    pub fn snapshot_failed(&mut self, peer: DeviceId, scope: SnapshotScope, now_ms: u64) {
        let failed = self.snapshots.failed(peer, scope);
        self.rest_on_snapshots(failed, scope, now_ms);
    }

    /// A page of a snapshot could not be merged: the one who served it rests, whatever the reason.
    pub fn snapshot_refused(&mut self, scope: SnapshotScope, now_ms: u64) {
        let served = self.snapshots.refused(scope);
        self.rest_on_snapshots(served, scope, now_ms);
    }

    fn rest_on_snapshots(&mut self, peer: Option<DeviceId>, scope: SnapshotScope, now_ms: u64) {
        let streams: Vec<Stream> = self.wanted().into_keys().filter(|stream| covers(scope, *stream)).collect();
        for (peer, stream) in peer.into_iter().flat_map(|peer| streams.iter().map(move |stream| (peer, *stream))) {
            self.rest(peer, stream, now_ms);
        }
    }

    /// A page of a snapshot was merged.
    pub fn snapshot_settled(&mut self, scope: SnapshotScope) {
        if let Some(claim) = self.snapshots.settled(scope) {
            self.applied.join(&claim);
            self.drop_stale();
        }
    }

    /// How many changes that connected peers have are missing here.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let missing = self.wanted().into_iter().map(|(stream, head)| head.saturating_sub(self.kept(stream)));
        missing.fold(0, u64::saturating_add)
    }

    /// How many changes one peer has that are missing here.
    #[must_use]
    pub fn behind(&self, peer: DeviceId) -> u64 {
        let marks = self.peers.get(&peer).map(|view| &view.marks);
        let known = marks.into_iter().flatten().filter(|(stream, _)| self.is_known(**stream));
        let behind = known.map(|(stream, head)| head.saturating_sub(self.kept(*stream)));
        behind.fold(0, u64::saturating_add)
    }

    /// How many changes wait for their turn.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.values().flat_map(BTreeMap::values).map(|held| held.batch.items.len() as u64).sum()
    }

    /// Whether anything waits for its turn: then [`Backfill::steps`] is to be called again soon.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What to do now.
    pub fn steps(&mut self, now_ms: u64) -> Vec<Step> {
        self.waiting.retain(|_, until_ms| *until_ms > now_ms);
        self.drop_hopeless(now_ms);
        let mut steps = Vec::new();
        self.apply_next(&mut steps);
        self.snapshot_next(now_ms, &mut steps);
        self.fetch_next(now_ms, &mut steps);
        steps
    }

    fn apply_next(&mut self, steps: &mut Vec<Step>) {
        let ready: Vec<Stream> = self
            .held
            .iter()
            .filter(|(stream, held)| {
                let skips = planted::is(Bug::WatermarkSkipsGap);
                let due = held.keys().next().is_some_and(|after| *after <= self.kept(**stream) || skips);
                due && !self.applying.contains_key(stream) && !self.waiting.contains_key(stream)
            })
            .map(|(stream, _)| *stream)
            .collect();
        for stream in ready {
            let Some((_, Held { batch, served, bytes })) = self.held.get_mut(&stream).and_then(BTreeMap::pop_first)
            else {
                continue;
            };
            self.held_bytes -= bytes;
            self.applying.insert(stream, (batch.through, served.clean));
            steps.push(Step::Apply { batch, served });
        }
        self.held.retain(|_, held| !held.is_empty());
    }

    fn snapshot_next(&mut self, now_ms: u64, steps: &mut Vec<Step>) {
        let mut snapshots = std::mem::take(&mut self.snapshots);
        snapshots.next(|scope| self.server(scope, now_ms), steps);
        self.snapshots = snapshots;
    }

    /// Who could serve a snapshot: the peer with the most of it that we lack, if it is not resting.
    fn server(&self, scope: SnapshotScope, now_ms: u64) -> Option<DeviceId> {
        let lacked = |view: &PeerView| {
            let marks = view.marks.iter().filter(|(stream, _)| covers(scope, **stream));
            let rested =
                marks.filter(|(stream, _)| view.resting.get(stream).is_none_or(|rest| rest.until_ms <= now_ms));
            rested.map(|(stream, head)| head.saturating_sub(self.kept(*stream))).fold(0, u64::saturating_add)
        };
        let servers = self.peers.iter().map(|(peer, view)| (lacked(view), *peer)).filter(|(lacked, _)| *lacked > 0);
        servers.max().map(|(_, peer)| peer)
    }

    fn fetch_next(&mut self, now_ms: u64, steps: &mut Vec<Step>) {
        for (stream, head) in self.wanted() {
            let frontier = self.frontier(stream);
            let enough =
                self.held_bytes >= self.held_bytes_max / 2 || self.pages_ahead(stream, frontier) >= PAGES_AHEAD;
            let busy = self.fetching.contains_key(&stream)
                || self.waiting.contains_key(&stream)
                || self.snapshots.cover(stream)
                || (planted::is(Bug::GapNeverPulled) && self.held.contains_key(&stream));
            if head <= frontier || enough || busy {
                continue;
            }
            if let Some(peer) = self.best(stream, frontier, now_ms) {
                self.fetching.insert(stream, peer);
                if let Some(view) = self.peers.get_mut(&peer) {
                    view.pulls += 1;
                }
                steps.push(Step::Fetch { peer, stream, after: frontier, clean: self.clean_by_then(stream) });
            }
        }
    }

    /// Who to ask: has more than the frontier, is not resting; the least busy, then the furthest.
    fn best(&self, stream: Stream, frontier: u64, now_ms: u64) -> Option<DeviceId> {
        self.peers
            .iter()
            .filter_map(|(peer, view)| {
                let head = view.marks.get(&stream).copied().filter(|head| *head > frontier)?;
                let resting = view.resting.get(&stream).is_some_and(|rest| rest.until_ms > now_ms);
                (!resting && view.pulls < PULLS_PER_PEER_MAX).then_some((view.pulls, u64::MAX - head, *peer))
            })
            .min()
            .map(|(_, _, peer)| peer)
    }

    /// How far the stream is held without holes: applied, being applied, or waiting in turn.
    fn frontier(&self, stream: Stream) -> u64 {
        self.in_turn(stream).map(|(through, _)| through).last().unwrap_or_else(|| self.kept(stream))
    }

    /// How far the stream will be clean once it is applied up to the frontier.
    fn clean_by_then(&self, stream: Stream) -> u64 {
        if stream.kind == StreamKind::Shared {
            return self.frontier(stream);
        }
        let now = self.clean.of(stream, self.kept(stream));
        self.in_turn(stream).fold(now, |before, (through, clean)| clean::after(before, clean, through))
    }

    /// What is applied or waits in turn and brings something: up to which number, and how clean its server was.
    fn in_turn(&self, stream: Stream) -> impl Iterator<Item = (u64, u64)> {
        let applying = self.applying.get(&stream).map(|(through, clean)| (0, *through, *clean));
        let held = self.held.get(&stream).into_iter().flatten();
        let waiting = held.map(|(after, held)| (*after, held.batch.through, held.served.clean));
        let mut frontier = self.kept(stream);
        applying
            .into_iter()
            .chain(waiting)
            .map_while(move |(after, through, clean)| {
                let is_news = through > frontier;
                (after <= frontier).then(|| {
                    frontier = frontier.max(through);
                    is_news.then_some((through, clean))
                })
            })
            .flatten()
    }

    /// How far the store holds the stream without holes, applied or parked.
    fn kept(&self, stream: Stream) -> u64 {
        self.parked.get(&stream).copied().unwrap_or(0).max(self.applied.get(stream))
    }

    fn pages_ahead(&self, stream: Stream, frontier: u64) -> usize {
        self.held.get(&stream).map_or(0, |held| held.range(..frontier).count())
    }

    /// For every stream the furthest that a connected peer has, where it is further than we are.
    fn wanted(&self) -> BTreeMap<Stream, u64> {
        let mut wanted = BTreeMap::new();
        for (stream, head) in self.peers.values().flat_map(|view| &view.marks) {
            if *head > self.kept(*stream) && self.is_known(*stream) {
                let most: &mut u64 = wanted.entry(*stream).or_default();
                *most = (*head).max(*most);
            }
        }
        wanted
    }

    /// Keeps a batch for its turn. Says no when it brings nothing or does not fit.
    fn hold(&mut self, batch: Batch, served: Served) -> bool {
        let bytes = weight(&batch);
        if batch.through <= self.kept(batch.stream) && !planted::is(Bug::OldVersionOverwrites) {
            return false;
        }
        // What is next in its stream is applied at once, and with nothing held there is room for any one batch: otherwise
        // the stream would stand still, and the same page be pulled over and over.
        let is_next = batch.after <= self.kept(batch.stream) && !self.applying.contains_key(&batch.stream);
        if !is_next && self.held_bytes > 0 && self.held_bytes + bytes > self.held_bytes_max {
            self.refused += 1;
            return false;
        }
        let stream = self.held.entry(batch.stream).or_default();
        if stream.get(&batch.after).is_some_and(|held| held.batch.through >= batch.through) {
            return true;
        }
        self.held_bytes += bytes;
        if let Some(shorter) = stream.insert(batch.after, Held { batch, served, bytes }) {
            self.held_bytes -= shorter.bytes;
        }
        true
    }

    fn drop_stale(&mut self) {
        self.parked.retain(|stream, through| *through > self.applied.get(*stream));
        let (applied, held_bytes) = (&self.applied, &mut self.held_bytes);
        for (stream, held) in &mut self.held {
            held.retain(|_, waiting| {
                let stale = waiting.batch.through <= applied.get(*stream);
                if stale {
                    *held_bytes -= waiting.bytes;
                }
                !stale
            });
        }
        self.held.retain(|_, held| !held.is_empty());
    }

    fn release(&mut self, stream: Stream) {
        for held in self.held.remove(&stream).into_iter().flatten() {
            self.held_bytes -= held.1.bytes;
        }
    }

    fn pulled(&mut self, peer: DeviceId, stream: Stream) {
        if self.fetching.get(&stream) == Some(&peer) {
            self.fetching.remove(&stream);
            if let Some(view) = self.peers.get_mut(&peer) {
                view.pulls = view.pulls.saturating_sub(1);
            }
        }
    }

    fn set_mark(&mut self, peer: DeviceId, stream: Stream, head: u64) {
        if let Some(view) = self.peers.get_mut(&peer) {
            view.marks.insert(stream, head);
        }
    }

    fn rest(&mut self, peer: DeviceId, stream: Stream, now_ms: u64) {
        let Some(view) = self.peers.get_mut(&peer) else { return };
        let wait_ms = view.resting.get(&stream).map_or(REST_MS, |rest| rest.next_ms);
        let rest = Rest { until_ms: now_ms + wait_ms, next_ms: (wait_ms * 2).min(REST_MS_MAX) };
        view.resting.insert(stream, rest);
    }
}

/// About how many bytes a batch takes in memory.
#[must_use]
pub fn weight(batch: &Batch) -> usize {
    /// What a row or an entry takes besides its values.
    const ITEM_BYTES: usize = 96;
    /// A device's id and a time.
    const STAMP_BYTES: usize = 24;
    let value = |value: &starling_schema::value::Value| value.len() + 40;
    let fields = |fields: &starling_schema::value::Fields| fields.iter().map(|(_, v)| value(v)).sum::<usize>();
    match &batch.items {
        Items::State(rows) => {
            rows.iter().map(|row| ITEM_BYTES + row.fields.as_ref().map_or(0, fields)).sum::<usize>() + ITEM_BYTES
        }
        Items::Shared(changes) => {
            use starling_schema::change::Op;
            let op = |op: &Op| match op {
                Op::Set { fields, .. } => {
                    fields.iter().map(|write| value(&write.value) + (write.seen.len() + 1) * STAMP_BYTES).sum()
                }
                Op::Delete { seen } => seen.len() * STAMP_BYTES,
                Op::Restore { fields: all, stamps, .. } => {
                    let losers = stamps.iter().flat_map(|(_, stamp)| &stamp.losers);
                    let seen = stamps.iter().map(|(_, stamp)| (stamp.seen.len() + 2) * STAMP_BYTES);
                    fields(all) + losers.map(|(_, lost)| value(lost) + STAMP_BYTES).sum::<usize>() + seen.sum::<usize>()
                }
            };
            changes.iter().map(|change| ITEM_BYTES + op(&change.op)).sum::<usize>() + ITEM_BYTES
        }
    }
}

#[cfg(test)]
#[path = "backfill_tests.rs"]
mod tests;
