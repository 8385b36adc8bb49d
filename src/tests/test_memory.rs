//! The memory of a test's heap: it refuses and counts.

use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::base::config::{ARENA_BYTES, POOL_BYTES, PURGE_UNIT_BYTES};
use crate::os::{MemoryRange, MemorySource};
use crate::tests::memory::{Mapping, Memory, set_usable};

/// Memory with faults on request, and an account of what is mapped.
pub(crate) struct TestMemory {
    page_bytes: usize,
    /// Whether arenas' memory has to be committed.
    pub(crate) commits: bool,
    /// Commits that still succeed.
    pub(crate) commits_left: AtomicUsize,
    /// OS pages of arenas that are committed, by their addresses.
    committed: Mutex<BTreeSet<usize>>,
    /// Maps that still succeed.
    pub(crate) maps_left: AtomicUsize,
    pub(crate) maps: AtomicUsize,
    /// The number of the map, from 0, that fails although others succeed.
    pub(crate) fail_once: AtomicUsize,
    pub(crate) refuse_purge: AtomicBool,
    /// One purge in this many is refused after its first OS page was purged; with 0, none is.
    pub(crate) refuse_each: AtomicUsize,
    pub(crate) refuse_unmap: AtomicBool,
    pub(crate) purges: AtomicUsize,
    /// Bytes of arenas that were purged or unmapped.
    pub(super) given_back_bytes: AtomicUsize,
    pub(crate) populates: AtomicUsize,
    /// The time, in milliseconds; it stands still unless a test moves it.
    pub(crate) now_ms: AtomicU64,
    /// Ranges for which huge pages were requested, and ranges for which they were forbidden again.
    pub(crate) huge: AtomicUsize,
    pub(crate) no_longer_huge: AtomicUsize,
    pub(super) mapped: Mutex<BTreeMap<usize, Mapping>>,
}

impl TestMemory {
    pub(super) fn new(page_bytes: usize, commits: bool) -> Self {
        Self {
            page_bytes,
            commits,
            commits_left: AtomicUsize::new(usize::MAX),
            committed: Mutex::new(BTreeSet::new()),
            maps_left: AtomicUsize::new(usize::MAX),
            maps: AtomicUsize::new(0),
            fail_once: AtomicUsize::new(usize::MAX),
            refuse_purge: AtomicBool::new(false),
            refuse_each: AtomicUsize::new(0),
            refuse_unmap: AtomicBool::new(false),
            purges: AtomicUsize::new(0),
            given_back_bytes: AtomicUsize::new(0),
            populates: AtomicUsize::new(0),
            now_ms: AtomicU64::new(0),
            huge: AtomicUsize::new(0),
            no_longer_huge: AtomicUsize::new(0),
            mapped: Mutex::new(BTreeMap::new()),
        }
    }

    /// Whether parts of pools can be purged, because an OS page is no larger than one.
    pub(super) fn purges_parts(&self) -> bool {
        PURGE_UNIT_BYTES.is_multiple_of(self.page_bytes)
    }

    /// Pools that go back to the OS together, because one OS page holds them.
    pub(super) fn pools_of_os_page(&self) -> usize {
        self.page_bytes.div_ceil(POOL_BYTES)
    }

    /// Resident bytes of arenas, as the kernel reports.
    pub(super) fn resident_bytes(&self) -> usize {
        let mapped = self.mapped.lock().expect("no test panicked with it");
        mapped.values().filter(|mapping| mapping.bytes == ARENA_BYTES).map(Mapping::resident_bytes).sum()
    }

    /// The length of the mapping that the range lies in. Panics unless the range consists of whole OS pages and lies in
    /// one live mapping.
    fn assert_mapped(&self, start: usize, bytes: usize) -> usize {
        assert!(start.is_multiple_of(self.page_bytes) && bytes.is_multiple_of(self.page_bytes));
        let mapped = self.mapped.lock().expect("no test panicked with it");
        let (&first, mapping) = mapped.range(..=start).next_back().expect("a mapping");
        assert!(start + bytes <= first + mapping.bytes, "range outside its mapping");
        mapping.bytes
    }

    /// Bytes of arenas that are committed.
    pub(crate) fn committed_bytes(&self) -> usize {
        self.committed.lock().expect("no test panicked with it").len() * Memory.page_bytes()
    }

    fn note_committed(&self, start: NonNull<u8>, bytes: usize, committed: bool) {
        let first = start.addr().get();
        let mut all = self.committed.lock().expect("no test panicked with it");
        for page in (first..first + bytes).step_by(Memory.page_bytes()).filter(|_| self.commits) {
            if committed {
                all.insert(page)
            } else {
                all.remove(&page)
            };
        }
    }

    /// Counts a mapping; `None` if it must fail.
    fn count_map(&self, bytes: usize) -> Option<()> {
        assert!(bytes.is_multiple_of(self.page_bytes), "{bytes} bytes are not whole OS pages");
        if self.maps.fetch_add(1, Ordering::Relaxed) == self.fail_once.load(Ordering::Relaxed) {
            return None;
        }
        self.maps_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        Some(())
    }

    /// Whether a mapping of this length is an arena, whose purges decommit memory.
    fn decommits(&self, mapping_bytes: usize) -> bool {
        self.commits && mapping_bytes == ARENA_BYTES
    }

    /// Counts bytes that went back to the OS, if the mapping has an arena's length.
    fn count_given_back(&self, mapping_bytes: usize, bytes: usize) {
        if mapping_bytes == ARENA_BYTES {
            self.given_back_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl MemorySource for TestMemory {
    fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    fn map(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        self.count_map(bytes)?;
        let start = Memory.map(bytes, align.max(self.page_bytes))?;
        self.mapped.lock().expect("no test panicked with it").insert(start.addr().get(), Mapping { start, bytes });
        Some(start)
    }

    fn reserve(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        if !self.commits {
            return self.map(bytes, align);
        }
        self.count_map(bytes)?;
        let start = Memory.reserve(bytes, align.max(self.page_bytes))?;
        // SAFETY: mapped just now.
        unsafe { set_usable(start, bytes, false) };
        self.mapped.lock().expect("no test panicked with it").insert(start.addr().get(), Mapping { start, bytes });
        Some(start)
    }

    fn commits(&self) -> bool {
        self.commits
    }

    unsafe fn commit(&self, start: NonNull<u8>, bytes: usize) -> bool {
        let mapped = self.mapped.lock().expect("no test panicked with it");
        let (&first, mapping) = mapped.range(..=start.addr().get()).next_back().expect("a mapping");
        assert!(start.addr().get() + bytes <= first + mapping.bytes, "range outside its mapping");
        let left = self.commits_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        // SAFETY: the caller's promise is the same.
        let committed = left.is_ok()
            && unsafe {
                set_usable(start, bytes, true);
                Memory.commit(start, bytes)
            };
        if committed {
            self.note_committed(start, bytes, true);
        }
        committed
    }

    fn map_guarded(&self, bytes: usize, guard_bytes: usize) -> Option<NonNull<u8>> {
        assert!(bytes.is_multiple_of(self.page_bytes), "{bytes} bytes are not whole OS pages");
        self.maps.fetch_add(1, Ordering::Relaxed);
        self.maps_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        let start = Memory.map_guarded(bytes, guard_bytes)?;
        // SAFETY: the guard is part of the mapping.
        let mapping = Mapping { start: unsafe { start.sub(guard_bytes) }, bytes: bytes + 2 * guard_bytes };
        self.mapped.lock().expect("no test panicked with it").insert(mapping.start.addr().get(), mapping);
        Some(start)
    }

    unsafe fn unmap(&self, start: NonNull<u8>, bytes: usize) -> bool {
        self.assert_mapped(start.addr().get(), bytes);
        if self.refuse_unmap.load(Ordering::Relaxed) {
            return false;
        }
        let removed = self.mapped.lock().expect("no test panicked with it").remove(&start.addr().get());
        assert_eq!(removed.map(|mapping| mapping.bytes), Some(bytes), "only whole mappings are unmapped");
        // SAFETY: the caller's promise is the same.
        let unmapped = unsafe { Memory.unmap(start, bytes) };
        self.note_committed(start, bytes, false);
        self.count_given_back(bytes, if unmapped { bytes } else { 0 });
        unmapped
    }

    unsafe fn purge(&self, start: NonNull<u8>, bytes: usize) -> bool {
        let mapping_bytes = self.assert_mapped(start.addr().get(), bytes);
        let (each, before) = (self.refuse_each.load(Ordering::Relaxed), self.purges.fetch_add(1, Ordering::Relaxed));
        if self.refuse_purge.load(Ordering::Relaxed) {
            return false;
        }
        if each != 0 && before.is_multiple_of(each) {
            if self.decommits(mapping_bytes) {
                return false;
            }
            // As on Linux when all but the first OS page is locked.
            // SAFETY: the caller's promise is the same.
            unsafe { Memory.purge(start, self.page_bytes) };
            return false;
        }
        // SAFETY: the caller's promise is the same.
        let purged = unsafe {
            if self.decommits(mapping_bytes) {
                let purged = Memory.decommit_each(&[MemoryRange { start: start.as_ptr(), bytes }]) == 1;
                set_usable(start, bytes, !purged);
                self.note_committed(start, bytes, !purged);
                purged
            } else {
                Memory.purge(start, bytes)
            }
        };
        self.count_given_back(mapping_bytes, if purged { bytes } else { 0 });
        purged
    }

    unsafe fn advise_huge(&self, start: NonNull<u8>, bytes: usize, huge: bool) {
        self.assert_mapped(start.addr().get(), bytes);
        let count = if huge { &self.huge } else { &self.no_longer_huge };
        count.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { Memory.advise_huge(start, bytes, huge) }
    }

    unsafe fn populate(&self, start: NonNull<u8>, bytes: usize) {
        self.assert_mapped(start.addr().get(), bytes);
        self.populates.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { Memory.populate(start, bytes) }
    }

    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }
}
