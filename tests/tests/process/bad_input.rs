//! One clear sentence that names the thing, the documented exit code, nothing half done.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use starling_tests::process::{Database, Device, Folder, Place, Refusal, eventually, index, text};

const UNKNOWN_ID: &str = "01890000-0000-7000-8000-000000000000";

fn up(place: &Place, name: &str) -> Device {
    let mut device = place.device(name);
    device.up();
    device
}

fn assert_names(refusal: &Refusal, what: &str) {
    assert!(refusal.message.contains(what), "{what:?} is not named: {refusal:?}");
}

#[test]
fn a_data_directory_in_use_is_refused_and_its_peer_runs_on() {
    let place = Place::new();
    let a = up(&place, "A");
    let refusal = a.up_refused(&[]).refusal(11);
    assert_eq!(refusal.kind, "locked");
    assert_names(&refusal, text(a.data()));
    assert!(refusal.hint.is_some());
    a.ask(&["status"]);
}

#[test]
fn a_command_without_a_running_peer_says_how_to_start_one() {
    let place = Place::new();
    let mut a = place.device("A");
    for command in [&["status"][..], &["find"], &["digest"], &["dump"], &["add", "/"], &["invite"]] {
        let refusal = a.refused(10, command);
        assert_eq!(
            (refusal.kind.as_str(), refusal.hint.as_deref()),
            ("not_running", Some("start it with `starling up`"))
        );
        assert_names(&refusal, text(a.data()));
    }
    assert!(!a.data().exists(), "a question makes no directory");
    a.up();
    a.kill();
    assert_eq!(a.refused(10, &["status"]).kind, "not_running", "what a killed peer left behind is no peer");
}

#[test]
fn what_is_not_there_is_named() {
    let place = Place::new();
    let a = up(&place, "A");
    let folder = Folder::with_files(&place.path().join("photos"), 5);
    index(&a, &folder);
    let before = a.ask(&["digest"]);
    let (missing, unindexed) = (folder.join("missing.txt"), place.path().join("elsewhere"));
    let (missing, unindexed) = (text(&missing), text(&unindexed));
    let file = folder.join("file 1.txt");
    let file = text(&file);
    let cases: &[(&[&str], &str)] = &[
        (&["show", missing], missing),
        (&["show", unindexed], unindexed),
        (&["show", UNKNOWN_ID], UNKNOWN_ID),
        (&["note", missing, "text"], missing),
        (&["favorite", UNKNOWN_ID], UNKNOWN_ID),
        (&["rate", missing, "5"], missing),
        (&["find", "--tag", "no such tag"], "no such tag"),
        (&["find", "--collection", "no such collection"], "no such collection"),
        (&["find", "--device", "no such device"], "no such device"),
        (&["tag", "add", "no such tag", file], "no such tag"),
        (&["tag", "rm", "no such tag"], "no such tag"),
        (&["tag", "edit", UNKNOWN_ID, "--name", "x"], UNKNOWN_ID),
        (&["tag", "restore", "no such tag"], "no such tag"),
        (&["tag", "nest", "no such tag", "nor this"], "no such tag"),
        (&["collection", "add", "no such collection", file], "no such collection"),
        (&["collection", "rm", "no such collection"], "no such collection"),
        (&["rescan", unindexed], unindexed),
        (&["remove-location", UNKNOWN_ID], UNKNOWN_ID),
        (&["conflicts", "show", "0123456789abcdef"], "0123456789abcdef"),
        (&["conflicts", "restore", "0123456789abcdef"], "0123456789abcdef"),
    ];
    for (command, named) in cases {
        let refusal = a.refused(1, command);
        assert_eq!(refusal.kind, "not_found", "{command:?}: {refusal:?}");
        assert_names(&refusal, named);
    }
    assert_eq!(a.ask(&["digest"]), before, "nothing was changed");
}

#[test]
fn one_wrong_target_among_many_changes_none() {
    let place = Place::new();
    let a = up(&place, "A");
    let folder = Folder::with_files(&place.path().join("photos"), 5);
    index(&a, &folder);
    a.ask(&["tag", "new", "keep"]);
    let (good, bad) = (folder.join("file 1.txt"), folder.join("missing.txt"));
    assert_names(&a.refused(1, &["tag", "add", "keep", text(&good), text(&bad)]), text(&bad));
    assert_eq!(a.ask(&["tag", "ls"])["tags"][0]["assignments"], 0);
}

#[test]
fn folders_that_cannot_be_indexed_are_named() {
    let place = Place::new();
    let a = up(&place, "A");
    let folder = Folder::with_files(&place.path().join("photos"), 150);
    index(&a, &folder);
    let inside = folder.join("level 0 of 1");
    let around = place.path();
    let file = folder.join("file 1.txt");
    let missing = folder.join("missing");
    let paths: [&Path; 5] = [&inside, &around, &file, &missing, a.data()];
    for path in paths {
        assert_names(&a.refused(1, &["add", text(path)]), text(path));
    }
    assert_eq!(a.ask(&["locations"])["locations"].as_array().unwrap().len(), 1);
    // The same folder once more is a rescan, not a second location.
    a.ask(&["add", text(folder.path())]);
    assert_eq!(a.ask(&["locations"])["locations"].as_array().unwrap().len(), 1);
    let fresh = place.device("fresh");
    assert_names(&fresh.up_refused(&[text(&missing)]).refusal(1), text(&missing));
    assert!(!fresh.data().exists(), "nothing was started");
}

#[test]
fn a_taken_port_is_named() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut a = place.device("A");
    let refusal = a.up_refused(&["--listen", &format!("/ip4/127.0.0.1/tcp/{port}")]).refusal(1);
    assert_names(&refusal, &port);
    let refusal = a.up_refused(&["--http", &format!("127.0.0.1:{port}")]).refusal(1);
    assert_names(&refusal, &port);
    a.up();
}

#[test]
fn an_address_that_is_none_is_named() {
    let place = Place::new();
    let a = place.device("A");
    assert_names(&a.up_refused(&["--listen", "localhost:80"]).refusal(1), "localhost:80");
    assert_names(&a.up_refused(&["--http", "0.0.0.0:80"]).refusal(2), "0.0.0.0:80");
}

#[test]
fn a_corrupt_database_is_named_and_left_as_it_is() {
    let place = Place::new();
    let mut a = up(&place, "A");
    a.stop();
    let database = Database::of(a.data());
    let garbage = vec![0x5a; 64 * 1024];
    std::fs::write(database.path(), &garbage).unwrap();
    let refusal = a.up_refused(&[]).refusal(1);
    assert_eq!(refusal.kind, "storage");
    assert_names(&refusal, text(database.path()));
    assert_names(&refusal, "corrupt");
    assert_eq!(std::fs::read(database.path()).unwrap(), garbage);
}

#[test]
fn a_damaged_page_in_the_middle_of_the_database_is_found_and_named() {
    let place = Place::new();
    let mut a = up(&place, "A");
    a.ask(&["tag", "new", "keep"]);
    a.stop();
    let database = Database::of(a.data());
    let mut bytes = std::fs::read(database.path()).unwrap();
    // All but the header, so that SQLite still takes it for a database.
    bytes[4096..].fill(0x5a);
    std::fs::write(database.path(), &bytes).unwrap();
    let refusal = a.up_refused(&[]).refusal(1);
    assert_eq!(refusal.kind, "storage");
    assert_names(&refusal, text(database.path()));
    assert_eq!(std::fs::read(database.path()).unwrap(), bytes);
}

#[test]
fn a_database_of_a_newer_version_asks_for_an_upgrade() {
    let place = Place::new();
    let mut a = up(&place, "A");
    a.ask(&["tag", "new", "keep"]);
    a.stop();
    let database = Database::of(a.data());
    database.migrate_to_the_future("99990101000000");
    let refusal = a.up_refused(&[]).refusal(1);
    assert_names(&refusal, text(database.path()));
    assert_names(&refusal, "newer version");
    assert_names(&refusal, "upgrade");
    assert_eq!(database.rows("tag"), Some(1));
}

#[test]
fn a_key_that_is_missing_or_damaged_is_not_made_anew() {
    let place = Place::new();
    let mut a = up(&place, "A");
    a.stop();
    let key = a.data().join("device.key");
    let kept = place.path().join("kept.key");
    std::fs::rename(&key, &kept).unwrap();
    assert_names(&a.up_refused(&[]).refusal(1), text(&key));
    assert!(!key.exists());
    let is_private = std::fs::metadata(&kept).unwrap().permissions();
    std::fs::write(&key, "no key").unwrap();
    std::fs::set_permissions(&key, is_private).unwrap();
    assert_names(&a.up_refused(&[]).refusal(1), text(&key));
    assert_eq!(std::fs::read(&key).unwrap(), b"no key");
    std::fs::rename(&kept, &key).unwrap();
    a.up();
}

#[test]
fn a_wrong_command_line_is_a_usage_error_in_the_form_that_was_asked_for() {
    let place = Place::new();
    let a = place.device("A");
    let cases: &[&[&str]] = &[
        &["no-such-command"],
        &["find", "--no-such-option"],
        &["rate", "x", "6"],
        &["wait"],
        &["invite", "--expires", "soon"],
        &["add"],
        &["demo", "--peers", "1"],
    ];
    for command in cases {
        let refusal = a.refused(2, command);
        assert_eq!(refusal.kind, "usage", "{command:?}");
        assert!(!refusal.message.is_empty());
    }
    let plain = place.run(&["no-such-command"]);
    assert_eq!(plain.code, Some(2));
    assert!(plain.stderr.starts_with("error: ") && plain.stdout.is_empty(), "{plain:?}");
}

#[test]
fn values_that_cannot_be_are_refused_and_named() {
    let place = Place::new();
    let a = up(&place, "A");
    assert_names(&a.refused(1, &["tag", "new", "red", "--tint", "reddish"]), "reddish");
    assert_eq!(a.refused(1, &["tag", "new", " "]).kind, "invalid");
    a.ask(&["tag", "new", "outer"]);
    a.ask(&["tag", "new", "inner"]);
    a.ask(&["tag", "nest", "outer", "inner"]);
    assert_names(&a.refused(1, &["tag", "nest", "inner", "outer"]), "outer");
    assert_eq!(a.ask(&["tag", "ls"])["tags"].as_array().unwrap().len(), 2);
}

#[test]
fn a_wait_that_is_too_short_says_what_is_missing() {
    let place = Place::new();
    let a = up(&place, "A");
    let waited = a.run(&["wait", "--converged", "--peers", "1", "--timeout", "300ms"]);
    let refusal = waited.refusal(20);
    assert_eq!(refusal.kind, "not_converged");
    assert_names(&refusal, "0 of 1 peers");
    assert_eq!(waited.printed()["converged"], false);
    assert!(waited.took < Duration::from_secs(2), "{waited:?}");
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let place = Place::new();
    let mut a = up(&place, "A");
    a.stop();
    let key = a.data().join("device.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refusal = a.up_refused(&[]).refusal(1);
    assert_names(&refusal, text(&key));
    assert_names(&refusal, "chmod 600");
}

#[test]
fn ctrl_c_ends_a_peer_in_order_and_a_waiting_command_at_once() {
    let place = Place::new();
    let mut a = up(&place, "A");
    let waiting = a.spawn(&["wait", "--converged", "--peers", "1", "--timeout", "30s"]);
    std::thread::sleep(Duration::from_millis(500));
    waiting.interrupt();
    assert_eq!(waiting.finish().refusal(130).kind, "interrupted");

    let folder = Folder::with_files(&place.path().join("photos"), 6_000);
    let scanning = a.spawn(&["add", text(folder.path())]);
    let database = Database::of(a.data());
    eventually("the first entries are there", || database.rows("entry").filter(|rows| *rows > 0));
    let (status, took) = a.interrupt();
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    assert_eq!(scanning.finish().refusal(1).kind, "failed", "a scan that was cut short reports no result");
    assert_eq!(database.integrity(), ["ok"]);
    a.up();
}
