//! Rules that lead from a frame to its caller's, by return address. With them, a step of a walk up the stack is as
//! cheap as a few loads. x86-64 only.
//!
//! The system's unwinder looks up and evaluates the unwind information (`.eh_frame`) of each frame anew, which takes
//! some 100 ns. Here that is done once for each return address, and the result is kept. A rule describes a frame of the
//! following kind. Nearly all frames are of it:
//! - The frame ends a fixed number of bytes above the stack pointer or the frame pointer, or where a word beside the
//!   frame pointer says (frames to which GCC gives a larger alignment).
//! - The caller's frame pointer is the same, or is saved at a fixed place in the frame.
//! - The return address is the word below the frame's end.
//!
//! framehop does the same for profilers; here, all threads read the table without a lock.
//!
//! # Protocol
//! Entries are written under `LEARNING`, rule first, and do not change until the next session starts. A walk that is
//! under way then belongs to a session that is over: its stack is refused (`stacks`). Whatever a rule says, a walk
//! reads nothing outside of the thread's own stack. `LEARNING` is among the last locks in the lock order: a thread that
//! holds it takes no other lock, allocates nothing and frees nothing.
//!
//! Learning allocates nothing, and needs [`LEARN_BYTES`] of stack at most.

use core::sync::atomic::{AtomicU64, Ordering};

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, NativeEndian, Register, RegisterRule, UnwindContext,
    UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow, X86_64,
};

use super::loaded::{self, Particulars};
use super::walk;
use crate::protocols::lock::Lock;

/// Entries of the table, a power of two.
const ENTRIES: usize = 1 << 15;
/// Places at which an address may be, from its home on.
const PROBES: usize = 16;

/// From a frame to its caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// Nothing is known of the frame, or it is of another kind.
    Other,
    /// There was no room on the stack to look it up; never kept.
    NoRoom,
    /// There is no caller.
    Outermost,
    Caller {
        /// Whether the frame's end is counted from the frame pointer, rather than the stack pointer.
        from_bp: bool,
        end_bytes: u32,
        /// How far below the frame's end the caller's frame pointer is; 0 if it is in its register.
        bp_below_bytes: u16,
    },
    /// The word `end_below_bp` bytes below the frame pointer says where the frame ends; the caller's frame pointer is
    /// saved where the frame pointer points to.
    Aligned { end_below_bp: u16 },
}

/// A rule in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packed(u64);

impl Packed {
    pub(super) const OTHER: Self = Rule::Other.pack();

    /// The fields of a [`Rule::Caller`], in bytes. Nearly all rules are of this kind.
    #[inline(always)]
    pub(super) const fn caller(self) -> Option<(bool, usize, usize)> {
        if self.0 & 3 != 2 {
            return None;
        }
        Some((self.0 & 4 != 0, (self.0 >> 32) as usize, (self.0 >> 16) as u16 as usize))
    }

    pub(super) const fn unpack(self) -> Rule {
        match (self.caller(), self.0 & 3) {
            (Some((from_bp, end_bytes, bp_below_bytes)), _) => {
                Rule::Caller { from_bp, end_bytes: end_bytes as u32, bp_below_bytes: bp_below_bytes as u16 }
            }
            (None, 1) => Rule::Outermost,
            (None, 3) => Rule::Aligned { end_below_bp: (self.0 >> 16) as u16 },
            _ if self.0 == Rule::NoRoom.pack().0 => Rule::NoRoom,
            _ => Rule::Other,
        }
    }
}

impl Rule {
    const fn pack(self) -> Packed {
        Packed(match self {
            Self::Other => 0,
            Self::NoRoom => 4,
            Self::Outermost => 1,
            Self::Aligned { end_below_bp } => 3 | (end_below_bp as u64) << 16,
            Self::Caller { from_bp, end_bytes, bp_below_bytes } => {
                2 | (from_bp as u64) << 2 | (bp_below_bytes as u64) << 16 | (end_bytes as u64) << 32
            }
        })
    }
}

struct Entry {
    /// 0 if empty.
    pc: AtomicU64,
    rule: AtomicU64,
}

static RULES: [Entry; ENTRIES] = [const { Entry { pc: AtomicU64::new(0), rule: AtomicU64::new(0) } }; ENTRIES];

pub(in crate::trace) const TABLE_BYTES: usize = size_of::<[Entry; ENTRIES]>();

/// The most bytes of stack that learning a rule takes. By `tests/trace_stack.rs` it takes 3 KiB, and 10 KiB in an
/// unoptimised build. A build with debug assertions counts as unoptimised.
const LEARN_BYTES: usize = if cfg!(debug_assertions) { 12 << 10 } else { 4 << 10 };

/// Memory for evaluating one function's unwind information. It is not on the stack, and has room for more registers
/// than a function of x86-64 saves.
struct Storage;

impl UnwindContextStorage<usize> for Storage {
    type Rules = [(Register, RegisterRule<usize>); 24];
    type Stack = [UnwindTableRow<usize, Self>; 4];
}

type Context = UnwindContext<usize, Storage>;

/// Holds a context during a session.
static LEARNING: Lock<Option<Box<Context>>> = Lock::new(None);

/// Forgets all rules, for a session.
pub(in crate::trace) fn begin() {
    let context = Box::new(Context::new_in());
    let old = LEARNING.lock().with(|learning| {
        for entry in &RULES {
            // Relaxed (both): see *Protocol*.
            entry.pc.store(0, Ordering::Relaxed);
            entry.rule.store(0, Ordering::Relaxed);
        }
        learning.replace(context)
    });
    drop(old);
}

/// Gives memory back after a session.
pub(in crate::trace) fn end() {
    let old = LEARNING.lock().with(Option::take);
    drop(old);
}

/// The rule of a return address with its module (`loaded::word`).
///
/// # Safety
/// The calling thread returns to the address, which keeps its module loaded.
#[inline(always)]
pub(super) unsafe fn rule(word: usize) -> Packed {
    let home = (word as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - ENTRIES.trailing_zeros());
    for probe in 0..PROBES {
        let entry = &RULES[(home as usize + probe) & (ENTRIES - 1)];
        // Acquire: pairs with the Release in `learn`; the rule is written by then.
        let known = entry.pc.load(Ordering::Acquire);
        if known == word as u64 {
            // Relaxed: ordered by the address.
            return Packed(entry.rule.load(Ordering::Relaxed));
        }
        if known == 0 {
            // SAFETY: the caller's promise.
            return unsafe { learn(word, home as usize) }.pack();
        }
    }
    Packed::OTHER
}

/// Looks an address up and keeps its rule.
///
/// # Safety
/// As for [`rule`].
#[cold]
#[inline(never)]
unsafe fn learn(word: usize, home: usize) -> Rule {
    if !walk::has_room(LEARN_BYTES) {
        return Rule::NoRoom;
    }
    let Some(particulars) = loaded::particulars(loaded::number_of(word)) else { return Rule::Other };
    LEARNING.lock().with(|context| {
        let Some(context) = context else { return Rule::Other };
        // SAFETY: the caller's promise.
        let rule = unsafe { look_up(&particulars, loaded::address_of(word), context) }.unwrap_or(Rule::Other);
        for probe in 0..PROBES {
            let entry = &RULES[(home + probe) & (ENTRIES - 1)];
            // Relaxed (both): written under the lock only.
            match entry.pc.load(Ordering::Relaxed) {
                0 => {
                    entry.rule.store(rule.pack().0, Ordering::Relaxed);
                    // Release: pairs with the Acquire in `rule`.
                    entry.pc.store(word as u64, Ordering::Release);
                    break;
                }
                known if known == word as u64 => break,
                _ => {}
            }
        }
        rule
    })
}

/// The debug information's rule; `None` if there is none, or it is of another kind.
///
/// # Safety
/// The module stays loaded meanwhile.
unsafe fn look_up(module: &Particulars, pc: usize, context: &mut Context) -> Option<Rule> {
    // SAFETY: segments that the loader mapped, as the caller says, and that are only read.
    let bytes = |(start, end): (usize, usize)| unsafe {
        core::slice::from_raw_parts(core::ptr::with_exposed_provenance::<u8>(start), end.saturating_sub(start))
    };
    let bases = BaseAddresses::default().set_eh_frame_hdr(module.table.0 as u64);
    let header = EhFrameHdr::new(bytes(module.table), NativeEndian).parse(&bases, 8).ok()?;
    let gimli::Pointer::Direct(frames_start) = header.eh_frame_ptr() else { return None };
    let (segment_start, segment_end) = module.table_segment;
    let frames_start = frames_start as usize;
    if !(segment_start..segment_end).contains(&frames_start) {
        return None;
    }
    // The section ends before the segment does, and the table leads to its entries.
    let frames = EhFrame::from(EndianSlice::new(bytes((frames_start, segment_end)), NativeEndian));
    let bases = bases.set_eh_frame(frames_start as u64);
    // One less than the return address: the call itself, not the instruction after it.
    let row = header
        .table()?
        .unwind_info_for_address(&frames, &bases, context, pc as u64 - 1, EhFrame::cie_from_offset)
        .ok()?;
    of_row(row, &frames)
}

type Frames<'bytes> = EhFrame<EndianSlice<'bytes, NativeEndian>>;

fn of_row(row: &UnwindTableRow<usize, Storage>, frames: &Frames<'_>) -> Option<Rule> {
    match row.register(X86_64::RA) {
        Some(RegisterRule::Offset(-8)) => {}
        Some(RegisterRule::Undefined) => return Some(Rule::Outermost),
        _ => return None,
    }
    let (from_bp, end_bytes) = match *row.cfa() {
        CfaRule::RegisterAndOffset { register: X86_64::RSP, offset } => (false, offset),
        CfaRule::RegisterAndOffset { register: X86_64::RBP, offset } => (true, offset),
        CfaRule::Expression(expression) => return aligned(row, expression, frames),
        CfaRule::RegisterAndOffset { .. } => return None,
    };
    let bp_below_bytes = match row.register(X86_64::RBP) {
        // Without a rule it is unchanged: the calling convention demands that functions keep it.
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => 0,
        Some(RegisterRule::Offset(offset)) => u16::try_from(-offset).ok()?,
        _ => return None,
    };
    Some(Rule::Caller { from_bp, end_bytes: u32::try_from(end_bytes).ok()?, bp_below_bytes })
}

/// The rule of a frame that GCC aligned. GCC writes its end as `DW_OP_breg6 −n; DW_OP_deref`, and the place of the
/// caller's frame pointer as `DW_OP_breg6 0`.
fn aligned(row: &UnwindTableRow<usize, Storage>, end: UnwindExpression<usize>, frames: &Frames<'_>) -> Option<Rule> {
    const BREG6: u8 = 0x76;
    const DEREF: u8 = 0x06;
    let Some(RegisterRule::Expression(saved)) = row.register(X86_64::RBP) else { return None };
    let (end, saved) = (end.get(frames).ok()?.0, saved.get(frames).ok()?.0);
    match (end.slice(), saved.slice()) {
        // A signed number of 7 bits, negative.
        (&[BREG6, below @ 0x40..=0x7f, DEREF], [BREG6, 0]) => {
            Some(Rule::Aligned { end_below_bp: 0x80 - u16::from(below) })
        }
        _ => None,
    }
}

/// Takes the lock, for a fork.
pub(in crate::trace) fn acquire() {
    let _acquired = LEARNING.acquire();
}

/// Frees the lock.
///
/// # Safety
/// After [`acquire`], on the same thread or in its forked child.
pub(in crate::trace) unsafe fn release() {
    // SAFETY: the caller took it.
    unsafe { LEARNING.release() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_comes_back_as_it_was_packed() {
        for rule in [
            Rule::Other,
            Rule::NoRoom,
            Rule::Outermost,
            Rule::Aligned { end_below_bp: 64 },
            Rule::Caller { from_bp: false, end_bytes: 8, bp_below_bytes: 0 },
            Rule::Caller { from_bp: true, end_bytes: u32::MAX, bp_below_bytes: u16::MAX },
        ] {
            assert_eq!(rule.pack().unpack(), rule);
        }
    }
}
