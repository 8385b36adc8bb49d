//! The message before an abort: one line on stderr, written without allocating.

use crate::base::text::Text;
use crate::os;

/// What is impossible about a block: the caller's pointer is wrong, or the allocator's own state is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "hardened"), allow(dead_code, reason = "some are found only with the feature"))]
pub(crate) enum Impossible {
    /// No arena holds the address.
    NoArena,
    /// The address lies in an arena, but its pool holds no blocks.
    NoPool,
    /// The address lies in a pool of another class.
    OtherClass,
    /// No block starts there.
    NoBlockStart,
    /// The block is free.
    AlreadyFree,
    /// A block could start there, but none was ever handed out.
    NeverAllocated,
    /// A block in an arena was freed with the layout of a large one.
    SmallAsLarge,
    /// A free block is not zero any more.
    WrittenAfterFree,
    /// The program still uses a block that the allocator is about to hand out.
    HandedOutTwice,
    /// A pool of the caller's set is in no arena.
    PoolWithoutArena,
}

impl Impossible {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::NoArena => "free of an address in no arena",
            Self::NoPool => "free of an address in a pool that holds no blocks",
            Self::OtherClass => "free of a block of another size class than its layout's",
            Self::NoBlockStart => "free of an address that is not the start of a block",
            Self::AlreadyFree => "double free: block is already free",
            Self::NeverAllocated => "free of a block that was never allocated",
            Self::SmallAsLarge => "free of a small block with the layout of a large one",
            Self::WrittenAfterFree => "use after free: a free block was written into",
            Self::HandedOutTwice => "a block that is in use was to be handed out again",
            Self::PoolWithoutArena => "a pool in use is in no arena: the allocator's own data was overwritten",
        }
    }
}

/// Says what is wrong with the block at `address`, passed as one of `block_bytes`, and aborts.
#[cold]
#[inline(never)]
pub(crate) fn impossible(what: Impossible, address: usize, block_bytes: usize) -> ! {
    // One line: longer text is cut.
    let mut line = Text::<192>::new();
    line.push("pymalloc: ");
    line.push(what.text());
    line.push(" (address 0x");
    line.push_hex(address);
    line.push(", size class of ");
    line.push_number(block_bytes);
    line.push(" bytes)\n");
    os::write_stderr(line.bytes());
    os::abort()
}

/// Says that the calling thread is inside the allocator already and would wait for itself; aborts.
#[cold]
#[inline(never)]
pub(crate) fn reentered() -> ! {
    os::write_stderr(
        b"pymalloc: a signal handler allocates or frees, and its thread was inside the allocator already\n",
    );
    os::abort()
}

/// Says that no allocator knows the block at `address`, and aborts. For a library that passes unknown blocks on to
/// another allocator.
#[cfg(feature = "__raw")]
#[cold]
#[inline(never)]
pub(crate) fn unknown(address: usize) -> ! {
    let mut line = Text::<192>::new();
    line.push("pymalloc: free of an address that no allocator here knows: no block starts there, ");
    line.push("or it is one of a library's own malloc (address 0x");
    line.push_hex(address);
    line.push(")\n");
    os::write_stderr(line.bytes());
    os::abort()
}
