//! Requests and responses on a stream: four bytes of length, big end first, then the message.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;
use starling_schema::wire::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};

/// The protocol's name on the wire. The version of the messages themselves is their first byte.
pub(super) const SYNC_PROTOCOL: StreamProtocol = StreamProtocol::new("/starling/sync/1");

/// Reads and writes length-prefixed messages. A length over the limit is refused before anything is allocated.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LengthPrefixed;

impl Codec for LengthPrefixed {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, REQUEST_BYTES_MAX).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, RESPONSE_BYTES_MAX).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &request, REQUEST_BYTES_MAX).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &response, RESPONSE_BYTES_MAX).await
    }
}

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let length = within(usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX), bytes_max)?;
    let mut message = vec![0; length];
    io.read_exact(&mut message).await?;
    Ok(message)
}

async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, message: &[u8], bytes_max: usize) -> io::Result<()> {
    let length = u32::try_from(within(message.len(), bytes_max)?).map_err(io::Error::other)?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(message).await?;
    io.flush().await
}

fn within(length: usize, bytes_max: usize) -> io::Result<usize> {
    if length <= bytes_max {
        return Ok(length);
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{length} bytes, over the {bytes_max} allowed")))
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut io = Cursor::new(Vec::new());
        block_on(write(&mut io, b"hello", 5)).unwrap();
        assert_eq!(io.get_ref(), b"\0\0\0\x05hello");
        io.set_position(0);
        assert_eq!(block_on(read(&mut io, 5)).unwrap(), b"hello");
    }

    #[test]
    fn a_length_over_the_limit_is_refused_without_reading_on() {
        let mut io = Cursor::new(u32::MAX.to_be_bytes().to_vec());
        assert_eq!(block_on(read(&mut io, 5)).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(block_on(write(&mut io, b"hello!", 5)).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_message_that_ends_early_is_an_error() {
        let mut io = Cursor::new(b"\0\0\0\x05hell".to_vec());
        assert_eq!(block_on(read(&mut io, 5)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
