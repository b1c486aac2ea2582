//! Faults that are planted on purpose, one at a time: whoever tests this program must find each of them.
//!
//! Each is a line or two at the place where somebody could have made that mistake. Without the feature `rig` none is in
//! the program: `is` is then constant.

use crate::rig::named;

named! {
    /// A mistake that could have been made; [`Bug::about`] says which.
    Bug {
        /// What comes after a gap is applied at once.
        WatermarkSkipsGap = "watermark-skips-gap",
        /// The first live batch of a stream raises the watermark over what came before it.
        LiveBatchSkipsGap = "live-batch-skips-gap",
        /// A gap is waited for and never asked for.
        GapNeverPulled = "gap-never-pulled",
        /// A batch that finds no room is taken for held.
        OverflowForgotten = "overflow-forgotten",
        /// After a transaction that failed the watermarks stay where it had raised them.
        RollbackKeepsMarks = "rollback-keeps-marks",
        /// After a restart stamps begin at the wall clock.
        ClockForgotten = "clock-forgotten",
        /// Stamps of others do not move the clock.
        ClockIgnoresPeers = "clock-ignores-peers",
        /// Stamps from far in the future are applied and move the clock.
        DriftIgnored = "drift-ignored",
        /// What is parked counts as applied.
        ParkedCountsAsApplied = "parked-counts-as-applied",
        /// What was parked is forgotten at a restart.
        ParkedForgotten = "parked-forgotten",
        /// Heartbeats ack what a power cut would take.
        AckBeforeFlush = "ack-before-flush",
        /// Heartbeats ack what others have.
        AckOverGap = "ack-over-gap",
        /// A local commit does not wait for the disk.
        CommitNotSynced = "commit-not-synced",
        /// A commit that failed is answered as if it had not.
        FailedCommitAnswered = "failed-commit-answered",
        /// A refused commit leaves behind what it had written.
        RefusedCommitLeavesRows = "refused-commit-leaves-rows",
        /// Of several log entries the first is not written.
        LogEntryMissing = "log-entry-missing",
        /// The heads of our own streams are not stored.
        HeadNotStored = "head-not-stored",
        /// A database that is behind the heads file takes writes.
        HeadsFileIgnored = "heads-file-ignored",
        /// Logs wait only for members that were heard of.
        PruneIgnoresTheUnheard = "prune-ignores-the-unheard",
        /// Logs go on waiting for a removed member.
        RemovedHoldsLog = "removed-holds-log",
        /// Pruning does not raise the floor.
        PruneWithoutFloor = "prune-without-floor",
        /// A page's floor is not taken over.
        FloorNotCarried = "floor-not-carried",
        /// After a snapshot the floor stays where it was.
        SnapshotWithoutFloor = "snapshot-without-floor",
        /// A snapshot claims the watermarks of its last page.
        SnapshotClaimsLast = "snapshot-claims-last",
        /// A snapshot's losers are left out.
        SnapshotWithoutLosers = "snapshot-without-losers",
        /// Rows that a snapshot lacks are not deleted.
        SweepLeftOut = "sweep-left-out",
        /// Between two pages of a snapshot the row at the seam is deleted.
        SweepTakesTheSeam = "sweep-takes-the-seam",
        /// A page of rows claims more than it holds.
        PageClaimsHead = "page-claims-head",
        /// A page of rows that is cut loses one.
        PageLosesRow = "page-loses-row",
        /// What comes again is applied again, and old rows overwrite newer ones.
        OldVersionOverwrites = "old-version-overwrites",
        /// Deletes of owned rows leave no tombstone.
        TombstoneNotKept = "tombstone-not-kept",
        /// A device may write rows of another.
        OwnerUnchecked = "owner-unchecked",
        /// Of equal times the value that comes later wins, whoever wrote it.
        TieByArrival = "tie-by-arrival",
        /// An edit that is newer than a delete brings the record back.
        EditRevives = "edit-revives",
        /// An edit of an earlier life merges into the present one.
        OldLifeMerges = "old-life-merges",
        /// What other writes had seen is not remembered.
        SeenNotJoined = "seen-not-joined",
        /// The value that a newer one replaces is not kept as a loser.
        LoserDropped = "loser-dropped",
        /// A dead letter stays when it is done with.
        DeadLetterStays = "dead-letter-stays",
        /// Dead letters are forgotten at a restart.
        DeadLettersForgotten = "dead-letters-forgotten",
        /// A removed member is still served.
        RemovedServed = "removed-served",
    }
}

#[cfg(feature = "rig")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in all peers of this thread, or none.
#[cfg(feature = "rig")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted.
#[cfg(feature = "rig")]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(not(feature = "rig"))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}
