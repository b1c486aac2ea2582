//! Devices that freeze, die and are parted.

use std::time::{Duration, Instant};

use starling_tests::process::{Database, Device, Folder, Place, agree, eventually, found, join, paths_of, text};

/// How long one call may take while a member does not answer.
const CALL_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn two_devices_stay_current_and_quick_while_the_third_is_frozen() {
    let place = Place::new();
    let (mut a, mut b, mut c) = (place.device("A"), place.device("B"), place.device("C"));
    a.up();
    join(&a, &mut b);
    join(&a, &mut c);
    agree(&[&a, &b, &c]);
    c.freeze();

    let mut slowest = Duration::ZERO;
    for number in 0..20 {
        let (editor, reader) = if number % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let name = format!("tag {number}");
        let edit = editor.run(&["tag", "new", &name]);
        let id = edit.document()["id"].clone();
        slowest = slowest.max(edit.took);
        let made = Instant::now();
        loop {
            let listed = reader.run(&["tag", "ls"]);
            slowest = slowest.max(listed.took);
            let tags = listed.document();
            if tags["tags"].as_array().unwrap().iter().any(|tag| tag["id"] == id && tag["name"] == name.as_str()) {
                break;
            }
            assert!(made.elapsed() < Duration::from_secs(5), "{name} does not show on {}", reader.name());
        }
        slowest = slowest.max(editor.run(&["status"]).took);
    }
    assert!(slowest < CALL_WITHIN, "a call took {slowest:?}");
    assert_eq!(a.ask(&["digest"]), b.ask(&["digest"]));

    c.thaw();
    agree(&[&a, &b, &c]);
    assert_eq!(c.ask(&["tag", "ls"])["tags"].as_array().unwrap().len(), 20);
}

#[test]
fn what_was_acknowledged_survives_being_killed_in_the_middle_of_it() {
    let place = Place::new();
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    join(&a, &mut b);
    agree(&[&a, &b]);

    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0_u64..4 {
        let edits: Vec<_> = (0..8).map(|number| format!("tag {round}.{number}")).collect();
        let running: Vec<_> = edits.iter().map(|name| b.spawn(&["tag", "new", name])).collect();
        std::thread::sleep(Duration::from_millis(20 + 30 * round));
        b.kill();
        for (name, edit) in edits.iter().zip(running) {
            if edit.finish().code == Some(0) {
                acknowledged.push(name.clone());
            }
        }
        assert_eq!(Database::of(b.data()).integrity(), ["ok"]);
        b.up();
        let tags = b.ask(&["tag", "ls"]);
        let names: Vec<&str> = tags["tags"].as_array().unwrap().iter().filter_map(|tag| tag["name"].as_str()).collect();
        let lost: Vec<&String> = acknowledged.iter().filter(|name| !names.contains(&name.as_str())).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
    b.ask(&["tag", "new", "after all"]);
    agree(&[&a, &b]);
    assert_eq!(a.ask(&["tag", "ls"]), b.ask(&["tag", "ls"]));
    for device in [&mut a, &mut b] {
        device.stop();
        assert_eq!(Database::of(device.data()).integrity(), ["ok"]);
    }
}

#[test]
fn a_device_killed_while_it_indexes_has_the_whole_folder_after_its_next_start() {
    const FILES: i64 = 20_000;
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), usize::try_from(FILES).unwrap());
    let mut a = place.device("A");
    a.up();
    let adding = a.spawn(&["add", text(folder.path())]);
    let database = Database::of(a.data());
    eventually("the first entries are there", || database.rows("entry").filter(|rows| *rows > 0));
    a.kill();
    assert_ne!(adding.finish().code, Some(0), "the scan was cut short");
    let rows = database.rows("entry").unwrap();
    assert!(rows < FILES, "the kill came too late to prove anything: {rows} entries were there");
    assert_eq!(database.integrity(), ["ok"]);

    a.up();
    a.ask(&["rescan"]);
    // In parts, each of fewer than are shown at once.
    let named = ["hidden", "caf", "name_"].map(str::to_owned).into_iter().chain((0..10).map(|it| format!("{it}.txt")));
    let mut rows: Vec<_> = named.flat_map(|part| found(&a, &["--kind", "file", &part])).collect();
    rows.extend(["directory", "symlink"].iter().flat_map(|kind| found(&a, &["--kind", kind])));
    assert_eq!(paths_of(&rows), folder.listing());
}

#[test]
fn a_backfill_that_is_killed_goes_on_where_it_was_and_ends_equal() {
    const FILES: usize = 20_000;
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), FILES);
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    a.ask(&["add", text(folder.path())]);
    join(&a, &mut b);
    let database = Database::of(b.data());
    let mut seen = 0;
    for _ in 0..3 {
        let rows = eventually("entries arrive", || database.rows("entry").filter(|rows| *rows > seen));
        b.kill();
        assert_eq!(database.integrity(), ["ok"]);
        let kept = database.rows("entry").unwrap();
        assert!(kept >= rows, "{kept} of {rows} entries were kept");
        if usize::try_from(kept).unwrap() >= FILES {
            assert_ne!(seen, 0, "the first kill came too late to prove anything");
            break;
        }
        seen = kept;
        b.up();
    }
    if !b.is_up() {
        b.up();
    }
    agree(&[&a, &b]);
    assert_eq!(database.rows("entry"), Database::of(a.data()).rows("entry"));
    assert_eq!(usize::try_from(database.rows("entry").unwrap()).unwrap(), folder.listing().len());
}

#[test]
fn edits_of_both_sides_of_a_partition_are_on_both_when_it_heals() {
    let place = Place::new();
    let (mut a, mut b, mut c) = (place.device("A"), place.device("B"), place.device("C"));
    a.up();
    join(&a, &mut b);
    join(&a, &mut c);
    agree(&[&a, &b, &c]);
    let edit = |device: &Device, side: &str| {
        for number in 0..5 {
            device.ask(&["tag", "new", &format!("{side} {number}")]);
        }
    };
    // A alone, killed; then B and C without it; then all.
    b.stop();
    c.stop();
    edit(&a, "left");
    a.kill();
    b.up();
    c.up();
    edit(&b, "right");
    agree(&[&b, &c]);
    a.up();
    agree(&[&a, &b, &c]);
    for device in [&a, &b, &c] {
        let tags = device.ask(&["tag", "ls"]);
        let names: Vec<&str> = tags["tags"].as_array().unwrap().iter().filter_map(|tag| tag["name"].as_str()).collect();
        let expected: Vec<String> =
            (0..5).map(|n| format!("left {n}")).chain((0..5).map(|n| format!("right {n}"))).collect();
        assert_eq!(names, expected, "on {}", device.name());
    }
}
