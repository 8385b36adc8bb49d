//! Sizes and estimates, written as tracemalloc writes them.

use core::fmt;

/// Bytes in the unit that makes the number easy to read: `126 B`, `4855 KiB`, `12.5 MiB`.
pub(crate) struct Bytes(pub(crate) f64);

/// The same with a sign.
pub(in crate::trace) struct SignedBytes(pub(in crate::trace) f64);

fn unit(bytes: f64) -> (f64, &'static str, usize) {
    let mut size = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        // CPython's limit: below it, a number of up to four or five digits is easier to compare than a fraction.
        if size.abs() < 10.0 * 1024.0 {
            return (size, unit, digits(size, unit));
        }
        size /= 1024.0;
    }
    (size, "TiB", digits(size, "TiB"))
}

fn digits(size: f64, unit: &str) -> usize {
    usize::from(size.abs() < 100.0 && unit != "B")
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, unit, digits) = unit(self.0);
        write!(f, "{size:.digits$} {unit}")
    }
}

impl fmt::Display for SignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, unit, digits) = unit(self.0);
        write!(f, "{size:+.digits$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_in_python() {
        // From `tracemalloc._format_size` of CPython 3.11.
        for (bytes, text) in [
            (0.0, "0 B"),
            (126.0, "126 B"),
            (10_239.0, "10239 B"),
            (10_240.0, "10.0 KiB"),
            (102_400.0, "100 KiB"),
            (4_971_520.0, "4855 KiB"),
            (10_485_760.0, "10.0 MiB"),
            (1_048_576_000.0, "1000 MiB"),
            (1_099_511_627_776.0 * 20.0, "20.0 TiB"),
            (1_099_511_627_776.0 * 2000.0, "2000 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(SignedBytes(4_534_272.0).to_string(), "+4428 KiB");
        assert_eq!(SignedBytes(-512.0).to_string(), "-512 B");
        assert_eq!(SignedBytes(0.0).to_string(), "+0 B");
    }
}
