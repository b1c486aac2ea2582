//! What happens on one device's disk shows on the other by itself.

use starling_tests::process::{Device, Folder, Place, agree, entry_id, eventually, found, index, join, paths_of, text};

fn pair(place: &Place, folder: &Folder) -> (Device, Device) {
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    index(&a, folder);
    join(&a, &mut b);
    agree(&[&a, &b]);
    (a, b)
}

#[test]
fn a_file_that_appears_changes_and_goes_does_so_on_the_other_device() {
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), 120);
    let (a, b) = pair(&place, &folder);

    let (new, changed, gone) = (folder.join("new.txt"), folder.join("file 1.txt"), folder.join("file 2.txt"));
    let changed_id = entry_id(&b, &changed).expect("B knows it");
    std::fs::write(&new, "new").unwrap();
    std::fs::write(&changed, "something longer than what it held before").unwrap();
    std::fs::remove_file(&gone).unwrap();

    eventually("B shows what happened", || {
        let listed = paths_of(&found(&b, &["--device", "A"])) == folder.listing();
        let row = b.ask(&["show", &changed_id]);
        (listed && row["fields"]["size"] == 41).then_some(())
    });
    assert_eq!(entry_id(&b, &gone), None);
    assert_eq!(entry_id(&b, &changed).as_deref(), Some(changed_id.as_str()), "a changed file keeps its record");
    agree(&[&a, &b]);
}

#[test]
fn a_moved_file_keeps_its_record_and_its_tags_everywhere() {
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), 120);
    let (a, b) = pair(&place, &folder);

    let (before, after) = (folder.join("file 1.txt"), folder.join("level 0 of 1/renamed.txt"));
    let id = entry_id(&b, &before).expect("B knows it");
    b.ask(&["tag", "new", "keep"]);
    b.ask(&["tag", "add", "keep", &id]);
    std::fs::rename(&before, &after).unwrap();

    eventually("B shows the file at its new place", || entry_id(&b, &after));
    assert_eq!(entry_id(&b, &after), Some(id.clone()));
    agree(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(entry_id(device, &before), None);
        assert_eq!(found(device, &["--tag", "keep"])[0]["path"], text(&after));
        assert_eq!(paths_of(&found(device, &["--device", "A"])), folder.listing());
    }
}

#[test]
fn the_paths_below_a_moved_directory_are_right_everywhere() {
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), 320);
    let (a, b) = pair(&place, &folder);

    let below = folder.join("level 0 of 2/level 1 of 2/file 201.txt");
    let id = entry_id(&b, &below).expect("B knows it");
    std::fs::rename(folder.join("level 0 of 2"), folder.join("level 0 of 3/moved")).unwrap();

    let now = folder.join("level 0 of 3/moved/level 1 of 2/file 201.txt");
    eventually("B shows the file below the moved directory", || entry_id(&b, &now));
    assert_eq!(entry_id(&b, &now), Some(id), "what lies below keeps its record");
    agree(&[&a, &b]);
    assert_eq!(paths_of(&found(&b, &["--device", "A"])), folder.listing());
}

#[test]
fn what_happened_while_no_peer_ran_is_found_at_the_next_start() {
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), 120);
    let (mut a, b) = pair(&place, &folder);
    let (before, after) = (folder.join("file 1.txt"), folder.join("level 0 of 1/renamed.txt"));
    let id = entry_id(&b, &before).expect("B knows it");

    a.stop();
    std::fs::rename(&before, &after).unwrap();
    std::fs::remove_file(folder.join("file 2.txt")).unwrap();
    std::fs::write(folder.join("new.txt"), "new").unwrap();
    a.up();

    eventually("B shows what happened", || {
        (paths_of(&found(&b, &["--device", "A"])) == folder.listing()).then_some(())
    });
    assert_eq!(entry_id(&b, &after), Some(id));
    agree(&[&a, &b]);
}

#[test]
fn a_folder_taken_out_is_gone_everywhere_and_its_files_stay() {
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), 300);
    let (a, b) = pair(&place, &folder);
    let on_disk = folder.listing();
    let removed = a.ask(&["remove-location", text(folder.path())]);
    assert_eq!(removed["path"], text(folder.path()));
    eventually("B shows none of it", || found(&b, &[]).is_empty().then_some(()));
    agree(&[&a, &b]);
    assert_eq!(b.ask(&["locations"])["locations"], serde_json::json!([]));
    assert_eq!(folder.listing(), on_disk);
}
