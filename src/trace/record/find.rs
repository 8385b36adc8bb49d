//! Finds the module of an address, for `loaded`. Linux only.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::elf::{self, Headers};
use super::loaded::{FIRST_BYTES, Found, Identity, Number, hash_of_first, number_by_identity};

/// The most modules that are noted as staying loaded.
const STAYING: usize = 64;

/// A module that stays loaded.
struct Place {
    start: AtomicUsize,
    end: AtomicUsize,
    number: AtomicUsize,
}

static PLACES: [Place; STAYING] =
    [const { Place { start: AtomicUsize::new(0), end: AtomicUsize::new(0), number: AtomicUsize::new(0) } }; STAYING];
/// How many of them are used. Like them, it is written before the session's number.
static PLACES_KNOWN: AtomicUsize = AtomicUsize::new(0);

/// The answer of `_dl_find_object`: `struct dl_find_object` of `dlfcn.h`, on 64-bit processors.
#[repr(C)]
struct FoundObject {
    flags: u64,
    start: *mut c_void,
    end: *mut c_void,
    link_map: *const LinkMap,
    eh_frame: *mut c_void,
    reserved: [u64; 7],
}

/// The public part of glibc's `struct link_map` (`link.h`).
#[repr(C)]
struct LinkMap {
    base: usize,
    name: *const c_char,
}

type FindObject = unsafe extern "C" fn(*mut c_void, *mut FoundObject) -> c_int;

/// `_dl_find_object`'s address; 0 where there is none. Written before the session's number.
static FIND_OBJECT: AtomicUsize = AtomicUsize::new(0);

/// Notes the modules that stay loaded, and how others are found. Called at the start of a session, outside of the
/// allocator.
pub(in crate::trace) fn begin() {
    // SAFETY: a C string; it is looked up in all loaded files.
    let find = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr()) };
    // Relaxed (all here): published by the session's number.
    FIND_OBJECT.store(find.expose_provenance(), Ordering::Relaxed);
    // Before the loader's lock is taken. The list's own name won't do: linked statically with musl, every program has
    // the same.
    let program = std::env::current_exe().unwrap_or_default();
    let mut count = 0;
    let own: fn() = begin;
    let of_libc: unsafe extern "C" fn() -> libc::pid_t = libc::getpid;
    let wanted = [own as usize, of_libc as usize];
    elf::each_loaded(&mut |number, headers, name| {
        let particulars = headers.particulars();
        let (start, end) = particulars.mapped;
        let stays =
            number == 0 || cfg!(target_env = "musl") || wanted.iter().any(|address| (start..end).contains(address));
        if !stays || count == STAYING || end == start {
            return;
        }
        let name = if number == 0 { program.as_os_str().as_encoded_bytes() } else { name.to_bytes() };
        let identity = Identity { start, base: particulars.base, name, first: 0 };
        let module = number_by_identity(&identity, true, || Some(particulars));
        let place = &PLACES[count];
        place.start.store(start, Ordering::Relaxed);
        place.end.store(end, Ordering::Relaxed);
        place.number.store(usize::from(module.0), Ordering::Relaxed);
        count += 1;
    });
    PLACES_KNOWN.store(count, Ordering::Relaxed);
}

/// The module that an address is in.
///
/// # Safety
/// The calling thread returns to the address, which keeps its module loaded; or the address is in no module.
pub(in crate::trace) unsafe fn find(address: usize) -> Found {
    // Relaxed (all): written before the session's number, which the caller has read with Acquire.
    for place in PLACES.iter().take(PLACES_KNOWN.load(Ordering::Relaxed)) {
        let number = Number(place.number.load(Ordering::Relaxed) as u16);
        let found = Found::new(number, (place.start.load(Ordering::Relaxed), place.end.load(Ordering::Relaxed)));
        if found.holds(address) {
            return found;
        }
    }
    let find = FIND_OBJECT.load(Ordering::Relaxed);
    if find == 0 {
        return Found::NONE;
    }
    let mut object = MaybeUninit::<FoundObject>::uninit();
    // SAFETY: glibc's function of that name, which writes an answer if it returns 0; the loader's own description of
    // the module lives as long as it is loaded.
    let (object, link_map) = unsafe {
        let find: FindObject = core::mem::transmute(core::ptr::with_exposed_provenance::<c_void>(find));
        if find(core::ptr::with_exposed_provenance_mut(address), object.as_mut_ptr()) != 0 {
            return Found::NONE;
        }
        let object = object.assume_init();
        let link_map = object.link_map.as_ref();
        (object, link_map)
    };
    let Some(link_map) = link_map.filter(|link_map| !link_map.name.is_null()) else { return Found::NONE };
    let (start, end) = (object.start.addr(), object.end.addr());
    // SAFETY: the loader's string, as above; and the first kilobyte of a mapping, which is at least an OS page.
    let (name, first) =
        unsafe { (CStr::from_ptr(link_map.name), core::slice::from_raw_parts(object.start.cast::<u8>(), FIRST_BYTES)) };
    let identity = Identity { start, base: link_map.base, name: name.to_bytes(), first: hash_of_first(first) };
    let number = number_by_identity(&identity, false, || {
        // SAFETY: a loaded module's first bytes, and where it is.
        unsafe { Headers::at_start(first, link_map.base) }.map(|headers| headers.particulars())
    });
    Found::new(number, (start, end))
}
