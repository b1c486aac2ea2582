//! A disk that is really full.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use starling_tests::process::{Database, Place, agree, join, text};

/// Room for a small library and its journal.
const DISK: &str = "size=16m";

/// A file system of its own, in memory; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one; says why when that is not allowed here.
    fn mount(at: &Path) -> Result<Self, String> {
        std::fs::create_dir(at).unwrap();
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "starling-test", text(at)]).output();
        let output = output.map_err(|error| error.to_string())?;
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then(|| Self(at.to_owned())).ok_or(why)
    }

    /// Fills it to the last byte.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [64 * 1024, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").args(["--lazy", text(&self.0)]).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} is left mounted", self.0.display());
    }
}

#[test]
fn a_full_disk_refuses_commits_lets_reading_go_on_and_works_again_with_room() {
    let place = Place::new();
    let disk = match SmallDisk::mount(&place.path().join("small")) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("skipped: no file system can be mounted here: {why}");
            return;
        }
    };
    let mut a = place.device_at("A", &disk.0.join("data"));
    let mut b = place.device("B");
    a.up();
    join(&a, &mut b);
    a.ask(&["tag", "new", "before"]);
    agree(&[&a, &b]);

    let filler = disk.fill();
    // What is in its files already may take a few more.
    let description = "x".repeat(20_000);
    let mut acknowledged = vec!["before".to_owned()];
    let refusal = loop {
        let name = format!("tag {}", acknowledged.len());
        let made = a.run(&["tag", "new", &name, "--description", &description]);
        match made.code {
            Some(0) => acknowledged.push(name),
            _ => break made.refusal(1),
        }
        assert!(acknowledged.len() < 1_000, "the disk is not full");
    };
    assert_eq!(refusal.kind, "storage", "{refusal:?}");
    assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("room")), "{refusal:?}");
    let names = |document: &serde_json::Value| -> Vec<String> {
        let mut names: Vec<String> =
            document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    acknowledged.sort();
    assert_eq!(names(&a.ask(&["tag", "ls"])), acknowledged, "reading goes on");
    let verdict = a.ask(&["status"])["verdict"].clone();
    assert_eq!(verdict["in_sync"], false, "{verdict}");
    assert!(verdict["reason"].as_str().is_some_and(|reason| reason.contains("disk")), "{verdict}");
    // Neither do the others' changes end the peer.
    b.ask(&["tag", "new", "meanwhile", "--description", &description]);

    std::fs::remove_file(filler).unwrap();
    a.ask(&["tag", "new", "after"]);
    agree(&[&a, &b]);
    acknowledged.extend(["after".to_owned(), "meanwhile".to_owned()]);
    acknowledged.sort();
    assert_eq!(names(&b.ask(&["tag", "ls"])), acknowledged);
    assert_eq!(a.ask(&["status"])["verdict"]["in_sync"], true);
    for device in [&mut a, &mut b] {
        device.stop();
        assert_eq!(Database::of(device.data()).integrity(), ["ok"]);
    }
}
