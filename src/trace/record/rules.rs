//! The way from a frame to its caller's, by return address: what makes a walk up the stack as cheap as a few loads.
//!
//! The system's unwinder looks up and evaluates the debug information (`.eh_frame`) of each frame anew, some 100 ns.
//! Here that is done once for each return address, and the result kept, if it is of the kind that nearly all are: the
//! frame ends so many bytes above the stack pointer, or above the frame pointer; the caller's frame pointer is the
//! same, or saved at a fixed place in the frame; and the return address is the word below the frame's end. What
//! framehop does for profilers, with a table that all threads read without a lock.
//!
//! A walk that meets anything else, or code outside of the program's own file, of this crate's and of the C library
//! (which stay mapped for ever), is the unwinder's. x86-64 only.
//!
//! # Protocol
//! Entries are written under `CODE`, rule first, and never change until the next session starts. A walk that is under
//! way then belongs to a session that is over: its stack is refused (`stacks`), and it reads nothing outside of the
//! thread's own stack whatever a rule says.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use gimli::{
    BaseAddresses, CfaRule, EhFrameHdr, EndianSlice, NativeEndian, RegisterRule, UnwindContext, UnwindSection, X86_64,
};

use super::memory::Filled;
use crate::protocols::lock::Lock;

/// Entries of the table, a power of two.
const ENTRIES: usize = 1 << 15;
/// Places at which an address may be, from its home on.
const PROBES: usize = 16;

/// A frame: a return address into its function, and the registers after that return.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(in crate::trace) struct Frame {
    pub(in crate::trace) pc: usize,
    pub(in crate::trace) sp: usize,
    pub(in crate::trace) bp: usize,
}

/// From a frame to its caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// The unwinder knows, perhaps.
    Other,
    /// There is no caller.
    Outermost,
    Caller {
        /// Whether the frame's end is counted from the frame pointer, rather than the stack pointer.
        from_bp: bool,
        end_bytes: u32,
        /// How far below the frame's end the caller's frame pointer is; 0 if it is in its register.
        bp_below_bytes: u16,
    },
}

impl Rule {
    const fn pack(self) -> u64 {
        match self {
            Self::Other => 0,
            Self::Outermost => 1,
            Self::Caller { from_bp, end_bytes, bp_below_bytes } => {
                2 | (from_bp as u64) << 2 | (bp_below_bytes as u64) << 16 | (end_bytes as u64) << 32
            }
        }
    }

    const fn unpack(word: u64) -> Self {
        match word & 3 {
            0 => Self::Other,
            1 => Self::Outermost,
            _ => Self::Caller {
                from_bp: word & 4 != 0,
                end_bytes: (word >> 32) as u32,
                bp_below_bytes: (word >> 16) as u16,
            },
        }
    }
}

struct Entry {
    /// 0 if empty.
    pc: AtomicU64,
    rule: AtomicU64,
}

static RULES: [Entry; ENTRIES] = [const { Entry { pc: AtomicU64::new(0), rule: AtomicU64::new(0) } }; ENTRIES];

pub(in crate::trace) const TABLE_BYTES: usize = size_of::<[Entry; ENTRIES]>();

/// A module whose frames are known here: it stays mapped as long as the process lives.
#[derive(Clone, Copy, Debug)]
pub(in crate::trace) struct Code {
    pub(in crate::trace) start: usize,
    pub(in crate::trace) end: usize,
    /// Its table of `.eh_frame`, `.eh_frame_hdr`.
    pub(in crate::trace) table: &'static [u8],
    /// What is mapped from `.eh_frame_hdr`'s segment on, in which `.eh_frame` lies.
    pub(in crate::trace) mapped: (usize, usize),
}

static CODE: Lock<Vec<Code>> = Lock::new(Vec::new());

/// Forgets all rules, and knows the frames of `code` from now on.
pub(in crate::trace) fn begin(code: Vec<Code>) {
    let old = CODE.lock().with(|known| {
        for entry in &RULES {
            // Relaxed (both): see *Protocol*.
            entry.pc.store(0, Ordering::Relaxed);
            entry.rule.store(0, Ordering::Relaxed);
        }
        core::mem::replace(known, code)
    });
    drop(old);
}

fn rule(pc: usize) -> Rule {
    let home = (pc as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - ENTRIES.trailing_zeros());
    for probe in 0..PROBES {
        let entry = &RULES[(home as usize + probe) & (ENTRIES - 1)];
        // Acquire: pairs with the Release in `learn`; the rule is written by then.
        let known = entry.pc.load(Ordering::Acquire);
        if known == pc as u64 {
            // Relaxed: ordered by the address.
            return Rule::unpack(entry.rule.load(Ordering::Relaxed));
        }
        if known == 0 {
            return learn(pc, home as usize);
        }
    }
    Rule::Other
}

/// Looks an address up and keeps its rule. Allocates.
#[cold]
fn learn(pc: usize, home: usize) -> Rule {
    // Somebody else learns: this walk is the unwinder's.
    let Some(mut code) = CODE.try_lock() else { return Rule::Other };
    code.with(|code| {
        let rule = code.iter().find(|code| (code.start..code.end).contains(&pc)).and_then(|code| look_up(code, pc));
        let rule = rule.unwrap_or(Rule::Other);
        for probe in 0..PROBES {
            let entry = &RULES[(home + probe) & (ENTRIES - 1)];
            // Relaxed (both): written under the lock only.
            match entry.pc.load(Ordering::Relaxed) {
                0 => {
                    entry.rule.store(rule.pack(), Ordering::Relaxed);
                    // Release: pairs with the Acquire in `rule`.
                    entry.pc.store(pc as u64, Ordering::Release);
                    break;
                }
                known if known == pc as u64 => break,
                _ => {}
            }
        }
        rule
    })
}

/// The debug information's rule; `None` if there is none, or it is of another kind.
fn look_up(code: &Code, pc: usize) -> Option<Rule> {
    let header_start = code.table.as_ptr().addr();
    let bases = BaseAddresses::default().set_eh_frame_hdr(header_start as u64);
    let header = EhFrameHdr::new(code.table, NativeEndian).parse(&bases, 8).ok()?;
    let gimli::Pointer::Direct(frames_start) = header.eh_frame_ptr() else { return None };
    let (mapped_start, mapped_end) = code.mapped;
    let frames_start = frames_start as usize;
    if !(mapped_start..mapped_end).contains(&frames_start) {
        return None;
    }
    // SAFETY: in a segment of a module that stays mapped, and is only read. The section ends before the segment does,
    // and the table leads to its entries.
    let frames = unsafe {
        core::slice::from_raw_parts(core::ptr::with_exposed_provenance::<u8>(frames_start), mapped_end - frames_start)
    };
    let frames = gimli::EhFrame::from(EndianSlice::new(frames, NativeEndian));
    let bases = bases.set_eh_frame(frames_start as u64);
    let mut context = UnwindContext::new();
    // The call itself, not what comes after it.
    let row = header
        .table()?
        .unwind_info_for_address(&frames, &bases, &mut context, pc as u64 - 1, gimli::EhFrame::cie_from_offset)
        .ok()?;
    let (from_bp, end_bytes) = match *row.cfa() {
        CfaRule::RegisterAndOffset { register: X86_64::RSP, offset } => (false, offset),
        CfaRule::RegisterAndOffset { register: X86_64::RBP, offset } => (true, offset),
        _ => return None,
    };
    match row.register(X86_64::RA) {
        Some(RegisterRule::Offset(-8)) => {}
        Some(RegisterRule::Undefined) => return Some(Rule::Outermost),
        _ => return None,
    }
    let bp_below_bytes = match row.register(X86_64::RBP) {
        // Without a rule it is as it was: the calling convention has functions keep it.
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => 0,
        Some(RegisterRule::Offset(offset)) => u16::try_from(-offset).ok()?,
        _ => return None,
    };
    Some(Rule::Caller { from_bp, end_bytes: u32::try_from(end_bytes).ok()?, bp_below_bytes })
}

/// What a thread knows of its own stack.
pub(in crate::trace) struct Stack {
    /// Its end; 0 if not asked for yet.
    high: Cell<usize>,
    low: Cell<usize>,
}

impl Stack {
    pub(in crate::trace) const fn new() -> Self {
        Self { high: Cell::new(0), low: Cell::new(0) }
    }

    /// Fills in the return addresses above `marker`, from the frame `start` on; `false` if the unwinder is to do it.
    pub(in crate::trace) fn walk(&self, start: Frame, marker: usize, filled: &mut Filled<'_, usize>) -> bool {
        if self.high.get() == 0 {
            let (low, high) = crate::os::stack_bounds().unwrap_or((1, 1));
            self.low.set(low);
            self.high.set(high);
        }
        let high = self.high.get();
        // Another stack, as coroutines have.
        if !(self.low.get()..high).contains(&start.sp) {
            return false;
        }
        let word = |address: usize| {
            let is_here = address >= start.sp && address.checked_add(8).is_some_and(|end| end <= high);
            // SAFETY: a word of this thread's stack, between its stack pointer and its end.
            is_here.then(|| unsafe { core::ptr::with_exposed_provenance::<usize>(address).read_unaligned() })
        };
        let Frame { mut pc, mut sp, mut bp } = start;
        loop {
            let (from_bp, end_bytes, bp_below_bytes) = match rule(pc) {
                Rule::Other => return false,
                Rule::Outermost => return true,
                Rule::Caller { from_bp, end_bytes, bp_below_bytes } => (from_bp, end_bytes, bp_below_bytes),
            };
            let end = if from_bp { bp } else { sp }.wrapping_add(end_bytes as usize);
            // A frame has its return address at least: so this comes to an end.
            if end <= sp {
                return false;
            }
            let Some(returns_to) = word(end.wrapping_sub(8)) else { return false };
            if bp_below_bytes != 0 {
                let Some(saved) = word(end.wrapping_sub(usize::from(bp_below_bytes))) else { return false };
                bp = saved;
            }
            (pc, sp) = (returns_to, end);
            if sp > marker && (pc == 0 || !filled.push(pc)) {
                return true;
            }
        }
    }
}

/// Takes the lock, for a fork.
pub(in crate::trace) fn acquire() {
    let _acquired = CODE.acquire();
}

/// Frees the lock.
///
/// # Safety
/// After [`acquire`], on the same thread or in its forked child.
pub(in crate::trace) unsafe fn release() {
    // SAFETY: the caller took it.
    unsafe { CODE.release() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_comes_back_as_it_was_packed() {
        for rule in [
            Rule::Other,
            Rule::Outermost,
            Rule::Caller { from_bp: false, end_bytes: 8, bp_below_bytes: 0 },
            Rule::Caller { from_bp: true, end_bytes: u32::MAX, bp_below_bytes: u16::MAX },
        ] {
            assert_eq!(Rule::unpack(rule.pack()), rule);
        }
    }
}
