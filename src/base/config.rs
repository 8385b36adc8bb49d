//! Every tunable of the allocator, with the conditions that tie them together.
//!
//! The shape (arena → pool → block, 64 classes of 8 bytes' step) is CPython's; `docs/design/` says why each size is
//! what it is.

/// Distance between two size classes and smallest block, in bytes.
pub(crate) const CLASS_STEP_BYTES: usize = 8;
/// `log2(CLASS_STEP_BYTES)`.
pub(crate) const CLASS_STEP_SHIFT: u32 = CLASS_STEP_BYTES.trailing_zeros();

/// Largest request, in bytes after rounding up to its alignment, that pools serve.
///
/// CPython's `SMALL_REQUEST_THRESHOLD`. Larger requests go to the large allocator.
#[doc(alias = "SMALL_REQUEST_THRESHOLD")]
pub const SMALL_MAX_BYTES: usize = 512;

/// Number of size classes: 8, 16, 24 … [`SMALL_MAX_BYTES`].
#[doc(alias = "NB_SMALL_SIZE_CLASSES")]
pub const CLASS_COUNT: usize = SMALL_MAX_BYTES / CLASS_STEP_BYTES;

/// `log2(POOL_BYTES)`.
pub(crate) const POOL_SHIFT: u32 = 15;

/// Bytes of a pool: the unit in which memory is given to a size class.
#[doc(alias = "POOL_SIZE")]
pub const POOL_BYTES: usize = 1 << POOL_SHIFT;

/// `log2(ARENA_BYTES)`.
pub(crate) const ARENA_SHIFT: u32 = 21;

/// Bytes of an arena: the unit in which memory comes from the OS and goes back to it.
///
/// Two MiB, aligned to its size, so that one arena is one huge page on x86-64 and aarch64.
#[doc(alias = "ARENA_SIZE")]
pub const ARENA_BYTES: usize = 1 << ARENA_SHIFT;

/// Pools in an arena.
pub(crate) const POOLS_PER_ARENA: usize = ARENA_BYTES / POOL_BYTES;

/// Largest request, in bytes after rounding up to its alignment, that pools serve if the large allocator is
/// [`Medium`](crate::Medium); what is larger, up to [`RUN_MAX_BYTES`], gets a run of pools.
pub const MEDIUM_MAX_BYTES: usize = 32 << 10;

/// Number of medium size classes: eight for each doubling from [`SMALL_MAX_BYTES`] to [`MEDIUM_MAX_BYTES`].
pub const MEDIUM_CLASS_COUNT: usize = 8 * (MEDIUM_MAX_BYTES / SMALL_MAX_BYTES).trailing_zeros() as usize;

/// Largest request, in bytes after rounding up to its alignment, that arenas serve if the large allocator is
/// [`Medium`](crate::Medium).
pub const RUN_MAX_BYTES: usize = 1 << 20;

/// Pools of the arena that the larger medium classes have for one: their blocks are of one eighth at most.
pub(crate) const RUN_POOLS: usize = 8;
/// Medium blocks of more bytes are in such pools.
pub(crate) const RUN_POOLS_ABOVE_BYTES: usize = POOL_BYTES / RUN_POOLS;

/// A magazine of medium blocks grows only while all its slots together stand for at most so many bytes of blocks.
pub(crate) const MEDIUM_MAGAZINE_BYTES_MAX: usize = 128 << 10;
/// Most bytes of medium blocks in a thread's depots.
pub(crate) const MEDIUM_DEPOT_BYTES_MAX: usize = 1 << 20;

/// Bits of a bitmap word.
pub(crate) const WORD_BITS: usize = u64::BITS as usize;

/// Bitmap words that the class with the smallest blocks needs.
pub(crate) const BITMAP_WORDS_MAX: usize = POOL_BYTES / CLASS_STEP_BYTES / WORD_BITS;

/// Bytes that one core writes without disturbing another.
pub(crate) const CACHE_LINE_BYTES: usize = 64;

/// The alignment of a pool set: more than all classes of both kinds, because the low bits of a tag hold one.
pub(crate) const TAG_BYTES: usize = 128;

/// Slots of every magazine of a new thread cache; stored inside the cache itself.
pub(crate) const MAGAZINE_SLOTS_MIN: usize = 8;
/// Most slots of a magazine.
pub(crate) const MAGAZINE_SLOTS_MAX: usize = 256;
/// A magazine grows only while all its slots together stand for at most so many bytes of blocks.
pub(crate) const MAGAZINE_BYTES_MAX: usize = 32 << 10;

/// Most blocks in a thread's depots.
pub(crate) const DEPOT_BLOCKS_MAX: usize = 8192;
/// Most bytes in the depot of one class of a thread: fewer than that many blocks above 256 bytes.
pub(crate) const DEPOT_BYTES_MAX: usize = 2 << 20;

/// Most slots of a magazine whose depot overflowed, until its class is allocated from again.
pub(crate) const CLOSED_SLOTS_MAX: usize = 64;

/// Slow calls of a thread for each visit to one of its classes (see `cache/age.rs`).
pub(crate) const SLOW_CALLS_PER_VISIT: u64 = 4;
/// Bytes of large requests of a thread for each round of visits to its classes.
pub(crate) const LARGE_BYTES_PER_ROUND: usize = 64 << 10;
/// Classes visited in such a round.
pub(crate) const VISITS_PER_ROUND: usize = 4;
/// Visits to a class for each that sends all of its blocks home, where double frees are seen.
pub(crate) const VISITS_PER_CHECK: u64 = 8;

/// Empty pools that a set keeps for its thread's next need, rather than return them to their arenas.
pub(crate) const SET_EMPTY_POOLS_MAX: usize = 4;

/// Pools in a set's inbox from which on a thread that frees into it collects them itself.
pub(crate) const INBOX_KNOCK_POOLS: u32 = 32;

/// Arenas mapped from which on a dense set's next one asks for a huge page: it adds a quarter at most to a heap that
/// fills it.
pub(crate) const HUGE_FROM_ARENAS: usize = 4;
/// A set is dense when it owns this many pools at least …
pub(crate) const DENSE_POOLS_MIN: usize = 32;
/// … of whose bytes no more than one part in this many is free.
pub(crate) const DENSE_FREE_SHARE: usize = 4;

/// Pools of a class that a thread has, from which on a further one gets its memory at once rather than an OS page at
/// a time; only where there are no huge pages. On average half a pool of so many is not used.
pub(crate) const FAULT_IN_FROM_POOLS: u32 = 16;

/// Wholly free arenas that stay mapped; the larger of this and the share counts.
pub(crate) const EMPTY_ARENAS_MIN: usize = 4;
/// Wholly free arenas that stay mapped, as a share of the arenas in use: one in so many.
pub(crate) const EMPTY_ARENAS_SHARE: usize = 8;

/// The soft part of a limit, unless `set_soft_limit` says otherwise: its last part of so many.
pub(crate) const SOFT_LIMIT_SHARE: usize = 8;

/// Touched pools that no set owns, from which on further ones are purged; the larger of this and the share counts.
pub(crate) const DIRTY_POOLS_MIN: usize = (8 << 20) / POOL_BYTES;
/// The same as a share of the pools in use: one in so many.
pub(crate) const DIRTY_POOLS_SHARE: usize = 8;
/// The same where runs are used, as a share of the most pools that were in use of late.
pub(crate) const DIRTY_PEAK_SHARE: usize = 8;
/// With each run that is freed, what was in use at that peak and is not any more counts for less, by one part in so many.
pub(crate) const PEAK_DECAY: usize = 256;

/// Arenas that are searched for a run of free pools, before an empty or a new one is taken.
pub(crate) const RUN_LOOKS: usize = 32;

/// Pools in use at which the C library's `malloc` is let keep some of what it has free (one for each class that it
/// uses is what a program has that only starts) …
pub(crate) const MALLOC_KEEPS_FROM_POOLS: usize = 24;
/// … and how many bytes.
pub(crate) const MALLOC_KEEPS_BYTES: usize = 3 << 19;

/// Bytes of a pool of the usual size that are purged together when all blocks in them are free: an OS page, of the usual
/// size.
pub(crate) const PURGE_UNIT_BYTES: usize = POOL_BYTES / PURGE_PARTS;
/// Such parts in a pool, whatever its size: the bits of a byte.
pub(crate) const PURGE_PARTS: usize = u8::BITS as usize;

/// Bytes of a set's pools from which on the free parts of its partial pools are purged when few blocks are left.
pub(crate) const SWEEP_MIN_BYTES: usize = 32 << 20;
/// Sweeps are prepared for when more than one byte in so many of the set's pools is in use.
pub(crate) const SWEEP_ARM_SHARE: usize = 4;
/// A sweep is due when of all bytes of the set's pools one in so many is in use …
pub(crate) const SWEEP_SHARE: usize = 32;
/// … and again whenever so many times fewer are.
pub(crate) const SWEEP_AGAIN: usize = 2;

/// Parked caches that keep some blocks for the threads that start next; further ones are emptied.
pub(crate) const WARM_CACHES_MAX: usize = 8;
/// Most blocks of each class that such a cache keeps: what a magazine's first refill brings.
pub(crate) const WARM_BLOCKS: usize = MAGAZINE_SLOTS_MIN / 2;

/// Sets, newest first, among which a thread looks for parked ones before it takes a new pool.
pub(crate) const STEAL_SETS_MAX: usize = 16;

/// Bytes of one mapping of metadata, at least (guards not counted).
pub(crate) const METADATA_MAPPING_BYTES: usize = 1 << 20;

/// Spins on a held lock before the thread sleeps.
pub(crate) const LOCK_SPINS: u32 = 100;

const _: () = {
    assert!(CLASS_STEP_BYTES.is_power_of_two() && SMALL_MAX_BYTES.is_power_of_two());
    // A pool's start must be aligned to every alignment that pools serve.
    assert!(POOL_BYTES.is_multiple_of(SMALL_MAX_BYTES));
    // One word says which pools of an arena are free, one in which words of a bitmap blocks are free.
    assert!(POOLS_PER_ARENA <= WORD_BITS);
    assert!(BITMAP_WORDS_MAX <= WORD_BITS);
    // The low bits of a pool set's address hold a class (see `pool_set`).
    assert!(CLASS_COUNT + MEDIUM_CLASS_COUNT <= TAG_BYTES);
    // The reciprocals' shifts are for these, and a word for the blocks of a medium pool.
    assert!(MEDIUM_CLASS_COUNT == 48 && RUN_POOLS * RUN_POOLS_ABOVE_BYTES == POOL_BYTES);
    // A part that is purged of a pool that is a run is one of its pools (`PoolRef::split`).
    assert!(RUN_POOLS == PURGE_PARTS);
    assert!(RUN_MAX_BYTES <= ARENA_BYTES && RUN_MAX_BYTES.is_multiple_of(POOL_BYTES));
    // Arrays of slots are kept by powers of two (`Metadata::alloc_array`).
    assert!(MAGAZINE_SLOTS_MIN.is_power_of_two() && MAGAZINE_SLOTS_MAX.is_power_of_two());
    assert!(CLOSED_SLOTS_MAX.is_power_of_two() && CLOSED_SLOTS_MAX >= MAGAZINE_SLOTS_MIN);
    assert!(MAGAZINE_SLOTS_MIN >= 2);
};
