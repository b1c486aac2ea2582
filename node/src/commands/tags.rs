//! `starling tag …`

use super::{Session, typed};
use crate::api::{TagAssign, TagDelete, TagEdit, TagFields, TagNest, TagNew, TagRestore, TagRow, TagsCall};
use crate::arguments::{TagCommand, TagDetails, Tagging};
use crate::error::CliError;
use crate::output::{count, visible};

/// Runs one of the commands about tags.
pub(crate) async fn run(session: &Session, command: TagCommand) -> Result<(), CliError> {
    let Session { peer, output } = session;
    match command {
        TagCommand::New { name, details } => {
            let row = peer.call(&TagNew { fields: fields(Some(name), details) }).await?;
            output.reply(&row, |row| sentence(row, "was made"))
        }
        TagCommand::Ls => list(session).await,
        TagCommand::Edit { tag, name, details } => {
            let row = peer.call(&TagEdit { tag, fields: fields(name, details) }).await?;
            output.reply(&row, |row| sentence(row, "was changed"))
        }
        TagCommand::Rm { tag } => {
            let row = peer.call(&TagDelete { tag }).await?;
            output.reply(&row, |row| {
                format!("{}; `starling tag restore {}` brings it back", sentence(row, "was deleted"), row.id)
            })
        }
        TagCommand::Restore { tag } => {
            let row = peer.call(&TagRestore { tag }).await?;
            output.reply(&row, |row| sentence(row, "is back"))
        }
        TagCommand::Add(tagging) => assign(session, tagging, true).await,
        TagCommand::Remove(tagging) => assign(session, tagging, false).await,
        TagCommand::Nest { parent, child, off } => {
            let nested = peer.call(&TagNest { parent, child, on: !off }).await?;
            output.reply(&nested, |nested| {
                let (parent, child) = (visible(&nested.parent.name), visible(&nested.child.name));
                let verb = if nested.on { "lies in" } else { "does not lie in" };
                format!("the tag {child} {verb} {parent}{}", if nested.on { "" } else { " any more" })
            })
        }
    }
}

fn fields(name: Option<String>, details: TagDetails) -> TagFields {
    let TagDetails { tint, namespace, icon, description, aliases, hidden } = details;
    let one_a_line =
        |text: String| text.split(',').map(str::trim).filter(|s| !s.is_empty()).collect::<Vec<_>>().join("\n");
    TagFields { name, namespace, color: tint, icon, description, aliases: aliases.map(one_a_line), hidden }
}

fn sentence(row: &TagRow, what: &str) -> String {
    format!("the tag {} ({}) {what}", visible(&row.name), row.id)
}

async fn list(session: &Session) -> Result<(), CliError> {
    let tags = session.peer.call(&TagsCall {}).await?;
    session.output.reply(&tags, |tags| {
        if tags.tags.is_empty() {
            return "there is no tag: make one with `starling tag new`".to_owned();
        }
        let rows = tags.tags.iter().map(|row| {
            let parents: Vec<&str> = row.parents.iter().map(|parent| parent.name.as_str()).collect();
            let color = row.color.clone().unwrap_or_default();
            [row.name.clone(), row.assignments.to_string(), parents.join(", "), color, row.id.to_string()]
        });
        session.output.table(["TAG", "ON", "IN", "COLOUR", "ID"], rows)
    })
}

async fn assign(session: &Session, tagging: Tagging, on: bool) -> Result<(), CliError> {
    let Tagging { tag, targets, content } = tagging;
    let targets = targets.iter().map(|target| typed(target)).collect::<Result<_, _>>()?;
    let assigned = session.peer.call(&TagAssign { tag, targets, content, on }).await?;
    session.output.reply(&assigned, |assigned| {
        let number = u64::try_from(assigned.targets.len()).unwrap_or(u64::MAX);
        let what = if content { count(number, "content", "contents") } else { count(number, "entry", "entries") };
        let verb = if on { "is on" } else { "is off" };
        format!("the tag {} {verb} {what}", visible(&assigned.tag.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_kept_one_a_line() {
        let details = TagDetails { aliases: Some("a, b,,c ".to_owned()), ..TagDetails::default() };
        assert_eq!(fields(None, details).aliases.as_deref(), Some("a\nb\nc"));
    }
}
