//! The twin of `src/os/`: the system's memory, counted, and failing on request.

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use std::collections::BTreeMap;

use crate::system_os;
pub(crate) use crate::system_os::{MemoryRange, MemorySource, SystemMalloc, abort, write_stderr};

pub(crate) const BYPASS: bool = false;
pub(crate) const COMMITS: bool = false;
pub(crate) const KILLS_THREADS_AT_EXIT: bool = false;

/// There are no forks.
pub(crate) mod fork {
    pub(crate) use crate::system_os::fork::{ForkPlace, Participant};

    pub(crate) fn join(_place: ForkPlace, _participant: &'static Participant) {}

    pub(crate) fn this_thread_forks() -> bool {
        false
    }
}

macro_rules! at_start {
    ($function:ident) => {
        const _: extern "C" fn() = $function;
    };
}
pub(crate) use at_start;

/// Nothing is checked at the process's end: each run is checked as a whole.
macro_rules! at_end {
    ($function:ident) => {
        const _: extern "C" fn() = $function;
    };
}
pub(crate) use at_end;

macro_rules! when_alone {
    ($function:ident) => {
        const _: extern "C" fn() = $function;
    };
}
pub(crate) use when_alone;

pub(crate) fn system_malloc() -> Option<SystemMalloc> {
    None
}

pub(crate) fn on_thread_end(_ended: unsafe extern "C" fn(*mut libc::c_void), _value: *const ()) -> bool {
    false
}

pub(crate) fn end_is_told_again(_value: *mut libc::c_void) -> bool {
    false
}

thread_local! {
    static MAPS_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    static REFUSE_PURGE: Cell<bool> = const { Cell::new(false) };
    static REFUSE_UNMAP: Cell<bool> = const { Cell::new(false) };
    static MAPPED: RefCell<BTreeMap<usize, usize>> = const { RefCell::new(BTreeMap::new()) };
    static NOW_MS: Cell<u64> = const { Cell::new(0) };
    /// The first address of the thread's region, and its first address that was not mapped yet in this run.
    static REGION: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The size of the region from which all mappings of a run take their addresses: the same ones in each run, in the same
/// order. What a program does depends on them: it frees by address, and the arenas' map takes more steps for some.
const REGION_BYTES: usize = 64 << 30;

/// Maps `bytes` of the region at `start` anew, zeroed: for use, or only to reserve the addresses.
fn map_at(start: usize, bytes: usize, usable: bool) -> Option<NonNull<u8>> {
    let protection = if usable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let (address, fixed) = match start {
        0 => (std::ptr::null_mut(), 0),
        _ => (std::ptr::with_exposed_provenance_mut(start), libc::MAP_FIXED),
    };
    // SAFETY: at an address of the system's choice, or in the region, where the range is not in use.
    let mapped = unsafe { libc::mmap(address, bytes, protection, flags | fixed, -1, 0) };
    if mapped == libc::MAP_FAILED { None } else { NonNull::new(mapped.cast()) }
}

/// Takes the next addresses of the region, `bytes` of them, at a multiple of `align`.
fn take(bytes: usize, align: usize) -> Option<usize> {
    let (mut region, mut next) = REGION.get();
    if region == 0 {
        region = map_at(0, REGION_BYTES, false)?.as_ptr().expose_provenance();
        next = region;
    }
    let start = next.next_multiple_of(align);
    REGION.set((region, start + bytes));
    (start + bytes <= region + REGION_BYTES).then_some(start)
}

/// From now on, this many maps succeed.
pub(crate) fn set_maps_left(maps: usize) {
    MAPS_LEFT.set(maps);
}

/// From now on, purging and unmapping fail, or work again.
pub(crate) fn set_refusals(purge: bool, unmap: bool) {
    REFUSE_PURGE.set(purge);
    REFUSE_UNMAP.set(unmap);
}

/// Unmaps everything, which must not be in use any more, and lets all calls succeed again.
pub(crate) fn reset() {
    set_maps_left(usize::MAX);
    set_refusals(false, false);
    NOW_MS.set(0);
    for (start, bytes) in MAPPED.take() {
        map_at(start, bytes, false).expect("addresses can be had");
    }
    let (region, _) = REGION.get();
    REGION.set((region, region));
}

/// Panics unless the range lies in one live mapping.
fn assert_mapped(start: NonNull<u8>, bytes: usize) {
    MAPPED.with_borrow(|mapped| {
        let (first, length) = mapped.range(..=start.addr().get()).next_back().expect("a mapping");
        assert!(start.addr().get() + bytes <= first + length, "a range outside its mapping");
    });
}

#[derive(Debug)]
pub(crate) struct SystemMemory;

impl MemorySource for SystemMemory {
    fn page_bytes(&self) -> usize {
        4096
    }

    fn map(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        MAPS_LEFT.set(MAPS_LEFT.get().checked_sub(1)?);
        let start = map_at(take(bytes, align)?, bytes, true)?;
        MAPPED.with_borrow_mut(|mapped| mapped.insert(start.as_ptr().expose_provenance(), bytes));
        Some(start)
    }

    fn map_guarded(&self, bytes: usize, guard_bytes: usize) -> Option<NonNull<u8>> {
        MAPS_LEFT.set(MAPS_LEFT.get().checked_sub(1)?);
        let guard = take(bytes + 2 * guard_bytes, guard_bytes)?;
        let start = map_at(guard + guard_bytes, bytes, true)?;
        MAPPED.with_borrow_mut(|mapped| mapped.insert(guard, bytes + 2 * guard_bytes));
        Some(start)
    }

    unsafe fn unmap(&self, start: NonNull<u8>, bytes: usize) -> bool {
        assert_mapped(start, bytes);
        if REFUSE_UNMAP.get() {
            return false;
        }
        let removed = MAPPED.with_borrow_mut(|mapped| mapped.remove(&start.addr().get()));
        assert_eq!(removed, Some(bytes), "only whole mappings are unmapped");
        map_at(start.addr().get(), bytes, false).is_some()
    }

    unsafe fn purge(&self, start: NonNull<u8>, bytes: usize) -> bool {
        assert_mapped(start, bytes);
        // SAFETY: the caller's promise is the same.
        !REFUSE_PURGE.get() && unsafe { system_os::SystemMemory.purge(start, bytes) }
    }

    unsafe fn advise_huge(&self, start: NonNull<u8>, bytes: usize, _huge: bool) {
        // No huge pages: programs are short, and zeroing one takes longer than they run.
        assert_mapped(start, bytes);
    }

    unsafe fn populate(&self, start: NonNull<u8>, bytes: usize) {
        assert_mapped(start, bytes);
    }

    fn now_ms(&self) -> u64 {
        // Time passes as it is read: some of what comes back is wanted again soon, some is not.
        NOW_MS.set(NOW_MS.get() + 70);
        NOW_MS.get()
    }
}

pub(crate) fn thread_id() -> u32 {
    1
}

/// It is in each cache, and watches nothing: no program makes large requests here.
pub(crate) use crate::system_os::WatchMalloc;
