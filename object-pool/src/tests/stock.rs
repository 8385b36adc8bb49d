//! What makes a stock fast: how many objects move at a time, how magazines grow, and when the gate opens again.

use std::sync::Arc;

use crate::magazine::Magazine;
use crate::stock::{Limits, Stock, Taken};
use crate::sync::{MAGAZINE_MAX, MAGAZINE_START, REOPEN_AFTER};

fn unlimited() -> Stock<u32> {
    Stock::new(Limits { max_idle: usize::MAX, max_total: usize::MAX, magazine: MAGAZINE_MAX })
}

/// A stock with `objects` idle ones, none of them in a magazine.
fn with_idle(objects: u32) -> Stock<u32> {
    let stock = unlimited();
    for object in 0..objects {
        assert!(stock.reserve());
        assert!(stock.put(None, object).is_none());
    }
    stock
}

/// Returns an object as the owner of a magazine.
fn put(stock: &Stock<u32>, magazine: &Magazine<u32>, object: u32) {
    // SAFETY: this thread plays the owner.
    let own = unsafe { magazine.own() };
    let rest = own.push(stock.gate(), object).err().and_then(|object| stock.put(Some(own), object));
    assert!(rest.is_none());
}

/// Takes an object out of a magazine as its owner.
fn pop(stock: &Stock<u32>, magazine: &Magazine<u32>) -> Option<u32> {
    // SAFETY: this thread plays the owner.
    unsafe { magazine.own() }.pop(stock.gate())
}

fn capacity(magazine: &Magazine<u32>) -> usize {
    magazine.count() + magazine.slack()
}

#[test]
fn an_empty_magazine_is_half_filled() {
    let stock = with_idle(20);
    let magazine = stock.join().unwrap();
    // SAFETY: this thread plays the owner.
    assert!(matches!(stock.take(Some(unsafe { magazine.own() }), true), Taken::Granted(_)));
    assert_eq!((magazine.count(), stock.self_check()), (MAGAZINE_START / 2, 19 - MAGAZINE_START / 2));
}

#[test]
fn a_magazine_doubles_up_to_the_most_and_then_half_of_it_moves() {
    let stock = unlimited();
    let magazine = stock.join().unwrap();
    let mut capacities = vec![0];
    for object in 0.. {
        assert!(stock.reserve());
        put(&stock, &magazine, object);
        if capacities.last() != Some(&capacity(&magazine)) {
            capacities.push(capacity(&magazine));
        }
        if stock.self_check() > 0 {
            break;
        }
    }
    assert_eq!(capacities, [0, MAGAZINE_START, 16, 32, MAGAZINE_MAX]);
    assert_eq!((magazine.count(), stock.self_check()), (MAGAZINE_MAX / 2 + 1, MAGAZINE_MAX / 2));
}

#[test]
fn the_magazine_of_a_thread_that_ended_is_the_next_threads() {
    let stock = unlimited();
    let first = stock.join().unwrap();
    // SAFETY: this thread plays the owner.
    stock.leave(first.clone(), unsafe { first.own() });
    assert!(Arc::ptr_eq(&first, &stock.join().unwrap()));
    assert!(!Arc::ptr_eq(&first, &stock.join().unwrap()));
}

#[test]
fn a_gate_that_was_shut_opens_again() {
    let stock = unlimited();
    let (magazine, other) = (stock.join().unwrap(), stock.join().unwrap());
    assert!(stock.reserve());
    put(&stock, &magazine, 0);
    assert_eq!(magazine.count(), 1);
    for _ in 0..3 {
        // Only a stop of the owners finds the object in the other magazine.
        // SAFETY: this thread plays all owners.
        assert!(matches!(stock.take(Some(unsafe { other.own() }), false), Taken::Granted(_)));
        assert_eq!(magazine.count() + capacity(&magazine), 0);
        let mut slow_calls = 0;
        while magazine.count() == 0 {
            slow_calls += 1;
            put(&stock, &magazine, 0);
            if magazine.count() == 0 {
                assert!(matches!(stock.take(None, false), Taken::Granted(_)));
                slow_calls += 1;
            }
        }
        assert!(slow_calls <= REOPEN_AFTER + 1, "{slow_calls}");
        assert_eq!(pop(&stock, &magazine), Some(0), "by its owner alone");
        put(&stock, &magazine, 0);
    }
}

#[test]
fn a_thread_that_may_not_create_stops_the_owners_only_if_they_have_objects() {
    let stock = unlimited();
    let magazine = stock.join().unwrap();
    assert!(stock.reserve());
    put(&stock, &magazine, 0);
    assert_eq!(pop(&stock, &magazine), Some(0));
    assert!(matches!(stock.take(None, false), Taken::Nothing));
    assert_eq!(capacity(&magazine), MAGAZINE_START);
    put(&stock, &magazine, 0);
    assert!(matches!(stock.take(None, false), Taken::Granted(_)));
    assert_eq!(capacity(&magazine), 0);
}

#[test]
fn a_thread_that_returns_an_object_stops_the_owners_only_if_they_have_room() {
    let stock = Stock::new(Limits { max_idle: 2 * MAGAZINE_START, max_total: usize::MAX, magazine: MAGAZINE_MAX });
    let magazine = stock.join().unwrap();
    let fill = |objects: usize| {
        for _ in 0..objects {
            assert!(stock.reserve());
            assert_eq!(stock.put(None, 0), None);
        }
    };
    assert!(stock.reserve());
    put(&stock, &magazine, 0);
    fill(MAGAZINE_START);
    assert_eq!(capacity(&magazine), MAGAZINE_START, "there is room in the stock");
    fill(MAGAZINE_START - 1);
    assert_eq!(capacity(&magazine), 0, "the magazine's room is used");

    let stock = Stock::new(Limits { max_idle: 4, max_total: usize::MAX, magazine: MAGAZINE_MAX });
    let magazine = stock.join().unwrap();
    for object in 0..5 {
        assert!(stock.reserve());
        assert_eq!(stock.put(None, object).is_some(), object == 4);
    }
    (0..4).for_each(|_| assert!(matches!(stock.take(None, false), Taken::Granted(_))));
    put(&stock, &magazine, 0);
    assert_eq!(magazine.count(), 1, "there was nobody to stop");
}
