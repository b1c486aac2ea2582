//! The newest signed beacon of every member: how far each durably is, as it said itself.

use std::collections::BTreeMap;

use starling_schema::codec;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::signed::{Beacon, STATEMENT_BYTES_MAX, Signed, SignedError, StatementId};
use starling_schema::stream::{Stream, Watermarks};

use crate::proto::membership::Membership;

/// A beacon adds to the last whole one while no more than one stream in so many moved since; then it is whole again.
const WHOLE_PARTS: usize = 3;

/// A member's newest word on how far it durably is: a whole beacon, and perhaps one that adds to it.
#[derive(Clone, Debug)]
pub struct Said {
    number: u64,
    moved: u64,
    whole: Part,
    since: Option<Part>,
}

/// A beacon as it was signed.
#[derive(Clone, Debug)]
struct Part {
    id: StatementId,
    signed: Signed,
    durable: Watermarks,
}

impl Said {
    /// Rises with every beacon of the member.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The number with which it first said that it is so far: later ones say the same again.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// How far along a stream it is.
    #[must_use]
    pub fn get(&self, stream: Stream) -> u64 {
        self.parts().map(|part| part.durable.get(stream)).max().unwrap_or(0)
    }

    /// How far it is in all streams.
    #[must_use]
    pub fn durable(&self) -> Watermarks {
        self.parts().flat_map(|part| part.durable.iter()).collect()
    }

    /// The name of the whole one.
    #[must_use]
    pub fn whole(&self) -> StatementId {
        self.whole.id
    }

    /// What was signed, the whole one first.
    pub fn signed(&self) -> impl Iterator<Item = &Signed> {
        self.parts().map(|part| &part.signed)
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let further = |said: &Self| said.since.as_ref().map(|part| part.durable.clone()).unwrap_or_default();
        let same_whole = self.whole.id == other.whole.id;
        if same_whole { further(self) == further(other) } else { self.durable() == other.durable() }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        [&self.whole].into_iter().chain(&self.since)
    }
}

/// How far every member durably is, as it said itself.
#[derive(Clone, Debug, Default)]
pub struct Beacons(BTreeMap<DeviceId, Said>);

/// A beacon that was offered. Whoever carried it has what it says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Offered {
    /// Whose it is.
    pub author: DeviceId,
    /// Its number.
    pub number: u64,
    /// The whole beacon that it is or adds to.
    pub whole: StatementId,
    /// What it was good for.
    pub serves: Use,
}

/// What a beacon was good for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Use {
    /// This is news.
    News(Watermarks),
    /// It is as old as the one held, or older.
    Old,
    /// It adds to a whole one that is not held. Nothing of it was used.
    Lacking,
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
    /// Takes a beacon from whoever carries it, if it is newer than the one held of its author. `along` is what came just
    /// before it: the whole one, where it adds to one that may not be held.
    ///
    /// # Errors
    /// When it is not a signed beacon of a member about this library.
    pub fn offer(
        &mut self,
        signed: Signed,
        along: Option<&Signed>,
        membership: &Membership,
    ) -> Result<Offered, BeaconError> {
        let claimed: Beacon = codec::decode::<_, STATEMENT_BYTES_MAX>(&signed.bytes).map_err(SignedError::from)?;
        // Most come several times: what would be no news is not worth checking a signature.
        let (author, number, id) = (claimed.author.device(), claimed.number, signed.id());
        let whole = claimed.since.unwrap_or(id);
        if self.of(author).is_some_and(|held| number <= held.number) {
            return Ok(Offered { author, number, whole, serves: Use::Old });
        }
        let Beacon { library, since, durable, .. } = signed.open()?;
        if library != membership.library() {
            return Err(BeaconError::OtherLibrary { author, library });
        }
        if !membership.is_member(author) {
            return Err(BeaconError::NotAMember(author));
        }
        let held = self.of(author);
        let mut news = durable.clone();
        let part = Part { id, signed, durable };
        let (whole_part, since) = match (since, held) {
            (None, _) => (part, None),
            (Some(since), Some(held)) if held.whole() == since => (held.whole.clone(), Some(part)),
            (Some(since), _) => {
                let along = along.filter(|along| along.id() == since).map(whole_of).transpose()?.flatten();
                let Some(along) = along else {
                    return Ok(Offered { author, number, whole, serves: Use::Lacking });
                };
                news.join(&along.durable);
                (along, Some(part))
            }
        };
        let mut said = Said { number, moved: number, whole: whole_part, since };
        if let Some(held) = held.filter(|held| held.says_the_same(&said)) {
            said.moved = held.moved;
        }
        self.0.insert(author, said);
        Ok(Offered { author, number, whole, serves: Use::News(news) })
    }

    /// What a device has to say next of how far it is: what its beacon adds to, and what it adds. It is a whole one when
    /// there is none to add to, or when that would be no shorter.
    #[must_use]
    pub fn next(&self, device: DeviceId, durable: &Watermarks) -> (Option<StatementId>, Watermarks) {
        let whole = self.of(device).filter(|held| durable.covers(&held.whole.durable));
        let added = whole.map(|held| {
            let further: Watermarks =
                durable.iter().filter(|(stream, through)| *through > held.whole.durable.get(*stream)).collect();
            (held, further)
        });
        match added {
            Some((held, further)) if further.iter().count() * WHOLE_PARTS <= durable.iter().count() => {
                (Some(held.whole()), further)
            }
            _ => (None, durable.clone()),
        }
    }

    /// What a device said last.
    #[must_use]
    pub fn of(&self, device: DeviceId) -> Option<&Said> {
        self.0.get(&device)
    }

    /// What every member said last.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (DeviceId, &Said)> {
        self.0.iter().map(|(device, said)| (*device, said))
    }

    /// How far along a stream all of these members durably are: what is below may be pruned. A member of which no
    /// beacon is known has nothing; of no members at all, nothing is said either, so it is 0.
    #[must_use]
    pub fn acked_by_all(&self, members: impl IntoIterator<Item = DeviceId>, stream: Stream) -> u64 {
        let durable = |device| self.of(device).map_or(0, |said| said.get(stream));
        members.into_iter().map(durable).min().unwrap_or(0)
    }

    /// Drops the beacons of those who are no members any more.
    pub fn retain_members(&mut self, membership: &Membership) {
        self.0.retain(|device, _| membership.is_member(*device));
    }
}

/// A whole beacon, whose author named it; none for one that adds to another.
fn whole_of(signed: &Signed) -> Result<Option<Part>, SignedError> {
    let beacon: Beacon = signed.open()?;
    Ok(beacon.since.is_none().then(|| Part { id: signed.id(), signed: signed.clone(), durable: beacon.durable }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use starling_schema::key::DeviceSecret;
    use starling_schema::stream::Watermarks;

    use super::*;

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
        said(library, author, number, None, Watermarks::from_iter([(stream(), through)]))
    }

    fn said(library: LibraryId, author: u8, number: u64, since: Option<StatementId>, durable: Watermarks) -> Signed {
        let beacon = Beacon { library, author: secret(author).public(), number, since, durable };
        Signed::new(&beacon, &secret(author)).unwrap()
    }

    #[test]
    fn only_a_higher_number_is_news() {
        let (mut beacons, membership) = (Beacons::default(), two());
        let library = membership.library();
        let mut offer = |number, through| {
            let offered = beacons.offer(beacon(library, 1, number, through), None, &membership).unwrap();
            assert_eq!((offered.author, offered.number), (secret(1).device(), number));
            offered.serves
        };
        assert_eq!(offer(5, 10), Use::News(Watermarks::from_iter([(stream(), 10)])));
        assert_eq!(offer(5, 99), Use::Old);
        assert_eq!(offer(4, 99), Use::Old);
        let held = beacons.of(secret(1).device()).unwrap();
        assert_eq!((held.number(), held.get(stream())), (5, 10));
        assert_eq!(held.signed().collect::<Vec<_>>(), [&beacon(library, 1, 5, 10)]);
    }

    #[test]
    fn a_forged_beacon_is_refused_whatever_its_number() {
        let (mut beacons, membership) = (Beacons::default(), two());
        let mut forged = beacon(membership.library(), 1, 5, 10);
        forged.signature = beacon(membership.library(), 2, 5, 10).signature;
        assert!(matches!(beacons.offer(forged, None, &membership), Err(BeaconError::Signed(SignedError::Forged(_)))));
        assert!(beacons.of(secret(1).device()).is_none());
    }

    #[test]
    fn a_forged_beacon_never_replaces_one_that_is_held() {
        let (mut beacons, membership) = (Beacons::default(), two());
        beacons.offer(beacon(membership.library(), 1, 5, 10), None, &membership).unwrap();
        for number in [4, 5, 6, u64::MAX] {
            let mut forged = beacon(membership.library(), 1, number, 99);
            forged.signature = beacon(membership.library(), 2, number, 99).signature;
            let offered = beacons.offer(forged, None, &membership);
            assert!(!matches!(offered, Ok(Offered { serves: Use::News(_), .. })), "{number}");
        }
        assert_eq!(beacons.of(secret(1).device()).unwrap().get(stream()), 10);
    }

    #[test]
    fn a_beacon_of_a_stranger_or_of_another_library_is_refused() {
        let (mut beacons, membership) = (Beacons::default(), two());
        let stranger = beacons.offer(beacon(membership.library(), 3, 1, 1), None, &membership).map(|_| ());
        assert!(matches!(stranger, Err(BeaconError::NotAMember(device)) if device == secret(3).device()));
        let elsewhere = beacons.offer(beacon(LibraryId::MIN, 1, 1, 1), None, &membership).map(|_| ());
        assert!(matches!(elsewhere, Err(BeaconError::OtherLibrary { library: LibraryId::MIN, .. })));
    }

    #[test]
    fn a_statement_of_membership_is_no_beacon() {
        let membership = two();
        let statement = membership.statements().next().unwrap().clone();
        assert!(matches!(Beacons::default().offer(statement, None, &membership), Err(BeaconError::Signed(_))));
    }

    #[test]
    fn what_all_acked_is_what_the_slowest_acked() {
        let (mut beacons, membership) = (Beacons::default(), two());
        let (one, both) = ([secret(1).device()], [secret(1).device(), secret(2).device()]);
        beacons.offer(beacon(membership.library(), 1, 1, 10), None, &membership).unwrap();
        assert_eq!((beacons.acked_by_all(one, stream()), beacons.acked_by_all(both, stream())), (10, 0));
        beacons.offer(beacon(membership.library(), 2, 1, 7), None, &membership).unwrap();
        assert_eq!(beacons.acked_by_all(both, stream()), 7);
        assert_eq!(beacons.acked_by_all([], stream()), 0);
    }

    #[test]
    fn a_removed_member_stops_counting() {
        let (mut beacons, mut membership) = (Beacons::default(), two());
        beacons.offer(beacon(membership.library(), 2, 1, 7), None, &membership).unwrap();
        let removal = membership.remove(secret(2).public(), 0, &secret(1)).unwrap();
        membership.insert(removal).unwrap();
        beacons.retain_members(&membership);
        assert_eq!(beacons.iter().len(), 0);
        assert!(beacons.offer(beacon(membership.library(), 2, 2, 9), None, &membership).is_err());
    }

    fn streams(count: u8) -> impl Iterator<Item = Stream> {
        (1..=count).map(|device| Stream::state(secret(device).device()))
    }

    #[test]
    fn what_adds_to_a_whole_beacon_is_of_use_to_those_who_have_that_one() {
        let (mut author, mut other, membership) = (Beacons::default(), Beacons::default(), two());
        let (library, device) = (membership.library(), secret(1).device());
        let mut durable: Watermarks = streams(9).map(|stream| (stream, 1)).collect();
        assert_eq!(author.next(device, &durable), (None, durable.clone()));
        let whole = said(library, 1, 1, None, durable.clone());
        author.offer(whole.clone(), None, &membership).unwrap();
        durable.raise(stream(), 4);
        let (since, further) = author.next(device, &durable);
        assert_eq!((since, further.iter().collect::<Vec<_>>()), (Some(whole.id()), vec![(stream(), 4)]));
        let added = said(library, 1, 2, since, further.clone());
        assert_eq!(other.offer(added.clone(), None, &membership).unwrap().serves, Use::Lacking);
        assert!(other.of(device).is_none());
        other.offer(whole.clone(), None, &membership).unwrap();
        assert_eq!(other.offer(added.clone(), None, &membership).unwrap().serves, Use::News(further));
        let held = other.of(device).unwrap();
        assert_eq!((held.durable(), held.number(), held.whole()), (durable, 2, whole.id()));
        assert_eq!(held.signed().collect::<Vec<_>>(), [&whole, &added]);
    }

    #[test]
    fn a_whole_beacon_that_comes_along_is_taken_though_one_with_a_higher_number_is_held() {
        let (mut beacons, membership) = (Beacons::default(), two());
        let library = membership.library();
        let whole = beacon(library, 1, 1, 10);
        let added = said(library, 1, 9, Some(whole.id()), Watermarks::from_iter([(stream(), 12)]));
        beacons.offer(beacon(library, 1, 5, 7), None, &membership).unwrap();
        let other = beacon(library, 1, 2, 99);
        assert_eq!(beacons.offer(added.clone(), Some(&other), &membership).unwrap().serves, Use::Lacking);
        let mut forged = whole.clone();
        forged.signature = other.signature;
        assert!(beacons.offer(added.clone(), Some(&forged), &membership).is_err());
        assert_eq!(beacons.of(secret(1).device()).map(Said::number), Some(5));
        beacons.offer(added, Some(&whole), &membership).unwrap();
        let held = beacons.of(secret(1).device()).unwrap();
        assert_eq!((held.number(), held.get(stream()), held.whole()), (9, 12, whole.id()));
    }

    #[test]
    fn where_much_moved_or_fell_back_the_next_beacon_is_whole() {
        let (mut author, membership) = (Beacons::default(), two());
        let device = secret(1).device();
        let all: Watermarks = streams(9).map(|stream| (stream, 5)).collect();
        author.offer(said(membership.library(), 1, 1, None, all.clone()), None, &membership).unwrap();
        assert_eq!(author.next(device, &all), (author.of(device).map(Said::whole), Watermarks::new()));
        for (moved, is_whole) in [(3, false), (4, true)] {
            let mut durable = all.clone();
            for stream in streams(moved) {
                durable.raise(stream, 6);
            }
            assert_eq!(author.next(device, &durable).0.is_none(), is_whole, "{moved}");
        }
        let fell: Watermarks = streams(9).map(|stream| (stream, 4)).collect();
        assert_eq!(author.next(device, &fell), (None, fell.clone()));
    }

    proptest! {
        /// Each step raises a stream; the author says it; whether it arrives, and whether the whole one comes along, is
        /// drawn.
        #[test]
        fn nobody_is_believed_to_be_further_than_it_said(
            steps in prop::collection::vec((1..9_u8, any::<bool>(), any::<bool>()), 1..60),
        ) {
            let (mut author, mut other, membership) = (Beacons::default(), Beacons::default(), two());
            let device = secret(1).device();
            let mut durable = Watermarks::new();
            for (number, (stream, arrives, again)) in (1..).zip(steps) {
                let stream = Stream::state(secret(stream).device());
                durable.raise(stream, durable.get(stream) + 1);
                let (since, further) = author.next(device, &durable);
                let signed = said(membership.library(), 1, number, since, further);
                author.offer(signed.clone(), None, &membership).unwrap();
                let whole = author.of(device).unwrap().signed().next().cloned().unwrap();
                let knows = again || other.of(device).is_some_and(|held| held.whole() == whole.id());
                if arrives {
                    other.offer(signed, again.then_some(&whole), &membership).unwrap();
                }
                let believed = other.of(device).map(Said::durable).unwrap_or_default();
                prop_assert!(durable.covers(&believed));
                if arrives && (knows || since.is_none()) {
                    prop_assert_eq!(&believed, &durable);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_highest_number_wins_in_every_order(numbers in Just((1..8_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let (mut beacons, membership) = (Beacons::default(), two());
            for number in numbers {
                beacons.offer(beacon(membership.library(), 1, number, number), None, &membership).unwrap();
            }
            prop_assert_eq!(beacons.of(secret(1).device()).map(Said::number), Some(7));
        }
    }
}
