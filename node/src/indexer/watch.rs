//! Watches a location and gathers the directories in which something happened.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, RecommendedCache, new_debouncer_opt};
use tokio::sync::watch;

/// How long events are gathered: longer than a program takes to save a file, shorter than anyone waits for it.
pub(crate) const DEBOUNCE: Duration = Duration::from_millis(500);

/// The most directories that are looked at one by one; beyond that a full scan costs less than it saves.
pub(crate) const TOUCHED_MAX: usize = 256;

/// The directories in which something happened since they were last taken.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TouchedSet {
    /// Which.
    pub(crate) directories: BTreeSet<PathBuf>,
    /// Whether events were lost or there were too many to tell apart: then all of the location is to be scanned.
    pub(crate) everything: bool,
}

impl TouchedSet {
    /// Whether nothing happened.
    pub(crate) fn is_empty(&self) -> bool {
        !self.everything && self.directories.is_empty()
    }

    /// Adds a directory, up to the maximum.
    fn add(&mut self, directory: &Path) {
        if self.everything {
            return;
        }
        self.directories.insert(directory.to_owned());
        if self.directories.len() > TOUCHED_MAX {
            self.add_everything();
        }
    }

    fn add_everything(&mut self) {
        self.directories.clear();
        self.everything = true;
    }

    /// Adds what an event is about: the directory that holds the path, and for the root itself the root.
    fn add_event(&mut self, root: &Path, exclude: Option<&Path>, event: &notify::Event) {
        if event.need_rescan() {
            return self.add_everything();
        }
        // Reading a file, as hashing does, changes nothing.
        if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
            return;
        }
        for path in &event.paths {
            if exclude.is_some_and(|exclude| path.starts_with(exclude)) {
                continue;
            }
            match path.parent() {
                Some(parent) if parent.starts_with(root) => self.add(parent),
                _ => self.add(root),
            }
        }
    }
}

/// Touched directories on their way from the watching thread: merged, so never more than [`TOUCHED_MAX`].
#[derive(Clone, Debug)]
pub(crate) struct Touched(Arc<watch::Sender<TouchedSet>>);

impl Touched {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(TouchedSet::default())))
    }

    /// Takes what there is, and leaves nothing.
    pub(crate) fn take(&self) -> TouchedSet {
        self.0.send_replace(TouchedSet::default())
    }

    /// Waits until there is something to take.
    pub(crate) async fn some(&self) {
        let mut view = self.0.subscribe();
        // It cannot close: we hold the sender.
        if view.wait_for(|set| !set.is_empty()).await.is_err() {}
    }
}

/// A watch; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Watch {
    _debouncer: Debouncer<RecommendedWatcher, RecommendedCache>,
}

impl Watch {
    /// Watches a folder and all below it. Blocks while the system is told of every directory.
    ///
    /// # Errors
    /// In words for people: what failed, and what to do about it. Nothing is watched then.
    pub(crate) fn start(root: &Path, exclude: Option<PathBuf>, touched: Touched) -> Result<Self, String> {
        let own_root = root.to_owned();
        let handler = move |result: DebounceEventResult| {
            touched.0.send_if_modified(|set| {
                match result {
                    Ok(events) => {
                        for event in &events {
                            set.add_event(&own_root, exclude.as_deref(), &event.event);
                        }
                    }
                    Err(_) => set.add_everything(),
                }
                !set.is_empty()
            });
        };
        // Following links would watch what lies outside the location, and turn for ever in a loop.
        let config = notify::Config::default().with_follow_symlinks(false);
        let cache = RecommendedCache::new();
        let mut debouncer = new_debouncer_opt::<_, RecommendedWatcher, _>(DEBOUNCE, None, handler, cache, config)
            .map_err(|error| advice(root, &error))?;
        debouncer.watch(root, RecursiveMode::Recursive).map_err(|error| advice(root, &error))?;
        Ok(Self { _debouncer: debouncer })
    }
}

/// Why a folder is not watched and what a person can do.
fn advice(root: &Path, error: &notify::Error) -> String {
    let root = root.display();
    match &error.kind {
        ErrorKind::MaxFilesWatch => format!(
            "{root} is not watched: it holds more directories than the system lets us watch; raise \
             fs.inotify.max_user_watches (sysctl) and restart; until then it is scanned every few minutes"
        ),
        _ => format!("{root} is not watched: {error}; it is scanned every few minutes instead"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, Flag};

    fn add(set: &mut TouchedSet, kind: EventKind, path: &str) {
        set.add_event(Path::new("/l"), Some(Path::new("/l/data")), &notify::Event::new(kind).add_path(path.into()));
    }

    #[test]
    fn an_event_touches_the_directory_that_holds_it() {
        let mut set = TouchedSet::default();
        let created = EventKind::Create(CreateKind::Any);
        for path in ["/l/a/1", "/l/a/2", "/l/b", "/l", "/l/data/starling.db"] {
            add(&mut set, created, path);
        }
        assert_eq!(set.directories, BTreeSet::from(["/l".into(), "/l/a".into()]));
        assert!(!set.everything);
    }

    #[test]
    fn reading_touches_nothing_but_closing_after_a_write_does() {
        let mut set = TouchedSet::default();
        add(&mut set, EventKind::Access(AccessKind::Open(AccessMode::Any)), "/l/a");
        assert!(set.is_empty());
        add(&mut set, EventKind::Access(AccessKind::Close(AccessMode::Write)), "/l/a");
        assert!(!set.is_empty());
    }

    #[test]
    fn lost_events_and_too_many_directories_touch_everything() {
        let mut set = TouchedSet::default();
        set.add_event(Path::new("/l"), None, &notify::Event::new(EventKind::Other).set_flag(Flag::Rescan));
        assert!(set.everything);
        let mut set = TouchedSet::default();
        (0..=TOUCHED_MAX).for_each(|n| set.add(Path::new(&format!("/l/{n}"))));
        assert_eq!(set, TouchedSet { directories: BTreeSet::new(), everything: true });
    }

    #[test]
    fn the_limit_of_watches_comes_with_advice() {
        let text = advice(Path::new("/l"), &notify::Error::new(ErrorKind::MaxFilesWatch));
        assert!(text.starts_with("/l is not watched") && text.contains("fs.inotify.max_user_watches"));
    }
}
