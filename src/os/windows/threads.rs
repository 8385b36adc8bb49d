//! Threads: their ends, their numbers, and those of the allocator's own.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::{KeepErrno, is_ending, sys};

/// What is called at each thread's end; null while no thread has asked for it.
static ENDED: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Has `ended(value)` called when the calling thread ends; `value` is not null. All callers pass the same function.
///
/// By a TLS callback (`callbacks`), behind the destructors of thread-locals. It is called at the end of any thread that
/// was there when the first one asked, or started later; and it gets another value, which is not null either. A thread
/// that is ended by `TerminateThread`, and the one that ends the process, are not told.
pub(crate) fn on_thread_end(ended: unsafe extern "C" fn(*mut c_void), _value: *const ()) -> bool {
    // Relaxed: a function, and always the same.
    if ENDED.load(Ordering::Relaxed).is_null() {
        ENDED.store(ended as *mut (), Ordering::Relaxed);
        stay_loaded();
    }
    true
}

/// The calling thread ends.
pub(super) fn tell_end() {
    // Relaxed: as above.
    let ended = ENDED.load(Ordering::Relaxed);
    if !ended.is_null() {
        // SAFETY: only `on_thread_end` writes it, a function of that type.
        unsafe {
            let ended: unsafe extern "C" fn(*mut c_void) = core::mem::transmute(ended);
            ended(NonNull::dangling().as_ptr());
        }
    }
}

/// A thread's end is told once.
pub(crate) const fn end_is_told_again(_value: *mut c_void) -> bool {
    false
}

/// Keeps the library that holds this code loaded for ever: its heap has blocks that others may free later, and would be
/// lost with all of its memory.
fn stay_loaded() {
    let _errno = KeepErrno::new();
    let here: fn() = stay_loaded;
    let mut module = 0;
    let flags = sys::GET_MODULE_HANDLE_EX_FLAG_PIN | sys::GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS;
    // SAFETY: an address of this module, and a place for its handle.
    unsafe { sys::GetModuleHandleExW(flags, here as *const c_void, &raw mut module) };
}

/// The system's number of the calling thread.
pub(crate) fn thread_id() -> u32 {
    // SAFETY: no preconditions.
    unsafe { sys::GetCurrentThreadId() }
}

/// A number that no other thread of the process has at the same time; never 0.
pub(crate) fn thread_token() -> usize {
    thread_id() as usize
}

/// The least stack of a thread of the allocator's own, in an unoptimised build too.
const OWN_STACK_BYTES: usize = 256 << 10;

/// What a thread of the allocator's own and its starter share; on the process's heap.
struct Shared {
    body: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
    /// [`RUNS`], and then [`DONE`] or [`LEFT_ALONE`]; who finds the other's frees it.
    state: AtomicU32,
}

const RUNS: u32 = 0;
/// The body has returned.
const DONE: u32 = 1;
/// Nobody will join it.
const LEFT_ALONE: u32 = 2;

/// A thread of the allocator's own.
pub(crate) struct OwnThread(NonNull<Shared>);

// SAFETY: what it points at is touched by atomics, until one of the two frees it.
unsafe impl Send for OwnThread {}
// SAFETY: as above; by a shared reference nothing can be done.
unsafe impl Sync for OwnThread {}

/// Starts a thread that runs `body(argument)`, and has a small stack.
///
/// # Errors
/// The system's number of the error.
pub(crate) fn start_thread(
    body: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> Result<OwnThread, c_int> {
    // SAFETY: no preconditions.
    let shared = unsafe { sys::HeapAlloc(sys::GetProcessHeap(), 0, size_of::<Shared>()) };
    let Some(shared) = NonNull::new(shared.cast::<Shared>()) else { return Err(error()) };
    // SAFETY: new memory, of that size; the process's heap aligns to 16 bytes.
    unsafe { shared.write(Shared { body, argument, state: AtomicU32::new(RUNS) }) };
    let flags = sys::STACK_SIZE_PARAM_IS_A_RESERVATION;
    // SAFETY: the function gets what it expects, which stays until it has set the state.
    let thread = unsafe {
        sys::CreateThread(ptr::null_mut(), OWN_STACK_BYTES, run, shared.as_ptr().cast(), flags, ptr::null_mut())
    };
    if thread == 0 {
        let error = error();
        // SAFETY: no thread was started.
        unsafe { free(shared) };
        return Err(error);
    }
    // It runs on without its handle.
    // SAFETY: the handle made just now.
    unsafe { sys::CloseHandle(thread) };
    Ok(OwnThread(shared))
}

fn error() -> c_int {
    // SAFETY: no preconditions.
    unsafe { sys::GetLastError() }.cast_signed()
}

/// # Safety
/// `shared` is from `start_thread`, and nobody uses it any more.
unsafe fn free(shared: NonNull<Shared>) {
    // SAFETY: the caller's promise.
    unsafe { sys::HeapFree(sys::GetProcessHeap(), 0, shared.as_ptr().cast()) };
}

unsafe extern "system" fn run(shared: *mut c_void) -> u32 {
    // SAFETY: from `start_thread`, and freed by who is the second to change the state.
    let shared = unsafe { NonNull::new_unchecked(shared.cast::<Shared>()) };
    // SAFETY: as above.
    let (body, argument) = unsafe { (shared.as_ref().body, shared.as_ref().argument) };
    body(argument);
    // SAFETY: as above; not touched after it is DONE, but by its address.
    unsafe {
        let state = &raw const (*shared.as_ptr()).state;
        // AcqRel: what the body did happens before `join` returns; pairs with its Acquire, and with `detach`'s AcqRel.
        if (*state).swap(DONE, Ordering::AcqRel) == LEFT_ALONE {
            free(shared);
        } else {
            sys::WakeByAddressAll(state.cast());
        }
    }
    0
}

impl OwnThread {
    /// Waits until its body has returned; not for its end, which may have to wait for a lock of the loader's that the
    /// caller holds, where a thread-local's destructor calls. At the process's end there is no such thread any more.
    pub(crate) fn join(self) {
        // SAFETY: it is not freed before this function or `detach` has seen to that.
        let state = unsafe { &self.0.as_ref().state };
        // Acquire: pairs with the AcqRel of `run`.
        while state.load(Ordering::Acquire) == RUNS {
            if is_ending() {
                return;
            }
            super::futex_wait(state, RUNS);
        }
        // SAFETY: the thread is done with it.
        unsafe { free(self.0) };
    }

    /// Lets it end by itself.
    pub(crate) fn detach(self) {
        // SAFETY: as in `join`.
        let before = unsafe { self.0.as_ref() }.state.swap(LEFT_ALONE, Ordering::AcqRel);
        if before == DONE {
            // SAFETY: the thread is done with it.
            unsafe { free(self.0) };
        }
    }

    /// Threads are known by their numbers here.
    pub(crate) fn name_this(_name: &CStr) {}
}
