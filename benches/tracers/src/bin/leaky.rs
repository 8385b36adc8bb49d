//! A program that leaks, for the comparison of tools in `docs/graph.md` (`tests/oracles/compare.py`): a cache from
//! which entries go in circles, a tree that is kept, and strings that come and go.
//!
//! `leaky [ENTRIES]` prints the milliseconds of its work, so that what a tool takes at the start and at
//! the exit is apart. With the feature `dhat` it is under that.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

#[cfg(feature = "dhat")]
#[global_allocator]
static GLOBAL: dhat::Alloc = dhat::Alloc;

struct Entry {
    name: String,
    other: RefCell<Option<Rc<Entry>>>,
}

#[inline(never)]
fn entry(number: usize) -> Rc<Entry> {
    Rc::new(Entry { name: format!("entry of number {number:20}"), other: RefCell::new(None) })
}

/// Two entries that refer to each other: four blocks that nothing frees once both are dropped.
#[inline(never)]
fn circle(number: usize) -> Rc<Entry> {
    let (one, other) = (entry(number), entry(number + 1));
    *one.other.borrow_mut() = Some(Rc::clone(&other));
    *other.other.borrow_mut() = Some(Rc::clone(&one));
    one
}

#[inline(never)]
fn work(entries: usize) -> (Vec<Rc<Entry>>, BTreeMap<usize, Box<[usize; 6]>>) {
    let (mut cache, mut tree) = (Vec::new(), BTreeMap::new());
    for number in 0..entries {
        // One of a hundred is a circle, and is forgotten.
        cache.push(if number % 100 == 0 { circle(number) } else { entry(number) });
        tree.insert(number.wrapping_mul(0x9e37_79b9) % (4 * entries), Box::new([number; 6]));
        for text in 0..20 {
            black_box(format!("{number:30} {text}"));
        }
    }
    cache.retain(|entry| entry.other.borrow().is_none());
    (cache, tree)
}

#[inline(never)]
fn clear_stack() {
    black_box([0_usize; 2048]);
}

fn main() {
    let entries = std::env::args().nth(1).map_or(100_000, |text| text.parse().expect("a number"));
    #[cfg(feature = "dhat")]
    let profiler = dhat::Profiler::builder().file_name(std::env::temp_dir().join("leaky-dhat.json")).build();
    let start = Instant::now();
    let kept = work(entries);
    let millis = start.elapsed().as_secs_f64() * 1e3;
    clear_stack();
    let bytes: usize = kept.0.iter().map(|entry| entry.name.len()).sum();
    println!("{millis:.1} ms of work; {bytes} bytes of names");
    black_box(&kept);
    #[cfg(feature = "dhat")]
    drop(profiler);
    // Held when the program exits.
    std::process::exit(0);
}
