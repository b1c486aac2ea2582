//! A read-only status page over HTTP, for this machine only.

use std::net::{IpAddr, SocketAddr};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use starling::PeerHandle;

use crate::api::StatusReply;
use crate::error::{CliError, ErrorKind};
use crate::library::devices;

/// The running page.
#[derive(Debug)]
pub(crate) struct Page {
    server: ServerHandle,
    address: SocketAddr,
}

/// Reads `--http`: an address of this machine, or off.
pub(crate) fn address(text: &str) -> Result<Option<SocketAddr>, CliError> {
    if text == "off" {
        return Ok(None);
    }
    let address: SocketAddr = text.parse().map_err(|_| {
        CliError::new(ErrorKind::Usage, format!("{text:?} is no address for --http"))
            .hint("write it like 127.0.0.1:8080, or off")
    })?;
    if !address.ip().is_loopback() {
        return Err(CliError::new(ErrorKind::Usage, format!("--http {address} would show the library to the network"))
            .hint("use an address of this machine, like 127.0.0.1:8080"));
    }
    Ok(Some(address))
}

impl Page {
    /// Starts to serve.
    pub(crate) fn start(peer: PeerHandle, address: SocketAddr) -> Result<Self, CliError> {
        let peer = web::Data::new(peer);
        let server = HttpServer::new(move || App::new().app_data(peer.clone()).route("/", web::get().to(index)))
            .workers(1)
            .disable_signals()
            .bind(address)
            .map_err(|e| CliError::io(format!("the status page cannot be served at {address}"), e))?;
        let address = server.addrs().first().copied().unwrap_or(address);
        let server = server.run();
        let handle = server.handle();
        actix::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the status page is not served any more");
            }
        });
        Ok(Self { server: handle, address })
    }

    /// Where to look.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops serving.
    pub(crate) async fn stop(self) {
        self.server.stop(false).await;
    }
}

async fn index(request: HttpRequest, peer: web::Data<PeerHandle>) -> HttpResponse {
    if !is_local(request.connection_info().host()) {
        return HttpResponse::Forbidden().body("this page is for this machine only");
    }
    match devices::status(&peer).await {
        Ok(status) => HttpResponse::Ok()
            .content_type("text/html; charset=utf-8")
            .insert_header(("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"))
            .body(render(&status)),
        Err(error) => HttpResponse::ServiceUnavailable().body(error.message),
    }
}

/// Whether a request names this machine: a foreign site may point its own name here to read the page.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn render(status: &StatusReply) -> String {
    let peers: String = status
        .peers
        .iter()
        .map(|peer| {
            let (name, state) = (escaped(&peer.name), escaped(&peer.state));
            format!("<tr><td>{name}<td>{state}<td>{}<td>{}</tr>", peer.behind_us, peer.behind_them)
        })
        .collect::<Vec<_>>()
        .concat();
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5><title>Starling</title>\
         <style>body{{font:16px sans-serif;margin:2em auto;max-width:50em}}td,th{{padding:.2em 1em;text-align:left}}</style>\
         <h1>{}</h1><p>Library {}. {}</p>\
         <table><tr><th>Device<th>State<th>Missing here<th>Missing there</tr>{peers}</table></html>",
        escaped(&status.device.name),
        escaped(&status.library.name),
        escaped(&status.verdict.reason),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_served() {
        assert_eq!(address("off"), Ok(None));
        assert!(address("127.0.0.1:0").unwrap().is_some());
        for wrong in ["0.0.0.0:80", "8080", "localhost"] {
            assert_eq!(address(wrong).unwrap_err().kind, ErrorKind::Usage, "{wrong}");
        }
    }

    #[test]
    fn only_requests_that_name_this_machine_are_answered() {
        for good in ["localhost", "localhost:80", "127.0.0.1:8080", "[::1]:80"] {
            assert!(is_local(good), "{good}");
        }
        for bad in ["evil.example:80", "192.168.0.1", "", "localhost.evil.example"] {
            assert!(!is_local(bad), "{bad}");
        }
    }

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escaped("<b>\"&\"</b>"), "&lt;b&gt;&quot;&amp;&quot;&lt;/b&gt;");
    }
}
