//! Purges where an OS page holds several pools.

use super::test_heap::{Live, TestHeap, fill};
use crate::base::config::POOL_BYTES;

const OS_PAGE_BYTES: usize = 64 << 10;

#[test]
fn a_purge_gives_back_the_os_pages_that_were_used_and_hold_free_pools_only_and_no_others() {
    for kept_pages in 1..5 {
        let test = TestHeap::with_page_bytes(OS_PAGE_BYTES);
        let cache = test.attach();
        let pages = 5;
        let live = fill(cache, 512, pages * OS_PAGE_BYTES);
        let mut places: Vec<_> = live.iter().map(|block| block.start.addr() / OS_PAGE_BYTES).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), pages);
        // One pool of the last page kept is freed, and the other is not.
        let is_kept = |block: &Live| {
            let page = places.binary_search(&(block.start.addr() / OS_PAGE_BYTES)).expect("a page");
            let last_pool = block.start.addr() % OS_PAGE_BYTES >= OS_PAGE_BYTES - POOL_BYTES;
            page + 1 < kept_pages || page + 1 == kept_pages && last_pool
        };
        let (kept, freed): (Vec<_>, Vec<_>) = live.into_iter().partition(is_kept);
        freed.into_iter().for_each(|block| block.free(cache));
        cache.shrink();
        assert_eq!(test.purge(), (pages - kept_pages) * OS_PAGE_BYTES);
        assert_eq!(test.purge(), 0);
        test.check();
        kept.into_iter().for_each(|block| block.free(cache));
        cache.release();
    }
}
