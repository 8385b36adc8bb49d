//! Many ranges purged by one call, some of which the OS refuses.

use std::ptr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::arithmetic::arena;
use super::test_heap::{Live, TestHeap, alloc_zeroed, class, fill, one_in, one_of_each};
use crate::base::config::{ARENA_BYTES, POOL_BYTES};
use crate::heap::purge_batch::{Marked, PurgeBatch, RANGES_MAX};
use crate::os::{MemoryRange, MemorySource, SystemMemory};

/// Bytes of an OS page.
pub(super) fn page_bytes() -> usize {
    SystemMemory.page_bytes()
}

/// Allocates zeroed blocks into what was purged, refused or not, and checks that they are zero.
fn use_again(test: &TestHeap, kept: Vec<Live>, bytes: usize, blocks: usize) {
    let cache = test.attach();
    test.check();
    kept.iter().for_each(Live::verify);
    let again: Vec<_> =
        (0..blocks).map(|seed| alloc_zeroed(cache, class(bytes), seed as u64).expect("memory")).collect();
    test.check();
    again.into_iter().chain(kept).for_each(|block| block.free(cache));
    cache.release();
    test.memory.refuse_each.store(0, Relaxed);
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn parts_that_the_os_does_not_purge_are_not_taken_for_zero() {
    for each in [1, 2, 7, 33] {
        let test = TestHeap::new();
        let cache = test.attach();
        test.memory.refuse_each.store(each, Relaxed);
        let (kept, freed) = one_in(100, fill(cache, 256, 64 << 20));
        let freed_blocks = freed.len();
        freed.into_iter().for_each(|block| block.free(cache));
        let given_back = test.heap.bytes_given_back();
        assert_eq!(given_back == 0, each == 1 || !test.memory.purges_parts(), "{given_back} bytes");
        cache.release();
        use_again(&test, kept, 256, freed_blocks / 2);
    }
}

#[test]
fn pools_that_the_os_does_not_purge_are_not_taken_for_zero() {
    for each in [1, 2, 7, 33] {
        let test = TestHeap::new();
        let cache = test.attach();
        let (kept, freed) = one_of_each(ARENA_BYTES, fill(cache, 512, 64 << 20));
        let freed_blocks = freed.len();
        freed.into_iter().for_each(|block| block.free(cache));
        cache.release();
        // All pools go to their arenas, and stay dirty.
        test.memory.refuse_purge.store(true, Relaxed);
        assert_eq!(test.purge(), 0);
        let dirty = test.dirty_pools();
        assert_ne!(dirty, 0);
        test.memory.refuse_purge.store(false, Relaxed);
        test.memory.refuse_each.store(each, Relaxed);
        let purged = test.purge();
        assert_eq!(dirty - test.dirty_pools(), purged / POOL_BYTES);
        assert_eq!(purged == 0, each == 1, "{purged} bytes");
        use_again(&test, kept, 512, freed_blocks / 2);
    }
}

/// So many OS pages, written, every second of them a range.
pub(super) fn every_second_page(pages: usize) -> (ptr::NonNull<u8>, Vec<MemoryRange>) {
    let start = SystemMemory.map(pages * page_bytes(), page_bytes()).expect("memory");
    // SAFETY: mapped just above.
    unsafe { start.write_bytes(1, pages * page_bytes()) };
    let page =
        |index: usize| MemoryRange { start: start.as_ptr().wrapping_add(index * page_bytes()), bytes: page_bytes() };
    (start, (0..pages).step_by(2).map(page).collect())
}

/// Whether each page begins with a zero.
pub(super) fn zeros(start: ptr::NonNull<u8>, pages: usize) -> Vec<bool> {
    // SAFETY: callers have so many pages mapped.
    (0..pages).map(|page| unsafe { start.add(page * page_bytes()).read() } == 0).collect()
}

#[test]
fn the_os_purges_many_ranges_and_nothing_between_them() {
    for pages in [2, 4, 64, 2000] {
        let (start, ranges) = every_second_page(pages);
        // SAFETY: nothing in the ranges is needed.
        assert_eq!(unsafe { SystemMemory.decommit_each(&ranges) }, ranges.len());
        for range in &ranges {
            let start = ptr::NonNull::new(range.start).expect("a page");
            // SAFETY: mapped above.
            assert!(unsafe { SystemMemory.commit(start, range.bytes) });
        }
        let expected: Vec<_> = (0..pages).map(|page| page % 2 == 0).collect();
        assert_eq!(zeros(start, pages), expected);
        // SAFETY: mapped above, not used any more.
        assert!(unsafe { SystemMemory.unmap(start, pages * page_bytes()) });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_os_purges_up_to_the_first_range_that_it_refuses() {
    for locked in [0, 3, 15] {
        let pages = 32;
        let (start, ranges) = every_second_page(pages);
        // What is locked in memory is not purged. By the system call's number: the sanitizers' `mlock` does nothing.
        // SAFETY: a range just mapped.
        assert_eq!(unsafe { libc::syscall(libc::SYS_mlock, ranges[locked].start, page_bytes()) }, 0);
        // SAFETY: libc's own thread-local.
        unsafe { *libc::__errno_location() = libc::EDOM };
        // SAFETY: nothing in the ranges is needed.
        assert_eq!(unsafe { SystemMemory.decommit_each(&ranges) }, locked);
        // SAFETY: as above.
        assert_eq!(unsafe { *libc::__errno_location() }, libc::EDOM);
        let are_zero = zeros(start, pages);
        assert!((0..locked).all(|range| are_zero[2 * range]));
        assert!(!are_zero[2 * locked] && (0..pages).skip(1).step_by(2).all(|page| !are_zero[page]));
        // SAFETY: nothing in the ranges is needed.
        assert_eq!(unsafe { SystemMemory.decommit_each(&ranges[locked + 1..]) }, ranges.len() - locked - 1);
        // SAFETY: mapped above, not used any more.
        assert!(unsafe { SystemMemory.unmap(start, pages * page_bytes()) });
    }
}

/// The memory of a program that has locked all of it.
struct Locked {
    /// Ranges that were to be purged, as often as they were.
    asked: AtomicUsize,
}

impl MemorySource for Locked {
    fn page_bytes(&self) -> usize {
        page_bytes()
    }

    fn map(&self, _bytes: usize, _align: usize) -> Option<ptr::NonNull<u8>> {
        None
    }

    fn map_guarded(&self, _bytes: usize, _guard_bytes: usize) -> Option<ptr::NonNull<u8>> {
        None
    }

    unsafe fn unmap(&self, _start: ptr::NonNull<u8>, _bytes: usize) -> bool {
        false
    }

    unsafe fn purge(&self, _start: ptr::NonNull<u8>, _bytes: usize) -> bool {
        false
    }

    unsafe fn decommit_each(&self, ranges: &[MemoryRange]) -> usize {
        self.asked.fetch_add(ranges.len(), Relaxed);
        0
    }

    unsafe fn advise_huge(&self, _start: ptr::NonNull<u8>, _bytes: usize, _huge: bool) {}

    unsafe fn populate(&self, _start: ptr::NonNull<u8>, _bytes: usize) {}
}

#[test]
fn each_refused_range_comes_back_and_is_not_asked_for_with_all_that_follow() {
    let source = Locked { asked: AtomicUsize::new(0) };
    let (arena, mut batch) = (arena(), PurgeBatch::new());
    for pools in 0..RANGES_MAX as u64 {
        let range = MemoryRange { start: ptr::dangling_mut(), bytes: page_bytes() };
        batch.push(range, Marked { arena, pools, parts: 0 });
    }
    assert!(batch.is_full());
    // SAFETY: nothing is purged.
    let refused = std::iter::from_fn(|| unsafe { batch.purge(&source) }.map(|(_, marked)| marked.pools));
    assert!(refused.eq(0..RANGES_MAX as u64));
    assert!(!batch.is_full());
    assert_eq!(source.asked.into_inner(), 2 * RANGES_MAX - 1);
}
