//! System calls, checked by what the system reports afterwards.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::cache::fork::watch;
use crate::os::fork::generation;
use crate::os::{MemorySource, SystemMemory, futex_wait, process_id, start_thread, thread_id, write_stderr};

const OS_PAGES: usize = 3;

/// Runs `body` in a forked child, in which no other thread maps or unmaps anything.
pub(super) fn alone(body: impl FnOnce()) {
    // SAFETY: the child makes system calls, and ends here.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let passed = catch_unwind(AssertUnwindSafe(body)).is_ok();
        // SAFETY: always allowed.
        unsafe { libc::_exit(i32::from(!passed)) };
    }
    let mut status = 0;
    // SAFETY: our own child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child's status");
}

/// Bytes of all mappings of the process.
fn mapped_bytes() -> usize {
    // The buffer is on the stack: musl's `malloc` would map memory for it, and a reading must not change what it reads.
    let mut text = [0; 128];
    let length = File::open("/proc/self/statm").and_then(|mut file| file.read(&mut text)).expect("Linux says");
    let first = text[..length].split(|&byte| byte == b' ').next().and_then(|word| str::from_utf8(word).ok());
    let os_pages: usize = first.and_then(|word| word.parse().ok()).expect("a number");
    os_pages * SystemMemory.page_bytes()
}

/// Whether the byte can be written. The kernel tries it, with a zero.
fn is_writable(byte: *mut u8) -> bool {
    let zeros = File::open("/dev/zero").expect("Linux has it");
    // SAFETY: the kernel refuses if the address may not be written.
    unsafe { libc::read(zeros.as_raw_fd(), byte.cast(), 1) == 1 }
}

/// Bytes of the range that are in memory.
fn resident_bytes(start: NonNull<u8>, bytes: usize) -> usize {
    let mut os_pages = vec![0_u8; bytes / SystemMemory.page_bytes()];
    // SAFETY: a mapping of that length, and a byte for each of its OS pages.
    assert_eq!(unsafe { libc::mincore(start.as_ptr().cast(), bytes, os_pages.as_mut_ptr()) }, 0);
    os_pages.iter().filter(|&&os_page| os_page & 1 != 0).count() * SystemMemory.page_bytes()
}

/// The flags of the mapping that contains the address, as the kernel shows them: two letters each.
fn flags(start: NonNull<u8>) -> String {
    let maps = fs::read_to_string("/proc/self/smaps").expect("Linux says");
    let has = |line: &&str| {
        let ends = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let ends = ends.map(|(start, end)| (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)));
        matches!(ends, Some((Ok(first), Ok(end))) if (first..end).contains(&start.addr().get()))
    };
    let mut lines = maps.lines().skip_while(|line| !has(line));
    lines.find_map(|line| line.strip_prefix("VmFlags:")).expect("the mapping").to_owned()
}

fn map(bytes: usize) -> NonNull<u8> {
    SystemMemory.map(bytes, SystemMemory.page_bytes()).expect("memory")
}

fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the callers mapped it, and are done.
    assert!(unsafe { SystemMemory.unmap(start, bytes) });
}

#[test]
fn an_os_page_is_as_large_as_the_system_says() {
    // SAFETY: no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    for _ in 0..2 {
        assert_eq!(SystemMemory.page_bytes(), usize::try_from(bytes).expect("a number"));
    }
}

#[test]
fn process_and_threads_have_the_kernels_numbers() {
    assert_eq!(process_id(), std::process::id());
    for _ in 0..2 {
        let thread = || {
            // The link contains `PROCESS/task/THREAD`.
            let link = fs::read_link("/proc/thread-self").expect("Linux says");
            assert_eq!(link.file_name().and_then(|name| name.to_str()), Some(thread_id().to_string().as_str()));
        };
        thread();
        std::thread::spawn(thread).join().expect("its check passed");
    }
}

#[test]
fn a_forked_child_is_of_the_next_generation_however_often_forks_are_watched() {
    (0..3).for_each(|_| watch());
    let before = generation();
    alone(|| assert_eq!(generation(), before + 1));
}

#[test]
fn a_mapping_is_aligned_and_takes_as_many_bytes_as_were_asked_for() {
    let page_bytes = SystemMemory.page_bytes();
    alone(|| {
        for align in [page_bytes, 1 << 16, 1 << 21, 1 << 22, 1 << 26] {
            // Several at a time, so that they can't all lie where the first was.
            let mut mapped = [None; 4];
            for (number, place) in mapped.iter_mut().enumerate() {
                let bytes = (1 + 2 * number) * page_bytes;
                let before = mapped_bytes();
                let start = SystemMemory.map(bytes, align).expect("memory");
                assert!(start.addr().get().is_multiple_of(align), "{start:?} is not aligned to {align}");
                assert_eq!(mapped_bytes() - before, bytes, "aligned to {align}");
                // SAFETY: ours.
                let all = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) };
                assert!(all.iter().all(|&byte| byte == 0));
                all.fill(1);
                *place = Some((start, bytes));
            }
            for (start, bytes) in mapped.into_iter().flatten() {
                let before = mapped_bytes();
                unmap(start, bytes);
                assert_eq!(before - mapped_bytes(), bytes);
            }
        }
    });
}

#[test]
fn guards_are_on_both_sides_and_can_not_be_written() {
    let page_bytes = SystemMemory.page_bytes();
    alone(|| {
        for guard_bytes in [page_bytes, 4 * page_bytes, 1 << 21] {
            let bytes = OS_PAGES * page_bytes;
            let before = mapped_bytes();
            let start = SystemMemory.map_guarded(bytes, guard_bytes).expect("memory");
            assert!(start.addr().get().is_multiple_of(guard_bytes));
            assert_eq!(mapped_bytes() - before, bytes + 2 * guard_bytes);
            let at = |offset: usize| start.as_ptr().wrapping_add(offset);
            assert!((0..bytes).step_by(page_bytes).all(|offset| is_writable(at(offset))));
            for offset in [guard_bytes.wrapping_neg(), 1_usize.wrapping_neg(), bytes, bytes + guard_bytes - 1] {
                assert!(!is_writable(at(offset)), "the guard at {:#x}", offset.cast_signed());
            }
        }
    });
}

#[test]
fn what_was_purged_takes_no_memory_and_reads_as_zero() {
    let bytes = OS_PAGES * SystemMemory.page_bytes();
    let start = map(bytes);
    // SAFETY: ours.
    unsafe {
        start.write_bytes(1, bytes);
        assert_eq!(resident_bytes(start, bytes), bytes);
        assert!(SystemMemory.purge(start, bytes));
        assert_eq!(resident_bytes(start, bytes), 0);
        assert!((0..bytes).all(|offset| start.add(offset).read() == 0));
    }
    unmap(start, bytes);
}

#[test]
fn what_is_not_mapped_can_not_be_purged() {
    alone(|| {
        let bytes = OS_PAGES * SystemMemory.page_bytes();
        let start = map(bytes);
        unmap(start, bytes);
        // SAFETY: nothing has been mapped there since.
        assert!(!unsafe { SystemMemory.purge(start, bytes) });
    });
}

#[test]
fn what_was_asked_to_be_there_now_is() {
    let bytes = OS_PAGES * SystemMemory.page_bytes();
    let (start, other) = (map(bytes), map(bytes));
    // SAFETY: ours.
    unsafe {
        // Kernels before 5.14 can't do it, and an emulator may ignore it.
        libc::madvise(other.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE);
        SystemMemory.populate(start, bytes);
    }
    assert_eq!(resident_bytes(start, bytes), resident_bytes(other, bytes));
    unmap(start, bytes);
    unmap(other, bytes);
}

#[test]
fn huge_pages_are_asked_for_and_forbidden() {
    let bytes = 4 << 20;
    let start = map(bytes);
    let has = |property| flags(start).split(' ').any(|flag| flag == property);
    // SAFETY: ours.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_NOHUGEPAGE) };
    // Kernels without huge pages refuse.
    if has("nh") {
        // SAFETY: ours.
        unsafe { SystemMemory.advise_huge(start, bytes, true) };
        assert!(has("hg") && !has("nh"));
        // SAFETY: ours.
        unsafe { SystemMemory.advise_huge(start, bytes, false) };
        assert!(has("nh") && !has("hg"));
    }
    unmap(start, bytes);
}

#[test]
fn a_call_that_the_system_refuses_leaves_errno_as_it_was() {
    const BEFORE: libc::c_int = 77;
    // SAFETY: the C library's own thread-local.
    let errno = || unsafe { &mut *libc::__errno_location() };
    *errno() = BEFORE;
    assert_eq!(SystemMemory.map(1 << 60, SystemMemory.page_bytes()), None);
    assert_eq!(*errno(), BEFORE);
    // The word has another value, so the kernel refuses to wait.
    futex_wait(&AtomicU32::new(1), 0);
    assert_eq!(*errno(), BEFORE);
}

/// The capacity of the pipe in this test. (The default is 16 OS pages.)
const PIPE_BYTES: usize = 1 << 16;

/// Makes a full pipe the standard error; returns the end for reading.
fn full_stderr(flags: libc::c_int) -> libc::c_int {
    let mut ends = [0; 2];
    // SAFETY: a place for two numbers; as many bytes as the array has.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK), 0);
        assert_eq!(libc::fcntl(ends[1], libc::F_SETPIPE_SZ, PIPE_BYTES as libc::c_int), PIPE_BYTES as libc::c_int);
        while libc::write(ends[1], [0_u8; 4096].as_ptr().cast(), 4096) > 0 {}
        assert_eq!(libc::fcntl(ends[1], libc::F_SETFL, flags), 0);
        assert_eq!(libc::dup2(ends[1], libc::STDERR_FILENO), libc::STDERR_FILENO);
    }
    ends[0]
}

#[test]
fn a_message_that_nobody_takes_is_given_up() {
    alone(|| {
        full_stderr(libc::O_NONBLOCK);
        // SAFETY: no preconditions; ends a child that hangs.
        unsafe { libc::alarm(60) };
        write_stderr(b"in vain");
    });
}

#[test]
fn a_message_goes_out_although_signals_interrupt_it() {
    static READ_FROM: AtomicI32 = AtomicI32::new(0);

    extern "C" fn make_room(_: libc::c_int) {
        let mut bytes = [0_u8; PIPE_BYTES];
        // SAFETY: as many bytes as the array has.
        unsafe { libc::read(READ_FROM.load(Ordering::Relaxed), bytes.as_mut_ptr().cast(), bytes.len()) };
    }

    alone(|| {
        READ_FROM.store(full_stderr(0), Ordering::Relaxed);
        // SAFETY: zero is a valid action, here with a handler and without SA_RESTART; and a valid time.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = make_room as *const () as libc::sighandler_t;
            assert_eq!(libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()), 0);
            let (soon, never) = (libc::timeval { tv_sec: 0, tv_usec: 20_000 }, libc::timeval { tv_sec: 0, tv_usec: 0 });
            let once = libc::itimerval { it_interval: never, it_value: soon };
            assert_eq!(libc::setitimer(libc::ITIMER_REAL, &once, std::ptr::null_mut()), 0);
            // Waits for room, unless the signal came before.
            write_stderr(b"last words");
        }
        let mut rest = [0_u8; PIPE_BYTES];
        // SAFETY: as many bytes as the array has.
        let length = unsafe { libc::read(READ_FROM.load(Ordering::Relaxed), rest.as_mut_ptr().cast(), rest.len()) };
        assert!(rest[..usize::try_from(length).expect("it holds something")].ends_with(b"last words"));
    });
}

#[test]
fn a_thread_of_the_allocators_own_blocks_all_signals_and_its_starter_none() {
    static MASK: [AtomicI32; 4] = [const { AtomicI32::new(-1) }; 4];

    fn mask() -> [i32; 4] {
        // SAFETY: zero is a valid value, into which the call writes.
        unsafe {
            let mut mask: libc::sigset_t = std::mem::zeroed();
            assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask), 0);
            [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGPROF].map(|signal| libc::sigismember(&mask, signal))
        }
    }

    extern "C" fn note(_: *mut libc::c_void) -> *mut libc::c_void {
        MASK.iter().zip(mask()).for_each(|(place, blocked)| place.store(blocked, Ordering::Relaxed));
        std::ptr::null_mut()
    }

    let before = mask();
    start_thread(note, std::ptr::null_mut()).expect("a thread").join();
    assert_eq!(MASK.each_ref().map(|place| place.load(Ordering::Relaxed)), [1; 4]);
    assert_eq!(mask(), before);
}
