//! Libraries of mixed versions: what a device does not know it keeps and passes on, and knows after an upgrade.

use starling::Registry;
use starling_schema::ids::RecordId;
use starling_schema::model::Syncable;
use starling_schema::models::{Tag, TagRelationship, Volume};
use starling_schema::value::Value;
use starling_tests::check;
use starling_tests::sim::{Cluster, Node};

use crate::LATER;

starling_schema::model! {
    /// The tags of an older build: without colours.
    PlainTag = 5, "tag", Shared {
        /// What people see.
        1 NAME name: String,
    }
}

starling_schema::model! {
    /// The volumes of an older build: without sizes.
    PlainVolume = 2, "volume", Owned {
        /// The device that it is mounted on.
        1 DEVICE device: RecordId,
        /// What to call it.
        3 NAME name: String,
    }
}

/// A build that knows fewer fields.
fn with_fewer_fields() -> Registry {
    Registry::default().with::<PlainTag>().with::<PlainVolume>()
}

/// A build that knows fewer models.
fn with_fewer_models() -> Registry {
    Registry::default().without(TagRelationship::MODEL).without(Volume::MODEL)
}

/// Three devices as a chain, the one in the middle of an older build.
async fn old_in_the_middle(cluster: &Cluster, old: Registry) -> [Node; 3] {
    let nodes = cluster.library(["a", "old", "c"]).await;
    cluster.network().change(|conditions| conditions.line(&[0, 1, 2])).await;
    nodes[1].rebuild(old).await;
    nodes
}

/// A tag with a colour, and a volume with a size.
async fn write_all_fields(node: &Node) -> (RecordId, RecordId) {
    let mut tag = Tag::new(node.new_id());
    (tag.name, tag.color) = (Some("tag".to_owned()), Some("#ff0000".to_owned()));
    (node.put(&tag).await, node.add_volume("disk").await)
}

/// How many records are found by the fields that the older build lacks.
async fn found_by_new_fields(node: &Node) -> (usize, usize) {
    let tags = node.find::<Tag>(Tag::COLOR, "#ff0000").await.len();
    (tags, node.find::<Volume>(Volume::CAPACITY, 1_i64 << 40).await.len())
}

#[test]
fn fields_that_a_device_does_not_know_reach_a_third_through_it_and_get_their_columns_at_an_upgrade() {
    Cluster::run(901, async |cluster| {
        let [a, old, c] = old_in_the_middle(cluster, with_fewer_fields()).await;
        let (tag, _) = write_all_fields(&a).await;
        cluster.settle(LATER).await;
        assert_eq!(found_by_new_fields(&c).await, (1, 1));
        assert_eq!(found_by_new_fields(&old).await, (0, 0));
        old.set::<Tag>(tag, Tag::NAME, "renamed by the older one").await;
        cluster.settle(LATER).await;
        assert_eq!(c.get::<Tag>(tag).await.unwrap().color.unwrap(), "#ff0000");
        old.rebuild(Registry::default()).await;
        cluster.settle(LATER).await;
        assert_eq!(found_by_new_fields(&old).await, (1, 1));
        assert_eq!(old.get::<Tag>(tag).await, a.get::<Tag>(tag).await);
        check::assert_equal(&[&a, &old, &c]).await;
    });
}

#[test]
fn records_of_models_that_a_device_does_not_know_reach_a_third_through_it_and_get_their_tables_at_an_upgrade() {
    Cluster::run(902, async |cluster| {
        let [a, old, c] = old_in_the_middle(cluster, with_fewer_models()).await;
        let [outer, inner, other] = [a.add_tag("outer").await, a.add_tag("inner").await, a.add_tag("other").await];
        let kept = a.nest(outer, inner).await;
        let deleted = a.nest(outer, other).await;
        let [disk, stick] = [a.add_volume("disk").await, a.add_volume("stick").await];
        cluster.settle(LATER).await;
        assert_eq!((c.all::<TagRelationship>().await.len(), c.all::<Volume>().await.len()), (2, 2));
        assert_eq!((old.all::<TagRelationship>().await.len(), old.all::<Volume>().await.len()), (0, 0));
        c.delete::<TagRelationship>(deleted).await;
        a.delete::<Volume>(stick).await;
        a.set::<Volume>(disk, Volume::NAME, "renamed").await;
        cluster.settle(LATER).await;
        check::assert_equal(&[&a, &old, &c]).await;
        old.rebuild(Registry::default()).await;
        cluster.settle(LATER).await;
        for node in [&a, &old, &c] {
            let edges = node.find::<TagRelationship>(TagRelationship::PARENT, Value::Id(outer)).await;
            assert_eq!(edges.iter().map(Syncable::id).collect::<Vec<_>>(), [kept]);
            let volumes = node.find::<Volume>(Volume::NAME, "renamed").await;
            assert_eq!(volumes.iter().map(Syncable::id).collect::<Vec<_>>(), [disk]);
            assert_eq!(node.owner::<Volume>(disk).await, Some(a.id()));
        }
        old.restore::<TagRelationship>(deleted).await;
        cluster.settle(LATER).await;
        assert_eq!(a.all::<TagRelationship>().await.len(), 2);
        check::assert_equal(&[&a, &old, &c]).await;
    });
}

#[test]
fn a_newcomer_gets_by_snapshot_from_an_older_device_what_that_device_does_not_know() {
    for old_registry in [with_fewer_fields(), with_fewer_models()] {
        Cluster::run(903, async |cluster| {
            let [a, old] = cluster.library(["a", "old"]).await;
            old.rebuild(old_registry.clone()).await;
            let (outer, _) = write_all_fields(&a).await;
            let inner = a.add_tag("inner").await;
            a.nest(outer, inner).await;
            cluster.settle(LATER).await;
            cluster.until_pruned(LATER).await;
            a.stop().await;
            let c = cluster.device("c").await;
            c.join(&old).await;
            cluster.settle(LATER).await;
            assert_eq!(found_by_new_fields(&c).await, (1, 1));
            assert_eq!(c.find::<TagRelationship>(TagRelationship::PARENT, Value::Id(outer)).await.len(), 1);
            a.start().await;
            cluster.settle(LATER).await;
            check::assert_equal(&[&a, &old, &c]).await;
        });
    }
}
