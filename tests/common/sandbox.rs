//! Sandboxes by seccomp. The unit tests use this, too.

/// Enters a sandbox, with all threads of the process, in which a system call fails with this error.
pub(crate) fn refuse_system_call(number: libc::c_long, error: libc::c_int) {
    enter(number, libc::SECCOMP_RET_ERRNO | u32::try_from(error).expect("positive"));
}

/// Enters a sandbox in which a system call ends the process.
pub(crate) fn forbid_system_call(number: libc::c_long) {
    enter(number, libc::SECCOMP_RET_KILL_PROCESS);
}

fn enter(number: libc::c_long, answer: u32) {
    let number = u32::try_from(number).expect("a number");
    let code = |code: u32| u16::try_from(code).expect("16 bits");
    // SAFETY: these functions only combine numbers.
    let mut filter = unsafe {
        [
            libc::BPF_STMT(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0),
            libc::BPF_JUMP(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), number, 0, 1),
            libc::BPF_STMT(code(libc::BPF_RET | libc::BPF_K), answer),
            libc::BPF_STMT(code(libc::BPF_RET | libc::BPF_K), libc::SECCOMP_RET_ALLOW),
        ]
    };
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: a valid program, which the kernel copies.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let (set, all_threads) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
        assert_eq!(libc::syscall(libc::SYS_seccomp, set, all_threads, &raw const program), 0);
    }
}
