//! `starling collection …`

use std::ffi::OsString;

use super::{Session, typed};
use crate::api::{
    Collect, CollectionDelete, CollectionEdit, CollectionFields, CollectionNew, CollectionRestore, CollectionRow,
    CollectionsCall,
};
use crate::arguments::{CollectionCommand, CollectionDetails};
use crate::error::CliError;
use crate::output::{count, visible};

/// Runs one of the commands about collections.
pub(crate) async fn run(session: &Session, command: CollectionCommand) -> Result<(), CliError> {
    let Session { peer, output } = session;
    match command {
        CollectionCommand::New { name, details } => {
            let row = peer.call(&CollectionNew { fields: fields(Some(name), details) }).await?;
            output.reply(&row, |row| sentence(row, "was made"))
        }
        CollectionCommand::Ls => list(session).await,
        CollectionCommand::Edit { collection, name, details } => {
            let row = peer.call(&CollectionEdit { collection, fields: fields(name, details) }).await?;
            output.reply(&row, |row| sentence(row, "was changed"))
        }
        CollectionCommand::Rm { collection } => {
            let row = peer.call(&CollectionDelete { collection }).await?;
            output.reply(&row, |row| {
                format!("{}; `starling collection restore {}` brings it back", sentence(row, "was deleted"), row.id)
            })
        }
        CollectionCommand::Restore { collection } => {
            let row = peer.call(&CollectionRestore { collection }).await?;
            output.reply(&row, |row| sentence(row, "is back"))
        }
        CollectionCommand::Add { collection, targets } => collect(session, collection, &targets, true).await,
        CollectionCommand::Remove { collection, targets } => collect(session, collection, &targets, false).await,
    }
}

fn fields(name: Option<String>, details: CollectionDetails) -> CollectionFields {
    CollectionFields { name, color: details.tint, description: details.description }
}

fn sentence(row: &CollectionRow, what: &str) -> String {
    format!("the collection {} ({}) {what}", visible(&row.name), row.id)
}

async fn list(session: &Session) -> Result<(), CliError> {
    let collections = session.peer.call(&CollectionsCall {}).await?;
    session.output.reply(&collections, |reply| {
        if reply.collections.is_empty() {
            return "there is no collection: make one with `starling collection new`".to_owned();
        }
        let rows = reply.collections.iter().map(|row| {
            let about = row.description.clone().unwrap_or_default();
            [row.name.clone(), row.entries.to_string(), about, row.id.to_string()]
        });
        session.output.table(["COLLECTION", "ENTRIES", "DESCRIPTION", "ID"], rows)
    })
}

async fn collect(session: &Session, collection: String, targets: &[OsString], on: bool) -> Result<(), CliError> {
    let targets = targets.iter().map(|target| typed(target)).collect::<Result<_, _>>()?;
    let collected = session.peer.call(&Collect { collection, targets, on }).await?;
    session.output.reply(&collected, |collected| {
        let held = count(u64::try_from(collected.collection.entries).unwrap_or(0), "entry", "entries");
        format!("the collection {} holds {held}", visible(&collected.collection.name))
    })
}
