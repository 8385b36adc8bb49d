//! `trace::serve`: who asks is told what is live; whoever is slow, hostile or gone harms nobody.
//!
//! One test after the other: a program serves once.
#![allow(clippy::vec_box, reason = "each block is to be an allocation of its own")]
#![cfg(all(feature = "trace", target_os = "linux", not(pymalloc_bypass)))]

use std::fs;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pymalloc::trace::{self, By, Config, ServeError, Session, Watch, WatchError};

#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

/// A socket of this test's own, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("pymalloc-serve-{}-{name}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[inline(never)]
fn held(count: usize) -> Vec<Box<[u8; 72]>> {
    black_box((0..count).map(|_| Box::new([1; 72])).collect())
}

fn blocks_of(look: &trace::Look) -> usize {
    look.snapshot.traces().filter(|trace| trace.block_bytes == 72).map(|trace| trace.blocks).sum()
}

fn what_is_live_is_told_with_names_each_time_anew() {
    let socket = Scratch::new("look");
    let server = trace::serve(&socket.0).expect("no other");
    let mut watch = Watch::connect(&socket.0).expect("it serves");
    assert!(!watch.look().expect("an answer").is_tracing);
    let session = Session::start(Config::new()).expect("no other");
    let first = held(300);
    let look = watch.look().expect("an answer");
    assert!(look.is_tracing && look.bytes_live >= 300 * 72 && look.bytes_resident > 0 && look.bytes_arenas > 0);
    assert_eq!((blocks_of(&look), watch.process()), (300, std::process::id()));
    let top = look.snapshot.statistics(By::Function);
    assert!(top[0].traceback.cause().function().contains("held"), "{top}");
    let second = held(200);
    assert_eq!(blocks_of(&watch.look().expect("an answer")), 500);
    drop(first);
    assert_eq!(blocks_of(&watch.look().expect("an answer")), 200);
    drop(session);
    // Another session: stacks have other numbers.
    let session = Session::start(Config::new().frames(3)).expect("no other");
    let third = held(7);
    assert_eq!(blocks_of(&watch.look().expect("an answer")), 7);
    let (text, pools) = watch.heap().expect("an answer");
    assert!(text.contains("# arenas allocated current"), "{text}");
    assert_eq!(pools.len(), 64 * pymalloc::stats().arenas_mapped);
    let class = pymalloc::class_number(std::alloc::Layout::new::<[u8; 72]>()).expect("small") as u8 + 1;
    assert!(pools.iter().any(|&[used_for, live]| used_for == class && live > 0));
    drop((second, third, session, server));
    assert!(!socket.0.exists());
    assert!(matches!(watch.look(), Err(WatchError::Io(_))));
}

fn the_socket_is_its_user_s_alone_and_a_left_one_is_replaced() {
    let socket = Scratch::new("mode");
    drop(UnixListener::bind(&socket.0).expect("a free name"));
    let server = trace::serve(&socket.0).expect("nobody listens there");
    let found = fs::symlink_metadata(&socket.0).expect("it was made");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert!(matches!(trace::serve(Scratch::new("second").0.clone()), Err(ServeError::AlreadyServing)));
    drop(server);
    fs::write(&socket.0, "a file").expect("ours");
    assert!(matches!(trace::serve(&socket.0), Err(ServeError::Io(_))));
    assert_eq!(fs::read(&socket.0).expect("ours"), b"a file");
    let listener = Scratch::new("taken");
    let other = UnixListener::bind(&listener.0).expect("a free name");
    assert!(matches!(trace::serve(&listener.0), Err(ServeError::Io(_))));
    drop(other);
    assert!(matches!(trace::serve("/no/such/folder/socket"), Err(ServeError::Io(_))));
    assert!(matches!(trace::serve("a".repeat(300)), Err(ServeError::Io(_))));
}

/// As root: runs `body` in a child with another user's rights; whether it was `true` there.
fn as_another_user(body: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child allocates, which this crate lets it, and ends by `_exit`.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(if libc::setuid(65_534) == 0 && body() { 0 } else { 1 });
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        status == 0
    }
}

fn another_user_is_turned_away_even_where_the_mode_was_changed() {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not run: only root can be another user");
        return;
    }
    let socket = Scratch::new("user");
    let server = trace::serve(&socket.0).expect("no other");
    let path = socket.0.clone();
    assert!(as_another_user(|| UnixStream::connect(&path).is_err()), "mode 0600 keeps others out");
    fs::set_permissions(&socket.0, fs::Permissions::from_mode(0o666)).expect("ours");
    let path = socket.0.clone();
    let is_refused = as_another_user(|| {
        let mut stream = UnixStream::connect(&path).expect("the mode lets it");
        // Not even greeted.
        stream.read(&mut [0]).is_ok_and(|read| read == 0)
    });
    assert!(is_refused);
    drop(server);
}

fn whatever_clients_send_the_server_goes_on() {
    let socket = Scratch::new("hostile");
    let session = Session::start(Config::new()).expect("no other");
    let server = trace::serve(&socket.0).expect("no other");
    let blocks = held(100);
    let mut random = 1_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    for round in 0..300 {
        let Ok(mut stream) = UnixStream::connect(&socket.0) else { continue };
        let bytes: Vec<u8> = (0..next() % 3000).map(|_| next() as u8).collect();
        // It may have hung up already.
        let _ = stream.write_all(&bytes);
        if round % 3 == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
            let mut answer = Vec::new();
            // To its end: a question that was answered, or none.
            assert!(stream.read_to_end(&mut answer).is_ok() || !answer.is_empty() || !bytes.is_empty());
        }
    }
    // More at once than there are places; they are free again when these are gone.
    let many: Vec<_> = (0..30).filter_map(|_| UnixStream::connect(&socket.0).ok()).collect();
    drop(many);
    let look = look_patiently(&socket);
    assert_eq!(blocks_of(&look), 100);
    drop((blocks, server, session));
}

fn look_patiently(socket: &Scratch) -> trace::Look {
    let begun = Instant::now();
    loop {
        match Watch::connect(&socket.0).and_then(|mut watch| watch.look()) {
            Ok(look) => return look,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "{error}"),
        }
    }
}

fn a_client_that_does_not_read_is_dropped_and_keeps_nobody() {
    let socket = Scratch::new("slow");
    let session = Session::start(Config::new()).expect("no other");
    let server = trace::serve(&socket.0).expect("no other");
    let mut slow = UnixStream::connect(&socket.0).expect("it serves");
    let mut greeting = [0; 17];
    slow.read_exact(&mut greeting).expect("a greeting");
    // Asks until the buffers of both sockets are full, and never reads.
    slow.set_nonblocking(true).expect("a socket");
    let begun = Instant::now();
    let dropped = loop {
        match slow.write(b"h") {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break true,
            _ if begun.elapsed() > Duration::from_secs(60) => break false,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
        // The program is not kept, nor are other clients.
        drop(held(10));
    };
    assert!(dropped);
    look_patiently(&socket);
    drop((server, session));
}

fn a_forked_child_does_not_serve_and_says_so() {
    let socket = Scratch::new("fork");
    let own = Scratch::new("child");
    let session = Session::start(Config::new()).expect("no other");
    let server = trace::serve(&socket.0).expect("no other");
    let mut watch = Watch::connect(&socket.0).expect("it serves");
    watch.look().expect("an answer");
    // SAFETY: the child allocates, which this crate lets it, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let is_right = !server.is_serving();
        drop(server);
        let serves_itself = trace::serve(&own.0).is_ok_and(|server| server.is_serving());
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if is_right && serves_itself && socket.0.exists() { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
    assert!(server.is_serving());
    watch.look().expect("the parent goes on");
    // A child that lives on does not keep its parent's clients waiting.
    // SAFETY: as above; the child only waits for its end.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends by the signal below.
        unsafe { libc::pause() };
    }
    drop(server);
    assert!(watch.look().is_err());
    // SAFETY: our own child.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, &raw mut status, 0);
    }
    drop(session);
}

fn a_server_that_answers_nonsense_is_refused() {
    let socket = Scratch::new("nonsense");
    let listener = UnixListener::bind(&socket.0).expect("a free name");
    let answers: [&[u8]; 5] = [
        b"something else than a greeting",
        b"pymalloc serve 1\nnonsense, nonsense, nonsense",
        b"pymalloc serve 1\n\x06\xff\xff\xff\xff",
        b"pymalloc serve 1\n\x05\0\0\0\0\0\0\0\0",
        b"",
    ];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a client");
                stream.write_all(answer).expect("a client");
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read(&mut [0; 8]);
            }
        });
        for _ in answers {
            assert!(Watch::connect(&socket.0).and_then(|mut watch| watch.look()).is_err());
        }
    });
}

#[test]
fn servers() {
    what_is_live_is_told_with_names_each_time_anew();
    the_socket_is_its_user_s_alone_and_a_left_one_is_replaced();
    another_user_is_turned_away_even_where_the_mode_was_changed();
    whatever_clients_send_the_server_goes_on();
    a_client_that_does_not_read_is_dropped_and_keeps_nobody();
    a_forked_child_does_not_serve_and_says_so();
    a_server_that_answers_nonsense_is_refused();
}
