//! What must be true of devices: each check reads through the public interface and says exactly what differs.

mod equality;
mod integrity;

pub use equality::{are_equal, assert_equal, difference, dump, first_difference, lagging};
pub use integrity::intact;
