//! The seam for "where was it allocated": a tracer installs hooks that capture a place in the program and print it.

use core::sync::atomic::{AtomicPtr, Ordering};

/// Prints the place of a number that was captured, in whole lines, by calls of the function that it is passed.
pub type PrintOrigin = fn(u32, &mut dyn FnMut(&str));

/// How the debug hooks learn and print where a block was allocated and freed.
///
/// Both functions are called inside `alloc`, `dealloc` and `realloc`: they must not allocate through the allocator that
/// [`DebugAlloc`](super::DebugAlloc) wraps, nor unwind.
#[derive(Clone, Copy, Debug)]
pub struct Origins {
    capture: fn() -> u32,
    print: PrintOrigin,
}

impl Origins {
    /// `capture` gives a number for where the calling thread is now, 0 for "unknown"; `print` prints the place of such
    /// a number.
    pub const fn new(capture: fn() -> u32, print: PrintOrigin) -> Self {
        Self { capture, print }
    }
}

static INSTALLED: AtomicPtr<Origins> = AtomicPtr::new(core::ptr::null_mut());

/// Has every [`DebugAlloc`](super::DebugAlloc) of the program use `origins` from now on, or none.
///
/// With the feature `trace` the tracer installs its own, while it is on and there are none: so this is for other
/// tracers.
pub fn set_origins(origins: Option<&'static Origins>) {
    let origins = origins.map_or(core::ptr::null_mut(), |origins| core::ptr::from_ref(origins).cast_mut());
    // Release: a value made at run time is seen whole by the Acquire in `installed`.
    INSTALLED.store(origins, Ordering::Release);
}

/// [`set_origins`], if there are none.
#[cfg(feature = "trace")]
pub(crate) fn install_origins(origins: &'static Origins) {
    let new = core::ptr::from_ref(origins).cast_mut();
    // Release: as in `set_origins`. Relaxed on failure: nothing is read.
    let _ = INSTALLED.compare_exchange(core::ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed);
}

/// Takes [`install_origins`] back, unless the program set others meanwhile.
#[cfg(feature = "trace")]
pub(crate) fn remove_origins(origins: &'static Origins) {
    let old = core::ptr::from_ref(origins).cast_mut();
    // Relaxed (both): nothing is handed over.
    let _ = INSTALLED.compare_exchange(old, core::ptr::null_mut(), Ordering::Relaxed, Ordering::Relaxed);
}

fn installed() -> Option<&'static Origins> {
    // Acquire: pairs with `set_origins`. SAFETY: null, or a reference that lives for ever.
    unsafe { INSTALLED.load(Ordering::Acquire).as_ref() }
}

/// A number for where the program is; the frame of this function itself is one that tracers leave out.
#[inline(never)]
pub(super) fn capture() -> u32 {
    let number = installed().map_or(0, |origins| (origins.capture)());
    // Not a jump: the frame must be there.
    core::hint::black_box(number)
}

/// Prints a place by `write`; `false` if there is none to print.
pub(super) fn print(number: u32, write: &mut dyn FnMut(&str)) -> bool {
    match installed() {
        Some(origins) if number != 0 => {
            (origins.print)(number, write);
            true
        }
        _ => false,
    }
}
