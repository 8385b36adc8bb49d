//! What the memory of tests' heaps is made of: the system's, or, under Miri, which knows no such calls, blocks of its
//! own, of which it checks each access.

use std::ptr::NonNull;

#[cfg(miri)]
pub(crate) use allocated::Memory;

#[cfg(not(miri))]
pub(crate) use crate::os::SystemMemory as Memory;

/// A mapping, guards included, by the pointer that it came with.
pub(crate) struct Mapping {
    pub(crate) start: NonNull<u8>,
    pub(crate) bytes: usize,
}

// SAFETY: a pointer to what all threads of a heap use.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Bytes of it that are resident, as the kernel says.
    #[cfg(all(unix, not(miri)))]
    pub(crate) fn resident_bytes(&self) -> usize {
        use crate::os::MemorySource;

        let os_page_bytes = Memory.page_bytes();
        let mut os_pages = vec![0_u8; self.bytes / os_page_bytes];
        // SAFETY: a mapping of that length, and a byte for each of its OS pages.
        assert_eq!(unsafe { libc::mincore(self.start.as_ptr().cast(), self.bytes, os_pages.as_mut_ptr()) }, 0);
        os_pages.iter().filter(|&&os_page| os_page & 1 != 0).count() * os_page_bytes
    }

    /// Bytes of it that are committed, as Windows says.
    #[cfg(windows)]
    pub(crate) fn resident_bytes(&self) -> usize {
        use crate::os::MemorySource;

        Memory.committed_bytes(self.start, self.bytes).expect("Windows tells")
    }

    /// Nobody knows.
    #[cfg(miri)]
    pub(crate) fn resident_bytes(&self) -> usize {
        panic!("Miri has no resident memory: no test under it may ask")
    }
}

/// Lets the range be used, or not: what stands for committed memory where the system commits none.
///
/// # Safety
/// The range is mapped, in whole OS pages.
#[cfg(all(unix, not(miri)))]
pub(crate) unsafe fn set_usable(start: NonNull<u8>, bytes: usize, usable: bool) {
    let access = if usable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    // SAFETY: a range of the caller's.
    assert_eq!(unsafe { libc::mprotect(start.as_ptr().cast(), bytes, access) }, 0);
}

/// There is no protection.
#[cfg(not(all(unix, not(miri))))]
pub(crate) unsafe fn set_usable(_start: NonNull<u8>, _bytes: usize, _usable: bool) {}

#[cfg(miri)]
mod allocated {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::collections::BTreeMap;
    use std::ptr::NonNull;
    use std::sync::Mutex;

    use crate::os::MemorySource;

    /// Blocks of Miri's allocator in place of mappings. A guard is a part of a block that nobody accesses.
    pub(crate) struct Memory;

    /// The layout of each block, by its address.
    static LAYOUTS: Mutex<BTreeMap<usize, Layout>> = Mutex::new(BTreeMap::new());

    impl MemorySource for Memory {
        fn page_bytes(&self) -> usize {
            4096
        }

        fn map(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
            let layout = Layout::from_size_align(bytes, align).ok()?;
            // SAFETY: heaps map no empty ranges.
            let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
            LAYOUTS.lock().expect("no test panicked with it").insert(start.addr().get(), layout);
            Some(start)
        }

        fn map_guarded(&self, bytes: usize, guard_bytes: usize) -> Option<NonNull<u8>> {
            let guard = self.map(bytes + 2 * guard_bytes, guard_bytes)?;
            // SAFETY: inside the block.
            Some(unsafe { guard.add(guard_bytes) })
        }

        unsafe fn unmap(&self, start: NonNull<u8>, bytes: usize) -> bool {
            let layout = LAYOUTS.lock().expect("no test panicked with it").remove(&start.addr().get());
            let layout = layout.filter(|layout| layout.size() == bytes).expect("tests unmap whole mappings");
            // SAFETY: allocated with that layout; the caller gives it up.
            unsafe { dealloc(start.as_ptr(), layout) };
            true
        }

        unsafe fn purge(&self, start: NonNull<u8>, bytes: usize) -> bool {
            // SAFETY: the caller gives up the contents.
            unsafe { start.write_bytes(0, bytes) };
            true
        }

        unsafe fn advise_huge(&self, _start: NonNull<u8>, _bytes: usize, _huge: bool) {}

        unsafe fn populate(&self, _start: NonNull<u8>, _bytes: usize) {}
    }
}
