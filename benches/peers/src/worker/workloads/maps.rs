//! Programs around one large map: sorted, hashed, interned, persistent, bounded.

use crate::measure::{Outcome, measure};
use crate::random::Random;
use peers::params::{
    INTERN_LOOKUPS, INTERN_WORDS, LRU_ENTRIES, LRU_LOOKUPS, MAP_KEYS, MAP_OPERATIONS,
    PERSISTENT_UPDATES, PERSISTENT_VERSIONS, SEED, Scale,
};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// The standard hasher with fixed keys: every run does the same.
pub type FixedState = BuildHasherDefault<DefaultHasher>;

/// A key as programs have them: a prefix, a number, 12 to 40 bytes.
fn key(number: usize) -> String {
    let tail = &"/settings/profile/picture"[..number % 25];
    format!("user-{number:06}{tail}")
}

/// Insert, look up and remove random keys, about half of which are in the map.
macro_rules! churn {
    ($scale:expr, $map:expr) => {{
        let operations = $scale.of(MAP_OPERATIONS);
        let mut random = Random::new(SEED);
        let mut map = $map;
        measure(operations, || {
            let mut sum = 0;
            for number in 0..operations {
                let key = key(random.below(MAP_KEYS));
                match random.below(4) {
                    0 => sum += map.remove(&key).map_or(0, |value: Vec<u8>| value.len() as u64),
                    1 => sum += map.get(&key).map_or(1, |value| value.len() as u64),
                    _ => drop(map.insert(key, vec![number as u8; 8 + number % 120])),
                }
            }
            sum + map.len() as u64
        })
    }};
}

pub fn btree_churn(scale: Scale) -> Outcome {
    churn!(scale, BTreeMap::new())
}

pub fn hashmap_churn(scale: Scale) -> Outcome {
    churn!(scale, HashMap::with_hasher(FixedState::default()))
}

/// Words come in as fresh strings; the interner hands out the one it has, or keeps the new one.
/// From time to time it forgets those that nobody holds.
pub fn interned(scale: Scale) -> Outcome {
    let lookups = scale.of(INTERN_LOOKUPS);
    let mut random = Random::new(SEED);
    let mut interner: HashSet<Arc<str>, FixedState> = HashSet::default();
    let mut held: VecDeque<Arc<str>> = VecDeque::with_capacity(INTERN_WORDS / 4);
    measure(lookups, || {
        let mut sum = 0;
        for number in 0..lookups {
            let word = key(random.below(INTERN_WORDS));
            let symbol = interner.get(word.as_str()).cloned().unwrap_or_else(|| {
                let symbol: Arc<str> = word.into();
                interner.insert(Arc::clone(&symbol));
                symbol
            });
            sum += symbol.len() as u64;
            if held.len() == INTERN_WORDS / 4 {
                held.pop_front();
            }
            held.push_back(symbol);
            if number % INTERN_WORDS == 0 {
                interner.retain(|symbol| Arc::strong_count(symbol) > 1);
            }
        }
        sum + interner.len() as u64
    })
}

pub fn persistent_map(scale: Scale) -> Outcome {
    let updates = scale.of(PERSISTENT_UPDATES);
    let mut random = Random::new(SEED);
    let mut map: im::HashMap<u64, String, FixedState> = im::HashMap::default();
    let mut versions = VecDeque::with_capacity(PERSISTENT_VERSIONS);
    measure(updates, || {
        let mut sum = 0;
        for number in 0..updates {
            let index = random.below(MAP_KEYS) as u64;
            if random.below(3) == 0 {
                map.remove(&index);
            } else {
                map.insert(index, key(number));
            }
            if number % 10 == 0 {
                if versions.len() == PERSISTENT_VERSIONS {
                    let old: Option<im::HashMap<_, _, _>> = versions.pop_front();
                    sum += old.map_or(0, |old| old.len() as u64);
                }
                versions.push_back(map.clone());
            }
        }
        sum
    })
}

pub fn lru_cache(scale: Scale) -> Outcome {
    let lookups = scale.of(LRU_LOOKUPS);
    let mut random = Random::new(SEED);
    let capacity = NonZeroUsize::new(LRU_ENTRIES).expect("not 0");
    let mut cache = lru::LruCache::with_hasher(capacity, FixedState::default());
    measure(lookups, || {
        let mut hits = 0;
        for number in 0..lookups {
            // The smaller of two: some keys are asked for more often than others.
            let index = random.below(LRU_ENTRIES * 4).min(random.below(LRU_ENTRIES * 4));
            let key = key(index);
            if cache.get(&key).is_some() {
                hits += 1;
            } else {
                cache.put(key, vec![number as u8; 16 + number % 200]);
            }
        }
        hits
    })
}
