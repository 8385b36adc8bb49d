//! The workloads by name, in the order in which they run and are shown.

/// The theme of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Allocate and free in a loop, one thread.
    Loops,
    /// Only requests above the small ones.
    Medium,
    /// Data structures of one kind of node.
    Structures,
    /// How much memory the heap takes.
    Memory,
    /// Several threads.
    Threads,
    /// The same work with more and more threads.
    Scaling,
    /// The same work in a larger and larger heap.
    Live,
    /// Programs built from well-known crates.
    Programs,
}

impl Theme {
    /// The themes of single workloads, in the order in which they are shown. The others are series.
    pub const OF_SINGLES: [Self; 6] =
        [Self::Loops, Self::Medium, Self::Structures, Self::Memory, Self::Threads, Self::Programs];

    /// The name in tables and in `--only`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loops => "loops",
            Self::Medium => "medium",
            Self::Structures => "structures",
            Self::Memory => "memory",
            Self::Threads => "threads",
            Self::Scaling => "scaling",
            Self::Live => "live",
            Self::Programs => "programs",
        }
    }
}

/// One workload.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The name on the command line and in tables.
    pub name: &'static str,
    /// Its theme.
    pub theme: Theme,
    /// MiB of memory that it needs, with room to spare. It is skipped on machines with less.
    pub needs_mib: usize,
    /// Whether a quick run leaves it out unless it is asked for by name.
    pub full_only: bool,
    /// One line for people.
    pub about: &'static str,
}

const fn entry(theme: Theme, name: &'static str, about: &'static str) -> Entry {
    Entry { name, theme, needs_mib: 700, full_only: false, about }
}

const fn live(name: &'static str, mib: usize) -> Entry {
    Entry {
        name,
        theme: Theme::Live,
        // The peer with the largest overhead takes about 1.6 times the bytes asked for, and each block has a handle of
        // 16 bytes.
        needs_mib: 300 + mib * 2,
        full_only: mib > 256,
        about: "random replacement in a heap of that many bytes",
    }
}

const fn medium_live(name: &'static str, mib: usize) -> Entry {
    let about = "520 bytes to 32 KiB, that many bytes live, a random one replaced";
    Entry { theme: Theme::Medium, about, ..live(name, mib) }
}

use Theme::{Loops, Medium, Memory, Programs, Scaling, Structures, Threads};

/// All workloads.
pub const WORKLOADS: &[Entry] = &[
    entry(Loops, "one-size", "48 bytes, freed at once"),
    entry(Loops, "mixed-sizes", "8 to 512 bytes, freed at once"),
    entry(Loops, "over-aligned", "64 to 384 bytes aligned to 16, 64 or 128, freed at once"),
    entry(Loops, "lifo-10k", "10,000 live, last in first out"),
    entry(Loops, "fifo-10k", "10,000 live, first in first out"),
    entry(Loops, "shuffled-100k", "100,000 live, freed in random order"),
    entry(Loops, "replace-1k", "1,000 live, a random one replaced"),
    entry(Loops, "replace-100k", "100,000 live, a random one replaced"),
    entry(Loops, "replace-1m", "1,000,000 live, a random one replaced"),
    entry(Loops, "large-only", "520 to 16,384 bytes, 1,000 live, a random one replaced"),
    entry(Medium, "medium-hot", "520 bytes to 32 KiB, freed at once"),
    entry(Medium, "medium-shuffled", "520 bytes to 32 KiB, 10,000 live, freed in random order"),
    entry(Medium, "medium-64m", "520 bytes to 32 KiB, 64 MiB live, a random one replaced"),
    medium_live("medium-256m", 256),
    medium_live("medium-1g", 1 << 10),
    entry(Medium, "medium-handed-on", "520 bytes to 32 KiB, one thread allocates, another frees"),
    entry(Medium, "megabyte", "600 bytes to 1 MiB, 200 live, a random one replaced"),
    entry(Structures, "trees-1", "binary trees, one thread"),
    entry(Structures, "trees-4", "binary trees, four threads"),
    entry(Structures, "linked-lists", "lists of 1,000 nodes built, reversed, dropped"),
    entry(Structures, "growing-vectors", "1,000 vectors pushed to in turn, up to 512 bytes"),
    entry(Structures, "growing-strings", "1,000 strings appended to in turn"),
    entry(Memory, "density-8", "blocks of 8 bytes: RSS per byte asked for"),
    entry(Memory, "density-16", "blocks of 16 bytes"),
    entry(Memory, "density-24", "blocks of 24 bytes"),
    entry(Memory, "density-40", "blocks of 40 bytes"),
    entry(Memory, "density-72", "blocks of 72 bytes"),
    entry(Memory, "density-136", "blocks of 136 bytes"),
    entry(Memory, "density-264", "blocks of 264 bytes"),
    entry(Memory, "density-mixed", "blocks of 8 to 512 bytes"),
    entry(Memory, "growth-mixed", "a heap that only grows: first touch of memory"),
    entry(Memory, "peak-shrink", "all but 1 % freed, scattered: RSS at the end"),
    entry(Memory, "peak-free", "everything freed: RSS at the end"),
    entry(Threads, "hand-over", "threads inherit the blocks of ended threads"),
    entry(Threads, "producer-consumer-1-1", "one thread allocates, another frees"),
    entry(Threads, "producer-consumer-1-n", "one thread allocates, three free"),
    entry(Threads, "producer-consumer-n-1", "three threads allocate, one frees"),
    entry(Threads, "exchange", "two threads free what the other allocated"),
    entry(Threads, "false-sharing-active", "threads write to blocks allocated side by side"),
    entry(Threads, "false-sharing-passive", "the same after freeing blocks of another thread"),
    entry(Threads, "thread-storm", "short threads, eight alive at once"),
    entry(Threads, "pool-results", "a thread pool's results freed by the caller"),
    entry(Threads, "fork-join", "halve, build in eight threads, join, free"),
    entry(Threads, "mixed-4", "four threads, 10,000 live each, a random one replaced"),
    entry(Threads, "start-stop", "a program that only starts and ends"),
    entry(Scaling, "scaling-1", "1,000 live a thread, a random one replaced; 1 thread"),
    entry(Scaling, "scaling-2", "2 threads"),
    entry(Scaling, "scaling-4", "4 threads"),
    entry(Scaling, "scaling-8", "8 threads"),
    entry(Scaling, "scaling-16", "16 threads"),
    entry(Scaling, "scaling-64", "64 threads"),
    live("live-1m", 1),
    live("live-4m", 4),
    live("live-16m", 16),
    live("live-64m", 64),
    live("live-256m", 256),
    live("live-1g", 1 << 10),
    live("live-4g", 4 << 10),
    live("live-8g", 8 << 10),
    entry(Programs, "json", "serde_json: parse, change and print a document"),
    entry(Programs, "syn", "syn: parse Rust source"),
    entry(Programs, "regex", "regex: compile 40 patterns"),
    entry(Programs, "btree-churn", "BTreeMap of strings: insert, look up, remove"),
    entry(Programs, "hashmap-churn", "HashMap of strings: insert, look up, remove"),
    entry(Programs, "interned", "an interner of reference-counted strings"),
    entry(Programs, "script", "rhai: a script with strings, arrays, maps and closures"),
    entry(Programs, "async-tasks", "tokio: tasks, channels and one-shot replies, two workers"),
    entry(Programs, "persistent-map", "im: a persistent map and its old versions"),
    entry(Programs, "lru-cache", "lru: a full cache of strings"),
    entry(Programs, "csv-group", "csv: read rows, group them by a column"),
    entry(Programs, "search-memory", "probly-search: index, query and remove documents"),
    entry(Programs, "http", "hyper: a client's requests and a server's answers, bodies to 40 KiB"),
    entry(Programs, "http-4", "the same in four threads"),
    entry(Programs, "cbor", "ciborium: write and read messages of some KiB"),
    entry(Programs, "cbor-4", "the same in four threads"),
    entry(Programs, "redb", "redb: transactions of a database in memory"),
    entry(Programs, "deflate", "flate2: compress and decompress buffers, each with a new encoder"),
    entry(Programs, "deflate-4", "the same in four threads"),
    entry(Programs, "lz4", "lz4_flex: compress and decompress buffers"),
    entry(Programs, "thumbnails", "image: decode, resize and encode small pictures"),
    entry(Programs, "templates", "minijinja: render pages with a table"),
    entry(Programs, "markdown", "pulldown-cmark: render documents to HTML"),
    entry(Programs, "markdown-4", "the same in four threads"),
    entry(Programs, "bitmap-index", "roaring: build, save, load and ask an index of bitmaps"),
    entry(Programs, "timers", "tokio: tasks that sleep, send and collect in batches"),
    entry(Programs, "parallel-words", "rayon: sort and join words in four threads"),
    entry(Programs, "shaders", "naga: compile WGSL to SPIR-V and to Metal"),
];

/// The workload of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Entry> {
    WORKLOADS.iter().find(|entry| entry.name == name)
}
