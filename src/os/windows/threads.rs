//! Threads: their ends, their numbers, and the allocator's own threads.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::{KeepErrno, is_ending, sys};

/// The function to call at each thread's end; null while no thread has asked for it.
static ENDED: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Makes `ended` run when the calling thread ends. All callers pass the same function.
///
/// A TLS callback (`callbacks`) calls it, after the destructors of thread-locals. After the first call of this
/// function, `ended` runs at the end of every thread. Its argument is not `_value`, but is not null either. It does not
/// run when `TerminateThread` ends a thread, nor in the thread that ends the process.
pub(crate) fn on_thread_end(ended: unsafe extern "C" fn(*mut c_void), _value: *const ()) -> bool {
    // Relaxed: a function, and always the same.
    if ENDED.load(Ordering::Relaxed).is_null() {
        ENDED.store(ended as *mut (), Ordering::Relaxed);
        stay_loaded();
    }
    true
}

/// Calls the function for the calling thread, which ends.
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

/// A thread's end is told only once.
pub(crate) const fn end_is_told_again(_value: *mut c_void) -> bool {
    false
}

/// Keeps the library that holds this code loaded for ever: its heap has blocks that other code may free later, and all
/// of its memory would be lost.
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

/// The stack that one of the allocator's own threads needs, also in an unoptimised build.
const OWN_STACK_BYTES: usize = 256 << 10;

/// The data that one of the allocator's own threads and its starter share; on the process's heap.
struct Shared {
    body: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
    /// [`RUNS`] at first. The thread sets [`DONE`], its starter may set [`LEFT_ALONE`]; the one that comes second frees
    /// the data.
    state: AtomicU32,
}

const RUNS: u32 = 0;
/// The body has returned.
const DONE: u32 = 1;
/// No thread will join it.
const LEFT_ALONE: u32 = 2;

/// A thread of the allocator's own.
pub(crate) struct OwnThread(NonNull<Shared>);

// SAFETY: the shared data is touched by atomics, until one of the two threads frees it.
unsafe impl Send for OwnThread {}
// SAFETY: as above; a shared reference allows nothing.
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
    // SAFETY: the function gets the pointer that it expects, which stays valid until it has set the state.
    let thread = unsafe {
        sys::CreateThread(ptr::null_mut(), OWN_STACK_BYTES, run, shared.as_ptr().cast(), flags, ptr::null_mut())
    };
    if thread == 0 {
        let error = error();
        // SAFETY: no thread was started.
        unsafe { free(shared) };
        return Err(error);
    }
    // The thread runs on without its handle.
    // SAFETY: the handle made just now.
    unsafe { sys::CloseHandle(thread) };
    Ok(OwnThread(shared))
}

fn error() -> c_int {
    // SAFETY: no preconditions.
    unsafe { sys::GetLastError() }.cast_signed()
}

/// # Safety
/// `shared` is from `start_thread`, and is no longer used.
unsafe fn free(shared: NonNull<Shared>) {
    // SAFETY: the caller's promise.
    unsafe { sys::HeapFree(sys::GetProcessHeap(), 0, shared.as_ptr().cast()) };
}

unsafe extern "system" fn run(shared: *mut c_void) -> u32 {
    // SAFETY: from `start_thread`; the second thread to change the state frees it.
    let shared = unsafe { NonNull::new_unchecked(shared.cast::<Shared>()) };
    // SAFETY: as above.
    let (body, argument) = unsafe { (shared.as_ref().body, shared.as_ref().argument) };
    body(argument);
    // SAFETY: as above. Once it is DONE, only its address is used.
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
    /// Waits until its body has returned. It does not wait for the thread's end, which may need a lock of the loader's;
    /// a thread-local's destructor that calls this holds that lock. At the process's end the thread does not exist any
    /// more.
    pub(crate) fn join(self) {
        // SAFETY: it is not freed before this function or `detach` frees it.
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

    /// Lets the thread end by itself.
    pub(crate) fn detach(self) {
        // SAFETY: as in `join`.
        let before = unsafe { self.0.as_ref() }.state.swap(LEFT_ALONE, Ordering::AcqRel);
        if before == DONE {
            // SAFETY: the thread is done with it.
            unsafe { free(self.0) };
        }
    }

    /// Threads have only numbers here, no names.
    pub(crate) fn begin(_name: &CStr) {}
}
