// Large blocks, their sizes, and how they become small ones.
#include <assert.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    for (size_t bytes = 513; bytes < 4 << 20; bytes = bytes * 3 / 2) {
        unsigned char *block = malloc(bytes);
        assert(block);
        size_t usable = malloc_usable_size(block);
        assert(usable >= bytes && usable < 2 * bytes + 4096);
        memset(block, 0x5a, usable);
        block = realloc(block, bytes + 1000);
        assert(block && block[bytes - 1] == 0x5a);
        block = realloc(block, 400);
        assert(block && block[0] == 0x5a && block[399] == 0x5a);
        free(block);
    }
    return 0;
}
