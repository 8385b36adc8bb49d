//! Tests of `size_class.rs`.

use super::*;

/// Every size up to 64 KiB, and sizes near each power of two. More are not needed: above `SMALL_MAX_BYTES`, a high bit
/// of `size - 1` decides alone, and each high bit occurs here.
fn sizes() -> impl Iterator<Item = usize> {
    let near = (0..usize::BITS).flat_map(|shift| {
        let power = 1_usize << shift;
        [power.wrapping_sub(1), power, power + 1, power.wrapping_add(SMALL_MAX_BYTES), !power, !power & !511]
    });
    (0..=1 << 16).chain(near).chain([usize::MAX])
}

#[test]
fn every_size_and_alignment_has_the_smallest_class_that_fits_it() {
    for align_shift in 0..usize::BITS {
        let align = 1_usize << align_shift;
        for size in sizes() {
            let rounded = size.checked_next_multiple_of(align.max(CLASS_STEP_BYTES));
            let class = SizeClass::of_size_align(size, align);
            match rounded.filter(|&rounded| size != 0 && rounded <= SMALL_MAX_BYTES) {
                Some(rounded) => {
                    let class = class.expect("a small layout has a class");
                    assert_eq!(class.block_bytes(), rounded, "size {size} align {align}");
                    assert_eq!(class.number(), rounded / CLASS_STEP_BYTES - 1);
                }
                None => assert_eq!(class, None, "size {size} align {align}"),
            }
        }
    }
}

#[test]
fn every_class_is_found_by_its_number() {
    for (number, class) in SizeClass::all().enumerate() {
        assert_eq!((class.number(), SizeClass::from_number(number)), (number, Some(class)));
        assert_eq!(SizeClass::of_size_align(class.block_bytes(), 1), Some(class));
        assert_eq!(class.pool_blocks(), POOL_BYTES / class.block_bytes());
        let words = (0..class.bitmap_words()).map(|word| class.full_word(word));
        let bits: Vec<_> = words.flat_map(|word| (0..WORD_BITS).map(move |bit| word >> bit & 1 == 1)).collect();
        assert!(bits.iter().enumerate().all(|(block, &is_set)| is_set == (block < class.pool_blocks())));
        assert!(bits.len() >= class.pool_blocks() && bits.len() < class.pool_blocks() + WORD_BITS);
    }
    assert_eq!(SizeClass::all().count(), CLASS_COUNT);
    assert_eq!(SizeClass::all().last(), Some(SizeClass::LARGEST));
    for number in (CLASS_COUNT..1 << 16).chain([usize::MAX]) {
        assert_eq!(SizeClass::from_number(number), None);
    }
}

#[test]
fn the_fraction_of_every_quotient_is_where_the_mask_looks_for_it() {
    for class in SizeClass::all() {
        let reciprocal = u64::from(class.locator().reciprocal);
        for offset in 0..POOL_BYTES {
            let quotient = offset as u64 * reciprocal;
            let fraction = quotient & ((1 << Small::RECIPROCAL_SHIFT) - 1);
            if offset.is_multiple_of(class.block_bytes()) {
                assert!(fraction < 1 << 15);
            } else {
                assert!(fraction >= 1 << 19);
            }
            assert_eq!(quotient >> Small::RECIPROCAL_SHIFT, (offset / class.block_bytes()) as u64);
        }
    }
}

#[test]
fn a_sum_of_quotients_is_exact_if_and_only_if_all_are() {
    for class in SizeClass::all() {
        let locator = class.locator();
        let range = locator.word_range(0, 0);
        let quotients: Vec<_> =
            (0..WORD_BITS * class.block_bytes()).step_by(5).filter_map(|at| locator.quotient_in(range, at)).collect();
        for one in &quotients {
            for other in quotients.iter().step_by(7) {
                assert_eq!(one.join(*other).is_exact(), one.is_exact() && other.is_exact());
            }
        }
    }
}

#[test]
fn blocks_in_one_word_pass_the_cheap_test_and_distant_ones_fail_it() {
    for class in SizeClass::all() {
        let locator = class.locator();
        let word_bytes = WORD_BITS * class.block_bytes();
        let one = 1 << 40;
        for distance in 0..4 * word_bytes {
            for other in [one + distance, one - distance] {
                let may = locator.may_share_word(one, other);
                assert!(may || distance >= word_bytes, "{class:?} distance {distance}");
                assert!(!may || distance <= word_bytes, "{class:?} distance {distance}");
            }
        }
        assert!(!locator.may_share_word(0, usize::MAX / 2) && !locator.may_share_word(usize::MAX / 2, 0));
    }
}

#[test]
fn every_offset_in_a_pool_gives_the_block_that_starts_there_or_none() {
    for class in SizeClass::all() {
        for offset in 0..POOL_BYTES {
            let expected = offset.is_multiple_of(class.block_bytes()).then_some(offset / class.block_bytes());
            let expected = expected.filter(|&n| n < class.pool_blocks());
            assert_eq!(class.block_at(offset), expected, "{class:?} offset {offset}");
        }
    }
}

#[test]
fn every_address_gives_its_bit_in_its_word_and_none_in_others() {
    let pool_start = 7 * POOL_BYTES;
    // All addresses of three pools; in debug builds, where that would take a minute, only those near the word.
    let near = if cfg!(debug_assertions) { 9 } else { POOL_BYTES };
    for class in SizeClass::all() {
        let locator = class.locator();
        for word in 0..class.bitmap_words() {
            let range = locator.word_range(pool_start, word);
            let first = word * WORD_BITS * class.block_bytes();
            let first = (pool_start + first).saturating_sub(near);
            for address in first..first + WORD_BITS * class.block_bytes() + 2 * near {
                let number = address.checked_sub(pool_start).map(|offset| offset / class.block_bytes());
                let inside = number.is_some_and(|n| n / WORD_BITS == word && n < class.pool_blocks());
                let offset = address.wrapping_sub(pool_start);
                let block = number.filter(|_| inside && offset.is_multiple_of(class.block_bytes()));
                let quotient = locator.quotient_in(range, address);
                assert_eq!(quotient.is_some(), inside, "{class:?} offset {offset}");
                let Some(quotient) = quotient else { continue };
                assert_eq!(quotient.is_exact(), block.is_some(), "{class:?} offset {offset}");
                assert_eq!(quotient.join(Quotient::EXACT).is_exact(), block.is_some());
                if let Some(block) = block {
                    assert_eq!(quotient.bit(), 1 << (block % WORD_BITS), "{class:?} offset {offset}");
                }
            }
        }
    }
}

#[test]
fn blocks_of_a_class_are_aligned_to_every_alignment_its_layouts_can_have() {
    for align_shift in 0..=9 {
        for size in 1..=SMALL_MAX_BYTES {
            let align = 1 << align_shift;
            let class = SizeClass::of_size_align(size, align).expect("small");
            assert!(class.block_bytes().is_multiple_of(align.min(class.block_bytes())));
            assert!(class.block_bytes() >= align || align <= CLASS_STEP_BYTES);
            assert!(class.block_bytes().is_multiple_of(align) || align < CLASS_STEP_BYTES);
        }
    }
}
