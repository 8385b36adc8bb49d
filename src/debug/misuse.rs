//! The last line after a dump: what was done wrong, and which call found it.

use core::alloc::Layout;

use super::dump::{Report, dump, reach_bytes};
use super::guards::Part;
use super::table::{Record, RecordState};
use crate::os;

/// The call that found the misuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    Free,
    Realloc,
    CheckAll,
    /// A block leaves the quarantine.
    Reuse,
}

impl Call {
    const fn text(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Realloc => "realloc",
            Self::CheckAll => "check_all",
            Self::Reuse => "end of quarantine",
        }
    }
}

/// What is wrong with a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Misuse {
    /// Written before its start or beyond its end.
    BadPad(Part),
    /// Passed to `free` or `realloc` after it was freed.
    Freed,
    /// Passed with this layout, which is not its own.
    OtherLayout(Layout),
    /// Written after it was freed.
    UseAfterFree,
}

/// Dumps the block, says what is wrong with it, and aborts.
#[cold]
#[inline(never)]
pub(super) fn abort_on(misuse: Misuse, call: Call, record: &Record) -> ! {
    let mut report = Report::new();
    // SAFETY: every state but `Gone` says that the block is mapped, and `dump` reads no block that is gone.
    unsafe { dump(&mut report, record) };
    report.text("pymalloc: ").text(call.text()).text(": ");
    match misuse {
        Misuse::BadPad(part) => {
            let (name, place) = match part {
                Part::Leading => ("leading", "before the block's start"),
                Part::Data | Part::Trailing => ("trailing", "beyond the block's end"),
            };
            // SAFETY: only live and dying blocks can have bad pads, and they are mapped.
            let reach = unsafe { reach_bytes(record, part) };
            report.text("bad ").text(name).text(" pad byte: written up to ").bytes(reach).text(" ").text(place);
        }
        Misuse::Freed if call == Call::Free => {
            report.text("double free: block is already free");
        }
        Misuse::Freed => {
            report.text("block is already free");
        }
        Misuse::OtherLayout(layout) => {
            report.text("wrong layout: ").bytes(layout.size()).text(" aligned to ").number(layout.align());
            report.text(", but allocated as ").bytes(record.bytes).text(" aligned to ").number(record.align());
        }
        Misuse::UseAfterFree => {
            report.text("use after free: a freed block was written into");
        }
    }
    finish(&mut report, record.start.addr(), Some(record.serial))
}

/// Dumps the block around `address`, if there is one, says that no block starts there, and aborts.
#[cold]
#[inline(never)]
pub(super) fn abort_on_unknown(address: usize, call: Call, around: Option<&Record>) -> ! {
    let mut report = Report::new();
    if let Some(record) = around {
        // SAFETY: `around` gives no block that is gone.
        unsafe { dump(&mut report, record) };
    }
    report.text("pymalloc: ").text(call.text()).text(": no block starts at this address");
    if let Some(record) = around {
        let start = record.start.addr();
        let (bytes, side) = if address >= start { (address - start, " after") } else { (start - address, " before") };
        report.text("; it lies ").bytes(bytes).text(side).text(" the start of a ");
        report.text(if record.state == RecordState::Live { "live" } else { "freed" }).text(" one");
    }
    finish(&mut report, address, None)
}

fn finish(report: &mut Report, address: usize, serial: Option<u64>) -> ! {
    report.text(" (address ").address(address);
    if let Some(serial) = serial {
        report.text(", serial number ").number(serial as usize);
    }
    report.text(")\n").flush();
    os::abort()
}
