//! The heap as a graph: planted leaks are found, and nothing else is; who holds what.
//!
//! What is planted is remembered inverted: so the memory of the test itself refers to none of it.
#![cfg(all(feature = "graph", target_os = "linux"))]
#![allow(clippy::vec_box, reason = "the boxes are what is looked at")]

mod common;
mod planted;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use common::Rng;
use planted::{Hidden, on_clean_stack, scrub_stack, take, traced};
use pymalloc::Pymalloc;
use pymalloc::graph::{self, By, Config, Error, Place, Reach, Reference};
use pymalloc::trace::{self, Filter};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

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
    traced("circles_of_rc_and_forgotten_boxes_are_found_and_what_is_held_is_not", || {
        let (mut lost, mut held) = (Hidden::default(), Hidden::default());
        let person = |number| Rc::new(Person { name: format!("{number:30}"), friends: RefCell::default() });
        let people: Vec<Rc<Person>> = on_clean_stack(|| (0..1000).map(person).collect());
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
        lost.assert_mostly_unreachable(&graph, 99);
        assert_eq!(held.count(&graph, Reach::Rooted), held.len());
        let leaks = graph.leaks();
        let circles = leaks.iter().find(|leak| leak.cycle.is_some()).expect("circles");
        assert!(circles.count >= 990, "{circles}");
        assert_eq!(circles.cycle.as_ref().expect("one").steps.len(), 4, "two people and two lists of friends");
        assert!(circles.traceback.cause().function().contains("forget_friends"), "{circles}");
        // Two people, their names, their lists.
        assert_eq!(circles.retained_blocks, circles.count as u64 * 6, "{circles}");
        assert!(circles.to_string().contains("-> the first"), "{circles}");
        drop(people);
    });
}

#[test]
fn what_a_cache_forgets_as_it_evicts_is_found_behind_its_vacant_buckets() {
    traced("what_a_cache_forgets_as_it_evicts_is_found_behind_its_vacant_buckets", || {
        let mut lost = Hidden::default();
        let mut rng = Rng::new(5);
        let mut cache: HashMap<u64, Box<[u64; 7]>> = HashMap::new();
        let mut order = VecDeque::new();
        on_clean_stack(|| {
            for _ in 0..20_000 {
                let key = rng.next();
                cache.insert(key, Box::new([key; 7]));
                order.push_back(key);
                if order.len() > 4000 {
                    let oldest = order.pop_front().expect("not empty");
                    let value = cache.remove(&oldest).expect("evicted once");
                    if oldest % 4 == 0 {
                        lost.note(&*value);
                        std::mem::forget(value);
                    }
                }
            }
        });
        let graph = take();
        lost.assert_mostly_unreachable(&graph, 95);
        let mut held = Hidden::default();
        cache.values().for_each(|value| held.note(&**value));
        assert_eq!(held.count(&graph, Reach::Rooted), 4000);
    });
}

#[test]
fn nothing_that_maps_and_queues_hold_is_a_leak_and_what_they_lost_is() {
    traced("nothing_that_maps_and_queues_hold_is_a_leak_and_what_they_lost_is", || {
        let (mut lost, mut held) = (Hidden::default(), Hidden::default());
        let mut tree: BTreeMap<String, Vec<Box<u64>>> = BTreeMap::new();
        let mut queue: VecDeque<Box<[u64; 3]>> = VecDeque::new();
        let mut table: HashMap<String, Rc<str>> = HashMap::new();
        on_clean_stack(|| {
            for number in 0..3000_u64 {
                tree.entry(format!("{:40}", number % 700)).or_default().push(Box::new(number));
                queue.push_back(Box::new([number; 3]));
                if queue.len() > 100 {
                    queue.pop_front();
                }
                table.insert(format!("{number:30}"), format!("{number:50}").into());
                if number % 10 == 0 {
                    lost.note(Box::leak(vec![number; 40].into_boxed_slice()));
                }
            }
        });
        let graph = take();
        for (key, numbers) in &tree {
            held.note(key.as_bytes());
            numbers.iter().for_each(|number| held.note(&**number));
        }
        queue.iter().for_each(|entry| held.note(&**entry));
        for (key, value) in &table {
            held.note(key.as_bytes());
            held.note(value.as_bytes());
        }
        assert_eq!(held.count(&graph, Reach::Rooted), held.len());
        lost.assert_mostly_unreachable(&graph, 99);
    });
}

static HELD_BY_STATIC: std::sync::Mutex<Option<Box<[u64; 9]>>> = std::sync::Mutex::new(None);

thread_local! {
    static HELD_BY_THREAD: RefCell<Option<Box<[u64; 11]>>> = const { RefCell::new(None) };
}

#[inline(never)]
fn holds_on_its_stack(body: impl FnOnce(&u64)) {
    let boxed = black_box(Box::new(5));
    body(&boxed);
    black_box(&boxed);
}

#[test]
fn paths_name_the_static_the_thread_local_and_the_frame_that_a_block_hangs_on() {
    traced("paths_name_the_static_the_thread_local_and_the_frame_that_a_block_hangs_on", || {
        let mut hidden = Hidden::default();
        on_clean_stack(|| {
            let boxed = Box::new([1; 9]);
            hidden.note(&*boxed);
            *HELD_BY_STATIC.lock().expect("no panic") = Some(boxed);
            let boxed = Box::new([2; 11]);
            hidden.note(&*boxed);
            HELD_BY_THREAD.set(Some(boxed));
        });
        holds_on_its_stack(|boxed| {
            scrub_stack();
            let graph = take();
            let path = |address: usize| graph.path_to(std::ptr::without_provenance::<u8>(address)).expect("a block");
            let path_of_static = path(hidden.address(0));
            let Some(Place::Static { symbol, module }) = &path_of_static.place else { panic!("{path_of_static}") };
            assert!(symbol.contains("HELD_BY_STATIC") && module.contains("graph"), "{path_of_static}");
            assert_eq!(path_of_static.steps.len(), 1);
            let path_of_local = path(hidden.address(1));
            let Some(Place::ThreadLocal { symbol, thread }) = &path_of_local.place else { panic!("{path_of_local}") };
            assert!(symbol.contains("HELD_BY_THREAD") && !thread.is_empty(), "{path_of_local}");
            let found = graph.referrers(&raw const *boxed).expect("a block");
            let is_frame = |reference: &Reference| {
                matches!(reference, Reference::Root(Place::Stack { function: Some(frame), .. })
                    if frame.function().contains("holds_on_its_stack"))
            };
            assert!(found.iter().any(is_frame), "{found:?}");
        });
        *HELD_BY_STATIC.lock().expect("no panic") = None;
        HELD_BY_THREAD.set(None);
    });
}

struct Tree {
    value: [u64; 4],
    children: Vec<Tree>,
}

#[inline(never)]
fn tree(depth: u64) -> Tree {
    Tree { value: [depth; 4], children: (1..depth).map(tree).collect() }
}

#[inline(never)]
fn hold_trees() -> Box<Tree> {
    Box::new(tree(6))
}

#[test]
fn what_a_block_retains_is_what_would_be_freed_with_it() {
    traced("what_a_block_retains_is_what_would_be_freed_with_it", || {
        let (root, measured) = pymalloc::measure(hold_trees);
        scrub_stack();
        let graph = take();
        let block = graph.block_of(&raw const *root).expect("a block");
        assert_eq!((block.reach, block.bytes), (Reach::Rooted, size_of::<Tree>()));
        let referents = graph.referents(&raw const *root).expect("a block");
        let [Reference::Block(children, _)] = &referents[..] else { panic!("{referents:?}") };
        assert_eq!(children.bytes, 5 * size_of::<Tree>());
        assert_eq!(root.children.len(), 5);
        assert_eq!(root.value[0], 6);
        // `measure` counts blocks as they are handed out, the graph as they were asked for: both are whole words here.
        assert_eq!(block.retained_bytes, measured.bytes_live as u64);
        let by_function = graph.retained(By::Function);
        let row = |name: &str| by_function.iter().find(|row| row.name.ends_with(name)).expect("a row");
        assert_eq!(row("graph::hold_trees").retained_bytes, block.retained_bytes);
        assert_eq!(row("graph::tree").retained_bytes, block.retained_bytes - block.bytes as u64);
        let crates = graph.retained(By::Crate);
        let own = crates.iter().find(|row| row.name == "graph").expect("the test's own crate");
        assert!(own.retained_bytes >= block.retained_bytes && own.blocks > 10);
        let paths = graph.paths_to(&[Filter::include().function("graph::tree").expect("a pattern")], 3);
        assert!((1..=3).contains(&paths.paths.len()) && paths.blocks > 10, "{paths}");
    });
}

#[test]
fn pictures_show_the_block_and_who_refers_to_it() {
    traced("pictures_show_the_block_and_who_refers_to_it", || {
        let inner: Rc<[u64; 3]> = Rc::new([1; 3]);
        let outer = Box::new([Rc::clone(&inner), Rc::clone(&inner)]);
        let graph = take();
        let svg = graph.to_svg(Rc::as_ptr(&inner), 3).expect("a block");
        let dot = graph.to_dot(Rc::as_ptr(&inner), 3).expect("a block");
        for (text, start) in [(&svg, "<svg"), (&dot, "digraph")] {
            assert!(text.starts_with(start) && text.contains("Rc&lt;T") | text.contains("Rc<T"), "{text}");
            assert!(text.contains("alloc::boxed::Box"), "{text}");
        }
        let nowhere = std::ptr::without_provenance::<u8>(8);
        assert!(graph.to_svg(nowhere, 1).is_err() && graph.path_to(nowhere).is_err());
        drop(outer);
    });
}

/// What refers to blocks in every way that is tried.
struct Kept {
    words: Vec<Box<[usize; 4]>>,
    bytes: Vec<u8>,
    object: Box<dyn Fn() -> u64>,
    raw: *const [u64; 5],
}

#[inline(never)]
fn keep_in_all_ways(seen: &mut Hidden, hidden: &mut Hidden) -> Kept {
    let new = |noted: &mut Hidden| {
        let leaked = Box::leak(Box::new([3_u64; 6]));
        noted.note(leaked);
        (&raw const *leaked).expose_provenance()
    };
    let seen_words = [new(seen), new(seen) | 7, new(seen) + 40];
    let hidden_words = [new(hidden) | 1 << 63, new(hidden) ^ 0x5555_5555_5555, new(hidden) >> 3];
    let words = seen_words.into_iter().chain(hidden_words).map(|word| Box::new([word, 0, 0, 0])).collect();
    let mut bytes = vec![0; 32];
    bytes[3..11].copy_from_slice(&new(hidden).to_ne_bytes());
    let captured = Box::new(9_u64);
    seen.note(&*captured);
    let shared = Arc::new([1_u64; 5]);
    seen.note(&*shared);
    Kept { words, bytes, object: Box::new(move || *captured), raw: Arc::into_raw(shared) }
}

/// The table of docs/graph.md.
#[test]
fn pointers_that_are_kept_as_addresses_are_seen_and_those_that_are_hidden_are_not() {
    traced("pointers_that_are_kept_as_addresses_are_seen_and_those_that_are_hidden_are_not", || {
        let (mut seen, mut hidden) = (Hidden::default(), Hidden::default());
        let kept = on_clean_stack(|| keep_in_all_ways(&mut seen, &mut hidden));
        let graph = take();
        assert_eq!(seen.count(&graph, Reach::Rooted), seen.len());
        assert_eq!(hidden.count(&graph, Reach::Unreachable), hidden.len());
        assert_eq!((kept.words.len(), kept.bytes.len(), (kept.object)()), (6, 32, 9));
        // SAFETY: made by `into_raw`.
        drop(unsafe { Arc::from_raw(kept.raw) });
    });
}

#[test]
fn a_scan_in_the_process_finds_what_a_copy_finds() {
    traced("a_scan_in_the_process_finds_what_a_copy_finds", || {
        let mut lost = Hidden::default();
        let kept: Vec<Box<[u64; 5]>> = on_clean_stack(|| {
            (0..100).for_each(|number| lost.note(Box::leak(Box::new([number; 12]))));
            (0..100).map(|number| Box::new([number; 5])).collect()
        });
        let mut held = Hidden::default();
        kept.iter().for_each(|boxed| held.note(&**boxed));
        let copied = take();
        let scanned = graph::take(Config::new().in_process()).expect("a graph");
        for graph in [&copied, &scanned] {
            lost.assert_mostly_unreachable(graph, 99);
            assert_eq!(held.count(graph, Reach::Rooted), 100);
        }
        // Graphs that are kept refer to nothing.
        lost.assert_mostly_unreachable(&take(), 99);
        drop((copied, scanned, kept));
    });
}

#[test]
fn without_every_block_traced_there_is_no_graph() {
    traced("without_every_block_traced_there_is_no_graph", || {
        trace::stop();
        assert_eq!(graph::take(Config::new()).err(), Some(Error::NotTracing));
        trace::start(trace::Config::new().sample_every(4096)).expect("not tracing");
        assert_eq!(graph::take(Config::new()).err(), Some(Error::Sampled));
        trace::stop();
        assert!(graph::find_leaks(|| ()).is_ok_and(|(_, leaks)| leaks.is_empty()));
        assert!(!trace::is_tracing());
    });
}

#[inline(never)]
fn leaks_a_circle() {
    let one = Rc::new(Person { name: String::from("alone"), friends: RefCell::default() });
    one.friends.borrow_mut().push(Rc::clone(&one));
}

#[test]
fn a_test_fails_by_what_it_leaks_and_passes_when_it_leaks_nothing() {
    traced("a_test_fails_by_what_it_leaks_and_passes_when_it_leaks_nothing", || {
        let sum = graph::assert_no_leaks(|| (0..100).map(|number| *black_box(Box::new(number))).sum::<u64>());
        assert_eq!(sum, 4950);
        let leaks = || on_clean_stack(|| (0..20).for_each(|_| leaks_a_circle()));
        let panic = std::panic::catch_unwind(|| graph::assert_no_leaks(leaks));
        let message = panic.expect_err("it leaks").downcast::<String>().expect("a message");
        assert!(message.contains("cycles of") && message.contains("leaks_a_circle"), "{message}");
        // What was leaked before is nobody's fault now.
        graph::assert_no_leaks(|| ());
    });
}
