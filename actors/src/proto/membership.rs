//! Who belongs to a library: a set of signed statements that only grows, and what it amounts to.

mod standing;

use std::collections::{BTreeMap, BTreeSet};

use starling_schema::codec::CodecError;
use starling_schema::ids::{DeviceId, LibraryId};
use starling_schema::key::{DeviceKey, DeviceSecret};
use starling_schema::signed::{NAME_BYTES_MAX, Signed, SignedError, Statement, StatementBody, StatementId};
use uuid::Uuid;

use self::standing::Standing;

/// The most statements of one library: a thousand devices that were each admitted, renamed twice and removed. It
/// bounds what a member gone bad can make the others store and work out.
pub const STATEMENTS_MAX: usize = 4_096;

/// The most bytes of all statements: with addresses and watermarks they fit one answer of 4 MiB, so that nobody has to
/// ask for parts.
pub const STATEMENTS_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The most statements of one author: a member gone bad leaves three quarters of the set to the others.
pub const AUTHOR_STATEMENTS_MAX: usize = STATEMENTS_MAX / 4;

/// The most heads that a new statement names: 16 KiB of its 64. Only the ages of names are judged by what is named, so
/// leaving some out does no harm.
pub const SEEN_MAX: usize = 512;

/// The library named inside a founding statement, whose hash is the library that it founds.
const UNFOUNDED: LibraryId = LibraryId(Uuid::nil());

/// The membership statements of one library, valid or not in effect, and who they make a member.
///
/// Who is a member is a function of the set alone: two devices that hold the same statements agree, in whatever order
/// they came. It is worked out when the set changes, so asking is cheap.
#[derive(Clone, Debug)]
pub struct Membership {
    library: LibraryId,
    signed: BTreeMap<StatementId, Signed>,
    statements: BTreeMap<StatementId, Statement>,
    bytes: usize,
    standing: Standing,
    members: BTreeMap<DeviceId, Member>,
    library_name: String,
}

/// A device that belongs to the library.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its key.
    pub key: DeviceKey,
    /// The name it gave itself last; before that the one it was admitted with.
    pub name: String,
}

/// Why a statement was not taken or not made. The set is left as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// It does not decode, or its author did not sign it.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// It speaks of another library, or founds another one.
    #[error("a statement of {author} belongs to library {library}")]
    OtherLibrary {
        /// Who said it.
        author: DeviceId,
        /// Which library it is about.
        library: LibraryId,
    },
    /// It holds a name that is too long to show.
    #[error("a name in a statement of {author} has {bytes} bytes, {NAME_BYTES_MAX} are allowed")]
    NameTooLong {
        /// Who said it.
        author: DeviceId,
        /// How long the name is.
        bytes: usize,
    },
    /// The set holds [`STATEMENTS_MAX`] statements or [`STATEMENTS_BYTES_MAX`] bytes of them: nothing more is taken,
    /// members stay as they are.
    #[error("the library has as many membership statements as it can hold: found a new library")]
    Full,
    /// The set holds [`AUTHOR_STATEMENTS_MAX`] statements of this author: no more of it is taken.
    #[error("{0} has made {AUTHOR_STATEMENTS_MAX} membership statements, no more are taken")]
    TooMany(DeviceId),
    /// It names more statements as seen than [`SEEN_MAX`].
    #[error("a statement of {0} names more than {SEEN_MAX} others as seen")]
    TooManySeen(DeviceId),
    /// A statement cannot be made by, or about, a device that is no member. Nothing was signed.
    #[error("{0} is not a member of this library")]
    NotAMember(DeviceId),
    /// A removed key is not admitted again. Nothing was signed.
    #[error("{0} was removed from this library: it can come back with a new key only")]
    Removed(DeviceId),
    /// The statement would be larger than a statement may be. Nothing was signed.
    #[error("the statement is too large: {0}")]
    TooLarge(#[from] CodecError),
}

impl Membership {
    /// Founds a library with the holder of `secret` as its first member. `nonce` is drawn at random.
    ///
    /// # Errors
    /// When a name is too long. Nothing was founded.
    pub fn found(
        name: &str,
        device_name: &str,
        nonce: [u8; 16],
        at_ms: u64,
        secret: &DeviceSecret,
    ) -> Result<(LibraryId, Self), MembershipError> {
        let body = StatementBody::Found { name: name.to_owned(), device_name: device_name.to_owned(), nonce };
        let statement = Statement { library: UNFOUNDED, author: secret.public(), at_ms, seen: Vec::new(), body };
        let signed = Signed::new(&statement, secret)?;
        let library = signed.id().library();
        let mut membership = Self::new(library);
        membership.insert(signed)?;
        Ok((library, membership))
    }

    /// The membership of a library of which no statement is known yet: nobody is a member.
    #[must_use]
    pub fn new(library: LibraryId) -> Self {
        Self {
            library,
            signed: BTreeMap::new(),
            statements: BTreeMap::new(),
            bytes: 0,
            standing: Standing::default(),
            members: BTreeMap::new(),
            library_name: String::new(),
        }
    }

    /// Takes a statement, from whoever carries it; says whether it is new. It is kept even if it is not in effect: a
    /// later one may bring it into effect, or it may show others what was tried.
    ///
    /// # Errors
    /// When it is not a signed statement of this library with names that can be shown, or the set is full.
    pub fn insert(&mut self, signed: Signed) -> Result<bool, MembershipError> {
        let is_new = self.keep(signed)?;
        if is_new {
            self.refresh();
        }
        Ok(is_new)
    }

    /// Takes many statements and works out the members once; gives those that were new. One that is refused does not
    /// keep out the others, and comes back with the reason.
    pub fn insert_all(
        &mut self,
        statements: impl IntoIterator<Item = Signed>,
    ) -> (Vec<StatementId>, Vec<(Signed, MembershipError)>) {
        let (mut new, mut refused) = (Vec::new(), Vec::new());
        for signed in statements {
            match self.keep(signed.clone()) {
                Ok(true) => new.push(signed.id()),
                Ok(false) => {}
                Err(error) => refused.push((signed, error)),
            }
        }
        if !new.is_empty() {
            self.refresh();
        }
        (new, refused)
    }

    /// The library.
    #[must_use]
    pub fn library(&self) -> LibraryId {
        self.library
    }

    /// The library's name; empty while its founding statement is not known.
    #[must_use]
    pub fn library_name(&self) -> &str {
        &self.library_name
    }

    /// Who is a member.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<DeviceId, Member> {
        &self.members
    }

    /// Whether a device is a member.
    #[must_use]
    pub fn is_member(&self, device: DeviceId) -> bool {
        self.members.contains_key(&device)
    }

    /// The key of a member.
    #[must_use]
    pub fn key_of(&self, device: DeviceId) -> Option<DeviceKey> {
        self.members.get(&device).map(|member| member.key)
    }

    /// The keys that were removed for good.
    #[must_use]
    pub fn removed(&self) -> &BTreeSet<DeviceKey> {
        &self.standing.removed
    }

    /// Every device that any statement names, in effect or not: who may ever have written something.
    #[must_use]
    pub fn origins(&self) -> BTreeSet<DeviceId> {
        let named = |statement: &Statement| match statement.body {
            StatementBody::Admit { key, .. } => [statement.author.device(), key.device()],
            _ => [statement.author.device(); 2],
        };
        self.statements.values().flat_map(named).collect()
    }

    /// Every statement, to be stored or told to a peer, in the order of their ids.
    #[must_use]
    pub fn statements(&self) -> impl ExactSizeIterator<Item = &Signed> {
        self.signed.values()
    }

    /// Whether a statement is held.
    #[must_use]
    pub fn contains(&self, id: StatementId) -> bool {
        self.signed.contains_key(&id)
    }

    /// Whether a statement is held and counts.
    #[must_use]
    pub fn counts(&self, id: StatementId) -> bool {
        self.standing.counting.contains(&id)
    }

    /// The hash of the set: equal where the same statements are held.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for id in self.statements.keys() {
            hasher.update(&id.0);
        }
        *hasher.finalize().as_bytes()
    }

    /// The statements that no other one names as seen, in the order of their ids.
    #[must_use]
    pub fn heads(&self) -> Vec<StatementId> {
        let named: BTreeSet<_> = self.statements.values().flat_map(|statement| &statement.seen).collect();
        self.statements.keys().filter(|id| !named.contains(id)).copied().collect()
    }

    /// Signs the admission of a key. It takes effect where it is inserted.
    ///
    /// # Errors
    /// When the signer is no member, the key was removed before, or the name is too long.
    pub fn admit(
        &self,
        key: DeviceKey,
        name: &str,
        at_ms: u64,
        secret: &DeviceSecret,
    ) -> Result<Signed, MembershipError> {
        if self.standing.removed.contains(&key) {
            return Err(MembershipError::Removed(key.device()));
        }
        self.sign(StatementBody::Admit { key, name: name.to_owned() }, at_ms, secret)
    }

    /// Signs the removal of a member, which may be the signer itself. Whatever counts now of what the member said goes
    /// on counting; what it says later, or said unheard, does not. It takes effect where it is inserted.
    ///
    /// # Errors
    /// When the signer or the key is no member, or the member admitted and removed some 2,000 others.
    pub fn remove(&self, key: DeviceKey, at_ms: u64, secret: &DeviceSecret) -> Result<Signed, MembershipError> {
        if !self.is_member(key.device()) {
            return Err(MembershipError::NotAMember(key.device()));
        }
        let is_kept = |id: &&StatementId| {
            self.statements.get(id).is_some_and(|statement| {
                let concerns_others =
                    matches!(statement.body, StatementBody::Admit { .. } | StatementBody::Remove { .. });
                statement.author == key && concerns_others
            })
        };
        let counts = self.standing.counting.iter().filter(is_kept).copied().collect();
        self.sign(StatementBody::Remove { key, counts }, at_ms, secret)
    }

    /// Signs a new name of the signer. It takes effect where it is inserted.
    ///
    /// # Errors
    /// When the signer is no member or the name is too long.
    pub fn rename(&self, name: &str, at_ms: u64, secret: &DeviceSecret) -> Result<Signed, MembershipError> {
        self.sign(StatementBody::Rename { name: name.to_owned() }, at_ms, secret)
    }

    fn sign(&self, body: StatementBody, at_ms: u64, secret: &DeviceSecret) -> Result<Signed, MembershipError> {
        if !self.is_member(secret.device()) {
            return Err(MembershipError::NotAMember(secret.device()));
        }
        let mut seen = self.heads();
        seen.truncate(SEEN_MAX);
        let statement = Statement { library: self.library, author: secret.public(), at_ms, seen, body };
        check_names(&statement)?;
        let signed = Signed::new(&statement, secret)?;
        self.check_room(&statement, signed.bytes.len())?;
        Ok(signed)
    }

    /// Whether the set can take one more statement, of this author and so many bytes.
    fn check_room(&self, statement: &Statement, bytes: usize) -> Result<(), MembershipError> {
        let author = statement.author;
        if statement.seen.len() > SEEN_MAX {
            return Err(MembershipError::TooManySeen(author.device()));
        }
        if self.signed.len() >= STATEMENTS_MAX || self.bytes + bytes > STATEMENTS_BYTES_MAX {
            return Err(MembershipError::Full);
        }
        if self.statements.values().filter(|other| other.author == author).count() >= AUTHOR_STATEMENTS_MAX {
            return Err(MembershipError::TooMany(author.device()));
        }
        Ok(())
    }

    fn keep(&mut self, signed: Signed) -> Result<bool, MembershipError> {
        let id = signed.id();
        if self.signed.contains_key(&id) {
            return Ok(false);
        }
        let statement: Statement = signed.open()?;
        let library = match statement.body {
            StatementBody::Found { .. } => id.library(),
            _ => statement.library,
        };
        if library != self.library {
            return Err(MembershipError::OtherLibrary { author: statement.author.device(), library });
        }
        check_names(&statement)?;
        self.check_room(&statement, signed.bytes.len())?;
        self.bytes += signed.bytes.len();
        self.signed.insert(id, signed);
        self.statements.insert(id, statement);
        Ok(true)
    }

    /// Works out anew what the set amounts to.
    fn refresh(&mut self) {
        self.standing = standing::standing(&self.statements);
        let mut names = names(&self.statements, &self.standing);
        let is_in = |key: &&DeviceKey| !self.standing.removed.contains(key);
        let keys = self.standing.admitted.iter().filter(is_in);
        let member = |key: &DeviceKey| Member { key: *key, name: names.remove(key).unwrap_or_default() };
        self.members = keys.map(member).map(|member| (member.key.device(), member)).collect();
        for statement in self.statements.values() {
            if let StatementBody::Found { name, .. } = &statement.body {
                self.library_name.clone_from(name);
            }
        }
    }
}

/// The name of every admitted key: the newest by what was seen, then by the author's clock, then by id. A name that a
/// device gave itself goes before one that it was admitted with.
fn names(statements: &BTreeMap<StatementId, Statement>, standing: &Standing) -> BTreeMap<DeviceKey, String> {
    let depths = depths(statements);
    let mut newest = BTreeMap::new();
    for id in &standing.counting {
        let Some(statement) = statements.get(id) else { continue };
        let (key, name, is_own) = match &statement.body {
            StatementBody::Found { device_name, .. } => (statement.author, device_name, false),
            StatementBody::Admit { key, name } => (*key, name, false),
            StatementBody::Rename { name } => (statement.author, name, true),
            StatementBody::Remove { .. } => continue,
        };
        let age = (is_own, depths.get(id).copied(), statement.at_ms, *id);
        let best = newest.entry(key).or_insert((age, name));
        if best.0 < age {
            *best = (age, name);
        }
    }
    newest.into_iter().map(|(key, (_, name))| (key, name.clone())).collect()
}

/// How many statements precede each along the longest chain of what was seen: later ones are deeper. Statements name
/// each other by hash, so there is no cycle.
fn depths(statements: &BTreeMap<StatementId, Statement>) -> BTreeMap<StatementId, usize> {
    let mut depths: BTreeMap<StatementId, usize> = BTreeMap::new();
    for root in statements.keys() {
        let mut path = vec![*root];
        while let Some(id) = path.last().copied() {
            if depths.contains_key(&id) {
                path.pop();
                continue;
            }
            let seen = statements.get(&id).map(|statement| statement.seen.as_slice()).unwrap_or_default();
            let is_open = |seen: &&StatementId| statements.contains_key(seen) && !depths.contains_key(seen);
            let open: Vec<_> = seen.iter().filter(is_open).copied().collect();
            if open.is_empty() {
                let deepest = seen.iter().filter_map(|seen| depths.get(seen)).max();
                depths.insert(id, deepest.map_or(0, |depth| depth + 1));
            }
            path.extend(open);
        }
    }
    depths
}

fn check_names(statement: &Statement) -> Result<(), MembershipError> {
    let longest = match &statement.body {
        StatementBody::Found { name, device_name, .. } => name.len().max(device_name.len()),
        StatementBody::Admit { name, .. } | StatementBody::Rename { name } => name.len(),
        StatementBody::Remove { .. } => 0,
    };
    if longest > NAME_BYTES_MAX {
        return Err(MembershipError::NameTooLong { author: statement.author.device(), bytes: longest });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
