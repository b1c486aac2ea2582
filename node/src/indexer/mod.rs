//! The indexer.
mod catalogue; mod diff; mod error; mod facts; mod known; mod names; mod progress; mod rows; mod stop; mod volume; mod walk;

