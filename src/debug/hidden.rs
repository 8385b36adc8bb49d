//! Addresses of blocks that are no references to them.
//!
//! The records lie in the system's memory. A search of all memory for references (`graph`, LeakSanitizer) would find a
//! reference to each block there, and so no leaked block.

use core::num::NonZero;
use core::ptr::NonNull;

/// The first byte of a block's part, kept with all bits of its address inverted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hidden(NonNull<u8>);

// SAFETY: an address; the protocol of the register says which thread may touch the block.
unsafe impl Send for Hidden {}

impl Hidden {
    pub(super) fn new(start: NonNull<u8>) -> Self {
        Self(inverted(start))
    }

    pub(super) fn get(self) -> NonNull<u8> {
        inverted(self.0)
    }

    pub(super) fn addr(self) -> usize {
        self.get().addr().get()
    }
}

/// Its own inverse. No block ends at the address of all ones, so none is inverted to null.
fn inverted(start: NonNull<u8>) -> NonNull<u8> {
    start.map_addr(|address| NonZero::new(!address.get()).unwrap_or(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_again_and_is_not_there_meanwhile() {
        let start = NonNull::from(Box::leak(Box::new(7_u8)));
        let hidden = Hidden::new(start);
        assert_eq!((hidden.get(), hidden.addr()), (start, start.addr().get()));
        assert_ne!(hidden.0, start);
        // SAFETY: leaked above, and nobody else's; the address came through the inversion with its provenance.
        assert_eq!(*unsafe { Box::from_raw(hidden.get().as_ptr()) }, 7);
    }
}
