//! Hashes file contents in the background: one thread of low priority, newest request first.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use starling_schema::ids::RecordId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::catalogue::{Catalogue, OwnLocation, Unhashed, UnhashedPlace};
use super::error::IndexError;
use super::keeper::Order;
use super::names;
use super::progress::Board;
use super::stop::Stop;

/// How much is read at once: enough for a disk to run at full speed, small enough to stop within milliseconds.
const CHUNK_BYTES: usize = 512 * 1024;

/// How long a hash waits for others before it is committed.
const FLUSH_AFTER: Duration = Duration::from_secs(2);

/// How many hashes may wait for their commit: as many as one commit takes, then the thread waits.
const HASHES_WAITING_MAX: usize = 500;

/// How many requests are put off for newer ones: a request is some kilobytes at most, and a busy folder makes many.
const STACK_MAX: usize = 256;

/// How many requests may wait unread; one that finds no room asks again after its next scan.
pub(crate) const REQUESTS_WAITING_MAX: usize = 64;

/// By how much the hashing thread yields to others, in steps of `nice`: well behind, yet not starved.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// A location asks that its files be hashed.
#[derive(Debug)]
pub(crate) struct HashRequest {
    /// Which location.
    pub(crate) at: OwnLocation,
    /// Where in it to look.
    pub(crate) place: UnhashedPlace,
    /// Who commits the hashes.
    pub(crate) orders: mpsc::Sender<Order>,
}

/// A file's content hash, and the size and time that the file had before and after it was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct HashedFile {
    /// Its entry.
    pub(crate) id: RecordId,
    /// Bytes.
    pub(crate) size: i64,
    /// Milliseconds since 1970.
    pub(crate) modified_ms: i64,
    /// BLAKE3 of its bytes.
    pub(crate) hash: [u8; 32],
}

/// Works through requests until told to stop. What is unhashed then is found again at the next start.
pub(crate) async fn run(catalogue: Catalogue, board: Board, mut requests: mpsc::Receiver<HashRequest>, stop: Stop) {
    let (jobs, job_inbox) = mpsc::channel(1);
    let (results, result_inbox) = mpsc::channel(HASHES_WAITING_MAX);
    let thread_stop = stop.clone();
    let thread = std::thread::Builder::new().name("hasher".to_owned());
    if let Err(error) = thread.spawn(move || work(job_inbox, &results, &thread_stop)) {
        tracing::warn!(%error, "file contents are not hashed: no thread for it");
        return;
    }
    let mut hasher = Hasher { catalogue, jobs, results: result_inbox, stop: stop.clone() };
    let mut stack: Vec<HashRequest> = Vec::new();
    loop {
        while let Ok(request) = requests.try_recv() {
            push(&mut stack, request);
        }
        if let Some(request) = stack.pop() {
            let location = request.at.id;
            match hasher.page(request).await {
                Ok(rest) => stack.extend(rest),
                Err(IndexError::Stopped) if stop.is_set() => return,
                Err(error) => tracing::warn!(%error, "hashing stopped until the next scan"),
            }
            if !stack.iter().any(|request| request.at.id == location) {
                board.end_hashing(location);
            }
            continue;
        }
        tokio::select! {
            () = stop.wait() => return,
            request = requests.recv() => match request {
                Some(request) => push(&mut stack, request),
                None => return,
            },
        }
    }
}

/// Puts a request on top. One for a whole location starts over and covers the older ones of that location.
fn push(stack: &mut Vec<HashRequest>, request: HashRequest) {
    if matches!(request.place, UnhashedPlace::After(_)) {
        stack.retain(|older| older.at.id != request.at.id);
    }
    if stack.len() >= STACK_MAX {
        // The oldest; its files are found again by the next scan of all.
        stack.remove(0);
    }
    stack.push(request);
}

struct Hasher {
    catalogue: Catalogue,
    jobs: mpsc::Sender<Vec<Unhashed>>,
    results: mpsc::Receiver<Option<HashedFile>>,
    stop: Stop,
}

impl Hasher {
    /// Hashes the next files of a request; returns what is left of it.
    async fn page(&mut self, mut request: HashRequest) -> Result<Option<HashRequest>, IndexError> {
        let page = self.catalogue.unhashed(&request.at, request.place.clone(), &self.stop).await?;
        let mut outstanding = page.files.len();
        self.jobs.send(page.files).await.map_err(|_| IndexError::Stopped)?;
        let mut hashed = Vec::new();
        let mut flush_at = Instant::now() + FLUSH_AFTER;
        while outstanding > 0 {
            tokio::select! {
                () = self.stop.wait() => return Err(IndexError::Stopped),
                result = self.results.recv() => match result {
                    Some(result) => {
                        outstanding -= 1;
                        hashed.extend(result);
                    }
                    None => return Err(IndexError::Stopped),
                },
                () = tokio::time::sleep_until(flush_at) => {}
            }
            if outstanding == 0 || Instant::now() >= flush_at {
                self.hand_over(&request, std::mem::take(&mut hashed)).await;
                flush_at = Instant::now() + FLUSH_AFTER;
            }
        }
        Ok(page.next.map(|place| {
            request.place = place;
            request
        }))
    }

    /// Has the location commit hashes, and waits: it is the only one that writes its rows. A location that is gone
    /// does not want them any more.
    async fn hand_over(&self, request: &HashRequest, files: Vec<HashedFile>) {
        if files.is_empty() {
            return;
        }
        let (done, committed) = oneshot::channel();
        if request.orders.send(Order::Hashed(files, done)).await.is_ok() {
            tokio::select! {
                () = self.stop.wait() => {}
                _ = committed => {}
            }
        }
    }
}

/// The thread: hashes file after file and answers each, with nothing for what it could not read.
fn work(mut jobs: mpsc::Receiver<Vec<Unhashed>>, results: &mpsc::Sender<Option<HashedFile>>, stop: &Stop) {
    yield_to_others();
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Some(files) = jobs.blocking_recv() {
        for file in files {
            let hashed = hash_file(&file, &mut chunk, stop);
            if stop.is_set() || results.blocking_send(hashed).is_err() {
                return;
            }
        }
    }
}

/// Lets everything else go first.
#[cfg(target_os = "linux")]
fn yield_to_others() {
    // On Linux this is the thread's own. If it fails we are merely less polite.
    if rustix::process::nice(NICENESS).is_err() {}
}

#[cfg(not(target_os = "linux"))]
fn yield_to_others() {}

/// Hashes a file; none if it is gone, unreadable, or not what its row says before or after.
fn hash_file(file: &Unhashed, chunk: &mut [u8], stop: &Stop) -> Option<HashedFile> {
    let is_as_known = |metadata: &Metadata| {
        metadata.is_file()
            && i64::try_from(metadata.len()) == Ok(file.size)
            && metadata.modified().is_ok_and(|time| names::ms_since_1970(time) == file.modified_ms)
    };
    let mut source = open(&file.path).ok()?;
    if !is_as_known(&source.metadata().ok()?) {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    loop {
        if stop.is_set() {
            return None;
        }
        match source.read(chunk) {
            Ok(0) => break,
            Ok(count) => drop(hasher.update(&chunk[..count])),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    // By handle and by name: it may have been written, or another file may have taken its name.
    let unchanged = is_as_known(&source.metadata().ok()?) && is_as_known(&file.path.symlink_metadata().ok()?);
    let hash = *hasher.finalize().as_bytes();
    unchanged.then_some(HashedFile { id: file.id, size: file.size, modified_ms: file.modified_ms, hash })
}

/// Opens without following a link and without waiting for the other end of a pipe: either may have taken the name.
#[cfg(unix)]
fn open(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indexer::stop::StopSource;

    fn unhashed(path: &Path) -> Unhashed {
        let metadata = path.symlink_metadata().unwrap();
        Unhashed {
            id: RecordId::MIN,
            path: path.to_owned(),
            size: i64::try_from(metadata.len()).unwrap(),
            modified_ms: names::ms_since_1970(metadata.modified().unwrap()),
        }
    }

    #[test]
    fn only_the_content_that_the_row_describes_is_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "hello").unwrap();
        let (_source, stop) = StopSource::new();
        let hash = |file: &Unhashed| hash_file(file, &mut [0; 2], &stop).map(|hashed| hashed.hash);
        let file = unhashed(&path);
        assert_eq!(hash(&file), Some(*blake3::hash(b"hello").as_bytes()));
        assert_eq!(hash(&Unhashed { size: 4, ..file.clone() }), None);
        assert_eq!(hash(&Unhashed { modified_ms: 1, ..file.clone() }), None);
        assert_eq!(hash(&Unhashed { path: folder.path().join("gone"), ..file.clone() }), None);
        assert_eq!(hash(&Unhashed { path: folder.path().to_owned(), ..file }), None);
    }

    #[test]
    fn a_link_that_took_the_name_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "hello").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let (_source, stop) = StopSource::new();
        let file = Unhashed { path: link, ..unhashed(&target) };
        assert_eq!(hash_file(&file, &mut [0; 8], &stop), None);
    }
}
