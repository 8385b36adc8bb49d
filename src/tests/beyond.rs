//! Memory at addresses beyond the address map.

use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::test_heap::{alloc, alloc_zeroed, class};
use crate::base::config::ARENA_BYTES;
use crate::cache::ThreadCache;
use crate::heap::Heap;
use crate::os::{MemorySource, SystemMemory};

/// A memory source whose arenas lie beyond the address map, unless `are_near`.
struct Beyond {
    are_near: AtomicBool,
    given: AtomicUsize,
    taken_back: AtomicUsize,
}

impl Beyond {
    const START: NonNull<u8> = NonNull::without_provenance(std::num::NonZero::new(1 << 48).unwrap());
}

impl MemorySource for Beyond {
    fn page_bytes(&self) -> usize {
        SystemMemory.page_bytes()
    }

    fn map(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        if bytes != ARENA_BYTES || self.are_near.load(Relaxed) {
            return SystemMemory.map(bytes, align);
        }
        self.given.fetch_add(1, Relaxed);
        Some(Self::START)
    }

    fn map_guarded(&self, bytes: usize, guard_bytes: usize) -> Option<NonNull<u8>> {
        SystemMemory.map_guarded(bytes, guard_bytes)
    }

    unsafe fn unmap(&self, start: NonNull<u8>, bytes: usize) -> bool {
        if start == Self::START {
            assert_eq!(bytes, ARENA_BYTES);
            self.taken_back.fetch_add(1, Relaxed);
            return true;
        }
        // SAFETY: the caller's promise is the same.
        unsafe { SystemMemory.unmap(start, bytes) }
    }

    unsafe fn purge(&self, start: NonNull<u8>, bytes: usize) -> bool {
        assert_ne!(start, Self::START);
        // SAFETY: the caller's promise is the same.
        unsafe { SystemMemory.purge(start, bytes) }
    }

    unsafe fn advise_huge(&self, start: NonNull<u8>, _: usize, _: bool) {
        assert_ne!(start, Self::START);
    }

    unsafe fn populate(&self, start: NonNull<u8>, _: usize) {
        assert_ne!(start, Self::START);
    }
}

#[test]
fn an_arena_beyond_the_address_map_goes_back_and_the_answer_is_null() {
    let memory: &'static Beyond = Box::leak(Box::new(Beyond {
        are_near: AtomicBool::new(false),
        given: AtomicUsize::new(0),
        taken_back: AtomicUsize::new(0),
    }));
    let heap: &'static Heap = Box::leak(Box::new(Heap::with_source(memory)));
    let cache = ThreadCache::acquire(heap).expect("memory for a cache");
    let metadata_bytes = || heap.with_state(|state, _| state.metadata.mapped_bytes());
    assert!(alloc(cache, class(64), 0).is_none());
    let after_one = metadata_bytes();
    for _ in 0..100 {
        assert!(alloc(cache, class(64), 0).is_none());
        assert!(alloc_zeroed(cache, class(512), 0).is_none());
    }
    assert!(memory.given.load(Relaxed) > 200);
    assert_eq!(memory.taken_back.load(Relaxed), memory.given.load(Relaxed));
    assert_eq!(metadata_bytes(), after_one);
    memory.are_near.store(true, Relaxed);
    let live: Vec<_> = (0..100).map(|seed| alloc(cache, class(64), seed).expect("memory")).collect();
    live.into_iter().for_each(|block| block.free(cache));
    cache.shrink();
    cache.release();
    heap.purge_free();
    assert_eq!(heap.with_state(|state, _| state.arenas.counts().mapped), 0);
}
