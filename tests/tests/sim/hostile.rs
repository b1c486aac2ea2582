//! Members that do wrong: what they send is refused or kept apart, counted, and harms nobody else.

use std::cell::Cell;
use std::time::Duration;

use futures::future::join_all;
use starling::status::LibraryState;
use starling_schema::change::{Batch, FieldWrite, Items, Op, SharedChange, StateRow};
use starling_schema::hlc::Hlc;
use starling_schema::ids::{DeviceId, ModelId, RecordId};
use starling_schema::key::DeviceKey;
use starling_schema::models::{Location, Tag};
use starling_schema::record::Seen;
use starling_schema::stream::{Stream, Watermarks};
use starling_schema::value::{Fields, Value};
use starling_schema::wire::{
    Ack, DigestRequest, Hello, PageRequest, SharedChangeBatch, SharedEntry, SnapshotRequest, SnapshotScope, StateBatch,
    SyncPayload,
};
use starling_tests::sim::{Cluster, FakeMember, Node};
use uuid::Uuid;

use crate::{LATER, SOON};

const RECORD: RecordId = RecordId(Uuid::from_u128(77));

/// A model that no version knows yet.
const UNKNOWN: ModelId = 60_000;

fn set(fake: &FakeMember, seq: u64, model: ModelId, record: RecordId, value: Value) -> SharedChange {
    let fields = vec![FieldWrite { field: Tag::NAME, value, seen: Seen::new() }];
    let hlc = Hlc::at(1_000 + seq, fake.key().device());
    SharedChange { seq, hlc, model, record, op: Op::Set { life: None, fields }, ends_commit: true }
}

fn rename(fake: &FakeMember, seq: u64, name: String) -> SharedChange {
    set(fake, seq, Tag::MODEL, RECORD, Value::Text(name))
}

fn entry(fake: &FakeMember, change: SharedChange) -> SyncPayload {
    SyncPayload::SharedChange(SharedEntry { origin: fake.key().device(), change })
}

fn record(n: u128) -> RecordId {
    RecordId(Uuid::from_u128(n))
}

#[test]
fn a_page_that_lacks_entries_is_refused_and_counted_and_another_peer_is_asked() {
    Cluster::run(851, async |cluster| {
        let node = cluster.device("a").await;
        let (honest, key) = FakeMember::join(cluster, &node, 2).await;
        let (liar, _) = FakeMember::join(cluster, &node, 1).await;
        let stream = honest.shared();
        let page = |changes| Batch { stream, after: 0, through: 3, items: Items::Shared(changes) };
        let refused = node.status().await.counters.messages_refused;
        liar.serve(page(Vec::new()));
        liar.ask(&node, key, SyncPayload::Hello(liar.hello())).await;
        cluster.pass(SOON).await;
        assert_eq!(node.tag_name(RECORD).await, None);
        let counted = node.status().await.counters.messages_refused - refused;
        assert!((2..6).contains(&counted), "asked {counted} times in ten seconds");
        honest.serve(page([1, 2, 3].map(|seq| rename(&honest, seq, seq.to_string())).to_vec()));
        honest.ask(&node, key, SyncPayload::Hello(honest.hello())).await;
        cluster.pass(SOON).await;
        assert_eq!(node.tag_name(RECORD).await.unwrap(), "3");
    });
}

#[test]
fn of_a_batch_with_bad_records_the_rest_is_applied_and_what_is_bad_is_counted() {
    Cluster::run(852, async |cluster| {
        let node = cluster.device("a").await;
        let ours = node.add_location("ours").await;
        let (fake, key) = FakeMember::join(cluster, &node, 1).await;
        let (origin, before) = (fake.key().device(), node.status().await.counters);
        let row = |version, record, name: Value| {
            let fields = Some(Fields::new().with(Location::NAME, name));
            StateRow { version, model: Location::MODEL, record, fields }
        };
        let rows = vec![
            row(1, record(1), "one".into()),
            row(2, ours, "stolen".into()),
            row(3, record(3), Value::Int(3)),
            row(4, record(4), "four".into()),
        ];
        let batch = SyncPayload::StateBatch(StateBatch { owner: origin, after: 0, through: 4, rows });
        assert!(matches!(fake.ask(&node, key, batch).await, SyncPayload::AckState(Ack { applied: 4, .. })));
        let names = async |id| node.get::<Location>(id).await.and_then(|location| location.name);
        assert_eq!((names(record(1)).await.unwrap(), names(record(4)).await.unwrap()), ("one".into(), "four".into()));
        assert_eq!((names(ours).await.unwrap(), names(record(3)).await), ("ours".to_owned(), None));
        let changes = vec![
            set(&fake, 1, Tag::MODEL, record(1), "one".into()),
            set(&fake, 2, Tag::MODEL, record(2), Value::Real(2.0)),
            set(&fake, 3, UNKNOWN, record(3), "three".into()),
            set(&fake, 4, Tag::MODEL, record(4), "four".into()),
        ];
        let batch = SharedChangeBatch { origin, after: 0, through: 4, changes };
        let answer = fake.ask(&node, key, SyncPayload::SharedChangeBatch(batch)).await;
        assert!(matches!(answer, SyncPayload::AckSharedChanges(Ack { applied: 4, .. })));
        let tags = [node.tag_name(record(1)).await, node.tag_name(record(2)).await, node.tag_name(record(4)).await];
        assert_eq!(tags, [Some("one".to_owned()), None, Some("four".to_owned())]);
        let after = node.status().await.counters;
        let counted = (after.rows_refused - before.rows_refused, after.fields_kept_raw - before.fields_kept_raw);
        assert_eq!(counted, (1, 2));
        assert_eq!(after.messages_refused, before.messages_refused);
    });
}

#[test]
fn what_arrives_behind_a_gap_overflows_the_buffer_and_is_all_applied_in_order() {
    const ENTRIES: u64 = 1_000;
    Cluster::run(853, async |cluster| {
        let node = cluster.device("a").await;
        let (fake, key) = FakeMember::join(cluster, &node, 1).await;
        // Each takes 30 KiB in memory, so that half of them are more than may wait behind a gap.
        let large = |seq: u64| rename(&fake, seq, format!("{seq} {}", "x".repeat(30 * 1024)));
        for seq in 2..=ENTRIES {
            fake.publish(entry(&fake, large(seq))).await;
            cluster.pass(Duration::from_millis(1)).await;
        }
        cluster.pass(SOON).await;
        let buffered = node.status().await.queues.buffered;
        assert!((500..560).contains(&buffered), "{buffered} entries wait");
        assert_eq!(node.tag_name(RECORD).await, None);
        for after in (0..ENTRIES).step_by(25) {
            let changes = (after + 1..=after + 25).map(large).collect();
            fake.serve(Batch { stream: fake.shared(), after, through: after + 25, items: Items::Shared(changes) });
        }
        fake.ask(&node, key, SyncPayload::Hello(fake.hello())).await;
        cluster.pass(LATER).await;
        let answer = fake.ask(&node, key, entry(&fake, large(ENTRIES))).await;
        let (origin, applied) = (fake.key().device(), ENTRIES);
        assert_eq!(answer, SyncPayload::AckSharedChanges(Ack { origin, applied, durable: applied }));
        assert!(node.tag_name(RECORD).await.unwrap().starts_with("1000 "));
        assert_eq!(node.status().await.queues.buffered, 0);
    });
}

#[test]
fn streams_of_devices_that_never_belonged_are_neither_asked_for_nor_reported_as_missing() {
    Cluster::run(854, async |cluster| {
        let node = cluster.device("a").await;
        let (fake, key) = FakeMember::join(cluster, &node, 1).await;
        let watermarks: Watermarks = (0..1_000).map(|n| (Stream::shared(DeviceId(Uuid::from_u128(n))), 9)).collect();
        fake.ask(&node, key, SyncPayload::Hello(Hello { watermarks, ..fake.hello() })).await;
        cluster.pass(SOON).await;
        assert_eq!(cluster.report().await.tally(node.number()).requests_of("shared_change_request"), 0);
        assert_eq!(node.status().await.library.state, LibraryState::Ready);
        fake.serve(Batch {
            stream: fake.shared(),
            after: 0,
            through: 1,
            items: Items::Shared(vec![rename(&fake, 1, "sound".to_owned())]),
        });
        fake.ask(&node, key, SyncPayload::Hello(fake.hello())).await;
        cluster.pass(SOON).await;
        assert_eq!(node.tag_name(RECORD).await.unwrap(), "sound");
    });
}

/// One wave of a flood: everything that a member can send, sound and unsound, all at once. Gives how many requests got
/// an answer, if only that they should come later.
async fn wave(fake: &FakeMember, key: DeviceKey, number: u64) -> usize {
    let origin = fake.key().device();
    let all = DigestRequest { model: Tag::MODEL, from: RecordId::MIN, through: RecordId(Uuid::max()) };
    let strange = (0..1_000).map(|n| (Stream::state(DeviceId(Uuid::from_u128(n))), u64::MAX)).collect();
    let payloads = [
        entry(fake, rename(fake, number + 1, number.to_string())),
        entry(fake, rename(fake, number + 1_000, "x".repeat(30 * 1024))),
        SyncPayload::SnapshotRequest(SnapshotRequest { scope: SnapshotScope::Shared, after: None }),
        SyncPayload::StateRequest(PageRequest { origin, after: 0, clean: 0 }),
        SyncPayload::DigestRequest(all),
        SyncPayload::Hello(Hello { watermarks: strange, ..fake.hello() }),
        SyncPayload::Done,
    ];
    let message = |payload: &SyncPayload| fake.envelope(payload.clone()).encode(1 << 16).unwrap();
    let mut requests: Vec<Vec<u8>> = (0..4).flat_map(|_| payloads.iter().map(message)).collect();
    requests.extend((0..4).map(|n| vec![1, n, 3, 4]));
    for seq in 0..8 {
        fake.publish(entry(fake, rename(fake, 100_000 + 8 * number + seq, "x".repeat(30 * 1024)))).await;
        fake.publish_bytes(vec![1, 0, 9]).await;
    }
    let answers = join_all(requests.into_iter().map(|bytes| fake.ask_bytes(key, bytes))).await;
    answers.into_iter().flatten().count()
}

/// Within how much virtual time a tag made on one device is on another.
async fn travel(cluster: &Cluster, from: &Node, to: &Node, name: &str) -> Duration {
    let tag = from.add_tag(name).await;
    let arrived = async || to.tag_name(tag).await.is_none().then(|| "the tag is not there".to_owned());
    cluster.until("an honest edit arrives", Duration::from_secs(5), arrived).await
}

#[test]
fn a_flood_from_a_member_holds_up_nobody_and_its_memory_is_bounded() {
    Cluster::run(855, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        a.add_tags(500).await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        let (done, mut answered, mut waves) = (Cell::new(false), 0, 0);
        let flood = async {
            while !done.get() || waves < 80 {
                answered += wave(&fake, key, waves).await;
                waves += 1;
            }
        };
        let honest = async {
            for number in 0..5 {
                travel(cluster, &b, &a, &format!("b {number}")).await;
                travel(cluster, &a, &b, &format!("a {number}")).await;
            }
            done.set(true);
        };
        futures::join!(flood, honest);
        assert!(answered > 1_000, "{answered} of {waves} waves were answered");
        let buffered = a.status().await.queues.buffered;
        assert!((100..560).contains(&buffered), "{buffered} entries wait");
        fake.close().await;
        fake.disconnect(key).await;
        cluster.pass(SOON).await;
        for node in [&a, &b] {
            assert_eq!(node.count::<Tag>().await, 511);
            assert_eq!(node.tag_name(RECORD).await.unwrap(), (waves - 1).to_string());
        }
    });
}
