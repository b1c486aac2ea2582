//! Where a test may interfere with a peer: points that it passes, limits that it keeps, times that it waits.
//!
//! With the feature `rig`, which only the tests turn on, an [`Injector`] is told of each and may make the disk fail,
//! take the directory's files as a crash would leave them, and make limits small and waits odd. Without it nothing of
//! this is left in the program: every call gives what is usual.

/// Whether this build lets tests interfere.
pub const RIGGED: bool = cfg!(feature = "rig");

/// Makes an enumeration of plain names with a list of all of them.
macro_rules! named {
    ($(#[$about:meta])* $type:ident { $(#[doc = $doc:literal] $variant:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum $type { $(#[doc = $doc] $variant,)+ }

        impl $type {
            /// Every one, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name on a command line and in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What it is, in one sentence.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $doc),+ }.trim_start()
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(crate) use named;

named! {
    /// A step at which a crash or a failure is interesting. [`Point::is_edge`] says where the disk may fail.
    Point {
        /// A transaction is about to begin.
        BeforeBegin = "before-begin",
        /// A transaction is open, and one of its jobs is about to run.
        AfterBegin = "after-begin",
        /// Of a job the rows are written and the log entries are not, or the other way round.
        BetweenRowsAndLog = "between-rows-and-log",
        /// All is written, nothing is committed.
        BeforeCommit = "before-commit",
        /// A transaction that had to be durable is committed; the heads file does not know.
        AfterCommit = "after-commit",
        /// The heads file knows.
        AfterNote = "after-note",
        /// It is committed, and nobody who waits was told.
        BeforeAnswer = "before-answer",
        /// Own changes are about to be broadcast.
        BeforeBroadcast = "before-broadcast",
        /// Own changes were handed to the network.
        AfterBroadcast = "after-broadcast",
        /// A peer's batch is about to be applied.
        BeforeApply = "before-apply",
        /// What came from peers is committed and visible, but a power cut would take it.
        AfterApply = "after-apply",
        /// What came from peers is about to be made durable.
        BeforeFlush = "before-flush",
        /// Everything that is applied is durable.
        AfterFlush = "after-flush",
        /// An acknowledgement is about to be given: by heartbeat, or as the answer to a direct batch.
        BeforeAck = "before-ack",
        /// An acknowledgement was given.
        AfterAck = "after-ack",
        /// What every member has is about to be removed.
        BeforePrune = "before-prune",
        /// It is removed.
        AfterPrune = "after-prune",
        /// A snapshot is asked for from its beginning.
        SnapshotStarted = "snapshot-started",
        /// A page of a snapshot is about to be merged.
        SnapshotPage = "snapshot-page",
        /// All pages of a snapshot are merged.
        SnapshotEnded = "snapshot-ended",
        /// A page was read for a peer and is about to be sent.
        PageServed = "page-served",
        /// A batch ahead of its turn did not fit and was dropped.
        BufferOverflow = "buffer-overflow",
        /// A batch came ahead of its turn.
        GapSeen = "gap-seen",
        /// Changes from the future were parked.
        Parked = "parked",
        /// Parked changes were applied.
        Released = "released",
        /// A send was given up.
        DeadLetter = "dead-letter",
        /// A peer with dead letters is back.
        DeadLetterRevived = "dead-letter-revived",
        /// The joined library's file is complete beside the old one.
        BeforeSwap = "before-swap",
        /// The old library is kept under another name, and its file is still the one in use.
        InSwap = "in-swap",
        /// The joined library's file is in place.
        AfterSwap = "after-swap",
    }
}

impl Point {
    /// Whether the disk may fail here: the step is a statement, and what follows a failure is what follows a real one.
    #[must_use]
    pub const fn is_edge(self) -> bool {
        matches!(self, Self::BeforeBegin | Self::AfterBegin | Self::BetweenRowsAndLog | Self::BeforeCommit)
    }
}

named! {
    /// A bound that a test may make small.
    Limit {
        /// Rows of a page.
        PageRows = "page-rows",
        /// Bytes after which a page ends.
        PageBytes = "page-bytes",
        /// Rows of a page of a snapshot.
        SnapshotRows = "snapshot-rows",
        /// Jobs of one transaction.
        GroupJobs = "group-jobs",
        /// Jobs that wait for the store.
        QueueJobs = "queue-jobs",
        /// Bytes of batches that wait for their turn.
        BufferBytes = "buffer-bytes",
        /// Bytes of a broadcast batch.
        GossipBytes = "gossip-bytes",
        /// Messages that wait for the backfill buffer, the retry queue and the heartbeats.
        Mailbox = "mailbox",
    }
}

named! {
    /// A wait that a test may change.
    Timer {
        /// Until what came from peers is made durable.
        Flush = "flush",
        /// Until what is due next is sent again.
        Retry = "retry",
        /// Until the next heartbeat is due.
        Beacon = "beacon",
        /// Until what every member has is removed.
        Prune = "prune",
        /// Until one looks again at whom to pull from.
        RePull = "re-pull",
        /// Until the next member that is away is dialed.
        Dial = "dial",
        /// After a batch could not be written.
        StoreRetry = "store-retry",
        /// Until parked changes are looked at.
        Release = "release",
    }
}

/// What the disk answers instead of doing what it is asked.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// It is full.
    DiskFull,
    /// It cannot be read or written.
    IoError,
}

/// As `SQLite` says it, so that everything after it goes as with a real one.
impl From<Fault> for diesel::result::Error {
    fn from(fault: Fault) -> Self {
        let message = match fault {
            Fault::DiskFull => "database or disk is full",
            Fault::IoError => "disk I/O error",
        };
        Self::DatabaseError(diesel::result::DatabaseErrorKind::Unknown, Box::new(message.to_owned()))
    }
}

/// Interferes with one peer. It is called in the middle of the peer's work, on its thread: it must return at once, and
/// must not ask the peer anything.
#[cfg(feature = "rig")]
pub trait Injector: Send + Sync {
    /// A point is reached; a fault is what the disk answers there, and counts only where [`Point::is_edge`].
    fn reach(&self, point: Point) -> Option<Fault>;

    /// What a limit is for this peer.
    fn limit(&self, limit: Limit, usual: usize) -> usize;

    /// How long a wait is for this peer, in milliseconds.
    fn wait_ms(&self, timer: Timer, usual_ms: u64) -> u64;
}
