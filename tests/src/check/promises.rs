//! Acks: what a device once said that it durably has, it has, after every crash and power cut.
//!
//! What it said is read off the network: beacons it signed, answers to direct batches. Not verified here: that others
//! read them rightly (`pruning`).

use starling_schema::stream::Watermarks;

use super::{Sample, Violation};

/// Judges a look into a device that promised so much.
///
/// # Errors
/// When it lacks something of it.
pub fn kept_promises(sample: &Sample, promised: &Watermarks) -> Result<(), Violation> {
    match promised.iter().find(|(stream, through)| sample.marks.get(*stream) < *through) {
        None => Ok(()),
        Some((stream, through)) => {
            let has = sample.marks.get(stream);
            let detail = format!("{} promised {stream} through {through} and has it through {has}", sample.device);
            Err(Violation::new("acks", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use starling_schema::ids::DeviceId;
    use starling_schema::stream::Stream;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_broken_promise_is_found() {
        let [a, b] = [1, 2].map(|number| DeviceId(Uuid::from_u128(number)));
        let promised = Watermarks::from_iter([(Stream::state(b), 9)]);
        kept_promises(&Sample::of(a, &[(Stream::state(b), 9)]), &promised).unwrap();
        assert_eq!(kept_promises(&Sample::of(a, &[(Stream::state(b), 8)]), &promised).unwrap_err().checker, "acks");
        assert_eq!(kept_promises(&Sample::of(a, &[]), &promised).unwrap_err().checker, "acks");
    }
}
