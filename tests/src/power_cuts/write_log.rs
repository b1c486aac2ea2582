//! The log of a block device's writes, as Linux' dm-log-writes and qemu's blklogwrites leave it.
//!
//! A superblock of one sector, then entries: a header of one sector, and the data of those that write some. All
//! numbers are little-endian. Entries stand in the order in which the device completed them.

use std::io::{Read, Seek, SeekFrom};

/// What the superblock begins with.
const MAGIC: u64 = 0x006a_7366_7773_6872;

/// The only version there is.
const VERSION: u64 = 1;

/// Addresses on the device count these, whatever the log's own sectors are.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// More entries than any run makes: what is read is bounded.
const ENTRIES_MAX: usize = 4_000_000;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One write, or what stands between writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    /// Where it begins on the device, in bytes.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// All that was completed before it is on the medium.
    pub(crate) flush: bool,
    /// It is on the medium itself.
    pub(crate) fua: bool,
    pub(crate) discard: bool,
    /// Where its data stands in the log.
    pub(crate) data_at: u64,
    /// Where it ends in the log: whoever saw the log this long saw this entry done.
    pub(crate) ends_at: u64,
}

impl Entry {
    /// Whether it puts data on the device.
    pub(crate) fn writes(&self) -> bool {
        self.bytes > 0 && !self.discard
    }
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// It is something else.
    #[error("this is no log of writes: {0}")]
    Foreign(String),
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Reads the entries of a log, as far as they are complete.
pub(crate) fn read(log: &mut (impl Read + Seek)) -> Result<Vec<Entry>, LogError> {
    let length = log.seek(SeekFrom::End(0))?;
    let head = words::<3>(log, 0)?;
    if head[..2] != [MAGIC, VERSION] {
        return Err(LogError::Foreign(format!("it begins with {head:x?}")));
    }
    // Four bytes, and zeros after them.
    let [sector] = words::<1>(log, 24)?;
    if !(SECTOR_BYTES..=65_536).contains(&sector) || !sector.is_power_of_two() {
        return Err(LogError::Foreign(format!("its sectors are {sector} bytes long")));
    }
    let mut entries = Vec::new();
    let mut at = sector;
    while at + sector <= length && entries.len() < ENTRIES_MAX {
        let [first, count, flags, _] = words::<4>(log, at)?;
        let (offset, bytes, discard) = (first * sector, count * sector, flags & DISCARD != 0);
        let data_at = at + sector;
        let ends_at = data_at + if discard { 0 } else { bytes };
        if ends_at > length {
            break;
        }
        let (flush, fua) = (flags & FLUSH != 0, flags & FUA != 0);
        entries.push(Entry { offset, bytes, flush, fua, discard, data_at, ends_at });
        at = ends_at;
    }
    Ok(entries)
}

fn words<const N: usize>(log: &mut (impl Read + Seek), at: u64) -> std::io::Result<[u64; N]> {
    log.seek(SeekFrom::Start(at))?;
    let mut words = [0; N];
    for word in &mut words {
        let mut bytes = [0; 8];
        log.read_exact(&mut bytes)?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn sector(words: &[u64], bytes: usize) -> Vec<u8> {
        let mut sector: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        sector.resize(bytes, 0);
        sector
    }

    fn log(entries: &[([u64; 4], Vec<u8>)], bytes: usize) -> Vec<u8> {
        let mut log =
            sector(&[MAGIC, VERSION, u64::try_from(entries.len()).unwrap(), bytes.try_into().unwrap()], bytes);
        for (head, data) in entries {
            log.extend(sector(head, bytes));
            log.extend(data);
        }
        log
    }

    #[test]
    fn writes_flushes_and_discards_are_read_with_where_they_stand() {
        let bytes =
            log(&[([8, 2, 0, 0], vec![7; 1024]), ([0, 0, FLUSH, 0], vec![]), ([4, 9, DISCARD, 0], vec![])], 512);
        let entries = read(&mut Cursor::new(&bytes)).unwrap();
        let write =
            Entry { offset: 4096, bytes: 1024, flush: false, fua: false, discard: false, data_at: 1024, ends_at: 2048 };
        let flush = Entry { offset: 0, bytes: 0, flush: true, data_at: 2560, ends_at: 2560, ..write };
        let discard = Entry { offset: 2048, bytes: 4608, discard: true, data_at: 3072, ends_at: 3072, ..write };
        assert_eq!(entries, [write, flush, discard]);
        assert_eq!(entries.iter().map(Entry::writes).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn sectors_of_another_size_scale_everything() {
        let bytes = log(&[([1, 1, FUA, 0], vec![7; 4096])], 4096);
        let entries = read(&mut Cursor::new(&bytes)).unwrap();
        assert_eq!((entries[0].offset, entries[0].bytes, entries[0].fua), (4096, 4096, true));
    }

    #[test]
    fn an_entry_that_is_cut_off_is_left_out_and_another_file_is_refused() {
        let bytes = log(&[([8, 2, 0, 0], vec![7; 1024])], 512);
        assert_eq!(read(&mut Cursor::new(&bytes[..bytes.len() - 1])).unwrap(), []);
        assert!(matches!(read(&mut Cursor::new(vec![0; 4096])), Err(LogError::Foreign(_))));
        assert!(matches!(read(&mut Cursor::new(log(&[], 512)[..16].to_vec())), Err(LogError::Io(_))));
    }
}
