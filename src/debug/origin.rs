//! The hooks that tell where a block was allocated: a tracer installs two functions, one that captures a place in the
//! program and one that prints it.

use core::sync::atomic::{AtomicPtr, Ordering};

/// A function that prints a captured place, given by the place's number: it passes whole lines of text to its second
/// argument.
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
    /// Makes hooks of two functions. `capture` returns a number for the calling thread's place in the program, 0 for
    /// "unknown"; `print` prints the place of such a number.
    pub const fn new(capture: fn() -> u32, print: PrintOrigin) -> Self {
        Self { capture, print }
    }
}

static INSTALLED: AtomicPtr<Origins> = AtomicPtr::new(core::ptr::null_mut());

/// Makes every [`DebugAlloc`](super::DebugAlloc) of the program use `origins` from now on, or none.
///
/// This is for tracers of other crates. With the feature `trace`, this crate's tracer installs its own hooks while it
/// is on, unless there are some already.
pub fn set_origins(origins: Option<&'static Origins>) {
    let origins = origins.map_or(core::ptr::null_mut(), |origins| core::ptr::from_ref(origins).cast_mut());
    // Release: a value made at run time is seen whole by the Acquire in `installed`.
    INSTALLED.store(origins, Ordering::Release);
}

/// Installs `origins`, unless there are some already.
#[cfg(feature = "trace")]
pub(crate) fn install_origins(origins: &'static Origins) {
    let new = core::ptr::from_ref(origins).cast_mut();
    // Release: as in `set_origins`. Relaxed on failure: nothing is read.
    let _ = INSTALLED.compare_exchange(core::ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed);
}

/// Undoes [`install_origins`], unless the program set others meanwhile.
#[cfg(feature = "trace")]
pub(crate) fn remove_origins(origins: &'static Origins) {
    let old = core::ptr::from_ref(origins).cast_mut();
    // Relaxed (both): no data is published.
    let _ = INSTALLED.compare_exchange(old, core::ptr::null_mut(), Ordering::Relaxed, Ordering::Relaxed);
}

fn installed() -> Option<&'static Origins> {
    // Acquire: pairs with `set_origins`. SAFETY: null, or a reference that lives for ever.
    unsafe { INSTALLED.load(Ordering::Acquire).as_ref() }
}

/// A number for the calling thread's place in the program. Tracers leave this function's own frame out.
#[inline(never)]
pub(super) fn capture() -> u32 {
    let number = installed().map_or(0, |origins| (origins.capture)());
    // Keeps the call above from becoming a jump: this function's frame must be on the stack.
    core::hint::black_box(number)
}

/// Prints a place through `write`; `false` if the place is unknown.
pub(super) fn print(number: u32, write: &mut dyn FnMut(&str)) -> bool {
    match installed() {
        Some(origins) if number != 0 => {
            (origins.print)(number, write);
            true
        }
        _ => false,
    }
}
