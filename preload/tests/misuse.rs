//! Misuse ends the process with one line; with `PYMALLOC_HARDENED=1`, at the call that misuses.

mod common;

use std::ffi::c_void;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use common::{assert_served, child, is_child, library, output_of};
use libc::{free, malloc, malloc_trim, malloc_usable_size, realloc};

/// Written before the misuse, and after it if the process is still there.
fn say(word: &str) {
    writeln!(std::io::stdout(), "<{word}>").expect("stdout is open");
}

fn run(test: &str, hardened: bool, misuse: fn()) -> Option<Output> {
    if is_child() {
        assert_served();
        let no_core_file = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid limit.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core_file) };
        say("before");
        misuse();
        say("after");
        // SAFETY: returns the blocks that the thread has cached to their pools.
        unsafe { malloc_trim(0) };
        // SAFETY: leaves without the harness's exit functions.
        unsafe { libc::_exit(0) };
    }
    let mut command = child(test);
    command.env("LD_PRELOAD", library());
    if hardened {
        command.env("PYMALLOC_HARDENED", "1");
    }
    Some(output_of(&mut command))
}

fn aborts(test: &str, hardened: bool, message: &str, misuse: fn()) {
    let output = run(test, hardened, misuse).expect("the parent");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{stdout}{stderr}");
    assert!(stdout.contains("<before>"), "{stdout}{stderr}");
    if hardened {
        assert!(!stdout.contains("<after>"), "not at the call: {stdout}");
    }
    assert_eq!(stderr.matches('\n').count(), 1, "one line: {stderr:?}");
    assert!(stderr.starts_with("pymalloc: ") && stderr.contains(message), "{stderr:?} does not say {message:?}");
}

/// A block beside another that stays.
fn victim() -> *mut c_void {
    // SAFETY: any size may be asked for.
    unsafe {
        black_box(malloc(black_box(64)));
        black_box(malloc(black_box(64)))
    }
}

macro_rules! misuses {
    ($($name:ident, $hardened:ident: $message:literal => $body:block)+) => { $(
        #[test]
        fn $name() {
            aborts(stringify!($name), false, $message, || $body);
        }

        #[test]
        fn $hardened() {
            aborts(stringify!($hardened), true, $message, || $body);
        }
    )+ };
}

// SAFETY (all bodies): none. The misuse is the test: the library has to stop the process, which has nothing to lose.
misuses! {
    double_free, double_free_at_the_call: "block is already free" => {
        let block = victim();
        #[allow(clippy::undocumented_unsafe_blocks)]
        unsafe {
            free(black_box(block));
            free(black_box(block));
        }
    }

    inside_a_block, inside_a_block_at_the_call: "not the start of a block" => {
        #[allow(clippy::undocumented_unsafe_blocks)]
        unsafe {
            free(black_box(victim().byte_add(8)));
        }
    }

    realloc_inside_a_block, realloc_inside_a_block_at_the_call: "not the start of a block" => {
        #[allow(clippy::undocumented_unsafe_blocks)]
        unsafe {
            black_box(realloc(black_box(victim().byte_add(16)), 200));
        }
    }

    the_size_of_what_is_inside_a_block, the_size_of_what_is_inside_a_block_at_the_call: "not the start of a block" => {
        #[allow(clippy::undocumented_unsafe_blocks)]
        unsafe {
            black_box(malloc_usable_size(black_box(victim().byte_add(8))));
        }
    }

    a_pool_without_blocks, a_pool_without_blocks_at_the_call: "pool that holds no blocks" => {
        // The last pool of the arena, which so small a program does not reach.
        let pool = victim().map_addr(|address| address | ((2 << 20) - (32 << 10))).map_addr(|address| address & !7);
        #[allow(clippy::undocumented_unsafe_blocks)]
        unsafe {
            free(black_box(pool.map_addr(|address| address & !((32 << 10) - 1))));
        }
    }

    a_double_free_in_another_thread, a_double_free_in_another_thread_at_the_call: "block is already free" => {
        let block = victim().expose_provenance();
        #[allow(clippy::undocumented_unsafe_blocks)]
        let free_it = move || unsafe {
            free(black_box(std::ptr::with_exposed_provenance_mut(block)));
            malloc_trim(0);
        };
        std::thread::spawn(free_it).join().expect("it does not panic");
        std::thread::spawn(free_it).join().expect("it does not panic");
    }
}

/// A correct program is served in the hardened mode, too.
#[test]
fn hardened_programs_run() {
    let output = run("hardened_programs_run", true, || {
        std::thread::scope(|scope| {
            for seed in 1..4_usize {
                scope.spawn(move || {
                    for round in 0..200 {
                        let blocks: Vec<_> = (0..200).map(|index| vec![seed as u8; 1 + index * round % 600]).collect();
                        assert!(blocks.iter().flatten().all(|&byte| byte == seed as u8));
                    }
                });
            }
        });
    })
    .expect("the parent");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("<after>"), "{output:?}");
}

/// glibc judges an address that no arena holds.
#[test]
fn a_foreign_address_is_the_c_librarys() {
    let output = run("a_foreign_address_is_the_c_librarys", false, || {
        // Aligned to 16 bytes, and the word before it can't be a chunk's size.
        let variable = black_box([0_u128; 8]);
        // SAFETY: none; see above.
        unsafe { free(black_box((&raw const variable[4]).cast_mut().cast())) };
    })
    .expect("the parent");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("free(): invalid"), "{output:?}");
}
