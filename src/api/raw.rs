//! Blocks by their addresses, for the C functions of the preload library: C's `free` is not told a size.
//!
//! This module is behind the feature `__raw`, hidden, and may change with any release. With the feature, the thread
//! slot is read by the initial-exec model (`cache/tls.rs`). The library that holds this code must be linked so that it
//! stays loaded (`-z nodelete`).

use core::ffi::c_void;

use super::medium::Place;
use crate::base::config::{CLASS_STEP_SHIFT, POOL_BYTES, SMALL_MAX_BYTES};
use crate::base::fatal::{self, Impossible, impossible};
use crate::base::kind::{Medium, Small};
use crate::base::size_class::SizeClass;
use crate::cache::hardened;
use crate::cache::{self, GLOBAL, MagazineOffset, current};
use crate::heap::run::RunSize;
use crate::heap::set::{RUN_TAG, tag_class};
use crate::observe;
use crate::os::BYPASS;
use crate::sync::Ordering;

#[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
pub use crate::os::{Descriptor, Identity, NoCancellation};

/// Starts a thread of the allocator's own, which nobody waits for: it blocks all signals and has a small stack. Returns
/// whether it was started. The thread first calls [`begin_thread`].
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
#[must_use]
pub fn start_thread(body: extern "C" fn(*mut c_void) -> *mut c_void) -> bool {
    crate::os::start_thread(body, core::ptr::null_mut()).map(crate::os::OwnThread::detach).is_ok()
}

/// Gives the calling thread a name of at most 15 bytes, and lets it be stopped for a graph of the heap.
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
pub fn begin_thread(name: &core::ffi::CStr) {
    crate::os::OwnThread::begin(name);
}

/// Whether even requests of at most 8 bytes are aligned to 16. GCC relies on that where its `MALLOC_ABI_ALIGNMENT` is
/// 16 bytes, as on aarch64; on x86-64 it is 8.
const ALWAYS_ALIGNED_TO_16: bool = cfg!(target_arch = "aarch64");

/// The size class of a request from C, or of a block.
///
/// C's requests of more than 8 bytes are aligned to 16, so half of the crate's classes serve them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Class(SizeClass);

impl Class {
    /// The class for `bytes`, 0 included; `None` when the request is large.
    ///
    /// Blocks are aligned to 8 if `bytes` is at most 8, otherwise to 16: no object of at most 8 bytes has a larger
    /// fundamental alignment. On aarch64 they are always aligned to 16.
    #[inline(always)]
    pub const fn of_size(bytes: usize) -> Option<Self> {
        Self::of_last(bytes - (bytes != 0) as usize)
    }

    /// [`of_size`](Self::of_size) for a larger alignment; `align` is a power of two.
    #[inline(always)]
    pub const fn of_size_align(bytes: usize, align: usize) -> Option<Self> {
        Self::of_last((bytes - (bytes != 0) as usize) | (align - 1))
    }

    /// The class of blocks whose last byte is `last`. Its number is rounded up to an odd one, so that the block's size
    /// is a multiple of 16; but it stays 0 where 8 bytes suffice.
    #[inline(always)]
    const fn of_last(last: usize) -> Option<Self> {
        if BYPASS || last >= SMALL_MAX_BYTES {
            return None;
        }
        let number = last >> CLASS_STEP_SHIFT;
        match SizeClass::from_number(number | (number != 0 || ALWAYS_ALIGNED_TO_16) as usize) {
            Some(class) => Some(Self(class)),
            None => None,
        }
    }

    /// The class of the block at `address`, found by one load, if the block lies where nearly all blocks do. If this
    /// returns `None`, ask [`of_far`](Self::of_far), out of line. The block itself is never read.
    #[inline(always)]
    pub fn of_near(address: *const c_void) -> Option<Self> {
        GLOBAL.classes.class_of(address.addr()).map(Self)
    }

    /// The class of the block at `address`; `None` if no arena holds it. Reads the address map and a tag, never the
    /// block.
    ///
    /// Exact for a block in the caller's hands. For any other address in an arena, it returns some class.
    #[inline]
    pub fn of_far(address: *const c_void) -> Option<Self> {
        let pool = GLOBAL.map.pool_of(address.addr())?;
        // Relaxed: the tag was stored before the block left its pool, and a thief's store keeps the class.
        tag_class(pool.tag().load(Ordering::Relaxed)).map(Self)
    }

    /// Bytes of a block.
    #[inline(always)]
    pub const fn block_bytes(self) -> usize {
        self.0.block_bytes()
    }
}

/// The magazine for each size.
static MAGAZINES: [MagazineOffset; SMALL_MAX_BYTES + 1] = {
    let mut magazines = [MagazineOffset::of_class(SizeClass::SMALLEST); SMALL_MAX_BYTES + 1];
    let mut bytes = 0;
    while bytes <= SMALL_MAX_BYTES {
        if let Some(class) = Class::of_size(bytes) {
            magazines[bytes] = MagazineOffset::of_class(class.0);
        }
        bytes += 1;
    }
    magazines
};

/// The bytes that a C function was asked for, for observers. Without the feature `trace`, this type is empty.
#[derive(Clone, Copy, Debug)]
pub struct Request(observe::Request);

impl Request {
    /// A request of `bytes`.
    #[inline(always)]
    pub const fn of_bytes(bytes: usize) -> Self {
        Self(observe::Request::of_bytes(bytes))
    }
}

/// Whether an observer wants to be told of each large block, by the functions below.
#[inline(always)]
pub fn is_observed() -> bool {
    observe::is_wanted()
}

/// Aborts with one line if glibc's `malloc` can't have handed out `start`: its blocks are aligned to 16. glibc itself
/// checks the rest.
#[inline(always)]
pub fn check_large(start: *const c_void) {
    if start.addr() & 15 != 0 {
        fatal::unknown(start.addr());
    }
}

/// Writes a message before an abort to stderr.
pub fn write_last_words(line: &[u8]) {
    crate::os::write_stderr(line);
}

/// Tells observers that a large block of `bytes` was handed out; `block` may be null. To be called if [`is_observed`].
/// The calling function must not be inlined.
#[inline(always)]
pub fn large_allocated(block: *mut c_void, bytes: usize) {
    observe::allocated_wanted(block.cast(), bytes, observe::Request::of_bytes(bytes));
}

/// Tells observers that a large block is about to be freed. To be called if [`is_observed`].
pub fn large_freed(block: *mut c_void) {
    // Only `measure` needs the size, and no program on the library can call it.
    observe::freed_wanted(block.cast(), 0);
}

/// Resizes a large block by `realloc`, which may fail, and tells observers. To be called if [`is_observed`]. The
/// calling function must not be inlined.
#[inline(always)]
pub fn large_resized(block: *mut c_void, bytes: usize, mut realloc: impl FnMut() -> *mut c_void) -> *mut c_void {
    observe::resized_wanted(block.cast(), 0, bytes, || realloc().cast()).cast()
}

/// A block for `bytes` from the thread's magazine. If the magazine is empty, returns what `slow` returns; if the
/// request is large, what `large` returns.
#[inline(always)]
pub fn allocate_or(
    bytes: usize,
    slow: impl FnOnce() -> *mut c_void,
    large: impl FnOnce() -> *mut c_void,
) -> *mut c_void {
    match MAGAZINES.get(bytes) {
        Some(&magazine) if !BYPASS => match if hardened::LOOKS_ON { None } else { cache::alloc_at(magazine) } {
            Some(block) => block.as_ptr().cast(),
            None => slow(),
        },
        _ => large(),
    }
}

/// [`allocate_or`] for a class, whose requests are not large.
#[inline(always)]
pub fn allocate_class_or(class: Class, slow: impl FnOnce() -> *mut c_void) -> *mut c_void {
    current().alloc_or(class.0, || slow().cast()).cast()
}

/// A block of `class`, or null when there is no memory.
#[inline]
pub fn allocate(class: Class, request: Request) -> *mut c_void {
    current().alloc(class.0, request.0).cast()
}

/// A block of `class` whose bytes are all zero, or null when there is no memory.
#[inline(always)]
pub fn allocate_zeroed(class: Class, request: Request) -> *mut c_void {
    current().alloc_zeroed(class.0, request.0).cast()
}

/// Takes back a block.
///
/// # Safety
/// `block` is a block of `class` in the caller's hands. (As far as possible this is checked when it returns to its
/// pool.)
#[inline(always)]
pub unsafe fn free(class: Class, block: *mut c_void) {
    // SAFETY: the caller's promise is the same.
    unsafe { current().free(class.0, block.cast()) }
}

/// Takes back a block that lies where nearly all blocks do, if the thread's magazine has room. In all other cases, and
/// for any other address, calls `otherwise`.
///
/// # Safety
/// If `block` is in an arena, it is a block in the caller's hands.
#[inline(always)]
pub unsafe fn free_or(block: *mut c_void, otherwise: impl FnOnce()) {
    match GLOBAL.classes.entry_of(block.addr()) {
        Some(entry) if !hardened::LOOKS_ON => {
            // SAFETY: an entry of the map.
            let magazine = unsafe { MagazineOffset::of_entry(entry) };
            cache::free_at_or(magazine, block.cast(), otherwise);
        }
        _ => otherwise(),
    }
}

/// Takes back a block that was allocated for `bytes`, if the thread's magazine has room. Otherwise calls `otherwise`.
///
/// # Safety
/// If a request of `bytes` is small, `block` is a block of its class in the caller's hands.
#[inline(always)]
pub unsafe fn free_sized_or(block: *mut c_void, bytes: usize, otherwise: impl FnOnce()) {
    match MAGAZINES.get(bytes) {
        Some(&magazine) if !BYPASS && !hardened::LOOKS_ON => cache::free_at_or(magazine, block.cast(), otherwise),
        _ => otherwise(),
    }
}

/// With the feature `hardened`: aborts, with a line that says why, unless the program has the block.
#[inline(always)]
pub fn check_live(class: Class, block: *mut c_void) {
    hardened::check_live(current(), class.0, block.cast());
}

/// The least number of allocations of small blocks so far. The fast path counts nothing: a block that was freed into a
/// magazine and allocated from it again counts once.
pub fn allocations_min() -> u64 {
    cache::allocations_min()
}

/// Aborts, with a line that says why, unless a block starts at `address`, which lies in an arena.
pub fn check_start(address: *const c_void) {
    let Some(pool) = GLOBAL.map.pool_of(address.addr()) else { return };
    // Relaxed: as in `of_far`.
    let tag = pool.tag().load(Ordering::Relaxed);
    if tag.is_null() {
        impossible(Impossible::NoPool, address.addr(), 0);
    }
    if let Some(class) = tag_class::<Small>(tag)
        && class.block_at(address.addr() & (POOL_BYTES - 1)).is_none()
    {
        impossible(Impossible::NoBlockStart, address.addr(), class.block_bytes());
    }
}

/// The place that serves a request from C above the small ones: medium pools, or a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MediumPlace(Place);

impl MediumPlace {
    /// The place for a request of `bytes`; `align` is a power of two. `None` if the request is small, or too large.
    #[inline]
    pub const fn of_size_align(bytes: usize, align: usize) -> Option<Self> {
        match Place::of_size_align(bytes, align) {
            Place::Beyond => None,
            place => Some(Self(place)),
        }
    }

    /// The place of the block at `address`; `None` if no arena holds it, or if it is small. Reads the address map and a
    /// tag, and a run's descriptor; never the block. Aborts if no block starts there.
    pub fn of_address(address: *const c_void) -> Option<Self> {
        let pool = GLOBAL.map.pool_of(address.addr())?;
        // Relaxed: as in `of_far`.
        let tag = pool.tag().load(Ordering::Relaxed);
        if tag == RUN_TAG {
            return match GLOBAL.run_pools(address.addr()) {
                Ok(pools) => Some(Self(Place::Run(RunSize { pools, align_pools: 1 }))),
                Err(what) => impossible(what, address.addr(), POOL_BYTES),
            };
        }
        let class = tag_class::<Medium>(tag)?;
        if class.block_at(address.addr() & (class.pool_bytes() - 1)).is_none() {
            impossible(Impossible::NoBlockStart, address.addr(), class.block_bytes());
        }
        Some(Self(Place::Class(class)))
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self.0 {
            Place::Class(class) => class.block_bytes(),
            Place::Run(size) => size.pools * POOL_BYTES,
            Place::Beyond => 0,
        }
    }

    /// A block, or null when there is no memory.
    #[inline]
    pub fn allocate(self) -> *mut c_void {
        // The caller tells observers of it, as of all large blocks.
        self.0.alloc(Request::of_bytes(0).0).cast()
    }

    /// A block whose bytes are all zero, or null when there is no memory.
    #[inline]
    pub fn allocate_zeroed(self) -> *mut c_void {
        self.0.alloc_zeroed(self.block_bytes(), Request::of_bytes(0).0).cast()
    }

    /// Takes back a block.
    ///
    /// # Safety
    /// `block` is a block of this place in the caller's hands. (As far as possible this is checked: for a run here, for
    /// other blocks when they return to their pools.)
    #[inline]
    pub unsafe fn free(self, block: *mut c_void) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.free(block.cast()) }
    }

    /// Makes the block one for `bytes` without moving it, and returns whether that was possible.
    ///
    /// # Safety
    /// As for [`free`](Self::free); the block stays the caller's.
    pub unsafe fn resize(self, block: *mut c_void, bytes: usize) -> bool {
        match (self.0, Place::of_size_align(bytes, 1)) {
            (Place::Run(_), new @ Place::Run(_)) => self.0.resize(block.cast(), new),
            // CPython's rule: a block that shrinks by less than a quarter stays.
            (Place::Class(class), _) if bytes <= class.block_bytes() && 4 * bytes > 3 * class.block_bytes() => {
                hardened::check_live(current(), class, block.cast());
                true
            }
            _ => false,
        }
    }
}

/// Aborts, with a line that says why, if a cached block was freed twice. The exit does this check anyway; a caller that
/// allocates at the exit has to do it before (`cache/exit.rs`).
pub fn check_at_exit() {
    cache::exit::check();
}

/// From now on, checks every free at its call: threads no longer get caches, and the calling thread gives up its own.
///
/// To be called while the process has only one thread, because other threads would keep their caches.
pub fn check_at_the_call() {
    cache::go_without_caches();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_known_near_and_far_until_its_pool_is_given_back() {
        let mut blocks = Vec::new();
        for bytes in (0..=SMALL_MAX_BYTES).step_by(8) {
            let class = Class::of_size(bytes).expect("small");
            // More than a pool's.
            for _ in 0..POOL_BYTES / class.block_bytes() + 1 {
                let block = allocate(class, Request::of_bytes(bytes));
                assert!(!block.is_null());
                blocks.push((class, block));
            }
        }
        for &(class, block) in &blocks {
            for address in [block, block.wrapping_byte_add(class.block_bytes() - 1)] {
                assert_eq!((Class::of_near(address), Class::of_far(address)), (Some(class), Some(class)));
            }
        }
        for &(class, block) in &blocks {
            // SAFETY: allocated above.
            unsafe { free(class, block) };
        }
        crate::flush_thread_cache();
        crate::purge();
        for &(_, block) in &blocks {
            // In a pool that is still there, or nowhere.
            assert_eq!(Class::of_near(block).is_some(), Class::of_far(block).is_some_and(|_| has_owner(block)));
        }
        let gone = blocks.iter().filter(|(_, block)| Class::of_near(*block).is_none()).count();
        assert!(gone > blocks.len() / 2, "most pools went back: {gone} of {}", blocks.len());
    }

    /// Without the feature `hardened`: with it, no magazine hands out a block again at once.
    #[test]
    #[cfg(not(feature = "hardened"))]
    fn by_size_by_address_and_by_class_the_same_magazine_is_found() {
        let impossible = || panic!("the slow path, though the magazine has room and blocks");
        for bytes in 0..=SMALL_MAX_BYTES {
            let class = Class::of_size(bytes).expect("small");
            let request = || allocate(class, Request::of_bytes(bytes));
            // The first call refills the magazine.
            let (first, second) = (request(), request());
            // SAFETY: allocated above, and freed once; the magazine has room for both.
            unsafe {
                free(class, first);
                assert_eq!(allocate_or(bytes, || panic!("no block"), || panic!("large")), first);
                free_or(first, impossible);
                assert_eq!(allocate_class_or(class, || panic!("no block")), first);
                free_sized_or(first, bytes, impossible);
                assert_eq!(request(), first);
                free(class, second);
                free(class, first);
            }
        }
        crate::flush_thread_cache();
    }

    #[test]
    fn what_is_no_small_block_is_left_to_the_slow_path() {
        let large = SMALL_MAX_BYTES + 1;
        let foreign = Box::new([0_u8; 4096]);
        for address in [core::ptr::null_mut(), (&raw const *foreign).cast_mut().cast(), usize::MAX as *mut c_void] {
            let mut slow = false;
            // SAFETY: in no arena.
            unsafe { free_or(address, || slow = true) };
            assert!(slow);
            slow = false;
            // SAFETY: a large request.
            unsafe { free_sized_or(address, large, || slow = true) };
            assert!(slow);
        }
        assert!(allocate_or(large, || panic!("small"), core::ptr::null_mut).is_null());
    }

    fn has_owner(block: *const c_void) -> bool {
        // Relaxed: as in `of_far`.
        GLOBAL.map.pool_of(block.addr()).is_some_and(|pool| !pool.tag().load(Ordering::Relaxed).is_null())
    }

    #[test]
    fn every_request_of_c_gets_room_and_alignment() {
        for align in (0..=12).map(|shift| 1_usize << shift) {
            for bytes in 0..=1100_usize {
                let rounded = bytes.max(1).next_multiple_of(align);
                match Class::of_size_align(bytes, align) {
                    None => assert!(rounded > SMALL_MAX_BYTES, "{bytes} {align}"),
                    Some(class) => {
                        let needed = if bytes > 8 { align.max(16) } else { align.max(8) };
                        assert!(class.block_bytes() >= bytes && class.block_bytes().is_multiple_of(needed));
                        assert!(class.block_bytes() - rounded < 16, "{bytes} {align}");
                    }
                }
                if align <= 8 {
                    assert_eq!(Class::of_size_align(bytes, align), Class::of_size(bytes));
                }
            }
        }
        for align in [1_usize, 16, 4096, 1 << 63] {
            assert_eq!(Class::of_size_align(usize::MAX, align), None);
        }
        assert_eq!(Class::of_size(usize::MAX), None);
    }
}
