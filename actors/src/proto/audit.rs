//! When to compare records with which peer, and where to go on: one check at a time, at a low rate, and ever more rarely
//! with a peer that was equal all through.

use std::collections::{BTreeMap, BTreeSet};

use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::wire::Cursor;

use crate::proto::equality::KeyRange;
use crate::proto::retry::jittered;

/// About how long between two checks, whichever the peers: with a check's bound on records, this is what bounds the
/// cost. Jittered.
pub const CHECK_MS: u64 = 60_000;

/// The longest rest after a peer was found equal all through: so long silent damage stays unseen at most, plus a round.
pub const REST_MS_MAX: u64 = 60 * 60 * 1_000;

/// Where a check begins: the first record of the first model.
pub const START: Cursor = (0, RecordId::MIN);

/// How the comparison with one peer stands.
#[derive(Clone, Debug)]
struct Round {
    /// Where to go on.
    at: Cursor,
    due_at_ms: u64,
    rest_ms: u64,
    is_clean: bool,
    /// The range that the peer last asked us about.
    asked: Option<(ModelId, KeyRange)>,
    is_away: bool,
    /// Where something was found that this peer may settle.
    detour: Option<Cursor>,
    /// Whether the last check was a detour: the next one is not, so that no find keeps the rest from being compared.
    was_detour: bool,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Checked {
    /// It could not be made: the peer was busy or at another point.
    Not,
    /// So far was compared; none when the round is complete.
    Through {
        /// Where to go on.
        next: Option<Cursor>,
        /// Whether all was equal.
        is_clean: bool,
    },
}

/// When to check whom.
#[derive(Clone, Debug, Default)]
pub struct AuditSchedule {
    rounds: BTreeMap<DeviceId, Round>,
}

impl AuditSchedule {
    fn round(&mut self, peer: DeviceId) -> &mut Round {
        self.rounds.entry(peer).or_insert(Round {
            at: START,
            due_at_ms: 0,
            rest_ms: CHECK_MS,
            is_clean: true,
            asked: None,
            is_away: false,
            detour: None,
            was_detour: false,
        })
    }

    /// The peer to check now and where to go on with it; none when no connected peer is due.
    pub fn next_check(&mut self, connected: &BTreeSet<DeviceId>, now_ms: u64) -> Option<(DeviceId, Cursor)> {
        for (peer, round) in &mut self.rounds {
            round.is_away |= !connected.contains(peer);
        }
        for peer in connected {
            let round = self.round(*peer);
            if std::mem::take(&mut round.is_away) {
                // Who knows what happened to it meanwhile.
                round.rest_ms = CHECK_MS;
                round.due_at_ms = round.due_at_ms.min(now_ms);
            }
        }
        let due = self.rounds.iter_mut().filter(|(peer, round)| connected.contains(peer) && round.due_at_ms <= now_ms);
        let (peer, round) = due.min_by_key(|(_, round)| round.due_at_ms)?;
        let detour = if round.was_detour { None } else { round.detour.take() };
        round.was_detour = detour.is_some();
        Some((*peer, detour.unwrap_or(round.at)))
    }

    /// A check ended. `jitter` is drawn at random from 0 to 1.
    pub fn checked(&mut self, peer: DeviceId, outcome: Checked, now_ms: u64, jitter: f64) {
        let round = self.round(peer);
        let mut wait_ms = CHECK_MS;
        if let Checked::Through { next, is_clean } = outcome
            && !round.was_detour
        {
            round.is_clean &= is_clean;
            round.at = next.unwrap_or(START);
            if next.is_none() {
                round.rest_ms = if round.is_clean { (2 * round.rest_ms).min(REST_MS_MAX) } else { CHECK_MS };
                wait_ms = round.rest_ms;
                round.is_clean = true;
            }
        }
        round.due_at_ms = now_ms.saturating_add(jittered(wait_ms, jitter));
    }

    /// A peer asked us for the hash of a range. When it narrows down the range that it asked for before, it found a
    /// difference: then it is checked next, there.
    pub fn asked(&mut self, peer: DeviceId, model: ModelId, range: KeyRange) {
        let round = self.round(peer);
        let narrows = |(before, outer): (ModelId, KeyRange)| {
            before == model && outer.0 <= range.0 && range.1 <= outer.1 && outer != range
        };
        if round.asked.is_some_and(narrows) {
            self.look(peer, (model, range.0));
        } else {
            round.asked = Some((model, range));
        }
    }

    /// Something that only this peer can settle was found: it is checked next, there.
    pub fn look(&mut self, peer: DeviceId, at: Cursor) {
        let round = self.round(peer);
        (round.detour, round.due_at_ms, round.rest_ms) = (Some(at), 0, CHECK_MS);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::proto::equality::ALL_KEYS;

    fn peer(number: u128) -> DeviceId {
        DeviceId(Uuid::from_u128(number))
    }

    fn id(number: u128) -> RecordId {
        RecordId(Uuid::from_u128(number))
    }

    fn clean(next: Option<Cursor>) -> Checked {
        Checked::Through { next, is_clean: true }
    }

    #[test]
    fn peers_take_turns_and_each_goes_on_where_it_was() {
        let (mut schedule, both) = (AuditSchedule::default(), BTreeSet::from([peer(1), peer(2)]));
        assert_eq!(schedule.next_check(&both, 0), Some((peer(1), START)));
        schedule.checked(peer(1), clean(Some((4, id(9)))), 0, 0.5);
        assert_eq!(schedule.next_check(&both, 0), Some((peer(2), START)));
        schedule.checked(peer(2), clean(Some((4, id(8)))), 1, 0.5);
        assert_eq!(schedule.next_check(&both, 1), None);
        assert_eq!(schedule.next_check(&both, 2 * CHECK_MS), Some((peer(1), (4, id(9)))));
    }

    #[test]
    fn a_peer_that_is_equal_all_through_rests_ever_longer_up_to_an_hour() {
        let (mut schedule, one) = (AuditSchedule::default(), BTreeSet::from([peer(1)]));
        let mut now_ms = 0;
        let mut rests = Vec::new();
        for _ in 0..8 {
            schedule.checked(peer(1), clean(None), now_ms, 0.5);
            let begun_ms = now_ms;
            while schedule.next_check(&one, now_ms).is_none() {
                now_ms += 1_000;
            }
            rests.push((now_ms - begun_ms) / 60_000);
        }
        assert_eq!(rests, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_difference_keeps_the_rests_short_and_a_check_that_was_not_made_is_made_again() {
        let (mut schedule, one) = (AuditSchedule::default(), BTreeSet::from([peer(1)]));
        schedule.checked(peer(1), clean(None), 0, 0.5);
        schedule.checked(peer(1), Checked::Through { next: Some((5, id(1))), is_clean: false }, 0, 0.5);
        schedule.checked(peer(1), Checked::Not, 0, 0.5);
        assert_eq!(schedule.next_check(&one, CHECK_MS), Some((peer(1), (5, id(1)))));
        schedule.checked(peer(1), clean(None), 0, 0.5);
        assert_eq!(schedule.next_check(&one, CHECK_MS - 1), None);
        assert_eq!(schedule.next_check(&one, CHECK_MS), Some((peer(1), START)));
    }

    #[test]
    fn a_peer_that_returns_is_due_at_once() {
        let (mut schedule, one) = (AuditSchedule::default(), BTreeSet::from([peer(1)]));
        for _ in 0..6 {
            schedule.checked(peer(1), clean(None), 0, 0.5);
        }
        assert_eq!(schedule.next_check(&one, 5), None);
        assert_eq!(schedule.next_check(&BTreeSet::new(), 5), None);
        assert_eq!(schedule.next_check(&one, 6), Some((peer(1), START)));
    }

    #[test]
    fn a_peer_that_narrows_a_range_down_is_checked_there() {
        let (mut schedule, one) = (AuditSchedule::default(), BTreeSet::from([peer(1)]));
        schedule.checked(peer(1), clean(None), 0, 0.5);
        schedule.asked(peer(1), 7, ALL_KEYS);
        schedule.asked(peer(1), 8, ALL_KEYS);
        assert_eq!(schedule.next_check(&one, 1), None);
        schedule.asked(peer(1), 8, (id(5), ALL_KEYS.1));
        assert_eq!(schedule.next_check(&one, 1), Some((peer(1), (8, id(5)))));
    }

    #[test]
    fn after_a_detour_the_round_goes_on_where_it_was_whatever_else_is_found() {
        let (mut schedule, one) = (AuditSchedule::default(), BTreeSet::from([peer(1)]));
        schedule.checked(peer(1), clean(Some((4, id(9)))), 0, 0.5);
        schedule.look(peer(1), (8, id(5)));
        assert_eq!(schedule.next_check(&one, 1), Some((peer(1), (8, id(5)))));
        schedule.checked(peer(1), Checked::Through { next: None, is_clean: false }, 1, 0.5);
        schedule.look(peer(1), (8, id(5)));
        assert_eq!(schedule.next_check(&one, 2), Some((peer(1), (4, id(9)))));
        schedule.checked(peer(1), clean(Some((5, id(1)))), 2, 0.5);
        assert_eq!(schedule.next_check(&one, CHECK_MS + 2), Some((peer(1), (8, id(5)))));
    }
}
