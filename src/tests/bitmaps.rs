//! The words of a pool's bitmap.

use std::collections::BTreeSet;
use std::ptr::null_mut;

use super::test_heap::{Live, TestHeap, free_by_spare_set, take_by_spare_set};
use crate::base::bitmap::WORDS_PER_LINE;
use crate::base::config::{POOL_BYTES, WORD_BITS};
use crate::base::size_class::SizeClass;
use crate::heap::pool::Slot;
use crate::heap::pool::{Pool, State};
use crate::sync::Ordering;

#[test]
fn blocks_that_are_taken_one_by_one_are_all_of_their_pool() {
    for class in SizeClass::all() {
        let test = TestHeap::new();
        let mut live = Vec::new();
        for number in 0..class.pool_blocks() {
            let block = take_by_spare_set(test.heap, class).expect("memory");
            live.push(Live::fill(block.start.as_ptr(), class, number as u64));
            // Block counts around the end of a cache line.
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
fn the_bitmap_of_a_pool_is_written_only_as_far_as_its_blocks_were_taken_and_zero_when_all_are_home() {
    for class in SizeClass::all().filter(|class| class.bitmap_words() > WORDS_PER_LINE) {
        let test = TestHeap::new();
        let slots: Vec<_> = (0..WORDS_PER_LINE * WORD_BITS).map(|_| Slot::new(null_mut())).collect();
        let pool = test.heap.spare.enter(test.heap, |inside| {
            assert_eq!(inside.take(class, &slots), slots.len());
            let pool = test.heap.map.pool_of(slots[0].load(Ordering::Relaxed).addr()).expect("a pool").pool();
            let words = |pool: &Pool| (0..class.bitmap_words()).map(|word| pool.word(word).get()).collect::<Vec<_>>();
            assert!(words(pool)[..WORDS_PER_LINE].iter().all(|&word| word == u64::MAX), "{class:?}");
            assert!(words(pool)[WORDS_PER_LINE..].iter().all(|&word| word == 0), "{class:?}");
            // The lines behind are free, and no bit is set beyond the last block.
            let rest: Vec<_> =
                (slots.len()..class.pool_blocks()).map(|_| inside.take_one(class).expect("memory")).collect();
            assert!(
                !pool.has_free() && (0..class.bitmap_words()).all(|word| words(pool)[word] == class.full_word(word))
            );
            let rest: Vec<_> = rest.into_iter().map(|block| Slot::new(block.start.as_ptr())).collect();
            inside.give(class, &rest);
            inside.give(class, &slots);
            assert!(words(pool).iter().all(|&word| word == 0), "{class:?}");
            pool
        });
        assert_eq!(pool.state(), State::Empty);
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
fn the_first_of_several_blocks_that_is_free_already_is_named() {
    let class = SizeClass::of_size_align(64, 1).expect("small");
    let test = TestHeap::new();
    let slots: Vec<_> = (0..WORD_BITS + 10).map(|_| Slot::new(null_mut())).collect();
    test.heap.spare.enter(test.heap, |inside| {
        assert_eq!(inside.take(class, &slots), slots.len());
        let place = test.heap.map.pool_of(slots[0].load(Ordering::Relaxed).addr()).expect("a pool");
        let pool = place.pool();
        // All blocks of word 0 are taken, the first ten of word 1, and none of word 2.
        let mask = 0b1111 << 8;
        let named = |word| pool.free(word, mask).expect_err("some are free").block;
        assert_eq!((named(1), named(2)), (WORD_BITS + 10, 2 * WORD_BITS + 8));
        assert_eq!(pool.bring_home(1, mask, 4).expect_err("some are free").block, WORD_BITS + 10);
        inside.give(class, &slots);
    });
    assert_eq!(test.check().blocks_live(), 0);
}
