//! What the bytes of every message are, and that no bytes at all can do harm.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::change::{FieldWrite, Op};
use crate::hlc::Hlc;
use crate::key::DeviceSecret;
use crate::record::{Deletion, Seen, SharedRecord, Stamp, Stamps};
use crate::value::{Fields, Value};

/// The bytes of [`samples`], one `name hex` a line. They never change for a protocol version.
const GOLDEN: &str = include_str!("../golden/wire-1.txt");

fn device() -> DeviceId {
    DeviceId(Uuid::from_u128(0xD0))
}

fn record() -> RecordId {
    RecordId(Uuid::from_u128(0xE0))
}

fn hlc() -> Hlc {
    Hlc { time: 1_700_000_000_000 << 16, device: device() }
}

fn seen() -> Seen {
    let mut seen = Seen::new();
    seen.add(hlc());
    seen
}

fn every_value() -> Fields {
    Fields::new()
        .with(1, Value::Null)
        .with(2, true)
        .with(3, -5_i64)
        .with(4, 0.5)
        .with(5, "text")
        .with(6, vec![1_u8, 2])
        .with(7, record())
}

fn row() -> StateRow {
    StateRow { version: 9, model: 4, record: record(), fields: Some(every_value()) }
}

fn change(seq: u64, op: Op) -> SharedChange {
    SharedChange { seq, hlc: hlc(), model: 5, record: record(), op, ends_commit: true }
}

fn ops() -> Vec<SharedChange> {
    let write = FieldWrite { field: 1, value: "name".into(), seen: seen() };
    let stamp = Stamp { hlc: hlc(), seen: Seen::new(), losers: vec![(hlc(), Value::Int(1))] };
    vec![
        change(1, Op::Set { life: None, fields: vec![write] }),
        change(2, Op::Delete { seen: seen() }),
        change(3, Op::Restore { life: Some(hlc()), fields: Fields::new().with(1, "x"), stamps: vec![(1, stamp)] }),
    ]
}

fn marks() -> Watermarks {
    Watermarks::from_iter([(Stream::state(device()), 9), (Stream::shared(device()), 3)])
}

fn signed() -> Signed {
    Signed { bytes: vec![1, 2, 3], signature: [7; 64] }
}

/// One of every payload.
fn samples() -> Vec<SyncPayload> {
    let key = DeviceSecret::from_bytes(&[1; 32]).public();
    let batch = |items| Batch { stream: Stream::shared(device()), after: 0, through: 3, items };
    let stamps = Stamps {
        life: Some(hlc()),
        deleted: Some(Deletion { hlc: hlc(), seen: seen() }),
        restored: Some(hlc()),
        fields: vec![(1, Stamp { hlc: hlc(), seen: seen(), losers: Vec::new() })],
    };
    let state = SharedRecord { fields: Fields::new().with(1, "x"), stamps };
    vec![
        SyncPayload::StateChange(StateChange { owner: device(), after: 8, row: row() }),
        SyncPayload::StateBatch(StateBatch { owner: device(), after: 8, through: 12, rows: vec![row()] }),
        SyncPayload::SharedChange(SharedEntry { origin: device(), change: ops().remove(0) }),
        SyncPayload::SharedChangeBatch(SharedChangeBatch { origin: device(), after: 0, through: 3, changes: ops() }),
        SyncPayload::StateRequest(PageRequest { origin: device(), after: 7, clean: 9 }),
        SyncPayload::StateResponse(PageResponse::UpToDate { head: 7 }),
        SyncPayload::SharedChangeRequest(PageRequest { origin: device(), after: 300, clean: 300 }),
        SyncPayload::SharedChangeResponse(PageResponse::Page {
            batch: batch(Items::Shared(ops())),
            head: 3,
            floor: 1,
            clean: 3,
        }),
        SyncPayload::SnapshotRequest(SnapshotRequest { scope: SnapshotScope::Shared, after: Some((5, record())) }),
        SyncPayload::SnapshotResponse(SnapshotResponse {
            scope: SnapshotScope::State(device()),
            after: None,
            through: None,
            watermarks: marks(),
            items: SnapshotItems::Shared(vec![SharedItem { model: 5, record: record(), state }]),
        }),
        SyncPayload::Hello(Hello {
            protocol_min: 1,
            protocol_max: 1,
            key,
            app_version: "0.1.0".to_owned(),
            statements: vec![signed()],
            addresses: vec![(device(), vec!["/ip4/127.0.0.1/tcp/1".to_owned()])],
            watermarks: marks(),
        }),
        SyncPayload::AckSharedChanges(Ack { origin: device(), applied: 3, durable: 2 }),
        SyncPayload::AckState(Ack { origin: device(), applied: 9, durable: 9 }),
        SyncPayload::Heartbeat(Heartbeat { beacons: vec![signed()], lacks: vec![device()], membership: [3; 32] }),
        SyncPayload::DigestRequest(DigestRequest { model: 5, from: RecordId::MIN, through: record() }),
        SyncPayload::DigestResponse(DigestResponse { watermarks: marks(), hash: [4; 32], records: 2 }),
        SyncPayload::JoinRequest(JoinRequest { key, name: "b".to_owned(), proof: [5; 32] }),
        SyncPayload::JoinResponse(JoinResponse::Refused(JoinRefusal::Expired)),
        SyncPayload::Error(Refusal { kind: RefusalKind::Busy, message: "later".to_owned() }),
        SyncPayload::Done,
    ]
}

fn envelope(payload: SyncPayload) -> SyncEnvelope {
    let library = LibraryId(Uuid::from_u128(0x11B));
    SyncEnvelope { library, device: device(), timestamp_ms: 1_700_000_000_000, payload }
}

#[test]
fn the_bytes_of_every_message_are_those_of_this_protocol_version_for_ever() {
    let golden: Vec<&str> = GOLDEN.lines().collect();
    let now: Vec<String> = samples()
        .into_iter()
        .map(|payload| {
            format!("{} {}", payload.name(), hex::encode(envelope(payload).encode(REQUEST_BYTES_MAX).unwrap()))
        })
        .collect();
    assert_eq!(now, golden);
}

#[test]
fn every_message_comes_back_as_it_went() {
    for payload in samples() {
        let sent = envelope(payload);
        assert_eq!(SyncEnvelope::decode(&sent.encode(REQUEST_BYTES_MAX).unwrap()).unwrap(), sent);
    }
}

#[test]
fn a_pushed_batch_is_the_same_batch_after_the_wire() {
    let shared = Batch { stream: Stream::shared(device()), after: 0, through: 3, items: Items::Shared(ops()) };
    let single =
        Batch { stream: Stream::shared(device()), after: 0, through: 1, items: Items::Shared(vec![ops().remove(0)]) };
    let rows = Batch { stream: Stream::state(device()), after: 3, through: 12, items: Items::State(vec![row()]) };
    let one_row = Batch { through: 9, ..rows.clone() };
    for (batch, name) in
        [(shared, "shared_change_batch"), (single, "shared_change"), (rows, "state_batch"), (one_row, "state_change")]
    {
        let payload = SyncPayload::from(batch.clone());
        assert_eq!(payload.name(), name);
        assert_eq!(payload.into_batch(), Ok(batch));
    }
}

#[test]
fn large_messages_travel_compressed_and_small_ones_plain() {
    let small = envelope(SyncPayload::Done).encode(1024).unwrap();
    assert_eq!(small[..2], [PROTOCOL_VERSION, PLAIN]);
    let rows = vec![row(); 200];
    let large = envelope(SyncPayload::StateBatch(StateBatch { owner: device(), after: 0, through: 12, rows }));
    let bytes = large.encode(REQUEST_BYTES_MAX).unwrap();
    assert_eq!(bytes[..2], [PROTOCOL_VERSION, ZSTD]);
    assert!(bytes.len() < 2_000);
    assert_eq!(SyncEnvelope::decode(&bytes).unwrap(), large);
}

#[test]
fn what_does_not_fit_its_place_is_not_sent() {
    let text = |n: u32| Value::Text(format!("{:?}", blake3::hash(&n.to_le_bytes())));
    let rows = (0..5_000)
        .map(|n| StateRow {
            version: u64::from(n) + 1,
            model: 4,
            record: record(),
            fields: Some(Fields::new().with(3, text(n))),
        })
        .collect();
    let large = envelope(SyncPayload::StateBatch(StateBatch { owner: device(), after: 0, through: 5_000, rows }));
    assert!(matches!(large.encode(GOSSIP_BYTES_MAX), Err(CodecError::TooLarge { .. })));
    assert!(large.encode(RESPONSE_BYTES_MAX).is_ok());
}

#[test]
fn another_version_is_named_and_says_who_should_upgrade() {
    let mut bytes = envelope(SyncPayload::Done).encode(1024).unwrap();
    bytes[0] = 2;
    let error = SyncEnvelope::decode(&bytes).unwrap_err();
    assert!(matches!(error, WireError::Version { theirs: 2 }));
    assert_eq!(error.to_string(), "the peer speaks protocol 2, this one speaks 1: upgrade this device");
    bytes[0] = 0;
    assert!(SyncEnvelope::decode(&bytes).unwrap_err().to_string().ends_with("upgrade the peer"));
}

#[test]
fn a_bomb_is_refused_at_the_cap() {
    let mut bytes = vec![PROTOCOL_VERSION, ZSTD];
    bytes.extend(codec::compress(&vec![0; UNPACKED_BYTES_MAX + 1]).unwrap());
    assert!(bytes.len() < 64 * 1024);
    assert!(matches!(SyncEnvelope::decode(&bytes), Err(WireError::Codec(CodecError::Compression(_)))));
}

proptest! {
    #[test]
    fn random_bytes_are_an_error_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let mut framed = vec![PROTOCOL_VERSION, PLAIN];
        framed.extend(&bytes);
        prop_assert!(SyncEnvelope::decode(&bytes).is_err() || bytes[0] == PROTOCOL_VERSION);
        if let Ok(envelope) = SyncEnvelope::decode(&framed) {
            prop_assert!(envelope.encode(UNPACKED_BYTES_MAX).is_ok());
        }
    }

    #[test]
    fn a_truncated_message_is_an_error(which in 0_usize..20, cut in 1_usize..64) {
        let bytes = envelope(samples().swap_remove(which)).encode(REQUEST_BYTES_MAX).unwrap();
        let short = &bytes[..bytes.len().saturating_sub(cut)];
        prop_assert!(SyncEnvelope::decode(short).is_err());
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_another_message_never_a_panic(which in 0_usize..20, at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = envelope(samples().swap_remove(which)).encode(REQUEST_BYTES_MAX).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(envelope) = SyncEnvelope::decode(&bytes) {
            let again = envelope.encode(UNPACKED_BYTES_MAX).unwrap();
            prop_assert_eq!(SyncEnvelope::decode(&again).unwrap(), envelope);
        }
    }

    #[test]
    fn watermarks_join_like_sets(
        a in proptest::collection::vec((0_u128..4, any::<bool>(), 0_u64..50), 0..12),
        b in proptest::collection::vec((0_u128..4, any::<bool>(), 0_u64..50), 0..12),
    ) {
        let of = |marks: &[(u128, bool, u64)]| -> Watermarks {
            let stream = |n, shared| {
                let device = DeviceId(Uuid::from_u128(n));
                if shared { Stream::shared(device) } else { Stream::state(device) }
            };
            marks.iter().map(|(n, shared, through)| (stream(*n, *shared), *through)).collect()
        };
        let (a, b) = (of(&a), of(&b));
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.join(&b);
        ba.join(&a);
        prop_assert_eq!(&ab, &ba);
        prop_assert!(ab.covers(&a) && ab.covers(&b));
        prop_assert_eq!(a.covers(&b), a.lacking(&b) == 0);
        prop_assert_eq!(ab.lacking(&a) + ab.lacking(&b), 0);
    }
}
