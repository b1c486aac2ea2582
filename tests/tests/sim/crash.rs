//! A crash at every step that a peer says it takes: whatever it dies in the middle of, it opens its files soundly, has
//! lost nothing that it acknowledged, uses no number twice, and becomes equal.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use starling::rig::{Limit, Point};
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::models::{Location, Tag};
use starling_schema::value::Fields;
use starling_tests::check;
use starling_tests::sim::{Cluster, FakeMember, Node};

use crate::{LATER, SOON};

/// Local commits, each committed, noted, answered and broadcast.
const COMMIT: [Point; 9] = [
    Point::BeforeBegin,
    Point::AfterBegin,
    Point::BetweenRowsAndLog,
    Point::BeforeCommit,
    Point::AfterCommit,
    Point::AfterNote,
    Point::BeforeAnswer,
    Point::BeforeBroadcast,
    Point::AfterBroadcast,
];

/// What comes from peers and goes to them.
const APPLY: [Point; 11] = [
    Point::BeforeApply,
    Point::AfterApply,
    Point::BeforeFlush,
    Point::AfterFlush,
    Point::BeforeAck,
    Point::AfterAck,
    Point::GapSeen,
    Point::PageServed,
    Point::Parked,
    Point::Released,
    Point::BufferOverflow,
];

const PRUNE: [Point; 2] = [Point::BeforePrune, Point::AfterPrune];

const JOIN: [Point; 6] = [
    Point::BeforeSwap,
    Point::InSwap,
    Point::AfterSwap,
    Point::SnapshotStarted,
    Point::SnapshotPage,
    Point::SnapshotEnded,
];

const SEND: [Point; 2] = [Point::DeadLetter, Point::DeadLetterRevived];

/// A device that is going to die, another one, and what the first acknowledged while it lived.
struct Story<'a> {
    cluster: &'a Cluster,
    victim: Node,
    other: Node,
    tags: RefCell<Vec<RecordId>>,
    locations: RefCell<Vec<RecordId>>,
    has_joined: Cell<bool>,
}

impl Story<'_> {
    fn is_over(&self) -> bool {
        self.victim.interference().has_crashed()
    }

    /// A tag and a location of the victim. What is acknowledged before the crash must outlive it.
    async fn commit(&self) {
        let [tag, location] = [self.victim.new_id(), self.victim.new_id()];
        let tagged = Write::put(Tag::MODEL, tag, Fields::new().with(Tag::NAME, "tag"));
        if self.victim.try_commit(vec![tagged]).await.is_ok() && !self.is_over() {
            self.tags.borrow_mut().push(tag);
        }
        let located = Write::put(Location::MODEL, location, Fields::new().with(Location::NAME, "location"));
        if self.victim.try_commit(vec![located]).await.is_ok() && !self.is_over() {
            self.locations.borrow_mut().push(location);
        }
    }

    /// The other device makes something.
    async fn other_commits(&self) {
        self.other.add_tag("of the other").await;
        self.other.add_location("of the other").await;
    }

    async fn join(&self) {
        let ticket = self.other.ticket(Duration::from_mins(10)).await;
        let joined = self.victim.join_with(&ticket).await.is_ok();
        self.has_joined.set(joined && !self.is_over());
    }

    /// Everyday work: both commit, one misses a change and hears the next, each catches up with the other, all is pruned.
    async fn work(&self) {
        self.commit().await;
        self.other_commits().await;
        self.cluster.pass(SOON).await;
        self.cluster.cut(&self.other, &self.victim).await;
        self.other_commits().await;
        self.cluster.pass(Duration::from_secs(2)).await;
        self.cluster.heal().await;
        self.other_commits().await;
        self.cluster.pass(SOON).await;
        self.cluster.unplug(&self.other).await;
        self.commit().await;
        self.other_commits().await;
        self.cluster.pass(Duration::from_secs(20)).await;
        self.commit().await;
        self.cluster.heal().await;
        self.cluster.pass(SOON).await;
    }

    /// The other device's clock is ahead, and time passes until that is right.
    async fn await_the_future(&self) {
        self.other.skew_ms(3_600_000);
        self.other_commits().await;
        self.cluster.pass(SOON).await;
        self.other.skew_ms(0);
        self.cluster.skip(Duration::from_hours(2));
        self.cluster.pass(LATER).await;
    }

    /// More comes ahead of its turn than the victim has room for.
    async fn overflow(&self) {
        self.victim.interference().limit(Limit::BufferBytes, 2 << 20);
        self.victim.restart().await;
        self.cluster.pass(SOON).await;
        self.cluster.cut(&self.other, &self.victim).await;
        self.other_commits().await;
        self.cluster.pass(Duration::from_secs(2)).await;
        self.cluster.heal().await;
        let text = "long ".repeat(6_000);
        for _ in 0..40 {
            let long = Fields::new().with(Tag::NAME, text.as_str()).with(Tag::DESCRIPTION, &text[..15_000]);
            self.other.commit(vec![Write::put(Tag::MODEL, self.other.new_id(), long)]).await;
        }
        self.cluster.pass(SOON).await;
    }

    /// A member refuses what it is sent until it is given up, and comes back in a better mood.
    async fn send_in_vain(&self) {
        let (fake, key) = FakeMember::join(self.cluster, &self.victim, 1).await;
        fake.refuse_batches(Some("no"));
        self.commit().await;
        self.cluster.pass(Duration::from_mins(2)).await;
        fake.refuse_batches(None);
        fake.disconnect(key).await;
        self.cluster.pass(Duration::from_mins(1)).await;
        fake.close().await;
        fake.disconnect(key).await;
        // It never says how far it is: it must not hold the logs of the others for ever.
        self.cluster.pass(SOON).await;
        self.other.peer().remove_device(fake.key().device()).await.unwrap();
    }

    /// What must hold once the victim runs again.
    async fn check(&self) {
        let Self { cluster, victim, other, .. } = self;
        check::intact(victim).await;
        if victim.peer().library() != other.peer().library() {
            assert!(!self.has_joined.get(), "it had joined");
            victim.join(other).await;
        }
        cluster.heal().await;
        cluster.settle(LATER).await;
        let new = (victim.add_tag("after").await, victim.add_location("after").await);
        cluster.settle(LATER).await;
        let (mut tags, mut locations) = (self.tags.take(), self.locations.take());
        tags.push(new.0);
        locations.push(new.1);
        for node in [victim, other] {
            for tag in &tags {
                assert!(node.get::<Tag>(*tag).await.is_some(), "{} lacks {tag}", node.name());
            }
            for location in &locations {
                assert_eq!(node.owner::<Location>(*location).await, Some(victim.id()));
            }
        }
        cluster.until_pruned(LATER).await;
    }
}

/// Has a device die where it passes a point once more after `before` times, and checks what must hold once it runs
/// again. Says whether it came there.
fn dies(point: Point, before: u32, is_member: bool) -> bool {
    Cluster::run(620, async |cluster| {
        let [other, victim] = if is_member {
            cluster.library(["other", "victim"]).await
        } else {
            [cluster.device("other").await, cluster.device("victim").await]
        };
        let (tags, locations, has_joined) = (RefCell::default(), RefCell::default(), Cell::new(is_member));
        let story = Story { cluster, victim, other, tags, locations, has_joined };
        if !is_member {
            story.other.interference().limit(Limit::SnapshotRows, 50);
            story.other.restart().await;
            story.other.add_tags(200).await;
            story.other.add_file().await;
            cluster.pass(SOON).await;
        }
        story.victim.interference().crash_at(point, before);
        match point {
            Point::Parked | Point::Released => story.await_the_future().await,
            Point::BufferOverflow => story.overflow().await,
            Point::DeadLetter | Point::DeadLetterRevived => story.send_in_vain().await,
            _ if is_member => story.work().await,
            _ => {
                story.join().await;
                cluster.pass(SOON).await;
            }
        }
        let Some(image) = story.victim.interference().take_image() else { return false };
        story.victim.die_to(&image).await;
        story.victim.start().await;
        story.check().await;
        true
    })
}

fn dies_at_each(points: &[Point], is_member: bool, rounds: &[u32]) {
    for point in points {
        for before in rounds {
            let was_there = dies(*point, *before, is_member);
            assert!(was_there || *before > 0, "nothing leads to {point}");
        }
    }
}

#[test]
fn a_device_that_dies_at_any_step_of_a_commit_has_what_it_acknowledged_and_becomes_equal() {
    dies_at_each(&COMMIT, true, &[0, 3, 8]);
}

#[test]
fn a_device_that_dies_at_any_step_of_applying_has_what_it_acknowledged_and_becomes_equal() {
    dies_at_each(&APPLY, true, &[0, 2]);
}

#[test]
fn a_device_that_dies_before_or_after_pruning_has_what_it_acknowledged_and_becomes_equal() {
    dies_at_each(&PRUNE, true, &[0, 2]);
}

#[test]
fn a_device_that_dies_at_any_step_of_joining_is_in_one_library_whole_and_becomes_equal() {
    dies_at_each(&JOIN, false, &[0, 1]);
    // What a join commits, too.
    dies_at_each(&[Point::BeforeBegin, Point::BeforeCommit, Point::AfterCommit], false, &[0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_device_that_dies_where_a_send_is_given_up_or_taken_up_again_becomes_equal() {
    dies_at_each(&SEND, true, &[0]);
}

#[test]
fn every_step_that_a_peer_says_it_takes_is_one_where_a_device_dies_in_a_test() {
    let tested: BTreeSet<Point> = [&COMMIT[..], &APPLY, &PRUNE, &JOIN, &SEND].concat().into_iter().collect();
    assert_eq!(tested, Point::ALL.iter().copied().collect());
}

#[test]
fn a_crash_between_rows_and_log_leaves_neither_and_one_after_the_commit_both() {
    for (point, is_there) in [
        (Point::AfterBegin, false),
        (Point::BetweenRowsAndLog, false),
        (Point::BeforeCommit, false),
        (Point::AfterCommit, true),
        (Point::BeforeAnswer, true),
    ] {
        Cluster::run(621, async |cluster| {
            let [a, b] = cluster.library(["a", "b"]).await;
            cluster.until_pruned(LATER).await;
            cluster.unplug(&b).await;
            a.add_tags(100).await;
            a.interference().crash_at(point, 0);
            a.add_tags(50).await;
            let image = a.interference().take_image().unwrap();
            a.die_to(&image).await;
            a.start().await;
            let expected = if is_there { 150 } else { 100 };
            let head = a.peer().heads().await.unwrap().shared_head;
            assert_eq!((a.count::<Tag>().await, a.status().await.log.entries, head), (expected, expected, expected));
            cluster.heal().await;
            cluster.settle(LATER).await;
        });
    }
}

#[test]
fn what_was_acked_to_peers_outlives_a_power_cut_though_they_have_forgotten_it() {
    Cluster::run(622, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        cluster.until_pruned(LATER).await;
        b.interference().keep_synced();
        for round in 0..5 {
            let tag = a.add_tag(&round.to_string()).await;
            let location = a.add_location(&round.to_string()).await;
            // Once it is pruned, b has said that it keeps it: a will not send it again.
            cluster.pass(Duration::from_millis(200)).await;
            cluster.until_pruned(LATER).await;
            let left = b.interference().take_synced();
            cluster.unplug(&a).await;
            b.die_to(&left).await;
            b.start().await;
            assert!(b.get::<Tag>(tag).await.is_some() && b.get::<Location>(location).await.is_some());
            check::intact(&b).await;
            cluster.heal().await;
            cluster.settle(LATER).await;
            b.interference().keep_synced();
        }
    });
}
