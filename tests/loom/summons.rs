//! Threads that are called to stand still: what the heap's graph stands on. The protocol is the product's source.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use crate::summons::{Call, Summons};
use crate::{check, check_bounded};

/// What a called thread works on, as the program does: no atomic, so that loom sees a race.
struct Work(UnsafeCell<u32>);

// SAFETY: loom checks each access.
unsafe impl Sync for Work {}

impl Work {
    fn change(&self) {
        // SAFETY: as above.
        self.0.with_mut(|count| unsafe { *count += 1 });
    }

    fn read(&self) -> u32 {
        // SAFETY: as above.
        self.0.with(|count| unsafe { *count })
    }
}

/// A called thread: works, is interrupted by the signal with the call's number, works on.
fn called(summons: &Summons<u32>, work: &Work, call: Call, said: u32) {
    work.change();
    summons.arrive(call, said);
    work.change();
}

#[test]
fn a_thread_that_stands_does_nothing_and_the_caller_sees_all_that_it_did() {
    check(|| {
        let shared = Arc::new((Summons::new(0), Work(UnsafeCell::new(0))));
        let call = Call::of_number(1);
        shared.0.call(call);
        let thread = {
            let shared = shared.clone();
            thread::spawn(move || called(&shared.0, &shared.1, call, 7))
        };
        // As a caller that never gives up.
        let said = loop {
            if let Some(said) = shared.0.stands(call) {
                break said;
            }
            thread::yield_now();
        };
        assert_eq!(said, 7);
        assert_eq!(shared.1.read(), 1, "it works while it stands");
        shared.1.change();
        shared.0.dismiss();
        thread.join().unwrap();
        assert_eq!(shared.1.read(), 3);
    });
}

#[test]
fn a_caller_that_gives_up_knows_whether_the_thread_stands_all_the_same() {
    check(|| {
        let shared = Arc::new((Summons::new(0), Work(UnsafeCell::new(0))));
        let call = Call::of_number(1);
        shared.0.call(call);
        let thread = {
            let shared = shared.clone();
            thread::spawn(move || called(&shared.0, &shared.1, call, 7))
        };
        if let Some(said) = shared.0.abandon(call) {
            assert_eq!((said, shared.1.read()), (7, 1), "it works while it stands");
            shared.0.dismiss();
        }
        thread.join().unwrap();
        assert_eq!(shared.1.read(), 2);
    });
}

#[test]
fn a_thread_that_comes_late_answers_for_nobody_who_was_called_after_it() {
    check_bounded(3, || {
        let shared = Arc::new((Summons::new(0), [(); 2].map(|()| Work(UnsafeCell::new(0)))));
        let calls = [1, 2].map(Call::of_number);
        let start = |index: usize| {
            let shared = shared.clone();
            thread::spawn(move || called(&shared.0, &shared.1[index], calls[index], index as u32))
        };
        shared.0.call(calls[0]);
        let late = start(0);
        if shared.0.abandon(calls[0]).is_some() {
            shared.0.dismiss();
        }
        shared.0.call(calls[1]);
        let second = start(1);
        if let Some(said) = shared.0.abandon(calls[1]) {
            assert_eq!((said, shared.1[1].read()), (1, 1), "the late one answered for the second");
            shared.0.dismiss();
        }
        late.join().unwrap();
        second.join().unwrap();
    });
}
