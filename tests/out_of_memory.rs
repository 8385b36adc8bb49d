//! Memory runs out: requests get null, frees still work, and the freed memory can be allocated again.
#![cfg(not(pymalloc_bypass))]

mod common;

use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;
use std::ptr::null_mut;
use std::slice::from_raw_parts;

use common::{alone, assert_live_near, assert_sound};
use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const SLACK_BLOCKS: usize = 32;
const FILL: u8 = 0xEE;

/// Blocks of one size, linked through their own bytes, because the test must not need further memory.
struct Chain {
    layout: Layout,
    newest: *mut u8,
    blocks: usize,
}

impl Chain {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, 8).expect("valid");
        Self { layout, newest: null_mut(), blocks: 0 }
    }

    fn bytes(&self) -> usize {
        self.blocks * self.layout.size()
    }

    fn push(&mut self, start: *mut u8) {
        // SAFETY: the caller's block of this layout, which is 8 bytes or more and 8-aligned.
        unsafe {
            start.add(8).write_bytes(FILL, self.layout.size() - 8);
            start.cast::<*mut u8>().write(self.newest);
        }
        self.newest = start;
        self.blocks += 1;
    }

    fn pop(&mut self) -> Option<*mut u8> {
        let start = self.newest;
        if start.is_null() {
            return None;
        }
        // SAFETY: `push` wrote the whole block, and it is not freed yet.
        unsafe {
            self.newest = start.cast::<*mut u8>().read();
            let rest = from_raw_parts(start.add(8), self.layout.size() - 8);
            assert_eq!(rest, &[FILL; 512][8..self.layout.size()]);
        }
        self.blocks -= 1;
        Some(start)
    }

    /// Allocates until a request gets null, at most `most` blocks.
    fn grow(&mut self, most: usize) {
        for _ in 0..most {
            // SAFETY: the size is not 0.
            let start = black_box(unsafe { alloc(self.layout) });
            if start.is_null() {
                return;
            }
            self.push(start);
        }
    }

    fn free(&self, start: *mut u8) {
        // SAFETY: it is from `pop`, so it is a block of this layout that no other code has.
        unsafe { dealloc(start, self.layout) };
    }

    /// Frees every other block.
    fn free_half(&mut self) {
        let mut kept = Self { layout: self.layout, newest: null_mut(), blocks: 0 };
        while let Some(start) = self.pop() {
            if self.blocks.is_multiple_of(2) {
                self.free(start);
            } else {
                kept.push(start);
            }
        }
        *self = kept;
    }

    fn free_all(&mut self) {
        while let Some(start) = self.pop() {
            self.free(start);
        }
    }
}

/// This limit is the heap's own, not the system's: large requests still succeed.
fn exhaust_and_recover_below_a_limit_of_the_heap() {
    let arenas = 6;
    let before = assert_sound().blocks_live();
    assert_eq!((pymalloc::soft_limit(), pymalloc::limit()), (None, None));
    pymalloc::set_limit(Some(arenas * pymalloc::ARENA_BYTES + 1));
    assert_eq!(pymalloc::limit(), Some(arenas * pymalloc::ARENA_BYTES));
    pymalloc::set_soft_limit(Some(3 * pymalloc::ARENA_BYTES));
    assert_eq!(pymalloc::soft_limit(), Some(3 * pymalloc::ARENA_BYTES));
    assert_eq!(pymalloc::limit(), Some(arenas * pymalloc::ARENA_BYTES), "only the other limit is set");
    let mut chain = Chain::new(64);
    for _ in 0..3 {
        chain.grow(usize::MAX);
        assert_eq!(assert_sound().arenas_mapped, arenas);
        assert!(chain.bytes() > (arenas - 1) * pymalloc::ARENA_BYTES, "{}", chain.bytes());
        let large = Layout::from_size_align(1 << 20, 8).expect("valid");
        // SAFETY: the size is not 0, and the block is freed once.
        unsafe {
            let start = black_box(alloc(large));
            assert!(!start.is_null());
            dealloc(start, large);
        }
        chain.free_half();
    }
    // A limit below the memory in use gives back free memory, and takes nothing from the program.
    let mapped = assert_sound().arenas_mapped;
    pymalloc::set_limit(Some(0));
    let most = chain.blocks;
    chain.grow(usize::MAX);
    assert!(chain.blocks >= most && assert_sound().arenas_mapped <= mapped);
    pymalloc::set_limit(None);
    assert_eq!((pymalloc::soft_limit(), pymalloc::limit()), (None, None));
    let blocks = 2 * arenas * pymalloc::ARENA_BYTES / 64;
    chain.grow(blocks);
    assert!(chain.blocks >= blocks);
    chain.free_all();
    assert_live_near(before, SLACK_BLOCKS);
}

#[test]
fn null_comes_at_the_limit_of_the_heap_and_memory_comes_back() {
    alone("null_comes_at_the_limit_of_the_heap_and_memory_comes_back", exhaust_and_recover_below_a_limit_of_the_heap);
}

/// The system's limits, which hold for a process.
#[cfg(unix)]
mod system {
    use std::alloc::{Layout, alloc_zeroed, dealloc, realloc};
    use std::ffi::c_void;
    use std::hint::black_box;
    use std::mem::MaybeUninit;
    use std::ptr::{null, null_mut};
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    use crate::common::{self, alone, assert_live_near, assert_sound};
    use crate::{Chain, SLACK_BLOCKS};

    /// Bytes that the process may map beyond those that it has.
    const HEADROOM_BYTES: usize = 32 << 20;

    /// A limit on all mapped memory, or on private writable memory.
    #[derive(Clone, Copy)]
    enum Limit {
        AddressSpace,
        Data,
    }

    /// The type of `setrlimit`'s argument, which has another name in each C library.
    #[cfg(target_env = "gnu")]
    type Resource = libc::__rlimit_resource_t;
    #[cfg(not(target_env = "gnu"))]
    type Resource = libc::c_int;

    impl Limit {
        fn resource(self) -> Resource {
            match self {
                Self::AddressSpace => libc::RLIMIT_AS,
                Self::Data => libc::RLIMIT_DATA,
            }
        }

        /// The bytes that count against it now. This includes stacks, which the kernel does not count.
        fn used_bytes(self) -> usize {
            match self {
                Self::AddressSpace => common::mapped_bytes(),
                Self::Data => common::data_bytes(),
            }
        }
    }

    fn set_limit(resource: Limit, bytes: Option<usize>) {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a place for the limit, and a limit.
        unsafe {
            assert_eq!(libc::getrlimit(resource.resource(), &raw mut limit), 0);
            limit.rlim_cur = bytes.map_or(limit.rlim_max, |bytes| bytes as libc::rlim_t);
            assert_eq!(libc::setrlimit(resource.resource(), &raw const limit), 0);
        }
    }

    /// The block that is to be freed by a thread that has never allocated: the thread takes the address when there is
    /// one.
    static TO_FREE: AtomicPtr<u8> = AtomicPtr::new(null_mut());
    static FREED: AtomicUsize = AtomicUsize::new(0);
    const FREED_THERE: Layout = Layout::new::<[u64; 8]>();

    /// Rust's own threads allocate before they run anything, so this is one of the system's.
    extern "C" fn free_what_comes(_: *mut c_void) -> *mut c_void {
        for freed in 1..=2 {
            let start = loop {
                // Acquire pairs with `free_in_the_other_thread`: the block's contents.
                let start = TO_FREE.swap(null_mut(), Ordering::Acquire);
                if !start.is_null() {
                    break start;
                }
                std::thread::yield_now();
            };
            // SAFETY: the block has this layout, and the sender gave it up.
            unsafe { dealloc(start, FREED_THERE) };
            // Release pairs with the sender's wait.
            FREED.store(freed, Ordering::Release);
        }
        null_mut()
    }

    fn free_in_the_other_thread(start: *mut u8) {
        let freed = FREED.load(Ordering::Relaxed);
        // Release pairs with the swap in the thread.
        TO_FREE.store(start, Ordering::Release);
        while FREED.load(Ordering::Acquire) == freed {
            std::thread::yield_now();
        }
    }

    fn exhaust_and_recover(limit: Limit) {
        let mut thread = MaybeUninit::uninit();
        // SAFETY: `thread` is a place for the handle; the argument is not used.
        let error = unsafe { libc::pthread_create(thread.as_mut_ptr(), null(), free_what_comes, null_mut()) };
        assert_eq!(error, 0);
        // SAFETY: the thread was created, so its handle was written.
        let thread: libc::pthread_t = unsafe { thread.assume_init() };
        // It must be possible to allocate this many bytes, whatever the size was before: memory that one class has
        // freed serves the others.
        let enough_bytes = HEADROOM_BYTES / 2;
        let before = assert_sound().blocks_live();
        set_limit(limit, Some(limit.used_bytes() + HEADROOM_BYTES));

        for bytes in [64, 8, 512, 24, 136, 16, 256, 48] {
            let mut chain = Chain::new(bytes);
            chain.grow(usize::MAX);
            assert!(chain.bytes() >= enough_bytes, "{} bytes in blocks of {bytes}", chain.bytes());
            assert_live_near(before + chain.blocks, SLACK_BLOCKS);
            if bytes == FREED_THERE.size() {
                free_in_the_other_thread(chain.pop().expect("many blocks"));
                assert_sound();
            }
            let most = chain.blocks;
            chain.free_half();
            let half = chain.blocks;
            chain.grow(usize::MAX);
            // The cache of the thread that freed one may hold a few.
            assert!(chain.blocks - half >= (most - half) * 9 / 10, "{half} of {most}, then {}", chain.blocks);
            chain.free_all();
        }

        let (mut small, mut largest) = (Chain::new(8), Chain::new(512));
        // A small block first: after the other blocks have taken every pool, there may be none for it.
        small.grow(1);
        largest.grow(usize::MAX);
        small.grow(usize::MAX);
        // SAFETY: the sizes are not 0, and a failed realloc leaves the block to its owner.
        unsafe {
            assert!(black_box(alloc_zeroed(largest.layout)).is_null());
            let start = small.pop().expect("many blocks");
            start.cast::<u64>().write(0x0123_4567_89AB_CDEF);
            assert!(black_box(realloc(start, small.layout, largest.layout.size())).is_null());
            assert_eq!(start.cast::<u64>().read(), 0x0123_4567_89AB_CDEF);
            small.free(start);
        }
        small.free_all();
        largest.free_all();

        set_limit(limit, None);
        let mut chain = Chain::new(FREED_THERE.size());
        let more_than_before = 2 * HEADROOM_BYTES / FREED_THERE.size();
        chain.grow(more_than_before);
        assert_eq!(chain.blocks, more_than_before);
        free_in_the_other_thread(chain.pop().expect("many blocks"));
        // SAFETY: a thread of ours, joined once.
        assert_eq!(unsafe { libc::pthread_join(thread, null_mut()) }, 0);
        chain.free_all();
        assert_live_near(before, SLACK_BLOCKS);
    }

    #[test]
    fn null_comes_at_the_limit_of_address_space_and_memory_comes_back() {
        // The limit holds for the whole process.
        alone("system::null_comes_at_the_limit_of_address_space_and_memory_comes_back", || {
            exhaust_and_recover(Limit::AddressSpace);
        });
    }

    #[test]
    fn null_comes_at_the_limit_of_data_and_memory_comes_back() {
        alone("system::null_comes_at_the_limit_of_data_and_memory_comes_back", || exhaust_and_recover(Limit::Data));
    }
}
