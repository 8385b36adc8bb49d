//! The memory patterns by name: what each does, which figures it yields, and the project's limits for them.

/// The limit of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// There is no limit.
    Free,
    /// This value.
    AtMost(f64),
    /// The smaller of jemalloc's and mimalloc's figures, plus this value.
    PeersAnd(f64),
    /// The figure of glibc alone, plus this value.
    BesideGlibc(f64),
}

/// One figure of a pattern.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name, with the unit.
    pub name: &'static str,
    /// Its limit.
    pub limit: Limit,
}

/// One pattern of threads, sizes and phases.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// The name on the command line, in tables and of its files.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// The figures that its worker reports.
    pub figures: &'static [Figure],
    /// Whether it is about something that only this crate has.
    pub ours_only: bool,
}

const fn figure(name: &'static str, limit: Limit) -> Figure {
    Figure { name, limit }
}

const fn pattern(name: &'static str, about: &'static str, figures: &'static [Figure]) -> Pattern {
    Pattern { name, about, figures, ours_only: false }
}

/// The figure after a request to the allocator to give back all that it can.
pub const RETURNED: &str = "MiB after a request to return";
const IDLE: &str = "MiB idle";
const BETWEEN: &str = "MiB between phases, at worst";
const MORE: &str = "KiB more than before the burst";
const MORE_RETURNED: &str = "KiB more after a request to return";

use Limit::{AtMost, BesideGlibc, Free, PeersAnd};

/// The MiB of a program that only starts.
const PROGRAM_MIB: f64 = 4.0;

/// In MiB: twice the most live bytes, plus 256 KiB per running thread, plus the program itself.
const fn bound(live_mib: f64, threads: f64) -> Limit {
    PeersAnd(2.0 * live_mib + threads / 4.0 + PROGRAM_MIB)
}

/// All patterns, in the order in which they run.
pub const PATTERNS: &[Pattern] = &[
    pattern(
        "phases-32-cross",
        "32 threads, the 64 classes in turn, 100 MiB each, freed by the neighbour in random order",
        &[figure(BETWEEN, bound(100.0, 32.0)), figure(RETURNED, Free)],
    ),
    pattern(
        "phases-8",
        "8 threads, the 64 classes in turn, 100 MiB each, own frees in random order",
        &[figure(BETWEEN, bound(100.0, 8.0)), figure(RETURNED, Free)],
    ),
    pattern(
        "medium-phases-32",
        "32 threads, 34 sizes of 520 bytes to 1 MiB in turn, 100 MiB each, freed by the neighbour in random order",
        &[figure(BETWEEN, bound(100.0, 32.0)), figure(RETURNED, Free)],
    ),
    pattern(
        "medium-phases-8",
        "8 threads, the same sizes in turn, 100 MiB each, own frees in random order",
        &[figure(BETWEEN, bound(100.0, 8.0)), figure(RETURNED, Free)],
    ),
    pattern(
        "idle-threads",
        "1,000 idle threads, one block in each of the 64 classes: 16.5 MiB",
        &[
            figure(IDLE, bound(16.5, 1_000.0)),
            figure("KiB a thread", AtMost(300.0)),
            figure(RETURNED, Free),
        ],
    ),
    pattern(
        "big-heap-threads",
        "600 MiB live, then 200 threads with a block in each of 32 classes",
        &[figure("KiB a thread", AtMost(300.0))],
    ),
    pattern(
        "pool-burst",
        "a pool of 32 threads, four bursts each of 16 MiB of 16 to 511 bytes (three live at once), then idle",
        &[figure(IDLE, bound(48.0, 32.0)), figure(RETURNED, AtMost(200.0))],
    ),
    pattern(
        "pool-burst-mixed",
        "the same in a pool of 16 threads, sizes from 16 bytes to 16 KiB",
        &[figure(IDLE, bound(48.0, 16.0)), figure(RETURNED, AtMost(200.0))],
    ),
    pattern(
        "sleeping-owner",
        "the owner of 300 MiB sleeps, 8 threads free it all, six times over",
        &[figure("MiB left, at worst", AtMost(60.0))],
    ),
    pattern(
        "pinned-depots",
        "of 500 MiB, another thread frees a thousandth, scattered; the owner frees the rest",
        &[figure(IDLE, PeersAnd(f64::INFINITY)), figure(RETURNED, Free)],
    ),
    pattern(
        "kept-large-1",
        "16 MiB of small boxes; a worker allocates and frees 1,500 blocks of 20 KB",
        &[figure(MORE, BesideGlibc(2_048.0)), figure(MORE_RETURNED, BesideGlibc(2_048.0))],
    ),
    pattern(
        "kept-large-16",
        "the same with 16 workers, one after the other",
        &[figure(MORE, BesideGlibc(2_048.0)), figure(MORE_RETURNED, BesideGlibc(2_048.0))],
    ),
    pattern(
        "small-large-turns",
        "8 threads, in turn 96 MiB of small blocks and 96 MiB of blocks of 20 to 80 KB",
        &[figure("MiB at the peak", AtMost(160.0))],
    ),
    pattern(
        "ended-fork",
        "4,000 threads ended, then a fork",
        &[
            figure("KiB that the child dirties", PeersAnd(f64::INFINITY)),
            figure("us for the fork", PeersAnd(f64::INFINITY)),
        ],
    ),
    pattern(
        "ended-walk",
        "5,000 threads ended, then 10,000 blocks allocated and freed, again and again",
        &[
            figure("% of the time before they were started", AtMost(110.0)),
            figure("us for allocated_blocks()", Free),
        ],
    ),
    Pattern {
        ours_only: true,
        ..pattern(
            "limit",
            "set_limit(16 MiB), 8 threads with at most 1 MiB live each",
            &[figure("requests answered by null", AtMost(0.0))],
        )
    },
];

/// The pattern of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Pattern> {
    PATTERNS.iter().find(|pattern| pattern.name == name)
}
