//! Roots, the references from outside of the blocks: from statics, thread-locals, stacks and foreign memory.

use super::chunks;
use super::index::Index;
use super::memory::{Area, AreaKind, Claims, Range, Reader, each_word, words_of};
use super::tables::Tables;
use super::{Input, ScanError};
use crate::cache::GLOBAL;
use crate::graph::found::{FrameNote, NOBODY, Root, RootKind};
use crate::os::tasks::Interrupted;
use crate::trace::access;

const WORD_BYTES: usize = size_of::<usize>();
/// The most bytes of the block that the C library keeps for a thread (glibc 2.36: 2304).
const BLOCK_BYTES: usize = 2304;
/// The most modules in a thread's table of thread-locals.
const TLS_MODULES_MAX: usize = 1 << 12;
/// The most frames of a thread that are noted.
const FRAMES_MAX: usize = 512;

/// Scans all roots.
///
/// # Safety
/// As for [`scan`](super::scan); `areas` are those of the process.
pub(super) unsafe fn scan(
    input: &Input<'_>,
    areas: &[Area],
    reader: &Reader<'_>,
    index: &Index,
    is_copy: bool,
    claims: &mut Claims,
    tables: &mut Tables,
) -> Result<(), ScanError> {
    let mut scanner = Scanner { reader, index, tables, claims };
    scanner.statics(input)?;
    let threads = || core::iter::once(&input.own).chain(input.standing).enumerate();
    for (number, thread) in threads() {
        scanner.thread_locals(number, thread, input, areas)?;
    }
    for (number, thread) in threads() {
        scanner.stack(number, thread, areas)?;
    }
    if is_copy {
        scanner.unlisted_modules(areas)?;
    }
    // The stack of a thread that could not be stopped looks like the stack of a thread that ended.
    if input.all_stand {
        scanner.ended_threads(areas)?;
    }
    // SAFETY: the areas are those of the process.
    unsafe { chunks::claim_free(areas, scanner.claims) }?;
    scanner.claims.join();
    for area in areas.iter().filter(|area| is_copy || area.kind != AreaKind::File) {
        let Scanner { reader, index, claims, tables } = &mut scanner;
        let mut result = Ok(());
        claims.each_gap(area, |gap| {
            let mut foreign = Rooted::new(RootKind::Foreign, NOBODY);
            if result.is_ok() {
                result = foreign.scan(words_of(gap), reader, index, tables);
            }
        });
        result?;
    }
    Ok(())
}

/// The parts of a range on both sides of a hole; either may be empty.
fn without((start, end): Range, hole: Range) -> [Range; 2] {
    let low = hole.0.clamp(start, end);
    [(start, low), (hole.1.clamp(low, end), end)]
}

/// What is noted for each reference in a range.
struct Rooted {
    kind: RootKind,
    owner: u32,
    module: u32,
    /// Where the module's thread-locals begin.
    start: usize,
}

impl Rooted {
    const fn new(kind: RootKind, owner: u32) -> Self {
        Self { kind, owner, module: NOBODY, start: 0 }
    }

    fn scan(&mut self, range: Range, reader: &Reader<'_>, index: &Index, tables: &mut Tables) -> Result<(), ScanError> {
        let mut result = Some(());
        reader.each_part(range, &mut |part| {
            // SAFETY: a part of an area that can be read.
            unsafe {
                each_word(part, |address, word| {
                    if let Some(target) = index.find(word)
                        && result.is_some()
                    {
                        result = tables.roots.push(Root {
                            address,
                            target,
                            kind: self.kind as u32,
                            owner: self.owner,
                            module: self.module,
                            offset: address.wrapping_sub(self.start) as u64,
                        });
                    }
                });
            }
        });
        result.ok_or(ScanError::Memory)
    }
}

struct Scanner<'scan> {
    reader: &'scan Reader<'scan>,
    index: &'scan Index,
    tables: &'scan mut Tables,
    claims: &'scan mut Claims,
}

impl Scanner<'_> {
    fn range(&mut self, mut rooted: Rooted, range: Range) -> Result<(), ScanError> {
        rooted.scan(words_of(range), self.reader, self.index, self.tables)
    }

    /// Scans the writable segments of the modules, except the allocator's own heap.
    fn statics(&mut self, input: &Input<'_>) -> Result<(), ScanError> {
        let heap = (&raw const GLOBAL).addr();
        let heap = (heap, heap + size_of_val(&GLOBAL));
        for (number, module) in input.modules.iter().enumerate() {
            for &(start, end) in &module.writable {
                for part in without((start, end), heap) {
                    self.range(Rooted::new(RootKind::Static, number as u32), part)?;
                }
                self.claims.add(start, end - start)?;
            }
        }
        Ok(())
    }

    /// Scans the block that the C library keeps for a thread, and the thread's thread-locals of all modules.
    fn thread_locals(
        &mut self,
        number: usize,
        thread: &Interrupted,
        input: &Input<'_>,
        areas: &[Area],
    ) -> Result<(), ScanError> {
        let owner = number as u32;
        let Some(area) = Area::holding(areas, thread.block) else { return Ok(()) };
        for (module, found) in input.modules.iter().enumerate() {
            if found.tls_bytes == 0 {
                continue;
            }
            let Some(start) = tls_of(thread.pointer, found.tls_number, areas) else { continue };
            let rooted = Rooted { kind: RootKind::Thread, owner, module: module as u32, start };
            self.range(rooted, (start, start + found.tls_bytes))?;
            self.claims.add(start, found.tls_bytes)?;
        }
        let end = area.end.min(thread.block + BLOCK_BYTES);
        self.range(Rooted::new(RootKind::Thread, owner), (thread.block, end))?;
        self.claims.add(thread.block, end - thread.block)
    }

    /// Scans a thread's stack from its stack pointer up, with the registers that the kernel saved there.
    fn stack(&mut self, number: usize, thread: &Interrupted, areas: &[Area]) -> Result<(), ScanError> {
        let Some(area) = Area::holding(areas, thread.saved) else { return Ok(()) };
        let has_block = (thread.saved..area.end).contains(&thread.block);
        let end = if has_block { thread.block } else { area.end };
        self.range(Rooted::new(RootKind::Stack, number as u32), (thread.saved, end))?;
        // Memory below the stack pointer is not in use. But a stack that is not the thread's first is a coroutine's:
        // other memory may lie below it.
        let is_first = has_block || area.kind == AreaKind::MainStack;
        let start = if is_first { area.start } else { thread.saved };
        self.claims.add(start, end - start)?;
        let frames = &mut self.tables.frames;
        let (mut count, mut noted) = (0, Some(()));
        access::walk_other(thread.pc, thread.sp, thread.bp, |word, sp| {
            noted = noted.and_then(|()| frames.push(FrameNote { sp, word, thread: number }));
            count += 1;
            count < FRAMES_MAX && noted.is_some()
        });
        noted.ok_or(ScanError::Memory)
    }

    /// Claims the stacks of threads that ended. The C library keeps them for new threads, and nothing in them is in
    /// use.
    ///
    /// The blocks of these threads stay foreign memory: a thread's result may wait there for the thread that joins it.
    ///
    /// Such a stack is a mapping above a guard, with the block of a thread that is not alive. The first and the third
    /// word of a block are its own address (x86-64; glibc's `tcbhead_t`).
    fn ended_threads(&mut self, areas: &[Area]) -> Result<(), ScanError> {
        if cfg!(not(all(target_arch = "x86_64", target_env = "gnu"))) {
            return Ok(());
        }
        self.claims.join();
        for area in areas.iter().filter(|area| area.is_guarded && area.kind == AreaKind::Anonymous) {
            let mut first = None;
            self.claims.each_gap(area, |gap| {
                first.get_or_insert(gap);
            });
            let Some(gap) = first.filter(|gap| gap.0 == area.start) else { continue };
            let mut block = None;
            self.reader.each_part(words_of(gap), &mut |part| {
                // SAFETY: a part of an area that can be read.
                unsafe {
                    each_word(part, |address, word| {
                        let third = address + 2 * WORD_BYTES;
                        if word == address && block.is_none() && third + WORD_BYTES <= part.1 {
                            let third = core::ptr::with_exposed_provenance::<usize>(third).read_volatile();
                            block = (third == address).then_some(address);
                        }
                    });
                }
            });
            if let Some(block) = block {
                self.claims.add(area.start, block - area.start)?;
            }
        }
        Ok(())
    }

    /// Scans the writable mappings of files that the loader does not list: those of a module that is being loaded, and
    /// the zeroed memory behind them.
    fn unlisted_modules(&mut self, areas: &[Area]) -> Result<(), ScanError> {
        self.claims.join();
        let mut last_end = 0;
        for area in areas {
            if area.kind == AreaKind::File || (area.start == last_end && area.kind == AreaKind::Anonymous) {
                let mut whole = true;
                self.claims.each_gap(area, |gap| whole &= gap == (area.start, area.end));
                let mut gaps = 0;
                self.claims.each_gap(area, |_| gaps += 1);
                if whole && gaps == 1 {
                    self.range(Rooted::new(RootKind::Static, NOBODY), (area.start, area.end))?;
                    self.claims.add(area.start, area.end - area.start)?;
                    last_end = if area.kind == AreaKind::File { area.end } else { 0 };
                }
            }
        }
        Ok(())
    }
}

/// Where a thread's thread-locals of a module begin, by the C library's table for the thread. glibc's table has one
/// word for the count, then, for each module that has any, an address and another word ("ELF Handling For Thread-Local
/// Storage", Drepper).
fn tls_of(pointer: usize, module: usize, areas: &[Area]) -> Option<usize> {
    let word = |address: usize| {
        let area = Area::holding(areas, address)?;
        let is_inside = address.is_multiple_of(WORD_BYTES) && address + WORD_BYTES <= area.end;
        // SAFETY: in an area that can be read.
        is_inside.then(|| unsafe { core::ptr::with_exposed_provenance::<usize>(address).read_volatile() })
    };
    let table = word(if cfg!(target_arch = "x86_64") { pointer.wrapping_add(WORD_BYTES) } else { pointer })?;
    if module == 0 || module > TLS_MODULES_MAX {
        return None;
    }
    // musl's table has one word per module.
    let entry_bytes = if cfg!(target_env = "musl") { WORD_BYTES } else { 2 * WORD_BYTES };
    let count = word(if cfg!(target_env = "musl") { table } else { table.wrapping_sub(entry_bytes) })?;
    let start = if module <= count { word(table.wrapping_add(module * entry_bytes))? } else { return None };
    // If the thread has not allocated them so far, the address is all ones, or null.
    Area::holding(areas, start).map(|_| start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_beside_a_hole_is_all_but_the_hole() {
        for (hole, left) in [
            ((0, 5), [(10, 10), (10, 20)]),
            ((5, 12), [(10, 10), (12, 20)]),
            ((12, 15), [(10, 12), (15, 20)]),
            ((15, 30), [(10, 15), (20, 20)]),
            ((25, 30), [(10, 20), (20, 20)]),
        ] {
            assert_eq!(without((10, 20), hole), left, "{hole:?}");
        }
    }
}
