//! Object pools and the system below them: forked children, and kernels and sandboxes that refuse the fence.
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "shared with the allocator's tests")]
#[path = "../../tests/common/children.rs"]
mod children;
#[allow(dead_code, reason = "shared with the allocator's tests")]
#[path = "../../tests/common/sandbox.rs"]
mod sandbox;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use children::{abort_of, alone, or_exit};
use pymalloc::Pymalloc;
use pymalloc_object_pool::ObjectPool;
use sandbox::refuse_system_call;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const FORKS: usize = 200;
/// In each one child is forked while other threads are busy.
const NAMESPACES: usize = 30;
/// Seconds after which a forked child that hangs is ended.
const CHILD_SECONDS: libc::c_uint = 20;

/// Runs `body` in a forked child, which must end well and by itself.
fn in_forked_child(body: impl FnOnce()) {
    // SAFETY: the children below do what a child of a program with threads may.
    let child = unsafe { libc::fork() };
    assert_ne!(child, -1);
    if child == 0 {
        // SAFETY: no preconditions.
        unsafe { libc::alarm(CHILD_SECONDS) };
        or_exit(body);
        // The C library's exit, not `_exit`: it runs the thread-locals' destructors.
        // SAFETY: other threads do not exist here.
        unsafe { libc::exit(0) };
    }
    let mut status = 0;
    // SAFETY: our own child, waited for once.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "wait status of a forked child");
}

/// Runs `forks` while two threads run `busy` over and over.
fn beside(busy: impl Fn() + Sync, forks: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let start = Barrier::new(3);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                // Relaxed: a flag alone.
                while !stop.load(Ordering::Relaxed) {
                    busy();
                }
            });
        }
        start.wait();
        // Caught, or the threads would run for ever.
        let outcome = catch_unwind(AssertUnwindSafe(forks));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

#[test]
fn a_forked_child_that_used_a_pool_before_just_exits() {
    alone("a_forked_child_that_used_a_pool_before_just_exits", || {
        let pool = ObjectPool::builder(|| 0_u64).max_total(1).build().unwrap();
        // The forking thread has a magazine, which its end gives back.
        let only = pool.acquire();
        // Nothing is idle: each call takes the stock's lock, which one of the two mostly holds.
        beside(|| assert!(pool.try_acquire().is_none()), || (0..FORKS).for_each(|_| in_forked_child(|| ())));
        drop(only);
    });
}

#[test]
fn a_forked_child_builds_pools_of_its_own() {
    alone("a_forked_child_builds_pools_of_its_own", || {
        // Many places that can be had again, among which a new pool chooses.
        drop((0..20_000).map(|_| ObjectPool::new(|| 0_u64)).collect::<Vec<_>>());
        beside(
            || drop(ObjectPool::new(|| 0_u64)),
            || {
                for _ in 0..FORKS {
                    in_forked_child(|| {
                        let pool = ObjectPool::new(|| 7_u64);
                        assert_eq!(*pool.acquire(), 7);
                        assert_eq!(pool.stats().idle, 1);
                    });
                }
            },
        );
    });
}

/// Whether this process may begin a namespace of process numbers; its next child is then the first process there.
fn begin_namespace() -> bool {
    // SAFETY: no memory is touched. As root; or else as the root of a new namespace of users.
    [libc::CLONE_NEWPID, libc::CLONE_NEWPID | libc::CLONE_NEWUSER].iter().any(|&new| unsafe { libc::unshare(new) } == 0)
}

/// Asks the kernel to end this process with its parent, and checks that it is the first one of its namespace, which no
/// `alarm` ends.
fn assert_first_of_its_namespace() {
    // SAFETY: plain numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }, 0);
    assert_eq!(std::process::id(), 1);
}

/// Of a parent and its child, each the first process of a namespace, both have the number 1.
#[test]
fn a_forked_child_with_its_parents_number_just_exits() {
    // SAFETY: the child only asks, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: always allowed.
        unsafe { libc::_exit(i32::from(!begin_namespace())) };
    }
    let mut status = 0;
    // SAFETY: our own child, waited for once.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if status != 0 {
        // Not by `eprintln!`, which the test harness keeps to itself.
        writeln!(std::io::stderr(), "skipped: no new namespace of process numbers is allowed here").expect("stderr");
        return;
    }
    alone("a_forked_child_with_its_parents_number_just_exits", || {
        for _ in 0..NAMESPACES {
            in_forked_child(|| {
                assert!(begin_namespace());
                in_forked_child(|| {
                    assert_first_of_its_namespace();
                    let pool = ObjectPool::builder(|| 0_u64).max_total(1).build().unwrap();
                    let only = pool.acquire();
                    beside(
                        || assert!(pool.try_acquire().is_none()),
                        || {
                            assert!(begin_namespace());
                            in_forked_child(assert_first_of_its_namespace);
                        },
                    );
                    drop(only);
                });
            });
        }
    });
}

#[test]
fn a_child_of_a_program_with_one_thread_uses_its_parents_pools() {
    alone("a_child_of_a_program_with_one_thread_uses_its_parents_pools", || {
        let pool = Arc::new(ObjectPool::builder(|| 7_u64).max_total(5).build().unwrap());
        let held = pool.acquire();
        in_forked_child(|| {
            drop(held);
            let (filled, done) = (Barrier::new(2), Barrier::new(2));
            thread::scope(|scope| {
                scope.spawn(|| {
                    drop([(); 4].map(|()| pool.acquire()));
                    filled.wait();
                    done.wait();
                });
                filled.wait();
                // What lies in the thread's magazine takes a fence to reach.
                let all: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
                assert_eq!(all.len(), 5);
                done.wait();
            });
            assert!(pool.acquire_timeout(Duration::from_secs(1)).is_ok());
        });
    });
}

/// Enters a sandbox in which `membarrier` fails with this error, with all threads of the process.
fn refuse_membarrier(error: libc::c_int) {
    refuse_system_call(libc::SYS_membarrier, error);
    // SAFETY: a question.
    assert_eq!(unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) }, -1);
}

#[test]
fn without_membarrier_pools_do_all_by_the_lock() {
    alone("without_membarrier_pools_do_all_by_the_lock", || {
        refuse_membarrier(libc::ENOSYS);
        let pool = ObjectPool::builder(|| 0_u64).max_idle(4).max_total(8).build().unwrap();
        let (filled, done) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                drop([(); 6].map(|()| pool.acquire()));
                filled.wait();
                done.wait();
            });
            filled.wait();
            assert_eq!((pool.stats().idle, pool.stats().dropped), (4, 2));
            // No object is left in the thread's magazine, so none is created either.
            let all = [(); 4].map(|()| pool.acquire());
            assert_eq!(pool.stats().created, 6);
            assert!(pool.try_acquire().is_none());
            let rest = [(); 4].map(|()| pool.acquire());
            assert!(pool.acquire_timeout(Duration::from_millis(1)).is_err());
            drop((all, rest));
            done.wait();
        });
    });
}

#[test]
fn a_sandbox_without_membarrier_ends_a_program_that_needs_the_fence_with_a_message() {
    let test = "a_sandbox_without_membarrier_ends_a_program_that_needs_the_fence_with_a_message";
    let printed = abort_of(test, || {
        let pool = ObjectPool::builder(|| 0_u64).max_total(1).build().unwrap();
        let without_magazines = ObjectPool::builder(|| 0_u64).max_total(1).magazine(0).build().unwrap();
        refuse_membarrier(libc::EPERM);
        // Goes on, and never needs it.
        let only = without_magazines.acquire();
        assert!(without_magazines.acquire_timeout(Duration::ZERO).is_err());
        drop((only, without_magazines));
        let only = pool.acquire();
        drop(only);
        drop(pool);
    });
    assert_eq!(printed, "pymalloc-object-pool: the kernel no longer allows membarrier, which pools began to use\n");
}
