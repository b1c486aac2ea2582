//! Tags within tags, without circles: two devices that nest two tags in each other see the newest edge ignored.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use diesel::sql_types::{Binary, Nullable};
use diesel::sqlite::SqliteConnection;
use starling_schema::hlc::Hlc;
use starling_schema::ids::RecordId;
use starling_schema::record::Stamps;

use crate::error::CliError;

/// The most memory that decoding one record's stamps may claim: several times what its fields allow.
pub(crate) const STAMPS_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(QueryableByName)]
struct EdgeRow {
    #[diesel(sql_type = Nullable<Binary>)]
    parent: Option<RecordId>,
    #[diesel(sql_type = Nullable<Binary>)]
    child: Option<RecordId>,
    #[diesel(sql_type = Binary)]
    stamps: Vec<u8>,
}

/// One tag within another, and when it was put there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Edge {
    parent: RecordId,
    child: RecordId,
    hlc: Hlc,
}

/// The tags that lie directly in each tag, free of circles.
#[derive(Debug, Default)]
pub(crate) struct Nesting {
    children: BTreeMap<RecordId, BTreeSet<RecordId>>,
}

impl Nesting {
    /// Reads all edges between tags. The answer is the same on every device that has the same edges.
    pub(crate) fn load(c: &mut SqliteConnection) -> Result<Self, CliError> {
        let rows: Vec<EdgeRow> =
            diesel::sql_query("SELECT parent, child, stamps FROM tag_relationship WHERE alive = 1 ORDER BY id")
                .load(c)?;
        let edges = rows.into_iter().filter_map(|row| {
            let stamps: Option<Stamps> = starling_schema::codec::decode::<Stamps, STAMPS_BYTES_MAX>(&row.stamps).ok();
            Some(Edge {
                parent: row.parent?,
                child: row.child?,
                hlc: stamps.map_or(Hlc::MIN, |stamps| newest(&stamps)),
            })
        });
        Ok(Self::of(edges.collect()))
    }

    /// Adds edges from the oldest on and leaves out each that would close a circle.
    fn of(mut edges: Vec<Edge>) -> Self {
        edges.sort_by_key(|edge| (edge.hlc, edge.parent, edge.child));
        let mut nesting = Self::default();
        for Edge { parent, child, .. } in edges {
            if parent != child && !nesting.within(child).contains(&parent) {
                nesting.children.entry(parent).or_default().insert(child);
            }
        }
        nesting
    }

    /// The tag and all that are nested in it, however deep.
    pub(crate) fn within(&self, tag: RecordId) -> BTreeSet<RecordId> {
        let mut found = BTreeSet::from([tag]);
        let mut ahead = vec![tag];
        while let Some(tag) = ahead.pop() {
            for child in self.children.get(&tag).into_iter().flatten() {
                if found.insert(*child) {
                    ahead.push(*child);
                }
            }
        }
        found
    }

    /// The tags that a tag lies directly in.
    pub(crate) fn parents(&self, tag: RecordId) -> impl Iterator<Item = RecordId> {
        self.children.iter().filter(move |(_, children)| children.contains(&tag)).map(|(parent, _)| *parent)
    }
}

/// The newest write of an edge: edges have derived ids, so making one is a restore.
fn newest(stamps: &Stamps) -> Hlc {
    let written = stamps.fields.iter().map(|(_, stamp)| stamp.hlc);
    written.chain(stamps.restored).max().unwrap_or(Hlc::MIN)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, HERE, id};
    use super::*;

    fn edge(parent: u128, child: u128, time: u64) -> Edge {
        Edge { parent: id(0, parent), child: id(0, child), hlc: Hlc { time, device: HERE } }
    }

    #[test]
    fn the_newest_edge_of_a_circle_is_ignored_whatever_the_order() {
        let edges = [edge(1, 2, 10), edge(2, 3, 30), edge(3, 1, 20), edge(3, 3, 5)];
        for rotation in 0..edges.len() {
            let mut edges = edges.to_vec();
            edges.rotate_left(rotation);
            let nesting = Nesting::of(edges);
            assert_eq!(nesting.within(id(0, 3)), BTreeSet::from([id(0, 1), id(0, 2), id(0, 3)]));
            assert_eq!(nesting.within(id(0, 2)), BTreeSet::from([id(0, 2)]));
            assert_eq!(nesting.parents(id(0, 2)).collect::<Vec<_>>(), [id(0, 1)]);
        }
    }

    #[test]
    fn edges_are_read_with_their_stamps() {
        let c = &mut fixture::library();
        fixture::nest(c, id(0, 1), id(0, 2), 9);
        fixture::nest(c, id(0, 2), id(0, 1), 8);
        let nesting = Nesting::load(c).unwrap();
        assert_eq!(nesting.within(id(0, 1)), BTreeSet::from([id(0, 1)]));
        assert_eq!(nesting.within(id(0, 2)), BTreeSet::from([id(0, 1), id(0, 2)]));
    }
}
