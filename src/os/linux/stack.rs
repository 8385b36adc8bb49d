//! Where the calling thread's stack lies: for the tracer.

#[cfg(not(feature = "__raw"))]
use core::ptr;

#[cfg(not(feature = "__raw"))]
use super::KeepErrno;
#[cfg(feature = "__raw")]
use super::{files::Descriptor, process_id, thread_id};

/// The addresses of the calling thread's stack, or more above it. Allocates nothing, and asks for no lock: in the
/// preload library this is called inside `malloc`, also of `pthread_getattr_np`, which has a lock of its own meanwhile.
#[cfg(feature = "__raw")]
pub(crate) fn stack_bounds() -> Option<(usize, usize)> {
    /// The main thread's grows, so that its mapping is not all of it; the kernel keeps more than that free below.
    const GROWTH_BYTES: usize = 64 << 20;
    let here = 0_u8;
    let address = (&raw const here).addr();
    let maps = Descriptor::open(c"/proc/self/maps", libc::O_RDONLY).ok()?;
    let mut search = MapsSearch::new(address);
    let mut found = None;
    let mut buffer = [0_u8; 1024];
    loop {
        let bytes = maps.read(&mut buffer);
        if bytes == 0 {
            break;
        }
        found = buffer.iter().take(bytes).find_map(|&byte| search.next(byte));
        if found.is_some() {
            break;
        }
    }
    maps.close();
    let is_main = thread_id() == process_id();
    found.map(|(start, end)| (if is_main { start.saturating_sub(GROWTH_BYTES) } else { start }, end))
}

/// Finds the mapping of an address in `/proc/self/maps`, byte by byte.
#[cfg(feature = "__raw")]
struct MapsSearch {
    address: usize,
    /// The line's numbers so far.
    start: usize,
    end: usize,
    /// 0 in the first number, 1 in the second, 2 behind both.
    field: u8,
}

#[cfg(feature = "__raw")]
impl MapsSearch {
    const fn new(address: usize) -> Self {
        Self { address, start: 0, end: 0, field: 0 }
    }

    fn next(&mut self, byte: u8) -> Option<(usize, usize)> {
        let digit = char::from(byte).to_digit(16).unwrap_or(0) as usize;
        match (self.field, byte) {
            (_, b'\n') => *self = Self::new(self.address),
            (0, b'-') => self.field = 1,
            (1, b' ') => self.field = 2,
            (0, _) => self.start = self.start << 4 | digit,
            (1, _) => self.end = self.end << 4 | digit,
            _ => {}
        }
        let complete = self.field == 2 && byte == b' ' && (self.start..self.end).contains(&self.address);
        complete.then_some((self.start, self.end))
    }
}

/// The addresses of the calling thread's stack. May allocate.
#[cfg(not(feature = "__raw"))]
pub(crate) fn stack_bounds() -> Option<(usize, usize)> {
    let _errno = KeepErrno::new();
    // SAFETY: the attributes are written before they are read, and destroyed once.
    unsafe {
        let mut attributes = core::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        let (mut start, mut bytes) = (ptr::null_mut(), 0);
        let known = libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut bytes) == 0;
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        known.then(|| (start.addr(), start.addr() + bytes))
    }
}
