//! Where members were last known to be, and when to dial them again. Local knowledge, exchanged as hints.

use std::collections::BTreeMap;

use starling_schema::codec;
use starling_schema::ids::DeviceId;

use crate::store::ledger::Note;

/// The setting that keeps the book.
pub(crate) const BOOK_SETTING: &str = "addresses";

/// Addresses kept per device: a few interfaces, two transports.
const ADDRESSES_MAX: usize = 8;

/// Devices kept: four times as many as can be connected, for those that are away.
const DEVICES_MAX: usize = 256;

/// The longest address: the longest DNS name and then some.
const ADDRESS_BYTES_MAX: usize = 320;

/// The largest stored book.
const BOOK_BYTES_MAX: usize = 1024 * 1024;

/// The first wait after a dial, doubled with each, in milliseconds.
const DIAL_AGAIN_MS: u64 = 2_000;

/// The longest wait between two dials of a member that is away.
const DIAL_AGAIN_MS_MAX: u64 = 60_000;

/// Owns the known addresses.
#[derive(Debug)]
pub(crate) struct AddressBook {
    this: DeviceId,
    own: Vec<String>,
    known: BTreeMap<DeviceId, Vec<String>>,
    dials: BTreeMap<DeviceId, Dialed>,
}

#[derive(Clone, Copy, Debug)]
struct Dialed {
    next_at_ms: u64,
    wait_ms: u64,
}

impl AddressBook {
    /// Reads the stored book; a damaged one is forgotten, addresses are learned again.
    pub(crate) fn restore(this: DeviceId, stored: Option<&[u8]>) -> Self {
        let known = stored.and_then(|bytes| codec::decode::<_, BOOK_BYTES_MAX>(bytes).ok()).unwrap_or_default();
        Self { this, own: Vec::new(), known, dials: BTreeMap::new() }
    }

    /// A book that knows one other device, and keeps what it knows of this one.
    pub(crate) fn of(this: DeviceId, own: Vec<String>, device: DeviceId, addresses: Vec<String>) -> Self {
        let mut book = Self::restore(this, None);
        book.own = own;
        book.learn(device, addresses);
        book
    }

    /// The book as it is stored.
    pub(crate) fn note(&self) -> Note {
        let mut known = self.known.clone();
        known.insert(self.this, self.own.clone());
        Note::Setting(BOOK_SETTING, codec::encode(&known, BOOK_BYTES_MAX).unwrap_or_default())
    }

    /// The same addresses with every port that may be any one replaced by that of the last run: whoever knows this
    /// device finds it again. None when there is nothing to replace.
    pub(crate) fn at_known_ports(&self, listen: &[String]) -> Option<Vec<String>> {
        let before = self.known.get(&self.this)?;
        let port = |protocol: &str| {
            let mut words = before.iter().flat_map(|address| address.split('/').zip(address.split('/').skip(1)));
            words.find(|(word, _)| *word == protocol).map(|(_, port)| port.to_owned())
        };
        let replace = |address: &String| {
            let mut address = address.clone();
            for protocol in ["tcp", "udp"] {
                if let Some(port) = port(protocol) {
                    let any = format!("/{protocol}/0");
                    let at = address
                        .find(&any)
                        .filter(|at| !address[at + any.len()..].starts_with(|c: char| c.is_ascii_digit()));
                    if let Some(at) = at {
                        address.replace_range(at..at + any.len(), &format!("/{protocol}/{port}"));
                    }
                }
            }
            address
        };
        let replaced: Vec<String> = listen.iter().map(replace).collect();
        (replaced != listen).then_some(replaced)
    }

    /// This device can be reached here. The newest comes first: those of networks that it has left make room.
    pub(crate) fn listening(&mut self, address: String) {
        self.own.retain(|known| *known != address);
        self.own.insert(0, address);
        self.own.truncate(ADDRESSES_MAX);
    }

    /// Forgets who is no member where there is no room left: strangers on the same network must not take that of members.
    /// As long as there is, they are kept: one of them may be about to join.
    pub(crate) fn make_room(&mut self, is_member: impl Fn(DeviceId) -> bool) {
        if self.known.len() >= DEVICES_MAX {
            self.known.retain(|device, _| is_member(*device));
            self.dials.retain(|device, _| is_member(*device));
        }
    }

    /// Where this device can be reached.
    pub(crate) fn own(&self) -> Vec<String> {
        self.own.clone()
    }

    /// Puts the newest addresses of a device first. Says whether that is news; then it is dialed soon.
    pub(crate) fn learn(&mut self, device: DeviceId, addresses: Vec<String>) -> bool {
        let sound: Vec<String> =
            addresses.into_iter().filter(|a| a.len() <= ADDRESS_BYTES_MAX).take(ADDRESSES_MAX).collect();
        if device == self.this
            || sound.is_empty()
            || (self.known.len() >= DEVICES_MAX && !self.known.contains_key(&device))
        {
            return false;
        }
        let known = self.known.entry(device).or_default();
        if sound.iter().all(|address| known.contains(address)) {
            return false;
        }
        known.retain(|address| !sound.contains(address));
        known.splice(0..0, sound);
        known.truncate(ADDRESSES_MAX);
        self.dials.remove(&device);
        true
    }

    /// Every known address, our own among them.
    pub(crate) fn all(&self) -> Vec<(DeviceId, Vec<String>)> {
        let others = self.known.iter().filter(|(device, _)| **device != self.this);
        let own = (!self.own.is_empty()).then(|| (self.this, self.own.clone()));
        own.into_iter().chain(others.map(|(device, addresses)| (*device, addresses.clone()))).collect()
    }

    /// The addresses to dial, when it is time to; the next time is then further off.
    pub(crate) fn due(&mut self, device: DeviceId, now_ms: u64, jitter: f64) -> Option<Vec<String>> {
        let addresses = self.known.get(&device)?;
        let dialed = self.dials.entry(device).or_insert(Dialed { next_at_ms: now_ms, wait_ms: DIAL_AGAIN_MS });
        if dialed.next_at_ms > now_ms {
            return None;
        }
        let wait_ms = dialed.wait_ms;
        *dialed = Dialed {
            next_at_ms: now_ms + crate::proto::retry::jittered(wait_ms, jitter),
            wait_ms: (wait_ms * 2).min(DIAL_AGAIN_MS_MAX),
        };
        Some(addresses.clone())
    }

    /// When to dial a device next, in milliseconds of uptime; none while nobody knows where it is.
    pub(crate) fn next_due(&self, device: DeviceId) -> Option<u64> {
        self.known.get(&device)?;
        Some(self.dials.get(&device).map_or(0, |dialed| dialed.next_at_ms))
    }

    /// Everybody is dialed at once.
    pub(crate) fn retry_all(&mut self) {
        self.dials.clear();
    }

    /// The device is connected: when it goes it is dialed soon.
    pub(crate) fn reached(&mut self, device: DeviceId) {
        self.dials.remove(&device);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn device(n: u128) -> DeviceId {
        DeviceId(Uuid::from_u128(n))
    }

    fn texts(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(|address| (*address).to_owned()).collect()
    }

    #[test]
    fn a_device_listens_where_it_did_before_unless_told_a_port() {
        let own = texts(&["/ip4/10.0.0.1/tcp/4001", "/ip4/10.0.0.1/udp/4002/quic-v1"]);
        let Note::Setting(_, stored) = AddressBook::of(device(1), own, device(2), Vec::new()).note() else {
            panic!("a book is a setting");
        };
        let book = AddressBook::restore(device(1), Some(&stored));
        let any = texts(&["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"]);
        let again = texts(&["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4002/quic-v1"]);
        assert_eq!(book.at_known_ports(&any), Some(again));
        assert_eq!(book.at_known_ports(&texts(&["/ip4/0.0.0.0/tcp/09"])), None);
        assert_eq!(book.at_known_ports(&texts(&["/ip4/0.0.0.0/tcp/99"])), None);
        assert_eq!(AddressBook::restore(device(1), None).at_known_ports(&any), None);
    }

    #[test]
    fn a_device_that_moves_about_is_reached_where_it_came_last_and_strangers_are_forgotten() {
        let mut book = AddressBook::restore(device(1), None);
        for at in 0..20 {
            book.listening(format!("/ip4/10.0.0.{at}/tcp/1"));
        }
        book.listening("/ip4/10.0.0.15/tcp/1".to_owned());
        let own = book.own();
        assert_eq!((own.len(), own[0].as_str(), own[1].as_str()), (8, "/ip4/10.0.0.15/tcp/1", "/ip4/10.0.0.19/tcp/1"));
        for stranger in 2..=300 {
            book.learn(device(stranger), texts(&["/a"]));
        }
        assert!(!book.learn(device(999), texts(&["/a"])), "there is no room");
        book.make_room(|id| id == device(2));
        assert!(book.learn(device(999), texts(&["/a"])));
        assert!(book.next_due(device(2)).is_some() && book.next_due(device(3)).is_none());
        book.make_room(|_| false);
        assert!(book.next_due(device(999)).is_some(), "there is room");
    }

    #[test]
    fn the_newest_addresses_of_a_device_come_first_and_it_is_dialed_at_once() {
        let mut book = AddressBook::restore(device(1), None);
        assert!(book.learn(device(2), texts(&["/a"])));
        assert!(book.due(device(2), 0, 0.0).is_some());
        assert!(book.due(device(2), 1, 0.0).is_none());
        assert!(!book.learn(device(2), texts(&["/a"])));
        assert!(book.learn(device(2), texts(&["/b"])));
        assert_eq!(book.due(device(2), 1, 0.0), Some(texts(&["/b", "/a"])));
    }
}
