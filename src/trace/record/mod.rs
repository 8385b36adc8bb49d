//! Recording: what runs inside the calls of the allocator, and the session that it belongs to.

pub(crate) mod blocks;
pub(crate) mod capture;
pub(crate) mod config;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(crate) mod elf;
pub(crate) mod encode;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod find;
pub(crate) mod hook;
pub(crate) mod loaded;
pub(crate) mod memory;
pub(crate) mod peaks;
#[cfg(target_arch = "x86_64")]
pub(crate) mod rules;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_rules.rs"]
pub(crate) mod rules;
pub(crate) mod sampling;
pub(crate) mod session;
pub(crate) mod stacks;
pub(crate) mod state;
pub(crate) mod sums;
pub(crate) mod thread;
pub(crate) mod timeline;
pub(crate) mod walk;

use crate::observe;
use crate::os;
use crate::os::fork::{ForkPlace, Participant, join};
use config::{Config, StartError};

/// The locks of the session and of its timeline, which come before the heap's.
static SESSION: Participant =
    Participant { prepare: acquire_session, parent: release_session, child: release_session_in_child };

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

fn acquire_session() {
    session::acquire();
    timeline::acquire();
}

fn release_session() {
    // SAFETY: called after `acquire_session`, on the same thread or on its copy in the forked child.
    unsafe {
        timeline::release();
        session::release();
    }
}

/// The tables' locks are free by now: participants release in the opposite order.
fn release_session_in_child() {
    release_session();
    timeline::forget_in_child();
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
    super::serve::close_in_child();
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
