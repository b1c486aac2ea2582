//! Notes, marks and ratings of entries.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
use diesel::sqlite::SqliteConnection;
use starling::PeerHandle;
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::models::UserMetadata;
use starling_schema::value::{Fields, Value};

use super::{commit, read, set_text, targets};
use crate::api::{Annotate, MetadataRow, Remark};
use crate::error::{CliError, ErrorKind};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Nullable<Text>)]
    notes: Option<String>,
    #[diesel(sql_type = Nullable<Bool>)]
    favorite: Option<bool>,
    #[diesel(sql_type = Nullable<Bool>)]
    hidden: Option<bool>,
    #[diesel(sql_type = Nullable<BigInt>)]
    rating: Option<i64>,
}

/// What people say of an entry, if anybody does.
pub(crate) fn of(c: &mut SqliteConnection, target: RecordId) -> Result<Option<MetadataRow>, CliError> {
    let sql = "SELECT id, notes, favorite, hidden, rating FROM user_metadata WHERE id = ? AND alive = 1";
    let row: Option<Row> =
        diesel::sql_query(sql).bind::<Binary, _>(UserMetadata::of(target).id).get_result(c).optional()?;
    Ok(row.map(|row| MetadataRow {
        id: row.id,
        target,
        notes: row.notes,
        favorite: row.favorite.unwrap_or_default(),
        hidden: row.hidden.unwrap_or_default(),
        rating: row.rating,
    }))
}

/// Says something of an entry.
pub(crate) async fn annotate(peer: &PeerHandle, call: Annotate) -> Result<MetadataRow, CliError> {
    let Annotate { target, remark } = call;
    let here = peer.device();
    let target = read(peer, move |c| targets::entry(c, here, &target)).await?;
    commit(peer, vec![write(target, remark)]).await?;
    let row = read(peer, move |c| of(c, target)).await?;
    row.ok_or_else(|| {
        CliError::new(ErrorKind::Failed, format!("what was said of {target} was deleted again meanwhile"))
    })
}

fn write(target: RecordId, remark: Remark) -> Write {
    let mut fields = Fields::new().with(UserMetadata::TARGET, target);
    match remark {
        Remark::Note(text) => set_text(&mut fields, UserMetadata::NOTES, Some(text)),
        Remark::Favorite(on) => {
            fields.set(UserMetadata::FAVORITE, on);
        }
        Remark::Rating(stars) => {
            fields.set(UserMetadata::RATING, Value::Int(i64::from(stars)));
        }
    }
    Write::put(UserMetadata::MODEL, UserMetadata::of(target).id, fields)
}

#[cfg(test)]
mod tests {
    use starling_schema::change::Action;

    use super::super::fixture::{self, hex, id, run};
    use super::*;

    #[test]
    fn a_remark_writes_its_own_field_only() {
        let write = write(id(3, 1), Remark::Rating(4));
        let Action::Put(fields) = write.action else { panic!("not a put") };
        let expected = Fields::new().with(UserMetadata::TARGET, id(3, 1)).with(UserMetadata::RATING, Value::Int(4));
        assert_eq!((write.record, fields), (UserMetadata::of(id(3, 1)).id, expected));
    }

    #[test]
    fn what_nobody_said_is_false_or_nothing() {
        let c = &mut fixture::library();
        let metadata = hex(UserMetadata::of(id(3, 1)).id);
        assert_eq!(of(c, id(3, 1)), Ok(None));
        run(
            c,
            &format!(
                "INSERT INTO user_metadata (id, target, notes, stamps, alive) VALUES ({metadata}, x'00', 'hm', x'', 1)"
            ),
        );
        let row = of(c, id(3, 1)).unwrap().unwrap();
        assert_eq!((row.notes.as_deref(), row.favorite, row.rating), (Some("hm"), false, None));
    }
}
