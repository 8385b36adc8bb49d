//! The references of each block.
//!
//! Every aligned word of a block that points into a block, to its start or anywhere else in it, is a reference.
//!
//! # Hash tables
//! Live blocks contain dead values, which hide leaks. Vacant buckets of `hashbrown`'s tables hide most: a removed entry
//! stays there, and the block that it pointed to still looks referred to. So a block that is laid out as such a table
//! is recognised: buckets come first, then a control byte for each, of which the first group is repeated at the end.
//! References from vacant buckets are marked. Only the block's call stack tells whether it really is a table. That is
//! not known here, so `build` decides.

use super::ScanError;
use super::index::Index;
use super::memory::{Reader, each_word, words_of};
use super::tables::Tables;
use crate::graph::found::{Edge, RawNode, VACANT};

const WORD_BYTES: usize = size_of::<usize>();
/// The number of control bytes that `hashbrown` looks at together.
const GROUP: usize = if cfg!(all(target_arch = "x86_64", target_feature = "sse2")) { 16 } else { 8 };
/// The control byte of a bucket that was never used since the table was made or filled anew.
const NEVER: u8 = 0xff;
/// The control byte of a bucket whose entry was removed.
const REMOVED: u8 = 0x80;
/// Bytes between two reports of progress.
const STEP_BYTES: u64 = 1 << 26;

/// Scans all blocks.
///
/// # Safety
/// As for [`scan`](super::scan).
pub(super) unsafe fn scan(
    reader: &Reader<'_>,
    index: &Index,
    tables: &mut Tables,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ScanError> {
    let total: u64 = index.nodes.iter().map(|node| u64::from(node.words)).sum::<u64>() * WORD_BYTES as u64;
    let (mut done, mut told) = (0, 0);
    for (number, node) in index.nodes.iter().enumerate() {
        let first = tables.edges.len();
        let bytes = node.words as usize * WORD_BYTES;
        let range = words_of((node.address, node.address + bytes));
        let mut result = Some(());
        let edges = &mut tables.edges;
        let mut part = |part| {
            // SAFETY: a part of a block, or of an area that can be read.
            unsafe {
                each_word(part, |address, word| {
                    if let Some(target) = index.find(word)
                        && result.is_some()
                    {
                        let word = ((address - node.address) / WORD_BYTES) as u32 & !VACANT;
                        result = edges.push(Edge { target, word });
                    }
                });
            }
        };
        // A small block lies in an arena, which is mapped. A large one may have been unmapped unseen, by other means
        // than this crate's.
        let is_small = number < index.small;
        if is_small {
            part(range)
        } else {
            reader.each_part(range, &mut part)
        }
        result.ok_or(ScanError::Memory)?;
        if tables.edges.len() > first && (is_small || reader.holds((node.address, node.address + node.bytes))) {
            // SAFETY: the caller's promise.
            unsafe { mark_vacant(node, tables.edges.get_mut(first..).unwrap_or_default()) };
        }
        let end = u32::try_from(tables.edges.len()).map_err(|_| ScanError::TooLarge)?;
        tables.ends.push(end).ok_or(ScanError::Memory)?;
        done += bytes as u64;
        if done - told >= STEP_BYTES {
            told = done;
            progress(done, total);
        }
    }
    Ok(())
}

/// Marks the references from vacant buckets, if the block is laid out as a hash table.
///
/// # Safety
/// The block can be read.
unsafe fn mark_vacant(node: &RawNode, edges: &mut [Edge]) {
    // SAFETY: the caller's promise. Only threads that could not be stopped may write there, and
    // any bytes that they write are valid.
    let bytes =
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance::<u8>(node.address), node.bytes) };
    if let Some(table) = Table::of(bytes) {
        for edge in edges {
            if table.is_vacant(edge.word as usize * WORD_BYTES) {
                edge.word |= VACANT;
            }
        }
    }
}

/// A hash table of `hashbrown`: buckets, the last first, then the control bytes.
struct Table<'bytes> {
    /// One byte per bucket.
    controls: &'bytes [u8],
    buckets_end: usize,
    bucket_bytes: usize,
}

impl<'bytes> Table<'bytes> {
    /// The table that a block is, if it is laid out as one.
    fn of(bytes: &'bytes [u8]) -> Option<Self> {
        let mut buckets = 4;
        while buckets + GROUP < bytes.len() {
            if let Some(table) = Self::of_buckets(bytes, buckets) {
                return Some(table);
            }
            buckets *= 2;
        }
        None
    }

    fn of_buckets(bytes: &'bytes [u8], buckets: usize) -> Option<Self> {
        let buckets_end = bytes.len() - buckets - GROUP;
        let (_, controls) = bytes.split_at_checked(buckets_end)?;
        let (own, mirror) = controls.split_at_checked(buckets)?;
        // A table with fewer buckets than a group has padding between its control bytes and their copy.
        let is_mirrored = if buckets >= GROUP {
            own.get(..GROUP)? == mirror
        } else {
            let (padding, mirror) = mirror.split_at_checked(GROUP - buckets)?;
            padding.iter().all(|&byte| byte == NEVER) && own == mirror
        };
        // A bucket that holds a pointer is a number of whole words. The padding before the control bytes is less than a
        // group.
        let bucket_bytes = (buckets_end / buckets) & !(WORD_BYTES - 1);
        let is_whole = bucket_bytes > 0 && (bucket_bytes * buckets).next_multiple_of(GROUP) == buckets_end;
        let is_control = |&byte: &u8| byte <= REMOVED || byte == NEVER;
        // A table keeps an eighth of its buckets free, or at least one.
        let is_table = is_mirrored && is_whole && own.contains(&NEVER) && own.iter().all(is_control);
        is_table.then_some(Self { controls: own, buckets_end, bucket_bytes })
    }

    /// Whether the byte at an offset is in a vacant bucket.
    fn is_vacant(&self, offset: usize) -> bool {
        let Some(distance) = (self.buckets_end - 1).checked_sub(offset) else { return false };
        self.controls.get(distance / self.bucket_bytes).is_some_and(|&control| control >= REMOVED)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A block as the tracer's allocator would hand it out for a table, and which of its words are pointers.
    fn table(buckets: usize, bucket_bytes: usize, full: &[usize]) -> Vec<u8> {
        let data = (buckets * bucket_bytes).next_multiple_of(GROUP);
        let mut bytes = vec![7; data];
        bytes.resize(data + buckets + GROUP, NEVER);
        for &bucket in full {
            bytes[data + bucket] = 0x11 + bucket as u8 % 64;
            let mirror = if bucket < GROUP.min(buckets) { data + bucket + buckets.max(GROUP) } else { data + bucket };
            bytes[mirror] = bytes[data + bucket];
        }
        bytes
    }

    #[test]
    fn vacant_buckets_of_tables_of_all_sizes_are_told_from_full_ones() {
        for buckets in [4, 8, 16, 64, 1024] {
            for bucket_bytes in [8, 16, 24, 104] {
                let full: Vec<usize> = (0..buckets).filter(|bucket| bucket % 3 == 1).collect();
                let bytes = table(buckets, bucket_bytes, &full);
                let found = Table::of(&bytes).expect("a table");
                assert_eq!((found.controls.len(), found.bucket_bytes), (buckets, bucket_bytes));
                for bucket in 0..buckets {
                    let start = found.buckets_end - (bucket + 1) * bucket_bytes;
                    for word in (start..start + bucket_bytes).step_by(WORD_BYTES) {
                        assert_eq!(found.is_vacant(word), !full.contains(&bucket), "{buckets} {bucket_bytes} {bucket}");
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_that_are_no_tables_are_not_taken_for_any() {
        let mut random = 3_u64;
        let mut found = 0;
        for length in (32..3000).step_by(8) {
            assert!(Table::of(&vec![0; length]).is_none(), "zeros");
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 56) as u8
                })
                .collect();
            found += usize::from(Table::of(&bytes).is_some());
        }
        assert_eq!(found, 0);
    }

    /// The layout is not promised: this fails if `hashbrown` changes it.
    #[test]
    fn a_map_of_the_standard_library_is_laid_out_as_a_table() {
        let map: HashMap<u64, u64> = (0..100).map(|key| (key, key)).collect();
        // Its first field that points to memory of its own is the control bytes' address.
        let words = (&raw const map).cast::<usize>();
        // SAFETY: plain words of a value of ours.
        let controls = (0..size_of_val(&map) / 8).map(|word| unsafe { words.add(word).read() });
        let buckets = map.capacity().next_power_of_two().max(128);
        let data = buckets * 16;
        let is_address = |&word: &usize| word > 1 << 20 && word >> 47 == 0;
        let controls = controls.filter(is_address).find(|&address| address % GROUP == 0).expect("an address");
        let start = core::ptr::with_exposed_provenance::<u8>(controls - data);
        // SAFETY: the map's own memory, by its layout.
        let bytes = unsafe { core::slice::from_raw_parts(start, data + buckets + GROUP) };
        let table = Table::of(bytes).expect("a table");
        assert_eq!(table.controls.iter().filter(|&&control| control < REMOVED).count(), 100);
    }
}
