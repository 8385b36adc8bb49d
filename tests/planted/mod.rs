//! What the tests of the graph share: planted leaks, remembered so that nothing refers to them.
#![allow(dead_code, reason = "every binary that includes this file uses its own part of it")]

use std::hint::black_box;

use pymalloc::graph::{self, Config, HeapGraph, Reach};
use pymalloc::trace::{self, Session};

/// Addresses that nobody may find: inverted.
#[derive(Default)]
pub(crate) struct Hidden(Vec<usize>);

impl Hidden {
    pub(crate) fn note<T: ?Sized>(&mut self, value: &T) {
        self.0.push(!(&raw const *value).cast::<u8>().addr());
    }

    pub(crate) fn note_inverted(&mut self, address: usize) {
        self.0.push(address);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn address(&self, number: usize) -> usize {
        !self.0[number]
    }

    /// How many of them the graph says are reached so.
    pub(crate) fn count(&self, graph: &HeapGraph, reach: Reach) -> usize {
        let block = |hidden: &usize| graph.block_of(std::ptr::without_provenance::<u8>(!hidden));
        self.0.iter().filter(|hidden| block(hidden).is_some_and(|block| block.reach == reach)).count()
    }

    /// Checks that so many of a hundred are found.
    pub(crate) fn assert_mostly_unreachable(&self, graph: &HeapGraph, of_hundred: usize) {
        let found = self.count(graph, Reach::Unreachable);
        println!("found {found} of {}; {}; pause {:?}", self.len(), graph.summary(), graph.pause());
        assert!(found * 100 >= self.len() * of_hundred, "{found} of {}", self.len());
    }
}

/// Overwrites what calls left below this frame, as a program's next calls would.
#[inline(never)]
pub(crate) fn scrub_stack() {
    black_box([0_u64; 4096]);
}

#[inline(never)]
pub(crate) fn on_clean_stack<R>(body: impl FnOnce() -> R) -> R {
    let result = black_box(body)();
    scrub_stack();
    result
}

pub(crate) fn take() -> HeapGraph {
    graph::take(Config::new()).expect("a graph")
}

/// Runs the body of the test named `test` with the tracer on, in a process of its own: what other tests left in memory
/// refers to nothing there.
pub(crate) fn traced(test: &str, body: impl FnOnce()) {
    crate::common::alone(test, || {
        let _session = Session::start(trace::Config::new()).expect("the tracer is off");
        body();
    });
}
