//! The side table: every traced block's address, size and stack.
//!
//! # Protocol
//! The table is cut into shards by address, each under a lock of its own. Shard locks come last of all: a thread that
//! holds one takes no other lock, allocates nothing and frees nothing.
//!
//! # Invariants
//! - *Session*: a shard holds blocks of its `session` only. An insertion names the session that it was seen in, and is
//!   refused by a shard of another.
//! - *Probe*: from a key's home to its place there is no empty entry.
//! - *Filter*: while sampling, a block in the table has a count above 0 in `FILTER`.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::memory::Mapped;
use super::sampling::weighted_bytes;
use super::stacks::StackId;
use crate::protocols::lock::Lock;

const SHARD_BITS: u32 = 6;
const SHARDS: usize = 1 << SHARD_BITS;
/// Entries of a shard's first table.
const FIRST_ENTRIES: usize = 256;
/// Counters of the filter that belong to one shard.
const FILTER_BITS: u32 = 10;

/// A traced block. Half of Python's entry and its key: a program has many.
#[derive(Clone, Copy)]
struct Entry {
    /// 0 if empty.
    address: usize,
    block: Block,
}

/// A block's size and its stack, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Block(u64);

impl Block {
    /// Sizes from this on, 1 TiB, are recorded as this.
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
}

/// On a cache line of its own.
#[repr(align(64))]
struct Padded(Lock<Shard>);

static TABLE: [Padded; SHARDS] =
    [const { Padded(Lock::new(Shard { session: 0, interval: 0, entries: Mapped::new(), used: 0 })) }; SHARDS];

/// How many blocks of the table have each hash, as far as a byte counts; written under the lock of the hash's shard.
static FILTER: [AtomicU8; SHARDS << FILTER_BITS] = [const { AtomicU8::new(0) }; SHARDS << FILTER_BITS];

pub(in crate::trace) const FILTER_BYTES: usize = SHARDS << FILTER_BITS;

/// Bytes of the program's traced blocks, or their estimate.
static CURRENT_BYTES: AtomicU64 = AtomicU64::new(0);
static PEAK_BYTES: AtomicU64 = AtomicU64::new(0);
/// From so many bytes on what is held is to be kept as the peak; the highest number if it never is.
static KEEP_BYTES: AtomicU64 = AtomicU64::new(u64::MAX);
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

/// Records a block of the session that the caller saw; a block that was recorded at the same address before is gone.
pub(in crate::trace) fn insert(session: u32, address: usize, block: Block) {
    let hash = Hash::of(address);
    hash.shard().lock().with(|shard| {
        if shard.session != session {
            return;
        }
        // One that was freed unseen, by other means than this crate's.
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
    // Relaxed: whoever frees a traced block does so after it was recorded, and so sees that count or a later one.
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
            match self.entries[place].address {
                0 => return None,
                found if found == address => return Some(place),
                _ => place = (place + 1) & mask,
            }
        }
    }

    fn insert(&mut self, hash: Hash, address: usize, block: Block) -> Option<()> {
        // At most 7/8 full: linear probing slows down beyond.
        if (self.used + 1) * 8 > self.entries.len() * 7 {
            self.grow()?;
        }
        self.place(hash, Entry { address, block });
        self.used += 1;
        count_in_filter(hash, 1);
        if block.stack() == StackId::TRACER {
            // Relaxed (all counts here): sums, ordering nothing.
            TRACER_BYTES.fetch_add(block.bytes(), Ordering::Relaxed);
            return Some(());
        }
        let bytes = weighted_bytes(block.bytes(), self.interval);
        let current = CURRENT_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if current > PEAK_BYTES.load(Ordering::Relaxed) {
            PEAK_BYTES.fetch_max(current, Ordering::Relaxed);
        }
        Some(())
    }

    fn place(&mut self, hash: Hash, entry: Entry) {
        let mask = self.entries.len() - 1;
        let mut place = hash.home(mask + 1);
        while self.entries[place].address != 0 {
            place = (place + 1) & mask;
        }
        self.entries[place] = entry;
    }

    fn grow(&mut self) -> Option<()> {
        let entries = Mapped::zeroed((self.entries.len() * 2).max(FIRST_ENTRIES))?;
        let old = core::mem::replace(&mut self.entries, entries);
        for &entry in old.iter().filter(|entry| entry.address != 0) {
            self.place(Hash::of(entry.address), entry);
        }
        Some(())
    }

    fn remove(&mut self, hash: Hash, address: usize) -> Option<Block> {
        let mut hole = self.find(hash, address)?;
        let block = self.entries[hole].block;
        let mask = self.entries.len() - 1;
        // Closes the hole by moving entries back that are not before their home then (Knuth's algorithm R).
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let entry = self.entries[place];
            if entry.address == 0 {
                break;
            }
            let home = Hash::of(entry.address).home(mask + 1);
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(hole) & mask) {
                self.entries[hole] = entry;
                hole = place;
            }
        }
        self.entries[hole].address = 0;
        self.used -= 1;
        count_in_filter(hash, -1);
        self.uncount(block);
        Some(block)
    }

    fn uncount(&self, block: Block) {
        // Relaxed (both): as in `insert`.
        if block.stack() == StackId::TRACER {
            TRACER_BYTES.fetch_sub(block.bytes(), Ordering::Relaxed);
        } else {
            CURRENT_BYTES.fetch_sub(weighted_bytes(block.bytes(), self.interval), Ordering::Relaxed);
        }
    }
}

/// Under the lock of the hash's shard. A count that reached the highest a byte holds stays there.
fn count_in_filter(hash: Hash, change: i8) {
    let counter = hash.filter();
    // Relaxed (both): written under the shard's lock; for readers see `remove`.
    let count = counter.load(Ordering::Relaxed);
    if count != u8::MAX {
        counter.store(count.wrapping_add_signed(change), Ordering::Relaxed);
    }
}

/// Empties the table for a session (0 for none), shard by shard: insertions of earlier ones are refused from then on.
pub(in crate::trace) fn begin(session: u32, interval: u64) {
    for (index, shard) in TABLE.iter().enumerate() {
        shard.0.lock().with(|shard| {
            shard.forget(|_| true);
            for counter in &FILTER[index << FILTER_BITS..(index + 1) << FILTER_BITS] {
                // Relaxed: as in `count_in_filter`. Those that a byte could not count would stay for good.
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
    reset_peak();
}

/// Forgets all blocks of the program; those of the tracer stay known.
pub(in crate::trace) fn clear() {
    for shard in &TABLE {
        shard.0.lock().with(|shard| shard.forget(|block| block.stack() != StackId::TRACER));
    }
    // Relaxed: a count.
    LOST.store(0, Ordering::Relaxed);
    reset_peak();
}

impl Shard {
    fn forget(&mut self, forgets: impl Fn(Block) -> bool) {
        for place in 0..self.entries.len() {
            // What moves back into the hole is looked at next. At the table's end that comes from its start, where only
            // blocks are left that stay.
            while let entry = self.entries[place]
                && entry.address != 0
                && forgets(entry.block)
            {
                self.remove(Hash::of(entry.address), entry.address);
            }
        }
    }
}

/// The blocks of the table, shard by shard: each shard as it was at one moment, later ones a little later.
///
/// The caller's allocations must not be traced as the program's (`Thread::enter`).
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
                blocks.extend(shard.entries.iter().filter(|entry| entry.address != 0).map(|entry| entry.block));
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

/// Shows each block of the table, and each of the table's own arrays by its first address and its bytes.
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
                let entries = shard.entries.iter().filter(|entry| entry.address != 0);
                entries.for_each(|entry| block(entry.address, entry.block));
            });
        }
    }
}

/// The program's bytes now and at most, or their estimates.
pub(in crate::trace) fn traced_memory() -> (u64, u64) {
    // Relaxed (both): a reading while others write is a snapshot.
    let current = CURRENT_BYTES.load(Ordering::Relaxed);
    (current, PEAK_BYTES.load(Ordering::Relaxed).max(current))
}

pub(in crate::trace) fn reset_peak() {
    // Relaxed (all): as in `traced_memory`. First down, then up: who counts meanwhile is not lost.
    PEAK_BYTES.store(0, Ordering::Relaxed);
    PEAK_BYTES.fetch_max(CURRENT_BYTES.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Whether there is a new peak to be kept.
pub(in crate::trace) fn peak_is_due() -> bool {
    // Relaxed (both): a hint; who keeps it looks again.
    CURRENT_BYTES.load(Ordering::Relaxed) >= KEEP_BYTES.load(Ordering::Relaxed)
}

/// Has a peak of at least so many bytes kept; none, if that is the highest number.
pub(in crate::trace) fn keep_peak_from(bytes: u64) {
    // Relaxed: as above.
    KEEP_BYTES.store(bytes, Ordering::Relaxed);
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
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn shard() -> Shard {
        Shard { session: 1, interval: 0, entries: Mapped::new(), used: 0 }
    }

    /// Addresses of one shard, which collide as the hash has them collide.
    fn addresses() -> Vec<usize> {
        (1..).map(|index: usize| index * 16).filter(|&address| Hash::of(address).0 >> 58 == 5).take(3000).collect()
    }

    #[test]
    fn a_table_after_random_insertions_and_removals_holds_what_a_map_holds() {
        let mut shard = shard();
        let mut model = HashMap::new();
        let addresses = addresses();
        let mut random = 1_u64;
        for step in 0..60_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // In turns mostly growing and mostly shrinking.
            let grows = step / 10_000 % 2 == 0;
            let address = addresses[(random >> 33) as usize % addresses.len()];
            let hash = Hash::of(address);
            if (random >> 20).is_multiple_of(4) != grows {
                let block = Block::new(step, StackId::TRACER);
                assert_eq!(shard.remove(hash, address), model.remove(&address));
                shard.insert(hash, address, block).expect("memory");
                model.insert(address, block);
            } else {
                assert_eq!(shard.remove(hash, address), model.remove(&address));
            }
            assert_eq!(shard.used, model.len());
        }
        for &address in &addresses {
            let found = shard.find(Hash::of(address), address).map(|place| shard.entries[place].block);
            assert_eq!(found.as_ref(), model.get(&address));
        }
        shard.forget(|block| block.bytes() % 2 == 0);
        model.retain(|_, block| block.bytes() % 2 != 0);
        assert_eq!(shard.used, model.len());
        for (&address, &block) in &model {
            let place = shard.find(Hash::of(address), address).expect("kept");
            assert_eq!(shard.entries[place].block, block);
        }
        shard.forget(|_| true);
        assert_eq!(shard.used, 0);
    }

    #[test]
    fn a_block_keeps_its_size_and_stack_up_to_the_largest() {
        for bytes in [0, 1, 512, 1 << 39, (1 << 40) - 1] {
            let block = Block::new(bytes, StackId::TRACER);
            assert_eq!((block.bytes(), block.stack()), (bytes as u64, StackId::TRACER));
        }
        assert_eq!(Block::new(usize::MAX, StackId::UNKNOWN).bytes(), Block::BYTES_MAX);
    }
}
