//! Device-owned data: every row reaches every device with its owner, newest version only, and deletes do too.

use futures::join;
use starling::EventKind;
use starling_schema::change::{StateRow, Write};
use starling_schema::ids::RecordId;
use starling_schema::model::Syncable;
use starling_schema::models::{Device, Entry, EntryKind, Location, Volume};
use starling_schema::value::Fields;
use starling_schema::wire::{StateBatch, SyncPayload};
use starling_tests::check;
use starling_tests::sim::{Cluster, FakeMember, Node};

use crate::{LATER, SOON};

#[test]
fn a_location_created_on_a_is_on_b_with_owner_a() {
    Cluster::run(101, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let location = a.add_location("photos").await;
        cluster.settle(SOON).await;
        assert_eq!(b.get::<Location>(location).await.unwrap().name.unwrap(), "photos");
        assert_eq!(b.owner::<Location>(location).await, Some(a.id()));
    });
}

#[test]
fn what_was_indexed_alone_is_on_a_device_that_joins_later() {
    Cluster::run(102, async |cluster| {
        let a = cluster.device("a").await;
        a.add_volume("disk").await;
        let location = a.add_location("photos").await;
        let year = a.add_entries(location, None, 1).await[0];
        let files = a.add_entries(location, Some(year), 50).await;
        let b = cluster.device("b").await;
        b.join(&a).await;
        cluster.settle(SOON).await;
        assert_eq!(b.all::<Device>().await.len(), 2);
        assert_eq!((b.count::<Volume>().await, b.count::<Location>().await, b.count::<Entry>().await), (1, 1, 52));
        assert_eq!(b.path_of(files[49]).await.unwrap(), "photos/file 0/file 49");
    });
}

#[test]
fn two_devices_with_a_volume_each_both_have_two_with_the_right_owners() {
    Cluster::run(103, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        cluster.partition(&[&[&a], &[&b]]).await;
        let (ours, theirs) = (a.add_volume("one").await, b.add_volume("two").await);
        assert_eq!((a.count::<Volume>().await, b.count::<Volume>().await), (1, 1));
        a.stop().await;
        b.stop().await;
        cluster.heal().await;
        join!(a.start(), b.start());
        cluster.settle(SOON).await;
        for node in [&a, &b] {
            assert_eq!(node.count::<Volume>().await, 2);
            let owners = [node.owner::<Volume>(ours).await, node.owner::<Volume>(theirs).await];
            assert_eq!(owners, [Some(a.id()), Some(b.id())]);
        }
    });
}

async fn orphans(node: &Node) -> usize {
    let entries = node.all::<Entry>().await;
    let ids: std::collections::BTreeSet<RecordId> = entries.iter().map(|entry| entry.id).collect();
    entries.iter().filter_map(|entry| entry.parent).filter(|parent| !ids.contains(parent)).count()
}

#[test]
fn folders_indexed_at_once_on_two_devices_are_whole_on_both() {
    Cluster::run(104, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let index = async |node: &Node| {
            let location = node.add_location(node.name()).await;
            for _ in 0..10 {
                node.add_entries(location, None, 100).await;
            }
        };
        join!(index(&a), index(&b));
        cluster.settle(LATER).await;
        for node in [&a, &b] {
            assert_eq!((node.count::<Location>().await, node.count::<Entry>().await), (2, 2_002));
            assert_eq!(orphans(node).await, 0);
        }
    });
}

#[test]
fn a_device_that_backfills_while_indexing_goes_on_gets_everything_once() {
    Cluster::run(105, async |cluster| {
        let a = cluster.device("a").await;
        let location = a.add_location("photos").await;
        a.add_entries(location, None, 20_000).await;
        let b = cluster.device("b").await;
        b.join(&a).await;
        let mut while_under_way = 0;
        for _ in 0..50 {
            a.add_entries(location, None, 20).await;
            cluster.pass(std::time::Duration::from_millis(1)).await;
            while_under_way += usize::from((1..20_000).contains(&b.count::<Entry>().await));
        }
        assert!(while_under_way > 5, "{while_under_way}");
        cluster.settle(LATER).await;
        assert_eq!(b.count::<Entry>().await, 21_001);
        assert_eq!(b.all::<Entry>().await, a.all::<Entry>().await);
    });
}

#[test]
fn an_entry_changed_ten_times_while_b_is_away_reaches_b_once_as_its_newest() {
    Cluster::run(106, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let file = a.add_file().await;
        cluster.settle(SOON).await;
        b.stop().await;
        for size in 1..=10 {
            a.set::<Entry>(file, Entry::SIZE, size).await;
        }
        b.start().await;
        cluster.settle(LATER).await;
        assert_eq!(b.get::<Entry>(file).await.unwrap().size, Some(10));
        let events = b.peer().events(0, std::time::Duration::ZERO).await.unwrap().unwrap();
        let changed = events.into_iter().filter_map(|event| match event.kind {
            EventKind::Changed { records, remote: true, .. } => Some(records),
            _ => None,
        });
        assert_eq!(changed.flatten().filter(|(_, record)| *record == file).count(), 1);
        assert_eq!(b.status().await.counters.changes_applied, 1);
    });
}

fn row(version: u64, record: RecordId, name: &str) -> StateRow {
    let fields = Fields::new().with(Location::NAME, name);
    StateRow { version, model: Location::MODEL, record, fields: Some(fields) }
}

fn batch(fake: &FakeMember, after: u64, rows: Vec<StateRow>) -> SyncPayload {
    let through = rows.last().map_or(after, |row| row.version);
    SyncPayload::StateBatch(StateBatch { owner: fake.key().device(), after, through, rows })
}

#[test]
fn a_batch_that_comes_twice_or_late_leaves_one_row_the_newest() {
    Cluster::run(107, async |cluster| {
        let a = cluster.device("a").await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        let record = a.new_id();
        let [first, second] = [(0, row(1, record, "old")), (1, row(2, record, "new"))];
        for (after, row) in [first.clone(), second.clone(), second, first.clone(), first] {
            fake.ask(&a, key, batch(&fake, after, vec![row])).await;
        }
        assert_eq!(a.get::<Location>(record).await.unwrap().name.unwrap(), "new");
        assert_eq!(a.count::<Location>().await, 1);
    });
}

#[test]
fn an_old_version_that_is_sent_again_never_overwrites_a_newer_one() {
    Cluster::run(108, async |cluster| {
        let a = cluster.device("a").await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        let record = a.new_id();
        fake.ask(&a, key, batch(&fake, 0, vec![row(3, record, "new")])).await;
        let late = batch(&fake, 2, vec![row(3, record, "old"), row(4, RecordId(uuid::Uuid::from_u128(4)), "other")]);
        fake.ask(&a, key, late).await;
        assert_eq!(a.get::<Location>(record).await.unwrap().name.unwrap(), "new");
        assert_eq!(a.count::<Location>().await, 2);
    });
}

#[test]
fn a_deleted_entry_is_gone_everywhere_live_and_after_a_reconnect() {
    Cluster::run(109, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let location = a.add_location("photos").await;
        let files = a.add_entries(location, None, 2).await;
        cluster.settle(SOON).await;
        a.delete::<Entry>(files[0]).await;
        cluster.settle(SOON).await;
        for node in [&a, &b, &c] {
            assert_eq!((node.get::<Entry>(files[0]).await, node.count::<Entry>().await), (None, 2));
        }
        c.stop().await;
        cluster.unplug(&b).await;
        a.delete::<Entry>(files[1]).await;
        cluster.pass(LATER).await;
        assert!(b.get::<Entry>(files[1]).await.is_some());
        c.start().await;
        cluster.heal().await;
        cluster.settle(LATER).await;
        for node in [&a, &b, &c] {
            assert_eq!((node.get::<Entry>(files[0]).await, node.get::<Entry>(files[1]).await), (None, None));
        }
    });
}

#[test]
fn a_folder_of_ten_thousand_entries_is_deleted_everywhere_in_either_order() {
    Cluster::run(110, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        for parent_first in [false, true] {
            let location = a.add_location("big").await;
            let folder = a.add_entries(location, None, 1).await[0];
            let mut doomed = a.add_entries(location, Some(folder), 10_000).await;
            doomed.insert(if parent_first { 0 } else { doomed.len() }, folder);
            cluster.settle(LATER).await;
            for chunk in doomed.chunks(2_000) {
                a.commit(chunk.iter().map(|id| Write::delete(Entry::MODEL, *id)).collect()).await;
            }
            cluster.settle(LATER).await;
            assert_eq!(b.find::<Entry>(Entry::PARENT, folder).await.len(), 0);
            assert_eq!(b.get::<Entry>(folder).await, None);
        }
        assert_eq!(b.count::<Entry>().await, 2);
    });
}

#[test]
fn a_record_whose_tombstone_came_first_does_not_appear() {
    Cluster::run(111, async |cluster| {
        let a = cluster.device("a").await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        let record = a.new_id();
        let tombstone = StateRow { fields: None, ..row(2, record, "") };
        fake.ask(&a, key, batch(&fake, 0, vec![tombstone])).await;
        fake.ask(&a, key, batch(&fake, 0, vec![row(1, record, "late")])).await;
        assert_eq!(a.get::<Location>(record).await, None);
    });
}

#[test]
fn the_paths_below_a_moved_directory_are_right_on_b() {
    Cluster::run(112, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let location = a.add_location("photos").await;
        let folders = a.add_entries(location, None, 2).await;
        let file = a.add_entries(location, Some(folders[0]), 1).await[0];
        a.set::<Entry>(file, Entry::KIND, EntryKind::File.code()).await;
        cluster.settle(SOON).await;
        assert_eq!(b.path_of(file).await.unwrap(), "photos/file 0/file 0");
        a.set::<Entry>(folders[0], Entry::PARENT, folders[1]).await;
        cluster.settle(SOON).await;
        assert_eq!(b.path_of(file).await.unwrap(), "photos/file 1/file 0/file 0");
    });
}

#[test]
fn fifty_old_locations_and_fifteen_thousand_newer_entries_all_arrive() {
    Cluster::run(113, async |cluster| {
        let a = cluster.device("a").await;
        let mut last = None;
        for number in 0..50 {
            last = Some(a.add_location(&format!("folder {number}")).await);
        }
        a.add_entries(last.unwrap(), None, 15_000).await;
        let b = cluster.device("b").await;
        b.join(&a).await;
        cluster.settle(LATER).await;
        assert_eq!((b.count::<Location>().await, b.count::<Entry>().await), (50, 15_050));
    });
}

#[test]
fn a_device_that_was_away_35_days_lacks_what_was_deleted_meanwhile() {
    Cluster::run(114, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let location = a.add_location("photos").await;
        let files = a.add_entries(location, None, 20).await;
        cluster.settle(SOON).await;
        c.stop().await;
        a.commit(files[..10].iter().map(|id| Write::delete(Entry::MODEL, *id)).collect()).await;
        cluster.skip(std::time::Duration::from_hours(35 * 24));
        cluster.pass(LATER).await;
        a.set::<Entry>(files[10], Entry::SIZE, 7).await;
        cluster.settle(SOON).await;
        let snapshots = async || cluster.report().await.tally(c.number()).requests_of("snapshot_request");
        let before = snapshots().await;
        c.start().await;
        cluster.settle(LATER).await;
        // The tombstones are gone: it was told to take a snapshot, which lacks what was deleted.
        assert!(snapshots().await > before);
        assert_eq!(c.count::<Entry>().await, 11);
        check::assert_equal(&[&a, &b, &c]).await;
    });
}

#[test]
fn fresh_devices_take_pages_only_though_their_owner_pruned_what_it_had_deleted() {
    Cluster::run(118, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let location = a.add_location("photos").await;
        let files = a.add_entries(location, None, 20_000).await;
        for chunk in files.chunks(4_000) {
            a.commit(chunk.iter().step_by(10).map(|id| Write::delete(Entry::MODEL, *id)).collect()).await;
        }
        cluster.settle(LATER).await;
        cluster.pass(SOON).await;
        for node in [&a, &b] {
            assert_eq!(tombstones(node).await, 0, "on {}", node.name());
        }
        let [c, d] = [cluster.device("c").await, cluster.device("d").await];
        c.join(&a).await;
        d.join(&b).await;
        while c.count::<Entry>().await == 0 {
            cluster.pass(std::time::Duration::from_millis(1)).await;
        }
        c.kill().await;
        c.start().await;
        assert!((1..18_001).contains(&c.count::<Entry>().await), "killed in the middle");
        cluster.settle(LATER).await;
        for node in [&c, &d] {
            assert_eq!(node.count::<Entry>().await, 18_001);
            let tally = cluster.report().await.tally(node.number());
            assert_eq!(tally.requests_of("snapshot_request"), 0, "of {}", node.name());
            assert!(tally.requests_of("state_request") >= 3);
        }
    });
}

/// How many deleted rows a device still remembers.
async fn tombstones(node: &Node) -> i64 {
    use diesel::prelude::*;
    let count =
        |c: &mut diesel::SqliteConnection| Ok(starling_schema::tables::tombstone::table.count().get_result(c)?);
    node.peer().query(count).await.unwrap()
}

#[test]
fn a_device_that_joins_through_b_has_the_rows_of_a_that_is_gone_for_good() {
    Cluster::run(115, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let (location, device) = (a.add_location("photos").await, a.id());
        let files = a.add_entries(location, None, 100).await;
        let tag = a.add_tag("kept").await;
        cluster.settle(SOON).await;
        a.stop().await;
        let c = cluster.device("c").await;
        c.join(&b).await;
        cluster.settle(LATER).await;
        assert_eq!(c.owner::<Entry>(files[99]).await, Some(device));
        assert_eq!(c.path_of(files[99]).await.unwrap(), "photos/file 99");
        assert_eq!(c.tag_name(tag).await.unwrap(), "kept");
    });
}

#[test]
fn a_row_of_another_owner_in_ones_own_stream_changes_nothing() {
    Cluster::run(116, async |cluster| {
        let a = cluster.device("a").await;
        let location = a.add_location("photos").await;
        let before = a.get::<Location>(location).await;
        let (fake, key) = FakeMember::join(cluster, &a, 1).await;
        let deleted = StateRow { fields: None, ..row(2, location, "") };
        fake.ask(&a, key, batch(&fake, 0, vec![row(1, location, "stolen"), deleted])).await;
        assert_eq!(a.get::<Location>(location).await, before);
        assert_eq!(a.owner::<Location>(location).await, Some(a.id()));
        assert_eq!(a.status().await.counters.rows_refused, 2);
    });
}

#[test]
fn a_pushed_change_of_another_owners_stream_is_refused() {
    Cluster::run(117, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let location = a.add_location("photos").await;
        cluster.settle(SOON).await;
        let (fake, key) = FakeMember::join(cluster, &b, 1).await;
        let rows = vec![row(1_000, location, "stolen")];
        let forged = StateBatch { owner: a.id(), after: 2, through: 1_000, rows };
        let before = crate::refused(&b).await;
        let answer = fake.ask(&b, key, SyncPayload::StateBatch(forged)).await;
        assert!(matches!(answer, SyncPayload::Error(_)), "{answer:?}");
        assert_eq!(crate::refused(&b).await - before, 1);
        assert_eq!(b.get::<Location>(location).await.unwrap().name.unwrap(), "photos");
        assert_eq!(
            b.get::<Location>(location).await.unwrap().fields(),
            a.get::<Location>(location).await.unwrap().fields()
        );
    });
}

/// Rows with ids above all that are there are written without a look at what is there.
#[test]
fn rows_are_written_alike_whether_their_ids_are_new_or_not() {
    Cluster::run(172, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        let mut ids: Vec<RecordId> = (0..6).map(|_| a.new_id()).collect();
        ids.sort();
        let put = |at: usize, name: &str| {
            Write::put(Location::MODEL, ids[at], Fields::new().with(Location::NAME, name).with(Location::PATH, "/"))
        };
        a.commit(vec![put(3, "old")]).await;
        let rename = Write::patch(Location::MODEL, ids[5], Fields::new().with(Location::NAME, "renamed"));
        let missing = Write::patch(Location::MODEL, ids[4], Fields::new().with(Location::NAME, "of none"));
        let writes = vec![put(5, "five"), missing, put(1, "one"), rename, put(3, "new"), put(2, "two"), put(2, "two")];
        a.commit(writes).await;
        cluster.settle(SOON).await;
        for node in [&a, &b] {
            let rows = node.all::<Location>().await;
            let named: Vec<_> = rows.iter().map(|row| (row.id(), row.name.as_deref(), row.path.as_deref())).collect();
            let expected = [(1, "one"), (2, "two"), (3, "new"), (5, "renamed")];
            assert_eq!(named, expected.map(|(at, name)| (ids[at], Some(name), Some("/"))));
        }
    });
}
