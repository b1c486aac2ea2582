//! Proof of equality: what silently came to differ is found, said and repaired, and nothing else is ever suspected.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::Binary;
use starling::{EventKind, Finding, VerifyError};
use starling_schema::codec;
use starling_schema::ids::RecordId;
use starling_schema::models::{Entry, Tag};
use starling_schema::record::Stamps;
use starling_tests::check;
use starling_tests::sim::{Cluster, Node};

use crate::{LATER, SOON};

/// Within this, every pair of devices of a small library has compared all records.
const ROUND: Duration = Duration::from_mins(15);

/// Unpacked stamps are smaller than this by far.
const STAMPS_BYTES_MAX: usize = 1024 * 1024;

#[derive(QueryableByName)]
struct StampsRow {
    #[diesel(sql_type = Binary)]
    stamps: Vec<u8>,
}

/// The database of a stopped device, as a disk that errs would change it.
struct Damaged(SqliteConnection);

impl Damaged {
    fn of(node: &Node) -> Self {
        assert!(!node.is_running());
        Self(SqliteConnection::establish(&node.data().join("library.sqlite").to_string_lossy()).unwrap())
    }

    fn run(&mut self, sql: &str, id: RecordId) {
        let touched = diesel::sql_query(sql).bind::<Binary, _>(id.as_bytes().to_vec()).execute(&mut self.0).unwrap();
        assert_eq!(touched, 1, "{sql}");
    }

    /// Sets the stamp of a tag's name a millisecond later.
    fn restamp(&mut self, id: RecordId) {
        let read = diesel::sql_query("SELECT stamps FROM tag WHERE id = ?").bind::<Binary, _>(id.as_bytes().to_vec());
        let row: StampsRow = read.get_result(&mut self.0).unwrap();
        let mut stamps: Stamps = codec::decode::<_, STAMPS_BYTES_MAX>(&row.stamps).unwrap();
        stamps.fields[0].1.hlc.time += 1 << 16;
        let stamps = codec::encode(&stamps, STAMPS_BYTES_MAX).unwrap();
        let write = diesel::sql_query("UPDATE tag SET stamps = ? WHERE id = ?").bind::<Binary, _>(stamps);
        write.bind::<Binary, _>(id.as_bytes().to_vec()).execute(&mut self.0).unwrap();
    }
}

/// How many records the devices together compared, found to differ, and repaired.
async fn counted(nodes: &[&Node]) -> (u64, u64, u64) {
    let mut sum = (0, 0, 0);
    for node in nodes {
        let counts = node.status().await.counters;
        sum.0 += counts.records_compared;
        sum.1 += counts.records_differing;
        sum.2 += counts.records_repaired;
    }
    sum
}

async fn until_equal(cluster: &Cluster) {
    let begun = cluster.elapsed();
    // Comparing whole databases is dear.
    while !check::are_equal(&cluster.running()).await {
        assert!(cluster.elapsed() < begun + ROUND, "{:?}", check::difference(&cluster.running()).await);
        cluster.pass(SOON).await;
    }
}

#[test]
fn shared_records_that_a_disk_changed_are_found_named_and_equal_again_on_both() {
    Cluster::run(1301, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let tags = a.add_tags(1_000).await;
        cluster.settle(SOON).await;
        b.stop().await;
        let mut disk = Damaged::of(&b);
        disk.run("UPDATE tag SET name = name || 'z' WHERE id = ?", tags[3]);
        disk.run("DELETE FROM tag WHERE id = ?", tags[700]);
        disk.restamp(tags[999]);
        drop(disk);
        b.start().await;
        cluster.pass(SOON).await;
        assert!(check::difference(&[a.clone(), b.clone()]).await.is_some());
        until_equal(cluster).await;
        cluster.pass(ROUND).await;
        let (_, differing, repaired) = counted(&[&a, &b]).await;
        assert!(differing >= 3, "{differing}");
        assert_eq!(repaired, 3);
        assert_eq!(a.tag_name(tags[3]).await, b.tag_name(tags[3]).await);
        assert!(b.tag_name(tags[700]).await.is_some());
        let events = b.peer().events(0, Duration::ZERO).await.unwrap().unwrap();
        let named = |id| {
            move |event: &starling::Event| {
                matches!(&event.kind, EventKind::Differing { peer, records, .. }
                if *peer == a.id() && records.contains(&(Tag::MODEL, id)))
            }
        };
        assert!(events.iter().any(named(tags[700])), "{events:?}");
        cluster.settle(SOON).await;
    });
}

#[test]
fn rows_that_a_disk_changed_are_taken_from_their_owner_again() {
    Cluster::run(1302, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let location = a.add_location("photos").await;
        let entries = a.add_entries(location, None, 2_000).await;
        cluster.settle(LATER).await;
        b.stop().await;
        let mut disk = Damaged::of(&b);
        disk.run("UPDATE entry SET size = 77 WHERE id = ?", entries[5]);
        disk.run("DELETE FROM entry WHERE id = ?", entries[1_500]);
        disk.run("UPDATE entry SET id = randomblob(16) WHERE id = ?", entries[1_999]);
        drop(disk);
        b.start().await;
        until_equal(cluster).await;
        cluster.pass(ROUND).await;
        let (_, differing, repaired) = counted(&[&a, &b, &c]).await;
        assert!(differing >= 4, "{differing}");
        assert_eq!(repaired, 4, "one changed, two missing, one that its owner does not have");
        assert_eq!(b.get::<Entry>(entries[5]).await, a.get::<Entry>(entries[5]).await);
        cluster.settle(SOON).await;
    });
}

#[test]
fn rows_whose_owner_is_away_are_only_reported_until_it_returns() {
    Cluster::run(1303, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let location = a.add_location("photos").await;
        let entries = a.add_entries(location, None, 100).await;
        cluster.settle(LATER).await;
        a.stop().await;
        b.stop().await;
        Damaged::of(&b).run("UPDATE entry SET size = 77 WHERE id = ?", entries[5]);
        b.start().await;
        cluster
            .until("both say that a record differs", ROUND, async || {
                let (of_b, of_c) = (b.status().await, c.status().await);
                let said = |status: &starling::status::Status| (status.queues.differing, status.verdict.in_sync);
                (said(&of_b) != (1, false) || said(&of_c) != (1, false))
                    .then(|| format!("{:?} {:?}", of_b.verdict, of_c.verdict))
            })
            .await;
        assert_eq!(counted(&[&b, &c]).await.2, 0);
        a.start().await;
        until_equal(cluster).await;
        cluster.settle(ROUND).await;
        assert_eq!(counted(&[&a, &b, &c]).await.2, 1);
        assert_eq!(b.status().await.queues.differing, 0);
    });
}

/// A page of rows holds those that were not rewritten since. An owner that leaves in the midst of rewriting leaves a
/// member that came late without rows that earlier ones have as they were.
#[test]
fn rows_of_an_owner_that_has_left_are_united_where_members_hold_others_of_them() {
    Cluster::run(1306, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let location = a.add_location("photos").await;
        let entries = a.add_entries(location, None, 300).await;
        cluster.settle(LATER).await;
        let gone = a.id();
        a.stop().await;
        b.peer().remove_device(gone).await.unwrap();
        cluster.pass(SOON).await;
        for (node, lacks) in [(&b, entries[5]), (&c, entries[250])] {
            node.stop().await;
            Damaged::of(node).run("DELETE FROM entry WHERE id = ?", lacks);
            node.start().await;
        }
        until_equal(cluster).await;
        for node in [&b, &c] {
            assert_eq!(node.count::<Entry>().await, 300 + 1, "with the root of the location");
        }
        cluster.settle(LATER).await;
    });
}

#[test]
fn under_busy_traffic_and_snapshots_nothing_is_suspected() {
    Cluster::run(1304, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let location = a.add_location("photos").await;
        let tags = b.add_tags(300).await;
        for round in 0..60_usize {
            let entries = a.add_entries(location, None, 20).await;
            b.set::<Tag>(tags[round], Tag::COLOR, "red").await;
            c.set::<Tag>(tags[round], Tag::COLOR, "blue").await;
            a.delete::<Entry>(entries[0]).await;
            c.delete::<Tag>(tags[299 - round]).await;
            if round == 30 {
                cluster.until_pruned(LATER).await;
                let d = cluster.device("d").await;
                d.join(&b).await;
            }
            cluster.pass(Duration::from_secs(if round % 10 == 9 { 200 } else { 7 })).await;
        }
        cluster.settle(LATER).await;
        cluster.pass(ROUND).await;
        let nodes = cluster.running();
        let (compared, differing, repaired) = counted(&nodes.iter().collect::<Vec<_>>()).await;
        assert_eq!((differing, repaired), (0, 0));
        assert!(compared > 10_000, "{compared}");
    });
}

#[test]
fn verifying_names_what_differs_from_a_peer_and_what_the_file_itself_has_wrong() {
    Cluster::run(1305, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let (tags, file) = (a.add_tags(600).await, a.add_file().await);
        cluster.settle(SOON).await;
        assert_eq!(b.peer().verify().await.unwrap(), []);
        assert_eq!(b.peer().verify_with(a.id()).await.unwrap(), []);
        b.stop().await;
        cluster.pass(LATER).await;
        assert!(matches!(a.peer().verify_with(b.key().device()).await, Err(VerifyError::NotConnected(_))));
        let mut disk = Damaged::of(&b);
        disk.run("UPDATE tag SET name = name || 'z' WHERE id = ?", tags[3]);
        disk.run("UPDATE tag SET alive = 0 WHERE id = ?", tags[4]);
        disk.run("DELETE FROM entry WHERE id = ?", file);
        drop(disk);
        b.start().await;
        cluster.pass(SOON).await;
        let found = |findings: Vec<Finding>| -> Vec<(String, Option<RecordId>)> {
            findings.into_iter().map(|finding| (finding.problem, finding.record)).collect()
        };
        assert_eq!(
            found(b.peer().verify().await.unwrap()),
            [("its mark of deletion is not what its stamps say".to_owned(), Some(tags[4]))]
        );
        assert_eq!(
            found(b.peer().verify_with(a.id()).await.unwrap()),
            [("it is there and not here".to_owned(), Some(file)), ("it differs".to_owned(), Some(tags[3]))]
        );
        until_equal(cluster).await;
    });
}
