//! malloc and its family. Edge cases that POSIX leaves open are settled as in glibc.

use core::ffi::{c_int, c_void};
use core::ptr;

use pymalloc_core::raw::{self, Class, Request};

use crate::large::{self, Function, usable_bytes};
use crate::start;

#[cold]
#[inline(never)]
fn fail(errno: c_int) -> *mut c_void {
    // SAFETY: libc's own thread-local.
    unsafe { *libc::__errno_location() = errno };
    ptr::null_mut()
}

/// `malloc`.
#[inline(always)]
pub(crate) fn allocate(bytes: usize) -> *mut c_void {
    // SAFETY: no preconditions.
    raw::allocate_or(bytes, || allocate_slow(bytes), || unsafe { large::malloc(bytes) })
}

/// `malloc`, where the magazine has no block.
#[cold]
#[inline(never)]
fn allocate_slow(bytes: usize) -> *mut c_void {
    match Class::of_size(bytes) {
        Some(class) => or_no_memory(raw::allocate(class, Request::of_bytes(bytes))),
        // SAFETY: no preconditions.
        None => unsafe { large::malloc(bytes) },
    }
}

#[inline(always)]
fn or_no_memory(block: *mut c_void) -> *mut c_void {
    if block.is_null() { fail(libc::ENOMEM) } else { block }
}

/// Allocates with an alignment, which is a power of two.
#[inline(always)]
pub(crate) fn allocate_aligned(bytes: usize, align: usize) -> *mut c_void {
    match Class::of_size_align(bytes, align) {
        // A program that has its own `free`, but no such function, gets the block that it would get without this
        // library.
        Some(class) if start::free_is_ours() => or_no_memory(raw::allocate(class, Request::of_bytes(bytes))),
        // SAFETY: no preconditions.
        _ => unsafe { large::memalign(align, bytes) },
    }
}

/// `free`.
///
/// # Safety
/// As for `free`.
#[inline(always)]
pub(crate) unsafe fn release(start: *mut c_void) {
    // SAFETY: the caller's promise is the same.
    unsafe { raw::free_or(start, || release_slow(start)) }
}

/// `free`, in all cases: for any address, and if the magazine is full.
///
/// # Safety
/// As for `free`.
#[inline(never)]
unsafe fn release_slow(start: *mut c_void) {
    match class_of(start) {
        // SAFETY: the caller's promise is the same.
        Some(class) => unsafe { raw::free(class, start) },
        // SAFETY: the caller's promise is the same; also for null.
        None => unsafe { large::free(start) },
    }
}

/// The class of the block at `address`; `None` if no arena holds it.
fn class_of(address: *const c_void) -> Option<Class> {
    Class::of_near(address).or_else(|| Class::of_far(address))
}

/// Frees a block that was requested with `bytes`.
///
/// # Safety
/// As for `free`; and `bytes` is the requested size.
#[inline(always)]
pub(crate) unsafe fn release_sized(start: *mut c_void, bytes: usize) {
    // C++ lets null be deleted.
    if !start.is_null() {
        // SAFETY: the caller's promise is the same.
        unsafe { raw::free_sized_or(start, bytes, || release_sized_slow(start, bytes)) }
    }
}

/// # Safety
/// As for `release_sized`; not null.
#[inline(never)]
unsafe fn release_sized_slow(start: *mut c_void, bytes: usize) {
    match Class::of_size(bytes) {
        // SAFETY: the caller's promise is the same.
        Some(class) => unsafe { raw::free(class, start) },
        // SAFETY: the caller's promise is the same.
        None => unsafe { large::free(start) },
    }
}

/// # Safety
/// None: any number of bytes may be asked for.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn malloc(bytes: usize) -> *mut c_void {
    allocate(bytes)
}

/// Keeps `errno`, as POSIX 2024 demands.
///
/// # Safety
/// `start` is null, or a block in the caller's hands.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn free(start: *mut c_void) {
    // SAFETY: the caller's promise is the same.
    unsafe { release(start) }
}

/// The old name of `free` (glibc dropped it in 2.26).
///
/// # Safety
/// As for `free`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn cfree(start: *mut c_void) {
    // SAFETY: the caller's promise is the same.
    unsafe { release(start) }
}

/// # Safety
/// None.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn calloc(count: usize, bytes: usize) -> *mut c_void {
    let Some(all_bytes) = count.checked_mul(bytes) else {
        return fail(libc::ENOMEM);
    };
    match Class::of_size(all_bytes) {
        Some(class) => or_no_memory(raw::allocate_zeroed(class, Request::of_bytes(all_bytes))),
        // SAFETY: no preconditions.
        None => unsafe { large::calloc(count, bytes) },
    }
}

/// `realloc(NULL, n)` is `malloc(n)`; `realloc(p, 0)` frees `p` and returns null, as in glibc.
///
/// # Safety
/// As for `free`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn realloc(start: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: the caller's promise is the same.
    unsafe { reallocate(start, bytes) }
}

/// # Safety
/// As for `free`.
#[inline(always)]
pub(crate) unsafe fn reallocate(start: *mut c_void, bytes: usize) -> *mut c_void {
    match Class::of_near(start) {
        // SAFETY: the caller's promise is the same.
        Some(old) => unsafe { reallocate_small(start, old, bytes) },
        // SAFETY: the caller's promise is the same.
        None => unsafe { reallocate_far(start, bytes) },
    }
}

/// # Safety
/// As for `realloc`.
#[inline(never)]
unsafe fn reallocate_far(start: *mut c_void, bytes: usize) -> *mut c_void {
    match Class::of_far(start) {
        // SAFETY: the caller's promise is the same.
        Some(old) => unsafe { reallocate_small(start, old, bytes) },
        // SAFETY: the caller's promise is the same.
        None => unsafe { reallocate_large(start, bytes) },
    }
}

/// # Safety
/// `start` is a block of `old` in the caller's hands.
#[inline(always)]
unsafe fn reallocate_small(start: *mut c_void, old: Class, bytes: usize) -> *mut c_void {
    // CPython's rule: a block that shrinks by less than a quarter stays. It may, because the class is found by address.
    let old_bytes = old.block_bytes();
    if bytes <= old_bytes && 4 * bytes > 3 * old_bytes {
        raw::check_live(old, start);
        return start;
    }
    // SAFETY: the caller's promise is the same.
    unsafe { move_small(start, old, bytes) }
}

/// Moves a small block to another class, or out of the pools; or frees it, if `bytes` is 0.
///
/// # Safety
/// `start` is a block of `old` in the caller's hands.
unsafe fn move_small(start: *mut c_void, old: Class, bytes: usize) -> *mut c_void {
    raw::check_start(start);
    // SAFETY: the caller's promise; the old block stays the caller's if there is no new one.
    unsafe {
        if bytes == 0 {
            raw::free(old, start);
            return ptr::null_mut();
        }
        if Class::of_size(bytes) == Some(old) {
            raw::check_live(old, start);
            return start;
        }
        let new = allocate(bytes);
        if !new.is_null() {
            let kept_bytes = bytes.min(old.block_bytes());
            new.cast::<u8>().copy_from_nonoverlapping(start.cast(), kept_bytes);
            raw::free(old, start);
        }
        new
    }
}

/// # Safety
/// `start` is null, or a block of glibc's in the caller's hands.
#[inline(never)]
unsafe fn reallocate_large(start: *mut c_void, bytes: usize) -> *mut c_void {
    if start.is_null() {
        return allocate(bytes);
    }
    // SAFETY: the caller's promise; the block has at least as many bytes as are copied.
    unsafe {
        // The block is small now: it moves to a pool, rather than stay as a small piece amid glibc's large blocks.
        if let Some(class) = Class::of_size(bytes).filter(|_| bytes != 0)
            && let Some(old_bytes) = usable_bytes(start)
        {
            let new = raw::allocate(class, Request::of_bytes(bytes));
            if !new.is_null() {
                new.cast::<u8>().copy_from_nonoverlapping(start.cast(), bytes.min(old_bytes));
                large::free(start);
                return new;
            }
        }
        large::realloc(start, bytes)
    }
}

/// # Safety
/// As for `realloc`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn reallocarray(start: *mut c_void, count: usize, bytes: usize) -> *mut c_void {
    match count.checked_mul(bytes) {
        // SAFETY: the caller's promise is the same.
        Some(all_bytes) => unsafe { reallocate(start, all_bytes) },
        None => fail(libc::ENOMEM),
    }
}

/// An alignment that is no power of two is rounded up to the next one, as in glibc.
///
/// # Safety
/// None.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn memalign(align: usize, bytes: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => allocate_aligned(bytes, align),
        None => fail(libc::EINVAL),
    }
}

/// An alignment that is no power of two is `EINVAL`, as in glibc 2.38 and later. `bytes` need not be a multiple of it.
///
/// # Safety
/// None.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn aligned_alloc(align: usize, bytes: usize) -> *mut c_void {
    if align.is_power_of_two() { allocate_aligned(bytes, align) } else { fail(libc::EINVAL) }
}

/// Returns `EINVAL` or `ENOMEM`, and then leaves `*place` as it is. As in glibc, without memory `errno` is `ENOMEM`,
/// too.
///
/// # Safety
/// `place` is writable.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn posix_memalign(place: *mut *mut c_void, align: usize, bytes: usize) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    let block = allocate_aligned(bytes, align);
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: writable, says the caller.
    unsafe { place.write(block) };
    0
}

/// # Safety
/// None.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn valloc(bytes: usize) -> *mut c_void {
    // SAFETY: no preconditions.
    unsafe { large::valloc(bytes) }
}

/// # Safety
/// None.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pvalloc(bytes: usize) -> *mut c_void {
    // SAFETY: no preconditions.
    unsafe { large::pvalloc(bytes) }
}

/// All bytes of the block may be used.
///
/// # Safety
/// As for `free`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn malloc_usable_size(start: *mut c_void) -> usize {
    match class_of(start) {
        Some(class) => {
            raw::check_start(start);
            class.block_bytes()
        }
        None if start.is_null() => 0,
        // SAFETY: the caller's promise is the same.
        None => unsafe { usable_bytes(start) }.unwrap_or(0),
    }
}

/// Makes both allocators give free memory back to the OS; returns 1 if they gave any.
///
/// # Safety
/// None.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn malloc_trim(pad_bytes: usize) -> c_int {
    static TRIM: Function = Function::of_libc(c"malloc_trim");
    let purged_bytes = pymalloc_core::purge();
    let trim = TRIM.address();
    let trimmed = if trim.is_null() {
        0
    } else {
        // SAFETY: the C library's function of that name and type.
        unsafe {
            let trim: unsafe extern "C-unwind" fn(usize) -> c_int = core::mem::transmute(trim);
            trim(pad_bytes)
        }
    };
    c_int::from(purged_bytes != 0 || trimmed != 0)
}

/// C23. The size is ignored: `realloc` may have left the block in a larger class than its present size has.
///
/// # Safety
/// As for `free`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn free_sized(start: *mut c_void, _bytes: usize) {
    // SAFETY: the caller's promise is the same.
    unsafe { release(start) }
}

/// C23.
///
/// # Safety
/// As for `free`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn free_aligned_sized(start: *mut c_void, _align: usize, _bytes: usize) {
    // SAFETY: the caller's promise is the same.
    unsafe { release(start) }
}
