/* malloc's edge cases as a C compiler sees them; the addresses are hidden from its optimiser. */
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __aarch64__
#define SMALLEST_ALIGN 16
#else
#define SMALLEST_ALIGN 8
#endif

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static void *opaque(void *pointer) {
    __asm__ volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

int main(void) {
    for (size_t bytes = 0; bytes < 2000; bytes++) {
        char *block = opaque(malloc(bytes));
        CHECK(block && malloc_usable_size(block) >= bytes && (uintptr_t)block % (bytes > 8 ? 16 : SMALLEST_ALIGN) == 0);
        memset(block, 1, malloc_usable_size(block));
        block = opaque(realloc(block, bytes * 2 + 1));
        for (size_t index = 0; index < bytes; index++) CHECK(block[index] == 1);
        free(block);
    }
    char *text = strdup("text"), *line = NULL;
    CHECK(asprintf(&line, "%s %d", text, 42) == 7 && !strcmp(line, "text 42"));
    free(text), free(line);
    volatile size_t huge = SIZE_MAX;
    errno = 0;
    CHECK(!opaque(malloc(huge)) && errno == ENOMEM);
    errno = 0;
    CHECK(!opaque(calloc(huge, 2)) && errno == ENOMEM);
    void *place = (void *)7;
    CHECK(posix_memalign(&place, 24, 8) == EINVAL && place == (void *)7);
    CHECK(!posix_memalign(&place, 512, 8) && (uintptr_t)place % 512 == 0);
    free(place);
    /* glibc's own heap serves blocks above 1 MiB: its report must still work. */
    void *beyond = opaque(malloc(2 << 20));
    struct mallinfo2 info = mallinfo2();
    CHECK(info.uordblks + info.hblkhd > 0);
    free(beyond);
    puts("sound");
    return 0;
}
