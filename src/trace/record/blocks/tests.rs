//! Tests of `blocks.rs`.

use std::collections::HashMap;

use super::*;

fn shard() -> Shard {
    Shard::new(1)
}

/// Addresses of one shard. They collide as the hash decides.
fn addresses() -> Vec<usize> {
    (1..).map(|index: usize| index * 16).filter(|&address| Hash::of(address).0 >> 58 == 5).take(3000).collect()
}

#[test]
fn a_table_after_random_insertions_and_removals_holds_what_a_map_holds() {
    let mut shard = shard();
    let mut model = HashMap::new();
    let addresses = addresses();
    let mut random = 1_u64;
    for step in 0..60_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The table mostly grows for some steps, then mostly shrinks, and so on.
        let grows = step / 10_000 % 2 == 0;
        let address = addresses[(random >> 33) as usize % addresses.len()];
        let hash = Hash::of(address);
        if (random >> 20).is_multiple_of(4) != grows {
            let block = Block::new(step, StackId::TRACER);
            assert_eq!(shard.remove(hash, address), model.remove(&address));
            shard.insert(hash, address, block).expect("memory");
            model.insert(address, block);
        } else {
            assert_eq!(shard.remove(hash, address), model.remove(&address));
        }
        assert_eq!(shard.used, model.len());
    }
    for &address in &addresses {
        let found = shard.find(Hash::of(address), address).map(|place| shard.entries[place].block);
        assert_eq!(found.as_ref(), model.get(&address));
    }
    shard.forget(|block| block.bytes() % 2 == 0);
    model.retain(|_, block| block.bytes() % 2 != 0);
    assert_eq!(shard.used, model.len());
    for (&address, &block) in &model {
        let place = shard.find(Hash::of(address), address).expect("kept");
        assert_eq!(shard.entries[place].block, block);
    }
    shard.forget(|_| true);
    assert_eq!(shard.used, 0);
}

#[test]
fn null_is_no_block_of_a_table_with_room() {
    let mut shard = shard();
    shard.insert(Hash::of(16), 16, Block::new(1, StackId::TRACER)).expect("memory");
    assert_eq!(shard.remove(Hash::of(0), 0), None);
    assert_eq!(shard.used, 1);
}

#[test]
fn a_block_keeps_its_size_and_stack_up_to_the_largest() {
    for bytes in [0, 1, 512, 1 << 39, (1 << 40) - 1] {
        let block = Block::new(bytes, StackId::TRACER);
        assert_eq!((block.bytes(), block.stack()), (bytes as u64, StackId::TRACER));
    }
    assert_eq!(Block::new(usize::MAX, StackId::UNKNOWN).bytes(), Block::BYTES_MAX);
}
