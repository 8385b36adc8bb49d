//! How a thread finds its magazine of a pool: by a table per thread, indexed by a number that no other living pool has.
//!
//! # Invariants
//! *key*: an entry's magazine lives and belongs to this thread if and only if a living pool has the entry's key.
//! Keys are never reused. So a thread that holds a pool and finds the pool's key may use the magazine. Indexes are
//! reused, lowest first, which keeps the tables short. An entry whose pool is gone has a key that no thread looks for.
//!
//! The table is a thread-local variable without a destructor and with a constant initial value, so a look-up is three
//! loads and a comparison. A second thread-local, used when a thread meets a pool for the first time, has the
//! destructor that gives the magazines back.

use core::cell::{Cell, RefCell};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use super::process::Process;

/// A pool's index in every thread's table, and its key.
pub(super) struct PoolId {
    index: usize,
    /// Never 0, which is the key of empty entries.
    key: u64,
}

/// The reusable indexes, for one process.
struct FreeIndexes {
    process: Process,
    list: Mutex<Vec<usize>>,
}

static FREE_INDEXES: AtomicPtr<FreeIndexes> = AtomicPtr::new(ptr::null_mut());
static INDEXES: AtomicUsize = AtomicUsize::new(0);
static LAST_KEY: AtomicU64 = AtomicU64::new(0);

impl FreeIndexes {
    /// Locks the calling process's list. A forked child starts a new, empty list: in its parent, another thread may
    /// have held the lock.
    fn lock() -> MutexGuard<'static, Vec<usize>> {
        let process = Process::this();
        loop {
            // Acquire: pairs with the Release below.
            let known = FREE_INDEXES.load(Ordering::Acquire);
            // SAFETY: null, or from the box below, and never freed.
            if let Some(known) = unsafe { known.as_ref() }
                && known.process == process
            {
                return known.list.lock().unwrap_or_else(PoisonError::into_inner);
            }
            let new = Box::into_raw(Box::new(Self { process, list: Mutex::default() }));
            // Release: pairs with the Acquire above. Relaxed: looks again.
            if FREE_INDEXES.compare_exchange(known, new, Ordering::Release, Ordering::Relaxed).is_err() {
                // SAFETY: from the box above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }
}

impl PoolId {
    pub(super) fn new() -> Self {
        let mut free = FreeIndexes::lock();
        let lowest = (0..free.len()).min_by_key(|&place| free[place]);
        // Relaxed (both): the numbers need only differ.
        let index = match lowest {
            Some(place) => free.swap_remove(place),
            None => INDEXES.fetch_add(1, Ordering::Relaxed),
        };
        Self { index, key: 1 + LAST_KEY.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for PoolId {
    fn drop(&mut self) {
        FreeIndexes::lock().push(self.index);
    }
}

/// A pool that takes magazines back.
pub(super) trait Home: Send + Sync {
    /// Takes back the magazine of the calling thread.
    ///
    /// # Safety
    /// The magazine at this address belongs to this pool and to the calling thread, which never uses it again.
    unsafe fn take_back(&self, magazine: NonNull<()>);
}

#[derive(Clone, Copy)]
struct Entry {
    key: u64,
    magazine: *const (),
}

// SAFETY: `EMPTY` is the only entry that is shared, and its null pointer is not followed.
unsafe impl Sync for Entry {}

static EMPTY: Entry = Entry { key: 0, magazine: ptr::null() };

/// The calling thread's entries. Their number is a power of two; `mask` is that number less one.
#[derive(Clone, Copy)]
struct Table {
    entries: *const Entry,
    mask: usize,
}

impl Table {
    const NONE: Self = Self { entries: &raw const EMPTY, mask: 0 };
}

thread_local! {
    static TABLE: Cell<Table> = const { Cell::new(Table::NONE) };
    static REGISTER: RefCell<Register> = const { RefCell::new(Register { entries: Vec::new(), homes: Vec::new() }) };
}

/// The memory that the table points to, and the pools of the magazines.
struct Register {
    entries: Vec<Entry>,
    homes: Vec<Option<Noted>>,
}

struct Noted {
    home: Weak<dyn Home>,
    /// The process in which the thread got the magazine.
    process: Process,
}

/// The calling thread's magazine of the pool, if it has one.
#[inline(always)]
pub(super) fn find(id: &PoolId) -> Option<NonNull<()>> {
    let table = TABLE.get();
    // SAFETY: a table has `mask + 1` entries, and its memory is the thread's until the table is replaced.
    let entry = unsafe { *table.entries.add(id.index & table.mask) };
    if entry.key == id.key { NonNull::new(entry.magazine.cast_mut()) } else { None }
}

/// Notes the calling thread's magazine of a pool. Returns `false` if the thread is so near its end that it could not
/// give the magazine back.
pub(super) fn note(id: &PoolId, magazine: NonNull<()>, home: Weak<dyn Home>) -> bool {
    REGISTER.try_with(|register| register.borrow_mut().note(id, magazine, home)).is_ok()
}

impl Register {
    fn note(&mut self, id: &PoolId, magazine: NonNull<()>, home: Weak<dyn Home>) {
        let length = (id.index + 1).next_power_of_two().max(self.entries.len());
        self.entries.resize(length, EMPTY);
        self.homes.resize_with(length, || None);
        self.entries[id.index] = Entry { key: id.key, magazine: magazine.as_ptr() };
        // A home that was noted here before is gone, because its index was free.
        self.homes[id.index] = Some(Noted { home, process: Process::this() });
        TABLE.set(Table { entries: self.entries.as_ptr(), mask: length - 1 });
    }
}

impl Drop for Register {
    fn drop(&mut self) {
        // This comes first: objects that this thread's later destructors release go to the stock.
        TABLE.set(Table::NONE);
        let process = Process::this();
        for (entry, noted) in self.entries.iter().zip(&mut self.homes) {
            // A forked child that just exits comes here, too. It must not wait for the lock of its parent's pool: a
            // thread that does not exist in the child may hold it. The magazine stays with that pool, unchanged.
            let noted = noted.take().filter(|noted| noted.process == process);
            if let (Some(magazine), Some(home)) =
                (NonNull::new(entry.magazine.cast_mut()), noted.and_then(|noted| noted.home.upgrade()))
            {
                // SAFETY: the home lives, so the entry belongs to it (*key*), and no look-up finds the entry any more.
                unsafe { home.take_back(magazine) };
            }
        }
    }
}
