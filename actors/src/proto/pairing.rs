//! Pairing: the ticket that is carried by hand from a member to a new device, and the inviter's judgement of it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use data_encoding::BASE32_NOPAD;
use starling_schema::codec;
use starling_schema::ids::LibraryId;
use starling_schema::key::DeviceKey;
use starling_schema::wire::{JoinRefusal, JoinRequest};

/// The most addresses that a ticket names: more do not fit a QR code that a telephone reads.
pub const TICKET_ADDRESSES_MAX: usize = 8;

/// The longest address in a ticket, in bytes: a name of the longest kind with its port and protocols fits.
pub const TICKET_ADDRESS_BYTES_MAX: usize = 320;

/// The largest ticket once unpacked: all addresses at their longest, and names. Also bounds what is read of pasted text.
pub const TICKET_BYTES_MAX: usize = 4_096;

/// The most tickets that an inviter keeps, used and expired ones among them: every request is held against all of
/// them, and nobody hands out more at once.
pub const TICKETS_MAX: usize = 64;

/// In front of every ticket; the version follows.
const PREFIX: &str = "starling";

/// The version of the text form.
const VERSION: char = '1';

/// How many bytes of a hash stand behind the ticket: a slip of the pen passes once in four thousand million times.
const CHECKSUM_BYTES: usize = 4;

/// An invitation to a library. Whoever holds its text may join once, so it is shown to one person only.
#[derive(Clone, Eq, PartialEq, Encode, Decode)]
pub struct Ticket {
    /// The library to join.
    pub library: LibraryId,
    /// The library's name, for the joiner to recognise.
    pub library_name: Option<String>,
    /// The inviter's key: only the device that proves it is answered.
    pub inviter: DeviceKey,
    /// Where the inviter may be reached, as multiaddresses; the text form holds the first [`TICKET_ADDRESSES_MAX`].
    pub addresses: Vec<String>,
    /// What the joiner proves to hold.
    pub secret: [u8; 16],
    /// When it stops being valid, by the inviter's wall clock in milliseconds since 1970.
    pub expires_at_ms: u64,
}

/// Why a text is no ticket that can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It is something else.
    #[error("this is not a ticket: a ticket starts with \"starling1\"; copy what `starling invite` printed")]
    NotATicket,
    /// A character was lost or changed on the way.
    #[error("the ticket was altered or cut off: copy it again, whole")]
    Altered,
    /// The inviter's program is newer than this one.
    #[error("the ticket was made by a newer version of starling: upgrade this device, then use it again")]
    Newer,
}

/// A ticket's name where it is stored: the hash of its secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Encode, Decode)]
pub struct TicketId(pub [u8; 32]);

/// A ticket as its inviter keeps it.
#[derive(Clone, Eq, PartialEq)]
pub struct IssuedTicket {
    /// What the joiner must prove to hold.
    pub secret: [u8; 16],
    /// When it stops being valid, in milliseconds since 1970.
    pub expires_at_ms: u64,
    /// Who joined with it.
    pub used_by: Option<DeviceKey>,
}

/// The tickets that this device has issued.
#[derive(Clone, Debug, Default)]
pub struct Tickets {
    tickets: BTreeMap<TicketId, IssuedTicket>,
}

/// What to do about a request to join.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Admit the key and burn the ticket, in one transaction.
    Admit {
        /// The ticket that the request proves.
        ticket: TicketId,
    },
    /// The key was admitted with this ticket already, and the answer was lost: give it again.
    AgainSameAnswer {
        /// The ticket that the request proves.
        ticket: TicketId,
    },
    /// Change nothing and say why.
    Refuse(JoinRefusal),
}

/// Why a ticket was not issued. The others are as they were.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketsError {
    /// [`TICKETS_MAX`] are kept already.
    #[error("{TICKETS_MAX} tickets are out already: wait until one expires")]
    Full,
}

/// What a joiner sends to prove that it holds a ticket's secret: a BLAKE3 hash over both public keys, keyed by the
/// secret. It is of no use to anybody with another key, or towards another inviter.
#[must_use]
pub fn proof(secret: &[u8; 16], inviter: DeviceKey, joiner: DeviceKey) -> [u8; 32] {
    *keyed_hash(secret, inviter, joiner).as_bytes()
}

fn keyed_hash(secret: &[u8; 16], inviter: DeviceKey, joiner: DeviceKey) -> blake3::Hash {
    let key = blake3::derive_key("starling 2026 pairing proof", secret);
    blake3::Hasher::new_keyed(&key).update(&inviter.0).update(&joiner.0).finalize()
}

impl TicketId {
    /// The name of the ticket with this secret.
    #[must_use]
    pub fn of(secret: &[u8; 16]) -> Self {
        Self(blake3::derive_key("starling 2026 ticket id", secret))
    }
}

impl Tickets {
    /// Takes up the tickets that were stored.
    #[must_use]
    pub fn restore(stored: impl IntoIterator<Item = IssuedTicket>) -> Self {
        Self { tickets: stored.into_iter().map(|ticket| (TicketId::of(&ticket.secret), ticket)).collect() }
    }

    /// Every ticket, to be stored.
    pub fn iter(&self) -> impl Iterator<Item = (TicketId, &IssuedTicket)> {
        self.tickets.iter().map(|(id, ticket)| (*id, ticket))
    }

    /// Keeps a new ticket. The secret is drawn at random for it alone.
    ///
    /// # Errors
    /// [`TicketsError::Full`]; [`Tickets::forget_expired`] makes room.
    ///
    /// # Panics
    /// When a ticket with this secret was issued before: our own random numbers would be broken.
    pub fn issue(&mut self, secret: [u8; 16], expires_at_ms: u64) -> Result<TicketId, TicketsError> {
        let id = TicketId::of(&secret);
        assert!(!self.tickets.contains_key(&id), "a ticket's secret is drawn anew");
        if self.tickets.len() >= TICKETS_MAX {
            return Err(TicketsError::Full);
        }
        self.tickets.insert(id, IssuedTicket { secret, expires_at_ms, used_by: None });
        Ok(id)
    }

    /// Judges a request to join that was sent to the holder of `ours`. The request's key must be the one that the
    /// connection proves. Says nothing about tickets to those who hold none, nor by how long it takes.
    #[must_use]
    pub fn judge(&self, request: &JoinRequest, ours: DeviceKey, now_ms: u64, is_removed: bool) -> Verdict {
        let offered = blake3::Hash::from_bytes(request.proof);
        let mut proven = None;
        for (id, ticket) in &self.tickets {
            // Equality of hashes takes constant time, and every ticket is looked at whichever fits.
            if keyed_hash(&ticket.secret, ours, request.key) == offered {
                proven = Some((*id, ticket));
            }
        }
        let Some((ticket, IssuedTicket { expires_at_ms, used_by, .. })) = proven else {
            return Verdict::Refuse(JoinRefusal::Unknown);
        };
        match used_by {
            _ if is_removed => Verdict::Refuse(JoinRefusal::Removed),
            Some(key) if *key != request.key => Verdict::Refuse(JoinRefusal::Used),
            _ if now_ms >= *expires_at_ms => Verdict::Refuse(JoinRefusal::Expired),
            Some(_) => Verdict::AgainSameAnswer { ticket },
            None => Verdict::Admit { ticket },
        }
    }

    /// Notes that `by` was admitted with a ticket. Nobody else ever is, and `by` stays even if it is burnt again.
    pub fn burn(&mut self, ticket: TicketId, by: DeviceKey) {
        if let Some(ticket) = self.tickets.get_mut(&ticket) {
            ticket.used_by.get_or_insert(by);
        }
    }

    /// Whether a stranger may ask: some ticket has not expired. A used one still says that it was used.
    #[must_use]
    pub fn is_open(&self, now_ms: u64) -> bool {
        self.tickets.values().any(|ticket| now_ms < ticket.expires_at_ms)
    }

    /// Drops the tickets that expired before `before_ms`, and names them. From then on they are refused as unknown.
    pub fn forget_expired(&mut self, before_ms: u64) -> Vec<TicketId> {
        let is_over = |ticket: &IssuedTicket| ticket.expires_at_ms < before_ms;
        let over: Vec<_> = self.tickets.iter().filter(|(_, ticket)| is_over(ticket)).map(|(id, _)| *id).collect();
        self.tickets.retain(|_, ticket| !is_over(ticket));
        over
    }
}

/// The ticket's text: `starling1`, then in base32 the ticket and a checksum.
impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ticket = self.clone();
        ticket.addresses.retain(|address| address.len() <= TICKET_ADDRESS_BYTES_MAX);
        ticket.addresses.truncate(TICKET_ADDRESSES_MAX);
        let mut bytes = codec::encode(&ticket, TICKET_BYTES_MAX).map_err(|_| fmt::Error)?;
        bytes.extend_from_slice(&checksum(&bytes));
        write!(f, "{PREFIX}{VERSION}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

/// Shows no secret: a ticket that ends up in a log must let nobody in.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({} by {})", self.library, self.inviter.device())
    }
}

/// Shows no secret.
impl fmt::Debug for IssuedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuedTicket(until {}, used by {:?})", self.expires_at_ms, self.used_by)
    }
}

/// Reads a ticket. Capitals and white space, as left by a QR code or a line break, are no matter.
impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
        let mut rest = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?.chars();
        match rest.next() {
            Some(VERSION) => {}
            Some(version) if version.is_ascii_digit() && version > VERSION => return Err(TicketError::Newer),
            _ => return Err(TicketError::NotATicket),
        }
        let encoded = rest.as_str().to_ascii_uppercase();
        let bytes = BASE32_NOPAD.decode(encoded.as_bytes()).map_err(|_| TicketError::Altered)?;
        let (ticket, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Altered)?;
        if checksum(ticket) != *sum {
            return Err(TicketError::Altered);
        }
        codec::decode::<Self, TICKET_BYTES_MAX>(ticket).map_err(|_| TicketError::Altered)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = blake3::derive_key("starling 2026 ticket checksum", bytes);
    [a, b, c, d]
}

#[cfg(test)]
mod tests;
