//! How the allocator's own data is carved from its mappings.

use std::sync::atomic::Ordering;

use super::test_heap::TestHeap;
use crate::base::config::{CACHE_LINE_BYTES, METADATA_MAPPING_BYTES};
use crate::heap::metadata::Metadata;
use crate::os::MemorySource;

/// The largest arrays that are recycled.
const ARRAY_BYTES: usize = 8 << 10;
/// Bytes from one array to the next.
const STEP_BYTES: usize = CACHE_LINE_BYTES + ARRAY_BYTES;
/// Bytes of a mapping that these arrays leave unused.
const REST_BYTES: usize = METADATA_MAPPING_BYTES % STEP_BYTES;

#[test]
fn a_mapping_is_used_to_its_last_byte_and_counted_with_its_guards() {
    let test = TestHeap::new();
    let mut metadata = Metadata::new();
    let arrays = METADATA_MAPPING_BYTES / STEP_BYTES;
    for mappings in 1..=3 {
        let mut array = || metadata.alloc_array(ARRAY_BYTES, test.memory).expect("memory").addr().get();
        let first = array();
        for number in 1..arrays {
            assert_eq!(array(), first + number * STEP_BYTES);
        }
        let rest = metadata.alloc::<[u8; REST_BYTES]>(test.memory).expect("memory").addr().get();
        assert_eq!(rest, first + arrays * STEP_BYTES - CACHE_LINE_BYTES);
        assert_eq!(test.memory.maps.load(Ordering::Relaxed), mappings);
        let guard_bytes = test.memory.page_bytes();
        assert_eq!(metadata.mapped_bytes(), mappings * (METADATA_MAPPING_BYTES + 2 * guard_bytes));
    }
}
