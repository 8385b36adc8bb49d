//! What the tracer's walks share: the modules, the rules of return addresses, the buffers.
//!
//! Only the lock is the product's here. The rest repeats in small, with numbers for modules and addresses,
//! `trace/record/loaded.rs` (`number_by_identity`, `particulars`), `trace/record/rules.rs` (`begin`, `rule`, `learn`),
//! `trace/record/capture.rs` (`buffer`) and, of `session.rs` and `stacks.rs`, what refuses the walk of a session that
//! is over.

use std::sync::Arc;

use loom::thread;

use crate::check_bounded;
use crate::lock::{Guard, Lock};
use crate::sync::{AtomicUsize, Ordering, load_own};

const NONE: usize = 0;

/// Two places; every key's home is the first.
struct Modules {
    keys: [AtomicUsize; 2],
    /// What is known of the modules: here, their keys again.
    table: Lock<[usize; 2]>,
}

impl Modules {
    fn place_of(&self, key: usize, load: impl Fn(&AtomicUsize) -> usize) -> Option<(usize, usize)> {
        self.keys.iter().map(load).enumerate().find(|&(_, found)| found == key || found == NONE)
    }

    fn number_by_identity(&self, key: usize) -> Option<usize> {
        if let Some((place, found)) = self.place_of(key, |known| known.load(Ordering::Acquire))
            && found == key
        {
            return Some(place);
        }
        self.table.lock().with(|table| {
            let (place, found) = self.place_of(key, load_own)?;
            if found == NONE {
                table[place] = key;
                self.keys[place].store(key, Ordering::Release);
            }
            Some(place)
        })
    }

    fn particulars(&self, place: usize) -> usize {
        self.table.lock().with(|table| table[place])
    }
}

#[test]
fn a_module_has_one_number_and_its_own_particulars_whoever_meets_it_first() {
    check_bounded(3, || {
        let modules =
            Arc::new(Modules { keys: [AtomicUsize::new(NONE), AtomicUsize::new(NONE)], table: Lock::new([0; 2]) });
        let meet = |modules: &Modules, key: usize| modules.number_by_identity(key).expect("room");
        let other = modules.clone();
        let walk = thread::spawn(move || meet(&other, 7));
        let [eight, seven] = [8, 7].map(|key| meet(&modules, key));
        assert_eq!(walk.join().unwrap(), seven);
        assert_eq!([seven, eight].map(|place| modules.particulars(place)), [7, 8]);
    });
}

/// Two entries; every address's home is the first.
struct Rules {
    addresses: [AtomicUsize; 2],
    rules: [AtomicUsize; 2],
    learning: Lock<()>,
    session: AtomicUsize,
    /// The session whose stacks are kept.
    stacks: Lock<usize>,
}

/// What the debug information says of an address.
const fn rule_of(address: usize) -> usize {
    address + 100
}

impl Rules {
    fn new() -> Self {
        let words = || [AtomicUsize::new(NONE), AtomicUsize::new(NONE)];
        Self {
            addresses: words(),
            rules: words(),
            learning: Lock::new(()),
            session: AtomicUsize::new(0),
            stacks: Lock::new(0),
        }
    }

    fn rule(&self, address: usize) -> usize {
        for entry in 0..2 {
            let known = self.addresses[entry].load(Ordering::Acquire);
            if known == address {
                // Relaxed: as in the product.
                return self.rules[entry].load(Ordering::Relaxed);
            }
            if known == NONE {
                return self.learn(address);
            }
        }
        // No room.
        rule_of(address)
    }

    fn learn(&self, address: usize) -> usize {
        self.learning.lock().with(|()| {
            for entry in 0..2 {
                match load_own(&self.addresses[entry]) {
                    NONE => {
                        // Relaxed: as in the product.
                        self.rules[entry].store(rule_of(address), Ordering::Relaxed);
                        self.addresses[entry].store(address, Ordering::Release);
                        break;
                    }
                    known if known == address => break,
                    _ => {}
                }
            }
        });
        rule_of(address)
    }

    fn start(&self, session: usize) {
        self.learning.lock().with(|()| {
            for entry in 0..2 {
                // Relaxed (both): as in the product.
                self.addresses[entry].store(NONE, Ordering::Relaxed);
                self.rules[entry].store(NONE, Ordering::Relaxed);
            }
        });
        self.stacks.lock().with(|stacks| *stacks = session);
        self.session.store(session, Ordering::Release);
    }

    fn stop(&self) {
        // Relaxed: as in the product.
        self.session.store(0, Ordering::Relaxed);
        self.stacks.lock().with(|stacks| *stacks = 0);
    }

    /// A walk over one frame.
    fn walk(&self, address: usize) {
        let session = self.session.load(Ordering::Acquire);
        if session == 0 {
            return;
        }
        let rule = self.rule(address);
        let is_kept = self.stacks.lock().with(|stacks| *stacks == session);
        assert!(!is_kept || rule == rule_of(address), "a stack by another address's rule");
    }
}

#[test]
fn a_rule_that_is_found_is_that_of_its_address() {
    check_bounded(3, || {
        let rules = Arc::new(Rules::new());
        rules.start(1);
        let other = rules.clone();
        let walk = thread::spawn(move || other.walk(7));
        [8, 7].into_iter().for_each(|address| rules.walk(address));
        walk.join().unwrap();
    });
}

#[test]
fn no_stack_is_kept_that_was_walked_while_the_rules_were_forgotten() {
    check_bounded(3, || {
        let rules = Arc::new(Rules::new());
        rules.start(1);
        rules.walk(7);
        let other = rules.clone();
        let walk = thread::spawn(move || other.walk(7));
        rules.stop();
        rules.start(2);
        rules.walk(8);
        walk.join().unwrap();
    });
}

/// Two buffers; both threads' own is the first.
struct Buffers([Lock<usize>; 2]);

impl Buffers {
    fn buffer(&self) -> Guard<'_, usize> {
        self.0.iter().find_map(Lock::try_lock).unwrap_or_else(|| self.0[0].lock())
    }

    fn walk(&self, frame: usize) {
        self.buffer().with(|frames| {
            *frames = frame;
        });
    }
}

#[test]
fn walks_at_the_same_time_have_buffers_of_their_own_or_wait() {
    check_bounded(2, || {
        let buffers = Arc::new(Buffers([Lock::new(0), Lock::new(0)]));
        let walks = [1, 2].map(|frame| {
            let buffers = buffers.clone();
            thread::spawn(move || buffers.walk(frame))
        });
        buffers.walk(3);
        walks.into_iter().for_each(|walk| walk.join().unwrap());
    });
}
