//! Walks a folder in parallel and hands over what it finds in bounded batches, parents before children.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ignore::{DirEntry, WalkBuilder, WalkState};
use starling_schema::models::EntryKind;
use tokio::sync::mpsc;

use super::facts::Facts;

use super::fingerprint::{Fingerprint, Fingerprints};
use super::here::{Here, Seen};
use super::names;
use super::stop::Stop;

/// How many findings travel together: enough that handing over costs nothing, few enough to stay under a megabyte.
pub(crate) const BATCH_FOUND_MAX: usize = 1_000;

/// How many batches may wait for the committer; beyond that the walk waits, and memory stays bounded.
pub(crate) const BATCHES_WAITING_MAX: usize = 4;

/// The most threads of one walk: reading directories stops scaling soon, and the machine has other work.
const WALK_THREADS_MAX: usize = 4;

/// How many looks a glance takes between two looks at whether it is to stop: less than a millisecond.
const LOOKS_PER_STOP: u64 = 64;

/// What to walk, and what to pass over.
#[derive(Clone, Debug)]
pub(crate) struct WalkPlan {
    /// The folder, absolute and without symbolic links.
    pub(crate) root: PathBuf,
    /// How deep below it to look; none is all the way.
    pub(crate) depth_max: Option<usize>,
    /// Whether `.gitignore` and `.ignore` files are obeyed.
    pub(crate) respect_ignore: bool,
    /// Whether names that start with a dot are passed over.
    pub(crate) skip_hidden: bool,
    /// A folder that is passed over: the peer's own data.
    pub(crate) exclude: Option<PathBuf>,
}

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// Where it is, absolute.
    pub(crate) path: PathBuf,
    /// What the file system says of it.
    pub(crate) facts: Facts,
    /// The file system that it lies on: inodes mean nothing across two.
    pub(crate) device: u64,
}

/// A path that could not be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Trouble {
    /// Which; none when the walk could not say.
    pub(crate) path: Option<PathBuf>,
    /// The system's words.
    pub(crate) reason: String,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", path.display(), self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// Some of what a walk came across, in the order that it came across it.
#[derive(Debug, Default)]
pub(crate) struct WalkBatch {
    /// Files, directories and links; each directory before what it holds.
    pub(crate) found: Vec<Found>,
    /// What could not be read.
    pub(crate) troubles: Vec<Trouble>,
    /// Sockets, pipes and devices.
    pub(crate) skipped: u64,
}

impl WalkBatch {
    fn is_full(&self) -> bool {
        self.found.len() + self.troubles.len() >= BATCH_FOUND_MAX
    }

    fn is_empty(&self) -> bool {
        self.found.is_empty() && self.troubles.is_empty() && self.skipped == 0
    }
}

/// Walks until the end, the word to stop, or the receiver's end. Blocks: run it on a thread for blocking work.
///
/// Symbolic links are reported and never followed; other file systems below the root are entered.
pub(crate) fn walk(plan: &WalkPlan, batches: &mpsc::Sender<WalkBatch>, stop: &Stop) {
    let outbox = Outbox { batch: Mutex::new(WalkBatch::default()), batches };
    builder(plan).build_parallel().run(|| {
        let (outbox, mut here) = (&outbox, Here::default());
        Box::new(move |seen| {
            if stop.is_set() {
                return WalkState::Quit;
            }
            if outbox.take(seen, &mut here) { WalkState::Continue } else { WalkState::Quit }
        })
    });
    outbox.close();
}

/// What a walk comes to that looks at everything and keeps one number per directory.
#[derive(Debug, Default)]
pub(crate) struct Glanced {
    /// The directories that could be read.
    pub(crate) directories: Fingerprints,
    /// What could not be read.
    pub(crate) troubles: Vec<Trouble>,
    /// How many files, directories and links there are.
    pub(crate) seen: u64,
    /// Sockets, pipes and devices.
    pub(crate) skipped: u64,
}

/// Walks like [`walk`], and sums up. Told to stop, it comes to a part.
pub(crate) fn glance(plan: &WalkPlan, stop: &Stop) -> Glanced {
    let all = Mutex::new(Glanced::default());
    builder(plan).build_parallel().run(|| {
        let mut tally =
            Tally { own: Glanced::default(), here: Here::default(), print: Fingerprint::default(), all: &all };
        Box::new(move |seen| {
            if tally.own.seen.is_multiple_of(LOOKS_PER_STOP) && stop.is_set() {
                return WalkState::Quit;
            }
            tally.take(seen);
            WalkState::Continue
        })
    });
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    for trouble in &all.troubles {
        trouble.path.as_ref().map(|path| all.directories.remove(path));
    }
    all
}

/// What one thread of a walk has come across.
struct Tally<'a> {
    own: Glanced,
    here: Here,
    /// What that directory held so far.
    print: Fingerprint,
    all: &'a Mutex<Glanced>,
}

impl Tally<'_> {
    fn take(&mut self, seen: Result<DirEntry, ignore::Error>) {
        let entry = match seen.map_err(|error| trouble(&error)) {
            Ok(entry) => entry,
            Err(trouble) => return self.own.troubles.extend(trouble),
        };
        let name = names::name_bytes(entry.file_name());
        if !self.here.holds(entry.path(), name) {
            self.leave();
            self.here.go_to(entry.path());
        }
        let facts = match self.here.look(entry.path()) {
            Ok(Seen { facts: Some(facts), .. }) => facts,
            Ok(_) => return self.own.skipped += 1,
            Err(error) => return self.own.troubles.extend(trouble_at(entry.path(), &error)),
        };
        self.own.seen += 1;
        if facts.kind == EntryKind::Directory {
            let print = self.own.directories.entry(entry.path().to_owned()).or_default();
            if entry.depth() == 0 {
                return print.add_root(&facts);
            }
        }
        self.print.add(name, &facts);
    }

    fn leave(&mut self) {
        let print = std::mem::take(&mut self.print);
        if print != Fingerprint::default() {
            self.own.directories.entry(self.here.path().to_owned()).or_default().join(print);
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.leave();
        let own = std::mem::take(&mut self.own);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.seen += own.seen;
        all.skipped += own.skipped;
        all.troubles.extend(own.troubles);
        for (path, print) in own.directories {
            all.directories.entry(path).or_default().join(print);
        }
    }
}

fn builder(plan: &WalkPlan) -> WalkBuilder {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(WALK_THREADS_MAX);
    let mut builder = WalkBuilder::new(&plan.root);
    builder
        .standard_filters(false)
        .hidden(plan.skip_hidden)
        .ignore(plan.respect_ignore)
        .git_ignore(plan.respect_ignore)
        .git_exclude(plan.respect_ignore)
        .parents(plan.respect_ignore)
        .require_git(false)
        .follow_links(false)
        .max_depth(plan.depth_max)
        .threads(threads);
    if let Some(exclude) = plan.exclude.clone() {
        builder.filter_entry(move |entry| entry.path() != exclude);
    }
    builder
}

/// Where the threads of a walk put what they find.
///
/// All share one batch: a directory is put in before any thread is given what it holds, so one order for all threads
/// is what keeps parents before children.
struct Outbox<'a> {
    batch: Mutex<WalkBatch>,
    batches: &'a mpsc::Sender<WalkBatch>,
}

impl Outbox<'_> {
    /// Takes one step of the walk; false when nobody receives any more.
    fn take(&self, seen: Result<DirEntry, ignore::Error>, here: &mut Here) -> bool {
        match seen.map_err(|error| trouble(&error)).and_then(|entry| look(&entry, here)) {
            Ok(Some(found)) => self.put(|batch| batch.found.push(found)),
            Ok(None) => self.put(|batch| batch.skipped += 1),
            Err(Some(trouble)) => self.put(|batch| batch.troubles.push(trouble)),
            Err(None) => true,
        }
    }

    /// Sends under the lock: otherwise a later batch could overtake this one.
    fn put(&self, change: impl FnOnce(&mut WalkBatch)) -> bool {
        let mut batch = self.lock();
        change(&mut batch);
        !batch.is_full() || self.batches.blocking_send(std::mem::take(&mut *batch)).is_ok()
    }

    /// Sends what is left. A receiver that is gone wants none of it.
    fn close(&self) {
        let rest = std::mem::take(&mut *self.lock());
        if !rest.is_empty() && self.batches.blocking_send(rest).is_err() {}
    }

    /// A thread that panicked leaves a whole batch behind: every change to it is one push.
    fn lock(&self) -> MutexGuard<'_, WalkBatch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an entry is; nothing for sockets, pipes and devices; no trouble for what vanished in the meantime.
fn look(entry: &DirEntry, here: &mut Here) -> Result<Option<Found>, Option<Trouble>> {
    let path = entry.path();
    if !here.holds(path, names::name_bytes(entry.file_name())) {
        here.go_to(path);
    }
    let Seen { facts, device } = here.look(path).map_err(|error| trouble_at(path, &error))?;
    Ok(facts.map(|facts| Found { path: path.to_owned(), facts, device }))
}

fn trouble_at(path: &Path, error: &io::Error) -> Option<Trouble> {
    let gone = error.kind() == io::ErrorKind::NotFound;
    (!gone).then(|| Trouble { path: Some(path.to_owned()), reason: error.to_string() })
}

/// What went wrong, where; nothing when a file vanished while we looked, or when only an ignore file was malformed.
pub(crate) fn trouble(error: &ignore::Error) -> Option<Trouble> {
    let io_error = io_error(error)?;
    let gone = io_error.kind() == io::ErrorKind::NotFound;
    (!gone).then(|| Trouble { path: path_of(error).map(Path::to_owned), reason: io_error.to_string() })
}

fn io_error(error: &ignore::Error) -> Option<&io::Error> {
    match error {
        ignore::Error::Io(error) => Some(error),
        ignore::Error::WithPath { err, .. }
        | ignore::Error::WithDepth { err, .. }
        | ignore::Error::WithLineNumber { err, .. } => io_error(err),
        ignore::Error::Partial(errors) => errors.iter().find_map(io_error),
        _ => None,
    }
}

fn path_of(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        ignore::Error::Partial(errors) => errors.iter().find_map(path_of),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::indexer::stop::StopSource;
    use std::collections::HashSet;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    pub(crate) fn plan(root: &Path) -> WalkPlan {
        WalkPlan { root: root.to_owned(), depth_max: None, respect_ignore: false, skip_hidden: false, exclude: None }
    }

    /// Everything that a walk hands over, in order.
    pub(crate) fn collect(plan: &WalkPlan) -> WalkBatch {
        let (batches, mut inbox) = mpsc::channel(BATCHES_WAITING_MAX);
        let (_source, stop) = StopSource::new();
        let plan = plan.clone();
        let walker = std::thread::spawn(move || walk(&plan, &batches, &stop));
        let mut all = WalkBatch::default();
        while let Some(batch) = inbox.blocking_recv() {
            assert!(batch.found.len() <= BATCH_FOUND_MAX);
            all.found.extend(batch.found);
            all.troubles.extend(batch.troubles);
            all.skipped += batch.skipped;
        }
        walker.join().unwrap();
        all
    }

    fn names(plan: &WalkPlan) -> HashSet<Vec<u8>> {
        collect(plan).found.iter().map(|found| found.path.file_name().unwrap().as_bytes().to_vec()).collect()
    }

    #[test]
    fn five_thousand_files_come_after_their_directories() {
        let folder = tempfile::tempdir().unwrap();
        for outer in 0..10 {
            for inner in 0..10 {
                let path = folder.path().join(format!("{outer}/{inner}"));
                fs::create_dir_all(&path).unwrap();
                (0..50).for_each(|file| fs::write(path.join(file.to_string()), "").unwrap());
            }
        }
        let mut seen = HashSet::new();
        for found in collect(&plan(folder.path())).found {
            assert!(found.path == folder.path() || seen.contains(found.path.parent().unwrap()));
            seen.insert(found.path);
        }
        assert_eq!(seen.len(), 1 + 10 + 100 + 5_000);
    }

    #[test]
    fn hidden_and_ignored_files_are_found_unless_asked_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".gitignore"), "ignored\n").unwrap();
        fs::write(folder.path().join("ignored"), "").unwrap();
        fs::write(folder.path().join(".hidden"), "").unwrap();
        fs::write(folder.path().join("plain"), "").unwrap();
        let all = plan(folder.path());
        assert_eq!(names(&all).len(), 5);
        assert!(!names(&WalkPlan { respect_ignore: true, ..all.clone() }).contains(&b"ignored"[..]));
        assert!(!names(&WalkPlan { skip_hidden: true, ..all }).contains(&b".hidden"[..]));
    }

    #[test]
    fn a_symlink_loop_is_a_link_and_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        let all = collect(&plan(folder.path()));
        assert_eq!(all.found.len(), 2);
        assert_eq!(all.found[1].facts.kind, starling_schema::models::EntryKind::Symlink);
        assert_eq!(all.troubles, []);
    }

    #[test]
    fn names_that_are_not_utf8_come_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "").unwrap();
        assert!(names(&plan(folder.path())).contains(&b"\xff\xfe"[..]));
    }

    #[test]
    fn sockets_are_counted_and_the_excluded_folder_is_not_entered() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("starling.db"), "").unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let all = collect(&WalkPlan { exclude: Some(data), ..plan(folder.path()) });
        assert_eq!((all.found.len(), all.skipped), (1, 1));
    }

    #[test]
    fn trouble_names_its_path_and_what_vanished_is_none() {
        let error = |kind: io::ErrorKind| ignore::Error::WithDepth {
            depth: 1,
            err: Box::new(ignore::Error::WithPath {
                path: "/a/b".into(),
                err: Box::new(ignore::Error::Io(kind.into())),
            }),
        };
        let denied = trouble(&error(io::ErrorKind::PermissionDenied)).unwrap();
        assert_eq!(denied.path.as_deref(), Some(Path::new("/a/b")));
        assert_eq!(trouble(&error(io::ErrorKind::NotFound)), None);
    }

    #[test]
    fn a_stopped_walk_ends_without_a_receiver() {
        let folder = tempfile::tempdir().unwrap();
        let (batches, inbox) = mpsc::channel(1);
        drop(inbox);
        let (source, stop) = StopSource::new();
        source.stop();
        walk(&plan(folder.path()), &batches, &stop);
    }
}
