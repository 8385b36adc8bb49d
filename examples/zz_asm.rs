#![allow(missing_docs, unreachable_pub)]
#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
#[unsafe(no_mangle)] #[inline(never)] pub fn probe_box(n: u64) -> Box<[u64; 4]> { Box::new([n; 4]) }
#[unsafe(no_mangle)] #[inline(never)] pub fn probe_drop(b: Box<[u64; 4]>) { drop(b) }
#[unsafe(no_mangle)] #[inline(never)] pub fn probe_vec(n: usize) -> Vec<u8> { Vec::with_capacity(n) }
#[unsafe(no_mangle)] #[inline(never)] pub fn probe_zeroed(n: usize) -> Vec<u8> { vec![0; n] }
#[unsafe(no_mangle)] #[inline(never)] pub fn probe_vec_drop(v: Vec<u8>) { drop(v) }
#[unsafe(no_mangle)] #[inline(never)] pub fn probe_large(n: usize) -> Vec<u8> { Vec::with_capacity(n) }
#[unsafe(no_mangle)] #[inline(never)] pub fn probe_large_drop(v: Vec<u8>) { drop(v) }
fn main() {
    let n = std::env::args().count();
    #[cfg(feature = "trace")]
    if n > 5 { pymalloc::trace::start(pymalloc::trace::Config::new()).unwrap(); }
    for i in 0..100_000 {
        probe_drop(std::hint::black_box(probe_box(i)));
        probe_vec_drop(std::hint::black_box(probe_vec(n*40)));
        probe_large_drop(std::hint::black_box(probe_large(n*4000)));
        probe_vec_drop(std::hint::black_box(probe_zeroed(n*40)));
    }
}
