/* Shared by the programs of leaks.sh. */
#include <stdlib.h>
#include <string.h>

/* Keeps the compiler from leaving out what nobody uses. */
#define USE(pointer) __asm__ volatile("" : : "r"(pointer) : "memory")

/* What a call left on the stack would pass for a reference. */
__attribute__((noinline, unused)) static void clear_stack(void) {
    char place[16384];
    memset(place, 0, sizeof place);
    USE(place);
}
