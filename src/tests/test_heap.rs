//! A heap for one test, its memory source, and the caches on top of it.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::cache::ThreadCache;
use crate::check::check;
use crate::heap::Heap;
use crate::observer::Request;
use crate::os::{MemorySource, SystemMemory};
use crate::public::purge_heap;
use crate::size_class::SizeClass;
use crate::stats::Stats;

/// The system's memory with faults on request, and an account of what is mapped.
pub(super) struct TestMemory {
    page_bytes: usize,
    /// Maps that still succeed.
    pub(super) maps_left: AtomicUsize,
    pub(super) maps: AtomicUsize,
    pub(super) refuse_purge: AtomicBool,
    pub(super) refuse_unmap: AtomicBool,
    pub(super) purges: AtomicUsize,
    mapped: Mutex<BTreeMap<usize, usize>>,
}

impl TestMemory {
    fn new(page_bytes: usize) -> Self {
        Self {
            page_bytes,
            maps_left: AtomicUsize::new(usize::MAX),
            maps: AtomicUsize::new(0),
            refuse_purge: AtomicBool::new(false),
            refuse_unmap: AtomicBool::new(false),
            purges: AtomicUsize::new(0),
            mapped: Mutex::new(BTreeMap::new()),
        }
    }

    /// Panics unless the range lies in one live mapping and is made of whole OS pages.
    fn assert_mapped(&self, start: usize, bytes: usize) {
        assert!(start.is_multiple_of(self.page_bytes) && bytes.is_multiple_of(self.page_bytes));
        let mapped = self.mapped.lock().expect("no test panicked with it");
        let (&first, &length) = mapped.range(..=start).next_back().expect("a mapping");
        assert!(start + bytes <= first + length, "range outside its mapping");
    }
}

impl MemorySource for TestMemory {
    fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    fn map(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        assert!(bytes.is_multiple_of(self.page_bytes), "{bytes} bytes are not whole OS pages");
        self.maps.fetch_add(1, Ordering::Relaxed);
        self.maps_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        let start = SystemMemory.map(bytes, align.max(self.page_bytes))?;
        self.mapped.lock().expect("no test panicked with it").insert(start.addr().get(), bytes);
        Some(start)
    }

    unsafe fn unmap(&self, start: NonNull<u8>, bytes: usize) -> bool {
        self.assert_mapped(start.addr().get(), bytes);
        if self.refuse_unmap.load(Ordering::Relaxed) {
            return false;
        }
        let removed = self.mapped.lock().expect("no test panicked with it").remove(&start.addr().get());
        assert_eq!(removed, Some(bytes), "only whole mappings are unmapped");
        // SAFETY: the caller's promise is the same.
        unsafe { SystemMemory.unmap(start, bytes) }
    }

    unsafe fn purge(&self, start: NonNull<u8>, bytes: usize) -> bool {
        self.assert_mapped(start.addr().get(), bytes);
        if self.refuse_purge.load(Ordering::Relaxed) {
            return false;
        }
        self.purges.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { SystemMemory.purge(start, bytes) }
    }

    unsafe fn advise_huge(&self, start: NonNull<u8>, bytes: usize, huge: bool) {
        self.assert_mapped(start.addr().get(), bytes);
        // SAFETY: the caller's promise is the same.
        unsafe { SystemMemory.advise_huge(start, bytes, huge) }
    }

    unsafe fn guard(&self, start: NonNull<u8>, bytes: usize) {
        self.assert_mapped(start.addr().get(), bytes);
        // SAFETY: the caller's promise is the same.
        unsafe { SystemMemory.guard(start, bytes) }
    }
}

/// A heap with its memory; everything it mapped goes when it is dropped.
pub(super) struct TestHeap {
    pub(super) heap: &'static Heap,
    pub(super) memory: &'static TestMemory,
}

impl TestHeap {
    pub(super) fn new() -> Self {
        Self::with_page_bytes(4096)
    }

    pub(super) fn with_page_bytes(page_bytes: usize) -> Self {
        let memory: &'static TestMemory = Box::leak(Box::new(TestMemory::new(page_bytes)));
        Self { heap: Box::leak(Box::new(Heap::with_source(memory))), memory }
    }

    /// A cache as a thread would have it.
    pub(super) fn attach(&self) -> &'static ThreadCache {
        ThreadCache::acquire(self.heap).expect("memory for a cache")
    }

    /// The self-check; panics on what it finds.
    pub(super) fn check(&self) -> Stats {
        assert!(self.heap.stop_slow_paths());
        // SAFETY: stopped, by this thread.
        let checked = unsafe { check(self.heap) };
        // SAFETY: as above.
        unsafe { self.heap.restart_slow_paths() };
        checked.unwrap_or_else(|corruption| panic!("{corruption}"))
    }

    pub(super) fn purge(&self) -> usize {
        purge_heap(self.heap)
    }
}

impl Drop for TestHeap {
    fn drop(&mut self) {
        // SAFETY: tests join their threads and drop their caches' uses before the heap; nothing refers to it now.
        unsafe {
            drop(Box::from_raw(std::ptr::from_ref(self.heap).cast_mut()));
            let memory = Box::from_raw(std::ptr::from_ref(self.memory).cast_mut());
            for (&start, &bytes) in memory.mapped.lock().expect("no test panicked with it").iter() {
                SystemMemory.unmap(NonNull::new_unchecked(std::ptr::with_exposed_provenance_mut(start)), bytes);
            }
        }
    }
}

/// A live block, filled with a pattern of its own.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) start: *mut u8,
    pub(super) class: SizeClass,
    seed: u64,
}

// SAFETY: a block in its holder's hands may be freed by any thread.
unsafe impl Send for Live {}

impl Live {
    /// Takes over a block and fills it.
    pub(super) fn fill(start: *mut u8, class: SizeClass, seed: u64) -> Self {
        let live = Self { start, class, seed };
        for index in 0..class.block_bytes() / 8 {
            // SAFETY: blocks are aligned to 8 bytes, and this one is ours.
            unsafe { start.cast::<u64>().add(index).write(live.pattern(index)) };
        }
        live
    }

    fn pattern(&self, index: usize) -> u64 {
        (self.seed ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn words(&self) -> &[u64] {
        // SAFETY: blocks are aligned to 8 bytes, and this one is ours.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.class.block_bytes() / 8) }
    }

    /// Panics unless the contents are as they were left.
    pub(super) fn verify(&self) {
        for (index, &word) in self.words().iter().enumerate() {
            assert_eq!(word, self.pattern(index), "contents of a block of {} changed", self.class.block_bytes());
        }
    }

    /// Verifies the block and frees it by `cache`.
    pub(super) fn free(self, cache: &ThreadCache) {
        self.verify();
        // SAFETY: the block is ours, and is given up.
        unsafe { cache.free(self.class, self.start) };
    }
}

/// A request that fills a block.
fn request(class: SizeClass) -> Request {
    Request::of(Layout::from_size_align(class.block_bytes(), 1).expect("a small size"))
}

/// Allocates by `cache`; `None` when there is no memory.
pub(super) fn alloc(cache: &ThreadCache, class: SizeClass, seed: u64) -> Option<Live> {
    let start = cache.alloc(class, request(class));
    (!start.is_null()).then(|| Live::fill(start, class, seed))
}

/// Allocates zeroed by `cache`, and panics unless every byte is zero; `None` when there is no memory.
pub(super) fn alloc_zeroed(cache: &ThreadCache, class: SizeClass, seed: u64) -> Option<Live> {
    let start = cache.alloc_zeroed(class, request(class));
    if start.is_null() {
        return None;
    }
    // SAFETY: a block of the class, ours.
    let bytes = unsafe { std::slice::from_raw_parts(start, class.block_bytes()) };
    assert!(bytes.iter().all(|&byte| byte == 0), "a zeroed block is not zero");
    Some(Live::fill(start, class, seed))
}

/// The class with blocks of so many bytes.
pub(super) fn class(block_bytes: usize) -> SizeClass {
    SizeClass::of_size_align(block_bytes, 1).expect("a small size")
}
