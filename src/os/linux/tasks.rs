//! The process's other threads, and a copy of the process: for the heap's graph (feature `graph`).
//!
//! System calls are made by their numbers where the C library's functions take locks or are cancellation points.

use core::ffi::{CStr, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::io::Write;

use super::{Descriptor, KeepErrno};

fn errno() -> c_int {
    // SAFETY: libc's own thread-local.
    unsafe { *libc::__errno_location() }
}

/// The state in which a signal interrupted a thread.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Interrupted {
    /// The kernel's number of the thread.
    pub(crate) thread: u32,
    /// An address on the thread's stack, below all registers that the kernel saved there.
    pub(crate) saved: usize,
    pub(crate) pc: usize,
    pub(crate) sp: usize,
    pub(crate) bp: usize,
    /// The C library's block of the thread (`thread_token`).
    pub(crate) block: usize,
    /// The thread pointer, which leads to the thread's thread-locals.
    pub(crate) pointer: usize,
}

/// What the handler calls with the number that was sent, inside a signal handler, with all signals blocked.
pub(crate) type Receive = fn(number: usize, interrupted: Interrupted);

/// The [`Receive`] of the process, or null before there is one.
static RECEIVE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

extern "C" fn handler(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let _errno = KeepErrno::new();
    // SAFETY: the kernel passes both pointers to a handler of this kind.
    let (code, number) = unsafe { ((*info).si_code, (*info).si_value().sival_ptr.addr()) };
    if code != libc::SI_QUEUE {
        return;
    }
    let here = 0_usize;
    // SAFETY: as above.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let (pc, sp, bp) = registers(context);
    let saved = (&raw const here).addr() & !7;
    let (block, pointer) = (super::thread_token(), thread_pointer());
    let interrupted = Interrupted { thread: super::thread_id(), saved, pc, sp, bp, block, pointer };
    // Relaxed: a function, which does not change.
    let receive = RECEIVE.load(Ordering::Relaxed);
    if !receive.is_null() {
        // SAFETY: only `receive_by` writes it, and from a `Receive`.
        let receive = unsafe { core::mem::transmute::<*mut (), Receive>(receive) };
        receive(number, interrupted);
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> (usize, usize, usize) {
    let of = |register: c_int| context.uc_mcontext.gregs[register as usize] as usize;
    (of(libc::REG_RIP), of(libc::REG_RSP), of(libc::REG_RBP))
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> (usize, usize, usize) {
    let of = &context.uc_mcontext;
    (of.pc as usize, of.sp as usize, of.regs[29] as usize)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn registers(_context: &libc::ucontext_t) -> (usize, usize, usize) {
    (0, 0, 0)
}

/// The thread pointer of the calling thread.
pub(crate) fn thread_pointer() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        let pointer: usize;
        // SAFETY: on Linux the first word of the thread's block is its own address.
        unsafe { core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) pointer, options(readonly, nostack)) };
        pointer
    }
    #[cfg(target_arch = "aarch64")]
    {
        let pointer: usize;
        // SAFETY: reads a register.
        unsafe { core::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nomem, nostack)) };
        pointer
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    0
}

/// Makes the signal's handler call `receive`. All callers pass the same function.
pub(crate) fn receive_by(receive: Receive) {
    // Relaxed: a function, which is not written.
    RECEIVE.store(receive as *mut (), Ordering::Relaxed);
}

/// The signal that stops threads; 0 before there is one.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// The signal that stops threads: a real-time one that the program does not use; `None` if there is none. Its handler
/// is there from the first call on.
///
/// The handler stays for ever: a thread that blocked the signal may get it at any later time, and the default action
/// would end the process.
pub(crate) fn signal() -> Option<c_int> {
    // Relaxed (all): a number alone.
    let known = SIGNAL.load(Ordering::Relaxed);
    if known != 0 && action_of(known) == Some(ours()) {
        return Some(known);
    }
    // A program may wait for a signal that it blocks, so those come last.
    let signals =
        || (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().filter(|&signal| action_of(signal) == Some(libc::SIG_DFL));
    let signal = signals().filter(|&signal| !is_blocked(signal)).chain(signals()).find(|&signal| install(signal))?;
    match SIGNAL.compare_exchange(known, signal, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => Some(signal),
        Err(first) => Some(first),
    }
}

fn ours() -> libc::sighandler_t {
    handler as *const () as libc::sighandler_t
}

fn action_of(signal: c_int) -> Option<libc::sighandler_t> {
    // SAFETY: all zero is a valid action; only read.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        (libc::sigaction(signal, ptr::null(), &mut action) == 0).then_some(action.sa_sigaction)
    }
}

/// Whether the calling thread blocks a signal.
fn is_blocked(signal: c_int) -> bool {
    // SAFETY: plain data, of which zero is a valid value, and which the calls write and read.
    unsafe {
        let mut blocked: libc::sigset_t = core::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut blocked);
        libc::sigismember(&blocked, signal) == 1
    }
}

/// Installs the handler, unless the program has installed one meanwhile.
fn install(signal: c_int) -> bool {
    // SAFETY: all zero is a valid action; the handler is a function that lives as long as the program. It runs on no
    // alternate stack: the scan would not see registers that the kernel saves there.
    unsafe {
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = core::mem::zeroed();
        action.sa_sigaction = ours();
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigfillset(&mut action.sa_mask);
        if libc::sigaction(signal, &action, &mut before) != 0 {
            return false;
        }
        let is_free = [libc::SIG_DFL, ours()].contains(&before.sa_sigaction);
        if !is_free {
            libc::sigaction(signal, &before, ptr::null_mut());
        }
        is_free
    }
}

/// Lets the calling thread, one of the allocator's own, be stopped.
pub(super) fn let_stop_this_thread() {
    let Some(signal) = signal() else { return };
    // SAFETY: plain data, of which zero is a valid value; a mask of the thread's own.
    unsafe {
        let mut set: libc::sigset_t = core::mem::zeroed();
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
    }
}

/// Sends the signal, with a number, to a thread of this process.
///
/// # Errors
/// The system's number of the error: `ESRCH` if the thread has ended.
pub(crate) fn send(thread: u32, signal: c_int, number: usize) -> Result<(), c_int> {
    let _errno = KeepErrno::new();
    let process = super::process_id();
    // The kernel's `siginfo` on 64-bit processors: signal, error, code; from byte 16 on process, user, value.
    let mut info = [0_u64; 16];
    info[0] = signal.cast_unsigned().into();
    info[1] = u64::from(libc::SI_QUEUE.cast_unsigned());
    info[2] = process.into();
    info[3] = number as u64;
    // SAFETY: numbers, and a value of that type for the kernel to read.
    let sent = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, signal, info.as_ptr()) };
    if sent == 0 { Ok(()) } else { Err(errno()) }
}

/// The state of a thread, as the kernel tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    /// It has ended, or is about to.
    Gone,
    /// It blocks the signal, waits for it (`sigwait`), or is where no signal reaches it: in a sleep that signals do not
    /// end, or stopped (by a signal or a debugger). Perhaps that is so only for a moment.
    Blocks,
    Runs,
}

/// The state of a thread of this process.
pub(crate) fn task(thread: u32, signal: c_int) -> Task {
    let (mut state, mut blocked) = (None, None);
    let read = each_line(thread, "status", |line| {
        let value = |name: &[u8]| line.strip_prefix(name).map(<[u8]>::trim_ascii);
        if let Some(found) = value(b"State:") {
            state = found.first().copied();
        } else if let Some(found) = value(b"SigBlk:").and_then(|mask| core::str::from_utf8(mask).ok()) {
            blocked = u64::from_str_radix(found, 16).ok();
        }
    });
    match (read, state) {
        (Err(libc::ENOENT | libc::ESRCH), _) | (Ok(()), None | Some(b'Z' | b'X' | b'x')) => Task::Gone,
        // Then nothing is known; perhaps no descriptor is free.
        (Err(_), _) => Task::Runs,
        (Ok(()), Some(b'D' | b'T' | b't')) => Task::Blocks,
        _ if blocked.is_some_and(|blocked| blocked >> (signal - 1) & 1 == 1) => Task::Blocks,
        _ if state == Some(b'S') && awaits(thread, signal) => Task::Blocks,
        _ => Task::Runs,
    }
}

/// Whether a thread waits for the signal. Meanwhile the kernel does not count the signal as blocked.
fn awaits(thread: u32, signal: c_int) -> bool {
    let mut set = 0_u64;
    let mut is_known = false;
    // The call's number, and its arguments.
    let read = each_line(thread, "syscall", |line| {
        let mut words = line.split(|&byte| byte == b' ').filter_map(|word| core::str::from_utf8(word).ok());
        let is_wait = words.next().and_then(|word| word.parse().ok()) == Some(libc::SYS_rt_sigtimedwait);
        let address = words.next().and_then(|word| usize::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        if let Some(address) = address.filter(|_| is_wait) {
            let _errno = KeepErrno::new();
            let bytes = size_of::<u64>();
            let ours = libc::iovec { iov_base: (&raw mut set).cast(), iov_len: bytes };
            let theirs = libc::iovec { iov_base: ptr::with_exposed_provenance_mut(address), iov_len: bytes };
            let (process, none) = (super::process_id(), 0);
            // By the kernel, because the thread may go on meanwhile, and give the memory back.
            // SAFETY: room for eight bytes.
            let read = unsafe {
                libc::syscall(libc::SYS_process_vm_readv, process, &raw const ours, 1, &raw const theirs, 1, none)
            };
            is_known = usize::try_from(read) == Ok(bytes);
        }
    });
    read.is_ok() && is_known && set >> (signal - 1) & 1 == 1
}

/// Calls `visit` with each line of a file that the kernel has about a thread of this process.
fn each_line(thread: u32, name: &str, visit: impl FnMut(&[u8])) -> Result<(), c_int> {
    // Zeroed, so that the path ends with a zero byte even if it is cut. Writing into an array allocates nothing.
    let mut path = [0; 64];
    let written = write!(&mut path[..63], "/proc/self/task/{thread}/{name}");
    let path = written.ok().and_then(|()| CStr::from_bytes_until_nul(&path).ok()).ok_or(libc::EINVAL)?;
    each_line_of(path, visit)
}

/// Calls `visit` with each line of a file, and allocates nothing. A line of more than 8 KiB is left out.
///
/// # Errors
/// The system's number of the error: the file can't be opened.
pub(crate) fn each_line_of(path: &CStr, mut visit: impl FnMut(&[u8])) -> Result<(), c_int> {
    let file = Descriptor::open(path, libc::O_RDONLY)?;
    let mut buffer = [0; 8192];
    let (mut used, mut is_rest) = (0, false);
    loop {
        let read = file.read(&mut buffer[used..]);
        let filled = &buffer[..used + read];
        let mut done = 0;
        for line in filled.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            done += line.len();
            if !core::mem::take(&mut is_rest) {
                visit(line.trim_ascii_end());
            }
        }
        let end = filled.len();
        if read == 0 {
            break;
        }
        if done == 0 && end == buffer.len() {
            (done, is_rest) = (end, true);
        }
        buffer.copy_within(done..end, 0);
        used = end - done;
    }
    file.close();
    Ok(())
}

/// Calls `visit` with the number of each thread of the process.
///
/// # Errors
/// The system's number of the error: there may be no `/proc`.
pub(crate) fn each_task(mut visit: impl FnMut(u32)) -> Result<(), c_int> {
    let folder = Descriptor::open(c"/proc/self/task", libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut buffer = [0_u64; 512];
    loop {
        let _errno = KeepErrno::new();
        // SAFETY: a writable buffer of that length.
        let read =
            unsafe { libc::syscall(libc::SYS_getdents64, folder.number(), buffer.as_mut_ptr(), size_of_val(&buffer)) };
        let bytes = match usize::try_from(read) {
            Ok(0) => break,
            Ok(bytes) => bytes,
            Err(_) => {
                let error = errno();
                folder.close();
                return Err(error);
            }
        };
        // SAFETY: as many bytes of the buffer as the kernel wrote.
        let entries = unsafe { core::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), bytes) };
        each_name(entries, |name| {
            if let Some(number) = core::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
                visit(number);
            }
        });
    }
    folder.close();
    Ok(())
}

/// Calls `visit` with each name in an answer of `getdents64`. A record has its length in bytes 16 and 17, and its name
/// from byte 19 on.
fn each_name(mut entries: &[u8], mut visit: impl FnMut(&[u8])) {
    while let Some(&[low, high]) = entries.get(16..18) {
        let Some((entry, rest)) = entries.split_at_checked(usize::from(u16::from_ne_bytes([low, high]))) else {
            return;
        };
        let Some(name) = entry.get(19..) else { return };
        visit(name.split(|&byte| byte == 0).next().unwrap_or_default());
        entries = rest;
    }
}

/// Runs `body` with all signals blocked for the calling thread, except `signal`. If that was blocked, it stays blocked.
pub(crate) fn with_other_signals_blocked<R>(signal: c_int, body: impl FnOnce() -> R) -> R {
    super::threads::with_other_signals_blocked(Some(signal), body)
}

/// The two ends of a pipe: to read, to write. Closed at `exec`.
pub(crate) fn pipe() -> Option<(Descriptor, Descriptor)> {
    let _errno = KeepErrno::new();
    let mut ends = [0; 2];
    // SAFETY: room for two numbers.
    let made = unsafe { libc::syscall(libc::SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC) } == 0;
    made.then(|| (Descriptor::of_number(ends[0]), Descriptor::of_number(ends[1])))
}

/// Waits until something can be read from a descriptor, or its other end is closed; `milliseconds` at most. Returns
/// whether that happened.
pub(crate) fn wait_readable(descriptor: Descriptor, milliseconds: c_int) -> bool {
    let _errno = KeepErrno::new();
    let time = libc::timespec { tv_sec: 0, tv_nsec: (milliseconds * 1_000_000).into() };
    let mut waiting = libc::pollfd { fd: descriptor.number(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, a time and no mask.
    unsafe { libc::syscall(libc::SYS_ppoll, &raw mut waiting, 1, &raw const time, 0, 0) > 0 }
}

/// Reads `words` from byte `offset` of a file, and returns whether the file had enough for all of them.
pub(crate) fn read_at(file: Descriptor, words: &mut [u64], offset: u64) -> bool {
    let _errno = KeepErrno::new();
    let bytes = size_of_val(words);
    // SAFETY: a writable buffer of that length.
    let read = unsafe { libc::syscall(libc::SYS_pread64, file.number(), words.as_mut_ptr(), bytes, offset) };
    usize::try_from(read) == Ok(bytes)
}

/// Copies the process. The calling thread is the only one that the copy has. Returns the copy's number in the parent,
/// and `None` in the child.
///
/// No fork handlers run, and the child's end sends no signal. The child may call functions that take no lock of the C
/// library, and ends by [`exit_copy`].
///
/// # Errors
/// The system's number of the error.
pub(crate) fn copy_process() -> Result<Option<c_int>, c_int> {
    // SAFETY: no flag is set: neither memory nor a stack is shared, and no signal is sent at the end.
    let child = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    match child {
        0 => Ok(None),
        1.. => Ok(Some(child as c_int)),
        _ => Err(errno()),
    }
}

/// Makes a copy of the process harmless: it ends with its parent, handles no signal, dumps no core, and keeps one file
/// open.
pub(crate) fn quiet_copy(keep: Descriptor) {
    let keep = keep.number();
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let all = u64::MAX;
    // SAFETY: numbers, and a limit and a set of signals to read. The files are the copy's own.
    unsafe {
        let before = ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, before, size_of::<u64>());
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, &raw const none, 0);
        if keep > 0 {
            libc::syscall(libc::SYS_close_range, 0, keep - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, keep + 1, c_int::MAX, 0);
    }
}

/// Ends a copy of the process at once.
pub(crate) fn exit_copy(status: c_int) -> ! {
    loop {
        // SAFETY: a number.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// Ends a copy of the process from outside.
pub(crate) fn kill_copy(child: c_int) {
    // SAFETY: numbers. The copy was not waited for, so no other process has its number.
    unsafe { libc::syscall(libc::SYS_kill, child, libc::SIGKILL) };
}

/// The status with which a copy of the process ended, as `wait4` tells it; `None` if it runs. With `waits`, waits for
/// its end.
pub(crate) fn status_of_copy(child: c_int, waits: bool) -> Option<c_int> {
    let _errno = KeepErrno::new();
    let mut status = 0;
    let flags = libc::__WALL | if waits { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: a place for the answer.
        let ended = unsafe { libc::syscall(libc::SYS_wait4, child, &raw mut status, flags, 0) };
        match ended {
            0 => return None,
            -1 if errno() == libc::EINTR => {}
            // Other code waited for it, so it has ended.
            -1 => return Some(0),
            _ => return Some(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_threads_that_run_that_block_a_signal_and_that_are_gone() {
        let signal = signal().expect("a free signal");
        let (send, receive) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            super::super::threads::with_other_signals_blocked(None, || {
                send.send(super::super::thread_id()).expect("the test waits");
                ended.recv().expect_err("the other end is dropped");
            });
        });
        let number = receive.recv().expect("a number");
        assert_eq!(task(number, signal), Task::Blocks);
        assert_eq!(task(super::super::thread_id(), signal), Task::Runs);
        let mut seen = Vec::new();
        each_task(|thread| seen.push(thread)).expect("/proc");
        assert!(seen.contains(&number) && seen.contains(&super::super::thread_id()));
        drop(end);
        thread.join().expect("no panic");
        assert_eq!(send_to_gone(number, signal), Err(libc::ESRCH));
        assert_eq!(task(number, signal), Task::Gone);
    }

    /// A thread that was joined may still be in the kernel for a moment.
    fn send_to_gone(number: u32, signal: c_int) -> Result<(), c_int> {
        let mut sent = Ok(());
        for _ in 0..1000 {
            sent = send(number, signal, 0);
            if sent.is_err() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        sent
    }

    #[test]
    fn a_copy_of_the_process_has_its_memory_and_tells_by_a_pipe() {
        let (read, write) = pipe().expect("a pipe");
        let memory = 42_u8;
        match copy_process().expect("a copy") {
            None => {
                quiet_copy(write);
                let written = write.write_all(&[core::hint::black_box(memory)]);
                exit_copy(if written.is_ok() { 7 } else { 8 });
            }
            Some(child) => {
                let mut answer = [0];
                assert!(wait_readable(read, 900) || wait_readable(read, 900));
                assert_eq!((read.read(&mut answer), answer), (1, [42]));
                let status = status_of_copy(child, true).expect("it has ended");
                assert_eq!(libc::WEXITSTATUS(status), 7);
            }
        }
        read.close();
        write.close();
    }

    #[test]
    fn damaged_entries_of_a_folder_are_left_out() {
        let mut entries = vec![0_u8; 24];
        entries[16] = 24;
        entries[19..22].copy_from_slice(b"123");
        let names = |entries: &[u8]| {
            let mut names = Vec::new();
            each_name(entries, |name| names.push(name.to_owned()));
            names
        };
        assert_eq!(names(&entries), [b"123".to_vec()]);
        for length in 0..24 {
            assert_eq!(names(&entries[..length]), Vec::<Vec<u8>>::new());
        }
        entries[16] = 0;
        assert_eq!(names(&entries), Vec::<Vec<u8>>::new());
    }
}
