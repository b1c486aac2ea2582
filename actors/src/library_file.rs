//! The library's file as a whole: founding one, reading what the actors start from, and putting a joined one in place.

use std::path::{Path, PathBuf};

use starling_schema::ids::LibraryId;
use starling_schema::key::{DeviceKey, DeviceSecret};
use starling_schema::models::Device;
use starling_schema::stream::{Stream, Watermarks};

use crate::address_book::{AddressBook, BOOK_SETTING};
use crate::environment::Environment;
use crate::heartbeats::upkeep::{KnownSince, known_since};
use crate::identity::Identity;
use crate::pausing::PAUSED_SETTING;
use crate::peer::{ChangeLibrary, PeerOptions, StartError, store_error};
use crate::proto::clean::Clean;
use crate::proto::membership::Membership;
use crate::proto::pairing::{IssuedTicket, Tickets};
use crate::proto::snapshots::BegunSnapshot;
use crate::rig::Point;
use crate::store::ledger::{self, Note};
use crate::store::open::open_writer;
use crate::store::parked;

/// The most left libraries that are kept by number; beyond that the last one is replaced.
const LEFT_MAX: usize = 1_000;

/// What is read from the database before the actors start.
pub(crate) struct Stored {
    pub(crate) membership: Membership,
    pub(crate) tickets: Tickets,
    pub(crate) book: AddressBook,
    pub(crate) marks: Watermarks,
    pub(crate) clean: Clean,
    /// How far streams are held beyond that, until their time comes.
    pub(crate) parked: Vec<(Stream, u64)>,
    /// Snapshots that are under way.
    pub(crate) snapshots: Vec<BegunSnapshot>,
    pub(crate) beacons: Vec<(starling_schema::signed::Signed, u64)>,
    pub(crate) known_since_ms: KnownSince,
    pub(crate) retries: (Vec<ledger::StoredRetry>, Vec<ledger::StoredLetter>),
    pub(crate) device_name: Option<String>,
    pub(crate) paused: bool,
}

/// Reads what the actors start from; founds a library in a new database.
pub(crate) fn read_stored(
    c: &mut diesel::sqlite::SqliteConnection,
    secret: &DeviceSecret,
    options: &PeerOptions,
) -> Result<Stored, StartError> {
    let statements = ledger::statements(c).map_err(store_error)?;
    let membership = if statements.is_empty() {
        let name = options.name.clone().unwrap_or_else(host_name);
        let (nonce, at_ms) = (options.environment.random_bytes(), options.environment.wall_ms());
        let title = format!("{name}'s library");
        let (library, membership) = Membership::found(&title, &name, nonce, at_ms, secret).map_err(store_error)?;
        found(c, library, &membership)?;
        membership
    } else {
        let library = ledger::setting(c, LIBRARY_SETTING)
            .map_err(store_error)?
            .and_then(|bytes| LibraryId::from_slice(&bytes))
            .ok_or_else(|| store_error("the database does not say which library it holds: it is damaged"))?;
        let mut membership = Membership::new(library);
        membership.insert_all(statements);
        rename(c, &mut membership, secret, options)?;
        membership
    };
    let tickets =
        ledger::tickets(c).map_err(store_error)?.into_iter().filter_map(|(_, secret, expires_at_ms, used)| {
            let used_by = used.and_then(|key| key.try_into().ok()).map(DeviceKey);
            Some(IssuedTicket { secret: secret.try_into().ok()?, expires_at_ms, used_by })
        });
    let tickets = Tickets::restore(tickets);
    let book = ledger::setting(c, BOOK_SETTING).map_err(store_error)?;
    let own: Option<Device> = crate::records::get(c, secret.device().record()).map_err(store_error)?;
    let named = membership.members().get(&secret.device()).map(|member| member.name.clone());
    Ok(Stored {
        membership,
        tickets,
        book: AddressBook::restore(secret.device(), book.as_deref()),
        marks: ledger::streams(c).map_err(store_error)?.0,
        clean: ledger::clean(c).map_err(store_error)?,
        parked: parked::streams(c)
            .map_err(store_error)?
            .into_iter()
            .map(|(origin, held)| (Stream::shared(origin), held.through))
            .collect(),
        snapshots: ledger::snapshots(c).map_err(store_error)?,
        beacons: ledger::beacons(c).map_err(store_error)?,
        known_since_ms: known_since(c).map_err(store_error)?,
        retries: (ledger::retries(c).map_err(store_error)?, ledger::dead_letters(c).map_err(store_error)?),
        device_name: own.and_then(|device| device.name).or(named),
        paused: ledger::setting(c, PAUSED_SETTING).map_err(store_error)? == Some(vec![1]),
    })
}

/// Says the device's new name, when it was given one.
fn rename(
    c: &mut diesel::sqlite::SqliteConnection,
    membership: &mut Membership,
    secret: &DeviceSecret,
    options: &PeerOptions,
) -> Result<(), StartError> {
    let known = membership.members().get(&secret.device()).map(|member| member.name.clone());
    let (Some(known), Some(name)) = (known, options.name.as_ref()) else { return Ok(()) };
    if known != *name {
        let statement = membership.rename(name, options.environment.wall_ms(), secret).map_err(store_error)?;
        ledger::keep(c, &Note::Statement(statement.clone())).map_err(store_error)?;
        membership.insert(statement).map_err(store_error)?;
    }
    Ok(())
}

/// The setting that names the library.
pub(crate) const LIBRARY_SETTING: &str = "library";

/// Writes a library's identity into an empty database.
pub(crate) fn found(
    c: &mut diesel::sqlite::SqliteConnection,
    library: LibraryId,
    membership: &Membership,
) -> Result<(), StartError> {
    use diesel::Connection;
    c.transaction(|c| {
        for statement in membership.statements() {
            ledger::keep(c, &Note::Statement(statement.clone()))?;
        }
        ledger::set_setting(c, LIBRARY_SETTING, library.0.as_bytes())
    })
    .map_err(store_error)
}

pub(crate) fn host_name() -> String {
    let named =
        std::fs::read_to_string("/etc/hostname").or_else(|_| std::env::var("HOSTNAME").map_err(std::io::Error::other));
    named.ok().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "device".to_owned())
}

/// The setting that names the file of the library that was left, as long as something of it has to be taken along.
pub(crate) const LEFT_SETTING: &str = "left";

/// Builds the joined library's file beside the old one and renames it into place.
pub(crate) fn swap(identity: &Identity, change: &ChangeLibrary, environment: &Environment) -> Result<(), StartError> {
    let (current, fresh) = (identity.database(), identity.data.join("joining.sqlite"));
    let kept = format!("left-{}.sqlite", left_number(identity));
    remove_database(&fresh)?;
    {
        let mut c = open_writer(&fresh)?;
        found(&mut c, change.membership.library(), &change.membership)?;
        let (this, inviter) = (identity.secret.device(), change.inviter.device());
        let book = AddressBook::of(this, change.own_addresses.clone(), inviter, change.addresses.clone());
        for note in [book.note(), Note::Setting(LEFT_SETTING, kept.clone().into_bytes())] {
            ledger::keep(&mut c, &note).map_err(store_error)?;
        }
        crate::store::sql::run(&mut c, "PRAGMA wal_checkpoint(TRUNCATE)").map_err(store_error)?;
    }
    fold(&current)?;
    environment.reach(Point::BeforeSwap);
    // A commit may have come in at the last moment: the old file always stays.
    let kept = identity.data.join(kept);
    remove_database(&kept)?;
    for suffix in ["-wal", ""] {
        let from = beside(&current, suffix);
        let to = beside(&kept, suffix);
        if from.exists() && std::fs::hard_link(&from, &to).is_err() {
            // A file system without hard links.
            std::fs::copy(&from, &to).map_err(store_error)?;
        }
    }
    // A write-ahead log must never meet another file than its own; the rename then replaces the old file at once.
    for suffix in ["-wal", "-shm"] {
        remove_file(&beside(&current, suffix))?;
    }
    environment.reach(Point::InSwap);
    std::fs::rename(&fresh, &current).map_err(store_error)?;
    environment.reach(Point::AfterSwap);
    Ok(())
}

/// Folds a write-ahead log into its file, so that the file alone is whole: between the end of the one and the change of
/// the other the process may die.
fn fold(file: &Path) -> Result<(), StartError> {
    let log = beside(file, "-wal");
    if log.exists() {
        crate::store::sql::run(&mut open_writer(file)?, "PRAGMA wal_checkpoint(TRUNCATE)").map_err(store_error)?;
    }
    match std::fs::metadata(&log) {
        Ok(left) if left.len() > 0 => {
            Err(store_error("another process reads the library: its file cannot be changed now"))
        }
        _ => Ok(()),
    }
}

/// How many libraries were left behind before: the next one's number.
fn left_number(identity: &Identity) -> usize {
    (1..LEFT_MAX).find(|n| !identity.data.join(format!("left-{n}.sqlite")).exists()).unwrap_or(LEFT_MAX)
}

/// The path of a file that belongs to a database file.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove_database(path: &Path) -> Result<(), StartError> {
    ["-wal", "-shm", ""].into_iter().try_for_each(|suffix| remove_file(&beside(path, suffix)))
}

fn remove_file(path: &Path) -> Result<(), StartError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(store_error(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_folded_so_that_it_is_whole_without_its_log_and_not_while_somebody_reads_an_older_state() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("library.sqlite");
        let mut c = open_writer(&file).unwrap();
        let keep = |c: &mut _, value: &[u8]| ledger::keep(c, &Note::Setting("last", value.to_vec())).unwrap();
        keep(&mut c, b"first");
        let mut reader = open_writer(&file).unwrap();
        crate::store::sql::run(&mut reader, "BEGIN").unwrap();
        assert_eq!(ledger::setting(&mut reader, "last").unwrap().as_deref(), Some(&b"first"[..]));
        keep(&mut c, b"second");
        assert!(fold(&file).is_err());
        crate::store::sql::run(&mut reader, "ROLLBACK").unwrap();
        fold(&file).unwrap();
        let alone = dir.path().join("alone.sqlite");
        std::fs::copy(&file, &alone).unwrap();
        let mut alone = open_writer(&alone).unwrap();
        assert_eq!(ledger::setting(&mut alone, "last").unwrap().as_deref(), Some(&b"second"[..]));
    }
}
