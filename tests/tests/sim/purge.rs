//! What is left of deleted records: whole for a month, gone afterwards, and never half there.

use std::time::Duration;

use starling::CommitError;
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::models::{Tag, TagAssignment, Target};
use starling_tests::sim::{Cluster, Node};

use crate::{LATER, SOON};

/// A month, and the day that makes it over.
const MONTH: Duration = Duration::from_hours(31 * 24);

/// What every device holds of a tag: its name in the table, whatever its life.
async fn name_in_table(node: &Node, id: RecordId) -> Option<String> {
    use diesel::prelude::*;
    use diesel::sql_types::{Binary, Nullable, Text};

    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Nullable<Text>)]
        name: Option<String>,
    }

    let read = move |c: &mut SqliteConnection| {
        let read = diesel::sql_query("SELECT name FROM tag WHERE id = ?").bind::<Binary, _>(id.as_bytes().to_vec());
        Ok(read.get_result::<Row>(c)?.name)
    };
    node.peer().query(read).await.unwrap()
}

async fn until_purged(cluster: &Cluster, id: RecordId) {
    let held = async || {
        for node in cluster.running() {
            if let Some(name) = name_in_table(&node, id).await {
                return Some(format!("{} still has {name}", node.name()));
            }
        }
        None
    };
    cluster.until("the fields are gone everywhere", Duration::from_mins(15), held).await;
}

#[test]
fn the_fields_and_losers_of_a_deleted_record_go_after_a_month_and_it_cannot_be_restored() {
    Cluster::run(1501, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let (tag, other) = (a.add_tag("beach").await, a.add_tag("dunes").await);
        cluster.settle(SOON).await;
        cluster.partition(&[&[&a, &c], &[&b]]).await;
        b.set::<Tag>(tag, Tag::NAME, "strand").await;
        a.delete::<Tag>(tag).await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        assert_eq!(c.conflicts().await.len(), 1);
        cluster.skip(Duration::from_hours(29 * 24));
        cluster.pass(LATER).await;
        assert!(name_in_table(&c, tag).await.is_some());
        a.delete::<Tag>(other).await;
        cluster.skip(Duration::from_hours(2 * 24));
        cluster.settle(LATER).await;
        until_purged(cluster, tag).await;
        cluster.settle(LATER).await;
        assert_eq!(c.conflicts().await, []);
        let refused = b.try_commit(vec![Write::restore(Tag::MODEL, tag)]).await;
        assert!(matches!(refused, Err(CommitError::Purged { record, .. }) if record == tag), "{refused:?}");
        b.restore::<Tag>(other).await;
        cluster.settle(SOON).await;
        assert_eq!(c.tag_name(other).await.as_deref(), Some("dunes"));
    });
}

#[test]
fn a_record_that_is_restored_while_it_is_on_its_way_out_and_deleted_again_has_its_month() {
    Cluster::run(1504, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let tag = a.add_tag("beach").await;
        a.delete::<Tag>(tag).await;
        cluster.settle(LATER).await;
        // b does not say that it has the delete's successors: the round waits for it.
        b.stop().await;
        a.add_tag("later").await;
        cluster.skip(MONTH);
        cluster.pass(Duration::from_mins(3)).await;
        a.restore::<Tag>(tag).await;
        cluster.pass(LATER).await;
        a.delete::<Tag>(tag).await;
        b.start().await;
        cluster.settle(LATER).await;
        cluster.pass(Duration::from_mins(10)).await;
        for node in [&a, &b] {
            assert_eq!(name_in_table(node, tag).await.as_deref(), Some("beach"), "{}", node.name());
        }
        b.restore::<Tag>(tag).await;
        cluster.settle(SOON).await;
        assert_eq!(a.tag_name(tag).await.as_deref(), Some("beach"));
    });
}

#[test]
fn a_junction_that_was_purged_can_be_made_again() {
    Cluster::run(1502, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let (tag, entry) = (a.add_tag("beach").await, a.add_file().await);
        let assignment = a.assign(tag, &Target::Entry(entry)).await;
        cluster.settle(SOON).await;
        b.delete::<TagAssignment>(assignment).await;
        a.delete::<Tag>(tag).await;
        cluster.settle(SOON).await;
        cluster.skip(MONTH);
        until_purged(cluster, tag).await;
        cluster.pass(LATER).await;
        assert_eq!(b.assign(tag, &Target::Entry(entry)).await, assignment);
        cluster.settle(SOON).await;
        let back = a.get::<TagAssignment>(assignment).await.unwrap();
        assert_eq!((back.tag, back.entry), (Some(tag), Some(entry)));
    });
}

#[test]
fn what_a_device_lacks_that_was_away_longer_is_not_purged_and_its_edit_does_not_bring_it_back() {
    Cluster::run(1503, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let tag = a.add_tag("beach").await;
        cluster.settle(SOON).await;
        cluster.until_pruned(LATER).await;
        cluster.unplug(&c).await;
        c.set::<Tag>(tag, Tag::COLOR, "blue").await;
        a.delete::<Tag>(tag).await;
        cluster.pass(SOON).await;
        c.stop().await;
        cluster.skip(MONTH);
        cluster.pass(Duration::from_mins(15)).await;
        assert!(name_in_table(&a, tag).await.is_some());
        cluster.heal().await;
        c.start().await;
        cluster.settle(LATER).await;
        for node in [&a, &b, &c] {
            assert_eq!(node.get::<Tag>(tag).await, None);
        }
        until_purged(cluster, tag).await;
        cluster.settle(LATER).await;
        assert_eq!(a.conflicts().await, []);
    });
}
