//! The walk up the calling thread's stack. It takes only locks that come last in the lock order, allocates nothing, and
//! ends at a frame that it does not know.
//!
//! # Why not the system's unwinder
//! libgcc allocates under a lock of its own when a program registers unwind information, as compilers at run time do.
//! It takes that lock to walk, too. And it aborts on frames that it does not know. Inside `malloc` each of these ends
//! the program. It walks only where [`Config::system_unwinder`](super::config::Config::system_unwinder) asks for it,
//! and on processors for which no walk is written here.
//!
//! # How
//! On x86-64 the walk goes by `rules`. A frame without a rule (code made at run time, assembly) is left by its frame
//! pointer, if that is plausible: it points to a higher place in the stack, and the word above that place is an address
//! behind a call, in code with a rule. On AArch64 the walk goes by frame pointers alone, which the calling convention
//! keeps.
//!
//! # What is read
//! The walk reads only words of the stack above the stack pointer, in OS pages that follow each other and that can be
//! read, as the kernel says. It reads nothing from the thread's own block (`thread_token`) on, which lies above the
//! first frame of a thread's own stack. Coroutines and signal handlers have stacks elsewhere. So the C library is not
//! asked for the bounds of the stack; it would also take a lock of the thread.

use core::cell::Cell;
use core::slice::IterMut;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::loaded::{self, Found};
use super::memory::Filled;
#[cfg(target_arch = "x86_64")]
use super::rules::{self, Packed, Rule};
use crate::os;

/// No OS page is smaller.
const PAGE_BYTES: usize = 1 << 12;

/// A frame: a return address into its function, and the registers after that return.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Frame {
    pub(super) pc: usize,
    pub(super) sp: usize,
    pub(super) bp: usize,
}

/// Where the return addresses of a walk go.
pub(super) trait Sink {
    /// Takes a return address with its module, and the stack pointer after that return; `false` if there is no room.
    fn note(&mut self, word: usize, sp: usize) -> bool;
}

/// Fills the places from the first on, until none is left.
impl Sink for IterMut<'_, usize> {
    #[inline(always)]
    fn note(&mut self, word: usize, _sp: usize) -> bool {
        let place = self.next();
        let has_room = place.is_some();
        if let Some(place) = place {
            *place = word;
        }
        has_room
    }
}

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// At the first frame, or where enough frames were found.
    Whole,
    /// At a frame that is not known.
    Unknown,
    /// Where there was no room on the stack to learn more.
    NoRoom,
}

/// What a thread knows of its stack: a range of OS pages that can be read.
pub(in crate::trace) struct Stack {
    low: Cell<usize>,
    high: Cell<usize>,
}

impl Stack {
    pub(in crate::trace) const fn new() -> Self {
        Self { low: Cell::new(0), high: Cell::new(0) }
    }

    /// Fills in the return addresses above `marker`, from the frame `start` on, with their modules.
    pub(super) fn walk(&self, start: Frame, marker: usize, filled: &mut Filled<'_>) -> End {
        // A local iterator rather than `filled`: it stays in registers.
        let mut places = filled.rest().iter_mut();
        let ended = self.walk_into(start, marker, &mut places);
        let left = places.len();
        filled.filled_but(left);
        ended
    }

    /// [`walk`](Self::walk), wherever the return addresses go.
    #[inline(always)]
    fn walk_into(&self, start: Frame, marker: usize, places: &mut impl Sink) -> End {
        if !(self.low.get()..self.high.get()).contains(&start.sp) {
            self.begin_at(start.sp & !(PAGE_BYTES - 1));
        }
        let own_block = os::thread_token();
        let end = if own_block > start.sp { own_block } else { usize::MAX };
        let known_end = Cell::new(self.high.get().min(end));
        walk(start, marker, places, |address| {
            if address < start.sp || !address.is_multiple_of(size_of::<usize>()) {
                return None;
            }
            if address >= known_end.get() {
                self.reach(address, end)?;
                known_end.set(self.high.get().min(end));
            }
            // SAFETY: in an OS page above the stack pointer that can be read, as can all in between: so it is in the
            // stack that this thread runs on. Only this thread writes there.
            Some(unsafe { core::ptr::with_exposed_provenance::<usize>(address).read() })
        })
    }

    /// Makes `page`, an OS page of the stack in use, the lowest known one. If it is a little below the known range, the
    /// range grows down to it. Otherwise it may be in another stack, and the range begins anew.
    #[cold]
    fn begin_at(&self, page: usize) {
        const FURTHER_BYTES: usize = 1 << 18;
        let low = self.low.get();
        let is_further =
            page < low && low - page <= FURTHER_BYTES && (page..low).step_by(PAGE_BYTES).skip(1).all(os::is_readable);
        self.low.set(page);
        if !is_further {
            self.high.set(page + PAGE_BYTES);
        }
    }

    /// Makes sure that all OS pages up to an address can be read; the address must be below `end`.
    #[cold]
    fn reach(&self, address: usize, end: usize) -> Option<()> {
        if address >= end {
            return None;
        }
        while address >= self.high.get() {
            if !os::is_readable(self.high.get()) {
                return None;
            }
            self.high.set(self.high.get() + PAGE_BYTES);
        }
        Some(())
    }
}

/// Walks up the stack of a stopped thread, from these registers on: for the heap's graph.
#[cfg(feature = "graph")]
pub(in crate::trace) fn walk_other(pc: usize, sp: usize, bp: usize, note: impl FnMut(usize, usize) -> bool) {
    struct Notes<F>(F);
    impl<F: FnMut(usize, usize) -> bool> Sink for Notes<F> {
        fn note(&mut self, word: usize, sp: usize) -> bool {
            (self.0)(word, sp)
        }
    }
    let start = Frame { pc, sp, bp };
    let mut notes = Notes(note);
    // The interrupted function itself. Names are looked up at one less than a return address; `pc` is none, hence + 1.
    if let Some(word) = loaded::word(pc + 1, &module_of(pc, Found::NONE))
        && notes.note(word, sp)
    {
        Stack::new().walk_into(start, 0, &mut notes);
    }
}

/// Whether the calling thread's stack has room for this many more bytes.
pub(super) fn has_room(bytes: usize) -> bool {
    let here = 0_u8;
    let here = (&raw const here).addr();
    // Every OS page is looked at: beyond the guard at the stack's end there may be other memory.
    (1..=bytes.div_ceil(PAGE_BYTES)).all(|page| os::is_readable((here - page * PAGE_BYTES) & !7))
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn walk(start: Frame, marker: usize, places: &mut impl Sink, word: impl Fn(usize) -> Option<usize> + Copy) -> End {
    let mut frame = start;
    let mut module = module_of(frame.pc, Found::NONE);
    loop {
        let rule = rule_of(frame.pc, module);
        let next = if let Some((from_bp, end_bytes, bp_below_bytes)) = rule.caller() {
            let end = if from_bp { frame.bp } else { frame.sp }.wrapping_add(end_bytes);
            let Some(pc) = word(end.wrapping_sub(8)) else { return End::Unknown };
            let mut bp = frame.bp;
            if bp_below_bytes != 0 {
                let Some(saved) = word(end.wrapping_sub(bp_below_bytes)) else { return End::Unknown };
                bp = saved;
            }
            Frame { pc, sp: end, bp }
        } else {
            match leave(frame, rule.unpack(), word) {
                Ok(next) => next,
                Err(end) => return end,
            }
        };
        // A frame has at least its return address, so each step goes up and the walk comes to an end.
        if next.sp <= frame.sp {
            return End::Unknown;
        }
        if next.pc == 0 {
            return End::Whole;
        }
        frame = next;
        module = module_of(frame.pc, module);
        if frame.sp > marker {
            let Some(found) = loaded::word(frame.pc, &module) else { return End::Unknown };
            if !places.note(found, frame.sp) {
                return End::Whole;
            }
        }
    }
}

/// The caller's frame, for a frame without the usual kind of rule.
#[cfg(target_arch = "x86_64")]
#[cold]
fn leave(frame: Frame, rule: Rule, word: impl Fn(usize) -> Option<usize>) -> Result<Frame, End> {
    let by_rule = |end_below_bp: u16| {
        let end = word(frame.bp.wrapping_sub(usize::from(end_below_bp)))?;
        Some(Frame { pc: word(end.wrapping_sub(8))?, sp: end, bp: word(frame.bp)? })
    };
    let by_frame_pointer = || {
        let pc = word(frame.bp.wrapping_add(8))?;
        Some(Frame { pc, sp: frame.bp.wrapping_add(16), bp: word(frame.bp)? })
    };
    match rule {
        Rule::NoRoom => Err(End::NoRoom),
        Rule::Outermost => Err(End::Whole),
        Rule::Aligned { end_below_bp } => by_rule(end_below_bp).ok_or(End::Unknown),
        Rule::Other | Rule::Caller { .. } => {
            let next = by_frame_pointer().ok_or(End::Unknown)?;
            let module = module_of(next.pc, Found::NONE);
            let holds = match rule_of(next.pc, module).unpack() {
                Rule::NoRoom => return Err(End::NoRoom),
                // The caller is code made at run time, too: then at least its frame is above.
                Rule::Other => module.is_none() && next.bp > frame.bp,
                // SAFETY: code of a loaded module, since it has unwind information.
                _ => unsafe { is_behind_a_call(next.pc) },
            };
            if holds { Ok(next) } else { Err(End::Unknown) }
        }
    }
}

/// The module of a return address; often that is its callee's, `last`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn module_of(pc: usize, last: Found) -> Found {
    if last.holds(pc) {
        return last;
    }
    // SAFETY: `pc` was found on the stack. If a rule led to it, it is a return address, and keeps its module loaded. If
    // a frame pointer led to it, it may be any word that the program keeps there. Then one case is left open: the word
    // is an address in a module that another thread unloads at this moment, and the function has no unwind information.
    unsafe { loaded::find(pc) }
}

/// The rule of a return address into a module.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn rule_of(pc: usize, module: Found) -> Packed {
    match loaded::word(pc, &module) {
        // SAFETY: as above.
        Some(word) if !module.is_none() => unsafe { rules::rule(word) },
        _ => Packed::OTHER,
    }
}

/// Whether the instruction before a return address is a call: `call rel32`, or through a register or memory.
///
/// # Safety
/// The seven bytes before it are mapped.
#[cfg(target_arch = "x86_64")]
unsafe fn is_behind_a_call(pc: usize) -> bool {
    const LONGEST: usize = 7;
    // SAFETY: the caller's promise.
    let before = unsafe { core::ptr::with_exposed_provenance::<[u8; LONGEST]>(pc.wrapping_sub(LONGEST)).read() };
    // `ff /2`, whose operand makes it 2, 3, 4, 6 or 7 bytes long.
    let by_operand = |bytes: usize| before[LONGEST - bytes] == 0xff && before[LONGEST - bytes + 1] & 0x38 == 0x10;
    before[LONGEST - 5] == 0xe8 || [2, 3, 4, 6, 7].into_iter().any(by_operand)
}

/// A frame record is the caller's frame pointer and the return address; the frame pointer points to it.
#[cfg(target_arch = "aarch64")]
fn walk(start: Frame, marker: usize, places: &mut impl Sink, word: impl Fn(usize) -> Option<usize> + Copy) -> End {
    let mut module = Found::NONE;
    let (mut record, mut above) = (start.bp, start.sp);
    while record != 0 {
        let (Some(next), Some(pc)) = (word(record), word(record.wrapping_add(8))) else { return End::Unknown };
        // The upper bits may be a signature.
        let pc = loaded::address_of(pc);
        if record < above {
            return End::Unknown;
        }
        if pc == 0 {
            return End::Whole;
        }
        if record > marker {
            module = module_of(pc, module);
            if !loaded::word(pc, &module).is_some_and(|found| places.note(found, record + 16)) {
                return End::Whole;
            }
        }
        (record, above) = (next, record + 16);
    }
    End::Whole
}

/// Elsewhere the system's unwinder walks.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn walk(_start: Frame, _marker: usize, _places: &mut impl Sink, _word: impl Fn(usize) -> Option<usize> + Copy) -> End {
    End::Unknown
}

#[cfg(all(test, target_arch = "x86_64", not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_return_address_is_told_from_another_place_in_the_code() {
        for (before, is_call) in [
            ([0x90_u8, 0x90, 0xe8, 1, 2, 3, 4], true),
            ([0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xd0], true),
            ([0x90, 0x90, 0x90, 0xff, 0x54, 0x24, 0x08], true),
            ([0x90, 0xff, 0x15, 1, 2, 3, 4], true),
            ([0xff, 0x94, 0x24, 1, 2, 3, 4], true),
            ([0x90, 0x90, 0xe9, 1, 2, 3, 4], false),
            ([0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xe0], false),
            ([0x90; 7], false),
        ] {
            // SAFETY: the bytes before the end of an array.
            let found = unsafe { is_behind_a_call((&raw const before).expose_provenance() + before.len()) };
            assert_eq!(found, is_call, "{before:x?}");
        }
    }

    #[test]
    fn memory_outside_of_the_stack_is_never_read() {
        let stack = Stack::new();
        let here = 7_usize;
        let here = (&raw const here).addr();
        let mut buffer = [0; 8];
        // Frame pointers that lead anywhere, and a program counter that is not in code.
        for bp in [0, 8, 1, here + 4, usize::MAX, usize::MAX - 7, 1 << 46, 1 << 63] {
            let start = Frame { pc: 1, sp: here, bp };
            assert_eq!(stack.walk(start, 0, &mut Filled::new(&mut buffer)), End::Unknown);
        }
    }

    #[test]
    fn room_is_what_is_above_the_guard() {
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(|| assert!(has_room(16 << 10) && !has_room(1 << 20)))
            .expect("a thread")
            .join()
            .expect("no panic");
    }
}
