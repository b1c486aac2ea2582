//! Reading the changes that devices made out of their logs, so that a [`Reference`] knows all of them.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use starling::QueryError;
use starling_schema::change::SharedChange;
use starling_schema::codec;
use starling_schema::ids::DeviceId;
use starling_schema::tables::log::dsl;
use starling_schema::wire::UNPACKED_BYTES_MAX;

use super::Reference;
use crate::sim::Node;

/// Adds what a device wrote since the last time. To be called right after each of its commits: what every member has
/// is pruned from the log within seconds.
///
/// # Panics
/// When entries are missing between what was collected and what the log holds, or a number stood for something else.
pub async fn collect(node: &Node, into: &mut Reference) {
    let origin = node.id();
    let after = into.head(origin);
    let sql_after = i64::try_from(after).expect("a number of a stream fits");
    let entries = read(node, move |c| {
        let own = dsl::log.filter(dsl::origin.eq(origin).and(dsl::seq.gt(sql_after)));
        own.order(dsl::seq).select((dsl::origin, dsl::entry)).load(c)
    });
    let entries = entries.await;
    let numbers = entries.iter().map(|(_, change)| change.seq);
    if let Some((expected, found)) = (after + 1..).zip(numbers).find(|(expected, found)| expected != found) {
        panic!("{} wrote {expected}, but its log goes on with {found}: collected too late", node.name());
    }
    add(node, &entries, into);
}

/// Adds all that is in a device's log, whoever wrote it: a number that stands for two changes on two devices is found.
///
/// # Panics
/// When there is such a number.
pub async fn audit(node: &Node, into: &mut Reference) {
    let all = |c: &mut SqliteConnection| dsl::log.select((dsl::origin, dsl::entry)).load(c);
    add(node, &read(node, all).await, into);
}

async fn read(
    node: &Node,
    load: impl FnOnce(&mut SqliteConnection) -> QueryResult<Vec<(DeviceId, Vec<u8>)>> + Send + 'static,
) -> Vec<(DeviceId, SharedChange)> {
    let rows = node.peer().query(|c| load(c).map_err(QueryError::from)).await;
    let rows = rows.unwrap_or_else(|error| panic!("the log of {}: {error}", node.name()));
    let decoded = |(origin, entry): (DeviceId, Vec<u8>)| {
        let change = codec::decode::<SharedChange, UNPACKED_BYTES_MAX>(&entry).expect("a log entry decodes");
        (origin, change)
    };
    rows.into_iter().map(decoded).collect()
}

fn add(node: &Node, entries: &[(DeviceId, SharedChange)], into: &mut Reference) {
    for (origin, change) in entries {
        let observed = into.observe(*origin, std::slice::from_ref(change));
        observed.unwrap_or_else(|reused| panic!("in the log of {}: {reused}", node.name()));
    }
}
