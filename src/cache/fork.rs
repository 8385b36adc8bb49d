//! The heap's part in a fork: the child of a program with many threads can allocate and free at once, and fork again.
//!
//! - *prepare* stops the slow paths of the whole heap. No pool, list, inbox or arena is then half changed anywhere, and
//!   no remote free is under way, because a thread frees into foreign pools only while it holds a door of its own (or
//!   the spare set's).
//! - *child*: parks the sets of the threads that do not exist here. Their magazines stay filled: the thread that adopts
//!   a set goes on using them, and `purge` empties them.
//!
//! Three sorts of blocks are lost in the child: the blocks that the program's other threads held, as with any
//! allocator; a block that such a thread was just moving between a magazine and the program, at most one per thread;
//! and, with the feature `hardened`, a shelf of its quarantine that it was just moving to a magazine.

use crate::cache::{GLOBAL, ThreadCache, current, hardened, with_thread};
use crate::heap::Stopped;
use crate::heap::set::PoolSet;
use crate::os;
use crate::os::fork::{ForkPlace, Participant, join};
use crate::pool_set::knock_at_all;

static HEAP: Participant = Participant { prepare, parent, child };

// Before main, so that our prepare handler is among the last to run (see `os::fork`).
os::at_start!(watch_early);

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
extern "C" fn watch_early() {
    if !os::BYPASS {
        watch();
    }
}

/// Makes the heap take part in forks from now on.
pub(crate) fn watch() {
    join(ForkPlace::Heap, &HEAP);
}

fn prepare() {
    GLOBAL.stop().leave_stopped();
}

fn parent() {
    // SAFETY: `prepare` stopped them, on this thread or, in a child, on the parent's thread that it is a copy of.
    drop(unsafe { Stopped::resume(&GLOBAL, knock_at_all) });
}

fn child() {
    parent();
    hardened::forked();
    with_thread(|cache| cache.set.enter(&GLOBAL, |_| cache.renew_thread()));
    let own = core::ptr::from_ref(&current().set);
    for set in GLOBAL.sets() {
        // SAFETY: a registered set.
        let Some(cache) = (unsafe { ThreadCache::of_set(&GLOBAL, set) }) else {
            continue;
        };
        // SAFETY: caches are never unmapped.
        let other = &unsafe { cache.as_ref() }.set;
        // Sets that were parked already are left alone: each is on an OS page of its own, which a write would copy. A
        // set that another thread was about to park, or to adopt, is not in the list.
        if !core::ptr::eq(other, own) && !GLOBAL.is_listed(other) {
            PoolSet::park(set, &GLOBAL);
        }
    }
    // A thread that had found a knock, and was about to answer it, does not exist here. So knock again.
    knock_at_all(&GLOBAL);
}
