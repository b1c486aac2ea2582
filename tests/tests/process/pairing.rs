//! Tickets, and what becomes of a device's own library when it joins another.

use std::time::Duration;

use serde_json::{Value, json};
use starling::proto::pairing::Ticket;
use starling_tests::process::{Device, Folder, Place, agree, eventually, found, index, invite, join, paths_of, text};

/// A device with a library and another that wants to join it, both up.
fn host_and_guest(place: &Place) -> (Device, Device) {
    let (mut host, mut guest) = (place.device("A"), place.device("B"));
    host.up();
    guest.up();
    (host, guest)
}

/// That a device is a member of nothing but its own library.
fn assert_alone(device: &Device, library: &Value) {
    let status = device.ask(&["status"]);
    assert_eq!((&status["library"]["id"], &status["peers"]), (library, &json!([])));
}

#[test]
fn a_ticket_lets_one_device_in_and_no_second() {
    let place = Place::new();
    let (a, b) = host_and_guest(&place);
    let mut late = place.device("late");
    let own = late.up()["library"]["id"].clone();
    let ticket = invite(&a);
    b.ask(&["join", &ticket]);
    let refusal = late.refused(12, &["join", &ticket]);
    assert_eq!(refusal.kind, "pairing_refused");
    assert!(refusal.message.contains("used"), "{refusal:?}");
    assert!(refusal.hint.is_some_and(|hint| hint.contains("starling invite")));
    assert_alone(&late, &own);
    agree(&[&a, &b]);
    assert_eq!(a.ask(&["devices", "ls"])["devices"].as_array().unwrap().len(), 2);
}

#[test]
fn a_used_ticket_is_refused_also_while_another_is_open() {
    let place = Place::new();
    let (a, b) = host_and_guest(&place);
    let mut late = place.device("late");
    late.up();
    let (used, open) = (invite(&a), invite(&a));
    b.ask(&["join", &used]);
    let refusal = late.refused(12, &["join", &used]);
    assert!(refusal.message.contains("used"), "{refusal:?}");
    late.ask(&["join", &open]);
    agree(&[&a, &b, &late]);
}

#[test]
fn an_altered_ticket_is_refused_before_anybody_is_asked() {
    let place = Place::new();
    let (a, b) = host_and_guest(&place);
    let own = b.ask(&["status"])["library"]["id"].clone();
    let ticket = invite(&a);
    let middle = ticket.len() / 2;
    let other = if &ticket[middle..=middle] == "a" { "b" } else { "a" };
    let slipped = format!("{}{other}{}", &ticket[..middle], &ticket[middle + 1..]);
    for altered in [slipped.as_str(), &ticket[..middle]] {
        let refusal = b.refused(12, &["join", altered]);
        assert_eq!(refusal.kind, "pairing_refused");
        assert!(refusal.message.contains("altered or cut off"), "{refusal:?}");
    }
    assert_alone(&b, &own);
}

#[test]
fn a_ticket_with_another_secret_is_refused_by_the_inviter() {
    let place = Place::new();
    let (a, b) = host_and_guest(&place);
    let own = b.ask(&["status"])["library"]["id"].clone();
    let mut forged: Ticket = invite(&a).parse().unwrap();
    forged.secret[0] ^= 1;
    let refusal = b.refused(12, &["join", &forged.to_string()]);
    assert_eq!(refusal.kind, "pairing_refused");
    assert!(refusal.message.contains("not valid"), "{refusal:?}");
    assert_alone(&b, &own);
    assert_eq!(a.ask(&["devices", "ls"])["devices"].as_array().unwrap().len(), 1);
}

#[test]
fn an_expired_ticket_is_refused_and_so_is_one_whose_date_was_changed() {
    let place = Place::new();
    let (a, b) = host_and_guest(&place);
    let own = b.ask(&["status"])["library"]["id"].clone();
    // Another ticket is open, so that the inviter hears strangers at all.
    let _other = invite(&a);
    let ticket = a.ask(&["invite", "--expires", "500ms"])["ticket"].as_str().unwrap().to_owned();
    std::thread::sleep(Duration::from_millis(600));
    let mut prolonged: Ticket = ticket.parse().unwrap();
    prolonged.expires_at_ms += 600_000;
    for late in [ticket, prolonged.to_string()] {
        let refusal = b.refused(12, &["join", &late]);
        assert_eq!(refusal.kind, "pairing_refused");
        assert!(refusal.message.contains("expired"), "{refusal:?}");
    }
    assert_alone(&b, &own);
}

#[test]
fn an_expired_ticket_is_refused_also_when_no_other_is_open() {
    let place = Place::new();
    let (a, b) = host_and_guest(&place);
    let ticket = a.ask(&["invite", "--expires", "500ms"])["ticket"].as_str().unwrap().to_owned();
    std::thread::sleep(Duration::from_millis(600));
    let refusal = b.refused(12, &["join", &ticket]);
    assert!(refusal.message.contains("expired"), "{refusal:?}");
}

#[test]
fn what_is_no_ticket_is_said_to_be_none() {
    let place = Place::new();
    let mut b = place.device("B");
    let own = b.up()["library"]["id"].clone();
    for garbage in ["nonsense", "starling", "starlin1abc", "https://example.org/starling1"] {
        let refusal = b.refused(12, &["join", garbage]);
        assert_eq!(refusal.kind, "pairing_refused");
        assert!(refusal.message.contains("not a ticket"), "{refusal:?}");
    }
    assert_alone(&b, &own);
    let mut fresh = place.device("fresh");
    assert_eq!(fresh.up_refused(&["--join", "nonsense"]).refusal(12).kind, "pairing_refused");
    fresh.up();
}

#[test]
fn an_inviter_that_is_gone_is_named_as_the_reason() {
    let place = Place::new();
    let (mut a, b) = host_and_guest(&place);
    let ticket = invite(&a);
    a.kill();
    let refusal = b.refused(1, &["join", &ticket]);
    assert_eq!(refusal.kind, "failed");
    assert!(refusal.message.contains("cannot be reached"), "{refusal:?}");
}

#[test]
fn a_device_started_again_with_its_old_ticket_is_a_member_as_before() {
    let place = Place::new();
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    let ticket = invite(&a);
    b.up_with(&["--join", &ticket]);
    agree(&[&a, &b]);
    b.stop();
    b.up_with(&["--join", &ticket]);
    agree(&[&a, &b]);
    let refusal = b.refused(1, &["join", &invite(&a)]);
    assert!(refusal.message.contains("already"), "{refusal:?}");
}

/// A guest that has indexed a folder and tagged a file of it.
fn guest_with_data(place: &Place) -> (Device, Device, Folder) {
    let (a, b) = host_and_guest(place);
    let folder = Folder::with_files(&place.path().join("photos"), 250);
    index(&b, &folder);
    b.ask(&["tag", "new", "mine", "--tint", "#123456"]);
    b.ask(&["tag", "add", "mine", text(&folder.join("file 1.txt"))]);
    (a, b, folder)
}

#[test]
fn a_device_with_data_joins_only_when_it_is_told_to_merge() {
    let place = Place::new();
    let (a, b, _folder) = guest_with_data(&place);
    let before = (b.ask(&["status"])["library"]["id"].clone(), b.ask(&["digest"]));
    let ticket = invite(&a);
    let refusal = b.refused(1, &["join", &ticket]);
    assert!(refusal.message.contains("--merge"), "{refusal:?}");
    assert_alone(&b, &before.0);
    assert_eq!(b.ask(&["digest"]), before.1, "nothing was changed");
    b.ask(&["join", &ticket, "--merge"]);
}

#[test]
fn merging_takes_locations_entries_and_tags_along() {
    let place = Place::new();
    let (a, mut b, folder) = guest_with_data(&place);
    a.ask(&["tag", "new", "theirs"]);
    let library = a.ask(&["status"])["library"]["id"].clone();
    let joined = b.ask(&["join", &invite(&a), "--merge"]);
    assert_eq!((&joined["library"]["id"], &joined["devices"]), (&library, &json!(2)));
    agree(&[&a, &b]);
    for device in [&a, &b] {
        let names = device.ask(&["tag", "ls"]);
        let names: Vec<&Value> = names["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
        assert_eq!(names, ["mine", "theirs"], "on {}", device.name());
        assert_eq!(paths_of(&found(device, &["--device", "B"])), folder.listing(), "on {}", device.name());
        assert_eq!(found(device, &["--tag", "mine"])[0]["path"], text(&folder.join("file 1.txt")));
        assert_eq!(device.ask(&["locations"])["locations"][0]["path"], text(folder.path()));
    }
    // The folder is watched in the joined library too, also after a restart.
    std::fs::write(folder.join("after.txt"), "after").unwrap();
    eventually("A shows the new file", || (!found(&a, &["after.txt"]).is_empty()).then_some(()));
    b.stop();
    b.up();
    agree(&[&a, &b]);
    assert_eq!(paths_of(&found(&a, &["--device", "B"])), folder.listing());
}

#[test]
fn members_that_moved_find_each_other_through_one_that_did_not() {
    let place = Place::new();
    let (mut a, mut b, mut c) = (place.device("A"), place.device("B"), place.device("C"));
    a.up();
    join(&a, &mut b);
    join(&b, &mut c);
    agree(&[&a, &b, &c]);
    a.stop();
    b.stop();
    c.stop();
    // A stays where it was; the others listen elsewhere, so they must dial A, and hear of each other there.
    a.up();
    let elsewhere = ["--listen", "/ip4/127.0.0.1/tcp/0"];
    b.up_with(&elsewhere);
    c.up_with(&elsewhere);
    agree(&[&a, &b, &c]);
}
