// An allocator that defines glibc's own names besides the usual ones, as gperftools' tcmalloc does. A block's size is
// in the word before it; freed memory is not used again.
#include <errno.h>
#include <stddef.h>
#include <string.h>

#define ALIAS(of) __attribute__((alias(#of)))

static _Alignas(4096) char memory[64 << 20];
static size_t used;

void *__libc_memalign(size_t align, size_t bytes) {
    size_t room = bytes + align + 64;
    size_t from = __atomic_fetch_add(&used, room, __ATOMIC_RELAXED);
    if (room < bytes || from + room > sizeof memory) {
        errno = ENOMEM;
        return NULL;
    }
    if (align < 16)
        align = 16;
    size_t start = ((size_t)memory + from + 16 + align - 1) & -align;
    ((size_t *)start)[-1] = bytes;
    return (void *)start;
}

void *__libc_malloc(size_t bytes) { return __libc_memalign(16, bytes); }
void *__libc_calloc(size_t count, size_t bytes) { return __libc_malloc(count * bytes); }
void *__libc_valloc(size_t bytes) { return __libc_memalign(4096, bytes); }
void *__libc_pvalloc(size_t bytes) { return __libc_valloc((bytes + 4095) & -4096); }
void __libc_free(void *block) { (void)block; }
size_t malloc_usable_size(void *block) { return block ? ((size_t *)block)[-1] : 0; }

void *__libc_realloc(void *block, size_t bytes) {
    void *moved = __libc_malloc(bytes);
    size_t before = malloc_usable_size(block);
    if (moved && block)
        memcpy(moved, block, before < bytes ? before : bytes);
    return moved;
}

void *malloc(size_t bytes) ALIAS(__libc_malloc);
void *calloc(size_t count, size_t bytes) ALIAS(__libc_calloc);
void *realloc(void *block, size_t bytes) ALIAS(__libc_realloc);
void *memalign(size_t align, size_t bytes) ALIAS(__libc_memalign);
void *aligned_alloc(size_t align, size_t bytes) ALIAS(__libc_memalign);
void *valloc(size_t bytes) ALIAS(__libc_valloc);
void *pvalloc(size_t bytes) ALIAS(__libc_pvalloc);
void free(void *block) ALIAS(__libc_free);
