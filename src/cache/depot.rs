//! The depot: further free blocks of a class, in chunks, behind its magazine.
//!
//! A thread that frees many blocks, and soon allocates as many, need not tell their pools: a full magazine stows half
//! of its blocks as a chunk, an empty one takes the last chunk back, and each costs a copy of addresses. The depots of
//! Bonwick and Adams (USENIX 2001) serve all CPUs; this one is a thread's own, so it needs no lock of its own.
//!
//! # Invariants
//! - *Depot's door*: everything here is touched only by who holds the door of the cache's set.
//! - *Chunk*: a chunk of a class is an array of half the slots of its largest magazine: the address of the next chunk,
//!   then free blocks of the class, whose pools count them as used.
//! - *Bound*: all depots of a cache together hold at most `DEPOT_BLOCKS_MAX` blocks. The bound is one of blocks, not of
//!   bytes, because each block may pin a pool, whatever its size.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use super::{ThreadCache, capacity_max};
use crate::base::config::{CLASS_COUNT, DEPOT_BLOCKS_MAX};
use crate::base::size_class::SizeClass;
use crate::heap::Heap;
use crate::heap::pool::Slot;
use crate::pool_set::Inside;
use crate::sync::Ordering;

/// A thread's chunks of one class. Zeroed memory is a valid value: none.
pub(super) struct Depot {
    /// The chunk stowed last.
    full: Cell<*mut Slot>,
    /// Arrays of chunks that were taken back.
    unused: Cell<*mut Slot>,
    /// Chunks in `full`.
    chunks: Cell<u16>,
    /// The fewest since the last visit (see `age`).
    low: Cell<u16>,
    /// Whether it overflowed since the class was allocated from last: then nothing is stowed.
    closed: Cell<bool>,
}

/// Slots of a chunk: one for the link, the others for blocks.
const fn chunk_slots(class: SizeClass) -> usize {
    capacity_max(class) / 2
}

/// Blocks of a chunk.
#[inline]
pub(super) const fn chunk_blocks(class: SizeClass) -> usize {
    chunk_slots(class) - 1
}

/// The chunk behind `chunk`.
///
/// # Safety
/// `chunk` is a chunk, and the caller holds the door.
unsafe fn next_of(chunk: NonNull<Slot>) -> *mut Slot {
    // SAFETY: slot 0 is the link (*Chunk*). Relaxed: under the door.
    unsafe { chunk.as_ref() }.load(Ordering::Relaxed).cast()
}

/// Takes the first chunk of a list.
fn pop(list: &Cell<*mut Slot>) -> Option<NonNull<Slot>> {
    let chunk = NonNull::new(list.get())?;
    // SAFETY: lists hold chunks.
    list.set(unsafe { next_of(chunk) });
    Some(chunk)
}

/// Puts a chunk in front of a list.
fn push(list: &Cell<*mut Slot>, chunk: NonNull<Slot>) {
    // SAFETY: slot 0 is the link. Relaxed: under the door.
    unsafe { chunk.as_ref() }.store(list.get().cast(), Ordering::Relaxed);
    list.set(chunk.as_ptr());
}

/// The blocks of a chunk.
///
/// # Safety
/// `chunk` is a chunk of `class`, and the caller holds the door while it uses them.
unsafe fn blocks_of<'door>(chunk: NonNull<Slot>, class: SizeClass) -> &'door [Slot] {
    // SAFETY: the slots behind the link (*Chunk*).
    unsafe { core::slice::from_raw_parts(chunk.as_ptr().add(1), chunk_blocks(class)) }
}

impl Depot {
    pub(super) const fn new() -> Self {
        Self {
            full: Cell::new(ptr::null_mut()),
            unused: Cell::new(ptr::null_mut()),
            chunks: Cell::new(0),
            low: Cell::new(0),
            closed: Cell::new(false),
        }
    }
}

impl ThreadCache {
    fn depot(&self, class: SizeClass) -> &Depot {
        &self.depots[class.number() & (CLASS_COUNT - 1)]
    }

    /// Moves the oldest blocks of a full magazine into the depot, if it has room for a chunk and the thread allocates from
    /// the class: strangers go home. A depot without room is emptied, and stays so until the class is allocated from:
    /// frees that come in a long row fill it for nothing. Door.
    pub(super) fn stow(&self, class: SizeClass, heap: &'static Heap, inside: &mut Inside<'_>) -> bool {
        let depot = self.depot(class);
        let slots = self.blocks(class);
        if slots.len() != capacity_max(class) || !self.shape(class).allocated.get() || depot.closed.get() {
            return false;
        }
        if self.depot_blocks.get() + chunk_blocks(class) > DEPOT_BLOCKS_MAX {
            depot.closed.set(true);
            self.flush_depot(class, usize::MAX, inside);
            return false;
        }
        let Some(chunk) = pop(&depot.unused).or_else(|| {
            let bytes = chunk_slots(class) * size_of::<Slot>();
            heap.with_state(|state, source| state.metadata.alloc_array(bytes, source)).map(NonNull::cast)
        }) else {
            return false;
        };
        // SAFETY: a full magazine has more blocks than a chunk takes, and the chunk is in no list. A plain copy:
        // besides this thread, slots are read under the door only.
        unsafe { ptr::copy_nonoverlapping(slots.as_ptr(), chunk.as_ptr().add(1), chunk_blocks(class)) };
        self.drop_oldest(class, chunk_blocks(class));
        push(&depot.full, chunk);
        depot.chunks.set(depot.chunks.get() + 1);
        self.depot_blocks.set(self.depot_blocks.get() + chunk_blocks(class));
        true
    }

    /// Fills an empty magazine with the chunk stowed last, if there is one. Door.
    pub(super) fn unstow(&self, class: SizeClass) -> bool {
        let depot = self.depot(class);
        depot.closed.set(false);
        let Some(chunk) = self.pop_chunk(class) else { return false };
        // SAFETY: a chunk of the class; the magazine was full when it was stowed, so its array is large enough, and
        // it has not been shrunk since, which empties the depot.
        unsafe {
            let blocks = blocks_of(chunk, class);
            let array = self.array(class).as_ptr().cast_mut();
            ptr::copy_nonoverlapping(blocks.as_ptr(), array, blocks.len());
        }
        self.magazine(class).set_top(chunk_blocks(class));
        push(&depot.unused, chunk);
        true
    }

    /// Takes the chunk stowed last. Door.
    fn pop_chunk(&self, class: SizeClass) -> Option<NonNull<Slot>> {
        let depot = self.depot(class);
        let chunk = pop(&depot.full)?;
        depot.chunks.set(depot.chunks.get() - 1);
        depot.low.set(depot.low.get().min(depot.chunks.get()));
        self.depot_blocks.set(self.depot_blocks.get() - chunk_blocks(class));
        Some(chunk)
    }

    /// Gives all blocks of all depots back to their pools. Door.
    #[cold]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(super) fn flush_depots(&self, inside: &mut Inside<'_>) {
        if self.depot_blocks.get() == 0 {
            return;
        }
        for class in SizeClass::all() {
            self.flush_depot(class, usize::MAX, inside);
        }
    }

    /// Gives the blocks of `chunks` chunks back, or of all if there are fewer. Door.
    fn flush_depot(&self, class: SizeClass, chunks: usize, inside: &mut Inside<'_>) {
        for _ in 0..chunks {
            let Some(chunk) = self.pop_chunk(class) else { return };
            // SAFETY: a chunk of the class, under the door.
            inside.give(class, unsafe { blocks_of(chunk, class) });
            push(&self.depot(class).unused, chunk);
        }
    }

    /// Gives back as many chunks as the depot never went below since this was called last, or all. Door.
    pub(super) fn age_depot(&self, class: SizeClass, all: bool, inside: &mut Inside<'_>) {
        let depot = self.depot(class);
        self.flush_depot(class, if all { usize::MAX } else { depot.low.get().into() }, inside);
        depot.low.set(depot.chunks.get());
    }

    /// Whether the class is in a long row of frees. Door.
    #[inline]
    pub(super) fn depot_is_closed(&self, class: SizeClass) -> bool {
        self.depot(class).closed.get()
    }

    /// Whether nothing is stowed. Door.
    pub(super) fn depot_is_empty(&self, class: SizeClass) -> bool {
        self.depot(class).full.get().is_null()
    }

    /// Gives the arrays of the chunks of an empty depot back. Door.
    pub(super) fn free_chunks(&self, class: SizeClass, heap: &'static Heap) {
        while let Some(chunk) = pop(&self.depot(class).unused) {
            let bytes = chunk_slots(class) * size_of::<Slot>();
            // SAFETY: allocated with that size, and in no list any more.
            heap.with_state(|state, _| unsafe { state.metadata.free_array(chunk.cast(), bytes) });
        }
    }

    /// The blocks of all depots as they are counted, and as they are. Door.
    #[cfg(test)]
    pub(crate) fn depot_blocks(&self) -> (usize, usize) {
        (self.depot_blocks.get(), SizeClass::all().map(|class| self.stowed(class).flatten().count()).sum())
    }

    /// The blocks in the depot, chunk by chunk. Door.
    pub(super) fn stowed(&self, class: SizeClass) -> impl Iterator<Item = &[Slot]> {
        let chunks = core::iter::successors(NonNull::new(self.depot(class).full.get()), |&chunk| {
            // SAFETY: lists hold chunks, and the caller holds the door.
            NonNull::new(unsafe { next_of(chunk) })
        });
        // SAFETY: chunks of the class, under the door.
        chunks.map(move |chunk| unsafe { blocks_of(chunk, class) })
    }
}
