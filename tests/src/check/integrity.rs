//! Whether a device's database is sound.

use diesel::prelude::*;
use diesel::sql_types::Text;
use starling::QueryError;

use crate::sim::Node;

#[derive(QueryableByName)]
struct Verdict {
    #[diesel(sql_type = Text)]
    integrity_check: String,
}

/// What `SQLite` finds wrong with the database of a running device; none when it is sound or the device is stopping.
pub async fn damage(node: &Node) -> Option<String> {
    let check = |c: &mut diesel::SqliteConnection| {
        diesel::sql_query("PRAGMA integrity_check").load::<Verdict>(c).map_err(QueryError::from)
    };
    let verdicts = node.peer().query(check).await.ok()?;
    let lines: Vec<_> =
        verdicts.into_iter().map(|verdict| verdict.integrity_check).filter(|line| line != "ok").collect();
    (!lines.is_empty()).then(|| format!("{}: {}", node.name(), lines.join("; ")))
}

/// Asserts that `SQLite` finds nothing wrong with the database of a running device.
pub async fn intact(node: &Node) {
    let verdicts: Vec<Verdict> = node
        .peer()
        .query(|c| diesel::sql_query("PRAGMA integrity_check").load(c).map_err(QueryError::from))
        .await
        .expect("the database can be read");
    let verdicts: Vec<_> = verdicts.into_iter().map(|verdict| verdict.integrity_check).collect();
    assert_eq!(verdicts, ["ok"], "the database of {}", node.name());
}
