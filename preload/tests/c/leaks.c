// Leaks a list and rings of blocks. Keeps others: in a list that a static refers to, on the heap, and in a thread that
// runs to the end. Frees blocks of all sizes.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct node *next;
    char text[40];
};

static struct node *kept;

/* Keeps the compiler from leaving out what nobody uses. */
#define USE(pointer) __asm__ volatile("" : : "r"(pointer) : "memory")

__attribute__((noinline)) static void clear_stack(void) {
    char place[16384];
    memset(place, 0, sizeof place);
    USE(place);
}

__attribute__((noinline)) static void keep_list(void) {
    for (int i = 0; i < 20; i++) {
        struct node *node = malloc(sizeof *node);
        node->next = kept;
        kept = node;
    }
}

#ifndef NOTHING
__attribute__((noinline)) static void forget_list(void) {
    struct node *first = NULL;
    for (int i = 0; i < 10; i++) {
        struct node *node = malloc(sizeof *node);
        node->next = first;
        first = node;
    }
    USE(first);
}

__attribute__((noinline)) static void forget_ring(void) {
    struct node *one = malloc(sizeof *one), *other = malloc(sizeof *other);
    one->next = other;
    other->next = one;
    USE(one);
}
#endif

static void *keep_in_thread(void *barrier) {
    char *mine = malloc(100);
    mine[0] = 1;
    pthread_barrier_wait(barrier);
    // Until the program exits.
    for (;;) {
        pthread_barrier_t never;
        pthread_barrier_init(&never, NULL, 2);
        pthread_barrier_wait(&never);
        mine[0]++;
    }
}

/* Of each kind that the library has: small, medium, runs, glibc's own. Some are alive at once. */
__attribute__((noinline)) static void keep_none(void) {
    void *blocks[3];
    for (size_t bytes = 8; bytes < 3 << 20; bytes += bytes / 5 + 1) {
        for (int i = 0; i < 3; i++)
            blocks[i] = memset(malloc(bytes), 0, bytes);
        for (int i = 0; i < 3; i++)
            free(blocks[i]);
    }
}

int main(void) {
    keep_list();
    keep_none();
#ifndef NOTHING
    forget_list();
    for (int i = 0; i < 5; i++)
        forget_ring();
#endif
    static pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_t thread;
    pthread_create(&thread, NULL, keep_in_thread, &barrier);
    pthread_barrier_wait(&barrier);
    clear_stack();
    return kept == NULL;
}
