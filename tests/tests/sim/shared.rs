//! Shared data: every edit reaches every device, concurrent ones end alike everywhere, and losers are kept.

use std::time::Duration;

use futures::future::join_all;
use starling_schema::change::{COMMIT_CHANGES_MAX, Write};
use starling_schema::ids::{FieldNo, RecordId};
use starling_schema::model::Syncable;
use starling_schema::models::{
    Collection, CollectionEntry, Entry, Location, Tag, TagAssignment, TagRelationship, Target, UserMetadata,
    UserMetadataDevice,
};
use starling_schema::value::{FIELDS_MAX, Fields, VALUE_BYTES_MAX, Value};
use starling_tests::check;
use starling_tests::sim::{Cluster, Conditions, Link, Node};

use crate::{LATER, SOON};

/// Creates, edits, deletes and restores a record on one device and sees the other follow each step.
async fn follows<M: Syncable + PartialEq + std::fmt::Debug>(
    cluster: &Cluster,
    [a, b]: &[Node; 2],
    record: M,
    field: FieldNo,
    edited: Value,
) {
    let id = a.put(&record).await;
    cluster.settle(SOON).await;
    assert_eq!(b.get::<M>(id).await, Some(record));
    a.set::<M>(id, field, edited.clone()).await;
    cluster.settle(SOON).await;
    assert_eq!(b.get::<M>(id).await.unwrap().fields().get(field), Some(&edited));
    a.delete::<M>(id).await;
    cluster.settle(SOON).await;
    assert_eq!(b.get::<M>(id).await, None);
    a.restore::<M>(id).await;
    cluster.settle(SOON).await;
    assert_eq!(b.get::<M>(id).await, a.get::<M>(id).await);
    assert_eq!(b.get::<M>(id).await.unwrap().fields().get(field), Some(&edited));
}

#[test]
fn each_step_in_the_life_of_a_record_of_every_shared_model_is_followed() {
    Cluster::run(201, async |cluster| {
        let nodes = cluster.library(["a", "b"]).await;
        let [one, two] = [nodes[0].new_id(), nodes[0].new_id()];
        let mut tag = Tag::new(one);
        tag.name = Some("tag".to_owned());
        follows(cluster, &nodes, tag, Tag::COLOR, "#ff0000".into()).await;
        let nested = TagRelationship::between(one, two);
        follows(cluster, &nodes, nested, TagRelationship::CHILD, Value::Id(two)).await;
        let assigned = TagAssignment::of(one, &Target::Entry(two));
        follows(cluster, &nodes, assigned, TagAssignment::TAG, Value::Id(one)).await;
        let mut collection = Collection::new(two);
        collection.name = Some("collection".to_owned());
        follows(cluster, &nodes, collection, Collection::NAME, "renamed".into()).await;
        let place = CollectionEntry::of(two, one);
        follows(cluster, &nodes, place, CollectionEntry::POSITION, 2.5.into()).await;
        let metadata = UserMetadata::of(one);
        follows(cluster, &nodes, metadata, UserMetadata::NOTES, "read it".into()).await;
    });
}

/// Has each device rename a tag without hearing of the others, the first one first, and gives the tag.
async fn rename_apart(cluster: &Cluster, nodes: &[&Node]) -> RecordId {
    let tag = nodes[0].add_tag("before").await;
    cluster.settle(SOON).await;
    for node in nodes {
        cluster.unplug(node).await;
    }
    for node in nodes {
        node.set::<Tag>(tag, Tag::NAME, node.name()).await;
        cluster.pass(Duration::from_millis(10)).await;
    }
    tag
}

/// The values that lost, in the order in which they are listed.
async fn lost(node: &Node) -> Vec<Value> {
    node.conflicts().await.into_iter().map(|conflict| conflict.value).collect()
}

#[test]
fn of_concurrent_edits_of_one_field_the_later_stands_and_the_other_is_listed_on_both() {
    Cluster::run(202, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let tag = rename_apart(cluster, &[&a, &b]).await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        for node in [&a, &b] {
            assert_eq!(node.tag_name(tag).await.unwrap(), "b");
            let conflicts = node.conflicts().await;
            assert_eq!(conflicts.len(), 1);
            assert_eq!((conflicts[0].record, conflicts[0].field), (tag, Tag::NAME));
            assert_eq!((conflicts[0].value.clone(), conflicts[0].hlc.device), (Value::from("a"), a.id()));
        }
        assert_eq!(a.conflicts().await, b.conflicts().await);
    });
}

#[test]
fn concurrent_edits_of_different_fields_both_survive_without_a_conflict() {
    Cluster::run(203, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let tag = a.add_tag("before").await;
        cluster.settle(SOON).await;
        cluster.partition(&[&[&a], &[&b]]).await;
        a.set::<Tag>(tag, Tag::NAME, "renamed").await;
        b.set::<Tag>(tag, Tag::COLOR, "#00ff00").await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        for node in [&a, &b] {
            let tag = node.get::<Tag>(tag).await.unwrap();
            assert_eq!((tag.name.unwrap().as_str(), tag.color.unwrap().as_str()), ("renamed", "#00ff00"));
            assert_eq!(node.conflicts().await, []);
        }
    });
}

#[test]
fn three_concurrent_edits_end_alike_in_every_order_of_arrival() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        Cluster::run(204, async |cluster| {
            let [a, b, c, witness] = cluster.library(["a", "b", "c", "witness"]).await;
            let tag = rename_apart(cluster, &[&a, &b, &c]).await;
            let authors = [&a, &b, &c];
            for at in order {
                let away: Vec<_> = (0..3).filter(|other| *other != at).map(|other| authors[other].number()).collect();
                cluster.network().change(|conditions| conditions.down = away.into_iter().collect()).await;
                cluster.pass(LATER).await;
            }
            cluster.heal().await;
            cluster.settle(LATER).await;
            assert_eq!(witness.tag_name(tag).await.unwrap(), "c", "{order:?}");
            assert_eq!(lost(&witness).await, [Value::from("a"), Value::from("b")], "{order:?}");
            assert_eq!(witness.conflicts().await, a.conflicts().await);
        });
    }
}

#[test]
fn edits_that_saw_the_one_before_make_no_conflict_whatever_the_order_of_arrival() {
    for seed in 0..6 {
        Cluster::run(seed, async |cluster| {
            let [a, b, c] = cluster.library(["a", "b", "c"]).await;
            let tag = a.add_tag("before").await;
            cluster.settle(SOON).await;
            // What c is sent takes its time, each message its own, so that the streams overtake each other.
            let slow = Link { delay_ms: 1..=8_000, ..Link::default() };
            let (from, to) = ([a.number(), b.number()], c.number());
            let delay = move |conditions: &mut Conditions| {
                conditions.links = from.map(|from| ((from, to), slow.clone())).into();
            };
            cluster.network().change(delay).await;
            for round in 0..5 {
                a.set::<Tag>(tag, Tag::NAME, format!("a {round}")).await;
                cluster.pass(Duration::from_secs(1)).await;
                b.set::<Tag>(tag, Tag::NAME, format!("b {round}")).await;
                cluster.pass(Duration::from_secs(1)).await;
                assert_eq!(a.tag_name(tag).await.unwrap(), format!("b {round}"));
                assert_eq!(c.conflicts().await, []);
            }
            cluster.settle(LATER).await;
            assert_eq!(c.tag_name(tag).await.unwrap(), "b 4");
            assert_eq!(c.conflicts().await, []);
        });
    }
}

#[test]
fn an_edit_that_saw_only_the_winner_leaves_the_unseen_loser_listed() {
    Cluster::run(206, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let tag = rename_apart(cluster, &[&a, &b]).await;
        let number = a.number();
        cluster.network().change(move |conditions| conditions.down = [number].into()).await;
        cluster.pass(LATER).await;
        assert_eq!(c.tag_name(tag).await.unwrap(), "b");
        c.set::<Tag>(tag, Tag::NAME, "c").await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        for node in [&a, &b, &c] {
            assert_eq!(node.tag_name(tag).await.unwrap(), "c");
            assert_eq!(lost(node).await, [Value::from("a")]);
        }
    });
}

#[test]
fn restoring_a_loser_puts_its_value_and_takes_the_conflict_away_everywhere() {
    Cluster::run(207, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let tag = rename_apart(cluster, &[&a, &b]).await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        let loser = c.conflicts().await.remove(0);
        c.set::<Tag>(tag, loser.field, loser.value).await;
        cluster.settle(SOON).await;
        for node in [&a, &b, &c] {
            assert_eq!(node.tag_name(tag).await.unwrap(), "a");
            assert_eq!(node.conflicts().await, []);
        }
    });
}

#[test]
fn dismissing_a_conflict_keeps_the_winner_and_takes_it_away_everywhere() {
    Cluster::run(208, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let tag = rename_apart(cluster, &[&a, &b]).await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        a.set::<Tag>(tag, Tag::NAME, "b").await;
        cluster.settle(SOON).await;
        assert_eq!((b.tag_name(tag).await.unwrap(), b.conflicts().await), ("b".to_owned(), vec![]));
    });
}

#[test]
fn a_delete_stands_against_a_concurrent_edit_which_is_listed_and_comes_back_with_a_restore() {
    for delete_is_later in [false, true] {
        Cluster::run(209, async |cluster| {
            let [a, b] = cluster.library(["a", "b"]).await;
            let tag = a.add_tag("before").await;
            cluster.settle(SOON).await;
            cluster.partition(&[&[&a], &[&b]]).await;
            if delete_is_later {
                b.set::<Tag>(tag, Tag::NAME, "edited").await;
                cluster.pass(SOON).await;
                a.delete::<Tag>(tag).await;
            } else {
                a.delete::<Tag>(tag).await;
                cluster.pass(SOON).await;
                b.set::<Tag>(tag, Tag::NAME, "edited").await;
            }
            cluster.heal().await;
            cluster.settle(LATER).await;
            for node in [&a, &b] {
                assert_eq!(node.tag_name(tag).await, None);
                let conflicts = node.conflicts().await;
                assert_eq!(conflicts.len(), 1);
                assert_eq!((conflicts[0].value.clone(), conflicts[0].deleted), (Value::from("edited"), true));
            }
            a.restore::<Tag>(tag).await;
            cluster.settle(SOON).await;
            assert_eq!((b.tag_name(tag).await.unwrap(), b.conflicts().await), ("edited".to_owned(), vec![]));
        });
    }
}

#[test]
fn a_record_too_large_for_one_change_comes_back_whole_with_what_lost() {
    Cluster::run(242, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let tag = a.add_tag("tag").await;
        cluster.settle(SOON).await;
        cluster.partition(&[&[&a], &[&b], &[&c]]).await;
        for (node, letter) in [(&a, "a"), (&b, "b"), (&c, "c")] {
            node.set::<Tag>(tag, Tag::DESCRIPTION, letter.repeat(30_000)).await;
        }
        cluster.heal().await;
        cluster.settle(LATER).await;
        let before = a.conflicts().await;
        assert_eq!(before.len(), 2);
        a.delete::<Tag>(tag).await;
        cluster.settle(SOON).await;
        assert_eq!(b.conflicts().await, []);
        b.commit(vec![Write::restore(Tag::MODEL, tag)]).await;
        cluster.settle(SOON).await;
        for node in [&a, &b, &c] {
            assert_eq!(node.conflicts().await, before);
            assert_eq!(node.tag_name(tag).await.as_deref(), Some("tag"));
        }
    });
}

#[test]
fn two_tags_of_one_name_made_apart_coexist_and_the_built_in_one_is_one() {
    Cluster::run(210, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        cluster.partition(&[&[&a], &[&b]]).await;
        for node in [&a, &b] {
            node.add_tag("Vacation").await;
            let mut favourite = Tag::new(Tag::built_in("favourite"));
            favourite.name = Some("favourite".to_owned());
            node.put(&favourite).await;
        }
        cluster.heal().await;
        cluster.settle(LATER).await;
        for node in [&a, &b] {
            assert_eq!(node.find::<Tag>(Tag::NAME, "Vacation").await.len(), 2);
            assert_eq!(node.find::<Tag>(Tag::NAME, "favourite").await.len(), 1);
            assert_eq!(node.conflicts().await, []);
        }
    });
}

#[test]
fn one_entry_collected_on_both_is_there_once_and_two_entries_are_both_there() {
    Cluster::run(211, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let collection = a.add_collection("best").await;
        let [both, ours, theirs] = [a.add_file().await, a.add_file().await, a.add_file().await];
        cluster.settle(SOON).await;
        cluster.partition(&[&[&a], &[&b]]).await;
        a.collect(collection, both, 1.0).await;
        b.collect(collection, both, 1.0).await;
        a.collect(collection, ours, 2.0).await;
        b.collect(collection, theirs, 3.0).await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        for node in [&a, &b] {
            let mut places = node.find::<CollectionEntry>(CollectionEntry::COLLECTION, Value::Id(collection)).await;
            places.sort_by(|one, two| one.position.partial_cmp(&two.position).unwrap());
            let entries: Vec<_> = places.into_iter().map(|place| place.entry.unwrap()).collect();
            assert_eq!(entries, [both, ours, theirs]);
        }
    });
}

#[test]
fn assigning_a_tag_against_taking_it_away_ends_alike_everywhere_by_what_came_later() {
    for removal_is_later in [false, true] {
        Cluster::run(212, async |cluster| {
            let [a, b] = cluster.library(["a", "b"]).await;
            let target = Target::Entry(a.add_file().await);
            let tag = a.add_tag("tag").await;
            let assignment = a.assign(tag, &target).await;
            a.delete::<TagAssignment>(assignment).await;
            a.assign(tag, &target).await;
            cluster.settle(SOON).await;
            b.delete::<TagAssignment>(assignment).await;
            cluster.settle(SOON).await;
            b.assign(tag, &target).await;
            cluster.settle(SOON).await;
            cluster.partition(&[&[&a], &[&b]]).await;
            let remove = async || a.delete::<TagAssignment>(assignment).await;
            let again = async || {
                b.delete::<TagAssignment>(assignment).await;
                b.assign(tag, &target).await;
            };
            if removal_is_later {
                again().await;
                cluster.pass(SOON).await;
                remove().await;
            } else {
                remove().await;
                cluster.pass(SOON).await;
                again().await;
            }
            cluster.heal().await;
            cluster.settle(LATER).await;
            for node in [&a, &b] {
                assert_eq!(node.get::<TagAssignment>(assignment).await.is_some(), !removal_is_later);
            }
        });
    }
}

#[test]
fn an_assignment_before_its_tag_and_entry_is_there_once_both_are_also_after_a_restart() {
    Cluster::run(213, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let [tag, entry] = [a.new_id(), a.new_id()];
        a.assign(tag, &Target::Entry(entry)).await;
        cluster.settle(SOON).await;
        assert_eq!((b.count::<TagAssignment>().await, b.tag_name(tag).await), (1, None));
        b.restart().await;
        let mut file = Entry::new(entry);
        file.name = Some("file".to_owned());
        a.put(&file).await;
        cluster.settle(SOON).await;
        assert_eq!((b.count::<TagAssignment>().await, b.tag_name(tag).await), (1, None));
        b.kill().await;
        b.start().await;
        let mut named = Tag::new(tag);
        named.name = Some("tag".to_owned());
        a.put(&named).await;
        cluster.settle(LATER).await;
        let assigned = b.find::<TagAssignment>(TagAssignment::ENTRY, Value::Id(entry)).await;
        assert_eq!(assigned.len(), 1);
        assert_eq!(b.tag_name(assigned[0].tag.unwrap()).await.unwrap(), "tag");
        assert_eq!(b.get::<Entry>(entry).await.unwrap().name.unwrap(), "file");
    });
}

#[test]
fn a_tag_on_a_content_is_on_every_devices_copy_of_it() {
    Cluster::run(214, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let content = vec![5; 32];
        let copies = [a.add_file().await, b.add_file().await];
        a.set::<Entry>(copies[0], Entry::CONTENT_HASH, content.clone()).await;
        b.set::<Entry>(copies[1], Entry::CONTENT_HASH, content.clone()).await;
        let tag = a.add_tag("same").await;
        a.assign(tag, &Target::Content(content.clone())).await;
        cluster.settle(SOON).await;
        let assigned = b.find::<TagAssignment>(TagAssignment::CONTENT_HASH, content.clone()).await;
        assert_eq!(assigned.iter().map(|assignment| assignment.tag.unwrap()).collect::<Vec<_>>(), [tag]);
        assert_eq!(b.find::<Entry>(Entry::CONTENT_HASH, content).await.len(), 2);
    });
}

#[test]
fn the_shared_half_of_metadata_merges_and_the_devices_halves_stand_side_by_side() {
    Cluster::run(215, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let file = a.add_file().await;
        cluster.settle(SOON).await;
        cluster.partition(&[&[&a], &[&b]]).await;
        let metadata = a.note(file, "a note").await;
        let mut marked = UserMetadata::of(file);
        marked.favorite = Some(true);
        b.put(&marked).await;
        a.opened(file, 3).await;
        b.opened(file, 4).await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        for node in [&a, &b] {
            let shared = node.get::<UserMetadata>(metadata).await.unwrap();
            assert_eq!((shared.notes.unwrap().as_str(), shared.favorite), ("a note", Some(true)));
            let halves = node.find::<UserMetadataDevice>(UserMetadataDevice::TARGET, Value::Id(file)).await;
            let mut opened: Vec<_> = halves.into_iter().map(|half| half.open_count.unwrap()).collect();
            opened.sort_unstable();
            assert_eq!(opened, [3, 4]);
        }
    });
}

#[test]
fn a_reader_never_sees_part_of_a_commit_of_a_thousand_changes() {
    Cluster::run(216, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        cluster.unplug(&b).await;
        let tags = a.add_tags(5_000).await;
        for chunk in tags.chunks(1_000) {
            let rename = |id: &RecordId| Write::patch(Tag::MODEL, *id, Fields::new().with(Tag::NAME, "renamed"));
            a.commit(chunk.iter().map(rename).collect()).await;
        }
        cluster.heal().await;
        let whole = async |node: &Node| {
            let tags = node.all::<Tag>().await;
            let renamed = tags.iter().filter(|tag| tag.name.as_deref() == Some("renamed")).count();
            assert_eq!((tags.len() % 1_000, renamed % 1_000), (0, 0));
            renamed
        };
        for look in 0.. {
            if whole(&b).await == 5_000 {
                break;
            }
            // Applying takes no virtual time: look in the midst of its steps too.
            if look % 8 == 0 {
                cluster.pass(Duration::from_millis(1)).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
        cluster.settle(LATER).await;
        check::assert_equal(&[&a, &b]).await;
    });
}

/// What never can be written, each with words of the reason.
fn impossible(node: &Node) -> Vec<(Vec<Write>, &'static str)> {
    let id = node.new_id();
    let tag = |fields| Write::put(Tag::MODEL, id, fields);
    let numbers = (0..=u16::try_from(FIELDS_MAX).unwrap()).fold(Fields::new(), |all, field| all.with(field, 1));
    let text = |bytes| Fields::new().with(Tag::NAME, "x".repeat(bytes));
    vec![
        (vec![Write::put(Tag::MODEL, RecordId::MIN, text(1))], "an id of zeros"),
        (vec![tag(numbers)], "65 fields are more than 64"),
        (vec![tag(Fields::new().with(999, "x"))], "there is no field 999"),
        (vec![tag(Fields::new().with(Tag::NAME, 1))], "name cannot hold"),
        (vec![tag(text(VALUE_BYTES_MAX + 1))], "name has 32769 bytes of 32768"),
        (vec![Write::put(999, id, text(1))], "there is no such model"),
        (vec![Write::restore(Location::MODEL, id)], "only shared records can be restored"),
        (vec![tag(text(1)); COMMIT_CHANGES_MAX + 1], "more than one commit holds"),
    ]
}

#[test]
fn a_write_that_never_can_be_is_refused_with_the_reason_and_nothing_of_its_commit_is_written() {
    Cluster::run(146, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        for (writes, words) in impossible(&a) {
            let (heads, marks) = (a.peer().heads().await.unwrap(), a.count::<Tag>().await);
            let alone = a.try_commit(writes.clone()).await.unwrap_err().to_string();
            assert!(alone.contains(words), "{alone}");
            // Behind writes that could be: those are not written either.
            let possible = Write::put(Tag::MODEL, a.new_id(), Fields::new().with(Tag::NAME, "possible"));
            let place = Write::put(Location::MODEL, a.new_id(), Fields::new().with(Location::NAME, "possible"));
            let among = a.try_commit([vec![place, possible], writes].concat()).await.unwrap_err().to_string();
            assert!(among.contains(words), "{among}");
            assert_eq!((a.peer().heads().await.unwrap(), a.count::<Tag>().await), (heads, marks));
        }
        assert_eq!((a.count::<Location>().await, a.count::<Tag>().await), (0, 0));
        let tag = a.add_tag("after").await;
        cluster.settle(SOON).await;
        assert_eq!(b.get::<Tag>(tag).await.unwrap().name.as_deref(), Some("after"));
    });
}

#[test]
fn commits_that_come_together_keep_their_order_and_are_each_all_or_nothing() {
    Cluster::run(171, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let (tag, other, place) = (a.new_id(), a.new_id(), a.new_id());
        let name = |id, name: &str| Write::patch(Tag::MODEL, id, Fields::new().with(Tag::NAME, name));
        let unknown = Write::patch(Tag::MODEL, tag, Fields::new().with(999, "x"));
        let commits = [
            vec![Write::put(Tag::MODEL, tag, Fields::new().with(Tag::NAME, "one"))],
            vec![unknown.clone()],
            vec![name(tag, "two")],
            vec![Write::put(Tag::MODEL, other, Fields::new().with(Tag::NAME, "other")), name(tag, "three"), unknown],
            vec![Write::put(Location::MODEL, place, Fields::new().with(Location::NAME, "place")), name(tag, "four")],
            vec![Write::delete(Tag::MODEL, other)],
            vec![name(tag, "five")],
        ];
        let before = a.peer().heads().await.unwrap();
        let answers = join_all(commits.map(|writes| a.try_commit(writes))).await;
        let heads: Vec<_> = answers.iter().map(|answer| answer.as_ref().map(|it| it.shared_head).ok()).collect();
        let first = answers[0].as_ref().unwrap().shared_head;
        // The deletion of what never was changes nothing.
        let expected = [Some(0), None, Some(1), None, Some(2), Some(2), Some(3)];
        assert_eq!(heads, expected.map(|after| after.map(|after| first + after)));
        assert_ne!(a.peer().heads().await.unwrap(), before);
        cluster.settle(SOON).await;
        for node in [&a, &b] {
            assert_eq!(node.get::<Tag>(tag).await.unwrap().name.as_deref(), Some("five"));
            assert_eq!((node.get::<Tag>(other).await, node.count::<Location>().await), (None, 1));
        }
    });
}
