//! Claims about real `starling` processes on loopback.

mod bad_input;
mod conflicts;
mod contract;
mod demo;
mod faults;
mod pairing;
mod strangers;
mod watching;
mod whole_story;
