//! The records of all blocks, in a hash table apart from the heap: no overflow of a block reaches it, and no address
//! has to be read before it is checked.
//!
//! Open addressing with linear probing; removal moves the records behind it back (Knuth, TAOCP 6.4, algorithm R). Its
//! memory comes from the system allocator, because it can't use the allocator that is checked.

use super::hidden::Hidden;
use super::system_array::SystemArray;

/// What is known of one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// First byte of the program's part.
    pub(super) start: Hidden,
    /// Bytes that the program asked for.
    pub(super) bytes: usize,
    /// `log2` of the alignment that it asked for.
    pub(super) align_shift: u32,
    pub(super) state: RecordState,
    /// Number of the allocation, from 1.
    pub(super) serial: u64,
    /// The number of the place where it was allocated, from the hooks in `origin`; 0 if unknown.
    pub(super) allocated_at: u32,
    /// The number of the place where it was freed; 0 if unknown.
    pub(super) freed_at: u32,
}

/// Where a block is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RecordState {
    /// The program has it.
    Live,
    /// A thread is freeing it.
    Dying,
    /// In quarantine, every byte `DEAD_BYTE`.
    Dead,
    /// Given back to the inner allocator; only its record is left.
    Gone,
}

/// Records by address.
///
/// # Invariants
/// - *Probe*: every place is taken from the one that a record's address hashes to, up to the record itself.
/// - At most three places of four are taken.
pub(super) struct Table {
    places: SystemArray<Option<Record>>,
    used: usize,
}

const PLACES_MIN: usize = 1024;

impl Table {
    pub(super) const fn new() -> Self {
        Self { places: SystemArray::new(), used: 0 }
    }

    fn first_place(&self, address: usize) -> usize {
        // Fibonacci hashing (Knuth, TAOCP 6.4): the top bits are the well-mixed ones.
        let hash = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 32) as usize & (self.places.len() - 1)
    }

    /// The place of the record of `address`, or where it would go. The table has places.
    fn place_of(&self, address: usize) -> usize {
        let mut place = self.first_place(address);
        while let Some(record) = self.places.get(place)
            && record.start.addr() != address
        {
            place = (place + 1) & (self.places.len() - 1);
        }
        place
    }

    pub(super) fn get(&mut self, address: usize) -> Option<&mut Record> {
        if self.places.len() == 0 {
            return None;
        }
        let place = self.place_of(address);
        self.places.get_mut(place).as_mut()
    }

    /// Enters a record, and replaces one of the same address; `false` without memory.
    pub(super) fn insert(&mut self, record: Record) -> bool {
        if (self.used + 1) * 4 > self.places.len() * 3 && !self.grow() {
            return false;
        }
        let place = self.place_of(record.start.addr());
        let replaced = self.places.get_mut(place).replace(record);
        self.used += usize::from(replaced.is_none());
        true
    }

    fn grow(&mut self) -> bool {
        let Some(places) = SystemArray::filled(PLACES_MIN.max(self.places.len() * 2), None) else { return false };
        let old = core::mem::replace(&mut self.places, places);
        for record in old.as_slice().iter().flatten() {
            let place = self.place_of(record.start.addr());
            *self.places.get_mut(place) = Some(*record);
        }
        true
    }

    pub(super) fn remove(&mut self, address: usize) {
        if self.get(address).is_none() {
            return;
        }
        let mask = self.places.len() - 1;
        let mut hole = self.place_of(address);
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let Some(record) = *self.places.get(next) else { break };
            // A record may move into the hole unless its probe begins behind it.
            let first = self.first_place(record.start.addr());
            if (next.wrapping_sub(first) & mask) >= (next.wrapping_sub(hole) & mask) {
                *self.places.get_mut(hole) = Some(record);
                hole = next;
            }
        }
        *self.places.get_mut(hole) = None;
        self.used -= 1;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.places.as_slice().iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;
    use std::collections::BTreeMap;

    use super::*;

    fn record(address: usize, serial: u64) -> Record {
        let start = NonNull::new(core::ptr::without_provenance_mut(address)).expect("not null");
        let start = Hidden::new(start);
        Record { start, bytes: 1, align_shift: 0, state: RecordState::Live, serial, allocated_at: 0, freed_at: 0 }
    }

    #[test]
    fn the_table_agrees_with_a_map_whatever_comes_and_goes() {
        let (mut table, mut model) = (Table::new(), BTreeMap::new());
        assert!(table.get(8).is_none());
        table.remove(8);
        let mut state = 7_u64;
        for serial in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Few enough addresses that they repeat, and many enough that the table grows twice.
            let address = ((state >> 33) as usize % 3000 + 1) * 16;
            if state >> 62 == 0 {
                table.remove(address);
                model.remove(&address);
            } else {
                assert!(table.insert(record(address, serial)));
                model.insert(address, serial);
            }
            if serial % 1000 == 0 {
                for address in (16..=48_000).step_by(16) {
                    assert_eq!(table.get(address).map(|found| found.serial), model.get(&address).copied());
                }
                assert_eq!(table.iter().count(), model.len());
            }
        }
        assert!(model.len() > PLACES_MIN);
    }
}
