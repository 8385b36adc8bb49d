//! The data that the heap's lock guards: which arenas there are, how they are mapped and unmapped, how many there may
//! be.

use core::ptr::{self, NonNull};

use super::{ArenaLimits, MapArena, commits};
use crate::base::config::{ARENA_BYTES, HUGE_FROM_ARENAS, PURGE_ARENAS_MAX};
use crate::base::kind::Kind;
use crate::heap::arena::{Arena, ArenaRef};
use crate::heap::arena_map::AddressMap;
use crate::heap::arena_table::ArenaTable;
use crate::heap::metadata::Metadata;
use crate::heap::set::PoolSet;
use crate::marks;
use crate::observe;
use crate::os::MemorySource;

/// The part of a heap under its lock.
pub(crate) struct HeapState {
    pub(crate) metadata: Metadata,
    pub(crate) arenas: ArenaTable,
    /// Zeroed metadata of arenas that were given back, linked by `next`.
    spare_arenas: Option<ArenaRef>,
    /// Parked sets, linked by `next_parked`.
    pub(super) parked: *const PoolSet,
    /// Pools ever taken.
    pub(super) pools_taken: u64,
    /// `usize::MAX` minus each of the limits: so there is no limit at the start, when all is 0.
    forbidden: ArenaLimits,
}

// SAFETY: plain pointers to metadata that is never unmapped, touched under the lock.
unsafe impl Send for HeapState {}

impl HeapState {
    pub(super) const fn new() -> Self {
        Self {
            metadata: Metadata::new(),
            arenas: ArenaTable::new(),
            spare_arenas: None,
            parked: ptr::null(),
            pools_taken: 0,
            forbidden: ArenaLimits { soft: 0, hard: 0 },
        }
    }

    /// Whether one more arena may be mapped.
    pub(super) fn may_map(&self, wish: MapArena) -> bool {
        let limits = self.limits();
        let limit = match wish {
            MapArena::No => 0,
            MapArena::Soft => limits.soft.min(limits.hard),
            MapArena::Hard => limits.hard,
        };
        self.arenas.counts().mapped < limit
    }

    pub(super) const fn limits(&self) -> ArenaLimits {
        ArenaLimits { soft: usize::MAX - self.forbidden.soft, hard: usize::MAX - self.forbidden.hard }
    }

    pub(super) const fn set_limits(&mut self, limits: ArenaLimits) {
        self.forbidden = ArenaLimits { soft: usize::MAX - limits.soft, hard: usize::MAX - limits.hard };
    }

    /// Maps an arena for blocks of kind `K`. It asks for a huge page if the set that wants it `is_dense`, but not where
    /// memory has to be committed: it would be committed as a whole.
    pub(super) fn map_arena_for<K: Kind>(
        &mut self,
        map: &AddressMap,
        source: &dyn MemorySource,
        is_dense: bool,
    ) -> Option<()> {
        let huge = is_dense && self.arenas.counts().mapped >= HUGE_FROM_ARENAS && !commits(source);
        self.map_arena(map, source, huge)?;
        if huge && !K::IS_SMALL {
            self.arenas.note_huge(source);
        }
        Some(())
    }

    fn map_arena(&mut self, map: &AddressMap, source: &dyn MemorySource, huge: bool) -> Option<()> {
        let arena = match self.spare_arenas {
            Some(spare) => {
                self.spare_arenas = spare.next.take();
                spare
            }
            // SAFETY: metadata.
            None => unsafe { ArenaRef::new(self.metadata.alloc(source)?) },
        };
        let mapped = self.map_arena_memory(arena, map, source, huge);
        if mapped.is_none() {
            self.keep_spare(arena);
        }
        mapped
    }

    fn map_arena_memory(
        &mut self,
        arena: ArenaRef,
        map: &AddressMap,
        source: &dyn MemorySource,
        huge: bool,
    ) -> Option<()> {
        let start = source.reserve(ARENA_BYTES, ARENA_BYTES)?;
        let address = start.addr().get();
        let leaf = if map.lacks_leaf(address) { self.metadata.alloc(source) } else { None };
        if let Some(leaf) = leaf {
            map.add_leaf(address, leaf);
        }
        arena.init(start);
        if map.set(address, Some(arena)) {
            marks::fresh(start.as_ptr(), ARENA_BYTES);
            if huge {
                arena.set_huge();
            }
            // Small pages have to be asked for, too: the kernel may be set to use huge pages everywhere.
            // SAFETY: memory mapped just now.
            unsafe { source.advise_huge(start, ARENA_BYTES, huge) };
            self.arenas.add(arena);
            observe::arena_mapped();
            return Some(());
        }
        // No memory for a leaf, or an address beyond the map.
        // SAFETY: mapped above, not used.
        unsafe { source.unmap(start, ARENA_BYTES) };
        None
    }

    /// Gives back what is too much after pools came back. `any_free` tells whether an arena of theirs is wholly free.
    pub(super) fn return_surplus(&mut self, any_free: bool, map: &AddressMap, source: &dyn MemorySource) {
        if any_free {
            self.unmap_surplus(map, source);
        }
        self.arenas.purge_excess(source);
    }

    /// Gives back the wholly free arenas beyond the number that the heap keeps. That number falls with the number of
    /// arenas in use, so one call may give back several.
    fn unmap_surplus(&mut self, map: &AddressMap, source: &dyn MemorySource) {
        for _ in 0..PURGE_ARENAS_MAX {
            let Some(arena) = self.arenas.surplus_arena(source) else { return };
            if !self.unmap_arena(arena, map, source) {
                return;
            }
        }
    }

    /// Gives a wholly free arena back to the OS. Returns `false` if the OS refuses (`ENOMEM` at the kernel's limit on
    /// mappings); then the heap keeps the addresses, and purges their memory instead.
    pub(super) fn unmap_arena(&mut self, arena: ArenaRef, map: &AddressMap, source: &dyn MemorySource) -> bool {
        let Some(start) = NonNull::new(arena.start()) else { return false };
        let address = start.addr().get();
        map.set(address, None);
        marks::gone(start.as_ptr(), ARENA_BYTES);
        // SAFETY: no pool of the arena is owned, and the address map does not know it any more.
        if unsafe { source.unmap(start, ARENA_BYTES) } {
            self.arenas.remove(arena, source);
            self.recycle(arena, source);
            return true;
        }
        marks::fresh(start.as_ptr(), ARENA_BYTES);
        map.set(address, Some(arena));
        self.arenas.purge_arena(arena, source);
        false
    }

    /// Zeroes the metadata of an arena that is gone, and keeps it for the next.
    fn recycle(&mut self, arena: ArenaRef, source: &dyn MemorySource) {
        let bytes = size_of::<Arena>();
        let metadata = arena.metadata();
        // SAFETY: no thread uses the metadata of an arena without pools; whole OS pages, since an
        // arena's metadata is larger than one (Metadata::alloc).
        unsafe {
            if !source.purge(metadata, bytes.next_multiple_of(source.page_bytes())) {
                metadata.write_bytes(0, bytes);
            }
        }
        self.keep_spare(arena);
    }

    /// The set parked last, at the head of the list.
    pub(crate) const fn last_parked(&self) -> *const PoolSet {
        self.parked
    }

    fn keep_spare(&mut self, arena: ArenaRef) {
        arena.next.set(self.spare_arenas);
        self.spare_arenas = Some(arena);
    }
}
