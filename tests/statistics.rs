//! What the statistics say of the program's heap, against the program's own count. Without a test harness, which has
//! threads and blocks of its own: so every count is exact.

mod common;

use std::alloc::Layout;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

#[cfg(unix)]
use common::watchdog;
use common::{Block, Rng, assert_sound, thread_number};
use pymalloc::stats::{CacheUse, Stats};
use pymalloc::{ARENA_BYTES, Pymalloc, allocated_blocks, class_number, stats, thread_caches};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

fn assert_identity(stats: &Stats) {
    assert_eq!(stats.bytes.arenas, stats.arenas_mapped * ARENA_BYTES);
    assert_eq!(stats.bytes.sum(), stats.bytes.arenas, "{stats}");
    let live: usize = stats.classes.iter().map(|class| class.blocks_live * class.block_bytes).sum();
    assert_eq!(stats.bytes.live, live);
}

/// Allocates, frees, and frees what others allocated.
fn churn(seed: u64, shared: &Mutex<Vec<Block>>) {
    let mut rng = Rng::new(seed);
    let mut own = Vec::new();
    for serial in 0..30_000 {
        match rng.below(8) {
            0..=3 => own.push(Block::random(serial, &mut rng)),
            4..=5 if !own.is_empty() => drop(own.swap_remove(rng.below(own.len()))),
            6 => shared.lock().expect("no panic").extend(own.pop()),
            _ => drop(shared.lock().expect("no panic").pop()),
        }
    }
    shared.lock().expect("no panic").extend(own);
}

fn the_bytes_of_the_arenas_add_up_at_every_moment_of_four_threads() {
    let shared = Mutex::new(Vec::new());
    let done = AtomicBool::new(false);
    let mut looks = 0;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|seed| {
                let shared = &shared;
                scope.spawn(move || churn(seed, shared))
            })
            .collect();
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            // Relaxed: a flag alone.
            while !done.load(Ordering::Relaxed) {
                assert_identity(&stats());
                looks += 1;
            }
            looks
        });
        workers.into_iter().for_each(|worker| worker.join().expect("its checks passed"));
        done.store(true, Ordering::Relaxed);
        looks = watcher.join().expect("its checks passed");
    });
    assert!(looks > 0);
    // At rest: what the blocks' owner counts.
    let blocks = shared.into_inner().expect("no panic");
    let small = blocks.iter().filter(|block| block.is_small()).count();
    let with = (assert_sound(), allocated_blocks());
    assert_identity(&with.0);
    assert_eq!(with.0.blocks_live(), with.1);
    drop(blocks);
    let without = (assert_sound(), allocated_blocks());
    assert_eq!(with.1 - without.1, small);
    assert_eq!(with.0.blocks_live() - without.0.blocks_live(), small);
}

fn live_bytes_and_blocks_of_each_class_are_exact_at_rest() {
    let before = stats();
    let layouts: Vec<Layout> = (1..=512).step_by(3).map(|bytes| Layout::array::<u8>(bytes).expect("small")).collect();
    // The list of blocks is large, so not in the count.
    let mut blocks = Vec::with_capacity(layouts.len() * 5);
    for (serial, &layout) in layouts.iter().cycle().take(layouts.len() * 5).enumerate() {
        blocks.push(Block::new(serial as u64, layout));
    }
    let after = stats();
    // Besides `layouts`, which is large, too.
    let mut expected = [0; pymalloc::CLASS_COUNT];
    for layout in &layouts {
        expected[class_number(*layout).expect("small")] += 5;
    }
    let mut bytes = 0;
    for (number, count) in expected.into_iter().enumerate() {
        assert_eq!(after.classes[number].blocks_live - before.classes[number].blocks_live, count, "class {number}");
        bytes += count * after.classes[number].block_bytes;
    }
    assert_eq!(after.bytes.live - before.bytes.live, bytes);
    drop(blocks);
    assert_eq!(stats().bytes.live, before.bytes.live);
}

fn thread_caches_show_who_holds_what() {
    static NUMBER: AtomicI64 = AtomicI64::new(0);
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            NUMBER.store(thread_number(), Ordering::Relaxed);
            let kept: Vec<Block> = (0..4000).map(|serial| Block::new(serial, Layout::new::<[u64; 6]>())).collect();
            barrier.wait();
            barrier.wait();
            drop(kept);
        });
        barrier.wait();
        let (caches, stats) = (thread_caches(), stats());
        barrier.wait();
        let of = |used_by| caches.iter().filter(move |cache| cache.used_by == used_by);
        assert_eq!(of(CacheUse::Caller).count(), 1);
        assert_eq!(of(CacheUse::Spare).count(), 1);
        assert_eq!(of(CacheUse::Caller).count() + of(CacheUse::Thread).count(), stats.caches_live);
        assert_eq!(of(CacheUse::Parked).count(), stats.caches_parked);
        assert!(of(CacheUse::Thread).any(|cache| cache.bytes_used >= 4000 * 48 && cache.pools_owned >= 6));
        let numbered = |number: i64| caches.iter().filter(move |cache| cache.thread.map(i64::from) == Some(number));
        let other = numbered(NUMBER.load(Ordering::Relaxed));
        assert!(other.into_iter().all(|cache| cache.used_by == CacheUse::Thread && cache.bytes_used >= 4000 * 48));
        assert_eq!(numbered(NUMBER.load(Ordering::Relaxed)).count(), 1);
        let own = thread_number();
        assert!(numbered(own).all(|cache| cache.used_by == CacheUse::Caller) && numbered(own).count() == 1);
        assert!(of(CacheUse::Parked).chain(of(CacheUse::Spare)).all(|cache| cache.thread.is_none()));
        let cached: usize = caches.iter().map(|cache| cache.bytes_cached).sum();
        assert_eq!(cached, stats.bytes.cached);
        assert!(
            caches.iter().all(|cache| cache.blocks_cached <= cache.slots && cache.pools_empty <= cache.pools_owned)
        );
        let owned: usize = caches.iter().map(|cache| cache.pools_owned).sum();
        let in_use: usize = stats.classes.iter().map(|class| class.pools).sum();
        assert_eq!(owned, in_use + stats.pools_empty);
    });
}

#[cfg(all(unix, target_env = "gnu"))]
fn large_requests_show_in_the_systems_share() {
    // SAFETY: a name, and the default handle.
    let can_tell = !unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mallinfo2".as_ptr()) }.is_null();
    let before = stats().system;
    assert_eq!(before.is_some(), can_tell && !cfg!(target_feature = "crt-static"));
    let Some(before) = before else { return };
    let large = std::hint::black_box(vec![1_u8; 3_000_000]);
    let after = stats().system.expect("as before");
    assert!((3_000_000..3_100_000).contains(&(after.bytes_live - before.bytes_live)), "{before:?}, {after:?}");
    drop(large);
    assert!(stats().system.expect("as before").bytes_live < after.bytes_live - 2_900_000);
}

#[cfg(not(all(unix, target_env = "gnu")))]
fn large_requests_show_in_the_systems_share() {
    assert_eq!(stats().system, None);
}

/// What the OS says follows what is written, and what is purged.
fn resident_bytes_are_those_that_the_os_knows_of() {
    const BYTES: usize = 24 << 20;
    let resident = || pymalloc::stats().bytes.resident.expect("the system tells");
    let before = resident();
    let boxes: Vec<Box<[u8; 256]>> = (0..BYTES / 256).map(|_| Box::new([1; 256])).collect();
    let full = resident();
    assert!(full >= before + BYTES * 9 / 10, "{before} and {BYTES} make {full}");
    let stats = pymalloc::stats();
    assert!(full <= stats.bytes.arenas);
    assert_eq!(stats.bytes.committed.is_some(), cfg!(windows));
    assert!(stats.bytes.committed.is_none_or(|committed| (full..=stats.bytes.arenas).contains(&committed)));
    drop(boxes);
    pymalloc::purge();
    let purged = resident();
    assert!(purged + BYTES * 9 / 10 <= full, "{purged} of {full} after a purge");
    let committed = pymalloc::stats().bytes.committed;
    assert!(committed.is_none_or(|committed| committed + BYTES * 9 / 10 <= full), "{committed:?} of {full} after it");
}

fn main() {
    let tests: [(&str, fn()); 5] = [
        (
            "live_bytes_and_blocks_of_each_class_are_exact_at_rest",
            live_bytes_and_blocks_of_each_class_are_exact_at_rest,
        ),
        ("thread_caches_show_who_holds_what", thread_caches_show_who_holds_what),
        ("large_requests_show_in_the_systems_share", large_requests_show_in_the_systems_share),
        ("resident_bytes_are_those_that_the_os_knows_of", resident_bytes_are_those_that_the_os_knows_of),
        (
            "the_bytes_of_the_arenas_add_up_at_every_moment_of_four_threads",
            the_bytes_of_the_arenas_add_up_at_every_moment_of_four_threads,
        ),
    ];
    // What asks for a list of tests gets one; what is to be left out is.
    let arguments: Vec<String> = std::env::args().collect();
    let list = arguments.iter().any(|argument| argument == "--list");
    let is_skipped = |name: &str| arguments.windows(2).any(|pair| pair[0] == "--skip" && name.contains(&pair[1]));
    #[cfg(unix)]
    watchdog();
    for (name, test) in tests {
        if is_skipped(name) {
            continue;
        } else if list {
            println!("{name}: test");
        } else if cfg!(pymalloc_bypass) {
            println!("test {name} ... ignored, it counts the heap's blocks");
        } else {
            test();
            println!("test {name} ... ok");
        }
    }
}
