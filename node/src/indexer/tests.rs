//! The running indexer against real folders and a database without a peer.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use starling::{CommitError, StoreError};
use starling_schema::change::Write;
use starling_schema::models::Entry;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::bench::Bench;
use super::catalogue::OwnLocation;
use super::facts::Facts;
use super::folders::Folders;
use super::keeper::Keeper;
use super::known::{Known, KnownSet};
use super::scan::{COMMIT_ROWS_MAX, Scanner};
use super::*;

/// Longer than any step takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    folder: TempDir,
    bench: Bench,
    options: IndexOptions,
    indexer: Indexer,
}

fn quiet() -> IndexOptions {
    IndexOptions { hash: false, watch: false, ..IndexOptions::default() }
}

impl World {
    async fn new(options: IndexOptions) -> Self {
        let bench = Bench::new();
        let indexer = Indexer::start_on(Catalogue::Bench(bench.clone()), options.clone()).await.unwrap();
        Self { folder: tempfile::tempdir().unwrap(), bench, options, indexer }
    }

    async fn restart(&mut self) {
        self.indexer.stop().await;
        self.indexer = Indexer::start_on(Catalogue::Bench(self.bench.clone()), self.options.clone()).await.unwrap();
    }

    /// The entries of the library by their paths.
    async fn tree(&self) -> BTreeMap<PathBuf, Facts> {
        let set = KnownSet::new(self.entries().await);
        let at = &self.locations().await[0];
        let anchors = HashMap::from([(at.root, at.path.clone())]);
        let rows = set.rows().iter().enumerate();
        rows.map(|(position, row)| match row.parent {
            Some(_) => (set.path(position, &anchors).unwrap(), row.facts),
            None => (at.path.clone(), row.facts),
        })
        .collect()
    }

    /// The folder as it is.
    fn disk(&self) -> BTreeMap<PathBuf, Facts> {
        let root = self.root();
        let found = std::thread::spawn(move || walk::tests::collect(&walk::tests::plan(&root)).found).join().unwrap();
        found.into_iter().map(|found| (found.path, found.facts)).collect()
    }

    fn root(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    async fn add(&self) -> RecordId {
        let location = self.indexer.add(&self.root()).await.unwrap();
        self.indexer.settled(location).await.unwrap();
        location
    }

    async fn locations(&self) -> Vec<OwnLocation> {
        let (_source, stop) = StopSource::new();
        Catalogue::Bench(self.bench.clone()).locations(&stop).await.unwrap()
    }

    async fn entries(&self) -> Vec<Known> {
        let (_source, stop) = StopSource::new();
        match self.locations().await.first() {
            Some(at) => Catalogue::Bench(self.bench.clone()).known(at, &stop).await.unwrap(),
            None => Vec::new(),
        }
    }

    /// The names of all entries but the root's, sorted.
    async fn names(&self) -> Vec<String> {
        let rows = self.entries().await.into_iter().filter(|row| row.parent.is_some());
        let mut names: Vec<String> = rows.map(|row| String::from_utf8_lossy(&row.name).into_owned()).collect();
        names.sort();
        names
    }

    async fn id_of(&self, name: &str) -> RecordId {
        self.entries().await.into_iter().find(|row| &*row.name == name.as_bytes()).unwrap().id
    }

    async fn until(&self, what: &str, done: impl AsyncFn(&Self) -> bool) {
        let wait = async {
            while !done(self).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited in vain: {what}");
    }
}

#[actix::test]
async fn a_folder_is_indexed_and_an_unchanged_rescan_commits_nothing() {
    let world = World::new(quiet()).await;
    world.write("a/one.TXT", "1");
    world.write("a/.hidden", "22");
    let location = world.add().await;
    assert_eq!(world.names().await, [".hidden", "a", "one.TXT"]);
    let at = &world.locations().await[0];
    assert_eq!((at.totals.entries, at.totals.bytes, at.scanned), (4, 3, true));
    world.bench.take_commits();
    let report = world.indexer.rescan(location).await.unwrap();
    assert_eq!((report.seen, report.wrote()), (4, false));
    assert_eq!(world.bench.take_commits(), Vec::<usize>::new());
}

#[actix::test]
async fn a_path_that_overlaps_a_location_is_refused_and_both_are_named() {
    let world = World::new(quiet()).await;
    world.write("inner/file", "");
    let location = world.add().await;
    let root = world.root();
    let error = world.indexer.add(&root.join("inner/../inner")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{0}/inner lies inside the location {0}", root.display()));
    let error = world.indexer.add(&root).await.unwrap_err();
    assert_eq!(
        error,
        IndexError::Overlaps { path: root.clone(), overlap: Overlap::Same, existing: root.clone(), location }
    );
    let error = world.indexer.add(&root.join("inner/file")).await.unwrap_err();
    assert_eq!(error, IndexError::NotADirectory(root.join("inner/file")));
}

#[actix::test]
async fn removing_a_location_takes_its_entries_and_its_volume_along() {
    let world = World::new(quiet()).await;
    (0..30).for_each(|n| world.write(&format!("d/{n}"), ""));
    let location = world.add().await;
    assert_eq!(world.indexer.remove(location).await, Ok(32));
    assert_eq!(world.locations().await, []);
    assert!(world.indexer.progress().borrow().is_empty());
    assert_eq!(world.indexer.rescan(location).await, Err(IndexError::UnknownLocation(location)));
}

#[actix::test]
async fn a_folder_that_is_gone_keeps_its_rows_and_is_said_to_be_absent() {
    let world = World::new(quiet()).await;
    world.write("l/a", "");
    let path = world.root().join("l");
    let location = world.indexer.add(&path).await.unwrap();
    world.indexer.settled(location).await.unwrap();
    fs::rename(&path, world.root().join("elsewhere")).unwrap();
    assert!(matches!(world.indexer.rescan(location).await, Err(IndexError::Absent { .. })));
    fs::create_dir(&path).unwrap();
    assert!(matches!(world.indexer.rescan(location).await, Err(IndexError::Absent { .. })), "an empty mount point");
    assert_eq!(world.names().await, ["a"]);
    assert_eq!(world.indexer.progress().borrow()[&location].phase, Phase::Absent);
    fs::remove_dir(&path).unwrap();
    fs::rename(world.root().join("elsewhere"), &path).unwrap();
    assert_eq!(world.indexer.rescan(location).await.map(|report| report.deleted), Ok(0));
}

#[actix::test]
async fn a_full_disk_stops_the_scan_and_the_next_one_does_the_rest() {
    let world = World::new(quiet()).await;
    (0..20).for_each(|n| world.write(&n.to_string(), ""));
    let location = world.add().await;
    fs::remove_file(world.root().join("7")).unwrap();
    world.bench.refuse(vec![CommitError::Storage(StoreError("disk full".to_owned()))]);
    let error = world.indexer.rescan(location).await.unwrap_err();
    assert!(error.to_string().contains("disk full"), "{error}");
    assert_eq!(world.indexer.progress().borrow()[&location].phase, Phase::Failed);
    assert_eq!(world.names().await.len(), 20);
    world.bench.refuse(vec![CommitError::Busy; 3]);
    assert_eq!(world.indexer.rescan(location).await.map(|report| report.deleted), Ok(1));
    assert_eq!(world.names().await.len(), 19);
}

#[actix::test]
async fn a_large_folder_is_committed_while_it_is_walked_and_nothing_follows_a_refused_commit() {
    let world = World::new(quiet()).await;
    let location = world.add().await;
    (0..2 * COMMIT_ROWS_MAX + 5).for_each(|n| fs::write(world.root().join(n.to_string()), "").unwrap());
    world.bench.take_commits();
    world.bench.refuse(vec![CommitError::Storage(StoreError("disk full".to_owned()))]);
    let error = world.indexer.rescan(location).await.unwrap_err();
    assert!(error.to_string().contains("disk full"), "{error}");
    assert_eq!(world.bench.take_commits(), [0; 0]);
    world.indexer.rescan(location).await.unwrap();
    // The root's own row has its new time, and the last commit the new totals.
    assert_eq!(world.bench.take_commits(), [COMMIT_ROWS_MAX, COMMIT_ROWS_MAX, 7]);
    assert_eq!(world.tree().await, world.disk());
}

#[actix::test]
async fn a_restart_goes_on_with_what_was_indexed() {
    let world = World::new(quiet()).await;
    world.write("a", "");
    let location = world.add().await;
    world.indexer.stop().await;
    world.write("b", "");
    let again = Indexer::start_on(Catalogue::Bench(world.bench.clone()), quiet()).await.unwrap();
    assert_eq!(again.settled(location).await.map(|report| report.created), Ok(1));
    assert_eq!(world.indexer.add(&world.root()).await, Err(IndexError::Stopped));
}

#[actix::test]
async fn contents_are_hashed_once_and_again_when_they_change() {
    let world = World::new(IndexOptions { watch: false, ..IndexOptions::default() }).await;
    world.write("a/b/file", "hello");
    let location = world.add().await;
    let hash_is = async |world: &World, content: &str| {
        let hash = blake3::hash(content.as_bytes());
        world.entries().await.iter().any(|row| row.hash.as_deref() == Some(&hash.as_bytes()[..]))
    };
    world.until("a hash", async |world| hash_is(world, "hello").await).await;
    world.until("idle", async |world| world.indexer.progress().borrow()[&location].phase == Phase::Idle).await;
    assert_eq!(world.indexer.progress().borrow()[&location].hashed, 1);
    world.write("a/b/file", "hello, world");
    world.indexer.rescan(location).await.unwrap();
    world.until("a new hash", async |world| hash_is(world, "hello, world").await).await;
}

/// What happens while the watch is set up beside the first scan is told by neither.
#[actix::test]
async fn another_look_finds_what_neither_scan_nor_watch_saw() {
    let world = World::new(quiet()).await;
    world.write("a/one", "1");
    world.write("a/two", "2");
    world.add().await;
    world.indexer.stop().await;
    let (_source, stop) = StopSource::new();
    let catalogue = Catalogue::Bench(world.bench.clone());
    let scanner = Scanner {
        folders: Folders::new(None, catalogue.library()),
        catalogue,
        options: Arc::new(quiet()),
        board: Board::new(),
        turns: Arc::new(Semaphore::new(1)),
        stop,
    };
    let (mut keeper, _orders) = Keeper::new(world.locations().await.remove(0), scanner, None);
    keeper.scan().await;
    world.write("b/three", "3");
    fs::rename(world.root().join("a/one"), world.root().join("b/one")).unwrap();
    let one = world.id_of("one").await;
    keeper.look_again().await;
    assert_eq!(world.names().await, ["a", "b", "one", "three", "two"]);
    assert_eq!(world.id_of("one").await, one);
}

#[actix::test]
async fn a_watched_folder_follows_files_as_they_come_move_and_go() {
    let world = World::new(IndexOptions { hash: false, ..IndexOptions::default() }).await;
    world.write("a/one", "1");
    world.write("b/two", "2");
    world.add().await;
    let (one, two) = (world.id_of("one").await, world.id_of("two").await);

    world.write("c/d/three", "3");
    world.until("three", async |world| world.names().await == ["a", "b", "c", "d", "one", "three", "two"]).await;

    fs::rename(world.root().join("a/one"), world.root().join("b/moved")).unwrap();
    fs::rename(world.root().join("b"), world.root().join("renamed")).unwrap();
    let expected = ["a", "c", "d", "moved", "renamed", "three", "two"];
    world.until("moves", async |world| world.names().await == expected).await;
    assert_eq!((world.id_of("moved").await, world.id_of("two").await), (one, two));

    fs::remove_dir_all(world.root().join("c")).unwrap();
    world.until("removal", async |world| world.names().await == ["a", "moved", "renamed", "two"]).await;
    let at = &world.locations().await[0];
    world.until("totals", async |world| world.locations().await[0].totals.entries == 5).await;
    assert_eq!(at.path, world.root());
}

#[actix::test]
async fn five_thousand_files_come_in_bounded_commits_and_progress_says_so() {
    let world = World::new(quiet()).await;
    (0..5_000).for_each(|n| world.write(&format!("{}/{n}", n % 20), ""));
    world.bench.take_commits();
    let location = world.add().await;
    let commits = world.bench.take_commits();
    assert_eq!(commits.iter().sum::<usize>(), 2 + 5_021 + 1, "volume and location, entries, totals");
    assert!(commits.iter().all(|count| *count <= COMMIT_ROWS_MAX));
    let progress = world.indexer.progress().borrow()[&location].clone();
    assert_eq!((progress.files_seen, progress.committed, progress.phase), (5_021, 5_022, Phase::Idle));
}

#[actix::test]
async fn a_scan_under_way_ends_within_a_second_of_the_word() {
    let world = World::new(quiet()).await;
    (0..3_000).for_each(|n| world.write(&format!("{}/{n}", n % 20), ""));
    world.indexer.add(&world.root()).await.unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(1), world.indexer.stop()).await;
    assert!(stopped.is_ok());
}

#[actix::test]
async fn the_peers_own_data_is_not_indexed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("starling");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("db"), "").unwrap();
    let bench = Bench::new();
    let options = IndexOptions { data: Some(data.clone()), ..quiet() };
    let indexer = Indexer::start_on(Catalogue::Bench(bench.clone()), options).await.unwrap();
    assert!(matches!(indexer.add(&data).await, Err(IndexError::OwnData { .. })));
    let location = indexer.add(folder.path()).await.unwrap();
    assert_eq!(indexer.settled(location).await.map(|report| report.seen), Ok(1));
}

#[actix::test]
async fn a_big_folder_that_comes_while_watching_is_taken_by_a_full_scan() {
    let world = World::new(IndexOptions { hash: false, ..IndexOptions::default() }).await;
    let staging = tempfile::tempdir().unwrap();
    (0..COMMIT_ROWS_MAX + 100).for_each(|n| fs::write(staging.path().join(n.to_string()), "").unwrap());
    world.add().await;
    fs::rename(staging.path(), world.root().join("big")).unwrap();
    let expected = i64::try_from(COMMIT_ROWS_MAX + 102).unwrap();
    world.until("all", async |world| world.locations().await[0].totals.entries == expected).await;
}

/// A world whose indexer keeps what directories held, in a place of its own.
async fn keeping() -> (World, TempDir) {
    let data = tempfile::tempdir().unwrap();
    let world = World::new(IndexOptions { data: Some(data.path().to_owned()), ..quiet() }).await;
    (world, data)
}

#[actix::test]
async fn of_a_folder_that_did_not_change_no_row_is_read() {
    let (mut world, _data) = keeping().await;
    (0..50).for_each(|n| world.write(&format!("{}/{n}", n % 5), ""));
    let location = world.add().await;
    for restarted in [false, true] {
        if restarted {
            world.restart().await;
        }
        world.bench.take_queries();
        let report = world.indexer.rescan(location).await.unwrap();
        assert_eq!((report.seen, report.wrote()), (56, false));
        assert_eq!(world.bench.take_queries(), 1 + usize::from(restarted), "how far this device is, and the locations");
    }
    world.write("3/new", "");
    assert_eq!(world.indexer.rescan(location).await.map(|report| (report.seen, report.created)), Ok((57, 1)));
    assert_eq!(world.tree().await, world.disk());
}

#[actix::test]
async fn an_older_copy_of_the_library_is_compared_file_by_file() {
    let (mut world, _data) = keeping().await;
    world.write("a/one", "1");
    let location = world.add().await;
    let one = world.id_of("one").await;
    world.bench.commit(vec![Write::delete(Entry::MODEL, one)]).unwrap();
    assert_eq!(world.indexer.rescan(location).await.map(|report| report.created), Ok(0), "nobody else writes its rows");
    world.bench.set_head(1);
    world.restart().await;
    world.indexer.settled(location).await.unwrap();
    assert_eq!(world.tree().await, world.disk());
}

/// How many random histories of a folder are tried.
const SEEDS: u64 = 12;

/// Numbers that a seed decides.
struct Dice(blake3::OutputReader);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, sides: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % sides
    }

    /// A path of up to three names out of few, so that paths meet.
    fn path(&mut self) -> PathBuf {
        (0..=self.below(3)).map(|_| ["a", "b", "c", "d"][usize::try_from(self.below(4)).unwrap()]).collect()
    }
}

/// Does something to a folder. What cannot be done is not.
fn meddle(root: &Path, dice: &mut Dice, step: usize) {
    let (path, other) = (root.join(dice.path()), root.join(dice.path()));
    drop(match dice.below(6) {
        0 | 1 => fs::create_dir_all(&path),
        2 | 3 => fs::create_dir_all(path.parent().unwrap()).and_then(|()| fs::write(&path, "x".repeat(step))),
        4 => fs::rename(&path, &other),
        _ => fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)),
    });
}

#[actix::test]
async fn whatever_happens_to_a_folder_and_to_commits_the_next_scan_leaves_it_equal() {
    for seed in 0..SEEDS {
        let mut dice = Dice::new(seed);
        let (mut world, _data) = keeping().await;
        let location = world.add().await;
        for step in 0..40 {
            (0..=dice.below(4)).for_each(|n| meddle(&world.root(), &mut dice, 5 * step + usize::try_from(n).unwrap()));
            match dice.below(4) {
                0 => world.restart().await,
                1 => {
                    world.bench.refuse(vec![CommitError::Storage(StoreError("disk full".to_owned()))]);
                    drop(world.indexer.rescan(location).await);
                    world.bench.refuse(Vec::new());
                }
                _ => {}
            }
            if dice.below(2) == 0 {
                world.indexer.rescan(location).await.unwrap();
                assert_eq!(world.tree().await, world.disk(), "seed {seed}, step {step}");
            }
        }
    }
}
