//! The heap as a graph: planted leaks are found, and nothing else is; who holds what.
//!
//! What is planted is remembered inverted: so the memory of the test itself refers to none of it.
#![cfg(feature = "graph")]
#![allow(clippy::vec_box, reason = "the boxes are what is looked at")]

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use pymalloc::Pymalloc;
use pymalloc::graph::{self, Config, HeapGraph, Reach};
use pymalloc::trace::{self, Session};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Addresses that nobody may find.
#[derive(Default)]
struct Hidden(Vec<usize>);

impl Hidden {
    fn note<T: ?Sized>(&mut self, value: &T) {
        self.0.push(!(&raw const *value).cast::<u8>().addr());
    }

    /// How many of them the graph says are reached so.
    fn count(&self, graph: &HeapGraph, reach: Reach) -> usize {
        let block = |hidden: &usize| graph.block_of(std::ptr::without_provenance::<u8>(!hidden));
        self.0.iter().filter(|hidden| block(hidden).is_some_and(|block| block.reach == reach)).count()
    }
}

/// Overwrites what calls left below this frame, as a program's next calls would.
#[inline(never)]
fn scrub_stack() {
    black_box([0_u64; 4096]);
}

#[inline(never)]
fn on_clean_stack<R>(body: impl FnOnce() -> R) -> R {
    let result = black_box(body)();
    scrub_stack();
    result
}

fn take() -> HeapGraph {
    graph::take(Config::new()).expect("a graph")
}

/// Runs a body with the tracer on, after other tests.
fn traced<R>(body: impl FnOnce() -> R) -> R {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _session = Session::start(trace::Config::new()).expect("the tracer is off");
    body()
}

struct Person {
    name: String,
    friends: RefCell<Vec<Rc<Person>>>,
}

/// Two people who know each other, whom everybody else forgets.
#[inline(never)]
fn forget_friends(hidden: &mut Hidden, number: usize) {
    let person = |name| Rc::new(Person { name, friends: RefCell::default() });
    let (one, other) = (person(format!("one of {number:40}")), person(format!("other of {number:40}")));
    one.friends.borrow_mut().push(Rc::clone(&other));
    other.friends.borrow_mut().push(Rc::clone(&one));
    hidden.note(&*one);
    hidden.note(&*other);
    hidden.note(one.name.as_bytes());
}

#[test]
fn circles_of_rc_and_forgotten_boxes_are_found_and_what_is_held_is_not() {
    traced(|| {
        let (mut lost, mut held) = (Hidden::default(), Hidden::default());
        let people: Vec<Rc<Person>> = on_clean_stack(|| {
            (0..1000)
                .map(|number| Rc::new(Person { name: format!("{number:30}"), friends: RefCell::default() }))
                .collect()
        });
        people.iter().for_each(|person| {
            held.note(&**person);
            held.note(person.name.as_bytes());
        });
        on_clean_stack(|| {
            for number in 0..1000 {
                forget_friends(&mut lost, number);
                lost.note(Box::leak(Box::new([number; 5])));
            }
        });
        let graph = take();
        let found = lost.count(&graph, Reach::Unreachable);
        println!("found {found} of {}; {}; pause {:?}", lost.0.len(), graph.summary(), graph.pause());
        assert!(found * 100 >= lost.0.len() * 99, "{found} of {}", lost.0.len());
        assert_eq!(held.count(&graph, Reach::Rooted), held.0.len());
        let leaks = graph.leaks();
        println!("{}", leaks.top(3));
        let circles = leaks.iter().find(|leak| leak.cycle.is_some()).expect("circles");
        assert!(circles.count >= 990, "{circles}");
        assert_eq!(circles.cycle.as_ref().expect("one").steps.len(), 4, "two people and two lists of friends");
        assert!(circles.traceback.cause().function().contains("forget_friends"), "{circles}");
        // Two people, their names, their lists.
        assert_eq!(circles.retained_blocks, circles.count as u64 * 6, "{circles}");
        drop(people);
    });
}
