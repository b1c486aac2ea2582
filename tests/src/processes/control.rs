//! A lasting connection to a peer's control socket.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::UnixStream;

/// How long an answer may take: longer than any freeze lasts.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A connection to one peer.
#[derive(Debug)]
pub(crate) struct Control(SendRequest<Full<Bytes>>);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The peer said no: nothing was done.
    #[error("refused: {0}")]
    Refused(String),
    /// There is no connection any more: nothing was asked.
    #[error("not connected: {0}")]
    Unasked(String),
    /// The connection broke, or no answer came in time: it may be done or not.
    #[error("cut off: {0}")]
    CutOff(String),
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn cut_off(error: impl ToString) -> Failure {
    Failure::CutOff(error.to_string())
}

impl Control {
    /// Connects to the peer that runs on a data directory.
    pub(crate) async fn connect(data: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(data.join("control.sock")).await.map_err(cut_off)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(cut_off)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a peer broke");
            }
        });
        Ok(Self(sender))
    }

    /// Asks and waits for the reply.
    pub(crate) async fn call(&mut self, route: &str, request: &Json) -> Result<Json, Failure> {
        let answer = async {
            let response = self.post(route, request).await?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(cut_off)?.to_bytes();
            let document: Json = serde_json::from_slice(&body).map_err(cut_off)?;
            match status {
                StatusCode::OK => Ok(document),
                _ => Err(Failure::Refused(document["error"]["message"].as_str().unwrap_or_default().to_owned())),
            }
        };
        tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(cut_off)?
    }

    /// Asks for lines of JSON.
    pub(crate) async fn stream(&mut self, route: &str, request: &Json) -> Result<Lines, Failure> {
        Ok(Lines { body: self.post(route, request).await?.into_body(), pending: Vec::new() })
    }

    async fn post(&mut self, route: &str, request: &Json) -> Result<Response<Incoming>, Failure> {
        self.0.ready().await.map_err(|error| Failure::Unasked(error.to_string()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(route)
            .header(hyper::header::HOST, "starling")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(request.to_string())))
            .map_err(cut_off)?;
        self.0.send_request(request).await.map_err(cut_off)
    }
}

/// The lines of an answer.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    /// The next line; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Json>, Failure> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(cut_off);
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(cut_off)?.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

/// Asks a peer once.
pub(crate) async fn ask(data: &Path, route: &str, request: &Json) -> anyhow::Result<Json> {
    let mut control = Control::connect(data).await?;
    control.call(route, request).await.with_context(|| format!("{route} of {}", data.display()))
}

/// All lines of the canonical dump of a peer.
pub(crate) async fn dump(data: &Path) -> anyhow::Result<Vec<Json>> {
    let mut lines = Control::connect(data).await?.stream("/v1/dump", &serde_json::json!({})).await?;
    let mut all = Vec::new();
    while let Some(line) = lines.next().await? {
        all.push(line);
    }
    Ok(all)
}
