/* A program that lies at a fixed address and takes the address of `free`: the symbol is then a stub in the program. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

void (*volatile release)(void *) = free;

int main(void) {
    void *aligned = memalign(64, 100);
    /* The library's blocks of this size and alignment have 128 bytes, glibc's have not. */
    size_t bytes = malloc_usable_size(aligned);
    release(aligned);
    printf("%s\n", bytes == 128 ? "the library's" : "glibc's");
    return 0;
}
