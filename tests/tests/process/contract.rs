//! What scripts rely on: the documented shape of every `--json` output.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde_json::Value;
use starling_tests::process::{Device, Folder, Place, agree, index, join, text};

/// That an object has all of these keys, and maybe others.
fn assert_keys(object: &Value, keys: &str, what: &str) {
    let present: BTreeSet<&str> = object
        .as_object()
        .unwrap_or_else(|| panic!("{what} is no object: {object}"))
        .keys()
        .map(String::as_str)
        .collect();
    let missing: Vec<&str> = keys.split_whitespace().filter(|key| !present.contains(key)).collect();
    assert!(missing.is_empty(), "{what} lacks {missing:?}: {object}");
}

/// The first item of a list in a document.
fn first<'a>(document: &'a Value, list: &str) -> &'a Value {
    document[list].get(0).unwrap_or_else(|| panic!("{list} is empty: {document}"))
}

struct Setting {
    place: Place,
    folder: Folder,
    a: Device,
    b: Device,
    /// An indexed file.
    file: String,
}

fn setting() -> Setting {
    let place = Place::new();
    let folder = Folder::with_files(&place.path().join("photos"), 20);
    let (mut a, mut b) = (place.device("A"), place.device("B"));
    a.up();
    index(&a, &folder);
    join(&a, &mut b);
    agree(&[&a, &b]);
    let file = text(&folder.join("file 1.txt")).to_owned();
    Setting { place, folder, a, b, file }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_peer_has_its_allocator_keep_one_arena() {
    let place = Place::new();
    let mut a = place.device("A");
    a.up();
    assert!(a.environment().contains(&"MALLOC_ARENA_MAX=2".to_owned()), "{:?}", a.environment());
}

#[test]
fn the_ready_line_says_who_and_where() {
    let place = Place::new();
    let mut a = place.device("A");
    let ready = a.up_with(&["--http", "127.0.0.1:0"]);
    assert_keys(&ready, "schema ready device library listen http", "ready");
    assert_eq!(ready["device"]["name"], "A");
    assert_keys(&ready["device"], "id name", "the device");
    assert_keys(&ready["library"], "id name", "the library");
    assert!(first(&ready, "listen").as_str().unwrap().starts_with("/ip4/127.0.0.1/tcp/"), "{ready}");
    assert!(ready["http"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{ready}");
    a.stop();
    let again = a.up();
    assert_eq!((&again["device"], &again["library"]), (&ready["device"], &ready["library"]));
    assert_eq!(again["http"], Value::Null);
}

#[test]
fn pairing_and_membership_print_what_is_documented() {
    let Setting { place, a, .. } = setting();
    let invitation = a.ask(&["invite", "--expires", "1h"]);
    assert_keys(&invitation, "ticket expires_at", "invite");
    let mut c = place.device("C");
    c.up();
    let joined = c.ask(&["join", invitation["ticket"].as_str().unwrap()]);
    assert_keys(&joined, "library devices", "join");
    let waited = c.ask(&["wait", "--converged", "--peers", "1"]);
    assert_keys(&waited, "converged waited_ms", "wait");
    assert_eq!(waited["converged"], true);

    let status = a.ask(&["status"]);
    assert_keys(&status, "device library verdict peers queues counts log", "status");
    assert_keys(&status["library"], "id name state", "the library");
    assert_keys(&status["verdict"], "in_sync reason", "the verdict");
    assert_keys(&status["queues"], "retry dead_letters buffered parked", "the queues");
    assert_keys(&status["log"], "entries", "the log");
    let peer = "id name state online address rtt_ms behind_us behind_them clock_offset_ms bytes_in bytes_out last_seen";
    assert_keys(first(&status, "peers"), peer, "a peer of the status");
    assert_keys(first(&a.ask(&["peers"]), "peers"), peer, "a peer");
    assert_keys(first(&a.ask(&["devices", "ls"]), "devices"), "id name this online", "a device");
}

#[test]
fn files_print_what_is_documented() {
    let Setting { folder, a, b, file, .. } = setting();
    let location = "id name path device entry_count byte_size";
    for command in [&["add", text(folder.path())][..], &["rescan"], &["rescan", text(folder.path())], &["locations"]] {
        assert_keys(first(&a.ask(command), "locations"), location, "a location");
    }
    let found = b.ask(&["find", "file 1", "--kind", "file", "--device", "A", "--limit", "1"]);
    assert_keys(first(&found, "entries"), "id name path kind size modified_at device location tags", "an entry");
    assert_eq!(found["entries"].as_array().unwrap().len(), 1);
    assert_eq!(found["more"], true, "there are others of that name");

    let shown = a.ask(&["show", &file]);
    assert_keys(&shown, "id model alive owner fields stamps entry", "a record");
    assert_keys(&shown["entry"], "path device tags collections metadata copies", "an entry");
    assert_eq!(shown["entry"]["path"], file.as_str());
}

#[test]
fn shared_data_prints_what_is_documented() {
    let Setting { a, file, .. } = setting();
    let tag = "id name namespace color icon description aliases hidden";
    let made = a.ask(&["tag", "new", "red", "--tint", "#ff0000", "--namespace", "colours", "--aliases", "rouge,rot"]);
    assert_keys(&made, tag, "a tag");
    a.ask(&["tag", "new", "blue"]);
    assert_eq!(a.ask(&["tag", "edit", "red", "--description", "like fire"])["description"], "like fire");
    assert_eq!(a.ask(&["tag", "nest", "red", "blue"])["on"], true);
    assert_eq!(a.ask(&["tag", "nest", "red", "blue", "--off"])["on"], false);
    assert_eq!(a.ask(&["tag", "add", "red", &file])["assignments"], 1);
    assert_eq!(a.ask(&["tag", "remove", "red", &file])["assignments"], 0);
    assert_eq!(a.ask(&["tag", "rm", "red"])["alive"], false);
    let restored = a.ask(&["tag", "restore", "red"]);
    assert_eq!((&restored["alive"], &restored["description"]), (&Value::from(true), &Value::from("like fire")));
    assert_keys(first(&a.ask(&["tag", "ls"]), "tags"), tag, "a tag");

    let made = a.ask(&["collection", "new", "trip", "--tint", "#00ff00"]);
    assert_keys(&made, "id name color description", "a collection");
    assert_eq!(a.ask(&["collection", "edit", "trip", "--description", "2026"])["description"], "2026");
    assert_eq!(a.ask(&["collection", "add", "trip", &file])["entries"], 1);
    assert_eq!(first(&a.ask(&["find", "--collection", "trip"]), "entries")["path"], file.as_str());
    assert_eq!(a.ask(&["collection", "remove", "trip", &file])["entries"], 0);
    assert_eq!(a.ask(&["collection", "rm", "trip"])["alive"], false);
    assert_eq!(a.ask(&["collection", "restore", "trip"])["alive"], true);
    assert_eq!(first(&a.ask(&["collection", "ls"]), "collections")["name"], "trip");

    assert_eq!(a.ask(&["note", &file, "a note"])["notes"], "a note");
    assert_eq!(a.ask(&["favorite", &file])["favorite"], true);
    assert_eq!(first(&a.ask(&["find", "--favorite"]), "entries")["path"], file.as_str());
    assert_eq!(a.ask(&["favorite", &file, "--off"])["favorite"], false);
    assert_eq!(a.ask(&["rate", &file, "5"])["rating"], 5);
    assert_eq!(a.ask(&["note", &file, ""])["notes"], Value::Null);
}

#[test]
fn content_tags_are_on_every_copy_of_a_content() {
    let Setting { place, a, b, file, .. } = setting();
    let copies = Folder::with_files(&place.path().join("copies"), 20);
    index(&b, &copies);
    a.ask(&["tag", "new", "seen"]);
    a.ask(&["tag", "add", "seen", &file, "--content"]);
    agree(&[&a, &b]);
    let found = b.ask(&["find", "--tag", "seen"]);
    let paths: BTreeSet<&str> =
        found["entries"].as_array().unwrap().iter().filter_map(|entry| entry["path"].as_str()).collect();
    assert_eq!(paths, BTreeSet::from([file.as_str(), text(&copies.join("file 1.txt"))]));
}

#[test]
fn the_library_as_a_whole_prints_what_is_documented() {
    let Setting { place, a, b, .. } = setting();
    a.ask(&["tag", "new", "red"]);
    agree(&[&a, &b]);
    let digest = a.ask(&["digest"]);
    assert_keys(&digest, "all models", "digest");
    let models = "device volume location entry tag tag_relationship tag_assignment collection collection_entry \
                  user_metadata user_metadata_device";
    assert_keys(&digest["models"], models, "the models of a digest");
    let hashes = digest["models"].as_object().unwrap().values().chain([&digest["all"]]);
    assert!(hashes.into_iter().all(|hash| hash.as_str().is_some_and(|hash| hash.len() == 64)), "{digest}");

    let (dump_a, dump_b) = (a.run(&["dump"]), b.run(&["dump"]));
    assert_eq!(dump_a.stdout, dump_b.stdout, "dumps of equal devices are equal byte by byte");
    assert!(dump_a.lines().iter().any(|line| line["model"] == "tag"));
    let canonical = place.run(&["dump", "--data", text(a.data())]);
    assert_eq!(
        digest["all"],
        blake3::hash(canonical.stdout.as_bytes()).to_hex().as_str(),
        "a digest is the dump's hash"
    );

    assert!(a.ask(&["conflicts", "ls"])["conflicts"].as_array().unwrap().is_empty());
    let events = a.run(&["events"]).lines();
    assert!(!events.is_empty());
    for event in &events {
        assert_keys(event, "cursor kind", "an event");
    }
    let last = events.last().unwrap()["cursor"].as_u64().unwrap();
    a.ask(&["tag", "new", "blue"]);
    let later = a.run(&["events", "--since", &last.to_string()]).lines();
    assert!(later.iter().all(|event| event["cursor"].as_u64().unwrap() > last), "{later:?}");
    assert!(later.iter().any(|event| event["kind"] == "changed" && event["remote"] == false), "{later:?}");
}

#[test]
fn a_file_whose_name_is_not_utf_8_can_be_named_by_its_path() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let Setting { folder, a, b, .. } = setting();
    let path = folder.join(OsString::from_vec(b"caf\xe9 13".to_vec())).into_os_string();
    a.ask(&["tag", "new", "odd"]);
    let tagged = a.spawn_os(&["tag".into(), "add".into(), "odd".into(), path.clone()]).finish();
    assert_eq!(tagged.document()["assignments"], 1);
    agree(&[&a, &b]);
    let found = b.ask(&["find", "--tag", "odd"]);
    assert_eq!(first(&found, "entries")["path"], path.to_string_lossy().as_ref());
}

#[test]
fn completions_and_manual_need_no_peer() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completions", shell]);
        assert!(script.code == Some(0) && script.stdout.contains("remove-location"), "{script:?}");
    }
    let manual = place.run(&["man"]);
    assert!(manual.code == Some(0) && manual.stdout.starts_with(".ie"), "{manual:?}");
    let version = place.run(&["--version"]);
    assert_eq!(
        (version.code, version.stdout.as_str()),
        (Some(0), concat!("starling ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}
