//! The page of a timeline, in a real browser: what it shows is what was recorded.
//!
//! Needs node and a Chromium; without them it says so and does nothing (`tests/page.sh` installs them where apt can, and
//! keeps the pictures).
#![allow(clippy::vec_box, reason = "each block is to be an allocation of its own")]
#![cfg(all(feature = "trace", target_os = "linux", not(pymalloc_bypass)))]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pymalloc::trace::{Recording, Snapshot, Timeline, TimelineConfig};
use serde_json::Value;

#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

#[inline(never)]
fn kept(count: usize) -> Vec<Box<[u8; 200]>> {
    black_box((0..count).map(|_| Box::new([1; 200])).collect())
}

#[inline(never)]
fn dropped(count: usize) -> Vec<Box<[u8; 100]>> {
    black_box((0..count).map(|_| Box::new([1; 100])).collect())
}

/// The first of these commands that there is.
fn command(names: &[&str]) -> Option<String> {
    let runs = |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    names.iter().find(runs).map(|name| (*name).to_owned())
}

fn folder() -> PathBuf {
    let asked_for = std::env::var_os("PYMALLOC_PAGE_PICTURES").map(PathBuf::from);
    asked_for.unwrap_or_else(|| std::env::temp_dir().join(format!("pymalloc-page-{}", std::process::id())))
}

/// Memory that grows in steps, has a peak, and is partly freed.
fn record(file: &Path) -> Recording {
    let timeline = Timeline::start(file, TimelineConfig::new().interval(Duration::from_millis(10))).expect("no other");
    let pause = || std::thread::sleep(Duration::from_millis(15));
    let mut all = Vec::new();
    for step in 0..20 {
        all.push(kept(500));
        let meanwhile = dropped(if step == 12 { 40_000 } else { 3000 });
        pause();
        drop(meanwhile);
        pause();
    }
    all.truncate(14);
    pause();
    timeline.stop().expect("no fault");
    Recording::load(file).expect("a timeline")
}

/// What the page showed is what the recording says of that moment or range.
fn compare(recording: &Recording, shown: &Value) -> (usize, usize) {
    let number = |name: &str| usize::try_from(shown[name].as_u64().expect("a number")).expect("small");
    let last = number("last");
    let (snapshot, begins): (Snapshot, _) = match shown["first"].as_u64() {
        Some(first) => (recording.allocated_in(first as usize..last), "Allocated between"),
        None => (recording.live_at(last), "Live after"),
    };
    assert_eq!((number("bytes"), number("blocks")), (snapshot.bytes(), snapshot.blocks()), "{shown}");
    let text = shown["text"].as_str().expect("a text");
    assert!(text.starts_with(begins) && shown["said"] == shown["text"], "{shown}");
    assert_eq!(snapshot.bytes() == 0, number("flames") == 0, "{shown}");
    (snapshot.bytes(), last)
}

#[test]
fn what_the_page_shows_is_what_was_recorded() {
    let (Some(node), Some(browser)) = (command(&["node"]), command(&["chromium", "chromium-browser", "google-chrome"]))
    else {
        eprintln!("SKIPPED: the page was not looked at, because there is no node or no Chromium on this machine");
        return;
    };
    let folder = folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let recording = record(&folder.join("test.timeline"));
    let page = folder.join("test.html");
    recording.save_page(&page).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/check.mjs");
    let output = Command::new(node).arg(script).arg(browser).arg(&page).arg(&folder).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).expect("JSON");

    let (last, peak) = (recording.moments().len() - 1, recording.peak_index());
    let all = ["light", "dark", "click", "drag", "home", "stretched", "peak", "crates"];
    let [light, _, click, drag, home, stretched, at_peak, _] = all.map(|name| compare(&recording, &results[name]));
    assert!(light.1 == peak && at_peak == light && home.1 == 0 && stretched.1 == last);
    assert!((1..last).contains(&click.1) && drag.0 > 0 && drag.1 > click.1);
    assert!(results["drag"]["first"].as_u64().is_some() && results["click"]["first"].is_null());
    assert!(results["light"]["row"].as_str().is_some_and(|row| row.contains("dropped")), "{results}");
    assert!(results["stretched"]["row"].as_str().is_some_and(|row| row.contains("kept")), "{results}");
    assert_ne!(results["light"]["back"], results["dark"]["back"]);
    assert!(results["zoomed"][0].as_u64() > Some(1) && results["zoomed"][0] == results["zoomed"][1], "{results}");
    assert_eq!(results["unzoomed"], 1);
    assert_eq!(results["rows"], recording.moments().len());
    assert_eq!(results["errors"], serde_json::json!([]));
    assert_eq!(results["overflows"], false);
    if std::env::var_os("PYMALLOC_PAGE_PICTURES").is_none() {
        std::fs::remove_dir_all(&folder).expect("ours");
    }
}
