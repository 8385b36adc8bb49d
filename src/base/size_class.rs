//! Size classes: the class of a [`Layout`], and the number of a block from its place in its pool.
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

/// A size class of one kind.
///
/// # Invariants
/// The number is below `K::CLASSES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct Class<K>(u8, PhantomData<K>);

/// One of the 64 small size classes: blocks of class 0 have 8 bytes, those of class 63 have 512.
pub(crate) type SizeClass = Class<Small>;

/// One of the 48 medium size classes: blocks of class 0 have 576 bytes, those of class 47 have 32,768.
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
    /// The class that serves a size with an alignment (a power of two), in bytes. `None` if the request is small, or
    /// too large.
    ///
    /// Each doubling has eight classes. So the class follows from the place of the highest bit in the last byte's
    /// offset, and from the three bits behind it. A block's size is a multiple of an eighth of the power of two below
    /// it. A size that was rounded up to a larger alignment is such a multiple already.
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

    /// Number of the arena's pools that make one pool of this class.
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

    /// Words of a bitmap with one bit per block.
    #[inline(always)]
    pub(crate) const fn bitmap_words(self) -> usize {
        self.pool_blocks().div_ceil(WORD_BITS)
    }

    /// Word `word` of a bitmap in which all blocks of a pool are set.
    pub(crate) const fn full_word(self, word: usize) -> u64 {
        let bits = self.pool_blocks() - word * WORD_BITS;
        if bits >= WORD_BITS { u64::MAX } else { (1 << bits) - 1 }
    }

    /// The locator, which finds blocks of this class by their place.
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

/// A class of either kind, for code that handles pools of both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AnyClass(u8);

/// Defines functions of [`AnyClass`] that call those of its class.
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
        /// Number of the arena's pools that make one pool of this class.
        pool_pools() -> usize;
        /// Blocks in a pool.
        pool_blocks() -> usize;
        /// Words of a bitmap with one bit per block.
        bitmap_words() -> usize;
        /// Word `word` of a bitmap in which all blocks of a pool are set.
        full_word(word: usize) -> u64;
        /// Bytes of a pool that are purged together.
        purge_unit_bytes() -> usize;
    }
}

/// The numbers that turn an offset into a block's number; loaded once for many blocks.
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

    /// Whether two blocks are near enough to share a bitmap word. A cheap test: a "yes" may be wrong, a "no" never is.
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
/// of an exact quotient is below the pool's bytes (2^15; medium: 2^18). The fraction of any other quotient is at least
/// `2^28 / 512 = 2^19` (medium: `2^40 / 32,768 = 2^25`).
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

    /// The quotient if it is exact, otherwise a number larger than any pool's blocks: the bits that show inexactness
    /// are moved above the quotient.
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

/// Bytes of the object with which std unwinds a panic, on targets where it needs an address divisible by 16 although
/// its layout asks for 8; otherwise 0.
const EXCEPTION_BYTES: usize =
    if cfg!(all(target_env = "musl", target_arch = "x86_64", panic = "unwind")) { 56 } else { 0 };

/// The alignment in bytes of a block for `layout`: the layout's own, with one exception on one target.
///
/// The C++ ABI aligns an unwinder's exceptions to 16 bytes. Rust's std asks for 8 (until rust-lang/rust#161368), and
/// Rust's musl targets have LLVM's unwinder, whose stores into them fault at other addresses.
#[inline(always)]
pub(crate) const fn block_align(layout: Layout) -> usize {
    if EXCEPTION_BYTES != 0 && layout.size() == EXCEPTION_BYTES && layout.align() == 8 { 16 } else { layout.align() }
}

/// The block size in bytes that serves `layout`, or `None` when `layout` goes to the large allocator.
///
/// Sizes are rounded up to the layout's alignment, then to 8 bytes. (On x86-64 with musl, 56 bytes aligned to 8 get 64:
/// Rust's panics need an alignment there that they don't ask for.)
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

/// Bytes that a block for `layout` takes: those of its class; for a large request, at least the bytes asked for.
///
/// The layout alone decides, so there is no pointer to pass. To *use* the bytes beyond the layout's size, ask for them:
/// a layout of the usable size gets the same class, at the same cost. (The compiler relies on the size that `alloc` was
/// asked for, and may treat an access beyond it as undefined.)
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
mod tests;
