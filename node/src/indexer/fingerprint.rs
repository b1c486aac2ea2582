//! What a directory holds, as one number: equal numbers mean equal names and facts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::facts::Facts;

/// The sum of the hashes of what lies in a directory, one level deep. A sum, so that the order does not matter in which
/// a walk comes across things (Bellare and Micciancio 1997, "`AdHash`"; here nobody is kept from finding two folders with
/// one sum on purpose, who would only keep a change to their own files from being seen).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Fingerprint(u128);

/// The directories of a location by their paths.
pub(crate) type Fingerprints = HashMap<PathBuf, Fingerprint>;

impl Fingerprint {
    /// Takes something in that lies in the directory.
    pub(crate) fn add(&mut self, name: &[u8], facts: &Facts) {
        let Facts { kind, size, created_ms, modified_ms, mode, inode } = *facts;
        // With most names it fits one block of the hash: which of the others there are goes into one byte with the kind.
        let mut bytes = [0; 1 + 5 * 8];
        let (head, places) = bytes.split_at_mut(1);
        head[0] = u8::try_from(kind.code()).unwrap_or(u8::MAX) << 5;
        let values = [size, created_ms, modified_ms, mode, inode];
        for (at, (place, value)) in places.chunks_exact_mut(8).zip(values).enumerate() {
            if let Some(value) = value {
                head[0] |= 1 << at;
                place.copy_from_slice(&value.to_le_bytes());
            }
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes).update(name);
        self.0 = self.0.wrapping_add(u128::from_le_bytes(short(&hasher)));
    }

    /// Takes in the location's own folder, which lies in no directory of it.
    pub(crate) fn add_root(&mut self, facts: &Facts) {
        self.add(b"", facts);
    }

    /// Takes in what somebody else found in the same directory.
    pub(crate) fn join(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// As it is stored.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// What was stored.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

/// A path in sixteen bytes.
pub(crate) fn short_path(path: &Path) -> [u8; 16] {
    short(blake3::Hasher::new().update(path.as_os_str().as_encoded_bytes()))
}

fn short(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    bytes
}

#[cfg(test)]
mod tests {
    use starling_schema::models::EntryKind;

    use super::*;

    const FACTS: Facts = Facts {
        kind: EntryKind::File,
        size: Some(1),
        created_ms: None,
        modified_ms: Some(2),
        mode: None,
        inode: Some(3),
    };

    fn of(held: &[(&str, Facts)]) -> Fingerprint {
        let mut print = Fingerprint::default();
        for (name, facts) in held {
            print.add(name.as_bytes(), facts);
        }
        print
    }

    #[test]
    fn the_order_does_not_matter_and_everything_else_does() {
        let print = of(&[("a", FACTS), ("b", FACTS)]);
        assert_eq!(print, of(&[("b", FACTS), ("a", FACTS)]));
        assert_eq!(print, Fingerprint::from_bytes(print.to_bytes()));
        let others = [
            Facts { kind: EntryKind::Symlink, ..FACTS },
            Facts { size: None, ..FACTS },
            Facts { created_ms: Some(0), ..FACTS },
            Facts { modified_ms: Some(3), ..FACTS },
            Facts { mode: Some(0), ..FACTS },
            Facts { inode: Some(2), ..FACTS },
        ];
        for other in others {
            assert_ne!(print, of(&[("a", other), ("b", FACTS)]), "{other:?}");
        }
        for held in [&[("a", FACTS)][..], &[("a", FACTS), ("c", FACTS)], &[("a", FACTS), ("b", FACTS), ("b", FACTS)]] {
            assert_ne!(print, of(held));
        }
    }
}
