//! The heap as a graph under the debug hooks: their records of a block do not hold it.
#![cfg(all(feature = "graph", target_os = "linux"))]

mod common;
mod planted;

use planted::{Hidden, on_clean_stack, take, traced};
use pymalloc::Pymalloc;
use pymalloc::debug::DebugAlloc;
use pymalloc::graph::Reach;

#[global_allocator]
static GLOBAL: DebugAlloc<Pymalloc> = DebugAlloc::new(Pymalloc::new());

#[test]
fn leaks_are_leaks_and_what_waits_in_the_quarantine_is_none() {
    traced("leaks_are_leaks_and_what_waits_in_the_quarantine_is_none", || {
        let (mut lost, mut held, mut freed) = (Hidden::default(), Hidden::default(), Hidden::default());
        let kept: Vec<Box<[u64; 9]>> = on_clean_stack(|| {
            let kept: Vec<Box<[u64; 9]>> = (0..500).map(|number| Box::new([number; 9])).collect();
            for number in 0..500 {
                // Of addresses that were freed before, too: late records must not hold them.
                drop(Box::new([number; 5]));
                lost.note(Box::leak(Box::new([number; 5])));
            }
            kept
        });
        kept.iter().for_each(|boxed| held.note(&**boxed));
        on_clean_stack(|| {
            for number in 0..100 {
                let boxed = Box::new([number; 7]);
                freed.note(&*boxed);
            }
        });
        let graph = take();
        lost.assert_mostly_unreachable(&graph, 99);
        assert_eq!(held.count(&graph, Reach::Rooted), held.len());
        assert_eq!(freed.count(&graph, Reach::Unreachable), 0, "{}", graph.leaks());
        let leaks = graph.leaks();
        let blocks: u64 = leaks.iter().map(|leak| leak.retained_blocks).sum();
        assert_eq!(blocks as usize, lost.count(&graph, Reach::Unreachable), "{leaks}");
        drop(kept);
    });
}

#[test]
fn what_left_the_quarantine_holds_nobody_at_its_address() {
    traced("what_left_the_quarantine_holds_nobody_at_its_address", || {
        let mut lost = Hidden::default();
        on_clean_stack(|| {
            let boxes: Vec<Box<[u64; 11]>> = (0..500).map(|number| Box::new([number; 11])).collect();
            drop(boxes);
            GLOBAL.empty_quarantine();
            for number in 0..500 {
                lost.note(Box::leak(Box::new([number; 11])));
            }
        });
        lost.assert_mostly_unreachable(&take(), 99);
    });
}
