//! What a peer counts since it started: the numbers that others read while actors add to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counts since the peer started; all begin at zero.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)+
        }

        #[derive(Debug, Default)]
        struct Cells {
            $($name: AtomicU64,)+
        }

        impl Counters {
            /// The counts now.
            pub(crate) fn read(&self) -> Counts {
                Counts { $($name: self.0.$name.load(Ordering::Relaxed),)+ }
            }

            $(
                #[doc = concat!("Adds to `", stringify!($name), "`.")]
                pub(crate) fn $name(&self, count: u64) {
                    self.0.$name.fetch_add(count, Ordering::Relaxed);
                }
            )+
        }
    };
}

/// The live counters, shared by the actors of a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(Arc<Cells>);

counters! {
    /// Local commits that changed something and were acknowledged.
    commits,
    /// Changes of other devices that were applied.
    changes_applied,
    /// Gossip messages that were published.
    gossip_out,
    /// Gossip messages that came in and were valid.
    gossip_in,
    /// Messages that were refused: malformed, forged, or from somebody who may not send them.
    messages_refused,
    /// Rows of a device's stream that belong to another device: left as they were.
    rows_refused,
    /// Field values that do not fit their column: kept raw and passed on.
    fields_kept_raw,
    /// Records that were compared with a peer's.
    records_compared,
    /// Records that differed from a peer's though both had applied the same changes.
    records_differing,
    /// Of those, the ones that were repaired here.
    records_repaired,
}
