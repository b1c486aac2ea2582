//! What of our own changes the connected peers have not acked, when to send it again, and what was given up.

use std::collections::BTreeMap;
use std::time::Duration;

use starling_schema::ids::DeviceId;
use starling_schema::stream::StreamKind;

use crate::planted::{self, Bug};

/// How long after a commit it is sent directly: gossip is acked within a fraction of that where it arrives.
pub const FIRST_SEND_MS: u64 = 1_000;

/// How long after each failed send the next one is made, before jitter: half a minute in all, about what a busy disk or
/// a device that is waking up takes. One more failure, and the change becomes a dead letter.
pub const RETRY_DELAYS_MS: [u64; 5] = [1_000, 2_000, 4_000, 8_000, 16_000];

/// How long an answer may take before the send counts as failed: the time limit of a request, and a little to report it.
pub const ANSWER_MS_MAX: u64 = 35_000;

/// How much of an error is kept with a dead letter: a line or two on a screen.
pub const ERROR_BYTES_MAX: usize = 512;

/// Knows of every connected peer which of our own changes it has not acked, and when it is due to get them.
///
/// It holds at most one item and one dead letter per member and kind, and no changes: a send re-reads the newest state.
/// Peers that are not connected are not retried; they catch up by watermark when they come.
#[derive(Clone, Debug, Default)]
pub struct RetrySchedule {
    heads: BTreeMap<StreamKind, u64>,
    /// How far each connected peer is along our streams.
    connected: BTreeMap<DeviceId, BTreeMap<StreamKind, u64>>,
    items: BTreeMap<(DeviceId, StreamKind), Progress>,
    letters: BTreeMap<(DeviceId, StreamKind), DeadLetter>,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    attempts: u32,
    due_at_ms: u64,
    is_under_way: bool,
    error: Option<String>,
}

/// What to send now: our own changes of a kind after a number, as they are by now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Send {
    /// To whom.
    pub peer: DeviceId,
    /// Of which of our streams.
    pub kind: StreamKind,
    /// What the peer has already.
    pub after: u64,
}

/// Something that a peer has yet to ack, as it is stored and shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RetryItem {
    /// Who lacks it.
    pub peer: DeviceId,
    /// Of which of our streams.
    pub kind: StreamKind,
    /// How many sends have failed since the peer last moved.
    pub attempts: u32,
    /// When it is sent next, or when the send under way is given up.
    pub due_at_ms: u64,
    /// Why the last send failed.
    pub error: Option<String>,
}

/// Changes that a peer did not take. They are not lost: the peer can pull them, and they are sent again on request or
/// when it reconnects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeadLetter {
    /// Who did not take them.
    pub peer: DeviceId,
    /// Of which of our streams.
    pub kind: StreamKind,
    /// The number that the peer must ack for the letter to be gone.
    pub through: u64,
    /// How many sends failed.
    pub attempts: u32,
    /// Why the last one failed.
    pub error: String,
    /// When it was given up, in milliseconds since 1970.
    pub at_ms: u64,
}

impl RetrySchedule {
    /// Goes on with what was stored: how many changes we made of each kind, what was being retried and what was given
    /// up. Nobody is connected yet.
    #[must_use]
    pub fn restore(
        heads: impl IntoIterator<Item = (StreamKind, u64)>,
        items: impl IntoIterator<Item = RetryItem>,
        letters: impl IntoIterator<Item = DeadLetter>,
    ) -> Self {
        let progress = |RetryItem { peer, kind, attempts, due_at_ms, error }: RetryItem| {
            ((peer, kind), Progress { attempts, due_at_ms, is_under_way: false, error })
        };
        Self {
            heads: heads.into_iter().collect(),
            connected: BTreeMap::new(),
            items: items.into_iter().map(progress).collect(),
            letters: letters.into_iter().map(|letter| ((letter.peer, letter.kind), letter)).collect(),
        }
    }

    /// What is being retried, to be stored and shown.
    pub fn items(&self) -> impl Iterator<Item = RetryItem> {
        self.items.iter().map(|((peer, kind), progress)| RetryItem {
            peer: *peer,
            kind: *kind,
            attempts: progress.attempts,
            due_at_ms: progress.due_at_ms,
            error: progress.error.clone(),
        })
    }

    /// What was given up, to be stored and shown.
    #[must_use]
    pub fn dead_letters(&self) -> impl ExactSizeIterator<Item = &DeadLetter> {
        self.letters.values()
    }

    /// A peer has connected and said how far it is along our own streams. What it lacks is sent if it does not pull it;
    /// its dead letters are retried; an item from before a restart goes on counting.
    pub fn connected(&mut self, peer: DeviceId, acked: impl IntoIterator<Item = (StreamKind, u64)>, now_ms: u64) {
        self.connected.insert(peer, acked.into_iter().collect());
        for kind in [StreamKind::State, StreamKind::Shared] {
            if !planted::is(Bug::DeadLetterStays) {
                self.letters.remove(&(peer, kind));
            }
            if self.acked_by(peer, kind) >= self.head(kind) {
                self.items.remove(&(peer, kind));
            } else {
                // Its hello says first how far it is.
                let due_at_ms = now_ms.saturating_add(FIRST_SEND_MS);
                let progress = self.items.entry((peer, kind)).or_default();
                progress.is_under_way = false;
                progress.due_at_ms = progress.due_at_ms.max(due_at_ms);
            }
        }
    }

    /// A peer is gone: nothing is due to it. Its dead letters stay until it acks or comes back.
    pub fn disconnected(&mut self, peer: DeviceId) {
        self.connected.remove(&peer);
        self.items.retain(|(of, _), _| *of != peer);
    }

    /// A device is no member any more: nothing of it is kept.
    pub fn forget(&mut self, peer: DeviceId) {
        self.disconnected(peer);
        self.drop_letters(peer);
    }

    /// We committed changes up to `head`. Each connected peer gets them in [`FIRST_SEND_MS`] unless it acks before. What
    /// is being retried goes on as it was, with the newest state; a dead letter comes to stand for these changes too.
    pub fn committed(&mut self, kind: StreamKind, head: u64, now_ms: u64) {
        if head <= self.head(kind) {
            return;
        }
        self.heads.insert(kind, head);
        for peer in self.connected.keys() {
            if let Some(letter) = self.letters.get_mut(&(*peer, kind)) {
                letter.through = head;
            } else {
                let fresh = Progress { due_at_ms: now_ms.saturating_add(FIRST_SEND_MS), ..Progress::default() };
                self.items.entry((*peer, kind)).or_insert(fresh);
            }
        }
    }

    /// A peer has applied our changes up to `applied`, as it says itself or as its heartbeat says.
    ///
    /// One that has all of them is done with. One that moved starts over with what is left. One that answered and did
    /// not move holds the changes without applying them yet (they may be ahead of its clock): it is asked again at the
    /// longest delay, and that is not a failure.
    pub fn acked(&mut self, peer: DeviceId, kind: StreamKind, applied: u64, now_ms: u64) {
        let stays = planted::is(Bug::DeadLetterStays);
        if self.letters.get(&(peer, kind)).is_some_and(|letter| letter.through <= applied) && !stays {
            self.letters.remove(&(peer, kind));
        }
        let head = self.head(kind);
        let Some(acked) = self.connected.get_mut(&peer) else {
            // It came by way of another: what waited since before a restart is done.
            if applied >= head {
                self.items.remove(&(peer, kind));
            }
            return;
        };
        let before = acked.insert(kind, applied).unwrap_or(0);
        if applied >= head {
            self.items.remove(&(peer, kind));
        } else if applied > before {
            if !stays {
                self.letters.remove(&(peer, kind));
            }
            let due_at_ms = now_ms.saturating_add(FIRST_SEND_MS);
            self.items.insert((peer, kind), Progress { due_at_ms, ..Progress::default() });
        } else {
            acked.insert(kind, before);
            if let Some(progress) = self.items.get_mut(&(peer, kind)).filter(|progress| progress.is_under_way) {
                progress.is_under_way = false;
                progress.due_at_ms = now_ms.saturating_add(RETRY_DELAYS_MS[RETRY_DELAYS_MS.len() - 1]);
            }
        }
    }

    /// A peer pulls from us: it is alive and gets what it lacks that way, so its attempts start over.
    pub fn pulling(&mut self, peer: DeviceId, now_ms: u64) {
        for (_, progress) in self.items.iter_mut().filter(|((of, _), _)| *of == peer) {
            progress.attempts = 0;
            progress.error = None;
            if !progress.is_under_way {
                progress.due_at_ms = progress.due_at_ms.max(now_ms.saturating_add(FIRST_SEND_MS));
            }
        }
    }

    /// A send that [`RetrySchedule::due`] asked for failed. It is made again later, or given up; then this gives the
    /// dead letter. `jitter` is drawn at random from 0 to 1.
    pub fn failed(
        &mut self,
        peer: DeviceId,
        kind: StreamKind,
        error: &str,
        now_ms: u64,
        jitter: f64,
    ) -> Option<DeadLetter> {
        let through = self.head(kind);
        let progress = self.items.get_mut(&(peer, kind)).filter(|progress| progress.is_under_way)?;
        progress.is_under_way = false;
        let delay_ms = usize::try_from(progress.attempts).ok().and_then(|failed| RETRY_DELAYS_MS.get(failed));
        progress.attempts = progress.attempts.saturating_add(1);
        let error = clipped(error);
        if let Some(delay_ms) = delay_ms {
            progress.due_at_ms = now_ms.saturating_add(jittered(*delay_ms, jitter));
            progress.error = Some(error);
            return None;
        }
        let letter = DeadLetter { peer, kind, through, attempts: progress.attempts, error, at_ms: now_ms };
        self.items.remove(&(peer, kind));
        self.letters.insert((peer, kind), letter.clone());
        Some(letter)
    }

    /// The sends that nothing came back of within [`ANSWER_MS_MAX`]: they have failed, and must be told so.
    #[must_use]
    pub fn unanswered(&self, now_ms: u64) -> Vec<(DeviceId, StreamKind)> {
        let is_late = |progress: &Progress| progress.is_under_way && progress.due_at_ms <= now_ms;
        self.items.iter().filter(|(_, progress)| is_late(progress)).map(|(item, _)| *item).collect()
    }

    /// What to send now. Each send must come back as [`RetrySchedule::acked`] or [`RetrySchedule::failed`], or is
    /// [`RetrySchedule::unanswered`] one day.
    pub fn due(&mut self, now_ms: u64) -> Vec<Send> {
        let mut sends = Vec::new();
        for ((peer, kind), progress) in &mut self.items {
            let Some(acked) = self.connected.get(peer) else { continue };
            if !progress.is_under_way && progress.due_at_ms <= now_ms {
                progress.is_under_way = true;
                progress.due_at_ms = now_ms.saturating_add(ANSWER_MS_MAX);
                sends.push(Send { peer: *peer, kind: *kind, after: acked.get(kind).copied().unwrap_or(0) });
            }
        }
        sends
    }

    /// When [`RetrySchedule::due`] has something to do next, in milliseconds since 1970.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        let connected = self.items.iter().filter(|((peer, _), _)| self.connected.contains_key(peer));
        connected.map(|(_, progress)| progress.due_at_ms).min()
    }

    /// Sends a peer's dead letters again, now; says how many. If it is not connected they stay until it is.
    pub fn retry(&mut self, peer: DeviceId, now_ms: u64) -> usize {
        if !self.connected.contains_key(&peer) {
            return 0;
        }
        let fresh = Progress { due_at_ms: now_ms, ..Progress::default() };
        let letters = self.letters.extract_if(.., |(of, _), _| *of == peer);
        letters.map(|(item, _)| self.items.insert(item, fresh.clone())).count()
    }

    /// Drops a peer's dead letters unsent; says how many. The peer still catches up by watermark.
    pub fn drop_letters(&mut self, peer: DeviceId) -> usize {
        self.letters.extract_if(.., |(of, _), _| *of == peer).count()
    }

    fn head(&self, kind: StreamKind) -> u64 {
        self.heads.get(&kind).copied().unwrap_or(0)
    }

    fn acked_by(&self, peer: DeviceId, kind: StreamKind) -> u64 {
        self.connected.get(&peer).and_then(|acked| acked.get(&kind)).copied().unwrap_or(0)
    }
}

/// A delay between three and five quarters of `delay_ms`, so that many who start together do not stay together.
/// `jitter` is drawn at random from 0 to 1.
#[must_use]
pub fn jittered(delay_ms: u64, jitter: f64) -> u64 {
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 };
    let delay = Duration::from_millis(delay_ms).mul_f64(0.75 + jitter / 2.0);
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}

fn clipped(error: &str) -> String {
    error[..error.floor_char_boundary(ERROR_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests;
