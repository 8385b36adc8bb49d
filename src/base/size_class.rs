//! From a [`Layout`] to its size class, and from a block's place in its pool to its number.
//!
//! All arithmetic of the allocator that depends on block sizes is here, in safe code; the tests check it over
//! its whole domain.

use core::alloc::Layout;
use core::marker::PhantomData;

use crate::base::config::{
    CLASS_COUNT, CLASS_STEP_BYTES, CLASS_STEP_SHIFT, MEDIUM_CLASS_COUNT, MEDIUM_MAX_BYTES, POOL_BYTES,
    PURGE_UNIT_BYTES, RUN_POOLS, RUN_POOLS_ABOVE_BYTES, SMALL_MAX_BYTES, WORD_BITS,
};
use crate::base::kind::{Kind, Medium, Small};

/// A size class of a kind.
///
/// # Invariants
/// The number is below `K::CLASSES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct Class<K>(u8, PhantomData<K>);

/// One of the 64 small size classes: class 0 has blocks of 8 bytes, class 63 of 512.
pub(crate) type SizeClass = Class<Small>;

/// One of the 48 medium size classes: class 0 has blocks of 576 bytes, class 47 of 32,768.
pub(crate) type MediumClass = Class<Medium>;

impl SizeClass {
    /// The class that serves `layout`, or `None` when the request is large.
    ///
    /// `(size - 1) | (align - 1)` is `round_up(size, align) - 1`, because `align` is a power of two: so one `or`
    /// and one compare route every layout. A size of 0 wraps to the large side.
    #[inline(always)]
    pub(crate) const fn of(layout: Layout) -> Option<Self> {
        Self::of_size_align(layout.size(), block_align(layout))
    }

    /// [`of`](Self::of) for a size and an alignment (a power of two) in bytes.
    #[inline(always)]
    pub(crate) const fn of_size_align(size: usize, align: usize) -> Option<Self> {
        let last = size.wrapping_sub(1) | (align - 1);
        if last < SMALL_MAX_BYTES { Some(Self::new((last >> CLASS_STEP_SHIFT) as u8)) } else { None }
    }
}

impl MediumClass {
    /// The class that serves so many bytes with that alignment (a power of two); `None` when the request is small, or
    /// too large.
    ///
    /// Each doubling has eight classes: so the class is the number of the highest bit of the last byte's offset, and the
    /// three bits behind it. A block is a multiple of an eighth of the power of two below it; what was rounded up to an
    /// alignment beyond that is such a multiple already.
    #[inline(always)]
    pub(crate) const fn of_size_align(size: usize, align: usize) -> Option<Self> {
        let last = size.wrapping_sub(1) | (align - 1);
        if last < SMALL_MAX_BYTES || last >= MEDIUM_MAX_BYTES {
            return None;
        }
        let top = last.ilog2();
        let number = (top - SMALL_MAX_BYTES.ilog2()) as usize * STEPS + (last >> (top - STEPS.ilog2())) - STEPS;
        Some(Self::new(number as u8))
    }

    /// Bytes of a block of class `number`.
    #[inline(always)]
    const fn bytes_of(number: usize) -> usize {
        (STEPS + 1 + number % STEPS) << (SMALL_MAX_BYTES.ilog2() as usize - STEPS.ilog2() as usize + number / STEPS)
    }
}

/// Medium classes of a doubling.
const STEPS: usize = 8;

impl<K: Kind> Class<K> {
    #[inline(always)]
    const fn new(number: u8) -> Self {
        Self(number, PhantomData)
    }

    /// The class of that number, if there is one.
    pub(crate) const fn from_number(number: usize) -> Option<Self> {
        if number < K::CLASSES { Some(Self::new(number as u8)) } else { None }
    }

    /// The class with that index, if this kind has it.
    pub(crate) const fn from_index(index: usize) -> Option<Self> {
        Self::from_number(index.wrapping_sub(K::FIRST))
    }

    /// The class, if it is a small one.
    #[cfg(feature = "hardened")]
    #[inline(always)]
    pub(crate) const fn small(self) -> Option<SizeClass> {
        if K::IS_SMALL { Some(SizeClass::new(self.0)) } else { None }
    }

    /// Its index among the classes of both kinds.
    #[inline(always)]
    pub(crate) const fn index(self) -> usize {
        K::FIRST + self.number()
    }

    /// All classes, smallest blocks first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..K::CLASSES as u8).map(Self::new)
    }

    /// The class with the smallest blocks.
    pub(crate) const SMALLEST: Self = Self::new(0);

    /// The class with the largest blocks.
    pub(crate) const LARGEST: Self = Self::new(K::CLASSES as u8 - 1);

    /// Its number, below `K::CLASSES`.
    #[inline(always)]
    pub(crate) const fn number(self) -> usize {
        self.0 as usize
    }

    /// Bytes of a block.
    #[inline(always)]
    pub(crate) const fn block_bytes(self) -> usize {
        if K::IS_SMALL { (self.number() + 1) * CLASS_STEP_BYTES } else { MediumClass::bytes_of(self.number()) }
    }

    /// Bytes of a pool.
    #[inline(always)]
    pub(crate) const fn pool_bytes(self) -> usize {
        if K::IS_SMALL || self.block_bytes() <= RUN_POOLS_ABOVE_BYTES { POOL_BYTES } else { POOL_BYTES * RUN_POOLS }
    }

    /// Pools of the arena that make one of this class.
    #[inline(always)]
    pub(crate) const fn pool_pools(self) -> usize {
        self.pool_bytes() / POOL_BYTES
    }

    /// Bytes of a pool that are purged together when all blocks in them are free.
    #[inline(always)]
    pub(crate) const fn purge_unit_bytes(self) -> usize {
        self.pool_pools() * PURGE_UNIT_BYTES
    }

    /// Blocks in a pool.
    #[inline(always)]
    pub(crate) const fn pool_blocks(self) -> usize {
        if K::IS_SMALL {
            POOL_BLOCKS[self.number() & (CLASS_COUNT - 1)] as usize
        } else {
            MEDIUM[self.table_index()].1 as usize
        }
    }

    /// Words of a bitmap with one bit a block.
    #[inline(always)]
    pub(crate) const fn bitmap_words(self) -> usize {
        self.pool_blocks().div_ceil(WORD_BITS)
    }

    /// Word `word` of a bitmap in which all blocks of a pool are set.
    pub(crate) const fn full_word(self, word: usize) -> u64 {
        let bits = self.pool_blocks() - word * WORD_BITS;
        if bits >= WORD_BITS { u64::MAX } else { (1 << bits) - 1 }
    }

    /// What finds blocks of this class by their place.
    #[inline(always)]
    pub(crate) const fn locator(self) -> Locator<K> {
        let block_bytes = self.block_bytes() as u32;
        if K::IS_SMALL {
            let number = self.number() & (CLASS_COUNT - 1);
            let (reciprocal, blocks) = (RECIPROCALS[number], POOL_BLOCKS[number] as u32);
            Locator { reciprocal, block_bytes, blocks, kind: PhantomData }
        } else {
            let (reciprocal, blocks) = MEDIUM[self.table_index()];
            Locator { reciprocal, block_bytes, blocks, kind: PhantomData }
        }
    }

    /// Its place in the table of medium classes.
    #[inline(always)]
    const fn table_index(self) -> usize {
        if self.number() < MEDIUM_CLASS_COUNT { self.number() } else { MEDIUM_CLASS_COUNT - 1 }
    }

    /// [`Locator::block_at`], for one block.
    pub(crate) const fn block_at(self, offset: usize) -> Option<usize> {
        self.locator().block_at(offset)
    }
}

/// A class of either kind, for who looks at pools whatever they hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AnyClass(u8);

/// Defines functions of [`AnyClass`] as those of its class.
macro_rules! of_either_kind {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)+) => { $(
        $(#[$doc])*
        pub(crate) const fn $name(self $(, $argument: $type)*) -> $result {
            match SizeClass::from_index(self.0 as usize) {
                Some(class) => class.$name($($argument),*),
                None => MediumClass::new(self.0 - CLASS_COUNT as u8).$name($($argument),*),
            }
        }
    )+ };
}

impl AnyClass {
    /// The class with that index; the largest if there is none.
    pub(crate) const fn from_index(index: usize) -> Self {
        Self(if index < CLASS_COUNT + MEDIUM_CLASS_COUNT { index } else { CLASS_COUNT + MEDIUM_CLASS_COUNT - 1 } as u8)
    }

    /// All classes of both kinds.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..(CLASS_COUNT + MEDIUM_CLASS_COUNT) as u8).map(Self)
    }

    /// Its index.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    of_either_kind! {
        /// Bytes of a block.
        block_bytes() -> usize;
        /// Bytes of a pool.
        pool_bytes() -> usize;
        /// Pools of the arena that make one of this class.
        pool_pools() -> usize;
        /// Blocks in a pool.
        pool_blocks() -> usize;
        /// Words of a bitmap with one bit a block.
        bitmap_words() -> usize;
        /// Word `word` of a bitmap in which all blocks of a pool are set.
        full_word(word: usize) -> u64;
        /// Bytes of a pool that are purged together.
        purge_unit_bytes() -> usize;
    }
}

/// The numbers by which blocks of a class are found; loaded once for many blocks.
#[derive(Clone, Copy)]
pub(crate) struct Locator<K> {
    reciprocal: u32,
    block_bytes: u32,
    /// Blocks in a pool.
    blocks: u32,
    kind: PhantomData<K>,
}

/// The blocks of one bitmap word, as a range of addresses.
#[derive(Clone, Copy)]
pub(crate) struct WordRange {
    start: usize,
    bytes: usize,
}

impl<K: Kind> Locator<K> {
    /// The blocks of word `word` of the pool that starts at `pool_start`.
    #[inline(always)]
    pub(crate) const fn word_range(self, pool_start: usize, word: usize) -> WordRange {
        let skip_bytes = word * WORD_BITS * self.block_bytes as usize;
        let rest_bytes = (self.blocks as usize * self.block_bytes as usize).saturating_sub(skip_bytes);
        let word_bytes = WORD_BITS * self.block_bytes as usize;
        let bytes = if rest_bytes < word_bytes { rest_bytes } else { word_bytes };
        WordRange { start: pool_start + skip_bytes, bytes }
    }

    /// Whether two blocks are near enough to share a bitmap word: cheap, and wrong only by saying yes.
    #[inline(always)]
    pub(crate) const fn may_share_word(self, one: usize, other: usize) -> bool {
        let word_bytes = WORD_BITS * self.block_bytes as usize;
        other.wrapping_sub(one).wrapping_add(word_bytes) < 2 * word_bytes
    }

    /// The quotient of `address`'s offset in `range` by the block size; `None` if the address is outside.
    #[inline(always)]
    pub(crate) const fn quotient_in(self, range: WordRange, address: usize) -> Option<Quotient<K>> {
        let offset = address.wrapping_sub(range.start);
        if offset < range.bytes { Some(Quotient::of(offset as u64 * self.reciprocal as u64)) } else { None }
    }

    /// The number of the block that starts `offset` bytes into its pool; `None` if no block does.
    ///
    /// Divides by multiplying with a rounded-up reciprocal (Granlund and Montgomery, PLDI 1994).
    #[inline(always)]
    pub(crate) const fn block_at(self, offset: usize) -> Option<usize> {
        let number = Quotient::<K>::of(offset as u64 * self.reciprocal as u64).number_or_more();
        if number < self.blocks { Some(number as usize) } else { None }
    }
}

/// An offset divided by a block size, as a fixed-point number; several can be joined by `|` to see if any is inexact.
///
/// The reciprocal exceeds `2^shift / block_bytes` by less than 1, and offsets are below a pool's bytes. So the fraction
/// of an exact quotient is below these (2^15; medium: 2^18), and that of any other at least `2^28 / 512 = 2^19` (medium:
/// `2^40 / 32,768 = 2^25`).
#[derive(Clone, Copy)]
pub(crate) struct Quotient<K>(u64, PhantomData<K>);

impl<K: Kind> Quotient<K> {
    /// A quotient that is exact.
    pub(crate) const EXACT: Self = Self::of(0);
    const INEXACT_BITS: u64 = (1 << K::RECIPROCAL_SHIFT) - (1 << K::INEXACT_SHIFT);

    #[inline(always)]
    const fn of(quotient: u64) -> Self {
        Self(quotient, PhantomData)
    }

    /// The quotient if it is exact, else more than the blocks of any pool: the bits that tell which are put above it.
    #[inline(always)]
    const fn number_or_more(self) -> u32 {
        ((self.0 >> K::INEXACT_SHIFT) as u32).rotate_right(K::RECIPROCAL_SHIFT - K::INEXACT_SHIFT)
    }

    /// The bit of the block in its word.
    #[inline(always)]
    pub(crate) const fn bit(self) -> u64 {
        1 << ((self.0 >> K::RECIPROCAL_SHIFT) & (WORD_BITS as u64 - 1))
    }

    /// A quotient that is exact only if both are.
    #[inline(always)]
    pub(crate) const fn join(self, other: Self) -> Self {
        Self::of(self.0 | other.0)
    }

    /// Whether the address is a block's start.
    #[inline(always)]
    pub(crate) const fn is_exact(self) -> bool {
        self.0 & Self::INEXACT_BITS == 0
    }
}

/// `ceil(2^28 / block_bytes)`: exact for every offset below `POOL_BYTES`, which a test checks one by one.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".data.rel.ro.pymalloc"))]
static RECIPROCALS: [u32; CLASS_COUNT] = {
    let mut table = [0; CLASS_COUNT];
    let mut number = 0;
    while number < CLASS_COUNT {
        let bytes = SizeClass::new(number as u8).block_bytes() as u64;
        table[number] = (1_u64 << Small::RECIPROCAL_SHIFT).div_ceil(bytes) as u32;
        number += 1;
    }
    table
};

/// Blocks in a pool, by class: a division saved on every refill and flush.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".data.rel.ro.pymalloc"))]
static POOL_BLOCKS: [u16; CLASS_COUNT] = {
    let mut table = [0; CLASS_COUNT];
    let mut number = 0;
    while number < CLASS_COUNT {
        table[number] = (POOL_BYTES / SizeClass::new(number as u8).block_bytes()) as u16;
        number += 1;
    }
    table
};

/// The reciprocal (`ceil(2^40 / block_bytes)`) and the blocks of a pool of each medium class.
static MEDIUM: [(u32, u32); MEDIUM_CLASS_COUNT] = {
    let mut table = [(0, 0); MEDIUM_CLASS_COUNT];
    let mut number = 0;
    while number < MEDIUM_CLASS_COUNT {
        let class = MediumClass::new(number as u8);
        let reciprocal = (1_u64 << Medium::RECIPROCAL_SHIFT).div_ceil(class.block_bytes() as u64);
        table[number] = (reciprocal as u32, (class.pool_bytes() / class.block_bytes()) as u32);
        number += 1;
    }
    table
};

/// Bytes of the object by which std unwinds a panic, where it has to lie at a multiple of 16 though its layout says 8;
/// else 0.
const EXCEPTION_BYTES: usize =
    if cfg!(all(target_env = "musl", target_arch = "x86_64", panic = "unwind")) { 56 } else { 0 };

/// The alignment in bytes that a block for `layout` gets: the layout's, but for one layout on one target.
///
/// The C++ ABI aligns an unwinder's exceptions to 16 bytes. Rust's std asks for 8 (until rust-lang/rust#161368), and
/// Rust's musl targets have LLVM's unwinder, which stores into them by instructions that fault at other places.
#[inline(always)]
pub(crate) const fn block_align(layout: Layout) -> usize {
    if EXCEPTION_BYTES != 0 && layout.size() == EXCEPTION_BYTES && layout.align() == 8 { 16 } else { layout.align() }
}

/// The block size in bytes that serves `layout`, or `None` when `layout` goes to the large allocator.
///
/// Sizes are rounded up to the layout's alignment, then to 8 bytes. (56 bytes aligned to 8 get 64 on x86-64 with musl,
/// where Rust's panics need an alignment that they don't ask for.)
///
/// ```
/// use std::alloc::Layout;
/// assert_eq!(pymalloc::class_bytes(Layout::new::<[u8; 20]>()), Some(24));
/// assert_eq!(pymalloc::class_bytes(Layout::from_size_align(20, 64).unwrap()), Some(64));
/// assert_eq!(pymalloc::class_bytes(Layout::new::<[u8; 513]>()), None);
/// ```
#[doc(alias = "nallocx")]
#[doc(alias = "mi_good_size")]
pub const fn class_bytes(layout: Layout) -> Option<usize> {
    match SizeClass::of(layout) {
        Some(class) => Some(class.block_bytes()),
        None => None,
    }
}

/// The number of the size class that serves `layout`, or `None` when `layout` goes to the large allocator.
///
/// It is the index of the class in [`Stats::classes`](crate::stats::Stats::classes).
///
/// ```
/// use std::alloc::Layout;
/// assert_eq!(pymalloc::class_number(Layout::new::<u64>()), Some(0));
/// assert_eq!(pymalloc::class_number(Layout::new::<[u8; 20]>()), Some(2));
/// assert_eq!(pymalloc::class_number(Layout::new::<[u8; 513]>()), None);
/// ```
pub const fn class_number(layout: Layout) -> Option<usize> {
    match SizeClass::of(layout) {
        Some(class) => Some(class.number()),
        None => None,
    }
}

/// Bytes that a block for `layout` takes: its class's, or, of a large request, at least the bytes asked for.
///
/// The layout alone decides, so there is no pointer to pass. To *use* the bytes beyond the layout's size, ask for them:
/// a layout of the usable size gets the same class, at the same cost. (The compiler takes `alloc` at its word, and may
/// treat an access beyond the size that was asked for as undefined.)
///
/// ```
/// use std::alloc::Layout;
/// assert_eq!(pymalloc::usable_bytes(Layout::new::<[u8; 20]>()), 24);
/// assert_eq!(pymalloc::usable_bytes(Layout::new::<[u8; 1000]>()), 1000);
/// ```
#[doc(alias = "malloc_usable_size")]
#[doc(alias = "mi_usable_size")]
#[doc(alias = "sallocx")]
pub const fn usable_bytes(layout: Layout) -> usize {
    match SizeClass::of(layout) {
        Some(class) => class.block_bytes(),
        None => layout.size(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every size near a power of two, and every one that can make a difference: a size or an alignment above
    /// `SMALL_MAX_BYTES` has a bit beyond the mask of the small ones in `size - 1` or `align - 1`, whatever the other
    /// bits are.
    fn sizes() -> impl Iterator<Item = usize> {
        let near = (0..usize::BITS).flat_map(|shift| {
            let power = 1_usize << shift;
            [power.wrapping_sub(1), power, power + 1, power.wrapping_add(SMALL_MAX_BYTES), !power, !power & !511]
        });
        (0..=1 << 16).chain(near).chain([usize::MAX])
    }

    #[test]
    fn every_size_and_alignment_has_the_smallest_class_that_fits_it() {
        for align_shift in 0..usize::BITS {
            let align = 1_usize << align_shift;
            for size in sizes() {
                let rounded = size.checked_next_multiple_of(align.max(CLASS_STEP_BYTES));
                let class = SizeClass::of_size_align(size, align);
                match rounded.filter(|&rounded| size != 0 && rounded <= SMALL_MAX_BYTES) {
                    Some(rounded) => {
                        let class = class.expect("a small layout has a class");
                        assert_eq!(class.block_bytes(), rounded, "size {size} align {align}");
                        assert_eq!(class.number(), rounded / CLASS_STEP_BYTES - 1);
                    }
                    None => assert_eq!(class, None, "size {size} align {align}"),
                }
            }
        }
    }

    #[test]
    fn numbers_and_classes_are_the_same_thing() {
        for (number, class) in SizeClass::all().enumerate() {
            assert_eq!((class.number(), SizeClass::from_number(number)), (number, Some(class)));
            assert_eq!(SizeClass::of_size_align(class.block_bytes(), 1), Some(class));
            assert_eq!(class.pool_blocks(), POOL_BYTES / class.block_bytes());
            let words = (0..class.bitmap_words()).map(|word| class.full_word(word));
            let bits: Vec<_> = words.flat_map(|word| (0..WORD_BITS).map(move |bit| word >> bit & 1 == 1)).collect();
            assert!(bits.iter().enumerate().all(|(block, &is_set)| is_set == (block < class.pool_blocks())));
            assert!(bits.len() >= class.pool_blocks() && bits.len() < class.pool_blocks() + WORD_BITS);
        }
        assert_eq!(SizeClass::all().count(), CLASS_COUNT);
        assert_eq!(SizeClass::all().last(), Some(SizeClass::LARGEST));
        for number in (CLASS_COUNT..1 << 16).chain([usize::MAX]) {
            assert_eq!(SizeClass::from_number(number), None);
        }
    }

    #[test]
    fn the_fraction_of_every_quotient_is_where_the_mask_looks_for_it() {
        for class in SizeClass::all() {
            let reciprocal = u64::from(class.locator().reciprocal);
            for offset in 0..POOL_BYTES {
                let quotient = offset as u64 * reciprocal;
                let fraction = quotient & ((1 << Small::RECIPROCAL_SHIFT) - 1);
                if offset.is_multiple_of(class.block_bytes()) {
                    assert!(fraction < 1 << 15);
                } else {
                    assert!(fraction >= 1 << 19);
                }
                assert_eq!(quotient >> Small::RECIPROCAL_SHIFT, (offset / class.block_bytes()) as u64);
            }
        }
    }

    #[test]
    fn a_sum_of_quotients_is_exact_if_and_only_if_all_are() {
        for class in SizeClass::all() {
            let locator = class.locator();
            let range = locator.word_range(0, 0);
            let quotients: Vec<_> = (0..WORD_BITS * class.block_bytes())
                .step_by(5)
                .filter_map(|at| locator.quotient_in(range, at))
                .collect();
            for one in &quotients {
                for other in quotients.iter().step_by(7) {
                    assert_eq!(one.join(*other).is_exact(), one.is_exact() && other.is_exact());
                }
            }
        }
    }

    #[test]
    fn blocks_that_share_a_word_may_and_far_ones_may_not() {
        for class in SizeClass::all() {
            let locator = class.locator();
            let word_bytes = WORD_BITS * class.block_bytes();
            let one = 1 << 40;
            for distance in 0..4 * word_bytes {
                for other in [one + distance, one - distance] {
                    let may = locator.may_share_word(one, other);
                    assert!(may || distance >= word_bytes, "{class:?} distance {distance}");
                    assert!(!may || distance <= word_bytes, "{class:?} distance {distance}");
                }
            }
            assert!(!locator.may_share_word(0, usize::MAX / 2) && !locator.may_share_word(usize::MAX / 2, 0));
        }
    }

    #[test]
    fn every_offset_in_a_pool_gives_the_block_that_starts_there_or_none() {
        for class in SizeClass::all() {
            for offset in 0..POOL_BYTES {
                let expected = offset.is_multiple_of(class.block_bytes()).then_some(offset / class.block_bytes());
                let expected = expected.filter(|&n| n < class.pool_blocks());
                assert_eq!(class.block_at(offset), expected, "{class:?} offset {offset}");
            }
        }
    }

    #[test]
    fn every_address_gives_its_bit_in_its_word_and_none_in_others() {
        let pool_start = 7 * POOL_BYTES;
        // All addresses of three pools, or only those near the word where that would take a minute.
        let near = if cfg!(debug_assertions) { 9 } else { POOL_BYTES };
        for class in SizeClass::all() {
            let locator = class.locator();
            for word in 0..class.bitmap_words() {
                let range = locator.word_range(pool_start, word);
                let first = word * WORD_BITS * class.block_bytes();
                let first = (pool_start + first).saturating_sub(near);
                for address in first..first + WORD_BITS * class.block_bytes() + 2 * near {
                    let number = address.checked_sub(pool_start).map(|offset| offset / class.block_bytes());
                    let inside = number.is_some_and(|n| n / WORD_BITS == word && n < class.pool_blocks());
                    let offset = address.wrapping_sub(pool_start);
                    let block = number.filter(|_| inside && offset.is_multiple_of(class.block_bytes()));
                    let quotient = locator.quotient_in(range, address);
                    assert_eq!(quotient.is_some(), inside, "{class:?} offset {offset}");
                    let Some(quotient) = quotient else { continue };
                    assert_eq!(quotient.is_exact(), block.is_some(), "{class:?} offset {offset}");
                    assert_eq!(quotient.join(Quotient::EXACT).is_exact(), block.is_some());
                    if let Some(block) = block {
                        assert_eq!(quotient.bit(), 1 << (block % WORD_BITS), "{class:?} offset {offset}");
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_of_a_class_are_aligned_to_every_alignment_its_layouts_can_have() {
        for align_shift in 0..=9 {
            for size in 1..=SMALL_MAX_BYTES {
                let align = 1 << align_shift;
                let class = SizeClass::of_size_align(size, align).expect("small");
                assert!(class.block_bytes().is_multiple_of(align.min(class.block_bytes())));
                assert!(class.block_bytes() >= align || align <= CLASS_STEP_BYTES);
                assert!(class.block_bytes().is_multiple_of(align) || align < CLASS_STEP_BYTES);
            }
        }
    }
}
