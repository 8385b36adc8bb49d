//! Text built on the stack, for messages that must not allocate.

/// At most `MAX` bytes of text; the rest is cut off.
pub(crate) struct Text<const MAX: usize> {
    bytes: [u8; MAX],
    used: usize,
}

impl<const MAX: usize> Text<MAX> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; MAX], used: 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// Bytes that still fit.
    pub(crate) const fn room(&self) -> usize {
        MAX - self.used
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    pub(crate) fn push(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = byte;
                self.used += 1;
            }
        }
    }

    /// Pushes a number in decimal.
    pub(crate) fn push_number(&mut self, number: usize) {
        self.push_digits(number, 10, 1);
    }

    /// Pushes a number in hexadecimal.
    pub(crate) fn push_hex(&mut self, number: usize) {
        self.push_digits(number, 16, 1);
    }

    /// Pushes a byte as two hexadecimal digits.
    pub(crate) fn push_byte(&mut self, byte: u8) {
        self.push_digits(usize::from(byte), 16, 2);
    }

    fn push_digits(&mut self, number: usize, radix: usize, digits_min: usize) {
        let mut digits = [b'0'; 20];
        let mut rest = number;
        let mut used = 0;
        for place in digits.iter_mut().rev() {
            *place = b"0123456789abcdef"[(rest % radix) & 15];
            rest /= radix;
            used += 1;
            if rest == 0 && used >= digits_min {
                break;
            }
        }
        self.push(core::str::from_utf8(&digits[digits.len() - used..]).unwrap_or("?"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_full_and_long_text_is_cut() {
        for (number, text) in [(0, "0"), (512, "512"), (usize::MAX, "18446744073709551615")] {
            let mut line = Text::<192>::new();
            line.push_number(number);
            assert_eq!(line.bytes(), text.as_bytes());
        }
        let mut line = Text::<192>::new();
        line.push_hex(usize::MAX);
        line.push_byte(7);
        assert_eq!(line.bytes(), b"ffffffffffffffff07");
        line.push(&"x".repeat(500));
        assert_eq!((line.bytes().len(), line.room()), (192, 0));
        line.clear();
        assert_eq!((line.bytes().len(), line.room()), (0, 192));
    }
}
