//! Signed statements: who is a member, and how far a member durably is. Anyone may carry them.

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::ids::{DeviceId, LibraryId, hashed_uuid};
use crate::key::{DeviceKey, DeviceSecret};
use crate::stream::Watermarks;

/// The longest name of a device or a library, in bytes: a line on a screen.
pub const NAME_BYTES_MAX: usize = 128;

/// The largest signed statement: a watermark vector of a thousand devices fits.
pub const STATEMENT_BYTES_MAX: usize = 64 * 1024;

/// What is signed, told apart so that one kind can never pass for another.
pub trait Signable: Encode + Decode<()> {
    /// Goes in front of the signed bytes.
    const CONTEXT: &'static [u8];

    /// Whose signature it must carry.
    fn author(&self) -> DeviceKey;
}

/// A statement as its author encoded and signed it.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Encode, Decode)]
pub struct Signed {
    /// The encoded statement.
    pub bytes: Vec<u8>,
    /// The author's signature over context and bytes.
    pub signature: [u8; 64],
}

/// Why a signed statement was refused. Nothing of it was used.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// The bytes are no such statement.
    #[error("a signed statement does not decode: {0}")]
    Codec(#[from] CodecError),
    /// The signature is not the author's.
    #[error("the signature of {0} does not hold")]
    Forged(DeviceId),
}

impl Signed {
    /// Signs a statement. The secret must be its author's.
    ///
    /// # Errors
    /// When the statement is larger than [`STATEMENT_BYTES_MAX`].
    ///
    /// # Panics
    /// When the secret is not the author's.
    pub fn new<T: Signable>(statement: &T, secret: &DeviceSecret) -> Result<Self, CodecError> {
        assert_eq!(statement.author(), secret.public(), "a statement is signed by its author");
        let bytes = codec::encode(statement, STATEMENT_BYTES_MAX)?;
        let signature = secret.sign(&[T::CONTEXT, &bytes].concat());
        Ok(Self { bytes, signature })
    }

    /// Decodes the statement and checks that its author signed it.
    ///
    /// # Errors
    /// When it does not decode or the signature does not hold.
    pub fn open<T: Signable>(&self) -> Result<T, SignedError> {
        let statement: T = codec::decode::<T, STATEMENT_BYTES_MAX>(&self.bytes)?;
        if statement.author().verifies(&[T::CONTEXT, &self.bytes].concat(), &self.signature) {
            Ok(statement)
        } else {
            Err(SignedError::Forged(statement.author().device()))
        }
    }

    /// The statement's name: the hash of what was signed.
    #[must_use]
    pub fn id(&self) -> StatementId {
        StatementId(*blake3::hash(&self.bytes).as_bytes())
    }
}

/// A statement's name: the BLAKE3 hash of its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Encode, Decode)]
pub struct StatementId(pub [u8; 32]);

/// One step in the life of a library's membership.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
pub struct Statement {
    /// The library; all zero in its founding statement, whose hash it is.
    pub library: LibraryId,
    /// Who says it.
    pub author: DeviceKey,
    /// When, by the author's wall clock in milliseconds since 1970; for people only.
    pub at_ms: u64,
    /// The statements that the author had seen and that no other seen one names: the heads.
    pub seen: Vec<StatementId>,
    /// What is said.
    pub body: StatementBody,
}

/// What a statement says.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
pub enum StatementBody {
    /// The library begins, with its author as the first member.
    Found {
        /// The library's name.
        name: String,
        /// The founder's name.
        device_name: String,
        /// Makes two libraries of one device different.
        nonce: [u8; 16],
    },
    /// A device becomes a member.
    Admit {
        /// Its key.
        key: DeviceKey,
        /// Its name.
        name: String,
    },
    /// A device is a member no more.
    Remove {
        /// Its key.
        key: DeviceKey,
        /// Which of its own statements still count; its others are void.
        counts: Vec<StatementId>,
    },
    /// A device changes its own name.
    Rename {
        /// The new name.
        name: String,
    },
}

impl Signable for Statement {
    const CONTEXT: &'static [u8] = b"starling membership 1\0";

    fn author(&self) -> DeviceKey {
        self.author
    }
}

impl StatementId {
    /// The library that a founding statement of this name founds.
    #[must_use]
    pub fn library(&self) -> LibraryId {
        LibraryId(hashed_uuid("starling 2026 library id", &self.0))
    }
}

/// How far a member durably is: news for those who lag, and the ack that lets logs be pruned.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
pub struct Beacon {
    /// The library it speaks of.
    pub library: LibraryId,
    /// Who it speaks for.
    pub author: DeviceKey,
    /// Rises with every beacon of this author: the highest one counts.
    pub number: u64,
    /// The whole beacon of the same author that `durable` adds to; none when it is whole itself.
    pub since: Option<StatementId>,
    /// What its author has applied without holes and made durable; of a beacon that adds to another the streams that are
    /// further than there.
    pub durable: Watermarks,
}

impl Signable for Beacon {
    const CONTEXT: &'static [u8] = b"starling beacon 1\0";

    fn author(&self) -> DeviceKey {
        self.author
    }
}
