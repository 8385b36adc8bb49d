//! Threads, forks, limits, and libraries that come and go, on the library.

mod common;
#[path = "../../tests/common/sandbox.rs"]
#[allow(dead_code, reason = "the crate's own file, of which these tests need one function")]
mod sandbox;

use std::ffi::{CString, c_int, c_void};
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use common::{allocations, child, is_child, library, on_library, on_library_with, output_of, preloaded};
use libc::{free, malloc};

/// An address that goes to other threads.
struct Block(*mut c_void);

// SAFETY: the only handle of its memory.
unsafe impl Send for Block {}

#[test]
fn threads_free_each_others_blocks() {
    on_library("threads_free_each_others_blocks", || {
        const ROUNDS: usize = 20_000;
        thread::scope(|scope| {
            for seed in 0..3_usize {
                let (sender, receiver) = sync_channel::<(Block, usize)>(100);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let bytes = 1 + (round * 31 + seed * 17) % 700;
                        // SAFETY: a block of that many bytes.
                        unsafe {
                            let block = malloc(bytes);
                            block.cast::<u8>().write_bytes(bytes as u8, bytes);
                            sender.send((Block(block), bytes)).expect("it listens");
                        }
                    }
                });
                scope.spawn(move || {
                    for (block, bytes) in receiver {
                        // SAFETY: a block of that many bytes, now ours.
                        unsafe {
                            let used = std::slice::from_raw_parts(block.0.cast::<u8>(), bytes);
                            assert!(used.iter().all(|&byte| byte == bytes as u8));
                            free(block.0);
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn the_report_counts_allocations_but_not_those_that_a_magazine_serves_again() {
    const BLOCKS: usize = 100_000;
    let name = "the_report_counts_allocations_but_not_those_that_a_magazine_serves_again";
    if is_child() {
        let keep = std::env::var_os("KEEP").is_some();
        for _ in 0..BLOCKS {
            // SAFETY: a block in our hands.
            unsafe {
                let block = black_box(malloc(black_box(48)));
                if !keep {
                    free(block);
                }
            }
        }
        return;
    }
    let count = |keep: &[(&str, &str)]| {
        let (output, report) = preloaded(child(name).envs(keep.iter().copied()));
        assert!(output.status.success(), "{output:?}");
        allocations(report.first().expect("one process, one line"))
    };
    let (freed, kept) = (count(&[]), count(&[("KEEP", "1")]));
    assert!(freed > 0 && kept >= BLOCKS && kept - freed <= BLOCKS, "{freed} {kept}");
    assert!(kept - freed >= BLOCKS / 10 * 9, "the harness allocates about as much in both: {freed} {kept}");
}

static LATE_CALLS: AtomicUsize = AtomicUsize::new(0);

/// Runs after the allocator's own destructor in an ending thread, in every round that POSIX grants.
unsafe extern "C" fn late(value: *mut c_void) {
    // SAFETY: blocks in our hands; the key is the one that calls this.
    unsafe {
        let blocks: Vec<_> = (1..200).map(|bytes| malloc(black_box(bytes))).collect();
        blocks.into_iter().for_each(|block| free(block));
        free((*value.cast::<Late>()).block);
        (*value.cast::<Late>()).block = malloc(40);
        libc::pthread_setspecific((*value.cast::<Late>()).key, value);
    }
    LATE_CALLS.fetch_add(1, Ordering::Relaxed);
}

struct Late {
    key: libc::pthread_key_t,
    block: *mut c_void,
}

#[test]
fn threads_allocate_to_their_very_end() {
    on_library("threads_allocate_to_their_very_end", || {
        // glibc allocates a table for keys beyond its first 32, in the thread that sets one.
        let keys: Vec<libc::pthread_key_t> = (0..64)
            .map(|_| {
                let mut key = 0;
                // SAFETY: a place for the key, a function of the right type.
                assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(late)) }, 0);
                key
            })
            .collect();
        for round in 0..100 {
            let key = keys[round % keys.len()];
            thread::spawn(move || {
                // SAFETY: leaked, so that it outlives the thread; the block is replaced by each call.
                unsafe {
                    let value = Box::leak(Box::new(Late { key, block: malloc(24) }));
                    libc::pthread_setspecific(key, ptr::from_mut(value).cast());
                }
            })
            .join()
            .expect("it does not panic");
        }
        assert!(LATE_CALLS.load(Ordering::Relaxed) >= 200, "destructors ran again and again");
    });
}

fn forked(body: impl FnOnce()) -> c_int {
    // SAFETY: the child runs `body` and leaves without the test harness's exit functions.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            libc::alarm(30);
            // The panic itself would end a test's thread, which is the child's only one: the child would seem to end
            // well.
            let passed = catch_unwind(AssertUnwindSafe(body)).is_ok();
            libc::_exit(c_int::from(!passed));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status
    }
}

fn churn(seed: usize) {
    // SAFETY: blocks in our hands.
    unsafe {
        let blocks: Vec<_> = (0..300).map(|round| malloc(1 + (round * seed) % 600)).collect();
        blocks.into_iter().for_each(|block| free(block));
    }
}

#[test]
fn forks_amid_busy_threads() {
    on_library("forks_amid_busy_threads", || {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for seed in 1..4 {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        churn(seed);
                    }
                });
            }
            for round in 0..60 {
                assert_eq!(
                    forked(|| {
                        churn(round + 5);
                        assert_eq!(forked(|| churn(round + 7)), 0);
                    }),
                    0
                );
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

/// One thread flushes all streams, which takes the list of streams and then each stream; another reads lines, which
/// holds a stream and allocates; a third forks.
fn fork_amid_busy_streams(test: &str, hardened: &str) {
    on_library_with(test, &[("PYMALLOC_HARDENED", hardened)], || {
        let stop = AtomicBool::new(false);
        let deadline = Instant::now() + Duration::from_secs(3);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let text = "a line that is longer than the last one by far\nshort\n".repeat(50);
                    while !stop.load(Ordering::Relaxed) {
                        // SAFETY: a stream over memory that outlives it; a line that the C library allocates.
                        unsafe {
                            let mode = c"r".as_ptr();
                            let stream = libc::fmemopen(text.as_ptr().cast_mut().cast(), text.len(), mode);
                            assert!(!stream.is_null());
                            loop {
                                let (mut line, mut bytes) = (ptr::null_mut(), 0);
                                let end = libc::getline(&raw mut line, &raw mut bytes, stream) < 0;
                                free(line.cast());
                                if end {
                                    break;
                                }
                            }
                            libc::fclose(stream);
                        }
                    }
                });
            }
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // SAFETY: flushes all streams.
                    unsafe { libc::fflush(ptr::null_mut()) };
                }
            });
            // SAFETY: ends the process if it hangs.
            unsafe { libc::alarm(60) };
            let mut forks = 0;
            while Instant::now() < deadline {
                let status = forked(|| {
                    churn(3);
                    // SAFETY: flushes all streams: their locks are free in the child.
                    unsafe { libc::fflush(ptr::null_mut()) };
                });
                assert_eq!(status, 0);
                forks += 1;
            }
            stop.store(true, Ordering::Relaxed);
            // SAFETY: cancels the alarm.
            unsafe { libc::alarm(0) };
            assert!(forks > 10, "{forks} forks");
        });
    });
}

#[test]
fn forks_amid_busy_streams() {
    fork_amid_busy_streams("forks_amid_busy_streams", "0");
}

/// Without caches each call takes a lock: so if it can hang, it does.
#[test]
fn forks_amid_busy_streams_without_caches() {
    fork_amid_busy_streams("forks_amid_busy_streams_without_caches", "1");
}

#[test]
fn a_limit_on_addresses_is_met_with_enomem() {
    on_library("a_limit_on_addresses_is_met_with_enomem", || {
        // SAFETY: a valid limit; blocks in our hands.
        unsafe {
            churn(3);
            let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut old), 0);
            let new = libc::rlimit { rlim_cur: 1 << 30, rlim_max: old.rlim_max };
            assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const new), 0);
            // The list is in the blocks themselves: nothing else may need memory now.
            let mut last: *mut c_void = ptr::null_mut();
            let mut count = 0_usize;
            loop {
                common::set_errno(0);
                let block = black_box(malloc(black_box(500)));
                if block.is_null() {
                    break;
                }
                block.cast::<*mut c_void>().write(last);
                last = block;
                count += 1;
            }
            let errno = common::errno();
            let again = black_box(malloc(black_box(500)));
            while !last.is_null() {
                let next = last.cast::<*mut c_void>().read();
                free(last);
                last = next;
            }
            assert_eq!(errno, libc::ENOMEM);
            assert!(count > 1_000_000, "{count} blocks of 500 bytes in 1 GiB");
            assert!(again.is_null());
            // There is memory again.
            churn(3);
            assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const old), 0);
        }
    });
}

#[test]
fn many_threads_come_and_go() {
    on_library("many_threads_come_and_go", || {
        for _ in 0..20 {
            let threads: Vec<_> = (1..30).map(|seed| thread::spawn(move || churn(seed))).collect();
            threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
        }
    });
}

/// Without `LD_PRELOAD`: a plug-in host that opens the library, uses it in several threads, and closes it.
#[test]
fn opened_at_run_time_and_closed() {
    if is_child() {
        let path = CString::new(library().as_os_str().as_bytes()).expect("no null byte");
        // SAFETY: symbols of the types that their names say.
        unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            assert!(!handle.is_null(), "{:?}", std::ffi::CStr::from_ptr(libc::dlerror()));
            let malloc: unsafe extern "C" fn(usize) -> *mut c_void =
                std::mem::transmute(libc::dlsym(handle, c"malloc".as_ptr()));
            let free: unsafe extern "C" fn(*mut c_void) = std::mem::transmute(libc::dlsym(handle, c"free".as_ptr()));
            assert_ne!(malloc as usize, libc::malloc as *const () as usize);
            let use_it = move || {
                let blocks: Vec<_> = (1..700).map(|bytes| malloc(bytes).addr()).collect();
                blocks.into_iter().for_each(|block| free(ptr::with_exposed_provenance_mut(block)));
            };
            use_it();
            thread::spawn(use_it).join().expect("it does not panic");
            let (start, end) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
            thread::scope(|scope| {
                scope.spawn(|| {
                    use_it();
                    start.wait();
                    end.wait();
                    // The thread ends, and with it its cache, after the library was closed.
                });
                start.wait();
                assert_eq!(libc::dlclose(handle), 0);
                end.wait();
            });
            use_it();
        }
        return;
    }
    let output = output_of(child("opened_at_run_time_and_closed").env_remove("LD_PRELOAD"));
    assert!(output.status.success(), "{output:?}");
}

/// A sandbox that ends the program at a system call that it does not know.
#[test]
fn a_variable_keeps_process_madvise_away_from_a_sandbox() {
    let name = "a_variable_keeps_process_madvise_away_from_a_sandbox";
    if is_child() {
        sandbox::forbid_system_call(libc::SYS_process_madvise);
        // SAFETY: blocks in our hands. Every second run of 64 KiB becomes free, so there are many ranges to give back.
        unsafe {
            let blocks: Vec<_> = (0..64 << 10).map(|_| malloc(512)).collect();
            let in_run = |block: &*mut c_void| block.addr() >> 16 & 1 == 0;
            blocks.iter().filter(|block| in_run(block)).for_each(|&block| free(block));
            libc::malloc_trim(0);
            blocks.iter().filter(|block| !in_run(block)).for_each(|&block| free(block));
        }
        return;
    }
    let run = |value: &str| {
        let (output, _) = preloaded(child(name).env("PYMALLOC_NO_PROCESS_MADVISE", value));
        output
    };
    let (without, with) = (run("0"), run("1"));
    assert_eq!(without.status.signal(), Some(libc::SIGSYS), "{without:?}");
    assert!(with.status.success(), "{with:?}");
}
