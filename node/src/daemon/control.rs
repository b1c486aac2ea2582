//! The control server: answers the command line over the socket in the data directory.

use std::future::Future;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, error, web};

use super::{Node, streams};
use crate::api::{
    Annotate, Call, Collect, CollectionDelete, CollectionEdit, CollectionNew, CollectionRestore, CollectionsCall,
    ConflictRestore, ConflictShow, ConflictsCall, DeviceRemove, DeviceRename, DevicesCall, Digest, DigestCall,
    Document, FindCall, InviteCall, JoinCall, JoinedReply, LibraryName, LocationRemove, LocationRow, Locations,
    LocationsCall, PauseCall, Paused, ShowCall, StatusCall, TagAssign, TagDelete, TagEdit, TagNest, TagNew, TagRestore,
    TagsCall, Ticket, VerifyCall,
};
use crate::data_directory::{DataDirectory, SocketFiles};
use crate::error::{CliError, ErrorDocument, ErrorKind};
use crate::library::{collections, conflicts, devices, find, locations, metadata, read, show, tags, targets, verify};

/// The largest request: thousands of targets in one command.
const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Threads that answer: they only wait for the peer.
const WORKERS: usize = 1;

/// The running control server.
#[derive(Debug)]
pub(crate) struct Control {
    server: ServerHandle,
    // Dropped last, so that the socket is there for as long as somebody answers.
    _files: SocketFiles,
}

impl Control {
    /// Starts to answer. The caller holds the data directory's lock.
    pub(crate) fn start(node: Node, data: &DataDirectory) -> Result<Self, CliError> {
        let socket = data.open_socket()?;
        let node = web::Data::new(node);
        let server = HttpServer::new(move || {
            let json = web::JsonConfig::default().limit(REQUEST_BYTES_MAX).error_handler(refuse);
            App::new().app_data(node.clone()).app_data(json).configure(routes)
        })
        .workers(WORKERS)
        .disable_signals()
        .keep_alive(Duration::from_secs(5))
        .listen_uds(socket.listener)
        .map_err(|e| CliError::io("the control socket cannot be served", e))?
        .run();
        let handle = server.handle();
        actix::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the control socket is not served any more");
            }
        });
        Ok(Self { server: handle, _files: socket.left })
    }

    /// Cuts everybody off: what they asked for is done or not, and their commands say that the peer ended.
    pub(crate) async fn stop(self) {
        self.server.stop(false).await;
    }
}

/// Every command that is answered by one document.
fn routes(config: &mut web::ServiceConfig) {
    streams::routes(config);
    library_routes(config);
    answer(config, async |node: Node, StatusCall {}| devices::status(&node.peer).await);
    answer(config, async |node: Node, DevicesCall {}| devices::all(&node.peer).await);
    answer(config, async |node: Node, call: DeviceRename| devices::rename(&node.peer, &call.name).await);
    answer(config, async |node: Node, call: DeviceRemove| devices::remove(&node.peer, &call.device).await);
    answer(config, invite);
    answer(config, join);
    answer(config, async |node: Node, DigestCall {}| {
        let registry = node.peer.registry().clone();
        let (all, models) = node.peer.query(move |c| starling::canonical::digest(c, &registry)).await?;
        Ok(Digest { all, models })
    });
    answer(config, async |node: Node, call: VerifyCall| verify::verify(&node.peer, call.with.as_deref()).await);
    answer(config, async |node: Node, PauseCall { paused }| {
        if paused {
            node.peer.pause().await?;
        } else {
            node.peer.resume().await?;
        }
        Ok(Paused { paused })
    });
    answer(config, async |node: Node, LocationsCall {}| {
        let locations = read(&node.peer, locations::all).await?;
        Ok(Locations { locations })
    });
    answer(config, remove_location);
    answer(config, async |node: Node, call: FindCall| {
        let among = match &call.query {
            Some(query) => node.names.candidates(query).await,
            None => None,
        };
        read(&node.peer, move |c| find::find(c, &call, among.as_deref())).await
    });
    answer(config, async |node: Node, call: ShowCall| {
        let here = node.peer.device();
        read(&node.peer, move |c| show::show(c, here, &call.target)).await
    });
    answer(config, async |node: Node, ConflictsCall {}| conflicts::all(&node.peer).await);
    answer(config, async |node: Node, call: ConflictShow| conflicts::one(&node.peer, &call.id).await);
    answer(config, async |node: Node, call: ConflictRestore| conflicts::restore(&node.peer, &call.id).await);
}

/// Those about tags, collections and what people say of files.
fn library_routes(config: &mut web::ServiceConfig) {
    answer(config, async |node: Node, TagsCall {}| read(&node.peer, tags::all).await);
    answer(config, async |node: Node, call: TagNew| tags::new(&node.peer, call.fields).await);
    answer(config, async |node: Node, call: TagEdit| tags::edit(&node.peer, call.tag, call.fields).await);
    answer(config, async |node: Node, call: TagDelete| tags::delete(&node.peer, call.tag).await);
    answer(config, async |node: Node, call: TagRestore| tags::restore(&node.peer, call.tag).await);
    answer(config, async |node: Node, call: TagAssign| tags::assign(&node.peer, call).await);
    answer(config, async |node: Node, call: TagNest| tags::nest(&node.peer, call).await);
    answer(config, async |node: Node, CollectionsCall {}| read(&node.peer, collections::all).await);
    answer(config, async |node: Node, call: CollectionNew| collections::new(&node.peer, call.fields).await);
    answer(config, async |node: Node, call: CollectionEdit| {
        collections::edit(&node.peer, call.collection, call.fields).await
    });
    answer(config, async |node: Node, call: CollectionDelete| collections::delete(&node.peer, call.collection).await);
    answer(config, async |node: Node, call: CollectionRestore| collections::restore(&node.peer, call.collection).await);
    answer(config, async |node: Node, call: Collect| collections::collect(&node.peer, call).await);
    answer(config, async |node: Node, call: Annotate| metadata::annotate(&node.peer, call).await);
}

async fn invite(node: Node, call: InviteCall) -> Result<Ticket, CliError> {
    let invitation = node.peer.invite(Duration::from_millis(call.expires_ms)).await?;
    Ok(Ticket { ticket: invitation.ticket, expires_at: invitation.expires_at_ms })
}

async fn join(node: Node, call: JoinCall) -> Result<JoinedReply, CliError> {
    let joined = node.peer.join(&call.ticket, call.merge).await?;
    node.indexing.restart().await?;
    Ok(JoinedReply { library: LibraryName { id: joined.library, name: joined.library_name }, devices: joined.devices })
}

async fn remove_location(node: Node, call: LocationRemove) -> Result<LocationRow, CliError> {
    let here = node.peer.device();
    let location = read(&node.peer, move |c| {
        let id = targets::location(c, here, &call.location)?;
        locations::own(c, here, id)
    })
    .await?;
    node.indexing.remove(location.id).await?;
    Ok(location)
}

/// Registers what answers one kind of request.
fn answer<C: Call, F, Fut>(config: &mut web::ServiceConfig, run: F)
where
    F: Fn(Node, C) -> Fut + Clone + 'static,
    Fut: Future<Output = Result<C::Reply, CliError>> + 'static,
{
    let handler = move |node: web::Data<Node>, call: web::Json<C>| {
        let work = run(node.get_ref().clone(), call.into_inner());
        async move {
            match work.await {
                Ok(reply) => HttpResponse::Ok().json(Document::of(reply)),
                Err(error) => failed(error),
            }
        }
    };
    config.route(C::ROUTE, web::post().to(handler));
}

/// The answer to a request that failed.
pub(crate) fn failed(error: CliError) -> HttpResponse {
    HttpResponse::BadRequest().json(ErrorDocument { error })
}

fn refuse(error: error::JsonPayloadError, _: &HttpRequest) -> error::Error {
    let refusal = CliError::new(ErrorKind::Invalid, format!("the request cannot be read: {error}"));
    error::InternalError::from_response(error, failed(refusal)).into()
}
