//! One request to one peer and its answer, with what it cost.

use actix::MailboxError;
use starling_schema::key::DeviceKey;
use starling_schema::wire::{REQUEST_BYTES_MAX, Refusal, SyncEnvelope, SyncPayload};

use crate::links::Links;
use crate::network::{NetworkError, Request};

/// Why an exchange with the peer came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("{0}")]
    Network(#[from] NetworkError),
    #[error("{0}")]
    Wire(#[from] starling_schema::wire::WireError),
    #[error("{0}")]
    Codec(#[from] starling_schema::codec::CodecError),
    #[error("the peer refused: {0}")]
    Refused(#[from] Refusal),
    #[error("the peer answered {0}, which is no answer to this")]
    Unexpected(&'static str),
    #[error("the peer stopped")]
    Stopped,
}

impl From<MailboxError> for ExchangeError {
    fn from(_: MailboxError) -> Self {
        Self::Stopped
    }
}

/// What came back, and what it cost.
pub(crate) struct Exchanged {
    pub(crate) payload: SyncPayload,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) rtt_ms: u64,
    pub(crate) clock_offset_ms: i64,
}

/// Sends a request in our envelope and waits for the answer.
pub(crate) async fn exchange(links: Links, peer: DeviceKey, payload: SyncPayload) -> Result<Exchanged, ExchangeError> {
    let bytes = links.envelope(payload).encode(REQUEST_BYTES_MAX)?;
    let (bytes_out, started_ms) = (bytes.len() as u64, links.environment.uptime_ms());
    let answer = links.network.request.send(Request { peer, bytes }).await??;
    let rtt_ms = links.environment.uptime_ms() - started_ms;
    let envelope = SyncEnvelope::decode(&answer).inspect_err(|_| links.counters.messages_refused(1))?;
    if let SyncPayload::Error(refusal) = envelope.payload {
        return Err(refusal.into());
    }
    let theirs = i64::try_from(envelope.timestamp_ms).unwrap_or(i64::MAX);
    let ours = i64::try_from(links.environment.wall_ms()).unwrap_or(i64::MAX);
    let clock_offset_ms = theirs.saturating_sub(ours);
    Ok(Exchanged { payload: envelope.payload, bytes_in: answer.len() as u64, bytes_out, rtt_ms, clock_offset_ms })
}
