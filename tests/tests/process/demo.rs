//! `starling demo`.

use starling_tests::process::{Folder, Place, text};

#[test]
fn the_demonstration_ends_with_equal_devices_and_clears_up_after_itself() {
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), 300);
    let on_disk = folder.listing();
    let report = place.run(&["demo", "--json", text(folder.path())]).document();
    assert_eq!((&report["equal"], &report["peers"]), (&true.into(), &3.into()), "{report}");
    let digests: Vec<&str> =
        report["digests"].as_array().unwrap().iter().filter_map(|digest| digest["all"].as_str()).collect();
    assert_eq!(digests.len(), 3);
    assert!(digests.iter().all(|digest| *digest == digests[0] && digest.len() == 64), "{digests:?}");
    assert_eq!(folder.listing(), on_disk, "the folder is left as it was");
}
