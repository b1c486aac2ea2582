//! Snapshots: what is taken when the log is gone, in pages that may come from anybody, with crashes and losses between.

use std::time::Duration;

use starling_schema::change::{StateRow, Write};
use starling_schema::ids::RecordId;
use starling_schema::models::{Entry, Location, Tag};
use starling_schema::stream::Watermarks;
use starling_schema::value::Fields;
use starling_schema::wire::{PageResponse, SnapshotItems, SnapshotResponse, SnapshotScope, SyncPayload};
use starling_tests::sim::{Cluster, FakeMember, Link, Node};

use crate::{LATER, SOON};

/// How many rows the snapshot of a large library has: few enough for every run, or as `SIM_ROWS` says.
fn snapshot_rows() -> usize {
    std::env::var("SIM_ROWS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

#[test]
fn a_snapshot_of_many_pages_is_whole_though_edits_go_on_and_the_joiner_crashes() {
    Cluster::run(507, async |cluster| {
        let rows = snapshot_rows();
        let a = cluster.device("a").await;
        let tags = a.add_tags(rows).await;
        cluster.pass(SOON).await;
        assert_eq!(a.status().await.log.entries, 0);
        let b = cluster.device("b").await;
        b.join(&a).await;
        for round in 0..20 {
            a.set::<Tag>(tags[round * rows / 40], Tag::NAME, "edited").await;
            a.delete::<Tag>(tags[rows - 1 - round]).await;
            if round == 10 {
                b.kill().await;
                b.start().await;
            }
            cluster.pass(Duration::from_millis(3)).await;
        }
        cluster.settle(LATER).await;
        assert_eq!(b.count::<Tag>().await, rows as u64 - 20);
        assert_eq!(b.tag_name(tags[19 * rows / 40]).await.unwrap(), "edited");
    });
}

/// Makes so many tags with long descriptions, about a page of a snapshot in each commit of 200.
async fn add_long_tags(node: &Node, count: usize) {
    let text = "long ".repeat(900);
    for chunk in node.peer().environment().new_ids(count).chunks(200) {
        let tag = |id: &RecordId| Write::put(Tag::MODEL, *id, Fields::new().with(Tag::DESCRIPTION, text.clone()));
        node.commit(chunk.iter().map(tag).collect()).await;
    }
}

#[test]
fn a_snapshot_goes_on_where_it_was_when_its_joiner_crashes_and_when_its_server_goes() {
    Cluster::run(512, async |cluster| {
        let [a, c] = cluster.library(["a", "c"]).await;
        add_long_tags(&a, 4_000).await;
        cluster.settle(LATER).await;
        cluster.until_pruned(LATER).await;
        let b = cluster.device("b").await;
        let apart = (c.number(), b.number());
        cluster.network().change(move |conditions| conditions.unlinked = [apart].into()).await;
        b.join(&a).await;
        let has = async |part: u64| {
            while b.count::<Tag>().await < part {
                cluster.pass(Duration::from_millis(1)).await;
            }
        };
        has(1_000).await;
        b.kill().await;
        b.start().await;
        has(2_000).await;
        cluster.unplug(&a).await;
        cluster.network().change(|conditions| conditions.unlinked.clear()).await;
        cluster
            .until("b has everything", LATER, async || {
                let count = b.count::<Tag>().await;
                (count < 4_000).then(|| count.to_string())
            })
            .await;
        let asked = async |node: &Node| cluster.report().await.tally(node.number()).requests_of("snapshot_request");
        let interrupted = asked(&b).await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        let whole = cluster.device("whole").await;
        whole.join(&a).await;
        cluster.settle(LATER).await;
        let pages = asked(&whole).await;
        // Each interruption may cost the two pages that were under way.
        assert!(pages > 15 && interrupted <= pages + 2 * 2, "{interrupted} requests for {pages} pages");
    });
}

#[test]
fn a_snapshot_of_many_pages_arrives_though_three_in_ten_messages_are_lost() {
    Cluster::run(513, async |cluster| {
        let a = cluster.device("a").await;
        add_long_tags(&a, 4_000).await;
        cluster.pass(SOON).await;
        let b = cluster.device("b").await;
        b.join(&a).await;
        let bad = Link { loss: 0.3, ..Link::default() };
        cluster.network().change(|conditions| conditions.link = bad).await;
        cluster
            .until("b has everything", Duration::from_mins(30), async || {
                let count = b.count::<Tag>().await;
                (count < 4_000).then(|| count.to_string())
            })
            .await;
        cluster.settle(LATER).await;
    });
}

#[test]
fn rows_of_many_pages_that_were_deleted_long_ago_are_gone_after_a_snapshot_of_the_rest() {
    Cluster::run(508, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let location = a.add_location("photos").await;
        let files = a.add_entries(location, None, 30_000).await;
        cluster.settle(LATER).await;
        b.stop().await;
        cluster.skip(Duration::from_hours(35 * 24));
        for chunk in files.chunks(2_000) {
            let every_other = chunk.iter().step_by(2);
            a.commit(every_other.map(|id| Write::delete(Entry::MODEL, *id)).collect()).await;
        }
        cluster.pass(LATER).await;
        b.start().await;
        cluster.settle(LATER).await;
        assert_eq!(b.count::<Entry>().await, 15_001);
    });
}

#[test]
fn a_snapshot_page_of_the_wrong_kind_is_refused_and_nothing_of_it_stays() {
    Cluster::run(514, async |cluster| {
        let a = cluster.device("a").await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        let (stream, record) = (fake.shared(), a.new_id());
        let row = StateRow {
            version: 1,
            model: Location::MODEL,
            record,
            fields: Some(Fields::new().with(Location::NAME, "smuggled")),
        };
        let page = |items| SnapshotResponse {
            scope: SnapshotScope::Shared,
            after: None,
            through: None,
            watermarks: Watermarks::from_iter([(stream, 10)]),
            items,
        };
        let snapshot = |items| SyncPayload::SnapshotResponse(page(items));
        fake.answer_with(
            "shared_change_request",
            SyncPayload::page_response(stream.kind, PageResponse::TakeSnapshot { floor: 10 }),
        );
        fake.answer_with("snapshot_request", snapshot(SnapshotItems::State(vec![row])));
        fake.claim(stream, 10);
        fake.disconnect(key).await;
        cluster.pass(LATER).await;
        let tag = a.add_tag("in the same moment").await;
        cluster.pass(LATER).await;
        let asked = fake.heard().requests.iter().filter(|request| request.payload.name() == "snapshot_request").count();
        assert!(asked > 1, "{asked}");
        assert_eq!(
            (a.get::<Location>(record).await, a.tag_name(tag).await.unwrap()),
            (None, "in the same moment".to_owned())
        );
        assert!(!a.status().await.verdict.in_sync);
        fake.answer_with("snapshot_request", snapshot(SnapshotItems::Shared(Vec::new())));
        cluster.pass(LATER).await;
        assert!(a.status().await.peers.iter().all(|peer| peer.behind_us == 0));
    });
}
