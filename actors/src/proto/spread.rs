//! Which beacons each connected peer has, by what went between us: what is to be said to it next.

use std::collections::BTreeMap;

use starling_schema::ids::DeviceId;
use starling_schema::signed::{Signed, StatementId};

use crate::proto::beacons::{Beacons, Said};
use crate::proto::membership::Membership;

/// The most beacons of one heartbeat; where there are more, they take turns.
pub const BEACONS_MAX: usize = 32;

/// The most bytes of them: with what is around them they fit a request of 64 KiB.
const BEACONS_BYTES_MAX: usize = 60 * 1024;

/// What a member said again without having moved is passed on this long after the last time: it lives.
const PASS_ON_MS: u64 = 10 * 60 * 1_000;

/// What a peer has of a member: the number of a beacon, and the name of the whole one.
type Has = (u64, Option<StatementId>);

/// What each connected peer has of each member.
#[derive(Clone, Debug, Default)]
pub struct Spread(BTreeMap<(DeviceId, DeviceId), Has>);

impl Spread {
    /// A peer carried a beacon of a member, so it has that one, unless it had a newer one before. A member has its own.
    pub fn carried(&mut self, peer: DeviceId, member: DeviceId, number: u64, whole: StatementId) {
        let known = self.0.entry((peer, member)).or_default();
        if member == peer || number >= known.0 {
            *known = (number, Some(whole));
        }
    }

    /// Our own beacon, and those of others that the peer may not have; also of the peer itself, when it says one with a
    /// lower number than it had. A whole one goes along where the peer may not have that. From now on it counts as
    /// having them. `turn` rises from one heartbeat to the next.
    pub fn next_for(&mut self, peer: DeviceId, own: DeviceId, beacons: &Beacons, turn: u64) -> Vec<Signed> {
        let has = |member, all: &Self| all.0.get(&(peer, member)).copied().unwrap_or_default();
        let is_due = |member: DeviceId, said: &Said| {
            let (had, _) = has(member, self);
            member == own || said.moved() > had || said.number() > had.saturating_add(PASS_ON_MS)
        };
        let mut due: Vec<(DeviceId, &Said)> = beacons.iter().filter(|(member, said)| is_due(*member, said)).collect();
        // Where there are more than fit, all have their turn; our own comes first.
        if due.len() > BEACONS_MAX {
            let turn = usize::try_from(turn).unwrap_or(0) % due.len();
            due.rotate_left(turn);
        }
        due.sort_by_key(|(member, _)| *member != own);
        let (mut news, mut bytes) = (Vec::new(), 0);
        for (member, said) in due {
            let whole = Some(said.whole());
            let held = usize::from(has(member, self).1 == whole && said.signed().count() > 1);
            let parts: Vec<Signed> = said.signed().skip(held).cloned().collect();
            bytes += parts.iter().map(|signed| signed.bytes.len() + signed.signature.len()).sum::<usize>();
            if !news.is_empty() && (bytes > BEACONS_BYTES_MAX || news.len() + parts.len() > BEACONS_MAX) {
                break;
            }
            news.extend(parts);
            self.0.insert((peer, member), (said.number(), whole));
        }
        news
    }

    /// The peer lacks the whole beacon of a member: it is to be told again. Says whether we believed that it has it.
    pub fn lacks(&mut self, peer: DeviceId, member: DeviceId) -> bool {
        self.0.remove(&(peer, member)).is_some()
    }

    /// Nothing is known any more of what the peer has.
    pub fn forget(&mut self, peer: DeviceId) {
        self.0.retain(|(with, _), _| *with != peer);
    }

    /// Drops those who are no members any more.
    pub fn retain_members(&mut self, membership: &Membership) {
        self.0.retain(|(with, member), _| membership.is_member(*with) && membership.is_member(*member));
    }
}

#[cfg(test)]
mod tests {
    use starling_schema::key::DeviceSecret;
    use starling_schema::signed::Beacon;
    use starling_schema::stream::{Stream, Watermarks};

    use super::*;

    const PEER: u8 = 2;

    fn secret(n: u8) -> DeviceSecret {
        DeviceSecret::from_bytes(&[n; 32])
    }

    fn device(n: u8) -> DeviceId {
        secret(n).device()
    }

    fn members(count: u8) -> Membership {
        let (_, mut membership) = Membership::found("home", "one", [0; 16], 0, &secret(1)).unwrap();
        for n in 2..=count {
            let admit = membership.admit(secret(n).public(), "more", 0, &secret(1)).unwrap();
            membership.insert(admit).unwrap();
        }
        membership
    }

    fn say(membership: &Membership, author: u8, number: u64, since: Option<StatementId>, through: u64) -> Signed {
        let durable = Watermarks::from_iter([(Stream::shared(device(author)), through)]);
        let author = secret(author);
        let beacon = Beacon { library: membership.library(), author: author.public(), number, since, durable };
        Signed::new(&beacon, &author).unwrap()
    }

    /// What a peer is told next by member 1.
    fn told(spread: &mut Spread, beacons: &Beacons) -> Vec<Signed> {
        spread.next_for(device(PEER), device(1), beacons, 0)
    }

    #[test]
    fn a_peer_is_told_of_others_once_of_ourselves_each_time_and_of_one_that_rests_seldom() {
        let (membership, mut beacons, mut spread) = (members(3), Beacons::default(), Spread::default());
        let (own, other) = (say(&membership, 1, 1, None, 1), say(&membership, 3, 1, None, 1));
        for signed in [&own, &other] {
            beacons.offer(signed.clone(), None, &membership).unwrap();
        }
        assert_eq!(told(&mut spread, &beacons), [own.clone(), other.clone()]);
        assert_eq!(told(&mut spread, &beacons), std::slice::from_ref(&own));
        for (number, is_told) in [(2, false), (1 + PASS_ON_MS, false), (2 + PASS_ON_MS, true)] {
            let again = say(&membership, 3, number, None, 1);
            beacons.offer(again.clone(), None, &membership).unwrap();
            assert_eq!(told(&mut spread, &beacons).contains(&again), is_told, "{number}");
        }
        spread.forget(device(PEER));
        assert_eq!(told(&mut spread, &beacons).len(), 2);
    }

    #[test]
    fn a_peer_is_not_told_what_it_carried_itself() {
        let (membership, mut beacons, mut spread) = (members(3), Beacons::default(), Spread::default());
        let other = say(&membership, 3, 5, None, 1);
        beacons.offer(other.clone(), None, &membership).unwrap();
        spread.carried(device(PEER), device(3), 5, other.id());
        assert_eq!(told(&mut spread, &beacons), []);
        // It forgot: what it says of another is no proof of that, its own word is.
        spread.carried(device(PEER), device(3), 4, other.id());
        assert_eq!(told(&mut spread, &beacons), []);
        let of_peer = say(&membership, PEER, 5, None, 1);
        beacons.offer(of_peer.clone(), None, &membership).unwrap();
        spread.carried(device(PEER), device(PEER), 5, of_peer.id());
        spread.carried(device(PEER), device(PEER), 4, of_peer.id());
        assert_eq!(told(&mut spread, &beacons), [of_peer]);
    }

    #[test]
    fn the_whole_beacon_goes_along_until_the_peer_has_it() {
        let (membership, mut beacons, mut spread) = (members(3), Beacons::default(), Spread::default());
        let whole = say(&membership, 3, 1, None, 1);
        let added = say(&membership, 3, 2, Some(whole.id()), 2);
        for signed in [&whole, &added] {
            beacons.offer(signed.clone(), None, &membership).unwrap();
        }
        assert_eq!(told(&mut spread, &beacons), [whole.clone(), added.clone()]);
        let further = say(&membership, 3, 3, Some(whole.id()), 3);
        beacons.offer(further.clone(), None, &membership).unwrap();
        assert_eq!(told(&mut spread, &beacons), std::slice::from_ref(&further));
        assert!(spread.lacks(device(PEER), device(3)));
        assert!(!spread.lacks(device(PEER), device(3)));
        assert_eq!(told(&mut spread, &beacons), [whole, further]);
    }

    #[test]
    fn where_there_are_more_than_fit_all_have_their_turn() {
        let members_count = 100;
        let (membership, mut beacons, mut spread) = (members(members_count), Beacons::default(), Spread::default());
        for n in 1..=members_count {
            beacons.offer(say(&membership, n, 1, None, 1), None, &membership).unwrap();
        }
        let mut heard = std::collections::BTreeSet::new();
        for turn in 0..4 {
            let news = spread.next_for(device(PEER), device(1), &beacons, turn);
            assert!(news.len() <= BEACONS_MAX);
            assert_eq!(news[0], say(&membership, 1, 1, None, 1), "our own comes first");
            heard.extend(news.iter().map(Signed::id));
        }
        assert_eq!(heard.len(), usize::from(members_count));
    }
}
