//! The comparison by value: what is found and what is known go in, what the library holds afterwards is asserted.

use std::collections::BTreeMap;

use super::*;
use crate::indexer::facts::Facts;
use crate::indexer::walk;
use starling_schema::change::Action;
use starling_schema::model::Syncable;
use starling_schema::models::Entry;

const DEVICE: u64 = 1;

/// A library of one location at `/l`.
#[derive(Default)]
struct Library {
    entries: BTreeMap<RecordId, Entry>,
    ids: u64,
    totals: Totals,
}

fn id(text: &str) -> RecordId {
    RecordId::derived("test", &[text.as_bytes()])
}

fn found(path: &str, inode: i64, kind: EntryKind) -> Found {
    let size = (kind == EntryKind::File).then_some(10);
    let facts = Facts { kind, size, created_ms: None, modified_ms: Some(1_000), mode: Some(0o644), inode: Some(inode) };
    Found { path: path.into(), facts, device: DEVICE }
}

fn directory(path: &str, inode: i64) -> Found {
    found(path, inode, EntryKind::Directory)
}

fn file(path: &str, inode: i64) -> Found {
    found(path, inode, EntryKind::File)
}

fn trouble(path: &str) -> Trouble {
    Trouble { path: Some(path.into()), reason: "denied".to_owned() }
}

impl Library {
    fn known(&self) -> KnownSet {
        let rows = self.entries.values().map(|entry| Known {
            id: entry.id,
            parent: entry.parent,
            name: entry.raw_name.clone().or(entry.name.clone().map(String::into_bytes)).unwrap().into_boxed_slice(),
            facts: Facts {
                kind: EntryKind::from_code(entry.kind.unwrap()).unwrap(),
                size: entry.size,
                created_ms: entry.created_at,
                modified_ms: entry.modified_at,
                mode: entry.mode,
                inode: entry.inode,
            },
            hash: entry.content_hash.clone().map(Vec::into_boxed_slice),
        });
        KnownSet::new(rows.collect())
    }

    fn apply(&mut self, write: Write) {
        match write.action {
            Action::Put(fields) => {
                self.entries.insert(write.record, Entry::from_fields(write.record, &fields));
            }
            other => panic!("{other:?}"),
        }
    }

    fn scan(&mut self, finds: Vec<Found>, troubles: Vec<Trouble>) -> ScanReport {
        let root: PathBuf = "/l".into();
        let frame = Frame { location: id("location"), root_id: id("root"), root, device: DEVICE, targeted: false };
        let mut diff = Diff::new(frame, self.known());
        let inodes: HashMap<PathBuf, i64> =
            finds.iter().map(|found| (found.path.clone(), found.facts.inode.unwrap())).collect();
        let mut drawn = self.ids;
        let mut fresh = || {
            drawn += 1;
            id(&drawn.to_string())
        };
        for found in finds {
            let inode_at = |path: &Path| inodes.get(path).copied();
            if let Some(write) = diff.take(found, &mut World { fresh: &mut fresh, inode_at: &inode_at }) {
                self.apply(write);
            }
        }
        for trouble in troubles {
            diff.note_trouble(trouble);
        }
        let settled = diff.settle(&mut fresh);
        settled.writes.into_iter().for_each(|write| self.apply(write));
        settled.gone.iter().for_each(|gone| drop(self.entries.remove(&gone.id)));
        self.ids = drawn;
        self.totals += diff.growth();
        let bytes = self.entries.values().filter(|entry| entry.kind == Some(0)).filter_map(|entry| entry.size).sum();
        assert_eq!(self.totals, Totals { entries: i64::try_from(self.entries.len()).unwrap(), bytes });
        diff.report().clone()
    }

    /// The entry at a path below `/l`.
    fn at(&self, path: &str) -> Option<&Entry> {
        let mut here = self.entries.get(&id("root"))?;
        for name in Path::new(path).strip_prefix("/l").unwrap() {
            let name = name.to_str();
            here = self.entries.values().find(|row| row.parent == Some(here.id) && row.name.as_deref() == name)?;
        }
        Some(here)
    }

    fn id_at(&self, path: &str) -> RecordId {
        self.at(path).unwrap().id
    }
}

fn tree() -> Vec<Found> {
    vec![
        directory("/l", 1),
        directory("/l/a", 2),
        directory("/l/a/deep", 3),
        file("/l/a/deep/x", 4),
        file("/l/a/y", 5),
        directory("/l/b", 6),
        file("/l/z", 7),
    ]
}

fn indexed() -> Library {
    let mut library = Library::default();
    let report = library.scan(tree(), vec![]);
    assert_eq!((report.seen, report.created), (7, 7));
    library
}

#[test]
fn what_is_new_is_created_below_its_parent() {
    let library = indexed();
    assert_eq!(library.at("/l/a/deep/x").unwrap().parent, Some(library.id_at("/l/a/deep")));
    assert_eq!(library.at("/l").unwrap().parent, None);
    assert_eq!(library.totals, Totals { entries: 7, bytes: 30 });
}

#[test]
fn an_unchanged_folder_writes_nothing() {
    let mut library = indexed();
    let before = library.entries.clone();
    let report = library.scan(tree(), vec![]);
    assert!(!report.wrote());
    assert_eq!((report.seen, library.entries), (7, before));
}

#[test]
fn a_written_file_keeps_its_id_and_loses_its_hash_and_a_chmod_keeps_both() {
    let mut library = indexed();
    let (z, y) = (library.id_at("/l/z"), library.id_at("/l/a/y"));
    for id in [z, y] {
        library.entries.get_mut(&id).unwrap().content_hash = Some(vec![1; 32]);
    }
    let mut finds = tree();
    finds[6].facts.modified_ms = Some(2_000);
    finds[4].facts.mode = Some(0o600);
    let report = library.scan(finds, vec![]);
    assert_eq!((report.changed, report.created, report.deleted), (2, 0, 0));
    assert_eq!((library.id_at("/l/z"), library.id_at("/l/a/y")), (z, y));
    assert_eq!(library.entries[&z].content_hash, None);
    assert_eq!(library.entries[&y].content_hash, Some(vec![1; 32]));
}

#[test]
fn a_moved_file_keeps_its_id_and_hash() {
    let mut library = indexed();
    let z = library.id_at("/l/z");
    library.entries.get_mut(&z).unwrap().content_hash = Some(vec![1; 32]);
    let mut finds = tree();
    finds[6] = file("/l/b/renamed", 7);
    let report = library.scan(finds, vec![]);
    assert_eq!((report.moved, report.created, report.deleted), (1, 0, 0));
    assert_eq!(library.id_at("/l/b/renamed"), z);
    assert_eq!(library.entries[&z].content_hash, Some(vec![1; 32]));
}

#[test]
fn of_a_renamed_directory_only_its_own_row_changes() {
    let mut library = indexed();
    let (a, x) = (library.id_at("/l/a"), library.id_at("/l/a/deep/x"));
    let before = library.entries.clone();
    let finds = vec![
        directory("/l", 1),
        directory("/l/b", 6),
        directory("/l/b/new", 2),
        directory("/l/b/new/deep", 3),
        file("/l/b/new/deep/x", 4),
        file("/l/b/new/y", 5),
        file("/l/z", 7),
    ];
    let report = library.scan(finds, vec![]);
    assert_eq!((report.moved, report.changed, report.created, report.deleted), (1, 0, 0, 0));
    assert_eq!((library.id_at("/l/b/new"), library.id_at("/l/b/new/deep/x")), (a, x));
    let differing: Vec<_> = before.iter().filter(|(id, row)| library.entries[id] != **row).map(|(id, _)| *id).collect();
    assert_eq!(differing, [a]);
}

#[test]
fn two_directories_that_change_places_one_in_the_other_keep_their_ids() {
    let mut library = indexed();
    let (a, deep) = (library.id_at("/l/a"), library.id_at("/l/a/deep"));
    let finds = vec![
        directory("/l", 1),
        directory("/l/deep", 3),
        file("/l/deep/x", 4),
        directory("/l/deep/a", 2),
        file("/l/deep/a/y", 5),
        directory("/l/b", 6),
        file("/l/z", 7),
    ];
    let report = library.scan(finds, vec![]);
    assert_eq!((report.moved, report.created, report.deleted), (2, 0, 0));
    assert_eq!((library.id_at("/l/deep"), library.id_at("/l/deep/a")), (deep, a));
}

#[test]
fn a_directory_that_takes_the_place_of_one_that_moved_is_new_in_whatever_order_they_are_seen() {
    let moved = [directory("/l/b/new", 2), directory("/l/b/new/deep", 3), file("/l/b/new/deep/x", 4)];
    let fresh = [directory("/l/a", 8), file("/l/a/other", 9)];
    for moved_first in [true, false] {
        let mut library = indexed();
        let a = library.id_at("/l/a");
        let (first, second) = if moved_first { (&moved[..], &fresh[..]) } else { (&fresh[..], &moved[..]) };
        let finds = [&[directory("/l", 1), directory("/l/b", 6), file("/l/z", 7)], first, second].concat();
        library.scan(finds.clone(), vec![]);
        let keeps = if moved_first { "/l/b/new" } else { "/l/a" };
        assert_eq!(library.id_at(keeps), a);
        assert!(finds.iter().all(|found| library.at(found.path.to_str().unwrap()).is_some()), "{moved_first}");
        assert_eq!(library.entries.len(), finds.len());
    }
}

#[test]
fn a_deleted_subtree_goes_whole() {
    let mut library = indexed();
    let finds = vec![directory("/l", 1), directory("/l/b", 6), file("/l/z", 7)];
    let report = library.scan(finds, vec![]);
    assert_eq!((report.deleted, library.entries.len()), (4, 3));
}

#[test]
fn what_lies_below_an_unreadable_directory_is_kept() {
    let mut library = indexed();
    let x = library.id_at("/l/a/deep/x");
    let finds = vec![directory("/l", 1), directory("/l/a", 2), directory("/l/b", 6)];
    let report = library.scan(finds, vec![trouble("/l/a")]);
    assert_eq!((report.deleted, report.kept), (1, 3));
    assert_eq!(library.id_at("/l/a/deep/x"), x);
    assert_eq!(library.at("/l/z"), None);
}

#[test]
fn a_path_that_cannot_even_be_looked_at_is_kept_with_all_below() {
    let mut library = indexed();
    let finds = vec![directory("/l", 1), directory("/l/b", 6), file("/l/z", 7)];
    let report = library.scan(finds, vec![trouble("/l/a")]);
    assert_eq!((report.deleted, report.kept, library.entries.len()), (0, 4, 7));
}

#[test]
fn when_it_is_unknown_what_was_not_read_nothing_is_deleted() {
    let mut library = indexed();
    let report = library.scan(vec![directory("/l", 1)], vec![Trouble { path: None, reason: String::new() }]);
    assert_eq!((report.deleted, library.entries.len()), (0, 7));
}

#[test]
fn a_second_hard_link_is_new_whichever_is_seen_first() {
    for at in [6, 7] {
        let mut library = indexed();
        let z = library.id_at("/l/z");
        let mut finds = tree();
        finds.insert(at, file("/l/link", 7));
        let report = library.scan(finds.clone(), vec![]);
        assert_eq!((report.moved, report.created, report.deleted), (0, 1, 0));
        assert_eq!(library.id_at("/l/z"), z);
        let again = library.scan(finds, vec![]);
        assert!(!again.wrote());
    }
}

#[test]
fn one_of_two_hard_links_that_moves_keeps_its_id() {
    let mut library = indexed();
    let mut finds = tree();
    finds.push(file("/l/link", 7));
    library.scan(finds.clone(), vec![]);
    let link = library.id_at("/l/link");
    finds[7] = file("/l/moved", 7);
    let report = library.scan(finds, vec![]);
    assert_eq!((report.moved, report.created, report.deleted), (1, 0, 0));
    assert_eq!(library.id_at("/l/moved"), link);
}

#[test]
fn a_reused_inode_of_another_kind_or_content_is_new() {
    let mut library = indexed();
    let (z, b) = (library.id_at("/l/z"), library.id_at("/l/b"));
    let mut finds = tree();
    finds[5] = file("/l/other", 6);
    finds[6] = directory("/l/folder", 7);
    let report = library.scan(finds, vec![]);
    assert_eq!((report.moved, report.created, report.deleted), (0, 2, 2));
    assert!(![z, b].contains(&library.id_at("/l/other")) && ![z, b].contains(&library.id_at("/l/folder")));

    let mut library = indexed();
    let mut finds = tree();
    finds[6] = file("/l/other", 7);
    finds[6].facts.size = Some(11);
    let report = library.scan(finds, vec![]);
    assert_eq!((report.moved, report.created, report.deleted), (0, 1, 1));
}

#[test]
fn another_kind_under_the_same_name_is_another_entry() {
    let mut library = indexed();
    let z = library.id_at("/l/z");
    let mut finds = tree();
    finds[6] = directory("/l/z", 8);
    finds.push(file("/l/z/inner", 9));
    let report = library.scan(finds, vec![]);
    assert_eq!((report.created, report.deleted), (2, 1));
    assert_ne!(library.id_at("/l/z"), z);
}

#[test]
fn a_file_replaced_by_renaming_another_over_it_keeps_its_id() {
    let mut library = indexed();
    let z = library.id_at("/l/z");
    let mut finds = tree();
    finds[6] = file("/l/z", 99);
    let report = library.scan(finds, vec![]);
    assert_eq!((report.changed, report.created, report.deleted), (1, 0, 0));
    assert_eq!(library.id_at("/l/z"), z);
}

#[test]
fn an_inode_of_another_file_system_is_no_move() {
    let mut library = indexed();
    let mut finds = tree();
    finds[6] = Found { device: DEVICE + 1, ..file("/l/mounted", 7) };
    finds[5] = Found { device: DEVICE + 1, ..directory("/l/disk", 6) };
    let report = library.scan(finds, vec![]);
    assert_eq!((report.moved, report.created, report.deleted), (0, 2, 2));
}

#[test]
fn a_directory_that_a_mount_shows_twice_is_not_taken_from_its_place() {
    let mut library = indexed();
    let b = library.id_at("/l/b");
    let mut finds = tree();
    finds.insert(1, directory("/l/again", 6));
    let report = library.scan(finds, vec![]);
    assert_eq!((report.moved, report.created, report.deleted), (0, 1, 0));
    assert_eq!(library.id_at("/l/b"), b);
}

#[test]
fn a_walk_of_real_files_survives_every_step_of_a_busy_day() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut library = Library::default();
    let scan = |library: &mut Library| {
        let finds = walk::tests::collect(&walk::tests::plan(root)).found;
        let device = finds[0].device;
        let renamed = finds.into_iter().map(|found| {
            assert_eq!(found.device, device);
            let path = Path::new("/l").join(found.path.strip_prefix(root).unwrap());
            let path = if found.path == root { "/l".into() } else { path };
            Found { path, device: DEVICE, ..found }
        });
        library.scan(renamed.collect(), vec![])
    };
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    (0..50).for_each(|n| std::fs::write(root.join(format!("a/b/{n}")), n.to_string()).unwrap());
    assert_eq!(scan(&mut library).created, 53);
    let fifth = library.id_at("/l/a/b/5");
    std::fs::rename(root.join("a"), root.join("c")).unwrap();
    std::fs::rename(root.join("c/b/5"), root.join("five")).unwrap();
    std::fs::remove_file(root.join("c/b/6")).unwrap();
    let report = scan(&mut library);
    assert_eq!((report.moved, report.created, report.deleted), (2, 0, 1));
    assert_eq!(library.id_at("/l/five"), fifth);
    assert!(!scan(&mut library).wrote());
}
