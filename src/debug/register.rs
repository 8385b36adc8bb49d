//! What a [`DebugAlloc`](super::DebugAlloc) allocator knows of its blocks, behind one lock; and all of them together,
//! for forks.
//!
//! # Protocol
//! A block's record says who may touch its memory: the program (`Live`), the thread that frees it (`Dying`), nobody but
//! who holds the lock (`Dead`), the inner allocator (`Gone`). Only the thread that changes `Live` to `Dying` goes on to
//! fill the block; a second free finds another state, however close behind it comes.
//!
//! # Locks
//! `ALL`, then the registers' own, then the heap's. The inner allocator is not called with a register's lock held.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::alloc::{GlobalAlloc, Layout, System};

use super::quarantine::{Queue, Queued};
use super::table::{Record, RecordState, Table};
use crate::os;
use crate::os::fork::{ForkPlace, Participant, join};
use crate::protocols::lock::Lock;

/// Records of blocks that left the quarantine, kept to know a late second free as such.
const RECORDS_KEPT: usize = 1 << 16;

/// The books on all blocks.
pub(super) struct Books {
    pub(super) table: Table,
    quarantine: Queue,
    /// Blocks whose memory is gone, and whose records are kept for a while.
    gone: Queue,
    serial: u64,
}

// SAFETY: addresses and numbers; a block's memory is touched by who the protocol lets.
unsafe impl Send for Books {}

/// The books of one allocator, at a fixed address.
pub(super) struct Register {
    books: Lock<Books>,
    /// The next in `ALL`; under that lock.
    next: AtomicPtr<Register>,
}

/// Every register of the program.
static ALL: Lock<First> = Lock::new(First(core::ptr::null_mut()));

struct First(*mut Register);

// SAFETY: a plain pointer, followed under the lock.
unsafe impl Send for First {}

const LAYOUT: Layout = Layout::new::<Register>();

impl Register {
    /// A new register, in the system's memory; `None` if there is none.
    pub(super) fn new() -> Option<NonNull<Self>> {
        // SAFETY: the size is not 0.
        let place = NonNull::new(unsafe { System.alloc(LAYOUT) }.cast::<Self>())?;
        let books = Books { table: Table::new(), quarantine: Queue::new(), gone: Queue::new(), serial: 0 };
        // SAFETY: allocated just now, with the right layout.
        unsafe { place.write(Self { books: Lock::new(books), next: AtomicPtr::default() }) };
        // Forks must find the locks in order, also where every request is large.
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
    /// Made by [`new`](Self::new), and nobody uses it.
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
        // SAFETY: the caller's promise; no list knows it any more.
        unsafe {
            register.drop_in_place();
            System.dealloc(register.as_ptr().cast(), LAYOUT);
        }
    }

    pub(super) fn with<R>(&self, body: impl FnOnce(&mut Books) -> R) -> R {
        self.books.lock().with(body)
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

// Before main: a fork that began before the first register was made would not know of it.
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

/// Frees the locks of all registers, which [`stop_all`] took on this thread, or on the one that it is a copy of.
fn restart_all() {
    // SAFETY: this thread holds all of them. No register came or went meanwhile but by this thread, which is let
    // through the locks while it forks; a register that it made is free, and freeing it once more does no harm.
    unsafe {
        let first = ALL.with_held(|first| first.0);
        each(first, |register| register.books.release());
        ALL.release();
    }
}

/// What a free finds.
pub(super) enum Found {
    /// The block that the caller means; after [`Books::begin_free`] it is dying, the caller's to fill.
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

    /// Looks a block up that is passed with `layout`.
    pub(super) fn find(&mut self, address: usize, layout: Layout) -> Found {
        match self.table.get(address) {
            None => Found::Unknown,
            Some(record) if record.state != RecordState::Live => Found::Freed(*record),
            Some(record) if record.layout() != layout => Found::OtherLayout(*record),
            Some(record) => Found::Right(*record),
        }
    }

    /// As [`find`](Self::find), and a block that is right is dying from now on.
    pub(super) fn begin_free(&mut self, address: usize, layout: Layout, freed_at: u32) -> Found {
        let found = self.find(address, layout);
        if let (Found::Right(_), Some(record)) = (&found, self.table.get(address)) {
            record.state = RecordState::Dying;
            record.freed_at = freed_at;
            return Found::Right(*record);
        }
        found
    }

    /// Puts a dying block, which is filled, into quarantine if it fits under `bound_bytes`; else it is `false`, and the
    /// caller's to give back.
    pub(super) fn end_free(&mut self, record: &Record, bound_bytes: usize) -> bool {
        let queued = Queued { start: record.start, serial: record.serial, extent_bytes: record.extent_bytes() };
        // A block that would push all others out does not come in.
        let stays = queued.extent_bytes <= bound_bytes / 2 && self.quarantine.push(queued);
        self.set_state(record, if stays { RecordState::Dead } else { RecordState::Gone });
        if !stays {
            self.keep_record(queued);
        }
        stays
    }

    fn set_state(&mut self, record: &Record, state: RecordState) {
        if let Some(found) = self.table.get(record.start.addr().get()) {
            found.state = state;
        }
    }

    /// Takes the oldest block out of a quarantine of more than `bound_bytes`; it is the caller's to give back.
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

    /// Keeps the record of a block that is gone, for a while.
    fn keep_record(&mut self, queued: Queued) {
        let kept = self.gone.push(queued);
        let forgotten = if !kept {
            Some(queued)
        } else if self.gone.len() > RECORDS_KEPT {
            self.gone.pop()
        } else {
            None
        };
        if let Some(forgotten) = forgotten {
            let address = forgotten.start.addr().get();
            // Unless the address was handed out again.
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
