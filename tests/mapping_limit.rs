//! The kernel's limit on the number of mappings is reached: `munmap` of an arena amid others refuses, because it would
//! make two mappings of one. The range is kept and purged, nothing is lost, and it goes back when there is room again.
#![cfg(all(unix, not(pymalloc_bypass)))]

mod common;

use std::ptr::null_mut;

use common::{Block, Rng, alone, assert_live_near, assert_sound, os_page_bytes};
use pymalloc::{ARENA_BYTES, Pymalloc};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const SLACK_BLOCKS: usize = 32;

/// Mappings in numbers, by protections that alternate from OS page to OS page.
struct Mappings {
    start: *mut u8,
    bytes: usize,
}

impl Mappings {
    /// Makes mappings until the kernel refuses one more; `None` if it never does.
    fn until_refused() -> Option<Self> {
        let os_page_bytes = os_page_bytes();
        // Each second OS page is its own mapping, and so is what lies between.
        let bytes = (limit() + 2) * os_page_bytes;
        // SAFETY: a new mapping disturbs nothing.
        let start =
            unsafe { libc::mmap(null_mut(), bytes, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let start = start.cast::<u8>();
        for os_page in (1..bytes / os_page_bytes).step_by(2) {
            // SAFETY: inside the mapping, which nobody uses.
            let refused = unsafe {
                libc::mprotect(start.add(os_page * os_page_bytes).cast(), os_page_bytes, libc::PROT_READ) != 0
            };
            if refused {
                return Some(Self { start, bytes });
            }
        }
        None
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        // SAFETY: mapped by `until_refused`, used by nobody. Whole mappings go, so the limit is no hindrance.
        assert_eq!(unsafe { libc::munmap(self.start.cast(), self.bytes) }, 0);
    }
}

/// Whether `munmap` of the arena at `start` would leave mapped memory on both sides: then the kernel must split.
fn is_amid_others(arena: usize, all: &[usize]) -> bool {
    all.contains(&(arena + ARENA_BYTES)) && all.contains(&(arena - ARENA_BYTES))
}

/// Kernels may be set to a limit that takes too long to reach.
const LIMIT_MAX: usize = 1 << 21;

fn limit() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("Linux");
    limit.trim().parse().expect("a number")
}

fn refuse_and_recover() {
    if limit() > LIMIT_MAX {
        println!("not run: the limit of {} mappings is too high", limit());
        return;
    }
    let before = assert_sound().blocks_live();
    let layout = std::alloc::Layout::new::<[u64; 64]>();
    let fill = |count| (0..count).map(|serial| Block::new(serial, layout)).collect::<Vec<_>>();
    let address = |block: &Block| block.start().addr();
    // Hardened, the arenas' metadata is larger, and lies between them more often.
    let wanted = if cfg!(feature = "hardened") { 96 } else { 24 };
    let mut live = fill(wanted * (ARENA_BYTES / 512) as u64);
    let mut arenas: Vec<_> = live.iter().map(|block| address(block) / ARENA_BYTES * ARENA_BYTES).collect();
    arenas.sort_unstable();
    arenas.dedup();
    let amid: Vec<_> = arenas.iter().copied().filter(|&arena| is_amid_others(arena, &arenas)).collect();
    // Every second of them: their neighbours stay mapped, and full.
    let emptied: Vec<_> = amid.into_iter().step_by(2).collect();
    assert!(emptied.len() >= 6, "the kernel places arenas side by side: {arenas:x?}");

    let mapped = assert_sound().arenas_mapped;
    let mappings = Mappings::until_refused().expect("a limit");
    let returned = pymalloc::stats().arenas_returned;
    let is_kept = |block: &Block| !emptied.contains(&(address(block) / ARENA_BYTES * ARENA_BYTES));
    let rss = common::rss_bytes();
    live.retain(is_kept);
    pymalloc::purge();
    let stats = assert_sound();
    assert_eq!((stats.arenas_mapped, stats.arenas_returned), (mapped, returned), "munmap was refused");
    let purged = rss.saturating_sub(common::rss_bytes());
    assert!(purged >= (emptied.len() - 1) * ARENA_BYTES, "{purged} bytes of {} arenas", emptied.len());
    live.iter().for_each(Block::check);
    assert_live_near(before + live.len(), SLACK_BLOCKS);
    // What was kept is served again, without a new mapping.
    let more = fill((emptied.len() * ARENA_BYTES / 512 / 2) as u64);
    assert_eq!(assert_sound().arenas_mapped, mapped);
    drop(more);

    drop(mappings);
    pymalloc::purge();
    assert_eq!(assert_sound().arenas_mapped, mapped - emptied.len());
    live.iter().for_each(Block::check);
    // Of other classes, in other places.
    let mut rng = Rng::new(5);
    live.extend((0..100_000).map(|serial| Block::random(serial, &mut rng)));
    drop(live);
    pymalloc::purge();
    assert_live_near(before, SLACK_BLOCKS);
}

#[test]
fn arenas_that_can_not_be_unmapped_are_kept_and_purged() {
    alone("arenas_that_can_not_be_unmapped_are_kept_and_purged", refuse_and_recover);
}
