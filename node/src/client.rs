//! The command line's side of the control socket: HTTP to the running peer.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Collected, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::api::{Call, Document, Stream};
use crate::data_directory::DataDirectory;
use crate::error::{CliError, ErrorDocument, ErrorKind};

/// How long one answer may take. Joining waits for the network, and a commit for others before it; nothing takes
/// longer than this unless the peer hangs.
const ANSWER_WITHIN: Duration = Duration::from_mins(2);

/// The longest line of a stream: far above any event or report, and a bound for what is kept of a broken one.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A way to the peer that runs on a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    data: DataDirectory,
}

impl Client {
    /// For the peer of that data directory, running or not.
    pub(crate) fn new(data: DataDirectory) -> Self {
        Self { data }
    }

    /// Asks and waits for the answer.
    pub(crate) async fn call<C: Call>(&self, call: &C) -> Result<C::Reply, CliError> {
        let answer = async {
            let response = self.post(C::ROUTE, call).await?;
            response.into_body().collect().await.map_err(|_| cut_off()).map(Collected::to_bytes)
        };
        let body = tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(|_| {
            let message = format!("the peer did not answer within {} s", ANSWER_WITHIN.as_secs());
            CliError::new(ErrorKind::Failed, message).hint("see what it logs, or restart it")
        })??;
        let document: Document<C::Reply> = serde_json::from_slice(&body).map_err(|_| other_version())?;
        Ok(document.body)
    }

    /// Asks and hands out the lines of the answer as they come.
    pub(crate) async fn stream<S: Stream>(&self, call: &S) -> Result<Lines, CliError> {
        let response = self.post(S::ROUTE, call).await?;
        Ok(Lines { body: response.into_body(), pending: Vec::new() })
    }

    async fn post<T: serde::Serialize>(&self, route: &str, body: &T) -> Result<Response<Incoming>, CliError> {
        let body = serde_json::to_vec(body).map_err(|e| CliError::io("the request cannot be written", e))?;
        let stream = UnixStream::connect(self.socket()?).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| cut_off())?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the peer broke");
            }
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri(route)
            .header(hyper::header::HOST, "starling")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| CliError::io("the request cannot be written", e))?;
        let response = sender.send_request(request).await.map_err(|_| cut_off())?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(other_version()),
            _ => {
                let body = response.into_body().collect().await.map_err(|_| cut_off())?.to_bytes();
                let document: ErrorDocument = serde_json::from_slice(&body).map_err(|_| other_version())?;
                Err(document.error)
            }
        }
    }

    fn socket(&self) -> Result<PathBuf, CliError> {
        let socket = self.data.socket();
        if socket.exists() { Ok(socket) } else { Err(self.not_running()) }
    }

    fn unreachable(&self, error: &io::Error) -> CliError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => self.not_running(),
            _ => CliError::io(format!("the peer of {} cannot be reached", self.data.path().display()), error),
        }
    }

    fn not_running(&self) -> CliError {
        let message = format!("no peer is running on {}", self.data.path().display());
        CliError::new(ErrorKind::NotRunning, message).hint("start it with `starling up`")
    }
}

fn cut_off() -> CliError {
    CliError::new(ErrorKind::Failed, "the peer ended before it answered").hint("start it again with `starling up`")
}

fn other_version() -> CliError {
    CliError::new(ErrorKind::Failed, "the running peer answers in a way that this command does not understand")
        .hint("it may be of another version: restart it with this one")
}

/// The lines of a streamed answer.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    /// The next line without its end; none when the stream is over.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, CliError> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.pending.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(other_version());
            }
            match self.chunk().await? {
                Some(chunk) => self.pending.extend_from_slice(&chunk),
                None if self.pending.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.pending))),
            }
        }
    }

    /// The next bytes of the stream as they came.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, CliError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(|_| cut_off())?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The next line as JSON.
    pub(crate) async fn next_json<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, CliError> {
        let Some(line) = self.next().await? else { return Ok(None) };
        serde_json::from_slice(&line).map(Some).map_err(|_| other_version())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::api::{Digest, DigestCall, EventRow, EventsStream};

    /// What a client makes of an answer.
    async fn with_answer<T>(answer: String, ask: impl AsyncFnOnce(Client) -> T) -> T {
        let place = tempfile::tempdir().unwrap();
        let data = DataDirectory::choose(Some(place.path())).unwrap();
        let listener = tokio::net::UnixListener::bind(data.socket()).unwrap();
        let serve = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(connection.read(&mut request).await.unwrap() > 0);
            connection.write_all(answer.as_bytes()).await.unwrap();
        });
        let result = ask(Client::new(data)).await;
        serve.await.unwrap();
        result
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    async fn digest(answer: String) -> Result<Digest, CliError> {
        with_answer(answer, async |client| client.call(&DigestCall {}).await).await
    }

    #[tokio::test]
    async fn an_answer_is_a_document_or_the_error_that_the_peer_names() {
        let good = digest(http("200 OK", r#"{"schema":1,"all":"00","models":{}}"#)).await.unwrap();
        assert_eq!(good.all, "00");
        let refused = http("400 Bad Request", r#"{"error":{"kind":"not_found","message":"no such tag","hint":null}}"#);
        let error = digest(refused).await.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NotFound, "no such tag"));
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_or_is_not_understood_is_told_apart() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned();
        assert_eq!(digest(cut).await.unwrap_err(), cut_off());
        for other in [http("404 Not Found", ""), http("200 OK", "{}"), http("500 Oops", "?")] {
            assert_eq!(digest(other).await.unwrap_err(), other_version());
        }
    }

    #[tokio::test]
    async fn a_stream_is_read_line_by_line_also_without_a_last_end_of_line() {
        let lines = "{\"cursor\":1,\"kind\":\"gap\"}\n{\"cursor\":2,\"kind\":\"changed\"}";
        let cursors = with_answer(http("200 OK", lines), async |client| {
            let mut lines = client.stream(&EventsStream { since: 0, follow: false }).await.unwrap();
            let mut cursors = Vec::new();
            while let Some(event) = lines.next_json::<EventRow>().await.unwrap() {
                cursors.push(event.cursor);
            }
            cursors
        });
        assert_eq!(cursors.await, [1, 2]);
    }

    #[tokio::test]
    async fn without_a_peer_the_error_says_how_to_start_one() {
        let place = tempfile::tempdir().unwrap();
        let data = DataDirectory::choose(Some(place.path())).unwrap();
        // A socket that a killed peer left behind answers nobody.
        drop(std::os::unix::net::UnixListener::bind(place.path().join("control.sock")).unwrap());
        for _ in 0..2 {
            let error = Client::new(data.clone()).call(&DigestCall {}).await.unwrap_err();
            assert_eq!((error.kind.exit(), error.hint.as_deref()), (10, Some("start it with `starling up`")));
            if data.socket().exists() {
                std::fs::remove_file(data.socket()).unwrap();
            }
        }
    }
}
