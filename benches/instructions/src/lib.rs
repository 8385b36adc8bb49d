//! The rows that are counted, by name, in the order in which they are shown.

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The name on the command line and in the baseline.
    pub name: &'static str,
    /// The most difference from the baseline's count, in per cent of that; 0 where only the crate's own code is
    /// counted.
    pub tolerance_percent: u64,
    /// One line for people.
    pub about: &'static str,
}

const fn exact(name: &'static str, about: &'static str) -> Row {
    Row { name, tolerance_percent: 0, about }
}

/// A row that includes code of the C library or the loader, whose versions differ.
const fn within(tolerance_percent: u64, name: &'static str, about: &'static str) -> Row {
    Row { name, tolerance_percent, about }
}

/// The row that counts a whole program, less the same program with `System`.
pub const START_STOP: &str = "start-stop";

/// All rows.
pub const ROWS: &[Row] = &[
    exact("pair-constant", "48 bytes of a constant layout, freed at once; per pair"),
    exact("pair-runtime", "a layout known at run time, freed at once; per pair"),
    exact("zeroed-used", "64 zeroed bytes of used memory, freed at once; per pair"),
    within(1, "zeroed-fresh", "64 zeroed bytes of memory never used"),
    exact("realloc-same", "realloc within a class"),
    within(3, "realloc-grow", "realloc from 8 to 512 bytes in steps of 8"),
    within(3, "depot-round-trip", "1,000 blocks of 64 bytes allocated, then freed; per pair"),
    within(3, "refill-fresh", "blocks of 64 bytes from memory never used"),
    within(3, "refill", "blocks of 64 bytes from pools that were in use"),
    within(3, "flush-in-order", "blocks of 64 bytes freed as allocated, the depot full"),
    within(3, "flush-shuffled", "50,000 of them freed in random order"),
    within(3, "remote-free", "blocks of another thread freed, the depot full"),
    within(3, "remote-collect", "those allocated again by their owner"),
    exact("large", "1,024 bytes from a large allocator that does nothing, freed at once; per pair"),
    within(3, "thread-attach", "the first allocation of a thread"),
    within(5, START_STOP, "a program that only starts and ends, beyond the same with System"),
];

/// The row of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}
