//! The life of a peer process: start, say so, serve, and end in order.

mod allocator;
mod control;
mod page;
mod streams;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use starling::environment::Environment;
use starling::proto::pairing::Ticket;
use starling::{JoinError, NetworkChoice, PeerHandle, PeerOptions, Registry};

use self::control::Control;
use self::page::Page;
use crate::api::{DeviceName, Document, LibraryName};
use crate::arguments::Up;
use crate::data_directory::DataDirectory;
use crate::error::{CliError, ErrorKind};
use crate::indexing::Indexing;
use crate::names::Names;
use crate::output::Output;
use crate::progress::Reporter;
use crate::signals::Signals;

/// How long an orderly end may take: under the five seconds after which whoever stops us would kill us.
const END_WITHIN: Duration = Duration::from_millis(4_500);

/// A running peer as the control socket serves it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The peer.
    pub(crate) peer: PeerHandle,
    /// Its indexer.
    pub(crate) indexing: Indexing,
    /// The index of the names of all entries.
    pub(crate) names: Names,
    /// Where it keeps its data.
    pub(crate) data: PathBuf,
}

/// The line that says that all is up.
#[derive(Debug, Serialize)]
struct Ready {
    #[serde(rename = "ready")]
    is_up: bool,
    device: DeviceName,
    library: LibraryName,
    listen: Vec<String>,
    http: Option<String>,
}

/// Runs a peer until it is told to end.
pub(crate) fn run(up: Up, data: DataDirectory, output: Output) -> Result<(), CliError> {
    allocator::keep_less(std::env::args_os());
    actix::System::new().block_on(live(up, data, output))
}

async fn live(up: Up, data: DataDirectory, output: Output) -> Result<(), CliError> {
    let paths = folders(&up.paths)?;
    let page_address = page::address(&up.http)?;
    if let Some(ticket) = &up.join {
        // Said to be wrong before anything is made.
        ticket.trim().parse::<Ticket>().map_err(|error| JoinError::Ticket(error.to_string()))?;
    }
    let mut signals = Signals::new()?;
    let peer = signals.unless_told(PeerHandle::start(options(&up, &data))).await??;
    let started = start(&up, &data, page_address, &peer, &mut signals).await;
    let (node, control, page) = match started {
        Ok(started) => started,
        Err(error) => {
            end_within(&mut signals, peer.stop()).await;
            return Err(error);
        }
    };
    for path in paths {
        index(&node, path, output);
    }
    let said = say_ready(&peer, page.as_ref(), output).await;
    if let Err(error) = &said {
        tracing::warn!(%error, "the ready line was not written");
    }
    let result = tokio::select! {
        () = signals.told() => Ok(()),
        () = peer.stopped() => Err(CliError::new(ErrorKind::Failed, "the peer stopped by itself").hint("see what it logged before")),
    };
    end_within(&mut signals, async {
        control.stop().await;
        if let Some(page) = page {
            page.stop().await;
        }
        node.names.stop();
        node.indexing.stop().await;
        peer.stop().await;
    })
    .await;
    result
}

/// Everything after the peer itself, in order: joining, indexing, serving.
async fn start(
    up: &Up,
    data: &DataDirectory,
    page_address: Option<std::net::SocketAddr>,
    peer: &PeerHandle,
    signals: &mut Signals,
) -> Result<(Node, Control, Option<Page>), CliError> {
    if let Some(ticket) = &up.join {
        // Started again with the same command line, the device is a member already.
        match signals.unless_told(peer.join(ticket.trim(), false)).await? {
            Ok(_) | Err(JoinError::AlreadyMember) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let indexing = Indexing::start(peer, data.path()).await?;
    let names = Names::start(peer, data.path());
    let node = Node { peer: peer.clone(), indexing, names, data: data.path().to_owned() };
    let control = Control::start(node.clone(), data)?;
    let page = page_address.map(|address| Page::start(peer.clone(), address)).transpose()?;
    Ok((node, control, page))
}

fn options(up: &Up, data: &DataDirectory) -> PeerOptions {
    PeerOptions {
        data: data.path().to_owned(),
        name: up.name.clone(),
        network: NetworkChoice::Libp2p { listen: up.listen.clone(), mdns: !up.no_mdns },
        environment: Environment::system(),
        registry: Registry::default(),
    }
}

/// The folders to index as absolute paths; said to be wrong before anything is started.
fn folders(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let folder = |path: &PathBuf| match path.canonicalize() {
        Ok(folder) if folder.is_dir() => Ok(folder),
        Ok(_) => Err(CliError::new(ErrorKind::Invalid, format!("{} is not a folder", path.display()))
            .hint("index the folder that it lies in")),
        Err(error) => Err(CliError::io(format!("{} cannot be indexed", path.display()), error)),
    };
    paths.iter().map(folder).collect()
}

/// Indexes a folder beside everything else.
fn index(node: &Node, path: PathBuf, output: Output) {
    let scan = node.indexing.add(&path);
    actix::spawn(async move {
        let mut reporter = Reporter::new(output);
        if let Err(error) = scan.finish(async |progress| reporter.update(&progress)).await {
            tracing::error!(path = %path.display(), %error, "the folder was not indexed");
        }
    });
}

async fn say_ready(peer: &PeerHandle, page: Option<&Page>, output: Output) -> Result<(), CliError> {
    let status = peer.status().await?;
    let ready = Ready {
        is_up: true,
        device: DeviceName { id: status.device.id, name: status.device.name },
        library: LibraryName { id: status.library.id, name: status.library.name },
        listen: status.listen,
        http: page.map(Page::url),
    };
    if output.json {
        return output.json_line(&Document::of(&ready));
    }
    let page = ready.http.as_ref().map_or_else(String::new, |url| format!(", status at {url}"));
    let Ready { device, library, .. } = &ready;
    output.text(&format!("ready: {} ({}) keeps the library {}{page}", device.name, device.id, library.name))
}

/// Ends in order, but not later than promised; a second signal ends at once.
async fn end_within(signals: &mut Signals, end: impl Future<Output = ()>) {
    tokio::select! {
        ended = tokio::time::timeout(END_WITHIN, end) => {
            if ended.is_err() {
                tracing::warn!("the peer did not end in time: it is cut off, what it committed is safe");
            }
        }
        () = signals.told() => std::process::exit(i32::from(ErrorKind::Interrupted.exit())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_indexed_is_named() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, word) in [(file, "is not a folder"), (place.path().join("none"), "cannot be indexed")] {
            let error = folders(std::slice::from_ref(&path)).unwrap_err();
            assert!(error.message.contains(word) && error.message.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn the_ready_line_has_the_shape_that_scripts_wait_for() {
        let ready = Ready {
            is_up: true,
            device: DeviceName { id: starling_schema::ids::DeviceId::MIN, name: "laptop".to_owned() },
            library: LibraryName { id: starling_schema::ids::LibraryId::MIN, name: "home".to_owned() },
            listen: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
            http: None,
        };
        let nil = "00000000-0000-0000-0000-000000000000";
        let expected = format!(
            r#"{{"schema":1,"ready":true,"device":{{"id":"{nil}","name":"laptop"}},"library":{{"id":"{nil}","name":"home"}},"listen":["/ip4/127.0.0.1/tcp/1"],"http":null}}"#
        );
        assert_eq!(serde_json::to_string(&Document::of(&ready)).unwrap(), expected);
    }
}
