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
//! - *Bound*: all blocks of a cache's depots together have at most [`Inside::depot_bytes_max`] bytes when a slow
//!   free ends: so a heap that shrinks has no pool pinned by them.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use super::{ThreadCache, capacity_max};
use crate::base::config::CLASS_COUNT;
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

#[inline]
const fn chunk_bytes(class: SizeClass) -> usize {
    chunk_blocks(class) * class.block_bytes()
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
        Self { full: Cell::new(ptr::null_mut()), unused: Cell::new(ptr::null_mut()) }
    }
}

impl ThreadCache {
    fn depot(&self, class: SizeClass) -> &Depot {
        &self.depots[class.number() & (CLASS_COUNT - 1)]
    }

    /// Moves the oldest blocks of a full magazine into the depot, if it has room for a chunk and the thread allocates
    /// from the class: strangers go home. Door.
    pub(super) fn stow(&self, class: SizeClass, heap: &'static Heap, inside: &mut Inside<'_>) -> bool {
        let bytes_max = inside.depot_bytes_max();
        if self.depot_bytes.get() > bytes_max {
            self.flush_depots(inside);
        }
        let slots = self.blocks(class);
        let bytes = self.depot_bytes.get();
        let fits = bytes + chunk_bytes(class) <= bytes_max && slots.len() == capacity_max(class);
        if !fits || !self.shape(class).allocated.get() {
            return false;
        }
        let depot = self.depot(class);
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
        self.depot_bytes.set(bytes + chunk_bytes(class));
        true
    }

    /// Fills an empty magazine with the chunk stowed last, if there is one. Door.
    pub(super) fn unstow(&self, class: SizeClass) -> bool {
        let depot = self.depot(class);
        let Some(chunk) = pop(&depot.full) else { return false };
        // SAFETY: a chunk of the class; the magazine was full when it was stowed, so its array is large enough, and
        // it has not been shrunk since, which empties the depot.
        unsafe {
            let blocks = blocks_of(chunk, class);
            let array = self.array(class).as_ptr().cast_mut();
            ptr::copy_nonoverlapping(blocks.as_ptr(), array, blocks.len());
        }
        self.magazine(class).set_top(chunk_blocks(class));
        push(&depot.unused, chunk);
        self.depot_bytes.set(self.depot_bytes.get() - chunk_bytes(class));
        true
    }

    /// Gives all blocks of all depots back to their pools. Door.
    #[cold]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(super) fn flush_depots(&self, inside: &mut Inside<'_>) {
        if self.depot_bytes.get() == 0 {
            return;
        }
        for class in SizeClass::all() {
            let depot = self.depot(class);
            while let Some(chunk) = pop(&depot.full) {
                self.depot_bytes.set(self.depot_bytes.get() - chunk_bytes(class));
                // SAFETY: a chunk of the class, under the door.
                inside.give(class, unsafe { blocks_of(chunk, class) });
                push(&depot.unused, chunk);
            }
        }
    }

    /// Gives the arrays of the chunks of an empty depot back. Door.
    pub(super) fn free_chunks(&self, class: SizeClass, heap: &'static Heap) {
        while let Some(chunk) = pop(&self.depot(class).unused) {
            let bytes = chunk_slots(class) * size_of::<Slot>();
            // SAFETY: allocated with that size, and in no list any more.
            heap.with_state(|state, _| unsafe { state.metadata.free_array(chunk.cast(), bytes) });
        }
    }

    /// The bytes of all depots as they are counted, and those of the blocks in them. Door.
    #[cfg(test)]
    pub(crate) fn depot_bytes(&self) -> (usize, usize) {
        let stowed = |class: SizeClass| self.stowed(class).flatten().count() * class.block_bytes();
        (self.depot_bytes.get(), SizeClass::all().map(stowed).sum())
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
