//! Device keys as libp2p writes them: a `PeerId` holds the whole ed25519 key, so both directions are exact.

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use starling_schema::key::{DeviceKey, DeviceSecret};

/// The multihash code of data that is not hashed but held as it is.
const MULTIHASH_IDENTITY: u64 = 0;

/// The peer id of a device; none when the bytes are no point of the curve, so nobody can hold the key.
pub(super) fn peer_id(key: &DeviceKey) -> Option<PeerId> {
    ed25519::PublicKey::try_from_bytes(&key.0).ok().map(|key| PublicKey::from(key).to_peer_id())
}

/// The device of a peer id; none when its key is of another type than ours.
pub(super) fn device_key(peer: &PeerId) -> Option<DeviceKey> {
    let multihash = peer.as_ref();
    if multihash.code() != MULTIHASH_IDENTITY {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(multihash.digest()).ok()?.try_into_ed25519().ok()?;
    Some(DeviceKey(key.to_bytes()))
}

/// The key pair that proves this device on every connection; none if libp2p does not take the secret, which it does
/// for every 32 bytes.
pub(super) fn keypair(secret: &DeviceSecret) -> Option<Keypair> {
    Keypair::ed25519_from_bytes(secret.to_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_the_way_through_a_peer_id() {
        let secret = DeviceSecret::from_bytes(&[7; 32]);
        let peer = peer_id(&secret.public()).unwrap();
        assert_eq!(device_key(&peer), Some(secret.public()));
        assert_eq!(keypair(&secret).unwrap().public().to_peer_id(), peer);
    }

    #[test]
    fn a_hashed_or_garbled_peer_id_is_no_device() {
        let hashed: PeerId = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse().unwrap();
        assert_eq!(device_key(&hashed), None);
        assert_eq!(device_key(&PeerId::from_bytes(&[0, 3, 8, 1, 18]).unwrap()), None);
    }

    #[test]
    fn bytes_off_the_curve_have_no_peer_id() {
        let off = (0..=u8::MAX).map(|byte| DeviceKey([byte; 32])).find(|key| peer_id(key).is_none());
        assert!(off.is_some());
    }
}
