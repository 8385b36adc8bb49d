//! One pool: its descriptor, the bitmap of its blocks, and the lists of pools.
//!
//! Descriptor and bitmap live in their arena's metadata, away from the blocks: freeing and reusing a block never
//! reads or writes block memory, and an overflow out of a block does not reach them.
//!
//! # States
//! | state | owner | free blocks | linked in |
//! |---|---|---|---|
//! | unused | none | – | nothing: a bit of its arena's `free` |
//! | partial | a set | some | the set's list of its class |
//! | full | a set | none | nothing |
//! | empty | a set | all | the set's list of empty pools |
//! | run | the program: one block, of several pools | – | nothing |
//! | behind | the owner of the pool before it, of which it is a part | – | nothing |
//!
//! A pool of a larger medium class consists of several pools of the arena, and so does a run. The first one's
//! descriptor is for all; the others are *behind* it.
//!
//! # Invariants
//! - *Door*: a thread touches anything here only while it holds the door of the set that owns the pool, or, while the
//!   pool is unused, the heap's lock.
//! - *Balance*: `used` + free blocks + remote bits = blocks of the pool + its remote count, while no thread is freeing
//!   into it. (A collection may take bits before their count was added. Then those blocks are free, but count as used
//!   until that count is collected.)
//! - *Taken*: a set bit is a block that is not free here; bits beyond the pool's blocks are clear. So the bitmap of a
//!   pool whose blocks are all home is zero, like memory fresh from the OS. If only the first blocks of a pool are
//!   used, the rest of its bitmap needs no memory.
//! - *Summary*: bit `w` of `words_free` is set if and only if a block of word `w` is free.
//! - *Touched*: no byte of the pool at or beyond `touched_bytes` was ever handed out since it was mapped or purged.
//! - *Purged*: the parts in `purged` were purged, and since then no block that reaches into them was handed out.

use core::cell::Cell;
use core::mem::offset_of;
use core::ptr::{self, NonNull};

use crate::base::bitmap::word_offset_bytes;
use crate::base::config::{POOL_BYTES, PURGE_PARTS, WORD_BITS};
use crate::base::kind::Kind;
use crate::base::size_class::{AnyClass, Class};
use crate::sync::{AtomicPtr, Ordering};

/// A place for a block's address. While it holds none, its value has no meaning.
pub(crate) type Slot = AtomicPtr<u8>;

/// The half of a pool's descriptor that only its owner touches.
///
/// Zeroed memory is a valid value: a pool that never served a class.
#[repr(C, align(64))]
pub(crate) struct Pool {
    next: Cell<*const Pool>,
    previous: Cell<*const Pool>,
    /// First byte of the pool.
    start: Cell<*mut u8>,
    /// Word 0 of the bitmap (see `bitmap`).
    words: Cell<*const Cell<u64>>,
    words_free: Cell<u64>,
    /// Blocks that are not home: in the program's hands, in a magazine, or freed by another thread and not counted yet.
    used: Cell<u32>,
    touched_bytes: Cell<u32>,
    /// The index of its class.
    class: Cell<u8>,
    /// Parts of the pool (an eighth each) that were purged since they were last used.
    purged: Cell<u8>,
    state: Cell<State>,
}

// The layout that `docs/design/04-pool.md` describes.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(offset_of!(Pool, next) == 0 && offset_of!(Pool, previous) == 8 && offset_of!(Pool, start) == 16);
    assert!(offset_of!(Pool, words) == 24 && offset_of!(Pool, words_free) == 32 && offset_of!(Pool, used) == 40);
    assert!(offset_of!(Pool, touched_bytes) == 44 && offset_of!(Pool, class) == 48);
    assert!(offset_of!(Pool, purged) == 49 && offset_of!(Pool, state) == 50 && size_of::<Pool>() == 64);
};

/// The state of a pool; see the module's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// No set owns it.
    Unused = 0,
    /// Some blocks are free.
    Partial,
    /// No block is free.
    Full,
    /// All blocks are free, and counted home.
    Empty,
    /// The first of a run.
    Run,
    /// Behind the first of several.
    Behind,
}

/// A block that was free already when it was freed.
#[derive(Debug)]
pub(crate) struct AlreadyFree {
    /// The first such block's number in its pool.
    pub(crate) block: usize,
}

/// One free block taken from a pool.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) start: NonNull<u8>,
    /// Whether every byte of it is known to be zero.
    pub(crate) zeroed: bool,
}

impl Block {
    /// The block, of `class`, with all bytes zero. They are written only if they are not known to be zero.
    pub(crate) fn into_zeroed<K: Kind>(self, class: Class<K>) -> *mut u8 {
        if !self.zeroed {
            // SAFETY: a block of the class, in our hands.
            unsafe { self.start.write_bytes(0, class.block_bytes()) };
        }
        self.start.as_ptr()
    }
}

impl Pool {
    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.set(state);
    }

    /// The class whose blocks it holds, or held last.
    #[inline]
    pub(crate) fn class<K: Kind>(&self) -> Class<K> {
        Class::from_index(usize::from(self.class.get())).unwrap_or(Class::LARGEST)
    }

    /// The same, for a caller that does not know the kind.
    pub(crate) fn any_class(&self) -> AnyClass {
        AnyClass::from_index(usize::from(self.class.get()))
    }

    /// Blocks that are not home.
    pub(crate) fn used(&self) -> u32 {
        self.used.get()
    }

    /// First byte of the pool.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.get()
    }

    /// Notes where the pool's memory and its bitmap are.
    pub(crate) fn set_up(&self, start: *mut u8, words: *const Cell<u64>) {
        self.start.set(start);
        self.words.set(words);
    }

    /// Whether any byte may be other than zero.
    pub(crate) fn is_touched(&self) -> bool {
        self.touched_bytes.get() != 0
    }

    /// Notes that the pool was purged, and is all zero again. The parts in `purged` still count as purged by
    /// themselves.
    pub(crate) fn set_untouched(&self, purged: u8) {
        self.touched_bytes.set(0);
        self.purged.set(purged);
    }

    /// The parts that were purged, as a mask.
    pub(crate) fn purged(&self) -> u8 {
        self.purged.get()
    }

    /// Notes that the parts of `mask` were purged.
    pub(crate) fn add_purged(&self, mask: u8) {
        self.purged.set(self.purged.get() | mask);
    }

    /// Notes that the parts of `mask` are not purged: the OS refused, or they were committed again.
    pub(crate) fn remove_purged(&self, mask: u8) {
        self.purged.set(self.purged.get() & !mask);
    }

    /// Notes that the OS refused to purge the pool: any byte may be other than zero. Parts that count as purged by
    /// themselves still do.
    pub(crate) fn set_touched(&self) {
        self.touched_bytes.set(POOL_BYTES as u32);
    }

    /// Notes that `bytes` bytes at the pool's start may be other than zero, and that no part is purged.
    pub(crate) fn set_touched_bytes(&self, bytes: usize) {
        self.touched_bytes.set(bytes as u32);
        self.purged.set(0);
    }

    /// Ends a run.
    pub(crate) fn end_run(&self) {
        self.used.set(0);
    }

    /// Makes the pool the first of a run of `pools` pools, all in the program's hands.
    pub(crate) fn set_run(&self, pools: usize) {
        self.state.set(State::Run);
        self.used.set(pools as u32);
    }

    /// The parts that may have memory but hold only free blocks, as a mask. With `is_backed`, parts that were never
    /// touched may have memory, too.
    pub(crate) fn purgeable(&self, is_backed: bool) -> u8 {
        let unit_bytes = self.any_class().purge_unit_bytes();
        let touched = if is_backed { PURGE_PARTS } else { self.touched_bytes().div_ceil(unit_bytes) };
        let touched = (0..touched).filter(|&part| self.purged.get() >> part & 1 == 0 && self.is_part_free(part));
        touched.fold(0, |mask, part| mask | 1 << part)
    }

    /// Whether all blocks that reach into a part are free.
    pub(crate) fn is_part_free(&self, part: usize) -> bool {
        let class = self.any_class();
        let (block_bytes, unit_bytes) = (class.block_bytes(), class.purge_unit_bytes());
        let first = part * unit_bytes / block_bytes;
        let end = ((part + 1) * unit_bytes).div_ceil(block_bytes).min(class.pool_blocks());
        (first / WORD_BITS..end.div_ceil(WORD_BITS)).all(|word| {
            let start = word * WORD_BITS;
            let mut wanted = class.full_word(word);
            if first > start {
                wanted &= u64::MAX << (first - start);
            }
            if end < start + WORD_BITS {
                wanted &= (1 << (end - start)) - 1;
            }
            self.any_free_bits(word) & wanted == wanted
        })
    }

    /// Bytes at the pool's start that may be other than zero.
    pub(crate) fn touched_bytes(&self) -> usize {
        self.touched_bytes.get() as usize
    }

    /// Makes the pool one of `class`, all blocks free.
    pub(crate) fn open<K: Kind>(&self, class: Class<K>) {
        self.class.set(class.index() as u8);
        self.used.set(0);
        self.words_free.set(u64::MAX >> (WORD_BITS - class.bitmap_words()));
        // The word is zero already (*Taken*). It is written because fresh memory costs one page fault if it is written
        // first, and two if it is read first.
        self.word(0).set(0);
    }

    /// Whether any block is free.
    #[inline]
    pub(crate) fn has_free(&self) -> bool {
        self.words_free.get() != 0
    }

    /// Word `word` of the bitmap.
    #[inline(always)]
    pub(crate) fn word(&self, word: usize) -> &Cell<u64> {
        // SAFETY: `set_up` came first, and callers pass words of the pool's class, so the word lies in the arena's
        // metadata, which is never unmapped.
        unsafe { &*self.words.get().byte_add(word_offset_bytes(word)) }
    }

    /// The summary of the bitmap, for the self-check.
    pub(crate) fn words_free(&self) -> u64 {
        self.words_free.get()
    }

    /// The free blocks of word `word`.
    #[inline(always)]
    pub(crate) fn free_bits<K: Kind>(&self, word: usize) -> u64 {
        !self.word(word).get() & self.class::<K>().full_word(word)
    }

    /// The same, for a caller that does not know the kind.
    pub(crate) fn any_free_bits(&self, word: usize) -> u64 {
        !self.word(word).get() & self.any_class().full_word(word)
    }

    /// The number of free blocks, counted by their bits.
    pub(crate) fn free_blocks(&self) -> usize {
        let words = self.any_class().bitmap_words();
        (0..words).map(|word| self.any_free_bits(word).count_ones() as usize).sum()
    }

    /// Free blocks of a pool in use that lie wholly in memory never touched.
    pub(crate) fn uncarved_blocks(&self) -> usize {
        let class = self.any_class();
        class.pool_blocks().saturating_sub(self.touched_bytes().div_ceil(class.block_bytes()))
    }

    /// Takes the blocks of `mask` in word `word` home; `blocks` is their number. Returns whether no block was free
    /// before.
    #[inline(always)]
    pub(crate) fn bring_home(&self, word: usize, mask: u64, blocks: u32) -> Result<bool, AlreadyFree> {
        let was_full = !self.has_free();
        self.free(word, mask)?;
        self.count_home(blocks);
        Ok(was_full)
    }

    /// The same for block `number` alone.
    #[inline(always)]
    pub(crate) fn bring_one_home(&self, number: usize) -> Result<bool, AlreadyFree> {
        let was_full = !self.has_free();
        let (word, bit) = (number / WORD_BITS, number % WORD_BITS);
        let place = self.word(word);
        let taken = place.get();
        if taken >> bit & 1 == 0 {
            return Err(AlreadyFree { block: number });
        }
        place.set(taken & !(1 << bit));
        self.summarize_free(word);
        self.count_home(1);
        Ok(was_full)
    }

    /// Whether one of the blocks of `mask` in word `word` is free.
    pub(crate) fn is_free(&self, word: usize, mask: u64) -> bool {
        self.word(word).get() & mask != mask
    }

    /// Makes the blocks of `mask` in word `word` free; they are still counted as used.
    #[inline(always)]
    pub(crate) fn free(&self, word: usize, mask: u64) -> Result<(), AlreadyFree> {
        let place = self.word(word);
        let taken = place.get();
        if taken & mask != mask {
            return Err(self.already_free(word, mask));
        }
        place.set(taken ^ mask);
        self.summarize_free(word);
        Ok(())
    }

    /// Notes that a block of word `word` is free (*Summary*).
    #[inline(always)]
    fn summarize_free(&self, word: usize) {
        self.words_free.set(self.words_free.get() | 1 << word);
    }

    /// The first block of `mask` in word `word` that is free.
    #[cold]
    fn already_free(&self, word: usize, mask: u64) -> AlreadyFree {
        AlreadyFree { block: word * WORD_BITS + (!self.word(word).get() & mask).trailing_zeros() as usize }
    }

    /// Counts `blocks` blocks as home.
    #[inline(always)]
    pub(crate) fn count_home(&self, blocks: u32) {
        self.used.set(self.used.get().wrapping_sub(blocks));
    }

    /// Takes free blocks, lowest address first, and stores them from the last of `slots` to the first, until either
    /// runs out; returns the slots that are left.
    #[inline]
    pub(crate) fn take<'slots, K: Kind>(&self, mut slots: &'slots [Slot]) -> &'slots [Slot] {
        let class = self.class::<K>();
        let block_bytes = class.block_bytes();
        let start = self.start.get();
        let mut summary = self.words_free.get();
        let (mut taken, mut end) = (0, 0);
        let first = summary.trailing_zeros() as usize * WORD_BITS * block_bytes;
        while summary != 0 && !slots.is_empty() {
            let word = summary.trailing_zeros() as usize;
            let place = self.word(word);
            let all = !place.get() & class.full_word(word);
            let word_start = start.wrapping_add(word * WORD_BITS * block_bytes);
            let left = if all == u64::MAX
                && let Some((others, word_slots)) = slots.split_last_chunk::<WORD_BITS>()
            {
                // All of a word: no bits to look for. The usual case while a heap grows.
                let mut block = word_start;
                for slot in word_slots.iter().rev() {
                    // Relaxed: slots are read by their thread, or under the door.
                    slot.store(block, Ordering::Relaxed);
                    block = block.wrapping_add(block_bytes);
                }
                slots = others;
                0
            } else {
                let mut bits = all;
                while bits != 0
                    && let Some((slot, others)) = slots.split_last()
                {
                    slots = others;
                    let number = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    // Relaxed: as above.
                    slot.store(word_start.wrapping_add(number * block_bytes), Ordering::Relaxed);
                }
                bits
            };
            let gone = all & !left;
            place.set(place.get() | gone);
            taken += gone.count_ones();
            end = (word * WORD_BITS + (WORD_BITS - gone.leading_zeros() as usize)) * block_bytes;
            if left == 0 {
                summary &= summary - 1;
            }
        }
        self.words_free.set(summary);
        self.note_taken::<K>(taken, first, end);
        slots
    }

    /// Takes the free block with the lowest address.
    pub(crate) fn take_one<K: Kind>(&self) -> Option<Block> {
        let summary = self.words_free.get();
        if summary == 0 {
            return None;
        }
        let word = summary.trailing_zeros() as usize;
        let class = self.class::<K>();
        let place = self.word(word);
        let taken = place.get();
        place.set(taken | (taken + 1));
        if place.get() == class.full_word(word) {
            self.words_free.set(summary & (summary - 1));
        }
        let block_bytes = class.block_bytes();
        let offset = (word * WORD_BITS + taken.trailing_ones() as usize) * block_bytes;
        let end = offset + block_bytes;
        let parts = parts_of(offset, end, class.purge_unit_bytes());
        let zeroed = offset >= self.touched_bytes() || self.purged.get() & parts == parts;
        self.note_taken::<K>(1, offset, end);
        NonNull::new(self.start.get().wrapping_add(offset)).map(|start| Block { start, zeroed })
    }

    /// Counts blocks that were taken, all inside `first..end`, in bytes from the pool's start.
    #[inline]
    fn note_taken<K: Kind>(&self, blocks: u32, first: usize, end: usize) {
        self.used.set(self.used.get().wrapping_add(blocks));
        self.touched_bytes.set(self.touched_bytes.get().max(end as u32));
        if self.purged.get() != 0 {
            self.purged.set(self.purged.get() & !parts_of(first, end, self.class::<K>().purge_unit_bytes()));
        }
    }
}

/// The parts of a pool (`unit_bytes` each) that the range `first..end` reaches into, as a mask. The range is in bytes
/// from the pool's start.
pub(crate) fn parts_of(first: usize, end: usize, unit_bytes: usize) -> u8 {
    let (first, end) = (first / unit_bytes, end.div_ceil(unit_bytes).min(PURGE_PARTS));
    if first < end { (u8::MAX >> (PURGE_PARTS - (end - first))) << first } else { 0 }
}

/// A doubly linked list of pools; a pool is in at most one.
pub(crate) struct PoolList {
    first: Cell<*const Pool>,
    last: Cell<*const Pool>,
}

impl PoolList {
    pub(crate) const fn new() -> Self {
        Self { first: Cell::new(ptr::null()), last: Cell::new(ptr::null()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.get().is_null()
    }

    #[inline]
    pub(crate) fn first(&self) -> Option<&Pool> {
        // SAFETY: linked pools are mapped, and only a thread that holds their door reaches the list (*Door*).
        unsafe { self.first.get().as_ref() }
    }

    pub(crate) fn last(&self) -> Option<&Pool> {
        // SAFETY: as in `first`.
        unsafe { self.last.get().as_ref() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pool> {
        core::iter::successors(self.first(), |pool| {
            // SAFETY: as in `first`.
            unsafe { pool.next.get().as_ref() }
        })
    }

    /// Links a pool that is in no list at the end.
    #[inline]
    pub(crate) fn push_last(&self, pool: &Pool) {
        pool.next.set(ptr::null());
        pool.previous.set(self.last.get());
        // SAFETY: as in `first`.
        match unsafe { self.last.get().as_ref() } {
            Some(last) => last.next.set(pool),
            None => self.first.set(pool),
        }
        self.last.set(pool);
    }

    /// Links a pool that is in no list at the front.
    pub(crate) fn push_first(&self, pool: &Pool) {
        pool.previous.set(ptr::null());
        pool.next.set(self.first.get());
        // SAFETY: as in `first`.
        match unsafe { self.first.get().as_ref() } {
            Some(first) => first.previous.set(pool),
            None => self.last.set(pool),
        }
        self.first.set(pool);
    }

    /// Unlinks a pool that is in this list.
    #[inline]
    pub(crate) fn remove(&self, pool: &Pool) {
        let (previous, next) = (pool.previous.get(), pool.next.get());
        // SAFETY: as in `first`.
        match unsafe { previous.as_ref() } {
            Some(before) => before.next.set(next),
            None => self.first.set(next),
        }
        // SAFETY: as in `first`.
        match unsafe { next.as_ref() } {
            Some(after) => after.previous.set(previous),
            None => self.last.set(previous),
        }
    }
}
