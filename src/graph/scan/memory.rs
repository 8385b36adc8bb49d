//! The process's mappings, which parts of them are claimed, and how to read only the OS pages that have memory.

use core::ffi::CStr;

use super::ScanError;
use crate::os::tasks::{each_line_of, read_at};
use crate::os::{Descriptor, MemorySource, SystemMemory};
use crate::trace::access::Mapped;

/// A start and an end.
pub(super) type Range = (usize, usize);

/// A private mapping that can be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) kind: AreaKind,
    /// Whether the mapping right below can't be accessed: below a thread's stack there is such a guard.
    pub(super) is_guarded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AreaKind {
    Anonymous,
    /// A mapping of a file.
    File,
    /// The main thread's stack.
    MainStack,
    /// The memory that `brk` gave.
    Heap,
}

impl Area {
    /// The area that an address is in.
    pub(super) fn holding(areas: &[Self], address: usize) -> Option<&Self> {
        let after = areas.partition_point(|area| area.start <= address);
        areas.get(after.checked_sub(1)?).filter(|area| address < area.end)
    }
}

/// The range of a mapping that can't be accessed, from its line of `/proc/self/maps`.
fn guard(line: &[u8]) -> Option<Range> {
    let mut words = line.split(|&byte| byte == b' ');
    let range = words.next()?;
    if words.next()?.starts_with(b"---") { range_of(range) } else { None }
}

fn range_of(text: &[u8]) -> Option<Range> {
    let (start, end) = core::str::from_utf8(text).ok()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

/// The area of a line of `/proc/self/maps`: `start-end rwxp offset device inode path`.
fn area(line: &[u8]) -> Option<Area> {
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let (range, access) = (words.next()?, words.next()?);
    if !access.starts_with(b"rw") || access.get(3) != Some(&b'p') {
        return None;
    }
    let (start, end) = range_of(range)?;
    let kind = match words.nth(3) {
        Some(b"[stack]") => AreaKind::MainStack,
        Some(b"[heap]") => AreaKind::Heap,
        Some(path) if path.starts_with(b"/") => AreaKind::File,
        // The kernel's own mappings (`[vvar]` and others): they are no memory of the program.
        Some(path) if path.starts_with(b"[v") => return None,
        _ => AreaKind::Anonymous,
    };
    Some(Area { start, end, kind, is_guarded: false })
}

/// The process's private mappings that can be read and written, by address.
pub(super) fn areas() -> Result<Mapped<Area>, ScanError> {
    let mut areas = Mapped::new();
    loop {
        areas.truncate(0);
        let capacity = areas.capacity();
        read_areas(&mut areas)?;
        // An array that grows gives its old memory back, which may be in the list by then.
        if areas.capacity() == capacity {
            return Ok(areas);
        }
    }
}

fn read_areas(areas: &mut Mapped<Area>) -> Result<(), ScanError> {
    let (mut guard_end, mut noted) = (0, Some(()));
    let read = each_line_of(c"/proc/self/maps", |line| {
        if let Some(area) = area(line) {
            let is_guarded = area.start == guard_end;
            noted = noted.and_then(|()| areas.push(Area { is_guarded, ..area }));
        }
        guard_end = guard(line).map_or(0, |guard| guard.1);
    });
    read.map_err(ScanError::System)?;
    noted.ok_or(ScanError::Memory)
}

fn open(path: &CStr) -> Result<Descriptor, i32> {
    Descriptor::open(path, libc::O_RDONLY)
}

/// Memory whose use is known: blocks, stacks, statics, the allocator's own. The rest is foreign.
pub(super) struct Claims {
    ranges: Mapped<Range>,
    /// How many ranges there are once those that touch are joined.
    joined: usize,
}

impl Claims {
    pub(super) const fn new() -> Self {
        Self { ranges: Mapped::new(), joined: 0 }
    }

    pub(super) fn add(&mut self, start: usize, bytes: usize) -> Result<(), ScanError> {
        if bytes == 0 {
            return Ok(());
        }
        self.ranges.push((start, start.saturating_add(bytes))).ok_or(ScanError::Memory)
    }

    /// Sorts the ranges, and joins those that touch.
    pub(super) fn join(&mut self) {
        self.ranges.sort_unstable();
        let mut joined = 0;
        for index in 0..self.ranges.len() {
            let (start, end) = self.ranges[index];
            if joined > 0 && start <= self.ranges[joined - 1].1 {
                self.ranges[joined - 1].1 = self.ranges[joined - 1].1.max(end);
            } else {
                self.ranges[joined] = (start, end);
                joined += 1;
            }
        }
        self.joined = joined;
    }

    /// Calls `visit` with each part of an area that was not claimed. The claims must be joined.
    pub(super) fn each_gap(&self, area: &Area, mut visit: impl FnMut(Range)) {
        let ranges = &self.ranges[..self.joined];
        let first = ranges.partition_point(|claim| claim.1 <= area.start);
        let mut cursor = area.start;
        for &(start, end) in ranges.iter().skip(first).take_while(|claim| claim.0 < area.end) {
            if start > cursor {
                visit((cursor, start));
            }
            cursor = end;
        }
        if cursor < area.end {
            visit((cursor, area.end));
        }
    }
}

/// How many OS pages are asked about at a time.
const PAGES: usize = 512;
/// A range with fewer bytes is read without asking which of its OS pages have memory.
const ASK_BYTES: usize = 1 << 16;
/// The bits that say that an OS page has memory or is swapped out (Linux, `Documentation/admin-guide/mm/pagemap.rst`).
const PRESENT: u64 = 0b11 << 62;

/// Reads memory, and skips OS pages that were never touched.
pub(super) struct Reader<'areas> {
    areas: &'areas [Area],
    /// Says which OS pages have memory; `None` if the kernel has no such file.
    pagemap: Option<Descriptor>,
    page_bytes: usize,
}

impl<'areas> Reader<'areas> {
    pub(super) fn new(areas: &'areas [Area]) -> Self {
        Self { areas, pagemap: open(c"/proc/self/pagemap").ok(), page_bytes: SystemMemory.page_bytes() }
    }

    /// Whether all of a range can be read.
    pub(super) fn holds(&self, range: Range) -> bool {
        Area::holding(self.areas, range.0).is_some_and(|area| range.1 <= area.end)
    }

    /// Calls `visit` with each part of a range that can be read and may have been written. The range begins and ends at
    /// words.
    pub(super) fn each_part(&self, range: Range, visit: &mut dyn FnMut(Range)) {
        let first = self.areas.partition_point(|area| area.end <= range.0);
        for area in self.areas.iter().skip(first).take_while(|area| area.start < range.1) {
            let part = (range.0.max(area.start), range.1.min(area.end));
            if part.1 - part.0 < ASK_BYTES || !self.each_touched(part, visit) {
                visit(part);
            }
        }
    }

    /// Calls `visit` with each part that has memory; `false` if the kernel does not tell which have.
    fn each_touched(&self, (start, end): Range, visit: &mut dyn FnMut(Range)) -> bool {
        let Some(pagemap) = self.pagemap else { return false };
        let mut buffer = [0_u64; PAGES];
        let mut page = start / self.page_bytes;
        let pages_end = end.div_ceil(self.page_bytes);
        let mut run: Option<usize> = None;
        let clip = |from: usize, to: usize| (start.max(from * self.page_bytes), end.min(to * self.page_bytes));
        while page < pages_end {
            let wanted = PAGES.min(pages_end - page);
            if !read_at(pagemap, &mut buffer[..wanted], (page * 8) as u64) {
                // The kernel told only so far: shows all of the rest.
                visit(clip(run.unwrap_or(page), pages_end));
                return true;
            }
            for &entry in &buffer[..wanted] {
                match (entry & PRESENT != 0, run) {
                    (true, None) => run = Some(page),
                    (false, Some(first)) => {
                        visit(clip(first, page));
                        run = None;
                    }
                    _ => {}
                }
                page += 1;
            }
        }
        if let Some(first) = run {
            visit(clip(first, pages_end));
        }
        true
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(pagemap) = self.pagemap {
            pagemap.close();
        }
    }
}

/// The whole words of a range.
pub(super) fn words_of((start, end): Range) -> Range {
    let start = start.next_multiple_of(size_of::<usize>());
    (start, (end & !(size_of::<usize>() - 1)).max(start))
}

/// Calls `visit` with the address and the value of each word of a range.
///
/// # Safety
/// The range can be read, and begins and ends at words.
#[inline(always)]
pub(super) unsafe fn each_word((start, end): Range, mut visit: impl FnMut(usize, usize)) {
    let mut place = core::ptr::with_exposed_provenance::<usize>(start);
    let count = (end - start) / size_of::<usize>();
    for _ in 0..count {
        // SAFETY: the caller's promise. Volatile: a thread that could not be stopped may write there.
        let word = unsafe { place.read_volatile() };
        visit(place.addr(), word);
        place = place.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_read_and_others_are_left_out() {
        let found = |line: &str| area(line.as_bytes());
        let area = |start, end, kind| Some(Area { start, end, kind, is_guarded: false });
        assert_eq!(
            found("55d0-55f0 rw-p 00000000 00:00 0                          [heap]"),
            area(0x55d0, 0x55f0, AreaKind::Heap)
        );
        assert_eq!(found("10-20 rw-p 00000000 00:00 0"), area(0x10, 0x20, AreaKind::Anonymous));
        assert_eq!(found("10-20 rw-p 00002000 fe:01 77 /lib/a b.so"), area(0x10, 0x20, AreaKind::File));
        assert_eq!(found("10-20 rw-p 00000000 00:00 0 [stack]"), area(0x10, 0x20, AreaKind::MainStack));
        for line in
            ["10-20 r--p 0 0:0 0", "10-20 rw-s 0 0:0 9 /dev/x", "10-20 rw-p 0 0:0 0 [vvar]", "", "rw", "x-y rw-p"]
        {
            assert_eq!(found(line), None, "{line}");
        }
        assert_eq!(guard(b"10-20 ---p 0 0:0 0"), Some((0x10, 0x20)));
        assert_eq!(guard(b"10-20 rw-p 0 0:0 0"), None);
    }

    #[test]
    fn what_nobody_claimed_is_shown_whole_whatever_overlaps() {
        let mut claims = Claims::new();
        for (start, bytes) in [(0, 12), (40, 5), (20, 30), (90, 100), (60, 0)] {
            claims.add(start, bytes).expect("memory");
        }
        claims.join();
        let mut gaps = Vec::new();
        claims.each_gap(&Area { start: 10, end: 100, kind: AreaKind::Anonymous, is_guarded: false }, |gap| {
            gaps.push(gap)
        });
        assert_eq!(gaps, [(12, 20), (50, 90)]);
    }

    #[test]
    fn untouched_memory_is_not_read_and_touched_memory_is() {
        let page = SystemMemory.page_bytes();
        let bytes = page * 1200;
        let start = SystemMemory.map(bytes, page).expect("memory").as_ptr();
        for touched in [0, 1, 600, 1199] {
            // SAFETY: inside the mapping.
            unsafe { start.add(touched * page).write(1) };
        }
        let areas = areas().expect("/proc");
        let reader = Reader::new(&areas);
        let mut parts = Vec::new();
        reader.each_part((start.addr(), start.addr() + bytes), &mut |part| parts.push(part));
        let pages: Vec<_> =
            parts.iter().map(|part| (part.0 - start.addr()) / page..(part.1 - start.addr()) / page).collect();
        if reader.pagemap.is_some() {
            assert_eq!(pages, [0..2, 600..601, 1199..1200]);
        }
        // SAFETY: the whole mapping, given up.
        unsafe { SystemMemory.unmap(core::ptr::NonNull::new(start).expect("not null"), bytes) };
    }
}
