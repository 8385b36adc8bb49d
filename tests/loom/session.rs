//! Starting and stopping the tracer while other threads allocate and free.
//!
//! Only the lock is the product's here. The rest repeats in simplified form `trace/record/session.rs` (`start`,
//! `stop`), `observe/` and `trace/record/hook.rs` (`allocated`, `freed`), `trace/record/blocks.rs` (`insert`, `remove`)
//! and the word of the cache that sends a free to the slow path.

use std::sync::Arc;

use loom::thread;

use crate::lock::Lock;
use crate::sync::{AtomicU32, Ordering};
use crate::{check, check_bounded};

/// The side table, for one address.
struct Table {
    session: u32,
    /// The session that the block was recorded in.
    block: Option<u32>,
}

struct Tracer {
    /// The ceiling of the freeing thread's magazine: 1 if poisoned. Written under the door.
    poison: AtomicU32,
    door: Lock<()>,
    /// The word of `observe`: 1 if the tracer must be called.
    wanted: AtomicU32,
    session: AtomicU32,
    table: Lock<Table>,
    /// How the program hands the block from one thread to the other.
    handed: AtomicU32,
}

impl Tracer {
    fn new() -> Self {
        Self {
            poison: AtomicU32::new(0),
            door: Lock::new(()),
            wanted: AtomicU32::new(0),
            session: AtomicU32::new(0),
            table: Lock::new(Table { session: 0, block: None }),
            handed: AtomicU32::new(0),
        }
    }

    fn set_poison(&self, poison: u32) {
        // Relaxed: as in the product.
        self.door.lock().with(|()| self.poison.store(poison, Ordering::Relaxed));
    }

    fn start(&self, session: u32) {
        self.begin(session);
        self.set_poison(1);
        // Relaxed: as in the product.
        self.wanted.store(1, Ordering::Relaxed);
        self.session.store(session, Ordering::Release);
    }

    fn stop(&self) {
        self.session.store(0, Ordering::Relaxed);
        self.wanted.store(0, Ordering::Relaxed);
        self.set_poison(0);
        self.begin(0);
    }

    fn begin(&self, session: u32) {
        self.table.lock().with(|table| *table = Table { session, block: None });
    }

    /// The end of an allocation on the slow path.
    fn allocated(&self) {
        // Relaxed: as in the product.
        if self.wanted.load(Ordering::Relaxed) == 0 {
            return;
        }
        let session = self.session.load(Ordering::Acquire);
        if session != 0 {
            self.table.lock().with(|table| {
                if table.session == session {
                    table.block = Some(session);
                }
            });
        }
    }

    fn free(&self) {
        // Relaxed (all): as in the product.
        if self.poison.load(Ordering::Relaxed) != 0
            && self.wanted.load(Ordering::Relaxed) != 0
            && self.session.load(Ordering::Relaxed) != 0
        {
            self.table.lock().with(|table| table.block = None);
        }
    }
}

/// One thread hands a block to another while tracing starts, for the first time or after it was stopped.
fn hand_on(before: fn(&Tracer), start: fn(&Tracer)) -> impl Fn() + Sync + Send + 'static {
    move || {
        let tracer = Arc::new(Tracer::new());
        before(&tracer);
        let (one, other) = (tracer.clone(), tracer.clone());
        let allocates = thread::spawn(move || {
            one.allocated();
            // Release: pairs with the Acquire below.
            one.handed.store(1, Ordering::Release);
        });
        let frees = thread::spawn(move || {
            // Acquire: pairs with the Release above.
            let has_block = other.handed.load(Ordering::Acquire) != 0;
            if has_block {
                other.free();
            }
            has_block
        });
        start(&tracer);
        allocates.join().unwrap();
        let was_freed = frees.join().unwrap();
        tracer.table.lock().with(|table| assert!(!(was_freed && table.block.is_some()), "freed unseen"));
    }
}

#[test]
fn a_block_recorded_while_tracing_starts_is_never_freed_unseen() {
    check(hand_on(|_| {}, |tracer| tracer.start(1)));
}

#[test]
fn a_block_recorded_while_tracing_starts_again_is_never_freed_unseen() {
    let again = |tracer: &Tracer| {
        tracer.stop();
        tracer.start(2);
    };
    check_bounded(3, hand_on(|tracer| tracer.start(1), again));
}

#[test]
fn a_block_of_a_session_that_ended_is_not_in_the_next_ones_table() {
    check_bounded(4, || {
        let tracer = Arc::new(Tracer::new());
        tracer.start(1);
        let other = tracer.clone();
        let allocates = thread::spawn(move || other.allocated());
        tracer.stop();
        tracer.table.lock().with(|table| assert_eq!(table.block, None));
        tracer.start(2);
        allocates.join().unwrap();
        tracer.table.lock().with(|table| assert!(table.block.is_none_or(|session| session == 2), "of session 1"));
    });
}
