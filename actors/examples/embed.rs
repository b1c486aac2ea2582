//! A peer inside another program: it makes a tag, reads it back, and prints a ticket for the next device.
//!
//! Run it with `cargo run -p starling --example embed -- DIRECTORY`.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use starling::environment::Environment;
use starling::{NetworkChoice, PeerHandle, PeerOptions, Registry, records};
use starling_schema::model::Syncable;
use starling_schema::models::Tag;

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("embedded-peer"), PathBuf::from);
    let peer = PeerHandle::start(PeerOptions {
        data,
        name: Some("embedded".to_owned()),
        network: NetworkChoice::Libp2p { listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()], mdns: false },
        environment: Environment::system(),
        registry: Registry::default(),
    })
    .await?;

    let mut tag = Tag::new(peer.environment().new_id());
    tag.name = Some("holiday".to_owned());
    peer.commit(vec![tag.put()]).await?;

    let tags = peer.query(records::all::<Tag>).await?;
    let invitation = peer.invite(Duration::from_mins(10)).await?;
    report(&format!("{} tags; join with {}", tags.len(), invitation.ticket));

    peer.stop().await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows what it did")]
fn report(text: &str) {
    println!("{text}");
}
