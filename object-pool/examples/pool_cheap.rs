//! When a pool is not worth it: objects that are cheap to make. Compares `Box`, `LocalPool` and `ObjectPool`.
//!
//! ```sh
//! cargo run --release -p pymalloc-object-pool --example pool_cheap
//! ```

use std::hint::black_box;
use std::time::Instant;

use pymalloc::Pymalloc;
use pymalloc_object_pool::{LocalPool, ObjectPool};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const ROUNDS: u32 = 20_000_000;

/// A point of a path: 32 bytes, nothing to compute.
struct Point {
    place: [f64; 3],
    cost: f64,
}

fn point() -> Point {
    Point { place: [1.0, 2.0, 3.0], cost: black_box(4.0) }
}

fn time(name: &str, one: impl Fn() -> f64) {
    // The first run warms up.
    let _: f64 = (0..ROUNDS / 10).map(|_| one()).sum();
    let started = Instant::now();
    let sum: f64 = (0..ROUNDS).map(|_| one()).sum();
    let nanoseconds = started.elapsed().as_nanos() as f64 / f64::from(ROUNDS);
    println!("{name:12} {nanoseconds:5.1} ns an object (sum {sum})");
}

fn main() {
    time("Box", || {
        let point = black_box(Box::new(point()));
        point.place[0] + point.cost
    });
    let local = LocalPool::new(point);
    time("LocalPool", || {
        let point = black_box(local.acquire());
        point.place[0] + point.cost
    });
    let shared = ObjectPool::new(point);
    time("ObjectPool", || {
        let point = black_box(shared.acquire());
        point.place[0] + point.cost
    });
    println!("Making such an object is no work, and Pymalloc hands out its memory about as fast as a pool does.");
}
