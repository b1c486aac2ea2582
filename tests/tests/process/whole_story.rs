//! The main job on a real folder, from the first start to a device that comes back.

use starling_tests::process::{Folder, Place, agree, entry_id, eventually, found, index, invite, join, paths_of, text};

#[test]
fn a_folder_indexed_on_one_device_is_found_tagged_and_kept_on_three() {
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), 2_000);
    let (mut a, mut b, mut c) = (place.device("A"), place.device("B"), place.device("C"));

    a.up();
    let added = index(&a, &folder);
    let on_disk = folder.listing();
    // The folder itself is an entry, but not one of what it holds.
    assert_eq!(added["locations"][0]["entry_count"], on_disk.len(), "{added}");

    join(&a, &mut b);
    c.up();
    let joined = c.ask(&["join", &invite(&a)]);
    assert_eq!(joined["devices"], 3);
    let digest = agree(&[&a, &b, &c]);
    for device in [&a, &b, &c] {
        assert_eq!(paths_of(&found(device, &["--device", "A"])), on_disk, "on {}", device.name());
    }

    let file = folder.join("level 0 of 1/file 100.txt");
    let id = entry_id(&b, &file).expect("B knows the file");
    b.ask(&["tag", "new", "keep"]);
    b.ask(&["tag", "add", "keep", &id]);
    for device in [&a, &b, &c] {
        eventually(&format!("the tag shows on {}", device.name()), || {
            let tags = device.ask(&["tag", "ls"]);
            (tags["tags"][0]["assignments"] == 1).then_some(())
        });
        let tagged = found(device, &["--tag", "keep"]);
        assert_eq!((tagged.len(), tagged[0]["id"].as_str()), (1, Some(id.as_str())));
        assert_eq!(tagged[0]["path"], text(&file));
        assert_eq!(tagged[0]["tags"], serde_json::json!(["keep"]));
    }
    assert_ne!(agree(&[&a, &b, &c]), digest);

    a.stop();
    let digest = agree(&[&b, &c]);
    c.stop();
    c.up();
    assert_eq!(agree(&[&b, &c]), digest);
    assert_eq!(found(&c, &["--tag", "keep"])[0]["path"], text(&file));
    assert_eq!(paths_of(&found(&c, &["--device", "A"])), on_disk);

    // Rescans and counters of A's start may write rows of its own; what people see stays.
    a.up();
    agree(&[&a, &b, &c]);
    assert_eq!(found(&a, &["--tag", "keep"])[0]["path"], text(&file));
    assert_eq!(paths_of(&found(&c, &["--device", "A"])), on_disk);
}

#[test]
fn two_folders_indexed_at_once_are_whole_on_both_devices() {
    let place = Place::new();
    let of_a = Folder::with_files(&place.path().join("of A"), 500);
    let of_b = Folder::with_files(&place.path().join("of B"), 500);
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    join(&a, &mut b);
    let (on_a, on_b) = (a.spawn(&["add", text(of_a.path())]), b.spawn(&["add", text(of_b.path())]));
    assert_eq!((on_a.finish().code, on_b.finish().code), (Some(0), Some(0)));
    agree(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(paths_of(&found(device, &["--device", "A"])), of_a.listing());
        assert_eq!(paths_of(&found(device, &["--device", "B"])), of_b.listing());
    }
}

#[test]
fn a_device_that_is_gone_for_good_is_still_whole_on_a_newcomer() {
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), 300);
    let (mut a, mut b, mut c) = (place.device("A"), place.device("B"), place.device("C"));
    a.up();
    index(&a, &folder);
    let file = folder.join("file 0.txt");
    a.ask(&["note", text(&file), "the first of all"]);
    join(&a, &mut b);
    let digest = agree(&[&a, &b]);
    a.kill();
    std::fs::remove_dir_all(a.data()).unwrap();

    join(&b, &mut c);
    eventually("C holds all that A had", || {
        let (on_b, on_c) = (b.ask(&["digest"]), c.ask(&["digest"]));
        (on_b == on_c).then_some(())
    });
    assert_ne!(c.ask(&["digest"])["all"], digest, "C itself is new");
    assert_eq!(paths_of(&found(&c, &["--device", "A"])), folder.listing());
    let id = entry_id(&c, &file).expect("C knows the file");
    assert_eq!(c.ask(&["show", &id])["entry"]["metadata"]["notes"], "the first of all");
}
