//! Every tunable of the allocator, with the conditions that tie them together.
//!
//! The shape is CPython's: arena → pool → block, and 64 classes in steps of 8 bytes. `docs/design/` gives the reason
//! for each size.

/// Bytes from one size class to the next; also the bytes of the smallest block.
pub(crate) const CLASS_STEP_BYTES: usize = 8;
/// `log2(CLASS_STEP_BYTES)`.
pub(crate) const CLASS_STEP_SHIFT: u32 = CLASS_STEP_BYTES.trailing_zeros();

/// Bytes of the largest request that pools serve, after rounding up to its alignment.
///
/// CPython's `SMALL_REQUEST_THRESHOLD`. Larger requests go to the large allocator.
#[doc(alias = "SMALL_REQUEST_THRESHOLD")]
pub const SMALL_MAX_BYTES: usize = 512;

/// Number of size classes: 8, 16, 24 … [`SMALL_MAX_BYTES`].
#[doc(alias = "NB_SMALL_SIZE_CLASSES")]
pub const CLASS_COUNT: usize = SMALL_MAX_BYTES / CLASS_STEP_BYTES;

/// `log2(POOL_BYTES)`.
pub(crate) const POOL_SHIFT: u32 = 15;

/// Bytes of a pool, the unit of memory that a size class gets.
#[doc(alias = "POOL_SIZE")]
pub const POOL_BYTES: usize = 1 << POOL_SHIFT;

/// `log2(ARENA_BYTES)`.
pub(crate) const ARENA_SHIFT: u32 = 21;

/// Bytes of an arena, the unit of memory that is mapped from the OS and unmapped again.
///
/// 2 MiB, aligned to its size: one arena is one huge page on x86-64 and aarch64.
#[doc(alias = "ARENA_SIZE")]
pub const ARENA_BYTES: usize = 1 << ARENA_SHIFT;

/// Pools in an arena.
pub(crate) const POOLS_PER_ARENA: usize = ARENA_BYTES / POOL_BYTES;

/// Bytes of the largest request, after rounding up to its alignment, that pools serve if the large allocator is
/// [`Medium`](crate::Medium). A larger request, up to [`RUN_MAX_BYTES`], gets a run of pools.
pub const MEDIUM_MAX_BYTES: usize = 32 << 10;

/// Number of medium size classes: eight for each doubling from [`SMALL_MAX_BYTES`] to [`MEDIUM_MAX_BYTES`].
pub const MEDIUM_CLASS_COUNT: usize = 8 * (MEDIUM_MAX_BYTES / SMALL_MAX_BYTES).trailing_zeros() as usize;

/// Bytes of the largest request, after rounding up to its alignment, that arenas serve if the large allocator is
/// [`Medium`](crate::Medium).
pub const RUN_MAX_BYTES: usize = 1 << 20;

/// Number of the arena's pools that make one pool of a larger medium class, so that a block takes at most one eighth of
/// it.
pub(crate) const RUN_POOLS: usize = 8;
/// Medium blocks of more than this many bytes are in such pools.
pub(crate) const RUN_POOLS_ABOVE_BYTES: usize = POOL_BYTES / RUN_POOLS;

/// A magazine of medium blocks grows only while the blocks that fill its slots are at most this many bytes.
pub(crate) const MEDIUM_MAGAZINE_BYTES_MAX: usize = 128 << 10;
/// Most bytes of medium blocks in a thread's depots.
pub(crate) const MEDIUM_DEPOT_BYTES_MAX: usize = 1 << 20;

/// Bits of a bitmap word.
pub(crate) const WORD_BITS: usize = u64::BITS as usize;

/// Bitmap words that the class with the smallest blocks needs.
pub(crate) const BITMAP_WORDS_MAX: usize = POOL_BYTES / CLASS_STEP_BYTES / WORD_BITS;

/// Bytes of a cache line: cores that write to different lines don't slow each other down.
pub(crate) const CACHE_LINE_BYTES: usize = 64;

/// The alignment of a pool set: larger than the number of classes of both kinds, because the low bits of a tag hold a
/// class.
pub(crate) const TAG_BYTES: usize = 128;

/// Slots of each magazine in a new thread cache; they are stored in the cache itself.
pub(crate) const MAGAZINE_SLOTS_MIN: usize = 8;
/// Most slots of a magazine.
pub(crate) const MAGAZINE_SLOTS_MAX: usize = 256;
/// A magazine grows only while the blocks that fill its slots are at most this many bytes.
pub(crate) const MAGAZINE_BYTES_MAX: usize = 32 << 10;

/// Most blocks in a thread's depots.
pub(crate) const DEPOT_BLOCKS_MAX: usize = 8192;
/// Most bytes in a thread's depot of one class. Above 256 bytes per block, this is less than `DEPOT_BLOCKS_MAX` blocks.
pub(crate) const DEPOT_BYTES_MAX: usize = 2 << 20;

/// Most slots of a magazine after its depot overflowed, until a block of its class is allocated again.
pub(crate) const CLOSED_SLOTS_MAX: usize = 64;

/// A thread visits one of its classes once per this many slow calls (see `cache/age.rs`).
pub(crate) const SLOW_CALLS_PER_VISIT: u64 = 4;
/// A thread makes a round of visits to its classes once per this many bytes of large requests.
pub(crate) const LARGE_BYTES_PER_ROUND: usize = 64 << 10;
/// Classes visited in such a round.
pub(crate) const VISITS_PER_ROUND: usize = 4;
/// One visit in this many sends all of a class's blocks back to their pools, where double frees are found.
pub(crate) const VISITS_PER_CHECK: u64 = 8;

/// Most empty pools that a set keeps for its thread's next need; further ones go back to their arenas.
pub(crate) const SET_EMPTY_POOLS_MAX: usize = 4;

/// From this many pools in a set's inbox on, a thread that frees into the set collects them itself.
pub(crate) const INBOX_KNOCK_POOLS: u32 = 32;

/// From this many mapped arenas on, a dense set's next arena asks for a huge page. The page then adds at most a quarter
/// to the heap.
pub(crate) const HUGE_FROM_ARENAS: usize = 4;
/// A set is dense when it owns this many pools at least …
pub(crate) const DENSE_POOLS_MIN: usize = 32;
/// … of whose bytes no more than one part in this many is free.
pub(crate) const DENSE_FREE_SHARE: usize = 4;

/// From this many pools of a class on, a thread's next pool of the class gets all of its memory in one call, instead of
/// one OS page at a time. Only where there are no huge pages. The cost: on average half a pool of the class stays
/// unused, and the class has at least this many.
pub(crate) const FAULT_IN_FROM_POOLS: u32 = 16;

/// Wholly free arenas that stay mapped: this number or the share below, whichever is larger.
pub(crate) const EMPTY_ARENAS_MIN: usize = 4;
/// Wholly free arenas that stay mapped, as a share of the arenas in use: one per this many.
pub(crate) const EMPTY_ARENAS_SHARE: usize = 8;

/// The soft limit is lower than the limit by one part in this many, unless `set_soft_limit` sets another.
pub(crate) const SOFT_LIMIT_SHARE: usize = 8;

/// Touched pools that no set owns and that keep their memory: this number or the share below, whichever is larger.
/// When an arena's worth more are left, further ones are purged.
pub(crate) const DIRTY_POOLS_MIN: usize = (8 << 20) / POOL_BYTES;
/// The same as a share of the pools in use: one per this many.
pub(crate) const DIRTY_POOLS_SHARE: usize = 8;
/// An arena's worth: so one call of the OS purges many.
pub(crate) const PURGE_FROM_POOLS: usize = POOLS_PER_ARENA;
/// Most arenas whose pools are purged then, so that no thread waits long for the heap's lock.
pub(crate) const PURGE_ARENAS_MAX: usize = 8;
/// Further pools may keep their memory, the *allowance*: as many as medium blocks wanted within this many milliseconds of
/// a purge.
pub(crate) const RECALL_MS: u64 = 250;
/// The allowance and the pools in use together are at most the recent peak, and one part in this many more.
pub(crate) const RECALL_PEAK_SHARE: usize = 8;
/// After each `RECALL_MS`, the allowance is smaller by one part in this many.
pub(crate) const RECALL_DECAY: usize = 8;

/// Most arenas that are searched for a run of free pools, before an empty or a new arena is taken.
pub(crate) const RUN_LOOKS: usize = 32;

/// Bytes of a purge unit, in a pool of the usual size: a part of a pool that is purged when all blocks in it are free.
/// One OS page of the usual size.
pub(crate) const PURGE_UNIT_BYTES: usize = POOL_BYTES / PURGE_PARTS;
/// Purge units in a pool of any size: as many as a byte has bits.
pub(crate) const PURGE_PARTS: usize = u8::BITS as usize;

/// From this many bytes of pools on, a set is swept (the free parts of its partial pools are purged) when few of these
/// bytes are still in use.
pub(crate) const SWEEP_MIN_BYTES: usize = 32 << 20;
/// A sweep is armed when more than one byte in this many of the set's pools is in use.
pub(crate) const SWEEP_ARM_SHARE: usize = 4;
/// A sweep is due when one byte in this many of the set's pools is in use …
pub(crate) const SWEEP_SHARE: usize = 32;
/// … and again each time that the bytes in use have shrunk by this factor.
pub(crate) const SWEEP_AGAIN: usize = 2;

/// Most parked caches that keep some blocks for the threads that start next; further ones are emptied.
pub(crate) const WARM_CACHES_MAX: usize = 8;
/// Most blocks of each class that such a cache keeps: as many as a magazine's first refill brings.
pub(crate) const WARM_BLOCKS: usize = MAGAZINE_SLOTS_MIN / 2;

/// A thread looks at this many sets, newest first, for a parked one to steal from before it takes a new pool.
pub(crate) const STEAL_SETS_MAX: usize = 16;

/// Least bytes of one mapping of metadata, without its guards.
pub(crate) const METADATA_MAPPING_BYTES: usize = 1 << 20;

/// Spins on a held lock before the thread sleeps.
pub(crate) const LOCK_SPINS: u32 = 100;

const _: () = {
    assert!(CLASS_STEP_BYTES.is_power_of_two() && SMALL_MAX_BYTES.is_power_of_two());
    // A pool's start must be aligned to every alignment that pools serve.
    assert!(POOL_BYTES.is_multiple_of(SMALL_MAX_BYTES));
    // One word has a bit for each pool of an arena; another has a bit for each word of a pool's bitmap.
    assert!(POOLS_PER_ARENA <= WORD_BITS);
    assert!(BITMAP_WORDS_MAX <= WORD_BITS);
    // The low bits of a pool set's address hold a class (see `pool_set`).
    assert!(CLASS_COUNT + MEDIUM_CLASS_COUNT <= TAG_BYTES);
    // The reciprocals' shifts are for these, and a word for the blocks of a medium pool.
    assert!(MEDIUM_CLASS_COUNT == 48 && RUN_POOLS * RUN_POOLS_ABOVE_BYTES == POOL_BYTES);
    // If a pool consists of several of the arena's, each purge unit is one of these (`PoolRef::split`).
    assert!(RUN_POOLS == PURGE_PARTS);
    assert!(RUN_MAX_BYTES <= ARENA_BYTES && RUN_MAX_BYTES.is_multiple_of(POOL_BYTES));
    // Arrays of slots are kept by powers of two (`Metadata::alloc_array`).
    assert!(MAGAZINE_SLOTS_MIN.is_power_of_two() && MAGAZINE_SLOTS_MAX.is_power_of_two());
    assert!(CLOSED_SLOTS_MAX.is_power_of_two() && CLOSED_SLOTS_MAX >= MAGAZINE_SLOTS_MIN);
    assert!(MAGAZINE_SLOTS_MIN >= 2);
};
