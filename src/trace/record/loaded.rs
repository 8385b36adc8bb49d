//! Tells which file's code an address is in. It can be asked inside an allocation.
//!
//! A program loads and unloads libraries, and one may be loaded where another was. So a frame is kept as an address and
//! the number of the module that was there: in one word, with the number in its upper bits. A module keeps its number
//! as long as it stays loaded. What is loaded at its place later has another number.
//!
//! # How a module is found
//! The program's own file, the one that this crate is in, and the C library are never unloaded; their places are noted
//! when a session starts. For any other address, `_dl_find_object` of glibc (2.35 and later) is called. It was made for
//! unwinders: it takes no lock and allocates nothing. Without it, other modules are unknown. But musl never unloads a
//! module, so there all modules that are loaded when the session starts are noted.
//!
//! # What tells modules apart
//! A hash of their place, their path and their first kilobyte: the ELF and program headers and, with every usual
//! linker, the build id. All of that is mapped while a frame of the module is on the stack that is walked.
//!
//! # Protocol
//! `KEYS[n]` is 0 or the hash of module `n`; it is written once, under `TABLE`, after the module's particulars. `TABLE`
//! is among the last locks in the lock order. No module is ever forgotten, so a number means the same to every session.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::os;
use crate::protocols::lock::Lock;

/// The most modules that can be told apart, a power of two.
const MODULES: usize = 1 << 12;
/// Places at which a module may be, from its hash's home on.
const PROBES: usize = 64;
/// How many of a module's first bytes are read without asking the loader: any OS page has them.
pub(in crate::trace) const FIRST_BYTES: usize = 1 << 10;
/// Bytes for the modules' paths.
const NAMES_BYTES: usize = 1 << 19;

/// The bits of a word that hold the address. (On systems with shorter words nothing is traced.)
const ADDRESS_BITS: u32 = if usize::BITS == 64 { 48 } else { 16 };

/// A module's number; 0 stands for none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::trace) struct Number(pub(super) u16);

impl Number {
    pub(in crate::trace) const NONE: Self = Self(0);

    pub(in crate::trace) const fn get(self) -> u16 {
        self.0
    }

    fn of_place(place: usize) -> Self {
        Self(place as u16 + 1)
    }

    fn place(self) -> Option<usize> {
        usize::from(self.0).checked_sub(1)
    }
}

/// An address and its module, in one word; `None` if it can't be an address of a program's code.
#[inline(always)]
pub(in crate::trace) const fn word(address: usize, module: &Found) -> Option<usize> {
    if address >> ADDRESS_BITS != 0 { None } else { Some(address | module.tag) }
}

pub(in crate::trace) const fn address_of(word: usize) -> usize {
    word & ((1 << ADDRESS_BITS) - 1)
}

pub(in crate::trace) const fn number_of(word: usize) -> Number {
    Number((word >> ADDRESS_BITS) as u16)
}

pub(in crate::trace) const BUILD_ID_MAX: usize = 32;

/// A range of addresses in the process: its start and its end.
pub(in crate::trace) type Range = (usize, usize);

/// What is known of a module in memory.
#[derive(Clone, Copy, Debug)]
pub(in crate::trace) struct Particulars {
    /// The load bias: an address in memory less its address in the file.
    pub(in crate::trace) base: usize,
    /// All of the module, from its first segment to its last.
    pub(in crate::trace) mapped: Range,
    /// Its first executable segment, and where that is in the file.
    pub(in crate::trace) code: Range,
    pub(in crate::trace) code_offset: u64,
    /// Its search table for `.eh_frame`: the section `.eh_frame_hdr`.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for the rules, which are of x86-64"))]
    pub(in crate::trace) table: Range,
    /// The segment that the table and `.eh_frame` are in.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for the rules, which are of x86-64"))]
    pub(in crate::trace) table_segment: Range,
    pub(in crate::trace) build_id: [u8; BUILD_ID_MAX],
    pub(in crate::trace) build_id_len: u8,
}

impl Particulars {
    pub(in crate::trace) const NONE: Self = Self {
        base: 0,
        mapped: (0, 0),
        code: (0, 0),
        code_offset: 0,
        table: (0, 0),
        table_segment: (0, 0),
        build_id: [0; BUILD_ID_MAX],
        build_id_len: 0,
    };

    /// Empty if the linker made none.
    pub(in crate::trace) fn build_id(&self) -> &[u8] {
        &self.build_id[..usize::from(self.build_id_len)]
    }
}

/// A module and its place.
#[derive(Clone, Copy, Debug)]
pub(in crate::trace) struct Found {
    /// Its number, in the bits of a word where `word` puts it.
    tag: usize,
    start: usize,
    end: usize,
}

impl Found {
    pub(in crate::trace) const NONE: Self = Self::new(Number::NONE, (0, 0));

    pub(super) const fn new(number: Number, (start, end): Range) -> Self {
        Self { tag: (number.0 as usize) << ADDRESS_BITS, start, end }
    }

    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for the rules, which are of x86-64"))]
    #[inline(always)]
    pub(in crate::trace) const fn is_none(&self) -> bool {
        self.tag == 0
    }

    #[inline(always)]
    pub(in crate::trace) fn holds(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }
}

static KEYS: [AtomicU64; MODULES] = [const { AtomicU64::new(0) }; MODULES];

/// An entry of the table.
#[derive(Clone, Copy)]
struct Module {
    particulars: Particulars,
    /// Its path is a part of `Table::names`.
    name_start: u32,
    name_len: u32,
    /// [`Identity::first`].
    first: u64,
    stays: bool,
}

/// Only the used part is ever touched: the rest stays zeroed, and the OS gives it no memory.
struct Table {
    modules: [Module; MODULES],
    known: usize,
    names: [u8; NAMES_BYTES],
    names_used: usize,
}

static TABLE: Lock<Table> = Lock::new(Table {
    modules: [const { Module { particulars: Particulars::NONE, name_start: 0, name_len: 0, first: 0, stays: false } };
        MODULES],
    known: 0,
    names: [0; NAMES_BYTES],
    names_used: 0,
});

/// Multiplication by an odd number loses no information. The rotation brings down the upper bits, which depend on all
/// bits.
const fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

fn mix_bytes(hash: u64, bytes: &[u8]) -> u64 {
    let (whole, rest) = bytes.as_chunks::<8>();
    let hash = whole.iter().fold(hash, |hash, &word| mix(hash, u64::from_ne_bytes(word)));
    rest.iter().fold(hash, |hash, &byte| mix(hash, u64::from(byte)))
}

/// A hash of a module's first bytes.
pub(in crate::trace) fn hash_of_first(first: &[u8]) -> u64 {
    // In four lanes: within one lane, each product must wait for the one before it.
    let quarter = first.len() / 4;
    let lanes = [0, 1, 2, 3].map(|lane| mix_bytes(lane as u64, &first[lane * quarter..][..quarter]));
    lanes.into_iter().fold(first.len() as u64, mix)
}

/// What tells a module from others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity<'name> {
    pub(super) start: usize,
    /// The load bias, as in [`Particulars`].
    pub(super) base: usize,
    /// Its path, as the loader has it.
    pub(super) name: &'name [u8],
    /// [`hash_of_first`] of its first bytes; 0 if they are not asked for.
    pub(super) first: u64,
}

impl Identity<'_> {
    /// A hash; not 0.
    fn key(&self) -> u64 {
        // Mixed one after the other, since a library's start and its base are the same number.
        let hash = [self.start as u64, self.base as u64].into_iter().fold(self.first, mix);
        mix_bytes(hash, self.name).max(1)
    }
}

/// The module with this identity; if there is none, a new one with the particulars that `describe` returns.
pub(super) fn number_by_identity(
    identity: &Identity<'_>,
    stays: bool,
    describe: impl FnOnce() -> Option<Particulars>,
) -> Number {
    let key = identity.key();
    let home = (key >> (64 - MODULES.trailing_zeros())) as usize;
    let places = || (0..PROBES).map(|probe| (home + probe) & (MODULES - 1));
    // Acquire: pairs with the Release below, before which the module's particulars are written.
    let known = || places().map(|place| (place, KEYS[place].load(Ordering::Acquire)));
    let is_end = |&(_, found): &(usize, u64)| found == key || found == 0;
    if let Some((place, found)) = known().find(is_end)
        && found == key
    {
        return Number::of_place(place);
    }
    TABLE.lock().with(|table| {
        // Looks once more, now that no other thread can add one. Without room there is no module.
        let Some((place, found)) = known().find(is_end) else { return Number::NONE };
        if found == 0 {
            let Some(particulars) = describe() else { return Number::NONE };
            let Some((name_start, name_len)) = table.keep_name(identity.name) else { return Number::NONE };
            table.modules[place] = Module { particulars, name_start, name_len, first: identity.first, stays };
            table.known += 1;
            // Release: pairs with the Acquire above.
            KEYS[place].store(key, Ordering::Release);
        }
        Number::of_place(place)
    })
}

impl Table {
    /// Keeps a path, made absolute; `None` if there is no room.
    fn keep_name(&mut self, name: &[u8]) -> Option<(u32, u32)> {
        let start = self.names_used;
        let mut end = start;
        // A library in a relative folder; a name without a slash is not a file's (the kernel's `linux-vdso.so.1`).
        if !name.starts_with(b"/") && name.contains(&b'/') {
            end += os::working_directory(&mut self.names[start..]).unwrap_or(0);
            *self.names.get_mut(end)? = b'/';
            end += 1;
        }
        self.names.get_mut(end..end + name.len())?.copy_from_slice(name);
        end += name.len();
        self.names_used = end;
        Some((start as u32, (end - start) as u32))
    }
}

/// What is known of a module's file in memory.
pub(in crate::trace) fn particulars(number: Number) -> Option<Particulars> {
    let place = number.place()?;
    TABLE.lock().with(|table| table.modules.get(place).map(|module| module.particulars))
}

/// Whether a module stays loaded for ever.
pub(in crate::trace) fn stays(number: Number) -> bool {
    number.place().is_some_and(|place| TABLE.lock().with(|table| table.modules[place].stays))
}

/// Whether these are the module's first bytes.
pub(in crate::trace) fn begins_with(number: Number, first: &[u8]) -> bool {
    let hash = hash_of_first(first);
    number.place().is_some_and(|place| TABLE.lock().with(|table| table.modules[place].first == hash))
}

/// Copies a module's path into `buffer`, as much as fits, and returns the length. Allocates nothing.
pub(in crate::trace) fn path(number: Number, buffer: &mut [u8]) -> usize {
    let Some(place) = number.place() else { return 0 };
    TABLE.lock().with(|table| {
        let module = &table.modules[place];
        let len = (module.name_len as usize).min(buffer.len());
        let start = module.name_start as usize;
        buffer[..len].copy_from_slice(&table.names[start..start + len]);
        len
    })
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(in crate::trace) use super::find::{begin, find};

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub(in crate::trace) fn begin() {}

/// Elsewhere nothing is walked.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub(in crate::trace) unsafe fn find(_address: usize) -> Found {
    Found::NONE
}

/// Bytes of the tables that are in use.
pub(in crate::trace) fn table_bytes() -> usize {
    let used = TABLE.lock().with(|table| table.known * size_of::<Module>() + table.names_used);
    size_of_val(&KEYS) + used
}

/// Takes the lock, for a fork.
pub(in crate::trace) fn acquire() {
    let _acquired = TABLE.acquire();
}

/// Frees the lock.
///
/// # Safety
/// After [`acquire`], on the same thread or in its forked child.
pub(in crate::trace) unsafe fn release() {
    // SAFETY: the caller took it.
    unsafe { TABLE.release() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_tells_two_modules_apart_gives_them_other_keys() {
        let first = [7; 1024];
        let one = || Identity { start: 1 << 40, base: 1 << 40, name: b"/lib/one.so", first: hash_of_first(&first) };
        assert_eq!(one().key(), one().key());
        let moved = (1..1000).map(|pages| (1 << 40) + (pages << 12));
        // The same file at another place, and a program that is not moved.
        let mut others: Vec<Identity<'_>> = moved.map(|start| Identity { start, base: start, ..one() }).collect();
        others.push(Identity { base: 0, ..one() });
        others.push(Identity { name: b"/lib/two.so", ..one() });
        others.extend((0..first.len()).map(|place| {
            let mut other = first;
            other[place] ^= 1;
            Identity { first: hash_of_first(&other), ..one() }
        }));
        let mut keys: Vec<u64> = others.iter().map(Identity::key).collect();
        keys.push(one().key());
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
