//! What must be true of devices: each check reads through the public interface and says exactly what differs.

mod acked;
mod agreement;
mod equality;
mod holes;
mod integrity;
mod promises;
mod pruning;
mod quiet;
mod sample;
mod stamps;
mod tombstones;
mod violation;
mod watermarks;

pub use acked::AckedCheck;
pub use agreement::{agrees_so_far, conflicts_agree};
pub use equality::{are_equal, assert_equal, difference, dump, first_difference, lagging};
pub use holes::{log_is_whole, state_is_whole};
pub use integrity::{damage, intact};
pub use promises::kept_promises;
pub use pruning::PruneCheck;
pub use quiet::unrest;
pub use sample::{Deleted, Held, Sample};
pub use stamps::{StampCheck, not_dragged};
pub use tombstones::TombstoneCheck;
pub use violation::Violation;
pub use watermarks::WatermarkCheck;
