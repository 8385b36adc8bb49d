//! One arena's metadata: the data on its memory and on its 64 pools.
//!
//! An arena is [`ARENA_BYTES`] of blocks and nothing else; its metadata is a slot of a separate mapping between guards.
//! In the slot, data that is read together lies together. The remote halves and remote bitmaps, which only remote frees
//! touch, lie on OS pages of their own; in a program without remote frees these stay untouched.

use core::cell::Cell;
use core::mem::offset_of;
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

/// The address of a pool set with a class in its low bits: one word says which set owns a pool, and which class it
/// serves.
///
/// It is never dereferenced as it is. A null tag says that no set owns the pool.
pub(crate) type Tag = *mut u8;

/// Starts on an OS page (of the usual 4 KiB), and fills whole ones.
#[repr(C, align(4096))]
struct OnPages<T>(T);

/// The states of an arena's blocks, each at its block's start: a byte for every place where a block may start.
///
/// With one byte per block, side by side, every call would need a multiplication for the block's number. As it is, a
/// place that is not the start of a block is simply not live, and needs no check of its own.
#[cfg(feature = "hardened")]
type States = [BlockState; ARENA_BYTES / CLASS_STEP_BYTES];

/// The metadata of one arena.
///
/// Zeroed memory is a valid value, except for `start` and `free`. Threads share it by [`ArenaRef`]; each field says
/// which thread may touch it.
///
/// # Invariants
/// - Bit `i` of `free` is set if and only if no set owns pool `i`; then its tag is null.
/// - Bit `i` of `dirty` is set if and only if bit `i` of `free` is, and the pool has touched bytes or bit `i` of
///   `backed` is set.
/// - Bit `i` of `backed` is set if all of pool `i` may have memory: it came with a huge page, in one call, or because
///   it was committed, and was not given back since.
#[repr(C)]
pub(crate) struct Arena {
    /// First byte of the arena's memory. Written before the arena is in the address map.
    start: Cell<*mut u8>,
    /// Whether huge pages were asked for. Under the heap's lock.
    pub(crate) huge: Cell<bool>,
    /// Pools whose memory came all at once, with a huge page or by one call, and was not given back since. Under the
    /// heap's lock.
    pub(crate) backed: Cell<u64>,
    /// Pools that no set owns. Under the heap's lock.
    pub(crate) free: Cell<u64>,
    /// Free pools that have memory, as far as is known: touched or backed. Under the heap's lock.
    pub(crate) dirty: Cell<u64>,
    /// Neighbours in the list of arenas with the same number of free pools. Under the heap's lock.
    pub(crate) next: Cell<Option<ArenaRef>>,
    pub(crate) previous: Cell<Option<ArenaRef>>,
    /// One tag per pool. A thread that holds the owner's door may write it while no block of the pool is outside; so
    /// may a thread that has claimed the pool. Any thread that holds a block of the pool may read it.
    tags: [AtomicPtr<u8>; POOLS_PER_ARENA],
    /// Descriptors. The owner's door.
    pools: [Pool; POOLS_PER_ARENA],
    /// The owner's door.
    taken_bits: OnPages<Bitmaps<Cell<u64>>>,
    /// Any thread that holds a block.
    remotes: OnPages<[RemoteHalf; POOLS_PER_ARENA]>,
    /// Any thread that holds a block.
    remote_bits: OnPages<Bitmaps<RemoteWord>>,
    /// The thread that holds a block, that block's state.
    #[cfg(feature = "hardened")]
    states: OnPages<States>,
}

// The layout that `docs/design/05-arena.md` describes.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(offset_of!(Arena, start) == 0 && offset_of!(Arena, huge) == 8 && offset_of!(Arena, backed) == 16);
    assert!(offset_of!(Arena, free) == 24 && offset_of!(Arena, dirty) == 32 && offset_of!(Arena, next) == 40);
    assert!(offset_of!(Arena, previous) == 48 && offset_of!(Arena, tags) == 56 && offset_of!(Arena, pools) == 576);
    assert!(offset_of!(Arena, taken_bits) == 8192 && offset_of!(Arena, remotes) == 40_960);
    assert!(offset_of!(Arena, remote_bits) == 45_056);
    #[cfg(not(feature = "hardened"))]
    assert!(size_of::<Arena>() == 77_824);
    #[cfg(feature = "hardened")]
    assert!(offset_of!(Arena, states) == 77_824);
};

/// A reference to an arena, valid for ever: its metadata is never unmapped. When its memory is given back, the metadata
/// is zeroed and waits for another arena.
///
/// # Invariants
/// It points to a slot that [`Metadata::alloc`](crate::heap::metadata::Metadata::alloc) gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct ArenaRef(NonNull<Arena>);

/// A pool as seen from its arena: arena and index lead to both halves of its descriptor.
#[derive(Clone, Copy)]
pub(crate) struct PoolRef {
    arena: ArenaRef,
    index: usize,
}

impl Arena {
    /// Makes zeroed metadata, which no other thread knows yet, the metadata of the arena whose mapped memory is at
    /// `start`.
    pub(crate) fn init(&self, start: NonNull<u8>) {
        self.start.set(start.as_ptr());
        self.free.set(ALL_POOLS);
    }

    /// First byte of the arena's memory.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.get()
    }

    /// The state of the block of this arena that starts at address `step * CLASS_STEP_BYTES`, if there is one.
    #[cfg(feature = "hardened")]
    #[inline(always)]
    pub(crate) fn block_state(&self, step: usize) -> &BlockState {
        let index = step & (ARENA_BYTES / CLASS_STEP_BYTES - 1);
        // SAFETY: the index is in range.
        unsafe { self.states.0.get_unchecked(index) }
    }

    /// Notes that the whole arena comes with a huge page: the first access to it gives all pools memory.
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
    /// Both are of one pool.
    pub(crate) unsafe fn from_inbox(remote: NonNull<RemoteHalf>, home: *mut u8) -> Self {
        // SAFETY: a pool's home is its arena's metadata.
        let arena = ArenaRef(unsafe { NonNull::new_unchecked(home.cast()) });
        let first = NonNull::from(Self::at_index(arena, 0).remote());
        Self::at_index(arena, (remote.addr().get() - first.addr().get()) / size_of::<RemoteHalf>())
    }

    /// The word that goes into an inbox beside the remote half, for [`from_inbox`](Self::from_inbox).
    pub(crate) fn home(self) -> NonNull<u8> {
        self.arena.metadata()
    }

    pub(crate) fn arena(self) -> ArenaRef {
        self.arena
    }

    pub(crate) fn index(self) -> usize {
        self.index
    }

    /// Whether the pool's memory came all at once and was not given back since. Under the heap's lock.
    pub(crate) fn is_backed(self) -> bool {
        self.is_any_backed(1)
    }

    /// The same for any of `pools` pools, from this one on. Under the heap's lock.
    pub(crate) fn is_any_backed(self, pools: usize) -> bool {
        self.arena.backed.get() & self.run_mask(pools) != 0
    }

    /// Notes whether `pools` pools are backed, from this one on. Under the heap's lock.
    pub(crate) fn set_backed(self, pools: usize, backed: bool) {
        let all = &self.arena.backed;
        let bits = self.run_mask(pools);
        all.set(if backed { all.get() | bits } else { all.get() & !bits });
    }

    /// Whether the pool has memory, as far as is known. Under the heap's lock.
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

    /// Makes one pool of `pools` pools, which the caller owns. The first one's descriptor then covers the memory of
    /// all.
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

    /// The reverse of [`join`](Self::join). Under the heap's lock.
    pub(crate) fn split(self, pools: usize) {
        let first = self.pool();
        let (touched_bytes, purged) = (first.touched_bytes(), first.purged());
        first.end_run();
        // If `PURGE_PARTS` pools were one, each of them was one of its parts.
        let is_purged = |number| pools == PURGE_PARTS && purged >> number & 1 == 1;
        for (number, part) in self.run(pools).enumerate() {
            let bytes = touched_bytes.saturating_sub(number * POOL_BYTES).min(POOL_BYTES);
            part.pool().set_touched_bytes(if is_purged(number) { 0 } else { bytes });
            if is_purged(number) {
                part.set_backed(1, false);
            }
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
        // SAFETY: `index` is in range (constructors). Each caller sees to it that it may touch the fields (*Door*).
        unsafe { self.arena.get().pools.get_unchecked(self.index) }
    }

    /// The half that any thread may touch.
    #[inline(always)]
    pub(crate) fn remote<'heap>(self) -> &'heap RemoteHalf {
        // SAFETY: as in `pool`.
        unsafe { self.arena.get().remotes.0.get_unchecked(self.index) }
    }

    /// The place of its tag.
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
