//! The end of the glibc heap to which a thread's large blocks come and go.

use core::hint::black_box;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Free memory that glibc may keep at the end of a thread's heap.
const KEEPS_BYTES: usize = 4 << 20;
/// A pin lies at most this far above the lowest place that the watch saw in its heap. So it keeps no more than that,
/// even if all blocks below it are freed.
const PIN_MAX_BYTES: usize = 2 * KEEPS_BYTES;
/// Large requests between two looks, in bytes.
const LOOK_BYTES: usize = 512 << 10;
/// A look is *costly* if page faults since the last one brought at least the 16th part of [`LOOK_BYTES`].
const COSTLY_SHARE: usize = 16;
/// Costly looks before the first pin.
const LOOKS: u32 = 4;
/// Looks after which a pin is looked at, whatever they cost.
const LOOKS_PER_CHECK: u32 = 16;
/// A block of glibc's own heaps: it maps larger ones by themselves (its threshold is 128 KiB at the start).
const STEP_BYTES: usize = 120 << 10;
/// glibc keeps smaller blocks in lists when they are freed, and looks at the end of its heap only for larger ones.
const PIN_BYTES: usize = 2 << 10;
/// Parts of the address space that are at least as far from each other are not of the same heap of glibc's. (Its heaps
/// for threads have 64 MiB at most. Its first heap may be larger; then the watch begins anew.)
const FAR_BYTES: usize = 64 << 20;

/// Watches the glibc heap of one thread. If that heap gives memory back again and again, and soon gets it again, the
/// watch lets it keep up to [`KEEPS_BYTES`] at its end, until the program changes or the thread ends.
///
/// glibc gives back free memory at the end of a heap, but none below a block in use. So the watch puts a small block,
/// the *pin*, above the place to which the end sinks. A higher threshold of glibc's would hold for each of its heaps
/// (eight per core), and for ever. `malloc_trim` still reaches the memory below the pin.
///
/// Blocks may come to stay above the pin. If the looks stay costly, the pin is freed. The end sinks to what is in use,
/// and the next pin is above that. After each pin, twice as many costly looks have to come before the next change. A
/// pin is freed, too, when the heap has much room far below it.
///
/// Only the thread itself calls it. Its fields are atomic because other threads may hold a reference to it.
pub(crate) struct WatchMalloc {
    /// Bytes requested since the last look.
    requested: AtomicUsize,
    /// The thread's page faults until the last look.
    faults: AtomicU64,
    /// The lowest place near the end since the watch saw this heap first, or since a jump by [`FAR_BYTES`]; 0 for none.
    floor: AtomicUsize,
    /// The lowest and the highest place since the watch began anew; 0 for none.
    lowest: AtomicUsize,
    highest: AtomicUsize,
    /// Costly looks since then that found no higher place.
    costly: AtomicU32,
    /// Looks since the pin was put.
    looks: AtomicU32,
    /// How often a pin was put, or tried in vain.
    pins: AtomicU32,
    /// The pin, or null.
    pin: AtomicPtr<libc::c_void>,
}

impl WatchMalloc {
    /// Zeroed memory is the same.
    pub(crate) const fn new() -> Self {
        Self {
            requested: AtomicUsize::new(0),
            faults: AtomicU64::new(0),
            floor: AtomicUsize::new(0),
            lowest: AtomicUsize::new(0),
            highest: AtomicUsize::new(0),
            costly: AtomicU32::new(0),
            looks: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            pin: AtomicPtr::new(null_mut()),
        }
    }

    /// Counts large requests of the calling thread, and looks at its heap if that is due. `uses_malloc` says whether
    /// glibc's `malloc` serves them.
    pub(crate) fn count(&self, bytes: usize, uses_malloc: fn() -> bool) {
        // Relaxed (here and below): one thread's own.
        let requested = self.requested.load(Ordering::Relaxed).saturating_add(bytes);
        if requested < LOOK_BYTES {
            return self.requested.store(requested, Ordering::Relaxed);
        }
        self.requested.store(0, Ordering::Relaxed);
        if !uses_malloc() {
            return;
        }
        let _errno = super::KeepErrno::new();
        let faults = page_faults();
        let since = faults.saturating_sub(self.faults.load(Ordering::Relaxed));
        let is_costly = since >= (LOOK_BYTES / COSTLY_SHARE / super::page_bytes()).max(2) as u64;
        if is_costly {
            self.look();
        }
        self.check_pin();
        // Without those that the look itself caused.
        self.faults.store(if is_costly { page_faults() } else { faults }, Ordering::Relaxed);
    }

    /// A costly look.
    #[cold]
    fn look(&self) {
        let place = place_near_end();
        let (lowest, highest) = (self.lowest.load(Ordering::Relaxed), self.highest.load(Ordering::Relaxed));
        if place.abs_diff(highest) >= FAR_BYTES {
            self.unpin();
            self.floor.store(place, Ordering::Relaxed);
            return self.begin_anew(place);
        }
        let lowest = lowest.min(place);
        self.lowest.store(lowest, Ordering::Relaxed);
        let floor = self.floor.load(Ordering::Relaxed).min(lowest);
        self.floor.store(floor, Ordering::Relaxed);
        if place > highest {
            // The heap grows, and that is what the page faults are for.
            return self.highest.store(place, Ordering::Relaxed);
        }
        let costly = self.costly.load(Ordering::Relaxed) + 1;
        self.costly.store(costly, Ordering::Relaxed);
        let pins = self.pins.load(Ordering::Relaxed);
        if costly < LOOKS << pins.min(20) {
            return;
        }
        self.begin_anew(place);
        if !self.pin.load(Ordering::Relaxed).is_null() {
            return self.unpin();
        }
        let goal = (lowest + KEEPS_BYTES).min(highest + LOOK_BYTES);
        // If the end is far from its lowest place, that place may be out of date.
        if place - lowest <= KEEPS_BYTES / 2 && goal - floor <= PIN_MAX_BYTES {
            self.pins.store(pins + 1, Ordering::Relaxed);
            self.looks.store(0, Ordering::Relaxed);
            self.pin.store(put_pin(lowest, goal), Ordering::Relaxed);
        }
    }

    /// Frees the pin if much of the memory below it came free since: the program has changed.
    fn check_pin(&self) {
        let pin = self.pin.load(Ordering::Relaxed);
        if pin.is_null() {
            return;
        }
        let looks = self.looks.load(Ordering::Relaxed) + 1;
        self.looks.store(looks, Ordering::Relaxed);
        if looks.is_multiple_of(LOOKS_PER_CHECK)
            && pin.addr().saturating_sub(place_near_end()) > KEEPS_BYTES + LOOK_BYTES
        {
            self.unpin();
        }
    }

    fn begin_anew(&self, place: usize) {
        self.lowest.store(place, Ordering::Relaxed);
        self.highest.store(place, Ordering::Relaxed);
        self.costly.store(0, Ordering::Relaxed);
    }

    /// Ends the watch: the thread ends, or another thread gets it.
    pub(crate) fn end(&self) {
        if self.faults.load(Ordering::Relaxed) == 0 {
            // There was no look.
            return;
        }
        let _errno = super::KeepErrno::new();
        self.unpin();
        self.requested.store(0, Ordering::Relaxed);
        self.faults.store(0, Ordering::Relaxed);
        self.pins.store(0, Ordering::Relaxed);
        self.begin_anew(0);
    }

    fn unpin(&self) {
        let pin = self.pin.swap(null_mut(), Ordering::Relaxed);
        if !pin.is_null() {
            // SAFETY: a block of the C library's, which is freed once: the field no longer has it.
            unsafe { libc::free(pin) };
        }
    }
}

/// The page faults of the calling thread so far, except those for which a file was read.
fn page_faults() -> u64 {
    let mut usage = core::mem::MaybeUninit::<libc::rusage>::zeroed();
    // By the call's number: each function of the C library that the crate names costs every start of a program a look-up.
    // SAFETY: the kernel fills the value in, and all zero is a valid value, too.
    let usage = unsafe {
        libc::syscall(libc::SYS_getrusage, libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_minflt.cast_unsigned()
}

/// Where the calling thread's heap has room at its end: the higher one of two blocks, because one may lie in a hole.
fn place_near_end() -> usize {
    // Without the black boxes, the compiler would leave the calls out.
    // SAFETY: each block is null, or freed once.
    unsafe {
        let first = black_box(libc::malloc(STEP_BYTES));
        let second = black_box(libc::malloc(STEP_BYTES));
        libc::free(second);
        libc::free(first);
        if first.addr().abs_diff(second.addr()) < FAR_BYTES { first.max(second).addr() } else { first.addr() }
    }
}

/// Puts a pin into the calling thread's heap, above `lowest` and near `goal`. Returns null if it did not come to lie
/// there, because the blocks come from another heap or from a hole.
#[cold]
fn put_pin(lowest: usize, goal: usize) -> *mut libc::c_void {
    let mut steps = [null_mut(); KEEPS_BYTES / STEP_BYTES];
    // SAFETY: each block is null, or freed once.
    unsafe {
        for step in &mut steps {
            *step = black_box(libc::malloc(STEP_BYTES));
            // Below `lowest` there may be holes, which are filled first.
            if step.is_null() || step.addr() + 2 * STEP_BYTES > goal {
                break;
            }
        }
        let block = black_box(libc::malloc(STEP_BYTES));
        let mut pin = black_box(libc::realloc(block, PIN_BYTES));
        if pin.is_null() {
            pin = block;
        }
        if !(lowest..goal + STEP_BYTES).contains(&pin.addr()) {
            libc::free(pin);
            pin = null_mut();
        }
        steps.iter().for_each(|&step| libc::free(step));
        pin
    }
}
