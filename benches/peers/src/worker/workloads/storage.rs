//! Programs that store: a database with transactions, an index of bitmaps.

use super::maps::FixedState;
use crate::measure::{Outcome, measure};
use crate::random::Random;
use peers::params::{
    BITMAP_DOCUMENT_TERMS, BITMAP_DOCUMENTS, BITMAP_QUERIES, BITMAP_ROUNDS, BITMAP_TERMS,
    REDB_CACHE_BYTES, REDB_KEYS, REDB_TRANSACTIONS, REDB_VALUE_BYTES, REDB_WRITES, SEED, Scale,
};
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, TableDefinition};
use roaring::RoaringBitmap;
use std::collections::HashMap;

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("documents");

/// One transaction of writes, one of reads; returns the bytes that were read.
fn transactions(
    database: &Database,
    random: &mut Random,
    value: &[u8],
) -> Result<u64, redb::Error> {
    let writes = database.begin_write()?;
    {
        let mut table = writes.open_table(TABLE)?;
        for _ in 0..REDB_WRITES {
            let key = format!("document/{:06}", random.below(REDB_KEYS));
            if random.below(5) == 0 {
                table.remove(key.as_str())?;
            } else {
                let bytes = random.between(REDB_VALUE_BYTES);
                table.insert(key.as_str(), &value[..bytes])?;
            }
        }
    }
    writes.commit()?;
    let table = database.begin_read()?.open_table(TABLE)?;
    let mut sum = 0;
    for _ in 0..REDB_WRITES / 10 {
        let first = format!("document/{:06}", random.below(REDB_KEYS));
        for entry in table.range(first.as_str()..)?.take(10) {
            let (key, value) = entry?;
            let (key, value) = (key.value().to_owned(), value.value().to_vec());
            sum += key.len() as u64 + value.len() as u64;
        }
        sum += table.get(first.as_str())?.map_or(0, |value| value.value().len() as u64);
    }
    Ok(sum)
}

pub fn redb(scale: Scale) -> Outcome {
    let count = scale.of(REDB_TRANSACTIONS);
    let mut random = Random::new(SEED);
    let value = random.text(REDB_VALUE_BYTES.1);
    measure(count * REDB_WRITES, || {
        let database = Database::builder()
            .set_cache_size(REDB_CACHE_BYTES)
            .create_with_backend(InMemoryBackend::new())
            .expect("a database");
        let one = |_| transactions(&database, &mut random, value.as_bytes()).expect("memory");
        (0..count).map(one).sum()
    })
}

type Bitmaps = HashMap<String, RoaringBitmap, FixedState>;

/// For each term the documents that it is in.
fn build(documents: &[Vec<String>]) -> Bitmaps {
    let mut index = Bitmaps::default();
    for (number, terms) in documents.iter().enumerate() {
        for term in terms {
            match index.get_mut(term) {
                Some(bitmap) => drop(bitmap.insert(number as u32)),
                None => drop(index.insert(term.clone(), RoaringBitmap::from([number as u32]))),
            }
        }
    }
    index
}

/// Each term with its bitmap as bytes, and read back from them.
fn save_and_load(index: &Bitmaps) -> (u64, Bitmaps) {
    let mut bytes = 0;
    let copy = |(term, bitmap): (&String, &RoaringBitmap)| {
        let mut saved = Vec::new();
        bitmap.serialize_into(&mut saved).expect("memory takes it");
        bytes += saved.len() as u64;
        (term.clone(), RoaringBitmap::deserialize_from(saved.as_slice()).expect("its own"))
    };
    let loaded = index.iter().map(copy).collect();
    (bytes, loaded)
}

/// An index of documents: built, saved, loaded, and asked for those with two terms but without a third.
pub fn bitmap_index(scale: Scale) -> Outcome {
    let rounds = scale.of(BITMAP_ROUNDS);
    let mut random = Random::new(SEED);
    let term = |number: usize| format!("{:x}", number * 0x9E37 % 0xF_FFFF);
    let documents: Vec<Vec<String>> = (0..BITMAP_DOCUMENTS)
        .map(|_| {
            // The smallest of four: few terms are frequent, many are rare.
            let mut number = || (0..4).map(|_| random.below(BITMAP_TERMS)).min().unwrap_or(0);
            (0..BITMAP_DOCUMENT_TERMS).map(|_| term(number())).collect()
        })
        .collect();
    let nothing = RoaringBitmap::new();
    measure(rounds * BITMAP_DOCUMENTS, || {
        let mut sum = 0;
        for _ in 0..rounds {
            let (bytes, index) = save_and_load(&build(&documents));
            sum += bytes;
            for query in 0..BITMAP_QUERIES {
                let [one, other, without] = [query % 300, query % 70, query % 900]
                    .map(|number| index.get(&term(number)).unwrap_or(&nothing));
                let found = &(one & other) - without;
                sum += found.len() + u64::from(found.max().unwrap_or(0)) + (one | other).len();
            }
        }
        sum
    })
}
