//! The number of bytes that the arenas may take: a limit, and a soft limit below it.

use super::control::purge;
use crate::base::config::ARENA_BYTES;
use crate::cache::GLOBAL;
use crate::heap::ArenaLimits;

/// The most bytes that the arenas may take, as [`set_limit`] set it; `None` means no limit.
///
/// The limit is a number of whole arenas. A program starts without one.
pub fn limit() -> Option<usize> {
    bytes_of(GLOBAL.arena_limits().hard)
}

/// Limits the arenas to `bytes`, rounded down to whole arenas ([`ARENA_BYTES`]); `None` lifts the limit.
///
/// When a request would need an arena beyond the limit, the calling thread's own cache is emptied, and free blocks of
/// other threads' pools are used. If there are none, small requests return null until blocks are freed or the limit is
/// raised. If the arenas take as much or more already, none is added, and free memory is given back at once, as by
/// [`purge`]. The limit counts neither the allocator's own metadata (a few percent more) nor large requests.
///
/// The last eighth below the limit becomes the soft part: see [`set_soft_limit`].
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use std::alloc::{Layout, alloc, dealloc};
///
/// pymalloc::set_limit(Some(16 << 20));
/// assert_eq!((pymalloc::soft_limit(), pymalloc::limit()), (Some(14 << 20), Some(16 << 20)));
/// let layout = Layout::new::<[u64; 64]>();
/// let mut blocks = Vec::with_capacity(40_000);
/// # if !cfg!(pymalloc_bypass) {
/// loop {
///     // SAFETY: the size is not 0.
///     let block = unsafe { alloc(layout) };
///     if block.is_null() {
///         break;
///     }
///     blocks.push(block);
/// }
/// assert!(pymalloc::stats().arenas_mapped <= 8);
/// # }
/// // SAFETY: allocated above, with this layout.
/// blocks.into_iter().for_each(|block| unsafe { dealloc(block, layout) });
/// ```
#[doc(alias = "setrlimit")]
pub fn set_limit(bytes: Option<usize>) {
    if GLOBAL.set_arena_limits(ArenaLimits::of_hard(arenas_of(bytes))) {
        purge();
    }
}

/// The number of bytes from which a new arena is the last resort, as [`set_soft_limit`] set it; `None` means never.
pub fn soft_limit() -> Option<usize> {
    bytes_of(GLOBAL.arena_limits().soft)
}

/// Makes a new arena the last resort once the arenas take `bytes`, rounded down to whole arenas; `None` means never.
///
/// From then on, an arena is mapped only when no thread's pools have anything to spare.
///
/// The soft limit holds until the next [`set_limit`], which sets it to seven eighths of the limit. A soft limit above
/// the limit has no effect.
///
/// ```
/// pymalloc::set_soft_limit(Some(64 << 20));
/// assert_eq!((pymalloc::soft_limit(), pymalloc::limit()), (Some(64 << 20), None));
/// ```
pub fn set_soft_limit(bytes: Option<usize>) {
    GLOBAL.set_soft_arena_limit(arenas_of(bytes));
}

/// Whole arenas; `usize::MAX` is no limit.
const fn arenas_of(bytes: Option<usize>) -> usize {
    match bytes {
        Some(bytes) => bytes / ARENA_BYTES,
        None => usize::MAX,
    }
}

const fn bytes_of(arenas: usize) -> Option<usize> {
    if arenas == usize::MAX { None } else { Some(arenas * ARENA_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_whole_arenas_and_none_is_none() {
        for (bytes, read) in [(None, None), (Some(0), Some(0)), (Some(ARENA_BYTES - 1), Some(0))] {
            assert_eq!(bytes_of(arenas_of(bytes)), read);
        }
        let most = bytes_of(arenas_of(Some(usize::MAX)));
        assert_eq!(most, Some(usize::MAX & !(ARENA_BYTES - 1)), "the largest number is a limit, too");
    }
}
