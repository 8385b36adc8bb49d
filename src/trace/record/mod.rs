//! Recording: what runs inside the calls of the allocator, and the session that it belongs to.

pub(crate) mod blocks;
pub(crate) mod capture;
pub(crate) mod config;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(crate) mod elf;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod find;
pub(crate) mod hook;
pub(crate) mod loaded;
pub(crate) mod memory;
pub(crate) mod rules;
pub(crate) mod sampling;
pub(crate) mod session;
pub(crate) mod stacks;
pub(crate) mod state;
pub(crate) mod thread;
pub(crate) mod walk;

use crate::observe;
use crate::os;
use crate::os::fork::{ForkPlace, Participant, join};
use config::{Config, StartError};

/// The session's lock, which comes before the heap's.
static SESSION: Participant = {
    // SAFETY: called after `prepare`, on the same thread or on its copy in the forked child.
    let release = || unsafe { session::release() };
    Participant { prepare: session::acquire, parent: release, child: release }
};

/// The locks of the tables, which come after the heap's.
static TABLES: Participant = Participant { prepare: acquire_tables, parent: release_tables, child: release_tables };

// Before main: a fork that began before the first session would not know of the locks.
os::at_start!(watch);

extern "C" fn watch() {
    if os::TRACES {
        join(ForkPlace::TraceSession, &SESSION);
        join(ForkPlace::TraceTables, &TABLES);
    }
}

fn acquire_tables() {
    capture::acquire_all();
    rules::acquire();
    loaded::acquire();
    stacks::acquire_all();
    blocks::acquire_all();
}

fn release_tables() {
    // SAFETY: called after `acquire_tables`, on the same thread or on its copy in the forked child.
    unsafe {
        blocks::release_all();
        stacks::release_all();
        loaded::release();
        rules::release();
        capture::release_all();
    }
}

/// Starts a session; returns its number.
pub(in crate::trace) fn start(config: Config) -> Result<u32, StartError> {
    watch();
    observe::set_tracer(&hook::TRACER);
    session::start(config)
}
