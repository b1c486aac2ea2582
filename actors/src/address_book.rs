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
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
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
    pub(crate) fn restore(stored: Option<&[u8]>) -> Self {
        let known = stored.and_then(|bytes| codec::decode::<_, BOOK_BYTES_MAX>(bytes).ok()).unwrap_or_default();
        Self { known, ..Self::default() }
    }

    /// A book that knows one device.
    pub(crate) fn of(device: DeviceId, addresses: Vec<String>) -> Self {
        let mut book = Self::default();
        book.learn(device, addresses);
        book
    }

    /// The book as it is stored.
    pub(crate) fn note(&self) -> Note {
        Note::Setting(BOOK_SETTING, codec::encode(&self.known, BOOK_BYTES_MAX).unwrap_or_default())
    }

    /// This device can be reached here.
    pub(crate) fn listening(&mut self, address: String) {
        if !self.own.contains(&address) && self.own.len() < ADDRESSES_MAX {
            self.own.push(address);
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
        if sound.is_empty() || (self.known.len() >= DEVICES_MAX && !self.known.contains_key(&device)) {
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
    pub(crate) fn all(&self, this: DeviceId) -> Vec<(DeviceId, Vec<String>)> {
        let others = self.known.iter().filter(|(device, _)| **device != this);
        let own = (!self.own.is_empty()).then(|| (this, self.own.clone()));
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

    /// The device is connected: when it goes it is dialed soon.
    pub(crate) fn reached(&mut self, device: DeviceId) {
        self.dials.remove(&device);
    }
}
