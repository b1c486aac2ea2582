//! The one place that turns values into bytes and back: bincode, bounded both ways, nothing left over.

use std::cell::RefCell;

use bincode::config::{Configuration, LittleEndian, Varint};
use bincode::{Decode, Encode};
use zstd::bulk::{Compressor, Decompressor};

/// Why bytes and values could not be turned into one another. Nothing was kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The encoded value would be larger than its place allows.
    #[error("{bytes} bytes are more than the {bytes_max} that fit")]
    TooLarge {
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        bytes_max: usize,
    },
    /// The bytes are not an encoding of the expected value.
    #[error("not a valid encoding: {0}")]
    Malformed(String),
    /// A valid encoding is followed by more bytes.
    #[error("{0} bytes are left over after the value")]
    TrailingBytes(usize),
    /// Compressed data is broken, or larger unpacked than its place allows.
    #[error("compressed data does not unpack: {0}")]
    Compression(String),
}

const CONFIG: Configuration<LittleEndian, Varint> = bincode::config::standard();

/// Encodes a value into at most `bytes_max` bytes.
///
/// # Errors
/// [`CodecError::TooLarge`] when it does not fit.
pub fn encode<T: Encode>(value: &T, bytes_max: usize) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::encode_to_vec(value, CONFIG).map_err(|e| CodecError::Malformed(e.to_string()))?;
    if bytes.len() > bytes_max {
        return Err(CodecError::TooLarge { bytes: bytes.len(), bytes_max });
    }
    Ok(bytes)
}

/// Decodes a value that takes up all of `bytes` and claims at most `BYTES_MAX` of memory while it is read.
///
/// # Errors
/// When the bytes are not exactly one such value.
pub fn decode<T: Decode<()>, const BYTES_MAX: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, consumed) = bincode::decode_from_slice(bytes, CONFIG.with_limit::<BYTES_MAX>())
        .map_err(|e| CodecError::Malformed(e.to_string()))?;
    if consumed != bytes.len() {
        return Err(CodecError::TrailingBytes(bytes.len() - consumed));
    }
    Ok(value)
}

/// How hard to compress: level 1 packs entry rows to 40 % at several hundred MB/s.
const ZSTD_LEVEL: i32 = 1;

thread_local! {
    /// Making a context costs more than packing a small message with it.
    static PACKING: RefCell<(Option<Compressor<'static>>, Option<Decompressor<'static>>)> = const { RefCell::new((None, None)) };
}

/// Compresses a frame.
///
/// # Errors
/// When zstd runs out of memory.
pub fn compress(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    let packed = PACKING.with_borrow_mut(|(compressor, _)| match compressor {
        Some(compressor) => compressor.compress(bytes),
        none => none.insert(Compressor::new(ZSTD_LEVEL)?).compress(bytes),
    });
    packed.map_err(|e| CodecError::Compression(e.to_string()))
}

/// Inflates a frame into at most `bytes_max` bytes, whatever size the frame claims.
///
/// # Errors
/// When it is broken or larger than that.
pub fn decompress(bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, CodecError> {
    let unpacked = PACKING.with_borrow_mut(|(_, decompressor)| match decompressor {
        Some(decompressor) => decompressor.decompress(bytes, bytes_max),
        none => none.insert(Decompressor::new()?).decompress(bytes, bytes_max),
    });
    unpacked.map_err(|e| CodecError::Compression(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&7_u32, 16).unwrap();
        bytes.push(0);
        assert!(matches!(decode::<u32, 16>(&bytes), Err(CodecError::TrailingBytes(1))));
    }

    #[test]
    fn a_claimed_length_beyond_the_limit_is_refused_before_it_is_allocated() {
        let bytes = encode(&(u64::MAX / 2), 16).unwrap();
        assert!(matches!(decode::<Vec<u8>, 1024>(&bytes), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn a_bomb_is_refused_at_the_cap() {
        let bomb = compress(&vec![0; 1 << 20]).unwrap();
        assert!(bomb.len() < 1024);
        assert!(matches!(decompress(&bomb, 1 << 16), Err(CodecError::Compression(_))));
        assert_eq!(decompress(&bomb, 1 << 20).unwrap().len(), 1 << 20);
    }
}
