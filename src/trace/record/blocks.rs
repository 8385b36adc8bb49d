//! The side table: every traced block's address, size and stack.
//!
//! # Protocol
//! The table is cut into shards by address, each under a lock of its own. Shard locks come last in the lock order: a
//! thread that holds one takes no other lock, allocates nothing and frees nothing.
//!
//! # Invariants
//! - *Session*: a shard holds blocks of its `session` only. An insertion names the session that its call saw; a shard
//!   of another session refuses it.
//! - *Probe*: from a key's home to its place there is no empty entry.
//! - *Filter*: while sampling, a block in the table has a count above 0 in `FILTER`.
//!
//! # Timelines
//! While a timeline is recorded (`timeline`), a shard also sums up the changes since the last sample, by stack and by
//! the interval in which the blocks were allocated. A block's interval is kept beside its address. So a block takes no
//! more memory, and a free knows the interval of its block. What is allocated and freed within one interval cancels
//! out.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::memory::Mapped;
use super::peaks;
use super::sampling::{weight, weighted_bytes};
use super::stacks::StackId;
use super::sums::{Change, SumKey, Sums};
use crate::protocols::lock::Lock;

const SHARD_BITS: u32 = 6;
const SHARDS: usize = 1 << SHARD_BITS;
/// Entries of a shard's first table.
const FIRST_ENTRIES: usize = 256;
/// Counters of the filter that belong to one shard.
const FILTER_BITS: u32 = 10;

/// A traced block. It takes half the memory of tracemalloc's entry and key, since a program has many blocks.
#[derive(Clone, Copy)]
struct Entry {
    /// 0 if empty. The upper 16 bits, which no address uses, are the timeline's interval in which the block was
    /// allocated; 0 if no timeline was recorded then.
    word: u64,
    block: Block,
}

impl Entry {
    const ADDRESS_BITS: u32 = 48;

    fn new(address: usize, birth: u16, block: Block) -> Self {
        Self { word: address as u64 | u64::from(birth) << Self::ADDRESS_BITS, block }
    }

    fn is_empty(self) -> bool {
        self.word == 0
    }

    fn address(self) -> usize {
        (self.word & ((1 << Self::ADDRESS_BITS) - 1)) as usize
    }

    fn birth(self) -> u16 {
        (self.word >> Self::ADDRESS_BITS) as u16
    }
}

/// A block's size and its stack, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Block(u64);

impl Block {
    /// Larger sizes, from 1 TiB on, are recorded as this.
    const BYTES_MAX: u64 = (1 << (64 - StackId::BITS)) - 1;

    pub(in crate::trace) fn new(bytes: usize, stack: StackId) -> Self {
        Self((bytes as u64).min(Self::BYTES_MAX) << StackId::BITS | u64::from(stack.number()))
    }

    pub(in crate::trace) fn bytes(self) -> u64 {
        self.0 >> StackId::BITS
    }

    pub(in crate::trace) fn stack(self) -> StackId {
        StackId::from_number(self.0 as u32)
    }
}

struct Shard {
    /// 0 when not tracing.
    session: u32,
    /// The session's sampling interval; 0 when every block is traced.
    interval: u64,
    /// A power of two, or none.
    entries: Mapped<Entry>,
    used: usize,
    /// The current interval of the timeline; 0 if none is recorded.
    interval_now: u16,
    /// What has changed in this interval.
    changes: Sums,
}

impl Shard {
    const fn new(session: u32) -> Self {
        Self { session, interval: 0, entries: Mapped::new(), used: 0, interval_now: 0, changes: Sums::new() }
    }
}

/// On a cache line of its own.
#[repr(align(64))]
struct Padded(Lock<Shard>);

static TABLE: [Padded; SHARDS] = [const { Padded(Lock::new(Shard::new(0))) }; SHARDS];

/// For each hash, how many blocks of the table have it, as far as a byte can count; written under the lock of the
/// hash's shard.
static FILTER: [AtomicU8; SHARDS << FILTER_BITS] = [const { AtomicU8::new(0) }; SHARDS << FILTER_BITS];

pub(in crate::trace) const FILTER_BYTES: usize = SHARDS << FILTER_BITS;

/// Bytes of blocks that the tracer itself allocated.
static TRACER_BYTES: AtomicU64 = AtomicU64::new(0);
/// Blocks that could not be recorded.
static LOST: AtomicU64 = AtomicU64::new(0);

/// An address's hash: its upper bits choose the shard, the next ones the place.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    fn of(address: usize) -> Self {
        // Fibonacci hashing (Knuth, volume 3, 6.4); the fold brings the upper half of the address in.
        let address = address as u64;
        Self((address ^ (address >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn shard(self) -> &'static Lock<Shard> {
        &TABLE[(self.0 >> (64 - SHARD_BITS)) as usize].0
    }

    fn filter(self) -> &'static AtomicU8 {
        &FILTER[(self.0 >> (64 - SHARD_BITS - FILTER_BITS)) as usize]
    }

    /// The place in a table of `entries`, a power of two.
    fn home(self, entries: usize) -> usize {
        (self.0 << SHARD_BITS >> (64 - entries.trailing_zeros())) as usize
    }
}

/// The change that a block's allocation (1) or free (-1) makes; weighted if blocks are sampled.
#[inline(always)]
fn change_of(block: Block, sign: i64, interval: u64) -> Change {
    if interval == 0 {
        return Change { bytes: sign * block.bytes() as i64, blocks: sign };
    }
    weighted_change(block.bytes(), sign, interval)
}

#[cold]
#[inline(never)]
fn weighted_change(bytes: u64, sign: i64, interval: u64) -> Change {
    let blocks = weight(bytes, interval).count.round() as i64;
    Change { bytes: sign * weighted_bytes(bytes, interval) as i64, blocks: sign * blocks }
}

/// Records a block for the session that the caller saw, and forgets a block that was recorded at the same address.
pub(in crate::trace) fn insert(session: u32, address: usize, block: Block) {
    let hash = Hash::of(address);
    hash.shard().lock().with(|shard| {
        if shard.session != session {
            return;
        }
        // An earlier block at the address was freed unseen, by other means than this crate's.
        shard.remove(hash, address);
        if shard.insert(hash, address, block).is_none() {
            // Relaxed: a count.
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Forgets the block at an address, and returns it if it was known.
pub(in crate::trace) fn remove(address: usize, sampled: bool) -> Option<Block> {
    let hash = Hash::of(address);
    // Relaxed: a thread frees a traced block after it was recorded, so it sees that count or a later one.
    if sampled && hash.filter().load(Ordering::Relaxed) == 0 {
        return None;
    }
    hash.shard().lock().with(|shard| shard.remove(hash, address))
}

/// The block at an address, if it is known.
pub(in crate::trace) fn find(address: usize) -> Option<Block> {
    let hash = Hash::of(address);
    hash.shard().lock().with(|shard| shard.find(hash, address).map(|place| shard.entries[place].block))
}

impl Shard {
    fn find(&self, hash: Hash, address: usize) -> Option<usize> {
        let mask = self.entries.len().checked_sub(1)?;
        let mut place = hash.home(mask + 1);
        loop {
            let entry = self.entries[place];
            // First, because null may be looked up, and an empty entry's address equals it.
            if entry.is_empty() {
                return None;
            }
            if entry.address() == address {
                return Some(place);
            }
            place = (place + 1) & mask;
        }
    }

    fn insert(&mut self, hash: Hash, address: usize, block: Block) -> Option<()> {
        // At most 7/8 full: beyond that, linear probing slows down.
        if (self.used + 1) * 8 > self.entries.len() * 7 {
            self.grow()?;
        }
        self.place(hash, Entry::new(address, self.interval_now, block));
        self.used += 1;
        count_in_filter(hash, 1);
        if block.stack() == StackId::TRACER {
            // Relaxed (all counts here): sums, ordering nothing.
            TRACER_BYTES.fetch_add(block.bytes(), Ordering::Relaxed);
            return Some(());
        }
        peaks::add(weighted_bytes(block.bytes(), self.interval));
        if self.interval_now != 0 {
            self.note(block, self.interval_now, 1);
        }
        Some(())
    }

    /// Notes for the timeline that a block was allocated (1) or freed (-1).
    #[inline(always)]
    fn note(&mut self, block: Block, birth: u16, sign: i64) {
        let change = change_of(block, sign, self.interval);
        if self.changes.add(SumKey::new(block.stack(), birth), change).is_none() {
            // Relaxed: a count.
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes the blocks that are live when a timeline begins.
    fn note_all(&mut self) {
        for place in 0..self.entries.len() {
            let entry = self.entries[place];
            if !entry.is_empty() && entry.block.stack() != StackId::TRACER {
                self.entries[place] = Entry::new(entry.address(), 0, entry.block);
                self.note(entry.block, 0, 1);
            }
        }
    }

    fn place(&mut self, hash: Hash, entry: Entry) {
        let mask = self.entries.len() - 1;
        let mut place = hash.home(mask + 1);
        while !self.entries[place].is_empty() {
            place = (place + 1) & mask;
        }
        self.entries[place] = entry;
    }

    fn grow(&mut self) -> Option<()> {
        let entries = Mapped::zeroed((self.entries.len() * 2).max(FIRST_ENTRIES))?;
        let old = core::mem::replace(&mut self.entries, entries);
        for &entry in old.iter().filter(|entry| !entry.is_empty()) {
            self.place(Hash::of(entry.address()), entry);
        }
        Some(())
    }

    fn remove(&mut self, hash: Hash, address: usize) -> Option<Block> {
        let mut hole = self.find(hash, address)?;
        let removed = self.entries[hole];
        let block = removed.block;
        let mask = self.entries.len() - 1;
        // Closes the hole: moves back each entry that does not come to lie before its home (Knuth's algorithm R).
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let entry = self.entries[place];
            if entry.is_empty() {
                break;
            }
            let home = Hash::of(entry.address()).home(mask + 1);
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(hole) & mask) {
                self.entries[hole] = entry;
                hole = place;
            }
        }
        self.entries[hole].word = 0;
        self.used -= 1;
        count_in_filter(hash, -1);
        self.uncount(block);
        if self.interval_now != 0 && block.stack() != StackId::TRACER {
            self.note(block, removed.birth(), -1);
        }
        Some(block)
    }

    fn uncount(&self, block: Block) {
        // Relaxed (both): as in `insert`.
        if block.stack() == StackId::TRACER {
            TRACER_BYTES.fetch_sub(block.bytes(), Ordering::Relaxed);
        } else {
            peaks::subtract(weighted_bytes(block.bytes(), self.interval));
        }
    }
}

/// The caller holds the lock of the hash's shard. A count that has reached the highest number of a byte stays there.
fn count_in_filter(hash: Hash, change: i8) {
    let counter = hash.filter();
    // Relaxed (both): written under the shard's lock; for readers see `remove`.
    let count = counter.load(Ordering::Relaxed);
    if count != u8::MAX {
        counter.store(count.wrapping_add_signed(change), Ordering::Relaxed);
    }
}

/// Empties the table for a session (0 for none), shard by shard. From then on, insertions for earlier sessions are
/// refused.
pub(in crate::trace) fn begin(session: u32, interval: u64) {
    for (index, shard) in TABLE.iter().enumerate() {
        shard.0.lock().with(|shard| {
            shard.forget(|_| true);
            for counter in &FILTER[index << FILTER_BITS..(index + 1) << FILTER_BITS] {
                // Relaxed: as in `count_in_filter`. Set to 0 here, because counts at the limit are never lowered.
                counter.store(0, Ordering::Relaxed);
            }
            shard.session = session;
            shard.interval = interval;
            if session == 0 {
                shard.entries = Mapped::new();
            }
        });
    }
    // Relaxed (both): counts.
    LOST.store(0, Ordering::Relaxed);
    peaks::reset();
}

/// Forgets all blocks of the program; those of the tracer stay known.
pub(in crate::trace) fn clear() {
    for shard in &TABLE {
        shard.0.lock().with(|shard| shard.forget(|block| block.stack() != StackId::TRACER));
    }
    // Relaxed: a count.
    LOST.store(0, Ordering::Relaxed);
    peaks::reset();
}

impl Shard {
    fn forget(&mut self, forgets: impl Fn(Block) -> bool) {
        for place in 0..self.entries.len() {
            // An entry that moves back into the hole is looked at next. At the table's end such an entry comes from the
            // start, where only blocks that stay are left.
            while let entry = self.entries[place]
                && !entry.is_empty()
                && forgets(entry.block)
            {
                self.remove(Hash::of(entry.address()), entry.address());
            }
        }
    }
}

/// Copies the blocks of the table, shard by shard: each shard as it is at one moment, the next one a little later.
///
/// The caller's allocations must not be traced as the program's (`state::Busy`).
pub(in crate::trace) fn copy() -> Vec<Block> {
    let mut blocks = Vec::new();
    for shard in &TABLE {
        loop {
            // No allocation, and no free, under the shard's lock.
            let room = blocks.capacity() - blocks.len();
            let missing = shard.0.lock().with(|shard| {
                if shard.used > room {
                    return shard.used;
                }
                blocks.extend(shard.entries.iter().filter(|entry| !entry.is_empty()).map(|entry| entry.block));
                0
            });
            if missing == 0 {
                break;
            }
            blocks.reserve(missing + missing / 8);
        }
    }
    blocks
}

/// Begins an interval (0 for none) in each shard, and adds the changes of the last one to `sums`, as far as there is
/// memory. `spare` is empty before and after.
pub(in crate::trace) fn begin_interval(interval: u16, sums: &mut Sums, spare: &mut Sums) {
    for shard in &TABLE {
        shard.0.lock().with(|shard| {
            if shard.interval_now == 0 && interval != 0 {
                shard.note_all();
            }
            shard.interval_now = interval;
            core::mem::swap(&mut shard.changes, spare);
        });
        // Outside of the lock.
        for (key, change) in spare.iter() {
            if sums.add(key, change).is_none() {
                // Relaxed: a count.
                LOST.fetch_add(1, Ordering::Relaxed);
            }
        }
        spare.clear();
    }
}

/// Calls `block` with each block of the table, and `array` with each of the table's own arrays (first address, bytes).
///
/// # Safety
/// After [`acquire_all`], on the same thread or its copy.
#[cfg(feature = "graph")]
pub(in crate::trace) unsafe fn each_held(mut block: impl FnMut(usize, Block), mut array: impl FnMut(usize, usize)) {
    for shard in &TABLE {
        // SAFETY: the caller holds the lock.
        unsafe {
            shard.0.with_held(|shard| {
                array(shard.entries.as_ptr().addr(), size_of_val(&*shard.entries));
                let (changes, bytes) = shard.changes.array();
                array(changes, bytes);
                let entries = shard.entries.iter().filter(|entry| !entry.is_empty());
                entries.for_each(|entry| block(entry.address(), entry.block));
            });
        }
    }
}

/// Ends the timeline in a forked child, whose parent goes on with it.
pub(in crate::trace) fn forget_intervals() {
    for shard in &TABLE {
        shard.0.lock().with(|shard| {
            shard.interval_now = 0;
            shard.changes = Sums::new();
        });
    }
    peaks::sample_from(u64::MAX);
}

/// Adds the program's blocks to `sums`, by their stacks; `None` if there is no memory for that.
pub(in crate::trace) fn add_by_stack(sums: &mut Sums) -> Option<()> {
    for shard in &TABLE {
        shard.0.lock().with(|shard| {
            for entry in shard.entries.iter().filter(|entry| !entry.is_empty()) {
                if entry.block.stack() != StackId::TRACER {
                    let key = SumKey::new(entry.block.stack(), 0);
                    sums.add(key, change_of(entry.block, 1, shard.interval))?;
                }
            }
            Some(())
        })?;
    }
    Some(())
}

pub(in crate::trace) fn tracer_bytes() -> u64 {
    // Relaxed: a sum.
    TRACER_BYTES.load(Ordering::Relaxed)
}

pub(in crate::trace) fn lost() -> u64 {
    // Relaxed: a count.
    LOST.load(Ordering::Relaxed)
}

/// Takes all shard locks, for a fork.
pub(in crate::trace) fn acquire_all() {
    for shard in &TABLE {
        let _acquired = shard.0.acquire();
    }
}

/// Frees all shard locks.
///
/// # Safety
/// After [`acquire_all`], on the same thread or in its forked child.
pub(in crate::trace) unsafe fn release_all() {
    for shard in &TABLE {
        // SAFETY: the caller took them.
        unsafe { shard.0.release() };
    }
}

#[cfg(test)]
mod tests;
