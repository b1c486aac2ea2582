//! Edits that did not see each other.

use serde_json::{Value, json};
use starling_tests::process::{Device, Folder, Place, agree, conflicts, found, index, join, text};

/// Two devices that gave one tag a colour each without knowing of the other; B did so later. Returns the tag's id.
fn divided(place: &Place) -> (Device, Device, String) {
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    join(&a, &mut b);
    let tag = a.ask(&["tag", "new", "Vacation", "--tint", "#000000"])["id"].as_str().unwrap().to_owned();
    agree(&[&a, &b]);
    b.stop();
    a.ask(&["tag", "edit", &tag, "--tint", "#aa0000"]);
    a.stop();
    b.up();
    b.ask(&["tag", "edit", &tag, "--tint", "#00bb00"]);
    a.up();
    agree(&[&a, &b]);
    (a, b, tag)
}

fn color(device: &Device, tag: &str) -> Value {
    device.ask(&["show", tag])["fields"]["color"].clone()
}

#[test]
fn the_later_of_two_concurrent_edits_shows_and_the_other_is_listed_on_both() {
    let place = Place::new();
    let (a, b, tag) = divided(&place);
    let listed = conflicts(&a);
    assert_eq!(listed, conflicts(&b));
    let [conflict] = &listed[..] else { panic!("not one conflict: {listed:?}") };
    assert_eq!((&conflict["record"], &conflict["field"]), (&json!(tag), &json!("color")));
    assert_eq!((&conflict["value"], &conflict["current"]), (&json!("#aa0000"), &json!("#00bb00")));
    assert_eq!((&conflict["model"], &conflict["deleted"]), (&json!("tag"), &json!(false)));
    for device in [&a, &b] {
        assert_eq!(color(device, &tag), "#00bb00");
        assert_eq!(device.ask(&["conflicts", "show", conflict["id"].as_str().unwrap()])["value"], "#aa0000");
    }
}

#[test]
fn restoring_what_lost_settles_the_conflict_everywhere() {
    let place = Place::new();
    let (a, b, tag) = divided(&place);
    let id = conflicts(&a)[0]["id"].as_str().unwrap().to_owned();
    a.ask(&["conflicts", "restore", &id]);
    agree(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(color(device, &tag), "#aa0000", "on {}", device.name());
        assert_eq!(conflicts(device), Vec::<Value>::new(), "on {}", device.name());
    }
    assert_eq!(b.refused(1, &["conflicts", "restore", &id]).kind, "not_found");
}

#[test]
fn a_delete_wins_over_a_concurrent_edit_and_restoring_brings_both_back() {
    let place = Place::new();
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    join(&a, &mut b);
    let tag = a.ask(&["tag", "new", "Vacation", "--tint", "#000000"])["id"].as_str().unwrap().to_owned();
    agree(&[&a, &b]);
    b.stop();
    a.ask(&["tag", "rm", &tag]);
    a.stop();
    b.up();
    b.ask(&["tag", "edit", &tag, "--tint", "#00bb00"]);
    a.up();
    agree(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(device.ask(&["tag", "ls"])["tags"], json!([]), "on {}", device.name());
    }
    let listed = conflicts(&b);
    assert_eq!(listed, conflicts(&a));
    let [conflict] = &listed[..] else { panic!("not one conflict: {listed:?}") };
    assert_eq!((&conflict["value"], &conflict["deleted"]), (&json!("#00bb00"), &json!(true)));

    b.ask(&["conflicts", "restore", conflict["id"].as_str().unwrap()]);
    agree(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(device.ask(&["tag", "ls"])["tags"][0]["id"], tag.as_str());
        assert_eq!(color(device, &tag), "#00bb00");
        assert_eq!(conflicts(device), Vec::<Value>::new());
    }
}

#[test]
fn successive_edits_of_different_devices_are_no_conflict() {
    let place = Place::new();
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    join(&a, &mut b);
    let tag = a.ask(&["tag", "new", "Vacation"])["id"].as_str().unwrap().to_owned();
    for (number, device) in [&a, &b, &a, &b].into_iter().enumerate() {
        agree(&[&a, &b]);
        device.ask(&["tag", "edit", &tag, "--tint", &format!("#00000{number}")]);
    }
    agree(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!((color(device, &tag), conflicts(device)), (json!("#000003"), Vec::new()));
    }
}

/// The names of the files that are found by a tag or one nested in it.
fn tagged(device: &Device, tag: &str) -> Vec<String> {
    let mut names: Vec<String> =
        found(device, &["--tag", tag]).iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn of_a_circle_of_tags_that_two_devices_made_the_later_edge_is_ignored_on_both() {
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), 2);
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    index(&a, &folder);
    let [file, other] = ["file 0.txt", "file 1.txt"];
    for (tag, file) in [("outer", file), ("inner", other)] {
        a.ask(&["tag", "new", tag]);
        a.ask(&["tag", "add", tag, text(&folder.join(file))]);
    }
    join(&a, &mut b);
    agree(&[&a, &b]);
    b.stop();
    a.ask(&["tag", "nest", "outer", "inner"]);
    a.stop();
    b.up();
    b.ask(&["tag", "nest", "inner", "outer"]);
    a.up();
    agree(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(tagged(device, "outer"), [file, other], "on {}", device.name());
        assert_eq!(tagged(device, "inner"), [other], "on {}", device.name());
    }
    b.ask(&["tag", "nest", "outer", "inner", "--off"]);
    agree(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(tagged(device, "outer"), [file], "on {}", device.name());
        assert_eq!(tagged(device, "inner"), [file, other], "on {}", device.name());
    }
}

#[test]
fn a_tag_that_two_devices_make_apart_is_two_tags_of_one_name() {
    let place = Place::new();
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    join(&a, &mut b);
    agree(&[&a, &b]);
    b.stop();
    let on_a = a.ask(&["tag", "new", "Vacation"])["id"].clone();
    a.stop();
    b.up();
    let on_b = b.ask(&["tag", "new", "Vacation"])["id"].clone();
    a.up();
    agree(&[&a, &b]);
    for device in [&a, &b] {
        let tags = device.ask(&["tag", "ls"]);
        let ids: Vec<&Value> = tags["tags"].as_array().unwrap().iter().map(|tag| &tag["id"]).collect();
        assert_eq!(ids, [&on_a, &on_b]);
        let refusal = device.refused(1, &["tag", "rm", "Vacation"]);
        assert_eq!(refusal.kind, "ambiguous");
        assert!(refusal.message.contains(on_a.as_str().unwrap()), "{refusal:?}");
    }
}
