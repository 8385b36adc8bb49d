//! From a block's address to its class by one load: one byte per pool, for a window of the address space.
//!
//! C's `free` has to know the class before anything else; CPython's free reads it from the block's pool. The radix tree
//! (`arena_map`) answers by three loads that depend on each other. This map answers by one load, of a byte that is, as
//! a rule, in the CPU's cache: the bytes of an arena's 64 pools are one cache line. The kernel places mappings near
//! each other, so the window is laid around the first arena. Addresses outside the window, and addresses of no pool,
//! are left to the tree.
//!
//! The map is part of the heap, so it is static memory. A program touches one OS page of it for each 128 MiB of
//! addresses in which it frees. It exists only with the feature `__raw`: where a free is told the size, no map is
//! needed.
//!
//! # Invariants
//! - *Window*: it is laid before the first byte is written, and never moved.
//! - *Byte*: the byte of a pool inside the window is its class's index plus 1 if the pool's tag names a set, and
//!   otherwise 0. The thread that writes the tag writes the byte, too: under the door of the set that opens the pool;
//!   and, when the pool goes back to its arena, under that door, before the heap's lock is released. (A thief writes a
//!   tag with the same class.)
//! - *Block*: a thread that holds a block finds its class. The byte was written before the pool's first block was
//!   handed out, and changes only when all blocks are back. A door, or the program's own synchronisation, passes the
//!   block to the thread, and so orders the thread's read after that write.
//! - *Others' addresses*: memory that is mapped where an arena was has no class. The byte was zeroed before the arena
//!   got the pool back, under the heap's lock. The arena is unmapped after that, under the same lock, and until then
//!   the kernel maps nothing else there.
//!
//! So Relaxed is enough for all of it. The models are in `tests/loom/classes.rs`.

#[cfg(feature = "__raw")]
mod map {
    use crate::base::config::{POOL_SHIFT, POOLS_PER_ARENA};
    use crate::base::kind::Kind;
    use crate::base::size_class::{AnyClass, Class, SizeClass};
    use crate::sync::{AtomicU8, AtomicUsize, Ordering};

    /// `log2` of the window's bytes: 32 GiB, with 1 MiB of static memory for it.
    ///
    /// Less in unit tests, which make many heaps.
    const WINDOW_SHIFT: u32 = if cfg!(test) { 32 } else { 35 };
    pub(super) const WINDOW_POOLS: usize = 1 << (WINDOW_SHIFT - POOL_SHIFT);
    /// As a rule, Linux places further mappings below the first ones, so most of the window is there.
    const POOLS_ABOVE: usize = WINDOW_POOLS / 4;

    /// A heap's map. Zeroed memory is a valid value: no window yet.
    #[repr(C, align(64))]
    pub(crate) struct ClassMap {
        /// From the window's last pool down, so that finding a place takes one subtraction. The last pool itself is
        /// never entered: while there is no window, its byte stands for the addresses around null.
        classes: [AtomicU8; WINDOW_POOLS],
        /// The number of the window's last pool; 0 if there is no window yet.
        last: AtomicUsize,
    }

    impl ClassMap {
        pub(crate) const fn new() -> Self {
            Self { classes: [const { AtomicU8::new(0) }; WINDOW_POOLS], last: AtomicUsize::new(0) }
        }

        #[inline(always)]
        fn index_of(&self, address: usize) -> usize {
            // Relaxed: a thread that reads the old value, 0, finds no place. Then the tree answers.
            self.last.load(Ordering::Relaxed).wrapping_sub(address >> POOL_SHIFT)
        }

        /// The place of a pool that may be entered.
        fn place_of(&self, address: usize) -> Option<&AtomicU8> {
            let index = self.index_of(address);
            self.classes.get(index).filter(|_| index != 0)
        }

        /// The index, plus 1, of the class of the pool that holds `address`; `Some(0)` or `None` if the map does not
        /// know it.
        #[inline(always)]
        pub(crate) fn entry_of(&self, address: usize) -> Option<usize> {
            // Relaxed: *Block*, *Others' addresses*.
            self.classes.get(self.index_of(address)).map(|place| usize::from(place.load(Ordering::Relaxed)))
        }

        /// The class of the pool that holds `address`; `None` if the map does not know it, or it is not a small one.
        #[inline(always)]
        pub(crate) fn class_of(&self, address: usize) -> Option<SizeClass> {
            SizeClass::from_index(self.entry_of(address)?.checked_sub(1)?)
        }

        /// The class of the pool that holds `address`, of either kind; `None` if the map does not know it.
        pub(crate) fn any_class_of(&self, address: usize) -> Option<AnyClass> {
            Some(AnyClass::from_index(self.entry_of(address)?.checked_sub(1)?))
        }

        /// Whether the map's entry of the pool at `address` agrees with `class`, the pool's tag; `true` outside the
        /// window. For a thread that has stopped the slow paths.
        pub(crate) fn agrees(&self, address: usize, class: Option<AnyClass>) -> bool {
            self.place_of(address).is_none() || self.any_class_of(address) == class
        }

        /// Enters the pool at `address`, whose tag is being written.
        pub(crate) fn enter<K: Kind>(&self, address: usize, class: Class<K>) {
            // Relaxed (all): the first writer wins. A thread that lost reads the winner's window below, and an old
            // value does no harm.
            if self.last.load(Ordering::Relaxed) == 0 {
                // The last pool of an arena, so that each arena's bytes are one cache line.
                let last = (address >> POOL_SHIFT | (POOLS_PER_ARENA - 1)) + POOLS_ABOVE;
                let _ = self.last.compare_exchange(0, last, Ordering::Relaxed, Ordering::Relaxed);
            }
            if let Some(place) = self.place_of(address) {
                // Relaxed: as for the tag.
                place.store(class.index() as u8 + 1, Ordering::Relaxed);
            }
        }

        /// Takes the pool at `address` out, whose tag is being cleared.
        pub(crate) fn leave(&self, address: usize) {
            if let Some(place) = self.place_of(address) {
                // Relaxed: as for the tag.
                place.store(0, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(not(feature = "__raw"))]
mod map {
    use crate::base::kind::Kind;
    use crate::base::size_class::{AnyClass, Class};

    /// The empty twin: no address is looked up.
    pub(crate) struct ClassMap;

    impl ClassMap {
        pub(crate) const fn new() -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn agrees(&self, _address: usize, _class: Option<AnyClass>) -> bool {
            true
        }

        #[inline(always)]
        pub(crate) fn enter<K: Kind>(&self, _address: usize, _class: Class<K>) {}

        #[inline(always)]
        pub(crate) fn leave(&self, _address: usize) {}
    }
}

pub(crate) use map::ClassMap;

#[cfg(all(test, feature = "__raw"))]
mod tests {
    use super::map::{ClassMap, WINDOW_POOLS};
    use crate::base::config::POOL_BYTES;
    use crate::base::size_class::SizeClass;

    /// A map of the test's own.
    fn with_map(body: impl FnOnce(&ClassMap)) {
        let mut place = Box::<ClassMap>::new_uninit();
        // SAFETY: zeroed memory is a valid map.
        let map = unsafe {
            place.as_mut_ptr().write_bytes(0, 1);
            place.assume_init()
        };
        body(&map);
    }

    const ENDS: [usize; 6] = [0, 1, POOL_BYTES, 1 << 47, usize::MAX - POOL_BYTES, usize::MAX];

    #[test]
    fn every_byte_of_an_entered_pool_has_its_class_and_its_neighbours_none() {
        for start in [0x7f3c_5a60_0000, 0x1_0000_0000, 5 * POOL_BYTES] {
            with_map(|map| {
                for address in ENDS {
                    assert_eq!(map.class_of(address), None, "no window yet");
                }
                for class in SizeClass::all() {
                    map.enter(start, class);
                    for offset in [0, 1, POOL_BYTES / 2, POOL_BYTES - 1] {
                        assert_eq!(map.class_of(start + offset), Some(class));
                    }
                    assert_eq!((map.class_of(start - 1), map.class_of(start + POOL_BYTES)), (None, None));
                    map.leave(start);
                    assert_eq!(map.class_of(start), None);
                }
            });
        }
    }

    #[test]
    fn an_address_outside_of_the_window_has_no_place_and_moves_nothing() {
        with_map(|map| {
            let start = 0x7f3c_5a60_0000;
            map.enter(start, SizeClass::LARGEST);
            let window = WINDOW_POOLS * POOL_BYTES;
            for outside in [start + window, start - window, 0x5555_5555_0000, 0, usize::MAX] {
                map.enter(outside, SizeClass::SMALLEST);
                assert_eq!(map.class_of(outside), None);
            }
            assert_eq!(map.class_of(start), Some(SizeClass::LARGEST));
            // The window has room above the first arena, and more below.
            for inside in [start + window / 8, start - window / 2] {
                map.enter(inside, SizeClass::SMALLEST);
                assert_eq!(map.class_of(inside), Some(SizeClass::SMALLEST));
            }
        });
    }
}
