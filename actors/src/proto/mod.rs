//! The protocol without I/O: values in, values out, time and randomness as arguments.

pub mod merge;
