//! Copies the allocator's source. Constants are made smaller, so that short programs reach every rule of memory return,
//! and a feature plants its bug. Every edit must find its text, so that it can't go stale unnoticed.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Modules of the allocator that are fuzzed as they are. `os`, `sync` and `observe` have twins in `src/`.
const MODULES: [&str; 6] = ["base", "cache", "heap", "marks", "pool_set", "protocols"];

/// Folders of which only these modules are fuzzed: the others need threads, signals or files.
const PARTS: [(&str, &[&str]); 2] = [("inspect", &["check", "stats"]), ("purge", &["heap", "tick"])];

/// A file, a text in it, and the text that replaces it.
type Edit = (&'static str, &'static str, &'static str);

const SHRUNK: [Edit; 12] = [
    ("base/config.rs", "MAGAZINE_SLOTS_MAX: usize = 256", "MAGAZINE_SLOTS_MAX: usize = 32"),
    ("base/config.rs", "SET_EMPTY_POOLS_MAX: usize = 4", "SET_EMPTY_POOLS_MAX: usize = 2"),
    ("base/config.rs", "INBOX_KNOCK_POOLS: u32 = 32", "INBOX_KNOCK_POOLS: u32 = 3"),
    ("base/config.rs", "HUGE_FROM_ARENAS: usize = 4", "HUGE_FROM_ARENAS: usize = 1"),
    ("base/config.rs", "EMPTY_ARENAS_MIN: usize = 4", "EMPTY_ARENAS_MIN: usize = 1"),
    ("base/config.rs", "(8 << 20) / POOL_BYTES", "4"),
    ("base/config.rs", "PURGE_FROM_POOLS: usize = POOLS_PER_ARENA", "PURGE_FROM_POOLS: usize = 2"),
    ("base/config.rs", "SWEEP_MIN_BYTES: usize = 32 << 20", "SWEEP_MIN_BYTES: usize = 128 << 10"),
    ("base/config.rs", "STEAL_SETS_MAX: usize = 16", "STEAL_SETS_MAX: usize = 2"),
    ("base/config.rs", "DEPOT_BLOCKS_MAX: usize = 8192", "DEPOT_BLOCKS_MAX: usize = 100"),
    ("base/config.rs", "DENSE_POOLS_MIN: usize = 32", "DENSE_POOLS_MIN: usize = 2"),
    ("base/config.rs", "FAULT_IN_FROM_POOLS: u32 = 16", "FAULT_IN_FROM_POOLS: u32 = 2"),
];

const PLANTS: [(&str, Edit); 4] = [
    // When two threads free into one pool at the same time, one's count is lost.
    (
        "PLANT_LOST_COUNT",
        (
            "protocols/remote.rs",
            "match self.count.fetch_add(blocks, Ordering::AcqRel) {",
            "let before = self.count.load(Ordering::Acquire);\n        \
             self.count.store(before + blocks, Ordering::Release);\n        match before {",
        ),
    ),
    // A pool is stolen although blocks of it are on their way into its owner's inbox.
    (
        "PLANT_BOLD_CLAIM",
        (
            "protocols/remote.rs",
            "self.count.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()",
            "self.count.fetch_add(1, Ordering::Acquire) < u32::MAX",
        ),
    ),
    // A purged part is taken for zero although a block in it was handed out since.
    (
        "PLANT_STALE_ZERO",
        (
            "heap/pool.rs",
            "self.purged.set(self.purged.get() & !parts_of(first, end, self.class::<K>().purge_unit_bytes()));",
            "",
        ),
    ),
    // A lock is released, and no sleeper is woken.
    (
        "PLANT_FORGOTTEN_SLEEPER",
        (
            "protocols/lock.rs",
            "before != HELD && self.look_back(before)",
            "before & KNOCKED != 0 && self.look_back(before)",
        ),
    ),
];

fn copy_tree(from: &Path, to: &Path, edits: &mut Vec<Edit>, root: &Path) {
    fs::create_dir_all(to).expect("a folder in OUT_DIR");
    for entry in fs::read_dir(from).expect("the source") {
        let path = entry.expect("readable").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_tree(&path, &target, edits, root);
            continue;
        }
        let mut text = fs::read_to_string(&path).expect("the source is text");
        let name = path.strip_prefix(root).expect("inside").to_string_lossy().into_owned();
        edits.retain(|&(file, old, new)| {
            if file != name {
                return true;
            }
            assert_eq!(text.matches(old).count(), 1, "{file} no longer has exactly one {old:?}: mend fuzz/build.rs");
            text = text.replace(old, new);
            false
        });
        fs::write(target, text).expect("OUT_DIR is writable");
    }
}

fn file_of(copy: &Path, module: &str) -> PathBuf {
    let files = [format!("{module}.rs"), format!("{module}/mod.rs")].map(|name| copy.join(name));
    files.into_iter().find(|file| file.exists()).unwrap_or_else(|| panic!("no module {module}"))
}

fn main() {
    let source = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("../src");
    let out = PathBuf::from(env::var("OUT_DIR").expect("set by cargo"));
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-changed=build.rs");
    let mut edits = SHRUNK.to_vec();
    for (feature, edit) in PLANTS {
        if env::var_os(format!("CARGO_FEATURE_{feature}")).is_some() {
            edits.push(edit);
        }
    }
    let copy = out.join("core");
    copy_tree(&source, &copy, &mut edits, &source);
    assert!(edits.is_empty(), "no file for {edits:?}: mend fuzz/build.rs");
    let mut modules = String::new();
    for module in MODULES {
        writeln!(modules, "#[path = {:?}]\npub(crate) mod {module};", file_of(&copy, module)).expect("a String");
    }
    for (folder, parts) in PARTS {
        writeln!(modules, "pub(crate) mod {folder} {{").expect("a String");
        for part in parts {
            writeln!(modules, "#[path = {:?}]\npub(crate) mod {part};", file_of(&copy, &format!("{folder}/{part}")))
                .expect("a String");
        }
        modules.push_str("}\n");
    }
    writeln!(modules, "#[path = {:?}]\nmod system_os;", copy.join("os/mod.rs")).expect("a String");
    fs::write(out.join("modules.rs"), modules).expect("OUT_DIR is writable");
}
