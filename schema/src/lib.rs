//! What Starling stores and what travels between its peers: ids, timestamps, values, models, changes, messages.
//!
//! Nothing here does I/O or keeps time. `starling` builds the peer on top of it.

pub mod change;
pub mod codec;
pub mod hlc;
pub mod ids;
pub mod key;
pub mod model;
pub mod models;
pub mod record;
pub mod signed;
pub mod stream;
#[expect(missing_docs, reason = "diesel documents the modules that it makes by itself")]
pub mod tables;
pub mod value;
pub mod wire;
