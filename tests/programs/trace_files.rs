//! Snapshots as files: saved and loaded, read by other readers, damaged files, foreign files, and places that can't be
//! written.
#![allow(clippy::vec_box, reason = "the boxes are what is traced")]

#[path = "../common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::one_at_a_time;
use pprof::protos::{Message, Profile};
use pymalloc::Pymalloc;
use pymalloc::trace::{self, By, Config, Filter, LoadError, Snapshot};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const KEPT: usize = 500;

#[inline(never)]
fn keep() -> Vec<Box<[u8; 48]>> {
    let mut kept = Vec::new();
    kept.reserve_exact(KEPT);
    for _ in 0..KEPT {
        kept.push(Box::new([1; 48]));
    }
    kept
}

fn snapshot_with(config: Config) -> Snapshot {
    trace::start(config).expect("starts");
    let kept = std::hint::black_box(keep());
    let snapshot = trace::take_snapshot().expect("tracing");
    trace::stop();
    drop(kept);
    snapshot
}

fn snapshot() -> Snapshot {
    snapshot_with(Config::new())
}

/// The folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pymalloc-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_snapshot_comes_back_as_it_was_saved() {
    let _one = one_at_a_time();
    let folder = Folder::new("save");
    for config in
        [Config::new(), Config::new().frames(2), Config::new().sample_every(100), Config::new().sample_every(1)]
    {
        let saved = snapshot_with(config);
        assert!(saved.blocks() >= KEPT / 2);
        saved.save(folder.file("heap.pb.gz")).expect("a writable folder");
        let loaded = Snapshot::load(folder.file("heap.pb.gz")).expect("just saved");
        assert_eq!(loaded, saved);
        for by in [By::File, By::Line, By::Function, By::Traceback] {
            assert_eq!(loaded.statistics(by), saved.statistics(by));
        }
        // An empty snapshot can be saved, too.
        let none = saved.filter(&[Filter::exclude().file("*").expect("a pattern")]);
        none.save(folder.file("none.pb.gz")).expect("a writable folder");
        assert_eq!(Snapshot::load(folder.file("none.pb.gz")).expect("just saved").blocks(), 0);
    }
}

#[test]
fn files_that_are_damaged_or_something_else_are_refused_by_what_is_wrong_with_them() {
    let _one = one_at_a_time();
    let folder = Folder::new("load");
    let snapshot = snapshot();
    let good = snapshot.to_pprof();
    let load = |bytes: &[u8]| {
        std::fs::write(folder.file("file"), bytes).expect("a writable folder");
        Snapshot::load(folder.file("file"))
    };
    for length in (0..good.len()).step_by(97).chain(good.len() - 12..good.len()) {
        assert!(matches!(load(&good[..length]), Err(LoadError::Truncated)), "cut to {length} of {}", good.len());
    }
    // Damages bytes of the middle, and every byte of the checksum. Bytes of the header may have no meaning, so they are
    // left out; some bits of the last byte before the checksum have none, so damage to it may be harmless.
    for place in (20..good.len()).step_by(131).chain(good.len() - 8..good.len()) {
        let mut damaged = good.clone();
        damaged[place] ^= 0x10;
        if let Ok(loaded) = load(&damaged) {
            assert!(place == good.len() - 9 && loaded == snapshot, "byte {place} of {} changed", good.len());
        }
    }
    let packed = |bytes: &[u8]| {
        use std::io::Write;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).expect("a vector");
        packed.finish().expect("a vector")
    };
    let mut other = Profile::default();
    other.string_table.push(String::new());
    let foreign: [&[u8]; 6] = [
        b"{\"snapshot\": 1}",
        b"\x80\x04\x95a pickle of Python's",
        b"\x1f\x8c",
        &packed(b""),
        &packed(b"not a protocol buffer \xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        &packed(&other.write_to_bytes().expect("a profile")),
    ];
    for bytes in foreign {
        let error = load(bytes).expect_err("foreign");
        assert!(matches!(error, LoadError::NotASnapshot), "{error:?} of {bytes:?}");
    }
    // A profile in our format whose numbers refer to nothing.
    let mut profile = decode(&good);
    profile.sample[0].location_id.push(1 << 40);
    assert!(matches!(load(&packed(&profile.write_to_bytes().expect("a profile"))), Err(LoadError::Damaged)));
    let mut profile = decode(&good);
    profile.function[0].name = -1;
    assert!(matches!(load(&packed(&profile.write_to_bytes().expect("a profile"))), Err(LoadError::Damaged)));

    let missing = Snapshot::load(folder.file("missing")).expect_err("no such file");
    assert!(matches!(&missing, LoadError::Io(error) if error.kind() == std::io::ErrorKind::NotFound), "{missing}");
    assert!(matches!(Snapshot::load(&folder.0), Err(LoadError::Io(_))), "a folder");
}

#[test]
fn outputs_that_cannot_be_written_are_errors() {
    let _one = one_at_a_time();
    let snapshot = snapshot();
    for path in ["/nowhere/at/all", "/proc/version", ""] {
        assert!(snapshot.save(path).is_err(), "{path}");
        assert!(snapshot.save_collapsed(path).is_err(), "{path}");
        #[cfg(feature = "flamegraph")]
        assert!(snapshot.save_flame_graph(path, "title").is_err(), "{path}");
    }
}

fn decode(bytes: &[u8]) -> Profile {
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut unpacked).expect("a gzip");
    Profile::parse_from_bytes(&unpacked).expect("a profile")
}

/// The reader here is that of the crate `pprof`, generated from Google's definition.
#[test]
fn another_reader_finds_the_same_in_the_profile() {
    let _one = one_at_a_time();
    let snapshot = snapshot();
    let profile = decode(&snapshot.to_pprof());
    let text = |number: i64| profile.string_table[usize::try_from(number).expect("an index")].as_str();
    assert_eq!(text(0), "");
    let types: Vec<_> = profile.sample_type.iter().map(|kind| (text(kind.ty), text(kind.unit))).collect();
    assert_eq!(types, [("inuse_objects", "count"), ("inuse_space", "bytes")]);
    assert_eq!(profile.sample.iter().map(|sample| sample.value[0] as usize).sum::<usize>(), snapshot.blocks());
    assert_eq!(profile.sample.iter().map(|sample| sample.value[1] as usize).sum::<usize>(), snapshot.bytes());

    let functions: HashMap<u64, &str> =
        profile.function.iter().map(|function| (function.id, text(function.name))).collect();
    let locations: HashMap<u64, _> = profile.location.iter().map(|location| (location.id, location)).collect();
    let kept = profile.sample.iter().find(|sample| {
        sample.label.iter().any(|label| text(label.key) == "bytes" && label.num == 48)
            && sample.value[0] as usize == KEPT
    });
    let places: Vec<_> = kept.expect("the kept blocks").location_id.iter().map(|id| locations[id]).collect();
    let names: Vec<&str> =
        places.iter().flat_map(|place| &place.line).map(|line| functions[&line.function_id]).collect();
    assert!(names.contains(&"trace_files::keep"), "{names:?}");

    // The code of this test is in a mapping with its file, where a stripped program's could be looked up.
    let place =
        places.iter().find(|place| place.line.iter().any(|line| functions[&line.function_id] == "trace_files::keep"));
    let place = place.expect("found above");
    let mapping = profile.mapping.iter().find(|mapping| mapping.id == place.mapping_id).expect("a mapping");
    assert!((mapping.memory_start..mapping.memory_limit).contains(&place.address));
    let program = std::env::current_exe().expect("a program");
    assert_eq!(Path::new(text(mapping.filename)), program);
    let build_id = build_id_by_readelf(&program);
    if let Some(build_id) = build_id {
        assert_eq!(text(mapping.build_id), build_id);
    }
    assert!(mapping.has_functions && mapping.has_filenames && mapping.has_line_numbers && mapping.has_inline_frames);
}

/// The output of binutils, where they are installed.
fn build_id_by_readelf(program: &Path) -> Option<String> {
    let output = Command::new("readelf").arg("-n").arg(program).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.split("Build ID: ").nth(1)?.split_whitespace().next()?.to_owned())
}

/// `go tool pprof` is the format's own reader. Where Go is not installed, this says so and checks nothing.
#[test]
fn pprof_itself_reads_the_profile() {
    let _one = one_at_a_time();
    if Command::new("go").arg("version").output().is_err() {
        eprintln!("Go is not installed: the profile was not read by `go tool pprof`");
        return;
    }
    let folder = Folder::new("pprof");
    let snapshot = snapshot();
    snapshot.save(folder.file("heap.pb.gz")).expect("a writable folder");
    let pprof = |arguments: &[&str]| {
        let output = Command::new("go")
            .args(["tool", "pprof", "-symbolize=none"])
            .args(arguments)
            .arg(folder.file("heap.pb.gz"))
            .env("HOME", &folder.0)
            .output()
            .expect("go runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let top = pprof(&["-top", "-unit=B", "-sample_index=inuse_space", "-focus=trace_files::keep"]);
    let keep = top
        .lines()
        .find(|line| line.contains("% ") && line.contains("trace_files::keep"))
        .unwrap_or_else(|| panic!("{top}"));
    let bytes = format!("{}B", KEPT * (48 + 8));
    assert!(keep.split_whitespace().any(|word| word == bytes), "{bytes} in:\n{top}");
    assert!(top.contains("Type: inuse_space"), "{top}");
    let count = pprof(&["-top", "-sample_index=inuse_objects", "-focus=trace_files::keep"]);
    assert!(count.contains(&(KEPT + 1).to_string()), "{count}");
    let raw = pprof(&["-raw"]);
    assert!(raw.contains("tests/programs/trace_files.rs"), "{raw}");
    let mappings = raw.split("Mappings").nth(1).expect("a part of its own");
    let program = std::env::current_exe().expect("a program");
    let own = mappings
        .lines()
        .find(|line| line.contains(&*program.to_string_lossy()))
        .unwrap_or_else(|| panic!("{mappings}"));
    if let Some(build_id) = build_id_by_readelf(&program) {
        assert!(own.contains(&build_id), "{own}");
    }
}

#[test]
fn collapsed_stacks_have_every_byte() {
    let _one = one_at_a_time();
    let folder = Folder::new("collapsed");
    let snapshot = snapshot();
    snapshot.save_collapsed(folder.file("heap.txt")).expect("a writable folder");
    let collapsed = std::fs::read_to_string(folder.file("heap.txt")).expect("just written");
    let bytes =
        |line: &str| line.rsplit_once(' ').and_then(|(_, bytes)| bytes.parse::<usize>().ok()).expect("a number");
    assert_eq!(collapsed.lines().map(bytes).sum::<usize>(), snapshot.bytes());
    let kept: usize = collapsed.lines().filter(|line| line.contains(";trace_files::keep;")).map(bytes).sum();
    assert_eq!(kept, KEPT * (48 + 8));
    assert!(collapsed.lines().all(|line| !line.contains("pymalloc::alloc")), "{collapsed}");
}

#[cfg(feature = "flamegraph")]
#[test]
fn a_flame_graph_has_every_function_with_its_bytes() {
    let _one = one_at_a_time();
    let folder = Folder::new("flame");
    let snapshot = snapshot();
    snapshot.save_flame_graph(folder.file("heap.svg"), "Kept & counted").expect("a writable folder");
    let svg = std::fs::read_to_string(folder.file("heap.svg")).expect("just written");
    assert!(svg.starts_with("<?xml") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("Kept &amp; counted"));
    let title = svg.lines().find(|line| line.contains("<title>trace_files::keep (")).expect("a frame");
    assert!(title.contains("28,000 bytes"), "{title}");
    let empty = snapshot.filter(&[Filter::exclude().file("*").expect("a pattern")]);
    assert!(empty.to_flame_graph("nothing").expect("a picture").contains("</svg>"));
}
