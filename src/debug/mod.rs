//! Debug hooks: a wrapper around any allocator that finds misuse of its blocks, after CPython's `_PyMem_Debug*`.
//!
//! A block gets pads of [`FORBIDDEN_BYTE`] on both sides; new memory is filled with [`CLEAN_BYTE`], freed memory with
//! [`DEAD_BYTE`]. Its size, layout and serial number are in a table beside the heap, so an overflow can't reach them,
//! and no address is read before it is known to be a block's. Freed blocks wait in a quarantine before the inner
//! allocator gets them back, so that writes into them are found.
//!
//! ```
//! use pymalloc::Pymalloc;
//! use pymalloc::debug::DebugAlloc;
//!
//! #[global_allocator]
//! static GLOBAL: DebugAlloc<Pymalloc> = DebugAlloc::new(Pymalloc::new());
//!
//! let bytes = vec![1_u8; 100];
//! let checked = GLOBAL.check_all(); // aborts if a write went beyond a block
//! assert!(checked.bytes_live >= bytes.len());
//! ```
//!
//! # Files
//! | file | what |
//! |---|---|
//! | `guards` | the bytes that fill memory, and where they lie |
//! | `table`, `quarantine`, `system_array` | the records, in the system's memory |
//! | `hidden` | a block's address in the records, kept so that it is no reference to the block |
//! | `register` | which thread may touch a block, and fork |
//! | `dump`, `misuse` | the messages before an abort |
//! | `origin` | the hooks for a tracer |

mod dump;
mod guards;
mod hidden;
mod misuse;
mod origin;
mod quarantine;
mod register;
mod system_array;
mod table;

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

pub use guards::{CLEAN_BYTE, DEAD_BYTE, FORBIDDEN_BYTE};
pub use origin::{Origins, PrintOrigin, set_origins};
#[cfg(feature = "trace")]
pub(crate) use origin::{install_origins, remove_origins};

use guards::{Part, padded, start_of};
use hidden::Hidden;
use misuse::{Call, Misuse, abort_on};
use register::{Found, Register};
use table::{Record, RecordState};

/// Default for the most bytes of freed blocks in quarantine.
const QUARANTINE_BYTES: usize = 4 << 20;

/// An allocator with debug hooks: it checks each block of `A` when it is freed or reallocated, and all blocks on
/// request.
///
/// It is meant for tests and for the search for a bug. A block costs 32 bytes more (or 16 plus its alignment), and 50
/// to 110 bytes in the table. Each call takes a lock of the whole allocator. Technique: CPython's `_PyMem_DebugMalloc`;
/// here the records lie apart from the blocks, and there is a quarantine.
///
/// | misuse | found |
/// |---|---|
/// | write before or beyond a block, up to 16 bytes | when it is freed or reallocated, or by [`check_all`](Self::check_all) |
/// | freed or reallocated with another layout | at the call |
/// | freed twice | at the call, while the record is kept: in quarantine, and for 65,536 frees after it |
/// | freed at an address where no block starts | at the call |
/// | written after it was freed | when it leaves the quarantine, or by `check_all` |
///
/// `realloc` always moves the block, so stale pointers see [`DEAD_BYTE`] at once.
///
/// # Errors
/// `alloc`, `alloc_zeroed` and `realloc` return null in two cases: the inner allocator returned null, even when it was
/// asked again after the quarantine had been emptied; or there is no memory for the record.
///
/// # Aborts
/// On misuse it dumps the block to stderr and aborts. The last line begins with `pymalloc:`.
///
/// # Examples
/// ```
/// use pymalloc::Pymalloc;
/// use pymalloc::debug::DebugAlloc;
///
/// #[global_allocator]
/// static GLOBAL: DebugAlloc<Pymalloc> = DebugAlloc::new(Pymalloc::new());
///
/// let words: Vec<String> = "arenas are cut into pools".split(' ').map(String::from).collect();
/// assert!(GLOBAL.check_all().blocks_live >= words.len());
/// ```
#[doc(alias = "PYTHONMALLOC")]
#[doc(alias = "PyMem_SetupDebugHooks")]
#[doc(alias = "_PyMem_DebugMalloc")]
#[doc(alias = "MALLOC_CHECK_")]
pub struct DebugAlloc<A: GlobalAlloc> {
    inner: A,
    quarantine_bytes: usize,
    /// Null until the first allocation.
    register: AtomicPtr<Register>,
}

/// Counts of the blocks that [`DebugAlloc::check_all`] checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Checked {
    /// Blocks that the program has.
    pub blocks_live: usize,
    /// Bytes of these blocks, as the program asked for them.
    pub bytes_live: usize,
    /// Freed blocks in quarantine.
    pub blocks_quarantined: usize,
    /// Bytes of these blocks, pads included.
    pub bytes_quarantined: usize,
}

impl<A: GlobalAlloc> DebugAlloc<A> {
    /// Wraps `inner` in debug hooks, with a quarantine of 4 MiB.
    pub const fn new(inner: A) -> Self {
        Self::with_quarantine(inner, QUARANTINE_BYTES)
    }

    /// Wraps `inner` in debug hooks, with a quarantine of at most `bytes` bytes, pads included. A block larger than
    /// half of that goes back to `inner` at once.
    pub const fn with_quarantine(inner: A, bytes: usize) -> Self {
        Self { inner, quarantine_bytes: bytes, register: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The wrapped allocator.
    pub const fn inner(&self) -> &A {
        &self.inner
    }

    /// Checks the pads of every live block, and every byte of the blocks in quarantine. Aborts with a dump of the first
    /// damaged block.
    ///
    /// The time is proportional to the number of blocks; other threads' calls wait meanwhile.
    pub fn check_all(&self) -> Checked {
        let mut checked = Checked::default();
        let Some(register) = self.existing() else { return checked };
        register.with_all(|books| {
            for record in books.table.iter() {
                match record.state {
                    RecordState::Live => {
                        // SAFETY: live blocks are mapped: their frees wait for the lock.
                        unsafe { check_live(record, Call::CheckAll) };
                        checked.blocks_live += 1;
                        checked.bytes_live += record.bytes;
                    }
                    // SAFETY: in quarantine, which changes under the lock.
                    RecordState::Dead => unsafe { check_dead(record, Call::CheckAll) },
                    RecordState::Dying | RecordState::Gone => {}
                }
            }
            (checked.blocks_quarantined, checked.bytes_quarantined) = books.quarantined();
        });
        checked
    }

    /// Checks the blocks in quarantine and gives them back to the inner allocator.
    pub fn empty_quarantine(&self) {
        if let Some(register) = self.existing() {
            self.evict(register, 0);
        }
    }

    fn existing(&self) -> Option<&Register> {
        // Acquire: pairs with the Release in `register`. SAFETY: null or made there, and freed with `self`.
        unsafe { self.register.load(Ordering::Acquire).as_ref() }
    }

    fn register(&self) -> Option<&Register> {
        if let Some(register) = self.existing() {
            return Some(register);
        }
        let new = Register::new()?;
        // Release: the register's contents happen before `existing`. Acquire: as there.
        match self.register.compare_exchange(ptr::null_mut(), new.as_ptr(), Ordering::Release, Ordering::Acquire) {
            // SAFETY: made just now, and freed with `self`.
            Ok(_) => Some(unsafe { new.as_ref() }),
            Err(first) => {
                // SAFETY: no other thread knows the new one; the first is freed with `self`.
                unsafe {
                    Register::free(new);
                    first.as_ref()
                }
            }
        }
    }

    fn alloc_padded(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        let (Some(register), Some(padded)) = (self.register(), padded(layout)) else { return ptr::null_mut() };
        let ask = || {
            // SAFETY: the pads make the size more than 0.
            unsafe { if zeroed { self.inner.alloc_zeroed(padded) } else { self.inner.alloc(padded) } }
        };
        let mut raw = ask();
        if raw.is_null() {
            self.evict(register, 0);
            raw = ask();
        }
        if raw.is_null() {
            return raw;
        }
        let Some(start) = start_of(raw, layout) else { return ptr::null_mut() };
        let allocated_at = origin::capture();
        let record = Record {
            start: Hidden::new(start),
            bytes: layout.size(),
            align_shift: layout.align().trailing_zeros(),
            state: RecordState::Live,
            serial: 0,
            allocated_at,
            freed_at: 0,
        };
        // SAFETY: allocated just now, with room for all three parts.
        unsafe {
            record.fill(Part::Leading, FORBIDDEN_BYTE);
            record.fill(Part::Trailing, FORBIDDEN_BYTE);
            if !zeroed {
                record.fill(Part::Data, CLEAN_BYTE);
            }
        }
        if register.with(|books| books.enter(record)) {
            return start.as_ptr();
        }
        // SAFETY: allocated above.
        unsafe { self.inner.dealloc(raw, padded) };
        ptr::null_mut()
    }

    /// Takes blocks out of the quarantine until it holds at most `bound_bytes`.
    fn evict(&self, register: &Register, bound_bytes: usize) {
        while let Some(record) = register.with(|books| books.evict(bound_bytes)) {
            // SAFETY: out of the quarantine, and ours alone.
            unsafe {
                check_dead(&Record { state: RecordState::Dead, ..record }, Call::Reuse);
                self.give_back(&record);
            }
        }
    }

    /// # Safety
    /// The record describes a block of the inner allocator that nobody uses.
    unsafe fn give_back(&self, record: &Record) {
        if let Some(padded) = padded(record.layout()) {
            // SAFETY: allocated by `alloc_padded` with this layout.
            unsafe { self.inner.dealloc(record.raw(), padded) };
        }
    }
}

/// Aborts unless both pads are undamaged.
///
/// # Safety
/// The block is live or dying.
unsafe fn check_live(record: &Record, call: Call) {
    // SAFETY: the caller's promise.
    if let Some(part) = unsafe { record.broken_pad() } {
        abort_on(Misuse::BadPad(part), call, record);
    }
}

/// Aborts unless every byte is `DEAD_BYTE`.
///
/// # Safety
/// The block is dead, or was just taken out of the quarantine.
unsafe fn check_dead(record: &Record, call: Call) {
    // SAFETY: the caller's promise.
    if unsafe { record.written_after_free() }.is_some() {
        abort_on(Misuse::UseAfterFree, call, record);
    }
}

impl<A: GlobalAlloc> DebugAlloc<A> {
    /// The record of a block that the program passes to `call`; aborts on misuse.
    fn judge(&self, found: Found, call: Call, ptr: *mut u8, layout: Layout) -> Record {
        match found {
            Found::Right(record) => {
                // SAFETY: live until this call, and ours to look at.
                unsafe { check_live(&Record { state: RecordState::Live, ..record }, call) };
                record
            }
            Found::Freed(record) => abort_on(Misuse::Freed, call, &record),
            Found::OtherLayout(record) => abort_on(Misuse::OtherLayout(layout), call, &record),
            Found::Unknown => {
                let around = self.existing().and_then(|register| register.with(|books| books.around(ptr.addr())));
                misuse::abort_on_unknown(ptr.addr(), call, around.as_ref())
            }
        }
    }
}

// SAFETY: a block is a part of an inner allocator's block, and the inner allocator keeps the contract. The part is as
// large as asked, lies between two pads, and is aligned because the leading pad is a multiple of the alignment. A block
// that the program has is given back only when the program frees it. No method unwinds unless the inner allocator's
// does.
unsafe impl<A: GlobalAlloc> GlobalAlloc for DebugAlloc<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.alloc_padded(layout, false)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.alloc_padded(layout, true)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let freed_at = origin::capture();
        let register = self.existing();
        let found = register
            .map_or(Found::Unknown, |register| register.with(|books| books.begin_free(ptr.addr(), layout, freed_at)));
        let record = self.judge(found, Call::Free, ptr, layout);
        let Some(register) = register else { return };
        // SAFETY: this thread made the block dying, so nobody else touches it.
        unsafe {
            record.fill(Part::Leading, DEAD_BYTE);
            record.fill(Part::Data, DEAD_BYTE);
            record.fill(Part::Trailing, DEAD_BYTE);
        }
        if !register.with(|books| books.end_free(&record, self.quarantine_bytes)) {
            // SAFETY: dying, and not in quarantine.
            unsafe { self.give_back(&record) };
        }
        self.evict(register, self.quarantine_bytes);
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let found =
            self.existing().map_or(Found::Unknown, |register| register.with(|books| books.find(ptr.addr(), layout)));
        self.judge(found, Call::Realloc, ptr, layout);
        // SAFETY: the caller promises that `new_size`, rounded up to the alignment, does not overflow an `isize`; the
        // old block is live, as large as `layout` says, and stays so if there is no new one.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(ptr, layout.size().min(new_size));
                self.dealloc(ptr, layout);
            }
            new
        }
    }
}

impl<A: GlobalAlloc> Drop for DebugAlloc<A> {
    fn drop(&mut self) {
        self.empty_quarantine();
        if let Some(register) = NonNull::new(*self.register.get_mut()) {
            // SAFETY: nobody else has the allocator any more.
            unsafe { Register::free(register) };
        }
    }
}

impl<A: GlobalAlloc + Default> Default for DebugAlloc<A> {
    fn default() -> Self {
        Self::new(A::default())
    }
}

impl<A: GlobalAlloc + fmt::Debug> fmt::Debug for DebugAlloc<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DebugAlloc").field("inner", &self.inner).finish_non_exhaustive()
    }
}
