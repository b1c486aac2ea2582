//! Acknowledged commits: a commit that was answered is in its device's streams at once after any crash, and for good.
//!
//! Not verified here: that it reaches the others, and with which content (`agreement`, `ownership`).

use std::collections::BTreeMap;

use starling::Receipt;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::stream::Stream;

use super::{Sample, Violation};

/// The newest receipt of every device.
#[derive(Clone, Debug, Default)]
pub struct AckedCheck {
    receipts: BTreeMap<(LibraryId, DeviceId), Receipt>,
}

impl AckedCheck {
    /// A commit was answered.
    pub fn acked(&mut self, library: LibraryId, device: DeviceId, receipt: Receipt) {
        let newest = self.receipts.entry((library, device)).or_default();
        newest.state_head = newest.state_head.max(receipt.state_head);
        newest.shared_head = newest.shared_head.max(receipt.shared_head);
    }

    /// Judges a look into a device.
    ///
    /// # Errors
    /// When it lacks a commit that it acknowledged.
    pub fn look(&self, sample: &Sample) -> Result<(), Violation> {
        let Some(receipt) = self.receipts.get(&(sample.library, sample.device)) else { return Ok(()) };
        let own =
            [(Stream::state(sample.device), receipt.state_head), (Stream::shared(sample.device), receipt.shared_head)];
        for (stream, acked) in own {
            let has = sample.marks.get(stream);
            if has < acked {
                return Err(Violation::new("acked", format!("{stream} ends at {has}, and {acked} was acknowledged")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const A: DeviceId = DeviceId(Uuid::from_u128(1));

    #[test]
    fn a_lost_commit_is_found() {
        let mut check = AckedCheck::default();
        check.acked(LibraryId::MIN, A, Receipt { state_head: 3, shared_head: 7 });
        check.look(&Sample::of(A, &[(Stream::state(A), 3), (Stream::shared(A), 7)])).unwrap();
        let lost = check.look(&Sample::of(A, &[(Stream::state(A), 3), (Stream::shared(A), 6)]));
        assert_eq!(lost.unwrap_err().checker, "acked");
    }
}
