//! The last words before an abort: one line on stderr, written without allocating.

use crate::os;

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

/// A line of at most so many bytes, built on the stack; longer text is cut.
struct Line {
    bytes: [u8; 192],
    used: usize,
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for &byte in text {
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = byte;
                self.used += 1;
            }
        }
    }

    fn push_number(&mut self, number: usize, radix: usize) {
        let mut digits = [0_u8; 20];
        let mut rest = number;
        let mut used = 0;
        for place in digits.iter_mut().rev() {
            *place = b"0123456789abcdef"[(rest % radix) & 15];
            rest /= radix;
            used += 1;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[digits.len() - used..]);
    }
}

/// Says what is wrong with the block at `address`, passed as one of `block_bytes`, and aborts.
#[cold]
#[inline(never)]
pub(crate) fn impossible(what: Impossible, address: usize, block_bytes: usize) -> ! {
    let mut line = Line { bytes: [0; 192], used: 0 };
    line.push(b"pymalloc: ");
    line.push(what.text().as_bytes());
    line.push(b" (address 0x");
    line.push_number(address, 16);
    line.push(b", size class of ");
    line.push_number(block_bytes, 10);
    line.push(b" bytes)\n");
    os::write_stderr(&line.bytes[..line.used]);
    os::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_full_and_long_lines_are_cut() {
        for (number, radix, text) in [
            (0, 10, "0"),
            (512, 10, "512"),
            (usize::MAX, 16, "ffffffffffffffff"),
            (usize::MAX, 10, "18446744073709551615"),
        ] {
            let mut line = Line { bytes: [0; 192], used: 0 };
            line.push_number(number, radix);
            assert_eq!(&line.bytes[..line.used], text.as_bytes());
        }
        let mut line = Line { bytes: [0; 192], used: 0 };
        line.push(&[b'x'; 500]);
        assert_eq!(line.used, 192);
    }
}
