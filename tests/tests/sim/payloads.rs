//! Every payload of the protocol as a request of a member, and the exact answer of the device that is asked.

use std::time::Duration;

use starling::proto::equality;
use starling_schema::change::{Batch, FieldWrite, Items, Op, SharedChange, StateRow};
use starling_schema::hlc::Hlc;
use starling_schema::ids::{DeviceId, LibraryId, RecordId};
use starling_schema::key::DeviceKey;
use starling_schema::models::{Entry, Location, Tag};
use starling_schema::record::Seen;
use starling_schema::signed::{Beacon, Signed};
use starling_schema::stream::{Stream, StreamKind, Watermarks};
use starling_schema::value::Fields;
use starling_schema::wire::{
    Ack, DigestRequest, Heartbeat, Hello, JoinRefusal, JoinRequest, JoinResponse, PROTOCOL_VERSION, PageRequest,
    PageResponse, Refusal, RefusalKind, SharedChangeBatch, SharedEntry, SnapshotItems, SnapshotRequest,
    SnapshotResponse, SnapshotScope, StateBatch, StateChange, SyncPayload,
};
use starling_tests::sim::{Cluster, FakeMember, Node};
use uuid::Uuid;

use crate::SOON;

/// A real device, and a played member that asks it.
struct Asked {
    node: Node,
    key: DeviceKey,
    fake: FakeMember,
}

impl Asked {
    async fn new(cluster: &Cluster) -> Self {
        let node = cluster.device("a").await;
        let (fake, key) = FakeMember::join(cluster, &node, 1).await;
        Self { node, key, fake }
    }

    async fn ask(&self, payload: SyncPayload) -> SyncPayload {
        self.fake.ask(&self.node, self.key, payload).await
    }

    async fn refusal_of(&self, payload: SyncPayload) -> RefusalKind {
        self.fake.ask_refused(self.key, payload).await
    }

    /// How far the real device is along its own two streams.
    async fn heads(&self) -> (u64, u64) {
        let heads = self.node.peer().heads().await.unwrap();
        (heads.state_head, heads.shared_head)
    }
}

const RECORD: RecordId = RecordId(Uuid::from_u128(77));

fn row(version: u64, name: &str) -> StateRow {
    let fields = Some(Fields::new().with(Location::NAME, name));
    StateRow { version, model: Location::MODEL, record: RECORD, fields }
}

fn rename(fake: &FakeMember, seq: u64, name: &str) -> SharedChange {
    let fields = vec![FieldWrite { field: Tag::NAME, value: name.into(), seen: Seen::new() }];
    let hlc = Hlc::at(1_000 + seq, fake.key().device());
    SharedChange { seq, hlc, model: Tag::MODEL, record: RECORD, op: Op::Set { life: None, fields }, ends_commit: true }
}

/// Checks the ack of a batch: all of it applied; how much of that is durable depends on the moment.
fn applied(answer: SyncPayload, kind: StreamKind, origin: DeviceId) -> u64 {
    let ack = match answer {
        SyncPayload::AckState(ack) if kind == StreamKind::State => ack,
        SyncPayload::AckSharedChanges(ack) if kind == StreamKind::Shared => ack,
        other => panic!("no ack of this kind: {other:?}"),
    };
    let Ack { origin: of, applied, durable } = ack;
    assert_eq!(of, origin);
    assert!(durable <= applied);
    applied
}

#[test]
fn a_state_change_is_applied_and_acked() {
    Cluster::run(801, async |cluster| {
        let asked = Asked::new(cluster).await;
        let owner = asked.fake.key().device();
        let change = StateChange { owner, after: 0, row: row(1, "one") };
        let answer = asked.ask(SyncPayload::StateChange(change.clone())).await;
        assert_eq!(applied(answer, StreamKind::State, owner), 1);
        assert_eq!(asked.node.get::<Location>(RECORD).await.unwrap().name.unwrap(), "one");
        assert_eq!(asked.node.owner::<Location>(RECORD).await, Some(owner));
        cluster.pass(SOON).await;
        let again = asked.ask(SyncPayload::StateChange(change)).await;
        assert_eq!(again, SyncPayload::AckState(Ack { origin: owner, applied: 1, durable: 1 }));
    });
}

#[test]
fn a_state_batch_is_applied_and_acked_and_one_ahead_of_its_turn_is_not() {
    Cluster::run(802, async |cluster| {
        let asked = Asked::new(cluster).await;
        let owner = asked.fake.key().device();
        let ahead = StateBatch { owner, after: 5, through: 6, rows: vec![row(6, "six")] };
        let answer = asked.ask(SyncPayload::StateBatch(ahead)).await;
        assert_eq!(answer, SyncPayload::AckState(Ack { origin: owner, applied: 0, durable: 0 }));
        assert_eq!(asked.node.get::<Location>(RECORD).await, None);
        let missing = StateBatch { owner, after: 0, through: 5, rows: vec![row(3, "three")] };
        asked.ask(SyncPayload::StateBatch(missing)).await;
        cluster.pass(SOON).await;
        let empty = StateBatch { owner, after: 6, through: 9, rows: Vec::new() };
        let answer = asked.ask(SyncPayload::StateBatch(empty)).await;
        assert_eq!(applied(answer, StreamKind::State, owner), 9);
        assert_eq!(asked.node.get::<Location>(RECORD).await.unwrap().name.unwrap(), "six");
    });
}

#[test]
fn a_shared_change_is_applied_and_acked() {
    Cluster::run(803, async |cluster| {
        let asked = Asked::new(cluster).await;
        let origin = asked.fake.key().device();
        let entry = SharedEntry { origin, change: rename(&asked.fake, 1, "one") };
        let answer = asked.ask(SyncPayload::SharedChange(entry.clone())).await;
        assert_eq!(applied(answer, StreamKind::Shared, origin), 1);
        assert_eq!(asked.node.tag_name(RECORD).await.unwrap(), "one");
        cluster.pass(SOON).await;
        let again = asked.ask(SyncPayload::SharedChange(entry)).await;
        assert_eq!(again, SyncPayload::AckSharedChanges(Ack { origin, applied: 1, durable: 1 }));
    });
}

#[test]
fn a_shared_change_batch_is_applied_and_acked_and_a_gap_in_front_of_it_is_not_acked() {
    Cluster::run(804, async |cluster| {
        let asked = Asked::new(cluster).await;
        let origin = asked.fake.key().device();
        let [one, two, three] =
            [(1, "one"), (2, "two"), (3, "three")].map(|(seq, name)| rename(&asked.fake, seq, name));
        let ahead = SharedChangeBatch { origin, after: 1, through: 3, changes: vec![two, three] };
        let answer = asked.ask(SyncPayload::SharedChangeBatch(ahead)).await;
        assert_eq!(answer, SyncPayload::AckSharedChanges(Ack { origin, applied: 0, durable: 0 }));
        let first = SharedEntry { origin, change: one };
        asked.ask(SyncPayload::SharedChange(first.clone())).await;
        cluster.pass(SOON).await;
        let answer = asked.ask(SyncPayload::SharedChange(first)).await;
        assert_eq!(answer, SyncPayload::AckSharedChanges(Ack { origin, applied: 3, durable: 3 }));
        assert_eq!(asked.node.tag_name(RECORD).await.unwrap(), "three");
    });
}

#[test]
fn a_state_request_gets_the_page_after_a_watermark_or_that_there_is_none() {
    Cluster::run(805, async |cluster| {
        let asked = Asked::new(cluster).await;
        let (before, _) = asked.heads().await;
        let location = asked.node.add_location("photos").await;
        let (head, _) = asked.heads().await;
        let origin = asked.node.id();
        let answer = asked.ask(SyncPayload::StateRequest(PageRequest { origin, after: before, clean: before })).await;
        let SyncPayload::StateResponse(PageResponse::Page { batch, head: said, floor, clean }) = answer else {
            panic!("no page: {answer:?}")
        };
        assert_eq!((said, floor, clean, batch.stream), (head, 0, head, Stream::state(origin)));
        assert_eq!((batch.after, batch.through, batch.items.len()), (before, head, 2));
        assert!(matches!(&batch.items, Items::State(rows) if rows.iter().any(|row| row.record == location)));
        let answer = asked.ask(SyncPayload::StateRequest(PageRequest { origin, after: head, clean: head })).await;
        assert_eq!(answer, SyncPayload::StateResponse(PageResponse::UpToDate { head }));
        let unknown = PageRequest { origin: DeviceId(Uuid::from_u128(1)), after: 0, clean: u64::MAX };
        let answer = asked.ask(SyncPayload::StateRequest(unknown)).await;
        assert_eq!(answer, SyncPayload::StateResponse(PageResponse::UpToDate { head: 0 }));
    });
}

#[test]
fn a_shared_change_request_gets_the_page_after_a_watermark_or_that_there_is_none() {
    Cluster::run(806, async |cluster| {
        let asked = Asked::new(cluster).await;
        let tag = asked.node.add_tag("one").await;
        let (_, head) = asked.heads().await;
        let origin = asked.node.id();
        let answer = asked.ask(SyncPayload::SharedChangeRequest(PageRequest { origin, after: 0, clean: 0 })).await;
        let SyncPayload::SharedChangeResponse(PageResponse::Page { batch, head: said, floor, .. }) = answer else {
            panic!("no page: {answer:?}")
        };
        let Batch { stream, after, through, items: Items::Shared(changes) } = batch else { panic!("the other kind") };
        assert_eq!((said, floor, stream, after, through), (head, 0, Stream::shared(origin), 0, head));
        assert_eq!((changes.len() as u64, changes[0].record), (head, tag));
        let answer =
            asked.ask(SyncPayload::SharedChangeRequest(PageRequest { origin, after: head, clean: head })).await;
        assert_eq!(answer, SyncPayload::SharedChangeResponse(PageResponse::UpToDate { head }));
    });
}

#[test]
fn a_shared_change_request_for_what_was_pruned_is_told_to_take_a_snapshot() {
    Cluster::run(807, async |cluster| {
        let node = cluster.device("a").await;
        node.add_tags(3).await;
        cluster.pass(SOON).await;
        let (fake, key) = FakeMember::join(cluster, &node, 1).await;
        let request = PageRequest { origin: node.id(), after: 0, clean: 0 };
        let answer = fake.ask(&node, key, SyncPayload::SharedChangeRequest(request)).await;
        assert_eq!(answer, SyncPayload::SharedChangeResponse(PageResponse::TakeSnapshot { floor: 3 }));
    });
}

#[test]
fn a_state_request_after_pruned_tombstones_gets_a_page_only_if_the_asker_misses_none_of_them() {
    Cluster::run(820, async |cluster| {
        let node = cluster.device("a").await;
        let location = node.add_location("photos").await;
        let files = node.add_entries(location, None, 4).await;
        node.delete::<Entry>(files[0]).await;
        cluster.pass(SOON).await;
        let head = node.peer().heads().await.unwrap().state_head;
        let (fake, key) = FakeMember::join(cluster, &node, 1).await;
        let ask = async |after, clean| {
            let request = SyncPayload::StateRequest(PageRequest { origin: node.id(), after, clean });
            fake.ask(&node, key, request).await
        };
        let snapshot = SyncPayload::StateResponse(PageResponse::TakeSnapshot { floor: head });
        for (after, clean) in [(0, 0), (3, 3), (0, head - 1), (3, head - 1)] {
            assert_eq!(ask(after, clean).await, snapshot, "after {after}, clean {clean}");
        }
        for (after, clean) in [(0, u64::MAX), (3, head), (head - 1, head)] {
            let answer = ask(after, clean).await;
            let SyncPayload::StateResponse(PageResponse::Page { floor, clean, .. }) = answer else {
                panic!("no page after {after}: {answer:?}")
            };
            assert_eq!((floor, clean), (head, head));
        }
    });
}

#[test]
fn a_snapshot_request_gets_all_shared_records_or_all_rows_of_an_owner_with_watermarks() {
    Cluster::run(808, async |cluster| {
        let asked = Asked::new(cluster).await;
        let tag = asked.node.add_tag("one").await;
        let location = asked.node.add_location("photos").await;
        let ((state, shared), id) = (asked.heads().await, asked.node.id());
        let request = SnapshotRequest { scope: SnapshotScope::Shared, after: None };
        let SyncPayload::SnapshotResponse(page) = asked.ask(SyncPayload::SnapshotRequest(request)).await else {
            panic!()
        };
        let SnapshotResponse { scope, after, through, watermarks, items: SnapshotItems::Shared(items) } = page else {
            panic!("the other kind")
        };
        assert_eq!((scope, after, through), (SnapshotScope::Shared, None, None));
        assert_eq!(watermarks, Watermarks::from_iter([(Stream::shared(id), shared)]));
        assert_eq!(items.iter().map(|item| (item.model, item.record)).collect::<Vec<_>>(), [(Tag::MODEL, tag)]);

        let request = SnapshotRequest { scope: SnapshotScope::State(id), after: None };
        let SyncPayload::SnapshotResponse(page) = asked.ask(SyncPayload::SnapshotRequest(request)).await else {
            panic!()
        };
        let SnapshotItems::State(rows) = page.items else { panic!("the other kind") };
        assert_eq!((page.through, page.watermarks), (None, Watermarks::from_iter([(Stream::state(id), state)])));
        // The device itself, the location and its root.
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().any(|row| row.record == location));
    });
}

#[test]
fn a_hello_is_answered_by_a_hello_with_everything_that_the_asked_device_has() {
    Cluster::run(809, async |cluster| {
        let asked = Asked::new(cluster).await;
        asked.node.add_tag("one").await;
        let (state, shared) = asked.heads().await;
        let SyncPayload::Hello(hello) = asked.ask(SyncPayload::Hello(asked.fake.hello())).await else { panic!() };
        let Hello { protocol_min, protocol_max, key, app_version, statements, watermarks, .. } = hello;
        assert_eq!((protocol_min, protocol_max), (PROTOCOL_VERSION, PROTOCOL_VERSION));
        assert_eq!((key, app_version.as_str()), (asked.key, env!("CARGO_PKG_VERSION")));
        assert_eq!(statements, asked.fake.statements());
        let id = asked.node.id();
        assert_eq!(watermarks, Watermarks::from_iter([(Stream::state(id), state), (Stream::shared(id), shared)]));
    });
}

#[test]
fn a_hello_whose_protocols_do_not_overlap_is_refused_and_told_which_to_upgrade() {
    Cluster::run(810, async |cluster| {
        let asked = Asked::new(cluster).await;
        for (version, upgrade) in
            [(PROTOCOL_VERSION + 1, "upgrade this device"), (PROTOCOL_VERSION - 1, "upgrade yours")]
        {
            let hello = Hello { protocol_min: version, protocol_max: version, ..asked.fake.hello() };
            let SyncPayload::Error(Refusal { kind, message }) = asked.ask(SyncPayload::Hello(hello)).await else {
                panic!()
            };
            assert_eq!(kind, RefusalKind::Version);
            assert!(message.contains(upgrade), "{message}");
        }
    });
}

#[test]
fn a_heartbeat_is_done_and_what_its_beacon_acks_is_pruned() {
    Cluster::run(811, async |cluster| {
        let asked = Asked::new(cluster).await;
        asked.node.add_tags(3).await;
        cluster.pass(SOON).await;
        assert_eq!(asked.node.status().await.log.entries, 3);
        let durable = Watermarks::from_iter([(Stream::shared(asked.node.id()), 2)]);
        let beacon =
            Beacon { library: asked.node.peer().library(), author: asked.fake.key(), number: 1, since: None, durable };
        let beacons = vec![Signed::new(&beacon, &asked.fake.secret()).unwrap()];
        let heartbeat = Heartbeat { beacons, lacks: Vec::new(), membership: [0; 32] };
        assert_eq!(asked.ask(SyncPayload::Heartbeat(heartbeat)).await, SyncPayload::Done);
        cluster.pass(SOON).await;
        assert_eq!(asked.node.status().await.log.entries, 1);
    });
}

#[test]
fn a_digest_request_gets_the_hash_and_number_of_the_records_in_a_range() {
    Cluster::run(812, async |cluster| {
        let asked = Asked::new(cluster).await;
        let tag = asked.node.add_tag("one").await;
        let digest = async |from, through| {
            let request = DigestRequest { model: Tag::MODEL, from, through };
            let SyncPayload::DigestResponse(digest) = asked.ask(SyncPayload::DigestRequest(request)).await else {
                panic!()
            };
            digest
        };
        let all = digest(RecordId::MIN, RecordId(Uuid::max())).await;
        let snapshot = SyncPayload::SnapshotRequest(SnapshotRequest { scope: SnapshotScope::Shared, after: None });
        let SyncPayload::SnapshotResponse(SnapshotResponse { items: SnapshotItems::Shared(items), .. }) =
            asked.ask(snapshot).await
        else {
            panic!()
        };
        let entries: Vec<_> = items.iter().map(|item| equality::shared_entry(item.record, &item.state)).collect();
        assert_eq!((all.records, all.hash), (1, equality::range_hash(&entries)));
        assert_eq!(all.watermarks.get(Stream::shared(asked.node.id())), 1);
        assert_eq!(digest(tag, tag).await, all);
        let none = digest(RecordId::MIN, RecordId::MIN).await;
        assert_eq!((none.records, none.hash), (0, equality::range_hash(&[])));
    });
}

#[test]
fn a_join_request_is_answered_with_the_membership_and_the_same_again_and_refused_to_others() {
    Cluster::run(813, async |cluster| {
        let asked = Asked::new(cluster).await;
        let ticket: starling::proto::pairing::Ticket =
            asked.node.ticket(Duration::from_hours(1)).await.parse().unwrap();
        let joiner = FakeMember::stranger(cluster, ticket.library, 2).await;
        let request = joiner.join_request(&ticket);
        let wrong = JoinRequest { key: joiner.key(), name: String::new(), proof: [7; 32] };
        joiner.dial(asked.node.number(), asked.key).await.unwrap();
        assert_eq!(
            joiner.answer_to(asked.key, SyncPayload::JoinRequest(wrong)).await,
            SyncPayload::JoinResponse(JoinResponse::Refused(JoinRefusal::Unknown))
        );
        let first = joiner.answer_to(asked.key, request.clone()).await;
        let SyncPayload::JoinResponse(JoinResponse::Admitted { statements, .. }) = &first else { panic!("{first:?}") };
        assert_eq!(statements.len(), 3);
        cluster.pass(SOON).await;
        joiner.admit(vec![asked.key]).await;
        joiner.dial(asked.node.number(), asked.key).await.unwrap();
        assert_eq!(joiner.answer_to(asked.key, request).await, first);
        // Another device with the same ticket, over its own connection.
        let SyncPayload::JoinRequest(stolen) = asked.fake.join_request(&ticket) else { panic!() };
        assert_eq!(
            asked.ask(SyncPayload::JoinRequest(stolen)).await,
            SyncPayload::JoinResponse(JoinResponse::Refused(JoinRefusal::Used))
        );
    });
}

#[test]
fn a_join_request_with_anothers_key_is_refused() {
    Cluster::run(814, async |cluster| {
        let asked = Asked::new(cluster).await;
        let ticket: starling::proto::pairing::Ticket =
            asked.node.ticket(Duration::from_hours(1)).await.parse().unwrap();
        let thief = FakeMember::stranger(cluster, ticket.library, 2).await;
        thief.dial(asked.node.number(), asked.key).await.unwrap();
        let in_anothers_name = asked.fake.join_request(&ticket);
        assert_eq!(
            thief.answer_to(asked.key, in_anothers_name).await,
            SyncPayload::JoinResponse(JoinResponse::Refused(JoinRefusal::Unknown))
        );
    });
}

#[test]
fn answers_are_no_requests() {
    Cluster::run(815, async |cluster| {
        let asked = Asked::new(cluster).await;
        let origin = asked.fake.key().device();
        let ack = Ack { origin, applied: 1, durable: 1 };
        let refusal = Refusal { kind: RefusalKind::Busy, message: String::new() };
        let up_to_date = PageResponse::UpToDate { head: 9 };
        let (watermarks, items) = (Watermarks::new(), SnapshotItems::Shared(Vec::new()));
        let scope = SnapshotScope::Shared;
        for payload in [
            SyncPayload::AckState(ack),
            SyncPayload::AckSharedChanges(ack),
            SyncPayload::Done,
            SyncPayload::Error(refusal),
            SyncPayload::StateResponse(up_to_date.clone()),
            SyncPayload::SharedChangeResponse(up_to_date),
            SyncPayload::SnapshotResponse(SnapshotResponse { scope, after: None, through: None, watermarks, items }),
            SyncPayload::JoinResponse(JoinResponse::Refused(JoinRefusal::Used)),
        ] {
            assert_eq!(asked.refusal_of(payload).await, RefusalKind::BadRequest);
        }
    });
}

#[test]
fn a_batch_of_anothers_stream_or_one_that_cannot_be_is_refused_and_nothing_applied() {
    Cluster::run(816, async |cluster| {
        let asked = Asked::new(cluster).await;
        let (ours, theirs) = (asked.fake.key().device(), asked.node.id());
        let (_, before) = asked.heads().await;
        let refused = crate::refused(&asked.node).await;
        let foreign_stamp = SharedChange { hlc: Hlc::at(1, theirs), ..rename(&asked.fake, 1, "forged") };
        for payload in [
            SyncPayload::StateChange(StateChange { owner: theirs, after: 1, row: row(2, "forged") }),
            SyncPayload::StateBatch(StateBatch { owner: ours, after: 3, through: 3, rows: Vec::new() }),
            SyncPayload::StateBatch(StateBatch { owner: ours, after: 0, through: 1, rows: vec![row(2, "beyond")] }),
            SyncPayload::SharedChange(SharedEntry { origin: theirs, change: rename(&asked.fake, 1, "forged") }),
            SyncPayload::SharedChange(SharedEntry { origin: ours, change: foreign_stamp }),
            SyncPayload::SharedChangeBatch(SharedChangeBatch {
                origin: ours,
                after: 0,
                through: 3,
                changes: vec![rename(&asked.fake, 1, "one"), rename(&asked.fake, 3, "three")],
            }),
            SyncPayload::SharedChangeBatch(SharedChangeBatch {
                origin: ours,
                after: 0,
                through: 9,
                changes: Vec::new(),
            }),
        ] {
            assert_eq!(asked.refusal_of(payload).await, RefusalKind::BadRequest);
        }
        assert_eq!((asked.node.tag_name(RECORD).await, asked.node.get::<Location>(RECORD).await), (None, None));
        assert_eq!(asked.heads().await.1, before);
        assert_eq!(crate::refused(&asked.node).await - refused, 7);
    });
}

#[test]
fn garbage_is_a_bad_request_and_another_version_says_so() {
    Cluster::run(817, async |cluster| {
        let asked = Asked::new(cluster).await;
        let sound = asked.fake.envelope(SyncPayload::Done).encode(1 << 16).unwrap();
        let bomb = [vec![PROTOCOL_VERSION, 1], starling_schema::codec::compress(&vec![0; 32 << 20]).unwrap()].concat();
        let long = [sound.clone(), vec![0]].concat();
        let refused = crate::refused(&asked.node).await;
        for bytes in [vec![], vec![PROTOCOL_VERSION], vec![PROTOCOL_VERSION, 9, 9], sound[..20].to_vec(), long, bomb] {
            assert_eq!(asked.fake.refused_bytes(asked.key, bytes).await, RefusalKind::BadRequest);
        }
        let mut newer = sound;
        newer[0] = PROTOCOL_VERSION + 1;
        assert_eq!(asked.fake.refused_bytes(asked.key, newer).await, RefusalKind::Version);
        assert_eq!(crate::refused(&asked.node).await - refused, 7);
        assert_eq!(asked.ask(SyncPayload::Hello(asked.fake.hello())).await.name(), "hello");
    });
}

#[test]
fn a_message_about_another_library_or_in_anothers_name_is_refused() {
    Cluster::run(818, async |cluster| {
        let asked = Asked::new(cluster).await;
        let mut elsewhere = asked.fake.envelope(SyncPayload::Hello(asked.fake.hello()));
        elsewhere.library = LibraryId(Uuid::from_u128(1));
        let mut in_anothers_name = asked.fake.envelope(SyncPayload::Hello(asked.fake.hello()));
        in_anothers_name.device = asked.node.id();
        let refused = crate::refused(&asked.node).await;
        for envelope in [elsewhere, in_anothers_name] {
            let bytes = envelope.encode(1 << 16).unwrap();
            assert_eq!(asked.fake.refused_bytes(asked.key, bytes).await, RefusalKind::NotAMember);
        }
        assert_eq!(crate::refused(&asked.node).await - refused, 2);
    });
}

#[test]
fn a_stranger_is_refused_whatever_it_asks_and_learns_not_even_the_library() {
    Cluster::run(819, async |cluster| {
        let asked = Asked::new(cluster).await;
        asked.node.ticket(Duration::from_hours(1)).await;
        let stranger = FakeMember::stranger(cluster, asked.node.peer().library(), 2).await;
        stranger.dial(asked.node.number(), asked.key).await.unwrap();
        let page = PageRequest { origin: asked.node.id(), after: 0, clean: 0 };
        let all = DigestRequest { model: Tag::MODEL, from: RecordId::MIN, through: RecordId(Uuid::max()) };
        let refused = crate::refused(&asked.node).await;
        for payload in [
            SyncPayload::Hello(stranger.hello()),
            SyncPayload::StateRequest(page),
            SyncPayload::SharedChangeRequest(page),
            SyncPayload::SnapshotRequest(SnapshotRequest { scope: SnapshotScope::Shared, after: None }),
            SyncPayload::DigestRequest(all),
            SyncPayload::Heartbeat(Heartbeat { beacons: Vec::new(), lacks: Vec::new(), membership: [0; 32] }),
            SyncPayload::StateChange(StateChange { owner: stranger.key().device(), after: 0, row: row(1, "no") }),
        ] {
            let answer = stranger.envelope_in_answer_to(asked.key, payload).await;
            assert_eq!(answer.library, LibraryId::MIN);
            assert!(matches!(answer.payload, SyncPayload::Error(refusal) if refusal.kind == RefusalKind::NotAMember));
        }
        assert_eq!(asked.node.get::<Location>(RECORD).await, None);
        assert_eq!(crate::refused(&asked.node).await - refused, 7);
    });
}
