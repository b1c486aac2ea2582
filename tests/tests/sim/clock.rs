//! Time: stamps rise whatever wall clocks do, and a clock that is off harms nobody.

use std::time::Duration;

use starling::status::LibraryState;
use starling_schema::change::Write;
use starling_schema::ids::RecordId;
use starling_schema::models::{Location, Tag};
use starling_schema::value::Fields;
use starling_tests::check;
use starling_tests::sim::{Cluster, Node};

use crate::{LATER, SOON};

/// The stamp of the name of a tag, as milliseconds and counter.
async fn stamp(node: &Node, tag: RecordId) -> (u64, u64) {
    let id = format!("\"id\":\"{tag}\"");
    let line = check::dump(node).await.into_iter().find(|line| line.contains(&id)).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let (time, _) = line["fields"]["name"]["hlc"].as_str().unwrap().split_once('@').unwrap();
    let (wall_ms, counter) = time.split_once('.').unwrap();
    (wall_ms.parse().unwrap(), counter.parse().unwrap())
}

#[test]
fn stamps_never_repeat_or_go_back_through_one_millisecond_a_clock_set_back_and_a_restart() {
    Cluster::run(301, async |cluster| {
        let a = cluster.device("a").await;
        let tag = a.add_tag("start").await;
        let mut stamps = vec![stamp(&a, tag).await];
        let mut rename = async |name: &str| {
            a.set::<Tag>(tag, Tag::NAME, name).await;
            stamps.push(stamp(&a, tag).await);
        };
        rename("the same millisecond").await;
        a.skew_ms(-3_600_000);
        rename("an hour back").await;
        a.restart().await;
        rename("a restart").await;
        a.kill().await;
        a.start().await;
        rename("a crash").await;
        a.skew_ms(-100 * 365 * 86_400_000);
        rename("a century back").await;
        assert!(stamps.is_sorted_by(|one, two| one < two), "{stamps:?}");
    });
}

#[test]
fn the_counter_of_a_millisecond_overflows_into_the_next_one() {
    Cluster::run(302, async |cluster| {
        let a = cluster.device("a").await;
        let mut last = (0, 0);
        for _ in 0..70 {
            let tags = a.add_tags(1_000).await;
            let next = stamp(&a, tags[999]).await;
            assert!(next > last, "{next:?} after {last:?}");
            last = next;
        }
        assert!(last.1 < 70_000 - 65_536, "{last:?}");
    });
}

#[test]
fn the_next_edit_of_b_wins_over_what_it_saw_of_a_peer_whose_clock_is_minutes_ahead() {
    Cluster::run(303, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        a.skew_ms(4 * 60_000);
        let tag = a.add_tag("ahead").await;
        cluster.settle(SOON).await;
        b.set::<Tag>(tag, Tag::NAME, "later").await;
        cluster.settle(SOON).await;
        assert_eq!((a.tag_name(tag).await.unwrap(), a.conflicts().await), ("later".to_owned(), vec![]));
    });
}

#[test]
fn a_stamp_ten_years_ahead_is_parked_its_author_named_and_applied_when_time_allows() {
    const TEN_YEARS_MS: i64 = 10 * 365 * 86_400_000;
    Cluster::run(304, async |cluster| {
        let [a, b] = cluster.library(["traveller", "b"]).await;
        a.skew_ms(TEN_YEARS_MS);
        let tag = a.add_tag("from the future").await;
        cluster.pass(SOON).await;
        let status = b.status().await;
        assert_eq!((b.tag_name(tag).await, status.queues.parked), (None, 1));
        let ours = b.add_tag("now").await;
        assert_eq!(stamp(&b, ours).await.0 / 86_400_000, 1_767_225_600_000 / 86_400_000);
        let reason = status.verdict.reason;
        assert!(reason.contains("traveller"), "{reason}");
        b.restart().await;
        b.skew_ms(TEN_YEARS_MS);
        cluster.pass(LATER).await;
        assert_eq!((b.tag_name(tag).await.unwrap(), b.status().await.queues.parked), ("from the future".to_owned(), 0));
        cluster.settle(LATER).await;
    });
}

#[test]
fn what_is_parked_counts_as_held_not_as_missing() {
    Cluster::run(307, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        a.skew_ms(3_600_000);
        a.add_tag("an hour ahead").await;
        cluster.pass(Duration::from_mins(1)).await;
        let status = b.status().await;
        assert_eq!((status.queues.parked, status.library.state), (1, LibraryState::Ready));
    });
}

#[test]
fn what_is_parked_is_neither_fetched_again_nor_a_dead_letter() {
    Cluster::run(308, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        a.skew_ms(3_600_000);
        a.add_tag("an hour ahead").await;
        cluster.pass(Duration::from_mins(1)).await;
        let asked = cluster.report().await.tally(b.number()).requests_of("shared_change_request");
        cluster.pass(Duration::from_mins(20)).await;
        assert_eq!(cluster.report().await.tally(b.number()).requests_of("shared_change_request"), asked);
        assert_eq!(a.status().await.queues.dead_letters, 0);
    });
}

#[test]
fn items_of_a_snapshot_stamped_ahead_are_parked_passed_on_and_merged_when_time_allows() {
    Cluster::run(309, async |cluster| {
        let a = cluster.device("traveller").await;
        let [ours, theirs] = [a.add_tag("now").await, a.add_tag("before").await];
        a.skew_ms(3_600_000);
        a.set::<Tag>(theirs, Tag::NAME, "an hour ahead").await;
        cluster.pass(SOON).await;
        assert_eq!(a.status().await.log.entries, 0, "the rest comes by snapshot");
        let b = cluster.device("b").await;
        b.join(&a).await;
        cluster.pass(SOON).await;
        a.stop().await;
        let c = cluster.device("c").await;
        c.join(&b).await;
        cluster.pass(SOON).await;
        for node in [&b, &c] {
            assert_eq!((node.tag_name(ours).await.unwrap(), node.tag_name(theirs).await), ("now".to_owned(), None));
            let status = node.status().await;
            assert_eq!(status.queues.parked, 1);
            assert!(status.verdict.reason.contains("traveller"), "{}", status.verdict.reason);
            let write = Write::patch(Tag::MODEL, theirs, Fields::new().with(Tag::NAME, "too early"));
            let refused = node.try_commit(vec![write]).await.unwrap_err();
            assert!(refused.to_string().contains("clock is ahead"), "{refused}");
        }
        b.restart().await;
        a.start().await;
        cluster.skip(Duration::from_hours(2));
        cluster.settle(LATER).await;
        for node in [&a, &b, &c] {
            assert_eq!(node.tag_name(theirs).await.unwrap(), "an hour ahead");
            assert_eq!(node.status().await.queues.parked, 0);
        }
        c.set::<Tag>(theirs, Tag::NAME, "late enough").await;
        cluster.settle(LATER).await;
    });
}

#[test]
fn what_is_parked_of_one_device_has_a_bound_and_the_rest_comes_later() {
    Cluster::run(310, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        a.skew_ms(3_600_000);
        a.add_tags(12_000).await;
        cluster.pass(LATER).await;
        let status = b.status().await;
        assert_eq!((status.queues.parked, b.count::<Tag>().await), (10_000, 0));
        assert_eq!(status.library.state, LibraryState::CatchingUp { missing: 2_000 });
        let asked = async || cluster.report().await.tally(b.number()).requests_of("shared_change_request");
        let before = asked().await;
        cluster.pass(Duration::from_mins(10)).await;
        assert!((9..=11).contains(&(asked().await - before)), "the rest is asked for once a minute");
        b.restart().await;
        cluster.skip(Duration::from_hours(2));
        cluster.settle(LATER).await;
        assert_eq!(b.count::<Tag>().await, 12_000);
    });
}

#[test]
fn device_owned_rows_do_not_wait_for_a_clock_that_is_a_day_off() {
    Cluster::run(305, async |cluster| {
        let [a, b] = cluster.library(["a", "b"]).await;
        for skew_ms in [86_400_000, -86_400_000] {
            a.skew_ms(skew_ms);
            let location = a.add_location("anytime").await;
            cluster.pass(Duration::from_secs(5)).await;
            assert!(b.get::<Location>(location).await.is_some());
        }
    });
}

#[test]
fn devices_a_day_apart_that_meet_through_a_third_are_equal_once_clocks_are_in_range() {
    Cluster::run(306, async |cluster| {
        let [a, b, c] = cluster.library(["a", "b", "c"]).await;
        let line = [a.number(), b.number(), c.number()];
        cluster.network().change(move |conditions| conditions.line(&line)).await;
        a.skew_ms(86_400_000);
        c.skew_ms(-86_400_000);
        for node in [&a, &b, &c] {
            node.add_tag(node.name()).await;
            node.add_location(node.name()).await;
        }
        cluster.pass(LATER).await;
        for node in [&a, &b, &c] {
            assert_eq!(node.count::<Location>().await, 3);
        }
        cluster.skip(Duration::from_hours(48));
        cluster.settle(LATER).await;
        assert_eq!(c.count::<Tag>().await, 3);
    });
}
