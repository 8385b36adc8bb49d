//! The self-check: it checks every invariant that shows in the heap's data, while the slow paths are stopped.
//!
//! It is the oracle of the property tests and the soak test. It walks all arenas, pools, bitmaps, lists, inboxes and
//! magazines, allocates nothing, and reports the first error.

use core::fmt;
use core::ptr::{self, NonNull};

use crate::base::config::{BITMAP_WORDS_MAX, CLASS_COUNT, MEDIUM_CLASS_COUNT, POOLS_PER_ARENA, PURGE_PARTS, WORD_BITS};
use crate::base::kind::{Kind, Medium, Small};
use crate::base::size_class::{Class, MediumClass};
use crate::cache::ThreadCache;
use crate::heap::arena::{PoolRef, Tag};
use crate::heap::arena_table::ArenaTable;
use crate::heap::door::Door;
use crate::heap::pool::{Pool, PoolList, State};
use crate::heap::set::{PoolSet, Pools, RUN_TAG, tag_any_class, tag_class, tag_set};
use crate::heap::{Heap, Stopped};
use crate::inspect::stats::Stats;
use crate::sync::Ordering;

/// An error in the heap's data, found by [`self_check`](crate::self_check).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Corruption {
    /// The invariant that does not hold.
    pub message: &'static str,
    /// The address of the arena, pool, block or descriptor in question.
    pub address: usize,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at {:#x})", self.message, self.address)
    }
}

impl core::error::Error for Corruption {}

type CheckResult<T = ()> = Result<T, Corruption>;

fn ensure(holds: bool, message: &'static str, address: usize) -> CheckResult {
    if holds { Ok(()) } else { Err(Corruption { message, address }) }
}

/// The counts of the walk over the arenas, to be compared with those of the walk over the sets.
struct Tally {
    /// Partial and full pools of each class.
    of_class: [u32; CLASS_COUNT + MEDIUM_CLASS_COUNT],
    partial: usize,
    empty: usize,
    outstanding: usize,
    owned: usize,
    used_bytes: usize,
    /// The owner that was last found in the register; the next pool mostly has the same owner.
    owner: Option<NonNull<PoolSet>>,
    /// Where several pools make one: the number of them that are still to come, and the tag of the first.
    behind: (usize, Tag),
}

impl Tally {
    const NOTHING: Self = Self {
        of_class: [0; CLASS_COUNT + MEDIUM_CLASS_COUNT],
        partial: 0,
        empty: 0,
        outstanding: 0,
        owned: 0,
        used_bytes: 0,
        owner: None,
        behind: (0, ptr::null_mut()),
    };
}

/// Checks the heap, and returns its statistics.
pub(crate) fn check(stopped: &mut Stopped<'_>) -> CheckResult<Stats> {
    let heap = stopped.heap();
    let mut found = Tally::NOTHING;
    stopped.with_state(|state| check_arenas(heap, &state.arenas, &mut found))?;
    check_parked(stopped)?;
    let mut listed = Tally::NOTHING;
    for set in heap.sets() {
        // SAFETY: sets are never unmapped.
        check_place(heap, unsafe { set.as_ref() })?;
        stopped.with_pools(set, |pools| check_set(heap, set, pools, &mut listed))?;
        // SAFETY: a registered set.
        if let Some(cache) = unsafe { ThreadCache::of_set(heap, set) } {
            // SAFETY: caches are never unmapped.
            let cache = unsafe { cache.as_ref() };
            check_magazines::<Small>(heap, cache, stopped.door())?;
            check_magazines::<Medium>(heap, cache, stopped.door())?;
        }
    }
    ensure(found.partial == listed.partial, "a partial pool is in no list", 0)?;
    ensure(found.empty == listed.empty, "an empty pool is in no list", 0)?;
    ensure(found.of_class == listed.of_class, "the sets' pools of a class are miscounted", 0)?;
    ensure(found.owned == listed.owned, "the sets' pools are miscounted", 0)?;
    ensure(found.used_bytes == listed.used_bytes, "the sets' bytes in use are miscounted", 0)?;
    ensure(found.outstanding == listed.outstanding, "a pool with blocks outstanding is in no inbox", 0)?;
    let stats = Stats::gather(stopped);
    ensure(stats.bytes.sum() == stats.bytes.arenas, "the bytes of the arenas don't add up", 0)?;
    Ok(stats)
}

fn check_arenas(heap: &Heap, table: &ArenaTable, found: &mut Tally) -> CheckResult {
    table.check_lists().map_err(|message| Corruption { message, address: 0 })?;
    for arena in table.iter() {
        let start = arena.start().addr();
        ensure(heap.map.arena_of(start) == Some(arena), "an arena is not in the address map", start)?;
        arena.pools().try_for_each(|place| check_pool(heap, place, found))?;
        ensure(found.behind.0 == 0, "several pools reach beyond their arena", start)?;
    }
    Ok(())
}

fn check_pool(heap: &Heap, place: PoolRef, found: &mut Tally) -> CheckResult {
    let start = place.start().addr();
    if found.behind.0 > 0 {
        return check_behind(heap, place, found, start);
    }
    // Relaxed: the slow paths are stopped.
    let tag = place.tag().load(Ordering::Relaxed);
    let bit = 1_u64 << place.index();
    if place.arena().free.get() & bit != 0 {
        return check_unused(heap, place, start);
    }
    ensure(place.arena().dirty.get() & bit == 0, "an owned pool is counted as unused", start)?;
    match place.pool().state() {
        State::Run => check_run(heap, place, found, start),
        State::Behind => Err(Corruption { message: "a pool is behind no first pool", address: start }),
        _ => {
            if tag_set(tag) != found.owner {
                found.owner = heap.sets().find(|&set| Some(set) == tag_set(tag));
            }
            ensure(found.owner.is_some(), "a pool's owner is no set", start)?;
            check_owned(heap, place, found, (start, tag))
        }
    }
}

fn check_unused(heap: &Heap, place: PoolRef, start: usize) -> CheckResult {
    let pool = place.pool();
    // Relaxed: the slow paths are stopped.
    ensure(place.tag().load(Ordering::Relaxed).is_null(), "an unused pool has an owner", start)?;
    ensure(pool.state() == State::Unused, "an unused pool is in use", start)?;
    ensure(place.remote().outstanding() == 0, "an unused pool has blocks outstanding", start)?;
    ensure(heap.classes.agrees(start, None), "an unused pool is in the map of classes", start)?;
    let dirty = place.arena().dirty.get() >> place.index() & 1 == 1;
    ensure(dirty == place.has_memory(), "an unused pool's memory is miscounted", start)?;
    // A pool that was never used has no bitmap yet.
    if pool.start().is_null() { Ok(()) } else { check_bits_beyond(place, 0, start) }
}

/// Checks a pool that is the second or a later one of several that make one.
fn check_behind(heap: &Heap, place: PoolRef, found: &mut Tally, start: usize) -> CheckResult {
    let (rest, first) = found.behind;
    found.behind.0 = rest - 1;
    // Relaxed: the slow paths are stopped.
    let tag = place.tag().load(Ordering::Relaxed);
    let bit = 1_u64 << place.index();
    ensure(place.pool().state() == State::Behind, "a pool of several is not marked as behind the first", start)?;
    ensure(tag == first, "a pool of several has another tag than the first", start)?;
    ensure((place.arena().free.get() | place.arena().dirty.get()) & bit == 0, "a pool of several is free", start)?;
    ensure(place.remote().outstanding() == 0, "a pool behind another has blocks outstanding", start)?;
    ensure(!place.pool().is_touched(), "a pool behind another has touched bytes of its own", start)?;
    ensure(heap.classes.agrees(start, tag_any_class(tag)), "a pool has another class in the map of classes", start)
}

fn check_run(heap: &Heap, place: PoolRef, found: &mut Tally, start: usize) -> CheckResult {
    let pools = place.pool().used() as usize;
    // Relaxed: the slow paths are stopped.
    ensure(place.tag().load(Ordering::Relaxed) == RUN_TAG, "a run has an owner", start)?;
    ensure(pools > 0 && place.index() + pools <= POOLS_PER_ARENA, "a run reaches beyond its arena", start)?;
    ensure(place.remote().outstanding() == 0, "a run has blocks outstanding", start)?;
    ensure(heap.classes.agrees(start, None), "a run is in the map of classes", start)?;
    found.behind = (pools - 1, RUN_TAG);
    Ok(())
}

fn check_owned(heap: &Heap, place: PoolRef, found: &mut Tally, (start, tag): (usize, Tag)) -> CheckResult {
    let (pool, class) = (place.pool(), place.pool().any_class());
    let outstanding = place.remote().outstanding();
    ensure(tag_any_class(tag) == Some(class), "a pool's tag and descriptor differ in class", start)?;
    ensure(heap.classes.agrees(start, tag_any_class(tag)), "a pool has another class in the map of classes", start)?;
    ensure(pool.start().addr() == start, "a pool's descriptor has another start", start)?;
    ensure(start.is_multiple_of(class.pool_bytes()), "a pool of several is not aligned to its size", start)?;
    let bits = check_bitmaps(place, pool, start)?;
    check_bits_beyond(place, class.bitmap_words(), start)?;
    let blocks = class.pool_blocks();
    // Bits may have been collected before their count was added. Those blocks are free, but still counted as used.
    let (outstanding_blocks, used) = (outstanding as usize, pool.used() as usize);
    ensure(bits.free + bits.remote + used == blocks + outstanding_blocks, "a pool's blocks don't add up", start)?;
    ensure(bits.remote <= outstanding_blocks, "a pool has remote bits that no count tells of", start)?;
    ensure(pool.touched_bytes() <= class.pool_bytes(), "a pool's touched bytes exceed it", start)?;
    let state = match pool.used() {
        0 => State::Empty,
        _ if bits.free > 0 => State::Partial,
        _ => State::Full,
    };
    ensure(pool.state() == state, "a pool's state does not fit its blocks", start)?;
    ensure(state != State::Empty || class.pool_pools() == 1, "several pools are kept empty", start)?;
    for part in 0..PURGE_PARTS {
        ensure(pool.purged() >> part & 1 == 0 || pool.is_part_free(part), "a purged part has blocks outside", start)?;
    }
    found.owned += class.pool_pools();
    found.behind = (class.pool_pools() - 1, tag);
    found.used_bytes += used * class.block_bytes();
    if let Some(count) = found.of_class.get_mut(class.index()) {
        *count += u32::from(state != State::Empty);
    }
    found.partial += usize::from(state == State::Partial);
    found.empty += usize::from(state == State::Empty);
    found.outstanding += usize::from(outstanding > 0);
    Ok(())
}

struct Bits {
    free: usize,
    remote: usize,
}

fn check_bitmaps(place: PoolRef, pool: &Pool, start: usize) -> CheckResult<Bits> {
    let class = pool.any_class();
    let mut bits = Bits { free: 0, remote: 0 };
    for word in 0..class.bitmap_words() {
        let free = pool.any_free_bits(word);
        let remote = place.remote_word(word).peek();
        let set = pool.word(word).get() | remote;
        ensure(set & !class.full_word(word) == 0, "a bitmap has a bit beyond the pool's blocks", start)?;
        ensure(free & remote == 0, "a block is free twice", start)?;
        let summary = pool.words_free() >> word & 1 == 1;
        ensure(summary == (free != 0), "a bitmap's summary is wrong", start)?;
        bits.free += free.count_ones() as usize;
        bits.remote += remote.count_ones() as usize;
    }
    Ok(bits)
}

/// Checks that the words from `first` on, which no block of the pool needs, are zero: the next class relies on that.
fn check_bits_beyond(place: PoolRef, first: usize, start: usize) -> CheckResult {
    let is_clear = |word: usize| place.pool().word(word).get() | place.remote_word(word).peek() == 0;
    ensure((first..BITMAP_WORDS_MAX).all(is_clear), "a bitmap has bits in a word that is not in use", start)
}

/// Checks which sets are parked, which of these are bare, and that a bare set holds nothing.
fn check_parked(stopped: &mut Stopped<'_>) -> CheckResult {
    let heap = stopped.heap();
    let (mut parked, mut bare) = (0, 0);
    let mut next = NonNull::new(stopped.with_state(|state| state.last_parked().cast_mut()));
    while let Some(set) = next {
        let address = set.addr().get();
        // SAFETY: sets are never unmapped.
        let this = unsafe { set.as_ref() };
        next = NonNull::new(this.next_parked.get().cast_mut());
        parked += 1;
        ensure(this.is_listed.get(), "a parked set does not know that it is", address)?;
        ensure(
            this.is_bare() == this.door.is_shut(),
            "a set is bare and its door is not shut, or the reverse",
            address,
        )?;
        if this.is_bare() {
            bare += 1;
            let owned = stopped.with_pools(set, |pools| pools.owned_count());
            ensure(this.is_parked() && owned == 0, "a bare set is not parked, or has a pool", address)?;
            ensure(this.nothing_arrived(), "a bare set has something in its inbox", address)?;
            // SAFETY: a set that was registered; caches are never unmapped.
            let cache = unsafe { ThreadCache::of_set(heap, set).map(|cache| cache.as_ref()) };
            let door = stopped.door();
            let blocks = cache.map_or(0, |cache| cached::<Small>(cache, door) + cached::<Medium>(cache, door));
            ensure(blocks == 0, "a bare set's cache has a block", address)?;
        }
    }
    ensure(parked == heap.parked_count() && bare == heap.bare_count(), "parked sets are miscounted", 0)
}

/// Number of blocks of a kind in a cache.
fn cached<K: Kind>(cache: &ThreadCache, door: Door<'_>) -> usize {
    Class::<K>::all().map(|class| cache.all_blocks(class, door).count()).sum()
}

/// Checks that the register and the set agree on the set's place, and that a set in the register is not bare.
fn check_place(heap: &Heap, set: &PoolSet) -> CheckResult {
    let is_spare = ptr::eq(set, &raw const heap.spare);
    let is_there = set.place.get().checked_sub(1).is_some_and(|place| heap.is_at(place, set));
    ensure(
        is_there != is_spare && !set.door.is_shut(),
        "a set is not where the register has it",
        ptr::from_ref(set).addr(),
    )
}

fn check_set(heap: &Heap, set: NonNull<PoolSet>, pools: &Pools, listed: &mut Tally) -> CheckResult {
    check_kind::<Small>(heap, set, pools, listed)?;
    check_kind::<Medium>(heap, set, pools, listed)?;
    let medium: u32 = MediumClass::all().map(|class| pools.of_class(class)).sum();
    ensure(medium as usize == pools.medium.count, "a set's medium pools are miscounted", set.addr().get())?;
    let empty = check_list::<Small>(heap, set, pools.empty(), State::Empty, None)?;
    ensure(empty == pools.empty_count(), "a set's empty pools are miscounted", set.addr().get())?;
    listed.empty += empty;
    listed.owned += pools.owned_count();
    listed.used_bytes = listed.used_bytes.wrapping_add(pools.used_bytes());
    Ok(())
}

/// Checks the lists and the inbox of a set's pools of one kind.
fn check_kind<K: Kind>(heap: &Heap, set: NonNull<PoolSet>, pools: &Pools, listed: &mut Tally) -> CheckResult {
    for class in Class::<K>::all() {
        listed.partial += check_list(heap, set, pools.partial(class), State::Partial, Some(class))?;
        if let Some(count) = listed.of_class.get_mut(class.index()) {
            *count += pools.of_class(class);
        }
    }
    // SAFETY: the slow paths are stopped, so no thread pushes.
    for (remote, home) in unsafe { set.as_ref().inbox::<K>().peek_all() } {
        // SAFETY: a pool's, as its pusher left them.
        let place = unsafe { PoolRef::from_inbox(remote, home) };
        // Relaxed: the slow paths are stopped.
        let owner = tag_set(place.tag().load(Ordering::Relaxed));
        ensure(owner == Some(set), "an inbox holds a pool of another set", remote.addr().get())?;
        let class = tag_class::<K>(place.tag().load(Ordering::Relaxed));
        ensure(class.is_some(), "an inbox holds a pool of the other kind", remote.addr().get())?;
        listed.outstanding += 1;
    }
    Ok(())
}

fn check_list<K: Kind>(
    heap: &Heap,
    set: NonNull<PoolSet>,
    list: &PoolList,
    state: State,
    class: Option<Class<K>>,
) -> CheckResult<usize> {
    let class = class.map(Class::index);
    let mut pools = 0;
    for pool in list.iter() {
        let start = pool.start().addr();
        ensure(pool.state() == state, "a listed pool is in another state", start)?;
        ensure(
            class.is_none_or(|class| class == pool.any_class().index()),
            "a listed pool is of another class",
            start,
        )?;
        let Some(place) = heap.map.pool_of(start) else {
            return Err(Corruption { message: "a listed pool is in no arena", address: start });
        };
        ensure(ptr::eq(place.pool(), pool), "a listed pool has the start of another", start)?;
        // Relaxed: the slow paths are stopped.
        let owner = tag_set(place.tag().load(Ordering::Relaxed));
        ensure(owner == Some(set), "a listed pool belongs to another set", start)?;
        pools += 1;
    }
    Ok(pools)
}

fn check_magazines<K: Kind>(heap: &Heap, cache: &ThreadCache, door: Door<'_>) -> CheckResult {
    for class in Class::<K>::all() {
        for block in cache.all_blocks(class, door) {
            // If the thread runs, this is a snapshot; still, every value in a slot is a block of the class.
            let address = block.addr();
            let offset = address & (class.pool_bytes() - 1);
            let Some(place) = heap.map.pool_of(address - offset) else {
                return Err(Corruption { message: "a cached block is in no arena", address });
            };
            // Relaxed: the slow paths are stopped.
            ensure(
                tag_class(place.tag().load(Ordering::Relaxed)) == Some(class),
                "a cached block is of another class",
                address,
            )?;
            let Some(number) = class.block_at(offset) else {
                return Err(Corruption { message: "a cached block starts at no block's start", address });
            };
            let (word, bit) = (number / WORD_BITS, 1_u64 << (number % WORD_BITS));
            let free = (place.pool().free_bits::<K>(word) | place.remote_word(word).peek()) & bit != 0;
            ensure(!free, "a cached block is free in its pool", address)?;
        }
    }
    Ok(())
}
