//! malloc's family as C sees it: sizes, alignments, edge cases and `errno`.

mod common;

use std::ffi::c_void;
use std::hint::black_box;
use std::ptr;

use common::{errno, on_library, set_errno, symbol};
use libc::{
    EINVAL, ENOMEM, aligned_alloc, calloc, free, malloc, malloc_usable_size, memalign, posix_memalign, realloc,
};

const SMALL_MAX: usize = 512;
/// The alignment of blocks of at most 8 bytes. GCC folds `malloc(8) & 8` to 0 on aarch64.
const SMALLEST_ALIGN: usize = if cfg!(target_arch = "aarch64") { 16 } else { 8 };

fn fill(block: *mut c_void, bytes: usize, seed: usize) {
    for index in 0..bytes {
        // SAFETY: the block has that many bytes.
        unsafe { block.cast::<u8>().add(index).write((seed + index * 7) as u8) };
    }
}

fn assert_filled(block: *mut c_void, bytes: usize, seed: usize) {
    for index in 0..bytes {
        // SAFETY: the block has that many bytes.
        let byte = unsafe { block.cast::<u8>().add(index).read() };
        assert_eq!(byte, (seed + index * 7) as u8, "byte {index} of {bytes}");
    }
}

fn assert_block(block: *mut c_void, bytes: usize, align: usize) {
    assert!(!block.is_null(), "{bytes} {align}");
    assert_eq!(block.addr() % align, 0, "{bytes} bytes at {block:?}, wanted aligned to {align}");
    // SAFETY: a block in our hands.
    let usable = unsafe { malloc_usable_size(block) };
    assert!(usable >= bytes, "{usable} of {bytes}");
}

#[test]
fn every_small_size_has_room_and_alignment() {
    on_library("every_small_size_has_room_and_alignment", || {
        let sizes = 0..=3 * SMALL_MAX;
        let blocks: Vec<_> = sizes
            .map(|bytes| {
                // SAFETY: any size may be asked for.
                let block = unsafe { malloc(black_box(bytes)) };
                assert_block(block, bytes, if bytes > 8 { 16 } else { SMALLEST_ALIGN });
                fill(block, bytes, bytes);
                block
            })
            .collect();
        let mut addresses: Vec<usize> = blocks.iter().map(|block| block.addr()).collect();
        addresses.sort_unstable();
        assert!(addresses.windows(2).all(|pair| pair[0] != pair[1]), "two blocks at one address");
        for (bytes, block) in blocks.into_iter().enumerate() {
            assert_filled(block, bytes, bytes);
            // SAFETY: a block in our hands.
            unsafe { free(block) };
        }
    });
}

#[test]
fn every_alignment_is_kept() {
    on_library("every_alignment_is_kept", || {
        for align in (0..17).map(|shift| 1_usize << shift) {
            for bytes in [0, 1, 8, 9, 16, 24, 100, 200, 256, 511, 512, 513, 1000, 5000] {
                // SAFETY: blocks in our hands, a writable place.
                unsafe {
                    let mut blocks = [memalign(align, bytes), aligned_alloc(align, bytes), ptr::null_mut()];
                    if align >= 8 {
                        assert_eq!(posix_memalign(&raw mut blocks[2], align, bytes), 0);
                    } else {
                        blocks[2] = malloc(bytes);
                    }
                    for (seed, &block) in blocks.iter().enumerate() {
                        assert_block(block, bytes, if bytes > 8 { align.max(16) } else { align });
                        fill(block, bytes, seed);
                    }
                    for (seed, &block) in blocks.iter().enumerate() {
                        assert_filled(block, bytes, seed);
                        free(block);
                    }
                }
            }
        }
    });
}

#[test]
fn bad_alignments_fail_as_documented() {
    on_library("bad_alignments_fail_as_documented", || {
        // SAFETY: blocks in our hands, a writable place.
        unsafe {
            for align in [0, 3, 24, 48, 513] {
                set_errno(0);
                // The test looks at the block: otherwise the compiler assumes that it exists, and removes the call.
                assert!(black_box(aligned_alloc(align, 16)).is_null());
                assert_eq!(errno(), EINVAL);
                // Rounded up.
                let block = memalign(align, 16);
                assert_block(block, 16, align.next_power_of_two());
                free(block);
            }
            set_errno(0);
            assert!(black_box(memalign(usize::MAX, 16)).is_null());
            assert_eq!(errno(), EINVAL);
            let untouched = ptr::without_provenance_mut(1);
            for align in [0, 1, 2, 4, 12, 24, usize::MAX] {
                let mut block = untouched;
                set_errno(7);
                assert_eq!(posix_memalign(&raw mut block, align, 16), EINVAL);
                assert_eq!((block, errno()), (untouched, 7));
            }
            let mut block = untouched;
            set_errno(7);
            assert_eq!(posix_memalign(&raw mut block, 16, isize::MAX as usize), ENOMEM);
            assert_eq!((block, errno()), (untouched, ENOMEM));
            for bytes in [0, 1, 100, 5000] {
                let all: [(&str, usize); 2] = [("valloc", 1), ("pvalloc", 4096)];
                for (name, least) in all {
                    let function: unsafe extern "C" fn(usize) -> *mut c_void = std::mem::transmute(symbol(name));
                    let block = function(bytes);
                    assert_block(block, bytes.next_multiple_of(least), 4096);
                    free(block);
                }
            }
        }
    });
}

#[test]
fn too_much_fails_with_enomem() {
    on_library("too_much_fails_with_enomem", || {
        // SAFETY: nothing is used.
        unsafe {
            let block = malloc(40);
            fill(block, 40, 1);
            let reallocarray: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void =
                std::mem::transmute(symbol("reallocarray"));
            let failures: [&dyn Fn() -> *mut c_void; 8] = [
                &|| malloc(black_box(usize::MAX)),
                &|| malloc(black_box(isize::MAX as usize + 1)),
                &|| calloc(black_box(usize::MAX), black_box(2)),
                &|| calloc(black_box(1 << 33), black_box(1 << 33)),
                &|| realloc(block, black_box(usize::MAX)),
                &|| reallocarray(block, black_box(1 << 33), black_box(1 << 33)),
                &|| reallocarray(ptr::null_mut(), black_box(usize::MAX), black_box(3)),
                &|| memalign(64, black_box(usize::MAX - 10)),
            ];
            for (number, failure) in failures.into_iter().enumerate() {
                set_errno(0);
                assert!(black_box(failure()).is_null(), "{number}");
                assert_eq!(errno(), ENOMEM, "{number}");
                assert_filled(block, 40, 1);
            }
            free(block);
        }
    });
}

#[test]
fn calloc_clears_used_memory() {
    on_library("calloc_clears_used_memory", || {
        for bytes in [1, 8, 9, 40, 512, 513, 4000] {
            for _ in 0..600 {
                // SAFETY: blocks in our hands.
                unsafe {
                    let block = calloc(black_box(bytes), black_box(1));
                    let used = std::slice::from_raw_parts(block.cast::<u8>(), bytes);
                    assert!(used.iter().all(|&byte| byte == 0));
                    fill(block, bytes, 1);
                    free(block);
                }
            }
            // SAFETY: as above.
            unsafe { free(calloc(black_box(0), bytes)) };
        }
    });
}

#[test]
fn realloc_keeps_contents_between_all_sizes() {
    on_library("realloc_keeps_contents_between_all_sizes", || {
        let sizes = [1, 7, 8, 9, 16, 17, 40, 100, 380, 400, 500, 512, 513, 600, 1000, 5000, 200_000];
        for from in sizes {
            for to in sizes {
                // SAFETY: blocks in our hands.
                unsafe {
                    let block = malloc(from);
                    fill(block, from, from);
                    set_errno(7);
                    let block = realloc(block, to);
                    assert_block(block, to, if to > 8 { 16 } else { SMALLEST_ALIGN });
                    assert_filled(block, from.min(to), from);
                    fill(block, to, to);
                    let block = realloc(block, from);
                    assert_filled(block, from.min(to), to);
                    assert_eq!(errno(), 7);
                    free(block);
                }
            }
        }
    });
}

#[test]
fn realloc_of_null_and_to_nothing() {
    on_library("realloc_of_null_and_to_nothing", || {
        // SAFETY: blocks in our hands.
        unsafe {
            for bytes in [0, 1, 512, 513] {
                let block = realloc(ptr::null_mut(), bytes);
                assert_block(block, bytes, 8);
                // As in glibc, this frees the block and returns null.
                assert!(realloc(block, black_box(0)).is_null());
            }
            // A block that shrinks a little stays.
            let block = malloc(100);
            assert_eq!(realloc(block, 90), block);
            assert_ne!(realloc(block, 40), block);
            // A block aligned by `memalign` moves like any other.
            let block = memalign(256, 300);
            fill(block, 300, 3);
            let block = realloc(block, 5000);
            assert_filled(block, 300, 3);
            let block = realloc(block, 100);
            assert_filled(block, 100, 3);
            free(block);
        }
    });
}

#[test]
fn frees_keep_errno_and_take_null() {
    on_library("frees_keep_errno_and_take_null", || {
        // SAFETY: blocks in our hands.
        unsafe {
            let sized: unsafe extern "C" fn(*mut c_void, usize) = std::mem::transmute(symbol("free_sized"));
            let aligned: unsafe extern "C" fn(*mut c_void, usize, usize) =
                std::mem::transmute(symbol("free_aligned_sized"));
            let old: unsafe extern "C" fn(*mut c_void) = std::mem::transmute(symbol("cfree"));
            set_errno(7);
            free(black_box(ptr::null_mut()));
            sized(ptr::null_mut(), 40);
            aligned(ptr::null_mut(), 64, 40);
            old(ptr::null_mut());
            assert_eq!(malloc_usable_size(ptr::null_mut()), 0);
            for round in 0..2000 {
                for bytes in [8, 100, 512, 513, 300_000] {
                    free(malloc(black_box(bytes)));
                    sized(malloc(bytes), bytes);
                    // The block stays in its class, though its size is another class's.
                    sized(realloc(malloc(bytes), bytes - bytes / 5), bytes - bytes / 5);
                    if round < 100 {
                        aligned(aligned_alloc(64, bytes), 64, bytes);
                        old(malloc(bytes));
                    }
                }
            }
            assert_eq!(errno(), 7);
        }
    });
}

#[test]
fn trim_gives_memory_back() {
    on_library("trim_gives_memory_back", || {
        // SAFETY: blocks in our hands.
        unsafe {
            let blocks: Vec<_> = (0..200_000).map(|_| malloc(100)).collect();
            blocks.iter().for_each(|&block| fill(block, 100, 5));
            blocks.into_iter().for_each(|block| free(block));
            assert_eq!(libc::malloc_trim(0), 1);
        }
    });
}

#[test]
fn operators_of_cxx_are_served_without_its_library() {
    on_library("operators_of_cxx_are_served_without_its_library", || {
        type New = unsafe extern "C" fn(usize) -> *mut c_void;
        type NewAligned = unsafe extern "C" fn(usize, usize) -> *mut c_void;
        type Delete = unsafe extern "C" fn(*mut c_void);
        type DeleteSized = unsafe extern "C" fn(*mut c_void, usize);
        type DeleteSizedAligned = unsafe extern "C" fn(*mut c_void, usize, usize);
        // SAFETY: the mangled names say the types; blocks in our hands.
        unsafe {
            for (new, delete, sized) in [("_Znwm", "_ZdlPv", "_ZdlPvm"), ("_Znam", "_ZdaPv", "_ZdaPvm")] {
                let new: New = std::mem::transmute(symbol(new));
                let delete: Delete = std::mem::transmute(symbol(delete));
                let sized: DeleteSized = std::mem::transmute(symbol(sized));
                for bytes in 0..700 {
                    for _ in 0..3 {
                        let (one, other) = (new(bytes), new(bytes));
                        assert_block(one, bytes, if bytes > 8 { 16 } else { SMALLEST_ALIGN });
                        fill(one, bytes, 1);
                        fill(other, bytes, 2);
                        assert_filled(one, bytes, 1);
                        delete(one);
                        sized(other, bytes);
                    }
                }
                delete(ptr::null_mut());
                sized(ptr::null_mut(), 8);
                sized(ptr::null_mut(), 1000);
            }
            let new: NewAligned = std::mem::transmute(symbol("_ZnwmSt11align_val_t"));
            let delete: DeleteSized = std::mem::transmute(symbol("_ZdlPvSt11align_val_t"));
            let sized: DeleteSizedAligned = std::mem::transmute(symbol("_ZdlPvmSt11align_val_t"));
            for align in (4..13).map(|shift| 1_usize << shift) {
                for bytes in [1, 64, 500, 1000] {
                    let (one, other) = (new(bytes, align), new(bytes, align));
                    assert_block(one, bytes, align);
                    delete(one, align);
                    sized(other, bytes, align);
                }
            }
        }
    });
}
