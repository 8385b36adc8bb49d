//! Object pools beside the pools of other crates and beside no pool at all: one acquisition and release, or 100 at
//! once.
//!
//! `Pymalloc` is the global allocator, as in a program that uses it; "box on system" calls the system's allocator for
//! the object. All threads use one pool. Times are of one thread's pair of operations, while so many do the same.

#[path = "../../benches/common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};
use lockfree_object_pool::{LinearObjectPool, SpinLockObjectPool};
use pymalloc::Pymalloc;
use pymalloc_object_pool::{LocalPool, ObjectPool};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Objects that every pool has at the start: more than all threads use at once.
const PREFILL: usize = 4 * BURST;
/// More than a magazine holds, so that the shared stock is in the figures.
const BURST: usize = 100;
const BUFFER_BYTES: usize = 4096;

/// What is made, used and made fit for use again.
trait Object: Send + Sync + 'static {
    const NAME: &'static str;
    /// Whether there is anything to clean; a pool without a reset calls none.
    const HAS_RESET: bool = false;
    fn make() -> Self;
    fn work(&mut self);
    /// What a pool's reset does.
    fn clean(&mut self) {}
}

/// 64 bytes.
#[derive(Clone, Copy)]
struct Cheap([u64; 8]);

impl Object for Cheap {
    const NAME: &'static str = "cheap";
    fn make() -> Self {
        Self([1; 8])
    }
    fn work(&mut self) {
        self.0[0] = black_box(self.0[0]) + 1;
    }
}

/// A buffer of 4 KiB that gets 64 bytes.
struct Buffer(Vec<u8>);

impl Object for Buffer {
    const NAME: &'static str = "buffer of 4 KiB";
    const HAS_RESET: bool = true;
    fn make() -> Self {
        Self(Vec::with_capacity(BUFFER_BYTES))
    }
    fn work(&mut self) {
        self.0.extend_from_slice(black_box(&[7; 64]));
    }
    fn clean(&mut self) {
        self.0.clear();
    }
}

/// The tables of a checksum, 8 KiB, computed: what a compiled pattern or a parser's tables are like.
struct Tables(Box<[[u32; 256]; 8]>);

impl Object for Tables {
    const NAME: &'static str = "computed tables of 8 KiB";
    fn make() -> Self {
        let mut tables = Box::new([[0; 256]; 8]);
        for byte in 0..256 {
            let mut crc = byte as u32;
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1));
            }
            tables[0][byte] = crc;
        }
        for table in 1..8 {
            for byte in 0..256 {
                let before = tables[table - 1][byte];
                tables[table][byte] = (before >> 8) ^ tables[0][before as usize & 0xff];
            }
        }
        Self(tables)
    }
    fn work(&mut self) {
        black_box(self.0[7][black_box(200)]);
    }
}

/// A box whose memory is the system allocator's. The memory inside an object stays the global allocator's; buffers and
/// tables are large, so that theirs comes from the system in any case.
struct SystemBox<T>(NonNull<T>);

impl<T> SystemBox<T> {
    fn new(value: T) -> Self {
        // SAFETY: no object here has size 0.
        let place = NonNull::new(unsafe { System.alloc(Layout::new::<T>()) }.cast::<T>()).expect("memory");
        // SAFETY: allocated just above for a `T`.
        unsafe { place.write(value) };
        Self(place)
    }
}

impl<T> Drop for SystemBox<T> {
    fn drop(&mut self) {
        // SAFETY: it holds a `T`, in memory from `System`.
        unsafe {
            self.0.drop_in_place();
            System.dealloc(self.0.as_ptr().cast(), Layout::new::<T>());
        }
    }
}

impl<T> Deref for SystemBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: it holds a `T`.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for SystemBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: it holds a `T`.
        unsafe { self.0.as_mut() }
    }
}

/// The policy that `opool` asks for.
struct Policy;

impl<T: Object> opool::PoolAllocator<T> for Policy {
    fn allocate(&self) -> T {
        T::make()
    }
    fn reset(&self, object: &mut T) {
        object.clean();
    }
}

/// Times `pairs` calls of `pair` in each of so many threads.
fn time(threads: usize, pairs: u64, pair: impl Fn() + Sync) -> Duration {
    let run = || {
        for _ in 0..pairs {
            pair();
        }
    };
    if threads == 1 {
        let started = Instant::now();
        run();
        return started.elapsed();
    }
    let start = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // A first one, so that a thread's first meeting with the pool is not in the figures.
                pair();
                start.wait();
                run();
            });
        }
        start.wait();
        let started = Instant::now();
        // The end of the scope is the end of the last thread.
        started
    })
    .elapsed()
}

struct Row<'a, 'c> {
    group: &'a mut BenchmarkGroup<'c, WallTime>,
    threads: usize,
    at_once: usize,
}

impl Row<'_, '_> {
    /// One contestant: `acquire` gives a guard, whose drop releases.
    fn run<G>(&mut self, name: &str, acquire: impl Fn() -> G + Sync, work: impl Fn(&mut G) + Sync) {
        let (threads, at_once) = (self.threads, self.at_once);
        self.group.bench_function(BenchmarkId::new(name, threads), |b| {
            b.iter_custom(|pairs| {
                if at_once == 1 {
                    time(threads, pairs, || {
                        let mut guard = acquire();
                        work(&mut guard);
                    })
                } else {
                    time(threads, pairs.div_ceil(at_once as u64), || {
                        let mut guards: [G; BURST] = std::array::from_fn(|_| acquire());
                        work(&mut guards[0]);
                        black_box(&mut guards);
                    })
                }
            });
        });
    }
}

fn shared<T: Object>(c: &mut Criterion, at_once: usize) {
    let mut group =
        c.benchmark_group(if at_once == 1 { T::NAME.into() } else { format!("{}, {at_once} at once", T::NAME) });
    for threads in [1, 2, 4] {
        let row = &mut Row { group: &mut group, threads, at_once };
        let pool = ObjectPool::builder(T::make).prefill(PREFILL);
        let pool = if T::HAS_RESET { pool.reset(T::clean) } else { pool }.build().expect("valid");
        row.run("pymalloc", || pool.acquire(), |guard| guard.work());
        drop(pool);

        let pool = object_pool::Pool::new(PREFILL, T::make);
        row.run(
            "object-pool",
            || pool.pull(T::make),
            |guard| {
                guard.clean();
                guard.work();
            },
        );
        drop(pool);

        let pool = LinearObjectPool::new(T::make, T::clean);
        drop((0..PREFILL).map(|_| pool.pull()).collect::<Vec<_>>());
        row.run("lockfree linear", || pool.pull(), |guard| guard.work());
        drop(pool);

        let pool = SpinLockObjectPool::new(T::make, T::clean);
        drop((0..PREFILL).map(|_| pool.pull()).collect::<Vec<_>>());
        row.run("lockfree spin lock", || pool.pull(), |guard| guard.work());
        drop(pool);

        let pool: opool::Pool<_, T> = opool::Pool::new_prefilled(PREFILL, Policy);
        row.run("opool", || pool.get(), |guard| guard.work());
        drop(pool);

        // Out of the optimiser's sight: it knows what `malloc` and `free` do, and leaves both out.
        row.run("box on pymalloc", || black_box(Box::new(T::make())), |guard| guard.work());
        row.run("box on system", || black_box(SystemBox::new(T::make())), |guard| guard.work());
    }
    group.finish();
}

fn local<T: Object>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("{}, local pool", T::NAME));
    let pool = LocalPool::builder(T::make).prefill(PREFILL);
    let pool = if T::HAS_RESET { pool.reset(T::clean) } else { pool }.build().expect("valid");
    group.bench_function("pymalloc", |b| b.iter(|| pool.acquire().work()));
    let pool: opool::LocalPool<_, T> = opool::LocalPool::new_prefilled(PREFILL, Policy);
    group.bench_function("opool", |b| b.iter(|| pool.get().work()));
    group.finish();
}

fn main() {
    let c = &mut common::criterion();
    shared::<Cheap>(c, 1);
    shared::<Cheap>(c, BURST);
    shared::<Buffer>(c, 1);
    shared::<Tables>(c, 1);
    local::<Cheap>(c);
    local::<Buffer>(c);
    local::<Tables>(c);
    c.final_summary();
}
