//! Free memory of glibc's `malloc`. It is not foreign memory: nothing that lies there is in use.
//!
//! When the program frees a large block (an outgrown hash table, for example), glibc gets it back with all references
//! that are in it. So glibc's heaps are walked, chunk by chunk. A chunk begins with the size of the one before, if that
//! is free, and its own size, whose lowest bit says that the one before is in use (`malloc/malloc.c`, "Chunks of
//! memory"). Chunks in glibc's caches of small chunks count as in use.
//!
//! glibc does not promise this layout. A walk is believed if it ends where the heap ends and if each free chunk's size
//! stands at its end, too. A heap that is laid out in another way, or that a thread was changing, counts as foreign
//! memory as a whole.

use super::ScanError;
use super::memory::{Area, AreaKind, Claims};

/// Each heap of an arena that is not the main one begins at a multiple of this (`HEAP_MAX_SIZE`).
const HEAP_BYTES: usize = 64 << 20;
/// Where the first chunk of such a heap may be: after `heap_info`, or after that and `malloc_state`.
const OFFSETS: [core::ops::Range<usize>; 2] = [0x20..0x60, 0x800..0xa00];
const ALIGN: usize = 16;
const LEAST_BYTES: usize = 32;
/// The flags in a chunk's size.
const FLAGS: usize = 7;
const BEFORE_IN_USE: usize = 1;
/// A chunk's header.
const HEADER_BYTES: usize = 16;

/// Claims the free chunks of all heaps of glibc's.
///
/// # Safety
/// The areas can be read.
pub(super) unsafe fn claim_free(areas: &[Area], claims: &mut Claims) -> Result<(), ScanError> {
    if cfg!(not(target_env = "gnu")) {
        return Ok(());
    }
    for area in areas {
        // SAFETY: the caller's promise.
        if let Some((start, end)) = unsafe { chunks_of(area) } {
            // A second walk may fail: a thread that could not be stopped may have changed the heap since the first.
            // SAFETY: as above.
            unsafe { walk(start, end, |start, bytes| claims.add(start, bytes).map_err(Some)) }
                .or_else(|error| error.map_or(Ok(()), Err))?;
        }
    }
    Ok(())
}

/// Where the chunks of an area begin and end, if it is a heap.
///
/// # Safety
/// The area can be read.
unsafe fn chunks_of(area: &Area) -> Option<(usize, usize)> {
    // SAFETY: inside of the area.
    let is_heap = |start: usize, end: usize| unsafe { walk(start, end, |_, _| Ok(())) }.is_ok();
    match area.kind {
        AreaKind::Heap => {
            let start = area.start.next_multiple_of(ALIGN);
            is_heap(start, area.end).then_some((start, area.end))
        }
        AreaKind::Anonymous if area.start.is_multiple_of(HEAP_BYTES) => {
            // The third word of `heap_info` is the heap's size.
            // SAFETY: an area has an OS page at least.
            let bytes = unsafe { core::ptr::with_exposed_provenance::<usize>(area.start + 16).read_volatile() };
            let end = area.start.checked_add(bytes).filter(|&end| end <= area.end)?;
            let starts = OFFSETS.into_iter().flat_map(|offsets| offsets.step_by(ALIGN));
            let start = starts.map(|offset| area.start + offset).find(|&start| is_heap(start, end))?;
            Some((start, end))
        }
        _ => None,
    }
}

/// Calls `free` with the free part of each free chunk; `Err(None)` if the range is not laid out as a heap.
///
/// # Safety
/// The range can be read.
unsafe fn walk(
    start: usize,
    end: usize,
    mut free: impl FnMut(usize, usize) -> Result<(), Option<ScanError>>,
) -> Result<(), Option<ScanError>> {
    // SAFETY: inside of the range, as each use checks before.
    let word = |address: usize| unsafe { core::ptr::with_exposed_provenance::<usize>(address).read_volatile() };
    let mut chunk = start;
    while chunk + LEAST_BYTES <= end {
        let bytes = word(chunk + 8) & !FLAGS;
        let next = chunk.checked_add(bytes).filter(|&next| next <= end).ok_or(None)?;
        if bytes < LEAST_BYTES || !bytes.is_multiple_of(ALIGN) {
            return Err(None);
        }
        if next + HEADER_BYTES > end {
            // The rest at the end is the top of the heap, which is free.
            free(chunk + HEADER_BYTES, bytes - HEADER_BYTES)?;
            return if next == end { Ok(()) } else { Err(None) };
        }
        if word(next + 8) & BEFORE_IN_USE == 0 {
            if word(next) != bytes {
                return Err(None);
            }
            free(chunk + HEADER_BYTES, bytes - HEADER_BYTES)?;
        }
        chunk = next;
    }
    Err(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A heap of chunks of these sizes, in words, and which are free.
    fn heap(chunks: &[(usize, bool)]) -> Vec<u128> {
        let mut words: Vec<u64> = Vec::new();
        let mut before = (0, false);
        for &(count, is_free) in chunks {
            let size = (count as u64 * 8) | u64::from(!before.1);
            words.extend([if before.1 { before.0 } else { 77 }, size]);
            words.resize(words.len() + count - 2, 5);
            before = (count as u64 * 8, is_free);
        }
        words.chunks(2).map(|pair| u128::from(pair[0]) | u128::from(pair[1]) << 64).collect()
    }

    fn free_of(heap: &[u128]) -> Option<Vec<(usize, usize)>> {
        let start = heap.as_ptr().expose_provenance();
        let mut found = Vec::new();
        // SAFETY: the whole array.
        let walked = unsafe {
            walk(start, start + size_of_val(heap), |chunk, bytes| {
                found.push((chunk - start, bytes));
                Ok(())
            })
        };
        walked.is_ok().then_some(found)
    }

    #[test]
    fn free_chunks_and_the_top_are_found_and_chunks_in_use_are_not() {
        let whole = heap(&[(6, false), (10, true), (4, false), (4, false), (8, true)]);
        assert_eq!(free_of(&whole), Some(vec![(64, 64), (208, 48)]));
    }

    #[test]
    fn what_is_no_heap_is_not_taken_for_one() {
        assert_eq!(free_of(&[0; 40]), None);
        assert_eq!(free_of(&[u128::MAX; 40]), None);
        let whole = heap(&[(6, false), (10, true), (4, false), (8, true)]);
        assert!(free_of(&whole).is_some());
        // A heap that is cut at a chunk's end is still a heap.
        for cut in (1..whole.len()).filter(|cut| ![3, 8, 10].contains(cut)) {
            assert_eq!(free_of(&whole[..cut]), None, "{cut}");
        }
        let mut damaged = whole.clone();
        // The size at the free chunk's end.
        damaged[8] ^= 16;
        assert_eq!(free_of(&damaged), None);
    }
}
