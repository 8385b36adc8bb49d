//! The register of a [`DebugAlloc`](super::DebugAlloc): what it knows of its blocks, under one lock; and the list of
//! all registers, for forks.
//!
//! # Protocol
//! The state in a block's record says which party may touch its memory: the program (`Live`), the thread that frees it
//! (`Dying`), the holder of the lock (`Dead`), or the inner allocator (`Gone`). Only the thread that changes `Live` to
//! `Dying` goes on to fill the block. A second free finds another state, even if it comes at nearly the same time.
//!
//! # Locks
//! `ALL`, then the registers' own, then the heap's. The inner allocator is not called with a register's lock held.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use core::time::Duration;
use std::alloc::{GlobalAlloc, Layout, System};

use super::hidden::Hidden;
use super::quarantine::{Queue, Queued};
use super::table::{Record, RecordState, Table};
use crate::os;
use crate::os::fork::{ForkPlace, Participant, join};
use crate::protocols::lock::Lock;

/// At most this many records are kept for blocks that left the quarantine. By its record a late second free is seen.
const RECORDS_KEPT: usize = 1 << 16;

/// The records of all blocks, and the queues.
pub(super) struct Books {
    pub(super) table: Table,
    quarantine: Queue,
    /// Blocks whose memory was given back, but whose records are kept for a while.
    gone: Queue<Hidden>,
    serial: u64,
}

// SAFETY: addresses and numbers; only the party that the protocol allows touches a block's memory.
unsafe impl Send for Books {}

/// The books of one allocator, at a fixed address.
pub(super) struct Register {
    books: Lock<Books>,
    /// The next register in the list; guarded by the lock of `ALL`.
    next: AtomicPtr<Register>,
}

/// Every register of the program.
static ALL: Lock<First> = Lock::new(First(core::ptr::null_mut()));

struct First(*mut Register);

// SAFETY: a plain pointer, followed under the lock.
unsafe impl Send for First {}

const LAYOUT: Layout = Layout::new::<Register>();
/// Longer than a thread takes to wake up.
const WAITERS_FIRST: Duration = Duration::from_micros(200);

impl Register {
    /// A new register, in the system's memory; `None` if there is none.
    pub(super) fn new() -> Option<NonNull<Self>> {
        // SAFETY: the size is not 0.
        let place = NonNull::new(unsafe { System.alloc(LAYOUT) }.cast::<Self>())?;
        let books = Books { table: Table::new(), quarantine: Queue::new(), gone: Queue::new(), serial: 0 };
        // SAFETY: allocated just now, with the right layout.
        unsafe { place.write(Self { books: Lock::new(books), next: AtomicPtr::default() }) };
        // A forked child must find the locks free, even where every request is large.
        if !cfg!(miri) {
            watch();
        }
        ALL.lock().with(|first| {
            // SAFETY: ours alone until it is linked. Relaxed: under the lock.
            unsafe { place.as_ref() }.next.store(first.0, Ordering::Relaxed);
            first.0 = place.as_ptr();
        });
        Some(place)
    }

    /// Frees a register.
    ///
    /// # Safety
    /// It was made by [`new`](Self::new), and nobody uses it any more.
    pub(super) unsafe fn free(register: NonNull<Self>) {
        ALL.lock().with(|first| {
            // SAFETY: registers in the list are live; Relaxed (all): under the lock.
            unsafe {
                let next = register.as_ref().next.load(Ordering::Relaxed);
                let mut before = first.0;
                if before == register.as_ptr() {
                    first.0 = next;
                    return;
                }
                while (*before).next.load(Ordering::Relaxed) != register.as_ptr() {
                    before = (*before).next.load(Ordering::Relaxed);
                }
                (*before).next.store(next, Ordering::Relaxed);
            }
        });
        // SAFETY: the caller's promise; it is in no list any more.
        unsafe {
            register.drop_in_place();
            System.dealloc(register.as_ptr().cast(), LAYOUT);
        }
    }

    pub(super) fn with<R>(&self, body: impl FnOnce(&mut Books) -> R) -> R {
        self.books.lock().with(body)
    }

    /// As [`with`](Self::with), for a walk over all records. Afterwards the threads that wait come first.
    ///
    /// A thread that frees the lock and takes it again at once is faster than the sleeper that was woken meanwhile.
    /// Without this, a program that checks all blocks in a loop would keep its other threads waiting.
    pub(super) fn with_all<R>(&self, body: impl FnOnce(&mut Books) -> R) -> R {
        let mut books = self.books.lock();
        let result = books.with(body);
        let awaited = self.books.is_awaited();
        drop(books);
        if awaited {
            os::futex_wait_for(&AtomicU32::new(0), 0, WAITERS_FIRST);
        }
        result
    }
}

fn each(first: *mut Register, mut body: impl FnMut(&Register)) {
    let mut next = first;
    // SAFETY: registers in the list are live. Relaxed: under the list's lock.
    while let Some(register) = unsafe { next.as_ref() } {
        body(register);
        next = register.next.load(Ordering::Relaxed);
    }
}

static DEBUG: Participant = Participant { prepare: stop_all, parent: restart_all, child: restart_all };

// Before `main`: a fork that begins before the first register is made would not stop it.
os::at_start!(watch_early);

extern "C" fn watch_early() {
    watch();
}

/// Takes part in forks from now on.
fn watch() {
    join(ForkPlace::Debug, &DEBUG);
}

/// Takes the locks of all registers, before a fork.
fn stop_all() {
    ALL.acquire();
    // SAFETY: taken just above.
    let first = unsafe { ALL.with_held(|first| first.0) };
    each(first, |register| {
        register.books.acquire();
    });
}

/// Frees the locks of all registers. [`stop_all`] took them on this thread. In a forked child, it took them on the
/// parent's thread, and this one is its copy.
fn restart_all() {
    // SAFETY: this thread holds all of them. Meanwhile no other thread added or removed a register; only this thread
    // could, because it is let through the locks while it forks. The lock of a register that it added is free, and
    // freeing it once more does no harm.
    unsafe {
        let first = ALL.with_held(|first| first.0);
        each(first, |register| register.books.release());
        ALL.release();
    }
}

/// The result of a look-up for a free.
pub(super) enum Found {
    /// The block that the caller means. After [`Books::begin_free`] it is dying, and the caller may fill it.
    Right(Record),
    /// It was freed before.
    Freed(Record),
    /// Live, but allocated with another layout.
    OtherLayout(Record),
    /// No block starts there, nor did one for a long time.
    Unknown,
}

impl Books {
    /// Enters a new block, with its serial number; `false` without memory.
    pub(super) fn enter(&mut self, record: Record) -> bool {
        self.serial += 1;
        self.table.insert(Record { serial: self.serial, ..record })
    }

    /// Looks up a block that was passed with `layout`.
    pub(super) fn find(&mut self, address: usize, layout: Layout) -> Found {
        match self.table.get(address) {
            None => Found::Unknown,
            Some(record) if record.state != RecordState::Live => Found::Freed(*record),
            Some(record) if record.layout() != layout => Found::OtherLayout(*record),
            Some(record) => Found::Right(*record),
        }
    }

    /// As [`find`](Self::find); in addition, the right block is dying from now on.
    pub(super) fn begin_free(&mut self, address: usize, layout: Layout, freed_at: u32) -> Found {
        let found = self.find(address, layout);
        if let (Found::Right(_), Some(record)) = (&found, self.table.get(address)) {
            record.state = RecordState::Dying;
            record.freed_at = freed_at;
            return Found::Right(*record);
        }
        found
    }

    /// Puts a dying block, already filled, into quarantine if it fits under `bound_bytes`. On `false` the caller must
    /// give the block back.
    pub(super) fn end_free(&mut self, record: &Record, bound_bytes: usize) -> bool {
        let queued = Queued { start: record.start.get(), serial: record.serial, extent_bytes: record.extent_bytes() };
        // A large block would push all others out, so it is not let in.
        let stays = queued.extent_bytes <= bound_bytes / 2 && self.quarantine.push(queued);
        self.set_state(record, if stays { RecordState::Dead } else { RecordState::Gone });
        if !stays {
            self.keep_record(queued);
        }
        stays
    }

    fn set_state(&mut self, record: &Record, state: RecordState) {
        if let Some(found) = self.table.get(record.start.addr()) {
            found.state = state;
        }
    }

    /// Takes the oldest block out of the quarantine if that holds more than `bound_bytes`. The caller must give the
    /// block back.
    pub(super) fn evict(&mut self, bound_bytes: usize) -> Option<Record> {
        if self.quarantine.bytes() <= bound_bytes {
            return None;
        }
        let queued = self.quarantine.pop()?;
        let record = self.table.get(queued.start.addr().get())?;
        record.state = RecordState::Gone;
        let record = *record;
        self.keep_record(queued);
        Some(record)
    }

    /// Keeps the record of a block that was given back, for a while.
    fn keep_record(&mut self, queued: Queued) {
        let Queued { start, serial, extent_bytes } = queued;
        let queued = Queued { start: Hidden::new(start), serial, extent_bytes };
        let kept = self.gone.push(queued);
        let forgotten = if !kept {
            Some(queued)
        } else if self.gone.len() > RECORDS_KEPT {
            self.gone.pop()
        } else {
            None
        };
        if let Some(forgotten) = forgotten {
            let address = forgotten.start.addr();
            // The address may have been handed out again: that record stays.
            if self.table.get(address).is_some_and(|record| record.serial == forgotten.serial) {
                self.table.remove(address);
            }
        }
    }

    /// The record of the block that holds `address`, for a message: looks at all of them.
    pub(super) fn around(&self, address: usize) -> Option<Record> {
        let holds = |record: &&Record| {
            record.state != RecordState::Gone && address.wrapping_sub(record.raw().addr()) < record.extent_bytes()
        };
        self.table.iter().find(holds).copied()
    }

    pub(super) fn quarantined(&self) -> (usize, usize) {
        (self.quarantine.len(), self.quarantine.bytes())
    }
}
