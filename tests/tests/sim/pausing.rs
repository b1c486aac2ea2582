//! Pausing: nothing is exchanged with anybody, all works here, and afterwards all is caught up.

use std::time::Duration;

use starling::status::LibraryState;
use starling_tests::check;
use starling_tests::sim::Cluster;

use crate::{LATER, SOON};

#[test]
fn a_paused_device_gives_and_takes_nothing_and_says_so_until_it_goes_on() {
    Cluster::run(1401, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        b.peer().pause().await.unwrap();
        cluster.pass(SOON).await;
        let (of_a, of_b) = (a.add_tag("of a").await, b.add_tag("of b").await);
        cluster.pass(LATER).await;
        let status = b.status().await;
        assert_eq!(status.library.state, LibraryState::Paused);
        assert_eq!((status.verdict.in_sync, status.verdict.reason.as_str()), (false, "syncing is paused"));
        assert!(status.peers.iter().all(|peer| !peer.online));
        assert_eq!(b.tag_name(of_a).await, None);
        assert_eq!(a.tag_name(of_b).await, None);
        assert_eq!(c.tag_name(of_a).await.as_deref(), Some("of a"));
        assert_eq!(b.tag_name(of_b).await.as_deref(), Some("of b"));
        b.peer().resume().await.unwrap();
        cluster.settle(LATER).await;
        assert_eq!(b.tag_name(of_a).await.as_deref(), Some("of a"));
        assert_eq!(a.tag_name(of_b).await.as_deref(), Some("of b"));
    });
}

#[test]
fn a_device_stays_paused_through_a_restart() {
    Cluster::run(1402, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        b.peer().pause().await.unwrap();
        b.restart().await;
        let tag = a.add_tag("of a").await;
        cluster.pass(LATER).await;
        assert_eq!(b.status().await.library.state, LibraryState::Paused);
        assert_eq!(b.tag_name(tag).await, None);
        b.peer().resume().await.unwrap();
        b.restart().await;
        cluster.settle(LATER).await;
        check::assert_equal(&[&a, &b]).await;
    });
}

#[test]
fn pausing_twice_is_pausing_once_and_the_others_do_not_wait() {
    Cluster::run(1403, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        for _ in 0..2 {
            c.peer().pause().await.unwrap();
        }
        for number in 0..20 {
            a.add_tag(&number.to_string()).await;
            cluster.pass(Duration::from_millis(200)).await;
        }
        let lagging = async || check::lagging(&[a.clone(), b.clone()]).await;
        cluster.until("a and b are in sync", SOON, lagging).await;
        for _ in 0..2 {
            c.peer().resume().await.unwrap();
        }
        cluster.settle(LATER).await;
    });
}
