//! One arena's metadata: what is known of its memory and of its 64 pools.
//!
//! An arena is [`ARENA_BYTES`] of blocks and nothing else; its metadata is a slot of a separate mapping between
//! guards. In the slot, what is read together lies together, and what only frees from other threads touch (the
//! remote halves and remote bitmaps) lies on OS pages of its own, which stay untouched in a program without them.

use core::cell::Cell;
use core::ops::Deref;
use core::ptr::NonNull;

use crate::base::bitmap::{Bitmaps, Line, word_offset_bytes};
#[cfg(feature = "hardened")]
use crate::base::config::CLASS_STEP_BYTES;
use crate::base::config::{ARENA_BYTES, POOL_BYTES, POOL_SHIFT, POOLS_PER_ARENA, PURGE_PARTS, WORD_BITS};
use crate::base::size_class::AnyClass;
use crate::heap::pool::{Pool, State};
#[cfg(feature = "hardened")]
use crate::protocols::block_state::BlockState;
use crate::protocols::remote::{RemoteHalf, RemoteWord};
use crate::sync::AtomicPtr;

/// All pools of an arena, as a mask.
pub(crate) const ALL_POOLS: u64 = if POOLS_PER_ARENA == WORD_BITS { u64::MAX } else { (1 << POOLS_PER_ARENA) - 1 };

/// The address of a pool set with a class in its low bits: who owns a pool, and what it holds, in one word.
///
/// Never dereferenced as it is; a null tag says that nobody owns the pool.
pub(crate) type Tag = *mut u8;

/// Starts on an OS page (of the usual 4 KiB), and fills whole ones.
#[repr(C, align(4096))]
struct OnPages<T>(T);

/// The states of an arena's blocks, each at its block's start: a byte for every place where a block may start.
///
/// Not a byte a block, side by side: its number would take a multiplication, on every call. So what is not the start of
/// a block is not live, and need not be told from it.
#[cfg(feature = "hardened")]
type States = [BlockState; ARENA_BYTES / CLASS_STEP_BYTES];

/// The metadata of one arena.
///
/// Zeroed memory is a valid value but for `start` and `free`. Shared by [`ArenaRef`]; each field says who may touch it.
///
/// # Invariants
/// - Bit `i` of `free` is set if and only if no set owns pool `i`; then its tag is null.
/// - Bit `i` of `dirty` is set if and only if bit `i` of `free` is, and the pool has touched bytes or bit `i` of
///   `backed` is set.
/// - Bit `i` of `backed` is set if all of pool `i` may have memory: it came with a huge page, in one call, or because it
///   was committed, and was not given back since.
#[repr(C)]
pub(crate) struct Arena {
    /// First byte of the arena's memory. Written before the arena is in the address map.
    start: Cell<*mut u8>,
    /// Whether huge pages were asked for. Heap lock.
    pub(crate) huge: Cell<bool>,
    /// Pools whose memory came all at once, with a huge page or by one call, and was not given back since. Heap lock.
    pub(crate) backed: Cell<u64>,
    /// Pools that no set owns. Heap lock.
    pub(crate) free: Cell<u64>,
    /// Those of them that have memory, as far as is known: touched or backed. Heap lock.
    pub(crate) dirty: Cell<u64>,
    /// Neighbours among the arenas with as many free pools. Heap lock.
    pub(crate) next: Cell<Option<ArenaRef>>,
    pub(crate) previous: Cell<Option<ArenaRef>>,
    /// A tag a pool. Written by who holds the owner's door while no block of the pool is outside, or as claimer; read
    /// by any thread that holds a block of the pool.
    tags: [AtomicPtr<u8>; POOLS_PER_ARENA],
    /// Descriptors. The owner's door.
    pools: [Pool; POOLS_PER_ARENA],
    /// The owner's door.
    taken_bits: OnPages<Bitmaps<Cell<u64>>>,
    /// Any thread that holds a block.
    remotes: OnPages<[RemoteHalf; POOLS_PER_ARENA]>,
    /// Any thread that holds a block.
    remote_bits: OnPages<Bitmaps<RemoteWord>>,
    /// Whoever holds a block, that block's.
    #[cfg(feature = "hardened")]
    states: OnPages<States>,
}

/// An arena, for ever: its metadata is never unmapped. Where its memory is given back, the metadata is zeroed and waits
/// for another arena.
///
/// # Invariants
/// It points to a slot that [`Metadata::alloc`](crate::heap::metadata::Metadata::alloc) gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct ArenaRef(NonNull<Arena>);

/// A pool as seen from its arena: what is needed to reach both halves of its descriptor.
#[derive(Clone, Copy)]
pub(crate) struct PoolRef {
    arena: ArenaRef,
    index: usize,
}

impl Arena {
    /// Makes zeroed metadata, of which nobody else knows, that of the arena's mapped memory at `start`.
    pub(crate) fn init(&self, start: NonNull<u8>) {
        self.start.set(start.as_ptr());
        self.free.set(ALL_POOLS);
    }

    /// First byte of the arena's memory.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.get()
    }

    /// The state of the block that starts at address `step * CLASS_STEP_BYTES`, if one of this arena's does.
    #[cfg(feature = "hardened")]
    #[inline(always)]
    pub(crate) fn block_state(&self, step: usize) -> &BlockState {
        let index = step & (ARENA_BYTES / CLASS_STEP_BYTES - 1);
        // SAFETY: the index is in range.
        unsafe { self.states.0.get_unchecked(index) }
    }

    /// Says that the whole arena comes in a huge page: its first access gives all pools memory.
    pub(crate) fn set_huge(&self) {
        self.huge.set(true);
        self.backed.set(ALL_POOLS);
        self.dirty.set(ALL_POOLS);
    }

    /// Pools that no set owns.
    pub(crate) fn free_count(&self) -> usize {
        self.free.get().count_ones() as usize
    }
}

impl ArenaRef {
    /// The arena with this metadata.
    ///
    /// # Safety
    /// `Metadata::alloc` gave it.
    #[inline(always)]
    pub(crate) const unsafe fn new(metadata: NonNull<Arena>) -> Self {
        Self(metadata)
    }

    /// Its metadata.
    #[inline(always)]
    pub(crate) fn get<'heap>(self) -> &'heap Arena {
        // SAFETY: never unmapped, and valid also when zeroed. Cells and atomics make shared references fine.
        unsafe { self.0.as_ref() }
    }

    pub(crate) const fn as_ptr(self) -> *mut Arena {
        self.0.as_ptr()
    }

    /// Its metadata, as memory.
    pub(crate) fn metadata(self) -> NonNull<u8> {
        self.0.cast()
    }

    /// All its pools.
    pub(crate) fn pools(self) -> impl Iterator<Item = PoolRef> {
        (0..POOLS_PER_ARENA).map(move |index| PoolRef::at_index(self, index))
    }
}

impl Deref for ArenaRef {
    type Target = Arena;

    #[inline(always)]
    fn deref(&self) -> &Arena {
        self.get()
    }
}

impl PoolRef {
    /// The pool of `arena` that holds the byte `offset` bytes into it; `offset` is below [`ARENA_BYTES`].
    #[inline(always)]
    pub(crate) fn at_offset(arena: ArenaRef, offset: usize) -> Self {
        Self { arena, index: (offset & (ARENA_BYTES - 1)) >> POOL_SHIFT }
    }

    /// Pool `index` of `arena`; `index` is below [`POOLS_PER_ARENA`].
    pub(crate) fn at_index(arena: ArenaRef, index: usize) -> Self {
        Self { arena, index: index & (POOLS_PER_ARENA - 1) }
    }

    /// The pool with this remote half, whose [`home`](Self::home) is `home`; the two came out of an inbox.
    ///
    /// # Safety
    /// Both are a pool's.
    pub(crate) unsafe fn from_inbox(remote: NonNull<RemoteHalf>, home: *mut u8) -> Self {
        // SAFETY: a pool's home is its arena's metadata.
        let arena = ArenaRef(unsafe { NonNull::new_unchecked(home.cast()) });
        let first = NonNull::from(Self::at_index(arena, 0).remote());
        Self::at_index(arena, (remote.addr().get() - first.addr().get()) / size_of::<RemoteHalf>())
    }

    /// What goes into an inbox with the remote half, for [`from_inbox`](Self::from_inbox).
    pub(crate) fn home(self) -> NonNull<u8> {
        self.arena.metadata()
    }

    pub(crate) fn arena(self) -> ArenaRef {
        self.arena
    }

    pub(crate) fn index(self) -> usize {
        self.index
    }

    /// Whether the pool's memory came all at once and was not given back since. Heap lock.
    pub(crate) fn is_backed(self) -> bool {
        self.is_any_backed(1)
    }

    /// Whether that of one of so many pools, from this on. Heap lock.
    pub(crate) fn is_any_backed(self, pools: usize) -> bool {
        self.arena.backed.get() & self.run_mask(pools) != 0
    }

    /// Notes whether it is, of so many pools from this on. Heap lock.
    pub(crate) fn set_backed(self, pools: usize, backed: bool) {
        let all = &self.arena.backed;
        let bits = self.run_mask(pools);
        all.set(if backed { all.get() | bits } else { all.get() & !bits });
    }

    /// Whether the pool has memory, as far as is known. Heap lock.
    pub(crate) fn has_memory(self) -> bool {
        self.is_backed() || self.pool().is_touched()
    }

    /// This pool and those behind it, `pools` in all, as a mask of their arena's.
    pub(crate) const fn run_mask(self, pools: usize) -> u64 {
        (u64::MAX >> (WORD_BITS - pools)) << self.index
    }

    /// This pool and those behind it, `pools` in all; they are of one arena.
    pub(crate) fn run(self, pools: usize) -> impl Iterator<Item = Self> {
        (self.index..self.index + pools).map(move |index| Self::at_index(self.arena, index))
    }

    /// Makes one pool of `pools`, which the caller owns: what is known of their memory comes to the first.
    pub(crate) fn join(self, pools: usize) {
        let mut touched_bytes = 0;
        for (number, part) in self.run(pools).enumerate() {
            let pool = part.pool();
            if pool.is_touched() {
                touched_bytes = number * POOL_BYTES + pool.touched_bytes();
            }
            pool.set_untouched(0);
            pool.set_state(State::Behind);
        }
        self.pool().set_touched_bytes(touched_bytes);
    }

    /// The reverse of [`join`](Self::join).
    pub(crate) fn split(self, pools: usize) {
        let first = self.pool();
        let (touched_bytes, purged) = (first.touched_bytes(), first.purged());
        first.end_run();
        // Of pools that are parts of one, each is a part that is purged.
        let is_purged = |number| pools == PURGE_PARTS && purged >> number & 1 == 1;
        for (number, part) in self.run(pools).enumerate() {
            let bytes = touched_bytes.saturating_sub(number * POOL_BYTES).min(POOL_BYTES);
            part.pool().set_touched_bytes(if is_purged(number) { 0 } else { bytes });
            part.pool().set_state(State::Unused);
        }
    }

    /// First byte of the pool, whether anybody uses it or not.
    pub(crate) fn start(self) -> *mut u8 {
        self.arena.start().wrapping_add(self.index * POOL_BYTES)
    }

    /// Tells the pool where its memory and its bitmap are.
    ///
    /// The caller owns the pool.
    pub(crate) fn set_up(self) {
        // SAFETY: line `index` of the first row lies inside the metadata.
        let words = unsafe { (&raw const (*self.arena.as_ptr()).taken_bits).cast::<Line<Cell<u64>>>().add(self.index) };
        self.pool().set_up(self.start(), words.cast());
    }

    /// The owner's half of the descriptor.
    #[inline(always)]
    pub(crate) fn pool<'heap>(self) -> &'heap Pool {
        // SAFETY: `index` is in range (constructors). Who may touch which field is each caller's to know (*Door*).
        unsafe { self.arena.get().pools.get_unchecked(self.index) }
    }

    /// The half that any thread may touch.
    #[inline(always)]
    pub(crate) fn remote<'heap>(self) -> &'heap RemoteHalf {
        // SAFETY: as in `pool`.
        unsafe { self.arena.get().remotes.0.get_unchecked(self.index) }
    }

    /// Its tag's place.
    #[inline(always)]
    pub(crate) fn tag<'heap>(self) -> &'heap AtomicPtr<u8> {
        // SAFETY: as in `pool`.
        unsafe { self.arena.get().tags.get_unchecked(self.index) }
    }

    /// Word `word` of the bitmap that other threads set; `word` is below `BITMAP_WORDS_MAX`.
    #[inline(always)]
    pub(crate) fn remote_word<'heap>(self, word: usize) -> &'heap RemoteWord {
        // SAFETY: as in `pool`; the word's line lies in one of the rows.
        unsafe {
            let line = (&raw const (*self.arena.as_ptr()).remote_bits).cast::<Line<RemoteWord>>().add(self.index);
            &*line.byte_add(word_offset_bytes(word)).cast::<RemoteWord>()
        }
    }

    /// Blocks of a pool of `class` whose remote bits are set: a snapshot.
    pub(crate) fn remote_blocks(self, class: AnyClass) -> usize {
        (0..class.bitmap_words()).map(|word| self.remote_word(word).peek().count_ones() as usize).sum()
    }
}
