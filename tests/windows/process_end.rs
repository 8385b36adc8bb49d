//! The process's end, at which Windows ends all other threads first, wherever they are.

use std::cell::RefCell;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Block, is_child};
use crate::{Restless, blocks};

/// Processes that end.
const PROCESSES: usize = 40;
/// One that has not ended by then hangs.
const DEADLINE: Duration = Duration::from_secs(60);

thread_local! {
    static AT_THE_END: RefCell<Restless> = const { RefCell::new(Restless(Vec::new())) };
}

/// Ends a process, with code 7, whose other threads are inside the allocator as a rule: `std::process::exit` runs the
/// destructors of the calling thread's thread-locals, which free and allocate.
#[test]
fn a_process_ends_although_its_threads_were_ended_inside_the_allocator() {
    const NAME: &str = "process_end::a_process_ends_although_its_threads_were_ended_inside_the_allocator";
    if is_child() {
        let shared: &'static std::sync::Mutex<Vec<Block>> = Box::leak(Box::default());
        for number in 0..3 {
            thread::spawn(move || {
                loop {
                    // Freed by another one as a rule, and many at once: the slow paths are gone through.
                    let mine = blocks(number);
                    let theirs = std::mem::replace(&mut *shared.lock().expect("no panic"), mine);
                    drop(theirs);
                    pymalloc::flush_thread_cache();
                    pymalloc::purge();
                }
            });
        }
        AT_THE_END.with_borrow_mut(|end| end.0 = blocks(7));
        thread::sleep(Duration::from_millis(30));
        std::process::exit(7);
    }
    for _ in 0..PROCESSES {
        let mut child = Command::new(std::env::current_exe().expect("an executable"))
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env("PYMALLOC_TEST_CHILD", "1")
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("a child");
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("our own child") {
                break status;
            }
            if started.elapsed() > DEADLINE {
                child.kill().expect("our own child");
                panic!("it hangs");
            }
            thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(status.code(), Some(7));
    }
}
