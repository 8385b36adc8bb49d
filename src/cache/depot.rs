//! The depot: further free blocks of a class, in chunks, behind its magazine.
//!
//! A thread that frees many blocks, and soon allocates as many, need not go to their pools. A full magazine stows half
//! of its blocks as a chunk, and an empty one takes the last chunk back. Either move is a copy of addresses. The depots
//! of Bonwick and Adams (USENIX 2001) serve all CPUs; this one belongs to one thread, so it needs no further lock.
//!
//! # Invariants
//! - *Depot's door*: everything here is behind the door of the cache's set.
//! - *Chunk*: a chunk of a class is an array of half the slots of its largest magazine: the address of the next chunk,
//!   then free blocks of the class, whose pools count them as used.
//! - *Bound*: all depots of a cache together hold at most `DEPOT_BLOCKS_MAX` small blocks, because each block may pin a
//!   pool, whatever its size. Each depot holds at most `DEPOT_BYTES_MAX`. A medium block is a good part of a pool
//!   itself, so all depots together hold at most `MEDIUM_DEPOT_BYTES_MAX` bytes of medium blocks.

use core::ptr::{self, NonNull};

use super::{ThreadCache, capacity_max};
use crate::base::config::{
    CLASS_COUNT, DEPOT_BLOCKS_MAX, DEPOT_BYTES_MAX, MAGAZINE_SLOTS_MIN, MEDIUM_CLASS_COUNT, MEDIUM_DEPOT_BYTES_MAX,
};
use crate::base::kind::{Kind, Medium, Small};
use crate::base::size_class::Class;
use crate::heap::Heap;
use crate::heap::door::{Door, DoorCell};
use crate::heap::pool::Slot;
use crate::pool_set::Inside;
use crate::sync::Ordering;

/// A thread's chunks of one class. Zeroed memory is a valid value: none.
pub(super) struct Depot {
    /// The chunk stowed last.
    full: DoorCell<*mut Slot>,
    /// Arrays of chunks that were taken back.
    unused: DoorCell<*mut Slot>,
    /// Chunks in `full`.
    chunks: DoorCell<u16>,
    /// The fewest chunks since the last visit (see `age`).
    low: DoorCell<u16>,
    /// Whether it overflowed since the last allocation from the class. Then nothing is stowed.
    closed: DoorCell<bool>,
}

/// Slots of a chunk: one for the link, the others for blocks.
const fn chunk_slots<K: Kind>(class: Class<K>) -> usize {
    capacity_max(class) / 2
}

/// Blocks of a chunk.
#[inline]
pub(super) const fn chunk_blocks<K: Kind>(class: Class<K>) -> usize {
    chunk_slots(class) - 1
}

/// The weight of a chunk (see `ThreadCache::stock`).
#[inline]
const fn chunk_weight<K: Kind>(class: Class<K>) -> usize {
    if K::IS_SMALL { chunk_blocks(class) } else { chunk_blocks(class) * class.block_bytes() }
}

/// The most that the depots of a thread may weigh.
const fn stock_max<K: Kind>() -> usize {
    if K::IS_SMALL { DEPOT_BLOCKS_MAX } else { MEDIUM_DEPOT_BYTES_MAX }
}

/// The chunk behind `chunk`.
///
/// # Safety
/// `chunk` is a chunk.
unsafe fn next_of(chunk: NonNull<Slot>, _door: Door<'_>) -> *mut Slot {
    // SAFETY: slot 0 is the link (*Chunk*). Relaxed: under the door.
    unsafe { chunk.as_ref() }.load(Ordering::Relaxed).cast()
}

/// Takes the first chunk of a list.
fn pop(list: &DoorCell<*mut Slot>, door: Door<'_>) -> Option<NonNull<Slot>> {
    let chunk = NonNull::new(list.get(door))?;
    // SAFETY: lists hold chunks.
    list.set(door, unsafe { next_of(chunk, door) });
    Some(chunk)
}

/// Puts a chunk in front of a list.
fn push(list: &DoorCell<*mut Slot>, chunk: NonNull<Slot>, door: Door<'_>) {
    // SAFETY: slot 0 is the link. Relaxed: under the door.
    unsafe { chunk.as_ref() }.store(list.get(door).cast(), Ordering::Relaxed);
    list.set(door, chunk.as_ptr());
}

/// The blocks of a chunk.
///
/// # Safety
/// `chunk` is a chunk of `class`.
unsafe fn blocks_of<'door, K: Kind>(chunk: NonNull<Slot>, class: Class<K>, _door: Door<'door>) -> &'door [Slot] {
    // SAFETY: the slots behind the link (*Chunk*).
    unsafe { core::slice::from_raw_parts(chunk.as_ptr().add(1), chunk_blocks(class)) }
}

impl Depot {
    pub(super) const fn new() -> Self {
        Self {
            full: DoorCell::new(ptr::null_mut()),
            unused: DoorCell::new(ptr::null_mut()),
            chunks: DoorCell::new(0),
            low: DoorCell::new(0),
            closed: DoorCell::new(false),
        }
    }
}

impl ThreadCache {
    fn depot<K: Kind>(&self, class: Class<K>) -> &Depot {
        if K::IS_SMALL {
            &self.depots[class.number() & (CLASS_COUNT - 1)]
        } else {
            &self.medium.depots[class.number().min(MEDIUM_CLASS_COUNT - 1)]
        }
    }

    /// The weight of a kind's depots: the number of blocks for small classes, their bytes for medium ones.
    #[inline(always)]
    const fn stock<K: Kind>(&self) -> &DoorCell<usize> {
        if K::IS_SMALL { &self.depot_blocks } else { &self.medium.depot_bytes }
    }

    /// Moves the oldest blocks of a full magazine into the depot, if it has room for a chunk. Returns whether it moved
    /// any.
    ///
    /// Nothing is moved if the thread has not allocated from the class: strangers return to their pools. A depot
    /// without room is emptied, and stays empty until the next allocation from the class, because a long row of frees
    /// would fill it for nothing.
    pub(super) fn stow<K: Kind>(&self, class: Class<K>, heap: &'static Heap, inside: &mut Inside<'_>) -> bool {
        let door = inside.door();
        let depot = self.depot(class);
        let slots = self.blocks(class, door);
        if slots.len() != capacity_max(class) || !self.shape(class).allocated.get(door) || depot.closed.get(door) {
            return false;
        }
        let own_blocks = (usize::from(depot.chunks.get(door)) + 1) * chunk_blocks(class);
        if self.stock::<K>().get(door) + chunk_weight(class) > stock_max::<K>()
            || K::IS_SMALL && own_blocks * class.block_bytes() > DEPOT_BYTES_MAX
        {
            self.close_depot(class, inside);
            return false;
        }
        if !K::IS_SMALL && chunk_slots(class) < MAGAZINE_SLOTS_MIN {
            // Less than a cache line of slots: the largest blocks have no depot.
            return false;
        }
        let Some(chunk) = pop(&depot.unused, door).or_else(|| {
            let bytes = chunk_slots(class) * size_of::<Slot>();
            heap.with_state(|state, source| state.metadata.alloc_array(bytes, source)).map(NonNull::cast)
        }) else {
            return false;
        };
        // SAFETY: a full magazine has more blocks than a chunk takes, and the chunk is in no list. A plain copy will
        // do: other threads read slots under the door only.
        unsafe { ptr::copy_nonoverlapping(slots.as_ptr(), chunk.as_ptr().add(1), chunk_blocks(class)) };
        self.drop_oldest(class, chunk_blocks(class), door);
        push(&depot.full, chunk, door);
        depot.chunks.set(door, depot.chunks.get(door) + 1);
        self.stock::<K>().set(door, self.stock::<K>().get(door) + chunk_weight(class));
        true
    }

    /// Fills an empty magazine with the chunk stowed last, if there is one.
    pub(super) fn unstow<K: Kind>(&self, class: Class<K>, door: Door<'_>) -> bool {
        let depot = self.depot(class);
        depot.closed.set(door, false);
        let Some(chunk) = self.pop_chunk(class, door) else { return false };
        // SAFETY: a chunk of the class. The magazine was full when the chunk was stowed, so its array is large enough.
        // It was not shrunk since, because that empties the depot.
        unsafe {
            let blocks = blocks_of(chunk, class, door);
            let array = self.array(class, door).as_ptr().cast_mut();
            ptr::copy_nonoverlapping(blocks.as_ptr(), array, blocks.len());
        }
        self.magazine(class).set_top(chunk_blocks(class), door);
        push(&depot.unused, chunk, door);
        true
    }

    /// Takes the chunk stowed last.
    fn pop_chunk<K: Kind>(&self, class: Class<K>, door: Door<'_>) -> Option<NonNull<Slot>> {
        let depot = self.depot(class);
        let chunk = pop(&depot.full, door)?;
        depot.chunks.set(door, depot.chunks.get(door) - 1);
        depot.low.set(door, depot.low.get(door).min(depot.chunks.get(door)));
        self.stock::<K>().set(door, self.stock::<K>().get(door) - chunk_weight(class));
        Some(chunk)
    }

    /// Gives all blocks of all depots back to their pools.
    #[cold]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(super) fn flush_depots(&self, inside: &mut Inside<'_>) {
        self.flush_depots_of::<Small>(inside);
        self.flush_depots_of::<Medium>(inside);
    }

    /// The same for one kind.
    #[inline]
    fn flush_depots_of<K: Kind>(&self, inside: &mut Inside<'_>) {
        if self.stock::<K>().get(inside.door()) == 0 {
            return;
        }
        for class in Class::<K>::all() {
            self.flush_depot(class, inside);
        }
    }

    /// Gives all blocks of the depot back to their pools.
    pub(super) fn flush_depot<K: Kind>(&self, class: Class<K>, inside: &mut Inside<'_>) {
        let door = inside.door();
        while let Some(chunk) = self.pop_chunk(class, door) {
            // SAFETY: a chunk of the class.
            inside.give(class, unsafe { blocks_of(chunk, class, door) });
            push(&self.depot(class).unused, chunk, door);
        }
    }

    /// Empties the depot, and keeps it empty until the next allocation from the class.
    pub(super) fn close_depot<K: Kind>(&self, class: Class<K>, inside: &mut Inside<'_>) {
        self.depot(class).closed.set(inside.door(), true);
        self.flush_depot(class, inside);
    }

    /// Whether the depot held a chunk all the time since the last call of this. Then the class is in a long row of
    /// frees, or not used.
    pub(super) fn depot_rests<K: Kind>(&self, class: Class<K>, door: Door<'_>) -> bool {
        let depot = self.depot(class);
        depot.low.replace(door, depot.chunks.get(door)) != 0
    }

    /// Whether the class is in a long row of frees.
    #[inline]
    pub(super) fn depot_is_closed<K: Kind>(&self, class: Class<K>, door: Door<'_>) -> bool {
        self.depot(class).closed.get(door)
    }

    /// Whether nothing is stowed.
    pub(super) fn depot_is_empty<K: Kind>(&self, class: Class<K>, door: Door<'_>) -> bool {
        self.depot(class).full.get(door).is_null()
    }

    /// Frees the chunks' arrays of an empty depot.
    pub(super) fn free_chunks<K: Kind>(&self, class: Class<K>, heap: &'static Heap, door: Door<'_>) {
        while let Some(chunk) = pop(&self.depot(class).unused, door) {
            let bytes = chunk_slots(class) * size_of::<Slot>();
            // SAFETY: allocated with that size, and in no list any more.
            heap.with_state(|state, _| unsafe { state.metadata.free_array(chunk.cast(), bytes) });
        }
    }

    /// The number of small blocks in all depots: by the running count, and by a walk over all of them.
    #[cfg(test)]
    pub(crate) fn depot_blocks(&self, door: Door<'_>) -> (usize, usize) {
        let stowed = |class| self.stowed(class, door).flatten().count();
        (self.depot_blocks.get(door), Class::<Small>::all().map(stowed).sum())
    }

    /// The blocks in the depot, chunk by chunk.
    pub(super) fn stowed<'door, K: Kind>(
        &self,
        class: Class<K>,
        door: Door<'door>,
    ) -> impl Iterator<Item = &'door [Slot]> {
        let chunks = core::iter::successors(NonNull::new(self.depot(class).full.get(door)), move |&chunk| {
            // SAFETY: lists hold chunks.
            NonNull::new(unsafe { next_of(chunk, door) })
        });
        // SAFETY: chunks of the class.
        chunks.map(move |chunk| unsafe { blocks_of(chunk, class, door) })
    }
}
