//! What arrives in another order than it was made: the same in the end, whoever was heard first.

use starling_schema::change::{FieldWrite, Op, SharedChange, Write};
use starling_schema::hlc::Hlc;
use starling_schema::models::Tag;
use starling_schema::record::Seen;
use starling_schema::value::Fields;
use starling_schema::wire::{SharedEntry, SyncPayload};
use starling_tests::sim::{Cluster, FakeMember};

use crate::{LATER, SOON};

#[test]
fn the_changes_of_one_commit_are_applied_in_their_order() {
    Cluster::run(217, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let tag = a.add_tag("counted").await;
        let rename = |number: u32| Write::patch(Tag::MODEL, tag, Fields::new().with(Tag::NAME, number.to_string()));
        a.commit((0..1_000).map(rename).collect()).await;
        cluster.settle(SOON).await;
        for node in [&a, &b] {
            assert_eq!((node.tag_name(tag).await.unwrap(), node.conflicts().await), ("999".to_owned(), vec![]));
        }
    });
}

#[test]
fn a_delete_that_arrives_before_what_it_deletes_keeps_it_away() {
    Cluster::run(218, async |cluster| {
        let a = cluster.device("a").await;
        let (author, key) = FakeMember::join(cluster, &a, 1).await;
        let (other, _) = FakeMember::join(cluster, &a, 2).await;
        let record = a.new_id();
        let change = |fake: &FakeMember, time_ms, op| {
            let origin = fake.key().device();
            let hlc = Hlc::at(time_ms, origin);
            let change = SharedChange { seq: 1, hlc, model: Tag::MODEL, record, op, ends_commit: true };
            SyncPayload::SharedChange(SharedEntry { origin, change })
        };
        let fields = vec![FieldWrite { field: Tag::NAME, value: "short-lived".into(), seen: Seen::new() }];
        let deleted = change(&other, 2_000, Op::Delete { seen: Seen::new() });
        assert_eq!(other.ask(&a, key, deleted).await.name(), "ack_shared_changes");
        a.restart().await;
        author.dial(a.number(), key).await.ok();
        let made = change(&author, 1_000, Op::Set { life: None, fields });
        assert_eq!(author.ask(&a, key, made).await.name(), "ack_shared_changes");
        assert_eq!((a.get::<Tag>(record).await, a.count::<Tag>().await), (None, 0));
    });
}

#[test]
fn a_restore_against_edits_of_the_life_before_ends_alike_in_every_order() {
    for restorer_first in [true, false] {
        for edit_is_later in [true, false] {
            Cluster::run(219, async |cluster| {
                let [a, b, witness] = cluster.library(["a", "b", "witness"]).await;
                let tag = a.add_tag("before").await;
                cluster.settle(SOON).await;
                cluster.partition(&[&[&a], &[&b], &[&witness]]).await;
                a.delete::<Tag>(tag).await;
                if !edit_is_later {
                    b.set::<Tag>(tag, Tag::NAME, "edit of the old life").await;
                    cluster.pass(SOON).await;
                }
                a.restore::<Tag>(tag).await;
                a.set::<Tag>(tag, Tag::COLOR, "#00ff00").await;
                if edit_is_later {
                    cluster.pass(SOON).await;
                    b.set::<Tag>(tag, Tag::NAME, "edit of the old life").await;
                }
                let order = if restorer_first { [&a, &b] } else { [&b, &a] };
                for author in order {
                    let away = if author.number() == a.number() { b.number() } else { a.number() };
                    cluster.heal().await;
                    cluster.network().change(move |conditions| conditions.down = [away].into()).await;
                    cluster.pass(LATER).await;
                }
                cluster.heal().await;
                cluster.settle(LATER).await;
                for node in [&a, &b, &witness] {
                    let tag = node.get::<Tag>(tag).await.unwrap();
                    assert_eq!((tag.name.unwrap().as_str(), tag.color.unwrap().as_str()), ("before", "#00ff00"));
                }
            });
        }
    }
}
