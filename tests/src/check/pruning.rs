//! Pruning: an origin removes nothing of its own log or tombstones that a member, as it knows the members, has not
//! said to have durably, unless that member was silent for longer than logs wait.
//!
//! Not verified here: that pruning happens at all (`quiet`), and floors that come from other devices.

use std::collections::{BTreeMap, BTreeSet};

use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::stream::Stream;

use super::{Sample, Violation};
use crate::sim::Promises;

/// What an origin's floors and its idea of the members were.
#[derive(Clone, Debug, Default)]
pub struct PruneCheck {
    last: BTreeMap<(LibraryId, DeviceId), Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    floors: [u64; 2],
    members: BTreeSet<DeviceId>,
}

impl PruneCheck {
    /// Judges a look into a device that has these for members. Members in `silent` need not be waited for.
    ///
    /// # Errors
    /// When it pruned what a member may lack.
    pub fn look(
        &mut self,
        sample: &Sample,
        members: &BTreeSet<DeviceId>,
        silent: &BTreeSet<DeviceId>,
        promises: &Promises,
    ) -> Result<(), Violation> {
        let streams = [Stream::state(sample.device), Stream::shared(sample.device)];
        let floors = streams.map(|stream| sample.floors.get(stream));
        let known = Known { floors, members: members.clone() };
        let Some(before) = self.last.insert((sample.library, sample.device), known) else { return Ok(()) };
        for (at, stream) in streams.into_iter().enumerate().filter(|(at, _)| floors[*at] > before.floors[*at]) {
            let waited_for = before.members.intersection(members);
            for member in waited_for.filter(|member| **member != sample.device && !silent.contains(*member)) {
                let has = promises.of(sample.library, *member).get(stream);
                if has < floors[at] {
                    let detail =
                        format!("{stream} is pruned through {}, and {member} has it through {has}", floors[at]);
                    return Err(Violation::new("pruning", detail));
                }
            }
        }
        Ok(())
    }

    /// A device got an older copy of its database back: its floors say nothing of what it pruned.
    pub fn forget(&mut self, library: LibraryId, device: DeviceId) {
        self.last.remove(&(library, device));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const A: DeviceId = DeviceId(Uuid::from_u128(1));
    const B: DeviceId = DeviceId(Uuid::from_u128(2));

    #[test]
    fn pruning_what_a_member_never_acknowledged_is_found_unless_it_was_silent_or_just_came() {
        let pruned = |through| {
            let mut sample = Sample::of(A, &[]);
            sample.floors.raise(Stream::shared(A), through);
            sample
        };
        let (both, alone, nobody) = (BTreeSet::from([A, B]), BTreeSet::from([A]), BTreeSet::new());
        let judge = |before: &BTreeSet<DeviceId>, silent: &BTreeSet<DeviceId>| {
            let mut check = PruneCheck::default();
            check.look(&pruned(1), before, &nobody, &Promises::default()).unwrap();
            check.look(&pruned(2), &both, silent, &Promises::default())
        };
        assert_eq!(judge(&both, &nobody).unwrap_err().checker, "pruning");
        judge(&alone, &nobody).unwrap();
        judge(&both, &BTreeSet::from([B])).unwrap();
    }
}
