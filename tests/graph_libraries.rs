//! Graphs of the heap while another thread opens and closes a library all the time: none hangs, and none calls leaked
//! what the library's static holds meanwhile.
#![cfg(all(feature = "graph", target_os = "linux", target_env = "gnu"))]

mod common;
mod planted;

use std::ffi::{CStr, CString, c_void};
use std::mem::transmute;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{StopOnDrop, alone};
use planted::scrub_stack;
use pymalloc::Pymalloc;
use pymalloc::graph::{self, Config};
use pymalloc::trace::{self, Filter, Session};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Opening and closing take a while, in which the loader's lock is held.
const SOURCE: &str = "
#include <unistd.h>
static void *held;
void hold(void *block) { held = block; }
void *give_back(void) { void *block = held; held = 0; return block; }
__attribute__((constructor)) static void begin(void) { usleep(300); }
__attribute__((destructor)) static void end(void) { usleep(300); }
";

fn compile(folder: &Path) -> Option<CString> {
    let (source, library) = (folder.join("held.c"), folder.join("held.so"));
    std::fs::write(&source, SOURCE).expect("ours");
    let Ok(status) = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).args([&library, &source]).status()
    else {
        eprintln!("SKIPPED: there is no compiler `cc` on this machine");
        return None;
    };
    assert!(status.success());
    Some(CString::new(library.into_os_string().into_encoded_bytes()).expect("no null byte"))
}

/// What the library's static alone holds for a while: frames that have the address are scrubbed.
#[inline(never)]
fn hand_over(hold: extern "C" fn(*mut c_void), number: u64) {
    hold(Box::into_raw(Box::new([number; 9])).cast());
}

/// # Safety
/// It gives back what was handed over.
#[inline(never)]
unsafe fn take_back(give_back: extern "C" fn() -> *mut c_void, number: u64) {
    // SAFETY: the caller's promise.
    let block = unsafe { Box::from_raw(give_back().cast::<[u64; 9]>()) };
    assert_eq!(*block, [number; 9]);
}

#[inline(never)]
fn open_and_close(path: &CStr, number: u64) {
    // SAFETY: a library of ours, with functions of these types, closed after their last call. What is given back is
    // what was handed over.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null());
        let hold: extern "C" fn(*mut c_void) = transmute(libc::dlsym(library, c"hold".as_ptr()));
        let give_back: extern "C" fn() -> *mut c_void = transmute(libc::dlsym(library, c"give_back".as_ptr()));
        hand_over(hold, number);
        scrub_stack();
        thread::sleep(Duration::from_micros(500));
        take_back(give_back, number);
        assert_eq!(libc::dlclose(library), 0);
    }
}

/// A test that hangs is ended by `alone`.
#[test]
fn graphs_are_taken_while_libraries_come_and_go() {
    alone("graphs_are_taken_while_libraries_come_and_go", || {
        let folder = std::env::temp_dir().join(format!("pymalloc-graph-libraries-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let Some(path) = compile(&folder) else { return };
        let _session = Session::start(trace::Config::new()).expect("the tracer is off");
        let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    open_and_close(&path, rounds.fetch_add(1, Ordering::Relaxed));
                }
            });
            let _stops = StopOnDrop(&stop);
            let own = Filter::include().crate_name("graph_libraries").expect("a pattern");
            for number in 0..60 {
                let seen = rounds.load(Ordering::Relaxed);
                while rounds.load(Ordering::Relaxed) == seen {
                    thread::yield_now();
                }
                let config = if number % 4 == 3 { Config::new().in_process() } else { Config::new() };
                let graph = graph::take(config).expect("a graph");
                let leaks = graph.leaks().filter(std::slice::from_ref(&own));
                assert!(leaks.is_empty(), "graph {number}: {leaks}");
                assert!(graph.threads_left().is_empty());
            }
        });
        assert!(rounds.load(Ordering::Relaxed) >= 60);
        std::fs::remove_dir_all(&folder).expect("ours");
    });
}
