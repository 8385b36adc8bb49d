//! The last words before an abort: one line on stderr, written without allocating.

use crate::os;
use crate::text::Text;

/// What was found impossible: the caller's pointer, or the allocator's own state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Impossible {
    /// No arena holds the address.
    NoArena,
    /// The address lies in an arena, in a pool that holds no blocks.
    NoPool,
    /// The address lies in a pool of another class.
    OtherClass,
    /// No block starts there.
    NoBlockStart,
    /// The block is free.
    AlreadyFree,
}

impl Impossible {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::NoArena => "free of an address in no arena",
            Self::NoPool => "free of an address in a pool that holds no blocks",
            Self::OtherClass => "free of a block of another size class than its layout's",
            Self::NoBlockStart => "free of an address that is not the start of a block",
            Self::AlreadyFree => "double free: block is already free",
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
