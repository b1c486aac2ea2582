//! Which record somebody means by an id, the beginning of one, a name, or the path of an indexed file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::sqlite::SqliteConnection;
use starling_schema::ids::{DeviceId, RecordId};
use uuid::Uuid;

use crate::api::{NamedRecord, TargetText};
use crate::error::{CliError, ErrorKind};

/// The shortest beginning of an id that is taken for one: shorter ones are more likely names.
const PREFIX_DIGITS_MIN: usize = 4;

/// How many candidates an ambiguity lists: what fits a screen beside the sentence.
const CANDIDATES_MAX: usize = 10;

/// All ids that begin alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct IdRange {
    /// The lowest.
    pub(crate) low: RecordId,
    /// The highest.
    pub(crate) high: RecordId,
}

impl IdRange {
    /// Reads a whole id, or at least four hexadecimal digits of its beginning.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let complete = digits.len() >= PREFIX_DIGITS_MIN && digits.len() <= 32;
        if !complete || text.starts_with('-') || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let padded = |fill: &str| {
            let all = format!("{digits}{}", fill.repeat(32 - digits.len()));
            u128::from_str_radix(&all, 16).ok().map(|number| RecordId(Uuid::from_u128(number)))
        };
        Some(Self { low: padded("0")?, high: padded("f")? })
    }
}

/// A kind of record that people call by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// Its table.
    table: &'static str,
    /// What people call one.
    noun: &'static str,
    /// Which of its rows count.
    filter: &'static str,
    /// What to do when there is none of that name.
    advice: &'static str,
}

/// Tags that are there.
pub(crate) const TAGS: Names =
    Names { table: "tag", noun: "tag", filter: "alive = 1", advice: "make it with `starling tag new`" };
/// Tags that were deleted.
pub(crate) const DELETED_TAGS: Names = Names {
    table: "tag",
    noun: "deleted tag",
    filter: "alive = 0",
    advice: "`starling tag ls` lists those that are there",
};
/// Collections that are there.
pub(crate) const COLLECTIONS: Names = Names {
    table: "collection",
    noun: "collection",
    filter: "alive = 1",
    advice: "make it with `starling collection new`",
};
/// Collections that were deleted.
pub(crate) const DELETED_COLLECTIONS: Names = Names {
    table: "collection",
    noun: "deleted collection",
    filter: "alive = 0",
    advice: "`starling collection ls` lists those that are there",
};
/// Devices.
pub(crate) const DEVICES: Names =
    Names { table: "device", noun: "device", filter: "1", advice: "`starling devices ls` lists them" };
/// Indexed folders.
pub(crate) const LOCATIONS: Names =
    Names { table: "location", noun: "location", filter: "1", advice: "`starling locations` lists them" };

#[derive(QueryableByName)]
struct NameRow {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
}

impl From<NameRow> for NamedRecord {
    fn from(row: NameRow) -> Self {
        Self { id: row.id, name: row.name.unwrap_or_default() }
    }
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = Binary)]
    id: RecordId,
}

/// The record of that name, or else of that id.
pub(crate) fn named(c: &mut SqliteConnection, names: Names, text: &str) -> Result<NamedRecord, CliError> {
    let Names { table, noun, filter, advice } = names;
    let limit = i64::try_from(CANDIDATES_MAX).unwrap_or(i64::MAX) + 1;
    let sql = format!("SELECT id, name FROM {table} WHERE {filter} AND name = ? ORDER BY id LIMIT ?");
    let mut rows: Vec<NameRow> = diesel::sql_query(sql).bind::<Text, _>(text).bind::<BigInt, _>(limit).load(c)?;
    if rows.is_empty()
        && let Some(range) = IdRange::parse(text)
    {
        let sql = format!("SELECT id, name FROM {table} WHERE {filter} AND id BETWEEN ? AND ? ORDER BY id LIMIT ?");
        rows = diesel::sql_query(sql)
            .bind::<Binary, _>(range.low)
            .bind::<Binary, _>(range.high)
            .bind::<BigInt, _>(limit)
            .load(c)?;
    }
    if rows.len() > 1 {
        let candidates = rows.iter().map(|row| (row.id, row.name.as_deref().unwrap_or_default()));
        return Err(ambiguous(noun, text, candidates));
    }
    match rows.pop() {
        Some(row) => Ok(row.into()),
        None => {
            Err(CliError::new(ErrorKind::NotFound, format!("no {noun} is named {text:?}, or has that id")).hint(advice))
        }
    }
}

/// The entry of that id, or at that path of this device.
pub(crate) fn entry(c: &mut SqliteConnection, here: DeviceId, target: &TargetText) -> Result<RecordId, CliError> {
    let text = &target.text;
    let by_id: Vec<NameRow> = match IdRange::parse(text) {
        Some(IdRange { low, high }) => {
            let sql =
                format!("SELECT id, name FROM entry WHERE id BETWEEN ? AND ? ORDER BY id LIMIT {}", CANDIDATES_MAX + 1);
            diesel::sql_query(sql).bind::<Binary, _>(low).bind::<Binary, _>(high).load(c)?
        }
        None => Vec::new(),
    };
    if let [only] = by_id.as_slice() {
        return Ok(only.id);
    }
    let path = target.path.as_ref().and_then(crate::api::RawPath::bytes);
    let missing = match path {
        Some(path) => match entry_at(c, here, &path)? {
            Ok(found) => return Ok(found),
            Err(missing) => Some(missing),
        },
        None => None,
    };
    if !by_id.is_empty() {
        let candidates = by_id.iter().map(|row| (row.id, row.name.as_deref().unwrap_or_default()));
        return Err(ambiguous("entry", text, candidates));
    }
    if Uuid::try_parse(text).is_ok() {
        return Err(CliError::new(ErrorKind::NotFound, format!("no file or folder has the id {text}"))
            .hint("`starling find` searches for it"));
    }
    Err(missing.unwrap_or_else(|| {
        CliError::new(ErrorKind::NotFound, format!("{text:?} is no id and no path of an indexed file"))
            .hint("`starling find` searches for it")
    }))
}

#[derive(QueryableByName)]
struct LocationRoot {
    #[diesel(sql_type = Binary)]
    id: RecordId,
    #[diesel(sql_type = Nullable<Binary>)]
    root: Option<RecordId>,
    #[diesel(sql_type = Nullable<Text>)]
    path: Option<String>,
    #[diesel(sql_type = Nullable<Binary>)]
    raw_path: Option<Vec<u8>>,
}

impl LocationRoot {
    /// What of `path` lies below this location.
    fn rest<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let bytes = self.raw_path.as_deref().or(self.path.as_ref().map(String::as_bytes))?;
        path.strip_prefix(OsStr::from_bytes(bytes)).ok()
    }
}

/// The entry at an absolute path: of this device if one of its folders holds the path, of any other device else. Or the
/// sentence that says why there is none.
fn entry_at(
    c: &mut SqliteConnection,
    here: DeviceId,
    path: &[u8],
) -> Result<Result<RecordId, CliError>, diesel::result::Error> {
    let path = Path::new(OsStr::from_bytes(path));
    let ours = "SELECT id, root, path, raw_path FROM location WHERE owner = ? ORDER BY id";
    let theirs = "SELECT id, root, path, raw_path FROM location WHERE owner <> ? ORDER BY id";
    let ours: Vec<LocationRoot> = diesel::sql_query(ours).bind::<Binary, _>(here).load(c)?;
    if let Some((rest, root)) = nearest(&ours, path) {
        return Ok(below(c, root, rest)?.ok_or_else(|| {
            CliError::new(ErrorKind::NotFound, format!("{} is not in the library", path.display()))
                .hint("if it is new, look for changes with `starling rescan`")
        }));
    }
    let theirs: Vec<LocationRoot> = diesel::sql_query(theirs).bind::<Binary, _>(here).load(c)?;
    let mut found = Vec::new();
    for location in &theirs {
        if let Some((rest, root)) = nearest(std::slice::from_ref(location), path) {
            found.extend(below(c, root, rest)?);
        }
    }
    Ok(match found[..] {
        [one] => Ok(one),
        [] => Err(CliError::new(ErrorKind::NotFound, format!("{} lies in no indexed folder", path.display()))
            .hint("index it with `starling add`, or search for it with `starling find`")),
        _ => {
            let path = path.display().to_string();
            Err(ambiguous("entry", &path, found.iter().map(|id| (*id, path.as_str()))))
        }
    })
}

/// The innermost location that holds a path: what of the path lies below it, and its root.
fn nearest<'a>(locations: &[LocationRoot], path: &'a Path) -> Option<(&'a Path, RecordId)> {
    locations
        .iter()
        .filter_map(|location| Some((location.rest(path)?, location.root?)))
        .min_by_key(|(rest, _)| rest.components().count())
}

/// The entry that a relative path leads to from a root.
fn below(c: &mut SqliteConnection, root: RecordId, rest: &Path) -> Result<Option<RecordId>, diesel::result::Error> {
    let mut at = root;
    for name in rest.components() {
        let name = name.as_os_str();
        let child: Option<IdRow> = diesel::sql_query(
            "SELECT id FROM entry WHERE parent = ? AND ((raw_name IS NULL AND name = ?) OR raw_name = ?) LIMIT 1",
        )
        .bind::<Binary, _>(at)
        .bind::<Nullable<Text>, _>(name.to_str())
        .bind::<Binary, _>(name.as_bytes())
        .get_result(c)
        .optional()?;
        let Some(child) = child else { return Ok(None) };
        at = child.id;
    }
    Ok(Some(at))
}

/// The indexed folder of that path on this device, or else of that name or id.
pub(crate) fn location(c: &mut SqliteConnection, here: DeviceId, target: &TargetText) -> Result<RecordId, CliError> {
    if let Some(path) = target.path.as_ref().and_then(crate::api::RawPath::bytes) {
        let locations: Vec<LocationRoot> =
            diesel::sql_query("SELECT id, root, path, raw_path FROM location WHERE owner = ? ORDER BY id")
                .bind::<Binary, _>(here)
                .load(c)?;
        let path = Path::new(OsStr::from_bytes(&path));
        let exact = |location: &&LocationRoot| location.rest(path).is_some_and(|rest| rest.as_os_str().is_empty());
        if let Some(found) = locations.iter().find(exact) {
            return Ok(found.id);
        }
    }
    named(c, LOCATIONS, &target.text).map(|found| found.id)
}

/// The sentence that lists what an id or a name may mean.
pub(crate) fn ambiguous<'a>(noun: &str, text: &str, candidates: impl Iterator<Item = (RecordId, &'a str)>) -> CliError {
    let mut listed: Vec<String> = candidates.map(|(id, name)| format!("{id} ({name})")).collect();
    if listed.len() > CANDIDATES_MAX {
        listed.truncate(CANDIDATES_MAX);
        listed.push("more".to_owned());
    }
    let message = format!("{text:?} is more than one {noun}: {}", listed.join(", "));
    CliError::new(ErrorKind::Ambiguous, message).hint("use the whole id of the one that you mean")
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, HERE, THERE, id};
    use super::*;
    use crate::api::RawPath;

    fn typed(text: &str) -> TargetText {
        TargetText { text: text.to_owned(), path: None }
    }

    fn at(path: &[u8]) -> TargetText {
        let path = RawPath::of(Path::new(OsStr::from_bytes(path)));
        TargetText { text: "typed".to_owned(), path: Some(path) }
    }

    /// `/home/ann/files/{a%b, sub/it's, sub/\xff.txt}` here, and a folder of the same path elsewhere.
    fn tree() -> SqliteConnection {
        let mut c = fixture::library();
        let (here, root) = (id(0x1000, 1), id(0x1001, 1));
        fixture::location(&mut c, HERE, here, root, "/home/ann/files");
        fixture::location(&mut c, THERE, id(0x2000, 1), id(0x2001, 1), "/home/ann/files");
        fixture::entry(&mut c, HERE, here, root, id(0x3000, 1), "a%b", None);
        fixture::entry(&mut c, HERE, here, root, id(0x3000, 2), "sub", None);
        fixture::entry(&mut c, HERE, here, id(0x3000, 2), id(0x3001, 1), "it's", None);
        fixture::entry(&mut c, HERE, here, id(0x3000, 2), id(0x3002, 1), "\u{fffd}.txt", Some(b"\xff.txt"));
        fixture::entry(&mut c, THERE, id(0x2000, 1), id(0x2001, 1), id(0x4000, 1), "only there", None);
        c
    }

    #[test]
    fn ids_are_read_whole_or_from_four_digits_of_their_beginning() {
        let range = IdRange::parse("ABCD-1").unwrap();
        assert_eq!(range.low.to_string(), "abcd1000-0000-0000-0000-000000000000");
        assert_eq!(range.high.to_string(), "abcd1fff-ffff-ffff-ffff-ffffffffffff");
        let whole = id(7, 9);
        assert_eq!(IdRange::parse(&whole.to_string()), Some(IdRange { low: whole, high: whole }));
        for none in ["", "abc", "abcg", "-abcd", "a/b/c/d", "0123456789abcdef0123456789abcdef0"] {
            assert_eq!(IdRange::parse(none), None, "{none:?}");
        }
    }

    #[test]
    fn an_entry_is_found_by_the_beginning_of_its_id() {
        let c = &mut tree();
        assert_eq!(entry(c, HERE, &typed("3001")), Ok(id(0x3001, 1)));
        let error = entry(c, HERE, &typed("3000")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Ambiguous);
        assert!(error.message.contains(&id(0x3000, 2).to_string()), "{error}");
        let missing = id(0x9999, 1).to_string();
        assert!(entry(c, HERE, &typed(&missing)).unwrap_err().message.contains(&missing));
    }

    #[test]
    fn an_entry_is_found_by_its_path_whatever_its_name() {
        let c = &mut tree();
        assert_eq!(entry(c, HERE, &at(b"/home/ann/files")), Ok(id(0x1001, 1)));
        assert_eq!(entry(c, HERE, &at(b"/home/ann/files/a%b")), Ok(id(0x3000, 1)));
        assert_eq!(entry(c, HERE, &at(b"/home/ann/files/sub/it's")), Ok(id(0x3001, 1)));
        assert_eq!(entry(c, HERE, &at(b"/home/ann/files/sub/\xff.txt")), Ok(id(0x3002, 1)));
    }

    #[test]
    fn a_path_that_is_not_indexed_is_named() {
        let c = &mut tree();
        let error = entry(c, HERE, &at(b"/home/ann/files/nothing")).unwrap_err();
        assert!(error.message.contains("/home/ann/files/nothing is not in the library"), "{error}");
        for outside in [b"/home/ann/filesystem".as_slice(), b"/home/ann"] {
            assert!(entry(c, HERE, &at(outside)).unwrap_err().message.contains("no indexed folder"), "{outside:?}");
        }
        assert!(entry(c, HERE, &at(b"/home/ann/files/only there")).is_err(), "paths are of this device");
        assert!(entry(c, HERE, &at("/home/ann/files/sub/\u{fffd}.txt".as_bytes())).is_err(), "shown is not named");
    }

    #[test]
    fn a_tag_goes_by_name_first_and_two_of_one_name_are_ambiguous() {
        let c = &mut tree();
        fixture::tag(c, id(0xbeef, 1), "red", true);
        fixture::tag(c, id(0xbeef, 2), "beef", true);
        fixture::tag(c, id(0xbee0, 3), "twice", true);
        fixture::tag(c, id(0xbee0, 4), "twice", true);
        fixture::tag(c, id(0xdead, 5), "gone", false);
        assert_eq!(named(c, TAGS, "beef").map(|tag| tag.id), Ok(id(0xbeef, 2)));
        assert_eq!(named(c, TAGS, "twice").unwrap_err().kind, ErrorKind::Ambiguous);
        let error = named(c, TAGS, "gone").unwrap_err();
        assert_eq!((error.kind, error.hint.as_deref()), (ErrorKind::NotFound, Some("make it with `starling tag new`")));
        assert_eq!(named(c, DELETED_TAGS, "gone").map(|tag| tag.id), Ok(id(0xdead, 5)));
    }

    #[test]
    fn a_location_goes_by_path_name_or_id() {
        let c = &mut tree();
        assert_eq!(location(c, HERE, &at(b"/home/ann/files")), Ok(id(0x1000, 1)));
        assert_eq!(location(c, HERE, &typed("1000")), Ok(id(0x1000, 1)));
        assert_eq!(location(c, HERE, &typed("files")).unwrap_err().kind, ErrorKind::Ambiguous);
    }
}
