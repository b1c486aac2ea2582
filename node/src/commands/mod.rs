//! The commands that talk to the running peer: each asks, and says what it was told.

mod collections;
mod files;
mod library;
mod membership;
mod shell;
mod tags;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::api::{RawPath, TargetText};
use crate::arguments::{Command, ConflictsCommand, DevicesCommand};
use crate::client::Client;
use crate::error::{CliError, ErrorKind};
use crate::output::Output;

pub(crate) use membership::converged;
pub(crate) use shell::{completions, manual};

/// Who is asked, and how to say what was answered.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// The way to the peer.
    pub(crate) peer: Client,
    /// How to print.
    pub(crate) output: Output,
}

/// Runs one command.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), CliError> {
    match command {
        Command::Invite { expires } => membership::invite(session, expires).await,
        Command::Join { ticket, merge } => membership::join(session, ticket, merge).await,
        Command::Status => membership::status(session).await,
        Command::Peers => membership::peers(session).await,
        Command::Devices(DevicesCommand::Ls) => membership::devices(session).await,
        Command::Devices(DevicesCommand::Rename { name }) => membership::rename(session, name).await,
        Command::Devices(DevicesCommand::Remove { device }) => membership::remove(session, device).await,
        Command::Wait(wait) => membership::wait(session, wait).await,
        Command::Add { paths } => files::add(session, &paths).await,
        Command::Rescan { location } => files::rescan(session, location).await,
        Command::Locations => files::locations(session).await,
        Command::RemoveLocation { location } => files::remove_location(session, &location).await,
        Command::Find(find) => files::find(session, find).await,
        Command::Show { id } => files::show(session, &id).await,
        Command::Note { id, text } => files::note(session, &id, text).await,
        Command::Favorite { id, off } => files::favorite(session, &id, !off).await,
        Command::Rate { id, rating } => files::rate(session, &id, rating).await,
        Command::Tag(command) => tags::run(session, command).await,
        Command::Collection(command) => collections::run(session, command).await,
        Command::Digest => library::digest(session).await,
        Command::Dump => library::dump(session).await,
        Command::Verify { with } => library::verify(session, with).await,
        Command::Pause => library::pause(session, true).await,
        Command::Resume => library::pause(session, false).await,
        Command::Events { since, follow } => library::events(session, since, follow).await,
        Command::Conflicts(ConflictsCommand::Ls) => library::conflicts(session).await,
        Command::Conflicts(ConflictsCommand::Show { id }) => library::conflict(session, id).await,
        Command::Conflicts(ConflictsCommand::Restore { id }) => library::restore_conflict(session, id).await,
        Command::Up(_) | Command::Demo(_) | Command::Completions { .. } | Command::Man { .. } => {
            Err(CliError::new(ErrorKind::Failed, "this command does not talk to a running peer"))
        }
    }
}

/// What somebody typed for a record: the peer runs elsewhere, so a path is completed here.
pub(crate) fn typed(text: &OsStr) -> Result<TargetText, CliError> {
    if text.is_empty() {
        return Err(CliError::new(ErrorKind::Usage, "an id or a path is empty")
            .hint("give an id, or the path of an indexed file"));
    }
    Ok(TargetText { text: text.to_string_lossy().into_owned(), path: Some(RawPath::of(&completed(Path::new(text))?)) })
}

/// The absolute path without symbolic links in its folders. A link at its end stays: it is an entry of its own.
fn completed(path: &Path) -> Result<PathBuf, CliError> {
    let absolute = std::path::absolute(path).map_err(|e| CliError::io(path.display(), e))?;
    let ends_in_dots =
        path.components().next_back().is_some_and(|last| !matches!(last, std::path::Component::Normal(_)));
    if ends_in_dots {
        return Ok(absolute.canonicalize().unwrap_or(absolute));
    }
    let resolved = absolute.parent().and_then(|folder| folder.canonicalize().ok());
    Ok(match (resolved, absolute.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => absolute,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_completed_but_a_link_at_the_end_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/file"), "").unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        assert_eq!(completed(&root.join("link/file")).unwrap(), root.join("real/file"));
        assert_eq!(completed(&root.join("link")).unwrap(), root.join("link"));
        assert_eq!(completed(&root.join("real/..")).unwrap(), root);
        assert_eq!(completed(&root.join("gone/file")).unwrap(), root.join("gone/file"));
    }
}
