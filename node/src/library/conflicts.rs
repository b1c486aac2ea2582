//! What lost against concurrent edits, and bringing it back.

use starling::{Conflict, PeerHandle};
use starling_schema::change::Write;
use starling_schema::value::Fields;

use super::models::{json, model, model_name};
use super::{commit, read, show};
use crate::api::{ConflictRow, Conflicts};
use crate::error::{CliError, ErrorKind};

/// The digits of an id of a conflict: few enough to type, enough for millions of conflicts.
const ID_DIGITS: usize = 16;

/// The shortest beginning of an id that is taken for one.
const PREFIX_DIGITS_MIN: usize = 4;

/// The id of a conflict: the same on every device, because the write that lost is.
fn id_of(conflict: &Conflict) -> String {
    let mut key = blake3::Hasher::new();
    key.update(&conflict.model.to_be_bytes());
    key.update(conflict.record.as_bytes());
    key.update(&conflict.field.to_be_bytes());
    key.update(&conflict.hlc.to_bytes());
    key.finalize().to_hex()[..ID_DIGITS].to_owned()
}

fn field_name(conflict: &Conflict) -> String {
    let column = model(conflict.model).and_then(|spec| spec.column(conflict.field));
    column.map_or_else(|| format!("field {}", conflict.field), |column| column.name.to_owned())
}

/// All conflicts, by record.
pub(crate) async fn all(peer: &PeerHandle) -> Result<Conflicts, CliError> {
    let mut conflicts = Vec::new();
    for conflict in peer.conflicts().await? {
        conflicts.push(row(peer, &conflict).await?);
    }
    Ok(Conflicts { conflicts })
}

async fn row(peer: &PeerHandle, conflict: &Conflict) -> Result<ConflictRow, CliError> {
    let (field, record) = (field_name(conflict), conflict.record);
    let shown = match model(conflict.model) {
        Some(spec) => read(peer, move |c| show::fields(c, spec, record)).await?,
        None => None,
    };
    Ok(ConflictRow {
        id: id_of(conflict),
        model: model_name(conflict.model),
        record,
        current: shown.and_then(|fields| fields.get(&field).cloned()).unwrap_or_default(),
        field,
        value: json(&conflict.value),
        deleted: conflict.deleted,
        at: conflict.hlc.wall_ms(),
        device: conflict.hlc.device,
        hlc: conflict.hlc.to_string(),
    })
}

/// The one conflict whose id begins like this.
fn chosen(conflicts: Vec<Conflict>, id: &str) -> Result<Conflict, CliError> {
    let wanted = id.to_lowercase();
    let long_enough = wanted.len() >= PREFIX_DIGITS_MIN;
    let mut matching: Vec<Conflict> =
        conflicts.into_iter().filter(|conflict| long_enough && id_of(conflict).starts_with(&wanted)).collect();
    if matching.len() > 1 {
        let ids: Vec<String> = matching.iter().map(id_of).collect();
        return Err(CliError::new(
            ErrorKind::Ambiguous,
            format!("{id:?} is more than one conflict: {}", ids.join(", ")),
        )
        .hint("use the whole id of the one that you mean"));
    }
    matching.pop().ok_or_else(|| {
        CliError::new(ErrorKind::NotFound, format!("no conflict has the id {id:?}"))
            .hint("`starling conflicts ls` lists them")
    })
}

/// One conflict.
pub(crate) async fn one(peer: &PeerHandle, id: &str) -> Result<ConflictRow, CliError> {
    let conflict = chosen(peer.conflicts().await?, id)?;
    row(peer, &conflict).await
}

/// Makes the value that lost the value again; a deleted record comes back with it.
pub(crate) async fn restore(peer: &PeerHandle, id: &str) -> Result<ConflictRow, CliError> {
    let conflict = chosen(peer.conflicts().await?, id)?;
    if conflict.deleted {
        commit(peer, vec![Write::restore(conflict.model, conflict.record)]).await?;
    }
    let fields = Fields::new().with(conflict.field, conflict.value.clone());
    commit(peer, vec![Write::patch(conflict.model, conflict.record, fields)]).await?;
    row(peer, &conflict).await
}

#[cfg(test)]
mod tests {
    use starling_schema::hlc::Hlc;
    use starling_schema::models::Tag;
    use starling_schema::value::Value;

    use super::super::fixture::{HERE, id};
    use super::*;

    fn conflict(time: u64) -> Conflict {
        Conflict {
            model: Tag::MODEL,
            record: id(5, 1),
            field: Tag::COLOR,
            hlc: Hlc { time, device: HERE },
            value: Value::from("#000000"),
            deleted: false,
        }
    }

    #[test]
    fn a_conflict_is_chosen_by_the_beginning_of_an_id_that_follows_from_its_write() {
        let ids = (id_of(&conflict(1)), id_of(&conflict(2)));
        assert_ne!(ids.0, ids.1);
        assert_eq!(ids.0.len(), ID_DIGITS);
        let found = chosen(vec![conflict(1), conflict(2)], &ids.1[..8].to_uppercase()).unwrap();
        assert_eq!(found, conflict(2));
        assert_eq!(field_name(&found), "color");
    }

    #[test]
    fn an_unknown_or_too_short_id_is_named() {
        for wrong in ["", "f", "zzzz", "0000000000000000"] {
            let error = chosen(vec![conflict(1)], wrong).unwrap_err();
            assert!(error.message.contains(&format!("{wrong:?}")), "{error}");
        }
    }
}
