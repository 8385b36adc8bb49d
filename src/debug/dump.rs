//! The dump of a block before an abort, in the format of CPython's `_PyObject_DebugDumpAddress`. It is written to
//! stderr without allocating.

use super::guards::{DEAD_BYTE, FORBIDDEN_BYTE, PAD_BYTES, Part};
use super::origin;
use super::table::{Record, RecordState};
use crate::base::text::Text;
use crate::os;

/// Most damaged bytes that are shown one by one; the others are counted.
const DAMAGED_SHOWN: usize = 16;
/// Bytes of the data shown at each end.
const DATA_SHOWN: usize = 8;

/// Text for stderr, collected so that few writes are needed.
pub(super) struct Report(Text<1024>);

impl Report {
    pub(super) const fn new() -> Self {
        Self(Text::new())
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        if self.0.room() < text.len() {
            self.flush();
        }
        self.0.push(text);
        self
    }

    pub(super) fn number(&mut self, number: usize) -> &mut Self {
        if self.0.room() < 20 {
            self.flush();
        }
        self.0.push_number(number);
        self
    }

    /// Adds an address in hexadecimal.
    pub(super) fn address(&mut self, address: usize) -> &mut Self {
        self.text("0x");
        if self.0.room() < 20 {
            self.flush();
        }
        self.0.push_hex(address);
        self
    }

    fn byte(&mut self, byte: u8) -> &mut Self {
        if self.0.room() < 2 {
            self.flush();
        }
        self.0.push_byte(byte);
        self
    }

    /// Adds a number of bytes with its unit: "1 byte", "2 bytes".
    pub(super) fn bytes(&mut self, bytes: usize) -> &mut Self {
        self.number(bytes).text(if bytes == 1 { " byte" } else { " bytes" })
    }

    pub(super) fn flush(&mut self) {
        os::write_stderr(self.0.bytes());
        self.0.clear();
    }
}

/// The bytes of a part.
///
/// # Safety
/// The block is mapped and all its bytes are initialised.
unsafe fn bytes_of(record: &Record, part: Part) -> &[u8] {
    let (start, bytes) = record.part(part);
    // SAFETY: inside the block.
    unsafe { core::slice::from_raw_parts(start, bytes) }
}

/// How far a pad is damaged: the distance from the program's part to the farthest damaged byte, at least 1.
///
/// # Safety
/// The block is mapped.
pub(super) unsafe fn reach_bytes(record: &Record, part: Part) -> usize {
    // SAFETY: the caller's promise; pads were filled by us.
    let bytes = unsafe { bytes_of(record, part) };
    let damaged = |&byte: &u8| byte != FORBIDDEN_BYTE;
    match part {
        Part::Leading => bytes.len() - bytes.iter().position(damaged).unwrap_or(bytes.len()),
        Part::Trailing => bytes.iter().rposition(damaged).map_or(0, |last| last + 1),
        Part::Data => 0,
    }
}

/// Dumps a block.
///
/// # Safety
/// The block is mapped, unless its record says that it is gone.
pub(super) unsafe fn dump(report: &mut Report, record: &Record) {
    report.text("Debug memory block at address p=").address(record.start.addr());
    report.text(": serial number ").number(record.serial as usize).text("\n    ");
    report.bytes(record.bytes).text(" originally requested, aligned to ").number(record.align()).text("\n");
    match record.state {
        RecordState::Gone => {
            report.text("    The block was freed, and its memory given back.\n");
        }
        RecordState::Dead => {
            report.text("    The block was freed, and is in quarantine.\n");
            // SAFETY: the caller's promise.
            unsafe {
                dump_part(report, record, Part::Leading, DEAD_BYTE);
                dump_part(report, record, Part::Data, DEAD_BYTE);
                dump_part(report, record, Part::Trailing, DEAD_BYTE);
            }
        }
        RecordState::Dying => {
            report.text("    Another thread is freeing the block.\n");
        }
        RecordState::Live => {
            // SAFETY: the caller's promise.
            unsafe {
                dump_part(report, record, Part::Leading, FORBIDDEN_BYTE);
                dump_part(report, record, Part::Trailing, FORBIDDEN_BYTE);
                dump_data(report, record);
            }
        }
    }
    let mut known = false;
    for (what, number) in [("allocated", record.allocated_at), ("freed", record.freed_at)] {
        let mut begun = false;
        known |= origin::print(number, &mut |line| {
            if !core::mem::replace(&mut begun, true) {
                report.text("\nMemory block ").text(what).text(" at (most recent call first):\n");
            }
            report.text(line);
        });
    }
    if !known {
        report.text("\nEnable tracing to get the memory block's allocation traceback\n");
    }
    report.text("\n");
}

/// Says whether a part is all `expected`; if not, shows it byte by byte.
///
/// # Safety
/// As for [`bytes_of`].
unsafe fn dump_part(report: &mut Report, record: &Record, part: Part, expected: u8) {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes_of(record, part) };
    let name = if expected == DEAD_BYTE { "DEADBYTE" } else { "FORBIDDENBYTE" };
    report.text("    The ").number(bytes.len());
    match part {
        Part::Leading => report.text(" pad bytes at p-").number(bytes.len()),
        Part::Data => report.text(" data bytes at p"),
        Part::Trailing => report.text(" pad bytes at tail=").address(record.start.addr().wrapping_add(record.bytes)),
    };
    let damaged = bytes.iter().filter(|&&byte| byte != expected).count();
    if damaged == 0 {
        report.text(" are ").text(name).text(", as expected.\n");
        return;
    }
    report.text(" are not all ").text(name).text(" (0x").byte(expected).text("):\n");
    // Small pads are shown whole, as in CPython; of larger parts, only the damaged bytes.
    let whole = bytes.len() <= PAD_BYTES;
    let mut shown = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if !whole && (byte == expected || shown == DAMAGED_SHOWN) {
            continue;
        }
        shown += 1;
        report.text("        at ");
        match part {
            Part::Leading => report.text("p-").number(bytes.len() - index),
            Part::Data => report.text("p+").number(index),
            Part::Trailing => report.text("tail+").number(index),
        };
        report.text(": 0x").byte(byte).text(if byte == expected { "\n" } else { " *** OUCH\n" });
    }
    if !whole && damaged > shown {
        report.text("        and ").number(damaged - shown).text(" more\n");
    }
}

/// Shows both ends of the data.
///
/// # Safety
/// The block is mapped.
unsafe fn dump_data(report: &mut Report, record: &Record) {
    report.text("    Data at p:");
    for index in 0..record.bytes {
        if index == DATA_SHOWN && record.bytes > 2 * DATA_SHOWN {
            report.text(" ...");
        }
        if index < DATA_SHOWN || index + DATA_SHOWN >= record.bytes {
            // Volatile: the program may not have initialised all bytes; the dump shows whatever is there.
            // SAFETY: inside the block.
            let byte = unsafe { record.start.get().as_ptr().wrapping_add(index).read_volatile() };
            report.text(" ").byte(byte);
        }
    }
    report.text("\n");
}
