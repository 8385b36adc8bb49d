//! Pools and sets that change hands while others free into them.

use loom::thread;
use std::sync::Arc;

use crate::world::World;
use crate::{check, check_bounded};

/// The owner ends, a second thread frees into its pools, and a third adopts the set and allocates from it.
#[test]
fn a_set_parked_while_others_free_into_it_is_adopted_with_every_block() {
    check_bounded(4, || {
        let world = Arc::new(World::new(1, &[0], 2));
        let owner = {
            let world = world.clone();
            thread::spawn(move || world.park(0))
        };
        let freer = {
            let world = world.clone();
            thread::spawn(move || world.free(0, 0))
        };
        let mut taken = 0;
        if let Some(set) = world.adopt() {
            world.sets[set].door.lock().with(|lists| {
                world.collect(set, lists);
                taken = usize::from(world.take(lists).is_some());
            });
        }
        owner.join().unwrap();
        freer.join().unwrap();
        world.settle(1 + taken);
    });
}

/// The next owner sees what the owner did to its pools under the door; nothing else orders the two.
#[test]
fn the_door_passes_an_owners_data_from_parking_to_adoption() {
    check(|| {
        let world = Arc::new(World::new(1, &[0], 2));
        world.free(0, 0);
        let old = world.clone();
        let owner = thread::spawn(move || {
            old.sets[0].door.lock().with(|lists| {
                old.collect(0, lists);
                assert_eq!(old.take(lists), Some((0, 0)));
            });
            old.park(0);
        });
        let adopted = world.adopt();
        if let Some(set) = adopted {
            world.sets[set].door.lock().with(|lists| assert_eq!(world.take(lists), None));
        }
        owner.join().unwrap();
        world.settle(2);
    });
}

/// A block that is freed while its pool is claimed ends with the thief or in the thief's inbox, never in the victim's.
/// A block that is freed before makes the claim fail, or was collected.
#[test]
fn a_pool_stolen_during_a_remote_free_is_in_the_inbox_of_its_owner_alone() {
    check(|| {
        let world = Arc::new(World::new(2, &[0], 3));
        world.free(0, 0);
        world.park(0);
        let other = world.clone();
        let freer = thread::spawn(move || {
            other.free(0, 1);
            other.free(0, 2);
        });
        world.sets[1].door.lock().with(|own| {
            world.steal(1, own, 0);
        });
        // The victim's side and the thief's side of the same moment.
        world.knock(0);
        world.enter_and_collect(1);
        freer.join().unwrap();
        assert_eq!(world.settle(0), 3);
    });
}

/// The freeing thread may be the first arrival after the thief's `collect_count`. It must then see the thief in the
/// tag.
#[test]
fn a_pool_stolen_and_emptied_is_unmapped_after_the_last_access_of_a_thread_that_freed_into_it() {
    check_bounded(4, || {
        let world = Arc::new(World::new(2, &[0], 3).unmapping());
        world.free(0, 0);
        world.park(0);
        let freers = [1, 2].map(|block| {
            let world = world.clone();
            thread::spawn(move || world.free(0, block))
        });
        world.sets[1].door.lock().with(|own| {
            world.steal(1, own, 0);
            world.collect(1, own);
        });
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        assert_eq!(world.settle(0), 3);
    });
}

/// Two parked sets with one pool each. The thieves try the doors in opposite orders, and each takes all it can get.
#[test]
fn two_thieves_after_the_same_pools_never_get_the_same_one() {
    check(|| {
        let world = Arc::new(World::new(4, &[0, 1], 2));
        for set in [0, 1] {
            world.free(set, 0);
            world.park(set);
        }
        let thief = |thief: usize, victims: [usize; 2]| {
            let world = world.clone();
            move || {
                world.sets[thief].door.lock().with(|own| {
                    victims.iter().filter_map(|&victim| world.steal(thief, own, victim)).collect::<Vec<_>>()
                })
            }
        };
        let first = thread::spawn(thief(2, [0, 1]));
        let mut stolen = thief(3, [1, 0])();
        stolen.extend(first.join().unwrap());
        stolen.sort_unstable();
        // A thief that finds a door taken leaves the pool behind it to the thief inside.
        assert_eq!(stolen, [0, 1]);
        assert_eq!(world.settle(2), 2);
    });
}

/// A pool is stolen, parked with its thief, and stolen again, while another thread frees into it.
#[test]
fn a_pool_stolen_twice_during_a_remote_free_is_its_last_owners() {
    check_bounded(4, || {
        let world = Arc::new(World::new(3, &[0], 3));
        world.free(0, 0);
        world.park(0);
        let freer = {
            let world = world.clone();
            thread::spawn(move || world.free(0, 1))
        };
        let first = {
            let world = world.clone();
            thread::spawn(move || {
                world.sets[1].door.lock().with(|own| world.steal(1, own, 0));
                world.park(1);
            })
        };
        world.sets[2].door.lock().with(|own| world.steal(2, own, 1).or_else(|| world.steal(2, own, 0)));
        first.join().unwrap();
        freer.join().unwrap();
        assert_eq!(world.settle(1), 2);
    });
}

/// The thread that freed collects for an owner that may itself be collecting.
#[test]
fn a_knock_and_a_drain_of_the_owner_bring_each_block_home_once() {
    check_bounded(4, || {
        let world = Arc::new(World::new(1, &[0], 3).unmapping());
        let knocker = {
            let world = world.clone();
            thread::spawn(move || {
                world.free(0, 0);
                world.knock(0);
            })
        };
        let freer = {
            let world = world.clone();
            thread::spawn(move || world.free(0, 1))
        };
        world.enter_and_collect(0);
        knocker.join().unwrap();
        freer.join().unwrap();
        // The third block: the drains above can't have unmapped the pool.
        world.free(0, 2);
        assert_eq!(world.settle(0), 3);
    });
}

/// Each thread holds its own door, frees into the other's pool, and knocks at the other's door.
#[test]
fn two_owners_that_knock_at_each_others_doors_both_go_on() {
    check(|| {
        let world = Arc::new(World::new(2, &[0, 1], 2));
        let live = |own: usize, other: usize| {
            let world = world.clone();
            move || {
                world.enter(own, |lists| {
                    world.free(other, 0);
                    world.knock(other);
                    world.collect(own, lists);
                });
            }
        };
        let first = thread::spawn(live(0, 1));
        live(1, 0)();
        first.join().unwrap();
        assert_eq!(world.settle(2), 2);
    });
}
