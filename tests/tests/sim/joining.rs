//! Joining, and what can go wrong in the middle of it: whatever does, the device is in one library, whole.

use std::fs;
use std::time::Duration;

use starling::JoinError;
use starling::rig::Point;
use starling_schema::ids::RecordId;
use starling_schema::models::{Entry, Location, Tag};
use starling_tests::check;
use starling_tests::sim::{Cluster, Node};

use crate::{LATER, SOON};

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_commit_that_is_acknowledged_while_a_join_is_under_way_is_in_the_joined_library() {
    for merge in [true, false] {
        Cluster::run(640, async |cluster| {
            let [a, b] = [cluster.device("a").await, cluster.device("b").await];
            let ticket = a.ticket(HOUR).await;
            if merge {
                b.add_tag("before").await;
            }
            let commits = async {
                let mut acked = Vec::new();
                for round in 0..2_000 {
                    let id = b.new_id();
                    let mut tag = Tag::new(id);
                    tag.name = Some(round.to_string());
                    if b.try_commit(vec![starling_schema::model::Syncable::put(&tag)]).await.is_ok() {
                        acked.push(id);
                    }
                    if round % 10 == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    if b.peer().library() == a.peer().library() {
                        break;
                    }
                }
                acked
            };
            let join = async {
                // Not before a commit has come in: a library that is empty just moves over.
                tokio::time::sleep(Duration::from_millis(u64::from(merge))).await;
                b.peer().join(&ticket, merge).await
            };
            let (joined, acked) = futures::join!(join, commits);
            if merge {
                joined.unwrap();
                assert!(acked.len() > 10, "{}", acked.len());
            } else if joined.is_err() {
                assert_eq!(joined, Err(JoinError::NotEmpty));
                return;
            }
            cluster.settle(LATER).await;
            for (at, tag) in acked.iter().enumerate() {
                assert!(a.get::<Tag>(*tag).await.is_some(), "number {at} of {} is lost", acked.len());
            }
        });
    }
}

/// A device with a library of its own, and what is in it.
async fn with_data(cluster: &Cluster, name: &str) -> (Node, Vec<RecordId>, Vec<RecordId>) {
    let node = cluster.device(name).await;
    let location = node.add_location("mine").await;
    let files = node.add_entries(location, None, 200).await;
    let tags = node.add_tags(600).await;
    cluster.pass(SOON).await;
    (node, tags, files)
}

#[test]
fn a_device_that_dies_at_any_step_of_joining_takes_all_that_it_had_along() {
    let swap = [Point::BeforeSwap, Point::InSwap, Point::AfterSwap].map(|point| (point, 0));
    let commits = [0, 1, 2, 3, 5, 8].map(|before| (Point::BeforeCommit, before));
    for (point, before) in swap.into_iter().chain(commits) {
        Cluster::run(641, async |cluster| {
            let a = cluster.device("a").await;
            let (b, tags, files) = with_data(cluster, "b").await;
            let ticket = a.ticket(HOUR).await;
            b.interference().crash_at(point, before);
            let joined = b.peer().join(&ticket, true).await.is_ok();
            let Some(image) = b.interference().take_image() else {
                assert!(joined && before > 0, "nothing leads to {point}");
                return;
            };
            b.die_to(&image).await;
            b.start().await;
            check::intact(&b).await;
            if b.peer().library() != a.peer().library() {
                assert_eq!((b.count::<Tag>().await, b.count::<Entry>().await), (600, 201));
                b.peer().join(&ticket, true).await.unwrap();
            }
            cluster
                .until("everything was taken along", LATER, async || {
                    let counts = (a.count::<Tag>().await, a.count::<Entry>().await);
                    (counts != (600, 201)).then(|| format!("{counts:?}"))
                })
                .await;
            cluster.settle(LATER).await;
            assert_eq!(a.owner::<Entry>(files[199]).await, Some(b.id()));
            assert_eq!(a.get::<Tag>(tags[599]).await, b.get::<Tag>(tags[599]).await);
            assert_eq!(a.path_of(files[199]).await.unwrap(), "mine/file 199");
        });
    }
}

#[test]
fn a_join_that_cannot_change_the_file_leaves_the_peer_running_on_its_old_library() {
    Cluster::run(642, async |cluster| {
        let a = cluster.device("a").await;
        let (b, tags, _) = with_data(cluster, "b").await;
        let ticket = a.ticket(HOUR).await;
        let in_the_way = b.data().join("joining.sqlite");
        fs::create_dir(&in_the_way).unwrap();
        let library = b.peer().library();
        let refused = b.peer().join(&ticket, true).await;
        assert!(matches!(refused, Err(JoinError::Storage(_))), "{refused:?}");
        assert_eq!((b.peer().library(), b.count::<Tag>().await), (library, 600));
        let new = b.add_tag("goes on").await;
        b.restart().await;
        assert_eq!(b.tag_name(new).await.unwrap(), "goes on");
        fs::remove_dir(&in_the_way).unwrap();
        b.peer().join(&ticket, true).await.unwrap();
        cluster.settle(LATER).await;
        assert_eq!((a.count::<Tag>().await, a.tag_name(new).await.unwrap()), (601, "goes on".to_owned()));
        assert!(a.get::<Tag>(tags[0]).await.is_some());
    });
}

#[test]
fn a_device_that_was_removed_pairs_anew_as_a_new_device_and_the_old_one_stays_out() {
    Cluster::run(643, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let kept = c.add_location("of the old one").await;
        cluster.settle(SOON).await;
        let old = c.id();
        a.peer().remove_device(old).await.unwrap();
        cluster.pass(SOON).await;
        let again = c.join_with(&a.ticket(HOUR).await).await;
        assert!(again.is_err(), "with the old key");
        c.stop().await;
        c.lose_everything();
        c.start().await;
        c.join(&a).await;
        cluster.settle(LATER).await;
        assert_ne!(c.id(), old);
        let new = c.add_location("of the new one").await;
        let tag = c.add_tag("back").await;
        cluster.settle(LATER).await;
        for node in [&a, &b, &c] {
            let members: Vec<_> = node.peer().members().await.unwrap().into_iter().map(|member| member.id).collect();
            assert!(members.len() == 3 && members.contains(&c.id()) && !members.contains(&old), "{members:?}");
            assert_eq!(
                (node.owner::<Location>(kept).await, node.owner::<Location>(new).await),
                (Some(old), Some(c.id()))
            );
            assert_eq!(node.tag_name(tag).await.unwrap(), "back");
        }
        cluster.until_pruned(LATER).await;
    });
}

#[test]
fn of_two_joins_at_once_the_device_ends_in_the_library_and_runs_on() {
    for seed in 1_020..1_030 {
        Cluster::run(seed, async |cluster| {
            let (a, b) = (cluster.device("a").await, cluster.device("b").await);
            let tag = a.add_tag("there").await;
            let ticket = a.ticket(Duration::from_mins(5)).await;
            let (one, two) = (b.peer(), b.peer());
            let (one, two) = futures::join!(one.join(&ticket, false), two.join(&ticket, false));
            let is_in = |joined: &Result<_, JoinError>| matches!(joined, Ok(_) | Err(JoinError::AlreadyMember));
            assert!(is_in(&one) || is_in(&two), "{one:?}, {two:?}");
            cluster.settle(LATER).await;
            assert_eq!(b.tag_name(tag).await.as_deref(), Some("there"));
            assert_eq!(a.peer().members().await.unwrap().len(), 2);
        });
    }
}
