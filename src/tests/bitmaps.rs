//! The words of a pool's bitmap: opened a line at a time.

use std::collections::BTreeSet;
use std::ptr::null_mut;

use super::test_heap::{Live, TestHeap, free_by_spare_set, take_by_spare_set};
use crate::bitmap::WORDS_PER_LINE;
use crate::config::{POOL_BYTES, WORD_BITS};
use crate::pool_set::Slot;
use crate::size_class::SizeClass;
use crate::sync::Ordering;

#[test]
fn blocks_that_are_taken_one_by_one_are_all_of_their_pool() {
    for class in SizeClass::all() {
        let test = TestHeap::new();
        let mut live = Vec::new();
        for number in 0..class.pool_blocks() {
            let block = take_by_spare_set(test.heap, class).expect("memory");
            live.push(Live::fill(block.start.as_ptr(), class, number as u64));
            // Around the end of a line.
            if (number + 1) % (WORDS_PER_LINE * WORD_BITS) <= 1 {
                test.check();
            }
        }
        let pools: BTreeSet<_> = live.iter().map(|block| block.start.addr() / POOL_BYTES).collect();
        assert_eq!(pools.len(), 1, "{class:?}");
        live.into_iter().for_each(|block| free_by_spare_set(test.heap, block));
        assert_eq!(test.check().blocks_live(), 0);
    }
}

#[test]
fn a_line_is_opened_when_the_last_block_of_those_before_it_is_taken_and_not_sooner() {
    for class in SizeClass::all().filter(|class| class.bitmap_words() > WORDS_PER_LINE) {
        let test = TestHeap::new();
        let slots: Vec<_> = (0..WORDS_PER_LINE * WORD_BITS - 1).map(|_| Slot::new(null_mut())).collect();
        test.heap.spare.enter(test.heap, |inside| {
            assert_eq!(inside.take(class, &slots), slots.len());
            let pool = test.heap.map.pool_of(slots[0].load(Ordering::Relaxed).addr()).expect("a pool");
            assert!(!pool.pool().is_open(WORDS_PER_LINE), "{class:?}");
            let last = inside.take_one(class).expect("memory").start;
            assert!(pool.pool().is_open(WORDS_PER_LINE) && pool.pool().has_free(), "{class:?}");
            let next = inside.take_one(class).expect("memory").start;
            assert_eq!(next.addr().get() - last.addr().get(), class.block_bytes());
            inside.give(class, &slots);
            inside.give(class, &[Slot::new(last.as_ptr()), Slot::new(next.as_ptr())]);
        });
        assert_eq!(test.check().blocks_live(), 0);
    }
}

#[test]
fn blocks_behind_the_last_that_was_taken_are_counted_as_uncarved() {
    for class in SizeClass::all() {
        let test = TestHeap::new();
        let block = take_by_spare_set(test.heap, class).expect("memory");
        let counts = test.check().classes[class.number()];
        assert_eq!((counts.blocks_uncarved, counts.blocks_free), (class.pool_blocks() - 1, 0), "{class:?}");
        free_by_spare_set(test.heap, Live::fill(block.start.as_ptr(), class, 0));
    }
}

#[test]
fn of_several_blocks_the_first_that_is_free_already_is_named() {
    let class = SizeClass::of_size_align(64, 1).expect("small");
    let test = TestHeap::new();
    let slots: Vec<_> = (0..WORD_BITS + 10).map(|_| Slot::new(null_mut())).collect();
    test.heap.spare.enter(test.heap, |inside| {
        assert_eq!(inside.take(class, &slots), slots.len());
        let place = test.heap.map.pool_of(slots[0].load(Ordering::Relaxed).addr()).expect("a pool");
        let pool = place.pool();
        // Of word 1 the first ten blocks are taken, of word 2 none, of word 0 all.
        let mask = 0b1111 << 8;
        let named = |word| pool.put_back(word, mask).expect_err("some are free").block;
        assert_eq!((named(1), named(2)), (WORD_BITS + 10, 2 * WORD_BITS + 8));
        assert_eq!(pool.take_home(1, mask, 4).expect_err("some are free").block, WORD_BITS + 10);
        inside.give(class, &slots);
    });
    assert_eq!(test.check().blocks_live(), 0);
}
