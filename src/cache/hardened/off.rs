//! The hooks of a build without the feature: they do nothing.

use crate::base::kind::Kind;
use crate::base::size_class::Class;
use crate::cache::ThreadCache;
use crate::heap::Heap;
use crate::heap::door::Door;
use crate::heap::pool::Slot;
use crate::pool_set::Inside;

/// Whether calls need the hooks below, even while the thread's magazine can serve them.
#[cfg(feature = "__raw")]
pub(crate) const LOOKS_ON: bool = false;

/// Most blocks of a class in a thread's quarantine.
#[cfg(test)]
pub(crate) const QUARANTINE_SLOTS: usize = 0;

/// The feature's part of a thread cache: empty here.
pub(crate) struct PerThread;

impl PerThread {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) fn attach(&self, _door: Door<'_>) {}

    pub(crate) fn set_quarantine(&self, _on: bool, _door: Door<'_>) {}

    pub(crate) fn shuffle(&self, _slots: &[Slot], _door: Door<'_>) {}

    pub(crate) fn held<K: Kind>(&self, _class: Class<K>, _door: Door<'_>) -> impl Iterator<Item = *mut u8> {
        core::iter::empty()
    }

    pub(crate) fn flush(&self, _inside: &mut Inside<'_>) {}

    pub(crate) fn flush_class<K: Kind>(&self, _class: Class<K>, _inside: &mut Inside<'_>) {}
}

#[inline(always)]
pub(crate) fn handed_out<K: Kind>(_cache: &ThreadCache, _class: Class<K>, block: *mut u8) -> *mut u8 {
    block
}

#[inline(always)]
pub(crate) fn handed_out_spare<K: Kind>(_heap: &'static Heap, _class: Class<K>, _block: *mut u8) {}

#[cfg(test)]
pub(crate) fn freed_spare<K: Kind>(_heap: &'static Heap, _class: Class<K>, _block: *mut u8) {}

#[inline(always)]
pub(crate) fn freed<K: Kind>(_cache: &ThreadCache, _class: Class<K>, block: *mut u8) -> Option<*mut u8> {
    Some(block)
}

#[inline(always)]
pub(crate) fn check_live<K: Kind>(_cache: &ThreadCache, _class: Class<K>, _block: *mut u8) {}

#[inline(always)]
pub(crate) fn check_large(_block: *mut u8) {}

#[inline(always)]
pub(crate) fn check_beyond(_block: *mut u8) {}

pub(crate) fn forked() {}
