//! How the allocator's own data is cut from its mappings.

use std::sync::atomic::Ordering;

use super::test_heap::TestHeap;
use crate::base::config::METADATA_MAPPING_BYTES;
use crate::heap::metadata::Metadata;
use crate::os::MemorySource;

/// The largest arrays that are recycled.
const ARRAY_BYTES: usize = 8 << 10;

#[test]
fn a_mapping_is_used_to_its_last_byte_and_counted_with_its_guards() {
    let test = TestHeap::new();
    let mut metadata = Metadata::new();
    let arrays = METADATA_MAPPING_BYTES / ARRAY_BYTES;
    for mappings in 1..=3 {
        let mut array = || metadata.alloc_array(ARRAY_BYTES, test.memory).expect("memory").addr().get();
        let first = array();
        for number in 1..arrays {
            assert_eq!(array(), first + number * ARRAY_BYTES);
        }
        assert_eq!(test.memory.maps.load(Ordering::Relaxed), mappings);
        let guard_bytes = test.memory.page_bytes();
        assert_eq!(metadata.mapped_bytes(), mappings * (METADATA_MAPPING_BYTES + 2 * guard_bytes));
    }
}
