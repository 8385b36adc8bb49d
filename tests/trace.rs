//! The tracer: what it knows of a program whose every allocation is known.
#![cfg(feature = "trace")]

mod common;

use pymalloc::Pymalloc;
use pymalloc::trace::{self, By, Config};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

#[test]
fn first() {
    trace::start(Config::new()).expect("starts");
    let before = trace::traced_memory();
    let v: Vec<Box<u64>> = (0..1000).map(Box::new).collect();
    let s: Vec<String> = (0..100).map(|n| format!("{n:>100}")).collect();
    let after = trace::traced_memory();
    eprintln!("{before:?} {after:?} {}", trace::overhead());
    let snapshot = trace::take_snapshot().expect("tracing");
    eprintln!("{}", snapshot.statistics(By::Line).top(10));
    eprintln!("{}", snapshot.statistics(By::Traceback).top(3));
    eprintln!("{}", trace::overhead());
    let bytes = snapshot.to_pprof();
    let again = trace::Snapshot::from_pprof(&bytes).expect("own");
    assert_eq!(snapshot, again);
    std::fs::write("/tmp/tr/x.svg", snapshot.to_flame_graph("t").unwrap()).unwrap();
    std::fs::write("/tmp/tr/x.pb.gz", bytes).unwrap();
    trace::stop();
    eprintln!("{}", trace::overhead());
    drop((v, s));
}
