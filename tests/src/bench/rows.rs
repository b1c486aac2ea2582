//! The rows that benchmarks store: entries as the indexer makes them, and tags.

use serde::{Deserialize, Serialize};
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::model::Syncable;
use starling_schema::models::{Entry, EntryKind, Tag};

/// Files of one directory.
const FILES_PER_DIRECTORY: usize = 100;

/// A time in 2025, in milliseconds since 1970.
const SOME_TIME_MS: i64 = 1_750_000_000_000;

/// Which records a process makes and counts.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Files, which their device owns.
    Entries,
    /// Tags, which all devices share.
    Tags,
}

impl Kind {
    /// Records of one commit: as the indexer makes them, and as an import of tags would.
    pub(super) fn rows_per_commit(self) -> usize {
        match self {
            Self::Entries => 4_000,
            Self::Tags => 1_000,
        }
    }

    /// The table that holds them.
    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Entries => "entry",
            Self::Tags => "tag",
        }
    }

    /// The write that makes the `index`th.
    pub(super) fn put(self, index: usize, id: RecordId) -> Write {
        match self {
            Self::Entries => entry(index, id).put(),
            Self::Tags => tag(id, &index.to_string()).put(),
        }
    }
}

/// The `index`th file of a folder. No two are alike, and the same `index` always gives the same fields.
pub(super) fn entry(index: usize, id: RecordId) -> Entry {
    let mut noise = index as u64;
    let (extension, stem) = [("jpg", "IMG"), ("txt", "notes"), ("rs", "module"), ("pdf", "invoice")][index % 4];
    let mut entry = Entry::new(id);
    let modified_at = SOME_TIME_MS + below(&mut noise, 31_536_000_000);
    entry.location = Some(RecordId::derived("bench", &[b"location"]));
    entry.parent = Some(RecordId::derived("bench", &[&(index / FILES_PER_DIRECTORY).to_be_bytes()]));
    entry.name = Some(format!("{stem}_{index:06}.{extension}"));
    entry.kind = Some(EntryKind::File.code());
    entry.extension = Some(extension.to_owned());
    entry.size = Some(below(&mut noise, 8_000_000));
    entry.created_at = Some(modified_at - below(&mut noise, 86_400_000));
    entry.modified_at = Some(modified_at);
    entry.mode = Some(0o644);
    entry.inode = Some(13_000_000 + i64::try_from(index).unwrap_or(i64::MAX));
    entry
}

/// A tag that says `text`.
pub(super) fn tag(id: RecordId, text: &str) -> Tag {
    let mut tag = Tag::new(id);
    tag.name = Some(format!("tag {text}"));
    tag.description = Some(text.to_owned());
    tag
}

/// A number below `limit` that looks random (`SplitMix64`, Steele et al., 2014).
fn below(noise: &mut u64, limit: i64) -> i64 {
    *noise = noise.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *noise;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    i64::try_from((z ^ (z >> 31)) >> 1).unwrap_or(0) % limit
}
