/* A thread forgets 20 blocks of 70 bytes, and ends with one of 300 bytes in a thread-local. */
#include "common.h"
#include <pthread.h>

static _Thread_local char *mine;

__attribute__((noinline)) static void forget(void) {
    for (int i = 0; i < 20; i++) {
        char *block = malloc(70);
        USE(block);
    }
    mine = malloc(300);
    USE(mine);
}

static void *run(void *nothing) {
    forget();
    clear_stack();
    return nothing;
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, run, NULL);
    pthread_join(thread, NULL);
    clear_stack();
    return 0;
}
