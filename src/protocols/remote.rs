//! Remote frees: the half of a pool's descriptor that every thread may write, and the inbox of the pool's owner.
//!
//! # Protocol
//! *Freeing thread*, which holds the blocks that it frees, but not the door of the pool's owner:
//! 1. [`RemoteWord::free`]: sets the blocks' bits (Release).
//! 2. [`RemoteHalf::arrive`]: adds their number to the count (AcqRel). If the count was not 0 before, the thread
//!    must not touch the pool any more: it may belong to somebody else already, or be unmapped.
//! 3. If the count was 0 before, this thread and no other reads the pool's owner, and pushes the pool onto that owner's
//!    [`Inbox`].
//!
//! *Holder of the owning set's lock (its door)*, for each pool of [`Inbox::take_all`]:
//! 1. reads the link to the next pool ([`Taken`] does),
//! 2. [`RemoteHalf::collect_count`]: swaps the count with 0 (AcqRel),
//! 3. [`RemoteWord::collect`]: swaps each word with 0 (Acquire).
//!
//! *A thread that steals* a pool from a parked set: [`RemoteHalf::claim`] changes the count from 0 to 1, as a freeing
//! thread would, but pushes nothing. This thread then is the only one that may change the owner. It ends as the holder
//! of the door does, with one block less to account for.
//!
//! # Invariants
//! - *Outstanding*: the count is not 0 if and only if exactly one party is bound to take the pool from step 3 to a
//!   collected count: the thread that found 0, then the inbox, then the thread that took the pool from the inbox; or
//!   the claimer.
//! - *Stable*: while the count is not 0, only that party changes the pool's owner or reads or writes the link.
//! - *Counts decide*: a block counts as home when its count was collected, not when its bit was: bits may be
//!   collected before the freeing thread has added their count, so a pool whose blocks are all counted home has no
//!   thread left inside it, and can be handed back and unmapped.
//! - *Counted*: of the pools in an inbox, at most those whose push has not returned yet are not counted in its pushes.
//!   So once all pushes have returned, the one that was counted last has returned at least the number of pools in the
//!   inbox.
//! - A bit that is set already when its block is freed, or that the owner finds free on its own side, is a double
//!   free.

use core::ptr::{self, NonNull};

use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// The part of a pool's descriptor that every thread may write.
///
/// Zeroed memory is a valid value: nothing outstanding.
#[repr(C, align(64))]
pub(crate) struct RemoteHalf {
    /// Blocks freed by other threads and not counted home yet.
    count: AtomicU32,
    /// The next pool in the same inbox; written by the pusher, read by the thread that takes the inbox.
    link: AtomicPtr<RemoteHalf>,
    /// The address of the rest of the pool's descriptor, which the pusher leaves for the taker.
    home: AtomicPtr<u8>,
}

// The layout that `docs/design/04-pool.md` describes.
#[cfg(all(target_pointer_width = "64", not(pymalloc_loom)))]
const _: () = {
    assert!(core::mem::offset_of!(RemoteHalf, count) == 0 && core::mem::offset_of!(RemoteHalf, link) == 8);
    assert!(core::mem::offset_of!(RemoteHalf, home) == 16 && size_of::<RemoteHalf>() == 64);
};

/// The result of [`RemoteHalf::arrive`]: whether the blocks are the first outstanding ones of their pool.
#[must_use = "the first arrival owes its pool's owner a push"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// Nothing was outstanding: push the pool onto its owner's inbox.
    First,
    /// Others were outstanding already; the number is that of all. Don't touch the pool any more.
    Later(u32),
}

impl RemoteHalf {
    /// A half with nothing outstanding.
    #[cfg(pymalloc_loom)]
    pub(crate) fn new() -> Self {
        Self { count: AtomicU32::new(0), link: AtomicPtr::new(ptr::null_mut()), home: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Step 2 of a free: adds `blocks`, whose bits are set, to the count.
    #[inline]
    pub(crate) fn arrive(&self, blocks: u32) -> Arrival {
        // Release: the bits and every access to the pool happen before the collector's Acquire, and so before
        // a later unmapping. Acquire: pairs with the Release of `collect_count`, so that the first arrival sees
        // the owner that the last collector left, and its own link write comes after the collector's link read.
        match self.count.fetch_add(blocks, Ordering::AcqRel) {
            0 => Arrival::First,
            before => Arrival::Later(before.wrapping_add(blocks)),
        }
    }

    /// Takes the count of a pool that the caller took from an inbox or claimed. Its blocks then count as home.
    #[inline]
    pub(crate) fn collect_count(&self) -> u32 {
        // Acquire: pairs with every `arrive` counted here. Release: the next first arrival sees the owner and the link
        // as they are now.
        self.count.swap(0, Ordering::AcqRel)
    }

    /// Makes the caller the party bound to collect the count, if nothing is outstanding. Adds 1 to the count.
    pub(crate) fn claim(&self) -> bool {
        // Acquire: pairs with the Release of the last `collect_count`. Relaxed on failure: nothing follows.
        // No Release: later arrivals touch nothing before the `collect_count` that ends the claim.
        self.count.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// The number of blocks outstanding: exact while no thread frees into the pool, otherwise a snapshot.
    pub(crate) fn outstanding(&self) -> u32 {
        // Relaxed: a number to report; no access depends on it.
        self.count.load(Ordering::Relaxed)
    }
}

/// One word of the bitmap of remote frees, with one bit per block.
///
/// Zeroed memory is a valid value: no block freed.
#[repr(transparent)]
pub(crate) struct RemoteWord(AtomicU64);

impl RemoteWord {
    /// A word in which no block is freed.
    #[cfg(pymalloc_loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Step 1 of a free: sets the bits of `mask`; `false` if one of them was set already (a double free).
    #[inline]
    #[must_use]
    pub(crate) fn free(&self, mask: u64) -> bool {
        // Release: the program's last accesses to the blocks happen before their reuse, pairs with `collect`.
        self.0.fetch_or(mask, Ordering::Release) & mask == 0
    }

    /// Takes all bits.
    #[inline]
    pub(crate) fn collect(&self) -> u64 {
        // Relaxed: a word that reads as 0 is left alone. No bit is lost: either its `arrive` happened before the count
        // was collected, and then this load sees the bit; or its count is still outstanding.
        if self.0.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        // Acquire: pairs with the Release of `free`.
        self.0.swap(0, Ordering::Acquire)
    }

    /// The bits as they are now.
    pub(crate) fn peek(&self) -> u64 {
        // Relaxed: a snapshot to report.
        self.0.load(Ordering::Relaxed)
    }
}

/// The pools of one set that have blocks outstanding. Any thread pushes; the holder of the set's door takes all at
/// once.
///
/// A Treiber stack without pops of single nodes, so without its ABA problem.
pub(crate) struct Inbox {
    head: AtomicPtr<RemoteHalf>,
    /// Pushes since the last take (*Counted*).
    pushes: AtomicU32,
}

impl Inbox {
    /// An empty inbox.
    #[cfg(not(pymalloc_loom))]
    pub(crate) const fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()), pushes: AtomicU32::new(0) }
    }

    /// An empty inbox.
    #[cfg(pymalloc_loom)]
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()), pushes: AtomicU32::new(0) }
    }

    /// Step 3 of a free: pushes a pool whose first arrival the caller was, with the word `home` for the taker. Returns
    /// the number of pools pushed since the inbox was last taken, or more (*Counted*).
    ///
    /// # Safety
    /// The caller is the party bound to collect the pool (*Outstanding*), and the pool's owner is this inbox's.
    pub(crate) unsafe fn push(&self, pool: NonNull<RemoteHalf>, home: NonNull<u8>) -> u32 {
        // SAFETY: the pool is mapped while its count is not 0 (*Counts decide*).
        // Relaxed: published by the exchange below.
        unsafe { pool.as_ref() }.home.store(home.as_ptr(), Ordering::Relaxed);
        // Relaxed: the head is only compared and written as a link; the thread that takes it acquires.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the pool is mapped while its count is not 0 (*Counts decide*).
            // Relaxed: published by the exchange below.
            unsafe { pool.as_ref() }.link.store(head, Ordering::Relaxed);
            // Release: the link happens before the taker's Acquire.
            match self.head.compare_exchange_weak(head, pool.as_ptr(), Ordering::Release, Ordering::Relaxed) {
                // Release: pairs with the Acquire in `take_all`, which thus takes each pool whose push it uncounts.
                Ok(_) => return self.pushes.fetch_add(1, Ordering::Release).wrapping_add(1),
                Err(now) => head = now,
            }
        }
    }

    /// Whether there is nothing to take; a hint.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: a hint; `take_all` acquires.
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// Takes all pools.
    ///
    /// # Safety
    /// The caller holds the door of the inbox's set, and collects the count of every pool that the iterator gives.
    pub(crate) unsafe fn take_all(&self) -> Taken {
        // Acquire: pairs with the Release of every push that this line uncounts, so that the next line takes their
        // pools.
        self.pushes.swap(0, Ordering::Acquire);
        // Acquire: pairs with the Release of every push.
        Taken { next: self.head.swap(ptr::null_mut(), Ordering::Acquire) }
    }

    /// The pools as they are now, without taking them.
    ///
    /// # Safety
    /// The caller holds the door, and no thread can push: all doors are held.
    pub(crate) unsafe fn peek_all(&self) -> Taken {
        // Acquire: pairs with the Release of every push.
        Taken { next: self.head.load(Ordering::Acquire) }
    }
}

/// The pools taken from an [`Inbox`].
#[must_use]
pub(crate) struct Taken {
    next: *mut RemoteHalf,
}

impl Iterator for Taken {
    /// A pool and the word that its pusher left.
    type Item = (NonNull<RemoteHalf>, *mut u8);

    fn next(&mut self) -> Option<Self::Item> {
        let pool = NonNull::new(self.next)?;
        // The link is read before the caller collects the count: after that, the next first arrival may write it.
        // SAFETY: mapped while its count is not 0. Relaxed: published by the head (and by the exchanges between).
        let half = unsafe { pool.as_ref() };
        self.next = half.link.load(Ordering::Relaxed);
        // Relaxed: as the link.
        Some((pool, half.home.load(Ordering::Relaxed)))
    }
}
