//! The end of glibc's first heap, to which large blocks come and go.

use core::hint::black_box;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Free memory that glibc may keep at the end of its first heap.
const KEEPS_BYTES: usize = 4 << 20;
/// Bytes that come back to that end before.
const REGROWN_BYTES: usize = 2 << 20;

/// Where glibc's first heap ended at the last look, and its farthest end.
static END: AtomicUsize = AtomicUsize::new(0);
static FARTHEST: AtomicUsize = AtomicUsize::new(0);
/// The nearest place that it sank to since the last change of the pin: 0 if it did not sink yet.
static NEAREST: AtomicUsize = AtomicUsize::new(0);
/// Bytes that came back to the heap since then, and how often there was a pin.
static REGROWN: AtomicUsize = AtomicUsize::new(0);
static PINS: AtomicUsize = AtomicUsize::new(0);
/// The pin, or null.
static PIN: AtomicPtr<libc::c_void> = AtomicPtr::new(null_mut());

/// Looks at the end of glibc's first heap. If that heap gives memory back again and again, and soon gets it again, lets
/// it keep up to [`KEEPS_BYTES`] at its end.
///
/// glibc gives back free memory at the end of a heap, but none below a block in use. So this puts a small block, the
/// *pin*, above the place to which the end sinks. A higher threshold of glibc's would hold for each of its heaps (eight
/// per core); this bounds the memory that is kept. `malloc_trim` still reaches the memory below the pin.
///
/// Blocks may come to stay above the pin. If much more comes and goes in spite of it, the pin is freed. The end sinks
/// to what is in use, and the next pin is above that. Each time, twice as much has to come and go before.
pub(crate) fn watch_malloc() {
    // Relaxed (all but the swaps): hints. If threads look at the same time, a look may count twice or not at all.
    let end = heap_end();
    let last = END.load(Ordering::Relaxed);
    if end == last {
        return;
    }
    END.store(end, Ordering::Relaxed);
    let nearest = NEAREST.load(Ordering::Relaxed);
    if end < last {
        if end < nearest.wrapping_sub(1) {
            NEAREST.store(end, Ordering::Relaxed);
        }
        return;
    }
    let farthest = FARTHEST.load(Ordering::Relaxed);
    FARTHEST.store(farthest.max(end), Ordering::Relaxed);
    if nearest == 0 {
        return;
    }
    let regrown = REGROWN.load(Ordering::Relaxed) + farthest.min(end).saturating_sub(last);
    let pins = PINS.load(Ordering::Relaxed);
    let is_pinned = !PIN.load(Ordering::Relaxed).is_null();
    let wanted = if is_pinned { REGROWN_BYTES << (pins + 2).min(20) } else { REGROWN_BYTES };
    let is_near = end.saturating_sub(nearest) <= KEEPS_BYTES / 2;
    // If the end did not come near its nearest place for long, that place is out of date.
    if regrown < wanted || !is_pinned && !is_near && regrown < 4 * wanted {
        REGROWN.store(regrown, Ordering::Relaxed);
        return;
    }
    REGROWN.store(0, Ordering::Relaxed);
    NEAREST.store(0, Ordering::Relaxed);
    if is_pinned {
        let _errno = super::KeepErrno::new();
        // SAFETY: whoever takes the pin out frees it.
        unsafe { libc::free(PIN.swap(null_mut(), Ordering::AcqRel)) };
    } else if is_near && pin_malloc(nearest, (nearest + KEEPS_BYTES).min(farthest)) {
        PINS.store(pins + 1, Ordering::Relaxed);
    }
}

/// Where glibc's first heap ends.
fn heap_end() -> usize {
    // SAFETY: it moves nothing. glibc knows the end; there is no system call.
    unsafe { libc::sbrk(0) }.addr()
}

/// Puts the pin into glibc's first heap, above `nearest` and near `goal`. Returns `false` if it did not come to lie
/// there: the calling thread's blocks come from another heap, or from a hole.
#[cold]
fn pin_malloc(nearest: usize, goal: usize) -> bool {
    /// glibc maps larger blocks by themselves (its threshold is 128 KiB at the start).
    const STEP_BYTES: usize = 120 << 10;
    /// glibc keeps smaller blocks in lists when they are freed, and looks at the end of its heap only for larger ones.
    const PIN_BYTES: usize = 2 << 10;

    let _errno = super::KeepErrno::new();
    let mut steps = [null_mut(); KEEPS_BYTES / STEP_BYTES];
    // Without the black boxes, the compiler would leave the calls out.
    // SAFETY: each block is null, or freed once.
    unsafe {
        for step in &mut steps {
            *step = black_box(libc::malloc(STEP_BYTES));
            if step.is_null() || step.addr() + 2 * STEP_BYTES > goal {
                break;
            }
        }
        let pin = black_box(libc::realloc(black_box(libc::malloc(STEP_BYTES)), PIN_BYTES));
        let is_there = (nearest..heap_end()).contains(&pin.addr());
        // Acquire and Release: pairs with itself. What glibc noted before a pin is seen by the thread that frees it.
        libc::free(if is_there { PIN.swap(pin, Ordering::AcqRel) } else { pin });
        steps.iter().for_each(|&step| libc::free(step));
        is_there
    }
}
