//! Device keys: ed25519, the same key that proves the device on every connection.

use std::fmt;

use bincode::{Decode, Encode};
use ed25519_dalek::{Signature, Signer, SigningKey};

use crate::ids::{DeviceId, hashed_uuid};

/// A device's public key: 32 bytes that anyone may know.
#[derive(Clone, Copy, Eq, PartialEq, Ord, PartialOrd, Hash, Encode, Decode)]
pub struct DeviceKey(pub [u8; 32]);

impl DeviceKey {
    /// The device id that follows from the key.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        DeviceId(hashed_uuid("starling 2026 device id", &self.0))
    }

    /// Whether the holder of this key signed `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        ed25519_dalek::VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A device's secret key. It never leaves its device and never shows in a log.
#[derive(Clone)]
pub struct DeviceSecret(SigningKey);

impl DeviceSecret {
    /// The key of these 32 secret bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(bytes))
    }

    /// The 32 secret bytes, to be stored or handed to the network.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> DeviceKey {
        DeviceKey(self.0.verifying_key().to_bytes())
    }

    /// The device id that follows from the key.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.public().device()
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for DeviceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceSecret({})", self.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_message_and_key_only() {
        let (ours, theirs) = (DeviceSecret::from_bytes(&[1; 32]), DeviceSecret::from_bytes(&[2; 32]));
        let signature = ours.sign(b"one");
        assert!(ours.public().verifies(b"one", &signature));
        assert!(!ours.public().verifies(b"two", &signature));
        assert!(!theirs.public().verifies(b"one", &signature));
        assert_ne!(ours.device(), theirs.device());
    }
}
