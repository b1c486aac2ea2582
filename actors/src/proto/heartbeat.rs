//! Heartbeats: when to send one, and the newest signed beacon of every member.

use std::collections::BTreeMap;

use starling_schema::codec;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::signed::{Beacon, STATEMENT_BYTES_MAX, Signed, SignedError};
use starling_schema::stream::Stream;

use crate::proto::membership::Membership;
use crate::proto::retry::jittered;

/// How long after a change the next heartbeat goes out: changes that come together share one, and people do not notice.
pub const SOON_MS: u64 = 100;

/// How long after that the same news is sent again, in case it was lost. Doubles while nothing changes.
pub const INTERVAL_MS_MIN: u64 = 1_000;

/// The longest pause between heartbeats: a loss that went unnoticed is made good within a minute.
pub const INTERVAL_MS_MAX: u64 = 60_000;

/// When to send a heartbeat: soon after a change, then ever more rarely.
#[derive(Clone, Debug)]
pub struct HeartbeatSchedule {
    due_at_ms: u64,
    interval_ms: u64,
}

impl HeartbeatSchedule {
    /// A schedule whose first heartbeat is due soon. `jitter` is drawn at random from 0 to 1.
    #[must_use]
    pub fn new(now_ms: u64, jitter: f64) -> Self {
        let due_at_ms = now_ms.saturating_add(jittered(SOON_MS, jitter));
        Self { due_at_ms, interval_ms: INTERVAL_MS_MIN }
    }

    /// Durable watermarks, membership or the circle of connected peers changed. More changes before the heartbeat goes
    /// out do not put it off.
    pub fn changed(&mut self, now_ms: u64, jitter: f64) {
        self.due_at_ms = self.due_at_ms.min(now_ms.saturating_add(jittered(SOON_MS, jitter)));
        self.interval_ms = INTERVAL_MS_MIN;
    }

    /// Whether to send one now. If so, the next one is scheduled.
    pub fn is_due(&mut self, now_ms: u64, jitter: f64) -> bool {
        if now_ms < self.due_at_ms {
            return false;
        }
        self.due_at_ms = now_ms.saturating_add(jittered(self.interval_ms, jitter));
        self.interval_ms = self.interval_ms.saturating_mul(2).min(INTERVAL_MS_MAX);
        true
    }

    /// When the next one is due, in milliseconds since 1970.
    #[must_use]
    pub fn next_due(&self) -> u64 {
        self.due_at_ms
    }
}

/// The newest beacon of every member: how far each durably is, as it said itself.
#[derive(Clone, Debug, Default)]
pub struct Beacons {
    newest: BTreeMap<DeviceId, (Beacon, Signed)>,
}

/// Why a beacon was refused. The ones held are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeaconError {
    /// It does not decode, or its author did not sign it.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// It speaks of another library.
    #[error("a beacon of {author} speaks of library {library}")]
    OtherLibrary {
        /// Who said it.
        author: DeviceId,
        /// Which library it is about.
        library: LibraryId,
    },
    /// Its author is no member, or none any more.
    #[error("a beacon of {0}, which is not a member")]
    NotAMember(DeviceId),
}

impl Beacons {
    /// Takes a beacon from whoever carries it; gives it back opened if it is newer than the one held of its author.
    ///
    /// # Errors
    /// When it is not a signed beacon of a member about this library.
    pub fn offer(&mut self, signed: Signed, membership: &Membership) -> Result<Option<&Beacon>, BeaconError> {
        let claimed: Beacon = codec::decode::<_, STATEMENT_BYTES_MAX>(&signed.bytes).map_err(SignedError::from)?;
        // Most come several times: what would be no news is not worth checking a signature.
        if self.of(claimed.author.device()).is_some_and(|held| claimed.number <= held.number) {
            return Ok(None);
        }
        let beacon: Beacon = signed.open()?;
        let author = beacon.author.device();
        if beacon.library != membership.library() {
            return Err(BeaconError::OtherLibrary { author, library: beacon.library });
        }
        if !membership.is_member(author) {
            return Err(BeaconError::NotAMember(author));
        }
        self.newest.insert(author, (beacon, signed));
        Ok(self.of(author))
    }

    /// The newest beacon of a device.
    #[must_use]
    pub fn of(&self, device: DeviceId) -> Option<&Beacon> {
        self.newest.get(&device).map(|(beacon, _)| beacon)
    }

    /// Every beacon as it was signed, to be stored or passed on.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (DeviceId, &Signed)> {
        self.newest.iter().map(|(device, (_, signed))| (*device, signed))
    }

    /// How far along a stream all of these members durably are: what is below may be pruned. A member of which no
    /// beacon is known has nothing; of no members at all, nothing is said either, so it is 0.
    #[must_use]
    pub fn acked_by_all(&self, members: impl IntoIterator<Item = DeviceId>, stream: Stream) -> u64 {
        let durable = |device| self.of(device).map_or(0, |beacon| beacon.durable.get(stream));
        members.into_iter().map(durable).min().unwrap_or(0)
    }

    /// Drops the beacons of those who are no members any more.
    pub fn retain_members(&mut self, membership: &Membership) {
        self.newest.retain(|device, _| membership.is_member(*device));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use starling_schema::key::DeviceSecret;
    use starling_schema::stream::Watermarks;

    use super::*;

    const EVEN: f64 = 0.5;

    fn secret(n: u8) -> DeviceSecret {
        DeviceSecret::from_bytes(&[n; 32])
    }

    fn two() -> Membership {
        let (_, mut membership) = Membership::found("home", "one", [0; 16], 0, &secret(1)).unwrap();
        let admit = membership.admit(secret(2).public(), "two", 0, &secret(1)).unwrap();
        membership.insert(admit).unwrap();
        membership
    }

    fn stream() -> Stream {
        Stream::shared(secret(1).device())
    }

    fn beacon(library: LibraryId, author: u8, number: u64, through: u64) -> Signed {
        let durable = Watermarks::from_iter([(stream(), through)]);
        Signed::new(&Beacon { library, author: secret(author).public(), number, durable }, &secret(author)).unwrap()
    }

    #[test]
    fn a_heartbeat_follows_a_change_and_backs_off_to_a_minute() {
        let mut schedule = HeartbeatSchedule::new(0, EVEN);
        let mut gaps_s = Vec::new();
        let mut now_ms = schedule.next_due();
        assert_eq!(now_ms, 100);
        for _ in 0..8 {
            assert!(schedule.is_due(now_ms, EVEN));
            gaps_s.push((schedule.next_due() - now_ms) / 1_000);
            now_ms = schedule.next_due();
        }
        assert_eq!(gaps_s, [1, 2, 4, 8, 16, 32, 60, 60]);
        schedule.changed(now_ms - 10_000, EVEN);
        assert_eq!(schedule.next_due(), now_ms - 10_000 + SOON_MS);
    }

    #[test]
    fn changes_without_end_do_not_put_a_heartbeat_off() {
        let mut schedule = HeartbeatSchedule::new(0, EVEN);
        assert!(schedule.is_due(100, EVEN));
        for now_ms in 500..600 {
            schedule.changed(now_ms, EVEN);
            assert!(!schedule.is_due(now_ms, EVEN));
        }
        assert!(schedule.is_due(600, EVEN));
    }

    #[test]
    fn only_a_higher_number_is_news() {
        let (mut beacons, membership) = (Beacons::default(), two());
        let library = membership.library();
        assert_eq!(beacons.offer(beacon(library, 1, 5, 10), &membership).unwrap().map(|news| news.number), Some(5));
        assert_eq!(beacons.offer(beacon(library, 1, 5, 99), &membership).unwrap(), None);
        assert_eq!(beacons.offer(beacon(library, 1, 4, 99), &membership).unwrap(), None);
        assert_eq!(beacons.of(secret(1).device()).unwrap().durable.get(stream()), 10);
        assert_eq!(beacons.iter().collect::<Vec<_>>(), [(secret(1).device(), &beacon(library, 1, 5, 10))]);
    }

    #[test]
    fn a_forged_beacon_is_refused_whatever_its_number() {
        let (mut beacons, membership) = (Beacons::default(), two());
        let mut forged = beacon(membership.library(), 1, 5, 10);
        forged.signature = beacon(membership.library(), 2, 5, 10).signature;
        assert!(matches!(beacons.offer(forged, &membership), Err(BeaconError::Signed(SignedError::Forged(_)))));
        assert!(beacons.of(secret(1).device()).is_none());
    }

    #[test]
    fn a_forged_beacon_never_replaces_one_that_is_held() {
        let (mut beacons, membership) = (Beacons::default(), two());
        beacons.offer(beacon(membership.library(), 1, 5, 10), &membership).unwrap();
        for number in [4, 5, 6, u64::MAX] {
            let mut forged = beacon(membership.library(), 1, number, 99);
            forged.signature = beacon(membership.library(), 2, number, 99).signature;
            assert!(!matches!(beacons.offer(forged, &membership), Ok(Some(_))), "{number}");
        }
        assert_eq!(beacons.of(secret(1).device()).unwrap().durable.get(stream()), 10);
    }

    #[test]
    fn a_beacon_of_a_stranger_or_of_another_library_is_refused() {
        let (mut beacons, membership) = (Beacons::default(), two());
        let stranger = beacons.offer(beacon(membership.library(), 3, 1, 1), &membership).map(|_| ());
        assert!(matches!(stranger, Err(BeaconError::NotAMember(device)) if device == secret(3).device()));
        let elsewhere = beacons.offer(beacon(LibraryId::MIN, 1, 1, 1), &membership).map(|_| ());
        assert!(matches!(elsewhere, Err(BeaconError::OtherLibrary { library: LibraryId::MIN, .. })));
    }

    #[test]
    fn a_statement_of_membership_is_no_beacon() {
        let membership = two();
        let statement = membership.statements().next().unwrap().clone();
        assert!(matches!(Beacons::default().offer(statement, &membership), Err(BeaconError::Signed(_))));
    }

    #[test]
    fn what_all_acked_is_what_the_slowest_acked() {
        let (mut beacons, membership) = (Beacons::default(), two());
        let (one, both) = ([secret(1).device()], [secret(1).device(), secret(2).device()]);
        beacons.offer(beacon(membership.library(), 1, 1, 10), &membership).unwrap();
        assert_eq!((beacons.acked_by_all(one, stream()), beacons.acked_by_all(both, stream())), (10, 0));
        beacons.offer(beacon(membership.library(), 2, 1, 7), &membership).unwrap();
        assert_eq!(beacons.acked_by_all(both, stream()), 7);
        assert_eq!(beacons.acked_by_all([], stream()), 0);
    }

    #[test]
    fn a_removed_member_stops_counting() {
        let (mut beacons, mut membership) = (Beacons::default(), two());
        beacons.offer(beacon(membership.library(), 2, 1, 7), &membership).unwrap();
        let removal = membership.remove(secret(2).public(), 0, &secret(1)).unwrap();
        membership.insert(removal).unwrap();
        beacons.retain_members(&membership);
        assert_eq!(beacons.iter().len(), 0);
        assert!(beacons.offer(beacon(membership.library(), 2, 2, 9), &membership).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_highest_number_wins_in_every_order(numbers in Just((1..8_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let (mut beacons, membership) = (Beacons::default(), two());
            for number in numbers {
                beacons.offer(beacon(membership.library(), 1, number, number), &membership).unwrap();
            }
            prop_assert_eq!(beacons.of(secret(1).device()).map(|beacon| beacon.number), Some(7));
        }
    }
}
