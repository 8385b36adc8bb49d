//! The map of the heap, compared with the statistics of the same moment; and its pictures, read back.
#![cfg(not(pymalloc_bypass))]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Block, Rng, alone};
use pymalloc::heap_map::{HeapMap, PoolMap, PoolUse};
use pymalloc::{ARENA_BYTES, CLASS_COUNT, POOL_BYTES, Pymalloc, class_number, heap_map};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Panics unless the pools of the map add up to the counts of its statistics.
fn assert_agrees(map: &HeapMap, at_rest: bool) {
    let stats = &map.stats;
    assert_eq!(map.arenas.len(), stats.arenas_mapped);
    assert!(map.arenas.is_sorted_by(|one, next| one.address + ARENA_BYTES <= next.address));
    let pools = || map.arenas.iter().flat_map(|arena| &arena.pools);
    assert_eq!(pools().filter(|pool| pool.used_for == PoolUse::Unused).count(), stats.pools_unused);
    assert_eq!(pools().filter(|pool| pool.used_for == PoolUse::Empty).count(), stats.pools_empty);
    assert_eq!(pools().map(|pool| usize::from(pool.bytes_untouched)).sum::<usize>(), stats.bytes.untouched);
    for class in &stats.classes {
        let pools = || pools().filter(|pool| usize::from(pool.block_bytes) == class.block_bytes);
        let sum = |part: fn(&PoolMap) -> u16| pools().map(|pool| usize::from(part(pool))).sum::<usize>();
        assert_eq!(pools().count(), class.pools);
        assert_eq!(sum(|pool| pool.blocks), class.blocks());
        assert_eq!(sum(|pool| pool.blocks_remote), class.blocks_remote);
        assert_eq!(sum(|pool| pool.blocks_uncarved), class.blocks_uncarved);
        assert_eq!(sum(|pool| pool.blocks_live + pool.blocks_cached), class.blocks_live + class.blocks_cached);
        if at_rest {
            assert_eq!(sum(|pool| pool.blocks_live), class.blocks_live);
        }
        for pool in pools() {
            let parts = [pool.blocks_live, pool.blocks_cached, pool.blocks_remote, pool.blocks_uncarved];
            assert!(parts.iter().sum::<u16>() <= pool.blocks, "{pool:?}");
        }
    }
}

/// A heap with pools of every kind: full, scattered, empty, and with memory given back.
fn fill() -> Vec<Block> {
    let mut rng = Rng::new(5);
    let mut blocks: Vec<Block> = (0..60_000).map(|serial| Block::random(serial, &mut rng)).collect();
    rng.shuffle(&mut blocks);
    blocks.truncate(3_000);
    pymalloc::purge();
    blocks.extend((0..20_000).map(|serial| Block::new(serial, Layout::new::<[u64; 6]>())));
    drop((0..20_000).map(|serial| Block::new(serial, Layout::new::<[u64; 64]>())).collect::<Vec<_>>());
    blocks
}

#[test]
fn the_map_agrees_with_the_statistics_at_rest_and_while_threads_run() {
    alone("the_map_agrees_with_the_statistics_at_rest_and_while_threads_run", || {
        let before = pymalloc::stats();
        let blocks = fill();
        let map = heap_map();
        assert_agrees(&map, true);
        assert!(map.stats.pools_empty > 0, "{}", map.stats);
        assert!(map.stats.bytes.untouched > 0, "{}", map.stats);
        // Only pools with our blocks have live blocks, and each of our blocks is in a pool of its class.
        let mut live = [0; CLASS_COUNT];
        for block in blocks.iter().filter(|block| block.is_small()) {
            let arena =
                map.arenas.iter().find(|arena| (arena.address..arena.address + ARENA_BYTES).contains(&block.address()));
            let arena = arena.expect("in an arena");
            let pool = &arena.pools[(block.address() - arena.address) / POOL_BYTES];
            assert_eq!(Some(usize::from(pool.block_bytes)), pymalloc::class_bytes(block.layout()));
            assert!(pool.blocks_live > 0);
            live[class_number(block.layout()).expect("small")] += 1;
        }
        for ((class, before), live) in map.stats.classes.iter().zip(before.classes).zip(live) {
            // The harness may allocate a few of its own.
            let found = class.blocks_live - before.blocks_live;
            assert!((live..live + 8).contains(&found), "{found} blocks of {} bytes, not {live}", class.block_bytes);
        }
        drop(blocks);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..3).map(|_| scope.spawn(|| drop(fill()))).collect();
            scope.spawn(|| {
                // Relaxed: a flag, which orders nothing else.
                while !done.load(Ordering::Relaxed) {
                    assert_agrees(&heap_map(), false);
                }
            });
            workers.into_iter().for_each(|worker| worker.join().expect("its checks passed"));
            done.store(true, Ordering::Relaxed);
        });
    });
}

/// Number of pools drawn in a path.
fn drawn(path: roxmltree::Node<'_, '_>) -> usize {
    path.attribute("d").expect("a path").matches('M').count()
}

#[test]
fn the_picture_is_xml_that_shows_each_pool_once_in_its_class() {
    let blocks = fill();
    let nasty = "a <script> & \"quotes\"\u{0}\u{1b} ]]> \u{fffe} ü";
    let map = heap_map().with_title(nasty);
    let text = map.to_svg();
    let picture = roxmltree::Document::parse(&text).expect("well-formed");
    let title = picture.descendants().find_map(|node| node.text().filter(|text| text.contains("quotes")));
    assert_eq!(title, Some("a <script> & \"quotes\" ]]>  ü"));
    let paths: Vec<_> = picture
        .descendants()
        .filter(|node| node.attribute("class").is_some_and(|class| class.split(' ').any(|name| name == "pools")))
        .collect();
    for (number, class) in map.stats.classes.iter().enumerate() {
        let name = format!("pools c{number}");
        let of_class = paths.iter().filter(|path| path.attribute("class") == Some(&name));
        assert_eq!(of_class.map(|path| drawn(*path)).sum::<usize>(), class.pools, "class {number}");
    }
    // Marks lie on pools that are drawn already.
    let marks = |path: &roxmltree::Node<'_, '_>| path.attribute("fill") == Some("#ffffff");
    let all: usize = paths.iter().filter(|path| !marks(path)).map(|path| drawn(*path)).sum();
    assert_eq!(all, map.arenas.len() * (ARENA_BYTES / POOL_BYTES));
    assert!(paths.iter().any(marks), "some memory of pools in use was given back");
    drop(blocks);
}

#[test]
fn the_page_holds_the_counts_of_each_pool_and_needs_no_other_file() {
    let map = heap_map().with_title("</script><b>");
    let page = map.to_html();
    assert_eq!(page.matches("</script>").count(), 1);
    for elsewhere in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    let data = page.split_once("const arenas = ").expect("the data").1.split_once(";\n").expect("its end").0;
    let arenas: Vec<Vec<serde_json::Value>> = serde_json::from_str(data).expect("JSON");
    assert_eq!(arenas.len(), map.arenas.len());
    for (data, arena) in arenas.iter().zip(&map.arenas) {
        assert_eq!(data[0], format!("{:#x}", arena.address));
        for (data, pool) in data[1..].iter().zip(&arena.pools) {
            assert_eq!((&data[1], &data[3]), (&pool.block_bytes.into(), &pool.blocks_live.into()));
        }
    }
}

#[test]
fn pictures_of_no_arena_and_of_thousands_can_be_drawn() {
    let mut map = heap_map();
    let arena = map.arenas.first().expect("an arena").clone();
    for arenas in [0, 1, 7, 33, 150, 500, 2000] {
        map.arenas = vec![arena.clone(); arenas];
        let text = map.to_svg();
        roxmltree::Document::parse(&text).expect("well-formed");
        assert_eq!(text.contains("and 400 arenas more"), arenas == 2000);
        assert!(map.to_html().contains("</html>"));
    }
}

#[cfg(feature = "serde")]
#[test]
fn serde_brings_a_map_back() {
    let map = heap_map().with_title("a map");
    let text = serde_json::to_string(&map).expect("plain data");
    assert_eq!(serde_json::from_str::<HeapMap>(&text).expect("the same data"), map);
    let cut = &text[..text.len() / 2];
    serde_json::from_str::<HeapMap>(cut).expect_err("half of it is missing");
    serde_json::from_str::<HeapMap>(&text.replacen("[", "[[],", 1)).expect_err("not an arena");
}

#[test]
fn a_map_of_many_arenas_has_them_all() {
    alone("a_map_of_many_arenas_has_them_all", || {
        // More arenas than the first allocation for the list has room for.
        let blocks: Vec<Box<[u8; 512]>> = (0..50 * ARENA_BYTES / 512).map(|_| Box::new([1; 512])).collect();
        let map = heap_map();
        assert!(map.arenas.len() >= 50);
        assert_agrees(&map, true);
        drop(blocks);
    });
}
