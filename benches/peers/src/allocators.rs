//! The allocators that are compared, by name.

/// One allocator, and how a worker with it is built.
#[derive(Clone, Copy, Debug)]
pub struct Allocator {
    /// The name on the command line and in tables.
    pub name: &'static str,
    /// The Cargo feature of the worker.
    pub feature: &'static str,
    /// Whether it is written in C or C++: the runner then checks that it was optimised.
    pub is_native: bool,
    /// Where it comes from, for the head of the report.
    pub origin: &'static str,
}

const fn allocator(name: &'static str, feature: &'static str, origin: &'static str) -> Allocator {
    Allocator { name, feature, is_native: false, origin }
}

const fn native(name: &'static str, feature: &'static str, origin: &'static str) -> Allocator {
    Allocator { is_native: true, ..allocator(name, feature, origin) }
}

impl Allocator {
    /// Whether it is this crate, with one or another large allocator.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.feature.starts_with("alloc-pymalloc")
    }
}

/// The one all others are compared with.
pub const BASELINE: &str = "pymalloc";

/// The crate with its large allocator `Medium`.
pub const MEDIUM: &str = "pymalloc-medium";

/// The crate with its feature `hardened`: no peer, and compared only if it is asked for.
pub const HARDENED: &str = "hardened";

/// Counts requests; never timed.
pub const COUNTING: Allocator =
    allocator("counting", "alloc-counting", "counts requests, for the share of small ones");

/// All that are compared, the baseline first.
pub const ALLOCATORS: &[Allocator] = &[
    allocator(BASELINE, "alloc-pymalloc", "this crate, larger requests to the system"),
    allocator(
        MEDIUM,
        "alloc-pymalloc-medium",
        "this crate, requests to 1 MiB from its arenas, too",
    ),
    native("py+mi3", "alloc-pymalloc-mimalloc", "this crate, larger requests to mimalloc 3"),
    allocator("glibc", "alloc-system", "std::alloc::System"),
    native("mimalloc3", "alloc-mimalloc3", "crate mimalloc 0.1.52: C 3.3.2"),
    native("mimalloc2", "alloc-mimalloc2", "crate mimalloc 0.1.52, feature v2: C 2.3.2"),
    native("jemalloc", "alloc-jemalloc", "crate tikv-jemallocator 0.7.0: C 5.3.1"),
    native("snmalloc", "alloc-snmalloc", "crate snmalloc-rs 0.7.6: C++"),
    native("rpmalloc", "alloc-rpmalloc", "crate rpmalloc 0.2.2: C 1.4.3"),
    native("tcmalloc", "alloc-tcmalloc", "crate tcmalloc-better 0.1.19: Google's C++"),
    allocator("rusty", "alloc-rusty-alloc", "crate rusty_alloc-api 2.4.0: Rust"),
    allocator("stoolap", "alloc-stoolap", "crate stoolap-jemalloc 0.1.5: Rust"),
    allocator("mnemosyne", "alloc-mnemosyne", "crate mnemosyne-memory 0.10.1: Rust"),
    allocator(HARDENED, "alloc-pymalloc-hardened", "this crate with its feature `hardened`"),
];

/// The allocator of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Allocator> {
    ALLOCATORS.iter().find(|allocator| allocator.name == name)
}
