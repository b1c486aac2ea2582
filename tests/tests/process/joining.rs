//! Killed while joining.

use std::time::Duration;

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use starling_tests::process::{Database, Device, Folder, Place, agree, index, invite};

/// Changing it changes when the devices are killed.
const SEED: u64 = 56;

/// How long a join takes at most before the kill comes too late.
const JOIN_MS_MAX: u64 = 500;

/// How many devices join, each killed at another moment.
const GUESTS: usize = 5;

/// A device with some thousand rows, and its library.
fn host(place: &Place) -> (Device, Value) {
    let folder = Folder::with_files(&place.path().join("host files"), 3_000);
    let mut host = place.device("host");
    let library = host.up()["library"]["id"].clone();
    index(&host, &folder);
    (host, library)
}

/// Joins, is killed meanwhile and started again; has joined or not, and joins again with the same ticket if not.
fn join_killed(host: &Device, library: &Value, guest: &mut Device, more: &[&str], after: Duration) {
    let own = guest.ask(&["status"])["library"]["id"].clone();
    let ticket = invite(host);
    let arguments = [&["join", &ticket], more].concat();
    let joining = guest.spawn(&arguments);
    std::thread::sleep(after);
    guest.kill();
    let told = joining.finish().code == Some(0);
    assert_eq!(Database::of(guest.data()).integrity(), ["ok"], "killed after {after:?}");
    guest.up();
    let now = guest.ask(&["status"])["library"]["id"].clone();
    eprintln!("{}, killed after {after:?}: told {told}, joined {}", guest.name(), now == *library);
    assert!(now == *library || (now == own && !told), "killed after {after:?}: it is in {now}");
    if now != *library {
        guest.ask(&arguments);
    }
}

/// All become equal and sound.
fn end(mut devices: Vec<Device>) {
    agree(&devices.iter().collect::<Vec<_>>());
    for device in &mut devices {
        device.stop();
        assert_eq!(Database::of(device.data()).integrity(), ["ok"]);
    }
}

#[test]
fn a_device_killed_while_it_joins_has_joined_or_not_and_then_ends_equal() {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let place = Place::new();
    let (host, library) = host(&place);
    let mut guests = Vec::new();
    for number in 0..GUESTS {
        let mut guest = place.device(&format!("guest {number}"));
        guest.up();
        let after = Duration::from_millis(rng.random_range(0..JOIN_MS_MAX));
        join_killed(&host, &library, &mut guest, &[], after);
        guests.push(guest);
    }
    guests.push(host);
    end(guests);
}

#[test]
fn what_a_device_takes_along_survives_being_killed_while_it_joins() {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let place = Place::new();
    let (host, library) = host(&place);
    let folder = Folder::with_files(&place.path().join("guest files"), 300);
    let (mut guests, mut tags) = (Vec::new(), Vec::new());
    for number in 0..GUESTS {
        let mut guest = place.device(&format!("guest {number}"));
        guest.up();
        index(&guest, &folder);
        tags.push(format!("of guest {number}"));
        guest.ask(&["tag", "new", &tags[number]]);
        let after = Duration::from_millis(rng.random_range(0..JOIN_MS_MAX));
        join_killed(&host, &library, &mut guest, &["--merge"], after);
        guests.push(guest);
    }
    guests.push(host);
    agree(&guests.iter().collect::<Vec<_>>());
    let listed = guests[0].ask(&["tag", "ls"]);
    let names: Vec<&str> = listed["tags"].as_array().unwrap().iter().filter_map(|tag| tag["name"].as_str()).collect();
    assert_eq!(names, tags);
    end(guests);
}
