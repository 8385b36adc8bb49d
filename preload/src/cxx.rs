//! C++'s `operator new` and `operator delete`, all replaceable forms, by their mangled names.
//!
//! Running out of memory needs a C++ runtime, and that is left to the one in the process: the definition that comes
//! next in the link chain is called. It tries again by our `malloc`, runs the program's new-handler, and throws
//! `std::bad_alloc`. So these functions let exceptions through (`C-unwind`).
//!
//! C++ defines most forms by basic ones: `new[]` calls `new`, and `delete` with a size calls the one without. A program
//! may replace only the basic ones. So the other forms are served here only if the basic ones are ours, too
//! (`start::operators_are_ours`). Otherwise they are served by the next definition in the chain, which calls the
//! program's basic ones.

use core::ffi::c_void;
use core::ptr;

use pymalloc_core::raw::{self, Class};

use crate::c::{allocate, allocate_aligned, release, release_sized};
use crate::large::Function;
use crate::start::{free_is_ours, operators_are_ours};

/// `std::nothrow_t const&`.
type Nothrow = *const c_void;

#[cold]
#[inline(never)]
fn no_runtime() -> ! {
    let line = b"pymalloc: out of memory in operator new, and no C++ library to throw std::bad_alloc\n";
    raw::write_last_words(line);
    // SAFETY: no preconditions.
    unsafe { libc::abort() }
}

/// Calls the next definition of the form `$name` with the same arguments; if there is none, evaluates `$otherwise`.
macro_rules! next {
    ($name:literal, ($($argument:ident: $type:ty),*) -> $result:ty, $otherwise:expr) => {{
        #[cold]
        #[inline(never)]
        unsafe fn next($($argument: $type),*) -> $result {
            static NEXT: Function = Function::next($name);
            let next = NEXT.address();
            if next.is_null() {
                return $otherwise;
            }
            // SAFETY: the definition of the same mangled name, hence of this type.
            unsafe {
                let next: unsafe extern "C-unwind" fn($($type),*) -> $result = core::mem::transmute(next);
                next($($argument),*)
            }
        }
        // SAFETY: the caller's own arguments.
        unsafe { next($($argument),*) }
    }};
}

/// Forms of `new`: `basic` ones, which a program may replace alone, and `derived` ones, which are defined by those.
macro_rules! news {
    ($(
        $(#[$meta:meta])*
        $kind:ident $function:ident = $name:literal,
        $fail:ident($bytes:ident $(, $align:ident)? $(; $nothrow:ident)?);
    )+) => { $(
        $(#[$meta])*
        ///
        /// # Safety
        /// None: an alignment that is no power of two fails.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C-unwind" fn $function(
            $bytes: usize
            $(, $align: usize)?
            $(, $nothrow: Nothrow)?
        ) -> *mut c_void {
            #[inline(never)]
            unsafe fn slow($bytes: usize $(, $align: usize)? $(, $nothrow: Nothrow)?) -> *mut c_void {
                if news!(@served $kind $($align)?) {
                    let block = news!(@allocate $bytes $($align)?);
                    if !block.is_null() {
                        return block;
                    }
                }
                next!($name, ($bytes: usize $(, $align: usize)? $(, $nothrow: Nothrow)?) -> *mut c_void, {
                    let block = news!(@allocate $bytes $($align.next_power_of_two())?);
                    if block.is_null() { news!(@$fail) } else { block }
                })
            }
            // SAFETY: our own arguments.
            let slow = || unsafe { slow($bytes $(, $align)? $(, $nothrow)?) };
            if news!(@served $kind $($align)?) { news!(@take slow $bytes $($align)?) } else { slow() }
        }
    )+ };
    (@served basic) => { true };
    (@served basic $align:ident) => { $align.is_power_of_two() };
    (@served derived) => { operators_are_ours() };
    (@served derived $align:ident) => { operators_are_ours() && $align.is_power_of_two() };
    (@take $slow:ident $bytes:ident) => { raw::allocate_or($bytes, $slow, $slow) };
    (@take $slow:ident $bytes:ident $align:ident) => {
        match Class::of_size_align($bytes, $align) {
            Some(class) if free_is_ours() => raw::allocate_class_or(class, $slow),
            _ => $slow(),
        }
    };
    (@allocate $bytes:ident) => { allocate($bytes) };
    (@allocate $bytes:ident $align:expr) => { allocate_aligned($bytes, $align) };
    (@throws) => { no_runtime() };
    (@null) => { ptr::null_mut() };
}

news! {
    /// `operator new(size_t)`
    basic _Znwm = c"_Znwm", throws(bytes);
    /// `operator new[](size_t)`
    derived _Znam = c"_Znam", throws(bytes);
    /// `operator new(size_t, nothrow_t const&)`
    derived _ZnwmRKSt9nothrow_t = c"_ZnwmRKSt9nothrow_t", null(bytes; nothrow);
    /// `operator new[](size_t, nothrow_t const&)`
    derived _ZnamRKSt9nothrow_t = c"_ZnamRKSt9nothrow_t", null(bytes; nothrow);
    /// `operator new(size_t, align_val_t)`
    basic _ZnwmSt11align_val_t = c"_ZnwmSt11align_val_t", throws(bytes, align);
    /// `operator new[](size_t, align_val_t)`
    derived _ZnamSt11align_val_t = c"_ZnamSt11align_val_t", throws(bytes, align);
    /// `operator new(size_t, align_val_t, nothrow_t const&)`
    derived _ZnwmSt11align_val_tRKSt9nothrow_t = c"_ZnwmSt11align_val_tRKSt9nothrow_t", null(bytes, align; nothrow);
    /// `operator new[](size_t, align_val_t, nothrow_t const&)`
    derived _ZnamSt11align_val_tRKSt9nothrow_t = c"_ZnamSt11align_val_tRKSt9nothrow_t", null(bytes, align; nothrow);
}

/// Forms of `delete`. A size tells the magazine without a look-up.
macro_rules! deletes {
    ($(
        $(#[$meta:meta])*
        $kind:ident $function:ident = $name:literal, ($($argument:ident: $type:ty),*) $sized:expr;
    )+) => { $(
        $(#[$meta])*
        ///
        /// # Safety
        /// `start` is null, or a block in the caller's hands that the matching form of `new` returned for the same
        /// arguments.
        #[unsafe(no_mangle)]
        #[allow(unused_variables, reason = "not every form needs every argument")]
        pub(crate) unsafe extern "C-unwind" fn $function(start: *mut c_void $(, $argument: $type)*) {
            if deletes!(@served $kind) {
                let bytes: Option<usize> = $sized;
                // SAFETY: the caller's promise is the same.
                return unsafe {
                    match bytes {
                        Some(bytes) => release_sized(start, bytes),
                        None => release(start),
                    }
                };
            }
            next!($name, (start: *mut c_void $(, $argument: $type)*) -> (), {
                // SAFETY: the caller's promise; without a C++ library every block is ours or glibc's.
                unsafe { release(start) }
            })
        }
    )+ };
    (@served basic) => { true };
    (@served derived) => { operators_are_ours() };
}

deletes! {
    /// `operator delete(void*)`
    basic _ZdlPv = c"_ZdlPv", () None;
    /// `operator delete[](void*)`
    derived _ZdaPv = c"_ZdaPv", () None;
    /// `operator delete(void*, nothrow_t const&)`
    derived _ZdlPvRKSt9nothrow_t = c"_ZdlPvRKSt9nothrow_t", (nothrow: Nothrow) None;
    /// `operator delete[](void*, nothrow_t const&)`
    derived _ZdaPvRKSt9nothrow_t = c"_ZdaPvRKSt9nothrow_t", (nothrow: Nothrow) None;
    /// `operator delete(void*, size_t)`
    derived _ZdlPvm = c"_ZdlPvm", (bytes: usize) Some(bytes);
    /// `operator delete[](void*, size_t)`
    derived _ZdaPvm = c"_ZdaPvm", (bytes: usize) Some(bytes);
    /// `operator delete(void*, align_val_t)`
    basic _ZdlPvSt11align_val_t = c"_ZdlPvSt11align_val_t", (align: usize) None;
    /// `operator delete[](void*, align_val_t)`
    derived _ZdaPvSt11align_val_t = c"_ZdaPvSt11align_val_t", (align: usize) None;
    /// `operator delete(void*, align_val_t, nothrow_t const&)`
    derived _ZdlPvSt11align_val_tRKSt9nothrow_t = c"_ZdlPvSt11align_val_tRKSt9nothrow_t",
        (align: usize, nothrow: Nothrow) None;
    /// `operator delete[](void*, align_val_t, nothrow_t const&)`
    derived _ZdaPvSt11align_val_tRKSt9nothrow_t = c"_ZdaPvSt11align_val_tRKSt9nothrow_t",
        (align: usize, nothrow: Nothrow) None;
    /// `operator delete(void*, size_t, align_val_t)`
    derived _ZdlPvmSt11align_val_t = c"_ZdlPvmSt11align_val_t", (bytes: usize, align: usize) None;
    /// `operator delete[](void*, size_t, align_val_t)`
    derived _ZdaPvmSt11align_val_t = c"_ZdaPvmSt11align_val_t", (bytes: usize, align: usize) None;
}
